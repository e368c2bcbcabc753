"""Eight bits: what a byte can and cannot say, what it costs on trained networks, and its bits."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twin.kernels import Floats, Integers, Stream, kernel
from twin.learn.network import (
    backward,
    clear_gradient,
    descend,
    errors_at,
    forward,
    inputs_at,
    new_network,
    new_shape,
    outputs_at,
    weights_of,
)
from twin.learn.policy import Policy
from twin.learn.quantised import Quantised
from twin.scenario import Learn


def drawn(stream: Stream, rows: int, low: int = 0, high: int = 1_000, width: int = 8) -> np.ndarray:
    return np.array([[stream.between(low, high) / 1e3 for _ in range(width)] for _ in range(rows)])


# --- a policy ---------------------------------------------------------------------------------------------------------


def worth(state: np.ndarray, action: int) -> int:
    """Which action is best changes smoothly with temperature, load and power, so that ties are many."""
    hot, load, power = state[0], state[2], state[4]
    return round(
        1e6
        * (0.2, 0.8 * hot - 0.3, 0.7 * load - 0.6 * hot + 0.1, 0.9 * power - 0.35, 1.2 * hot * hot - 0.55)[action]
    )  # fmt: skip


@pytest.fixture(scope="module")
def policy() -> Policy:
    settings = Learn(
        discount=0.9,
        epsilon_start=1.0,
        epsilon_end=0.3,
        rate_start=0.003,
        rate_end=0.0003,
        rate_cycles=20_000,
        train_every_cycles=1,
    )
    policy = Policy(settings, 1)
    stream = Stream(5, "toy")
    state = drawn(stream, 1)[0]
    for _ in range(20_000):
        action = policy.choose(state)
        after = drawn(stream, 1)[0]
        policy.learn(action, worth(state, action), after, False)
        state = after
    return policy


def test_a_trained_policy_does_the_same_in_99_of_100_states(policy) -> None:
    stream = Stream(6, "toy")
    small = Quantised.of(policy.shape, policy.online, drawn(stream, 500))
    states = drawn(stream, 5_000)
    report = small.report(states)
    assert report.states == 5_000
    assert report.same_action_share >= 0.99
    assert report.error_mean < 0.005
    assert report.error_max < 0.03
    best = np.array([policy.greedy(state) for state in states[:500]])
    assert min(np.bincount(best, minlength=5)) >= 5, "a policy that always does the same would prove nothing"
    same = sum(int(small.forward(state).argmax()) == action for state, action in zip(states, best, strict=False))
    assert same >= 0.98 * 500


def test_the_report_counts_what_differs(policy) -> None:
    states = drawn(Stream(7, "toy"), 200)
    # Calibrated with a state that saw next to nothing, it is wrong, and says so.
    blind = Quantised.of(policy.shape, policy.online, np.full((1, 8), 0.001)).report(states)
    assert blind.same_action_share < 0.9
    assert blind.error_max > blind.error_mean > 0.05


# --- a forecast -------------------------------------------------------------------------------------------------------


@kernel
def teach(shape: Integers, net: Floats, examples: Floats, answers: Floats, steps: int, rate: float) -> None:
    """Mean squares of 32 examples after one another."""
    first, outputs, errors = inputs_at(shape), outputs_at(shape), errors_at(shape)
    for step in range(steps):
        clear_gradient(shape, net)
        for n in range(32):
            row = (step * 32 + n) % len(examples)
            for i in range(examples.shape[1]):
                net[first + i] = examples[row, i]
            forward(shape, net)
            for j in range(answers.shape[1]):
                net[errors + j] = (net[outputs + j] - answers[row, j]) / 32
            backward(shape, net)
        descend(shape, net, rate * (1.0 - step / steps), 1.0)


def test_a_forecast_of_temperatures_stays_within_a_tenth_of_a_degree() -> None:
    """Five temperatures ahead of a body that warms, in a minute, to what load and room say: outputs are 4 K wide."""
    stream = Stream(1, "forecast")
    room, load, temp = (
        drawn(stream, 2_000, low, high, 1)[:, 0] for low, high in ((15_000, 30_000), (0, 1_000), (20_000, 90_000))
    )
    ahead = np.array([0.017, 0.033, 0.049, 0.064, 0.08])
    rises = (room + 60.0 * load - temp)[:, None] * ahead
    examples = np.stack([(temp - 50) / 50, load, (room - 20) / 50], axis=1)
    shape = new_shape(3, 24, 12, 5)
    net = new_network(shape, stream)
    teach(shape, net, examples, rises / 4, 6_000, 0.003)
    small = Quantised.of(shape, net, examples[:500])
    wrong = max(float(np.abs(small.forward(x) * 4 - rise).max()) for x, rise in zip(examples, rises, strict=True))
    assert wrong < 0.3, "what was not learned proves nothing"
    assert small.report(examples[500:]).error_max * 4 < 0.1


# --- what bytes can say -----------------------------------------------------------------------------------------------


@given(st.integers(0, 100), st.lists(st.integers(1, 9), min_size=2, max_size=5))
def test_any_network_can_be_had_in_bytes(seed, widths) -> None:
    stream = Stream(seed, "any")
    shape = new_shape(*widths)
    net = new_network(shape, stream)
    before = net.copy()
    states = drawn(stream, 50, -1_000, 1_500, widths[0])
    small = Quantised.of(shape, net, states)
    assert np.array_equal(net, before)
    # Far from tight, but a wrong sign, scale or place is worse than that.
    assert small.report(states).error_max < 0.02 * len(widths) * max(widths)
    assert small.weights.dtype == np.int8
    assert np.abs(small.weights.astype(np.int64)).max() == 127


def test_a_single_layer_is_what_can_be_computed_by_hand() -> None:
    shape = new_shape(2, 1)
    net = new_network(shape, Stream(1, "hand"))
    weights_of(shape, net)[:] = [1.27, -0.64, 0.5]
    # Inputs 0..6.5535: a step of 0.0001, and 0 is -32,768. Weights: a scale of 0.01.
    small = Quantised.of(shape, net, np.array([[0.0, 6.5535], [6.5535, 0.0]]))
    assert small.steps[0] == pytest.approx(0.0001)
    assert small.zeros.tolist() == [-32_768]
    assert small.weights.tolist() == [127, -64]
    assert small.offsets.tolist() == [32_768 * (127 - 64)]
    assert small.forward(np.array([1.00004, 0.49996])) == pytest.approx(0.5 + 1.27 * 1.00 - 0.64 * 0.50)
    # Beyond what was seen it saturates.
    assert small.forward(np.array([99.0, -99.0])) == pytest.approx(0.5 + 1.27 * 6.5535)


def test_activations_have_sixteen_bits(policy) -> None:
    states = drawn(Stream(9, "bits"), 50)
    small = Quantised.of(policy.shape, policy.online, states)
    units = []
    for state in states:
        small.forward(state)
        units.append(small._units.copy())
    inputs, hidden = np.array(units)[:, :8], np.array(units)[:, 8:56]
    assert (inputs.min(), inputs.max()) == (-32_768, 32_767)
    assert (hidden.min(), hidden.max()) == (-32_768, 32_767)


def test_rounding_does_not_shift_the_mean() -> None:
    shape = new_shape(2, 1)
    net = new_network(shape, Stream(1, "hand"))
    # The second weight is a third of a scale: rounded away, and what it made on average is in the bias.
    weights_of(shape, net)[:] = [1.27, 0.0033, 0.0]
    states = np.array([[0.0, 1.0], [2.55, 2.0]])
    small = Quantised.of(shape, net, states)
    assert small.weights.tolist() == [127, 0]
    assert small.biases[0] == pytest.approx(0.0033 * 1.5, abs=1e-9)


@given(st.lists(st.floats(), min_size=8, max_size=8))
def test_outputs_are_finite_whatever_comes(values) -> None:
    policy = Policy(Learn(), 1)
    small = Quantised.of(policy.shape, policy.online, drawn(Stream(1, "any"), 5))
    assert np.isfinite(small.forward(np.array(values))).all()


def test_what_is_missing_is_seen_where_it_was_calibrated(policy) -> None:
    states = drawn(Stream(8, "toy"), 300)
    states[::3, 3] = -1.0
    small = Quantised.of(policy.shape, policy.online, states)
    known, missing = states[1].copy(), states[1].copy()
    missing[3] = -1.0
    exact = policy.q_values(missing) - policy.q_values(known)
    assert small.forward(missing).copy() - small.forward(known) == pytest.approx(exact, abs=0.05)


def test_a_network_that_says_nothing_has_no_range() -> None:
    shape = new_shape(3, 4, 2)
    net = new_network(shape, Stream(1, "nothing"))
    weights_of(shape, net)[:] = 0.0
    small = Quantised.of(shape, net, np.zeros((2, 3)))
    assert small.forward(np.ones(3)).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("states", [np.zeros((0, 8)), np.zeros((3, 7)), np.zeros(8), np.full((1, 8), np.nan)])
def test_what_cannot_calibrate_is_named(states) -> None:
    policy = Policy(Learn(), 1)
    with pytest.raises(ValueError, match="states for calibration"):
        Quantised.of(policy.shape, policy.online, states)


PROGRAM = """
import sys, hashlib
sys.path.insert(0, sys.argv[1])
import numpy as np
from test_learn_quantised import Learn, Policy, Quantised, Stream, drawn
policy = Policy(Learn(), 7)
stream = Stream(1, "bits")
small = Quantised.of(policy.shape, policy.online, drawn(stream, 30, -1_000, 1_500))
bits = hashlib.blake2b()
for array in (small.weights, small.biases, small.factors, small.steps, small.zeros, small.offsets):
    bits.update(array.tobytes())
for state in drawn(stream, 30, -2_000, 2_000):
    bits.update(small.forward(state).tobytes())
print(bits.hexdigest(), small.report(drawn(stream, 30)))
"""


def test_interpreted_and_compiled_are_the_same_bits() -> None:
    said = [
        subprocess.run(
            [sys.executable, "-c", PROGRAM, str(Path(__file__).parent)],
            env={**os.environ, "TWIN_KERNELS": mode},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for mode in ("python", "numba")
    ]
    assert said[0] == said[1]
    assert "Report(states=30" in said[0]
