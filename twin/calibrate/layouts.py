"""The layouts that loggers write around a table: tagged records, two lines of names, columns aligned with blanks.

Each is told by its own first lines and becomes the plain table that it stands for: names, and a line a sample.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Sequence

Line = tuple[int, str]
"""The place of a line in its file (from 0), and the line."""

_TAGGED = re.compile(r"\s*00\s*,[^,]*,\s*Hardware monitoring log", re.IGNORECASE)
_IDENTIFIER = re.compile(r"/([a-z0-9_\-]+)(?:/[^/]+)*/([a-z]+)/[0-9]+", re.IGNORECASE)
_KIND_UNITS = {
    "temperature": "°C", "load": "%", "power": "W", "fan": "RPM", "clock": "MHz", "voltage": "V", "control": "% duty",
    "data": "GB", "smalldata": "MB", "throughput": "B/s", "level": "% level", "energy": "mWh", "current": "A",
    "factor": "factor", "frequency": "Hz", "humidity": "% humidity",
}  # fmt: skip
ALIGNED_SHARE = 0.8
"""A table is aligned with blanks when this share of its lines has as many words as the first."""
_PARTS = (("gpu", "GPU"), ("cpu", "CPU"), ("hdd", "drive"), ("ssd", "drive"), ("nvme", "drive"), ("ram", "memory"))


def plain(lines: Sequence[Line]) -> list[Line]:
    """The lines of a plain table. Lines of a layout that is not known come back as they are."""
    if not lines:
        return []
    if _TAGGED.match(lines[0][1]):
        return _tagged(lines)
    if len(lines) > 1:
        identifiers = _cells(lines[0][1])
        if len(identifiers) > 1 and not identifiers[0] and all(_IDENTIFIER.fullmatch(each) for each in identifiers[1:]):
            return _identified(identifiers, lines)
    return _aligned(lines)


def _cells(line: str) -> list[str]:
    if len(line) > csv.field_size_limit():
        return [line]
    return [cell.strip() for cell in next(csv.reader([line], skipinitialspace=True), [])]


def _written(cells: Iterable[str]) -> str:
    return ",".join('"' + cell.replace('"', '""') + '"' for cell in cells)


def _tagged(lines: Sequence[Line]) -> list[Line]:
    """Records with a number in front: 02 names of columns, 03 the unit of one of them, 80 a sample.

    A file has a 02 for each time that the logger was started. Samples below names that others have more samples of
    are left out, because their columns are others.
    """
    blocks: dict[tuple[str, ...], list[Line]] = {}
    units: dict[tuple[str, ...], dict[int, str]] = {}
    names: tuple[str, ...] = ()
    for place, line in lines:
        tag, _, rest = line.partition(",")
        tag = tag.strip()
        if tag == "02":
            names = tuple(_cells(rest)[1:])
            blocks.setdefault(names, [])
            units.setdefault(names, {})
        elif tag == "03" and names:
            cells = _cells(rest)
            if len(cells) > 2 and cells[1].isdecimal() and len(cells[1]) < 6:
                units[names][int(cells[1])] = cells[2]
        elif tag == "80" and names:
            blocks[names].append((place, rest))
    if not blocks:
        return list(lines)
    most = max(blocks, key=lambda each: len(blocks[each]))
    first = min((place for place, line in lines if line.lstrip().startswith("02")), default=0)
    labels = ["time"]
    for place, name in enumerate(most):
        # The card's own columns come without its name.
        label = name if re.search("GPU|CPU|RAM|Frame|Commit", name, re.IGNORECASE) else f"GPU {name}"
        unit = units[most].get(place, "")
        labels.append(f"{label} [{unit}]" if unit else label)
    return [(first, _written(labels)), *blocks[most]]


def _identified(identifiers: Sequence[str], lines: Sequence[Line]) -> list[Line]:
    """A line of identifiers (`/intelcpu/0/temperature/4`) above that of names: together they say what a column is."""
    names = _cells(lines[1][1])
    if len(names) != len(identifiers):
        return list(lines[1:])
    labels = [names[0] or "Time"]
    for identifier, name in zip(identifiers[1:], names[1:], strict=True):
        found = _IDENTIFIER.fullmatch(identifier)
        hardware, kind = (found[1].lower(), found[2].lower()) if found else ("", "")
        part = next((word for key, word in _PARTS if key in hardware), "")
        label = name if not part or part.lower() in name.lower() else f"{part} {name}"
        labels.append(f"{label} [{_KIND_UNITS.get(kind, kind)}]")
    return [(lines[1][0], _written(labels)), *lines[2:]]


def _aligned(lines: Sequence[Line]) -> list[Line]:
    """A table whose columns are parted by nothing but blanks."""
    names = lines[0][1].split()
    if len(names) < 3 or len(lines) < 3 or re.search("[,;\t|]", lines[0][1]):
        return list(lines)
    alike = sum(len(line.split()) == len(names) for _, line in lines)
    if alike < ALIGNED_SHARE * len(lines):
        return list(lines)
    return [(place, _written(line.split())) for place, line in lines]
