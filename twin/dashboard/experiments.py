"""How far the experiments are whose directories are served."""

from __future__ import annotations

import fcntl
import os
import threading
import time
import tomllib
from collections import deque
from pathlib import Path
from typing import Any

from flask import Blueprint, Response

from twin.dashboard.answers import Served, answer
from twin.record.files import RecordError, read_json

AGAIN_SECONDS = 1.0
"""A directory is looked into at most so often; more rarely where that takes a while."""
PATIENCE = 20
"""The share of the time that looking may take: one in so many."""
RATE_SECONDS = 60.0
"""How many jobs come in a second is told of the last so many seconds."""
FIELDS = (
    "id", "name", "directory", "scenario", "ticks", "state", "total", "done", "jobs_per_second", "left_seconds",
    "golden", "tie", "configurations", "trouble",
)  # fmt: skip
"""What is told of an experiment; None for what is not known."""
_CHOICE = "golden.json"


class Experiment:
    """An experiment's directory. It may be asked from any thread."""

    def __init__(self, experiment_id: str, folder: Path) -> None:
        self._id = experiment_id
        self._folder = folder
        self._lock = threading.Lock()
        self._known: dict[str, Any] = {}
        self._next = 0.0
        self._done: deque[tuple[float, int]] = deque()

    def progress(self) -> dict[str, Any]:
        """How many jobs are done of how many, in all and of each configuration, and how fast they come.

        Where the directory cannot be read, `trouble` says why, and nothing else is known.
        """
        with self._lock:
            began = time.monotonic()
            if not self._known or began >= self._next:
                self._known = self._told(began)
                now = time.monotonic()
                self._next = now + max(AGAIN_SECONDS, PATIENCE * (now - began))
            return self._known

    def _told(self, now: float) -> dict[str, Any]:
        nothing: dict[str, Any] = dict.fromkeys(FIELDS)
        known = {"id": self._id, "name": self._id, "directory": str(self._folder), "configurations": []}
        try:
            return nothing | known | self._looked(now)
        except RecordError as error:
            return nothing | known | {"trouble": str(error)}

    def _looked(self, now: float) -> dict[str, Any]:
        # Imported here, because it takes a compiler, and most pages show no experiment.
        from twin.experiment.store import PLAN, Store

        plan = _plan(self._folder / PLAN)
        names = [str(each.get("name", "")) for each in plan["configurations"]]
        runs_each, kicked_each = int(plan["runs"]), int(plan["kicks"]["seeds"])
        is_done = is_going = False
        with Store(self._folder) as store:
            is_done = store.fact("experiment_digest") is not None
            counts = store.counts(runs_each * len(names), len(names))
        if not is_done:
            is_going = _is_going(self._folder)
        done = sum(counts)
        each = runs_each + kicked_each
        per_second = self._per_second(now, done) if is_going else None
        left = None if per_second is None or per_second <= 0 else round((each * len(names) - done) / per_second)
        choice = read_json(self._folder / _CHOICE) if is_done else {}
        return {
            "name": str(plan.get("name", self._id)),
            "scenario": str(plan.get("scenario", "")),
            "ticks": int(plan["ticks"]),
            "state": "ended" if is_done else "running" if is_going else "stopped",
            "total": each * len(names),
            "done": done,
            "jobs_per_second": per_second,
            "left_seconds": left,
            "golden": choice.get("golden"),
            "tie": choice.get("tie"),
            "configurations": [
                {"name": name, "total": each, "done": count} for name, count in zip(names, counts, strict=True)
            ],
        }

    def _per_second(self, now: float, done: int) -> float | None:
        """Over the last while, None until there is one."""
        self._done.append((now, done))
        while now - self._done[0][0] > RATE_SECONDS:
            self._done.popleft()
        began, before = self._done[0]
        return None if now <= began else round((done - before) / (now - began), 3)


def experiments(served: Served) -> Blueprint:
    """The route."""
    routes = Blueprint("experiments", __name__)

    @routes.get("/api/experiments")
    def all_of_them() -> Response:
        return answer({"experiments": [each.progress() for each in served.experiments]})

    return routes


def _plan(path: Path) -> dict[str, Any]:
    """The plan that an experiment wrote into its directory. Raises `RecordError`."""
    try:
        plan = tomllib.loads(path.read_text(encoding="utf-8"))
        if not (plan["runs"] and plan["ticks"] and plan["configurations"]) or plan["kicks"]["seeds"] < 0:
            raise ValueError("is empty")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RecordError(path, f"cannot be read ({error}); run the same twin experiment again") from error
    return plan


def _is_going(folder: Path) -> bool:
    """Whether a process is at it now."""
    try:
        descriptor = os.open(folder / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
