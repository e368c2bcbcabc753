"""What every section of a scenario is made of: the decorator that makes it strict, and the types its values have."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, TypeVar, dataclass_transform

from annotated_types import Ge, Gt, Le, Len

STRICT = {"extra": "forbid", "strict": True, "allow_inf_nan": False}

Name = Annotated[str, Len(1, 64)]
Natural = Annotated[int, Ge(0), Le(1 << 53)]
Positive = Annotated[int, Ge(1), Le(1 << 53)]
NonNegative = Annotated[float, Ge(0.0), Le(1e12)]
Above0 = Annotated[float, Gt(0.0), Le(1e12)]
Share = Annotated[float, Ge(0.0), Le(1.0)]
Celsius = Annotated[float, Ge(-60.0), Le(200.0)]
Watts = Annotated[float, Ge(0.0), Le(100_000.0)]
PositiveWatts = Annotated[float, Gt(0.0), Le(100_000.0)]
Kilohertz = Annotated[int, Ge(1), Le(100_000_000)]
Millivolt = Annotated[int, Ge(1), Le(10_000)]
Lateness = Annotated[int, Ge(0), Le(10**9)]
Milliseconds = Annotated[int, Ge(1), Le(10**10)]

Model = TypeVar("Model", bound=type)


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(field,))
def model(cls: Model) -> Model:
    """A frozen dataclass that the loader checks strictly."""
    cls.__pydantic_config__ = STRICT  # type: ignore[attr-defined]
    return dataclass(frozen=True, kw_only=True)(cls)  # type: ignore[return-value]
