"""How well a machine foretells a recording: errors of a free run, sensor by sensor, and of its power."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from twin.calibrate.drift import changes, offset
from twin.calibrate.errors import Errors, errors
from twin.calibrate.freerun import FreeRun, believable, fitted_start, free_run, judged_sensor, readings
from twin.calibrate.headings import Part
from twin.calibrate.reader import Measured
from twin.calibrate.recording import RecordingError
from twin.machines import Origin
from twin.scenario import Machine

LEAST_WATTS = 0.5
"""A power below is left out of the relative error, which it would blow up."""
LEAST_LOAD = 0.02
"""Loads that differ by less are taken as one."""
FEWEST_JUDGED = 10
ROOM_KELVIN = 5.0
"""How far beyond the rooms of a fit an unknown one may be (K)."""


@dataclass(frozen=True)
class Judgement:
    """A free run beside what was recorded, judged from sample `first` up to (not including) `last`.

    `sensor` is the sensor that counts, `sensors` the errors of all that were recorded. `power_mape` is the mean
    relative error of the power that follows from the load (0.1: ten percent), None with a reason. `ambient_celsius`
    is the room's temperature in the run, `ambient_reason` where it is from, if it is not the machine's or given.
    """

    sensor: str
    sensors: Mapping[str, Errors]
    power_mape: float | None
    power_reason: str
    run: FreeRun
    machine: Machine
    first: int
    last: int
    ambient_celsius: float
    ambient_reason: str = ""

    @property
    def errors(self) -> Errors:
        """Those of the sensor that counts."""
        return self.sensors[self.sensor]

    def figures(self) -> dict[str, Any]:
        """The errors as `twin validate --json` has them."""
        own = asdict(self.errors)
        found = {key: own[key] for key in ("rmse_celsius", "max_error_celsius", "mae_celsius", "bias_celsius")}
        return {
            **found,
            "power_mape": self.power_mape,
            "power_mape_reason": self.power_reason,
            "samples": self.errors.samples,
            "sensor": self.sensor,
            "sensors": {name: asdict(each) for name, each in self.sensors.items()},
            "ambient_celsius": self.ambient_celsius,
            "ambient_reason": self.ambient_reason,
        }


def judge(
    machine: Machine,
    origin: Origin,
    measured: Measured,
    *,
    from_share: float = 0.0,
    to_share: float = 1.0,
    ambient: float | str | None = None,
) -> Judgement:
    """Judge `machine` by the part of a recording between two shares; the part before is run through and not judged.

    `ambient` is the room's temperature in place of the machine's (C), or `free` for the one at which the part fits
    best. Without it, a recording that was fitted has the room that the fit found; another one, on a machine that was
    fitted in several rooms, is in one that nobody knows: where it fits best, ROOM_KELVIN beyond those at most.

    Raises `RecordingError` when there is too little to judge, or what drives the machine was not recorded.
    """
    _check_driven(machine, origin, measured)
    count = len(measured.recording.times_seconds)
    first, last = int(count * from_share), int(np.ceil(count * to_share))
    pieces = [slice(max(first, begin), min(last, end)) for begin, end in measured.recording.pieces()]
    believed = measured.recording.believable()
    known = sum(int(np.count_nonzero(believed[piece])) for piece in pieces if piece.start < piece.stop)
    if known < FEWEST_JUDGED:
        raise RecordingError(
            f"{measured.recording.name}: {known} readings without a gap lie from {from_share:.0%} to "
            f"{to_share:.0%} of it; {FEWEST_JUDGED} are needed at least; judge a longer part"
        )
    reason = ""
    rooms = {each.recording: each.value for each in origin.parameters if each.name == "ambient"}
    if ambient is None and fitted_start(origin, measured) is not None and measured.recording.name in rooms:
        ambient, reason = rooms[measured.recording.name], "as the fit found it for this recording"
    elif ambient is None and len(rooms) > 1:
        low, high = min(rooms.values()), max(rooms.values())
        best = machine.ambient_celsius + best_ambient(machine, origin, measured, first, last)
        ambient = min(high + ROOM_KELVIN, max(low - ROOM_KELVIN, best))
        reason = (
            f"not known, as the machine was fitted in {len(rooms)} rooms ({low:.1f} to {high:.1f} C): where it fits "
            "best; --ambient says it"
        )
    if isinstance(ambient, float):
        machine = replace(machine, ambient_celsius=ambient, ambient_steps=())
    elif ambient == "free":
        machine = offset(machine, best_ambient(machine, origin, measured, first, last))
    run = free_run(machine, origin, measured)
    there = readings(machine, origin, measured)
    sensors = {
        name: errors(run.celsius[name][first:last], np.where(believable(column), column, np.nan)[first:last])
        for name, column in there.items()
    }
    mape, why = _power(machine, origin, measured, run, first, last)
    return Judgement(
        judged_sensor(machine, origin.kind),
        sensors,
        mape,
        why,
        run,
        machine,
        first,
        last,
        machine.ambient_celsius,
        reason,
    )


def _check_driven(machine: Machine, origin: Origin, measured: Measured) -> None:
    recording = measured.recording
    part = "gpu" if origin.kind == "gpu" else "cpu"
    wrong = []
    if origin.driven == "load" and recording.loads is None:
        # Watts that follow from a load may have another scale than those that were recorded.
        wrong.append(f"the machine is driven by its load, and no load was recorded; --map {part}_load=COLUMN names it")
    if origin.driven == "power" and recording.powers_watts is None and recording.loads is None:
        wrong.append(f"the machine is driven by its power, and none was recorded; --map {part}_power=COLUMN names it")
    if any(edge.forced_watts_per_kelvin > 0.0 for edge in machine.edges) and recording.fan_rpm is None:
        wrong.append("a fan cools the machine, and its speed was not recorded; --map fan_rpm=COLUMN names it")
    if wrong:
        raise RecordingError(f"{recording.name}: {'; '.join(wrong)}")


def best_ambient(machine: Machine, origin: Origin, measured: Measured, first: int, last: int) -> float:
    """How much warmer the room has to be for the part from `first` to `last` to fit best (K)."""
    return changes(machine, origin, measured, first, last, only="ambient")[0].change


def _power(
    machine: Machine, origin: Origin, measured: Measured, run: FreeRun, first: int, last: int
) -> tuple[float | None, str]:  # fmt: skip
    part: Part = "gpu" if origin.kind == "gpu" else "cpu"
    recorded = measured.powers.get(part)
    if recorded is None:
        return None, "no power was recorded"
    if part not in measured.loads:
        return None, "no load was recorded, from which a power could be foretold"
    loads = measured.loads[part][first:last]
    if float(np.nanmax(loads) - np.nanmin(loads)) < LEAST_LOAD:
        shown = f"{float(np.nanmedian(loads)) * 100.0:.3g} %"
        return None, f"the load is {shown} throughout, from which no power that changes can be foretold"
    if origin.driven == "power":
        run = free_run(machine, origin, measured, by_load=True)
    given = recorded[first:last]
    told = run.watts[part][first:last]
    counted = np.isfinite(given) & np.isfinite(told) & (given >= LEAST_WATTS)
    if not np.any(counted):
        return None, f"no recorded power reaches {LEAST_WATTS:g} W"
    return float(np.mean(np.abs(told[counted] - given[counted]) / given[counted])), ""
