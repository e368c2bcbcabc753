"""The heartbeat's ticks as one kernel over arrays: interval law (L7), heat (L1) and decay (L3).

All state lives in three arrays: `state` (the slots below), `heat` (Q48.16, one entry a word: 65536 is one execution)
and `stamp` (microsecond at which a word's heat was last brought up to date). `run_ticks` runs every tick that is due
before a horizon in one call; one tick at a time gives the same bits.

Bounds. Heat is at most `HEAT_MAX` = 2^40 (16.7 million executions that have not decayed), the dictionary has at most
2^16 words, so the total is at most 2^56. A tick executes at most capacity * 4 * T0 words: 10^9 a second times 4 s.
Products are bounded beside the places where they occur; all stay below 2^63.
"""

from __future__ import annotations

from twin.kernels import Integers, draw32, kernel

# Parameters, constant during a run.
P_SHORTEST, P_LONGEST, P_WORDS, P_DECAY, P_SWEEP, P_HOT, P_HEAT_ON, P_DECAY_ON, P_ADAPT, P_KEY0, P_KEY1 = range(11)
PARAMETERS = 11

# State.
S_TICK, S_DUE, S_INTERVAL, S_WOKE, S_CARRY, S_DRAWS, S_TOTAL, S_HOT, S_SWEEP, S_MISSED, S_LOAD, S_RATE = range(12)
STATE = 12

# Columns of a captured tick.
C_TICK, C_ASKED, C_PASSED, C_ELAPSED, C_LATENESS, C_LOAD, C_WORDS, C_HOT, C_TOTAL = range(9)
COLUMNS = 9

HEAT_MAX = 1 << 40
ONE_EXECUTION = 65_536
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
def decayed(heat: int, idle_us: int, decay_q48_per_us: int) -> int:
    """Heat after `idle_us` microseconds without execution; never negative.

    The idle time is capped at 2^45 us (407 days) and the slope is at most 2^16, so the loss stays below 2^61.
    """
    if idle_us > (1 << 45):
        idle_us = 1 << 45
    return max(0, heat - idle_us * decay_q48_per_us)


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
    hot: int,
    total_q48: int,
) -> None:
    """Write one tick into its row."""
    captured[C_TICK, row] = tick
    captured[C_ASKED, row] = asked_ns
    captured[C_PASSED, row] = passed_ns
    captured[C_ELAPSED, row] = elapsed_ns
    captured[C_LATENESS, row] = lateness_ns
    captured[C_LOAD, row] = load_ppm
    captured[C_WORDS, row] = words
    captured[C_HOT, row] = hot
    captured[C_TOTAL, row] = total_q48


@kernel
def choose(key0: int, key1: int, first_draw: int, words: int, chosen: Integers) -> None:
    """Fill `chosen` with word numbers (0..words-1), one a draw from number `first_draw` on.

    The square of a uniform number in 31 bits favours low word numbers. Choosing many words before executing any of them
    lets the compiler choose several at once.
    """
    for i in range(len(chosen)):
        uniform = draw32(key0, key1, first_draw + i) >> 1
        chosen[i] = (((uniform * uniform) >> 31) * words) >> 31


@kernel
def run_ticks(
    parameters: Integers,
    state: Integers,
    heat: Integers,
    stamp: Integers,
    chosen: Integers,
    lateness_ns: Integers,
    horizon_ns: int,
    captured: Integers,
    first_row: int,
) -> int:
    """Run the ticks that are due before `horizon_ns` and return how many there were.

    Stops early when `lateness_ns` (one entry a tick) or the room in `captured` (shape COLUMNS x rows, from `first_row`
    on) is used up. `chosen` (any length from 1 on) is room for the numbers of words that are about to be executed.
    """
    words = parameters[P_WORDS]
    decay = parameters[P_DECAY]
    hot_heat = parameters[P_HOT]
    heat_on = parameters[P_HEAT_ON] != 0
    decay_on = parameters[P_DECAY_ON] != 0
    shortest = parameters[P_SHORTEST]
    longest = parameters[P_LONGEST]
    key0 = parameters[P_KEY0]
    key1 = parameters[P_KEY1]

    tick = state[S_TICK]
    due = state[S_DUE]
    interval = state[S_INTERVAL]
    woke_before = state[S_WOKE]
    carry = state[S_CARRY]
    draws = state[S_DRAWS]
    total = state[S_TOTAL]
    hot = state[S_HOT]
    sweep = state[S_SWEEP]
    load = state[S_LOAD]
    rate = state[S_RATE]

    room = captured.shape[1] - first_row
    if len(lateness_ns) < room:
        room = len(lateness_ns)
    done = 0
    while done < room and due < horizon_ns:
        late = lateness_ns[done]
        woke = due + late
        passed = woke - woke_before

        # Words that the interval brought. A gap (suspend, stall) counts as the longest interval: no catch-up burst.
        # At most 10^9 words a second times 4 * 10^9 ns: below 2^62.
        counted = min(passed, longest)
        work = rate * counted + carry
        executed = work // 1_000_000_000
        carry = work - executed * 1_000_000_000

        now_us = woke // 1_000
        remaining = executed
        while remaining > 0:
            batch = chosen[: min(remaining, len(chosen))]
            choose(key0, key1, draws, words, batch)
            draws += len(batch)
            remaining -= len(batch)
            for word in batch:
                before = heat[word]
                after = before
                if decay_on:
                    after = decayed(after, now_us - stamp[word], decay)
                stamp[word] = now_us
                if heat_on and after < HEAT_MAX:
                    after += ONE_EXECUTION
                heat[word] = after
                total += after - before
                # Without branches, because nothing could predict which of the chosen words are hot.
                hot += int(after >= hot_heat) - int(before >= hot_heat)

        if decay_on:
            for _ in range(parameters[P_SWEEP]):
                before = heat[sweep]
                after = decayed(before, now_us - stamp[sweep], decay)
                stamp[sweep] = now_us
                heat[sweep] = after
                total += after - before
                hot += int(after >= hot_heat) - int(before >= hot_heat)
                sweep += 1
                if sweep == words:
                    sweep = 0

        capture(captured, first_row + done, tick, interval, passed, woke, late, load, executed, hot, total)

        if parameters[P_ADAPT] != 0 and load != UNKNOWN_LOAD:
            interval = next_interval(interval, target_interval(shortest, longest, load), shortest, longest)
        # Deadlines are absolute. Those that have already passed are counted and skipped, never made up for.
        missed = late // interval
        state[S_MISSED] += missed
        due += interval * (1 + missed)
        woke_before = woke
        tick += 1
        done += 1

    state[S_TICK] = tick
    state[S_DUE] = due
    state[S_INTERVAL] = interval
    state[S_WOKE] = woke_before
    state[S_CARRY] = carry
    state[S_DRAWS] = draws
    state[S_TOTAL] = total
    state[S_HOT] = hot
    state[S_SWEEP] = sweep
    return done
