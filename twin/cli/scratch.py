"""A folder for what nobody needs afterwards. That of an owner who was killed is removed by whoever makes the next."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def scratch(prefix: str) -> Iterator[Path]:
    """A new folder, whose name begins with `prefix`, locked while the context lasts.

    This user's folders with the same beginning that nobody holds are removed first.
    """
    _remove_abandoned(Path(tempfile.gettempdir()), prefix)
    while True:
        path = Path(tempfile.mkdtemp(prefix=prefix))
        descriptor = _held(path)
        if descriptor is not None:
            break
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(descriptor)


def _held(path: Path) -> int | None:
    """The descriptor whose lock says that the folder is in use; None when somebody has removed it before that."""
    try:
        descriptor = _opened(path)
    except FileNotFoundError:
        return None
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    if path.is_dir():
        return descriptor
    os.close(descriptor)
    return None


def _remove_abandoned(place: Path, prefix: str) -> None:
    for path in place.glob(f"{prefix}*"):
        # Somebody else's, a link, in use, or gone meanwhile: not to be removed.
        with contextlib.suppress(OSError):
            descriptor = _opened(path)
            try:
                if os.fstat(descriptor).st_uid == os.getuid():
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(descriptor)


def _opened(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
