"""Crystal Core: the pool of a run. The words live in it, telemetry goes into it, others look into it while it runs.

Nothing in here changes a tick or a decision: it decides where things lie, and tells others about them.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from twin.kernels import Integers
from twin.pool.advice import AdviceLog
from twin.pool.advisor import Advisor, WordFacts, apply_layout, check_order
from twin.pool.errors import PoolError
from twin.pool.layout import B_RELAYS, B_SLOPE, CELL, H_HEAT, H_SIZE, H_STAMP, UNIT
from twin.pool.pool import Pool
from twin.pool.prefetch import Prefetcher
from twin.pool.records import RecordRing
from twin.pool.share import Server, socket_name
from twin.pool.tiers import SLOPE_MAX, decayed
from twin.pool.upkeep import Sweeper
from twin.scenario import Pool as PoolSettings

log = logging.getLogger("twin")

WORD_BYTES = UNIT
"""Payload of a word's block: a cache line of its own for whatever the word's user puts there."""


class Crystal:
    """The pool of one run and those who use it. As a context manager it is closed at the end.

    `cells` and `place` are where the heartbeat's words live. `cycle` is to be called at the end of each control cycle.
    """

    def __init__(
        self,
        settings: PoolSettings,
        words: int,
        run_directory: Path,
        fields: Sequence[str],
        advisor: Advisor | None,
        log: AdviceLog | None,
    ) -> None:
        """Raises `PoolError` when there is no memory for the pool, or the pool is too small for the words."""
        self.settings = settings
        if settings.file:
            self.pool = Pool.create_file(Path(settings.file), settings.size_bytes)
        else:
            self.pool = Pool.create(settings.size_bytes)
        self._server: Server | None = None
        try:
            self.place = np.array([self._word() for _ in range(words)], dtype=np.int64)
            self._ring = RecordRing(self.pool, fields, settings.records)
            self._prefetcher = Prefetcher(self.pool)
            # The heartbeat cools its words itself, and a second time would be another law.
            self._sweeper = Sweeper(self.pool, self.place.tolist())
            self._server = Server(self.pool.mapping, socket_name(run_directory))
        except BaseException:
            self.close()
            raise
        self._advisor = advisor
        self._log = log
        self.cells: Integers = self.pool.cells

    def _word(self) -> int:
        block = self.pool.allocate(WORD_BYTES)
        # From here on the word is there for others to see, and stays when this process dies.
        self.pool.write(block, bytes(WORD_BYTES))
        return block.cell

    def cycle(self, number: int, now_us: int, values: Sequence[int | None], slope_q48: int | None = None) -> None:
        """A control cycle is over: leave a record when it is due, cool what is idle, ask and hear the advisor.

        Blocks cool by `now_us` and `slope_q48` (heat lost in a microsecond, Q48.16; as before when None), as words do.
        """
        self.pool.now_us = now_us
        if slope_q48 is not None:
            self.cells[B_SLOPE] = min(max(slope_q48, 0), SLOPE_MAX)
        if number % self.settings.record_every_cycles == 0:
            self._ring.append(values)
            self._prefetcher.accessed(self._ring.block)
        self._sweeper.sweep()
        if self._advisor is not None:
            self._hear(number)
            if number % self.settings.advisor.every_cycles == self.settings.advisor.every_cycles - 1:
                self._advisor.ask(number, self._facts())

    def _hear(self, number: int) -> None:
        assert self._advisor is not None
        order = self._advisor.answer(number)
        if order is None or check_order(order, len(self.place)):
            return
        if self._log is not None:
            try:
                self._log.write(number, order)
            except PoolError as error:
                # A run must not end for it; but a layout that is not recorded is not used, or a replay would differ.
                log.warning("the advisor's layout is not recorded, and not used: %s", error)
                return
        seat = self.pool.mapping.seat
        apply_layout(self.cells, self.place, np.array(order, dtype=np.int64), WORD_BYTES // CELL, seat)
        self.cells[B_RELAYS] += 1

    def _facts(self) -> WordFacts:
        slots = np.empty(len(self.place), dtype=np.int64)
        slots[np.argsort(self.place, kind="stable")] = np.arange(len(self.place))
        return WordFacts(
            heat_q48=self._heats(),
            tier=self.cells[self.place + H_SIZE] & 3,
            slot=slots,
            block_bytes=WORD_BYTES,
        )

    def _heats(self) -> Integers:
        """The words' heats of now: what is stored is as of each word's last visit."""
        now_us, slope = self.pool.now_us, int(self.cells[B_SLOPE])
        stored = zip(self.cells[self.place + H_HEAT].tolist(), self.cells[self.place + H_STAMP].tolist(), strict=True)
        return np.array([decayed(heat, now_us - stamp, slope) for heat, stamp in stored], dtype=np.int64)

    def close(self) -> None:
        """Stop serving, stop asking, leave the pool."""
        if self._server is not None:
            self._server.close()
            self._server = None
        if getattr(self, "_advisor", None) is not None:
            assert self._advisor is not None
            self._advisor.close()
        try:
            self.pool.close()
        except PoolError as error:
            # The run is over and recorded; somebody else who holds the pool's lock must not make it fail.
            log.warning("the pool was left as it is: %s", error)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
