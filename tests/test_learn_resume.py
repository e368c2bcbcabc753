"""Which checkpoint a run begins with, and which training goes on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from commands import command
from running import digests, here

from twin.cli.train import _alone
from twin.learn.checkpoint import load, save

PLAN = ("train", "idle", "--seeds", 1, "--set", "duration_ms=3000")
RUN = ("run", "gaming", "--neural", "--duration", 3, "--set", "heartbeat.t0_ns=100000000")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("resumed") / "weights"
    here(*PLAN, "--out", path)
    return path


@pytest.mark.parametrize("head", ["damaged", "missing"])
def test_the_good_one_is_what_is_digested_copied_and_loaded(trained: Path, tmp_path: Path, head: str) -> None:
    path = tmp_path / "w"
    (tmp_path / "w.1").write_bytes(trained.read_bytes())
    if head == "damaged":
        path.write_bytes(trained.read_bytes()[:1_000])
    result = here(*RUN, "--set", f"learn.checkpoint={path}", "--out", tmp_path / "run")
    plain = here(*RUN, "--set", f"learn.checkpoint={trained}", "--out", tmp_path / "plain")
    assert digests(result) == digests(plain)
    assert (tmp_path / "run" / "weights.checkpoint").read_bytes() == trained.read_bytes()
    replayed = here("replay", tmp_path / "run")
    assert replayed["equal"] is True
    assert here("evaluate", path, "idle", "--seeds", 1, "--set", "duration_ms=1000")["digest"] == load(trained).digest


def test_a_training_whose_reward_has_changed_is_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "my_own_reward.py"
    source.write_text("def reward(view, held_back):\n    return 100_000\n")
    monkeypatch.syspath_prepend(tmp_path)
    plan = [*map(str, PLAN), "--set", "learn.reward=my_own_reward:reward", "--out", str(tmp_path / "w")]
    assert command(*plan).status == 0
    assert command(*plan).status == 0
    source.write_text("def reward(view, held_back):\n    return -900_000\n")
    said = command(*plan)
    assert said.status == 2
    assert "or a controller, a reward or pulsetwin has changed since" in said.err


@pytest.mark.parametrize(("name", "fact"), [("episodes", "x"), ("episodes", -5), ("episodes", 2), ("cycles", -1)])
def test_a_training_that_cannot_have_been_is_refused(trained: Path, tmp_path: Path, name: str, fact: object) -> None:
    state = load(trained)
    save(tmp_path / "w", state.arrays, {**state.facts, name: fact})  # type: ignore[dict-item]
    said = command(*map(str, PLAN), "--out", str(tmp_path / "w"))
    assert said.status == 2
    assert "train anew" in said.err


def test_a_forecast_of_another_name_is_refused(trained: Path, tmp_path: Path) -> None:
    state = load(trained)
    arrays = {name: array for name, array in state.arrays.items() if name != "forecast.0"}
    save(tmp_path / "w", {**arrays, "forecast.zz": np.zeros(1)}, state.facts)
    said = command(*map(str, RUN), "--set", f"learn.checkpoint={tmp_path / 'w'}", "--out", str(tmp_path / "run"))
    assert said.status == 2
    assert "forecasts called" in said.err


def test_two_trainings_into_one_file_are_one_too_many(trained: Path, tmp_path: Path) -> None:
    with _alone(tmp_path / "w"):
        said = command(*map(str, PLAN), "--out", str(tmp_path / "w"))
        assert said.status == 2
        assert "is being written by another training" in said.err
    assert command(*map(str, PLAN), "--out", str(tmp_path / "w")).status == 0
    assert (tmp_path / "w").read_bytes() == trained.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["w"]
