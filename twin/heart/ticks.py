"""What every law of the heartbeat has in common: state, deadlines, the interval that answers the load, captured ticks.

A law keeps its integers in one array, `state`, whose first slots are the same in all laws, and runs every tick that is
due before a horizon in one call; one tick at a time gives the same bits.

Bounds. Times stay below 2^62 ns. A tick executes at most capacity * 4 * T0 words: 10^9 a second times 4 s.
"""

from __future__ import annotations

from twin.kernels import Integers, kernel

# Parameters of the adaptive law, constant during a run.
P_SHORTEST, P_LONGEST, P_ADAPT, P_WORDS, P_KEY0, P_KEY1, P_SWEEP, P_HOT = range(8)
P_HEAT_ON, P_WINDOW_ON, P_DECAY_ON, P_PREDICT_ON, P_WIDTH_ON, P_SLOPE_ON, P_SELECT_ON = range(8, 15)
"""Loops L1 to L6, and L8."""
P_INFERENCE_TICKS, P_SLOPE_MIN, P_SLOPE_MAX = range(15, 18)
PARAMETERS = 18

# State. The first slots are every law's: the interval's, and words so far, total heat, hot words, next word to sweep,
# deadlines missed, load, and words a second.
(
    S_TICK, S_DUE, S_INTERVAL, S_WOKE, S_CARRY, S_EXECUTED, S_TOTAL, S_HOT, S_SWEEP, S_MISSED, S_LOAD, S_RATE,
) = range(12)  # fmt: skip
S_SLOPE, S_WINDOW, S_SHARE, S_CHECKED = range(12, 16)
"""Slope of the decay; window; its diversity (Q16, 0 unknown) and how many words there were when that was looked at."""
S_CONTEXT, S_GUESS, S_CACHE_HITS, S_PREDICTIONS, S_PREFETCH_HITS = range(16, 21)
"""The last words; the standing guess; and what the last tick counted."""
S_MODE, S_PROPOSED, S_PROPOSALS, S_ATTEMPTS, S_CAME_TRUE = range(21, 26)
"""Mode; the mode proposed lately and how often in a row; predictions of the recent past and how many came true."""
S_INFERRED, S_INFERENCES, S_EARLY_EXITS = range(26, 29)
"""The tick of the last inference; how many there were; how many of them found nothing new."""
STATE = 29

# Columns of a captured tick.
(
    C_TICK, C_ASKED, C_PASSED, C_ELAPSED, C_LATENESS, C_LOAD, C_WORDS, C_CACHE_HITS, C_BUCKET_HITS, C_PREDICTIONS,
    C_PREFETCH_HITS, C_HOT, C_TOTAL, C_SLOPE, C_WINDOW,
) = range(15)  # fmt: skip
COLUMNS = 15

UNKNOWN_LOAD = 0xFFFFFFFF
"""What the load column holds while nothing tells the load."""

SMOOTHING = 16
"""The interval closes a sixteenth of its distance to the target at each tick, within the step limits."""


@kernel
def target_interval(shortest_ns: int, longest_ns: int, load_ppm: int) -> int:
    """The interval that a sustained load asks for: a straight line from idle (shortest) to saturation (longest)."""
    load = min(load_ppm, 1_000_000)
    # (longest - shortest) <= 4 * 10^9 ns, load <= 10^6: below 2^52.
    return shortest_ns + (longest_ns - shortest_ns) * load // 1_000_000


@kernel
def next_interval(interval_ns: int, target_ns: int, shortest_ns: int, longest_ns: int) -> int:
    """One step of the interval towards its target.

    Moves a sixteenth of the distance (rounded away from zero, so that it arrives), at most to 1.25 times or 0.8 times
    itself, and never leaves shortest..longest.
    """
    if target_ns >= interval_ns:
        step = (target_ns - interval_ns + SMOOTHING - 1) // SMOOTHING
        largest = interval_ns // 4
        moved = interval_ns + min(step, largest)
    else:
        step = (interval_ns - target_ns + SMOOTHING - 1) // SMOOTHING
        largest = interval_ns // 5
        moved = interval_ns - min(step, largest)
    if moved < shortest_ns:
        return shortest_ns
    return min(moved, longest_ns)


@kernel
def work_due(state: Integers, passed_ns: int, longest_ns: int) -> int:
    """How many words the last interval brought; the rest of a word is carried over to the next.

    A gap (suspend, stall) counts as the longest interval: no catch-up burst.
    """
    # At most 10^9 words a second times 4 * 10^9 ns: below 2^62.
    work = state[S_RATE] * min(passed_ns, longest_ns) + state[S_CARRY]
    executed = work // 1_000_000_000
    state[S_CARRY] = work - executed * 1_000_000_000
    return int(executed)


@kernel
def capture(
    captured: Integers,
    row: int,
    tick: int,
    asked_ns: int,
    passed_ns: int,
    elapsed_ns: int,
    lateness_ns: int,
    load_ppm: int,
    words: int,
    cache_hits: int,
    predictions: int,
    prefetch_hits: int,
    hot: int,
    total_q48: int,
    slope_q48: int,
    window: int,
) -> None:
    """Write one tick into its row. Words that were no cache hit were found by the index: bucket hits."""
    captured[C_TICK, row] = tick
    captured[C_ASKED, row] = asked_ns
    captured[C_PASSED, row] = passed_ns
    captured[C_ELAPSED, row] = elapsed_ns
    captured[C_LATENESS, row] = lateness_ns
    captured[C_LOAD, row] = load_ppm
    captured[C_WORDS, row] = words
    captured[C_CACHE_HITS, row] = cache_hits
    captured[C_BUCKET_HITS, row] = words - cache_hits
    captured[C_PREDICTIONS, row] = predictions
    captured[C_PREFETCH_HITS, row] = prefetch_hits
    captured[C_HOT, row] = hot
    captured[C_TOTAL, row] = total_q48
    captured[C_SLOPE, row] = slope_q48
    captured[C_WINDOW, row] = window


@kernel
def advance(state: Integers, woke_ns: int, late_ns: int, shortest_ns: int, longest_ns: int, adapt: bool) -> None:
    """The tick is over: choose the interval to the next one (L7) and when that is due.

    Deadlines are absolute. Those that have already passed are counted and skipped, never made up for.
    """
    interval = state[S_INTERVAL]
    load = state[S_LOAD]
    if adapt and load != UNKNOWN_LOAD:
        interval = next_interval(interval, target_interval(shortest_ns, longest_ns, load), shortest_ns, longest_ns)
        state[S_INTERVAL] = interval
    missed = late_ns // interval
    state[S_MISSED] += missed
    state[S_DUE] += interval * (1 + missed)
    state[S_WOKE] = woke_ns
    state[S_TICK] += 1
