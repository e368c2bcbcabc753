"""The pool's allocator against an obvious model, and the edges of its arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from twin.kernels import Integers
from twin.pool import allocator, recovery
from twin.pool.layout import (
    B_BUSY,
    B_CHECK,
    B_FREE_BLOCKS,
    B_FREE_UNITS,
    B_GENERATION,
    B_MAGIC,
    B_NOW_US,
    CELL,
    CLASSES,
    DATA_CELL,
    FREE,
    H_GENERATION,
    H_HEAT,
    H_OWNER,
    H_PREVIOUS,
    H_SEQUENCE,
    H_SIZE,
    H_STAMP,
    H_WORD,
    LARGEST_POOL,
    LEVELS,
    UNIT,
    UNIT_CELLS,
    USED,
    word_kind,
    word_units,
    write_word,
)

UNITS = 600
OWNER = 3


def new_pool(units: int = UNITS) -> Integers:
    """A pool with `units` between the edges."""
    cells = np.full(DATA_CELL + (units + 2) * UNIT_CELLS, -1, dtype=np.int64)
    assert allocator.format_pool(cells, len(cells) * CELL) == 0
    return cells


def payload(cells: Integers, block: int, size: int) -> np.ndarray:
    """The bytes that a block of `size` may use."""
    return cells.view(np.uint8)[(block + UNIT_CELLS) * CELL :][:size]


def free_lengths(cells: Integers) -> list[int]:
    """Units of all free blocks, by address."""
    rows = np.zeros((len(cells) // UNIT_CELLS, 9), dtype=np.int64)
    count, following = recovery.walk(cells, DATA_CELL + UNIT_CELLS, rows)
    assert following == 0
    return [int(row[2]) for row in rows[:count] if row[1] == FREE]


class Pools(RuleBasedStateMachine):
    """The model: which blocks there are, what was asked for, and the byte that each is filled with."""

    def __init__(self) -> None:
        super().__init__()
        self.cells = new_pool()
        self.model: dict[int, tuple[int, int, int, int]] = {}
        self.generations: set[int] = set()
        self.freed: list[int] = []

    @rule(
        size=st.one_of(st.integers(1, 200), st.integers(1, 8_000), st.integers(1, UNITS * UNIT)),
        tier=st.integers(0, 3),
        owner=st.integers(0, 1 << 40),
        fill=st.integers(0, 255),
    )
    def allocate(self, size, tier, owner, fill) -> None:
        fits = any((units - 1) * UNIT >= size for units in free_lengths(self.cells))
        block = allocator.allocate(self.cells, size, owner, tier)
        if not fits:
            assert block == allocator.OUT_OF_MEMORY
            return
        assert block > 0
        assert block * CELL % UNIT == 0
        for other, (length, *_) in self.model.items():
            apart = block + UNIT_CELLS + -(-size // CELL) <= other or other + UNIT_CELLS + -(-length // CELL) <= block
            assert apart, f"{block} overlaps {other}"
        generation = int(self.cells[block + H_GENERATION])
        assert generation not in self.generations
        self.generations.add(generation)
        payload(self.cells, block, size)[:] = fill
        self.model[block] = (size, tier, owner, fill)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def release(self, data) -> None:
        block = data.draw(st.sampled_from(sorted(self.model)))
        assert allocator.release(self.cells, block) == 0
        del self.model[block]
        self.freed.append(block)

    @precondition(lambda self: self.freed)
    @rule(data=st.data())
    def release_again(self, data) -> None:
        block = data.draw(st.sampled_from(self.freed))
        if block not in self.model:
            before = self.cells.copy()
            assert allocator.release(self.cells, block) < 0
            assert np.array_equal(before, self.cells)

    @rule(block=st.one_of(st.integers(-10, 1 << 40), st.integers(DATA_CELL, DATA_CELL + (UNITS + 3) * UNIT_CELLS)))
    def release_what_is_no_block(self, block) -> None:
        if block not in self.model:
            before = self.cells.copy()
            assert allocator.release(self.cells, block) in (allocator.NOT_A_BLOCK, allocator.FREED)
            assert np.array_equal(before, self.cells)

    @precondition(lambda self: self.model)
    @rule(data=st.data(), owner=st.integers(0, 1 << 40))
    def give(self, data, owner) -> None:
        block = data.draw(st.sampled_from(sorted(self.model)))
        assert allocator.give(self.cells, block, owner) == 0
        size, tier, _, fill = self.model[block]
        self.model[block] = (size, tier, owner, fill)

    @rule()
    def release_everything(self) -> None:
        for block in list(self.model):
            assert allocator.release(self.cells, block) == 0
        self.freed += self.model
        self.model.clear()
        assert free_lengths(self.cells) == [UNITS]

    @invariant()
    def holds_what_was_put_into_it(self) -> None:
        for block, (size, tier, owner, fill) in self.model.items():
            assert allocator.check_block(self.cells, block, owner) == 0
            assert allocator.check_block(self.cells, block, owner + 1) == allocator.WRONG_OWNER
            assert self.cells[block + H_SIZE] == size * 4 + tier
            assert (payload(self.cells, block, size) == fill).all()

    @invariant()
    def is_sound(self) -> None:
        assert recovery.verify(self.cells) == (0, 0)


Pools.TestCase.settings = settings(stateful_step_count=40)
TestPools = Pools.TestCase


@given(st.integers(1, (1 << 32) - 1))
def test_the_highest_bit_is_that_of_python(x) -> None:
    assert allocator.highest_bit(x) == x.bit_length() - 1


@given(st.integers(1, 1 << 30), st.integers(1, 1 << 30))
def test_longer_blocks_never_hang_in_lists_for_shorter_ones(a, b) -> None:
    low, high = sorted((a, b))
    assert 0 < allocator.class_of(low) <= allocator.class_of(high) < LEVELS * CLASSES


@given(st.integers(1, 1 << 30))
def test_every_block_of_the_class_that_fits_is_long_enough_and_the_class_before_has_one_that_is_not(units) -> None:
    fits = allocator.class_that_fits(units)
    assert fits < LEVELS * CLASSES
    assert allocator.class_of(units) <= fits <= allocator.class_of(units) + 1
    # The shortest of a class is where the class number changes.
    assert allocator.class_of(units - 1) < fits if units > 1 else fits == 1
    assert fits == allocator.class_of(units) or allocator.class_of(units) == fits - 1


def test_each_class_holds_what_is_between_its_neighbours() -> None:
    shortest: dict[int, int] = {}
    for units in range(1, 5_000):
        shortest.setdefault(allocator.class_of(units), units)
    assert list(shortest) == list(range(1, len(shortest) + 1))
    for units in range(1, 4_000):
        assert shortest[allocator.class_that_fits(units)] >= units


@pytest.mark.parametrize("wrong", [-1, 1, 63, UNIT])
def test_a_size_that_is_not_that_of_the_cells_makes_no_pool(wrong) -> None:
    cells = np.zeros(DATA_CELL + 10 * UNIT_CELLS, dtype=np.int64)
    assert allocator.format_pool(cells, len(cells) * CELL + wrong) == allocator.OUT_OF_RANGE
    assert not cells.any()


@pytest.mark.parametrize("cells", [0, 1, DATA_CELL, DATA_CELL + 3 * UNIT_CELLS, DATA_CELL + 10 * UNIT_CELLS + 1])
def test_too_few_cells_or_half_a_unit_make_no_pool(cells) -> None:
    memory = np.zeros(cells, dtype=np.int64)
    assert allocator.format_pool(memory, cells * CELL) == allocator.OUT_OF_RANGE
    assert not memory.any()
    assert recovery.verify(memory)[0] == recovery.NOT_A_POOL


@given(st.integers(2, UNITS))
def test_a_request_for_all_that_is_free_succeeds_and_for_a_byte_more_does_not(units) -> None:
    cells = new_pool(units)
    before = cells.copy()
    assert allocator.allocate(cells, (units - 1) * UNIT + 1, OWNER, 1) == allocator.OUT_OF_MEMORY
    assert np.array_equal(cells, before)
    block = allocator.allocate(cells, (units - 1) * UNIT, OWNER, 1)
    assert block == DATA_CELL + UNIT_CELLS
    assert cells[B_FREE_UNITS] == cells[B_FREE_BLOCKS] == 0
    assert recovery.verify(cells) == (0, 0)


def test_a_fitting_hole_is_found_among_shorter_ones_of_its_class() -> None:
    cells = new_pool()
    # Lengths 34 and 35 share a class; a request for 35 finds nothing in the next, and looks through this one.
    lengths = [35] + [34] * 5
    blocks = []
    for length in lengths:
        blocks.append(allocator.allocate(cells, (length - 1) * UNIT, OWNER, 1))
        assert allocator.allocate(cells, 1, OWNER, 1) > 0
    rest = int(max(free_lengths(cells)))
    assert allocator.allocate(cells, (rest - 1) * UNIT, OWNER, 1) > 0
    for block in blocks:
        assert allocator.release(cells, block) == 0
    assert allocator.class_of(34) == allocator.class_of(35) < allocator.class_that_fits(35)
    assert allocator.allocate(cells, 34 * UNIT, OWNER, 1) == blocks[0]


@pytest.mark.parametrize(
    ("size", "owner", "tier", "code"),
    [
        (0, OWNER, 1, allocator.OUT_OF_RANGE),
        (-1, OWNER, 1, allocator.OUT_OF_RANGE),
        (-(1 << 63), OWNER, 1, allocator.OUT_OF_RANGE),
        (1, -1, 1, allocator.OUT_OF_RANGE),
        (1, OWNER, -1, allocator.OUT_OF_RANGE),
        (1, OWNER, 4, allocator.OUT_OF_RANGE),
        (LARGEST_POOL, OWNER, 1, allocator.OUT_OF_MEMORY),
        (LARGEST_POOL + 1, OWNER, 1, allocator.OUT_OF_MEMORY),
        ((1 << 63) - 1, OWNER, 1, allocator.OUT_OF_MEMORY),
    ],
)
def test_what_no_pool_has_gets_a_code_and_changes_nothing(size, owner, tier, code) -> None:
    cells = new_pool()
    before = cells.copy()
    assert allocator.allocate(cells, size, owner, tier) == code
    assert np.array_equal(cells, before)


def test_a_new_block_has_the_header_of_one_that_was_never_written() -> None:
    cells = new_pool()
    cells[B_NOW_US] = 12_345
    cells[B_GENERATION] = 41
    block = allocator.allocate(cells, 65, OWNER, 2)
    assert word_kind(cells[block + H_WORD]) == USED
    assert word_units(cells[block + H_WORD]) == 3
    wanted = {H_SIZE: 65 * 4 + 2, H_OWNER: OWNER, H_GENERATION: 42, H_SEQUENCE: 0, H_HEAT: 0, H_STAMP: 12_345}
    assert {slot: int(cells[block + slot]) for slot in wanted} == wanted
    assert cells[B_BUSY] == 0


def test_a_rest_that_could_hold_nothing_stays_with_its_block() -> None:
    cells = new_pool(10)
    block = allocator.allocate(cells, 8 * UNIT, OWNER, 1)
    assert word_units(cells[block + H_WORD]) == 10
    assert allocator.release(cells, block) == 0
    assert free_lengths(cells) == [10]


@pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 1), (1, 0, 2), (2, 1, 0), (2, 0, 1), (1, 2, 0)])
def test_freed_neighbours_become_one_block_and_their_old_handles_find_nothing(order) -> None:
    cells = new_pool()
    blocks = [allocator.allocate(cells, 100, OWNER, 1) for _ in range(3)]
    kept = allocator.allocate(cells, 100, OWNER, 1)
    for which in order:
        assert allocator.release(cells, blocks[which]) == 0
        assert recovery.verify(cells) == (0, 0)
    assert free_lengths(cells)[0] == 9
    for block in blocks:
        assert allocator.check_block(cells, block, -1) == allocator.FREED
        assert allocator.release(cells, block) == allocator.FREED
    assert allocator.check_block(cells, kept, OWNER) == 0


def test_a_renewed_block_has_a_generation_of_its_own_and_counts_as_never_committed() -> None:
    cells = new_pool()
    block = allocator.allocate(cells, 100, OWNER, 1)
    cells[block + H_SEQUENCE] = 8
    old = int(cells[block + H_GENERATION])
    assert allocator.renew(cells, block) == cells[block + H_GENERATION] == old + 1
    assert cells[block + H_SEQUENCE] == 0
    assert allocator.check_block(cells, block, OWNER) == 0
    assert recovery.verify(cells) == (0, 0)


def test_blocks_that_are_not_there_can_neither_be_given_nor_renewed() -> None:
    cells = new_pool()
    block = allocator.allocate(cells, 100, OWNER, 1)
    before = cells.copy()
    assert allocator.give(cells, block, -1) == allocator.OUT_OF_RANGE
    assert allocator.give(cells, block + UNIT_CELLS, 1) == allocator.NOT_A_BLOCK
    assert allocator.renew(cells, block + 1) == allocator.NOT_A_BLOCK
    assert np.array_equal(cells, before)
    assert allocator.release(cells, block) == 0
    assert allocator.give(cells, block, 1) == allocator.renew(cells, block) == allocator.FREED


@pytest.mark.parametrize("generation", [-1, 1 << 62, (1 << 63) - 1])
def test_generations_never_start_again(generation) -> None:
    cells = new_pool()
    block = allocator.allocate(cells, 100, OWNER, 1)
    cells[B_GENERATION] = generation
    before = cells.copy()
    assert allocator.allocate(cells, 100, OWNER, 1) == allocator.renew(cells, block) == allocator.CORRUPT
    assert np.array_equal(cells, before)


@pytest.mark.parametrize("cell", [*range(B_MAGIC, B_CHECK + 1)])
def test_no_fixed_cell_of_the_superblock_can_change_unnoticed(cell) -> None:
    cells = new_pool()
    assert recovery.check_superblock(len(cells) * CELL, cells) == 0
    assert recovery.check_superblock(len(cells) * CELL + UNIT, cells) == recovery.OTHER_SIZE
    for bit in range(63):
        cells[cell] ^= 1 << bit
        assert recovery.check_superblock(len(cells) * CELL, cells) < 0
        cells[cell] ^= 1 << bit


def test_survey_and_walk_tell_what_is_there() -> None:
    cells = new_pool(100)
    first = allocator.allocate(cells, 100, 1, 0)
    second = allocator.allocate(cells, 1_000, 2, 3)
    third = allocator.allocate(cells, 64, 3, 3)
    assert allocator.release(cells, first) == 0
    cells.flags.writeable = False
    figures = np.full(recovery.FIGURES, -1, dtype=np.int64)
    assert recovery.survey(cells, figures) == 0
    assert figures[: recovery.F_TIER_BLOCKS].tolist() == [2, 17 + 2, 2, 81, 78]
    assert figures[recovery.F_TIER_BLOCKS : recovery.F_TIER_UNITS].tolist() == [0, 0, 0, 2]
    assert figures[recovery.F_TIER_UNITS : recovery.F_LENGTHS].tolist() == [0, 0, 0, 19]
    assert figures[recovery.F_LENGTHS :].nonzero()[0].tolist() == [1, 4]
    assert recovery.fragmentation(figures) == 1.0 - 78 / 81
    rows = np.zeros((2, 9), dtype=np.int64)
    assert recovery.walk(cells, DATA_CELL + UNIT_CELLS, rows) == (2, third)
    assert rows.tolist() == [[first, FREE, 3, 0, 0, 0, 0, 0, 0], [second, USED, 17, 1_000, 3, 2, 0, 0, 2]]
    assert recovery.walk(cells, third, rows) == (2, 0)
    narrow = np.zeros((9, 8), dtype=np.int64)
    assert recovery.walk(cells, third, narrow) == (2, 0)
    assert narrow[0].tolist() == [third, USED, 2, 64, 3, 3, 0, 0]
    assert recovery.walk(cells, third + 1, rows) == (0, 0)


def test_an_empty_or_full_pool_is_not_fragmented() -> None:
    figures = np.zeros(recovery.FIGURES, dtype=np.int64)
    cells = new_pool(10)
    assert recovery.survey(cells, figures) == 0
    assert recovery.fragmentation(figures) == 0.0
    assert allocator.allocate(cells, 9 * UNIT, 1, 1) > 0
    assert recovery.survey(cells, figures) == 0
    assert recovery.fragmentation(figures) == 0.0


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_header_inside_a_longer_free_block_has_no_length_and_cannot_pass_for_the_block_before(order) -> None:
    cells = new_pool()
    blocks = [allocator.allocate(cells, 100, OWNER, 1) for _ in range(3)]
    for which in order:
        assert allocator.release(cells, blocks[which]) == 0
    assert word_units(cells[blocks[1] + H_WORD]) == 0
    assert not allocator.is_free(cells, blocks[1])
    cells[blocks[2] + H_PREVIOUS] = 3
    before = cells.copy()
    assert allocator.release(cells, blocks[2]) == allocator.CORRUPT
    assert np.array_equal(cells, before)


def test_recovery_leaves_no_length_in_headers_inside_a_longer_free_block() -> None:
    cells = new_pool()
    blocks = [allocator.allocate(cells, 100, OWNER, 1) for _ in range(3)]
    assert recovery.recover(cells, np.array([OWNER], dtype=np.int64)) == (0, 0)
    assert free_lengths(cells) == [UNITS]
    assert [int(word_units(cells[block + H_WORD])) for block in blocks] == [UNITS, 0, 0]


def test_a_block_whose_follower_does_not_know_it_is_neither_freed_nor_allocated() -> None:
    cells = new_pool()
    block, follower = (allocator.allocate(cells, 100, OWNER, 1) for _ in range(2))
    cells[follower + H_PREVIOUS] = 2
    before = cells.copy()
    assert allocator.release(cells, block) == allocator.CORRUPT
    assert np.array_equal(cells, before)
    cells[follower + H_PREVIOUS] = 3
    cells[len(cells) - UNIT_CELLS + H_PREVIOUS] += 1
    before = cells.copy()
    assert allocator.allocate(cells, 100, OWNER, 1) == allocator.CORRUPT
    assert np.array_equal(cells, before)


@pytest.mark.parametrize("generation", [0, -5, 1 << 62])
def test_recovery_raises_the_last_generation_above_those_in_use(generation) -> None:
    cells = new_pool()
    blocks = [allocator.allocate(cells, 100, OWNER, 1) for _ in range(3)]
    cells[B_GENERATION] = generation
    assert recovery.verify(cells) == (allocator.CORRUPT, B_GENERATION)
    assert recovery.recover(cells, np.zeros(0, dtype=np.int64)) == (0, 0)
    new = allocator.allocate(cells, 100, OWNER, 1)
    assert cells[new + H_GENERATION] == 1 + max(int(cells[block + H_GENERATION]) for block in blocks)


@pytest.mark.parametrize("beyond", [1, 2, 1_000, (1 << 30) - 1 - UNITS])
def test_a_block_that_says_it_ends_behind_the_last_edge_is_named(beyond) -> None:
    cells = new_pool()
    block = allocator.allocate(cells, (UNITS - 1) * UNIT, OWNER, 1)
    # Its checksum is right, so that only its end tells.
    write_word(cells, block, USED, UNITS + beyond)
    before = cells.copy()
    assert recovery.verify(cells) == (allocator.CORRUPT, block)
    assert recovery.recover(cells, np.zeros(0, dtype=np.int64)) == (allocator.CORRUPT, block)
    assert allocator.release(cells, block) == allocator.check_block(cells, block, -1) == allocator.CORRUPT
    assert np.array_equal(cells, before)
