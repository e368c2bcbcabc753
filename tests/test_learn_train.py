"""Training goes on where it was killed and ends with the same weights; evaluation is the same however split."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import answer, command, refused, unchanged
from profiles import NIGHTLY
from running import here
from scipy import stats

from twin.cli.evaluate import interval
from twin.kernels import MODE
from twin.learn.checkpoint import kept, load

PLAN = ("idle", "burst", "--seeds", "3", "--set", "duration_ms=15000")
EPISODES = 6


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training that nobody interrupted."""
    path = tmp_path_factory.mktemp("whole") / "weights"
    result = here("train", *PLAN, "--out", path)
    assert result["episodes"] == EPISODES
    assert len(result["mean_rewards"]) == EPISODES
    assert result["digest"] == load(path).digest
    return path


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def begun(out: Path, *plan: object) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "twin", "train", *map(str, plan), "--out", str(out), "--json", "--quiet"]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def waited(process: subprocess.Popen[str], out: Path, episodes: int, seconds: float) -> None:
    """Wait until so many episodes are in the checkpoint, then so many seconds more, or until the process ends."""
    while process.poll() is None:
        try:
            if int(load(out).facts["episodes"]) >= episodes:
                break
        except Exception:
            pass
        time.sleep(0.002)
    time.sleep(seconds)


# --- interrupted ------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(MODE != "numba", reason="interpreted, an episode takes too long")
@pytest.mark.parametrize("seed", range(3))
def test_killed_at_any_time_it_goes_on_to_the_same_weights(whole: Path, place: Path, seed: int) -> None:
    out = place / "weights"
    draw = random.Random(seed)
    deaths = 0
    # Waiting goes by what is in the checkpoint, so that a slow machine is interrupted in the same places.
    for episodes in sorted(draw.sample(range(EPISODES - 1), 3)):
        process = begun(out, *PLAN)
        waited(process, out, episodes, draw.random() * 0.1)
        process.kill()
        process.communicate()
        deaths += process.returncode == -signal.SIGKILL
    process = begun(out, *PLAN)
    said, wrong = process.communicate()
    assert process.returncode == 0, wrong
    print(f"killed {deaths} times, {len(json.loads(said)['mean_rewards'])} episodes were left")
    assert deaths >= 1
    assert json.loads(said)["digest"] == load(whole).digest
    assert out.read_bytes() == whole.read_bytes()


def test_killed_between_two_renames_it_takes_the_one_before(whole: Path, place: Path) -> None:
    # The newest has become the one before it, and the new one has not got its name.
    shutil.copyfile(whole.with_name("weights.1"), place / "weights.1")
    result = answer("train", *PLAN, "--out", place / "weights")
    assert len(result["mean_rewards"]) == 1
    assert (place / "weights").read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("age", [0, 1])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(whole: Path, place: Path, age: int) -> None:
    for path in kept(whole):
        shutil.copyfile(path, place / path.name)
    for path in kept(place / "weights")[: age + 1]:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    said = command("train", *PLAN, "--out", "weights", "--json")
    assert said.status == 0, said.err
    assert said.err.count("is cut off or altered") == age + 1
    assert f"weights.{age + 1}, which was saved before it, is used instead" in said.err
    assert len(json.loads(said.out)["mean_rewards"]) == age + 1
    assert (place / "weights").read_bytes() == whole.read_bytes()


def test_with_all_damaged_it_says_so_and_leaves_them(whole: Path, place: Path) -> None:
    for path in kept(whole):
        (place / path.name).write_bytes(path.read_bytes()[:-1])
    with unchanged(place):
        refused(2, ["weights: is cut off or altered", "weights.2"], command("train", *PLAN, "--out", "weights"))


def test_an_interrupt_by_the_user_keeps_the_last_whole_episode(whole: Path, place: Path) -> None:
    process = begun(place / "weights", *PLAN)
    waited(process, place / "weights", 2, 0.0)
    process.send_signal(signal.SIGINT)
    said, wrong = process.communicate()
    if process.returncode != 0:
        assert (process.returncode, said, wrong) == (130, "", "twin: interrupted\n")
    assert not list(place.glob("*.partial"))
    here("train", *PLAN, "--out", place / "weights")
    assert (place / "weights").read_bytes() == whole.read_bytes()


# --- finished, and others' --------------------------------------------------------------------------------------------


def test_a_finished_training_says_so_and_changes_nothing(whole: Path) -> None:
    with unchanged(whole.parent):
        said = command("train", *PLAN, "--out", whole)
        assert said.status == 0
        assert "it was finished before; nothing has changed" in said.out
        assert answer("train", *PLAN, "--out", whole)["mean_rewards"] == []


@pytest.mark.parametrize(
    "plan",
    [
        ("idle", "burst", "--seeds", "4", "--set", "duration_ms=15000"),
        ("burst", "idle", "--seeds", "3", "--set", "duration_ms=15000"),
        ("idle", "burst", "--seeds", "3", "--first-seed", "2", "--set", "duration_ms=15000"),
        ("idle", "burst", "--seeds", "3", "--set", "duration_ms=15100"),
        ("idle", "burst", "--seeds", "3", "--set", "duration_ms=15000", "--set", "learn.discount=0.5"),
    ],
)
def test_another_training_does_not_take_its_place(whole: Path, plan: tuple[str, ...]) -> None:
    with unchanged(whole.parent):
        refused(2, ["is the checkpoint of another training (other scenarios, seeds or settings), or a controller"],
                command("train", *plan, "--out", whole))  # fmt: skip


def test_one_json_object_and_nothing_else(place: Path) -> None:
    said = command("train", "idle", "--seeds", "1", "--set", "duration_ms=1000", "--out", "w", "--json")
    assert json.loads(said.out) == {
        "checkpoint": "w",
        "cycles": 10,
        "digest": load(Path("w")).digest,
        "episodes": 1,
        "mean_rewards": [pytest.approx(0.4, abs=0.5)],
        "scenarios": ["idle"],
        "seeds": [1, 1],
    }


# --- the disk ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system that holds one checkpoint and a part of a second."""
    path = tmp_path / "disk"
    path.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small file system")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "none", path], check=False).returncode != 0:
        pytest.skip("this machine does not let us mount a small file system")
    yield path
    subprocess.run(["umount", path], check=True)


def test_a_full_disk_ends_training_cleanly_and_it_goes_on_later(whole: Path, small_disk: Path) -> None:
    size = whole.stat().st_size
    (small_disk / "filler").write_bytes(bytes(600 * 1024 - size * 3 // 2))
    said = command("train", *PLAN, "--out", small_disk / "weights", "--quiet")
    refused(3, ["weights: writing failed: No space left on device; what was there before is unchanged; free some"],
            said)  # fmt: skip
    assert load(small_disk / "weights").facts["episodes"] == 1
    assert sorted(path.name for path in small_disk.iterdir()) == ["filler", "weights"]
    (small_disk / "filler").unlink()
    if 4 * size < 600 * 1024:
        here("train", *PLAN, "--out", small_disk / "weights")
        assert (small_disk / "weights").read_bytes() == whole.read_bytes()


def test_a_limit_on_files_ends_training_cleanly(whole: Path, place: Path) -> None:
    limit = whole.stat().st_size // 2
    done = subprocess.run(
        [sys.executable, "-m", "twin", "train", *PLAN, "--out", "weights", "--quiet"],
        env={**os.environ, "TWIN_KERNELS": "python"}, capture_output=True, text=True, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (3, "")
    assert "File too large" in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(place.iterdir()) == []


# --- evaluation -------------------------------------------------------------------------------------------------------

CASES = ("idle", "render", "--set", "duration_ms=6000")


def test_any_number_of_workers_gives_the_same(whole: Path) -> None:
    one = command("evaluate", whole, *CASES, "--seeds", "3", "--json")
    assert one.status in (0, 1), one.err
    for workers in (3, 8) if NIGHTLY else (3,):
        # In a process of its own: its children import the program anew.
        done = subprocess.run(
            [sys.executable, "-m", "twin", "evaluate", str(whole), *CASES, "--seeds", "3", "--json", "--workers",
             str(workers)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stdout) == (one.status, one.out), done.stderr
    result = json.loads(one.out)
    assert [(pair["scenario"], pair["seed"]) for pair in result["pairs"]] == [
        (name, seed) for name in CASES[:2] for seed in (1001, 1002, 1003)
    ]
    assert result["digest"] == load(whole).digest
    assert result["trained_on"] == ["idle", "burst"]


def test_a_single_pair_has_no_interval_and_no_answer(whole: Path) -> None:
    result = answer("evaluate", whole, "idle", "--set", "duration_ms=2000", "--seeds", "1", status=1)
    for name in ("reward", "over_limit_seconds", "energy_joules", "frames_per_second"):
        assert result[f"{name}_difference_low"] is None
        assert result[f"{name}_difference_high"] is None
        assert isinstance(result[f"{name}_difference"], float)
    assert len(result["pairs"]) == 1


@pytest.mark.parametrize(("learned", "status"), [(0.6, 0), (0.4, 1), (0.2, 1)])
def test_the_status_says_whether_it_is_surely_better(
    whole: Path, monkeypatch: pytest.MonkeyPatch, learned: float, status: int
) -> None:
    from twin.cli import evaluate

    def pair(job: Any) -> evaluate.Pair:
        noise = (job[3] % 3) / 1_000
        return evaluate.Pair(job[1], job[3], 0.4, learned + noise - 0.001, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1, 2)

    monkeypatch.setattr(evaluate, "one_pair", pair)
    said = command("evaluate", whole, *CASES, "--seeds", "6")
    assert said.status == status, said.err
    assert f"{learned - 0.4:+.4f} (" in said.out.replace("-0.0000", "+0.0000")


def test_without_names_those_that_it_was_not_trained_on(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from twin.cli import evaluate
    from twin.loader import shipped

    def pair(job: Any) -> evaluate.Pair:
        return evaluate.Pair(job[1], job[3], *[0.0] * 8, 0, 1)

    monkeypatch.setattr(evaluate, "one_pair", pair)
    result = answer("evaluate", whole, "--seeds", "2", status=1)
    assert [row["scenario"] for row in result["scenarios"]] == [n for n in shipped() if n not in ("idle", "burst")]
    monkeypatch.setattr(evaluate, "shipped", lambda: ["idle", "burst"])
    refused(2, ["was trained on every scenario that is shipped; name those"], command("evaluate", whole))


# --- the interval -----------------------------------------------------------------------------------------------------


def test_an_interval_is_that_of_another_program() -> None:
    values = [0.1, -0.2, 0.35, 0.4, 0.05, 0.22, -0.1, 0.31, 0.18, 0.02]
    low, high = interval(values)
    theirs = stats.bootstrap((np.array(values),), np.mean, n_resamples=100_000, method="percentile", rng=1)
    assert low == pytest.approx(theirs.confidence_interval.low, abs=0.01)
    assert high == pytest.approx(theirs.confidence_interval.high, abs=0.01)


def test_an_interval_of_two_values_is_known() -> None:
    # A resample of two is (a, a), (b, b) or one of each: 1/4, 1/4, 1/2, so that 95 % reach from end to end.
    assert interval([1.0, 3.0]) == (1.0, 3.0)
    assert interval([2.5] * 7) == (2.5, 2.5)


def test_no_interval_is_invented() -> None:
    assert interval([]) == (None, None)
    assert interval([1.0]) == (None, None)
