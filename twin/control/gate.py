"""Which temperature readings are believed: range, age, jumps, and agreement with the thermal model.

One `Gate` a sensor. A reading that is not believed leads to full cooling, never to a remembered or substituted
temperature.
"""

from __future__ import annotations

from dataclasses import dataclass

from hardware.interface import Status

COLDEST_MILLICELSIUS = -20_000
HOTTEST_MILLICELSIUS = 125_000
SUSPECT_CYCLES = 2
"""Cycles in a row that a reading must part from the model before it is suspected."""


@dataclass(frozen=True, slots=True)
class GateSettings:
    """`rise_per_second` is the fastest that physics allows, `hold_ms` how old a value the sensor may show by design.

    `period_ms` is that of the control cycle; the rest are the tolerances of `Control`.
    """

    name: str
    rise_per_second_millicelsius: int
    slew_millicelsius: int
    suspicion_millicelsius: int
    hold_ms: int
    period_ms: int

    @property
    def tolerance_millicelsius(self) -> int:
        """How far the reading may part from the model: the scenario's tolerance, and what a slow sensor adds."""
        extra_ms = max(0, self.hold_ms - self.period_ms)
        return self.suspicion_millicelsius + self.rise_per_second_millicelsius * extra_ms // 2_000


class Gate:
    """Watches one temperature sensor. `believed` is the reading or None, `trouble` and `suspicion` say why not."""

    def __init__(self, settings: GateSettings) -> None:
        self.settings = settings
        self.tolerance_millicelsius = settings.tolerance_millicelsius
        self._oldest_ns = 2 * settings.period_ms * 1_000_000
        self.believed: int | None = None
        self.trouble = ""
        self.suspicion = ""
        self._last: int | None = None
        self._last_ns = 0
        self._apart = 0

    def see(self, value: int | None, status: Status, taken_ns: int, now_ns: int) -> None:
        """Judge a reading by itself. Sets `believed` and `trouble`."""
        self.trouble = self._fault(value, status, taken_ns, now_ns)
        self.believed = None if self.trouble else value
        if value is not None and COLDEST_MILLICELSIUS <= value <= HOTTEST_MILLICELSIUS:
            self._last, self._last_ns = value, taken_ns

    def compare(self, expected_millicelsius: int | None) -> None:
        """Hold a believed reading against the model. Sets `suspicion`; it ends below half the tolerance."""
        if self.believed is None or expected_millicelsius is None:
            self._apart = 0
            return
        apart = self.believed - expected_millicelsius
        size = apart if apart >= 0 else -apart
        tolerance = self.tolerance_millicelsius
        if size > tolerance:
            self._apart += 1
        elif not self.suspicion or 2 * size < tolerance:
            self._apart = 0
            self.suspicion = ""
        if self._apart >= SUSPECT_CYCLES:
            side = "hotter" if apart > 0 else "colder"
            self.suspicion = f"{self.settings.name} reads {side} than the model allows ({_kelvin(size)})"

    def forget(self) -> None:
        """Drop all history (after a suspend)."""
        self._last = None
        self._apart = 0

    def _fault(self, value: int | None, status: Status, taken_ns: int, now_ns: int) -> str:
        settings = self.settings
        name = settings.name
        if value is None:
            return f"{name}: {status.words}"
        if not COLDEST_MILLICELSIUS <= value <= HOTTEST_MILLICELSIUS:
            return f"{name}: {value} m\u00b0C is outside {COLDEST_MILLICELSIUS}..{HOTTEST_MILLICELSIUS}"
        if now_ns - taken_ns > self._oldest_ns:
            return f"{name}: the reading is {(now_ns - taken_ns) // 1_000_000} ms old"
        jump = 0 if self._last is None else value - self._last
        # What the tolerance alone allows, whatever time has passed, is the rule.
        if not -settings.slew_millicelsius <= jump <= settings.slew_millicelsius:
            passed_ms = max(0, taken_ns - self._last_ns) // 1_000_000 + settings.hold_ms
            allowed = settings.slew_millicelsius + settings.rise_per_second_millicelsius * passed_ms // 1_000
            if not -allowed <= jump <= allowed:
                return f"{name}: jumped by {_kelvin(jump)}"
        return ""


def _kelvin(millikelvin: int) -> str:
    """Millikelvin as text with one decimal, rounded towards zero."""
    sign = "-" if millikelvin < 0 else ""
    tenths = abs(millikelvin) // 100
    return f"{sign}{tenths // 10}.{tenths % 10} K"
