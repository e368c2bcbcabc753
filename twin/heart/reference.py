"""The `reference` law: the recorded machine's heartbeat, transition for transition, its oddities included.

All state is in `state` (the slots below) and in the arrays of `Memory`. Dictionary words are blocks of the pool: a
word's heat, a plain integer under this law, and the nanosecond at which it was last brought up to date lie in its
block's header.

A loop that is off leaves its state as it was: L1 the heats, L2 the window (words are still remembered, for L5 and L6),
L3 heats and stamps, L4 counts and speculations, L5 the window, L6 the slope, L7 the interval. With L8 off nothing is
gated. The hot cache belongs to no loop: a lookup promotes a word hotter than 50 whatever is on.

Bounds. One execution adds at most 51 to the total heat and there are at most 10^9 a second: below 2^63 for 5 years of
executions at full rate. A tick executes at most 10^9 a second times 4 * 10^9 ns: below 2^62 before the division.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from twin.heart import q48
from twin.heart import reference_steps as steps
from twin.heart.reference_inference import infer_slope, infer_width, is_steady, scratch, variance
from twin.heart.reference_steps import RING
from twin.heart.stream import choose
from twin.heart.ticks import (
    S_DUE,
    S_EXECUTED,
    S_HOT,
    S_INTERVAL,
    S_LOAD,
    S_SWEEP,
    S_TICK,
    S_TOTAL,
    S_WOKE,
    UNKNOWN_LOAD,
    advance,
    capture,
    work_due,
)  # fmt: skip
from twin.kernels import Floats, Integers, kernel
from twin.pool.layout import H_HEAT, H_STAMP

# Parameters, constant during a run.
(
    P_T0, P_WORDS, P_SWEEP, P_INFERENCE_TICKS, P_HEAT_ON, P_WINDOW_ON, P_DECAY_ON, P_PREDICT_ON, P_WIDTH_ON, P_SLOPE_ON,
    P_ADAPT, P_SELECT, P_KEY0, P_KEY1,
) = range(14)  # fmt: skip
PARAMETERS = 14

# State. The first twelve slots are every law's; see `twin.heart.ticks`.
S_SINCE_PASS, S_PASS_DUE, S_WINDOW, S_DIVERSITY = range(12, 16)
"""Executions since a window pass last fell due, whether one is due, the window, and what the last pass found."""
S_SLOPE, S_VARIANCE, S_INFERRED, S_INFERENCES, S_EARLY = range(16, 21)
"""Decay slope, variance of the last full inference (a word of `q48`), its tick k, and how many inferences and early
exits there were."""
S_MODE, S_CANDIDATE, S_VOTES = range(21, 24)
S_PREVIOUS, S_ATTEMPTS, S_HITS = range(24, 27)
"""Last executed word (-1: none), speculations and those that came true."""
S_CACHED, S_TURN, S_CACHE_HITS, S_CACHE = range(27, 31)
"""Entries in the hot cache, which of them goes next, lookups that it answered, and from there on its entries."""
CACHE = 32
STATE = S_CACHE + CACHE

# A word's row in `links`: transitions from it, its likeliest next word and how often that came, speculations after it;
# from `L_COUNTS` on how often each word came after it.
L_SEEN, L_BEST, L_MOST, L_ATTEMPTS = range(4)
L_COUNTS = 8

HOT_HEAT = 50
"""A word is hot above it; a speculation heats its word to one more."""
FEWEST_SAMPLES = 10
LIKELY_Q16 = 0x8000
MOST_WORDS = 1_024
CHOSEN_WORDS = 256
_TOTAL_LIMIT = (1 << 47) - 1
_EXACT_SAMPLES = 65_536


class Memory(NamedTuple):
    """The arrays of the law.

    `place[w]` is the cell of word w's block header in `cells`, and row w of `links` is what followed it. `cached` says
    how many entries of the hot cache a word has: a full one takes it in again.
    """

    cells: Integers
    place: Integers
    ring: Integers
    links: Integers
    cached: Integers
    room: Integers
    heats: Integers
    logarithms: Integers


class Thresholds(NamedTuple):
    """Where L8 sets the bits of its mode; see `reference_steps.proposed_mode`."""

    entropy: float = 0.75
    temporal: float = 0.5
    low_temporal: float = 0.3
    variation: float = 0.15


@kernel
def set_heat(state: Integers, cells: Integers, at: int, heat: int) -> None:
    """Give the word whose block is at cell `at` a heat, and keep the total and the number of hot words right."""
    before = cells[at + H_HEAT]
    cells[at + H_HEAT] = heat
    state[S_TOTAL] += heat - before
    state[S_HOT] += int(heat > HOT_HEAT) - int(before > HOT_HEAT)


@kernel
def promote(state: Integers, cached: Integers, word: int) -> None:
    """Put a word into the hot cache. A full one replaces its entries in turn and does not look whether it has it."""
    entries = state[S_CACHED]
    if entries < CACHE:
        if cached[word] == 0:
            state[S_CACHE + entries] = word
            cached[word] = 1
            state[S_CACHED] = entries + 1
        return
    turn = state[S_TURN]
    cached[state[S_CACHE + turn]] -= 1
    state[S_CACHE + turn] = word
    cached[word] += 1
    state[S_TURN] = (turn + 1) % CACHE


@kernel
def cool(parameters: Integers, state: Integers, cells: Integers, at: int, now_ns: int) -> None:
    """L3: let a word lose what it has not lost yet. The stamp is renewed even when nothing is lost."""
    if parameters[P_DECAY_ON] == 0:
        return
    idle = now_ns - cells[at + H_STAMP]
    cells[at + H_STAMP] = now_ns
    if state[S_MODE] & steps.BIT_DECAY and idle >= steps.SHORTEST_DECAY_NS:
        before = cells[at + H_HEAT]
        after = steps.decayed(before, idle, state[S_SLOPE])
        if after != before:
            set_heat(state, cells, at, after)


@kernel
def likeliest(links: Integers, before: int, count: int, word: int) -> int:
    """The word that follows `before` most likely, once `word` has come `count` times; equal ones: the lowest number.

    Probabilities are compared truncated to 1/65536. Up to 65,536 transitions different counts have different ones, and
    only `word` can have overtaken the best. Above it, counts a little below the largest may be equal to it.
    """
    best: int = links[before, L_BEST]
    most = links[before, L_MOST]
    if count > most:
        links[before, L_MOST] = count
        most = count
        best = word
    elif count == most and word < best:
        best = word
    seen = links[before, L_SEEN]
    if seen > _EXACT_SAMPLES:
        # The smallest count n with (n << 16) / seen as large as that of the largest: counts below 2^46 leave room.
        enough = -(-(((most << 16) // seen) * seen) >> 16)
        best = 0
        while links[before, L_COUNTS + best] < enough:
            best += 1
    links[before, L_BEST] = best
    return best


@kernel
def follow(links: Integers, before: int, word: int) -> tuple[int, int]:
    """L4: judge the speculation after `before` by `word`, count the transition, and speculate when it is likely enough.

    Returns 1 for a hit, else 0, and the word to heat and to promote, -1 for none.
    """
    hit = int(links[before, L_BEST] == word and links[before, L_ATTEMPTS] > 0)
    count = links[before, L_COUNTS + word] + 1
    links[before, L_COUNTS + word] = count
    seen = links[before, L_SEEN] + 1
    links[before, L_SEEN] = seen
    best = likeliest(links, before, count, word)
    # (n << 16) / seen >= 0x8000, without the division.
    if seen >= FEWEST_SAMPLES and links[before, L_COUNTS + best] << 16 >= seen * LIKELY_Q16:
        links[before, L_ATTEMPTS] += 1
        return hit, best
    return hit, -1


@kernel
def execute(
    parameters: Integers,
    state: Integers,
    cells: Integers,
    place: Integers,
    ring: Integers,
    links: Integers,
    cached: Integers,
    batch: Integers,
    now_ns: int,
) -> None:
    """Look words up and execute them in turn: decay (L3), heat (L1), the ring (L2), transitions (L4).

    One loop over all of them with the state in variables, because to call something with all these arrays for every
    word would take longer than the rest.
    """
    heating = int(parameters[P_HEAT_ON] != 0)
    stamping = parameters[P_DECAY_ON] != 0
    decaying = stamping and state[S_MODE] & steps.BIT_DECAY != 0
    predicting = parameters[P_PREDICT_ON] != 0
    slope = state[S_SLOPE]
    executed = state[S_EXECUTED]
    since_pass = state[S_SINCE_PASS]
    total, hot = state[S_TOTAL], state[S_HOT]
    cache_hits, attempts, hits = state[S_CACHE_HITS], state[S_ATTEMPTS], state[S_HITS]
    previous = state[S_PREVIOUS]
    for word in batch:
        at = place[word]
        before = cells[at + H_HEAT]
        # A lookup that the hot cache does not answer promotes a hot word.
        if cached[word] > 0:
            cache_hits += 1
        elif before > HOT_HEAT:
            promote(state, cached, word)

        after = before
        if stamping:
            if decaying:
                after = steps.decayed(after, now_ns - cells[at + H_STAMP], slope)
            cells[at + H_STAMP] = now_ns
        after += heating
        cells[at + H_HEAT] = after
        total += after - before
        hot += int(after > HOT_HEAT) - int(before > HOT_HEAT)

        ring[executed & (RING - 1)] = word
        executed += 1
        if executed >= steps.WARM_EXECUTIONS:
            since_pass += 1
            if since_pass >= steps.PASS_EXECUTIONS:
                since_pass = 0
                state[S_PASS_DUE] = 1

        if predicting:
            if previous >= 0:
                hit, guess = follow(links, previous, word)
                hits += hit
                if guess >= 0:
                    attempts += 1
                    if heating:
                        at = place[guess]
                        before = cells[at + H_HEAT]
                        cells[at + H_HEAT] = HOT_HEAT + 1
                        total += HOT_HEAT + 1 - before
                        hot += int(before <= HOT_HEAT)
                    promote(state, cached, guess)
            previous = word
    state[S_EXECUTED] = executed
    state[S_SINCE_PASS] = since_pass
    state[S_TOTAL] = total
    state[S_HOT] = hot
    state[S_CACHE_HITS] = cache_hits
    state[S_ATTEMPTS] = attempts
    state[S_HITS] = hits
    state[S_PREVIOUS] = previous


@kernel
def sweep(parameters: Integers, state: Integers, cells: Integers, place: Integers, now_ns: int) -> None:
    """The background decay of some words, each tick the next ones."""
    if parameters[P_DECAY_ON] == 0:
        return
    word = state[S_SWEEP]
    for _ in range(parameters[P_SWEEP]):
        cool(parameters, state, cells, place[word], now_ns)
        word += 1
        if word == parameters[P_WORDS]:
            word = 0
    state[S_SWEEP] = word


@kernel
def serve_window(parameters: Integers, state: Integers, ring: Integers) -> None:
    """L2: the window pass, when one is due."""
    if state[S_PASS_DUE] == 0 or parameters[P_WINDOW_ON] == 0:
        return
    state[S_PASS_DUE] = 0
    changes = steps.diversity(ring, state[S_EXECUTED], state[S_WINDOW])
    state[S_WINDOW] = steps.resized(state[S_WINDOW], changes, state[S_DIVERSITY])
    state[S_DIVERSITY] = changes


@kernel
def recent_heats(state: Integers, cells: Integers, place: Integers, ring: Integers, heats: Integers) -> int:
    """Gather the heats of the last n = min(window, remembered) executed words, oldest first; n."""
    executed = state[S_EXECUTED]
    n: int = min(state[S_WINDOW], executed)
    for i in range(n):
        heats[i] = cells[place[ring[(executed - n + i) & (RING - 1)]] + H_HEAT]
    return n


@kernel
def infer(parameters: Integers, state: Integers, memory: Memory, k: int) -> bool:
    """One inference at tick k; whether it ended early. Such a one leaves k of the last, and so runs again next tick."""
    n = recent_heats(state, memory.cells, memory.place, memory.ring, memory.heats)
    state[S_INFERENCES] += 1
    if n < 2:
        state[S_EARLY] += 1
        return True
    heats = memory.heats[:n]
    now = variance(heats)
    if is_steady(now, state[S_VARIANCE]):
        state[S_EARLY] += 1
        return True
    state[S_VARIANCE] = now
    state[S_INFERRED] = k
    mode = state[S_MODE]
    if parameters[P_WIDTH_ON] != 0 and mode & steps.BIT_WIDTH:
        state[S_WINDOW] = infer_width(heats, memory.room)
    if parameters[P_SLOPE_ON] != 0 and mode & steps.BIT_SLOPE:
        slope = infer_slope(heats, memory.logarithms)
        if slope > 0:
            state[S_SLOPE] = slope
    return False


@kernel
def select_mode(state: Integers, thresholds: Floats) -> None:
    """L8: propose a mode and vote."""
    proposal = steps.proposed_mode(
        state[S_WINDOW],
        state[S_SLOPE],
        steps.variation(state[S_ATTEMPTS], state[S_HITS]),
        thresholds[0],
        thresholds[1],
        thresholds[2],
        thresholds[3],
    )
    mode, candidate, votes = steps.voted(state[S_MODE], state[S_CANDIDATE], state[S_VOTES], proposal)
    state[S_MODE] = mode
    state[S_CANDIDATE] = candidate
    state[S_VOTES] = votes


@kernel
def tune(parameters: Integers, thresholds: Floats, state: Integers, memory: Memory, now_ns: int) -> None:
    """What the loops do at a tick: inference with L5 to L7, background decay, window pass, mode."""
    k = state[S_TICK] + 1
    wanted = parameters[P_WIDTH_ON] + parameters[P_SLOPE_ON] + parameters[P_ADAPT] > 0
    warm = state[S_EXECUTED] >= steps.WARM_EXECUTIONS
    if wanted and warm and k - state[S_INFERRED] >= parameters[P_INFERENCE_TICKS]:
        early = infer(parameters, state, memory, k)
        if parameters[P_ADAPT] != 0:
            state[S_INTERVAL] = steps.next_interval(state[S_INTERVAL], parameters[P_T0], early)
    sweep(parameters, state, memory.cells, memory.place, now_ns)
    serve_window(parameters, state, memory.ring)
    if parameters[P_SELECT] != 0:
        select_mode(state, thresholds)


@kernel
def run_ticks(
    parameters: Integers,
    thresholds: Floats,
    state: Integers,
    memory: Memory,
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
    t0 = parameters[P_T0]
    cells, place, ring, links, cached = memory.cells, memory.place, memory.ring, memory.links, memory.cached
    room = min(captured.shape[1] - first_row, len(lateness_ns))
    done = 0
    while done < room and state[S_DUE] < horizon_ns:
        late = lateness_ns[done]
        asked = state[S_INTERVAL]
        woke = state[S_DUE] + late
        passed = woke - state[S_WOKE]
        cache_hits, attempts, hits = state[S_CACHE_HITS], state[S_ATTEMPTS], state[S_HITS]
        executed = work_due(state, passed, t0 * 4)
        remaining = executed
        while remaining > 0:
            count = min(remaining, len(chosen))
            choose(parameters[P_KEY0], parameters[P_KEY1], state[S_EXECUTED], parameters[P_WORDS], chosen, 0, count)
            execute(parameters, state, cells, place, ring, links, cached, chosen[:count], woke)
            remaining -= count
        tune(parameters, thresholds, state, memory, woke)
        capture(
            captured,
            first_row + done,
            state[S_TICK],
            asked,
            passed,
            woke,
            late,
            state[S_LOAD],
            executed,
            state[S_CACHE_HITS] - cache_hits,
            state[S_ATTEMPTS] - attempts,
            state[S_HITS] - hits,
            state[S_HOT],
            min(state[S_TOTAL], _TOTAL_LIMIT) << 16,
            state[S_SLOPE],
            state[S_WINDOW],
        )
        # The interval has been chosen already; what is left is when the next tick is due.
        advance(state, woke, late, t0, t0, False)
        done += 1
    return done


class ReferenceLaw:
    """The arrays of one run under this law.

    `cells` are the pool's and `place[w]` is the cell of the header of word w's block (1 to 1,024 words). `config` are
    the loops L1 to L6, as in `1_0_1_1_1_0`; `adapt_interval` is L7, `select_mode` L8. `keys` are those of the stream
    that chooses words. `t0_ns` is 10 to 10^9, `inference_ticks` from 1 on, `slope_q48` (at the start) 0 to 2^22.
    What heat the blocks have already is taken over.
    """

    heat_unit, hot_least = 1, HOT_HEAT + 1

    def __init__(
        self,
        cells: Integers,
        place: Integers,
        *,
        t0_ns: int,
        keys: tuple[int, int],
        inference_ticks: int = 1_000,
        config: str = "1_1_1_1_1_1",
        adapt_interval: bool = True,
        select_mode: bool = True,
        sweep_words: int = 64,
        slope_q48: int = 65_536 // 3,
        thresholds: Thresholds | None = None,
    ) -> None:
        words = len(place)
        _within("words", words, 1, MOST_WORDS)
        _within("t0_ns", t0_ns, 10, 1_000_000_000)
        _within("inference_ticks", inference_ticks, 1, (1 << 62))
        _within("sweep_words", sweep_words, 0, 65_536)
        _within("slope_q48", slope_q48, 0, steps.LARGEST_SLOPE_Q48)
        loops = config.split("_")
        if len(loops) != 6 or not set(loops) <= {"0", "1"}:
            raise ValueError(f"config is {config!r}; allowed are six flags 0 or 1, as in 1_0_1_1_1_0")
        flags = [int(flag) for flag in loops]
        self.parameters = np.array(
            [t0_ns, words, min(sweep_words, words), inference_ticks, *flags, adapt_interval, select_mode, *keys],
            dtype=np.int64,
        )
        self.thresholds = np.array(thresholds or Thresholds(), dtype=np.float64)
        self.memory = Memory(
            cells=cells,
            place=place,
            ring=np.zeros(RING, dtype=np.int64),
            links=np.zeros((words, L_COUNTS + words), dtype=np.int64),
            cached=np.zeros(words, dtype=np.int64),
            room=scratch(),
            heats=np.zeros(RING, dtype=np.int64),
            logarithms=np.zeros(q48.LOGARITHMS, dtype=np.int64),
        )
        heats, self.state = [int(cells[at + H_HEAT]) for at in place], np.zeros(STATE, dtype=np.int64)
        self.state[S_INTERVAL] = self.state[S_DUE] = t0_ns
        self.state[S_LOAD] = UNKNOWN_LOAD
        self.state[S_TOTAL] = sum(heats)
        self.state[S_HOT] = sum(heat > HOT_HEAT for heat in heats)
        self.state[[S_WINDOW, S_SLOPE]] = RING, slope_q48
        self.state[S_MODE] = 0 if select_mode else steps.ALL_LOOPS
        self.state[S_PREVIOUS] = -1
        self._chosen = np.zeros(CHOSEN_WORDS, dtype=np.int64)

    def run(self, lateness_ns: Integers, horizon_ns: int, captured: Integers, first_row: int) -> int:
        """Run ticks as `run_ticks` does; how many there were."""
        return run_ticks(
            self.parameters,
            self.thresholds,
            self.state,
            self.memory,
            self._chosen,
            lateness_ns,
            horizon_ns,
            captured,
            first_row,
        )


def _within(name: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise ValueError(f"{name} is {value}; allowed are {least} to {most}")
