"""The first difference between two runs."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from record_samples import TICK_COLUMNS, tick_block, write_run, write_ticks

from twin.record.compare import Difference, first_difference
from twin.record.files import RecordError
from twin.record.keep import Keep

KEEPS = ("every:1", "every:3", "every:4", "ends:30000", "sample:20000", "ends:7+sample:3000", "ends:1", "none")


def changed(row: int, rows: int = 300, by: int = 1) -> dict[str, object]:
    load = tick_block(rows)["load_ppm"].copy()
    load[row] += by
    return {"load_ppm": load}


def test_equal_runs(tmp_path: Path) -> None:
    a, b = write_run(tmp_path / "a"), write_run(tmp_path / "b")
    assert first_difference(a, b) is None


def test_a_changed_tick(tmp_path: Path) -> None:
    a, b = write_run(tmp_path / "a"), write_run(tmp_path / "b", **changed(137))
    found = first_difference(a, b)
    load = 100_000 + 137 % 13
    assert found == Difference("ticks", 137, "load_ppm", load, load + 1, 138_000_000)
    assert str(found) == f"ticks, row 137, load_ppm: {load} and {load + 1}"


def test_the_earliest_by_time_wins(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a")
    later = write_run(tmp_path / "b", temperature_at={2: 1}, **changed(137))
    earlier = write_run(tmp_path / "c", temperature_at={1: None}, **changed(137))
    at_once = write_run(tmp_path / "d", temperature_at={1: 1}, **changed(99))
    found = first_difference(a, later)
    assert found is not None
    assert (found.table, found.row) == ("ticks", 137)
    assert first_difference(a, earlier) == Difference("control", 1, "cpu_temp_millicelsius", 45_001, None, 100_000_000)
    found = first_difference(a, at_once)
    assert found is not None
    assert (found.table, found.row) == ("ticks", 99)


def test_tables_of_different_length(tmp_path: Path) -> None:
    a, b = write_run(tmp_path / "a", ticks=300), write_run(tmp_path / "b", ticks=290)
    assert first_difference(a, b) == Difference("ticks", 290, "row", "there", "missing", 291_000_000)
    assert first_difference(b, a) == Difference("ticks", 290, "row", "missing", "there", 291_000_000)
    c = write_run(tmp_path / "c", cycles=5)
    assert first_difference(a, c) == Difference("control", 4, "row", "missing", "there", 400_000_000)


def test_missing_tables(tmp_path: Path) -> None:
    a, b = write_run(tmp_path / "a"), write_run(tmp_path / "b")
    (b / "ticks.parquet").unlink()
    found = first_difference(a, b)
    assert found is not None
    assert (found.table, found.column, found.a, found.b) == ("ticks", "file", "there", "missing")
    (a / "ticks.parquet").unlink()
    with pytest.raises(RecordError, match="missing in both runs"):
        first_difference(a, b)


def test_other_columns(tmp_path: Path) -> None:
    a, b = write_run(tmp_path / "a"), write_run(tmp_path / "b")
    write_ticks(b / "ticks.parquet", 300)
    from twin.record.tables import TableWriter

    with TableWriter(b / "ticks.parquet", "tick/1", TICK_COLUMNS, "all") as table:
        table.append_block(tick_block(300))
    found = first_difference(a, b)
    assert found is not None
    assert found.column == "schema"
    assert str(found.a).startswith("tick/0: run_id uint32, config string")
    assert str(found.b).startswith("tick/1: ")


def test_rows_that_were_not_kept(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a")
    thin = write_run(tmp_path / "thin", keep="every:10")
    none = write_run(tmp_path / "none", keep="none")
    assert first_difference(a, thin) is None
    assert first_difference(thin, none) is None
    for keep in ("every:4", "none"):
        other = write_run(tmp_path / f"other-{keep[:5]}", keep=keep, **changed(137))
        found = first_difference(thin, other)
        assert found is not None
        assert (found.table, found.row, found.column) == ("ticks", None, "digest")
        assert found.note == f"the rows that differ were not kept: every:10 and {keep}"
    other = write_run(tmp_path / "late", keep="every:4", **changed(140))
    found = first_difference(thin, other)
    assert found is not None
    assert (found.row, found.column) == (140, "load_ppm")
    assert "up to 19 rows before" in found.note


def test_a_difference_in_the_ends_or_the_sample_is_found(tmp_path: Path) -> None:
    """Of 300 rows `ends:20+sample:50` keeps 20, then every eighth from row 20 on, then 20."""
    a = write_run(tmp_path / "a", keep="ends:20+sample:50")
    for row, note in ((0, ""), (19, ""), (28, "up to 7 rows before"), (276, "up to 7 rows before"), (299, "")):
        found = first_difference(a, write_run(tmp_path / f"b{row}", **changed(row)))
        assert found is not None
        assert (found.row, found.column) == (row, "load_ppm")
        assert note in found.note
        assert bool(note) == bool(found.note)
    found = first_difference(a, write_run(tmp_path / "c", **changed(29)))
    assert found is not None
    assert (found.row, found.column) == (None, "digest")
    assert found.note == "the rows that differ were not kept: ends:20+sample:50 and all"


def test_a_longer_run_is_told_by_its_first_row_beyond_the_other(tmp_path: Path) -> None:
    short = write_run(tmp_path / "short", ticks=290, keep="ends:20")
    for keep, row, unknown in (("all", 290, 0), ("every:40", 320, 39), ("ends:20", 380, 360), ("ends:1", 399, 398)):
        longer = write_run(tmp_path / f"longer {keep}", ticks=400, keep=keep)
        for pair, words in (((longer, short), ("there", "missing")), ((short, longer), ("missing", "there"))):
            found = first_difference(*pair)
            assert found is not None
            assert (found.row, found.column, (found.a, found.b)) == (row, "row", words)
            assert found.time_ns == 1_000_000 * (row + 1)
            assert (f"up to {unknown} rows before" in found.note) == (unknown > 0)
    found = first_difference(short, write_run(tmp_path / "none", ticks=400, keep="none"))
    assert found is not None
    assert (found.row, found.column) == (None, "digest")


@settings(max_examples=15, deadline=None)
@given(
    rows=st.integers(65_000, 140_000),
    keeps=st.tuples(*[st.sampled_from(KEEPS)] * 2),
    data=st.data(),
)
def test_any_row_that_both_keep_is_found(tmp_path_factory, rows: int, keeps: tuple[str, str], data) -> None:
    folder = tmp_path_factory.mktemp("runs")
    kept = [set(chain.from_iterable(Keep.parse(keep).rows(rows))) for keep in keeps]
    both = sorted(kept[0] & kept[1])
    row = data.draw(st.sampled_from(both) | st.integers(0, rows - 1) if both else st.integers(0, rows - 1))
    a = write_run(folder / "a", rows, keep=keeps[0])
    b = write_run(folder / "b", rows, keep=keeps[1], **changed(row, rows))
    found = first_difference(a, b)
    assert found is not None
    assert found.row == (row if row in both else None)
    if row in both:
        unknown = row - max((each for each in both if each < row), default=-1) - 1
        assert (f"up to {unknown} rows before" in found.note) == (unknown > 0)
