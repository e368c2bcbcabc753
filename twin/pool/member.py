"""A process as a member of a pool: its seat and number, the writers' lock, and the recovery from dead members."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from twin.kernels import Integers
from twin.pool import recovery, seats
from twin.pool.access import LOCK_REFUSED, settle
from twin.pool.block import WORDS
from twin.pool.errors import PoolError, PoolInputError
from twin.pool.layout import (
    B_MUTEX,
    B_OWNER,
    CELL,
    LOGICAL_BASE,
    SEAT_CELLS,
    SEATS,
    SEATS_CELL,
    T_OWNER,
)
from twin.pool.lock import EOWNERDEAD, Lock
from twin.pool.mapping import Mapping


class Member:
    """What a process is in the pool behind `mapping`."""

    def __init__(self, mapping: Mapping) -> None:
        self.mapping = mapping
        self.cells: Integers = mapping.cells
        self._numbers = mapping.memory.cast("q")
        self._mutex = mapping.address + B_MUTEX * CELL
        self._lock = Lock(mapping)
        self._seat = -1
        self.owner = -1
        """This process's number as an owner of blocks; -1 for one that only reads."""

    def _sit_down(self) -> None:
        """Take a seat and a number as owner."""
        self._seat = seats.take_seat(self.mapping)
        self._acquire()
        try:
            at = SEATS_CELL + self._seat * SEAT_CELLS
            if self.cells[at + T_OWNER]:
                # Somebody died on this seat.
                self._recover_locked({self._seat})
            self.owner = int(self.cells[B_OWNER]) + 1
            self.cells[B_OWNER] = self.owner
            self.cells[at + T_OWNER] = self.owner
        finally:
            self._lock.release()

    def _stand_up(self) -> None:
        """Give back what was never committed, and the seat; first the lock, if an operation was cut off with it."""
        self._lock.drop()
        self._acquire()
        try:
            self._recover_locked({self._seat})
        finally:
            self._lock.release()
        seats.leave(self.mapping, self._seat)
        self._seat = -1

    def recover(self) -> int:
        """Undo what dead writers left half done; how many there were. Attaching writable does it by itself."""
        self.must_write()
        self._acquire()
        try:
            dead = self._dead_seats()
            self._recover_locked(dead)
        finally:
            self._lock.release()
        return len(dead)

    def _dead_seats(self) -> set[int]:
        """The seats whose owner is written down and does not sit there any more."""
        owners = self.cells[SEATS_CELL + T_OWNER : SEATS_CELL + SEATS * SEAT_CELLS : SEAT_CELLS]
        return {
            int(seat)
            for seat in np.flatnonzero(owners)
            if seat != self._seat and not seats.is_taken(self.mapping, int(seat))
        }

    def _living_owners(self) -> set[int]:
        dead = self._dead_seats()
        owners = self.cells[SEATS_CELL + T_OWNER : SEATS_CELL + SEATS * SEAT_CELLS : SEAT_CELLS]
        return {int(owners[seat]) for seat in np.flatnonzero(owners) if int(seat) not in dead}

    def _recover_locked(self, dead: Iterable[int]) -> None:
        owners = []
        for seat in sorted(dead):
            settle(self.cells, seat)
            owners.append(int(self.cells[SEATS_CELL + seat * SEAT_CELLS + T_OWNER]))
        code, where = recovery.recover(self.cells, np.array(owners, dtype=np.int64))
        if code < 0:
            at = LOGICAL_BASE + where * CELL
            raise PoolError(f"{self.mapping.name}: {WORDS[code]} at {at:#x}; the pool cannot be used, make a new one")
        for seat in dead:
            self.cells[SEATS_CELL + seat * SEAT_CELLS + T_OWNER] = 0

    def _acquire(self, had_it: bool = False) -> None:
        """Take the writers' lock; repair first what a holder that died has left (`had_it`: and left it to us)."""
        if had_it or self._lock.acquire():
            try:
                self._recover_locked(self._dead_seats())
                self._lock.make_consistent()
            except BaseException:
                self._lock.release()
                raise

    def _locked(self, code: int, operation: Callable[[], int]) -> int:
        """The operation with the lock, after a try without waiting that ended with `code`."""
        self._acquire(had_it=code == LOCK_REFUSED - EOWNERDEAD)
        try:
            return int(operation())
        finally:
            self._lock.release()

    def must_write(self) -> None:
        """Raise `PoolInputError` where this process only reads."""
        if self._seat < 0:
            raise PoolInputError(f"{self.mapping.name} is attached for reading; attach it with writable=True")
