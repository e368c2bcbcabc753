"""The pool against an obvious model: two owners and a reader on one memory, every operation, every misuse."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from twin.pool import recovery
from twin.pool.block import Block
from twin.pool.errors import PoolError, PoolInputError, StaleBlockError
from twin.pool.layout import SMALLEST_POOL, TIERS, UNIT
from twin.pool.pool import Pool
from twin.pool.survey import blocks, survey

POOL_BYTES = SMALLEST_POOL
PROMOTED_AFTER = 100


@dataclass
class Held:
    """A block as the model knows it: no bytes are one that was never written, no owner one whose owner is gone."""

    size: int
    tier: int
    owner: int | None
    data: bytearray | None = None
    accesses: int = 0

    def put(self, data: bytes, offset: int) -> None:
        if self.data is None:
            self.data = bytearray(self.size)
        self.data[offset : offset + len(data)] = data

    def touch(self) -> None:
        self.accesses += 1
        if self.accesses > PROMOTED_AFTER and self.tier > 0:
            self.tier -= 1


def taken(size: int) -> int:
    """Bytes that a block of `size` takes at least."""
    return UNIT + -(-size // UNIT) * UNIT


def is_stale(use: Callable[[], object]) -> bool:
    """Whether it raises for a freed block. `pytest.raises` would hold on to the array, and thereby to its memory."""
    try:
        use()
    except StaleBlockError:
        return True
    return False


sizes = st.one_of(st.integers(1, 300), st.integers(1, 60_000), st.integers(100_000, POOL_BYTES))
owners = st.integers(0, 1)
fills = st.integers(0, 255)
picks = st.integers(0, 1 << 16)


class PoolAgainstModel(RuleBasedStateMachine):
    """Two owners, numbered 0 and 1, and a reader."""

    def __init__(self) -> None:
        super().__init__()
        first = Pool.create(POOL_BYTES)
        assert first.mapping.fd is not None
        self.pools = [first, Pool.attach(first.mapping.fd, writable=True)]
        self.reader = Pool.attach(first.mapping.fd)
        self.free_bytes = survey(self.reader).free_bytes
        self.model: dict[Block, Held] = {}
        self.gone: list[Block] = []
        self.looking: list[tuple[Block, Any]] = []
        """Arrays that are held, each with its block."""
        self.waiting: list[set[Block]] = [set(), set()]
        """Freed blocks of each owner whose memory waits for arrays."""

    # --- helpers ------------------------------------------------------------------------------------------------------

    def pick(self, number: int, **wanted: Any) -> Block | None:
        found = [block for block, held in self.model.items() if all(getattr(held, k) == v for k, v in wanted.items())]
        return found[number % len(found)] if found else None

    def check_refusal(self, error: PoolError, size: int) -> None:
        """Refused for want of room, with good reason."""
        assert "no room" in str(error)
        assert survey(self.reader).largest_free_bytes < taken(size)

    def forget(self, block: Block) -> None:
        held = self.model.pop(block)
        assert held.owner is not None
        self.gone.append(block)
        if any(each == block for each, _ in self.looking):
            self.waiting[held.owner].add(block)

    @initialize(each=st.lists(st.tuples(owners, st.integers(1, 40_000)), min_size=4, max_size=12))
    def furnish(self, each: list[tuple[int, int]]) -> None:
        """Rules are drawn at random; without blocks to begin with, most would find nothing to do."""
        for who, size in each:
            self.model[self.pools[who].allocate(size)] = Held(size, 1, who)

    # --- owners -------------------------------------------------------------------------------------------------------

    @rule(who=owners, size=sizes, tier=st.sampled_from(range(4)))
    def allocate(self, who: int, size: int, tier: int) -> None:
        try:
            block = self.pools[who].allocate(size, TIERS[tier])
        except PoolError as error:
            self.check_refusal(error, size)
            return
        assert block not in self.model
        self.model[block] = Held(size, tier, who)

    @rule(who=owners, number=picks, offset=st.integers(0, 60_000), count=st.integers(0, 40_000), fill=fills)
    def write(self, who: int, number: int, offset: int, count: int, fill: int) -> None:
        block = self.pick(number, owner=who)
        if block is None:
            return
        held, data = self.model[block], bytes([fill, 255 - fill]) * (count // 2)
        offset %= block.size + 1
        if offset + len(data) > block.size:
            with pytest.raises(PoolInputError, match="do not fit"):
                self.pools[who].write(block, data, offset)
            data = data[: block.size - offset]
        try:
            self.pools[who].write(block, data, offset)
            held.put(data, offset)
        except PoolError as error:
            self.check_refusal(error, len(data) + 16)

    @rule(who=owners, number=picks, size=sizes, fill=fills)
    def replace(self, who: int, number: int, size: int, fill: int) -> None:
        block = self.pick(number, owner=who)
        if block is None:
            return
        held, data = self.model[block], bytes([fill]) * size
        try:
            new = self.pools[who].replace(block, data)
        except PoolError as error:
            self.check_refusal(error, size)
            return
        self.forget(block)
        self.model[new] = Held(size, held.tier, who, bytearray(data))

    @rule(who=owners, number=picks, times=st.sampled_from([1, 1, 1, 60]))
    def read(self, who: int, number: int, times: int) -> None:
        block = self.pick(number)
        if block is None or (held := self.model[block]).data is None:
            return
        half = block.size // 2
        for _ in range(times):
            assert self.pools[who].read(block) == held.data
            assert self.pools[who].read(block, half) == held.data[half:]
            into = bytearray(half)
            self.pools[who].read_into(block, into)
            assert into == held.data[:half]
            for _ in range(3 if held.owner == who else 0):
                held.touch()
        assert self.reader.read(self.reader.block(block.address)) == held.data

    @rule(who=owners, number=picks, value=fills)
    def look_through_views(self, who: int, number: int, value: int) -> None:
        block = self.pick(number)
        if block is None:
            return
        pool, held = self.pools[who], self.model[block]
        view, array = pool.view(block), pool.array(block)
        if held.owner == who:
            if held.data is None:
                view[:] = bytes([value ^ 1]) * block.size
                pool.commit(block)
                held.put(bytes([value ^ 1]) * block.size, 0)
            view[0] = value
            array[-1] = value
            held.put(bytes([value]), 0)
            held.put(bytes([value]), block.size - 1)
        else:
            assert view.readonly
            assert not array.flags.writeable
        assert held.data is None or array.tobytes() == view == held.data
        if held.owner == who:
            self.looking.append((block, array))

    @rule(who=owners, number=picks)
    def free(self, who: int, number: int) -> None:
        block = self.pick(number, owner=who)
        if block is None:
            return
        view = self.pools[who].view(block)
        self.pools[who].free(block)
        self.forget(block)
        with pytest.raises(ValueError, match="released"):
            view[0]
        for array in [each for at, each in self.looking if at == block]:
            assert is_stale(lambda array=array: array[0])
            assert is_stale(lambda array=array: array + 1)

    @rule(who=owners)
    def let_go(self, who: int) -> None:
        """Drop the arrays over freed blocks; until then their memory waits."""
        assert self.pools[who].release_waiting() == len(self.waiting[who])
        self.looking = [(block, array) for block, array in self.looking if block not in self.waiting[who]]
        self.waiting[who].clear()
        assert self.pools[who].release_waiting() == 0

    @rule(who=owners)
    def leave_and_come_back(self, who: int) -> None:
        """What was never written goes with its owner; the rest becomes an orphan."""
        self.looking = [(block, array) for block, array in self.looking if block not in self.waiting[who]]
        for block in [block for block, held in self.model.items() if held.owner == who]:
            self.looking = [(each, array) for each, array in self.looking if each != block]
            if self.model[block].data is None:
                del self.model[block]
                self.gone.append(block)
            else:
                self.model[block].owner = None
        self.waiting[who].clear()
        self.pools[who].close()
        assert self.reader.mapping.fd is not None
        descriptor = os.open(f"/proc/self/fd/{self.reader.mapping.fd}", os.O_RDWR)
        self.pools[who] = Pool.attach(descriptor, writable=True)
        os.close(descriptor)

    @rule(who=owners, number=picks)
    def adopt(self, who: int, number: int) -> None:
        orphan, living = self.pick(number, owner=None), self.pick(number, owner=1 - who)
        if living is not None:
            with pytest.raises(PoolError, match="only an orphan"):
                self.pools[who].adopt(living)
        if orphan is not None:
            self.pools[who].adopt(orphan)
            self.model[orphan].owner = who

    # --- misuse -------------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.gone)
    @rule(who=owners, number=picks)
    def use_after_free(self, who: int, number: int) -> None:
        block, pool = self.gone[number % len(self.gone)], self.pools[who]
        into = bytearray(1)
        for use in (pool.read, pool.free, pool.tier, pool.view, pool.array, pool.adopt, pool.commit, self.reader.read,
                    lambda each: pool.write(each, b"x"), lambda each: pool.replace(each, b"x"),
                    lambda each: pool.read_into(each, into)):  # fmt: skip
            # Where another block begins or none does, the words differ; that it is refused does not.
            with pytest.raises(PoolInputError):
                use(block)

    @rule(who=owners, number=picks)
    def use_anothers(self, who: int, number: int) -> None:
        block = self.pick(number, owner=1 - who)
        if block is None:
            return
        pool = self.pools[who]
        for use in (lambda: pool.write(block, b"x"), lambda: pool.free(block), lambda: pool.commit(block)):
            with pytest.raises(PoolInputError, match="only its owner"):
                use()
        for refused in (lambda: self.reader.free(block), lambda: self.reader.write(block, b"x")):
            with pytest.raises(PoolInputError, match="attached for reading"):
                refused()

    # --- what always holds --------------------------------------------------------------------------------------------

    @invariant()
    def the_pool_is_the_models(self) -> None:
        assert recovery.verify(self.pools[0].cells) == (0, 0)
        seen, found = survey(self.reader), blocks(self.reader)
        numbers = {pool.owner: who for who, pool in enumerate(self.pools)}
        waiting = len(self.waiting[0]) + len(self.waiting[1])
        assert seen.used_blocks == len(found) == len(self.model) + waiting
        assert seen.used_bytes + seen.free_bytes == self.free_bytes
        assert seen.used_bytes == sum(each.taken_bytes for each in found)
        assert 0.0 <= seen.fragmentation <= 1.0
        assert all(a.address + a.taken_bytes <= b.address for a, b in pairwise(found))
        here = {each.address: each for each in found}
        for block, held in self.model.items():
            facts = here.pop(block.address)
            assert (facts.size_bytes, facts.tier, facts.committed) == (
                held.size,
                TIERS[held.tier],
                held.data is not None,
            )
            assert numbers.get(facts.owner) == held.owner
            assert facts.taken_bytes >= taken(held.size)
            assert held.data is None or self.reader.read(block) == held.data
        assert len(here) == waiting

    def teardown(self) -> None:
        self.looking.clear()
        for who, pool in enumerate(self.pools):
            for block, held in list(self.model.items()):
                if held.owner is None:
                    pool.adopt(block)
                    held.owner = who
                if held.owner == who:
                    pool.free(block)
            assert pool.release_waiting() == 0
        seen = survey(self.reader)
        assert (seen.used_blocks, seen.free_blocks, seen.free_bytes) == (0, 1, self.free_bytes)
        assert recovery.verify(self.pools[0].cells) == (0, 0)
        for pool in (*self.pools, self.reader):
            pool.close()


TestPoolAgainstModel = PoolAgainstModel.TestCase
TestPoolAgainstModel.settings = settings(stateful_step_count=50)
