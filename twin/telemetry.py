"""What a loop tells about itself while it runs: one record of integers, the last tick and the last control cycle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from hardware.interface import Limit
from twin.control.cycle import Cycle
from twin.heart import ticks
from twin.kernels import Integers
from twin.scenario import ACTIONS, Scenario

TICK_FIELDS = {
    "tick_number": ticks.C_TICK,
    "tick_ns": ticks.C_ASKED,
    "tick_interval_ns": ticks.C_PASSED,
    "elapsed_ns": ticks.C_ELAPSED,
    "load_ppm": ticks.C_LOAD,
    "word_executions_delta": ticks.C_WORDS,
    "cache_hits_delta": ticks.C_CACHE_HITS,
    "bucket_hits_delta": ticks.C_BUCKET_HITS,
    "predictions_delta": ticks.C_PREDICTIONS,
    "prefetch_hits_delta": ticks.C_PREFETCH_HITS,
    "hot_word_count": ticks.C_HOT,
    "heat_total_q48": ticks.C_TOTAL,
    "decay_slope_q48": ticks.C_SLOPE,
    "window_width": ticks.C_WINDOW,
}
"""The last tick's part of a record: names, and their columns in `twin.heart.ticks`."""


class Watcher(Protocol):
    """Somebody who is told about every control cycle, and changes nothing."""

    def cycle(self, cycle: Cycle, tick: Integers | None) -> None:
        """The cycle is over. `tick` is the last tick in the columns of `twin.heart.ticks`, None before the first."""


class Telemetry:
    """The fields of a record, in order, and their values."""

    def __init__(self, scenario: Scenario, limits: Mapping[str, Limit]) -> None:
        sensors = [f"{sensor.name}_worst_millicelsius" for sensor in scenario.machine.sensors]
        self._outputs = tuple(limits)
        self.fields = (
            "cycle",
            "time_ns",
            *TICK_FIELDS,
            *sensors,
            "cpu_load_ppm",
            "cpu_power_microwatts",
            "memory_used_ppm",
            "action",
            "failsafe",
            *(f"{name}_command" for name in self._outputs),
        )
        """Names, units last. `action` is its number among the actions, `failsafe` 1 while the shield cools fully."""

    def values(self, cycle: Cycle, tick: Integers | None) -> list[int | None]:
        """The record of a cycle: a value for each of `fields`."""
        view = cycle.view
        row: list[int | None] = [cycle.number, cycle.due_ns + cycle.wake.lateness_ns]
        row += [None if tick is None else int(tick[column]) for column in TICK_FIELDS.values()]
        row += view.worst_millicelsius
        row += (view.cpu_load_ppm, view.cpu_power_microwatts, view.memory_used_ppm)
        row += (ACTIONS.index(cycle.decision.action), int(bool(cycle.verdict.failsafe)))
        row += [cycle.verdict.values[name] for name in self._outputs]
        return row
