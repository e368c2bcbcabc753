"""Files that are whole or not there: write under a temporary name, sync, rename, sync the directory."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

PARTIAL = ".partial"
"""What ends the name of a file that is being written. Such a file may be deleted when nothing is running."""

_MENDS = {
    errno.ENOSPC: "free some space there, or choose another place",
    errno.EDQUOT: "free some of your quota there, or choose another place",
    errno.EFBIG: "raise the file size limit (ulimit -f), or record for a shorter time",
    errno.EACCES: "choose a place that this user may use, or change its permissions (ls -l shows them)",
    errno.EPERM: "choose a place that this user may use, or change its permissions (ls -l shows them)",
    errno.EROFS: "choose a place that is not mounted read-only",
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "check the path: a part of it is a file",
    errno.EISDIR: "check the path: it is a directory",
    errno.EEXIST: "check the path: it is a file",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "check the path: its links lead in a circle",
}
_MISTAKES = (errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP)
"""What is wrong with the path that was asked for, and not with the machine."""


class RecordError(Exception):
    """A recorded file could not be written or read.

    `path` is the file, `errno` the system's number for the reason (None when the content is at fault).
    """

    def __init__(self, path: Path, message: str, number: int | None = None) -> None:
        super().__init__(f"{path}: {message}")
        self.path = path
        self.errno = number


class RecordInputError(RecordError):
    """What was asked for cannot be done with what is there: a mistake in a path or an option, not of the machine."""


def failure(path: Path, doing: str, error: OSError, saved: str = "") -> RecordError:
    """`error`, which happened while `doing` something with `path`, for people: the file, what is saved, the mend."""
    number = error.errno
    reason = os.strerror(number) if number is not None else str(error)
    middle = f"; {saved}" if saved else ""
    kind = RecordInputError if number in _MISTAKES else RecordError
    return kind(path, f"{doing} failed: {reason}{middle}; {mend(number)}", number)


def mend(number: int | None) -> str:
    """What helps when the system refuses with this error number."""
    return _MENDS.get(number or 0, "check the device that holds it")


def make_folder(path: Path, *, empty: bool = False) -> Path:
    """Make the folder `path` with its parents if need be, and return it.

    Raises `RecordInputError` when it is something else, or (with `empty`) has something in it, and `RecordError`.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        taken = empty and any(path.iterdir())
    except OSError as error:
        raise failure(path, "making the directory", error) from error
    if taken:
        raise RecordInputError(path, "is not empty; name an empty folder, or a new one (--out)")
    return path


def write_all(descriptor: int, data: bytes) -> None:
    """Write every byte of `data`; the system may take fewer at a time. Raises `OSError`."""
    written = os.write(descriptor, data)
    while written < len(data):
        written += os.write(descriptor, data[written:])


def sync_directory(path: Path) -> None:
    """Make a rename inside the directory `path` survive a power cut. Raises `OSError`."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def partial_name(path: Path) -> Path:
    """The temporary name under which `path` is written."""
    return path.with_name(path.name + PARTIAL)


def commit(file: BinaryIO, path: Path) -> None:
    """Sync and close `file`, which was opened under `partial_name(path)`, and give it its name. Raises `OSError`."""
    file.flush()
    os.fsync(file.fileno())
    file.close()
    partial_name(path).replace(path)
    sync_directory(path.parent)


def discard(file: BinaryIO | None, path: Path) -> None:
    """Close `file` and delete what was written of `path` so far. Never raises `OSError`."""
    if file is not None:
        # Closing flushes, which fails again on a full disk; the descriptor is closed all the same.
        with contextlib.suppress(OSError):
            file.close()
    with contextlib.suppress(OSError):
        partial_name(path).unlink(missing_ok=True)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A binary file that takes the place of `path` when the block ends, and leaves no trace when it raises.

    An `OSError` from the block or from the file comes out as `RecordError`. What is there and no file (a device, a
    pipe) is not replaced.
    """
    file: BinaryIO | None = None
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            raise RecordInputError(path, "is a device or a pipe, which a file would take the place of; name a file")
        file = partial_name(path).open("wb")
        yield file
        commit(file, path)
    except OSError as error:
        discard(file, path)
        raise failure(path, "writing", error, "what was there before is unchanged") from error
    except BaseException:
        discard(file, path)
        raise


def write_atomic(path: Path, data: bytes) -> None:
    """Replace `path` by `data`, wholly or not at all. Raises `RecordError`."""
    with replacing(path) as file:
        file.write(data)


def canonical_json(value: Any) -> bytes:
    """The one ASCII JSON form of `value`: keys sorted, no blanks. Raises `ValueError` for NaN and infinity."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def write_json(path: Path, value: Any) -> None:
    """Replace `path` by `value` as JSON for people. Raises `RecordError`, and `ValueError` for NaN and infinity."""
    write_atomic(path, (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`. Raises `RecordError` when it cannot be read, `RecordInputError` for anything else."""
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise failure(path, "reading", error) from error
    except (ValueError, RecursionError) as error:
        raise RecordInputError(path, f"is not JSON ({error}); run again, or take it from a copy") from error
    if not isinstance(value, dict):
        raise RecordInputError(path, "is JSON, but not an object; run again, or take it from a copy")
    return value
