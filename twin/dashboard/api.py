"""The page and what it asks for: runs, the newest record, the newest few, and the course of a whole run."""

from __future__ import annotations

import time
from importlib.resources import as_file, files

from flask import Blueprint, Response, request, send_from_directory

from twin import __version__
from twin.dashboard.answers import Refused, Served, answer, described, whole
from twin.dashboard.pool import Pools
from twin.dashboard.runs import KEPT, POINTS, Run

MOST_NS = 2**63 - 1
LEAST_POINTS = 2
"""The first and the last row of a stretch are always there."""


def api(served: Served, pools: Pools) -> Blueprint:
    """The routes."""
    routes = Blueprint("api", __name__)
    with as_file(files("twin.dashboard") / "static") as folder:
        static = folder

    @routes.get("/")
    def page() -> Response:
        return send_from_directory(static, "index.html")

    @routes.get("/static/<path:name>")
    def shipped(name: str) -> Response:
        return send_from_directory(static, name)

    @routes.get("/api/runs")
    def runs() -> Response:
        now_ms = time.time_ns() // 1_000_000
        described_runs = [described(run) for run in served.runs]
        return answer(
            {
                "version": __version__,
                "runs": described_runs,
                "experiments": [each.progress() for each in served.experiments],
                "now_ms": now_ms,
            }
        )

    @routes.get("/api/metrics/latest")
    def latest() -> Response:
        run = served.asked()
        newest = run.history(1)
        record = newest[0] if newest else None
        return answer(
            {
                "run": run.about.id,
                "state": run.state,
                "record": record,
                "insight": run.insight(),
                "pool": pools.of(run),
            }
        )

    @routes.get("/api/metrics/history")
    def history() -> Response:
        run = served.asked()
        columns = run.about.columns
        rows = [[record[name] for name in columns] for record in run.history(whole("n", 1, KEPT, 60))]
        return answer({"run": run.about.id, "columns": columns, "rows": rows})

    @routes.get("/api/course")
    def course() -> Response:
        run = served.asked()
        first_ns, last_ns = whole("first_ns", 0, MOST_NS, 0), whole("last_ns", 0, MOST_NS, MOST_NS)
        newest = run.history(1)
        length_ns = newest[0]["time_ns"] if newest else 0
        columns = run.course(_columns(run), first_ns, last_ns, whole("points", LEAST_POINTS, POINTS, 600))
        return answer(
            {
                "run": run.about.id,
                "columns": columns,
                "first_ns": columns["time_ns"][0] if columns["time_ns"] else None,
                "last_ns": columns["time_ns"][-1] if columns["time_ns"] else None,
                "length_ns": length_ns,
            }
        )

    return routes


def _columns(run: Run) -> list[str]:
    """The columns that are asked for, the time among them, each once. Raises `Refused`."""
    asked = request.args.get("columns", "")
    names = dict.fromkeys(["time_ns", *(name for name in asked.split(",") if name)])
    for name in names:
        if name not in run.about.columns:
            raise Refused(400, "the run has no such column", "columns", name, ", ".join(run.about.columns))
    return list(names)
