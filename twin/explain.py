"""What is wrong with a key of a scenario or a plan, in words: the key, its value, and what is allowed there."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from datetime import date, datetime, time
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Len

from twin.scenario import Scenario

DEEPEST = 32
"""Tables and lists inside each other; the schema needs four."""
LONGEST_SHOWN = 80
"""Characters of a value that a message repeats."""
_BITS = 1_024
"""Bits of an integer, beyond any that a key allows and still short enough to be shown."""

Location = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Flaw:
    """One thing that is wrong: the key it is about, and the sentence for people."""

    location: Location
    words: str


def unfit(data: Mapping[str, Any]) -> list[Flaw]:
    """What TOML and the command line can say, and no key of a scenario can take: dates, and what is past all bounds."""
    return list(_unfit(data, ()))


def _unfit(value: Any, location: Location) -> Iterator[Flaw]:
    if len(location) > DEEPEST:
        yield Flaw(location, f"{key_text(location[:3])}...: is nested {DEEPEST} deep and more; no key is")
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _unfit(item, (*location, key)) if _is_text(key) else [_no_text((*location, key))]
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _unfit(item, (*location, number))
    elif isinstance(value, datetime | date | time):
        yield Flaw(location, f"{key_text(location)} = {value}: is a date or time, which no key takes; put it in quotes "
                             "if it is a name")  # fmt: skip
    elif isinstance(value, int) and value.bit_length() > _BITS:
        yield Flaw(location, f"{key_text(location)}: is a number of {value.bit_length()} bits; {allowed(location)}")
    elif isinstance(value, str) and not _is_text(value):
        yield _no_text(location)


def _is_text(value: str) -> bool:
    """Whether it can be written as UTF-8, which bytes from a command line need not be."""
    return not any("\ud800" <= character <= "\udfff" for character in value)


def _no_text(location: Location) -> Flaw:
    return Flaw(location, f"{key_text(location)}: is not UTF-8 text")


def misfits(items: Sequence[Any], schema: type = Scenario) -> list[Flaw]:
    """What a strict validation against `schema` complains about, `items` being pydantic's `error.errors()`."""
    # A list whose entries are all wrong is also reported as too short: say what is wrong with the entries only.
    inner = {tuple(item["loc"])[:-cut] for item in items for cut in (1, 2)}
    kept = [item for item in items if item["type"] != "too_short" or tuple(item["loc"]) not in inner]
    return [Flaw(tuple(item["loc"]), _misfit(item, schema)) for item in kept]


def _misfit(item: Any, schema: type) -> str:
    location: Location = tuple(item["loc"])
    key = key_text(location)
    if item["type"] == "unexpected_keyword_argument":
        known = _known_keys(location[:-1], schema)
        near = difflib.get_close_matches(str(location[-1]), known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
        return f"{key}: unknown key; {hint}"
    if item["type"] == "missing":
        return f"{key}: is required and missing; {allowed(location, schema)}"
    value = json.dumps(item.get("input"), default=str, ensure_ascii=False)
    return f"{key} = {shortened(value)}: {allowed(location, schema)}{_meant(location, item.get('input'), schema)}"


def _meant(location: Location, value: object, schema: type) -> str:
    """Which of the words that a key takes comes near to `value`; empty where none does."""
    kind, _ = _type_at(location, schema)
    if get_origin(kind) is not Literal or not isinstance(value, str):
        return ""
    near = difflib.get_close_matches(value, [word for word in get_args(kind) if isinstance(word, str)], n=1)
    return f"; did you mean {near[0]}?" if near else ""


def shortened(text: str) -> str:
    """`text`, cut where it gets too long for a message."""
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."


def key_text(location: Location) -> str:
    """The key at `location` as people write it: `machine.fans[0].name`."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f"{'.' if text else ''}{part}"
    return text


def allowed(location: Location, schema: type = Scenario) -> str:
    """What `schema` allows at `location`, in words."""
    kind, bounds = _type_at(location, schema)
    if kind is None:
        return "there is no such key"
    if is_dataclass(kind):
        return f"a table is needed, with {', '.join(item.name for item in fields(kind))}"
    if get_origin(kind) is Literal:
        return f"allowed are {', '.join(map(str, get_args(kind)))}"
    if get_origin(kind) is dict:
        return "a table is needed, of keys and values"
    if kind is bool:
        return "allowed are true and false"
    if kind is int:
        return f"allowed are whole numbers{_range(bounds)}"
    if kind is float:
        return f"allowed are numbers{_range(bounds)}"
    things, parts = ("texts", "characters") if kind is str else ("lists", "entries")
    sizes = next((f" of {_sizes(mark)} {parts}" for mark in bounds if isinstance(mark, Len)), "")
    return f"allowed are {things}{sizes}"


def _sizes(mark: Len) -> str:
    least, most = mark.min_length, mark.max_length
    return str(least) if least == most else f"{least} to {most}"


def _range(bounds: tuple[Any, ...]) -> str:
    text = ""
    for mark in bounds:
        if isinstance(mark, Ge):
            text += f" from {_number(mark.ge)}"
        elif isinstance(mark, Gt):
            text += f" above {_number(mark.gt)}"
        elif isinstance(mark, Le):
            text += f" to {_number(mark.le)}"
    return text


def _number(bound: Any) -> str:
    return f"{bound:g}" if isinstance(bound, float) else str(bound)


def _known_keys(location: Location, schema: type) -> list[str]:
    """The keys that a table of the schema may have."""
    kind, _ = _type_at(location, schema)
    return [item.name for item in fields(kind)] if is_dataclass(kind) else []


def _type_at(location: Location, schema: type) -> tuple[Any, tuple[Any, ...]]:
    """The type of the key at `location` in the schema, and the bounds that it has there."""
    kind, bounds = _bare(schema)
    for part in location:
        if is_dataclass(kind):
            kind, bounds = _bare(get_type_hints(kind, include_extras=True).get(str(part)))
        else:
            kind, bounds = _bare(next(iter(get_args(kind)), None))
    return kind, bounds


def _bare(kind: Any) -> tuple[Any, tuple[Any, ...]]:
    """A type without its bounds and without `| None`, and the bounds."""
    if get_origin(kind) in (Union, UnionType):
        return _bare(next(each for each in get_args(kind) if each is not NoneType))
    if get_origin(kind) is Annotated:
        inner, *bounds = get_args(kind)
        return inner, tuple(bounds)
    return kind, ()
