"""The first difference between two runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from record_samples import TICK_COLUMNS, tick_block, write_run, write_ticks

from twin.record.compare import Difference, first_difference
from twin.record.files import RecordError


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


@settings(max_examples=15, deadline=None)
@given(
    rows=st.integers(65_000, 140_000), steps=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    data=st.data(),
)  # fmt: skip
def test_any_kept_row_is_found(tmp_path_factory, rows: int, steps: tuple[int, int], data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("runs")
    row = data.draw(st.integers(0, rows - 1))
    a = write_run(folder / "a", rows, keep=f"every:{steps[0]}")
    b = write_run(folder / "b", rows, keep=f"every:{steps[1]}", **changed(row, rows))
    found = first_difference(a, b)
    assert found is not None
    step = int(np.lcm(*steps))
    assert found.row == (row if row % step == 0 else None)
