"""PID controllers in integers, with anti-windup: all those of a machine, in one call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from twin.control.view import NOTHING
from twin.kernels import Integers, kernel

MICRO = 1_000_000
DERIVATIVE_SHARE = 8
"""The derivative is smoothed: each cycle takes in an eighth of the newest slope, as sensors move in whole kelvins."""

# Columns of the loops: what they are (outputs in millionths), and what they remember.
PROPORTIONAL, INTEGRAL, DERIVATIVE, LOW, HIGH, SUM, SLOPE, LAST_ERROR = range(8)


class Pid(NamedTuple):
    """From an error in millikelvin to an output in `low..high`.

    Gains are in thousandths of an output step: per kelvin, per kelvin and second, and per kelvin a second. The integral
    stands still while the output is saturated and the error would push it further out (conditional integration), and
    never leaves the output's range.
    """

    proportional_milli: int
    integral_milli: int
    derivative_milli: int
    low: int
    high: int


@kernel
def _step(loops: Integers, values: Integers, dt_ms: int) -> None:
    """Each loop's error in `values`, in millikelvin, becomes its output. NOTHING becomes the highest, and no step."""
    for i in range(len(loops)):
        loop = loops[i]
        error, low, high = values[i], loop[LOW], loop[HIGH]
        if error == NOTHING:
            values[i] = high // MICRO
            continue
        if loop[LAST_ERROR] != NOTHING:
            slope = (error - loop[LAST_ERROR]) * 1_000 // dt_ms
            loop[SLOPE] += (slope - loop[SLOPE]) // DERIVATIVE_SHARE
        loop[LAST_ERROR] = error
        free = loop[SUM] + loop[PROPORTIONAL] * error + loop[DERIVATIVE] * loop[SLOPE]
        pushes_out = (free >= high and error > 0) or (free <= low and error < 0)
        if not pushes_out:
            loop[SUM] = min(high, max(low, loop[SUM] + loop[INTEGRAL] * error * dt_ms // 1_000))
        values[i] = min(high, max(low, free)) // MICRO


class Loops:
    """Several PID loops that are stepped together."""

    def __init__(self, loops: Sequence[Pid]) -> None:
        self._loops: Integers = np.array(
            [
                (*loop[:3], loop.low * MICRO, loop.high * MICRO, loop.low * MICRO, 0, NOTHING)
                for loop in loops
            ],
            dtype=np.int64,
        )  # fmt: skip
        self._values: Integers = np.zeros(len(loops), dtype=np.int64)

    def step(self, errors_millikelvin: Sequence[int], dt_ns: int) -> list[int]:
        """The outputs for these errors, `dt_ns` after the last ones; for NOTHING the highest, and the loop waits."""
        self._values[:] = errors_millikelvin
        # A cycle that came late must not count for more than a second.
        _step(self._loops, self._values, min(max(dt_ns // MICRO, 1), 1_000))
        outputs: list[int] = self._values.tolist()
        return outputs
