"""The text of a recording as a table: encodings, delimiters, comments, decimal commas; numbers and times in cells."""

from __future__ import annotations

import codecs
import csv
import gzip
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from twin.calibrate import layouts
from twin.calibrate.recording import RecordingError

DELIMITERS = ",;\t|"
MOST_BYTES = 256 * 1024 * 1024
MOST_LINES = 4_000_000
"""A longer file is no recording, or one of weeks that ought to be thinned out."""
RAGGED_SHARE = 0.05
"""Lines with another number of cells than the header are left out when they are fewer than this share."""
_GZIP = b"\x1f\x8b"
_CONTROLS = re.compile(rb"[\x01-\x08\x0e-\x19\x1c-\x1f\x7f]")
"""Characters that no text has (a tab, ends of lines, an end of file and an escape are in some)."""
_MISSING = {"", "nan", "n/a", "na", "-", "--", "null", "none", "not available", "?", "nil", "unknown", "error", "err!"}
_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:[.,'][0-9]+)*[.,]?|[.,][0-9]+)(?:[eE][+-]?[0-9]+)?")
_CLOCK = re.compile(r"([0-9]{1,4}):([0-9]{1,2})(?::([0-9]{1,2})(?:[.,:]([0-9]{1,9}))?)?\s*([AaPp]\.?[Mm]\.?)?")
_MINUTES = re.compile(r"([0-9]{1,4}):([0-9]{1,2})[.,]([0-9]{1,9})")
_DATE = re.compile(r"([0-9]{1,4})([./-])([0-9]{1,2})\2([0-9]{1,4})[.,]?(?:[T\s_-]+(\S.*))?")
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTH = "([A-Za-z]{3})[a-z]*"
_NAMED_DAY = re.compile(rf"(?:[A-Za-z]{{3,9}},?\s+)?(?:([0-9]{{1,2}})[\s-]+{_MONTH}|{_MONTH}\s+([0-9]{{1,2}})),?(.*)")
_DAY_SECONDS = 86_400.0


@dataclass(frozen=True)
class Table:
    """A table of texts: the names of its columns, and rows with the lines they stand in.

    `decimal_comma` says that a single comma in a number is its decimal mark, `notes` what was left out.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    lines: tuple[int, ...]
    decimal_comma: bool = False
    notes: tuple[str, ...] = ()


def read_table(path: Path) -> Table:
    """The table in a CSV file, compressed or not. Raises `RecordingError` when there is none, and `OSError`."""
    text = _decoded(path)
    if text.count("\n") > MOST_LINES:
        raise RecordingError(f"{path}: more than {MOST_LINES} lines; take a part of it, or fewer samples")
    lines = text.splitlines()
    if not "".join(lines).strip():
        raise RecordingError(
            f"{path}: the file is empty; a header with the names of columns and a row a sample are needed"
        )
    comments = {place for place, line in enumerate(lines) if line.lstrip().startswith(("#", "//"))}
    kept = [(place, line) for place, line in enumerate(lines) if line.strip() and place not in comments]
    if kept and re.fullmatch(r"sep=.?", kept[0][1].strip(), re.IGNORECASE):
        kept = kept[1:]
    if not kept:
        raise RecordingError(f"{path}: there are only comments; a header and a row a sample are needed")
    if not _is_header(kept[0][1]) and comments:
        # The names of the columns in the comment above the numbers.
        above = max((place for place in comments if place < kept[0][0]), default=None)
        if above is not None:
            kept.insert(0, (above, lines[above].lstrip(" #/")))
    kept = layouts.plain(_below_titles(kept))
    delimiter = _delimiter([line for _, line in kept[:50]])
    reader = csv.reader((line for _, line in kept), delimiter=delimiter, skipinitialspace=True, strict=False)
    same: dict[str, str] = {}
    try:
        # Logs repeat themselves: every text is kept once.
        parsed = [tuple([same.setdefault(cell, cell) for cell in map(str.strip, cells)]) for cells in reader]
    except csv.Error as error:
        raise RecordingError(f"{path}: not a CSV file ({error}); save it as one") from None
    if len(parsed) != len(kept):
        raise RecordingError(f"{path}: a quotation mark is never closed; mend the line, or take the quotes off")
    header = parsed[0]
    if not any(re.search(r"[A-Za-z]", name) for name in header) or _is_sample(header):
        where = f"{path}, line {kept[0][0] + 1}"
        raise RecordingError(f"{where}: no names of columns are there ({', '.join(header)[:60]}); "
                             "write a header line, for example t_s,cpu_temp_c,cpu_load")  # fmt: skip
    rows, numbers, wrong = _rows(header, [place for place, _ in kept], parsed)
    notes: tuple[str, ...] = ()
    if wrong:
        line, count = wrong[0]
        if len(wrong) >= max(RAGGED_SHARE * len(parsed), 1.0 + (wrong[-1][0] == kept[-1][0] + 1)):
            more = f" (and {len(wrong) - 1} lines more)" if len(wrong) > 1 else ""
            raise RecordingError(f"{path}, line {line}: {count} cells, and the header has {len(header)}{more}; mend "
                                 "the lines, or cut them off")  # fmt: skip
        if len(wrong) > 1 or line != kept[-1][0] + 1:
            notes = (f"{path}: {len(wrong)} of {len(parsed) - 1} lines have another number of cells than the header "
                     f"(the first is line {line}: {count}, not {len(header)}) and are left out",)  # fmt: skip
    if not rows:
        raise RecordingError(f"{path}: there are no samples below the header; a row a sample is needed")
    return Table(header, tuple(rows), tuple(numbers), _decimal_comma(rows, delimiter), notes)


def _below_titles(kept: list[tuple[int, str]]) -> list[tuple[int, str]]:
    """Without lines in front that have no delimiter, where those below them have."""

    def parted(line: str) -> bool:
        return any(delimiter in line for delimiter in DELIMITERS)

    first = next((place for place, (_, line) in enumerate(kept[:50]) if parted(line)), 0)
    return kept[first:] if sum(parted(line) for _, line in kept) > len(kept) / 2.0 else kept


def _rows(
    header: tuple[str, ...], places: Sequence[int], parsed: Sequence[tuple[str, ...]]
) -> tuple[list[tuple[str, ...]], list[int], list[tuple[int, int]]]:
    """The samples, the lines they stand in, and the lines that have another number of cells, with that number."""
    rows, numbers, wrong = [], [], []
    again = False
    for place, cells in zip(places[1:], parsed[1:], strict=True):
        if cells == header:
            # Loggers write the names again when they stop, with a line about devices below, and when they start anew.
            again = True
            continue
        if again and not any(character.isdigit() for character in cells[0]):
            continue
        if len(cells) == len(header) + 1 and cells[-1] == "":
            cells = cells[:-1]
        if len(cells) != len(header):
            wrong.append((place + 1, len(cells)))
        else:
            rows.append(cells)
            numbers.append(place + 1)
    # Lines of a single cell at the end are what the logger has to say in summary.
    while wrong and wrong[-1][1] == 1 and len(header) > 2 and numbers and wrong[-1][0] > numbers[-1]:
        wrong.pop()
    return rows, numbers, wrong


def _decoded(path: Path) -> str:
    with path.open("rb") as file:
        data = file.read(MOST_BYTES + 1)
        if data.startswith(_GZIP):
            file.seek(0)
            try:
                data = gzip.GzipFile(fileobj=file).read(MOST_BYTES + 1)
            except (EOFError, gzip.BadGzipFile, zlib.error) as error:
                raise RecordingError(f"{path}: the gzip file is damaged ({error}); fetch it again") from None
        elif path.suffix == ".gz" and data:
            raise RecordingError(f"{path}: not a gzip file, as its name says; compress it, or take .gz off its name")
    if len(data) > MOST_BYTES:
        raise RecordingError(f"{path}: more than {MOST_BYTES} bytes; take a part of it, or fewer samples or columns")
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", errors="replace")
    if b"\0" in data:
        sixteen = _sixteen(data)
        if sixteen:
            return data.decode(sixteen, errors="replace")
        # A machine that loses power leaves zeros where its logger was about to write.
        data = re.sub(b"\0+", b"\n", data)
    if _CONTROLS.search(data):
        raise RecordingError(f"{path}: not a text; a recording is a CSV file or one in gzip")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace")


def _sixteen(data: bytes) -> str:
    """Which UTF-16 bytes without a mark are, by the zeros beside ASCII; empty when they are none."""
    part = data[:4_096]
    for odd, name in ((1, "utf-16-le"), (0, "utf-16-be")):
        if part[odd::2].count(0) > 0.9 * len(part[odd::2]) and part[1 - odd :: 2].count(0) == 0:
            return name
    return ""


def _is_sample(cells: Sequence[str]) -> bool:
    """Whether a first line is a sample already: a date or a number in front, and numbers behind it."""
    known = [cell for cell in cells if not is_missing(cell)]
    if len(known) < 2 or not (_NUMBER.fullmatch(known[0]) or date_seconds(known[0], False) is not None):
        return False
    numbers = sum(number(cell, False) is not None for cell in known[1:])
    return numbers > (len(known) - 1) / 2.0


def _is_header(line: str) -> bool:
    return any(re.match(r"\s*[\"']?[A-Za-z]{2}|\s*t\b", cell) for cell in re.split("[,;\t|]", line))


def _decimal_comma(rows: Sequence[Sequence[str]], delimiter: str) -> bool:
    """Whether commas in numbers are decimal marks: told by those that cannot group thousands, and by points."""
    point = False
    for cells in rows:
        for cell in cells:
            if "," in cell and re.fullmatch(r"[+-]?[0-9.]*,[0-9]+", cell):
                if not re.fullmatch(r"[+-]?[1-9][0-9]{0,2},[0-9]{3}", cell):
                    return True
            elif "." in cell and re.fullmatch(r"[+-]?[0-9,]*[.][0-9]+", cell):
                point = True
    return delimiter != "," and not point


def _delimiter(lines: Sequence[str]) -> str:
    """The delimiter that cuts most lines into as many cells as the header has."""

    def score(delimiter: str) -> tuple[int, int]:
        counts = [_count(line, delimiter) for line in lines]
        return (sum(count in (counts[0], counts[0] + 1) for count in counts) if counts[0] > 1 else 0, counts[0])

    # A decimal comma cuts lines as well, but never into as many cells as the header has.
    return max(DELIMITERS, key=lambda delimiter: (*score(delimiter), -DELIMITERS.index(delimiter)))


def _count(line: str, delimiter: str) -> int:
    """How many cells a line has."""
    if len(line) > csv.field_size_limit():
        return line.count(delimiter) + 1
    return len(next(csv.reader([line], delimiter=delimiter), []))


def is_missing(text: str) -> bool:
    """Whether a cell says that there is no value: nothing, a word for it, or a word in brackets."""
    text = text.strip().lower()
    return text in _MISSING or (text.startswith("[") and text.endswith("]"))


def number(text: str, decimal_comma: bool) -> tuple[float, str] | None:
    """The number in a cell and the unit behind it (empty: none); None when it is no number.

    `decimal_comma` says that a single comma is a decimal mark, as in files whose delimiter is something else.
    """
    text = text.strip().replace("\u00a0", " ").replace("\u2212", "-")
    found = _NUMBER.match(text)
    if found is None:
        return None
    digits = found[0].replace("'", "")
    last_comma, last_point = digits.rfind(","), digits.rfind(".")
    if last_comma >= 0 and last_point >= 0:
        thousands = "." if last_comma > last_point else ","
        digits = digits.replace(thousands, "").replace(",", ".")
    elif last_comma >= 0:
        grouped = re.fullmatch(r"[+-]?[1-9][0-9]{0,2}(,[0-9]{3})+", digits) is not None
        many = digits.count(",") > 1
        if many and not grouped:
            return None
        digits = digits.replace(",", "") if many or (grouped and not decimal_comma) else digits.replace(",", ".")
    elif digits.count(".") > 1:
        if not re.fullmatch(r"[+-]?[1-9][0-9]{0,2}(\.[0-9]{3})+", digits):
            return None
        digits = digits.replace(".", "")
    return float(digits), text[found.end() :].strip().lower()


def clock_seconds(text: str) -> float | None:
    """Seconds since midnight (or of a duration) of h:m[:s[.f]], with AM and PM, or of m:s.f; None when it is none."""
    short = _MINUTES.fullmatch(text.strip())
    if short is not None:
        return int(short[1]) * 60.0 + int(short[2]) + float(f"0.{short[3]}") if int(short[2]) < 60 else None
    found = _CLOCK.fullmatch(text.strip())
    if found is None:
        return None
    hours, minutes, seconds = int(found[1]), int(found[2]), int(found[3] or 0)
    if minutes > 59 or seconds > 60:
        return None
    if found[5]:
        if not 1 <= hours <= 12:
            return None
        hours = hours % 12 + (12 if found[5].lower()[0] == "p" else 0)
    return hours * 3_600.0 + minutes * 60.0 + seconds + float(f"0.{found[4] or 0}")


def date_seconds(text: str, day_first: bool) -> float | None:
    """Seconds since 1970 of a date with or without a time of day; None when it is none.

    Year-month-day, day.month.year, months by their names, and with slashes or dashes `day_first` decides where both
    could be.
    """
    text = _numbered(text.strip())
    found = _DATE.fullmatch(text)
    if found is None:
        return None
    first, mark, second, third = found[1], found[2], found[3], found[4]
    if len(first) == 4:
        year, month, day = int(first), int(second), int(third)
    elif mark == "." or day_first or int(first) > 12:
        year, month, day = int(third), int(second), int(first)
    else:
        year, month, day = int(third), int(first), int(second)
    rest, shift = found[5] or "", 0.0
    zone = re.search(r"(Z|[+-][0-9]{2}:?[0-9]{2})$", rest)
    if zone:
        rest = rest[: zone.start()]
        if zone[1] != "Z":
            hours, minutes = int(zone[1][1:3]), int(zone[1][-2:])
            shift = (hours * 3_600.0 + minutes * 60.0) * (-1.0 if zone[1][0] == "-" else 1.0)
    clock = 0.0 if not rest.strip() else clock_seconds(rest)
    if clock is None:
        return None
    try:
        moment = datetime(year + 2_000 if year < 100 else year, month, day)
    except ValueError:
        return None
    days = (moment - datetime(1970, 1, 1)) / timedelta(days=1)
    return days * _DAY_SECONDS + clock - shift


def _numbered(text: str) -> str:
    """A date with the name of its month (`Thu Nov 26 07:20:16 UTC 2026`, `26-Nov-2026 7:20`) as year-month-day."""
    found = _NAMED_DAY.fullmatch(text)
    month = (found[2] or found[3]).lower() if found else ""
    if found is None or month not in _MONTHS:
        return text
    rest = found[5].strip(" -,")
    year = re.search(r"(?<![0-9:.])[0-9]{4}(?![0-9:.])", rest)
    if year is None:
        return text
    clock = re.search(r"[0-9]{1,2}:[0-9]{1,2}(?::[0-9]{1,2}(?:[.,][0-9]+)?)?(?:\s*[AaPp]\.?[Mm]\.?)?", rest)
    return f"{year[0]}-{_MONTHS.index(month) + 1}-{found[1] or found[4]} {clock[0] if clock else ''}".strip()


def unwrapped(seconds: list[float], texts: Sequence[str]) -> list[float]:
    """Times of day that go on after midnight; minutes and seconds that go on after a full hour."""
    period = 3_600.0 if all(_MINUTES.fullmatch(text.strip()) for text in texts) else _DAY_SECONDS
    found: list[float] = []
    turns = 0.0
    for place, now in enumerate(seconds):
        if place and now < seconds[place - 1] - period / 2.0 and seconds[place - 1] < period:
            turns += period
        found.append(now + turns)
    return found
