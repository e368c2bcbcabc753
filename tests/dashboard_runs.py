"""Runs for the tests of the page: recorded ones, and what a loop tells of the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from commands import command
from running import Kept

from hardware.interface import Channel, Limit
from twin.cli.backends import simulated
from twin.control.choose import make_controller
from twin.control.cycle import Cycle
from twin.kernels import Integers
from twin.loader import load
from twin.loop import Loop
from twin.record.recorder import TICK_NAMES, control_columns, control_row
from twin.scenario import Scenario

Row = dict[str, Any]
TICK_PLACES = {name: place for place, name in enumerate(TICK_NAMES) if name != "lateness_ns"}
SHORT = ("--duration", "3")
"""Thirty control cycles, some 2,000 ticks."""


def recorded(out: Path, *arguments: object, scenario: str = "gaming") -> Path:
    """A run directory."""
    said = command("run", scenario, *(arguments or SHORT), "--out", out, "--quiet")
    assert said.status == 0, said.err
    return out


@dataclass
class Told:
    """A watcher that keeps every record, made here once more, the obvious way."""

    scenario: Scenario
    channels: tuple[Channel, ...]
    limits: Mapping[str, Limit]
    records: list[Row] = field(default_factory=list)

    def cycle(self, cycle: Cycle, tick: Integers | None) -> None:
        sensors = tuple(sensor.name for sensor in self.scenario.machine.sensors)
        names = [column.name for column in control_columns(self.channels, tuple(self.limits), sensors)]
        record = dict(zip(names, control_row(cycle, tuple(self.limits), len(sensors)), strict=True))
        for name, place in TICK_PLACES.items():
            record[name] = None if tick is None else int(tick[place])
        self.records.append(record)


def told(*overrides: str, scenario: str = "gaming") -> list[Row]:
    """The records of a run on the simulated machine."""
    loaded = load(scenario, overrides)
    backend = simulated(loaded, None)
    watcher = Told(loaded, backend.hardware.sensors, backend.hardware.limits)
    controller = make_controller(loaded, backend.hardware.limits)
    Loop(backend.env, backend.hardware, loaded, controller, Kept(), None, watcher).run()
    return watcher.records
