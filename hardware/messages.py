"""What is said to people when something cannot be, with what is allowed and what mends it. Nothing else reads it."""

from __future__ import annotations

import contextlib
import errno
import os
import stat


def not_believed(path: str, status: os.stat_result) -> str:
    """A journal that somebody else may have put there."""
    kinds = {stat.S_IFREG: "a file", stat.S_IFDIR: "a directory"}
    what = kinds.get(stat.S_IFMT(status.st_mode), "no file")
    return (
        f"{path}: is {what} of user {status.st_uid}, mode {status.st_mode & 0o777:o}, and not believed; a file that is "
        f"user {os.geteuid()}'s alone is needed. Look what it says and at the modes and values of all outputs, then "
        "remove it"
    )


def not_read(path: str, error: OSError) -> str:
    """A journal that cannot be opened."""
    mend = "; it is a symbolic link; remove it, then twin restore" if error.errno == errno.ELOOP else ""
    return f"{path}: cannot be read: {error.strerror}{mend}"


def other_version(path: str, data: bytes, magic: bytes) -> str:
    """A journal that does not begin as one."""
    return f"{path}: begins with {data[:24]!r}, not with {magic!r}; the version that wrote it can restore it"


def not_written(path: str, error: OSError) -> str:
    """A journal that cannot be written."""
    folder = os.path.dirname(path)  # noqa: PTH120
    mend = f"make room on the disk of {folder}" if error.errno == errno.ENOSPC else f"make {folder} writable"
    return f"{path}: cannot be written: {error.strerror}; nothing may be changed without it; {mend}"


def torn(path: str, cut: str) -> str:
    """A journal of which not all could be used."""
    return (
        f"{path}: {cut}; what it says was given back. Look at the modes and values of all outputs, then run twin "
        "restore --forget journal"
    )


def not_own(folder: str, status: os.stat_result) -> str:
    """A folder in which others may write."""
    return (
        f"{folder}: user {status.st_uid}, mode {status.st_mode & 0o777:o}: others could take the lease away; make it "
        "root's or your own, mode 755"
    )


def no_lease(path: str, error: OSError) -> str:
    """A lease that cannot be opened."""
    folder = os.path.dirname(path)  # noqa: PTH120
    mend = f"run as root, or make {folder} writable for this user"
    if error.errno == errno.ENOSPC:
        mend = f"make room on the disk of {folder}"
    elif error.errno in (errno.EISDIR, errno.ELOOP):
        mend = "remove it; a plain file is made there"
    elif os.geteuid() == 0:
        mend = f"make {folder} a folder in which root can write"
    return f"{path}: {error.strerror}; {mend}"


def lost(why: str) -> str:
    """An output that was acted on, and of which no journal says what it was; `why` it could not be cooled, if so."""
    became = f"could not be cooled fully: {why}" if why else "was cooled fully, and stays so"
    return f"what it was before is not known any more; it {became}"


def other_limits(where: str, takes: tuple[int, int], asked: tuple[int, int]) -> str:
    """A file that takes nothing of what may be asked."""
    return (
        f"{where} takes {takes[0]} to {takes[1]}, and asked are {asked[0]} to {asked[1]}; the machine of the scenario "
        "is another one"
    )


def foreign(shown: int, written: int, ours: bool, less: bool) -> str:
    """What somebody else has written."""
    who = f"something else has made it {shown} where it was {written}" + ("" if ours else ", in a mode of its own")
    return f"{who}, which cools less" if less else f"{who}, and is left to it"


def mark(leased: int, word: bytes = b"") -> None:
    """Tell whoever waits for the lease whether it is worth while: `busy` passes, and nothing is who acts."""
    with contextlib.suppress(OSError):
        os.ftruncate(leased, 0)
        os.pwrite(leased, b"%d %s" % (os.getpid(), word), 0)
