"""The loop: missed cycles are skipped and counted, and the hardware is closed whatever happens."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from running import Kept, quick, shipped_scenario, twin

from hardware.interface import Applied, Command
from hardware.linux.application import write_application
from twin.cli.backends import simulated
from twin.clock import RecordedLateness, VirtualEnvironment
from twin.control.cycle import Cycle
from twin.control.rules import RulesPid
from twin.kernels import Integers
from twin.loop import Loop
from twin.timing import Wake
from twin.wiring import wiring
from twin.world.world import World

CYCLE = 100_000_000


def make(wakes: list[Wake]) -> tuple[Loop, Kept]:
    from hardware.simulated import SimulatedHardware

    scenario = quick(shipped_scenario("idle"), duration_ms=2_000)
    env = VirtualEnvironment(RecordedLateness(np.zeros(1_000, dtype=np.int64), wakes))
    channels = wiring(scenario.machine)
    hardware = SimulatedHardware(World(env, scenario, channels), channels, env.elapsed_ns)
    kept = Kept()
    return Loop(env, hardware, scenario, RulesPid(scenario, hardware.limits), kept), kept


def test_missed_control_cycles_are_skipped_and_counted() -> None:
    wakes = [Wake(0), Wake(350_000_000), *[Wake(0)] * 30]
    loop, kept = make(wakes)
    assert loop.run() is True
    due = [cycle.due_ns // CYCLE for cycle in kept.cycles]
    # The second cycle woke 350 ms late: the three that were due meanwhile never happen, none comes twice or early.
    assert due == [0, 1, *range(5, 20)]
    assert loop.missed_cycles == 3
    assert "the control cycle came 350 ms late" in kept.cycles[1].verdict.failsafe


def test_a_recording_that_ends_ends_the_run() -> None:
    loop, kept = make([Wake(0)] * 7)
    assert loop.run() is False
    assert len(kept.cycles) == 7


def test_stop_ends_before_the_next_cycle() -> None:
    loop, kept = make([Wake(0)] * 30)
    apply = loop.hardware.apply

    def third(command: Command) -> Applied:
        if len(kept.cycles) == 2:
            loop.stop()
        return apply(command)

    loop.hardware.apply = third  # type: ignore[method-assign]
    assert loop.run() is False
    assert len(kept.cycles) == 3


@pytest.mark.parametrize("where", ["read", "apply", "recorder"])
def test_the_hardware_is_closed_whatever_fails(where: str) -> None:
    scenario = quick(shipped_scenario("idle"), duration_ms=2_000)
    backend = simulated(scenario)

    class Failing(Kept):
        def cycle(self, cycle: Cycle) -> None:
            super().cycle(cycle)
            if where == "recorder" and cycle.number == 3:
                raise OSError("no room")

    closed: list[bool] = []
    close = backend.hardware.close

    def note() -> None:
        closed.append(True)
        close()

    def fail(*_: object) -> None:
        raise OSError("no room")

    backend.hardware.close = note  # type: ignore[method-assign]
    if where != "recorder":
        setattr(backend.hardware, where, fail)
    loop = Loop(backend.env, backend.hardware, scenario, RulesPid(scenario, backend.hardware.limits), Failing())
    with pytest.raises(OSError, match="no room"):
        loop.run()
    assert closed


def test_ticks_that_could_not_be_recorded_are_not_handed_over_again() -> None:
    """What went wrong first is what is raised: a second attempt would hide a full disk behind an error of its own."""
    scenario = quick(shipped_scenario("idle"), duration_ms=2_000)
    backend = simulated(scenario)
    handed: list[int] = []

    class Full(Kept):
        def ticks(self, captured: Integers) -> None:
            handed.append(int(captured[0, 0]))
            if len(handed) == 3:
                raise OSError("no room")

    loop = Loop(backend.env, backend.hardware, scenario, RulesPid(scenario, backend.hardware.limits), Full())
    with pytest.raises(OSError, match="no room"):
        loop.run()
    assert len(handed) == len(set(handed)) == 3


def test_load_is_refused_while_somebody_else_writes_the_port(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    over = threading.Event()

    def write() -> None:
        number = 0
        while not over.wait(0.1):
            number += 1
            write_application(tmp_path, number, {"words_offered_per_second": 5})

    writer = threading.Thread(target=write)
    writer.start()
    out = tmp_path / "run-of-mine"
    try:
        done = twin("run", "idle", "--backend", "linux", "--root", tmp_path, "--load", "--out", out, check=False)
    finally:
        over.set()
        writer.join()
    assert done.returncode == 2
    assert "is being written by another program or run" in done.stderr
    assert not out.exists()
