"""A whole run on real drivers: the twin is their hardware, they are the controller's, and it replays outside."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import answer
from drivers.machine import Machine
from drivers.wired import FANS, WiredHardware, outputs, scenario

from twin.cli import run
from twin.cli.backends import Backend
from twin.clock import WallEnvironment
from twin.loader import to_toml
from twin.record.seamlog import read_seam_log
from twin.wiring import wiring
from twin.world.world import World

SECONDS = 12
REGISTERS = [register for pair in outputs().values() for register in pair]


def test_a_run_on_real_drivers_replays_outside_to_the_same_digests(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kept: list[WiredHardware] = []

    @contextlib.contextmanager
    def opened(name: str, chosen: Any, root: Path | None, act: bool, trace: Any) -> Iterator[Backend]:
        env = WallEnvironment()
        world = World(env, chosen, wiring(chosen.machine), trace)
        hardware = WiredHardware(machine, world, chosen, env.elapsed_ns)
        kept.append(hardware)
        with contextlib.closing(hardware):
            yield Backend(env, hardware, world, hardware.missing)

    before = machine.call("look", REGISTERS)
    chosen = scenario()
    file = tmp_path / "chips.toml"
    file.write_text(to_toml(chosen))
    monkeypatch.setattr(run, "opened", opened)
    place = tmp_path / "run"
    told = answer("run", file, "--backend", "linux", "--act", "--duration", SECONDS, "--out", place)
    again = answer("replay", place)
    assert again["equal"] is True
    for digest in ("tick_digest", "control_digest", "run_digest"):
        assert again[digest] == told[digest]

    log = read_seam_log(place / "seam.log")
    names = [channel.name for channel in log.header.channels]
    column = {name: [cycle.readings.values[place] for cycle in log.cycles] for place, name in enumerate(names)}
    # The controller cooled a hot machine through the drivers, and saw the fans answer and the temperatures follow.
    for fan in FANS:
        asked = [cycle.applied.values[f"{fan}_pwm"] for cycle in log.cycles]
        assert max(asked) > 120, fan
        assert kept[0].held[f"{fan}_pwm"] == asked[-1]
        speeds = [value for value in column[f"{fan}_rpm"] if value is not None]
        assert max(speeds) > 1.25 * speeds[0], fan
    temperatures = [value for value in column["cpu_temp_millicelsius"] if value is not None]
    assert max(temperatures[-10:]) < temperatures[0] - 2_000
    # And at the end everything is as it was before.
    assert kept[0].unrestored == ()
    assert machine.call("look", REGISTERS) == before
    late = sorted(cycle.lateness_ns for cycle in log.cycles)
    print(
        f"\n{SECONDS} s on {', '.join(sorted({chip.name for chip, _ in FANS.values()} | {'lm75'}))}: "
        f"{len(log.cycles)} cycles, median lateness {late[len(late) // 2] / 1e6:.1f} ms; "
        f"run digest {told['run_digest'][:16]}, of the replay {again['run_digest'][:16]}"
    )
