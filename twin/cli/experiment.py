"""`twin experiment`: do a plan, or go on with it, and say what came of it."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any

from twin.cli import DONE, FAILED, INTERRUPTED, InputError, output
from twin.cli.simulate import perform, warm
from twin.experiment.conduct import Summary, conduct
from twin.experiment.engines import Engine, EngineError, JobError, LocalEngine
from twin.experiment.plan import Candidate, Plan, load_plan
from twin.experiment.store import MANIFEST
from twin.fingerprint.convergence import BLOCK_TICKS, QUIET_BLOCKS

TERMINATED = 128 + signal.SIGTERM


def main(options: argparse.Namespace) -> int:
    """Do what is left of the plan."""
    plan = load_plan(options.plan, options.set)
    folder = Path(options.out) if options.out is not None else folder_of(plan)
    if not options.resume and (folder / MANIFEST).exists():
        raise InputError(
            f"{folder}: has results already; leave --no-resume out to go on with them, or name a new folder (--out)"
        )
    engine = engine_of(options.engine, options.workers, options.scheduler)
    needed = QUIET_BLOCKS * BLOCK_TICKS
    if plan.file.ticks < needed and not options.quiet:
        print(
            f"twin: runs of {plan.file.ticks:,} ticks are too short to tell whether they converge, so that nothing "
            f"will be golden; {needed:,} are needed ({QUIET_BLOCKS} blocks of {BLOCK_TICKS:,})",
            file=sys.stderr,
        )
    for candidate in kinds_of(plan):
        warm(candidate)
    with _ended_as_interrupted() as ended, _Progress(options, plan) as progress:
        try:
            summary = conduct(plan, folder, engine, perform, progress.heard)
        except (EngineError, JobError) as error:
            print(f"twin: {error}", file=sys.stderr)
            return FAILED
        except KeyboardInterrupt:
            print(
                f"twin: {'ended by SIGTERM' if ended else 'interrupted'}; what is done is in {folder}, the same "
                "command goes on from there",
                file=sys.stderr,
            )
            return TERMINATED if ended else INTERRUPTED
    _report(options, plan, folder, summary)
    return DONE


@contextlib.contextmanager
def _ended_as_interrupted() -> Iterator[list[int]]:
    """SIGTERM ends the experiment as an interrupt does; the list has its number once it came."""
    ended: list[int] = []

    def end(number: int, _: object) -> None:
        ended.append(number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield ended
    finally:
        signal.signal(signal.SIGTERM, before)


def folder_of(plan: Plan) -> Path:
    """A folder of the plan's own, so that the same command goes on with it and another plan has another."""
    mark = blake2b(plan.canonical(), digest_size=4).hexdigest()
    safe = "".join(each if each.isalnum() or each in "-_" else "_" for each in plan.name)
    return Path("experiments") / f"{safe}-{mark}"


def kinds_of(plan: Plan) -> list[Candidate]:
    """The first candidate of each law, controller and learner."""
    kinds: dict[Any, Candidate] = {}
    for candidate in plan.candidates:
        scenario = candidate.scenario
        kinds.setdefault((scenario.heartbeat.law, scenario.control.controller, scenario.learn), candidate)
    return list(kinds.values())


def engine_of(name: str, workers: int | None, scheduler: str | None) -> Engine:
    """The engine `local` or `dask`; `workers` is one for each processor when left out. Raises `InputError`."""
    count = len(os.sched_getaffinity(0)) if workers is None else workers
    if count < 1:
        raise InputError(f"--workers {workers}: at least 1 is needed")
    if name == "local":
        if scheduler is not None:
            raise InputError("--scheduler goes with --engine dask")
        return LocalEngine(count)
    if name != "dask":
        raise InputError(f"engine {name!r}: allowed are local and dask")
    from twin.experiment.dask_engine import DaskEngine

    try:
        return DaskEngine(scheduler, count)
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
        # Who did nothing has no speed.
        "ticks_per_second": summary.done_ticks / summary.seconds if summary.done_ticks else None,
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

    runs = "1 run" if plan.file.runs == 1 else f"{plan.file.runs:,} runs"
    speed = result["ticks_per_second"]
    rows = [
        ("plan", f"{plan.name}: {len(plan.candidates)} configurations, {runs} each"),
        ("done", f"{summary.runs:,} runs of {plan.file.ticks:,} ticks; {summary.done_runs:,} jobs of it now, in "
                 f"{summary.seconds:.1f} s" + ("" if speed is None else f" ({speed:,.0f} ticks a second)")),
        ("experiment digest", summary.experiment_digest),
        ("kept in", str(folder)),
    ]  # fmt: skip
    output.print_table("Experiment", ("", ""), rows)
    print_choice(choice)
