"""What a forked child must let go of at once: locks, sockets, memory that belong to its parent."""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Inherited(Protocol):
    """Something that a child of `fork` must not use as if it were its own."""

    def after_fork_in_child(self) -> None:
        """Let go of it in the child. Runs before any other code of the child; must not raise."""


_watched: weakref.WeakSet[Inherited] = weakref.WeakSet()


def watch(thing: Inherited) -> None:
    """Call `thing.after_fork_in_child()` in every child that this process forks while `thing` lives."""
    _watched.add(thing)


def _in_child() -> None:
    for thing in list(_watched):
        thing.after_fork_in_child()


os.register_at_fork(after_in_child=_in_child)
