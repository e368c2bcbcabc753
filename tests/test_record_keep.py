"""Which rows of a table are kept, when nobody knows how long it will be."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from record_samples import write_ticks

from twin.loader import ScenarioError, parse
from twin.record.arrow import Column
from twin.record.keep import ALLOWED, LIMIT, Keep, Selection, stride
from twin.record.tables import TableSummary, TableWriter, read_table, table_facts

CHOICES = ("all", "none", "every:7", "ends:3", "sample:5", "ends:10000+sample:200")
COUNTS = st.integers(1, 40)
KEEPS = st.one_of(
    st.builds(Keep, every=COUNTS),
    st.builds(Keep, ends=COUNTS),
    st.builds(Keep, sample=COUNTS),
    st.builds(Keep, ends=COUNTS, sample=COUNTS),
    st.just(Keep()),
)


def numbers(keep: Keep, total: int) -> list[int]:
    return list(chain.from_iterable(keep.rows(total)))


@pytest.mark.parametrize("words", CHOICES)
def test_a_choice_says_what_it_is(words: str) -> None:
    assert str(Keep.parse(words)) == words


def test_every_row_is_all() -> None:
    assert Keep.parse("every:1") == Keep.parse("all")
    assert str(Keep.parse("every:1")) == "all"


@pytest.mark.parametrize(
    "words",
    ["", "some", "ALL", "every", "every:", "every:0", "every:-1", "every:x", "every:1e3", "every:007", "every:٣",
     "ends", "ends:0", "ends:5+", "ends:5+sample", "ends:5+sample:0", "sample:5+ends:5", "ends:5+ends:5", "all+none",
     "every:5+sample:5", "ends:5+sample:5+sample:5", " all", "all\n", "every:3\n", f"every:{LIMIT + 1}",
     f"ends:{LIMIT + 1}", f"ends:1+sample:{LIMIT + 1}", "sample:" + "9" * 5_000],
)  # fmt: skip
def test_a_wrong_choice_is_told_what_is_allowed(words: str) -> None:
    with pytest.raises(ValueError, match=r"allowed are all, every:N, ends:M, sample:N, ends:M\+sample:N and none"):
        Keep.parse(words)


def test_a_scenario_is_told_too() -> None:
    for words in (*CHOICES, f"ends:{LIMIT}+sample:{LIMIT}"):
        assert parse(f"recording.ticks = '{words}'", "x.toml").recording.ticks == words
    with pytest.raises(ScenarioError) as caught:
        parse("recording.ticks = 'ends:0'", "x.toml")
    assert f"recording.ticks = 'ends:0': allowed are {ALLOWED}" in str(caught.value)


@pytest.mark.parametrize(
    ("words", "total", "expected"),
    [
        ("every:3", 7, [0, 3, 6]),
        ("ends:2", 7, [0, 1, 5, 6]),
        ("ends:2", 4, [0, 1, 2, 3]),
        ("ends:2", 3, [0, 1, 2]),
        ("ends:2", 1, [0]),
        ("sample:4", 4, [0, 1, 2, 3]),
        ("sample:4", 5, [0, 2, 4]),
        ("sample:4", 8, [0, 2, 4, 6]),
        ("sample:4", 9, [0, 4, 8]),
        ("sample:1", 100, [0]),
        ("ends:2+sample:3", 7, [0, 1, 2, 3, 4, 5, 6]),
        ("ends:2+sample:3", 8, [0, 1, 2, 4, 6, 7]),
        ("ends:2+sample:3", 11, [0, 1, 2, 6, 9, 10]),
        ("none", 5, []),
        ("all", 0, []),
        ("ends:2+sample:3", 0, []),
    ],
)
def test_worked_examples(words: str, total: int, expected: list[int]) -> None:
    assert numbers(Keep.parse(words), total) == expected


@given(keep=KEEPS, total=st.integers(0, 1_000))
def test_ends_are_whole_and_the_sample_is_even(keep: Keep, total: int) -> None:
    kept = numbers(keep, total)
    assert kept == sorted(set(kept))
    assert set(kept) <= set(range(total))
    assert keep.count(total) == len(kept)
    if not keep.waits:
        return
    assert set(kept) >= set(range(min(keep.ends, total))) | set(range(max(total - keep.ends, 0), total))
    between = [row for row in kept if keep.ends <= row < total - keep.ends]
    room = max(total - 2 * keep.ends, 0)
    if keep.sample:
        assert min(room, keep.sample // 2 + 1) <= len(between) <= keep.sample
        assert len(set(np.diff(between))) <= 1
        assert not between or between[-1] + 2 * (between[1] - between[0] if len(between) > 1 else room) > room
    if total <= 2 * keep.ends + keep.sample:
        assert kept == list(range(total))


@given(keep=KEEPS, total=st.integers(0, 300), data=st.data())
def test_rows_are_numbered_as_they_lie_in_the_file(keep: Keep, total: int, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, total))
    stop = data.draw(st.integers(start, total))
    assert keep.numbers(total, start, stop).tolist() == numbers(keep, total)[start:stop]


@given(rows=st.integers(0, 5_000), most=st.integers(1, 50))
def test_the_stride_is_the_smallest_power_of_two_that_leaves_few_enough(rows: int, most: int) -> None:
    found = stride(rows, most)
    assert found & (found - 1) == 0
    assert len(range(0, rows, found)) <= most
    assert found == 1 or len(range(0, rows, found // 2)) > most


@settings(deadline=None)
@given(keep=KEEPS.filter(lambda keep: keep.waits), sizes=st.lists(st.integers(0, 90), max_size=12))
def test_pieces_of_any_size_leave_what_the_length_says(keep: Keep, sizes: list[int]) -> None:
    selection = Selection(keep)
    got: list[int] = []
    first = 0
    for size in sizes:
        for piece in selection.take(pa.table({"row": np.arange(first, first + size)})):
            got += piece["row"].to_pylist()
        first += size
        held = sum(piece.num_rows for piece in selection.rest())
        assert held <= keep.ends + keep.sample
    for piece in selection.rest():
        got += piece["row"].to_pylist()
    assert got == numbers(keep, first)


def test_rows_that_are_let_go_free_their_memory() -> None:
    selection = Selection(Keep(ends=10, sample=10))
    before = pa.total_allocated_bytes()
    for _ in range(50):
        # A column that Arrow itself has allocated, so that it counts.
        piece = pa.table({"row": pa.array(range(10_000), pa.int64())})
        selection.take(piece)
    del piece
    # The last rows hold on to the piece that they came in: 80 kB.
    assert pa.total_allocated_bytes() - before < 200_000


@settings(max_examples=12, deadline=None)
@given(
    keep=st.sampled_from([Keep(ends=100), Keep(sample=100), Keep(ends=50_000, sample=9_000), Keep(ends=1, sample=1)]),
    sizes=st.lists(st.integers(0, 70_000) | st.integers(0, 9), min_size=1, max_size=4),
)
def test_a_file_has_what_the_choice_says_and_the_digest_of_all(tmp_path_factory, keep: Keep, sizes: list[int]) -> None:
    path = tmp_path_factory.mktemp("table") / "ticks.parquet"
    columns = (Column("tick_number", "u32"), Column("config", "str"), Column("value", "i64", nullable=True))

    def write(words: str) -> TableSummary:
        with TableWriter(path, "tick/0", columns, words) as table:
            first = 0
            for size in sizes:
                number = np.arange(first, first + size)
                block = {"tick_number": number, "config": [f"c{n % 3}" for n in number], "value": -number}
                table.append_block(block)
                first += size
            return table.close()

    total = sum(sizes)
    whole = write("all")
    assert write(str(keep)) == TableSummary(total, keep.count(total), whole.digest)
    table = read_table(path)
    expected = numbers(keep, total)
    assert table["tick_number"].to_pylist() == expected
    assert table["value"].to_pylist() == [-n for n in expected]
    assert table["config"].to_pylist() == [f"c{n % 3}" for n in expected]
    assert (table_facts(path).keep, table_facts(path).summary.kept) == (keep, len(expected))


def test_a_long_table_fills_whole_row_groups(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    path = tmp_path / "ticks.parquet"
    summary = write_ticks(path, 400_000, "ends:70000+sample:70000")
    assert summary.kept == 140_000 + 65_000
    metadata = pq.ParquetFile(path).metadata
    assert [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)] == [16_384] * 12 + [8_392]
