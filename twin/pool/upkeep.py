"""The background of a pool: cooling blocks that nobody uses, and telling the kernel which pages it may take.

A sweep visits some blocks and goes on with the next ones when it is called again. It touches headers of this process's
own blocks only, which nobody else frees, moves or warms, so it needs no lock; each change is a single store of a cell
that no checksum covers, so it may be killed anywhere.

Advice never loses a byte: the kernel may write a page out before others, and reads it in again when it is used.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

import numpy as np

from twin.kernels import Integers, kernel
from twin.pool import place
from twin.pool.allocator import bump, last_edge
from twin.pool.chain import units_in_chain
from twin.pool.layout import (
    B_COOLED,
    B_DEMOTIONS,
    B_GENERATION,
    B_NOW_US,
    B_REFUSED,
    B_SLOPE,
    CELL,
    DATA_CELL,
    FROZEN,
    H_GENERATION,
    H_HEAT,
    H_OWNER,
    H_PREVIOUS,
    H_SIZE,
    H_WORD,
    UNIT_CELLS,
    USED,
    word_kind,
    word_units,
)
from twin.pool.pool import Pool
from twin.pool.tiers import sweep

log = logging.getLogger("twin")

BLOCKS_PER_SWEEP = 64
PAGES_PER_SWEEP = 1_024
"""At most so many pages are advised in one sweep; what is left comes first in the next."""
PAGE_CELLS = place.PAGE // CELL
FIRST_CELL = DATA_CELL + UNIT_CELLS


@kernel
def is_among(spared: Integers, block: int) -> bool:
    """Whether `block` is in the sorted array."""
    low, high = 0, len(spared)
    while low < high:
        middle = (low + high) // 2
        if spared[middle] < block:
            low = middle + 1
        else:
            high = middle
    return low < len(spared) and spared[low] == block


@kernel
def is_in_chain(cells: Integers, block: int) -> bool:
    """Whether the block that was at cell `block` lately still begins there: it and its neighbour agree."""
    previous = cells[block + H_PREVIOUS]
    if previous < 1 or previous > (block - DATA_CELL) // UNIT_CELLS:
        return False
    word = cells[block - previous * UNIT_CELLS + H_WORD]
    return word_kind(word) >= 0 and word_units(word) == previous


@kernel
def tend(
    cells: Integers, spared: Integers, owner: int, start: int, seen: int, most: int, pages: Integers
) -> tuple[int, int]:
    """Visit up to `most` blocks from cell `start` on: where to go on (0: at the beginning), and rows of `pages` filled.

    The used blocks of `owner`, without those in `spared` (sorted cells), are cooled, and demoted where it is due. A row
    of `pages` (`most` rows) is a first page of the pool and the page after the last one: pages that lie in frozen
    blocks only, some of which have cooled down or were allocated (generation above `seen`) since the last visit. A run
    of frozen blocks counts from the first payload to the end of the last block, headers between them included.
    """
    last = last_edge(cells)
    block = start
    if block < FIRST_CELL or block >= last or not is_in_chain(cells, block):
        block = FIRST_CELL
    count = 0
    run = 0
    due_from = 0
    due_to = 0
    for _ in range(most):
        units = units_in_chain(cells, block) if block < last else 0
        if units == 0:
            # The end; or a header that is being changed, or was damaged.
            block = 0
            break
        frozen = False
        if word_kind(cells[block + H_WORD]) == USED and cells[block + H_OWNER] == owner and not is_among(spared, block):
            before = cells[block + H_HEAT]
            moved = sweep(cells, block, cells[B_NOW_US], cells[B_SLOPE])
            bump(cells, B_DEMOTIONS, moved)
            frozen = cells[block + H_SIZE] & 3 == FROZEN
            is_news = before > 0 or moved != 0 or cells[block + H_GENERATION] > seen
            if frozen and run == 0:
                run = block + UNIT_CELLS
            if frozen and is_news and cells[block + H_HEAT] == 0:
                if due_to == 0:
                    due_from = block + UNIT_CELLS
                due_to = block + units * UNIT_CELLS
        if not frozen:
            count = whole_pages(pages, count, run, block, due_from, due_to)
            run = 0
            due_to = 0
        block += units * UNIT_CELLS
    count = whole_pages(pages, count, run, block if block != 0 else last, due_from, due_to)
    return block if block < last else 0, count


@kernel
def whole_pages(pages: Integers, count: int, run: int, end: int, due_from: int, due_to: int) -> int:
    """Add a row to the `count` rows of `pages`, if there is a page in cells `run .. end - 1` that touches what is due.

    Returns how many rows there are then.
    """
    first = max((run + PAGE_CELLS - 1) // PAGE_CELLS, due_from // PAGE_CELLS)
    after = min(end // PAGE_CELLS, (due_to + PAGE_CELLS - 1) // PAGE_CELLS)
    if due_to == 0 or first >= after:
        return count
    pages[count, 0] = first
    pages[count, 1] = after
    return count + 1


class Sweeper:
    """Cools the blocks that this process owns in `pool`, except those at the cells `spared`, which others cool.

    The pool's clock (`Pool.now_us`) and slope are what blocks cool by. What happens is counted in the pool; when
    several processes count there at once, single counts may get lost. Linux takes the advice and does nothing for pages
    that other processes use as well.
    """

    def __init__(self, pool: Pool, spared: Iterable[int] = (), blocks_per_sweep: int = BLOCKS_PER_SWEEP) -> None:
        """Raises `PoolInputError` for a pool that is attached for reading, `ValueError` below 1 block a sweep."""
        pool.must_write()
        if blocks_per_sweep < 1:
            raise ValueError(f"{blocks_per_sweep} blocks a sweep: must be 1 or more, for example {BLOCKS_PER_SWEEP}")
        self._pool = pool
        self._spared = np.array(sorted(spared), dtype=np.int64)
        self._most = blocks_per_sweep
        self._pages = np.zeros((blocks_per_sweep, 2), dtype=np.int64)
        self._waiting: list[tuple[int, int]] = []
        self._at = 0
        self._seen = 0
        self._latest = 0
        self._was_refused = False

    def sweep(self) -> None:
        """Visit the next blocks; or, while pages wait for advice, advise of the next of them."""
        pool = self._pool
        pool.must_write()
        if not self._waiting:
            self._visit(pool.cells)
        left = PAGES_PER_SWEEP
        while self._waiting and left:
            first, after = self._waiting.pop()
            if after - first > left:
                self._waiting.append((first + left, after))
                after = first + left
            self._advise(first, after - first)
            left -= after - first

    def _visit(self, cells: Integers) -> None:
        if self._at == 0:
            self._seen, self._latest = self._latest, int(cells[B_GENERATION])
        self._at, count = tend(cells, self._spared, self._pool.owner, self._at, self._seen, self._most, self._pages)
        self._waiting = [(first, after) for first, after in self._pages[:count].tolist()]

    def _advise(self, first: int, pages: int) -> None:
        why_not = place.is_cold(self._pool.mapping.address + first * place.PAGE, pages * place.PAGE)
        bump(self._pool.cells, B_REFUSED if why_not else B_COOLED, pages)
        if why_not and not self._was_refused:
            self._was_refused = True
            log.info("%s: the kernel takes no advice about frozen pages (%s)", self._pool.mapping.name, why_not)
