"""An advisor's answers on disk, so that a replay lays the words out as the run did without asking anybody.

The file is lines of JSON: the format, then for each order that was taken up the control cycle, the order, and a CRC-32
of both. A last line without its end was cut off by a crash or a full disk and does not count; anything else that is
not as it was written is an error.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self
from zlib import crc32

from twin.pool.advisor import Counts, WordFacts, check_order
from twin.pool.errors import PoolError, PoolInputError

_FORMAT = b'{"format":"advice/1"}\n'


class AdviceLog:
    """The file `path` as it is written. One that is there is gone on with. As a context manager it is closed."""

    def __init__(self, path: Path) -> None:
        """Raises `PoolError` when the file cannot be written and `PoolInputError` when it is damaged."""
        entries, whole = _read(path)
        self._path = path
        self._last = entries[-1][0] if entries else -1
        self._descriptor = -1
        try:
            self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
            os.ftruncate(self._descriptor, whole)
        except OSError as error:
            self.close()
            raise PoolError(f"{path}: the advisor's answers cannot be kept ({error.strerror})") from error
        self._end = whole
        if whole == 0:
            self._append(_FORMAT)

    def write(self, cycle: int, order: Sequence[int]) -> None:
        """Keep an order and the control cycle in which it is taken up: 0 or more, and after that of the last one.

        Raises `PoolInputError` for another cycle or a wrong order, `PoolError` when the disk does not take it; the file
        then ends with the order before.
        """
        kept = list(order)
        wrong = _wrong(cycle, kept, self._last)
        if wrong:
            raise PoolInputError(f"{self._path}: an answer that cannot be kept: {wrong}")
        body = _body(cycle, kept)
        self._append(body[:-1] + b',"crc":%d}\n' % crc32(body))
        self._last = cycle

    def _append(self, line: bytes) -> None:
        try:
            written = 0
            while written < len(line):
                written += os.pwrite(self._descriptor, line[written:], self._end + written)
        except OSError as error:
            # What is left of the line is cut off when the file is read; it must not be in the way of the next one,
            # which is written over it.
            raise PoolError(f"{self._path}: an advisor's answer cannot be kept ({error.strerror})") from error
        self._end += len(line)

    def close(self) -> None:
        """End the file. A second call does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class RecordedAdvisor:
    """Gives the orders of a recorded run in the control cycles in which that run took them up. It asks nobody."""

    def __init__(self, path: Path, words: int | None = None) -> None:
        """A file that is not there holds no orders.

        Raises `PoolInputError`, naming file and line, for a damaged file, and for an order of other than `words` words
        when that is given; `PoolError` when the file cannot be read.
        """
        self.name = "recorded"
        self.counts = Counts()
        self._entries, _ = _read(path)
        self._next = 0
        for number, (_, order) in enumerate(self._entries, 2):
            if words is not None and len(order) != words:
                raise PoolInputError(
                    f"{path}, line {number}: an order of {len(order)} words, and the run has {words}; replay it with "
                    "the scenario that it was recorded with"
                )

    def ask(self, cycle: int, words: WordFacts) -> None:
        """Nothing: the answers are known."""

    def answer(self, cycle: int) -> list[int] | None:
        """The order of this cycle; of several since the last call, the last."""
        order = None
        while self._next < len(self._entries) and self._entries[self._next][0] <= cycle:
            order = self._entries[self._next][1]
            self._next += 1
            self.counts.good += 1
        return order

    def close(self) -> None:
        """Nothing is open."""


def _body(cycle: int, order: list[int]) -> bytes:
    return json.dumps({"cycle": cycle, "order": order}, separators=(",", ":")).encode()


def _wrong(cycle: object, order: object, last: int) -> str:
    """What is wrong with an entry after one of cycle `last`; "" when nothing is."""
    if type(cycle) is not int or cycle < 0:
        return f"cycle {cycle!r} is not an integer from 0 on"
    if cycle <= last:
        return f"cycle {cycle} comes after cycle {last}"
    if type(order) is not list:
        return "the order is not a list"
    return check_order(order, len(order))


def _read(path: Path) -> tuple[list[tuple[int, list[int]]], int]:
    """The cycles and orders in a file, and how many of its bytes are whole lines."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return [], 0
    except OSError as error:
        raise PoolError(f"{path}: the advisor's answers cannot be read ({error.strerror})") from error
    whole = raw.rfind(b"\n") + 1
    if whole == 0 and _FORMAT.startswith(raw):
        return [], 0
    if not raw.startswith(_FORMAT):
        raise PoolInputError(
            f"{path}, line 1: {raw[:40]!r} is not {_FORMAT.decode().strip()}; this is no file of an advisor's answers, "
            "or one of another version"
        )
    entries: list[tuple[int, list[int]]] = []
    for number, line in enumerate(raw[len(_FORMAT) : whole].split(b"\n")[:-1], 2):
        entries.append(_entry(f"{path}, line {number}", line, entries[-1][0] if entries else -1))
    return entries, whole


def _entry(where: str, line: bytes, last: int) -> tuple[int, list[int]]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or set(found) != {"cycle", "order", "crc"}:
        wrong = "it is not cycle, order and crc as JSON"
    else:
        wrong = _wrong(found["cycle"], found["order"], last)
        if not wrong and found["crc"] != crc32(_body(found["cycle"], found["order"])):
            wrong = "its checksum does not fit"
    if wrong:
        raise PoolInputError(
            f"{where}: the recorded answer is damaged: {wrong}; restore the file, or record the run again"
        )
    return found["cycle"], found["order"]
