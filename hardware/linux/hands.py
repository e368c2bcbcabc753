"""Who carries commands out: hands that write themselves, for a machine made of files; `guarded` has the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from hardware.interface import Status
from hardware.linux.output import Output
from hardware.linux.sysfs import Outcome

REASSERT_NS = 10_000_000_000
"""So long after a write an output is read back, and written again when something else has changed it."""


class Asked(NamedTuple):
    """One output as it was found, its limits in the file's unit, and the raw value that it is asked for."""

    output: Output
    minimum: int
    maximum: int
    safe: int
    raw: int


class Hands(Protocol):
    """Carries out what an adapter has clamped."""

    def begin(self, outputs: Mapping[str, Asked], names: tuple[str, ...]) -> Mapping[str, str]:
        """The outputs that were found at the start, of all with these names. Returns those refused, and why."""

    def put(self, wanted: Mapping[str, Asked]) -> Mapping[str, Outcome]:
        """Bring values into force; returns the outputs that failed, and how. Never raises."""

    def close(self) -> tuple[tuple[str, str], ...]:
        """Give everything back; returns what could not be, and why."""


@dataclass(slots=True)
class _Taken:
    """What was done to an output: the originals of its cells, and the last write (None: not in force)."""

    asked: Asked
    originals: tuple[int | None, ...]
    raw: int | None = None
    written_ns: int = 0


class DirectHands:
    """Writes at once and in this process, so that a run in virtual time finds its files changed.

    What is changed is saved before and given back by `close`, which nobody calls when the process is killed: this is
    for machines that are made of files.
    """

    def __init__(self, elapsed_ns: Callable[[], int]) -> None:
        self._elapsed_ns = elapsed_ns
        self._taken: dict[str, _Taken] = {}

    def begin(self, outputs: Mapping[str, Asked], names: tuple[str, ...]) -> Mapping[str, str]:
        """Nothing is refused before it is asked for."""
        return {}

    def put(self, wanted: Mapping[str, Asked]) -> Mapping[str, Outcome]:
        """Write what has changed, and what something else has changed, in the order in which it is asked."""
        return {name: outcome for name, asked in wanted.items() if (outcome := self._put(name, asked)) is not None}

    def _put(self, name: str, asked: Asked) -> Outcome | None:
        now_ns = self._elapsed_ns()
        output, raw = asked.output, asked.raw
        taken = self._taken.get(name)
        if taken is None:
            originals = output.originals()
            if isinstance(originals, str):
                status = output.cells[0].read().status
                why = f"not written, since it could not be given back: {originals}"
                return Outcome(None, status if status is Status.ABSENT else Status.UNREADABLE, why)
            taken = self._taken[name] = _Taken(asked, originals)
        elif taken.asked.output is not output:
            # The device came back, and nobody knows in which state.
            taken.raw = None
        taken.asked = asked
        if taken.raw == raw:
            if now_ns - taken.written_ns < REASSERT_NS:
                return None
            taken.written_ns = now_ns
            if all(cell.read().value == value for cell, value in output.plan(raw)):
                return None
            taken.raw = None
        entering, taken.raw = taken.raw is None, None
        for cell, value in output.plan(raw, entering):
            outcome = cell.write(value)
            if outcome.value is None:
                return outcome
        taken.raw, taken.written_ns = raw, now_ns
        return None

    def close(self) -> tuple[tuple[str, str], ...]:
        """Restore the original value of everything that was written, the last first; go on when one fails.

        An output whose original cannot be restored is left at its safe value.
        """
        unrestored = []
        for name, taken in reversed(self._taken.items()):
            _before, why = taken.asked.output.give_back(taken.originals, taken.asked.safe)
            if why:
                unrestored.append((name, why))
        return tuple(unrestored)
