"""`twin experiment`: do a plan, or go on with it, and say what came of it."""

from __future__ import annotations

import argparse
import os
import sys
import time
from hashlib import blake2b
from pathlib import Path
from typing import Any

from twin.cli import DONE, FAILED, INTERRUPTED, InputError, output
from twin.cli.simulate import perform, warm
from twin.experiment.conduct import Summary, conduct
from twin.experiment.engines import Engine, EngineError, LocalEngine
from twin.experiment.plan import Plan, load_plan
from twin.experiment.store import MANIFEST


def main(options: argparse.Namespace) -> int:
    """Do what is left of the plan."""
    plan = load_plan(options.plan, options.set)
    folder = Path(options.out) if options.out is not None else _folder(plan)
    if not options.resume and (folder / MANIFEST).exists():
        raise InputError(f"{folder}: has results already; without --no-resume they are gone on with, or name a new one")
    engine = _engine(options)
    warm(plan.candidates[0].scenario)
    with _Progress(options, plan) as progress:
        try:
            summary = conduct(plan, folder, engine, perform, progress.heard)
        except EngineError as error:
            print(f"twin: {error}", file=sys.stderr)
            return FAILED
        except KeyboardInterrupt:
            print(
                f"twin: interrupted; what is done is in {folder}, the same command goes on from there", file=sys.stderr
            )
            return INTERRUPTED
    _report(options, plan, folder, summary)
    return DONE


def _folder(plan: Plan) -> Path:
    """A folder of the plan's own, so that the same command goes on with it and another plan has another."""
    mark = blake2b(plan.canonical(), digest_size=4).hexdigest()
    safe = "".join(each if each.isalnum() or each in "-_" else "_" for each in plan.name)
    return Path("experiments") / f"{safe}-{mark}"


def _engine(options: argparse.Namespace) -> Engine:
    workers = (len(os.sched_getaffinity(0)) if options.workers is None else options.workers) or 0
    if workers < 1:
        raise InputError(f"--workers {options.workers}: at least 1 is needed")
    if options.engine == "local":
        if options.scheduler is not None:
            raise InputError("--scheduler goes with --engine dask")
        return LocalEngine(workers)
    from twin.experiment.dask_engine import DaskEngine

    try:
        return DaskEngine(options.scheduler, workers)
    except EngineError as error:
        raise InputError(str(error)) from error


class _Progress(output.Progress):
    """Runs done, how many a second, and how long the rest takes."""

    def __init__(self, options: argparse.Namespace, plan: Plan) -> None:
        self._jobs = plan.runs + plan.kicked_jobs
        super().__init__(options, plan.name, self._jobs, "runs")
        self._began = time.monotonic()

    def heard(self, done: int, here: int, ticks: int) -> None:
        """`done` jobs of all, `here` of them by this process, which were `ticks` ticks."""
        seconds = time.monotonic() - self._began
        note = ""
        if here and seconds > 0:
            left = (self._jobs - done) * seconds / here
            note = (
                f"{here / seconds:.1f} runs and {ticks / seconds / 1e6:.2f} million ticks a second, {_time(left)} left"
            )
        self.reached(done, note)


def _time(seconds: float) -> str:
    whole = round(seconds)
    if whole >= 3_600:
        return f"{whole // 3_600} h {whole % 3_600 // 60:02} min"
    return f"{whole // 60} min {whole % 60:02} s" if whole >= 60 else f"{whole} s"


def _report(options: argparse.Namespace, plan: Plan, folder: Path, summary: Summary) -> None:
    choice = summary.choice
    result: dict[str, Any] = {
        "experiment_digest": summary.experiment_digest,
        "runs": summary.runs,
        "ticks": summary.ticks,
        "wall_seconds": summary.seconds,
        "ticks_per_second": summary.done_ticks / summary.seconds,
        "golden": choice["golden"],
        "tie": choice["tie"],
        "directory": str(folder),
    }
    if options.json:
        output.print_json(result)
        return
    if options.quiet:
        return
    from twin.cli.golden import print_choice

    rows = [
        ("plan", f"{plan.name}: {len(plan.candidates)} configurations, {plan.file.runs} runs each"),
        ("done", f"{summary.runs:,} runs of {plan.file.ticks:,} ticks; {summary.done_runs:,} jobs of it now, in "
                 f"{summary.seconds:.1f} s ({result['ticks_per_second']:,.0f} ticks a second)"),
        ("experiment digest", summary.experiment_digest),
        ("kept in", str(folder)),
    ]  # fmt: skip
    output.print_table("Experiment", ("", ""), rows)
    print_choice(choice)
