"""The Python interface: the examples of its page run, and what it gives is what the command line gives."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import pytest
from running import twin_json

import twin
from hardware.interface import Limit
from twin.control.view import Decision, View
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


def test_what_cannot_be_is_said() -> None:
    with pytest.raises(ValueError, match=r"backend is 'windows'; allowed are simulated, linux, lockstep"):
        twin.run("idle", backend="windows")
    with pytest.raises(ScenarioError, match=r"heartbeat\.wurds: unknown key"):
        twin.run("idle", settings={"heartbeat.wurds": 3})
    with pytest.raises(ScenarioError, match="runs = 0: allowed are"):
        twin.Experiment("demo", settings={"runs": 0})
    with pytest.raises(AttributeError, match="no attribute 'runn'"):
        twin.runn  # noqa: B018
