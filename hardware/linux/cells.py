"""What every place that shows or takes an integer can do, a file or not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from hardware.linux.sysfs import Outcome


class Readable(Protocol):
    """A place that shows an integer; `where` says for people which one it is."""

    @property
    def where(self) -> str:
        """The path without the root, or the library call."""

    def read(self) -> Outcome:
        """The integer in the place's own unit. Never raises."""


class Cell(Readable, Protocol):
    """A place that takes an integer as well."""

    def write(self, raw: int) -> Outcome:
        """Write the integer in the place's own unit. Never raises."""
