"""Where two of the runs that are served part, from their tables."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flask import Blueprint, Response, request

from twin.dashboard.answers import Refused, Served, answer
from twin.dashboard.runs import Run
from twin.record.compare import first_difference

KEPT_ANSWERS = 64
"""Runs that have ended stay as they are, so their difference is looked for once."""


def compared(served: Served) -> Blueprint:
    """The route."""
    routes = Blueprint("compared", __name__)
    lock = threading.Lock()
    known: OrderedDict[tuple[Path, Path], dict[str, Any] | None] = OrderedDict()

    @routes.get("/api/difference")
    def difference() -> Response:
        for key in ("a", "b"):
            if key not in request.args:
                raise Refused(400, "two runs are compared", key, "", "the ids of two runs, as a= and b=")
        a, b = _tables(served.asked("a"), "a"), _tables(served.asked("b"), "b")
        # One at a time: long runs take seconds.
        with lock:
            if (a, b) not in known:
                found = first_difference(a, b)
                known[a, b] = None if found is None else asdict(found)
                if len(known) > KEPT_ANSWERS:
                    known.popitem(last=False)
            return answer({"difference": known[a, b]})

    return routes


def _tables(run: Run, key: str) -> Path:
    """The folder of its tables. Raises `Refused`."""
    folder = run.tables
    if folder is None:
        raise Refused(404, "the run has no tables yet; they are there when it has ended", key, run.about.id)
    return folder
