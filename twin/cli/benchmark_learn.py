"""The learner's speed figures."""

from __future__ import annotations

import time
from statistics import median

import numpy as np

from twin.kernels import MODE, Stream
from twin.learn.policy import Policy
from twin.scenario import ACTIONS, Learn


def learn_figures(repeat: int) -> dict[str, float]:
    """Medians of `repeat` measurements.

    `policy_batch_us`: learning from one batch of 32, that is 64 forward passes of the network and 32 of its target
    copy, 32 backward passes and a step of Adam, with the call of the kernel.
    """
    policy = Policy(Learn(), 1)
    stream = Stream(1, "benchmark.learn")
    state = np.zeros(len(policy.state), dtype=np.float64)
    for _ in range(40):
        policy.choose(state)
        for i in range(len(state)):
            state[i] = stream.between(-500, 1_500) / 1e3
        policy.learn(stream.below(len(ACTIONS)), stream.between(-1_000_000, 1_000_000), state, False)
    return {"policy_batch_us": median(_batch_us(policy) for _ in range(repeat))}


def _batch_us(policy: Policy) -> float:
    count = 1_000 if MODE == "numba" else 3
    began = time.perf_counter_ns()
    for _ in range(count):
        policy.train()
    return (time.perf_counter_ns() - began) / count / 1e3
