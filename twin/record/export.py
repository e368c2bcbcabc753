"""The tables of a run for other tools: CSV, JSON or Parquet, with the columns that are derived and not stored.

| column | formula | when |
|---|---|---|
| `tick_jitter_ns` | `tick_interval_ns` minus the `tick_ns` of the row before (what the heartbeat had asked for); none in the first row | all rows are kept |
| `avg_word_heat` | `heat_total_q48` / 65536 / words of the scenario: mean heat in executions | the scenario names its words |
"""  # noqa: E501

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from twin.record import files
from twin.record.files import RecordInputError
from twin.record.rundir import CONTROL, EXPORT, SCENARIO, TICKS
from twin.record.tables import batches, open_table, table_facts

if TYPE_CHECKING:
    import pyarrow as pa

_Q16 = 65_536.0


def export(run: Path, format: str, out: Path | None = None) -> list[Path]:  # noqa: A002
    """Write the tables of `run` as `csv`, `json` or `parquet` into the directory `out` (by default `export` in `run`).

    Returns the files. CSV has a header, commas, UTF-8 and an empty field for no value. JSON is a list of objects with
    null for no value. Each file is whole or not there. Raises `RecordInputError` for another format or a directory
    without tables, and `RecordError` when a file cannot be read or written.
    """
    if format not in _WRITERS:
        raise RecordInputError(run, f"cannot be exported as {format!r}; allowed are {', '.join(_WRITERS)}")
    tables = [run / name for name in (TICKS, CONTROL) if (run / name).is_file()]
    if not tables:
        raise RecordInputError(
            run, f"has neither {TICKS} nor {CONTROL}; name the directory of a run, or replay it first"
        )
    directory = files.make_folder(run / EXPORT if out is None else out)
    words = _words(run / SCENARIO)
    written = []
    for table in tables:
        target = directory / f"{table.stem}.{format}"
        if target.resolve() == table.resolve():
            raise RecordInputError(target, "is the run's own table; name another directory (--out)")
        derive = _Derive(table_facts(table).keep.step == 1, words)
        with open_table(table) as source, files.replacing(target) as file:
            _WRITERS[format](source.schema_arrow, batches(table, source), derive, file)
        written.append(target)
    return written


class _Derive:
    """Adds the derived columns to the rows of a table, which come in order."""

    def __init__(self, every_row: bool, words: int | None) -> None:
        self._every_row = every_row
        self._words = words
        self._asked_ns: int | None = None

    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        import pyarrow as pa

        names = batch.schema.names
        if self._every_row and "tick_interval_ns" in names and "tick_ns" in names:
            asked = batch.column("tick_ns").to_numpy().astype(np.int64)
            before = np.concatenate([np.array([self._asked_ns or 0], dtype=np.int64), asked])[: len(asked)]
            jitter = batch.column("tick_interval_ns").to_numpy().astype(np.int64) - before
            first = np.zeros(len(asked), dtype=np.bool_)
            first[:1] = self._asked_ns is None
            if len(asked):
                self._asked_ns = int(asked[-1])
            batch = batch.append_column("tick_jitter_ns", pa.array(jitter, pa.int64(), mask=first))
        if self._words is not None and "heat_total_q48" in names:
            heat = batch.column("heat_total_q48").to_numpy().astype(np.float64) / _Q16 / self._words
            batch = batch.append_column("avg_word_heat", pa.array(heat, pa.float64()))
        return batch


def _words(scenario: Path) -> int | None:
    """How many words the heartbeat of a scenario file executes; None when it does not say."""
    try:
        heartbeat = tomllib.loads(scenario.read_text(encoding="utf-8")).get("heartbeat")
    except (OSError, ValueError):
        return None
    words = heartbeat.get("words") if isinstance(heartbeat, dict) else None
    return words if type(words) is int and words > 0 else None


def _empty(schema: pa.Schema) -> pa.RecordBatch:
    """No rows of the table, with its columns."""
    import pyarrow as pa

    schema = schema.remove_metadata()
    return pa.RecordBatch.from_arrays([pa.array([], field.type) for field in schema], schema=schema)


def _write_csv(schema: pa.Schema, rows: Iterator[pa.RecordBatch], derive: _Derive, file: BinaryIO) -> None:
    from pyarrow import csv

    options = csv.WriteOptions(quoting_style="needed")
    with csv.CSVWriter(file, derive(_empty(schema)).schema, write_options=options) as writer:
        for batch in rows:
            writer.write_batch(derive(batch))


def _write_json(_schema: pa.Schema, rows: Iterator[pa.RecordBatch], derive: _Derive, file: BinaryIO) -> None:
    separator = b"[\n"
    for batch in rows:
        for row in derive(batch).to_pylist():
            file.write(separator + json.dumps(row, allow_nan=False).encode())
            separator = b",\n"
    file.write(b"\n]\n" if separator == b",\n" else b"[]\n")


def _write_parquet(schema: pa.Schema, rows: Iterator[pa.RecordBatch], derive: _Derive, file: BinaryIO) -> None:
    import pyarrow.parquet as pq

    with pq.ParquetWriter(file, derive(_empty(schema)).schema, compression="zstd") as writer:
        for batch in rows:
            writer.write_batch(derive(batch))


_WRITERS: dict[str, Callable[[pa.Schema, Iterator[pa.RecordBatch], _Derive, BinaryIO], None]] = {
    "csv": _write_csv,
    "json": _write_json,
    "parquet": _write_parquet,
}
