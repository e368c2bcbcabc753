"""Reading ahead: n-grams of block accesses foretell the next block, and what it needs is done before it is asked for.

A pool's own `read` and `write` know nothing of this, because foretelling takes longer than reading a small block. Who
has blocks that follow each other in patterns reads them through a `Prefetcher`.
"""

from __future__ import annotations

import numpy as np

from twin.kernels import Integers, kernel
from twin.pool import ngrams, place
from twin.pool.allocator import bump, check_block
from twin.pool.block import Block
from twin.pool.layout import (
    B_GUESSES,
    B_HITS,
    B_PREFETCHES,
    B_PROMOTIONS,
    B_REFUSED,
    CELL,
    COLD,
    H_SIZE,
    UNIT_CELLS,
)
from twin.pool.pool import Pool
from twin.pool.tiers import foretold

ROWS = 1_024
LONGEST_PAGES = 1_024
"""So many of a block's first pages are asked for at most: the call takes time for each."""
HOT_LINES = 2
"""So many of a hot block's first cache lines are touched."""

S_CONTEXT, S_GUESS, S_TOUCHED = range(3)
"""The last accesses; the standing guess (`ngrams.NOTHING`: none); and what touching read, to keep it."""


@kernel
def note(cells: Integers, table: Integers, state: Integers, block: int, owner: int, bits: int) -> int:
    """Judge the standing guess by an access to the block whose header is at cell `block`, learn from it, guess again.

    Only a used block of `owner` is guessed. One that is COLD or FROZEN comes one tier up, and its cell is returned: its
    pages are to be asked for. Of any other the first lines are touched; then, and without a guess, `NOTHING`.
    """
    # Units rather than cells: they are below 2^30, so that a context holds two of them whole.
    item = block // UNIT_CELLS
    if state[S_GUESS] != ngrams.NOTHING:
        bump(cells, B_GUESSES, 1)
        bump(cells, B_HITS, int(state[S_GUESS] == item))
        state[S_GUESS] = ngrams.NOTHING
    context = state[S_CONTEXT]
    ngrams.observe(table, ngrams.row_of(table, context), context, item)
    context = ngrams.extended(context, item, bits)
    state[S_CONTEXT] = context
    expected = ngrams.guess(table, ngrams.row_of(table, context), context)
    coming = expected * UNIT_CELLS
    if expected == ngrams.NOTHING or check_block(cells, coming, owner) != 0:
        return ngrams.NOTHING
    state[S_GUESS] = expected
    size = cells[coming + H_SIZE]
    tier = size & 3
    if tier >= COLD:
        cells[coming + H_SIZE] = size - tier + foretold(tier)
        bump(cells, B_PROMOTIONS, 1)
        return coming
    payload = coming + UNIT_CELLS
    for line in range(min(HOT_LINES, ((size >> 2) - 1) // (UNIT_CELLS * CELL) + 1)):
        state[S_TOUCHED] ^= cells[payload + line * UNIT_CELLS]
    return ngrams.NOTHING


class Prefetcher:
    """Accesses to the blocks of a pool by its owner, and what they foretell.

    `order` (2, 3, 4) is n of the n-grams: the last n - 1 accesses are what a guess is made from; with 4, blocks that
    lie 64 MB apart may pass for one another. `rows` (a power of two) is how many of such contexts are kept. A guess is
    made when it would have been right in at least half of ten or more cases. Guesses, right ones, pages asked for and
    blocks that came one tier up are counted in the pool; when several processes count there at once, single counts may
    get lost.
    """

    def __init__(self, pool: Pool, order: int = 3, rows: int = ROWS) -> None:
        """Raises `PoolInputError` for a pool that is attached for reading, `ValueError` for another order or rows."""
        pool.must_write()
        self._pool = pool
        self._bits = ngrams.item_bits(order)
        self._table = ngrams.new_table(rows)
        self._state = np.array([0, ngrams.NOTHING, 0], dtype=np.int64)

    def read(self, block: Block, offset: int = 0, count: int | None = None) -> bytes:
        """As `Pool.read`."""
        data = self._pool.read(block, offset, count)
        self._note(block)
        return data

    def write(self, block: Block, data: bytes | bytearray | memoryview, offset: int = 0) -> None:
        """As `Pool.write`; it also warms the block."""
        self._pool.write(block, data, offset)
        self.accessed(block)

    def view(self, block: Block) -> memoryview:
        """As `Pool.view`; it also warms the block, once for the view, whatever is done with it."""
        memory = self._pool.view(block)
        self.accessed(block)
        return memory

    def accessed(self, block: Block) -> None:
        """The block was used in another way. Raises `StaleBlockError` when it was freed."""
        self._pool.touch(block)
        self._note(block)

    def _note(self, block: Block) -> None:
        pool = self._pool
        pool.must_write()
        coming = note(pool.cells, self._table, self._state, block.cell, pool.owner, self._bits)
        if coming != ngrams.NOTHING:
            self._ask_for(coming)

    def _ask_for(self, cell: int) -> None:
        """Have the pages that the payload of the block at `cell` lies on brought into memory."""
        pool = self._pool
        start = (cell + UNIT_CELLS) * CELL
        first = start // place.PAGE
        pages = min(-(-(start + (int(pool.cells[cell + H_SIZE]) >> 2)) // place.PAGE) - first, LONGEST_PAGES)
        refused = place.will_need(pool.mapping.address + first * place.PAGE, pages * place.PAGE)
        bump(pool.cells, B_REFUSED if refused else B_PREFETCHES, pages)
