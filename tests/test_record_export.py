"""Exports for other tools."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from record_samples import write_run
from run_ticks import run_ticks, write_run_ticks

from twin.record.derived import METRICS, StabilityIndex
from twin.record.export import export
from twin.record.files import RecordError, RecordInputError
from twin.record.recorder import TICK_COLUMNS
from twin.record.tables import GROUP_ROWS, read_table


@pytest.fixture
def run(tmp_path: Path) -> Path:
    run = write_run(tmp_path / "run", ticks=100, temperature_at={2: None})
    (run / "scenario.toml").write_text("[heartbeat]\nwords = 1024\n")
    return run


def test_csv(run: Path) -> None:
    written = export(run, "csv")
    assert written == [run / "export" / "ticks.csv", run / "export" / "control.csv"]
    ticks = pandas.read_csv(written[0])
    table = read_table(run / "ticks.parquet").to_pandas()
    for name in table.columns:
        assert ticks[name].tolist() == table[name].tolist()
    assert ticks["avg_word_heat"].tolist() == [(n + 1) / 1024 for n in range(100)]
    assert ticks["tick_jitter_ns"].tolist() == [n % 11 - n % 7 for n in range(100)]
    with written[1].open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["cpu_temp_millicelsius"] for row in rows] == ["45000", "45001", "", "45003"]


def test_json(run: Path) -> None:
    ticks, control = (json.loads(path.read_text()) for path in export(run, "json", run.parent / "out"))
    assert len(ticks) == 100
    assert ticks[10]["tick_jitter_ns"] == 10 - 3
    assert ticks[99]["config"] == "1_0_1_0_0_0"
    assert ticks[99]["avg_word_heat"] == 100 / 1024
    assert control[2]["cpu_temp_millicelsius"] is None


def test_parquet(run: Path) -> None:
    ticks, control = export(run, "parquet")
    assert read_table(ticks).column_names[-2:] == ["avg_word_heat", "tick_jitter_ns"]
    assert read_table(control).equals(read_table(run / "control.parquet").replace_schema_metadata(None))
    with pytest.raises(RecordInputError, match="the run's own table"):
        export(run, "parquet", run)


DERIVED = ("cache_hit_percent", "bucket_hit_percent", "avg_word_heat", "tick_jitter_ns", "metric_stability_index")


def full_run(path: Path, rows: int, keep: str = "all", **changes: Any) -> Path:
    """A run with every column, of 512 words."""
    path.mkdir()
    write_run_ticks(path / "ticks.parquet", run_ticks(rows) | changes, keep)
    (path / "scenario.toml").write_text("[heartbeat]\nwords = 512\n")
    return path


def derived(run: Path, *names: str) -> list[list[Any]]:
    table = read_table(export(run, "parquet")[0])
    return [table.column(name).to_pylist() for name in names]


def test_every_format_has_the_same_columns_and_values(tmp_path: Path) -> None:
    lookups = run_ticks(600)
    none = {
        name: np.where(np.arange(600) % 100 == 7, 0, lookups[name]) for name in lookups if name.endswith("hits_delta")
    }
    run = full_run(tmp_path / "run", 600, **none)
    table = read_table(export(run, "parquet")[0])
    assert tuple(table.column_names) == (*[column.name for column in TICK_COLUMNS], *DERIVED)
    stored = read_table(run / "ticks.parquet")
    assert table.select(stored.column_names).equals(stored)
    expected = table.to_pylist()
    assert json.loads(export(run, "json")[0].read_text()) == expected
    with export(run, "csv")[0].open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == table.column_names

    def value(name: str, text: str) -> int | float | str | None:
        kind = table.schema.field(name).type
        return None if text == "" else float(text) if kind == "double" else text if kind == "string" else int(text)

    assert [{name: value(name, text) for name, text in row.items()} for row in rows] == expected
    assert expected[7]["cache_hit_percent"] is None
    assert expected[254]["metric_stability_index"] is None
    assert None not in expected[255].values()


def test_percentages_heat_and_jitter_worked_out_by_hand(tmp_path: Path) -> None:
    cache, bucket = np.array([0, 3, 0, 1, 2**32 - 1]), np.array([0, 1, 5, 2, 0])
    run = full_run(
        tmp_path / "run", 5, cache_hits_delta=cache, bucket_hits_delta=bucket,
        heat_total_q48=np.array([0, 65_536 * 512, 65_536 * 256, 1 << 40, 65_536]),
        tick_ns=np.array([10, 10, 10, 10, 9]), tick_interval_ns=np.array([10, 12, 8, 0, 10**15]),
    )  # fmt: skip
    assert derived(run, *DERIVED) == [
        [None, 75.0, 0.0, 100 / 3, 100.0],
        [None, 25.0, 100.0, 200 / 3, 0.0],
        [0.0, 1.0, 0.5, 32_768.0, 1 / 512],
        [0, 2, -2, -10, 10**15 - 9],
        [None] * 5,
    ]


def plain_index(metrics: Sequence[Sequence[int]], tick: int) -> float | None:
    """The definition, in exact fractions up to the square root."""
    if tick < 255:
        return None
    total = 0.0
    for metric in metrics:
        window = [Fraction(value) for value in metric[tick - 255 : tick + 1]]
        mean = sum(window) / 256
        if mean:
            total += math.sqrt(sum((value - mean) ** 2 for value in window) / 256 / mean**2)
    return max(0.0, 1 - total / 7)


METRIC = (
    st.tuples(st.just(0), st.sampled_from([1, 1_000, 2**32, 2**62])) |
    st.tuples(st.sampled_from([10**6, 2**40, 2**62]), st.sampled_from([1, 2, 50, 10**5]))
)  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(kinds=st.lists(METRIC, min_size=7, max_size=7), ticks=st.integers(250, 420), seed=st.integers(0, 99))
def test_the_index_is_what_its_definition_says(kinds: list[tuple[int, int]], ticks: int, seed: int) -> None:
    noise = np.random.default_rng(seed)
    metrics = [base + noise.integers(0, spread, ticks) for base, spread in kinds]
    found = StabilityIndex().take(metrics)
    exact = [metric.tolist() for metric in metrics]
    for tick in {0, 254, 255, 256, 300, ticks - 1}:
        if tick < ticks:
            expected = plain_index(exact, tick)
            assert math.isnan(found[tick]) if expected is None else found[tick] == pytest.approx(expected, abs=1e-14)


@settings(max_examples=40, deadline=None)
@given(sizes=st.lists(st.integers(0, 600) | st.integers(0, 3), max_size=9), seed=st.integers(0, 99))
def test_the_sizes_of_pieces_change_no_bit_of_the_index(sizes: list[int], seed: int) -> None:
    metrics = np.random.default_rng(seed).integers(0, 10**9, (7, sum(sizes)))
    index, pieces, first = StabilityIndex(), [np.zeros(0)], 0
    for size in sizes:
        pieces.append(index.take(list(metrics[:, first : first + size])))
        first += size
    np.testing.assert_array_equal(np.concatenate(pieces), StabilityIndex().take(list(metrics)))


def test_the_index_goes_on_between_the_pieces_of_a_table(tmp_path: Path) -> None:
    rows = GROUP_ROWS + 500
    block = run_ticks(rows)
    (found,) = derived(full_run(tmp_path / "run", rows), "metric_stability_index")
    exact = [block[name].tolist() for name in METRICS]
    for tick in (255, GROUP_ROWS - 1, GROUP_ROWS, GROUP_ROWS + 100, rows - 1):
        assert found[tick] == pytest.approx(plain_index(exact, tick), abs=1e-14)


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        (np.full(300, 7), 1.0),
        (np.full(300, 0), 1.0),
        (np.full(300, 2**62 + 1), 1.0),
        (np.tile([1, 3], 150), 1 - 0.5 / 7),
        (np.tile([0, 3], 150), 1 - 1 / 7),
        (np.arange(300) + 1, 1 - math.sqrt((256**2 - 1) / 12) / 172.5 / 7),
    ],
    ids=["constant", "zero", "large", "two values", "on and off", "ramp"],
)
def test_the_index_of_series_with_a_known_answer(metric: Any, expected: float) -> None:
    steady = [np.full(300, 10**6)] * 6
    assert StabilityIndex().take([metric, *steady])[299] == pytest.approx(expected, abs=1e-15)


def test_the_index_of_series_without_variation_is_exactly_one_and_of_wild_ones_zero() -> None:
    assert set(StabilityIndex().take([np.full(300, 10**9 + place) for place in range(7)])[255:]) == {1.0}
    spikes = np.where(np.arange(300) % 256 == 255, 10**9, 0)
    assert set(StabilityIndex().take([spikes] * 7)[255:]) == {0.0}


@pytest.mark.parametrize(
    ("keep", "rows", "left_out"),
    [
        ("all", 300, []),
        ("ends:100+sample:100", 300, []),
        ("ends:100+sample:99", 300, ["metric_stability_index"]),
        ("every:10", 300, ["metric_stability_index"]),
        ("none", 300, ["metric_stability_index"]),
    ],
)
def test_the_index_needs_every_row(tmp_path: Path, keep: str, rows: int, left_out: list[str]) -> None:
    run = full_run(tmp_path / "run", rows, keep)
    names = read_table(export(run, "parquet")[0]).column_names
    assert [name for name in DERIVED if name not in names] == left_out


@pytest.mark.parametrize("kept", ["every:10", "none"])
def test_what_cannot_be_derived_is_left_out(tmp_path: Path, kept: str) -> None:
    """A table with fewer columns, and a scenario that tells nothing."""
    run = write_run(tmp_path / "run", keep=kept)
    (run / "scenario.toml").write_text("broken = ")
    for format_name in ("csv", "json", "parquet"):
        export(run, format_name)
    ticks = json.loads((run / "export" / "ticks.json").read_text())
    assert len(ticks) == (30 if kept == "every:10" else 0)
    header = (run / "export" / "ticks.csv").read_text().splitlines()[0].replace('"', "").split(",")
    assert [name for name in DERIVED if name in header] == ["tick_jitter_ns"]
    assert len(header) == 12


def test_errors(run: Path, tmp_path: Path) -> None:
    with pytest.raises(RecordInputError, match="allowed are csv, json, parquet"):
        export(run, "xlsx")
    with pytest.raises(RecordInputError, match="neither"):
        export(tmp_path, "csv")
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordError, match="making the directory"):
        export(run, "csv", tmp_path / "file")
    data = bytearray((run / "ticks.parquet").read_bytes())
    data[500] ^= 1
    (run / "ticks.parquet").write_bytes(bytes(data))
    with pytest.raises(RecordError, match="is damaged"):
        export(run, "csv")
    assert list((run / "export").iterdir()) == []
