"""What a learning policy remembers, and one step of learning from it, as kernels.

Three arrays beside the networks hold everything. `counters` (int64) are those named below. `rows` (float64) is the
replay buffer, one experience a row: the state before, the state after, the executed action, the reward (1 is a million
millionths) and the share of the future that counts (0 where the experience is the last of its kind, else 1). `settings`
(float64) and `keys` (int64) do not change.

Double Q-learning with a copy as target: van Hasselt, Guez and Silver, "Deep reinforcement learning with double
Q-learning", 2016. The error is that of Huber, "Robust estimation of a location parameter", 1964, with its bend at 1.
"""

from __future__ import annotations

from twin.kernels import Floats, Integers, draw32, kernel, kernel_nonzero
from twin.learn.network import (
    LAYERS,
    PARAMETERS,
    SIZES,
    WEIGHT_MAX,
    backward,
    clear_gradient,
    copy,
    descend,
    errors_at,
    forward,
    inputs_at,
    is_finite,
    outputs_at,
    restore,
    within,
)

(
    CHOICES,  # choices made while learning: the schedules' clock
    EXPLORED,  # of them, how many were drawn
    STORED,  # rows that are filled
    POSITION,  # the row that is written next
    EXPLORE_DRAWS,  # numbers drawn from `learn.explore`, two a choice
    REPLAY_DRAWS,  # numbers drawn from `learn.replay`, one an experience of a batch
    UPDATES,  # batches learned from, with those rolled back
    RENEWED,  # value of `CHOICES` when the target copy was made
    ROLLBACKS,  # updates and answers that were no numbers or too large: the last good weights were put back
    REFUSED,  # states, actions and rewards that were not accepted
    PENDING,  # whether `state` holds the state of a choice whose outcome is not known yet
    WATCHED,  # batches with an answer more than 1.5 times as large as any possible one
    FROZEN,  # whether it neither learns nor explores
    PART,  # how many parts of the batch under way are in its gradient; 0: none is under way
    STRANGE,  # whether an answer in the batch under way was so large that `WATCHED` will count it
) = range(15)
COUNTERS = 15

(
    BATCH, DISCOUNT, EPSILON_START, EPSILON_END, EPSILON_CHOICES, RATE_START, RATE_END, RATE_CHOICES, TARGET_CHOICES,
    PARTS,
) = range(10)  # fmt: skip
SETTINGS = 10

STATE_MAX = 100.0
"""A state beyond this is no state: features are between -1 and 1.5."""
REWARD_MAX_MICRO = 1_000_000
GRADIENT_MAX = 1.0
"""What longer gradients are cut to."""
WATCH = 1.5
NOOP = 0


@kernel
def scheduled(start: float, end: float, over: float, choices: int) -> float:
    """The value on the straight line from `start` to `end` after so many choices, then `end`."""
    if choices >= over:
        return end
    return start + (end - start) * (choices / over)


@kernel
def best_action(net: Floats, first: int, allowed: Integers) -> int:
    """The allowed action with the largest of the values at `first`; of equal ones the first in `allowed`."""
    best = allowed[0]
    for action in allowed:
        if net[first + action] > net[first + best]:
            best = action
    return int(best)


@kernel
def answer(shape: Integers, net: Floats, state: Floats, counters: Integers) -> bool:
    """Q-values of `state` to the outputs of `net`; puts good weights back where weights or values are no numbers.

    False when that does not help.
    """
    first = inputs_at(shape)
    outputs = outputs_at(shape)
    count = shape[SIZES + shape[LAYERS]]
    for attempt in range(2):
        for i in range(len(state)):
            net[first + i] = state[i]
        forward(shape, net)
        if within(net, 0, shape[PARAMETERS], WEIGHT_MAX) and is_finite(net, outputs, count):
            return True
        counters[ROLLBACKS] += 1
        if attempt == 0:
            # With the weights goes the gradient of a batch under way.
            restore(shape, net)
            counters[PART] = 0
    return False


@kernel
def choose(
    shape: Integers,
    online: Floats,
    state: Floats,
    given: Floats,
    allowed: Integers,
    counters: Integers,
    settings: Floats,
    keys: Integers,
) -> int:
    """An action for the state `given`, greedy but for a share of epsilon; `state` keeps it until the outcome is known.

    `NOOP`, and nothing pending, for what is no state or has no answer.
    """
    counters[PENDING] = 0
    if len(given) != len(state) or not within(given, 0, len(given), STATE_MAX):
        counters[REFUSED] += 1
        return NOOP
    if not answer(shape, online, given, counters):
        return NOOP
    action = best_action(online, outputs_at(shape), allowed)
    if counters[FROZEN] == 0:
        epsilon = scheduled(
            settings[EPSILON_START], settings[EPSILON_END], settings[EPSILON_CHOICES], counters[CHOICES]
        )
        # Both numbers are drawn every time, so that the draws of a choice follow from its number alone.
        whether = draw32(keys[0], keys[1], counters[EXPLORE_DRAWS])
        which = draw32(keys[0], keys[1], counters[EXPLORE_DRAWS] + 1)
        counters[EXPLORE_DRAWS] += 2
        counters[CHOICES] += 1
        if whether < epsilon * 4294967296.0:
            counters[EXPLORED] += 1
            action = allowed[(which * len(allowed)) >> 32]
    for i in range(len(given)):
        state[i] = given[i]
    counters[PENDING] = 1
    return int(action)


@kernel
def learn(
    shape: Integers,
    online: Floats,
    target: Floats,
    rows: Floats,
    state: Floats,
    allowed: Integers,
    counters: Integers,
    settings: Floats,
    keys: Integers,
    after: Floats,
    executed: int,
    reward_micro: int,
    over: bool,
) -> None:
    """Store what became of the pending choice, and learn from a part of a batch where there are enough experiences."""
    pending = counters[PENDING]
    counters[PENDING] = 0
    if len(after) != len(state) or not within(after, 0, len(after), STATE_MAX):
        counters[REFUSED] += 1
        return
    if pending == 0 or counters[FROZEN] != 0:
        return
    width = len(state)
    row = rows[counters[POSITION]]
    for i in range(width):
        row[i] = state[i]
        row[width + i] = after[i]
    row[2 * width] = executed
    row[2 * width + 1] = reward_micro / 1_000_000
    row[2 * width + 2] = 0.0 if over else 1.0
    counters[POSITION] = (counters[POSITION] + 1) % len(rows)
    counters[STORED] = min(counters[STORED] + 1, len(rows))
    if counters[STORED] >= min(int(settings[BATCH]), len(rows)):
        train(shape, online, target, rows, allowed, counters, settings, keys, int(settings[PARTS]))


@kernel_nonzero
def train(
    shape: Integers,
    online: Floats,
    target: Floats,
    rows: Floats,
    allowed: Integers,
    counters: Integers,
    settings: Floats,
    keys: Integers,
    parts: int,
) -> None:
    """Learn from the next of a batch's `parts`: 1 <= `STORED`; each row is as likely as any other, and may come twice.

    The weights stand still until the last part, which takes the step: what the parts add up to is the gradient of the
    whole batch, at the cost of a part in each call.

    For each experience (s, a, r, t) the error at output a is clip(Q(s, a) - y, -1, 1) with
    y = r + discount * Q'(t, argmax Q(t, .)), cut to what is possible with rewards of -1..1: +-1 / (1 - discount).
    """
    inputs = shape[SIZES]
    first = inputs_at(shape)
    outputs = outputs_at(shape)
    errors = errors_at(shape)
    count = shape[SIZES + shape[LAYERS]]
    batch = int(settings[BATCH])
    discount = settings[DISCOUNT]
    most = 1.0 / (1.0 - discount)
    part = counters[PART]
    if part == 0:
        if counters[CHOICES] - counters[RENEWED] >= settings[TARGET_CHOICES]:
            copy_weights(shape, online, target)
            counters[RENEWED] = counters[CHOICES]
        clear_gradient(shape, online)
        counters[STRANGE] = 0
    loss = 0.0
    largest = 0.0
    for _ in range(batch * part // parts, batch * (part + 1) // parts):
        drawn = draw32(keys[2], keys[3], counters[REPLAY_DRAWS])
        counters[REPLAY_DRAWS] += 1
        row = rows[(drawn * counters[STORED]) >> 32]
        for i in range(inputs):
            online[first + i] = row[inputs + i]
            target[first + i] = row[inputs + i]
        forward(shape, online)
        forward(shape, target)
        then = best_action(online, outputs, allowed)
        wanted = row[2 * inputs + 1] + discount * row[2 * inputs + 2] * target[outputs + then]
        # Written so that what is not a number stays so, and is seen in the loss.
        if wanted > most:
            wanted = most
        elif wanted < -most:
            wanted = -most
        for i in range(inputs):
            online[first + i] = row[i]
        forward(shape, online)
        action = int(row[2 * inputs])
        error = online[outputs + action] - wanted
        size = abs(error)
        loss += 0.5 * error * error if size <= 1.0 else size - 0.5
        if size > 1.0:
            error = error / size
        largest = max(largest, abs(online[outputs + action]))
        for i in range(count):
            online[errors + i] = 0.0
        online[errors + action] = error / batch
        backward(shape, online)
    if largest > WATCH * most:
        counters[STRANGE] = 1
    counters[PART] = part + 1
    good = abs(loss) < 1e300
    if good and counters[PART] < parts:
        return
    counters[PART] = 0
    counters[UPDATES] += 1
    counters[WATCHED] += counters[STRANGE]
    rate = scheduled(settings[RATE_START], settings[RATE_END], settings[RATE_CHOICES], counters[CHOICES])
    if not good:
        restore(shape, online)
    elif not descend(shape, online, rate, GRADIENT_MAX):
        good = False
    if not good:
        counters[ROLLBACKS] += 1
        # The fault may have come from the copy.
        copy_weights(shape, online, target)
        counters[RENEWED] = counters[CHOICES]


@kernel
def copy_weights(shape: Integers, source: Floats, target: Floats) -> None:
    """Give `target` the weights of `source`, and nothing else."""
    copy(source[: shape[PARAMETERS]], target[: shape[PARAMETERS]])
