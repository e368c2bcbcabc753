"""Reading a seam log that may still be written: record by record, as far as there are any, in bounded memory."""

from __future__ import annotations

import fcntl
import os
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from twin.record import files
from twin.record.seamdamage import record_end
from twin.record.seamformat import OVERHEAD, PAYLOAD_LIMIT, Cycle, SeamHeader
from twin.record.seamlog import LogReader, read_seam_log

CHUNK = 2 * (PAYLOAD_LIMIT + OVERHEAD)
"""Bytes that are looked at together; a record always fits."""
PAUSE_SECONDS = 0.1


class SeamFollower:
    """What a log has, from its beginning on; where it ends for now, more is waited for while somebody writes there.

    A context manager, for one thread.
    """

    def __init__(
        self,
        path: Path,
        written: Callable[[], bool] | None = None,
        pause: Callable[[], None] = lambda: time.sleep(PAUSE_SECONDS),
    ) -> None:
        """`written` says whether somebody still writes; left out, the lock of the run directory does.

        Raises what `read_seam_log` raises.
        """
        self.path = path
        self._written = written or (lambda: is_written(path.parent))
        self._pause = pause
        try:
            self._file = path.open("rb", buffering=0)
        except OSError as error:
            raise files.failure(path, "reading the seam log", error) from error
        self._reader = LogReader(path, b"")
        self._cycles: deque[Cycle] = deque()
        self._lateness: deque[npt.NDArray[np.int64]] = deque()
        self._first_tick = 0
        self._over = False
        try:
            self._look()
            self._reader.begin()
            # Nobody sees a log that lacks its header.
            if not self._reader.step():
                read_seam_log(path)
            header = self._reader.header
            assert header is not None
        except BaseException:
            self._file.close()
            raise
        self.header: SeamHeader = header

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    @property
    def complete(self) -> bool:
        """Whether the log says that the run ended well."""
        return self._reader.ended

    @property
    def last_good(self) -> str:
        """The last whole record that was read, in words."""
        return self._reader.last_good

    def lateness(self, first_tick: int, most: int) -> npt.NDArray[np.int64]:
        """The lateness (nanoseconds) of at most `most` ticks from `first_tick` on; empty when there will be none.

        Ticks before it are let go of. Raises `RecordError` for a damaged log.
        """
        while self._reader.ticks <= first_tick:
            if not self._more():
                return np.zeros(0, dtype=np.int64)
        while self._first_tick + len(self._lateness[0]) <= first_tick:
            self._first_tick += len(self._lateness.popleft())
        start = first_tick - self._first_tick
        return self._lateness[0][start : start + most]

    def peek(self) -> Cycle | None:
        """The next cycle; None when there will be none. Raises `RecordError` for a damaged log."""
        while not self._cycles:
            if not self._more():
                return None
        return self._cycles[0]

    def take(self) -> Cycle | None:
        """The next cycle, and on to the one after it."""
        return self._cycles.popleft() if self.peek() is not None else None

    def _more(self) -> bool:
        """Read one more record, and wait for it if need be; False when there will be none."""
        reader = self._reader
        while not self._over:
            if reader.step():
                self._keep()
                return True
            if reader.ended:
                self._over = True
                if reader.offset < len(reader.data):
                    read_seam_log(self.path)
                break
            # Asked before it is looked, so that nothing that was written before the end goes unseen.
            last = not self._written()
            seen = len(reader.data) - reader.offset
            if self._look() > seen:
                continue
            if last or record_end(reader.data, reader.offset) is not None:
                # Says what is wrong, where something is; a piece of a record is none.
                read_seam_log(self.path)
            if last:
                self._over = True
            else:
                self._pause()
        return False

    def _keep(self) -> None:
        """Hold what the reader has read, and let it forget that."""
        reader = self._reader
        for start, end in reader.spans:
            self._cycles.append(reader.layout.unpack(reader.data[start:end]))
        self._lateness.extend(reader.lateness)
        reader.spans.clear()
        reader.ticks_before.clear()
        reader.lateness.clear()

    def _look(self) -> int:
        """Read on from the last whole record; how many bytes there are."""
        reader = self._reader
        at = 0 if reader.header is None else reader.before + reader.offset
        try:
            self._file.seek(at)
            data = b""
            while len(data) < CHUNK and (piece := self._file.read(CHUNK - len(data))):
                data += piece
        except OSError as error:
            raise files.failure(self.path, "reading the seam log", error) from error
        if reader.header is not None:
            reader.before, reader.offset = at, 0
        reader.data = data
        return len(data)


def is_written(run: Path) -> bool:
    """Whether a process is writing the run in the directory `run` now. Raises `RecordError`."""
    try:
        descriptor = os.open(run, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise files.failure(run, "looking into the run directory", error) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError as error:
        raise files.failure(run, "looking at the lock", error) from error
    finally:
        os.close(descriptor)
    return False
