"""A bound on how long a file may take, so that one that hangs does not hold up the others."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType


class OverTimeError(Exception):
    """A file took too long. It is no OSError, so that nobody takes it for the failure of one call and tries again."""


@contextlib.contextmanager
def bounded(seconds: float) -> Iterator[None]:
    """Whatever the body does raises `OverTimeError` after so long, in the midst of it."""

    def over(_number: int, _frame: FrameType | None) -> None:
        raise OverTimeError(f"took longer than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
