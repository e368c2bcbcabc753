"""Whether a handle is of a block of this pool, and what is said when it is not."""

from __future__ import annotations

from twin.pool import allocator
from twin.pool.access import look
from twin.pool.block import AMENDED, OTHER_BLOCK, WORDS, Block
from twin.pool.chain import is_half_amended
from twin.pool.errors import BusyBlockError, PoolError, PoolInputError, StaleBlockError
from twin.pool.layout import H_GENERATION, H_OWNER, H_SEQUENCE, H_SIZE, H_WORD, UNIT_CELLS, USED, word_kind
from twin.pool.member import Member

READ_ATTEMPTS = 1_000
"""How often a reader looks at a block that is being written before it says so."""


class Finder(Member):
    """A member that finds blocks, and refuses what is none. `Pool` is one."""

    def _check(self, block: Block) -> None:
        if not 0 < block.cell < len(self.cells):
            self._refuse(allocator.NOT_A_BLOCK, block, "a look")
        code = self._standing(block.cell)
        if code == 0 and self._numbers[block.cell + H_GENERATION] != block.generation:
            code = allocator.FREED
        if code < 0:
            self._refuse(code, block, "a look")
        if self._numbers[block.cell + H_SIZE] >> 2 != block.size:
            self._refuse_other(block)

    def _refuse_other(self, block: Block) -> None:
        """The size is not the handle's: another pool's block, or one that was freed while this looked."""
        code = self._look(block)
        self._refuse(code if code < 0 else OTHER_BLOCK, block, "a look")

    def _standing(self, cell: int) -> int:
        """What `check_block` says of a used block of anybody's.

        Without the lock a header whose owner or generation is just being changed looks damaged; then this looks again.
        """
        for _ in range(READ_ATTEMPTS):
            code = int(allocator.check_block(self.cells, cell, -1))
            if code != allocator.CORRUPT:
                return code
        return AMENDED if is_half_amended(self.cells, cell) else allocator.CORRUPT

    def _look(self, block: Block) -> int:
        """The block's sequence, or a negative code; without a trace, where this process only reads."""
        if self.owner >= 0:
            return look(self.cells, block.cell, block.generation, self.owner)
        numbers, cell = self._numbers, block.cell
        if not 0 < cell < len(self.cells) - UNIT_CELLS:
            return allocator.NOT_A_BLOCK
        if numbers[cell + H_GENERATION] != block.generation or word_kind(numbers[cell + H_WORD]) != USED:
            return allocator.FREED
        return numbers[cell + H_SEQUENCE]

    def _busy(self, block: Block) -> BusyBlockError:
        return BusyBlockError(
            f"{block!r} was being written each of the {READ_ATTEMPTS} times it was read; try again, and if its writer "
            f"(owner {self._numbers[block.cell + H_OWNER]}) is dead, attach writable once, which recovers the pool"
        )

    def _refuse(self, code: int, block: Block, what: str) -> None:
        if code == allocator.FREED:
            raise StaleBlockError(f"{block!r} was freed; ask for a new block")
        if code == allocator.OUT_OF_RANGE:
            raise PoolInputError(f"{block!r}: {what} do not fit into {block.size} bytes")
        if code == allocator.WRONG_OWNER:
            self.must_write()
            raise PoolInputError(
                f"{block!r} belongs to owner {self._numbers[block.cell + H_OWNER]}, and this is owner {self.owner}; "
                "only its owner writes and frees a block (adopt() takes over an orphan)"
            )
        if code in (AMENDED, allocator.CORRUPT):
            raise not_whole(code, repr(block))
        raise PoolInputError(f"{block!r}: {WORDS[code]}; blocks come from allocate() and block() of the same pool")


def not_whole(code: int, what: str) -> PoolError:
    """A header that is not whole: because its owner is being changed, or because it is damaged."""
    if code == AMENDED:
        return BusyBlockError(
            f"{what} was changing owners each of the {READ_ATTEMPTS} times it was looked at; try again, and if whoever "
            "does it is dead, attach writable once, which recovers the pool"
        )
    return PoolError(f"{what}: {WORDS[code]}; nothing was changed, make a new pool")
