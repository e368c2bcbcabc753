"""Files below an injected root: strict integers in, short integers out, and errors as values instead of exceptions."""

from __future__ import annotations

import errno
import os
import re
import stat
from typing import NamedTuple

from hardware.status import Status

ATTRIBUTE_BYTES = 64
"""More than this is not an integer attribute."""

TABLE_BYTES = 1 << 20
"""The limit for tables such as /proc/stat, whose interrupt line grows with the machine."""

RETRIES = 2
"""How often a read that was interrupted, or asked to come again, is repeated at once."""

_INTEGER = re.compile(rb"-?[0-9]{1,18}\n?")
_STATUSES = dict.fromkeys((errno.ENOENT, errno.ENODEV, errno.ENXIO), Status.ABSENT)
_STATUSES |= dict.fromkeys((errno.EACCES, errno.EPERM), Status.DENIED)


class Outcome(NamedTuple):
    """What came of reading or writing an integer: `value` unless `status` is not OK; `detail` says why, for people."""

    value: int | None
    status: Status
    detail: str = ""


def parse_integer(data: bytes) -> Outcome:
    """An integer of 1 to 18 digits with an optional minus and one optional newline; anything else is GARBAGE."""
    if _INTEGER.fullmatch(data):
        return Outcome(int(data), Status.OK)
    return Outcome(None, Status.GARBAGE, f"not an integer: {data[:24]!r}")


def failure(error: OSError, where: str) -> Outcome:
    """The status that `error` means, with the name of its number."""
    number = error.errno or 0
    name = errno.errorcode.get(number, f"errno {number}")
    return Outcome(None, _STATUSES.get(number, Status.UNREADABLE), f"{name}: {where}")


class Root:
    """All file access of the Linux backend. Below `path` lie `sys`, `proc` and `run`; on a real machine it is `/`.

    Nothing outside `<path>/sys` is ever written, wherever symbolic links lead.
    """

    def __init__(self, path: os.PathLike[str] | str) -> None:
        self.path = os.path.realpath(path)
        self._sys = os.path.realpath(os.path.join(self.path, "sys"))  # noqa: PTH118 - strings: this is the hot path

    def absolute(self, relative: str) -> str:
        """The path of `relative` (without a leading slash) below the root."""
        return os.path.join(self.path, relative)  # noqa: PTH118

    def where(self, path: str) -> str:
        """`path` without the root, for people."""
        return path if self.path == "/" else path.removeprefix(self.path)

    def resolve(self, path: str) -> str | None:
        """`path` without symbolic links, or None when it lies outside `<root>/sys`."""
        resolved = os.path.realpath(path)
        return resolved if resolved.startswith(self._sys + "/") else None

    def names(self, relative: str) -> tuple[str, ...]:
        """The entries of a directory (below the root, or a resolved path) in order; none when it cannot be listed."""
        try:
            return tuple(sorted(os.listdir(self.absolute(relative))))  # noqa: PTH208
        except OSError:
            return ()

    def identity(self, directory: str) -> tuple[int, int] | None:
        """What tells a directory from one that has taken its place; None when it is gone."""
        try:
            status = os.stat(directory)  # noqa: PTH116
        except OSError:
            return None
        return status.st_dev, status.st_ino

    def raw_read(self, path: str, limit: int) -> bytes:
        """Up to `limit` bytes of a file that is not a symbolic link. Raises OSError."""
        # A pipe or a terminal must not block the caller, hence O_NONBLOCK; regular files ignore it.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            data = os.read(descriptor, limit)
            if limit > ATTRIBUTE_BYTES + 1:
                # Tables come in pieces. An attribute is one piece, and asking twice would compute it twice.
                while len(data) < limit and (piece := os.read(descriptor, limit - len(data))):
                    data += piece
            return data
        finally:
            os.close(descriptor)

    def raw_write(self, path: str, data: bytes) -> int:
        """Write to an existing file in one call and return how many bytes were taken. Raises OSError."""
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            written = os.write(descriptor, data)
            status = os.fstat(descriptor)
            # A plain file would keep the tail of a longer number. The kernel's own files have no blocks and no tail,
            # and truncating first (O_TRUNC) would show other readers an empty file.
            if status.st_blocks > 0 and status.st_size > written:
                os.ftruncate(descriptor, written)
            return written
        finally:
            os.close(descriptor)

    def read_bytes(self, path: str, limit: int = ATTRIBUTE_BYTES) -> tuple[bytes, Outcome]:
        """A file's content and OK, or nothing and why; longer than `limit` bytes is GARBAGE. Never raises."""
        data, left = None, RETRIES
        while data is None:
            try:
                data = self.raw_read(path, limit + 1)
            except OSError as error:
                if left == 0 or error.errno not in (errno.EAGAIN, errno.EINTR):
                    return b"", failure(error, self.where(path))
                left -= 1
        if len(data) > limit:
            return b"", Outcome(None, Status.GARBAGE, f"longer than {limit} bytes: {self.where(path)}")
        return data, Outcome(None, Status.OK)

    def read_integer(self, path: str) -> Outcome:
        """The integer in an attribute file. Never raises."""
        data, outcome = self.read_bytes(path)
        return parse_integer(data) if outcome.status is Status.OK else outcome

    def read_word(self, path: str) -> str:
        """The text of a name or label without its newline; empty when it cannot be read."""
        return self.read_bytes(path)[0].decode("utf-8", "replace").rstrip("\n")

    def write_integer(self, path: str, raw: int) -> Outcome:
        """Write `raw` and a newline to an existing regular file below `<root>/sys`. Never raises."""
        where = self.where(path)
        resolved = self.resolve(path)
        if resolved is None:
            return Outcome(None, Status.DENIED, f"leads out of sys: {where}")
        data = b"%d\n" % raw
        try:
            if not stat.S_ISREG(os.stat(resolved).st_mode):  # noqa: PTH116
                return Outcome(None, Status.DENIED, f"not a regular file: {where}")
            written = self.raw_write(resolved, data)
        except OSError as error:
            return failure(error, where)
        if written != len(data):
            return Outcome(None, Status.UNREADABLE, f"only {written} of {len(data)} bytes taken: {where}")
        return Outcome(raw, Status.OK)


class FileCell:
    """One attribute file of one device, held by its resolved path.

    The directory's identity is checked each time, so that a device that was renumbered is never mistaken for another.
    """

    def __init__(self, root: Root, path: str, identity: tuple[int, int] | None = None) -> None:
        """`identity` is that of the directory where it was seen before; else it is looked at now."""
        self._root = root
        self.path = path
        self._directory = os.path.dirname(path)  # noqa: PTH120
        self.identity = identity or root.identity(self._directory)

    @property
    def where(self) -> str:
        """The path without the root."""
        return self._root.where(self.path)

    def _gone(self) -> Outcome | None:
        identity = self._root.identity(self._directory)
        if identity is not None and identity == self.identity:
            return None
        return Outcome(None, Status.ABSENT, f"the device is gone: {self.where}")

    def read(self) -> Outcome:
        """The file's integer."""
        return self._gone() or self._root.read_integer(self.path)

    def write(self, raw: int) -> Outcome:
        """Write the file's integer."""
        return self._gone() or self._root.write_integer(self.path, raw)
