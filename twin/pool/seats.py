"""Seats: who may write, as the kernel knows it.

A writer holds a lock on one byte far beyond the end of the pool's file for as long as it lives. The lock belongs to an
open file description that nobody else has, so the kernel drops it when the process is gone, however it went.
"""

from __future__ import annotations

import errno
import fcntl
import select
import struct

from twin.pool.errors import PoolError
from twin.pool.layout import B_BUSY, B_MUTEX, LARGEST_POOL, SEATS
from twin.pool.lock import HOLDER, Lock
from twin.pool.mapping import Mapping

SEAT_LOCK_BASE = LARGEST_POOL * 16
"""Byte `SEAT_LOCK_BASE + i` is locked for seat i: beyond any pool, where a lock needs no byte to be there."""
_GATE = SEAT_LOCK_BASE + SEATS
"""Locked while a seat is being taken."""
_GATE_TRIES = 200
_GATE_PAUSE_MS = 10
_FLOCK = struct.Struct("@hhqqi0q")
"""`struct flock` of 64-bit Linux: type, whence, start, length, process (0 for locks of open file descriptions)."""


def take_seat(mapping: Mapping) -> int:
    """Take a free seat for as long as `mapping` is open; its number, 0 to 31. The same one when asked again.

    Whoever is the only one to sit down makes the writers' lock anew if somebody has left it in disorder: after a crash
    of the machine, no kernel was there to release it. The pool is then marked busy, that is, in need of repair. Raises
    `PoolError` when all seats are taken or the mapping cannot be written.
    """
    mapping.check_own()
    if not mapping.writable:
        raise PoolError(f"{mapping.name}: is attached for reading, and readers take no seat; attach with writable=True")
    if mapping.lock_fd is None:
        mapping.seat = 0
    if mapping.seat >= 0:
        return mapping.seat
    _pass_gate(mapping)
    try:
        seat = next((seat for seat in range(SEATS) if _set(mapping, fcntl.F_WRLCK, SEAT_LOCK_BASE + seat)), -1)
        if seat < 0:
            raise PoolError(
                f"{mapping.name}: all {SEATS} seats for writers are taken; close one of them, or attach for reading, "
                "which any number may"
            )
        others = any(_is_locked(mapping, SEAT_LOCK_BASE + other) for other in range(SEATS))
        if not others and _is_in_disorder(mapping):
            # Whoever uses the lock has a seat; so nobody does.
            mapping.cells[B_BUSY] = 1
            Lock(mapping).prepare()
        mapping.seat = seat
        return seat
    finally:
        _set(mapping, fcntl.F_UNLCK, _GATE)


def is_taken(mapping: Mapping, seat: int) -> bool:
    """Whether a living process, this one included, has the seat."""
    if mapping.lock_fd is None and mapping.fd is None:
        return seat == mapping.seat
    return seat == mapping.seat or _is_locked(mapping, SEAT_LOCK_BASE + seat)


def leave(mapping: Mapping, seat: int) -> None:
    """Give the seat back. Does nothing when `mapping` has not that seat."""
    if seat != mapping.seat or seat < 0:
        return
    mapping.seat = -1
    if mapping.lock_fd is not None:
        _set(mapping, fcntl.F_UNLCK, SEAT_LOCK_BASE + seat)


def _is_in_disorder(mapping: Mapping) -> bool:
    """Whether the lock has a holder, was given up, or is no lock at all. One that the kernel released is in order."""
    try:
        Lock(mapping).check()
    except PoolError:
        return True
    word = int(mapping.cells[B_MUTEX]) & 0xFFFFFFFF
    owner = int(mapping.cells[B_MUTEX + 1]) & 0xFFFFFFFF
    return word & HOLDER != 0 or (word == 0 and owner != 0)


def _pass_gate(mapping: Mapping) -> None:
    """One at a time. Waits for 2 s at most: whoever is in there is out in a moment, unless it was stopped."""
    pause = select.poll()
    for _ in range(_GATE_TRIES):
        if _set(mapping, fcntl.F_WRLCK, _GATE):
            return
        pause.poll(_GATE_PAUSE_MS)
    raise PoolError(
        f"{mapping.name}: another process has been taking a seat for {_GATE_TRIES * _GATE_PAUSE_MS / 1_000:g} s; it "
        "seems to be stopped (state T in ps); let it go on, or kill it"
    )


def _set(mapping: Mapping, kind: int, at: int) -> bool:
    """Lock or unlock one byte; False when somebody else has it."""
    assert mapping.lock_fd is not None
    try:
        fcntl.fcntl(mapping.lock_fd, fcntl.F_OFD_SETLK, _FLOCK.pack(kind, 0, at, 1, 0))
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise PoolError(
            f"{mapping.name}: its file system has no locks ({error.strerror}); keep the pool in memory (no pool.file)"
        ) from error
    return True


def _is_locked(mapping: Mapping, at: int) -> bool:
    """Whether another open file description than the one that asks holds a lock on this byte."""
    fd = mapping.fd if mapping.lock_fd is None else mapping.lock_fd
    assert fd is not None
    try:
        answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _FLOCK.pack(fcntl.F_WRLCK, 0, at, 1, 0))
    except OSError as error:
        raise PoolError(
            f"{mapping.name}: its file system has no locks ({error.strerror}); keep the pool in memory (no pool.file)"
        ) from error
    return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)
