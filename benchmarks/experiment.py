"""Measure an experiment: seconds, memory of all its processes together, disk, ticks a second, beside a SimPy event.

    python benchmarks/experiment.py [--plan phase2] [--runs 150] [--kicks 2] [--workers N] [--json]

`--runs` takes a share: so many runs of each configuration instead of the plan's, and `--kicks` so many seeds that are
kicked (each is some 30 runs, whose ticks do not count). The raw SimPy event is measured in the
same process, before and after, so that ratios of different machines can be compared; `tick_events` is what a tick of
all workers together costs in such events. Memory is what the processes have for themselves, with their share of what
several have (PSS), looked at four times a second; disk is what the finished directory holds, and the most it held.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import platform
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from twin.cli import main as twin
from twin.cli.benchmark import simpy_event_ns

LOOK_EVERY_SECONDS = 0.25
MEBIBYTE = 1 << 20


class Watch:
    """The most memory that this process and all below it had together, and the most that a folder held."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.memory_bytes = self.disk_bytes = self.processes = 0

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(LOOK_EVERY_SECONDS):
            family = list(_family(os.getpid()))
            self.processes = max(self.processes, len(family))
            self.memory_bytes = max(self.memory_bytes, sum(map(_memory_bytes, family)))
            self.disk_bytes = max(self.disk_bytes, disk_bytes(self._folder))


def _family(process: int) -> Iterator[int]:
    """The process and all below it."""
    yield process
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{process}/task").iterdir():
            for child in (task / "children").read_text().split():
                yield from _family(int(child))


def _memory_bytes(process: int) -> int:
    with contextlib.suppress(OSError, StopIteration):
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        return 1_024 * int(next(line for line in lines if line.startswith("Pss:")).split()[1])
    return 0


def disk_bytes(folder: Path) -> int:
    """What lies in the folder, in whole blocks of the disk."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            total += path.stat().st_blocks * 512
    return total


def measure(plan: str, runs: int | None, kicks: int | None, workers: int, folder: Path) -> dict[str, Any]:
    """Do the experiment in `folder`, and all figures of it."""
    options = ["experiment", plan, "--workers", str(workers), "--out", str(folder), "--json"]
    options += [] if runs is None else ["--set", f"runs={runs}"]
    options += [] if kicks is None else ["--set", f"kicks.seeds={kicks}"]
    said = io.StringIO()
    before = simpy_event_ns(200_000)
    began = time.perf_counter()
    with Watch(folder) as watch, contextlib.redirect_stdout(said):
        status = twin(options)
    seconds = time.perf_counter() - began
    if status != 0:
        raise SystemExit(status)
    event = (before + simpy_event_ns(200_000)) / 2
    done = json.loads(said.getvalue())
    return {
        "plan": plan,
        "runs": done["runs"],
        "ticks": done["ticks"],
        "workers": workers,
        "processors": len(os.sched_getaffinity(0)),
        "seconds": seconds,
        "ticks_per_second": done["ticks"] / seconds,
        "peak_mb": watch.memory_bytes / MEBIBYTE,
        "processes": watch.processes,
        "disk_mb": disk_bytes(folder) / MEBIBYTE,
        "disk_most_mb": watch.disk_bytes / MEBIBYTE,
        "disk_bytes_per_tick": disk_bytes(folder) / done["ticks"],
        "simpy_event_ns": event,
        "tick_events": seconds * 1e9 / done["ticks"] / event,
        "python": platform.python_version(),
        "experiment_digest": done["experiment_digest"],
        "golden": done["golden"],
        "tie": done["tie"],
    }


def main() -> int:
    """Print a line for each figure, or one JSON object."""
    parser = argparse.ArgumentParser(description="Measure an experiment.")
    parser.add_argument("--plan", default="phase2", help="default: phase2")
    parser.add_argument("--runs", type=int, help="runs of each configuration (default: the plan's)")
    parser.add_argument("--kicks", type=int, help="seeds that are kicked (default: the plan's)")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="default: all processors")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="twin-benchmark-") as folder:
        figures = measure(options.plan, options.runs, options.kicks, options.workers, Path(folder) / "out")
    if options.json:
        print(json.dumps(figures))
        return 0
    for name, value in figures.items():
        print(f"{name:20} {value:16,.3f}" if isinstance(value, float) else f"{name:20} {value!s:>16}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
