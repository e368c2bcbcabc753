"""Two loops that look at each tick as a whole: the window by diversity (L2) and the mode selector (L8)."""

from __future__ import annotations

from twin.heart.inference import RING, WINDOW_MIN
from twin.heart.ticks import (
    S_ATTEMPTS,
    S_CAME_TRUE,
    S_CHECKED,
    S_EXECUTED,
    S_MODE,
    S_PREDICTIONS,
    S_PREFETCH_HITS,
    S_PROPOSALS,
    S_PROPOSED,
    S_SHARE,
    S_SLOPE,
    S_WINDOW,
)
from twin.kernels import Integers, kernel

WARM = 1_024
"""Before so many executions there is no window and no inference."""
CHECKED_EVERY = 512
GROWTH = (5 << 16) // 100
"""The diversity that grows by less than this (5 %, Q16) has room in half the window."""
MODE_WINDOW, MODE_DECAY, MODE_WIDTH, MODE_SLOPE = 8, 4, 2, 1
"""A mode's bits let L2, L3, L5 and L6 run."""
EVERY_LOOP = 15
PROPOSALS = 5
HALVED_AT = 4_096


@kernel
def transitions(ring: Integers, first: int, count: int) -> int:
    """How many neighbours differ among `count` words of the ring from number `first` on (at least one word)."""
    start = first & (RING - 1)
    straight = min(count, RING - start)
    different = 0
    for i in range(start, start + straight - 1):
        different += int(ring[i] != ring[i + 1])
    if straight < count:
        different += int(ring[RING - 1] != ring[0])
        for i in range(count - straight - 1):
            different += int(ring[i] != ring[i + 1])
    return different


@kernel
def check_window(state: Integers, ring: Integers) -> None:
    """L2: when 512 words have come since the last check, halve the window, or double it if diversity grew by 5 %.

    Diversity is the share of neighbours that differ (Q16), because a count would fall with the window whatever the
    program does.
    """
    executed = state[S_EXECUTED]
    if executed < WARM or executed - state[S_CHECKED] < CHECKED_EVERY:
        return
    state[S_CHECKED] = executed
    window = state[S_WINDOW]
    count = min(executed, window)
    share = (transitions(ring, executed - count, count) << 16) // (count - 1)
    last = state[S_SHARE]
    state[S_SHARE] = share
    if last == 0:
        return
    if (max(share - last, 0) << 16) // last < GROWTH:
        state[S_WINDOW] = max(window // 2, WINDOW_MIN)
    else:
        state[S_WINDOW] = min(window * 2, RING)


@kernel
def proposed_mode(window: int, slope: int, attempts: int, came_true: int) -> int:
    """The mode that these figures ask for, 0..15.

    A wide window asks for L2, a slow decay for L3, and predictions that fail (15 % or more, or none made) for L5 and,
    unless decay is fast, L6.
    """
    mode = 0
    if 4 * window >= 3 * RING:
        mode += MODE_WINDOW
    # Temporal locality is 65536 / slope, at most 1; 0 without any decay.
    if 0 < slope <= 2 * 65_536:
        mode += MODE_DECAY
    if attempts == 0 or 100 * (attempts - came_true) >= 15 * attempts:
        mode += MODE_WIDTH
        if 0 < 3 * slope <= 10 * 65_536:
            mode += MODE_SLOPE
    return mode


@kernel
def select_mode(state: Integers) -> None:
    """L8, at each tick: propose a mode; five equal proposals in a row make it the mode."""
    attempts = state[S_ATTEMPTS] + state[S_PREDICTIONS]
    came_true = state[S_CAME_TRUE] + state[S_PREFETCH_HITS]
    while attempts >= HALVED_AT:
        attempts //= 2
        came_true //= 2
    state[S_ATTEMPTS] = attempts
    state[S_CAME_TRUE] = came_true
    mode = proposed_mode(state[S_WINDOW], state[S_SLOPE], attempts, came_true)
    if mode == state[S_PROPOSED]:
        state[S_PROPOSALS] += 1
    else:
        state[S_PROPOSED] = mode
        state[S_PROPOSALS] = 1
    if state[S_PROPOSALS] >= PROPOSALS:
        state[S_MODE] = mode
        # The count itself has no further use, and must not grow for ever.
        state[S_PROPOSALS] = PROPOSALS
