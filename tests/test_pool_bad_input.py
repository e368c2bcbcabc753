"""What makes no sense is one clear error, and the pool is unharmed: foreign handles, damaged headers, damaged files."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twin.cli import main
from twin.pool import recovery
from twin.pool.block import Block
from twin.pool.errors import BusyBlockError, PoolError, PoolInputError
from twin.pool.layout import (
    B_AMENDED,
    B_AMENDED_GENERATION,
    B_AMENDED_OWNER,
    B_AMENDED_WORD,
    B_BUSY,
    CELL,
    DATA_CELL,
    H_GENERATION,
    H_OWNER,
    H_WORD,
    SEAT_CELLS,
    SEATS,
    SEATS_CELL,
    SMALLEST_POOL,
    UNIT_CELLS,
)
from twin.pool.pool import Pool
from twin.pool.records import RecordRing, read_records
from twin.pool.survey import block_map, blocks, survey

CONTENT = b"committed" * 7


@pytest.fixture
def pool() -> Iterator[Pool]:
    """A pool with a committed block, which is there and whole at the end, as everything else is."""
    with Pool.create(SMALLEST_POOL) as made:
        kept = made.allocate(len(CONTENT))
        made.write(kept, CONTENT)
        yield made
        assert recovery.verify(made.cells) == (0, 0)
        assert made.read(kept) == CONTENT


def uses(pool: Pool, block: Block) -> list[Callable[[], object]]:
    return [
        lambda: pool.read(block),
        lambda: pool.read_into(block, bytearray(1)),
        lambda: pool.write(block, b"x"),
        lambda: pool.write(block, bytes(20_000)),
        lambda: pool.replace(block, b"x"),
        lambda: pool.commit(block),
        lambda: pool.free(block),
        lambda: pool.tier(block),
        lambda: pool.view(block),
        lambda: pool.array(block),
        lambda: pool.adopt(block),
    ]


@pytest.mark.parametrize(
    "cell", [-(1 << 40), -8, 0, 8, DATA_CELL, DATA_CELL + 3, SMALLEST_POOL // CELL - 8, SMALLEST_POOL // CELL, 1 << 40]
)
def test_a_handle_of_no_block_of_this_pool_is_refused_everywhere(pool: Pool, cell: int) -> None:
    block = Block(cell, 77, 30_000)
    with Pool.attach(pool.mapping.fd or 0) as reader:
        for use in (*uses(pool, block), *uses(reader, block)):
            with pytest.raises(PoolInputError):
                use()


def test_a_handle_of_another_pool_reads_nothing_beyond_the_block_that_is_there(pool: Pool) -> None:
    with Pool.create(2 * SMALLEST_POOL) as other:
        foreign = other.allocate(SMALLEST_POOL)
        other.write(foreign, b"x")
    here = blocks(pool)[0].address
    assert here == foreign.address
    with Pool.attach(pool.mapping.fd or 0) as reader:
        for each in (pool, reader):
            for use in (
                each.read,
                each.view,
                each.array,
                each.tier,
                lambda block, each=each: each.read_into(block, b""),
            ):
                with pytest.raises(
                    PoolInputError, match=r"another size, so the handle is of another pool; blocks come"
                ):
                    use(foreign)
    with pytest.raises(PoolInputError, match="do not fit"):
        pool.write(foreign, b"x", 1_000)


def test_a_header_whose_owner_is_being_changed_is_busy_and_not_damaged(pool: Pool) -> None:
    block = pool.allocate(100)
    pool.write(block, b"there")
    cells = pool.cells
    # As `amend` leaves it when it is killed before its last store to the header.
    cells[B_BUSY] = 1
    cells[B_AMENDED_WORD] = cells[block.cell + H_WORD]
    cells[B_AMENDED_OWNER], cells[B_AMENDED_GENERATION] = 99, cells[block.cell + H_GENERATION]
    cells[B_AMENDED] = block.cell
    cells[block.cell + H_OWNER] = 99
    with Pool.attach(pool.mapping.fd or 0) as reader:
        assert reader.read(block, 0, 5) == b"there"
        assert survey(reader).used_blocks == 2
        for use in (lambda: reader.tier(block), lambda: reader.block(block.address), lambda: reader.view(block)):
            with pytest.raises(BusyBlockError, match=r"changing owners.*attach writable once"):
                use()
        Pool.attach(pool.mapping.fd or 0, writable=True).close()
        assert reader.tier(block) == "WARM"
        assert reader.block(block.address) == block
    assert [facts.owner for facts in blocks(pool)] == [pool.owner, 99]


def test_a_damaged_header_is_named_by_whoever_walks_over_it_and_the_others_are_read(pool: Pool) -> None:
    block, behind = pool.allocate(100), pool.allocate(100)
    pool.write(behind, b"behind")
    word = int(pool.cells[block.cell + H_WORD])
    pool.cells[block.cell + H_WORD] = word ^ 1 << 33
    for look in (survey, blocks, lambda each: block_map(each, 64)):
        with pytest.raises(PoolError, match=f"headers are damaged at {block.address:#x}.*make a new pool"):
            look(pool)
    with pytest.raises(PoolError, match="nothing was changed, make a new pool"):
        pool.tier(block)
    with pytest.raises(PoolError, match=f"damaged at {block.address:#x}; the pool cannot be used"):
        pool.recover()
    assert pool.read(behind, 0, 6) == b"behind"
    pool.cells[block.cell + H_WORD] = word


# --- files ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Whole:
    """A pool file, and the bytes at which its blocks' headers begin."""

    path: Path
    headers: list[int]

    @property
    def content(self) -> bytes:
        return self.path.read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """With committed, free blocks, and telemetry records."""
    path = tmp_path_factory.mktemp("pool") / "whole"
    with Pool.create_file(path, SMALLEST_POOL) as made:
        ring = RecordRing(made, ["a", "b"], 4)
        for number in range(6):
            ring.append([number, None])
        several = [made.allocate(40 * (number + 1), "COLD") for number in range(8)]
        for block in several:
            made.write(block, bytes(range(40)))
        for block in several[::3]:
            made.free(block)
        headers = [made.block(facts.address).cell * CELL for facts in blocks(made)]
    return Whole(path, headers)


def look_at_everything(path: Path) -> None:
    """All that a stranger's file goes through. Raises `PoolError` for a file that is refused as a whole."""
    with Pool.attach_file(path) as reader:
        for look in (survey, blocks, lambda pool: block_map(pool, 64), lambda pool: read_records(pool, 3)):
            with contextlib.suppress(PoolError):
                look(reader)
        for cell in range(DATA_CELL, len(reader.cells), 5 * UNIT_CELLS):
            with contextlib.suppress(PoolError):
                block = reader.block(0x7FFF0000 + cell * CELL)
                reader.read(block)
                reader.tier(block)
                reader.array(block).tobytes()
    with Pool.attach_file(path, writable=True) as writer:
        with contextlib.suppress(PoolError):
            block = writer.allocate(1_000)
            writer.write(block, bytes(1_000))
            writer.free(block)
        with contextlib.suppress(PoolError):
            writer.recover()


@st.composite
def damage(draw: st.DrawFn) -> list[tuple[str, int, int]]:
    """Bytes to change: where they lie is a region's name and a number that is taken within it."""
    regions = st.sampled_from(["superblock", "lock", "counters", "lists", "seats", "header", "edges", "anywhere"])
    return draw(st.lists(st.tuples(regions, st.integers(0, 1 << 24), st.integers(1, 255)), min_size=1, max_size=6))


def damaged(content: bytes, headers: list[int], changes: list[tuple[str, int, int]]) -> bytes:
    changed = bytearray(content)
    spans = {
        "superblock": (0, 64),
        "lock": (128, 192),
        "counters": (192, 416),
        "lists": (512, SEATS_CELL * CELL),
        "seats": (SEATS_CELL * CELL, (SEATS_CELL + SEATS * SEAT_CELLS) * CELL),
        "anywhere": (0, len(content)),
    }
    for region, number, flip in changes:
        if region == "header":
            at = headers[number % len(headers)] + number // len(headers) % 64
        elif region == "edges":
            at = (DATA_CELL * CELL if number & 1 else len(content) - 64) + number // 2 % 64
        else:
            begin, end = spans[region]
            at = begin + number % (end - begin)
        changed[at] ^= flip
    return bytes(changed)


@given(changes=damage())
def test_a_file_with_any_bytes_changed_gives_pool_errors_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, whole: Whole, changes: list[tuple[str, int, int]]
) -> None:
    path = tmp_path_factory.getbasetemp() / f"damaged-{os.getpid()}"
    content = damaged(whole.content, whole.headers, changes)
    path.write_bytes(content)
    errors = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(errors):
        status = main(["pool", str(path)])
    assert status == 0 or (status in (2, 3) and errors.getvalue().count("\n") == 1), errors.getvalue()
    # Whoever only looks changes nothing.
    assert path.read_bytes() == content
    with contextlib.suppress(PoolError):
        look_at_everything(path)


@pytest.mark.parametrize("cell", range(8))
def test_each_fixed_cell_of_the_superblock_counts(tmp_path: Path, whole: Whole, cell: int) -> None:
    content = bytearray(whole.content)
    content[cell * CELL + 2] ^= 0x40
    path = tmp_path / "pool"
    path.write_bytes(content)
    for writable in (False, True):
        with pytest.raises(PoolInputError, match=r"make (one|a new pool)"):
            Pool.attach_file(path, writable)
    assert path.read_bytes() == content


def test_a_file_of_another_size_than_its_pool_is_refused_with_both_sizes(tmp_path: Path, whole: Whole) -> None:
    path = tmp_path / "pool"
    for size in (SMALLEST_POOL - 4_096, SMALLEST_POOL + 4_096, 2 * SMALLEST_POOL):
        path.write_bytes(whole.content[:size].ljust(size, b"\0"))
        with pytest.raises(PoolInputError, match=rf"is {size:,} bytes long and says that it is a pool of 1,048,576"):
            Pool.attach_file(path)
