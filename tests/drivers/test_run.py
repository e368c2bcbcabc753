"""Whole runs on real drivers: the twin is their hardware, they are the controller's, and it replays outside."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from commands import answer
from drivers.machine import Machine
from drivers.wired import FANS, LM75, WiredHardware, outputs, scenario

from hardware.interface import Applied, Command, Readings
from twin.cli import INTERRUPTED, run
from twin.cli.backends import Backend
from twin.clock import WallEnvironment
from twin.loader import to_toml
from twin.record.seamlog import SeamLog, read_seam_log
from twin.wiring import wiring
from twin.world.world import World

SECONDS = 12
LONGEST_SECONDS = 60
"""Where the machine has little of its processors, the emulated one is slow, and so is what goes on there."""
REGISTERS = [register for pair in outputs().values() for register in pair]


def end_run() -> None:
    """Ask for the end, as somebody at the keyboard would."""
    os.kill(os.getpid(), signal.SIGINT)


class Cooled(WiredHardware):
    """Ends the run after `SECONDS`, or later: once each fan has answered, and the processor has become cooler."""

    began = 0.0
    first: Readings | None = None
    answered: frozenset[str] = frozenset()

    def read(self) -> Readings:
        readings = super().read()
        if self.first is None:
            self.first, self.began = readings, time.monotonic()
        elif self._is_cooler(readings) and time.monotonic() - self.began >= SECONDS:
            end_run()
        return readings

    def _is_cooler(self, readings: Readings) -> bool:
        assert self.first is not None
        names = (channel.name for channel in self.sensors)
        pairs = {
            name: (before, now)
            for name, before, now in zip(names, self.first.values, readings.values, strict=True)
            if before is not None and now is not None
        }
        faster = {fan for fan in FANS if (pair := pairs.get(f"{fan}_rpm")) and pair[1] > 1.25 * pair[0]}
        self.answered |= faster
        before, now = pairs.get("cpu_temp_millicelsius", (0, 0))
        return now < before - 3_000 and len(self.answered) == len(FANS)


class Unplugging(WiredHardware):
    """Loses a sensor's chip once the fans have been slow for `CALM` cycles, and notes when all are at full speed.

    Then the run ends.
    """

    CALM = 10
    calm = 0
    unplugged_at = 0.0
    cooled_at = 0.0
    cycles = 0

    def read(self) -> Readings:
        if self.calm == self.CALM and not self.unplugged_at:
            self._machine.call("unplug", LM75.address)
            self.unplugged_at = time.monotonic()
        return super().read()

    def apply(self, command: Command) -> Applied:
        applied = super().apply(command)
        duties = self._machine.call("look", self._registers)[::2]
        if not self.unplugged_at:
            self.calm = self.calm + 1 if max(duties) < 200 else 0
        elif not self.cooled_at:
            self.cycles += 1
            if min(duties) == 255:
                self.cooled_at = time.monotonic()
                end_run()
        return applied


@pytest.fixture
def played(machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Runs a scenario on the chips with `twin run`, and returns what that says, the log, and the hardware."""

    def play(start_celsius: Mapping[str, float], kind: type[WiredHardware]) -> tuple[dict[str, Any], SeamLog, Any]:
        kept: list[WiredHardware] = []

        @contextlib.contextmanager
        def opened(name: str, chosen: Any, root: Path | None, trace: Any, access: Any) -> Iterator[Backend]:
            env = WallEnvironment()
            world = World(env, chosen, wiring(chosen.machine), trace)
            hardware = kind(machine, world, chosen, env.elapsed_ns)
            kept.append(hardware)
            with contextlib.closing(hardware):
                yield Backend(env, hardware, world, hardware.missing)

        file = tmp_path / "chips.toml"
        file.write_text(to_toml(scenario(start_celsius)))
        monkeypatch.setattr(run, "opened", opened)
        told = answer("run", file, "--backend", "linux", "--act", "--duration", LONGEST_SECONDS,
                      "--out", tmp_path / "run", status=INTERRUPTED)  # fmt: skip
        return told, read_seam_log(tmp_path / "run/seam.log"), kept[0]

    return play


def test_a_run_on_real_drivers_replays_outside_to_the_same_digests(
    machine: Machine, played: Any, tmp_path: Path
) -> None:
    before = machine.call("look", REGISTERS)
    start = {"cpu_die": 88, "cpu_sink": 76, "gpu_die": 82, "gpu_sink": 79, "case": 54}
    told, log, hardware = played(start, Cooled)
    again = answer("replay", tmp_path / "run")
    assert again["equal"] is True
    for digest in ("tick_digest", "control_digest", "run_digest"):
        assert again[digest] == told[digest]

    names = [channel.name for channel in log.header.channels]
    column = {name: [cycle.readings.values[place] for cycle in log.cycles] for place, name in enumerate(names)}
    # The controller cooled a hot machine through the drivers, and saw the fans answer and the temperatures follow.
    for fan in FANS:
        asked = [cycle.applied.values[f"{fan}_pwm"] for cycle in log.cycles]
        assert max(asked) > 120, fan
        # An output is written ten times a second at most, by the clock of a machine that may be slow.
        assert hardware.held[f"{fan}_pwm"] in asked[-10:]
        speeds = [value for value in column[f"{fan}_rpm"] if value is not None]
        assert max(speeds) > 1.25 * speeds[0], fan
    temperatures = [value for value in column["cpu_temp_millicelsius"] if value is not None]
    assert max(temperatures[-10:]) < temperatures[0] - 2_000
    # And at the end everything is as it was before.
    assert hardware.unrestored == ()
    assert machine.call("look", REGISTERS)[1::2] == before[1::2]
    late = sorted(cycle.lateness_ns for cycle in log.cycles)
    print(
        f"\n{told['simulated_seconds']:.0f} s on adt7475, amc6821 and lm75: {len(log.cycles)} cycles, "
        f"lateness {late[len(late) // 2] / 1e6:.1f} ms (median), {late[-1] / 1e6:.1f} ms (worst); "
        f"run digest {told['run_digest'][:16]}, of its replay outside {again['run_digest'][:16]}"
    )


def test_a_sensor_that_is_lost_gives_full_cooling_within_a_second(
    machine: Machine, played: Any, tmp_path: Path
) -> None:
    # Cool, so that the fans have no other reason to turn fast.
    _, _, hardware = played(dict.fromkeys(("cpu_die", "cpu_sink", "gpu_die", "gpu_sink", "case"), 34), Unplugging)
    assert hardware.unplugged_at
    # Ten cycles are a second; how long they really took depends on how busy this machine is.
    assert hardware.cooled_at
    assert hardware.cycles <= 10
    seconds = hardware.cooled_at - hardware.unplugged_at
    assert answer("replay", tmp_path / "run")["equal"] is True
    print(f"\nlm75 unplugged: full cooling in the registers after {hardware.cycles} cycles, {seconds * 1e3:.0f} ms")
