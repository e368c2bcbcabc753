"""The allocator: kernels that make a pool, hand out blocks and take them back.

Free blocks hang in lists by length, two levels deep: level by power of two, sixteen classes each, a bit for each list
that is not empty. Finding a block is therefore a few shifts, however many blocks there are. A freed block is merged
with both neighbours at once.

Whoever calls what writes holds the pool's lock. Every operation first looks at all it is going to touch, and answers
with a code below 0, having written nothing, when something there cannot be. Then it writes, `B_BUSY` being 1 meanwhile.
The chain of blocks is whole after every single store; lists, counters and `H_PREVIOUS` are made again by `recover`.

Bounds. A pool has at most 2^30 units (`LARGEST_POOL`), so cells and bytes of blocks are below 2^37. What is read from
the pool is compared with its range before anything is computed from it.
"""

from __future__ import annotations

from twin.kernels import Integers, kernel, mix32
from twin.pool.layout import (
    B_ALLOCATIONS,
    B_AMENDED,
    B_AMENDED_GENERATION,
    B_AMENDED_OWNER,
    B_AMENDED_WORD,
    B_BASE,
    B_BUSY,
    B_BYTES,
    B_CHECK,
    B_DATA,
    B_FREE_BLOCKS,
    B_FREE_UNITS,
    B_FREES,
    B_GENERATION,
    B_HEADS,
    B_JOURNAL,
    B_LEVELS,
    B_MAGIC,
    B_NOW_US,
    B_SEATS,
    B_SLOTS,
    B_USED_BLOCKS,
    B_USED_UNITS,
    B_VERSION,
    CELL,
    CLASSES,
    DATA_CELL,
    EDGE,
    FREE,
    FROZEN,
    H_BEFORE,
    H_GENERATION,
    H_HEAT,
    H_NEXT,
    H_OWNER,
    H_PREVIOUS,
    H_SEQUENCE,
    H_SIZE,
    H_STAMP,
    H_WORD,
    HOT,
    JOURNAL_BYTES,
    JOURNALS_CELL,
    LARGEST_POOL,
    LOGICAL_BASE,
    POOL_MAGIC,
    SEATS,
    UNIT,
    UNIT_CELLS,
    USED,
    VERSION,
    header_is_whole,
    word_kind,
    word_units,
    write_word,
)
from twin.pool.lock import fence

OUT_OF_MEMORY = -1
"""No free block is long enough."""
NOT_A_BLOCK = -2
"""No block begins there."""
FREED = -3
"""The block there is free."""
WRONG_OWNER = -4
CORRUPT = -5
"""What stands in the pool cannot be; nothing was written."""
OUT_OF_RANGE = -6
"""A size, tier, owner or length that no pool has."""

SEARCHED = 64
"""How many blocks of a request's own class are looked at when there is no longer class with a block."""
SMALLEST_SPLIT = 2
"""A rest of fewer units stays with its block: it could hold nothing."""
LAST_GENERATION = 1 << 62
_COUNT_MASK = (1 << 62) - 1
_CLASS_BITS = 4
_ALL_CLASSES = (1 << CLASSES) - 1
_ALL_LEVELS = (1 << 32) - 1


@kernel
def last_edge(cells: Integers) -> int:
    """The cell of the last edge's header."""
    return len(cells) // UNIT_CELLS * UNIT_CELLS - UNIT_CELLS


@kernel
def bump(cells: Integers, at: int, change: int) -> None:
    """Add to a counter. One that was damaged stays within 63 bits."""
    cells[at] = (cells[at] & _COUNT_MASK) + change


# --- lists of free blocks ---------------------------------------------------------------------------------------------


@kernel
def highest_bit(x: int) -> int:
    """The position of the highest bit of x, 1 to 2^32 - 1."""
    position = 0
    for step in (16, 8, 4, 2, 1):
        if x >> (position + step) != 0:
            position += step
    return position


@kernel
def class_of(units: int) -> int:
    """The list for free blocks of `units` (1 to 2^31): below 16 units one for each length, then 16 a doubling."""
    if units < CLASSES:
        return units
    above = highest_bit(units) - _CLASS_BITS
    return ((above + 1) << _CLASS_BITS) + (units >> above) - CLASSES


@kernel
def class_that_fits(units: int) -> int:
    """The first list all of whose blocks have at least `units` (1 to 2^30)."""
    if units < CLASSES:
        return units
    return class_of(units + (1 << (highest_bit(units) - _CLASS_BITS)) - 1)


@kernel
def is_free(cells: Integers, block: int) -> bool:
    """Whether `block`, any number, is the cell of a whole header of a free block that ends inside the pool."""
    last = last_edge(cells)
    if block <= DATA_CELL or block >= last or block % UNIT_CELLS != 0:
        return False
    word = cells[block + H_WORD]
    if word_kind(word) != FREE or not header_is_whole(cells, block):
        return False
    units = word_units(word)
    return units > 0 and block + units * UNIT_CELLS <= last


@kernel
def is_listed(cells: Integers, block: int) -> bool:
    """Whether the free block at cell `block` and its neighbours in the list agree."""
    after = cells[block + H_NEXT]
    before = cells[block + H_BEFORE]
    if after != 0 and (not is_free(cells, after) or cells[after + H_BEFORE] != block):
        return False
    if before == 0:
        return bool(cells[B_HEADS + class_of(word_units(cells[block + H_WORD]))] == block)
    return bool(is_free(cells, before) and cells[before + H_NEXT] == block)


@kernel
def can_insert(cells: Integers, units: int) -> bool:
    """Whether the list for `units` has a sound beginning, or none."""
    head = cells[B_HEADS + class_of(units)]
    return head == 0 or (is_free(cells, head) and cells[head + H_BEFORE] == 0)


@kernel
def insert(cells: Integers, block: int) -> None:
    """Put the free block at cell `block` first in its list."""
    index = class_of(word_units(cells[block + H_WORD]))
    level = index >> _CLASS_BITS
    head = cells[B_HEADS + index]
    cells[block + H_NEXT] = head
    cells[block + H_BEFORE] = 0
    if head != 0:
        cells[head + H_BEFORE] = block
    cells[B_HEADS + index] = block
    cells[B_SLOTS + level] = cells[B_SLOTS + level] | (1 << (index & (CLASSES - 1)))
    cells[B_LEVELS] = cells[B_LEVELS] | (1 << level)


@kernel
def remove(cells: Integers, block: int) -> None:
    """Take the free block at cell `block`, which `is_listed`, out of its list."""
    index = class_of(word_units(cells[block + H_WORD]))
    level = index >> _CLASS_BITS
    after = cells[block + H_NEXT]
    before = cells[block + H_BEFORE]
    if after != 0:
        cells[after + H_BEFORE] = before
    if before != 0:
        cells[before + H_NEXT] = after
        return
    cells[B_HEADS + index] = after
    if after == 0:
        slots = cells[B_SLOTS + level] & (_ALL_CLASSES ^ (1 << (index & (CLASSES - 1))))
        cells[B_SLOTS + level] = slots
        if slots == 0:
            cells[B_LEVELS] = cells[B_LEVELS] & (_ALL_LEVELS ^ (1 << level))


@kernel
def find(cells: Integers, units: int) -> int:
    """The cell of a free block of at least `units`, or a code. What it finds is not checked yet."""
    index = class_that_fits(units)
    level = index >> _CLASS_BITS
    slots = cells[B_SLOTS + level] & (_ALL_CLASSES << (index & (CLASSES - 1))) & _ALL_CLASSES
    if slots == 0:
        # level is at most 27, so that the shifted mask stays below 2^60.
        levels = cells[B_LEVELS] & (_ALL_LEVELS << (level + 1)) & _ALL_LEVELS
        if levels == 0:
            return find_in_own_class(cells, units)
        level = highest_bit(levels & -levels)
        slots = cells[B_SLOTS + level] & _ALL_CLASSES
        if slots == 0:
            return CORRUPT
    head = int(cells[B_HEADS + (level << _CLASS_BITS) + highest_bit(slots & -slots)])
    return head if head > 0 else CORRUPT


@kernel
def find_in_own_class(cells: Integers, units: int) -> int:
    """A block of at least `units` among the first `SEARCHED` of the list whose blocks may be longer or shorter."""
    block = cells[B_HEADS + class_of(units)]
    for _ in range(SEARCHED):
        if block == 0:
            break
        if not is_free(cells, block):
            return CORRUPT
        if word_units(cells[block + H_WORD]) >= units:
            return int(block)
        block = cells[block + H_NEXT]
    return OUT_OF_MEMORY


# --- superblock -------------------------------------------------------------------------------------------------------


@kernel
def superblock_check(cells: Integers) -> int:
    """The checksum of the fixed cells of a superblock."""
    check = 0
    for i in range(B_MAGIC, B_CHECK):
        check = mix32(check ^ (cells[i] & 0xFFFFFFFF))
        check = mix32(check ^ ((cells[i] >> 32) & 0xFFFFFFFF))
    return check


@kernel
def format_pool(cells: Integers, size_bytes: int) -> int:
    """Make a pool of `cells`, whatever they held: 0, or `OUT_OF_RANGE` when `size_bytes` is no size for them.

    The lock is zeroes afterwards and has to be prepared. The magic comes last: half a pool is none.
    """
    if size_bytes != len(cells) * CELL or size_bytes % UNIT != 0 or size_bytes > LARGEST_POOL:
        return OUT_OF_RANGE
    last = last_edge(cells)
    units = (last - DATA_CELL) // UNIT_CELLS - 1
    if units < SMALLEST_SPLIT:
        return OUT_OF_RANGE
    for i in range(JOURNALS_CELL):
        cells[i] = 0
    fence()
    block = DATA_CELL + UNIT_CELLS
    for at in (DATA_CELL, block, last):
        for i in range(UNIT_CELLS):
            cells[at + i] = 0
    write_word(cells, DATA_CELL, EDGE, 1)
    write_word(cells, block, FREE, units)
    write_word(cells, last, EDGE, 1)
    cells[block + H_PREVIOUS] = 1
    cells[last + H_PREVIOUS] = units
    insert(cells, block)
    cells[B_FREE_UNITS] = units
    cells[B_FREE_BLOCKS] = 1
    cells[B_VERSION] = VERSION
    cells[B_BYTES] = size_bytes
    cells[B_SEATS] = SEATS
    cells[B_JOURNAL] = JOURNAL_BYTES
    cells[B_DATA] = DATA_CELL
    cells[B_BASE] = LOGICAL_BASE
    fence()
    cells[B_MAGIC] = POOL_MAGIC
    cells[B_CHECK] = superblock_check(cells)
    return 0


# --- blocks -----------------------------------------------------------------------------------------------------------


@kernel
def check_block(cells: Integers, block: int, owner: int) -> int:
    """0 when `block`, any number, is the cell of the header of a used block of `owner` (-1: anybody's), else a code."""
    last = last_edge(cells)
    if block <= DATA_CELL or block >= last or block % UNIT_CELLS != 0:
        return NOT_A_BLOCK
    word = cells[block + H_WORD]
    kind = word_kind(word)
    if kind == FREE:
        return FREED
    if kind != USED:
        return NOT_A_BLOCK
    size = cells[block + H_SIZE] >> 2
    units = word_units(word)
    if not header_is_whole(cells, block) or block + units * UNIT_CELLS > last:
        return CORRUPT
    if size < 1 or size > (units - 1) * UNIT:
        return CORRUPT
    if owner != -1 and cells[block + H_OWNER] != owner:
        return WRONG_OWNER
    return 0


@kernel
def follows(cells: Integers, block: int, units: int) -> bool:
    """Whether a header stands at cell `block` (behind the first edge) that has a block of `units` before it."""
    if block > last_edge(cells):
        return False
    kind = word_kind(cells[block + H_WORD])
    return kind >= 0 and cells[block + H_PREVIOUS] == units and (kind != FREE or is_free(cells, block))


@kernel
def allocate(cells: Integers, size: int, owner: int, tier: int) -> int:
    """The cell of the header of a new block that can hold `size` bytes (1 or more), or a code.

    `owner` is 0 or more, `tier` from `HOT` to `FROZEN`. What the payload holds is not defined.
    """
    if size < 1 or tier < HOT or tier > FROZEN or owner < 0:
        return OUT_OF_RANGE
    if size > LARGEST_POOL:
        return OUT_OF_MEMORY
    units = 1 + (size + UNIT - 1) // UNIT
    block = find(cells, units)
    if block < 0:
        return block
    if not is_free(cells, block) or not is_listed(cells, block):
        return CORRUPT
    found = word_units(cells[block + H_WORD])
    behind = block + found * UNIT_CELLS
    rest = found - units
    generation = cells[B_GENERATION]
    if rest < 0 or generation < 0 or generation >= LAST_GENERATION or not follows(cells, behind, found):
        return CORRUPT
    if rest >= SMALLEST_SPLIT and not can_insert(cells, rest):
        return CORRUPT
    if rest < SMALLEST_SPLIT:
        units = found

    cells[B_BUSY] = 1
    fence()
    remove(cells, block)
    cells[B_GENERATION] = generation + 1
    remainder = block + units * UNIT_CELLS
    if remainder < behind:
        write_word(cells, remainder, FREE, rest)
        cells[remainder + H_PREVIOUS] = units
    cells[block + H_SIZE] = size * 4 + tier
    cells[block + H_OWNER] = owner
    cells[block + H_GENERATION] = generation + 1
    cells[block + H_SEQUENCE] = 0
    cells[block + H_HEAT] = 0
    cells[block + H_STAMP] = cells[B_NOW_US]
    fence()
    # One store makes the block used and shortens it.
    write_word(cells, block, USED, units)
    fence()
    if remainder < behind:
        cells[behind + H_PREVIOUS] = rest
        insert(cells, remainder)
    else:
        bump(cells, B_FREE_BLOCKS, -1)
    bump(cells, B_USED_BLOCKS, 1)
    bump(cells, B_USED_UNITS, units)
    bump(cells, B_FREE_UNITS, -units)
    bump(cells, B_ALLOCATIONS, 1)
    fence()
    cells[B_BUSY] = 0
    return int(block)


@kernel
def release(cells: Integers, block: int) -> int:
    """Free the used block at cell `block`, any number, and merge it with its neighbours: 0, or a code."""
    code = check_block(cells, block, -1)
    if code != 0:
        return code
    units = word_units(cells[block + H_WORD])
    behind = block + units * UNIT_CELLS
    previous = cells[block + H_PREVIOUS]
    # Before the product: a damaged number could be too large for it.
    if previous < 1 or previous > (block - DATA_CELL) // UNIT_CELLS or not follows(cells, behind, units):
        return CORRUPT
    before = block - previous * UNIT_CELLS
    word = cells[before + H_WORD]
    if word_kind(word) < 0 or word_units(word) != previous:
        return CORRUPT
    joins_before = word_kind(word) == FREE
    joins_behind = word_kind(cells[behind + H_WORD]) == FREE
    end = behind
    length = units
    if joins_before:
        if not is_free(cells, before) or not is_listed(cells, before):
            return CORRUPT
        length += previous
    if joins_behind:
        further = word_units(cells[behind + H_WORD])
        end = behind + further * UNIT_CELLS
        if not is_listed(cells, behind) or not follows(cells, end, further):
            return CORRUPT
        length += further
    if not can_insert(cells, length):
        return CORRUPT

    cells[B_BUSY] = 1
    fence()
    # From this store on it is free, for handles too.
    write_word(cells, block, FREE, units)
    fence()
    start = block
    if joins_behind:
        remove(cells, behind)
    if joins_before:
        remove(cells, before)
        start = before
    if length != units:
        fence()
        write_word(cells, start, FREE, length)
        fence()
        # A header inside a longer block shall not pass for one: it is free, and has no length.
        if joins_behind:
            write_word(cells, behind, FREE, 0)
        if joins_before:
            write_word(cells, block, FREE, 0)
    cells[end + H_PREVIOUS] = length
    insert(cells, start)
    bump(cells, B_FREE_BLOCKS, 1 - int(joins_before) - int(joins_behind))
    bump(cells, B_USED_BLOCKS, -1)
    bump(cells, B_USED_UNITS, -units)
    bump(cells, B_FREE_UNITS, units)
    bump(cells, B_FREES, 1)
    fence()
    cells[B_BUSY] = 0
    return 0


@kernel
def amend(cells: Integers, block: int, owner: int, generation: int) -> None:
    """Change owner and generation of the used block at cell `block`; with `B_AMENDED` a killed change is completed."""
    cells[B_BUSY] = 1
    cells[B_AMENDED_WORD] = cells[block + H_WORD]
    cells[B_AMENDED_OWNER] = owner
    cells[B_AMENDED_GENERATION] = generation
    fence()
    cells[B_AMENDED] = block
    fence()
    cells[block + H_OWNER] = owner
    cells[block + H_GENERATION] = generation
    fence()
    write_word(cells, block, USED, word_units(cells[block + H_WORD]))
    fence()
    cells[B_AMENDED] = 0
    fence()
    cells[B_BUSY] = 0


@kernel
def give(cells: Integers, block: int, owner: int) -> int:
    """Make `owner` (0 or more) the owner of the used block at cell `block`, any number: 0, or a code."""
    code = check_block(cells, block, -1) if owner >= 0 else OUT_OF_RANGE
    if code != 0:
        return code
    amend(cells, block, owner, cells[block + H_GENERATION])
    return 0


@kernel
def renew(cells: Integers, block: int) -> int:
    """Let all handles of the used block at cell `block` be of a freed one: its new generation, or a code.

    It counts as never committed: when its owner dies it is given back.
    """
    code = check_block(cells, block, -1)
    generation = cells[B_GENERATION]
    if code == 0 and (generation < 0 or generation >= LAST_GENERATION):
        code = CORRUPT
    if code != 0:
        return code
    cells[B_GENERATION] = generation + 1
    cells[block + H_SEQUENCE] = 0
    fence()
    amend(cells, block, cells[block + H_OWNER], generation + 1)
    return int(generation + 1)
