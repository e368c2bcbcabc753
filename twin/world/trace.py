"""Recordings that drive the world: CSV in, integers out, every cell checked."""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TextIO

from twin.scenario import Trace


class TraceError(ValueError):
    """A recording cannot be used. The message names the file, the line, the column and the value."""


@dataclass(frozen=True, slots=True)
class TraceTable:
    """A recording as integers. Times are relative to its first sample and rise; a column that is not driven is None."""

    times_ns: tuple[int, ...]
    cpu_load_ppm: tuple[int, ...] | None = None
    gpu_load_ppm: tuple[int, ...] | None = None
    cpu_power_microwatts: tuple[int, ...] | None = None
    gpu_power_microwatts: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class _Column:
    name: str
    scale: int
    highest: int
    unit: str


def load_trace(path: Path, trace: Trace) -> TraceTable:
    """Read the columns that `trace` names from `path`, a CSV with a header line (gzip if it ends in .gz).

    Times in seconds become nanoseconds, loads in percent (0 to 100) ppm, powers in watts (0 to 10,000) microwatts, all
    rounded half to even from the decimal text. Raises `TraceError` for anything else, and `OSError` as `open` does.
    """
    load = (10_000, 100, "percent")
    power = (1_000_000, 10_000, "watts")
    columns = {
        "times_ns": _Column(trace.time_column, 1_000_000_000, 10**8, "seconds"),
        "cpu_load_ppm": _named(trace.cpu_load_column, load),
        "gpu_load_ppm": _named(trace.gpu_load_column, load),
        "cpu_power_microwatts": _named(trace.cpu_power_column, power),
        "gpu_power_microwatts": _named(trace.gpu_power_column, power),
    }
    wanted = {field: column for field, column in columns.items() if column is not None}
    if len(wanted) == 1:
        raise TraceError(f"{path}: no column drives anything; name a load or power column in [workload.trace]")
    values: dict[str, list[int]] = {field: [] for field in wanted}
    try:
        with _open(path) as file:
            for line, row in _rows(path, file, wanted):
                for field, column in wanted.items():
                    values[field].append(_cell(path, line, column, row[column.name]))
                times = values["times_ns"]
                if len(times) > 1 and times[-1] <= times[-2]:
                    raise TraceError(
                        f"{path}, line {line}, column {trace.time_column}: {row[trace.time_column]!r} is not later "
                        f"than the line before; times must rise"
                    )
    except (UnicodeDecodeError, gzip.BadGzipFile, zlib.error, EOFError, csv.Error) as error:
        raise TraceError(
            f"{path}: not a readable CSV file ({error}); save it as UTF-8 text, or copy it again"
        ) from error
    if not values["times_ns"]:
        raise TraceError(f"{path}: no samples below the header; one is needed at least")
    first = values["times_ns"][0]
    values["times_ns"] = [time - first for time in values["times_ns"]]
    return TraceTable(**{field: tuple(column) for field, column in values.items()})


def _named(name: str | None, meaning: tuple[int, int, str]) -> _Column | None:
    return None if name is None else _Column(name, *meaning)


def _open(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def _rows(path: Path, file: TextIO, wanted: dict[str, _Column]) -> Iterator[tuple[int, dict[str, str]]]:
    reader = csv.reader(file)
    header = [name.strip() for name in next(reader, [])]
    for column in wanted.values():
        if column.name not in header:
            there = ", ".join(header) or "nothing"
            raise TraceError(f"{path}, line 1: there is no column {column.name!r}; the file has: {there}")
        if header.count(column.name) > 1:
            raise TraceError(f"{path}, line 1: column {column.name!r} is there more than once; rename one of them")
    for cells in reader:
        if not cells:
            continue
        if len(cells) != len(header):
            last = min(len(cells), len(header)) - 1
            raise TraceError(
                f"{path}, line {reader.line_num}, column {header[last]}: {len(header)} cells are needed, and the line "
                f"has {len(cells)}, up to {cells[last][:40]!r}; mend the line, or cut it off"
            )
        yield reader.line_num, dict(zip(header, cells, strict=True))


def _cell(path: Path, line: int, column: _Column, text: str) -> int:
    where = f"{path}, line {line}, column {column.name}: {text!r}"
    try:
        value = Decimal(text.strip())
    except InvalidOperation:
        raise TraceError(f"{where} is not a number") from None
    if not value.is_finite() or not 0 <= value <= column.highest:
        raise TraceError(f"{where} is out of range; allowed are 0 to {column.highest} {column.unit}")
    return round(value * column.scale)
