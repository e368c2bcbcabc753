"""What keeps a process on time, and how late it was all the same: nothing that is done depends on it."""

from __future__ import annotations

import contextlib
import gc
import os
from typing import Any

LATENESS_NS = 100_000
LATENESS_BUCKETS = 1_000
"""Lateness is counted in so many buckets of this width."""


def privileged() -> list[str]:
    """Ask for what keeps this process on time and alive; returns what was had."""
    # Nothing in here makes cycles, and a collection would come when it is least wanted.
    gc.freeze()
    gc.disable()
    had = []
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(10))
        had.append("realtime")
    except OSError:
        with contextlib.suppress(OSError):
            os.nice(-10)
            had.append("nice")
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "wb", buffering=0) as file:  # noqa: PTH123
        file.write(b"-900")
        had.append("oom")
    with contextlib.suppress(ImportError, OSError, AttributeError):
        import ctypes

        # What is asked for later may only be locked where there is no limit that would then be hit.
        if ctypes.CDLL(None).mlockall(3 if os.geteuid() == 0 else 1) == 0:
            had.append("memory")
    return had


class Beats:
    """Counts beats, those that were missed, and how late the others were."""

    def __init__(self) -> None:
        self._beats = self.missed = 0
        self._late = [0] * LATENESS_BUCKETS

    def beat(self, late_ns: int, missed: int) -> None:
        """One beat came so late, and so many before it not at all."""
        self._beats += 1
        self.missed += missed
        self._late[min(late_ns // LATENESS_NS, LATENESS_BUCKETS - 1)] += 1

    def told(self) -> dict[str, Any]:
        """Beats, those that were missed, and buckets of `LATENESS_NS` with how many were so late."""
        return {
            "beats": self._beats,
            "missed": self.missed,
            "late": {bucket: count for bucket, count in enumerate(self._late) if count},
        }
