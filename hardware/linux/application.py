"""The application port: what only the running program knows, in a small file that it renews.

The file `<root>/run/pulsetwin-application/values` has a line `sequence N` and a line `channel value` for each channel.
The program replaces it as a whole, with a new sequence number each time, several times a second.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from hardware.interface import Status
from hardware.linux.proc import TextTable
from hardware.linux.sysfs import Outcome, Root, parse_integer

PORT = "run/pulsetwin-application/values"
"""Where the record lies below the root: in a folder of its own, since that of the guardian's lease is root's alone."""

STALE_NS = 1_000_000_000
"""A record that is not renewed for this long says nothing about the present."""


class Application(TextTable):
    """The record as a table of channels. `elapsed_ns` is the run's clock."""

    def __init__(self, root: Root, elapsed_ns: Callable[[], int], stale_ns: int = STALE_NS) -> None:
        super().__init__(root, PORT)
        self._elapsed_ns = elapsed_ns
        self._stale_ns = stale_ns
        self._sequence: int | None = None
        self._since_ns = 0
        self._channels: dict[str, Outcome] = {}

    def refresh(self) -> None:
        """Read the record, and note since when its sequence number has been the same."""
        super().refresh()
        self._channels = {}
        if self._outcome.status is not Status.OK:
            return
        for line in self._text.split("\n"):
            name, _, value = line.strip().rpartition(" ")
            if name or value:
                self._channels[name or value] = parse_integer(value.encode())
        sequence = self._channels.pop("sequence", Outcome(None, Status.GARBAGE, "no sequence number")).value
        if sequence is None:
            self._outcome = Outcome(None, Status.GARBAGE, f"no sequence number: {self.where}")
            return
        now_ns = self._elapsed_ns()
        if sequence != self._sequence:
            self._sequence, self._since_ns = sequence, now_ns
        if now_ns - self._since_ns >= self._stale_ns:
            stale = Outcome(None, Status.STALE, f"sequence {sequence} for {now_ns - self._since_ns} ns: {self.where}")
            self._channels = dict.fromkeys(self._channels, stale)

    def look_up(self, key: str) -> Outcome:
        """The value of channel `key`."""
        return self._channels.get(key) or Outcome(None, Status.ABSENT, f"{self.where} has no {key}")


def record_text(sequence: int, values: Mapping[str, object]) -> str:
    """The record as text."""
    return f"sequence {sequence}\n" + "".join(f"{name} {value}\n" for name, value in values.items())


def write_application(root: Path, sequence: int, values: Mapping[str, int]) -> None:
    """Offer `values` (channel name to integer) at the port below `root`, for programs that know what no file tells.

    `sequence` must be another one each time. Readers see the old record or the new one, never a part. Raises ValueError
    for a name with white space in it, TypeError for a value that is no int, and OSError when it cannot be written.
    """
    for name, value in {"sequence": sequence, **values}.items():
        if name.split() != [name]:
            raise ValueError(f"{name!r} is not a channel name; allowed is one word")
        if type(value) is not int:
            raise TypeError(f"{name} is {value!r}; the port takes an int")
    path = root / PORT
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(str(path), record_text(sequence, values), str(path.with_name(f".values.{os.getpid()}")))


def replace_text(path: str, text: str, staging: str) -> None:
    """Give the file `path` the content `text` in one step: other programs see the old content or the new.

    `staging` is a path on the same file system for the text while it is written. Raises OSError.
    """
    descriptor = os.open(staging, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)
    os.replace(staging, path)  # noqa: PTH105
