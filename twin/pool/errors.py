"""What a pool says when something is wrong."""

from __future__ import annotations


class PoolError(RuntimeError):
    """Something about the pool or its operating system cannot be done. The pool itself is unharmed."""


class PoolInputError(PoolError, ValueError):
    """What was asked for makes no sense: a size, a tier, an address, a file that is no pool."""


class StaleBlockError(PoolInputError):
    """The block was freed."""


class BusyBlockError(PoolError):
    """The block was being written each time it was looked at."""
