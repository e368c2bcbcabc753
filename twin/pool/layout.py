"""What stands where in a pool: superblock, seats with their journals, blocks.

A pool is an array of int64 cells. Its first `DATA_CELL` cells are metadata; after them come the blocks, without gaps,
each a header of 64 bytes and its payload, each starting on a multiple of 64 bytes. The first and the last block of the
chain are never used or merged, so that every other block has a neighbour on both sides.

A block's `H_WORD` holds everything that the chain of blocks depends on, in one cell that a processor stores at once:
magic, used or not, checksum, length. Whatever instruction a process is killed at, the chain is whole; free lists,
counters and `H_PREVIOUS` can be made again from it.

An address is the logical base plus the block's offset in bytes. It names the block's header and is the same in every
process; 0 is nobody's address.
"""

from __future__ import annotations

from twin.kernels import Integers, kernel, mix32

CELL = 8
UNIT = 64
"""Bytes of a header, and what every block's length is a multiple of."""
UNIT_CELLS = UNIT // CELL
LOGICAL_BASE = 0x7FFF0000
VERSION = 2
POOL_MAGIC = 0x65726F436C747943
"""The first cell: `CytlCore` as bytes, read as a little-endian number below 2^63."""

# --- superblock: cells from 0 -----------------------------------------------------------------------------------------

B_MAGIC, B_VERSION, B_BYTES, B_SEATS, B_JOURNAL, B_DATA, B_BASE, B_CHECK = range(8)
"""Fixed for ever; `B_CHECK` is the checksum of the others."""
B_MUTEX = 16
"""Eight cells for the lock of all writers of metadata."""
B_GENERATION, B_OWNER, B_BUSY, B_USED_BLOCKS, B_USED_UNITS, B_FREE_UNITS, B_FREE_BLOCKS, B_NOW_US = range(24, 32)
"""Last generation given, last owner number given, an operation is under way, what is used and free, the pool's time."""
B_ALLOCATIONS, B_FREES, B_RECOVERIES, B_RECORDS, B_RELAYS, B_SLOPE = range(32, 38)
"""How many allocations, frees and recoveries there were; address of the record ring; layouts applied; heat lost in a
microsecond (Q48.16)."""
B_PROMOTIONS, B_DEMOTIONS, B_GUESSES, B_HITS, B_PREFETCHES, B_COOLED, B_REFUSED = range(40, 47)
"""Tier moves by accesses, guesses and sweeps (the heartbeat moves its words itself); how many accesses were foretold,
and how many of those came true; pages asked for early, given up as cold, and for which the kernel took no advice."""
B_AMENDED, B_AMENDED_WORD, B_AMENDED_OWNER, B_AMENDED_GENERATION = range(48, 52)
"""The used block whose owner or generation is being changed (0: none), its word before, and what it is to get."""
B_LEVELS = 64
"""One cell: bit i is set where level i has a free block."""
B_SLOTS = 65
"""One cell a level: bit j is set where class j of the level has a free block."""
LEVELS = 32
CLASSES = 16
B_HEADS = 128
"""One cell a class: the cell of the first free block's header, 0 for none."""
SUPERBLOCK_CELLS = B_HEADS + LEVELS * CLASSES

# --- seats: one for each process that writes --------------------------------------------------------------------------

SEATS = 32
T_OWNER, T_ACTIVE, T_BLOCK, T_GENERATION, T_SEQUENCE, T_OFFSET, T_COUNT, T_UNDO = range(8)
"""Who sits here (0: nobody); and the journal: active, block (cell), its generation and sequence before the write, first
cell of the payload and number of cells that are kept, and the block that keeps them (0: the seat's journal does). What
they hold while two blocks change places is said in `twin.pool.access`."""
SEAT_CELLS = 8
SEATS_CELL = SUPERBLOCK_CELLS
JOURNAL_BYTES = 16_384
"""Old bytes that a seat can keep by itself; a longer write keeps them in a block of its own."""
JOURNALS_CELL = SEATS_CELL + SEATS * SEAT_CELLS
DATA_CELL = -(-(JOURNALS_CELL + SEATS * JOURNAL_BYTES // CELL) // 512) * 512
"""The first block's header, on a page of its own."""
SMALLEST_POOL = 1 << 20
LARGEST_POOL = 1 << 36

# --- block headers ----------------------------------------------------------------------------------------------------

H_WORD, H_SIZE, H_PREVIOUS, H_OWNER, H_GENERATION, H_SEQUENCE, H_HEAT, H_STAMP = range(8)
"""Word; bytes asked for and tier (`size * 4 + tier`); units of the block before; owner; generation; sequence (even:
stable, 0: never committed, odd: being written); heat (Q48.16) and the microsecond of its last decay. A free block has
the cells of the next and the previous free block of its class in place of heat and stamp."""
H_NEXT, H_BEFORE = H_HEAT, H_STAMP

HOT, WARM, COLD, FROZEN = range(4)
TIERS = ("HOT", "WARM", "COLD", "FROZEN")

FREE, USED, EDGE = range(3)
"""What a block is. An edge is the first or the last of the chain."""
_MAGIC = 0x2C7B
_UNITS_BITS = 30
_CHECK_BITS = 16


@kernel
def header_check(block: int, kind: int, units: int, size: int, owner: int, generation: int) -> int:
    """The checksum of the header at cell `block`, 16 bits: over what never changes while the block is used.

    Its place is part of it, so that a header that was copied into some payload is none there.
    """
    check = mix32(units ^ 0x5BD1E995 ^ kind)
    check = mix32(check ^ (block & 0xFFFFFFFF))
    check = mix32(check ^ ((block >> 32) & 0xFFFFFFFF))
    if kind == 1:
        check = mix32(check ^ (size & 0xFFFFFFFF))
        check = mix32(check ^ ((size >> 32) & 0xFFFFFFFF))
        check = mix32(check ^ (owner & 0xFFFFFFFF))
        check = mix32(check ^ (generation & 0xFFFFFFFF))
        check = mix32(check ^ ((generation >> 32) & 0xFFFFFFFF))
    return check & 0xFFFF


@kernel
def pack_word(kind: int, units: int, check: int) -> int:
    """A header's word: magic (15 bits), kind (2), checksum (16), units (30): below 2^63."""
    return ((((_MAGIC << 2) | kind) << _CHECK_BITS) | check) << _UNITS_BITS | units


@kernel
def word_units(word: int) -> int:
    """The length of a block in units of 64 bytes, its header included."""
    return word & ((1 << _UNITS_BITS) - 1)


@kernel
def word_kind(word: int) -> int:
    """`FREE`, `USED` or `EDGE`; -1 when the word has not the magic of a header."""
    kind = (word >> (_UNITS_BITS + _CHECK_BITS)) & 3
    if word < 0 or (word >> (_UNITS_BITS + _CHECK_BITS + 2)) != _MAGIC or kind == 3:
        return -1
    return kind


@kernel
def header_is_whole(cells: Integers, block: int) -> bool:
    """Whether the header at cell `block` has the magic and the checksum that its contents ask for."""
    word = cells[block + H_WORD]
    kind = word_kind(word)
    if kind < 0:
        return False
    units = word_units(word)
    size, owner, generation = cells[block + H_SIZE] >> 2, cells[block + H_OWNER], cells[block + H_GENERATION]
    check = header_check(block, kind, units, size, owner, generation)
    return bool((word >> _UNITS_BITS) & 0xFFFF == check)


@kernel
def write_word(cells: Integers, block: int, kind: int, units: int) -> None:
    """Give the block at cell `block` a kind and a length, in one store; the rest of its header must be there before."""
    size, owner, generation = cells[block + H_SIZE] >> 2, cells[block + H_OWNER], cells[block + H_GENERATION]
    check = header_check(block, kind, units, size, owner, generation)
    cells[block + H_WORD] = pack_word(kind, units, check)
