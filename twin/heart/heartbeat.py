"""The heartbeat as a SimPy process around the tick kernel."""

from __future__ import annotations

from collections.abc import Callable, Generator

import numpy as np
from simpy import Event

from twin.clock import Order, TwinEnvironment
from twin.heart import ticks
from twin.kernels import Integers, stream_keys
from twin.scenario import Heartbeat as HeartbeatSettings

ROWS = 16_384
"""How many captured ticks are held before they have to be taken."""

CHOSEN_WORDS = 256
"""How many words are chosen before they are executed: enough for most ticks, and small enough for the fastest cache."""


class Heartbeat:
    """Dictionary, interval and captured ticks of one run.

    `feed` says what load there is, `beat` is the SimPy process, `captured` are the ticks since the last `clear`.
    """

    def __init__(self, settings: HeartbeatSettings, seed: int) -> None:
        key0, key1 = stream_keys(seed, "heart.words")
        self.parameters = np.zeros(ticks.PARAMETERS, dtype=np.int64)
        self.parameters[:] = (
            settings.t0_ns // 4,
            settings.t0_ns * 4,
            settings.words,
            settings.decay_q48_per_microsecond,
            min(settings.decay_sweep_words, settings.words),
            settings.hot_executions * ticks.ONE_EXECUTION,
            settings.config[0] == "1",
            settings.config[4] == "1",
            settings.adapt_interval,
            key0,
            key1,
        )
        self.state = np.zeros(ticks.STATE, dtype=np.int64)
        self.state[ticks.S_INTERVAL] = settings.t0_ns
        self.state[ticks.S_DUE] = settings.t0_ns
        self.state[ticks.S_LOAD] = ticks.UNKNOWN_LOAD
        self.heat = np.zeros(settings.words, dtype=np.int64)
        self.stamp = np.zeros(settings.words, dtype=np.int64)
        self._chosen = np.zeros(CHOSEN_WORDS, dtype=np.int64)
        self._rows = np.zeros((ticks.COLUMNS, ROWS), dtype=np.int64)
        self._filled = 0
        self._capacity = settings.capacity_words_per_second

    @property
    def due_ns(self) -> int:
        """When the next tick is due."""
        return int(self.state[ticks.S_DUE])

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

    def run(self, env: TwinEnvironment, until_ns: int, flush: Callable[[], None]) -> None:
        """Run the ticks that are due before `until_ns`, as many at a time as the environment allows.

        `flush` takes the captured ticks when there is no room for more.
        """
        horizon = env.heart_horizon(until_ns)
        while (due := self.due_ns) < horizon:
            if self._filled == ROWS:
                flush()
                self._filled = 0
            expected = (horizon - due) // int(self.state[ticks.S_INTERVAL]) + 1
            lateness = env.heart_lateness(self.tick_number, min(expected, ROWS - self._filled))
            self._filled += ticks.run_ticks(
                self.parameters,
                self.state,
                self.heat,
                self.stamp,
                self._chosen,
                lateness,
                horizon,
                self._rows,
                self._filled,
            )

    def beat(
        self, env: TwinEnvironment, next_input_ns: Callable[[], int], flush: Callable[[], None]
    ) -> Generator[Event, None, None]:
        """The process: wait until a tick is due, run to the next input, repeat."""
        while True:
            yield env.at(self.due_ns, Order.HEARTBEAT)
            self.run(env, max(next_input_ns(), int(env.now) + 1), flush)
