"""Reading ahead and the background: what is foretold, what tiers do, and what the kernel is told about pages."""

from __future__ import annotations

import ctypes
import logging
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from running import twin, twin_json

from twin.pool import place, recovery, upkeep
from twin.pool.crystal import Crystal
from twin.pool.errors import PoolInputError, StaleBlockError
from twin.pool.layout import (
    B_DEMOTIONS,
    B_HITS,
    B_PROMOTIONS,
    B_SLOPE,
    CELL,
    FROZEN,
    H_HEAT,
    H_SIZE,
    H_STAMP,
    TIERS,
    UNIT,
    UNIT_CELLS,
)
from twin.pool.pool import SLOPE_Q48_PER_US, Pool
from twin.pool.prefetch import Prefetcher
from twin.pool.survey import survey
from twin.pool.tiers import DEMOTED_BELOW, ONE_EXECUTION, PROMOTED_ABOVE, SLOPE_MAX
from twin.pool.upkeep import Sweeper
from twin.scenario import Pool as PoolSettings

MB = 1 << 20
MINUTE_US = 60_000_000


@pytest.fixture(params=["memfd", "file", "private"])
def pool(request, tmp_path: Path):
    ways = {
        "memfd": lambda: Pool.create(4 * MB),
        "file": lambda: Pool.create_file(tmp_path / "a.pool", 4 * MB),
        "private": lambda: Pool.private(4 * MB),
    }
    with ways[request.param]() as made:
        yield made
        assert recovery.verify(made.cells) == (0, 0)


def filled(pool: Pool, count: int, size: int = 64, tier: str = "WARM"):
    made = []
    for number in range(count):
        block = pool.allocate(size, tier)
        pool.write(block, bytes([number % 251 + 1]) * size)
        made.append(block)
    return made


def in_memory(pool: Pool) -> int:
    """How many of the pool's pages the kernel says are in memory."""
    pages = pool.mapping.bytes // place.PAGE
    found = (ctypes.c_ubyte * pages)()
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mincore.argtypes = (ctypes.c_size_t, ctypes.c_size_t, ctypes.c_void_p)
    assert libc.mincore(pool.mapping.address, pool.mapping.bytes, found) == 0
    return sum(page & 1 for page in found)


# --- foretelling ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [2, 3, 4])
def test_a_cycle_of_blocks_is_foretold(pool: Pool, order: int) -> None:
    blocks = filled(pool, 7)
    reader = Prefetcher(pool, order)
    for _ in range(40):
        for block in blocks:
            assert reader.read(block) == pool.read(block)
    seen = survey(pool)
    # Ten rounds are needed to learn it, and then every access is foretold.
    assert seen.guesses >= 28 * 7
    assert seen.guess_accuracy == 1.0


def test_random_accesses_are_hardly_ever_guessed(pool: Pool) -> None:
    blocks = filled(pool, 16)
    reader = Prefetcher(pool)
    chance = random.Random(5)
    for _ in range(4_000):
        reader.read(chance.choice(blocks))
    seen = survey(pool)
    assert seen.guesses <= 40
    assert seen.guesses_right <= seen.guesses
    assert Prefetcher(pool).read(blocks[0]) == pool.read(blocks[0])


def test_a_guess_that_fails_is_counted_as_one(pool: Pool) -> None:
    first, second, other = filled(pool, 3)
    reader = Prefetcher(pool, order=2)
    for _ in range(20):
        reader.read(first)
        reader.read(second)
    before = survey(pool)
    reader.read(other)
    after = survey(pool)
    assert (after.guesses, after.guesses_right) == (before.guesses + 1, before.guesses_right)
    assert 0 < after.guess_accuracy < 1


@pytest.mark.parametrize(("tier", "then"), [("FROZEN", "COLD"), ("COLD", "WARM"), ("WARM", "WARM"), ("HOT", "HOT")])
def test_an_expected_block_comes_one_tier_up_and_its_pages_are_asked_for(pool: Pool, tier: str, then: str) -> None:
    first, second = filled(pool, 1) + filled(pool, 1, 3 * place.PAGE)
    reader = Prefetcher(pool, order=2)
    for _ in range(12):
        reader.read(first)
        reader.write(second, b"x")
    size = int(pool.cells[second.cell + H_SIZE])
    pool.cells[second.cell + H_SIZE] = size - (size & 3) + TIERS.index(tier)
    before = survey(pool)
    reader.read(first)
    after = survey(pool)
    assert pool.tier(second) == then
    is_cold = tier in ("COLD", "FROZEN")
    # Three pages of payload that begin behind a header lie on four.
    assert after.pages_prefetched - before.pages_prefetched == 4 * is_cold
    assert after.promotions - before.promotions == is_cold
    assert after.pages_refused == 0
    assert pool.read(second, 1) == bytes([1]) * (3 * place.PAGE - 1)


def test_pages_of_a_file_that_were_given_up_are_in_memory_again_when_their_block_is_expected(tmp_path: Path) -> None:
    with Pool.create_file(tmp_path / "a.pool", 4 * MB) as pool:
        first, second = filled(pool, 1) + filled(pool, 1, MB)
        reader = Prefetcher(pool, order=2)
        for _ in range(12):
            reader.read(first)
            reader.read(second)
        size = int(pool.cells[second.cell + H_SIZE])
        pool.cells[second.cell + H_SIZE] = size - (size & 3) + FROZEN
        fd = pool.mapping.fd
        os.fsync(fd)
        page = -(-(second.cell + UNIT_CELLS) * CELL // place.PAGE)
        libc = ctypes.CDLL(None, use_errno=True)
        libc.madvise.argtypes = (ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int)
        pages_out = 21
        assert libc.madvise(pool.mapping.address + page * place.PAGE, 200 * place.PAGE, pages_out) == 0
        given_up = in_memory(pool)
        reader.read(first)
        assert survey(pool).pages_prefetched == 257
        if given_up == pool.mapping.bytes // place.PAGE:
            pytest.skip("this file system keeps its pages in memory")
        # They are read in the background.
        for _ in range(2_000):
            if in_memory(pool) > given_up:
                break
            time.sleep(0.005)
        assert in_memory(pool) > given_up
        assert pool.read(second) == bytes([1]) * MB


def test_a_block_that_is_gone_or_another_owners_is_not_guessed(pool: Pool) -> None:
    first, second = filled(pool, 2)
    reader = Prefetcher(pool, order=2)
    for _ in range(20):
        reader.read(first)
        reader.read(second)
    pool.free(second)
    before = survey(pool)
    reader.read(first)
    reader.read(first)
    # The first of these was foretold; after it the second block would be, if it were there.
    assert survey(pool).guesses == before.guesses + 1
    with pytest.raises(StaleBlockError):
        reader.read(second)
    with pytest.raises(StaleBlockError):
        reader.accessed(second)


def test_accesses_through_the_prefetcher_warm_a_block_and_the_hundred_and_first_promotes_it(pool: Pool) -> None:
    for use in (
        lambda reader, block: reader.read(block),
        lambda reader, block: reader.write(block, b"x"),
        lambda reader, block: reader.view(block),
        lambda reader, block: reader.accessed(block),
    ):
        block = filled(pool, 1)[0]
        reader = Prefetcher(pool)
        promotions = int(pool.cells[B_PROMOTIONS])
        for _ in range(100):
            use(reader, block)
        assert pool.cells[block.cell + H_HEAT] == PROMOTED_ABOVE
        assert pool.tier(block) == "WARM"
        use(reader, block)
        assert pool.tier(block) == "HOT"
        assert pool.cells[B_PROMOTIONS] == promotions + 1


def test_who_only_reads_foretells_and_sweeps_nothing() -> None:
    with Pool.create(MB) as pool:
        block = filled(pool, 1)[0]
        with Pool.attach(pool.mapping.fd) as reader:
            for made in (Prefetcher, Sweeper):
                with pytest.raises(PoolInputError, match="attached for reading"):
                    made(reader)
            heat = int(pool.cells[block.cell + H_HEAT])
            reader.touch(block)
            assert pool.cells[block.cell + H_HEAT] == heat
        sweeper, reading = Sweeper(pool), Prefetcher(pool)
    with pytest.raises(PoolInputError, match="attached for reading"):
        sweeper.sweep()
    with pytest.raises(ValueError, match="released"):
        reading.read(block)


# --- the background ---------------------------------------------------------------------------------------------------


def test_a_block_is_demoted_below_ten_accesses_and_not_at_ten(pool: Pool) -> None:
    pool.cells[B_SLOPE] = 0
    ten, less = filled(pool, 2)
    pool.cells[ten.cell + H_HEAT] = DEMOTED_BELOW
    pool.cells[less.cell + H_HEAT] = DEMOTED_BELOW - 1
    assert DEMOTED_BELOW == 10 * ONE_EXECUTION
    sweeper = Sweeper(pool)
    sweeper.sweep()
    assert (pool.tier(ten), pool.tier(less)) == ("WARM", "COLD")
    sweeper.sweep()
    sweeper.sweep()
    assert (pool.tier(ten), pool.tier(less)) == ("WARM", "FROZEN")
    assert survey(pool).demotions == 2


@given(
    st.lists(st.tuples(st.integers(1, 9_000), st.sampled_from(TIERS), st.booleans()), min_size=1, max_size=40),
    st.integers(1, 50),
    st.data(),
)
@settings(max_examples=40, deadline=None)
def test_each_block_is_visited_once_a_pass_and_others_are_left_alone(rows, per_sweep: int, data) -> None:
    with Pool.create(MB) as pool:
        made = [(pool.allocate(size, tier), tier, spared) for size, tier, spared in rows]
        for block, *_ in made:
            pool.write(block, os.urandom(block.size))
        kept = {block: pool.read(block) for block, *_ in made}
        for block, *_ in made:
            pool.cells[block.cell + H_HEAT] = 0
        before = pool.cells[[block.cell + H_HEAT for block, *_ in made]].tolist()
        pool.now_us = MINUTE_US
        sweeper = Sweeper(pool, [block.cell for block, _, spared in made if spared], per_sweep)
        # Chain: the blocks, and the free rest.
        for _ in range(-(-(len(made) + 1) // per_sweep)):
            sweeper.sweep()
        for block, tier, spared in made:
            expected = tier if spared else TIERS[min(TIERS.index(tier) + 1, FROZEN)]
            assert pool.tier(block) == expected
            assert pool.cells[block.cell + H_STAMP] == (0 if spared else MINUTE_US)
        assert pool.cells[B_DEMOTIONS] == sum(tier != "FROZEN" and not spared for _, tier, spared in made)
        assert before == [0] * len(made)
        freed = data.draw(st.sets(st.sampled_from(range(len(made)))))
        for number in freed:
            pool.free(made[number][0])
        for _ in range(200):
            sweeper.sweep()
        for number, (block, tier, spared) in enumerate(made):
            if number not in freed:
                assert pool.tier(block) == (tier if spared else "FROZEN")
                assert pool.read(block) == kept[block]
        assert recovery.verify(pool.cells) == (0, 0)


@given(st.lists(st.tuples(st.integers(1, 30_000), st.booleans()), min_size=1, max_size=25))
@settings(max_examples=40, deadline=None)
def test_pages_are_advised_cold_exactly_where_frozen_blocks_cover_them(rows) -> None:
    with Pool.create(2 * MB) as pool:
        owned = [pool.allocate(size, "FROZEN" if frozen else "HOT") for size, frozen in rows]
        pool.cells[B_SLOPE] = 0
        cells = np.zeros(len(pool.cells), dtype=bool)
        for number, (block, (size, frozen)) in enumerate(zip(owned, rows, strict=True)):
            pool.write(block, b"x")
            if frozen:
                # A header counts where another frozen block lies before it.
                from_cell = block.cell if number and rows[number - 1][1] else block.cell + UNIT_CELLS
                cells[from_cell : block.cell + UNIT_CELLS + -(-size // UNIT) * UNIT_CELLS] = True
            else:
                pool.cells[block.cell + H_HEAT] = PROMOTED_ABOVE
        covered = cells.reshape(-1, upkeep.PAGE_CELLS).all(axis=1)
        rows_of_pages = np.zeros((64, 2), dtype=np.int64)
        nobody = np.zeros(0, dtype=np.int64)
        following, count = upkeep.tend(pool.cells, nobody, pool.owner, 0, 0, 64, rows_of_pages)
        found = np.zeros(len(covered), dtype=bool)
        for first, after in rows_of_pages[:count].tolist():
            assert not found[first:after].any()
            found[first:after] = True
        assert following == 0
        assert found.tolist() == covered.tolist()
        # They are no news any more.
        newest = int(pool.cells[owned[-1].cell + 4])
        assert upkeep.tend(pool.cells, nobody, pool.owner, 0, newest, 64, rows_of_pages) == (0, 0)


def test_frozen_pages_are_advised_once_and_again_after_use_and_keep_their_bytes(pool: Pool) -> None:
    blocks = filled(pool, 100, 8_000)
    kept = [pool.read(block) for block in blocks]
    pool.now_us = MINUTE_US
    sweeper = Sweeper(pool, blocks_per_sweep=200)
    sweeper.sweep()
    sweeper.sweep()
    advised = survey(pool).pages_advised_cold
    # From the first payload to the end of the last one: 8,064 bytes a block.
    end = (blocks[-1].cell * CELL + 8_064) // place.PAGE
    assert advised == end - -(-(blocks[0].cell * CELL + UNIT) // place.PAGE)
    assert survey(pool).pages_refused == 0
    sweeper.sweep()
    sweeper.sweep()
    assert survey(pool).pages_advised_cold == advised
    assert [pool.read(block) for block in blocks] == kept
    for block in blocks:
        pool.write(block, b"new")
    pool.now_us = 2 * MINUTE_US
    sweeper.sweep()
    assert survey(pool).pages_advised_cold == 2 * advised
    assert [pool.read(block) for block in blocks] == [b"new" + data[3:] for data in kept]
    assert survey(pool).tiers["FROZEN"]["blocks"] == 100


def test_much_advice_is_spread_over_sweeps() -> None:
    with Pool.create(16 * MB) as pool:
        block = pool.allocate(12 * MB, "FROZEN")
        pool.write(block, b"begin")
        sweeper = Sweeper(pool)
        told = []
        for _ in range(5):
            sweeper.sweep()
            told.append(survey(pool).pages_advised_cold)
        whole = (block.cell * CELL + 12 * MB) // place.PAGE - -(-(block.cell * CELL + UNIT) // place.PAGE)
        most = upkeep.PAGES_PER_SWEEP
        assert told == [min(most * (number + 1), whole) for number in range(5)]
        assert pool.read(block, 0, 5) == b"begin"


def test_other_owners_blocks_are_not_swept() -> None:
    with Pool.create(MB) as pool, Pool.attach(pool.mapping.fd, writable=True) as other:
        theirs = other.allocate(100)
        other.write(theirs, b"x")
        ours = filled(pool, 1)[0]
        pool.now_us = MINUTE_US
        for _ in range(4):
            Sweeper(pool).sweep()
        assert (pool.tier(theirs), pool.tier(ours)) == ("WARM", "FROZEN")
        Sweeper(other).sweep()
        assert pool.tier(theirs) == "COLD"


def test_a_sweep_goes_on_where_blocks_were_merged_away_meanwhile() -> None:
    with Pool.create(MB) as pool:
        blocks = filled(pool, 10)
        pool.now_us = MINUTE_US
        sweeper = Sweeper(pool, blocks_per_sweep=5)
        sweeper.sweep()
        for block in blocks[3:8]:
            pool.free(block)
        for _ in range(6):
            sweeper.sweep()
        left = blocks[:3] + blocks[8:]
        assert {pool.tier(block) for block in left} == {"FROZEN"}
        assert recovery.verify(pool.cells) == (0, 0)


def test_a_kernel_that_refuses_advice_is_counted_told_of_once_and_gone_on_with(monkeypatch, caplog) -> None:
    # An advice that no kernel knows is refused by this one.
    for name in ("_COLD", "_PAGE_OUT", "_WILL_NEED"):
        monkeypatch.setattr(place, name, 999)
    with Pool.create(MB) as pool, caplog.at_level(logging.INFO, logger="twin"):
        blocks = filled(pool, 2, 3 * place.PAGE, "FROZEN")
        sweeper, reader = Sweeper(pool), Prefetcher(pool, order=2)
        sweeper.sweep()
        refused = survey(pool).pages_refused
        assert refused > 0
        pool.read(blocks[0])
        pool.now_us = MINUTE_US
        sweeper.sweep()
        for _ in range(12):
            for block in blocks:
                reader.read(block)
        seen = survey(pool)
        assert seen.pages_refused > refused
        assert seen.pages_advised_cold == seen.pages_prefetched == 0
        assert sum("takes no advice about frozen pages" in line for line in caplog.messages) == 1


def test_where_pages_cannot_be_put_last_they_are_written_out(monkeypatch) -> None:
    monkeypatch.setattr(place, "_COLD", 999)
    with Pool.create(MB) as pool:
        block = filled(pool, 1, 5 * place.PAGE, "FROZEN")[0]
        Sweeper(pool).sweep()
        seen = survey(pool)
        assert (seen.pages_advised_cold, seen.pages_refused) == (4, 0)
        assert pool.read(block) == bytes([1]) * (5 * place.PAGE)


@pytest.mark.parametrize("count", [0, -1])
def test_a_sweep_of_no_blocks_is_refused(count: int) -> None:
    with Pool.create(MB) as pool, pytest.raises(ValueError, match="must be 1 or more"):
        Sweeper(pool, blocks_per_sweep=count)


_SWEEPER = """
import sys
from pathlib import Path
from twin.pool.pool import Pool
from twin.pool.prefetch import Prefetcher
from twin.pool.upkeep import Sweeper
pool = Pool.attach_file(Path(sys.argv[1]), writable=True)
blocks = [pool.allocate(5_000, tier) for tier in ("HOT", "WARM", "COLD", "FROZEN") * 10]
for block in blocks:
    pool.write(block, b"k" * 5_000)
sweeper, reader = Sweeper(pool, blocks_per_sweep=7), Prefetcher(pool)
print(*(block.address for block in blocks), flush=True)
while True:
    pool.now_us += 10_000
    sweeper.sweep()
    for block in blocks[::3]:
        reader.read(block)
"""


def test_a_process_that_is_killed_while_it_sweeps_and_reads_ahead_harms_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.pool"
    Pool.create_file(path, 4 * MB).close()
    for _ in range(3):
        with subprocess.Popen([sys.executable, "-c", _SWEEPER, str(path)], stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            addresses = [int(address) for address in child.stdout.readline().split()]
            child.send_signal(signal.SIGKILL)
        with Pool.attach_file(path, writable=True) as pool:
            assert recovery.verify(pool.cells) == (0, 0)
            assert len(addresses) == 40
            for address in addresses:
                assert pool.read(pool.block(address)) == b"k" * 5_000


# --- a run ------------------------------------------------------------------------------------------------------------


def test_a_runs_pool_cools_its_own_blocks_and_not_the_words(tmp_path: Path) -> None:
    settings_of_pool = PoolSettings(shared=True, size_bytes=MB, record_every_cycles=5, records=64)
    with Crystal(settings_of_pool, 100, tmp_path, [f"field_{number}" for number in range(30)], None, None) as crystal:
        words = crystal.place.copy()
        for number in range(400):
            crystal.cycle(number, number * 100_000, [1] * 30, 12)
        seen = survey(crystal.pool)
        assert seen.tiers["WARM"]["blocks"] == 100
        assert (crystal.cells[words + H_STAMP] == 0).all()
        assert crystal.cells[B_SLOPE] == 12
        assert seen.demotions > 0
        assert seen.pages_advised_cold > 0
        assert seen.pages_prefetched > 0
        # One block is written again and again: that can be foretold.
        assert seen.guesses > 60
        assert seen.guess_accuracy == 1.0
        crystal.cycle(400, 400 * 100_000, [1] * 30)
        assert crystal.cells[B_SLOPE] == 12
        crystal.cycle(401, 401 * 100_000, [1] * 30, 1 << 40)
        assert crystal.cells[B_SLOPE] == SLOPE_MAX


def test_the_pool_command_shows_guesses_pages_and_tier_moves(tmp_path: Path) -> None:
    path = tmp_path / "a.pool"
    with Pool.create_file(path, 4 * MB) as pool:
        assert pool.cells[B_SLOPE] == SLOPE_Q48_PER_US
        blocks = filled(pool, 4, 20_000)
        reader, sweeper = Prefetcher(pool), Sweeper(pool)
        shown = twin_json("pool", path)
        assert shown["guess_accuracy"] is None
        for number in range(30):
            for block in blocks:
                reader.read(block)
            pool.now_us = (number + 1) * MINUTE_US
            sweeper.sweep()
        right = int(pool.cells[B_HITS])
    shown = twin_json("pool", path)
    assert shown["guesses_right"] == right > 0
    assert shown["guess_accuracy"] == right / shown["guesses"]
    for name in ("pages_prefetched", "pages_advised_cold", "promotions", "demotions"):
        assert shown[name] > 0, name
    assert shown["pages_refused"] == 0
    text = twin("pool", path).stdout
    for words in ("accesses foretold", "of them right", "prefetched", "advised cold", "promotions", "demotions"):
        assert words in text
