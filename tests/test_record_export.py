"""Exports for other tools."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pandas
import pytest
from record_samples import write_run

from twin.record.export import export
from twin.record.files import RecordError, RecordInputError
from twin.record.tables import read_table


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
    jitter = ticks["tick_jitter_ns"]
    assert jitter.isna().tolist() == [True] + [False] * 99
    assert jitter[1:].tolist() == [n % 11 - (n - 1) % 7 for n in range(1, 100)]
    with written[1].open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["cpu_temp_millicelsius"] for row in rows] == ["45000", "45001", "", "45003"]


def test_json(run: Path) -> None:
    ticks, control = (json.loads(path.read_text()) for path in export(run, "json", run.parent / "out"))
    assert len(ticks) == 100
    assert ticks[0]["tick_jitter_ns"] is None
    assert ticks[99]["config"] == "1_0_1_0_0_0"
    assert ticks[99]["avg_word_heat"] == 100 / 1024
    assert control[2]["cpu_temp_millicelsius"] is None


def test_parquet(run: Path) -> None:
    ticks, control = export(run, "parquet")
    assert read_table(ticks).column_names[-2:] == ["tick_jitter_ns", "avg_word_heat"]
    assert read_table(control).equals(read_table(run / "control.parquet").replace_schema_metadata(None))
    with pytest.raises(RecordInputError, match="the run's own table"):
        export(run, "parquet", run)


def test_jitter_goes_on_between_pieces(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", ticks=70_000)
    table = read_table(export(run, "parquet")[0])
    jitter = table.column("tick_jitter_ns").to_pylist()
    assert jitter[1:] == [n % 11 - (n - 1) % 7 for n in range(1, 70_000)]
    assert "avg_word_heat" not in table.column_names


@pytest.mark.parametrize("kept", ["every:10", "none"])
def test_what_cannot_be_derived_is_left_out(tmp_path: Path, kept: str) -> None:
    run = write_run(tmp_path / "run", keep=kept)
    (run / "scenario.toml").write_text("broken = ")
    for format_name in ("csv", "json", "parquet"):
        export(run, format_name)
    ticks = json.loads((run / "export" / "ticks.json").read_text())
    assert len(ticks) == (30 if kept == "every:10" else 0)
    header = (run / "export" / "ticks.csv").read_text().splitlines()[0]
    assert "tick_jitter_ns" not in header
    assert header.count(",") == 10


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
