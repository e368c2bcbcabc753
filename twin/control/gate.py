"""Which temperature readings are believed: range, age, jumps, and agreement with the thermal model.

One `Gate` a sensor judges its readings by themselves; `compare` holds what is believed against the model. A reading
that is not believed leads to full cooling, never to a remembered or substituted temperature.
"""

from __future__ import annotations

from dataclasses import dataclass

from hardware.interface import Status
from twin.control.view import NOTHING
from twin.kernels import Integers, kernel

COLDEST_MILLICELSIUS = -20_000
HOTTEST_MILLICELSIUS = 125_000
SUSPECT_CYCLES = 2
"""Cycles in a row that a reading must part from the model before it is suspected."""

# Columns of an array with a row a sensor: the tolerance (millidegrees); what the sensor should show after its own lag;
# for how many cycles in a row its reading parted from that; and how far it did when it was last suspected (0: it is
# not).
TOLERANCE, LAGGED, APART_CYCLES, SUSPECTED = range(4)


@kernel
def compare(sensors: Integers, i: int, believed: int) -> None:
    """Hold what is believed of sensor `i` against the model (NOTHING: do not); suspicion ends below half the tolerance.

    It begins once they parted by more than the tolerance for `SUSPECT_CYCLES` cycles.
    """
    if believed == NOTHING:
        sensors[i, APART_CYCLES] = 0
        return
    apart = believed - sensors[i, LAGGED]
    tolerance = sensors[i, TOLERANCE]
    if abs(apart) > tolerance:
        sensors[i, APART_CYCLES] += 1
    elif sensors[i, SUSPECTED] == 0 or 2 * abs(apart) < tolerance:
        sensors[i, APART_CYCLES] = 0
        sensors[i, SUSPECTED] = 0
    if sensors[i, APART_CYCLES] >= SUSPECT_CYCLES:
        sensors[i, SUSPECTED] = apart


def suspicion(name: str, apart_millicelsius: int) -> str:
    """Why sensor `name` is suspected, in words."""
    side = "hotter" if apart_millicelsius > 0 else "colder"
    return f"{name} reads {side} than the model allows ({_kelvin(abs(apart_millicelsius))})"


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
    """Watches one temperature sensor by itself. `believed` is the reading or None, `trouble` says why not."""

    def __init__(self, settings: GateSettings) -> None:
        self.settings = settings
        self._slew = settings.slew_millicelsius
        self._oldest_ns = 2 * settings.period_ms * 1_000_000
        self.believed: int | None = None
        self.trouble = ""
        self._last: int | None = None
        self._last_ns = 0

    def see(self, value: int | None, status: Status, taken_ns: int, now_ns: int) -> None:
        """Judge a reading by itself. Sets `believed` and `trouble`."""
        last = self._last
        if (
            value is not None
            and last is not None
            and -self._slew <= value - last <= self._slew
            and COLDEST_MILLICELSIUS <= value <= HOTTEST_MILLICELSIUS
            and now_ns - taken_ns <= self._oldest_ns
        ):
            # As a rule; `_fault` finds nothing either.
            self.trouble = ""
            self.believed = self._last = value
            self._last_ns = taken_ns
            return
        self.trouble = self._fault(value, status, taken_ns, now_ns)
        self.believed = None if self.trouble else value
        if value is not None and COLDEST_MILLICELSIUS <= value <= HOTTEST_MILLICELSIUS:
            self._last, self._last_ns = value, taken_ns

    def forget(self) -> None:
        """Drop all history (after a suspend)."""
        self._last = None

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
