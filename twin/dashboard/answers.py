"""What answers are made of: parameters that are checked, refusals that say what is allowed, JSON without NaN."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Protocol

from flask import Response, request

from twin.dashboard.runs import Run
from twin.dashboard.words import encoded, refusal

__all__ = ["Refused", "Served", "answer", "described", "encoded", "refusal", "whole"]


class Refused(Exception):  # noqa: N818 - it is an answer
    """A request that cannot be answered: what is wrong, with which parameter, and what is allowed."""

    def __init__(self, status: int, message: str, key: str = "", value: str = "", allowed: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.body = refusal(message, key, value, allowed)


def answer(value: Any, status: int = 200) -> Response:
    """A JSON answer."""
    return Response(encoded(value), status, mimetype="application/json")


class Progress(Protocol):
    """An experiment that can be asked, from any thread."""

    def progress(self) -> dict[str, Any]:
        """How far it is."""


class Served:
    """The runs that are served, by their names. Runs may be added at any time, from any thread."""

    def __init__(self, order: Sequence[str] = ()) -> None:
        """`order` is the names in the order in which they are told, whenever they come; others come after them."""
        self._places = {name: place for place, name in enumerate(order)}
        self._runs: dict[str, Run] = {}
        self.experiments: list[Progress] = []
        self._lock = threading.Lock()

    def add(self, run: Run) -> None:
        """Serve this one too. A later run with the same name takes the place of the earlier."""
        with self._lock:
            self._runs[run.about.id] = run

    @property
    def runs(self) -> Sequence[Run]:
        """All of them, in their order, and then in the one in which they came."""
        with self._lock:
            found = list(self._runs.values())
        return sorted(found, key=lambda run: self._places.get(run.about.id, len(self._places)))

    def asked(self, key: str = "run") -> Run:
        """The run that the request names; it may be left out where there is only one. Raises `Refused`."""
        runs = {run.about.id: run for run in self.runs}
        name = request.args.get(key)
        if name is None and len(runs) == 1:
            return next(iter(runs.values()))
        allowed = ", ".join(runs) or "none yet"
        if name is None:
            raise Refused(400, f"name a run with {key}=", key, "", allowed)
        if name not in runs:
            raise Refused(404, "no such run is served here", key, name, allowed)
        return runs[name]


def once() -> None:
    """Raise `Refused` for a parameter that the request gives more than once; for the token that is the gate's."""
    for key, values in request.args.lists():
        if len(values) > 1 and key != "token":
            raise Refused(400, f"{key} is given {len(values)} times", key, ", ".join(values), "once")


def whole(key: str, least: int, most: int, default: int) -> int:
    """The whole number that the request gives for `key`. Raises `Refused`."""
    text = request.args.get(key)
    if text is None:
        return default
    # Digits alone: int() would take spaces, underscores and digits of any script, however many.
    number = int(text) if text.isascii() and text.isdigit() and len(text) <= 20 else -1
    if not least <= number <= most:
        raise Refused(400, f"{key} is not a whole number in its range", key, text, f"{least} to {most}")
    return number


def described(run: Run) -> dict[str, Any]:
    """A run as `/api/runs` tells of it."""
    return {**asdict(run.about), "state": run.state, "cycles": run.cycles, "lost": run.lost, "age_ms": run.age_ms}
