"""The policy: what it learns where the answer is known, whom it credits, what it refuses, and its bits."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twin.kernels import Stream
from twin.learn import replay
from twin.learn.network import outputs_at
from twin.learn.policy import Policy
from twin.learn.replay import (
    CHOICES,
    EXPLORE_DRAWS,
    EXPLORED,
    PART,
    PENDING,
    POSITION,
    REFUSED,
    REPLAY_DRAWS,
    ROLLBACKS,
    STORED,
    UPDATES,
    WATCHED,
)
from twin.scenario import ACTIONS
from twin.scenario import Learn as AnyLearn

# A batch in every cycle, but for the tests of what is spread.
Learn = functools.partial(AnyLearn, train_every_cycles=1)
NOOP, THROTTLE, BOOST, REDUCE, CONSERVATIVE = range(5)
SMALL = Learn(batch=4, buffer=16, target_cycles=5, epsilon_start=0.5, epsilon_end=0.5)
COLD, HOT = (np.array([t, 1 - t, 0.5, 0.0, 0.3, 0.2, -1.0, 0.1]) for t in (0.1, 0.9))


def drawn_state(stream: Stream) -> np.ndarray:
    return np.array([stream.between(-500, 1_500) / 1e3 for _ in range(8)])


def drive(policy: Policy, count: int, seed: int = 3) -> list[int]:
    """Feed `count` experiences whose executed action does not depend on the chosen one."""
    stream = Stream(seed, "drive")
    chosen = []
    state = drawn_state(stream)
    for _ in range(count):
        chosen.append(policy.choose(state))
        state = drawn_state(stream)
        policy.learn(stream.below(5), stream.between(-1_000_000, 1_000_000), state, stream.below(10) == 0)
    return chosen


def everything(policy: Policy) -> bytes:
    return b"".join(array.tobytes() for array in policy.arrays().values())


# --- what it learns ---------------------------------------------------------------------------------------------------


def machine(hot: bool, action: int) -> tuple[int, bool]:
    """Boost earns most and heats; throttle and conservative cool; everything costs when hot, boost most."""
    worth = {NOOP: 0, THROTTLE: -100_000, BOOST: 500_000, REDUCE: 100_000, CONSERVATIVE: -50_000}[action]
    if hot:
        worth -= 900_000 if action == BOOST else 300_000
    heated = action == BOOST or (hot and action not in (THROTTLE, CONSERVATIVE))
    return worth, heated


def solved(discount: float) -> np.ndarray:
    """Q-values of the two-state machine by value iteration, rows cold and hot."""
    q = np.zeros((2, 5))
    for _ in range(2_000):
        q = np.array(
            [
                [machine(hot, a)[0] / 1e6 + discount * q[int(machine(hot, a)[1])].max() for a in range(5)]
                for hot in (False, True)
            ]
        )
    return q


def learned(settings: Learn, choices: int) -> Policy:
    policy = Policy(settings, 1)
    hot = False
    for _ in range(choices):
        action = policy.choose(HOT if hot else COLD)
        worth, hot = machine(hot, action)
        policy.learn(action, worth, HOT if hot else COLD, False)
    return policy


def test_it_learns_the_q_values_of_a_machine_whose_answer_is_known() -> None:
    settings = Learn(
        discount=0.8, epsilon_start=1.0, epsilon_end=0.3, epsilon_cycles=5_000, rate_start=0.003, rate_end=0.0001,
        rate_cycles=10_000,
    )  # fmt: skip
    policy = learned(settings, 12_000)
    expected = solved(0.8)
    for state, row in ((COLD, expected[0]), (HOT, expected[1])):
        assert policy.q_values(state) == pytest.approx(row, abs=0.02)
        assert policy.greedy(state) == row.argmax()
    assert expected[0].argmax() != expected[1].argmax()
    assert policy.counters[[ROLLBACKS, REFUSED, WATCHED]].tolist() == [0, 0, 0]


def test_where_a_life_ends_only_the_reward_counts() -> None:
    policy = Policy(Learn(discount=0.9, rate_start=0.003), 1)
    for _ in range(3_000):
        policy.choose(COLD)
        policy.learn(NOOP, 500_000, HOT, True)
        policy.choose(HOT)
        policy.learn(NOOP, 1_000_000, HOT, True)
    assert policy.q_values(COLD)[NOOP] == pytest.approx(0.5, abs=0.02)
    assert policy.q_values(HOT)[NOOP] == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize(("reward", "over"), [(0, True), (900_000, True), (-1_000_000, False)])
def test_its_loss_is_that_of_the_newest_experience(reward: int, over: bool) -> None:
    policy = Policy(replace(SMALL, batch=16), 1)
    assert policy.loss() is None
    drive(policy, 20)
    policy.choose(COLD)
    policy.learn(BOOST, reward, HOT, over)
    before = everything(policy)
    coming = 0.0
    if not over:
        # The target copy says what the best action is worth; this policy's copy is its first weights.
        copy = Policy(replace(SMALL, batch=16), 1)
        copy.online[:] = policy.target
        coming = SMALL.discount * copy.q_values(HOT)[policy.greedy(HOT)]
    apart = abs(policy.q_values(COLD)[BOOST] - (reward / 1e6 + coming))
    assert policy.loss() == pytest.approx(0.5 * apart**2 if apart <= 1 else apart - 0.5)
    assert everything(policy) == before


def error_learned(policy: Policy, action: int) -> float:
    """The slope of the loss along Q of `action` in the last batch: the gradient of that output's bias."""
    parameters = int(policy.shape[1])
    return float(policy.online[2 * parameters - 5 + action])


@pytest.mark.parametrize("actions", [ACTIONS, ("noop", "throttle"), ("boost",)])
def test_the_online_network_says_which_action_and_the_copy_what_it_is_worth(actions) -> None:
    policy = Policy(Learn(batch=1, buffer=1, discount=0.9, actions=actions, target_cycles=10**9), 1)
    other = Policy(Learn(), 99)
    policy.target[:] = other.online
    # Weights that decide otherwise than the copy, for every set of actions with a choice.
    allowed = sorted(ACTIONS.index(name) for name in actions)
    before, after = policy.q_values(COLD), policy.q_values(HOT)
    worth = other.q_values(HOT)
    then = max(allowed, key=lambda a: after[a])
    policy.choose(COLD)
    policy.learn(REDUCE, 250_000, HOT, False)
    wanted = 0.25 + 0.9 * worth[then]
    assert error_learned(policy, REDUCE) == pytest.approx(min(1.0, max(-1.0, before[REDUCE] - wanted)), abs=1e-15)
    assert [error_learned(policy, a) for a in range(5) if a != REDUCE] == [0.0] * 4
    if len(allowed) == 5:
        assert then != int(worth.argmax()), "the two have to disagree for this to be a test"


def test_the_copy_is_renewed_when_it_is_due_and_only_then() -> None:
    policy = Policy(Learn(batch=1, target_cycles=5), 1)
    count = int(policy.shape[1])
    stream = Stream(1, "states")
    for n in range(1, 21):
        was, online = policy.target[:count].copy(), policy.weights().copy()
        policy.choose(drawn_state(stream))
        policy.learn(NOOP, 1_000_000, drawn_state(stream), False)
        assert np.array_equal(policy.target[:count], online if n % 5 == 0 else was)
        assert not np.array_equal(policy.weights(), online)


def test_errors_beyond_one_are_cut_and_targets_stay_possible() -> None:
    policy = Policy(Learn(batch=1, buffer=1, discount=0.5, target_cycles=10**9), 1)
    last = int(policy.shape[1]) - 5
    # With a discount of 0.5 no state is worth more than 2, whatever the copy says.
    policy.target[last : last + 5] = 1e5
    policy.online[last : last + 5] = 1.5
    before = float(policy.q_values(COLD)[BOOST])
    assert 1.0 < before < 2.0
    policy.choose(COLD)
    policy.learn(BOOST, -1_000_000, HOT, False)
    assert error_learned(policy, BOOST) == before - 2.0
    assert policy.counters[WATCHED] == 0
    policy.online[last : last + 5] = 4.5
    policy.choose(COLD)
    policy.learn(BOOST, 0, HOT, True)
    assert error_learned(policy, BOOST) == 1.0
    assert policy.counters[WATCHED] == 1


@pytest.mark.parametrize("every", [1, 2, 4, 5, 7])
def test_parts_of_a_batch_make_the_step_of_the_whole(every) -> None:
    policy = Policy(AnyLearn(batch=5, buffer=1, train_every_cycles=every, rate_end=0.001), 1)
    whole = Policy(Learn(batch=5, buffer=1, rate_end=0.001), 1)
    count = int(policy.shape[1])
    for each in (policy, whole):
        each.choose(COLD)
        each.learn(BOOST, 300_000, HOT, False)
    for n in range(1, every):
        assert policy.counters[[PART, UPDATES]].tolist() == [n, 0]
        assert np.array_equal(policy.weights(), Policy(Learn(), 1).weights())
        policy.choose(COLD)
        policy.learn(BOOST, 300_000, HOT, False)
    assert policy.counters[[PART, UPDATES, REPLAY_DRAWS]].tolist() == [0, 1, 5]
    assert policy.online[: 5 * count].tobytes() == whole.online[: 5 * count].tobytes()


@pytest.mark.parametrize("where", ["weights", "target"])
def test_damage_in_the_middle_of_a_batch_ends_it(where) -> None:
    policy = Policy(AnyLearn(batch=8, buffer=16), 1)
    drive(policy, 9)
    assert policy.counters[PART] == 2
    count = int(policy.shape[1])
    good = policy.weights().copy()
    (policy.online if where == "weights" else policy.target)[count - 5 : count] = np.nan
    policy.choose(COLD)
    policy.learn(BOOST, 0, HOT, False)
    assert policy.counters[ROLLBACKS] == 1
    assert policy.counters[PART] == (1 if where == "weights" else 0)
    assert np.array_equal(policy.weights(), good)
    drive(policy, 8)
    assert policy.counters[ROLLBACKS] == 1
    assert not np.array_equal(policy.weights(), good)


# --- exploration ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "end", "over"), [(1.0, 0.0, 300), (0.1, 0.1, 10_000), (0.0, 0.7, 999), (0.0, 0.0, 5)]
)
def test_exploration_is_exactly_what_its_stream_and_schedule_say(start, end, over) -> None:
    policy = Policy(Learn(epsilon_start=start, epsilon_end=end, epsilon_cycles=over), 5)
    stream = Stream(5, "learn.explore")
    explored = 0
    for n in range(1_000):
        whether, which = stream.next32(), stream.next32()
        epsilon = end if n >= over else start + (end - start) * (n / over)
        expected = policy.greedy(COLD)
        if whether < epsilon * 2**32:
            explored += 1
            expected = (which * 5) >> 32
        assert policy.choose(COLD) == expected
        assert policy.counters[EXPLORED] == explored
    assert policy.counters[[CHOICES, EXPLORE_DRAWS]].tolist() == [1_000, 2_000]


@given(st.sets(st.sampled_from(ACTIONS), min_size=1), st.integers(0, 50), st.sampled_from([0.0, 0.5, 1.0]))
def test_only_allowed_actions_are_chosen(actions, seed, epsilon) -> None:
    policy = Policy(Learn(actions=tuple(actions), epsilon_start=epsilon, epsilon_end=epsilon, batch=1), seed)
    allowed = {ACTIONS.index(name) for name in actions}
    chosen = set(drive(policy, 60))
    assert chosen <= allowed
    if epsilon == 1.0:
        assert chosen == allowed
    assert policy.greedy(COLD) in allowed


def test_the_rate_falls_on_a_straight_line() -> None:
    assert [replay.scheduled(0.4, 0.2, 4.0, n) for n in range(6)] == pytest.approx([0.4, 0.35, 0.3, 0.25, 0.2, 0.2])
    assert replay.scheduled(0.0, 1.0, 1.0, 1) == 1.0
    # The first step of Adam is as long as the rate, so what a schedule begins with can be seen.
    steps = []
    for rate in (0.004, 0.001):
        policy = Policy(Learn(batch=1, rate_start=rate, rate_end=rate), 1)
        before = policy.weights().copy()
        policy.choose(COLD)
        policy.learn(NOOP, 1_000_000, HOT, True)
        steps.append(float(np.abs(policy.weights() - before).max()))
    assert steps == pytest.approx([0.004, 0.001], rel=1e-3)


# --- who is credited, and what is refused -----------------------------------------------------------------------------


@given(st.integers(0, 4), st.integers(-1_000_000, 1_000_000), st.booleans())
def test_the_executed_action_is_credited_not_the_chosen_one(executed, reward, over) -> None:
    policy = Policy(Learn(epsilon_start=1.0, epsilon_end=1.0), 1)
    policy.choose(COLD)
    policy.learn(executed, reward, HOT, over)
    assert policy.rows[0].tolist() == [*COLD, *HOT, executed, reward / 1e6, 0.0 if over else 1.0]
    assert policy.counters[[STORED, POSITION, PENDING]].tolist() == [1, 1, 0]


def test_the_buffer_keeps_the_newest() -> None:
    policy = Policy(SMALL, 1)
    for n in range(20):
        policy.choose(COLD)
        policy.learn(NOOP, n, HOT, False)
    assert sorted((policy.rows[:, 17] * 1e6).round().tolist()) == list(range(4, 20))
    assert policy.counters[[STORED, POSITION, UPDATES]].tolist() == [16, 4, 17]
    assert policy.counters[REPLAY_DRAWS] == 17 * SMALL.batch


def test_a_batch_larger_than_the_buffer_is_learned_from_too() -> None:
    policy = Policy(Learn(batch=32, buffer=3), 1)
    drive(policy, 4)
    assert policy.counters[UPDATES] == 2


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e300, 101.0])
@pytest.mark.parametrize("place", [0, 7])
def test_what_is_no_state_is_refused_and_answered_with_noop(bad, place) -> None:
    policy = Policy(SMALL, 1)
    drive(policy, 10)
    no_state = COLD.copy()
    no_state[place] = bad
    weights, stored = policy.weights().tobytes(), policy.counters[STORED]
    assert policy.choose(no_state) == NOOP
    policy.learn(BOOST, 1, HOT, False)
    policy.choose(COLD)
    policy.learn(BOOST, 1, no_state, False)
    policy.learn(BOOST, 1, HOT, False)
    assert policy.counters[REFUSED] == 2
    assert policy.weights().tobytes() == weights
    assert policy.counters[STORED] == stored
    assert policy.greedy(no_state) == NOOP
    assert np.isnan(policy.q_values(no_state)).all()


@pytest.mark.parametrize(
    ("executed", "reward"),
    [(5, 0), (-1, 0), (0, 1_000_001), (0, -(10**30)), (0, float("nan")), (0, 0.5), (float("nan"), 0), (None, 0),
     (0, None), (0, True)],
)  # fmt: skip
def test_what_is_no_action_and_no_reward_is_refused(executed, reward) -> None:
    policy = Policy(SMALL, 1)
    policy.choose(COLD)
    policy.learn(executed, reward, HOT, False)
    policy.learn(0, 0, HOT, False)
    assert policy.counters[[REFUSED, STORED]].tolist() == [1, 0]


any_state = st.lists(
    st.one_of(st.floats(), st.floats(-1, 1.5), st.sampled_from([100.0, -100.0, 1e308])), min_size=8, max_size=8
).map(np.array)
any_step = st.tuples(any_state, st.integers(-1, 5), st.one_of(st.integers(), st.floats()), any_state, st.booleans())


@given(st.lists(any_step, max_size=25), st.booleans())
def test_whatever_comes_the_weights_and_answers_stay_numbers(steps, fast) -> None:
    rate = 1.0 if fast else 0.001
    policy = Policy(Learn(batch=2, buffer=8, target_cycles=2, rate_start=rate, rate_end=rate, discount=0.999), 1)
    for state, executed, reward, after, over in [*steps, (COLD, 0, 0, HOT, False)]:
        assert 0 <= policy.choose(state) <= 4
        policy.learn(executed, reward, after, over)
        for array in policy.arrays().values():
            assert np.isfinite(array).all()
        assert np.isfinite(policy.q_values(COLD)).all()


# --- damage -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "bad"),
    [("weights", np.nan), ("weights", np.inf), ("weights", 1e200), ("moments", np.nan), ("moments", np.inf),
     ("moments", 1e200), ("target", np.nan)],
)  # fmt: skip
def test_damage_is_rolled_back_to_the_last_good_weights(where, bad) -> None:
    policy = Policy(SMALL, 1)
    drive(policy, 10)
    count = int(policy.shape[1])
    good = policy.weights().copy()
    place = {
        "weights": policy.online[count - 5 : count],
        "moments": policy.online[2 * count : 3 * count],
        "target": policy.target[count - 5 : count],
    }[where]
    policy.choose(COLD)
    place[:] = bad
    policy.learn(BOOST, 0, HOT, False)
    assert policy.counters[ROLLBACKS] == 1
    assert np.array_equal(policy.weights(), good)
    drive(policy, 5)
    assert policy.counters[ROLLBACKS] == 1
    assert not np.array_equal(policy.weights(), good)
    assert np.abs(policy.weights() - good).max() < 0.1


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e200])
def test_damaged_weights_do_not_choose(bad) -> None:
    policy = Policy(SMALL, 1)
    drive(policy, 10)
    policy.freeze()
    good, values = policy.weights().copy(), policy.q_values(COLD)
    # A hidden weight, whose damage the softsign would hide.
    policy.online[40] = bad
    assert np.array_equal(policy.q_values(COLD), values)
    assert policy.choose(COLD) == values.argmax()
    assert np.array_equal(policy.weights(), good)
    assert policy.counters[ROLLBACKS] == 1


def test_where_the_good_copy_is_damaged_too_the_answer_is_noop() -> None:
    policy = Policy(SMALL, 1)
    count = int(policy.shape[1])
    policy.online[:count] = np.nan
    policy.online[4 * count : 5 * count] = np.nan
    assert policy.choose(COLD) == NOOP
    assert policy.greedy(COLD) == NOOP
    assert policy.counters[PENDING] == 0
    assert policy.counters[ROLLBACKS] == 2


# --- the same bits ----------------------------------------------------------------------------------------------------

PROGRAM = """
import sys, hashlib
sys.path.insert(0, sys.argv[1])
from test_learn_policy import SMALL, Policy, drive, everything
policy = Policy(SMALL, 7)
print(drive(policy, 40), hashlib.blake2b(everything(policy)).hexdigest())
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
    assert len(set(said[0].partition("]")[0])) > 4


def test_the_seed_decides_everything() -> None:
    one, same, other = Policy(SMALL, 1), Policy(SMALL, 1), Policy(SMALL, 2)
    assert drive(one, 50) == drive(same, 50)
    assert everything(one) == everything(same)
    drive(other, 50)
    assert everything(one) != everything(other)


@given(st.integers(0, 40), st.sampled_from([1, 3, 4]))
def test_a_restored_policy_goes_on_bit_for_bit(count, every) -> None:
    settings = AnyLearn(batch=4, buffer=16, train_every_cycles=every, target_cycles=5)
    one, two = Policy(settings, 1), Policy(settings, 1)
    drive(one, count)
    one.choose(COLD)
    two.restore({name: array.copy() for name, array in one.arrays().items()})
    one.learn(BOOST, 5, HOT, False)
    two.learn(BOOST, 5, HOT, False)
    assert drive(one, 20, 8) == drive(two, 20, 8)
    assert everything(one) == everything(two)


def test_what_is_replayed_does_not_depend_on_what_is_explored() -> None:
    timid = Policy(Learn(batch=4, epsilon_start=0.0, epsilon_end=0.0), 1)
    bold = Policy(Learn(batch=4, epsilon_start=1.0, epsilon_end=1.0), 1)
    # `drive` executes the same whatever is chosen.
    assert drive(timid, 60) != drive(bold, 60)
    assert timid.weights().tobytes() == bold.weights().tobytes()


def test_frozen_it_neither_learns_nor_explores_nor_draws() -> None:
    policy = Policy(Learn(batch=4, epsilon_start=1.0, epsilon_end=1.0), 1)
    drive(policy, 30)
    policy.freeze()
    online, counters = policy.weights().tobytes(), policy.counters.copy()
    assert {policy.choose(COLD) for _ in range(50)} == {policy.greedy(COLD)}
    drive(policy, 20)
    assert policy.weights().tobytes() == online
    assert np.array_equal(policy.counters, counters)
    policy.freeze(False)
    drive(policy, 1)
    assert policy.counters[CHOICES] == counters[CHOICES] + 1
    assert policy.weights().tobytes() != online


def test_questions_change_nothing() -> None:
    policy = Policy(SMALL, 1)
    drive(policy, 10)
    before = everything(policy)
    outputs = int(outputs_at(policy.shape))
    values = policy.q_values(HOT)
    assert policy.greedy(HOT) == values.argmax()
    assert everything(policy) == before
    policy.freeze()
    policy.choose(HOT)
    assert policy.online[outputs : outputs + 5].tolist() == values.tolist()


def test_the_network_has_901_weights() -> None:
    assert Policy(SMALL, 1).weights().shape == (901,)


def test_what_does_not_fit_is_not_restored() -> None:
    policy = Policy(SMALL, 1)
    before = everything(policy)
    good = {name: array.copy() for name, array in Policy(SMALL, 2).arrays().items()}

    def broken(name: str, place: object, value: float) -> dict[str, np.ndarray]:
        array = good[name].copy()
        array[place] = value
        return {**good, name: array}

    for arrays, words in (
        ({name: array for name, array in good.items() if name != "rows"}, "has no rows"),
        (Policy(Learn(buffer=17), 1).arrays(), "learn.buffer"),
        (broken("online", 5, np.nan), "no numbers"),
        (broken("counters", POSITION, 16), "counters"),
        (broken("counters", STORED, -1), "counters"),
        (broken("counters", PART, 1), "counters"),
        (broken("shape", 0, 2), "network"),
        (broken("rows", (3, 16), 7), "actions"),
        ({**good, "state": good["state"].astype(np.float32)}, "float32"),
    ):
        with pytest.raises(ValueError, match=words):
            policy.restore(arrays)
        assert everything(policy) == before
