"""Runs for the tests of the page: recorded ones, and what a loop tells of the same."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlencode
from urllib.request import Request, urlopen

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


class Dashboard:
    """`twin dashboard` in a process of its own, asked as a program would ask it. A context manager."""

    def __init__(self, *arguments: object, scratch: Path | None = None) -> None:
        """`scratch` is where it may leave something."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "twin", "dashboard", *map(str, arguments), "--port", "0"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=None if scratch is None else {**os.environ, "TMPDIR": str(scratch)},
        )  # fmt: skip
        assert self._process.stdout is not None
        self.first_line = self._process.stdout.readline()
        url = json.loads(self.first_line)["url"] if self.first_line.startswith("{") else self.first_line
        self._address, _, self._token = url.strip().partition("/?token=")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def get(self, path: str, **parameters: object) -> bytes:
        query = f"?{urlencode(parameters)}" if parameters else ""
        asked = Request(f"{self._address}{path}{query}", headers={"Authorization": f"Bearer {self._token}"})
        with urlopen(asked) as response:
            content: bytes = response.read()
        return content

    def json(self, path: str, **parameters: object) -> Any:
        return json.loads(self.get(path, **parameters))

    def runs(self) -> dict[str, Row]:
        return {run["id"]: run for run in self.json("/api/runs")["runs"]}

    def wait_for(self, reached: Callable[[], object]) -> None:
        """Until it is so. Whoever tests gives up after a while, which is no timing that is asserted."""
        for _ in range(600):
            if reached():
                return
            assert self._process.poll() is None, self.end(signal.SIGTERM)
            time.sleep(0.1)
        raise AssertionError(f"it did not come to that: {self.runs()}")

    def children(self) -> list[int]:
        """The processes that it has started."""
        of_threads = Path(f"/proc/{self._process.pid}/task").glob("*/children")
        return [int(child) for each in of_threads for child in each.read_text().split()]

    def end(self, number: signal.Signals) -> tuple[int, str, str]:
        """Status, the rest of the output, and what was said on standard error."""
        self._process.send_signal(number)
        out, err = self._process.communicate()
        return self._process.returncode, out, err
