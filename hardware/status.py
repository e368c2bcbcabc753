"""Why a reading has no value: a module of its own, because the guardian starts faster without the rest of the seam."""

from __future__ import annotations

from enum import IntEnum


class Status(IntEnum):
    """Why a reading has the value it has. Only `OK` comes with a value; the numbers are part of the log's format."""

    OK = 0
    ABSENT = 1
    DENIED = 2
    UNREADABLE = 3
    GARBAGE = 4
    STALE = 5

    @property
    def words(self) -> str:
        """The reason, for people."""
        return _WORDS[self]


_WORDS = {
    Status.OK: "valid",
    Status.ABSENT: "not there",
    Status.DENIED: "permission denied",
    Status.UNREADABLE: "read failed",
    Status.GARBAGE: "not an integer",
    Status.STALE: "not renewed",
}
