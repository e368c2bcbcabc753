"""A PID controller in integers, with anti-windup."""

from __future__ import annotations

MICRO = 1_000_000
DERIVATIVE_SHARE = 8
"""The derivative is smoothed: each cycle takes in an eighth of the newest slope, as sensors move in whole kelvins."""


class Pid:
    """From an error in millikelvin to an output in `low..high`.

    Gains are in thousandths of an output step: per kelvin, per kelvin and second, and per kelvin a second. The integral
    stands still while the output is saturated and the error would push it further out (conditional integration), and
    never leaves the output's range.
    """

    def __init__(
        self, proportional_milli: int, integral_milli: int, derivative_milli: int, low: int, high: int
    ) -> None:
        self._gains = (proportional_milli, integral_milli, derivative_milli)
        self._low = low * MICRO
        self._high = high * MICRO
        self._integral = self._low
        self._slope = 0
        self._last_error: int | None = None

    def step(self, error_millikelvin: int, dt_ns: int) -> int:
        """The output for this error, `dt_ns` after the last one; integers in, an integer in `low..high` out."""
        proportional, integral, derivative = self._gains
        # A cycle that came late must not count for more than a second.
        dt_ms = dt_ns // MICRO
        if not 1 <= dt_ms <= 1_000:
            dt_ms = min(max(dt_ms, 1), 1_000)
        if self._last_error is not None:
            slope = (error_millikelvin - self._last_error) * 1_000 // dt_ms
            self._slope += (slope - self._slope) // DERIVATIVE_SHARE
        self._last_error = error_millikelvin
        free = self._integral + proportional * error_millikelvin + derivative * self._slope
        pushes_out = (free >= self._high and error_millikelvin > 0) or (free <= self._low and error_millikelvin < 0)
        if not pushes_out:
            self._integral = self._inside(self._integral + integral * error_millikelvin * dt_ms // 1_000)
        return self._inside(free) // MICRO

    def _inside(self, output: int) -> int:
        if self._low <= output <= self._high:
            return output
        return min(self._high, max(self._low, output))
