"""Reading, writing and undoing: kernels over a block's header and a seat's journal.

A write is journal, copy, commit. `begin_write` keeps the old bytes in the seat's journal (or the caller has kept them
in a block of its own, when they are many), notes the sequence, and makes it odd. The caller copies. One store of the
next even number commits. A process that dies between leaves an odd sequence and an active journal, from which `settle`
puts the old bytes back. Only its owner writes a block, so a block's sequence has one writer.
"""

from __future__ import annotations

from twin.kernels import Integers, kernel
from twin.pool.allocator import CORRUPT, FREED, NOT_A_BLOCK, OUT_OF_RANGE, WRONG_OWNER, allocate, bump, release
from twin.pool.layout import (
    B_NOW_US,
    B_PROMOTIONS,
    B_SLOPE,
    CELL,
    H_GENERATION,
    H_HEAT,
    H_OWNER,
    H_SEQUENCE,
    H_SIZE,
    H_STAMP,
    H_WORD,
    JOURNAL_BYTES,
    JOURNALS_CELL,
    SEAT_CELLS,
    SEATS_CELL,
    T_ACTIVE,
    T_BLOCK,
    T_COUNT,
    T_GENERATION,
    T_OFFSET,
    T_SEQUENCE,
    T_UNDO,
    UNIT_CELLS,
    USED,
    header_is_whole,
    word_kind,
)
from twin.pool.lock import fence, try_lock, unlock
from twin.pool.tiers import touch

WRITE, SWAP = 1, 2
"""What an active journal speaks of. Of a swap it has, for each of the two blocks, size with tier, heat, stamp and the
cells of payload that change places; the other block stands in `T_OFFSET`, its sequence before in `T_UNDO`."""
SWAP_HEAD = 3
LONGEST_SWAP_CELLS = JOURNAL_BYTES // CELL // 2 - SWAP_HEAD
LOCK_REFUSED = -1_000
"""`LOCK_REFUSED - e`: the lock could not be had at once, for the reason that errno e names."""


@kernel
def owned(cells: Integers, block: int, generation: int, owner: int) -> int:
    """0 when the handle (block, generation) is of a used block of `owner`, else what is wrong.

    A block that was freed and allocated again has another generation; one that was merged has no header any more.
    """
    if block <= 0 or block >= len(cells) - UNIT_CELLS:
        return NOT_A_BLOCK
    if cells[block + H_GENERATION] != generation or word_kind(cells[block + H_WORD]) != USED:
        return FREED
    if cells[block + H_OWNER] != owner:
        return WRONG_OWNER
    return 0


@kernel
def begin_write(
    cells: Integers, seat: int, block: int, generation: int, owner: int, offset: int, count: int, undo: int
) -> int:
    """Keep what bytes `offset .. offset + count - 1` of the payload held, and make the sequence odd.

    Returns the odd sequence, or a negative code. `undo` is the cell of a block that already holds the old bytes, 0 when
    they go into the journal of the seat (at most `JOURNAL_BYTES`; the words that they touch are kept whole).
    """
    code = owned(cells, block, generation, owner)
    if code != 0:
        return code
    if not header_is_whole(cells, block):
        return CORRUPT
    size = cells[block + H_SIZE] >> 2
    if offset < 0 or count < 0 or offset > size or count > size - offset:
        return OUT_OF_RANGE
    at = SEATS_CELL + seat * SEAT_CELLS
    if cells[at + T_ACTIVE] != 0:
        # A write of this seat was interrupted (an exception between its beginning and its end).
        settle(cells, seat)
    sequence = cells[block + H_SEQUENCE]
    first = offset // CELL
    last = (offset + count + CELL - 1) // CELL
    payload = block + UNIT_CELLS
    if sequence == 0:
        # Nobody has seen it yet: nothing to keep, and what is not written now shall be 0, not an earlier owner's.
        end = (size + CELL - 1) // CELL
        for i in range(min(first + 1, end)):
            cells[payload + i] = 0
        for i in range(max(last - 1, 0), end):
            cells[payload + i] = 0
    elif undo == 0:
        journal = JOURNALS_CELL + seat * (JOURNAL_BYTES // CELL)
        for i in range(last - first):
            cells[journal + i] = cells[payload + first + i]
    cells[at + T_BLOCK] = block
    cells[at + T_GENERATION] = generation
    cells[at + T_SEQUENCE] = sequence
    cells[at + T_OFFSET] = first
    cells[at + T_COUNT] = last - first
    cells[at + T_UNDO] = undo
    fence()
    cells[at + T_ACTIVE] = WRITE
    fence()
    cells[block + H_SEQUENCE] = sequence + 1
    fence()
    return int(sequence + 1)


@kernel
def commit(cells: Integers, seat: int, block: int, generation: int, owner: int) -> int:
    """What the payload holds, whoever put it there, counts as written: 0, or a negative code."""
    code = owned(cells, block, generation, owner)
    if code != 0:
        return code
    if cells[SEATS_CELL + seat * SEAT_CELLS + T_ACTIVE] != 0:
        # The sequence of an interrupted write is odd, and would stay so.
        settle(cells, seat)
    fence()
    cells[block + H_SEQUENCE] = cells[block + H_SEQUENCE] + 2
    return 0


@kernel
def settle(cells: Integers, seat: int) -> int:
    """Undo the write that the journal of `seat` has, unless it was committed; 1 when there was something to undo.

    May be killed at any instruction and done again. A journal that makes no sense is dropped: it belongs to nothing.
    """
    at = SEATS_CELL + seat * SEAT_CELLS
    if cells[at + T_ACTIVE] == 0:
        return 0
    if cells[at + T_ACTIVE] == SWAP:
        return undo_swap(cells, seat)
    undone = 0
    block = cells[at + T_BLOCK]
    sequence = cells[at + T_SEQUENCE]
    if journal_fits(cells, at) and cells[block + H_SEQUENCE] == sequence + 1:
        undone = 1
        if sequence > 0:
            source = JOURNALS_CELL + seat * (JOURNAL_BYTES // CELL)
            if cells[at + T_UNDO] != 0:
                source = cells[at + T_UNDO] + UNIT_CELLS
            target = block + UNIT_CELLS + cells[at + T_OFFSET]
            for i in range(cells[at + T_COUNT]):
                cells[target + i] = cells[source + i]
            fence()
            # Two further, so that a reader who saw the half-written bytes notices.
            cells[block + H_SEQUENCE] = sequence + 2
        else:
            cells[block + H_SEQUENCE] = 0
    fence()
    cells[at + T_ACTIVE] = 0
    return undone


@kernel
def begin_swap(cells: Integers, seat: int, a: int, b: int, payload_cells: int) -> None:
    """Keep what the blocks at cells `a` and `b` hold, at most `LONGEST_SWAP_CELLS` each, while they change places."""
    at = SEATS_CELL + seat * SEAT_CELLS
    if cells[at + T_ACTIVE] != 0:
        settle(cells, seat)
    to = JOURNALS_CELL + seat * (JOURNAL_BYTES // CELL)
    for block in (a, b):
        cells[to] = cells[block + H_SIZE]
        cells[to + 1] = cells[block + H_HEAT]
        cells[to + 2] = cells[block + H_STAMP]
        for i in range(payload_cells):
            cells[to + SWAP_HEAD + i] = cells[block + UNIT_CELLS + i]
        to += SWAP_HEAD + payload_cells
    cells[at + T_BLOCK] = a
    cells[at + T_GENERATION] = cells[a + H_GENERATION]
    cells[at + T_SEQUENCE] = cells[a + H_SEQUENCE]
    cells[at + T_OFFSET] = b
    cells[at + T_UNDO] = cells[b + H_SEQUENCE]
    cells[at + T_COUNT] = payload_cells
    fence()
    cells[at + T_ACTIVE] = SWAP
    fence()


@kernel
def end_swap(cells: Integers, seat: int) -> None:
    """Both blocks hold what they are to hold."""
    fence()
    cells[SEATS_CELL + seat * SEAT_CELLS + T_ACTIVE] = 0


@kernel
def undo_swap(cells: Integers, seat: int) -> int:
    """Put both blocks of an unfinished swap back, as `settle` does for a write; 1 when there was something to undo."""
    at = SEATS_CELL + seat * SEAT_CELLS
    source = JOURNALS_CELL + seat * (JOURNAL_BYTES // CELL)
    count = cells[at + T_COUNT]
    undone = 0
    if swap_fits(cells, at, source):
        undone = 1
        for block, sequence in (
            (cells[at + T_BLOCK], cells[at + T_SEQUENCE]),
            (cells[at + T_OFFSET], cells[at + T_UNDO]),
        ):
            # Odd, because somebody may read what is being put back; 0 stays, as it did in the swap.
            cells[block + H_SEQUENCE] = sequence + int(sequence > 0)
            fence()
            cells[block + H_SIZE] = cells[source]
            cells[block + H_HEAT] = cells[source + 1]
            cells[block + H_STAMP] = cells[source + 2]
            for i in range(count):
                cells[block + UNIT_CELLS + i] = cells[source + SWAP_HEAD + i]
            fence()
            # Further than the swap would have come, so that a reader who saw its result notices.
            cells[block + H_SEQUENCE] = sequence + 4 * int(sequence > 0)
            source += SWAP_HEAD + count
    fence()
    cells[at + T_ACTIVE] = 0
    return undone


@kernel
def swap_fits(cells: Integers, at: int, source: int) -> bool:
    """Whether the swap in the journal of the seat at cell `at` speaks of two used blocks, and of cells inside them."""
    count = cells[at + T_COUNT]
    end = len(cells) - UNIT_CELLS
    if count < 0 or count > LONGEST_SWAP_CELLS:
        return False
    for block in (cells[at + T_BLOCK], cells[at + T_OFFSET]):
        if block < JOURNALS_CELL or block > end or block % UNIT_CELLS != 0 or word_kind(cells[block + H_WORD]) != USED:
            return False
        size = cells[block + H_SIZE] >> 2
        if not header_is_whole(cells, block) or size < count * CELL or cells[source] >> 2 != size:
            return False
        source += SWAP_HEAD + count
    return bool(cells[cells[at + T_BLOCK] + H_GENERATION] == cells[at + T_GENERATION])


@kernel
def journal_fits(cells: Integers, at: int) -> bool:
    """Whether the journal of the seat at cell `at` speaks of a used block, of cells inside it, and of old bytes."""
    block = cells[at + T_BLOCK]
    first = cells[at + T_OFFSET]
    count = cells[at + T_COUNT]
    undo = cells[at + T_UNDO]
    end = len(cells) - UNIT_CELLS
    if block < JOURNALS_CELL or block > end or first < 0 or count < 0 or count > end or first > end:
        return False
    if word_kind(cells[block + H_WORD]) != USED or cells[block + H_GENERATION] != cells[at + T_GENERATION]:
        return False
    if not header_is_whole(cells, block):
        return False
    if (first + count) * CELL > (cells[block + H_SIZE] >> 2) + CELL - 1:
        return False
    if undo == 0:
        return bool(count * CELL <= JOURNAL_BYTES or cells[at + T_SEQUENCE] == 0)
    return JOURNALS_CELL <= undo <= end - count and word_kind(cells[undo + H_WORD]) == USED


@kernel
def locked_allocate(cells: Integers, mutex: int, size: int, owner: int, tier: int) -> int:
    """`allocate` with the lock held, if it is free; else `LOCK_REFUSED` minus the errno.

    With EOWNERDEAD the lock is had all the same, and kept: its last holder died, and the pool is to be repaired first.
    """
    code = try_lock(mutex)
    if code != 0:
        return LOCK_REFUSED - code
    block = allocate(cells, size, owner, tier)
    unlock(mutex)
    return block


@kernel
def locked_release(cells: Integers, mutex: int, block: int, generation: int, owner: int) -> int:
    """`release_owned` with the lock held, if it is free; else `LOCK_REFUSED` minus the errno."""
    code = try_lock(mutex)
    if code != 0:
        return LOCK_REFUSED - code
    code = release_owned(cells, block, generation, owner)
    unlock(mutex)
    return code


@kernel
def release_owned(cells: Integers, block: int, generation: int, owner: int) -> int:
    """Free the block that the handle (block, generation) names, if it is there and belongs to `owner`."""
    code = owned(cells, block, generation, owner)
    if code != 0:
        return code
    return release(cells, block)


@kernel
def look(cells: Integers, block: int, generation: int, owner: int) -> int:
    """The sequence of the block, or a negative code; an access by its owner also warms it.

    Readers that may not write (owner -1) leave no trace.
    """
    if block <= 0 or block >= len(cells) - UNIT_CELLS:
        return NOT_A_BLOCK
    if cells[block + H_GENERATION] != generation or word_kind(cells[block + H_WORD]) != USED:
        return FREED
    if cells[block + H_OWNER] == owner and touch(cells, block, cells[B_NOW_US], cells[B_SLOPE]) != 0:
        bump(cells, B_PROMOTIONS, 1)
    return int(cells[block + H_SEQUENCE])
