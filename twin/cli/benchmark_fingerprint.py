"""The fingerprint's speed figure."""

from __future__ import annotations

import time
from dataclasses import replace
from statistics import median

import numpy as np

from twin.clock import ModelledLateness, VirtualEnvironment
from twin.fingerprint.run import run_fingerprint
from twin.heart.heartbeat import Heartbeat
from twin.kernels import MODE, Integers, Stream
from twin.scenario import Scenario


def fingerprint_figures(repeat: int, scenario: Scenario) -> dict[str, float]:
    """Medians of `repeat` measurements.

    `fingerprint_100k_ms`: the fingerprint of 100,000 ticks of the scenario's heartbeat with all loops, under a load
    that changes every 100 ms. Interpreted, a tenth of them, and ten times what that takes.
    """
    share = 1 if MODE == "numba" else 10
    captured = _ticks(scenario, 100_000 // share)
    run_fingerprint(captured, scenario.heartbeat.words, {})
    return {"fingerprint_100k_ms": share * median(_milliseconds(captured, scenario) for _ in range(repeat))}


def _milliseconds(captured: Integers, scenario: Scenario) -> float:
    began = time.perf_counter_ns()
    run_fingerprint(captured, scenario.heartbeat.words, {})
    return (time.perf_counter_ns() - began) / 1e6


def _ticks(scenario: Scenario, count: int) -> Integers:
    """The first `count` ticks of the heartbeat."""
    settings = replace(scenario.heartbeat, config="1_1_1_1_1_1", select_mode=False)
    env = VirtualEnvironment(ModelledLateness(settings.lateness_quantiles_ns, 1))
    heart, stream, pieces = Heartbeat(settings, 1), Stream(1, "benchmark.fingerprint"), list[Integers]()
    until = 0
    while heart.tick_number < count:
        heart.feed(stream.between(100_000, 200_000), None)
        until += 100_000_000
        heart.run(env, until, heart.clear)
        pieces.append(heart.captured.copy())
        heart.clear()
    return np.concatenate(pieces, axis=1)[:, :count]
