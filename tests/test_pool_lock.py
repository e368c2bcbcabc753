"""The writers' lock and their seats, with real processes that are killed."""

from __future__ import annotations

import ctypes
import os
import platform
import select
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from twin.kernels import Integers, kernel
from twin.pool import lock, seats
from twin.pool.access import begin_write
from twin.pool.errors import PoolError
from twin.pool.layout import (
    B_BUSY,
    B_BYTES,
    B_MAGIC,
    B_MUTEX,
    B_USED_BLOCKS,
    B_VERSION,
    CELL,
    POOL_MAGIC,
    SEATS,
    SMALLEST_POOL,
    VERSION,
)
from twin.pool.lock import EOWNERDEAD, Lock, fence, try_lock, unlock
from twin.pool.mapping import Mapping
from twin.pool.pool import Pool

COUNTER = 200
"""A cell that nobody else uses here."""


@pytest.fixture
def mapping() -> Iterator[Mapping]:
    made = Mapping.create(SMALLEST_POOL)
    made.cells[[B_MAGIC, B_VERSION, B_BYTES]] = POOL_MAGIC, VERSION, made.bytes
    Lock(made).prepare()
    yield made
    made.close()


def attached(mapping: Mapping) -> Mapping:
    assert mapping.fd is not None
    return Mapping.attach(mapping.fd, writable=True)


kept: list[Mapping] = []
"""What children hold on to: the kernel cannot release a lock in memory that its dead holder had unmapped."""


def hold(mapping: Mapping) -> None:
    """Attach, and keep the lock."""
    kept.append(attached(mapping))
    Lock(kept[-1]).acquire()


class Child:
    """A forked process that does `work`, says so, and then waits until it is killed or ended."""

    def __init__(self, work: Callable[[], object]) -> None:
        ready, says = os.pipe()
        waits, self._end = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                os.close(self._end)
                work()
                os.write(says, b"r")
                os.read(waits, 1)
                code = 0
            finally:
                os._exit(code)
        os.close(says)
        os.close(waits)
        said = os.read(ready, 1)
        os.close(ready)
        assert said == b"r", "the child failed"

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        self.end()

    def end(self) -> int:
        os.close(self._end)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@kernel
def count_once(cells: Integers, mutex: int, counter: int) -> int:
    """Add one with the lock held; 0, or why the lock was not to be had at once."""
    code = try_lock(mutex)
    if code != 0:
        return int(code)
    value = cells[counter]
    fence()
    cells[counter] = value + 1
    unlock(mutex)
    return 0


def test_four_processes_lose_no_count(mapping: Mapping) -> None:
    times, processes = 20_000, 4

    def work() -> None:
        own = attached(mapping)
        waiting = Lock(own)
        for _ in range(times):
            if count_once(own.cells, waiting.address, COUNTER) != 0:
                waiting.acquire()
                own.cells[COUNTER] += 1
                waiting.release()

    # Compiled here, once, and not in each child.
    count_once(mapping.cells, Lock(mapping).address, COUNTER)
    pids = []
    for _ in range(processes):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                work()
                code = 0
            finally:
                os._exit(code)
        pids.append(pid)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids] == [0] * processes
    assert mapping.cells[COUNTER] == 1 + processes * times


def test_threads_that_are_attached_each_for_itself_lose_no_count(mapping: Mapping) -> None:
    def work() -> None:
        own = attached(mapping)
        waiting = Lock(own)
        for _ in range(2_000):
            waiting.acquire()
            own.cells[COUNTER] += 1
            waiting.release()
        own.close()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert mapping.cells[COUNTER] == 8_000


def test_the_next_one_gets_the_lock_of_a_killed_holder_and_is_told(mapping: Mapping) -> None:
    waiting = Lock(mapping)
    for _ in range(3):
        Child(lambda: hold(mapping)).kill()
        assert waiting.acquire() is True
        waiting.make_consistent()
        waiting.release()
        assert waiting.acquire() is False
        waiting.release()


def test_a_kernel_is_told_too(mapping: Mapping) -> None:
    child = Child(lambda: hold(mapping))
    waiting = Lock(mapping)
    assert count_once(mapping.cells, waiting.address, COUNTER) != 0
    child.kill()
    assert count_once(mapping.cells, waiting.address, COUNTER) == EOWNERDEAD
    assert mapping.cells[COUNTER] == 0
    # The kernel has kept it, and the thread may not leave with a lock whose memory goes.
    waiting.drop()


def test_a_lock_that_is_held_for_long_is_one_error_that_names_the_holder(
    mapping: Mapping, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "WAIT_SECONDS", 0)
    child = Child(lambda: hold(mapping))
    with pytest.raises(PoolError, match=rf"by thread {child.pid}\b"):
        Lock(mapping).acquire()
    assert child.end() == 0


def test_taking_it_twice_is_an_error_and_no_deadlock(mapping: Mapping) -> None:
    waiting = Lock(mapping)
    waiting.acquire()
    with pytest.raises(PoolError, match="cannot be taken"):
        waiting.acquire()
    waiting.release()


def test_bytes_that_are_no_lock_are_an_error_and_no_hang(mapping: Mapping, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "WAIT_SECONDS", 0)
    chance = np.random.default_rng(7)
    good = mapping.cells[B_MUTEX : B_MUTEX + 8].copy()
    for _ in range(300):
        mapping.cells[B_MUTEX : B_MUTEX + 8] = chance.integers(-(1 << 63), 1 << 63, 8)
        with pytest.raises(PoolError):
            Lock(mapping).acquire()
    mapping.cells[B_MUTEX : B_MUTEX + 8] = 0
    with pytest.raises(PoolError, match="damaged"):
        Lock(mapping).acquire()
    mapping.cells[B_MUTEX : B_MUTEX + 8] = good
    assert Lock(mapping).acquire() is False
    Lock(mapping).release()


# --- seats ------------------------------------------------------------------------------------------------------------


def test_each_writer_has_a_seat_of_its_own_until_it_leaves(mapping: Mapping) -> None:
    others = [attached(mapping) for _ in range(SEATS)]
    taken = [seats.take_seat(other) for other in others]
    assert sorted(taken) == list(range(SEATS))
    assert seats.take_seat(others[3]) == taken[3]
    with pytest.raises(PoolError, match="all 32 seats"):
        seats.take_seat(mapping)
    assert all(seats.is_taken(looking, seat) for looking in (mapping, others[0]) for seat in range(SEATS))
    seats.leave(others[5], taken[5])
    seats.leave(others[5], taken[5])
    assert not seats.is_taken(mapping, taken[5])
    others[6].close()
    assert not seats.is_taken(mapping, taken[6])
    assert seats.take_seat(mapping) == min(taken[5], taken[6])
    for other in others:
        other.close()


def test_a_seat_is_free_when_its_holder_was_killed(mapping: Mapping) -> None:
    def sit() -> None:
        kept.append(attached(mapping))
        assert seats.take_seat(kept[-1]) == 0

    child = Child(sit)
    assert seats.is_taken(mapping, 0)
    child.kill()
    assert not seats.is_taken(mapping, 0)


def test_a_child_does_not_keep_its_parents_seat(mapping: Mapping) -> None:
    own = attached(mapping)
    seat = seats.take_seat(own)

    def child() -> None:
        assert own.seat == -1
        with pytest.raises(PoolError, match="forked"):
            seats.take_seat(own)

    forked = Child(child)
    assert seats.is_taken(mapping, seat)
    own.close()
    assert not seats.is_taken(mapping, seat)
    assert forked.end() == 0


def test_readers_see_seats_and_take_none(mapping: Mapping) -> None:
    assert mapping.fd is not None
    seats.take_seat(mapping)
    reader = Mapping.attach(mapping.fd)
    assert seats.is_taken(reader, 0)
    assert not seats.is_taken(reader, 1)
    with pytest.raises(PoolError, match="for reading"):
        seats.take_seat(reader)
    reader.close()


def test_private_memory_has_one_seat() -> None:
    private = Mapping.private(SMALLEST_POOL)
    assert seats.take_seat(private) == 0
    assert [seats.is_taken(private, seat) for seat in (0, 1)] == [True, False]
    seats.leave(private, 0)
    assert not seats.is_taken(private, 0)
    private.close()


def test_a_stopped_process_at_the_gate_is_one_error(mapping: Mapping, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seats, "_GATE_TRIES", 2)
    other = attached(mapping)
    assert seats._set(other, seats.fcntl.F_WRLCK, seats._GATE)
    with pytest.raises(PoolError, match="has been taking a seat"):
        seats.take_seat(mapping)
    other.close()
    assert seats.take_seat(mapping) == 0


@pytest.mark.parametrize("disorder", ["held by nobody", "given up", "zeros"])
def test_the_first_writer_mends_a_lock_that_a_crash_of_the_machine_left(
    tmp_path: Path, mapping: Mapping, disorder: str
) -> None:
    if disorder == "held by nobody":
        mapping.cells[B_MUTEX] |= 0x3FFFFFF0
    elif disorder == "given up":
        mapping.cells[B_MUTEX + 1] |= 0x7FFFFFFE
    else:
        mapping.cells[B_MUTEX : B_MUTEX + 8] = 0
    copy = tmp_path / "pool"
    copy.write_bytes(mapping.memory)
    mended = Mapping.attach_file(copy, writable=True)
    seats.take_seat(mended)
    assert mended.cells[B_BUSY] == 1
    assert Lock(mended).acquire() is False
    Lock(mended).release()
    mended.close()


def test_a_lock_in_use_is_not_made_anew(mapping: Mapping) -> None:
    def sit_and_hold() -> None:
        kept.append(attached(mapping))
        seats.take_seat(kept[-1])
        Lock(kept[-1]).acquire()

    child = Child(sit_and_hold)
    before = mapping.memory[B_MUTEX * CELL : B_MUTEX * CELL + 56].tobytes()
    assert seats.take_seat(mapping) == 1
    assert mapping.memory[B_MUTEX * CELL : B_MUTEX * CELL + 56] == before
    assert mapping.cells[B_BUSY] == 0
    child.kill()
    waiting = Lock(mapping)
    assert waiting.acquire() is True
    waiting.drop()


def locks_of_this_thread() -> bool:
    """Whether the C library's list of robust locks that this thread has is longer than nothing."""
    head, length = ctypes.c_void_p(), ctypes.c_size_t()
    assert ctypes.CDLL(None).syscall(274, 0, ctypes.byref(head), ctypes.byref(length)) == 0
    return bool(ctypes.c_void_p.from_address(head.value or 0).value != head.value)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the number of the system call is that of x86-64")
def test_a_lock_that_is_dropped_is_off_the_threads_list() -> None:
    assert not locks_of_this_thread()
    pool = Pool.private(1 << 20)
    assert not pool._lock.acquire()
    assert locks_of_this_thread()
    pool._lock.drop()
    assert not locks_of_this_thread()
    pool._lock.drop()
    pool.close()
    assert not locks_of_this_thread()


@pytest.mark.parametrize("dies", [True, False])
def test_what_a_long_write_kept_is_given_back_whoever_has_the_lock(dies: bool, monkeypatch) -> None:
    long = 100_000
    with Pool.create(4 * SMALLEST_POOL) as pool:
        block = pool.allocate(long)
        pool.write(block, bytes(long))
        children = []

        def lock_taken(*arguments: object) -> int:
            odd = begin_write(*arguments)
            heard, told = os.pipe()
            children.append(os.fork())
            if not children[-1]:
                hold(pool.mapping)
                os.write(told, b"x")
                if not dies:
                    select.select([], [], [], 0.1)
                    Lock(kept[-1]).release()
                os.kill(os.getpid(), signal.SIGKILL)
            os.read(heard, 1)
            if dies:
                os.waitpid(children[-1], 0)
            return odd

        with monkeypatch.context() as patched:
            patched.setattr("twin.pool.pool.begin_write", lock_taken)
            pool.write(block, b"2" * long)
        if not dies:
            os.waitpid(children[-1], 0)
        assert pool.read(block) == b"2" * long
        assert pool.cells[B_USED_BLOCKS] == 1
        with Pool.attach(pool.mapping.fd, writable=True) as other:
            other.free(other.allocate(10))


def test_what_cannot_be_given_back_now_is_given_back_later(monkeypatch) -> None:
    with Pool.create(SMALLEST_POOL) as pool:
        block = pool.allocate(1_000)
        array = np.asarray(pool.array(block))
        pool.free(block)
        del array
        heard, told = os.pipe()
        holder = os.fork()
        if not holder:
            hold(pool.mapping)
            os.write(told, b"x")
            signal.pause()
        try:
            os.read(heard, 1)
            with monkeypatch.context() as patched:
                patched.setattr(lock, "WAIT_SECONDS", 0)
                assert pool.release_waiting() == 1
        finally:
            os.kill(holder, signal.SIGKILL)
            os.waitpid(holder, 0)
        assert pool.release_waiting() == 0
        assert pool.cells[B_USED_BLOCKS] == 0
