"""Tables: files that show several channels at once, and are read once for all of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Protocol

from hardware.interface import Status
from hardware.linux.sysfs import TABLE_BYTES, Outcome, Root, parse_integer


class Table(Protocol):
    """Several integers under keys. `refresh` looks once; `read` then answers for one key after the other."""

    @property
    def where(self) -> str:
        """The path without the root, or the library."""

    def refresh(self) -> None:
        """Look. Never raises."""

    def read(self, key: str) -> Outcome:
        """The integer under `key`. Never raises."""


class TextTable(ABC):
    """A text file below the root as a table."""

    def __init__(self, root: Root, relative: str) -> None:
        self._root = root
        self._path = root.absolute(relative)
        self._text = ""
        self._outcome = Outcome(None, Status.ABSENT, "not read yet")
        self.where = f"/{relative}"

    def refresh(self) -> None:
        """Read the file. Never raises."""
        data, self._outcome = self._root.read_bytes(self._path, TABLE_BYTES)
        self._text = data.decode("utf-8", "replace")

    def read(self, key: str) -> Outcome:
        """The integer under `key` when the file was last read. Never raises."""
        return self._outcome if self._outcome.status is not Status.OK else self.look_up(key)

    @abstractmethod
    def look_up(self, key: str) -> Outcome:
        """The integer under `key` in the text, which could be read."""


class TableCell:
    """One key of a table."""

    def __init__(self, table: Table, key: str) -> None:
        self._table = table
        self._key = key
        self.where = f"{table.where} {key}"

    def read(self) -> Outcome:
        """What the table says since it was last read."""
        return self._table.read(self._key)


_BUSY_COLUMNS = (0, 1, 2, 5, 6, 7)
_TOTAL_COLUMNS = (0, 1, 2, 3, 4, 5, 6, 7)


class Stat(TextTable):
    """Processor time since boot in ticks, from /proc/stat (proc_stat(5)).

    `busy` is user + nice + system + irq + softirq + steal, and `total` is that + idle + iowait; guest time is part of
    user time. Columns after the first three (`busy`) or four (`total`) may be missing, as in old kernels.
    """

    def __init__(self, root: Root) -> None:
        super().__init__(root, "proc/stat")

    def look_up(self, key: str) -> Outcome:
        """`busy` or `total`. When the line of all processors gives no total, the processors' own lines are added up."""
        lines = [line.split() for line in self._text.split("\n") if line.startswith("cpu")]
        everything = next((fields for fields in lines if fields[0] == "cpu"), ["cpu"])
        if key == "busy":
            return _sum(everything, _BUSY_COLUMNS, 3)
        total = _sum(everything, _TOTAL_COLUMNS, 4)
        single = [_sum(fields, _TOTAL_COLUMNS, 4) for fields in lines if fields[0] != "cpu"]
        if total.status is Status.OK or not single:
            return total
        worst = next((outcome for outcome in single if outcome.status is not Status.OK), None)
        return worst or Outcome(sum(outcome.value or 0 for outcome in single), Status.OK)


def _sum(fields: list[str], columns: tuple[int, ...], needed: int) -> Outcome:
    if len(fields) <= needed:
        return Outcome(None, Status.ABSENT, f"/proc/stat shows {len(fields) - 1} columns after {fields[0]}")
    total = 0
    for column in columns:
        if column + 1 < len(fields):
            outcome = parse_integer(fields[column + 1].encode())
            if outcome.value is None:
                return outcome
            total += outcome.value
    return Outcome(total, Status.OK)


class Meminfo(TextTable):
    """Memory in kibibytes (which the kernel prints as kB), from /proc/meminfo (proc_meminfo(5))."""

    def __init__(self, root: Root) -> None:
        super().__init__(root, "proc/meminfo")

    def look_up(self, key: str) -> Outcome:
        """The line that begins with `key` and a colon."""
        start = f"{key}:"
        for line in self._text.split("\n"):
            if line.startswith(start):
                fields = line[len(start) :].split()
                if len(fields) == 2 and fields[1] == "kB":
                    return parse_integer(fields[0].encode())
                return Outcome(None, Status.GARBAGE, f"not a number of kB: {line[:40]!r}")
        return Outcome(None, Status.ABSENT, f"/proc/meminfo has no {key}")
