"""Measure the guardian, on a machine made of files: what a cycle pays, how late it is, how soon things are safe.

    python benchmarks/guardian.py [--kills 100] [--seconds 20] [--json]

Exit status 1 when a bar is missed.

A cycle is `LinuxHardware.read` and then, timed, `apply` with a command that changes, once with a guardian and once
without hands, in turns in one process; of each cycle the least of five runs counts, and what the guardian adds at a
percentile is the difference of theirs. Lateness is the guardian's own count of its beats (every 10 ms) while every
processor has two processes that only compute. Kills are of a controller in a process of its own, which has touched as
much memory as a run, at random moments, until every file is as it was; a hang is SIGSTOP, until every file is as it was
or at its safe value; a restart is from starting the process until all is given back. When a file was written, the file
tells. Of a kill the most belongs to the kernel, which takes a process apart before it tells anybody: that is `dead_ms`,
and the rest is the guardian's.
A bare SimPy event is measured in the same process, so that other machines can be compared.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hardware.beats import LATENESS_NS
from hardware.guardian import BEAT_NS
from hardware.interface import Command, Status
from hardware.journal import FOLDER
from hardware.linux.adapter import LinuxHardware
from hardware.linux.guarded import GuardedHands
from hardware.linux.tree import SysTree
from twin.cli.benchmark import simpy_event_ns
from twin.scenario import Machine
from twin.wiring import wiring

WIRING = wiring(Machine())
CYCLES, RUNS = 300, 5
AT_MOST = {"cycle_adds_us_p99": 50.0, "lateness_ms_p999": 5.0, "killed_ms_most": 50.0, "hung_ms_most": 500.0,
           "restart_ms_most": 200.0}  # fmt: skip
"""The bars."""
CONTROLLER_BYTES = 100 << 20
"""So much memory a run has touched, a tenth more or less."""
CLOCK_REALTIME_COARSE = 5
"""Of `linux/time.h`; the module `time` does not name it."""


def command(number: int) -> Command:
    """A command that differs from the one before, half-way between the limits."""
    return Command({limit.name: (limit.minimum + limit.maximum) // 2 + number % 8 for limit in WIRING.outputs})


def machine(root: Path) -> SysTree:
    """A new tree whose fans turn."""
    tree = SysTree(root, WIRING)
    tree.update((1_200_000,) * len(WIRING.sensors), (Status.OK,) * len(WIRING.sensors))
    return tree


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which that share lies."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def cycles(root: Path) -> dict[str, float]:
    """Microseconds of `apply` with a guardian and without."""
    machine(root)
    guarded = LinuxHardware(root, WIRING, time.monotonic_ns, GuardedHands(root))
    alone = LinuxHardware(root, WIRING, time.monotonic_ns)
    took: dict[str, list[list[float]]] = {"guarded": [], "alone": []}
    try:
        for _run in range(RUNS):
            for values in took.values():
                values.append([])
            for number in range(CYCLES):
                # Whoever comes first after a pause finds cold caches.
                order = (("guarded", guarded), ("alone", alone))
                for name, hardware in order if number % 2 else reversed(order):
                    asked = command(number)
                    hardware.read()
                    began = time.perf_counter_ns()
                    hardware.apply(asked)
                    took[name][-1].append((time.perf_counter_ns() - began) / 1e3)
                time.sleep(0.005)
    finally:
        guarded.close()
    # All runs do the same in a cycle: what differs is the rest of the machine.
    least = {name: list(map(min, *runs)) for name, runs in took.items()}
    figures = {
        f"apply_{name}_us_p{round(share * 100)}": percentile(values, share)
        for name, values in least.items()
        for share in (0.5, 0.99)
    }
    for share in ("p50", "p99"):
        figures[f"cycle_adds_us_{share}"] = figures[f"apply_guarded_us_{share}"] - figures[f"apply_alone_us_{share}"]
    return figures


def lateness(root: Path, seconds: float) -> dict[str, float]:
    """How late the guardian's beats are while all processors compute."""
    machine(root)
    hands = GuardedHands(root)
    hardware = LinuxHardware(root, WIRING, time.monotonic_ns, hands)
    load = [subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"])
            for _process in range(2 * len(os.sched_getaffinity(0)))]  # fmt: skip
    try:
        number, ends = 0, time.monotonic() + seconds
        while time.monotonic() < ends:
            number += 1
            hardware.apply(command(number))
            time.sleep(0.1)
    finally:
        for process in load:
            process.kill()
            process.wait()
        hardware.close()
    told = hands.final
    buckets = sorted((int(place), count) for place, count in told["late"].items())
    beats, seen, late_ns = sum(count for _place, count in buckets), 0, 0
    for place, count in buckets:
        seen += count
        if seen >= 0.999 * beats:
            late_ns = (place + 1) * LATENESS_NS
            break
    return {
        "lateness_ms_p999": late_ns / 1e6,
        "lateness_ms_most": (buckets[-1][0] + 1) * LATENESS_NS / 1e6,
        "beats": float(told["beats"]),
        "beats_missed": float(told["missed"]),
        "realtime": float("realtime" in hands.had),
    }


def controller(root: Path, cycles: int) -> int:
    """Start a process that acts for ever, which is the one that is killed, and wait for so many cycles."""
    read, write = os.pipe()
    child = os.fork()
    if child:
        os.close(write)
        while cycles > 0 and os.read(read, 1):
            cycles -= 1
        os.close(read)
        return child
    try:
        _memory = bytearray(b"x") * CONTROLLER_BYTES
        hardware = LinuxHardware(root, WIRING, time.monotonic_ns, GuardedHands(root))
        number = 0
        while True:
            number += 1
            hardware.apply(command(number))
            if number <= cycles:
                os.write(write, b".")
            time.sleep(0.02)
    finally:
        os._exit(1)


def until(true: Callable[[], bool]) -> None:
    """Wait until `true` is."""
    ends = time.monotonic() + 20
    while not true():
        if time.monotonic() > ends:
            raise SystemExit("the outputs never became safe")
        time.sleep(0.001)


def written_ms(root: Path, since_ns: int) -> float:
    """Milliseconds from a time (of the wall clock) until the last write below `sys`, as the files tell.

    Whoever waits for it may itself have to wait for a processor. The clock of files stands for some milliseconds at a
    time, which are added.
    """
    coarse_ms = time.clock_getres(CLOCK_REALTIME_COARSE) * 1e3
    return (
        coarse_ms
        + (max(path.stat().st_mtime_ns for path in (root / "sys").rglob("*") if path.is_file()) - since_ns) / 1e6
    )


def deaths(root: Path, kills: int, hangs: int) -> dict[str, float]:
    """Milliseconds from a controller's end, or its standstill, until every output is safe."""
    chance = random.Random(1)
    took: dict[int, list[float]] = {signal.SIGKILL: [], signal.SIGSTOP: []}
    dead: list[float] = []
    safe = {limit.name: limit.safe for limit in WIRING.outputs}
    with contextlib.suppress(OSError):
        # Else the deaths are seen when there is a processor for it. Neither controllers nor guardians get this.
        os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(9))
    for number in range(kills + hangs):
        tree = machine(root)
        before = tree.commands()

        def is_safe(tree: SysTree = tree, before: dict[str, int] = before) -> bool:
            now = tree.commands()
            return all(now.get(name) in (before[name], safe[name]) for name in safe)

        def is_back(tree: SysTree = tree, before: dict[str, int] = before) -> bool:
            return tree.commands() == before

        what = signal.SIGKILL if number < kills else signal.SIGSTOP
        process = controller(root, chance.randrange(2, 12))
        ended = os.pidfd_open(process)
        time.sleep(chance.random() * 0.04)
        began_ns = time.time_ns()
        os.kill(process, what)
        if what == signal.SIGKILL:
            select.select([ended], [], [])
            dead.append((time.time_ns() - began_ns) / 1e6)
        until(is_safe if what == signal.SIGSTOP else is_back)
        took[what].append(written_ms(root, began_ns))
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        os.close(ended)
        until(is_back)
        # The guardian looks whether it was obeyed before it lets go of the machine.
        until(lambda: not (root / FOLDER / "journal").exists())
        shutil.rmtree(root)
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    return {
        "killed_ms_p50": percentile(took[signal.SIGKILL], 0.5),
        "killed_ms_p99": percentile(took[signal.SIGKILL], 0.99),
        "killed_ms_most": max(took[signal.SIGKILL]),
        "dead_ms_p50": percentile(dead, 0.5),
        "dead_ms_most": max(dead),
        "given_back_after_ms_most": max(killed - died for killed, died in zip(took[signal.SIGKILL], dead, strict=True)),
        "hung_ms_most": max(took[signal.SIGSTOP]),
    }


def restarts(root: Path, times: int) -> dict[str, float]:
    """Milliseconds from starting a guardian until it has given back what a killed one left."""
    tree = machine(root)
    before = tree.commands()
    hands = GuardedHands(root)
    hardware = LinuxHardware(root, WIRING, time.monotonic_ns, hands)
    took = []
    try:
        for _time in range(times):
            until(lambda: not hardware.apply(command(1)).failed and tree.commands() != before)
            assert hands.pid is not None
            os.kill(hands.pid, signal.SIGKILL)
            os.waitid(os.P_PID, hands.pid, os.WEXITED | os.WNOWAIT)
            began_ns = time.time_ns()
            hardware.apply(command(2))
            until(lambda: tree.commands() == before)
            took.append(written_ms(root, began_ns))
    finally:
        hardware.close()
    return {"restart_ms_p50": percentile(took, 0.5), "restart_ms_most": max(took)}


def measure(kills: int, seconds: float, folder: Path) -> dict[str, Any]:
    """All figures."""
    event = simpy_event_ns(200_000)
    figures = {
        "simpy_event_ns": event,
        **cycles(folder / "cycles"),
        **lateness(folder / "lateness", seconds),
        **deaths(folder / "deaths", kills, max(3, kills // 10)),
        **restarts(folder / "restarts", 5),
    }
    figures["cycle_adds_events_p99"] = figures["cycle_adds_us_p99"] * 1e3 / event
    figures["beat_ms"] = BEAT_NS / 1e6
    return figures


def main() -> int:
    """Print a line for each figure, or one JSON object."""
    parser = argparse.ArgumentParser(description="Measure the guardian.")
    parser.add_argument("--kills", type=int, default=100, help="controllers killed (default: 100)")
    parser.add_argument("--seconds", type=float, default=20.0, help="how long lateness is watched (default: 20)")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="twin-guardian-", dir=memory) as folder:
        figures = measure(options.kills, options.seconds, Path(folder))
    kept = {name: figures[name] <= bar for name, bar in AT_MOST.items()}
    if options.json:
        print(json.dumps(figures))
    else:
        for name, value in figures.items():
            said = f"  bar {AT_MOST[name]:7,.0f}  {'kept' if kept[name] else 'MISSED'}" if name in kept else ""
            print(f"{name:24} {value:12,.3f}{said}")
    return 0 if all(kept.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
