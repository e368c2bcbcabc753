"""The learner's speed figures."""

from __future__ import annotations

import time
from statistics import median

import numpy as np

from twin.kernels import MODE, Stream
from twin.learn.forecast import Predictor
from twin.learn.policy import Policy
from twin.scenario import ACTIONS, Learn


def learn_figures(repeat: int) -> dict[str, float]:
    """Medians of `repeat` measurements.

    `policy_batch_us`: learning from one batch of 32, that is 64 forward passes of the network and 32 of its target
    copy, 32 backward passes and a step of Adam, with the call of the kernel.
    `thermal_predict_us`: a cycle of the forecast for three sensors and two loads, learning and forecasting, in steps of
    ten cycles.
    """
    policy = Policy(Learn(), 1)
    stream = Stream(1, "benchmark.learn")
    state = np.zeros(len(policy.state), dtype=np.float64)
    for _ in range(40):
        policy.choose(state)
        for i in range(len(state)):
            state[i] = stream.between(-500, 1_500) / 1e3
        policy.learn(stream.below(len(ACTIONS)), stream.between(-1_000_000, 1_000_000), state, False)
    return {
        "policy_batch_us": median(_batch_us(policy) for _ in range(repeat)),
        "thermal_predict_us": median(_predict_us() for _ in range(repeat)),
    }


def _batch_us(policy: Policy) -> float:
    count = 1_000 if MODE == "numba" else 3
    began = time.perf_counter_ns()
    for _ in range(count):
        policy.train()
    return (time.perf_counter_ns() - began) / count / 1e3


def _predict_us() -> float:
    predictor = Predictor(3, 2, Stream(1, "benchmark.forecast"), 10)
    stream = Stream(1, "benchmark.temperatures")
    count = 2_000 if MODE == "numba" else 20
    before = 200
    temperatures = np.zeros((before + count, 3))
    loads = np.zeros((before + count, 2))
    for i in range(before + count):
        for j in range(3):
            temperatures[i, j] = stream.between(40_000, 80_000) / 1e3
        for j in range(2):
            loads[i, j] = stream.between(0, 1_000_000) / 1e6
    # It learns once there is a history of ten steps.
    for i in range(before):
        predictor.see(temperatures[i], loads[i])
    began = time.perf_counter_ns()
    for i in range(before, before + count):
        predictor.see(temperatures[i], loads[i])
    return (time.perf_counter_ns() - began) / count / 1e3
