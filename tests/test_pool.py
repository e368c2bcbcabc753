"""The pool through its interface: what it promises, what it refuses, and what other processes see of it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from running import twin, twin_json

from twin.pool import recovery
from twin.pool.access import begin_write
from twin.pool.block import Block
from twin.pool.errors import PoolError, PoolInputError, StaleBlockError
from twin.pool.layout import B_USED_BLOCKS, B_VERSION, CELL, DATA_CELL, H_WORD, LOGICAL_BASE, VERSION
from twin.pool.pool import Pool
from twin.pool.survey import blocks, survey

MB = 1 << 20


@pytest.fixture
def pool():
    with Pool.create(4 * MB) as made:
        yield made
        assert recovery.verify(made.cells) == (0, 0)


def test_what_is_written_is_read_in_whole_and_in_part(pool: Pool) -> None:
    block = pool.allocate(1_000)
    pool.write(block, b"abc")
    assert pool.read(block) == b"abc" + bytes(997)
    pool.write(block, b"xy", 998)
    assert pool.read(block, 996, 4) == b"\0\0xy"
    pool.write(block, bytearray(b"1"), 0)
    pool.write(block, memoryview(np.array([7], dtype=np.int64)), 8)
    assert pool.read(block, 0, 9) == b"1bc\0\0\0\0\0\x07"
    assert pool.block(block.address) == block


def test_long_contents_can_be_written_over_and_replaced(pool: Pool) -> None:
    first, second = os.urandom(MB), os.urandom(MB)
    block = pool.allocate(MB)
    pool.write(block, first)
    pool.write(block, second)
    assert pool.read(block) == second
    new = pool.replace(block, first)
    assert pool.read(new) == first
    with pytest.raises(StaleBlockError, match="was freed"):
        pool.read(block)
    into = bytearray(100)
    pool.read_into(new, into)
    assert into == first[:100]


def test_a_freed_block_is_refused_everywhere_and_its_views_raise(pool: Pool) -> None:
    block = pool.allocate(64)
    pool.write(block, bytes(range(64)))
    view, array = pool.view(block), pool.array(block, np.int64)
    view[0] = 9
    array[1] = 5
    assert pool.read(block, 0, 1) == b"\x09"
    pool.free(block)
    for use in (pool.read, pool.free, pool.tier, pool.view, lambda each: pool.write(each, b"")):
        with pytest.raises(StaleBlockError):
            use(block)
    with pytest.raises(ValueError, match="released"):
        view[0]
    for use in (
        lambda: array[0],
        lambda: array + 1,
        lambda: array.tolist(),
        lambda: np.sum(array),
        lambda: list(array),
    ):
        with pytest.raises(StaleBlockError):
            use()
    with pytest.raises(StaleBlockError):
        array[0] = 1


def test_memory_that_a_plain_array_still_looks_at_is_given_to_nobody(pool: Pool) -> None:
    block = pool.allocate(2 * MB)
    pool.write(block, bytes(2 * MB))
    plain = np.asarray(pool.array(block)).view(np.ndarray)
    pool.free(block)
    with pytest.raises(PoolError, match="wait for arrays"):
        pool.allocate(2 * MB)
    assert not plain.any()
    del plain
    assert pool.allocate(2 * MB).size == 2 * MB


def test_a_refused_long_write_leaves_nothing_behind(pool: Pool) -> None:
    long = bytes(100_000)
    with Pool.attach(pool.mapping.fd, writable=True) as other:
        theirs = other.allocate(len(long))
        other.write(theirs, long)
        with pytest.raises(PoolInputError, match="only its owner"):
            pool.write(theirs, long)
        with pytest.raises(PoolInputError, match="do not fit"):
            other.write(theirs, long, 1)
        assert pool.cells[B_USED_BLOCKS] == 1
        other.free(theirs)


@pytest.mark.parametrize("size", [100, 100_000])
def test_a_write_that_is_interrupted_once_it_has_begun_is_undone(pool: Pool, size, monkeypatch) -> None:
    block = pool.allocate(size)
    pool.write(block, b"a" * size)

    def interrupted(*arguments: object) -> int:
        begin_write(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("twin.pool.pool.begin_write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pool.write(block, b"b" * size)
    assert pool.read(block) == b"a" * size
    assert pool.cells[B_USED_BLOCKS] == 1


def test_a_commit_undoes_what_this_seat_left_half_written(pool: Pool) -> None:
    block = pool.allocate(100)
    pool.write(block, b"a" * 100)
    assert begin_write(pool.cells, pool.mapping.seat, block.cell, block.generation, pool.owner, 0, 100, 0) & 1
    pool.commit(block)
    assert pool.read(block) == b"a" * 100


@pytest.mark.parametrize("size", [0, -1, 1.5, "7", True, None, 1 << 70])
def test_impossible_sizes_are_refused(pool: Pool, size) -> None:
    with pytest.raises(PoolInputError, match="a size is an integer"):
        pool.allocate(size)


def test_more_than_there_is_says_how_much_there_is(pool: Pool) -> None:
    with pytest.raises(PoolError, match=r"no room for 8,388,608 bytes in one piece \([0-9,]+ bytes are free"):
        pool.allocate(8 * MB)


@pytest.mark.parametrize("tier", ["LUKEWARM", "hot", 1, None])
def test_unknown_tiers_are_refused(pool: Pool, tier) -> None:
    with pytest.raises(PoolInputError, match="allowed are HOT, WARM, COLD, FROZEN"):
        pool.allocate(8, tier)


@pytest.mark.parametrize(
    "address", [0, LOGICAL_BASE, LOGICAL_BASE + 1, -5, 1 << 80, "x", LOGICAL_BASE + DATA_CELL * CELL]
)
def test_addresses_of_nothing_are_refused(pool: Pool, address) -> None:
    with pytest.raises(PoolInputError, match="no block begins there"):
        pool.block(address)


@pytest.mark.parametrize(("offset", "data"), [(-1, b"a"), (60, b"12345"), (65, b""), (0, bytes(65))])
def test_bytes_that_do_not_fit_are_refused(pool: Pool, offset, data) -> None:
    block = pool.allocate(64)
    pool.write(block, b"safe")
    with pytest.raises(PoolInputError, match="do not fit"):
        pool.write(block, data, offset)
    with pytest.raises(PoolInputError, match="do not fit"):
        pool.read(block, offset, max(len(data), 1))
    assert pool.read(block, 0, 4) == b"safe"


@pytest.mark.parametrize("size", [0, -1, 100, MB + 1, 1 << 40, "big", None])
def test_pools_of_impossible_sizes_are_refused(size) -> None:
    with pytest.raises(PoolInputError, match="allowed are multiples of 4,096"):
        Pool.create(size)


def test_only_its_owner_writes_and_frees_a_block_and_orphans_can_be_adopted(pool: Pool) -> None:
    other = Pool.attach(pool.mapping.fd, writable=True)
    theirs = other.allocate(100)
    other.write(theirs, b"mine")
    lost = other.allocate(100)
    assert pool.read(theirs, 0, 4) == b"mine"
    for use in (lambda: pool.write(theirs, b"x"), lambda: pool.free(theirs)):
        with pytest.raises(PoolInputError, match="only its owner"):
            use()
    with pytest.raises(PoolError, match="only an orphan"):
        pool.adopt(theirs)
    with pytest.raises(TypeError):
        pool.view(theirs)[0] = 1
    other.close()
    assert [facts.address for facts in blocks(pool)] == [theirs.address], lost
    pool.adopt(theirs)
    pool.write(theirs, b"ours")
    pool.free(theirs)


def test_a_reader_reads_and_is_refused_the_rest(pool: Pool) -> None:
    block = pool.allocate(10)
    pool.write(block, b"0123456789")
    with Pool.attach(pool.mapping.fd) as reader:
        assert reader.read(reader.block(block.address)) == b"0123456789"
        for use in (
            lambda: reader.allocate(1),
            lambda: reader.free(block),
            lambda: reader.write(block, b"x"),
            reader.recover,
        ):
            with pytest.raises(PoolError, match="attached for reading"):
                use()
        pool.free(block)
        with pytest.raises(StaleBlockError):
            reader.read(block)


def test_damaged_headers_and_superblocks_are_refused_and_nothing_is_harmed(pool: Pool) -> None:
    block, other = pool.allocate(100), pool.allocate(100)
    pool.write(other, b"whole")
    word = int(pool.cells[block.cell + H_WORD])
    pool.cells[block.cell + H_WORD] = word ^ 1
    for use in (pool.free, pool.tier, lambda each: pool.write(each, b"x")):
        with pytest.raises(PoolError):
            use(block)
    assert pool.read(other, 0, 5) == b"whole"
    pool.cells[block.cell + H_WORD] = word
    pool.free(block)
    pool.cells[B_VERSION] = 99
    with pytest.raises(PoolInputError, match="version 99"):
        Pool.attach(pool.mapping.fd)
    pool.cells[B_VERSION] = VERSION


def test_a_pool_file_stays_and_is_attached_to_and_a_cut_one_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pool"
    with Pool.create_file(path, MB) as made:
        kept = made.allocate(100)
        made.write(kept, b"kept")
    with pytest.raises(PoolInputError, match="already"):
        Pool.create_file(path, MB)
    with Pool.attach_file(path) as reader:
        assert reader.read(reader.block(kept.address), 0, 4) == b"kept"
    shown = twin_json("pool", path)
    assert shown["used_blocks"] == 1
    assert shown["kind"] == "file"
    os.truncate(path, MB // 2)
    with pytest.raises(PoolError):
        Pool.attach_file(path)
    assert twin("pool", path, check=False).returncode == 2


def test_tiers_follow_accesses(pool: Pool) -> None:
    block = pool.allocate(8)
    pool.write(block, b"x")
    for _ in range(101):
        pool.read(block)
    assert pool.tier(block) == "HOT"
    assert survey(pool).tiers["HOT"]["blocks"] == 1


_READER = """
import sys
from pathlib import Path
from twin.cli.pool import attached
from twin.pool.records import read_records
from twin.pool.survey import survey
import time
until = time.monotonic() + 20
seen = 0
while time.monotonic() < until:
    try:
        with attached(Path(sys.argv[1])) as pool:
            print("attached", flush=True)
            while True:
                survey(pool)
                seen = max(seen, read_records(pool, 3)[0])
                print(seen, flush=True)
    except Exception as error:
        if seen: raise
        time.sleep(0.01)
"""


@pytest.mark.parametrize("readers", [1, 4])
def test_readers_change_no_digest(readers: int, tmp_path: Path) -> None:
    plain = twin_json("run", "idle", "--duration", "20", "--out", tmp_path / "plain")
    run = tmp_path / "watched"
    watching = [
        subprocess.Popen([sys.executable, "-c", _READER, str(run)], stdout=subprocess.PIPE, text=True)
        for _ in range(readers)
    ]
    try:
        watched = twin_json("run", "idle", "--duration", "20", "--crystal", "--out", run)
    finally:
        for each in watching:
            with contextlib.suppress(ProcessLookupError):
                each.kill()
            each.communicate()
    for name in ("tick_digest", "control_digest", "run_digest"):
        assert watched[name] == plain[name]
    assert twin_json("replay", run, "--crystal")["equal"] is True
    assert twin_json("replay", run)["equal"] is True


def test_blocks_print_what_they_are() -> None:
    assert repr(Block(16, 3, 5)) == f"<Block {LOGICAL_BASE + 128:#x}, 5 bytes, generation 3>"


@pytest.mark.parametrize(
    "use",
    [
        lambda a: a.item(0), lambda a: a.fill(1), lambda a: a.sort(), lambda a: a.dot(a), lambda a: a.put([0], [1]),
        lambda a: a.nonzero(), lambda a: a.searchsorted(1), lambda a: a.tolist(), lambda a: a.tobytes(),
        lambda a: a.copy(), lambda a: a.astype(float), lambda a: a.take([0]), lambda a: a[0], lambda a: a + 1,
        lambda a: np.sum(a), lambda a: a.sum(), lambda a: list(a), repr,
    ],
)  # fmt: skip
def test_no_way_of_using_the_array_of_a_freed_block_is_silent(use) -> None:
    with Pool.private(1 << 20) as pool:
        block = pool.allocate(64)
        pool.write(block, bytes(64))
        array = pool.array(block)
        use(array)
        pool.free(block)
        with pytest.raises(StaleBlockError):
            use(array)


def test_a_header_that_was_copied_into_a_payload_is_no_block() -> None:
    with Pool.private(1 << 20) as pool:
        first, holder = pool.allocate(64), pool.allocate(4_096)
        pool.write(first, bytes(64))
        start = first.cell * CELL
        pool.write(holder, pool.mapping.memory[start : start + 128].tobytes() * 8)
        for unit in range(1, 17):
            with pytest.raises(PoolError, match="address"):
                pool.block(holder.address + unit * 64)
        assert recovery.verify(pool.cells) == (0, 0)
