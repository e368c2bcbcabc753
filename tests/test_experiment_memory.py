"""An experiment's memory does not grow with its runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from light_jobs import light_plan
from profiles import NIGHTLY

TESTS = Path(__file__).parent
RUNS = 99_999 if NIGHTLY else 9_999
PROGRAM = """
import gc, sys
from pathlib import Path
import psutil
from light_jobs import perform
from twin.experiment import conduct as c
from twin.experiment.engines import HereEngine
from twin.experiment.plan import parse_plan

class Over(Exception):
    pass

path = Path(sys.argv[1])
plan = parse_plan(path.read_text(), path)
at = {}

def note(done, here, ticks):
    at[here] = psutil.Process().memory_info().rss
    if here == plan.runs:
        raise Over

try:
    c.conduct(plan, path.parent / "out", HereEngine(), perform, note)
except Over:
    pass
first = min(n for n in at if n >= plan.runs // 5)
print(plan.runs, at[first], max(at.values()))
"""


def test_memory_is_flat(tmp_path: Path) -> None:
    """From a fifth of the runs to their end it grows by no more than the keys and numbers of jobs."""
    plan = light_plan(tmp_path, runs=RUNS // 3, kicked=0)
    env = {**os.environ, "TWIN_KERNELS": "python", "PYTHONPATH": str(TESTS)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(plan.source)], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    runs, early, most = map(int, done.stdout.split())
    grown = most - early
    print(f"{runs} runs: {early / 2**20:.1f} MiB after a fifth, {most / 2**20:.1f} MiB at most; "
          f"{grown / (0.8 * runs):.0f} bytes a run")  # fmt: skip
    assert runs == RUNS
    assert grown < 12 * 2**20 + 300 * runs
