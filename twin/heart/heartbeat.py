"""The heartbeat as a SimPy process around the kernels of its law."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from typing import Protocol

import numpy as np
from simpy import Event

from twin.clock import Order, TwinEnvironment
from twin.heart import ticks
from twin.heart.adaptive import AdaptiveLaw
from twin.heart.reference import ReferenceLaw
from twin.kernels import Integers, stream_keys
from twin.pool.layout import CELL, H_HEAT, H_SIZE, H_STAMP, UNIT_CELLS, WARM
from twin.pool.tiers import HEAT_MAX
from twin.scenario import Heartbeat as HeartbeatSettings

ROWS = 100_000
"""How many captured ticks are held before they have to be taken."""


class Words(Protocol):
    """Where the words live: `place[w]` is the cell in `cells` at which the header of word w's block begins.

    The heartbeat keeps each word's heat, stamp and tier in that header, and nobody else may change them. `place` may
    change between two runs of ticks, together with the headers.
    """

    @property
    def cells(self) -> Integers:
        """The memory, as 64-bit cells."""

    @property
    def place(self) -> Integers:
        """One cell number a word."""


class PrivateWords:
    """Words in memory of their own: headers side by side, each on a cache line."""

    def __init__(self, words: int) -> None:
        self.place: Integers = np.arange(words, dtype=np.int64) * UNIT_CELLS
        room = np.zeros((words + 1) * UNIT_CELLS, dtype=np.int64)
        first = -room.ctypes.data // CELL % UNIT_CELLS
        self.cells: Integers = room[first : first + words * UNIT_CELLS]
        self.cells[self.place + H_SIZE] = WARM


class Law(Protocol):
    """What moves the heartbeat from tick to tick. The first twelve slots of `state` are those of `twin.heart.ticks`.

    A word's heat is `heat_unit` for each execution, and it is hot from `hot_least` on.
    """

    state: Integers

    @property
    def heat_unit(self) -> int:
        """Heat of one execution."""

    @property
    def hot_least(self) -> int:
        """The least heat of a hot word."""

    def run(self, lateness_ns: Integers, horizon_ns: int, captured: Integers, first_row: int) -> int:
        """Run the ticks due before `horizon_ns` into `captured` from `first_row` on; how many there were.

        Stops early when the lateness (one entry a tick) or the rows (shape COLUMNS x rows) are used up.
        """


def _law(settings: HeartbeatSettings, seed: int, words: Words) -> Law:
    if settings.law == "adaptive":
        return AdaptiveLaw(settings, seed, words.cells, words.place)
    return ReferenceLaw(
        words.cells,
        words.place,
        t0_ns=settings.t0_ns,
        keys=stream_keys(seed, "heart.words"),
        inference_ticks=settings.inference_ticks or 1_000,
        config=settings.config,
        adapt_interval=settings.adapt_interval,
        select_mode=settings.select_mode,
        sweep_words=settings.decay_sweep_words,
    )


class Heartbeat:
    """Words, law and captured ticks of one run.

    `feed` says what load there is, `beat` is the SimPy process, `captured` are the ticks since the last `clear`.
    """

    def __init__(
        self, settings: HeartbeatSettings, seed: int, words: Words | None = None, ticks_most: int | None = None
    ) -> None:
        """`words` is where the words live; left out, they get memory of their own. After `ticks_most` ticks it ends."""
        self.words: Words = PrivateWords(settings.words) if words is None else words
        self.law = _law(settings, seed, self.words)
        self._rows = np.zeros((ticks.COLUMNS, ROWS), dtype=np.int64)
        self._filled = 0
        self._capacity = settings.capacity_words_per_second
        self._ticks_most = sys.maxsize if ticks_most is None else ticks_most

    @property
    def state(self) -> Integers:
        """The law's integers, in the slots of `twin.heart.ticks`."""
        return self.law.state

    @property
    def heat(self) -> Integers:
        """A copy of the words' heats (Q48.16), by word; each as of its stamp."""
        return self.words.cells[self.words.place + H_HEAT]

    @property
    def stamp(self) -> Integers:
        """A copy of the microseconds at which the words' heats were last brought up to date, by word."""
        return self.words.cells[self.words.place + H_STAMP]

    @property
    def tier(self) -> Integers:
        """A copy of the words' tiers, 0 (HOT) to 3 (FROZEN), by word."""
        return self.words.cells[self.words.place + H_SIZE] & 3

    @property
    def due_ns(self) -> int:
        """When the next tick is due."""
        return int(self.state[ticks.S_DUE])

    @property
    def interval_ns(self) -> int:
        """The interval that leads to the next tick."""
        return int(self.state[ticks.S_INTERVAL])

    @property
    def tick_number(self) -> int:
        """The number of the next tick, which is how many there were."""
        return int(self.state[ticks.S_TICK])

    @property
    def missed(self) -> int:
        """Deadlines that passed before the heartbeat could wake; skipped, not made up for."""
        return int(self.state[ticks.S_MISSED])

    @property
    def captured(self) -> Integers:
        """The ticks that have not been cleared: shape COLUMNS x ticks, a view that the next tick may change."""
        return self._rows[:, : self._filled]

    def clear(self) -> None:
        """Forget the captured ticks."""
        self._filled = 0

    def feed(self, words_per_second: int | None, processor_load_ppm: int | None) -> None:
        """From now on this many words are offered. Unknown words execute none; the load is then the processor's."""
        if words_per_second is not None:
            # Four times the capacity is enough to tell overload, and keeps the product below 2^53.
            offered = min(max(words_per_second, 0), 4 * self._capacity)
            self.state[ticks.S_LOAD] = offered * 1_000_000 // self._capacity
            self.state[ticks.S_RATE] = min(offered, self._capacity)
        else:
            self.state[ticks.S_RATE] = 0
            self.state[ticks.S_LOAD] = ticks.UNKNOWN_LOAD if processor_load_ppm is None else processor_load_ppm

    def heat_up(self, executions: float) -> None:
        """Make every word hotter by so many executions (0 to 2^20), without executing it: for experiments."""
        heats = np.minimum(self.heat + round(executions * self.law.heat_unit), HEAT_MAX)
        self.words.cells[self.words.place + H_HEAT] = heats
        self.state[ticks.S_TOTAL] = sum(heats.tolist())
        self.state[ticks.S_HOT] = int(np.count_nonzero(heats >= self.law.hot_least))

    def run(self, env: TwinEnvironment, until_ns: int, flush: Callable[[], None]) -> None:
        """Run the ticks that are due before `until_ns`, as many at a time as the environment allows.

        `flush` takes the captured ticks when there is no room for more.
        """
        horizon = env.heart_horizon(until_ns)
        while (due := self.due_ns) < horizon and (left := self._ticks_most - self.tick_number) > 0:
            if self._filled == ROWS:
                flush()
                self._filled = 0
            expected = (horizon - due) // self.interval_ns + 1
            lateness = env.heart_lateness(self.tick_number, min(expected, ROWS - self._filled, left))
            self._filled += self.law.run(lateness, horizon, self._rows, self._filled)

    def beat(
        self, env: TwinEnvironment, next_input_ns: Callable[[], int], flush: Callable[[], None]
    ) -> Generator[Event, None, None]:
        """The process: wait until a tick is due, run to the next input, repeat. It ends when the last tick is due."""
        while self.tick_number < self._ticks_most:
            yield env.at(self.due_ns, Order.HEARTBEAT)
            self.run(env, max(next_input_ns(), int(env.now) + 1), flush)
        last = self.captured[:, -1]
        yield env.at(int(last[ticks.C_ELAPSED] - last[ticks.C_LATENESS]), Order.HEARTBEAT)
