"""The Python interface: the examples of its page run, and what it gives is what the command line gives."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from running import twin_json

import twin
from hardware.interface import Limit
from twin.control.view import Decision, View
from twin.experiment.store import ExperimentError
from twin.loader import ScenarioError
from twin.scenario import Scenario

PAGE = (Path(__file__).parent.parent / "docs" / "experiments.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("example", re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL))
def test_the_examples_of_the_page_run_as_scripts(example: str, tmp_path: Path) -> None:
    # As a script without a guard about its main part: starting processes must not run it again.
    (tmp_path / "example.py").write_text(example)
    done = subprocess.run(
        [sys.executable, "-W", "error", "example.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") >= 3


def test_a_run_in_memory_has_the_digests_of_one_on_disk(tmp_path: Path) -> None:
    recorded = twin_json(
        "run", "burst", "--duration", "7", "--seed", "5", "--set", "heartbeat.words=300", "--out", tmp_path / "run"
    )
    run = twin.run("burst", duration=7, seed=5, settings={"heartbeat.words": 300})
    assert (run.tick_digest, run.control_digest, run.run_digest) == tuple(
        recorded[name] for name in ("tick_digest", "control_digest", "run_digest")
    )
    assert run.fingerprint == recorded["fingerprint"]
    stored = pd.read_parquet(tmp_path / "run" / "ticks.parquet").drop(columns=["run_id", "config"])
    pd.testing.assert_frame_equal(run.ticks, stored, check_dtype=False)
    control = pd.read_parquet(tmp_path / "run" / "control.parquet")
    for name in control:
        left, right = run.control[name], control[name]
        assert left.isna().equals(right.isna()), name
        assert (left.dropna() == right.dropna()).all(), name


def test_a_controller_of_ones_own_decides() -> None:
    class Still:
        def __init__(self, scenario: Scenario, limits: Mapping[str, Limit]) -> None:
            self.command = {name: limit.maximum for name, limit in limits.items()}

        def decide(self, view: View) -> Decision:
            return Decision("boost", "rules", "always", self.command)

    run = twin.run("idle", duration=2, controller=Still)
    assert set(run.control["action"]) == {"boost"}


PLAN = """
name = "tiny"
scenario = "study"
runs = 1
ticks = 60
keep = "every:20"
configurations = ["1_0_1_1_1_0", "0_0_0_0_0_0"]
kicks = { seeds = 0 }
"""


def test_settings_may_be_tables_and_lists_and_numbers_of_numpy() -> None:
    one = {"name": 'the "one"', "config": "1_0_1_1_1_0", "set": {"heartbeat.adapt_interval": False}}
    settings = {
        "runs": np.int64(2), "kicks": {"seeds": 0, "strengths_sigmas": np.array([1.5, 4.0])},
        "set": {"heartbeat.words": np.uint16(64)}, "configurations": [one, "1_0_1_1_1_0"],
    }  # fmt: skip
    experiment = twin.Experiment("demo", settings=settings)
    assert experiment.plan.file.runs == 2
    assert experiment.plan.file.kicks.strengths_sigmas == (1.5, 4.0)
    assert [each.name for each in experiment.plan.candidates] == ['the "one"', "1_0_1_1_1_0"]
    assert [each.scenario.heartbeat.words for each in experiment.plan.candidates] == [64, 64]
    assert not experiment.plan.candidates[0].scenario.heartbeat.adapt_interval
    assert twin.run("idle", duration=np.int64(1), seed=np.int64(3)).scenario.seed == 3
    with pytest.raises(TypeError, match="settings: runs has a value of type NoneType; allowed are numbers"):
        twin.Experiment("demo", settings={"runs": None})


def test_results_are_those_of_the_plan_and_whole(tmp_path: Path) -> None:
    plan = tmp_path / "tiny.toml"
    plan.write_text(PLAN)
    out = tmp_path / "out"
    experiment = twin.Experiment(plan, out=out)

    def everything_refuses(asked: twin.Experiment, said: str) -> None:
        for ask in (
            lambda: asked.golden, lambda: asked.runs, lambda: asked.ticks(), lambda: asked.ticks("0_0_0_0_0_0"),
            lambda: asked.configurations,
        ):  # fmt: skip
            with pytest.raises(ExperimentError, match=said):
                ask()

    everything_refuses(experiment, "has no results of an experiment; call run\\(\\) first")

    def stop(done: int, *_: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        experiment.run(workers=1, progress=stop)
    everything_refuses(experiment, "the experiment is not finished; call run\\(\\), and it goes on")
    experiment.run(workers=1)
    everything_refuses(twin.Experiment(plan, settings={"runs": 3}, out=out), "has results of another plan")
    with pytest.raises(ValueError, match="configuration is 'nobody'; allowed are 1_0_1_1_1_0, 0_0_0_0_0_0"):
        experiment.ticks("nobody")
    assert len(experiment.ticks("0_0_0_0_0_0")) == len(experiment.ticks()) / 2 == 3
    frames = {"runs": experiment.runs, "configurations": experiment.configurations, "ticks": experiment.ticks()}
    for kind, frame in frames.items():
        for name in frame:
            unknown = [value for value in frame[name] if not isinstance(value, np.ndarray) and pd.isna(value)]
            assert all(value is pd.NA for value in unknown), (kind, name)
    assert frames["runs"]["converged"].isna().all()
    assert frames["runs"]["converged"].dtype == "boolean"
    assert frames["runs"]["convergence_time_ticks"].dtype == "Int64"
    assert frames["configurations"]["total"].dtype == "Float64"


def test_what_cannot_be_is_said() -> None:
    with pytest.raises(ValueError, match=r"backend is 'windows'; allowed are simulated, linux, lockstep"):
        twin.run("idle", backend="windows")
    with pytest.raises(ScenarioError, match=r"heartbeat\.wurds: unknown key"):
        twin.run("idle", settings={"heartbeat.wurds": 3})
    with pytest.raises(ScenarioError, match="runs = 0: allowed are"):
        twin.Experiment("demo", settings={"runs": 0})
    with pytest.raises(AttributeError, match="no attribute 'runn'"):
        twin.runn  # noqa: B018
