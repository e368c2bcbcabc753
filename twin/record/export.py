"""The tables of a run for other tools: CSV, JSON or Parquet, with what `derived` computes from the stored columns."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from twin.record import files
from twin.record.derived import Derived
from twin.record.files import RecordInputError
from twin.record.rundir import CONTROL, EXPORT, SCENARIO, TICKS
from twin.record.tables import batches, open_table, table_facts

if TYPE_CHECKING:
    import pyarrow as pa


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
        summary = table_facts(table).summary
        derive = Derived(summary.kept == summary.rows, words)
        with open_table(table) as source, files.replacing(target) as file:
            _WRITERS[format](source.schema_arrow, batches(table, source), derive, file)
        written.append(target)
    return written


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


def _write_csv(schema: pa.Schema, rows: Iterator[pa.RecordBatch], derive: Derived, file: BinaryIO) -> None:
    from pyarrow import csv

    options = csv.WriteOptions(quoting_style="needed")
    with csv.CSVWriter(file, derive(_empty(schema)).schema, write_options=options) as writer:
        for batch in rows:
            writer.write_batch(derive(batch))


def _write_json(_schema: pa.Schema, rows: Iterator[pa.RecordBatch], derive: Derived, file: BinaryIO) -> None:
    separator = b"[\n"
    for batch in rows:
        for row in derive(batch).to_pylist():
            file.write(separator + json.dumps(row, allow_nan=False).encode())
            separator = b",\n"
    file.write(b"\n]\n" if separator == b",\n" else b"[]\n")


def _write_parquet(schema: pa.Schema, rows: Iterator[pa.RecordBatch], derive: Derived, file: BinaryIO) -> None:
    import pyarrow.parquet as pq

    with pq.ParquetWriter(file, derive(_empty(schema)).schema, compression="zstd") as writer:
        for batch in rows:
            writer.write_batch(derive(batch))


_WRITERS: dict[str, Callable[[pa.Schema, Iterator[pa.RecordBatch], Derived, BinaryIO], None]] = {
    "csv": _write_csv,
    "json": _write_json,
    "parquet": _write_parquet,
}
