"""Following the chain of blocks from edge to edge, whatever it holds: every step is checked before it is taken."""

from __future__ import annotations

from twin.kernels import Integers, kernel
from twin.pool.allocator import CORRUPT, last_edge
from twin.pool.layout import (
    B_AMENDED,
    B_AMENDED_WORD,
    DATA_CELL,
    EDGE,
    FREE,
    H_GENERATION,
    H_SIZE,
    H_WORD,
    UNIT,
    UNIT_CELLS,
    USED,
    header_is_whole,
    word_kind,
    word_units,
)


@kernel
def is_half_amended(cells: Integers, block: int) -> bool:
    """Whether the block's owner and generation were being changed, and its word was not yet."""
    return bool(block == cells[B_AMENDED] and cells[block + H_WORD] == cells[B_AMENDED_WORD])


@kernel
def units_in_chain(cells: Integers, block: int) -> int:
    """The units of the used or free block at cell `block` of the chain, 0 when it is neither or damaged.

    `block` is a multiple of a unit between the edges.
    """
    word = cells[block + H_WORD]
    kind = word_kind(word)
    units = word_units(word)
    if (kind != FREE and kind != USED) or units < 1 or units > (last_edge(cells) - block) // UNIT_CELLS:
        return 0
    if not header_is_whole(cells, block) and not (kind == USED and is_half_amended(cells, block)):
        return 0
    if kind == USED:
        size = cells[block + H_SIZE] >> 2
        if size < 1 or size > (units - 1) * UNIT:
            return 0
    return int(units)


@kernel
def check_chain(cells: Integers) -> tuple[int, int, int]:
    """Follow the blocks from the first edge to the last: a code, the cell that it speaks of, the highest generation.

    The code is 0 when every header is whole and the last block ends where the last edge begins.
    """
    code, where = check_edges(cells)
    if code != 0:
        return code, where, 0
    last = last_edge(cells)
    highest = 0
    block = DATA_CELL + UNIT_CELLS
    while block < last:
        units = units_in_chain(cells, block)
        if units == 0:
            return CORRUPT, block, highest
        if word_kind(cells[block + H_WORD]) == USED:
            highest = max(highest, int(cells[block + H_GENERATION]))
        block += units * UNIT_CELLS
    return 0, 0, highest


@kernel
def check_edges(cells: Integers) -> tuple[int, int]:
    """Whether the first and the last header of the chain are edges: (0, 0), or a code and the cell of the wrong one."""
    if len(cells) < DATA_CELL + 3 * UNIT_CELLS:
        return CORRUPT, 0
    for edge in (DATA_CELL, last_edge(cells)):
        word = cells[edge + H_WORD]
        if word_kind(word) != EDGE or word_units(word) != 1 or not header_is_whole(cells, edge):
            return CORRUPT, edge
    return 0, 0
