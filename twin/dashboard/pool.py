"""The memory pools of runs that go on, looked at from outside, once a second at most."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

from flask import Blueprint, Response

from twin.dashboard.answers import Served, answer
from twin.dashboard.runs import Run

AGAIN_SECONDS = 1.0
MAP_WIDTH = 256
"""Signs in the map of blocks."""


class Pools:
    """What is in the pool of each run. It may be asked from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[str, tuple[float, dict[str, Any] | None]] = {}

    def of(self, run: Run) -> dict[str, Any] | None:
        """What is in the run's pool, None where there is none or it is gone."""
        if run.state != "running":
            return None
        with self._lock:
            now = time.monotonic()
            at, known = self._known.get(run.about.id, (-AGAIN_SECONDS, None))
            if now - at >= AGAIN_SECONDS or run.about.id not in self._known:
                known = _looked(Path(run.about.run_dir))
                self._known[run.about.id] = (now, known)
            return known


def pool(served: Served, pools: Pools) -> Blueprint:
    """The route."""
    routes = Blueprint("pool", __name__)

    @routes.get("/api/pool")
    def seen() -> Response:
        run = served.asked()
        return answer({"run": run.about.id, "pool": pools.of(run)})

    return routes


def _looked(run: Path) -> dict[str, Any] | None:
    # Few runs have a pool, and what looks into one takes a compiler.
    if not _is_served():
        return None
    from twin.pool.errors import PoolError
    from twin.pool.share import receive, socket_name

    try:
        descriptor = receive(socket_name(run), writable=False)
    except PoolError:
        return None
    from twin.pool.pool import Pool
    from twin.pool.survey import block_map, survey

    try:
        with Pool.attach(descriptor) as attached:
            found = survey(attached)
            return {
                "size_bytes": found.size_bytes,
                "used_bytes": found.used_bytes,
                "free_bytes": found.free_bytes,
                "fragmentation": found.fragmentation,
                "tiers": found.tiers,
                "guesses": found.guesses,
                "guesses_right": found.guesses_right,
                "guess_accuracy": found.guess_accuracy,
                "map": block_map(attached, MAP_WIDTH),
            }
    except PoolError:
        return None
    finally:
        os.close(descriptor)


def _is_served() -> bool:
    """Whether there is any pool on this machine: they are handed out under names like this."""
    try:
        return b"@pulsetwin/" in Path("/proc/net/unix").read_bytes()
    except OSError:
        return True
