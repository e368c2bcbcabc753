"""`twin benchmark`: the speed figures, each as a median beside a raw SimPy event measured in the same process."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import simpy

from hardware.interface import Applied, Command, Readings
from twin.cli import DONE, output
from twin.cli.backends import simulated
from twin.cli.benchmark_fingerprint import fingerprint_figures
from twin.cli.benchmark_learn import learn_figures
from twin.cli.benchmark_pool import BY_LIVE_BLOCKS, pool_figures
from twin.cli.run import versions
from twin.clock import ModelledLateness, VirtualEnvironment
from twin.control.choose import make_controller
from twin.control.cycle import Cycle
from twin.control.view import Learned, Learner
from twin.heart import ticks
from twin.heart.adaptive import AdaptiveLaw
from twin.heart.heartbeat import Heartbeat
from twin.heart.inference import RING, infer, new_scratch
from twin.kernels import MODE, Integers, kernel
from twin.loader import load
from twin.loop import Loop
from twin.scenario import Scenario

HUNDRED_SECONDS = (
    "duration_ms=100000",
    'workload.phases=[{name="steady", state="combat", duration_ms=100000, cpu_load=0.3, frames_per_second=60, '
    "frame_cpu_megacycles=38.0, frame_gpu_megacycles=26.0, words_per_second=150000}]",
)
"""100 s of gaming whose load asks for ticks of 1 ms with 150 words each."""


def main(options: argparse.Namespace) -> int:
    """Measure everything: medians of `--repeat` measurements, of decisions the least in each cycle."""
    repeat = max(1, options.repeat)
    scenario = load("gaming", HUNDRED_SECONDS)
    short = replace(scenario, duration_ms=20_000)
    learning = replace(short, learn=replace(short.learn, enabled=True, authority_percent=100, compare_every_blocks=0))
    result: dict[str, Any] = {
        "simpy_event_ns": _median(repeat, simpy_event_ns),
        **_tick_figures(repeat, scenario),
        "capture_ns": _median(repeat, _capture_ns),
        "inference_us": _median(repeat, lambda: _inference_us(scenario)),
        **_decision_figures(repeat, learning, "decision_us"),
        **_decision_figures(repeat, short, "decision_baseline_us"),
        **pool_figures(repeat),
        **learn_figures(repeat),
        **fingerprint_figures(repeat, scenario),
        **_hundred_seconds(repeat),
        "kernels": MODE,
        "versions": versions(),
    }
    if options.json:
        output.print_json(result)
        return DONE
    event = result["simpy_event_ns"]
    rows = []
    flat = dict(result)
    for name in BY_LIVE_BLOCKS:
        flat |= {f"{name} at {live}": value for live, value in flat.pop(name).items()}
    for name, value in flat.items():
        if isinstance(value, float):
            scale = {"ns": 1.0, "us": 1e3, "ms": 1e6, "seconds": 1e9}.get(
                name.split(" ")[0].split("_")[1 if "_us_" in name else -1]
            )
            rows.append((name, f"{value:,.3f}", "" if scale is None else f"{value * scale / event:,.3f}"))
    output.print_table(f"Speed ({MODE} kernels)", ("figure", "median", "in raw SimPy events"), rows)
    return DONE


def _median(repeat: int, measure: Callable[[], float]) -> float:
    return median(measure() for _ in range(repeat))


def simpy_event_ns(count: int = 100_000) -> float:
    """One bare timeout in SimPy's own environment: the reference for everything else."""
    env = simpy.Environment()

    def walk() -> Any:
        for _ in range(count):
            yield env.timeout(1)

    env.process(walk())
    began = time.perf_counter_ns()
    env.run()
    return (time.perf_counter_ns() - began) / count


def _tick_figures(repeat: int, scenario: Scenario) -> dict[str, float]:
    with_words = _median(repeat, lambda: _tick_ns(scenario, 150_000))
    without = _median(repeat, lambda: _tick_ns(scenario, 0))
    return {"tick_ns": with_words, "word_ns": (with_words - without) / 150}


def _inference_us(scenario: Scenario) -> float:
    """A full inference (L5 and L6) over a window of 4,096 words, as the adaptive law makes it."""
    heart = Heartbeat(replace(scenario.heartbeat, config="1_1_1_1_1_1", select_mode=False), 1)
    env = VirtualEnvironment(ModelledLateness(scenario.heartbeat.lateness_quantiles_ns, 1))
    heart.feed(150_000, None)
    heart.run(env, 200_000_000 if MODE == "numba" else 60_000_000, heart.clear)
    law = heart.law
    assert isinstance(law, AdaptiveLaw)
    scratch = new_scratch()
    seen = np.zeros(len(law.place), dtype=np.int64)
    unknown = scratch.copy()
    count = 200 if MODE == "numba" else 2
    now_us = heart.due_ns // 1_000
    took = 0
    for each in range(count + 1):
        # As if nothing had been inferred before, or it would be an early exit.
        scratch[:] = unknown
        law.state[ticks.S_WINDOW] = RING
        began = time.perf_counter_ns()
        infer(
            law.parameters, law.state, law.cells, law.place, law.ring, law.times_us, law.heats, seen, scratch, now_us,
            6, True, True,
        )  # fmt: skip
        took += (time.perf_counter_ns() - began) if each else 0
    return took / count / 1e3


def _tick_ns(scenario: Scenario, words_per_second: int) -> float:
    """A tick of 1 ms with as many words as that brings: the median of 100 batches, each of a control cycle.

    Not their mean: what else the machine does falls on a few of them.
    """
    settings = replace(
        scenario.heartbeat, adapt_interval=False, config="1_1_1_1_1_1", select_mode=False, inference_ticks=10**9
    )
    env = VirtualEnvironment(ModelledLateness(settings.lateness_quantiles_ns, 1))
    heart = Heartbeat(settings, 1)
    heart.feed(words_per_second, None)
    heart.run(env, 100_000_000, heart.clear)
    times = []
    until = heart.due_ns
    for _ in range(100 if MODE == "numba" else 1):
        before, until = heart.tick_number, until + 100_000_000
        began = time.perf_counter_ns()
        heart.run(env, until, heart.clear)
        heart.clear()
        times.append((time.perf_counter_ns() - began) / (heart.tick_number - before))
    return median(times)


@kernel
def _capture_many(captured: Integers) -> None:
    for row in range(captured.shape[1]):
        ticks.capture(
            captured, row, row, 1_000_000, 1_000_001, row * 1_000_000, 70_000, 200_000, 150, 90, 20, 12, 600, row << 20,
            6, 4_096,
        )  # fmt: skip


def _capture_ns() -> float:
    """Writing one tick into a ring of 100,000 rows."""
    captured = np.zeros((ticks.COLUMNS, 100_000), dtype=np.int64)
    _capture_many(captured)
    began = time.perf_counter_ns()
    _capture_many(captured)
    return (time.perf_counter_ns() - began) / captured.shape[1]


class _Nothing:
    """A recorder that keeps nothing."""

    def ticks(self, captured: Integers) -> None:
        """Ticks do not matter here."""

    def cycle(self, cycle: Cycle) -> None:
        """Neither does what became of a decision."""


def _decision_figures(repeat: int, scenario: Scenario, name: str) -> dict[str, float]:
    """Percentiles over the control cycles of a run, of which each counts with the least that it took in `repeat` runs.

    All runs do the same in the same cycle, so what differs is what else the machine did meanwhile.
    """
    runs = [_decisions(scenario) for _ in range(repeat)]
    least = [min(took) for took in zip(*runs, strict=True)]
    return {f"{name}_p{part}": float(np.percentile(least, part)) / 1e3 for part in (50, 99)}


def _decisions(scenario: Scenario) -> list[int]:
    """How long each control cycle takes from before its reading to after its command, nanoseconds.

    A learner is not done then: its cycle ends when it has been told what became of its decision.
    """
    backend = simulated(scenario)
    began, took = 0, []
    read, apply = backend.hardware.read, backend.hardware.apply
    controller = make_controller(scenario, backend.hardware.limits)

    def timed_read() -> Readings:
        nonlocal began
        began = time.perf_counter_ns()
        return read()

    def timed_apply(command: Command) -> Applied:
        applied = apply(command)
        took.append(time.perf_counter_ns() - began)
        return applied

    backend.hardware.read = timed_read  # type: ignore[method-assign]
    if isinstance(controller, Learner):
        executed = controller.executed

        def timed_executed(values: Mapping[str, int], held_back: bool) -> Learned:
            learned = executed(values, held_back)
            took.append(time.perf_counter_ns() - began)
            return learned

        controller.executed = timed_executed  # type: ignore[method-assign]
    else:
        backend.hardware.apply = timed_apply  # type: ignore[method-assign]
    Loop(backend.env, backend.hardware, scenario, controller, _Nothing()).run()
    return took[10:]


def _hundred_seconds(repeat: int) -> dict[str, float]:
    """The whole run, recorded and digested, in processes of their own; the peak is the largest of them."""
    seconds, peaks = [], []
    # Not `ru_maxrss`, which a process inherits from the one that started it: it would tell this process's memory.
    program = (
        "import json, sys; from twin.cli import main; status = main(json.loads(sys.argv[1])); "
        "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM:')), "
        "file=sys.stderr); sys.exit(status)"
    )
    for number in range(repeat):
        with tempfile.TemporaryDirectory(prefix="twin-benchmark-") as folder:
            arguments = ["run", "gaming", "--json", "--out", str(Path(folder) / str(number))]
            for item in HUNDRED_SECONDS:
                arguments += ["--set", item]
            done = subprocess.run(
                [sys.executable, "-c", program, json.dumps(arguments)], capture_output=True, text=True, check=True
            )
        seconds.append(float(json.loads(done.stdout)["wall_seconds"]))
        peaks.append(int(done.stderr.split()[-1]) / 1_024)
    return {"run_100s_seconds": median(seconds), "run_100s_peak_mb": max(peaks)}
