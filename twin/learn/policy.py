"""A policy that learns which action to take: double Q-learning on a network of 8 -> 32 -> 16 -> 5.

How it learns is in `twin.learn.replay`; here are the arrays, their names for checkpoints, and the two calls of a cycle:
`learn` what became of the last choice, then `choose` the next.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from twin.kernels import Floats, Stream, stream_keys
from twin.learn import replay
from twin.learn.checkpoint import Array
from twin.learn.features import FEATURES
from twin.learn.network import (
    PARAMETERS,
    WEIGHT_MAX,
    is_finite,
    new_network,
    new_shape,
    outputs_at,
    weights_of,
    within,
)
from twin.scenario import ACTIONS, Learn

WIDTHS = (len(FEATURES), 32, 16, len(ACTIONS))
_INTEGERS = (int, np.integer)


class Policy:
    """Chooses among the scenario's actions, by number: places in `twin.scenario.ACTIONS`.

    `seed` fixes the first weights, what is explored and what is replayed, in three streams of their own:
    `learn.policy`, `learn.explore`, `learn.replay`. Nothing that is handed to it makes it raise or lose its weights:
    what is refused is counted.
    """

    def __init__(self, settings: Learn, seed: int) -> None:
        self.shape = new_shape(*WIDTHS)
        self.online = new_network(self.shape, Stream(seed, "learn.policy"))
        self.target = self.online.copy()
        self.rows = np.zeros((settings.buffer, 2 * len(FEATURES) + 3), dtype=np.float64)
        self.state = np.zeros(len(FEATURES), dtype=np.float64)
        self.counters = np.zeros(replay.COUNTERS, dtype=np.int64)
        self._allowed = np.array(sorted(ACTIONS.index(name) for name in set(settings.actions)), dtype=np.int64)
        self._settings = np.array(
            [
                settings.batch,
                settings.discount,
                settings.epsilon_start,
                settings.epsilon_end,
                settings.epsilon_cycles,
                settings.rate_start,
                settings.rate_end,
                settings.rate_cycles,
                settings.target_cycles,
                settings.train_every_cycles,
            ],
            dtype=np.float64,
        )
        keys = np.array([*stream_keys(seed, "learn.explore"), *stream_keys(seed, "learn.replay")], dtype=np.int64)
        self.operands = (
            self.shape, self.online, self.target, self.rows, self.state, self._allowed, self.counters, self._settings,
            keys,
        )  # fmt: skip
        self._outputs = int(outputs_at(self.shape))
        # Questions are answered in a copy, so that they leave no trace in the activations that a checkpoint holds.
        self._asked = self.online.copy()
        self._uncounted = np.zeros_like(self.counters)

    def choose(self, state: Floats) -> int:
        """An action for `state` (8 float64), with exploration. Noop for a state that is not finite or beyond 100."""
        shape, online, _, _, pending, allowed, counters, settings, keys = self.operands
        return int(replay.choose(shape, online, pending, state, allowed, counters, settings, keys))

    def learn(self, executed_action: int, reward_micro: int, state_after: Floats, over: bool) -> None:
        """Credit what was executed after the last `choose`, whatever was chosen, and learn on.

        Of every `train_every_cycles` calls each adds its part of a batch to the gradient; the last takes the step.

        `reward_micro` is -1,000,000..1,000,000; `over` says that nothing after `state_after` counts. What is no action,
        no reward or no state is refused. Without an accepted state at the last `choose` there is nothing to credit.
        """
        if not (
            _is_integer(executed_action, 0, len(ACTIONS) - 1)
            and _is_integer(reward_micro, -replay.REWARD_MAX_MICRO, replay.REWARD_MAX_MICRO)
        ):
            self.counters[replay.REFUSED] += 1
            self.counters[replay.PENDING] = 0
            return
        replay.learn(*self.operands, state_after, int(executed_action), int(reward_micro), bool(over))

    def greedy(self, state: Floats) -> int:
        """The allowed action with the largest Q-value (the first of equal ones); noop for no state. Changes nothing."""
        return self.best_of(self.q_values(state))

    def q_values(self, state: Floats) -> Floats:
        """The Q-values of all five actions, allowed or not; not a number for what is no state. Changes nothing."""
        return self._values(self.online, state)

    def loss(self) -> float | None:
        """The error over the newest experience, as training counts it (Huber's); None before the first.

        Changes nothing.
        """
        if not self.counters[replay.STORED]:
            return None
        width = len(FEATURES)
        row = self.rows[int(self.counters[replay.POSITION]) - 1]
        then = self.best_of(self.q_values(row[width : 2 * width]))
        coming = float(self._values(self.target, row[width : 2 * width])[then])
        discount = float(self._settings[replay.DISCOUNT])
        most = 1.0 / (1.0 - discount)
        reward, goes_on = float(row[2 * width + 1]), float(row[2 * width + 2])
        wanted = min(most, max(-most, reward + discount * goes_on * coming))
        error = float(self.q_values(row[:width])[int(row[2 * width])]) - wanted
        return 0.5 * error * error if abs(error) <= 1.0 else abs(error) - 0.5

    def _values(self, network: Floats, state: Floats) -> Floats:
        if not within(state, 0, len(state), replay.STATE_MAX):
            return np.full(len(ACTIONS), np.nan)
        self._asked[:] = network
        replay.answer(self.shape, self._asked, state, self._uncounted)
        return self._asked[self._outputs : self._outputs + len(ACTIONS)].copy()

    def best_of(self, values: Floats) -> int:
        """The allowed action with the largest of these Q-values, the first of equal ones; noop if one is no number."""
        if not is_finite(values, 0, len(values)):
            return replay.NOOP
        return int(replay.best_action(values, 0, self._allowed))

    def forget(self) -> None:
        """Another run begins: the last choice has nothing to do with what comes."""
        self.counters[replay.PENDING] = 0

    def freeze(self, frozen: bool = True) -> None:
        """Neither learn nor explore from now on, for an evaluation; or do again."""
        self.counters[replay.FROZEN] = frozen

    def weights(self) -> Floats:
        """The 901 weights that choose, as a view: what a digest of the learner covers."""
        return weights_of(self.shape, self.online)

    def train(self) -> None:
        """Learn from one batch of what is stored, all at once; at least one experience must be.

        A batch under way is given up.
        """
        self.counters[replay.PART] = 0
        shape, online, target, rows, _, allowed, counters, settings, keys = self.operands
        replay.train(shape, online, target, rows, allowed, counters, settings, keys, 1)

    def arrays(self) -> dict[str, Array]:
        """The whole state, as views: a policy of the same settings and seed that takes it over goes on bit for bit."""
        return {
            "shape": self.shape,
            "online": self.online,
            "target": self.target,
            "rows": self.rows,
            "state": self.state,
            "counters": self.counters,
        }

    def restore(self, arrays: Mapping[str, Array]) -> None:
        """Take over what `arrays` gave. Raises `ValueError`, and changes nothing, where anything does not fit."""
        mine = self.arrays()
        for name, array in mine.items():
            if name not in arrays:
                raise ValueError(f"a policy's checkpoint has no {name}; it needs {', '.join(mine)}")
            given = arrays[name]
            if given.shape != array.shape or given.dtype != array.dtype:
                raise ValueError(
                    f"{name} of a policy's checkpoint is {given.dtype} {given.shape}; this policy has {array.dtype} "
                    f"{array.shape}: use the same learn.buffer, or begin without the checkpoint"
                )
            if not np.isfinite(given.astype(np.float64)).all():
                raise ValueError(f"{name} of a policy's checkpoint has values that are no numbers")
        for name in ("online", "target"):
            if not within(arrays[name].astype(np.float64), 0, int(self.shape[PARAMETERS]), WEIGHT_MAX):
                raise ValueError(f"{name} of a policy's checkpoint has weights beyond {WEIGHT_MAX:g}; train anew")
        counters = arrays["counters"]
        if not np.array_equal(arrays["shape"], self.shape) or not self._counters_fit(counters):
            raise ValueError("a policy's checkpoint has counters or a network that no policy with this buffer has")
        actions = arrays["rows"][:, 2 * len(FEATURES)]
        if not np.isin(actions, np.arange(len(ACTIONS))).all():
            raise ValueError(f"rows of a policy's checkpoint name actions other than 0 to {len(ACTIONS) - 1}")
        for name, array in mine.items():
            array[...] = arrays[name]

    def _counters_fit(self, counters: Array) -> bool:
        numbers = [int(value) for value in counters.tolist()]
        return (
            min(numbers) >= 0
            and numbers[replay.STORED] <= len(self.rows)
            and numbers[replay.POSITION] < len(self.rows)
            and numbers[replay.PART] < int(self._settings[replay.PARTS])
            and numbers[replay.STRANGE] <= 1
        )


def _is_integer(value: object, least: int, most: int) -> bool:
    """Neither a float, which may be no number, nor a bool."""
    return isinstance(value, _INTEGERS) and not isinstance(value, bool) and least <= int(value) <= most
