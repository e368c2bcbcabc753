"""Recordings from files: the columns of a CSV found by name and unit, or mapped; everything that is wrong at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from twin.calibrate import cells, headings
from twin.calibrate.headings import UNITS, Heading, Part, Quantity
from twin.calibrate.recording import FEWEST_SAMPLES, Recording, RecordingError
from twin.calibrate.roles import ROOM, Choice, Roles, listed, quantity_of, some
from twin.calibrate.scales import Scaled, load_shares, plain, temperatures, times
from twin.kernels import Floats

COLDEST_ROOM_CELSIUS, HOTTEST_ROOM_CELSIUS = -20.0, 55.0
MOST_DEVICES = 256
TURNS_SHARE = 0.5
"""Rows are of several devices in turn when more than this share of them is of another device than the row before."""
EVEN_SHARE = 0.1
"""And when none of them has that share of rows less than another."""
MISSING_SHARE = 0.5
"""With more than this share of the readings missing, a column is no recording."""


@dataclass(frozen=True)
class Measured:
    """A recording, and what else the file has about the machine.

    `columns` are the names of the columns by role, `notes` what people should know. `temperatures` are further sensors
    (C), `loads` (shares) and `powers` (W) those of either processor, `fans` speeds (RPM) by the machine's names; all at
    the times of `recording`, NaN where nothing was recorded.
    """

    recording: Recording
    columns: Mapping[str, str]
    notes: tuple[str, ...] = ()
    temperatures: Mapping[str, Floats] = field(default_factory=dict)
    loads: Mapping[Part, Floats] = field(default_factory=dict)
    powers: Mapping[Part, Floats] = field(default_factory=dict)
    fans: Mapping[str, Floats] = field(default_factory=dict)


def read_recordings(paths: Sequence[Path], choice: Choice) -> list[Measured]:
    """The recordings in `paths`: CSV files, compressed or not, or directories of recorded runs.

    Raises `RecordingError` with everything that is wrong with all of them.
    """
    found, problems = [], []
    for path in paths:
        try:
            found.append(read(path, choice))
        except RecordingError as error:
            problems.append(str(error))
    if problems:
        raise RecordingError("\n".join(problems))
    return found


def values_of(path: Path, column: str) -> list[str]:
    """The texts in a column of a CSV file, in the order in which they come. Raises `RecordingError`."""
    try:
        table = cells.read_table(path)
    except OSError as error:
        raise RecordingError(f"{path}: cannot be read: {error.strerror}; name a CSV file") from None
    if column not in table.header:
        raise RecordingError(f"{path}: there is no column {column!r} to split by; it has: {some(table.header)}")
    place = table.header.index(column)
    return list(dict.fromkeys(row[place] for row in table.rows if not cells.is_missing(row[place])))


def read(path: Path, choice: Choice) -> Measured:
    """One recording. Raises `RecordingError` with everything that is wrong, each with line, column, value and mend."""
    try:
        if path.is_dir():
            from twin.calibrate.runs import run_table

            return _Reader(path, choice, *run_table(path)).read()
        table = cells.read_table(path)
    except OSError as error:
        mend = "name a CSV file, one in gzip, or the directory of a run"
        raise RecordingError(f"{path}: cannot be read: {error.strerror}; {mend}") from None
    return _Reader(path, choice, table).read()


class _Reader:
    def __init__(self, path: Path, choice: Choice, table: cells.Table, given: Mapping[str, str] | None = None) -> None:
        self._path = path
        self._choice = choice
        self._table = table
        self._headings = [headings.heading(name) for name in table.header]
        self._problems: list[str] = []
        self._notes: list[str] = list(table.notes)
        self._given = dict(given or {}) | dict(choice.mapped)
        """Columns that need not be looked for."""

    def read(self) -> Measured:
        """The recording, or a `RecordingError`."""
        rows = self._rows()
        found = Roles(self._path, self._headings, self._choice, self._given)
        self._problems += found.problems
        self._notes += found.notes
        roles = found.roles
        self._stop()
        for role, (heading, _) in roles.items():
            count = self._table.header.count(heading.name)
            if count > 1:
                self._notes.append(
                    f"{self._path}: there are {count} columns {heading.name!r}; the first is taken for {role}"
                )
        seconds = self._seconds(roles, rows)
        columns = {
            role: self._column(role, heading, unit, rows) for role, (heading, unit) in roles.items() if role != "time"
        }
        self._stop()
        keep = _distinct(seconds)
        seconds = seconds[keep]
        columns = {role: column[keep] for role, column in columns.items()}
        return self._measured(seconds, columns, {role: heading.name for role, (heading, _) in roles.items()})

    def _stop(self) -> None:
        if self._problems:
            raise RecordingError(listed(str(self._path), self._problems))

    def _rows(self) -> list[int]:
        """The rows that were asked for."""
        header = self._table.header
        rows = list(range(len(self._table.rows)))
        for column, value in self._choice.where.items():
            if column not in header:
                self._problems.append(
                    f": --where {column}={value}: there is no such column; the file has: {some(header)}"
                )
                continue
            place = header.index(column)
            there = sorted({self._table.rows[row][place] for row in rows}, key=headings.natural)
            rows = [row for row in rows if self._table.rows[row][place] == value]
            if not rows:
                self._problems.append(f": --where {column}={value}: no row has that; there are {some(there)}")
        return self._of_one_device(rows)

    def _of_one_device(self, rows: list[int]) -> list[int]:
        """The rows of one card or processor, where every moment has a row for each and a column says of which."""
        for place, name in enumerate(self._table.header):
            if not headings.names_devices(name) or name in self._given.values() or name in self._choice.where:
                continue
            seen = [self._table.rows[row][place] for row in rows]
            devices = sorted(set(seen), key=headings.natural)
            if not _take_turns(seen, devices):
                continue
            wanted = devices[0] if self._choice.device is None else str(self._choice.device)
            if wanted not in devices:
                self._problems.append(f": --device {wanted}: column {name} has no such row; there are {some(devices)}")
            elif self._choice.device is None:
                self._notes.append(f"{self._path}: rows of {len(devices)} devices take turns (column {name}: "
                                   f"{some(devices)}); {wanted} is taken, --device N or --where {name}=... takes "
                                   "another")  # fmt: skip
            self._choice = replace(self._choice, device=None)
            self._headings[place] = replace(self._headings[place], quantity=None)
            return [row for row, device in zip(rows, seen, strict=True) if device == wanted]
        return rows

    # --- their values -------------------------------------------------------------------------------------------------

    def _texts(self, heading: Heading, rows: Sequence[int]) -> list[str]:
        place = next(place for place, each in enumerate(self._headings) if each is heading)
        return [self._table.rows[row][place] for row in rows]

    def _where(self, heading: Heading, row: int) -> str:
        return f", line {self._table.lines[row]}, column {heading.name}"

    def _seconds(self, roles: Mapping[str, tuple[Heading, str]], rows: Sequence[int]) -> Floats:
        heading, unit = roles["time"]
        texts = self._texts(heading, rows)
        if "time of day" in roles:
            texts = [f"{date} {clock}" for date, clock in
                     zip(texts, self._texts(roles["time of day"][0], rows), strict=True)]  # fmt: skip
        comma = self._table.decimal_comma
        found = times(texts, unit, comma)
        for place, why in found.wrong:
            self._problems.append(f"{self._where(heading, rows[place])}: {texts[place][:40]!r} {why}")
        if found.wrong:
            return found.values
        seconds = found.values
        back = np.flatnonzero(np.diff(seconds) < 0.0)
        if len(back):
            place = int(back[0]) + 1
            again = f" (and {len(back) - 1} times more)" if len(back) > 1 else ""
            self._problems.append(
                f"{self._where(heading, rows[place])}: {texts[place]!r} comes after {texts[place - 1]!r}, so time goes "
                f"back{again}; sort the rows, or take one recording at a time{self._parts(rows, place)}"
            )
            return seconds
        steps = np.diff(seconds)
        usual = float(np.median(steps[steps > 0.0])) if np.any(steps > 0.0) else 0.0
        if usual > 600.0 or 0.0 < usual < 5e-4:
            self._problems.append(
                f", column {heading.name}: {usual:g} s lie between two samples when times are in {found.unit or 's'}; "
                f"that looks like another unit: --map time={heading.name}:{'ms' if usual > 600.0 else 's'}"
            )
        since: Floats = seconds - seconds[0]
        return since

    def _parts(self, rows: Sequence[int], place: int) -> str:
        """How to take one of several recordings in a file, where a column names them."""
        for number, heading in enumerate(self._headings):
            before, after = (self._table.rows[rows[each]][number] for each in (place - 1, place))
            if before != after and not cells.is_missing(before) and cells.number(before, True) is None:
                return f": --where {heading.name}={before} (or calibrate all: --split {heading.name})"
        return ""

    def _column(self, role: str, heading: Heading, unit: str, rows: Sequence[int]) -> Floats:
        quantity = quantity_of(role)
        texts = self._texts(heading, rows)
        if role == "time of day" or quantity is None:
            return np.zeros(len(rows))
        comma = self._table.decimal_comma
        values = np.full(len(rows), np.nan)
        gaps: list[int] = []
        odd: list[int] = []
        said = unit
        for place, text in enumerate(texts):
            if cells.is_missing(text):
                if text.strip().lower() == "nan":
                    gaps.append(place)
                continue
            parsed = cells.number(text, comma)
            if parsed is None or (parsed[1] and parsed[1] not in UNITS[quantity]) or abs(parsed[0]) > 1e15:
                odd.append(place)
                continue
            values[place] = parsed[0]
            if parsed[1] and not said:
                said = UNITS[quantity][parsed[1]]
        if odd:
            place = odd[0]
            more = f" (and {len(odd) - 1} cells more)" if len(odd) > 1 else ""
            self._wrong(role, f"{self._where(heading, rows[place])}: {texts[place][:40]!r} is not a number{more}; "
                              "mend it, or leave the cell empty where nothing was measured")  # fmt: skip
            return values * np.nan if self._is_extra(role) else values
        if gaps:
            self._notes.append(f"{self._path}{self._where(heading, rows[gaps[0]])}: NaN is taken as a gap "
                               f"({len(gaps)} of {len(rows)} cells)")  # fmt: skip
        return self._scaled(role, quantity, heading, said, values, rows)

    def _is_extra(self, role: str) -> bool:
        """Whether a column was found that the recording does without: nobody asked for it, and it drives nothing."""
        needed = (f"{self._choice.part}_{short}" for short in ("temp", "load", "power"))
        return role not in self._given and role not in needed

    def _wrong(self, role: str, problem: str) -> None:
        """A column is wrong: that stops the reading, or leaves the column out where it was only found."""
        if self._is_extra(role):
            self._notes.append(f"{self._path}{problem}. The column is left out as {role}")
        else:
            self._problems.append(problem)

    def _scaled(
        self, role: str, quantity: Quantity, heading: Heading, unit: str, values: Floats, rows: Sequence[int]
    ) -> Floats:
        known = int(np.count_nonzero(np.isfinite(values)))
        if known < len(values) * (1.0 - MISSING_SHARE) or known == 0:
            primary = role in (f"{self._choice.part}_{short}" for short in ("temp", "load", "power"))
            if primary and role in (f"{self._choice.part}_temp", *self._given):
                self._problems.append(f", column {heading.name}: {len(values) - known} of {len(values)} cells have no "
                                      "number (NaN or empty); half of them are needed at least")  # fmt: skip
            return np.full(len(values), np.nan)
        how = {"temperature": temperatures, "load": load_shares}.get(quantity)
        scaled: Scaled = plain(quantity, values, unit) if how is None else how(values, unit)
        if scaled.why:
            place = scaled.place
            why = scaled.why.format(role=role, name=heading.name)
            self._wrong(role, f"{self._where(heading, rows[place])}: {values[place]:g} {why}")
            if self._is_extra(role):
                return np.full(len(values), np.nan)
        if scaled.note:
            self._notes.append(
                f"{self._path}, column {heading.name}: {scaled.note.format(role=role, name=heading.name)}"
            )
        return scaled.values

    def _measured(self, seconds: Floats, columns: Mapping[str, Floats], names: dict[str, str]) -> Measured:
        part = self._choice.part
        rooms = columns.get(ROOM, np.zeros(0))
        room = float(np.nanmedian(rooms)) if np.any(np.isfinite(rooms)) else None
        if room is not None and not COLDEST_ROOM_CELSIUS <= room <= HOTTEST_ROOM_CELSIUS:
            self._notes.append(f"{self._path}, column {names[ROOM]}: {room:g} C is the air of no room "
                               f"({COLDEST_ROOM_CELSIUS:g} to {HOTTEST_ROOM_CELSIUS:g} C) and is left out")  # fmt: skip
            room = None
        there = {role: column for role, column in columns.items() if np.any(np.isfinite(column))}
        if ROOM not in self._given and ROOM.removesuffix("_temp") not in self._choice.sensors:
            there.pop(ROOM, None)
        known = int(np.count_nonzero(np.isfinite(columns[f"{part}_temp"])))
        if len(seconds) < FEWEST_SAMPLES or known < FEWEST_SAMPLES:
            what = (
                f"{len(seconds)} samples" if len(seconds) < FEWEST_SAMPLES else f"{known} readings of the temperature"
            )
            raise RecordingError(f"{self._path}: too short: {what}; {FEWEST_SAMPLES} are needed at least, and some "
                                 "minutes of changing load to tell how it warms up; record longer")  # fmt: skip
        names = {role: name for role, name in names.items() if role in there or role.startswith("time") or role == ROOM}
        for role in ("cpu_load", "gpu_load", "cpu_power", "gpu_power"):
            if role in columns and role not in there:
                self._notes.append(f"{self._path}: the column for {role} is more than half empty and is left out")
        stem = self._path.name if self._path.is_dir() else self._path.name.partition(".")[0]
        label = [f"{column}={value}" for column, value in self._choice.where.items()]
        fan = next((there[f"{name}_rpm"] for name in self._choice.fans if f"{name}_rpm" in there), None)
        return Measured(
            recording=Recording(
                name=" ".join([stem, *label]),
                times_seconds=seconds,
                temperatures_celsius=columns[f"{part}_temp"],
                loads=there.get(f"{part}_load"),
                powers_watts=there.get(f"{part}_power"),
                fan_rpm=there.get("fan_rpm", fan),
                room_celsius=room,
            ),
            columns=names,
            notes=tuple(self._notes),
            temperatures={
                role.removesuffix("_temp"): column
                for role, column in there.items()
                if role.endswith("_temp") and role != f"{part}_temp"
            },
            loads={each: there[f"{each}_load"] for each in _PARTS if f"{each}_load" in there},
            powers={each: there[f"{each}_power"] for each in _PARTS if f"{each}_power" in there},
            fans={name: there[f"{name}_rpm"] for name in self._choice.fans if f"{name}_rpm" in there},
        )


def _take_turns(seen: Sequence[str], devices: Sequence[str]) -> bool:
    """Whether rows with these names are of several devices in turn: about as many of each, and numbered in a row."""
    if not 1 < len(devices) <= MOST_DEVICES or len(seen) < 2 * len(devices):
        return False
    numbers = sorted(int(each) for each in devices if each.isdecimal() and len(each) < 6)
    if numbers and (numbers[0] > 1 or numbers[-1] - numbers[0] >= len(numbers)):
        return False
    counts = [seen.count(device) for device in devices]
    return max(counts) - min(counts) <= max(1.0, EVEN_SHARE * max(counts)) and (
        sum(a != b for a, b in pairwise(seen)) > TURNS_SHARE * len(seen)
    )


_PARTS: tuple[Part, ...] = ("cpu", "gpu")


def _distinct(seconds: Floats) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Which samples count: of those of one moment the last, because a logger that woke twice leaves two of them."""
    steps = np.diff(seconds)
    usual = float(np.median(steps)) if len(steps) else 1.0
    return np.append(steps > min(0.01, usual / 5.0), True)


def identifiable(recordings: Sequence[Recording]) -> list[str]:
    """What these recordings cannot tell because something never changed, one sentence each; empty when nothing."""
    names = ", ".join(recording.name for recording in recordings)
    found = []
    celsius = np.concatenate([recording.temperatures_celsius for recording in recordings])
    if float(np.nanmax(celsius) - np.nanmin(celsius)) == 0.0:
        found.append(f"{names}: the temperature is {float(np.nanmin(celsius)):g} C throughout, so that neither "
                     "resistances nor capacities nor the sensor can be identified; is the sensor stuck? record idle "
                     "and load in turn")  # fmt: skip
    drives = {
        "load": [recording.loads for recording in recordings],
        "power": [recording.powers_watts for recording in recordings],
        "fan speed": [recording.fan_rpm for recording in recordings],
    }
    moving: list[tuple[str, float]] = []
    still: list[tuple[str, float]] = []
    for what, columns in drives.items():
        there = [column for column in columns if column is not None]
        if there:
            values = np.concatenate(there)
            (moving if float(np.nanmax(values) - np.nanmin(values)) > 0.0 else still).append(
                (what, float(np.nanmin(values)))
            )
    powers = [recording.powers_watts for recording in recordings if recording.powers_watts is not None]
    if powers and all(float(np.nanmax(watts)) <= 0.0 for watts in powers):
        found.append(f"{names}: the power is 0 W throughout, which heats nothing; is the meter read, and with "
                     "permission? leave the column out (--map names another), or record again")  # fmt: skip
    if not moving and still:
        shown = ", ".join(f"the {what} is {value * 100.0:g} %" if what == "load" else f"the {what} is {value:g}"
                          for what, value in still)  # fmt: skip
        found.append(f"{names}: {shown} throughout, so that resistances, time constants, idle and dynamic power cannot "
                     "be identified (only what they make at that load); record idle and load in turn")  # fmt: skip
    return found
