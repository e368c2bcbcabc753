"""One control cycle from end to end, as the loop hands it to the recorder."""

from __future__ import annotations

from dataclasses import dataclass

from hardware.interface import Applied, Readings
from twin.control.shield import Verdict
from twin.control.view import Decision, Learned, View
from twin.timing import Wake


@dataclass(frozen=True, slots=True)
class Cycle:
    """What was read, made of it, decided, allowed and done. Number `number` was due at `due_ns` and woke so.

    `learned` is None where the controller does not learn.
    """

    number: int
    due_ns: int
    wake: Wake
    readings: Readings
    view: View
    decision: Decision
    verdict: Verdict
    applied: Applied
    learned: Learned | None = None
