"""A pool killed at any store is whole after recovery; a damaged one gives a code, never a crash, a hang or more harm.

The kernels run interpreted here, on cells that look at every index and can die before any store, and compiled with
numba's own check of bounds.
"""

from __future__ import annotations

import importlib
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from profiles import NIGHTLY

import twin.pool
from twin import kernels
from twin.kernels import Integers
from twin.pool import allocator, recovery
from twin.pool.layout import (
    B_AMENDED,
    B_BUSY,
    B_GENERATION,
    B_HEADS,
    B_MUTEX,
    B_RECOVERIES,
    CELL,
    DATA_CELL,
    FREE,
    H_BEFORE,
    H_GENERATION,
    H_NEXT,
    H_OWNER,
    H_PREVIOUS,
    H_SEQUENCE,
    H_SIZE,
    H_WORD,
    SEATS_CELL,
    SUPERBLOCK_CELLS,
    UNIT_CELLS,
    USED,
    write_word,
)

NONE = np.zeros(0, dtype=np.int64)
FIRST = DATA_CELL + UNIT_CELLS
EXAMPLES = 5_000 if NIGHTLY else 500


def interpreted() -> tuple[ModuleType, ModuleType]:
    """The allocator and the recovery as plain Python, whatever mode the others are in."""
    names = [f"twin.pool.{name}" for name in ("layout", "lock", "allocator", "chain", "recovery")]
    kept = {name: sys.modules.pop(name, None) for name in names}
    mode, kernels.MODE = kernels.MODE, "python"
    try:
        made = [importlib.import_module(name) for name in names]
    finally:
        kernels.MODE = mode
        for name, module in kept.items():
            if module is None:
                sys.modules.pop(name, None)
            else:
                sys.modules[name] = module
                setattr(twin.pool, name.rpartition(".")[2], module)
    return made[2], made[4]


PLAIN_ALLOCATOR, PLAIN_RECOVERY = interpreted()


def new_pool(units: int) -> Integers:
    """A pool with `units` between the edges."""
    cells = np.zeros(DATA_CELL + (units + 2) * UNIT_CELLS, dtype=np.int64)
    assert allocator.format_pool(cells, len(cells) * CELL) == 0
    return cells


def chain(cells: Any, kind: int) -> list[int]:
    """The cells of all blocks of that kind, by address."""
    rows = np.zeros((len(cells) // UNIT_CELLS, 9), dtype=np.int64)
    count, following = PLAIN_RECOVERY.walk(cells, FIRST, rows)
    assert following == 0
    return [int(row[0]) for row in rows[:count] if row[1] == kind]


# --- killed at any store ----------------------------------------------------------------------------------------------


class KilledError(Exception):
    """The process died here."""


class Mortal:
    """Cells that die before store number `left`, and can go back to how they were at an earlier `mark`."""

    def __init__(self, cells: Integers) -> None:
        self.cells = cells.tolist()
        self.left = -1
        self.before: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return len(self.cells)

    def __getitem__(self, at: int) -> int:
        assert 0 <= at < len(self.cells)
        return self.cells[at]

    def __setitem__(self, at: int, value: int) -> None:
        assert 0 <= at < len(self.cells)
        assert -(1 << 63) <= value < 1 << 63
        if self.left == 0:
            raise KilledError
        self.left -= 1
        self.before.append((at, self.cells[at]))
        self.cells[at] = int(value)

    def mark(self) -> int:
        return len(self.before)

    def back_to(self, mark: int) -> None:
        while len(self.before) > mark:
            at, value = self.before.pop()
            self.cells[at] = value

    def killed_at(self, store: int, operation: Callable[[], Any]) -> bool:
        """Run until that many stores are done; whether it was killed."""
        self.left = store
        try:
            operation()
        except KilledError:
            return True
        finally:
            self.left = -1
        return False


class Facts:
    """What the model knows of a block: owner, generation, bytes asked for, and what fills it (0: not committed)."""

    def __init__(self, owner: int, generation: int, size: int, fill: int) -> None:
        self.owner, self.generation, self.size, self.fill = owner, generation, size, fill

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Facts) and vars(self) == vars(other)

    def __repr__(self) -> str:
        return str(vars(self))


def look(cells: Mortal, block: int) -> Facts:
    """A block as it stands in the pool; a payload that is torn is none of the model's."""
    size = cells[block + H_SIZE] >> 2
    fill = 0
    if cells[block + H_SEQUENCE]:
        filled = {cells[block + UNIT_CELLS + i] for i in range((size + CELL - 1) // CELL)}
        fill = filled.pop() if len(filled) == 1 else -1
    return Facts(cells[block + H_OWNER], cells[block + H_GENERATION], size, fill)


class History:
    """Random operations of two owners; each is killed before each of its stores, and then done."""

    UNITS = 60

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.cells = Mortal(new_pool(self.UNITS))
        self.model: dict[int, Facts] = {}
        self.kills = 0
        self.recovery_kills = 0

    def step(self, deep_every: int) -> None:
        """One operation. Of every so many of its deaths one is followed by deaths at all stores of the recovery."""
        cells, actor = self.cells, self.chance.choice((1, 2))
        operation, target, allowed = self.choose(actor)
        dead = np.array([actor], dtype=np.int64)
        mark = cells.mark()
        store = 0
        while cells.killed_at(store, operation):
            self.kills += 1
            if self.kills % deep_every == 0:
                self.kill_recovery(dead, target, allowed)
            self.check_recovered(dead, target, allowed)
            cells.back_to(mark)
            store += 1
        assert PLAIN_RECOVERY.verify(cells) == (0, 0)
        cells.before.clear()
        self.model = {block: look(cells, block) for block in chain(cells, USED)}

    def choose(self, actor: int) -> tuple[Callable[[], Any], int, tuple[Facts | None, ...]]:
        """An operation, the block that it is about, and what may be there (None: nothing) when it was killed."""
        cells, chance = self.cells, self.chance
        own = [block for block, facts in self.model.items() if facts.owner == actor]
        what = chance.random()
        if not own or what < 0.35:
            size = chance.choice((1, 64, 65, 150, 300, 700))
            return (lambda: PLAIN_ALLOCATOR.allocate(cells, size, actor, 1)), 0, ()
        block = chance.choice(own)
        facts = self.model[block]
        before = facts if facts.fill else None
        if what < 0.5 and not facts.fill:
            fill = chance.randrange(1, 1 << 60)

            def commit() -> None:
                for i in range((facts.size + CELL - 1) // CELL):
                    cells[block + UNIT_CELLS + i] = fill
                cells[block + H_SEQUENCE] = 2

            return commit, block, (before,)
        if what < 0.6 and facts.fill:
            given = Facts(3 - actor, facts.generation, facts.size, facts.fill)
            return (lambda: PLAIN_ALLOCATOR.give(cells, block, 3 - actor)), block, (before, given)
        if what < 0.65:
            return (lambda: PLAIN_ALLOCATOR.renew(cells, block)), block, (before, None)
        return (lambda: PLAIN_ALLOCATOR.release(cells, block)), block, (before, None)

    def kill_recovery(self, dead: Integers, target: int, allowed: tuple[Facts | None, ...]) -> None:
        mark = self.cells.mark()
        store = 0
        while self.cells.killed_at(store, lambda: PLAIN_RECOVERY.recover(self.cells, dead)):
            self.recovery_kills += 1
            self.check_recovered(dead, target, allowed)
            self.cells.back_to(mark)
            store += 1
        self.cells.back_to(mark)

    def check_recovered(self, dead: Integers, target: int, allowed: tuple[Facts | None, ...]) -> None:
        """Recover; then the pool is sound and holds what it has to, and nothing else."""
        cells = self.cells
        assert PLAIN_RECOVERY.recover(cells, dead) == (0, 0)
        assert PLAIN_RECOVERY.verify(cells) == (0, 0)
        found = {block: look(cells, block) for block in chain(cells, USED)}
        if target:
            there = found.pop(target, None)
            assert there in allowed, f"{there} instead of one of {allowed}"
        # What the dead owner never committed is gone, what the living one did not is there.
        kept = {
            at: facts for at, facts in self.model.items() if at != target and (facts.fill or facts.owner != dead[0])
        }
        assert found == kept


@pytest.mark.parametrize("seed", range(20 if NIGHTLY else 2))
def test_killed_at_any_store_no_committed_block_is_lost_and_nothing_leaks(seed) -> None:
    history = History(seed)
    for _ in range(150):
        history.step(deep_every=29)
    print(f"seed {seed}: killed {history.kills} times, and {history.recovery_kills} times while recovering")
    assert history.kills > 2_000
    assert history.recovery_kills > 2_000


# --- the same bits ----------------------------------------------------------------------------------------------------


def scrambled(units: int, seed: int, steps: int = 120, made: ModuleType = allocator) -> Integers:
    """A pool after random allocations and releases, some blocks committed, each filled with its own cell."""
    chance = random.Random(seed)
    cells = new_pool(units)
    live: list[int] = []
    for _ in range(steps):
        if chance.random() < 0.6 or not live:
            size = int(chance.choice((1, 64, 100, 500, 3_000)) * chance.uniform(0.5, 1.0)) + 1
            block = made.allocate(cells, size, chance.randrange(1, 4), chance.randrange(4))
            if block > 0:
                live.append(block)
                cells[block + UNIT_CELLS : block + UNIT_CELLS + (size + CELL - 1) // CELL] = block
                cells[block + H_SEQUENCE] = 2 * chance.randrange(2)
        else:
            assert made.release(cells, live.pop(chance.randrange(len(live)))) == 0
    return cells


@pytest.mark.parametrize("seed", range(4))
def test_compiled_and_interpreted_leave_the_same_bits(seed) -> None:
    compiled, plain = scrambled(300, seed), scrambled(300, seed, made=PLAIN_ALLOCATOR)
    assert np.array_equal(compiled, plain)
    dead = np.array([1, 3], dtype=np.int64)
    assert recovery.recover(compiled, dead) == PLAIN_RECOVERY.recover(plain, dead) == (0, 0)
    assert np.array_equal(compiled, plain)
    assert recovery.verify(compiled) == PLAIN_RECOVERY.verify(plain) == (0, 0)


# --- damaged ----------------------------------------------------------------------------------------------------------


class Guarded:
    """Cells that raise for an index outside them, negative ones too. NumPy's numbers, so that none overflows unseen."""

    def __init__(self, cells: Integers) -> None:
        self.cells = cells

    def __len__(self) -> int:
        return len(self.cells)

    def __getitem__(self, at: int) -> np.int64:
        assert 0 <= at < len(self.cells)
        return self.cells[at]

    def __setitem__(self, at: int, value: int) -> None:
        assert 0 <= at < len(self.cells)
        self.cells[at] = value


def places(cells: Integers, headers: bool) -> list[int]:
    """The cells worth damaging: superblock and seats, links and lengths; with `headers` also whole headers."""
    found = [*range(B_MUTEX, SUPERBLOCK_CELLS + 16), SEATS_CELL + 1]
    for block in [DATA_CELL, *chain(cells, USED), *chain(cells, FREE), len(cells) - UNIT_CELLS]:
        found += [block + H_PREVIOUS] if cells[block + H_SEQUENCE] else []
        if headers:
            found += [block + slot for slot in range(UNIT_CELLS)]
    for block in chain(cells, FREE):
        found += [block + H_NEXT, block + H_BEFORE, block + H_PREVIOUS]
    return found + ([*range(B_MUTEX)] if headers else [])


def attack(cells: Integers, wrap: Callable[[Integers], Any], made: tuple[ModuleType, ModuleType]) -> Iterator[str]:
    """Do everything that can be done to a damaged pool; what failed. A code below 0 has to have changed nothing."""
    maker, mender = made
    guarded = wrap(cells)
    figures = np.zeros(recovery.FIGURES, dtype=np.int64)
    rows = np.zeros((64, 9), dtype=np.int64)
    dead = np.array([1, -7], dtype=np.int64)
    starts = [FIRST + unit * UNIT_CELLS for unit in range(-2, (len(cells) - DATA_CELL) // UNIT_CELLS + 2, 3)]
    operations: list[tuple[str, Callable[[], int]]] = [
        ("superblock", lambda: mender.check_superblock(len(cells) * CELL, guarded)),
        ("verify", lambda: mender.verify(guarded)[0]),
        ("survey", lambda: mender.survey(guarded, figures)),
    ]
    operations += [(f"walk {at}", lambda at=at: min(0, mender.walk(guarded, at, rows)[0])) for at in starts]
    for size in (1, 700, 5_000):
        operations.append((f"allocate {size}", lambda size=size: maker.allocate(guarded, size, 2, 1)))
    for at in starts:
        operations.append((f"check {at}", lambda at=at: maker.check_block(guarded, at, 2)))
        operations.append((f"give {at}", lambda at=at: maker.give(guarded, at, 2)))
        operations.append((f"release {at}", lambda at=at: maker.release(guarded, at)))
    operations.append(("recover", lambda: mender.recover(guarded, dead)[0]))
    for name, operation in operations:
        before = cells.copy()
        if operation() < 0 and not np.array_equal(before, cells):
            yield name


flips = st.lists(
    st.tuples(
        st.integers(0, 1 << 20),
        st.one_of(st.integers(0, 62).map(lambda bit: 1 << bit), st.integers(-(1 << 63), (1 << 63) - 1)),
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=EXAMPLES)
@given(st.integers(0, 5), flips)
def test_whatever_is_damaged_nothing_raises_or_hangs_and_a_code_changes_nothing(seed, damage) -> None:
    cells = scrambled(80, seed)
    where = places(cells, headers=True)
    for place, mask in damage:
        cells[where[place % len(where)]] ^= np.int64(mask)
    with np.errstate(all="raise"):
        assert not list(attack(cells, Guarded, (PLAIN_ALLOCATOR, PLAIN_RECOVERY)))


@settings(max_examples=EXAMPLES)
@given(st.integers(0, 5), flips)
def test_what_recovery_makes_again_may_be_anything_and_no_intact_block_is_harmed(seed, damage) -> None:
    cells = scrambled(80, seed)
    where = places(cells, headers=False)
    used = chain(cells, USED)
    ends = {block: block + int(cells[block + H_WORD] & ((1 << 30) - 1)) * UNIT_CELLS for block in used}
    intact = {block: cells[block + UNIT_CELLS : end].copy() for block, end in ends.items()}
    generation = int(cells[B_GENERATION])
    for place, mask in damage:
        cells[where[place % len(where)]] ^= np.int64(mask)
    new = []
    for size in (1, 100, 700):
        block = allocator.allocate(cells, size, 1, 1)
        assert block not in used
        if block > 0:
            new.append(block)
            cells[block + UNIT_CELLS : block + UNIT_CELLS + (size + CELL - 1) // CELL] = -1
    for block in used[::3]:
        if allocator.release(cells, block) == 0:
            del intact[block]
    assert recovery.recover(cells, NONE) == (0, 0)
    assert recovery.verify(cells) == (0, 0)
    assert chain(cells, USED) == sorted([*intact, *new])
    assert cells[B_GENERATION] >= max((int(cells[block + H_GENERATION]) for block in intact), default=0)
    assert generation >= 0
    for block, content in intact.items():
        assert np.array_equal(cells[block + UNIT_CELLS : ends[block]], content)


def fuzz(seed: int, rounds: int) -> None:
    """Damage pools at random, and do everything to them with the compiled kernels."""
    chance = random.Random(seed)
    pools = [scrambled(80, number) for number in range(6)]
    for _ in range(rounds):
        cells = chance.choice(pools).copy()
        where = places(cells, headers=True)
        for _ in range(chance.randrange(1, 6)):
            mask = 1 << chance.randrange(63) if chance.random() < 0.7 else chance.getrandbits(63) - (1 << 62)
            cells[chance.choice(where)] ^= np.int64(mask)
        assert not list(attack(cells, lambda cells: cells, (allocator, recovery)))


def test_compiled_kernels_stay_inside_their_cells(tmp_path) -> None:
    if kernels.MODE == "python":
        pytest.skip("nothing is compiled")
    environment = {**os.environ, "NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str(tmp_path)}
    environment["PYTHONPATH"] = str(Path(__file__).parent)
    rounds = 20_000 if NIGHTLY else 300
    program = f"import test_pool_recovery; test_pool_recovery.fuzz(1, {rounds})"
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# --- by hand ----------------------------------------------------------------------------------------------------------


def three_blocks() -> tuple[Integers, list[int]]:
    """A pool with three blocks of owner 1, the middle one committed."""
    cells = new_pool(100)
    blocks = [allocator.allocate(cells, 100, 1, 1) for _ in range(3)]
    cells[blocks[1] + H_SEQUENCE] = 2
    return cells, blocks


def test_recovery_frees_what_the_dead_never_committed_and_nothing_else() -> None:
    cells, blocks = three_blocks()
    assert recovery.recover(cells, np.array([2], dtype=np.int64)) == (0, 0)
    assert chain(cells, USED) == blocks
    assert recovery.recover(cells, np.array([2, 1], dtype=np.int64)) == (0, 0)
    assert chain(cells, USED) == blocks[1:2]
    assert allocator.check_block(cells, blocks[0], -1) == allocator.check_block(cells, blocks[2], -1) == allocator.FREED
    assert recovery.verify(cells) == (0, 0)
    assert cells[B_RECOVERIES] == 2


@given(st.integers(0, 7), st.integers(0, 30), st.lists(st.integers(0, 1 << 20), max_size=4))
def test_a_repair_is_the_same_however_many_blocks_it_can_note(seed, most, wrong) -> None:
    cells = scrambled(300, seed)
    everything = chain(cells, USED) + chain(cells, FREE)
    for number in wrong:
        cells[everything[number % len(everything)] + H_PREVIOUS] += 1 + number
    cells[B_HEADS : B_HEADS + 40] = 0
    dead = np.array([1, 3], dtype=np.int64)
    noted, unnoted = cells.copy(), cells.copy()
    assert recovery.repair(noted, dead, np.empty(2 * most, dtype=np.int64)) == (0, 0)
    assert recovery.repair(unnoted, dead, NONE) == (0, 0)
    assert recovery.recover(cells, dead) == recovery.verify(cells) == (0, 0)
    assert np.array_equal(noted, cells)
    assert np.array_equal(unnoted, cells)


def test_a_broken_chain_is_left_as_it_is_and_named() -> None:
    cells, blocks = three_blocks()
    cells[B_BUSY] = 1
    cells[blocks[1] + H_OWNER] ^= 4
    before = cells.copy()
    assert recovery.recover(cells, NONE) == recovery.verify(cells) == (allocator.CORRUPT, blocks[1])
    assert np.array_equal(cells, before)


@pytest.mark.parametrize("edge", [0, 1])
def test_a_missing_edge_is_named(edge) -> None:
    cells, _ = three_blocks()
    at = (DATA_CELL, len(cells) - UNIT_CELLS)[edge]
    cells[at + H_WORD] = 0
    assert recovery.recover(cells, NONE) == recovery.verify(cells) == (allocator.CORRUPT, at)


def test_verify_notices_each_thing_that_recovery_makes_again() -> None:
    cells, blocks = three_blocks()
    assert allocator.release(cells, blocks[0]) == 0
    assert recovery.verify(cells) == (0, 0)
    unnoticed = []
    free = chain(cells, FREE)
    looked_at = [*range(24, 31), B_AMENDED, *range(64, SUPERBLOCK_CELLS)]
    looked_at += [block + H_PREVIOUS for block in (*chain(cells, USED), *free, len(cells) - UNIT_CELLS)]
    looked_at += [block + slot for block in free for slot in (H_NEXT, H_BEFORE)]
    for at in looked_at:
        cells[at] ^= 1 << 61
        if recovery.verify(cells)[0] == 0:
            unnoticed.append(at)
        cells[at] ^= 1 << 61
    # The last generation may be any that is not below those in use, and the last owner any at all; slots of the
    # superblock between the bits and the heads hold nothing.
    assert set(unnoticed) <= {B_GENERATION, 25, *range(97, B_HEADS)}


def test_verify_notices_two_free_blocks_side_by_side() -> None:
    cells, blocks = three_blocks()
    write_word(cells, blocks[0], FREE, 3)
    write_word(cells, blocks[1], FREE, 3)
    code, where = recovery.verify(cells)
    assert (code, where) == (allocator.CORRUPT, blocks[1])
