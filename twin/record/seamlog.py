"""Writing and reading the seam log, from which a run can be run again. `seamformat` describes the file."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, overload

import numpy as np
import numpy.typing as npt

from twin.record import files
from twin.record.files import RecordError
from twin.record.seamdamage import FlippedBit, find_flipped_bit, find_intact, intact, kind_name, record_end
from twin.record.seamformat import (
    COUNTS,
    MAGIC,
    PAYLOAD_LIMIT,
    PREFIX,
    SCHEMA,
    SECOND_NS,
    START,
    TICKS_LIMIT,
    U32,
    U64,
    VERSION,
    Cycle,
    Kind,
    Layout,
    SeamHeader,
    header_payload,
    layout_of,
    parse_header,
    record,
    seconds,
)

__all__ = [
    "CorruptLogError", "Cycle", "Cycles", "FlippedBit", "LogReader", "LogVersionError", "SeamHeader", "SeamLog",
    "SeamLogWriter", "cut_torn_tail", "read_seam_log",
]  # fmt: skip

BUFFER_LIMIT = 64 << 20
"""Bytes that wait in memory for a disk that takes no more, before the writer gives up."""
_BUFFER_USUAL = 1 << 20


class LogVersionError(RecordError):
    """The log was written in a format that this version does not read."""


class CorruptLogError(RecordError):
    """The log is damaged, or is none.

    `record` is the number of the damaged record (0 is the header), `kind` what it is, `time_ns` the simulated time
    that the log had reached, `offset` where the record begins, `last_good` the record before it, and `flipped` the bit
    that is wrong, if a single one explains the damage.
    """

    def __init__(
        self,
        path: Path,
        reason: str,
        record: int = 0,
        kind: str = "header",
        time_ns: int = 0,
        offset: int = 0,
        last_good: str = "nothing",
        flipped: FlippedBit | None = None,
    ) -> None:
        where = f"record {record} ({kind}, after {seconds(time_ns)}) at byte {offset} is damaged"
        super().__init__(path, f"{where}: {reason}; good up to {last_good}; take the file from a copy, or run again")
        self.record = record
        self.kind = kind
        self.time_ns = time_ns
        self.offset = offset
        self.last_good = last_good
        self.flipped = flipped


class SeamLogWriter:
    """Writes a seam log. As a context manager it ends the log well, or leaves it open-ended after an exception.

    Records wait in memory until a second of simulated time has passed. When the disk takes no more, `RecordError` says
    what is saved, the piece of a record that got through is cut off, and what waits is kept for the next attempt; after
    `BUFFER_LIMIT` bytes, or a failed sync, the writer gives up for good. It never leaves a gap.
    """

    def __init__(self, path: Path, header: SeamHeader) -> None:
        """Create the log at `path`, in place of one that is there. Raises `RecordError`."""
        self.path = path
        self._layout = layout_of(header)
        start = MAGIC + U32.pack(VERSION) + record(Kind.HEADER, header_payload(header))
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC
        temporary = files.partial_name(path)
        descriptor: int | None = None
        try:
            descriptor = os.open(temporary, flags, 0o644)
            files.write_all(descriptor, start)
            os.fsync(descriptor)
            temporary.replace(path)
            files.sync_directory(path.parent)
        except OSError as error:
            if descriptor is not None:
                os.close(descriptor)
            files.discard(None, path)
            raise files.failure(path, "creating the seam log", error, "nothing is saved") from error
        self._descriptor: int | None = descriptor
        self._size = len(start)
        self._buffer = bytearray()
        self._pending: list[bytes] = []
        self._pending_ticks = 0
        self._ticks = 0
        self._cycles = 0
        self._last_number = -1
        self._time_ns = 0
        self._flushed_ns = 0
        self._saved = (0, 0, 0)
        self._given_up: RecordError | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(ended=kind is None)

    def ticks(self, first_tick: int, lateness_ns: npt.NDArray[np.int64]) -> None:
        """Take the lateness (nanoseconds, shape (n,)) of ticks `first_tick` .. `first_tick + n - 1`, which come next.

        The array is copied. Raises `ValueError` for a gap or another type, and `RecordError`.
        """
        if first_tick != self._ticks:
            raise ValueError(f"tick {self._ticks} comes next in the seam log, not {first_tick}")
        self._open_descriptor()
        if lateness_ns.dtype != np.int64:
            raise ValueError(f"lateness is an array of {lateness_ns.dtype}; an array of int64 is needed")
        self._pending.append(lateness_ns.astype("<i8", copy=False).tobytes())
        count = len(lateness_ns)
        self._ticks += count
        self._pending_ticks += count
        if self._pending_ticks >= TICKS_LIMIT:
            self._gather_ticks()
            self._make_room()

    def cycle(self, cycle: Cycle) -> None:
        """Take a control cycle, whose number is greater than the last one's. Raises `ValueError` and `RecordError`."""
        if cycle.number <= self._last_number:
            raise ValueError(f"cycle {cycle.number} cannot follow cycle {self._last_number}")
        self._open_descriptor()
        payload = self._layout.pack(cycle)
        self._gather_ticks()
        self._buffer += record(Kind.CYCLE, payload)
        self._last_number = cycle.number
        self._cycles += 1
        self._time_ns = cycle.due_ns
        if cycle.due_ns - self._flushed_ns >= SECOND_NS:
            self.flush()
        else:
            self._make_room()

    def flush(self) -> None:
        """Hand everything taken so far to the system: it survives the death of this process. Raises `RecordError`."""
        self._gather_ticks()
        descriptor = self._open_descriptor()
        if not self._buffer:
            return
        try:
            files.write_all(descriptor, bytes(self._buffer))
        except OSError as error:
            self._cut(descriptor)
            raise self._failure("writing the seam log", error) from error
        self._size += len(self._buffer)
        self._buffer.clear()
        self._flushed_ns = self._time_ns
        self._saved = (self._ticks, self._cycles, self._time_ns)

    def sync(self) -> None:
        """Flush, and wait until the disk has it: it survives a power cut. Raises `RecordError`."""
        self.flush()
        descriptor = self._open_descriptor()
        try:
            os.fsync(descriptor)
        except OSError as error:
            # After a failed sync the system may have dropped the data and forgotten the error, so nothing that is
            # written later could be trusted.
            self._given_up = self._failure("syncing the seam log", error)
            raise self._given_up from error

    def close(self, *, ended: bool = True) -> None:
        """Write what waits, and END when the run `ended`; sync and close. May be called twice. Raises `RecordError`."""
        if self._descriptor is None:
            return
        try:
            self._gather_ticks()
            if ended:
                self._buffer += record(Kind.END, COUNTS.pack(self._ticks, self._cycles))
            self.sync()
        finally:
            os.close(self._descriptor)
            self._descriptor = None

    def _gather_ticks(self) -> None:
        """Turn the ticks that wait into records."""
        if not self._pending_ticks:
            return
        first = self._ticks - self._pending_ticks
        raw = b"".join(self._pending)
        for start in range(0, self._pending_ticks, TICKS_LIMIT):
            piece = raw[8 * start : 8 * (start + TICKS_LIMIT)]
            self._buffer += record(Kind.TICKS, U64.pack(first + start) + piece)
        self._pending.clear()
        self._pending_ticks = 0

    def _make_room(self) -> None:
        """Write early when much waits."""
        if len(self._buffer) > _BUFFER_USUAL:
            self.flush()

    def _open_descriptor(self) -> int:
        if self._given_up is not None:
            raise self._given_up
        if self._descriptor is None:
            raise ValueError(f"{self.path}: the seam log is closed")
        return self._descriptor

    def _cut(self, descriptor: int) -> None:
        """Cut off the piece of a record that a failed write left."""
        try:
            os.ftruncate(descriptor, self._size)
        except OSError as error:
            self._given_up = self._failure("cutting the seam log", error)

    def _failure(self, doing: str, error: OSError) -> RecordError:
        ticks, cycles, time_ns = self._saved
        saved = f"saved are {ticks} ticks and {cycles} cycles, to {seconds(time_ns)}"
        failed = files.failure(self.path, doing, error, saved)
        if len(self._buffer) > BUFFER_LIMIT:
            self._given_up = failed
            self._buffer.clear()
        return failed


# --- reading ----------------------------------------------------------------------------------------------------------


class Cycles(Sequence[Cycle]):
    """The cycles of a log that was read, each decoded when it is asked for."""

    def __init__(self, layout: Layout, data: bytes, spans: Sequence[tuple[int, int]]) -> None:
        self._layout = layout
        self._data = data
        self._spans = spans

    def __len__(self) -> int:
        return len(self._spans)

    @overload
    def __getitem__(self, index: int) -> Cycle: ...
    @overload
    def __getitem__(self, index: slice) -> Cycles: ...
    def __getitem__(self, index: int | slice) -> Cycle | Cycles:
        if isinstance(index, slice):
            return Cycles(self._layout, self._data, self._spans[index])
        start, end = self._spans[index]
        return self._layout.unpack(self._data[start:end])


@dataclass(frozen=True, slots=True)
class SeamLog:
    """A log that was read.

    `lateness_ns` has the lateness of every tick (int64, nanoseconds), `cycles` every control cycle. `complete` says
    that the run ended well; else `torn_bytes` at the end of the file belong to no whole record (0 when it ends between
    two), and `last_good` names the last whole one. `ticks_before[i]` is how many ticks came before `cycles[i]`.
    """

    header: SeamHeader
    lateness_ns: npt.NDArray[np.int64]
    cycles: Cycles
    ticks_before: Sequence[int]
    complete: bool
    torn_bytes: int
    last_good: str


def read_seam_log(path: Path) -> SeamLog:
    """Read and check the log at `path`. Nothing is written.

    Raises `LogVersionError` for another format, `CorruptLogError` for damage, and `RecordError` when the file cannot
    be read. A log that ends inside its last record is not damaged: its process died, or still writes.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise files.failure(path, "reading the seam log", error) from error
    return LogReader(path, data).read()


def cut_torn_tail(path: Path) -> int:
    """Cut off what `read_seam_log` calls torn, and return how many bytes that was. Raises what it raises.

    Only for a log that nobody writes to any more.
    """
    torn = read_seam_log(path).torn_bytes
    if torn:
        try:
            with path.open("r+b") as file:
                file.truncate(path.stat().st_size - torn)
                os.fsync(file.fileno())
        except OSError as error:
            raise files.failure(path, "cutting the seam log", error) from error
    return torn


class LogReader:
    """Walks through the bytes of a log, record by record; `before` bytes of it lie before `data`."""

    def __init__(self, path: Path, data: bytes) -> None:
        """`read` or `begin` comes first."""
        self.path = path
        self.data = data
        self.before = 0
        self.offset = START
        self.record = 0
        self.time_ns = 0
        self.last_good = "nothing"
        self.header: SeamHeader | None = None
        self.layout = Layout((), ())
        self.lateness: list[npt.NDArray[np.int64]] = []
        self.ticks = 0
        self.cycles = 0
        self.spans: list[tuple[int, int]] = []
        self.ticks_before: list[int] = []
        self.last_number = -1
        self.ended = False

    def read(self) -> SeamLog:
        """Everything, or an error."""
        self.begin()
        size = len(self.data)
        while self.step():
            pass
        if self.offset < size:
            self._diagnose(record_end(self.data, self.offset))
        if self.header is None:
            raise self._corrupt("the file ends before its header does", "header")
        lateness = np.concatenate([np.zeros(0, dtype=np.int64), *self.lateness])
        lateness.flags.writeable = False
        cycles = Cycles(self.layout, self.data, self.spans)
        torn = size - self.offset
        return SeamLog(self.header, lateness, cycles, self.ticks_before, self.ended, torn, self.last_good)

    def step(self) -> bool:
        """Take in the record at `offset`; False when no whole one is there. Raises `RecordError` for a wrong one."""
        end = record_end(self.data, self.offset)
        if end is None or not intact(self.data, self.offset, end):
            return False
        self._take(end)
        self.offset = end
        self.record += 1
        return True

    def _corrupt(self, reason: str, kind: str, flipped: FlippedBit | None = None) -> CorruptLogError:
        return CorruptLogError(
            self.path, reason, self.record, kind, self.time_ns, self.before + self.offset, self.last_good, flipped
        )  # fmt: skip

    def begin(self) -> None:
        """See that a log begins here. Raises `RecordError`."""
        magic = self.data[: len(MAGIC)]
        if magic != MAGIC:
            error = CorruptLogError(self.path, "the file does not begin as a seam log does", kind="start of the file")
            if len(magic) == len(MAGIC):
                difference = int.from_bytes(magic, "little") ^ int.from_bytes(MAGIC, "little")
                if difference.bit_count() == 1:
                    position = difference.bit_length() - 1
                    flipped = FlippedBit(position // 8, position % 8, "mark of the format", repr(MAGIC), repr(magic))
                    error = CorruptLogError(self.path, str(flipped), kind="start of the file", flipped=flipped)
            raise error
        if len(self.data) < START:
            raise CorruptLogError(self.path, "the file ends before its header does")
        version = U32.unpack_from(self.data, len(MAGIC))[0]
        if version != VERSION:
            raise LogVersionError(
                self.path,
                f"is a seam log of version {version}; this program reads version {VERSION}; use its own version",
            )

    def _take(self, end: int) -> None:
        """Take in the intact record at `offset`, or raise `CorruptLogError` for one that makes no sense there."""
        code = self.data[self.offset + 4]
        start = self.offset + PREFIX.size
        payload = self.data[start : end - U32.size]
        if code not in tuple(Kind):
            raise self._corrupt(f"kind {code} is unknown", f"kind {code}")
        kind = Kind(code)
        if (kind is Kind.HEADER) != (self.record == 0):
            raise self._corrupt("a header is the first record, and only that", kind.name)
        if self.ended:
            raise self._corrupt("something follows the end", kind.name)
        match kind:
            case Kind.HEADER:
                self._take_header(payload)
            case Kind.TICKS:
                self._take_ticks(payload)
            case Kind.CYCLE:
                self._take_cycle(payload, start)
            case Kind.END:
                self._take_end(payload)

    def _take_header(self, payload: bytes) -> None:
        try:
            value = json.loads(payload)
        except (ValueError, RecursionError) as error:
            raise self._corrupt(f"the header is not JSON ({error})", "header") from error
        schema = value.get("schema") if isinstance(value, dict) else None
        if schema != SCHEMA:
            raise LogVersionError(
                self.path, f"has schema {schema!r}; this program reads {SCHEMA!r}; use its own version"
            )
        try:
            self.header = parse_header(value)
        except (KeyError, TypeError, ValueError) as error:
            raise self._corrupt(f"the header is not complete ({error})", "header") from error
        self.layout = layout_of(self.header)
        self.last_good = "record 0 (header)"

    def _take_ticks(self, payload: bytes) -> None:
        if len(payload) < 16 or len(payload) % 8:
            raise self._corrupt(f"{len(payload)} bytes are not a number of ticks", "ticks")
        first = U64.unpack_from(payload)[0]
        if first != self.ticks:
            raise self._corrupt(f"tick {self.ticks} comes next, not {first}", "ticks")
        values = np.frombuffer(payload, dtype="<i8", offset=8).astype(np.int64)
        self.lateness.append(values)
        self.ticks += len(values)
        self.last_good = f"record {self.record} (ticks {first} to {self.ticks - 1})"

    def _take_cycle(self, payload: bytes, start: int) -> None:
        flaw = self.layout.flaw(payload)
        if flaw is not None:
            raise self._corrupt(flaw, "cycle")
        number, due_ns = struct.unpack_from("<Qq", payload)
        if number <= self.last_number:
            raise self._corrupt(f"cycle {number} cannot follow cycle {self.last_number}", "cycle")
        self.last_number = number
        self.time_ns = due_ns
        self.cycles += 1
        self.spans.append((start, start + len(payload)))
        self.ticks_before.append(self.ticks)
        self.last_good = f"record {self.record} (cycle {number}, at {seconds(due_ns)})"

    def _take_end(self, payload: bytes) -> None:
        if len(payload) != COUNTS.size:
            raise self._corrupt(f"an end has {COUNTS.size} bytes, not {len(payload)}", "end")
        counts = COUNTS.unpack(payload)
        if counts != (self.ticks, self.cycles):
            raise self._corrupt(
                f"it counts {counts[0]} ticks and {counts[1]} cycles, the log has {self.ticks} and {self.cycles}",
                "end",
            )
        self.ended = True
        self.last_good = f"record {self.record} (end)"

    def _diagnose(self, end: int | None) -> None:
        """The record at `offset`, which would end at `end`, is not intact: raise, or return if it is only torn."""
        data, offset, size = self.data, self.offset, len(self.data)
        found = find_flipped_bit(data, offset, self.layout, self.ticks)
        if found is not None:
            raise self._corrupt(str(found[0]), found[1], found[0])
        kind = kind_name(data, offset)
        if end is not None:
            raise self._corrupt("its checksum is wrong by more than one bit", kind)
        if size - offset >= 4 and U32.unpack_from(data, offset)[0] > PAYLOAD_LIMIT:
            raise self._corrupt("its length cannot be", kind)
        later = find_intact(data, offset + 1)
        if later is not None:
            raise self._corrupt(f"its length cannot be, since another record begins at byte {later}", kind)
