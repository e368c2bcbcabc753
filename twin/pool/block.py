"""The handle of a block, and what can be said about one that cannot be used."""

from __future__ import annotations

from twin.pool import allocator, recovery
from twin.pool.errors import PoolInputError
from twin.pool.layout import CELL, LOGICAL_BASE, TIERS

OTHER_BLOCK = -10
"""The handle is of a block of another size, so of another pool."""
AMENDED = -11
"""The block's owner or generation is being changed."""


class Block:
    """A handle: where a block is, which of the blocks that were ever there, and how many bytes it holds."""

    __slots__ = ("cell", "generation", "size")

    def __init__(self, cell: int, generation: int, size: int) -> None:
        self.cell = cell
        self.generation = generation
        self.size = size

    @property
    def address(self) -> int:
        """The block's address, the same in every process."""
        return LOGICAL_BASE + self.cell * CELL

    def __repr__(self) -> str:
        return f"<Block {self.address:#x}, {self.size} bytes, generation {self.generation}>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Block):
            return NotImplemented
        return (self.cell, self.generation) == (other.cell, other.generation)

    def __hash__(self) -> int:
        return self.generation


WORDS = {
    allocator.OUT_OF_MEMORY: "there is no room",
    allocator.NOT_A_BLOCK: "no block begins there",
    allocator.FREED: "the block there was freed",
    allocator.WRONG_OWNER: "the block belongs to another owner",
    allocator.CORRUPT: "the headers are damaged",
    allocator.OUT_OF_RANGE: "it does not fit",
    OTHER_BLOCK: "the block there has another size, so the handle is of another pool",
    AMENDED: "the block is changing owners",
    recovery.NOT_A_POOL: "it is not a pool",
    recovery.OTHER_VERSION: "it is a pool of another version",
    recovery.OTHER_SIZE: "it says that it is of another size",
}


def tier_number(tier: object) -> int:
    """The number of a tier's name. Raises `PoolInputError`."""
    if tier not in TIERS:
        raise PoolInputError(f"tier {tier!r}: allowed are {', '.join(TIERS)}")
    return TIERS.index(tier)
