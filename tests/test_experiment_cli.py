"""`twin experiment` and `twin golden` as people call them."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from commands import Said, answer, command, refused, unchanged
from light_jobs import RAISES, WAIT, light_plan, perform, straight
from test_experiment_engines import done_in, until

from twin.cli import experiment as cli
from twin.experiment.store import MANIFEST

KEYS = ["experiment_digest", "runs", "ticks", "wall_seconds", "ticks_per_second", "golden", "tie", "directory"]


@pytest.fixture(autouse=True)
def light(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Jobs that take no time, in processes that start soon; where one works is a folder of the test's own."""
    monkeypatch.setattr(cli, "perform", perform)
    monkeypatch.setattr(cli, "warm", lambda candidate: None)
    monkeypatch.setenv("TWIN_KERNELS", "python")
    monkeypatch.chdir(tmp_path)


def do(tmp_path: Path, *arguments: object, runs: int = 5, **others: Any) -> Said:
    light_plan(tmp_path, runs, **others)
    return command("experiment", "light.toml", "--workers", "1", *arguments)


def test_the_answer_for_programs(tmp_path: Path) -> None:
    plan = light_plan(tmp_path, 5)
    found = answer("experiment", "light.toml", "--workers", "2", "--out", "out")
    assert list(found) == KEYS
    assert found["experiment_digest"] == straight(plan, tmp_path / "straight").experiment_digest
    assert (found["runs"], found["ticks"], found["directory"]) == (15, 300_000, "out")
    assert re.fullmatch(r"[0-9a-f]{64}", found["experiment_digest"])
    assert found["wall_seconds"] > 0
    # Of what this process did: kicked jobs have ticks too.
    assert found["ticks_per_second"] == pytest.approx(360_000 / found["wall_seconds"])
    assert found["golden"] is None or found["golden"] in {each.name for each in plan.candidates}
    assert isinstance(found["tie"], list) or found["tie"] is None
    again = answer("experiment", "light.toml", "--out", "out")
    assert {key: again[key] for key in KEYS if key not in ("wall_seconds", "ticks_per_second")} == {
        key: found[key] for key in KEYS if key not in ("wall_seconds", "ticks_per_second")
    }
    assert again["ticks_per_second"] is None
    choice = answer("golden", "out")
    assert (choice["golden"], choice["tie"]) == (found["golden"], found["tie"])
    assert choice["experiment_digest"] == found["experiment_digest"]
    assert set(choice["configurations"]) == {each.name for each in plan.candidates}


def test_the_answer_for_people(tmp_path: Path) -> None:
    said = do(tmp_path, "--out", "out")
    assert said.status == 0, said.err
    assert said.err == ""
    for part in ("light: 3 configurations, 5 runs each", "15 runs of 20,000 ticks; 18 jobs of it now",
                 "experiment digest", "stability (30)", "1_0_1_1_1_0", "off: Stability earns"):  # fmt: skip
        assert part in said.out, part
    golden = command("golden", "out")
    assert golden.status == 0
    assert golden.out in said.out
    assert command("golden", "out", "--quiet").out == ""
    assert do(tmp_path, "--out", "out", "--quiet") == Said(0, "", "")


def test_the_same_command_goes_on_in_the_folder_of_the_plan(tmp_path: Path) -> None:
    first = answer("experiment", str(_file(tmp_path)), "--workers", "1")
    folder = Path(first["directory"])
    assert re.fullmatch(r"experiments/light-[0-9a-f]{8}", str(folder))
    assert "; 0 jobs of it now" in command("experiment", "light.toml").out
    other = answer("experiment", "light.toml", "--set", "runs=4", "--workers", "1")
    assert other["directory"] != first["directory"]
    assert len(list(Path("experiments").iterdir())) == 2
    assert answer("experiment", "light.toml", "--set", "shuffle_seed=5")["directory"] == str(folder)


def _file(tmp_path: Path) -> Path:
    return light_plan(tmp_path, 5).source


def test_a_plan_may_be_called_anything(tmp_path: Path) -> None:
    light_plan(tmp_path, 1).source.rename(tmp_path / "päth ö.toml")
    text = (tmp_path / "päth ö.toml").read_text().replace('name = "light"', 'name = "../x y"')
    (tmp_path / "päth ö.toml").write_text(text)
    found = answer("experiment", "päth ö.toml", "--workers", "1")
    assert re.fullmatch(r"experiments/___x_y-[0-9a-f]{8}", found["directory"])


def test_progress_has_a_rate_and_what_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli._Progress, "LINE_EVERY_SECONDS", 0.0)
    monkeypatch.setattr("twin.experiment.conduct.COMMIT_SECONDS", 0.0)
    monkeypatch.setenv(WAIT, "1")
    said = do(tmp_path, "--out", "out", runs=10, ticks=100_000)
    lines = said.err.splitlines()
    assert lines[0] == "light: 0 of 33 runs"
    pattern = r"light: (\d+) of 33 runs, [\d.]+ runs and [\d.]+ million ticks a second, (\d+ s|\d+ min \d\d s) left"
    done = [int(found.group(1)) for line in lines[1:] if (found := re.fullmatch(pattern, line))]
    assert len(done) == len(lines) - 1 >= 5, lines
    assert done == sorted(done)
    assert done[-1] == 33
    assert lines[-1].endswith(", 0 s left")
    assert do(tmp_path, "--out", "out", "--json", runs=10, ticks=100_000).err == ""
    assert do(tmp_path, "--out", "other", "--quiet").err == ""
    # Gone on with: the rate is of what is done now.
    again = do(tmp_path, "--out", "out", runs=10, ticks=100_000)
    assert again.err.splitlines()[0] == "light: 33 of 33 runs"


@pytest.mark.parametrize(("seconds", "words"), [
    (0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (3_599.4, "59 min 59 s"), (3_600, "1 h 00 min"),
    (100_000, "27 h 46 min"),
])  # fmt: skip
def test_what_is_left_in_words(seconds: float, words: str) -> None:
    assert cli._time(seconds) == words


# --- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("options", "parts"), [
    (("--workers", "0"), ["--workers 0: at least 1 is needed"]),
    (("--workers", "-3"), ["--workers -3: at least 1"]),
    (("--workers", "two"), ["'two' is not a whole number"]),
    (("--engine", "threads"), ["invalid choice"]),
    (("--out", ""), ["name of a folder"]),
    (("--set", "runs"), ["write key=value"]),
    (("--set", "runs=0", "--set", "tick=3"), ["runs = 0", "tick: unknown key; did you mean ticks?"]),
    (("--out", "light.toml"), ["light.toml"]),
    (("--out", "."), ["has other things in it"]),
])  # fmt: skip
def test_what_cannot_be_asked_for(tmp_path: Path, options: tuple[str, ...], parts: list[str]) -> None:
    light_plan(tmp_path, 2)
    with unchanged(tmp_path):
        refused(2, parts, command("experiment", "light.toml", *options))


def test_no_resume_leaves_results_alone(tmp_path: Path) -> None:
    assert do(tmp_path, "--no-resume", "--out", "out").status == 0
    with unchanged(tmp_path / "out"):
        refused(2, ["has results already", "--no-resume", "--out"], do(tmp_path, "--no-resume", "--out", "out"))
    assert do(tmp_path, "--resume", "--out", "out").status == 0


def test_a_plan_that_cannot_be_used(tmp_path: Path) -> None:
    refused(2, ["did you mean demo?"], command("experiment", "demmo"))
    (tmp_path / "wrong.toml").write_text('scenario = "study"\nconfigurations = ["1_1", "2_2"]\nruns = 0\n')
    refused(2, ["configurations[0] (1_1)", "configurations[1] (2_2)", "runs = 0"], command("experiment", "wrong.toml"))


def test_a_directory_of_something_else(tmp_path: Path) -> None:
    assert do(tmp_path, "--out", "out").status == 0
    refused(2, ["has results of another plan"], do(tmp_path, "--set", "runs=2", "--out", "out"))
    refused(2, ["no experiment was done there"], command("golden", str(tmp_path / "nowhere")))
    (tmp_path / "out" / "golden.json").write_text("[")
    refused(2, ["golden.json", "is not JSON"], command("golden", "out"))
    # The choice is made anew by the same command.
    assert do(tmp_path, "--out", "out").status == 0
    assert command("golden", "out").status == 0
    (tmp_path / "out" / MANIFEST).write_bytes(b"no database at all" * 500)
    refused(2, ["is no SQLite file"], command("golden", "out"))
    refused(2, ["is no SQLite file"], do(tmp_path, "--out", "out"))


def test_what_a_job_raises_is_a_failure_and_the_choice_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RAISES, "7")
    refused(3, ["job 7 (", "raised LookupError: nothing at", "what was done is saved"], do(tmp_path, "--out", "out"))
    refused(2, ["the experiment is not finished"], command("golden", "out"))
    monkeypatch.delenv(RAISES)
    assert do(tmp_path, "--out", "out").status == 0
    assert command("golden", "out").status == 0


def test_an_interrupt_says_where_things_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "conduct", interrupted)
    said = do(tmp_path, "--out", "out")
    assert said == Said(130, "", "twin: interrupted; what is done is in out, the same command goes on from there\n")


# --- little to go on ------------------------------------------------------------------------------------------------


def test_a_single_run_has_no_interval(tmp_path: Path) -> None:
    said = do(tmp_path, "--out", "out", runs=1, kicked=0)
    assert said.status == 0
    assert "3 configurations, 1 run each" in said.out
    choice = answer("golden", "out")
    assert choice["golden"] is None
    assert all(entry["interval"] is None and entry["probability_best"] is None for entry in choice["ranking"])
    assert "fewer than 3 do not tell how much runs differ" in choice["why"]
    for each in choice["configurations"].values():
        assert each["score_std"] is None
        assert "only one run" in each["reasons"]["score_std"]
        assert each["basin_depth_sigmas"] is None


def test_no_run_converges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "perform", nothing_converges)
    light_plan(tmp_path, 5)
    choice = answer("experiment", "light.toml", "--workers", "1", "--out", "out")
    assert choice["golden"] is None
    said = command("golden", "out")
    assert said.status == 0
    assert "0 of 5 runs converge" in said.out
    text = (tmp_path / "out" / "golden.json").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    for each in json.loads(text)["configurations"].values():
        assert each["convergence_success_rate"] == 0.0
        assert each["convergence_time_mean_ticks"] is None
        assert "no block" in each["reasons"]["convergence_time_mean_ticks"]


def nothing_converges(job: Any) -> Any:
    from dataclasses import replace

    outcome = perform(job)
    if job.kicks is not None:
        return outcome
    nothing = dict.fromkeys(outcome.result) | {"converged": False}
    reasons = {name: "no block after which the run is steady" for name in nothing if name != "converged"}
    return replace(outcome, result={**nothing, "reasons": reasons})


def test_a_real_experiment_of_one_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real runs, kicked ones among them; a run is the one that `twin run` does with the same keys."""
    from running import here

    from twin.cli import simulate

    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "engine_of", lambda *_: _here())
    assert cli.perform is simulate.perform
    (tmp_path / "plan.toml").write_text(
        'scenario = "study"\nruns = 1\nticks = 1_000\nfirst_seed = 11\nkeep = "every:100"\n'
        'set = { "heartbeat.words" = 64 }\n'
        'configurations = ["0_0_0_0_0_0", '
        '{ name = "r", config = "1_1_1_1_1_1", set = { "heartbeat.law" = "reference" } }]\n'
        '[kicks]\nseeds = 1\nkinds = ["load_pulse"]\nstrengths_sigmas = [1.0, 8.0]\n'
        "settle_ticks = 1_000\nwatch_ticks = 1_000\n"
    )
    found = answer("experiment", "plan.toml", "--out", "out")
    assert (found["runs"], found["ticks"]) == (2, 2_000)
    with sqlite3.connect(tmp_path / "out" / MANIFEST) as base:
        rows = base.execute(
            "SELECT number, seed, tick_digest, control_digest, run_digest, result FROM outcomes"
        ).fetchall()
    base.close()
    runs = {row[0]: row for row in rows}
    for number, more in ((0, ("--config", "0_0_0_0_0_0")), (1, ("--config", "1_1_1_1_1_1", "--law", "reference"))):
        alone = here("run", "study", "--seed", "11", "--duration", "10000000", "--set", "ticks=1000",
                     "--set", "heartbeat.words=64", *more, "--out", tmp_path / str(number))  # fmt: skip
        assert runs[number][1:5] == (11, alone["tick_digest"], alone["control_digest"], alone["run_digest"])
        assert json.loads(runs[number][5]) == alone["fingerprint"]
    kicked = json.loads(runs[2][5])
    assert {each["kind"] for each in kicked["kicks"]} == {"load_pulse"}
    assert len(kicked["kicks"]) == len(kicked["courses"]) >= 1


def _here() -> Any:
    from twin.experiment.engines import HereEngine

    return HereEngine()


TERMINABLE = """
import sys
import light_jobs
import twin.cli
import twin.cli.experiment as experiment
experiment.perform, experiment.warm = light_jobs.perform, lambda candidate: None
sys.exit(twin.cli.main(["experiment", "light.toml", "--workers", "2", "--out", "out", "--quiet"]))
"""


@pytest.mark.parametrize("everybody", [False, True])
def test_a_termination_ends_as_an_interrupt_does(tmp_path: Path, everybody: bool) -> None:
    light_plan(tmp_path, 100, ticks=100_000)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), WAIT: "100"}
    with subprocess.Popen(
        [sys.executable, "-c", TERMINABLE], env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert until(lambda: done_in(tmp_path) > 0, 120)
        os.killpg(process.pid, signal.SIGTERM) if everybody else process.terminate()
        _, said = process.communicate(timeout=60)
    assert process.returncode == 143, said
    assert said == "twin: ended by SIGTERM; what is done is in out, the same command goes on from there\n"


def test_runs_too_short_to_tell_are_warned_of(tmp_path: Path) -> None:
    said = do(tmp_path, "--out", "out", ticks=9_999)
    assert said.status == 0
    assert "twin: runs of 9,999 ticks are too short to tell whether they converge" in said.err
    assert "10,000 are needed (10 blocks of 1,000)" in said.err
    assert "too short" not in do(tmp_path, "--out", "long", ticks=10_000).err
