"""Compile kernels from nothing and look at the machine code. A program of its own: see test_kernels.py.

Every kernel is compiled, or with `few` those that sum products and divide most.
"""

from __future__ import annotations

import re
import sys
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

FUSED = re.compile(r"\b(?:vfn?m(?:add|sub)\w*|fn?m(?:add|sub|la|ls)\w*)\b")


def few() -> None:
    """Polynomials, the matrix exponential of a thermal network, and a forecast."""
    import numpy as np

    from twin.kernels import Stream, exp, log, power, tanh
    from twin.learn.forecast import Predictor
    from twin.world import thermal

    for used in (exp(1.0), log(2.0), tanh(0.5), power(2.0, 0.5)):
        assert used
    matrices = [np.zeros((2, 2)) for _ in range(3)]
    thermal.propagate(np.array([[-1.0, 0.5], [0.5, -1.0]]), 0.1, *matrices)
    Predictor(1, 1, Stream(1, "compile")).conditional(np.zeros((1, 5)))


def every() -> None:
    """What a run, the learner, fingerprints and the golden choice need."""
    import numpy as np
    from golden_samples import Distribution
    from running import run, shipped_scenario
    from strategies import LIMITS, SCENARIO, view

    from twin.control.foresight import Foresight
    from twin.fingerprint.golden import golden
    from twin.fingerprint.run import warm_up
    from twin.kernels import Stream, exp, log, power, tanh
    from twin.learn.forecast import Predictor
    from twin.learn.policy import Policy
    from twin.learn.quantised import Quantised
    from twin.scenario import Learn

    warm_up()
    policy, state = Policy(Learn(batch=1), 1), np.zeros((1, 8))
    policy.learn(policy.choose(state[0]), 0, state[0], False)
    assert Quantised.of(policy.shape, policy.online, state).report(state).states == 1
    assert not Foresight(SCENARIO, LIMITS).keeps_limits(view((99_000,) * 3, nodes_millicelsius=(99_000,) * 6), {})
    faults = replace(shipped_scenario("sensor_faults"), duration_ms=500)
    # With the forecast of either kind, the detector and the look ahead.
    for predictor in ("loads", "temperatures"):
        run(replace(faults, learn=replace(faults.learn, enabled=True, authority_percent=100, predictor=predictor)))
    Predictor(1, 1, Stream(1, "compile")).conditional(np.zeros((1, 5)))
    assert golden({"a": Distribution().draw(np.random.default_rng(1), 3)}, resamples=100)["golden"] == "a"
    for used in (exp(1.0), log(2.0), tanh(0.5), power(2.0, 0.5)):
        assert used


def main() -> None:
    began = time.perf_counter()
    (few if sys.argv[1:] == ["few"] else every)()
    took = time.perf_counter() - began
    found = {
        id(thing): thing
        for name, module in list(sys.modules.items())
        if name.startswith("twin.")
        for thing in vars(module).values()
        if hasattr(thing, "inspect_asm")
    }
    compiled = 0
    for function in found.values():
        for signature in function.signatures:
            compiled += 1
            code = function.inspect_asm(signature)
            assert "ret" in code
            assert not FUSED.search(code), f"{function.__name__}: {FUSED.findall(code)[:3]}"
    print(f"{compiled} kernels compiled from nothing in {took:.1f} s, none has a fused multiply-add")
    assert compiled >= (7 if sys.argv[1:] == ["few"] else 60)


if __name__ == "__main__":
    main()
