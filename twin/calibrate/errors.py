"""How far a free run is from what was recorded."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from twin.kernels import Floats


@dataclass(frozen=True)
class Errors:
    """Errors of a free run (C, model less reading): root mean square, largest, mean absolute, mean; and how many."""

    rmse_celsius: float
    max_error_celsius: float
    mae_celsius: float
    bias_celsius: float
    samples: int


def errors(shown: Floats, recorded: Floats) -> Errors:
    """The errors of `shown` against `recorded`, where both are numbers (never: no samples and errors of 0)."""
    apart = (shown - recorded)[np.isfinite(recorded) & np.isfinite(shown)]
    if len(apart) == 0:
        return Errors(0.0, 0.0, 0.0, 0.0, 0)
    return Errors(
        rmse_celsius=float(np.sqrt(np.mean(apart * apart))),
        max_error_celsius=float(np.max(np.abs(apart))),
        mae_celsius=float(np.mean(np.abs(apart))),
        bias_celsius=float(np.mean(apart)),
        samples=len(apart),
    )
