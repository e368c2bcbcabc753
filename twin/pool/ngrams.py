"""Which item comes next: n-grams of items (words, blocks) in a table of one cache line for each context.

A context is the last n - 1 items in one number; `extended` appends an item to it. A row holds its context, how often it
was followed by anything, and its three most frequent followers with their counts (Misra and Gries: an item that has no
place takes one from each). The table is direct mapped: of two contexts with the same row, the one that is met more
often keeps it, because each meeting earns it a credit (up to 15) and each of the other's costs one.

Bounds. Items are at least 0 and, like contexts, below 2^62. Totals stay below `HALVED_AT`, because reaching it
halves the row.
"""

from __future__ import annotations

import numpy as np

from twin.kernels import Integers, kernel, mix32
from twin.pool.layout import CELL

ROWS = 4_096
ROW_CELLS = 8
R_CONTEXT, R_TALLY, R_GUESS, R_ITEM0, R_ITEM1, R_COUNT1, R_ITEM2, R_COUNT2 = range(8)
"""`R_TALLY` is follower 0's count, which is the largest, then the total, then the credit (17, 28 and 4 bits). `R_GUESS`
is follower 0 while it is worth speculating on, else `NOTHING`."""
COUNT_SHIFT = 32
CREDIT_BITS = 4
CREDIT_MAX = 15
_TOTAL_MASK = (1 << (COUNT_SHIFT - CREDIT_BITS)) - 1
_FIRST = (1 << COUNT_SHIFT) | (1 << CREDIT_BITS) | 1
"""The tally of a row that was met once."""
HALVED_AT = 1 << 16
TOTAL_NEEDED = 10
"""A context has to be met so often before its best follower is worth speculating on; it must then have half of all."""
NOTHING = -1
ORDERS = (2, 3, 4)
_CONTEXT_BITS = 62
POSITIVE = (1 << 48) - 1
"""Anding an index with this changes nothing, and tells the compiler that it does not count from the end."""


def new_table(rows: int = ROWS) -> Integers:
    """An empty table of `rows` rows (a power of two from 1 to 2^24), each on a cache line of its own."""
    if not 1 <= rows <= 1 << 24 or rows & (rows - 1):
        raise ValueError(f"a table of {rows} rows: must be a power of two from 1 to {1 << 24}, for example {ROWS}")
    room = np.zeros((rows + 1) * ROW_CELLS, dtype=np.int64)
    first = -room.ctypes.data // CELL % ROW_CELLS
    table = room[first : first + rows * ROW_CELLS]
    table[R_GUESS::ROW_CELLS] = NOTHING
    return table


def item_bits(order: int) -> int:
    """How many bits of an item a context of n-grams of this order keeps: 62, 31, 20 for n = 2, 3, 4."""
    if order not in ORDERS:
        raise ValueError(f"n-grams of order {order}: allowed are 2, 3 and 4")
    return _CONTEXT_BITS // (order - 1)


@kernel
def extended(context: int, item: int, bits: int) -> int:
    """The context after `item`; `bits` is what `item_bits` says. An item's higher bits are dropped.

    The oldest item falls out because only so many whole items fit into 62 bits.
    """
    kept = (_CONTEXT_BITS // bits - 1) * bits
    return ((context & ((1 << kept) - 1)) << bits) | (item & ((1 << bits) - 1))


@kernel
def row_of(table: Integers, context: int) -> int:
    """The first cell of the context's row."""
    # The product is below 2^31 * 2^28, the context below 2^62: their sum fits.
    folded = ((context >> 31) * 0x9E3779B + context) & 0xFFFFFFFF
    return (mix32(folded) * ROW_CELLS) & (len(table) - 1)


@kernel
def observe(table: Integers, row: int, context: int, item: int) -> None:
    """`item` has followed `context`, whose row starts at cell `row`.

    What happens most, that the best follower came, is done at once.
    """
    row &= POSITIVE
    tally = table[row + R_TALLY]
    total = (tally >> CREDIT_BITS) & _TOTAL_MASK
    if (table[row + R_CONTEXT] == context) & (table[row + R_ITEM0] == item) & (total < HALVED_AT - 1):
        credited = tally + int(tally & CREDIT_MAX < CREDIT_MAX)
        table[row + R_TALLY] = credited + (1 << COUNT_SHIFT) + (1 << CREDIT_BITS)
        sure = int((total >= TOTAL_NEEDED - 1) & (2 * (tally >> COUNT_SHIFT) + 1 >= total))
        table[row + R_GUESS] = (item - NOTHING) * sure + NOTHING
    else:
        _observe_other(table, row, context, item)


@kernel
def _observe_other(table: Integers, row: int, context: int, item: int) -> None:
    """As `observe`, for everything that happens less often."""
    tally = table[row + R_TALLY]
    if table[row + R_CONTEXT] == context:
        tally += (1 << CREDIT_BITS) + int(tally & CREDIT_MAX < CREDIT_MAX)
        if table[row + R_ITEM0] == item:
            tally += 1 << COUNT_SHIFT
        else:
            tally = _count_other(table, row, tally, item)
    elif tally & CREDIT_MAX > 0:
        table[row + R_TALLY] = tally - 1
        return
    else:
        table[row + R_CONTEXT] = context
        tally = _FIRST
        table[row + R_ITEM0] = item
        table[row + R_ITEM1] = NOTHING
        table[row + R_COUNT1] = 0
        table[row + R_ITEM2] = NOTHING
        table[row + R_COUNT2] = 0
    total = (tally >> CREDIT_BITS) & _TOTAL_MASK
    if total >= HALVED_AT:
        total >>= 1
        tally = ((tally >> (COUNT_SHIFT + 1)) << COUNT_SHIFT) | (total << CREDIT_BITS) | (tally & CREDIT_MAX)
        table[row + R_COUNT1] >>= 1
        table[row + R_COUNT2] >>= 1
    table[row + R_TALLY] = tally
    sure = int((total >= TOTAL_NEEDED) & (2 * (tally >> COUNT_SHIFT) >= total))
    table[row + R_GUESS] = (table[row + R_ITEM0] - NOTHING) * sure + NOTHING


@kernel
def _count_other(table: Integers, row: int, tally: int, item: int) -> int:
    """Count an item that is not the row's best follower; it becomes the best when it overtakes it. The new tally."""
    count0 = tally >> COUNT_SHIFT
    count1 = table[row + R_COUNT1]
    count2 = table[row + R_COUNT2]
    if table[row + R_ITEM1] == item or (count1 == 0 and table[row + R_ITEM2] != item):
        place = row + R_ITEM1
    elif table[row + R_ITEM2] == item or count2 == 0:
        place = row + R_ITEM2
    else:
        table[row + R_COUNT1] = count1 - 1
        table[row + R_COUNT2] = count2 - 1
        return tally - (1 << COUNT_SHIFT)
    count = table[place + 1] + 1
    if count <= count0:
        table[place] = item
        table[place + 1] = count
        return tally
    table[place] = table[row + R_ITEM0]
    table[place + 1] = count0
    table[row + R_ITEM0] = item
    return int(tally + ((count - count0) << COUNT_SHIFT))


@kernel
def best(table: Integers, row: int, context: int) -> tuple[int, int]:
    """The most frequent follower of `context` and its count (never above the true one); (-1, 0) when none is known."""
    count = table[row + R_TALLY] >> COUNT_SHIFT
    if table[row + R_CONTEXT] != context or count == 0:
        return NOTHING, 0
    return table[row + R_ITEM0], count


@kernel
def guess(table: Integers, row: int, context: int) -> int:
    """The follower of `context` that is worth speculating on, or `NOTHING`.

    One that followed at least half of the times that `context` was met, and those were at least `TOTAL_NEEDED`.
    """
    row &= POSITIVE
    # As arithmetic, because a branch would go the wrong way too often. Items are below 2^62.
    return int(max(table[row + R_GUESS] - (int(table[row + R_CONTEXT] != context) << 62), NOTHING))
