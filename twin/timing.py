"""Words for time that everybody shares: nanoseconds, and how a process woke."""

from __future__ import annotations

from dataclasses import dataclass

SECOND_NS = 1_000_000_000
MILLISECOND_NS = 1_000_000


@dataclass(frozen=True, slots=True)
class Wake:
    """How a process woke: nanoseconds after it was due, and nanoseconds the machine was suspended meanwhile."""

    lateness_ns: int
    suspended_ns: int = 0
