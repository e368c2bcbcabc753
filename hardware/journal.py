"""What the guardian found before it changed anything, on disk, so that whoever comes after it can give it back.

The file begins with `MAGIC`, the number of records and the CRC-32 of these four bytes. Records follow, each with its
length, its CRC-32 and so many bytes of JSON. The file is only ever replaced as a whole, synced before its name and with
its folder after it: whoever finds it finds all of it.
"""

from __future__ import annotations

import contextlib
import json
import operator
import os
import stat
import struct
import zlib
from collections.abc import Iterable
from typing import Any

from hardware import messages

FOLDER = "run/pulsetwin"
"""Where, below the root, it lies, with the lease of the machine."""
NAME = "journal"
MAGIC = b"pulsetwin journal 2\n"
MOST_BYTES = 8 << 20
_COUNT, _HEAD = struct.Struct("<I"), struct.Struct("<II")
_SEEN = operator.attrgetter("st_dev", "st_ino", "st_size", "st_ctime_ns")
"""What changes with any change of a file."""


class JournalError(ValueError):
    """A journal that cannot be believed, or not be written; the message says which, why, and what to do."""


class Journal:
    """The journal in `folder`, which belongs to the user who runs this and to nobody else."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.path = f"{folder}/{NAME}"
        self._known: Any = None

    def read(self) -> tuple[list[dict[str, Any]], str] | None:
        """The records, and in words what had to be cut off; None when there is no journal.

        Raises `JournalError` for a file of another version, of another user, or that anyone else may write.
        """
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise JournalError(messages.not_read(self.path, error)) from error
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
                raise JournalError(messages.not_believed(self.path, status))
            data = b""
            while piece := os.read(descriptor, MOST_BYTES - len(data)):
                data += piece
        finally:
            os.close(descriptor)
        if not (data.startswith(MAGIC) or MAGIC.startswith(data)):
            raise JournalError(messages.other_version(self.path, data, MAGIC))
        return _records(data)

    def write(self, records: Iterable[dict[str, Any]]) -> None:
        """Put these records in the place of all others, synced. Raises `JournalError`; then nothing has changed."""
        payloads = [json.dumps(record, allow_nan=False, separators=(",", ":")).encode() for record in records]
        count = _COUNT.pack(len(payloads))
        data = MAGIC + count + _COUNT.pack(zlib.crc32(count))
        data += b"".join(_HEAD.pack(len(payload), zlib.crc32(payload)) + payload for payload in payloads)
        new = f"{self.path}.new"
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(new)  # noqa: PTH108
            opened = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            with os.fdopen(opened, "wb", buffering=0) as file:
                if file.write(data) != len(data):
                    raise OSError(0, "only a part of it was taken")
                os.fsync(file.fileno())
            os.replace(new, self.path)  # noqa: PTH105
            self._known = _SEEN(os.lstat(self.path))
            self._sync()
        except OSError as error:
            raise JournalError(messages.not_written(self.path, error)) from error

    def settle(self, records: list[dict[str, Any]]) -> None:
        """`write`, or `remove` when there are none and no room for that. Raises OSError and `JournalError`.

        One without records says that everything was given back, and one that is not there says nothing.
        """
        try:
            self.write(records)
        except JournalError:
            if records:
                raise
            self.remove()

    def remove(self) -> None:
        """Everything has been given back. Raises OSError."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)  # noqa: PTH108
            self._sync()

    def intact(self) -> bool:
        """Whether the file is as it was last written here. Raises OSError."""
        with contextlib.suppress(FileNotFoundError):
            return bool(_SEEN(os.lstat(self.path)) == self._known)
        return False

    def _sync(self) -> None:
        folder = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _records(data: bytes) -> tuple[list[dict[str, Any]], str]:
    """The records up to the first that is not whole, and what is wrong with that one."""
    if not data:
        return [], "is empty: what was to be given back is not known"
    records: list[dict[str, Any]] = []
    place = len(MAGIC) + _HEAD.size
    count, checksum = _HEAD.unpack(data[len(MAGIC) : place]) if len(data) >= place else (0, 1)
    if zlib.crc32(_COUNT.pack(count)) != checksum:
        return [], f"its first {place} bytes are torn or damaged; nothing of it was used"
    while len(records) < count:
        start = place + _HEAD.size
        length, checksum = _HEAD.unpack(data[place:start]) if start <= len(data) else (MOST_BYTES, 0)
        payload, record = data[start : start + length], None
        if len(payload) == length and zlib.crc32(payload) == checksum:
            with contextlib.suppress(ValueError):
                record = json.loads(payload)
        if type(record) is not dict:
            return (
                records,
                f"record {len(records)} of {count} at byte {place} is torn or damaged; no later one was used",
            )
        records.append(record)
        place = start + length
    return records, "" if place == len(data) else f"what follows its {count} records at byte {place} is not its own"
