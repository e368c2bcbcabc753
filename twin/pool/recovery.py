"""What goes through all blocks of a pool: check it, repair it after a death, count it, list it.

All of it bears any contents: nothing outside the cells is looked at, and every loop ends.

Bounds. As in the allocator: what is read from the pool is compared with its range before anything is computed from it.
"""

from __future__ import annotations

import numpy as np

from twin.kernels import Integers, kernel
from twin.pool.allocator import (
    CORRUPT,
    LAST_GENERATION,
    bump,
    class_of,
    insert,
    is_free,
    last_edge,
    superblock_check,
)
from twin.pool.chain import check_chain, check_edges, is_half_amended, units_in_chain
from twin.pool.layout import (
    B_AMENDED,
    B_AMENDED_GENERATION,
    B_AMENDED_OWNER,
    B_BASE,
    B_BUSY,
    B_BYTES,
    B_CHECK,
    B_DATA,
    B_FREE_BLOCKS,
    B_FREE_UNITS,
    B_GENERATION,
    B_HEADS,
    B_JOURNAL,
    B_LEVELS,
    B_MAGIC,
    B_RECOVERIES,
    B_SEATS,
    B_SLOTS,
    B_USED_BLOCKS,
    B_USED_UNITS,
    B_VERSION,
    CELL,
    CLASSES,
    DATA_CELL,
    FREE,
    H_BEFORE,
    H_GENERATION,
    H_HEAT,
    H_NEXT,
    H_OWNER,
    H_PREVIOUS,
    H_SEQUENCE,
    H_SIZE,
    H_WORD,
    JOURNAL_BYTES,
    LEVELS,
    LOGICAL_BASE,
    POOL_MAGIC,
    SEATS,
    UNIT_CELLS,
    USED,
    VERSION,
    word_kind,
    word_units,
    write_word,
)
from twin.pool.lock import fence

NOT_A_POOL = -7
"""The first cell is not `POOL_MAGIC`, or there are too few cells."""
OTHER_VERSION = -8
OTHER_SIZE = -9
"""The pool says that it has another length than the memory it lies in."""

F_USED_BLOCKS, F_USED_UNITS, F_FREE_BLOCKS, F_FREE_UNITS, F_LARGEST_FREE_UNITS = range(5)
"""Figures of `survey`: blocks, units of 64 bytes (headers included), and the longest free block."""
F_TIER_BLOCKS = 5
"""Four figures: used blocks of each tier, HOT first."""
F_TIER_UNITS = 9
"""Four figures: units of each tier."""
F_LENGTHS = 13
"""32 figures: number i counts the used blocks of 2^i to 2^(i+1) - 1 units."""
FIGURES = F_LENGTHS + 32


# --- checking ---------------------------------------------------------------------------------------------------------


@kernel
def check_superblock(size_bytes: int, cells: Integers) -> int:
    """0 when the pool in `cells` is one of this version, made for `size_bytes`, which `cells` has; else a code."""
    if len(cells) < DATA_CELL + 3 * UNIT_CELLS or cells[B_MAGIC] != POOL_MAGIC:
        return NOT_A_POOL
    if cells[B_VERSION] != VERSION:
        return OTHER_VERSION
    if cells[B_CHECK] != superblock_check(cells):
        return CORRUPT
    if cells[B_BYTES] != size_bytes or size_bytes != len(cells) * CELL:
        return OTHER_SIZE
    if cells[B_SEATS] != SEATS or cells[B_JOURNAL] != JOURNAL_BYTES or cells[B_DATA] != DATA_CELL:
        return CORRUPT
    return 0 if cells[B_BASE] == LOGICAL_BASE else CORRUPT


@kernel
def verify(cells: Integers) -> tuple[int, int]:
    """Check everything that can be wrong with a pool at rest: (0, 0), or a code and the cell that it speaks of.

    To be called with the lock held, or while nobody writes.
    """
    code = check_superblock(len(cells) * CELL, cells)
    if code != 0:
        return code, 0
    code, where, highest = check_chain(cells)
    if code != 0:
        return code, where
    if cells[B_BUSY] != 0:
        return CORRUPT, B_BUSY
    if cells[B_AMENDED] != 0:
        return CORRUPT, B_AMENDED
    if highest > cells[B_GENERATION] or cells[B_GENERATION] >= LAST_GENERATION:
        return CORRUPT, B_GENERATION
    where, free_blocks, free_units = check_neighbours(cells)
    if where != 0:
        return CORRUPT, where
    where, listed_blocks, listed_units = check_lists(cells, free_blocks)
    if where != 0:
        return CORRUPT, where
    # As many as there are, as long as they are, and each linked to its neighbours: these are the free blocks.
    if listed_blocks != free_blocks or listed_units != free_units:
        return CORRUPT, B_HEADS
    return 0, 0


@kernel
def check_neighbours(cells: Integers) -> tuple[int, int, int]:
    """Whether, in a sound chain, each block knows the one before, no two free lie side by side, the counters are right.

    Returns the cell of what is wrong (0: nothing), free blocks and free units.
    """
    last = last_edge(cells)
    used_blocks = used_units = free_blocks = free_units = 0
    previous = 1
    was_free = False
    block = DATA_CELL + UNIT_CELLS
    while block < last:
        units = units_in_chain(cells, block)
        if units == 0 or cells[block + H_PREVIOUS] != previous:
            return block, 0, 0
        is_used = word_kind(cells[block + H_WORD]) == USED
        if is_used:
            used_blocks += 1
            used_units += units
        else:
            if was_free:
                return block, 0, 0
            free_blocks += 1
            free_units += units
        was_free = not is_used
        previous = units
        block += units * UNIT_CELLS
    if cells[last + H_PREVIOUS] != previous:
        return last, 0, 0
    if cells[B_USED_BLOCKS] != used_blocks or cells[B_USED_UNITS] != used_units:
        return B_USED_BLOCKS, 0, 0
    if cells[B_FREE_BLOCKS] != free_blocks or cells[B_FREE_UNITS] != free_units:
        return B_FREE_BLOCKS, 0, 0
    return 0, free_blocks, free_units


@kernel
def check_lists(cells: Integers, most: int) -> tuple[int, int, int]:
    """Whether lists and bits agree, no list being longer than `most`: what is wrong (0: nothing), blocks, units."""
    blocks = units = levels = 0
    for level in range(LEVELS):
        slots = 0
        for slot in range(CLASSES):
            index = level * CLASSES + slot
            before = 0
            block = cells[B_HEADS + index]
            slots |= int(block != 0) << slot
            while block != 0:
                if blocks == most or not is_free(cells, block) or cells[block + H_BEFORE] != before:
                    return B_HEADS + index, 0, 0
                length = word_units(cells[block + H_WORD])
                if class_of(length) != index:
                    return B_HEADS + index, 0, 0
                blocks += 1
                units += length
                before = block
                block = cells[block + H_NEXT]
        if cells[B_SLOTS + level] != slots:
            return B_SLOTS + level, 0, 0
        levels |= int(slots != 0) << level
    if cells[B_LEVELS] != levels:
        return B_LEVELS, 0, 0
    return 0, blocks, units


# --- repairing --------------------------------------------------------------------------------------------------------


NOTES = 1 << 20
"""Blocks that a repair can note; where there are more, it looks at the rest twice."""


def recover(cells: Integers, dead: Integers) -> tuple[int, int]:
    """Make a pool whole whose users died at any instruction: (0, 0), or a code and the cell that is damaged.

    `dead` has the numbers of the owners that died; their blocks that were never committed are freed. The lock is held.
    A code means that nothing was written. It may be killed at any store, and done again.
    """
    most = min(NOTES, len(cells) // UNIT_CELLS)
    code, where = repair(cells, dead, np.empty(2 * most, dtype=np.int64))
    return int(code), int(where)


@kernel
def repair(cells: Integers, dead: Integers, notes: Integers) -> tuple[int, int]:
    """`recover`, with two cells of `notes` for each block that it can note.

    The first look at a block checks it and notes it where something is to be done about it; only these are looked at
    again, because fetching a header from memory is what takes the time.
    """
    code, where, highest, noted, behind, previous, used_blocks, used_units = take_notes(cells, dead, notes)
    if code != 0:
        return code, where
    cells[B_BUSY] = 1
    fence()
    complete_amendment(cells)
    if highest > cells[B_GENERATION] or cells[B_GENERATION] >= LAST_GENERATION:
        cells[B_GENERATION] = highest
    # Only what is not 0, so that pages nobody needed stay as they are.
    for i in range(B_LEVELS, B_HEADS + LEVELS * CLASSES):
        if cells[i] != 0:
            cells[i] = 0
    last = last_edge(cells)
    free_blocks = free_units = 0
    end = length = 0
    i = 0
    block = notes[0] if noted > 0 else behind
    while block < last:
        # Of a noted block the units before it were noted; of others, and behind a join, they are those just passed.
        if block == end:
            before = length
        elif i < noted:
            before = notes[2 * i + 1]
        else:
            before = previous
        length = word_units(cells[block + H_WORD])
        if stays_used(cells, block, dead):
            used_blocks += 1
            used_units += length
        else:
            length = join_free(cells, block, dead)
            free_blocks += 1
            free_units += length
            insert(cells, block)
        if cells[block + H_PREVIOUS] != before:
            cells[block + H_PREVIOUS] = before
        end = block + length * UNIT_CELLS
        # The block behind may be one that is not noted.
        if cells[end + H_PREVIOUS] != length:
            cells[end + H_PREVIOUS] = length
        while i < noted and notes[2 * i] < end:
            i += 1
        block = notes[2 * i] if i < noted else max(end, behind)
    if cells[last + H_PREVIOUS] != (length if end == last else previous):
        cells[last + H_PREVIOUS] = length if end == last else previous
    cells[B_USED_BLOCKS] = used_blocks
    cells[B_USED_UNITS] = used_units
    cells[B_FREE_BLOCKS] = free_blocks
    cells[B_FREE_UNITS] = free_units
    bump(cells, B_RECOVERIES, 1)
    fence()
    cells[B_BUSY] = 0
    return 0, 0


@kernel
def take_notes(cells: Integers, dead: Integers, notes: Integers) -> tuple[int, int, int, int, int, int, int, int]:
    """`check_chain`, and what a repair has to know: its three numbers, then how many blocks are noted, where the rest
    begins that there was no room to note (the last edge: nowhere), the units of the block before that, and blocks and
    units of those used blocks before the rest that are not noted.

    Noted are, each with the units of the block before it, blocks that are free or to be freed, that have another number
    of units before them than their header says, or that are being amended.
    """
    code, where = check_edges(cells)
    if code != 0:
        return code, where, 0, 0, 0, 0, 0, 0
    last = last_edge(cells)
    highest = noted = used_blocks = used_units = 0
    previous = before_rest = 1
    rest = 0
    block = DATA_CELL + UNIT_CELLS
    while block < last:
        units = units_in_chain(cells, block)
        if units == 0:
            return CORRUPT, block, highest, 0, 0, 0, 0, 0
        if word_kind(cells[block + H_WORD]) == USED:
            highest = max(highest, int(cells[block + H_GENERATION]))
        if rest == 0:
            if cells[block + H_PREVIOUS] == previous and block != cells[B_AMENDED] and stays_used(cells, block, dead):
                used_blocks += 1
                used_units += units
            elif 2 * noted < len(notes):
                notes[2 * noted] = block
                notes[2 * noted + 1] = previous
                noted += 1
            else:
                rest = block
                before_rest = previous
        previous = units
        block += units * UNIT_CELLS
    if rest == 0:
        rest = last
        before_rest = previous
    return 0, 0, highest, noted, rest, before_rest, used_blocks, used_units


@kernel
def complete_amendment(cells: Integers) -> None:
    """Complete a change of owner or generation that was begun. The chain is sound."""
    block = cells[B_AMENDED]
    if block > DATA_CELL and block < last_edge(cells) and block % UNIT_CELLS == 0 and is_half_amended(cells, block):
        word = cells[block + H_WORD]
        if word_kind(word) == USED:
            cells[block + H_OWNER] = cells[B_AMENDED_OWNER]
            cells[block + H_GENERATION] = cells[B_AMENDED_GENERATION]
            fence()
            write_word(cells, block, USED, word_units(word))
    fence()
    cells[B_AMENDED] = 0


@kernel
def stays_used(cells: Integers, block: int, dead: Integers) -> bool:
    """Whether the block at cell `block` is used, and committed or of an owner who is not among the `dead`."""
    if word_kind(cells[block + H_WORD]) != USED:
        return False
    if cells[block + H_SEQUENCE] != 0:
        return True
    owner = cells[block + H_OWNER]
    is_dead = False
    for i in range(len(dead)):
        is_dead |= bool(dead[i] == owner)
    return not is_dead


@kernel
def join_free(cells: Integers, block: int, dead: Integers) -> int:
    """Make one free block of the one at cell `block` and all behind it that are free or to be freed; its units."""
    last = last_edge(cells)
    end = block
    while end < last and not stays_used(cells, end, dead):
        units = word_units(cells[end + H_WORD])
        if word_kind(cells[end + H_WORD]) == USED:
            # Before it is merged, so that no handle finds a used block inside a free one.
            write_word(cells, end, FREE, units)
        end += units * UNIT_CELLS
    length = (end - block) // UNIT_CELLS
    first = word_units(cells[block + H_WORD])
    if first != length:
        inner = block + first * UNIT_CELLS
        fence()
        write_word(cells, block, FREE, length)
        fence()
        while inner < end:
            units = word_units(cells[inner + H_WORD])
            write_word(cells, inner, FREE, 0)
            inner += units * UNIT_CELLS
    return int(length)


# --- counting and listing ---------------------------------------------------------------------------------------------


@kernel
def survey(cells: Integers, figures: Integers) -> int:
    """Count a pool into `figures` (`FIGURES` cells): 0, or `CORRUPT` when the chain broke off where it was counted to.

    Takes no lock: in a pool that is in use it may break off, and is then to be done again.
    """
    for i in range(FIGURES):
        figures[i] = 0
    last = last_edge(cells)
    block = DATA_CELL + UNIT_CELLS
    while block < last:
        units = units_in_chain(cells, block)
        if units == 0:
            return CORRUPT
        if word_kind(cells[block + H_WORD]) == USED:
            tier = cells[block + H_SIZE] & 3
            power = 0
            while units >> (power + 1) != 0:
                power += 1
            figures[F_USED_BLOCKS] += 1
            figures[F_USED_UNITS] += units
            figures[F_TIER_BLOCKS + tier] += 1
            figures[F_TIER_UNITS + tier] += units
            figures[F_LENGTHS + power] += 1
        else:
            figures[F_FREE_BLOCKS] += 1
            figures[F_FREE_UNITS] += units
            figures[F_LARGEST_FREE_UNITS] = max(figures[F_LARGEST_FREE_UNITS], units)
        block += units * UNIT_CELLS
    return 0


@kernel
def fragmentation(figures: Integers) -> float:
    """The share of the free units that is not in the longest free block, 0 to 1; 0 when nothing is free."""
    if figures[F_FREE_UNITS] == 0:
        return 0.0
    return float(1.0 - figures[F_LARGEST_FREE_UNITS] / figures[F_FREE_UNITS])


@kernel
def walk(cells: Integers, start: int, rows: Integers) -> tuple[int, int]:
    """List blocks from the one at cell `start` on: how many rows were filled, and where to go on (0: at the end).

    A row is cell, kind, units, size, tier, owner, sequence, heat and, where `rows` is nine wide, generation; of a free
    block only the first three. The first block is at `DATA_CELL + UNIT_CELLS`. Takes no lock, and ends where a
    header is damaged.
    """
    last = last_edge(cells)
    if start <= DATA_CELL or start >= last or start % UNIT_CELLS != 0:
        return 0, 0
    block = start
    for row in range(rows.shape[0]):
        units = units_in_chain(cells, block) if block < last else 0
        if units == 0:
            return row, 0
        for column in range(rows.shape[1]):
            rows[row, column] = 0
        kind = word_kind(cells[block + H_WORD])
        rows[row, 0] = block
        rows[row, 1] = kind
        rows[row, 2] = units
        if kind == USED:
            size = cells[block + H_SIZE]
            rows[row, 3] = size >> 2
            rows[row, 4] = size & 3
            rows[row, 5] = cells[block + H_OWNER]
            rows[row, 6] = cells[block + H_SEQUENCE]
            rows[row, 7] = cells[block + H_HEAT]
            if rows.shape[1] > 8:
                rows[row, 8] = cells[block + H_GENERATION]
        block += units * UNIT_CELLS
    return rows.shape[0], block if block < last else 0
