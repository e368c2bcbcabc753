"""The small steps of the reference law: decay (L3), window (L2), interval (L7) and mode (L8).

They are pure, so that the simulation and the replay of a recording call the same ones.
"""

from __future__ import annotations

from twin.kernels import Integers, kernel

RING = 4_096
"""Executed words that are remembered, and the widest window; a power of two."""
NARROWEST_WINDOW = 256
WARM_EXECUTIONS = 1_024
PASS_EXECUTIONS = 512
"""A window pass is due after this many executions of the warm machine."""
GROWTH_Q16 = (5 << 16) // 100
SHORTEST_DECAY_NS = 1_000
LARGEST_SLOPE_Q48 = 1 << 22
"""No regression over logarithms of heats (-11.1 to 32.6 in Q48.16) gives more."""
COMMIT_VOTES = 5
LARGEST = (1 << 63) - 1

ALL_LOOPS = 15
BIT_WINDOW, BIT_DECAY, BIT_WIDTH, BIT_SLOPE = 8, 4, 2, 1
"""The bits of a mode. The window's is set and recorded, and nothing reads it: so it is in the recorded machine."""


@kernel
def decayed(heat: int, idle_ns: int, slope_q48: int) -> int:
    """Heat (a plain integer, 0 or more) after `idle_ns`; nothing is lost below 1,000 ns. Slope 0..2^22."""
    if idle_ns < SHORTEST_DECAY_NS:
        return heat
    idle_us = idle_ns // 1_000
    # (idle_us * slope) >> 16 in two parts: idle_us < 2^54, so they are below 2^60 and 2^22.
    loss = (idle_us >> 16) * slope_q48 + (((idle_us & 0xFFFF) * slope_q48) >> 16)
    return max(0, heat - loss)


@kernel
def diversity(ring: Integers, executed: int, window: int) -> int:
    """Adjacent unequal words among the last `window` entries; what was never written counts as word 0, as recorded."""
    changes = 0
    before = ring[(executed - window) & (RING - 1)]
    for i in range(executed - window + 1, executed):
        word = ring[i & (RING - 1)]
        changes += int(word != before)
        before = word
    return changes


@kernel
def resized(window: int, changes: int, changes_before: int) -> int:
    """The window (256..4096) after a pass that found `changes`; the first pass (`changes_before` 0) leaves it."""
    if changes_before == 0:
        return window
    growth = (max(changes - changes_before, 0) << 16) // changes_before
    if growth < GROWTH_Q16:
        return max(window * 50 // 100, NARROWEST_WINDOW)
    return min(window * 2, RING)


@kernel
def next_interval(interval_ns: int, t0_ns: int, early: bool) -> int:
    """The interval after an inference: a quarter more when it ended early, else a fifth less; T0/4 to 4*T0.

    Arguments 1..2^63-1. The forms avoid products that would not fit: T*125/100 is T + T/4, and T*80/100 is 4*T/5.
    """
    if early:
        longest = t0_ns * 4 if t0_ns <= LARGEST // 4 else LARGEST
        if interval_ns >= longest or interval_ns // 4 >= longest - interval_ns:
            return longest
        return interval_ns + interval_ns // 4
    shorter = (interval_ns // 5) * 4 + (interval_ns % 5) * 4 // 5
    return max(shorter, t0_ns // 4)


@kernel
def variation(attempts: int, hits: int) -> float:
    """What L8 takes for the coefficient of variation: 0.5 without attempts, else the share of them that failed."""
    if attempts == 0:
        return 0.5
    return 1.0 - hits / attempts


@kernel
def proposed_mode(
    window: int,
    slope_q48: int,
    cv: float,
    entropy_threshold: float,
    temporal_threshold: float,
    low_temporal_threshold: float,
    cv_threshold: float,
) -> int:
    """The mode 0..15 that a tick asks for; window and slope 0..2^63-1."""
    temporal = 0.0
    if slope_q48 > 0:
        temporal = min(1.0, 65_536.0 / slope_q48)
    mode = 0
    if window / 4_096.0 >= entropy_threshold:
        mode += BIT_WINDOW
    if temporal >= temporal_threshold:
        mode += BIT_DECAY
    if cv >= cv_threshold:
        mode += BIT_WIDTH
        if temporal >= low_temporal_threshold:
            mode += BIT_SLOPE
    return mode


@kernel
def voted(mode: int, candidate: int, votes: int, proposal: int) -> tuple[int, int, int]:
    """Mode, candidate and votes (at most 5) after a proposal: five equal in a row commit, another starts at one."""
    if proposal != candidate:
        return mode, proposal, 1
    if votes + 1 >= COMMIT_VOTES:
        return proposal, proposal, COMMIT_VOTES
    return mode, candidate, votes + 1
