"""The pool's interface: make one or attach to one, allocate, write, read, look, free.

A `Pool` belongs to one thread; another thread, like another process, attaches for itself. Reading takes no lock and
never waits: a block that is being written is looked at again, a bounded number of times.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from twin.kernels import mix32
from twin.pool import allocator
from twin.pool.access import (
    LOCK_REFUSED,
    begin_write,
    commit,
    locked_allocate,
    locked_release,
    look,
    release_owned,
    settle,
)
from twin.pool.block import AMENDED, WORDS, Block, tier_number
from twin.pool.errors import PoolError, PoolInputError
from twin.pool.finding import READ_ATTEMPTS, Finder, not_whole
from twin.pool.layout import (
    B_BUSY,
    B_CHECK,
    B_FREE_UNITS,
    B_NOW_US,
    B_SLOPE,
    CELL,
    DATA_CELL,
    H_GENERATION,
    H_OWNER,
    H_SEQUENCE,
    H_SIZE,
    JOURNAL_BYTES,
    LARGEST_POOL,
    LOGICAL_BASE,
    POOL_MAGIC,
    SEATS,
    TIERS,
    UNIT,
    UNIT_CELLS,
    VERSION,
)
from twin.pool.lock import Lock
from twin.pool.mapping import Mapping
from twin.pool.views import BlockArray, Views

SLOPE_Q48_PER_US = 6
"""How fast blocks cool, as the heartbeat's words do by default."""
_mix32: Callable[[int], int] = getattr(mix32, "py_func", mix32)
KEPT_BYTES = JOURNAL_BYTES - CELL
"""Up to so many bytes the seat's own journal keeps what a write replaces."""


class Pool(Finder):
    """One pool as this process sees it. Make one with `create`, `create_file` or `private`, or attach to one.

    As a context manager it is closed at the end. Blocks outlive the process that made them, unless they were never
    written.
    """

    def __init__(self, mapping: Mapping) -> None:
        """Not for callers: take one of the class methods."""
        super().__init__(mapping)
        self._memory = mapping.memory
        self._views: dict[int, Views] = {}
        self._waiting: list[tuple[Block, Views]] = []

    # --- beginning and end ------------------------------------------------------------------------------------------

    @classmethod
    def create(cls, size_bytes: int) -> Self:
        """A new pool in a sealed memfd, which has no name and goes when its last process does."""
        mapping = Mapping.create(size_bytes)
        _fill(mapping)
        return cls._seated(mapping)

    @classmethod
    def create_file(cls, path: Path, size_bytes: int) -> Self:
        """A new pool in the file `path`, which stays. Raises `PoolInputError` when there is one already."""
        return cls._seated(Mapping.create_file(path, size_bytes, _fill))

    @classmethod
    def private(cls, size_bytes: int) -> Self:
        """A new pool that no other process can see."""
        mapping = Mapping.private(size_bytes)
        _fill(mapping)
        return cls._seated(mapping)

    @classmethod
    def attach(cls, descriptor: int, writable: bool = False) -> Self:
        """The pool behind a descriptor that another process passed on. The descriptor stays the caller's."""
        return cls._opened(Mapping.attach(descriptor, writable))

    @classmethod
    def attach_file(cls, path: Path, writable: bool = False) -> Self:
        """The pool in the file `path`."""
        return cls._opened(Mapping.attach_file(path, writable))

    @classmethod
    def _seated(cls, mapping: Mapping) -> Self:
        pool = cls(mapping)
        pool._sit_down()
        return pool

    @classmethod
    def _opened(cls, mapping: Mapping) -> Self:
        pool = cls(mapping)
        try:
            if not _head_is_whole(mapping):
                raise PoolInputError(f"{mapping.name}: {WORDS[allocator.CORRUPT]}; make a new pool")
            if mapping.writable:
                pool._sit_down()
                if pool.cells[B_BUSY] or pool._dead_seats():
                    pool.recover()
        except BaseException:
            pool.close()
            raise
        return pool

    def close(self) -> None:
        """Leave the pool. Blocks stay; what this process never wrote is given back. A second call does nothing."""
        try:
            if self._seat >= 0 and not self.mapping.forked:
                self._stand_up()
        finally:
            self.owner = -1
            self._numbers.release()
            self.mapping.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- blocks -----------------------------------------------------------------------------------------------------

    def allocate(self, size: int, tier: str = "WARM") -> Block:
        """A block that can hold `size` bytes (1 to what the pool has), of this owner.

        What it holds is not defined until it is written. It becomes a block that survives its owner's death with its
        first `write` or `commit`. Raises `PoolInputError` for another size or tier, `PoolError` when there is no room.
        """
        number = 1 if tier == "WARM" else tier_number(tier)
        if type(size) is not int or not 1 <= size <= LARGEST_POOL:
            raise PoolInputError(f"a block of {size!r} bytes: a size is an integer from 1 to {LARGEST_POOL}")
        if self.owner < 0:
            self.must_write()
        cell = locked_allocate(self.cells, self._mutex, size, self.owner, number)
        if cell < 0:
            cell = self._allocate_again(cell, size, number)
        return Block(cell, self._numbers[cell + H_GENERATION], size)

    def free(self, block: Block) -> None:
        """Give the block back. Its views raise from now on.

        Raises `StaleBlockError` for a block that was freed before and `PoolError` for somebody else's.
        """
        if self._views:
            views = self._views.pop(block.cell, None)
            if views is not None and not views.release():
                self._keep_waiting(block, views)
                return
        if self.owner < 0:
            self.must_write()
        code = locked_release(self.cells, self._mutex, block.cell, block.generation, self.owner)
        if code < 0:
            self._free_again(code, block)

    def write(self, block: Block, data: bytes | bytearray | memoryview, offset: int = 0) -> None:
        """Put `data` into the block from byte `offset` on: all of it or, when the process dies, nothing of it.

        More than 16,376 bytes over something that was written before are copied twice, because the old bytes are kept
        in a block of their own until the new ones stand; `replace` copies once. Raises `StaleBlockError`, and
        `PoolInputError` when the data do not fit or the block is somebody else's.
        """
        if self.owner < 0:
            self.must_write()
        if type(data) is not bytes:
            data = memoryview(data).cast("B")
        count = len(data)
        cell = block.cell
        undo: Block | None = None
        # A signal may raise anywhere in here: whatever was begun is undone.
        try:
            if count > KEPT_BYTES and self._is_written(block, offset, count):
                undo = self._kept_in_a_block(block, offset, count)
            kept = undo.cell if undo else 0
            odd = begin_write(self.cells, self._seat, cell, block.generation, self.owner, offset, count, kept)
            if odd < 0:
                self._refuse(odd, block, f"{count} bytes from byte {offset} on")
            start = (cell + UNIT_CELLS) * CELL + offset
            self._memory[start : start + count] = data
            self._numbers[cell + H_SEQUENCE] = odd + 1
        except BaseException:
            settle(self.cells, self._seat)
            raise
        finally:
            if undo:
                # The journal names it until it is settled.
                settle(self.cells, self._seat)
                self._give_back(undo, Views())

    def read(self, block: Block, offset: int = 0, count: int | None = None) -> bytes:
        """`count` bytes (to the end when left out) of the block from byte `offset` on, as one write left them.

        Raises `StaleBlockError`, `BusyBlockError` when it was being written every time this looked, and
        `PoolInputError` for bytes that the block has not.
        """
        size = block.size
        if count is None:
            count = size - offset
        if offset < 0 or count < 0 or offset + count > size:
            self._refuse(allocator.OUT_OF_RANGE, block, f"{count} bytes from byte {offset} on")
        cell, generation, numbers = block.cell, block.generation, self._numbers
        sequence = look(self.cells, cell, generation, self.owner) if self.owner >= 0 else self._look(block)
        if sequence >= 0 and not sequence & 1 and numbers[cell + H_SIZE] >> 2 == size:
            start = (cell + UNIT_CELLS) * CELL + offset
            data = self._memory[start : start + count].tobytes()
            if numbers[cell + H_SEQUENCE] == sequence and numbers[cell + H_GENERATION] == generation:
                return data
        # The slow way: the block is being written, or is no block any more.
        again = bytearray(count)
        self._read_into(block, offset, memoryview(again))
        return bytes(again)

    def read_into(self, block: Block, target: Any) -> None:
        """Fill `target` (a writable buffer of the block's size or less) from the block's beginning, as `read` does."""
        into = memoryview(target).cast("B")
        count = len(into)
        if count > block.size:
            self._refuse(allocator.OUT_OF_RANGE, block, f"{count} bytes from byte 0 on")
        self._read_into(block, 0, into)

    def _read_into(self, block: Block, offset: int, into: memoryview) -> None:
        cell, numbers = block.cell, self._numbers
        start = (cell + UNIT_CELLS) * CELL + offset
        for _ in range(READ_ATTEMPTS):
            sequence = self._look(block)
            if sequence < 0:
                self._refuse(sequence, block, "a read")
            if numbers[cell + H_SIZE] >> 2 != block.size:
                self._refuse_other(block)
            if not sequence & 1:
                into[:] = self._memory[start : start + len(into)]
                if numbers[cell + H_SEQUENCE] == sequence and numbers[cell + H_GENERATION] == block.generation:
                    return
        raise self._busy(block)

    def replace(self, block: Block, data: bytes | bytearray | memoryview) -> Block:
        """A new block with `data` and the tier of `block`, which is freed: one copy, never a moment without either."""
        self._check(block)
        new = self.allocate(len(data), self.tier(block))
        try:
            self.write(new, data)
        except BaseException:
            self.free(new)
            raise
        self.free(block)
        return new

    def commit(self, block: Block) -> None:
        """What was put into the block through views is now to survive this process."""
        if self.owner < 0:
            self.must_write()
        code = commit(self.cells, self._seat, block.cell, block.generation, self.owner)
        if code < 0:
            self._refuse(code, block, "a commit")

    def block(self, address: int) -> Block:
        """The block at `address`, whoever it belongs to. Raises `PoolInputError` when there is none."""
        cell, rest = divmod(address - LOGICAL_BASE, CELL) if type(address) is int else (0, 1)
        inside = rest == 0 and 0 < cell < len(self.cells)
        code = self._standing(cell) if inside else allocator.NOT_A_BLOCK
        if code < 0:
            shown = f"{address:#x}" if type(address) is int else repr(address)
            if code in (AMENDED, allocator.CORRUPT):
                raise not_whole(code, f"address {shown}")
            raise PoolInputError(f"address {shown}: {WORDS[code]}; addresses come from Block.address")
        return Block(cell, self._numbers[cell + H_GENERATION], self._numbers[cell + H_SIZE] >> 2)

    def adopt(self, block: Block) -> None:
        """Take over the block of an owner that is gone. Raises `PoolError` while the owner is there."""
        self._check(block)
        self._acquire()
        try:
            former = int(self.cells[block.cell + H_OWNER])
            if former in self._living_owners():
                raise PoolError(f"{block!r} belongs to owner {former}, who is there; only an orphan can be adopted")
            allocator.give(self.cells, block.cell, self.owner)
        finally:
            self._lock.release()

    def tier(self, block: Block) -> str:
        """HOT, WARM, COLD or FROZEN."""
        self._check(block)
        return TIERS[self._numbers[block.cell + H_SIZE] & 3]

    def touch(self, block: Block) -> None:
        """Count an access that the pool does not see, such as one through a view: it warms a block of this owner.

        Raises `StaleBlockError` for a block that was freed.
        """
        code = self._look(block)
        if code < 0:
            self._refuse(code, block, "an access")

    # --- views ------------------------------------------------------------------------------------------------------

    def view(self, block: Block) -> memoryview:
        """The block's bytes, without a copy; writable for its owner only. They raise `ValueError` once it is freed."""
        return self._tracked(block).memory(self._payload(block))

    def array(self, block: Block, dtype: npt.DTypeLike = np.uint8) -> BlockArray:
        """The block as a NumPy array, without a copy; writable for its owner only.

        It raises `StaleBlockError` on use once the block is freed. A size that is no multiple of the type's is cut.
        """
        root = self._tracked(block).root(self._payload(block))
        itemsize = np.dtype(dtype).itemsize
        return BlockArray.over(
            root[: block.size // itemsize * itemsize].view(dtype), self.cells, block.cell, block.generation
        )

    def _payload(self, block: Block) -> memoryview:
        self._check(block)
        start = (block.cell + UNIT_CELLS) * CELL
        payload = self._memory[start : start + block.size]
        return payload if self._numbers[block.cell + H_OWNER] == self.owner else payload.toreadonly()

    def _tracked(self, block: Block) -> Views:
        self._check(block)
        return self._views.setdefault(block.cell, Views())

    def _keep_waiting(self, block: Block, views: Views) -> None:
        """The block is freed for everybody, but its memory waits for the arrays that still look at it."""
        code = allocator.check_block(self.cells, block.cell, self.owner)
        if code < 0 or self.cells[block.cell + H_GENERATION] != block.generation:
            self._views[block.cell] = views
            self._refuse(code if code < 0 else allocator.FREED, block, "freeing")
        self._acquire()
        try:
            waiting = Block(block.cell, allocator.renew(self.cells, block.cell), block.size)
        finally:
            self._lock.release()
        self._waiting.append((waiting, views))

    def release_waiting(self) -> int:
        """Give back the freed blocks whose last array is gone; how many still wait."""
        waiting, self._waiting = self._waiting, []
        for at, (block, views) in enumerate(waiting):
            if not views.release():
                self._waiting.append((block, views))
            elif not self._give_back(block, views):
                # The lock is not to be had; the others would wait as long for it.
                self._waiting += waiting[at + 1 :]
                break
        return len(self._waiting)

    # --- time -------------------------------------------------------------------------------------------------------

    @property
    def now_us(self) -> int:
        """The pool's time, microseconds: heat decays by it. Whoever runs the loop sets it."""
        return self._numbers[B_NOW_US]

    @now_us.setter
    def now_us(self, now_us: int) -> None:
        """Tell the time."""
        self._numbers[B_NOW_US] = now_us

    # --- what goes wrong --------------------------------------------------------------------------------------------

    def _allocate_again(self, code: int, size: int, tier: int) -> int:
        """The slow way: somebody else has the lock, or there is no room before this process's own leavings are gone."""
        self.must_write()
        if code == allocator.OUT_OF_MEMORY:
            waiting = self.release_waiting()
            code = self._locked(code, lambda: int(allocator.allocate(self.cells, size, self.owner, tier)))
            if code == allocator.OUT_OF_MEMORY:
                free = int(self.cells[B_FREE_UNITS]) * UNIT
                held = f"; {waiting} freed blocks wait for arrays that still look at them" if waiting else ""
                raise PoolError(
                    f"no room for {size:,} bytes in one piece ({free:,} bytes are free in all){held}; free blocks, or "
                    "make the pool larger (pool.size_bytes)"
                )
        elif code <= LOCK_REFUSED:
            code = self._locked(code, lambda: int(allocator.allocate(self.cells, size, self.owner, tier)))
            if code == allocator.OUT_OF_MEMORY:
                return self._allocate_again(code, size, tier)
        if code < 0:
            raise PoolError(f"allocating {size:,} bytes in {self.mapping.name}: {WORDS[code]}")
        return code

    def _free_again(self, code: int, block: Block) -> None:
        self.must_write()
        if code <= LOCK_REFUSED:
            code = self._locked(code, lambda: int(release_owned(self.cells, block.cell, block.generation, self.owner)))
        if code < 0:
            self._refuse(code, block, "freeing")

    def _give_back(self, block: Block, views: Views) -> bool:
        """Free a block that nobody asks for any more; one that cannot be freed now waits to be, and is not lost."""
        code = locked_release(self.cells, self._mutex, block.cell, block.generation, self.owner)
        try:
            if code <= LOCK_REFUSED:
                self._locked(code, lambda: int(release_owned(self.cells, block.cell, block.generation, self.owner)))
        except PoolError:
            self._waiting.append((block, views))
            return False
        return True

    def _is_written(self, block: Block, offset: int, count: int) -> bool:
        """Whether the block, which this owner may write there, holds anything. Raises as `write` does."""
        self._check(block)
        if self._numbers[block.cell + H_OWNER] != self.owner:
            self._refuse(allocator.WRONG_OWNER, block, "writing")
        if offset < 0 or offset + count > block.size:
            self._refuse(allocator.OUT_OF_RANGE, block, f"{count} bytes from byte {offset} on")
        return self._numbers[block.cell + H_SEQUENCE] != 0

    def _kept_in_a_block(self, block: Block, offset: int, count: int) -> Block:
        """A new block with the bytes that are about to be replaced."""
        first = offset // CELL * CELL
        length = -(-(offset + count) // CELL) * CELL - first
        try:
            undo = self.allocate(length)
        except PoolError as error:
            raise PoolError(
                f"no room to keep the {length:,} old bytes of {block!r} while they are replaced ({error}); use "
                "replace(), or write less at once"
            ) from error
        try:
            start = (block.cell + UNIT_CELLS) * CELL + first
            to = (undo.cell + UNIT_CELLS) * CELL
            self._memory[to : to + length] = self._memory[start : start + length]
        except BaseException:
            self._give_back(undo, Views())
            raise
        return undo


def _head_is_whole(mapping: Mapping) -> bool:
    """What `recovery.check_superblock` asks, without a kernel: the first one of a process takes a third of a second."""
    head = mapping.cells[: B_CHECK + 1].tolist()
    check = 0
    for cell in head[:B_CHECK]:
        check = _mix32(check ^ (cell & 0xFFFFFFFF))
        check = _mix32(check ^ ((cell >> 32) & 0xFFFFFFFF))
    fixed = [POOL_MAGIC, VERSION, mapping.bytes, SEATS, JOURNAL_BYTES, DATA_CELL, LOGICAL_BASE, check]
    return bool(head == fixed)


def _fill(mapping: Mapping) -> None:
    """Make new memory an empty pool."""
    allocator.format_pool(mapping.cells, mapping.bytes)
    mapping.cells[B_SLOPE] = SLOPE_Q48_PER_US
    Lock(mapping).prepare()
