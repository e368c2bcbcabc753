"""Experiments whose jobs take no time: everything but the runs is real. As a program it does one in this process's
name, so that it can be killed: `python light_jobs.py FOLDER WORKERS [here|ADDRESS]` (the last for Dask).
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from hashlib import blake2b
from pathlib import Path
from typing import Any

from twin.experiment.conduct import Summary, conduct
from twin.experiment.engines import Engine, EngineError, HereEngine, LocalEngine
from twin.experiment.jobs import Job, Outcome
from twin.experiment.plan import Plan, parse_plan

TEXT = """
name = "light"
scenario = "study"
runs = {runs}
ticks = {ticks}
keep = "none"
configurations = ["1_0_1_1_1_0", "0_1_1_0_1_1", {{ name = "off", config = "0_0_0_0_0_0" }}]
[kicks]
seeds = {kicked}
"""
DIES, RAISES, WAIT, BULK = "LIGHT_DIES", "LIGHT_RAISES", "LIGHT_WAIT_MS", "LIGHT_BULK"
"""Environment variables: the process dies at job number so (or at `all`), that one raises, each takes so long and
gives so many bytes.
"""


def light_plan(folder: Path, runs: int = 20, ticks: int = 20_000, kicked: int = 1, **others: Any) -> Plan:
    """A plan of 3 * `runs` runs and 3 * `kicked` kicked jobs, as a file in `folder`."""
    path = folder / "light.toml"
    text = TEXT.format(runs=runs, ticks=ticks, kicked=kicked)
    path.write_text("".join(f"{key} = {value}\n" for key, value in others.items()) + text)
    return parse_plan(path.read_text(), path)


def digest(*parts: object) -> str:
    return blake2b(repr(parts).encode(), digest_size=32).hexdigest()


def perform(job: Job) -> Outcome:
    """A result that depends on candidate and seed, as a run's would."""
    seed = job.scenario.seed
    if os.environ.get(DIES) in ("all", str(job.number)):
        os.kill(os.getpid(), signal.SIGKILL)
    if os.environ.get(RAISES) == str(job.number):
        raise LookupError(f"nothing at {seed}")
    time.sleep(float(os.environ.get(WAIT, "0")) / 1_000)
    chance = random.Random(f"{job.candidate} {seed}")
    result: dict[str, Any] = {
        "overall_stability_score": round(70 + 20 * chance.random(), 6),
        "converged": True,
        "convergence_time_ticks": chance.randrange(1_000, 5_000),
        "load_to_heartbeat_corr": round(chance.random(), 6),
        "avg_jitter_ns_steady": 1_000.0 + chance.randrange(100),
        "jitter_is_white": chance.random() < 0.5,
        "reasons": {"latency_p99_ns": "the machine has none"},
    }
    if os.environ.get(BULK):
        result["bulk"] = "x" * int(os.environ[BULK])
    if job.kicks is not None:
        kick = {"kind": "heat_burst", "seed": seed, "strength_sigmas": 1.0, "returned": True, "return_ticks": seed}
        result = {"kicks": [kick], "courses": [], "watched": []}
    parts = job.candidate, seed, job.kicks is None
    return Outcome(
        job.number, job.key, job.candidate, seed, job.scenario.ticks or 0,
        digest("tick", *parts), digest("control", *parts), digest("run", *parts), result,
    )  # fmt: skip


def quiet(done: int, here: int, ticks: int) -> None:
    pass


def straight(plan: Plan, folder: Path) -> Summary:
    """The plan done in this process, without anything happening to it."""
    return conduct(plan, folder, HereEngine(), perform, quiet)


def _engine(workers: int, dask: str) -> Engine:
    """Local processes; with `dask` a cluster of this machine (`here`), or the one at that address."""
    if not dask:
        return LocalEngine(workers)
    from twin.experiment.dask_engine import DaskEngine

    return DaskEngine(None if dask == "here" else dask, workers)


def main(folder: str, workers: str, dask: str = "") -> int:
    plan = parse_plan((Path(folder).parent / "light.toml").read_text(), Path(folder).parent / "light.toml")
    try:
        summary = conduct(plan, Path(folder), _engine(int(workers), dask), perform, quiet)
    except EngineError as error:
        print(error, file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    print(summary.experiment_digest)
    return 0


if __name__ == "__main__":
    # A worker finds `perform` by the name of this module, not as the main program's.
    import light_jobs

    sys.exit(light_jobs.main(*sys.argv[1:]))
