"""The kept ticks of a few runs, reduced to what a figure shows. Never more than one run's ticks are in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from twin.experiment.tables import shards
from twin.heart.ticks import UNKNOWN_LOAD
from twin.record.files import RecordError, RecordInputError
from twin.record.tables import open_table

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

BINS = 480
"""Points of a course: each is the mean of the ticks that fall into it."""
SPECTRUM_ROWS = 131_072
SEGMENT_MOST, SEGMENT_LEAST = 4_096, 64
_READ = (
    "run_id", "tick_number", "tick_interval_ns", "elapsed_ns", "load_ppm", "cache_hits_delta", "bucket_hits_delta",
    "heat_total_q48", "window_width",
)  # fmt: skip
_Q16 = 65_536.0


class Spectrum(NamedTuple):
    """Shares of the variance of the interval by frequency, from kept ticks that lie `spacing_s` apart."""

    frequency_hz: Floats
    share: Floats
    spacing_s: float


@dataclass(frozen=True, slots=True)
class Track:
    """The course of a run; NaN where nothing is known. `every` is how many ticks lie between two kept ones, mostly."""

    number: int
    kept: int
    every: int
    seconds: Floats
    load_percent: Floats
    interval_us: Floats
    cache_percent: Floats
    heat_thousands: Floats
    window: Floats
    spectrum: Spectrum | None

    def course(self, name: str) -> Floats:
        """One of the metrics, by its name here."""
        found: Floats = getattr(self, name)
        return found


class Place(NamedTuple):
    """Where the kept ticks of a run are: in these row groups of a file."""

    path: Path
    groups: tuple[int, ...]


def places(folder: Path, owner: Mapping[int, int], each_most: int) -> dict[int, Place]:
    """Where the ticks of at most `each_most` runs of each owner are; `owner` has the owner of each run's number.

    Shards are looked at in order until every owner has enough, which the first one mostly does: configurations are
    interleaved.
    """
    found: dict[int, Place] = {}
    have = dict.fromkeys(owner.values(), 0)
    for path in shards(folder, "ticks"):
        for number, groups in _groups(path).items():
            if number in owner:
                have[owner[number]] += 1
                found[number] = Place(path, tuple(groups))
        if all(count >= each_most for count in have.values()):
            break
    return found


def _groups(path: Path) -> dict[int, list[int]]:
    """The row groups of each run in a file."""
    found: dict[int, list[int]] = {}
    with open_table(path) as file:
        column = file.schema_arrow.names.index("run_id") if "run_id" in file.schema_arrow.names else -1
        if column < 0:
            raise RecordInputError(path, "has no run_id, so it is no shard of ticks; delete it, and run again")
        for group in range(file.num_row_groups):
            statistics = file.metadata.row_group(group).column(column).statistics
            if statistics is not None and statistics.has_min_max and statistics.min == statistics.max:
                found.setdefault(int(statistics.min), []).append(group)
    return found


def read_tracks(numbered: Mapping[int, Place]) -> dict[int, Track]:
    """The courses of these runs. Raises `RecordError`."""
    found = {}
    by_path: dict[Path, list[tuple[int, tuple[int, ...]]]] = {}
    for number, place in numbered.items():
        by_path.setdefault(place.path, []).append((number, place.groups))
    for path, wanted in by_path.items():
        with open_table(path) as file:
            for number, groups in sorted(wanted):
                track = read_track(path, file, number, groups)
                if track is not None:
                    found[number] = track
    return found


def read_track(path: Path, file: Any, number: int, groups: Sequence[int]) -> Track | None:
    """The course that the row groups of an open file hold; None when they have no rows. Raises `RecordError`."""
    total = sum(file.metadata.row_group(group).num_rows for group in groups)
    if not total:
        return None
    pieces = []
    late: list[tuple[Integers, Integers, Integers]] = []
    left = total
    for columns in _columns(path, file, groups):
        rows = len(columns["tick_number"])
        pieces.append(_reduced(columns, max(1, round(BINS * rows / total))))
        if left <= SPECTRUM_ROWS + rows:
            late.append((columns["tick_number"], columns["elapsed_ns"], columns["tick_interval_ns"]))
        left -= rows
    numbers, elapsed, passed = (
        np.concatenate([part[i] for part in late])[-SPECTRUM_ROWS:] for i in range(3)
    )  # fmt: skip
    every, even = _even(numbers)
    seconds, load, interval, cache, heat, window = (np.concatenate(parts) for parts in zip(*pieces, strict=True))
    found = spectrum(elapsed[even], passed[even].astype(np.float64))
    return Track(number, total, every, seconds, load, interval, cache, heat, window, found)


def _columns(path: Path, file: Any, groups: Sequence[int]) -> Iterator[dict[str, Integers]]:
    import pyarrow as pa

    for group in groups:
        try:
            table = file.read_row_group(group, columns=list(_READ))
            # No stored value reaches 2^63, so u64 fits.
            yield {name: np.asarray(table.column(name).to_numpy(), dtype=np.int64) for name in _READ}
        except (pa.ArrowException, OSError, KeyError) as error:
            raise RecordError(path, f"its ticks cannot be read ({error}); take the file from a copy") from error


def _reduced(columns: Mapping[str, Integers], bins: int) -> list[Floats]:
    """Means over `bins` parts: seconds, load, interval, cache hits, heat, window, in the units of `Track`."""
    rows = len(columns["tick_number"])
    edges = np.arange(min(bins, rows)) * rows // min(bins, rows)
    counts = np.diff(edges, append=rows).astype(np.float64)

    def mean(values: Floats) -> Floats:
        return np.asarray(np.add.reduceat(values, edges) / counts, dtype=np.float64)

    load = columns["load_ppm"]
    known = load != UNKNOWN_LOAD
    cache = columns["cache_hits_delta"].astype(np.float64)
    words = cache + columns["bucket_hits_delta"]
    return [
        mean(columns["elapsed_ns"] / 1e9),
        _ratio(np.where(known, load, 0) / 1e4, known.astype(np.float64), edges),
        mean(columns["tick_interval_ns"] / 1e3),
        _ratio(100.0 * cache, words, edges),
        mean(columns["heat_total_q48"] / (_Q16 * 1_000.0)),
        mean(columns["window_width"].astype(np.float64)),
    ]


def _ratio(above: Floats, below: Floats, edges: Integers) -> Floats:
    """The sums of `above` over those of `below` in each part, NaN where the latter is 0."""
    over, under = np.add.reduceat(above, edges), np.add.reduceat(below, edges)
    found = np.full(len(edges), np.nan)
    np.divide(over, under, out=found, where=under > 0)
    return found


def _even(numbers: Integers) -> tuple[int, slice]:
    """How many ticks lie between neighbours where that is longest the same, and where that is."""
    steps = np.diff(numbers)
    if not len(steps):
        return 1, slice(0, len(numbers))
    begins = np.flatnonzero(np.diff(steps, prepend=steps[0] - 1))
    lengths = np.diff(begins, append=len(steps))
    longest = int(np.argmax(lengths))
    begin = int(begins[longest])
    return int(steps[begin]), slice(begin, begin + int(lengths[longest]) + 1)


def spectrum(elapsed_ns: Integers, values: Floats) -> Spectrum | None:
    """Welch's estimate (Hann windows that overlap by half) after reading the series off at evenly spaced times.

    None for fewer than 4 segments' worth of samples, or values that do not vary.
    """
    if len(values) < 4 * SEGMENT_LEAST or float(values.min()) == float(values.max()):
        return None
    spacing = float(np.median(np.diff(elapsed_ns)))
    span = float(elapsed_ns[-1] - elapsed_ns[0])
    # A long gap is no reason to make up a million values in it.
    if spacing <= 0 or span / spacing > 8 * len(values):
        return None
    at = np.arange(int(span / spacing) + 1) * spacing
    even = np.interp(at, (elapsed_ns - elapsed_ns[0]).astype(np.float64), values)
    size = SEGMENT_LEAST
    while size < SEGMENT_MOST and 2 * size <= len(even) // 4:
        size *= 2
    window = np.sin(np.pi * np.arange(size) / size) ** 2
    power = np.zeros(size // 2 + 1)
    for begin in range(0, len(even) - size + 1, size // 2):
        piece = even[begin : begin + size]
        power += np.abs(np.fft.rfft((piece - piece.mean()) * window)) ** 2
    power = power[1:]
    if not power.sum() > 0:
        return None
    frequency = np.arange(1, size // 2 + 1) / (size * spacing * 1e-9)
    return Spectrum(frequency, power / power.sum(), spacing * 1e-9)
