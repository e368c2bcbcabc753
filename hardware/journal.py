"""What the guardian found before it changed anything, on disk, so that whoever comes after it can give it back.

The file begins with `MAGIC`. Records follow, each with its length, its CRC-32 and so many bytes of JSON. The file is
only ever replaced as a whole, synced before its name and with its folder after it: whoever finds it finds all of it.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import struct
import zlib
from collections.abc import Iterable
from typing import Any

FOLDER = "run/pulsetwin"
"""Where, below the root, it lies, with the lease of the machine."""
NAME = "journal"
MAGIC = b"pulsetwin journal 1\n"
MOST_BYTES = 8 << 20
_HEAD = struct.Struct("<II")


class JournalError(ValueError):
    """A journal that cannot be believed, or not be written; the message says which, why, and what to do."""


class Journal:
    """The journal in `folder`, which belongs to the user who runs this and to nobody else."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.path = f"{folder}/{NAME}"

    def read(self) -> tuple[list[dict[str, Any]], str] | None:
        """The records, and in words what had to be cut off; None when there is no journal.

        Raises `JournalError` for a file of another version, of another user, or that anyone else may write.
        """
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise JournalError(f"{self.path}: cannot be read: {error.strerror}") from error
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
                raise JournalError(f"{self.path}: belongs to user {status.st_uid} or may be written by others, and is "
                                   f"not believed; a file that is user {os.geteuid()}'s alone is needed. Look what it "
                                   "says, then remove it")  # fmt: skip
            data = b""
            while piece := os.read(descriptor, MOST_BYTES - len(data)):
                data += piece
        finally:
            os.close(descriptor)
        if not data.startswith(MAGIC):
            raise JournalError(f"{self.path}: begins with {data[:24]!r}, not with {MAGIC!r}; the version that wrote "
                               "it can restore it")  # fmt: skip
        return _records(data)

    def write(self, records: Iterable[dict[str, Any]]) -> None:
        """Put these records in the place of all others, synced. Raises `JournalError`; then nothing has changed."""
        payloads = [json.dumps(record, allow_nan=False, separators=(",", ":")).encode() for record in records]
        data = MAGIC + b"".join(_HEAD.pack(len(payload), zlib.crc32(payload)) + payload for payload in payloads)
        new = f"{self.path}.new"
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(new)  # noqa: PTH108
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
            with os.fdopen(os.open(new, flags, 0o600), "wb", buffering=0) as file:
                if file.write(data) != len(data):
                    raise OSError(0, "only a part of it was taken")
                os.fsync(file.fileno())
            os.replace(new, self.path)  # noqa: PTH105
            self._sync()
        except OSError as error:
            raise JournalError(f"{self.path}: cannot be written: {error.strerror}; nothing may be changed without it") \
                from error  # fmt: skip

    def keep(self, records: list[dict[str, Any]]) -> None:
        """`write`, or `remove` when there are none. Raises OSError and `JournalError`."""
        return self.write(records) if records else self.remove()

    def remove(self) -> None:
        """Everything has been given back. Raises OSError."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)  # noqa: PTH108
            self._sync()

    def _sync(self) -> None:
        folder = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _records(data: bytes) -> tuple[list[dict[str, Any]], str]:
    """The records up to the first that is not whole, and what is wrong with that one."""
    records: list[dict[str, Any]] = []
    place = len(MAGIC)
    while place < len(data):
        start = place + _HEAD.size
        length, checksum = _HEAD.unpack(data[place:start]) if start <= len(data) else (MOST_BYTES, 0)
        payload = data[start : start + length]
        if len(payload) != length or zlib.crc32(payload) != checksum:
            return records, f"record {len(records)} at byte {place} is torn or damaged; what follows it was not used"
        try:
            record = json.loads(payload)
        except ValueError:
            record = None
        if type(record) is not dict:
            return records, f"record {len(records)} at byte {place} is no object; what follows it was not used"
        records.append(record)
        place = start + length
    return records, ""
