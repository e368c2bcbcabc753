"""The adaptive law: the interval answers the load (L7), and loops L1 to L6 and L8 look after heat, window and guesses.

All state lives in arrays: `state` (slots in `twin.heart.ticks`), the words' headers in `cells` (word w's at cell
`place[w]`), the rings of executed words, and the table of n-grams.

Bounds. Heat is at most 2^40 and the dictionary has at most 2^16 words, so the total is at most 2^56.
"""

from __future__ import annotations

import numpy as np

from twin.heart.inference import RING, infer, new_scratch
from twin.heart.loops import (
    EVERY_LOOP,
    MODE_DECAY,
    MODE_SLOPE,
    MODE_WIDTH,
    MODE_WINDOW,
    WARM,
    check_window,
    select_mode,
)
from twin.heart.stream import phrase_book, recite
from twin.heart.ticks import (
    P_ADAPT,
    P_DECAY_ON,
    P_HEAT_ON,
    P_HOT,
    P_INFERENCE_TICKS,
    P_KEY0,
    P_KEY1,
    P_LONGEST,
    P_PREDICT_ON,
    P_SELECT_ON,
    P_SHORTEST,
    P_SLOPE_ON,
    P_SWEEP,
    P_WIDTH_ON,
    P_WINDOW_ON,
    P_WORDS,
    S_CACHE_HITS,
    S_CONTEXT,
    S_DUE,
    S_EXECUTED,
    S_GUESS,
    S_HOT,
    S_INFERENCES,
    S_INFERRED,
    S_INTERVAL,
    S_LOAD,
    S_MODE,
    S_PREDICTIONS,
    S_PREFETCH_HITS,
    S_SLOPE,
    S_SWEEP,
    S_TICK,
    S_TOTAL,
    S_WINDOW,
    S_WOKE,
    STATE,
    UNKNOWN_LOAD,
    advance,
    capture,
    work_due,
)
from twin.kernels import Floats, Integers, kernel, stream_keys
from twin.pool import ngrams
from twin.pool.layout import COLD, FROZEN, H_HEAT, H_SIZE, H_STAMP, HOT
from twin.pool.tiers import DEMOTED_BELOW, HEAT_MAX, ONE_EXECUTION, PROMOTED_ABOVE, cooled, decayed, longest_step
from twin.scenario import Heartbeat as HeartbeatSettings

INFERENCE_TICKS = 100
"""How many ticks lie between two inferences unless the scenario says otherwise."""
BATCH = 256
"""How many words are chosen before they are executed: enough for most ticks, and small enough for the fastest cache."""
LEARNS_EVERY = 4
"""The n-grams learn from every fourth tick's words: as much is known in the end, for a quarter of the price."""
_ITEM_BITS = ngrams.item_bits(3)


class AdaptiveLaw:
    """Parameters and state of the adaptive law. `cells` and `place` are where the words' headers are."""

    heat_unit = ONE_EXECUTION

    def __init__(self, settings: HeartbeatSettings, seed: int, cells: Integers, place: Integers) -> None:
        key0, key1 = stream_keys(seed, "heart.words")
        flags = [flag == "1" for flag in settings.config.split("_")]
        self.parameters = np.array(
            [
                settings.t0_ns // 4,
                settings.t0_ns * 4,
                settings.adapt_interval,
                settings.words,
                key0,
                key1,
                min(settings.decay_sweep_words, settings.words),
                settings.hot_executions * ONE_EXECUTION,
                *flags,
                settings.select_mode,
                settings.inference_ticks or INFERENCE_TICKS,
                settings.decay_min_q48_per_microsecond,
                settings.decay_max_q48_per_microsecond,
            ],
            dtype=np.int64,
        )
        self.state = np.zeros(STATE, dtype=np.int64)
        self.state[S_INTERVAL] = settings.t0_ns
        self.state[S_DUE] = settings.t0_ns
        self.state[S_LOAD] = UNKNOWN_LOAD
        self.state[S_SLOPE] = settings.decay_q48_per_microsecond
        self.state[S_WINDOW] = RING
        self.state[S_GUESS] = ngrams.NOTHING
        # The first inference comes as soon as there are enough words.
        self.state[S_INFERRED] = -int(self.parameters[P_INFERENCE_TICKS])
        self.hot_least = int(self.parameters[P_HOT])
        self.cells = cells
        self.place = place
        self.ring = np.zeros(RING, dtype=np.int64)
        self.times_us = np.zeros(RING, dtype=np.int64)
        self.heats = np.zeros(RING, dtype=np.int64)
        self.table = ngrams.new_table()
        self._book = phrase_book(key0, key1, settings.words)
        self._seen = np.zeros(settings.words, dtype=np.int64)
        self._scratch = new_scratch()
        self._blocks = np.zeros(BATCH + 1, dtype=np.int64)
        self._losses = np.zeros(BATCH + 1, dtype=np.int64)
        self._idle_us = np.zeros(BATCH + 1, dtype=np.int64)
        self._guesses = np.full(BATCH + 1, ngrams.NOTHING, dtype=np.int64)

    def run(self, lateness_ns: Integers, horizon_ns: int, captured: Integers, first_row: int) -> int:
        """Run the ticks that are due before `horizon_ns` and return how many there were.

        Stops early when `lateness_ns` (one entry a tick) or the room in `captured` (shape COLUMNS x rows, from
        `first_row` on) is used up.
        """
        return run_ticks(
            self.parameters,
            self.state,
            self.cells,
            self.place,
            self.ring,
            self.times_us,
            self.heats,
            self.table,
            self._book,
            self._blocks,
            self._losses,
            self._idle_us,
            self._guesses,
            self._seen,
            self._scratch,
            lateness_ns,
            horizon_ns,
            captured,
            first_row,
        )


@kernel
def reach(
    cells: Integers, block: int, now_us: int, i: int, blocks: Integers, losses: Integers, idle_us: Integers
) -> None:
    """Note entry `i` of a batch: its block, its heat (for now in `losses`), and how long it is since it was cooled.

    The block counts as cooled to now from here on: where it comes again in the same batch, it has been idle for 0 us.
    """
    blocks[i] = block
    losses[i] = cells[block + H_HEAT]
    idle_us[i] = now_us - cells[block + H_STAMP]
    cells[block + H_STAMP] = now_us


@kernel
def lose(losses: Integers, idle_us: Integers, count: int, slope: int) -> None:
    """L3: turn the heats of a batch into what they lose. A loop of its own, so that several are done at once."""
    longest = 0
    shortest = 0
    for i in range(count):
        longest = max(longest, idle_us[i])
        shortest = min(shortest, idle_us[i])
    if shortest == 0 and longest <= longest_step(slope):
        for i in range(count):
            losses[i] -= cooled(losses[i], idle_us[i] * slope)
    else:
        for i in range(count):
            losses[i] -= decayed(losses[i], idle_us[i], slope)


@kernel
def follow(
    table: Integers, context: int, ring: Integers, start: int, count: int, contexts: Integers, rows: Integers
) -> None:
    """The context before the first word of a batch and after each of them, and their rows in the table of n-grams."""
    contexts[0] = context
    if count > 0:
        contexts[1] = ngrams.extended(context, ring[start], _ITEM_BITS)
    # A context is two words. Made of those two and not of the one before, several are made at once.
    for i in range(1, count):
        contexts[i + 1] = ngrams.extended(ring[start + i - 1], ring[start + i], _ITEM_BITS)
    for i in range(count + 1):
        rows[i] = ngrams.row_of(table, contexts[i])


@kernel
def foretell(table: Integers, contexts: Integers, rows: Integers, guesses: Integers, made: Integers, count: int) -> int:
    """Fill `guesses` 1 .. count with what is to follow those contexts, and `made` with those that are guesses at all.

    Returns how many those are.
    """
    number = 0
    for i in range(1, count + 1):
        guess = ngrams.guess(table, rows[i], contexts[i])
        guesses[i] = guess
        made[number & ngrams.POSITIVE] = guess
        number += int(guess != ngrams.NOTHING)
    return number


@kernel
def learn(table: Integers, contexts: Integers, rows: Integers, ring: Integers, start: int, count: int) -> None:
    """Let the table know which word followed which context."""
    for i in range(count):
        ngrams.observe(table, rows[i], contexts[i], ring[start + i])


@kernel
def prefetch(cells: Integers, place: Integers, made: Integers, count: int) -> None:
    """Bring the words that are guessed and COLD or FROZEN one tier up."""
    for i in range(count):
        header = (place[made[i] & ngrams.POSITIVE] & ngrams.POSITIVE) + H_SIZE
        size = cells[header]
        cells[header] = size - int(size & 3 >= COLD)


@kernel
def warm(
    state: Integers,
    cells: Integers,
    ring: Integers,
    heats: Integers,
    start: int,
    count: int,
    blocks: Integers,
    losses: Integers,
    guesses: Integers,
    added: int,
    hot_heat: int,
) -> None:
    """L1: bring the heats of a batch up to date, move tiers, and count what was hit.

    Without branches, because nothing could predict which words are hot.
    """
    gained = 0
    hot = 0
    cache_hits = 0
    prefetch_hits = 0
    for i in range(count):
        at = (start + i) & (RING - 1)
        block = blocks[i] & ngrams.POSITIVE
        before = cells[block + H_HEAT]
        after = min(before - losses[i] + added, HEAT_MAX)
        cells[block + H_HEAT] = after
        heats[at] = after
        gained += after - before
        tier = cells[block + H_SIZE] & 3
        cells[block + H_SIZE] -= int((after > PROMOTED_ABOVE) & (tier > HOT))
        hot += int(after >= hot_heat) - int(before >= hot_heat)
        came_true = int(ring[at] == guesses[i])
        prefetch_hits += came_true
        cache_hits += int(tier == HOT) | came_true
    state[S_TOTAL] += gained
    state[S_HOT] += hot
    state[S_CACHE_HITS] += cache_hits
    state[S_PREFETCH_HITS] += prefetch_hits


@kernel
def execute(
    parameters: Integers,
    state: Integers,
    cells: Integers,
    place: Integers,
    ring: Integers,
    times_us: Integers,
    heats: Integers,
    table: Integers,
    book: Integers,
    work_a: Integers,
    work_b: Integers,
    work_c: Integers,
    guesses: Integers,
    count: int,
    now_us: int,
    slope: int,
) -> None:
    """Execute the next `count` words of the run: heat (L1), its decay by `slope` (L3), tiers and guesses (L4).

    The words are chosen straight into their ring, a batch at a time. The guesses for a batch are made from what was
    learned before it, the first of them at the end of the batch before.
    """
    state[S_CACHE_HITS] = 0
    state[S_PREDICTIONS] = 0
    state[S_PREFETCH_HITS] = 0
    added = ONE_EXECUTION * parameters[P_HEAT_ON]
    executed = state[S_EXECUTED]
    end = executed + count
    while executed < end:
        start = executed & (RING - 1)
        batch = min(min(end - executed, RING - start), BATCH)
        recite(parameters[P_KEY0], parameters[P_KEY1], executed, book, ring, start, batch)
        for i in range(start, start + batch):
            times_us[i] = now_us
        executed += batch
        if parameters[P_PREDICT_ON] != 0:
            guesses[0] = state[S_GUESS]
            follow(table, state[S_CONTEXT], ring, start, batch, work_a, work_b)
            made = foretell(table, work_a, work_b, guesses, work_c, batch)
            if state[S_TICK] % LEARNS_EVERY == 0:
                learn(table, work_a, work_b, ring, start, batch)
            prefetch(cells, place, work_c, made)
            state[S_CONTEXT] = work_a[batch]
            state[S_GUESS] = guesses[batch]
            state[S_PREDICTIONS] += made
        for i in range(batch):
            word = ring[(start + i) & (RING - 1)]
            reach(cells, place[word & ngrams.POSITIVE] & ngrams.POSITIVE, now_us, i, work_a, work_b, work_c)
        lose(work_b, work_c, batch, slope)
        warm(state, cells, ring, heats, start, batch, work_a, work_b, guesses, added, parameters[P_HOT])
    state[S_EXECUTED] = executed


@kernel
def sweep(
    parameters: Integers,
    state: Integers,
    cells: Integers,
    place: Integers,
    blocks: Integers,
    losses: Integers,
    idle_us: Integers,
    now_us: int,
    slope: int,
) -> None:
    """The background: cool the next few words, executed or not, and move the cold ones' tiers down.

    After the last word comes the first.
    """
    words = parameters[P_WORDS]
    hot_heat = parameters[P_HOT]
    gained = 0
    hot = 0
    left = parameters[P_SWEEP]
    while left > 0:
        first = state[S_SWEEP]
        batch = min(min(left, words - first), BATCH)
        for i in range(batch):
            reach(cells, place[(first + i) & ngrams.POSITIVE] & ngrams.POSITIVE, now_us, i, blocks, losses, idle_us)
        lose(losses, idle_us, batch, slope)
        for i in range(batch):
            block = blocks[i] & ngrams.POSITIVE
            before = cells[block + H_HEAT]
            after = before - losses[i]
            cells[block + H_HEAT] = after
            gained -= losses[i]
            cells[block + H_SIZE] += int((after < DEMOTED_BELOW) & (cells[block + H_SIZE] & 3 < FROZEN))
            hot -= int((before >= hot_heat) & (after < hot_heat))
        left -= batch
        state[S_SWEEP] = (first + batch) % words
    state[S_TOTAL] += gained
    state[S_HOT] += hot


@kernel
def run_ticks(
    parameters: Integers,
    state: Integers,
    cells: Integers,
    place: Integers,
    ring: Integers,
    times_us: Integers,
    heats: Integers,
    table: Integers,
    book: Integers,
    work_a: Integers,
    work_b: Integers,
    work_c: Integers,
    guesses: Integers,
    seen: Integers,
    scratch: Floats,
    lateness_ns: Integers,
    horizon_ns: int,
    captured: Integers,
    first_row: int,
) -> int:
    """`AdaptiveLaw.run` over its arrays."""
    shortest = parameters[P_SHORTEST]
    longest = parameters[P_LONGEST]
    select = parameters[P_SELECT_ON] != 0
    room = min(captured.shape[1] - first_row, len(lateness_ns))
    done = 0
    while done < room and state[S_DUE] < horizon_ns:
        late = lateness_ns[done]
        woke = state[S_DUE] + late
        passed = woke - state[S_WOKE]
        executed = work_due(state, passed, longest)
        now_us = woke // 1_000

        mode = state[S_MODE] if select else EVERY_LOOP
        # The first inference needs no mode: without it there would be nothing to hold on to.
        first = state[S_INFERENCES] == 0
        width_on = parameters[P_WIDTH_ON] != 0 and (first or mode & MODE_WIDTH != 0)
        slope_on = parameters[P_SLOPE_ON] != 0 and (first or mode & MODE_SLOPE != 0)
        slope = state[S_SLOPE] if parameters[P_DECAY_ON] != 0 and mode & MODE_DECAY != 0 else 0

        execute(
            parameters,
            state,
            cells,
            place,
            ring,
            times_us,
            heats,
            table,
            book,
            work_a,
            work_b,
            work_c,
            guesses,
            executed,
            now_us,
            slope,
        )
        due = state[S_EXECUTED] >= WARM and state[S_TICK] - state[S_INFERRED] >= parameters[P_INFERENCE_TICKS]
        if due and (width_on or slope_on):
            state[S_INFERRED] = state[S_TICK]
            infer(
                parameters, state, cells, place, ring, times_us, heats, seen, scratch, now_us, slope, width_on, slope_on
            )  # fmt: skip
        if parameters[P_HEAT_ON] != 0:
            sweep(parameters, state, cells, place, work_a, work_b, work_c, now_us, slope)
        if parameters[P_WINDOW_ON] != 0 and mode & MODE_WINDOW != 0:
            check_window(state, ring)
        if select:
            select_mode(state)
        capture(
            captured, first_row + done, state[S_TICK], state[S_INTERVAL], passed, woke, late, state[S_LOAD], executed,
            state[S_CACHE_HITS], state[S_PREDICTIONS], state[S_PREFETCH_HITS], state[S_HOT], state[S_TOTAL],
            state[S_SLOPE], state[S_WINDOW],
        )  # fmt: skip
        advance(state, woke, late, shortest, longest, parameters[P_ADAPT] != 0)
        done += 1
    return done
