"""The command line as documented: what each command prints, writes and answers."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from commands import BRIEF, PYTHON, answer, command, files_below, unchanged
from running import DIGESTS, digests

from twin import __version__
from twin.loader import parse, shipped
from twin.record.rundir import COMPLETE

RUN_KEYS = [
    "run_dir", "scenario", "seed", "config", "law", "backend", "ticks", "simulated_seconds", "wall_seconds",
    "ticks_per_second", "tick_digest", "control_digest", "run_digest", "missing", "fingerprint",
    "unrestored", "guardian",
]  # fmt: skip
STEPS = ["python", "kernels", "scenarios", "clocks", "temperatures", "fans", "processor, memory", "graphics",
         "application port", "Crystal Core"]  # fmt: skip


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to be in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    """A complete run and what was printed about it."""
    path = tmp_path_factory.mktemp("good") / "run"
    return path, answer("run", "idle", "--duration", "2", "--set", "heartbeat.t0_ns=50000000", "--out", path)


def test_run_prints_the_keys_of_the_contract(good) -> None:
    path, result = good
    assert list(result) == RUN_KEYS
    shown = {name: result[name] for name in RUN_KEYS[:6]}
    assert shown == {
        "run_dir": str(path), "scenario": "idle", "seed": 1, "config": "1_0_1_1_1_0", "law": "adaptive",
        "backend": "simulated",
    }  # fmt: skip
    assert result["simulated_seconds"] == 2.0
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in digests(result))
    assert result["missing"] == ["frame_rate_millihertz", "frame_latency_microseconds", "frames_completed"]
    assert result["fingerprint"]["cycles"] == 20
    assert result["fingerprint"]["ticks"] == result["ticks"]
    assert result["ticks_per_second"] > 0


def test_a_run_directory_has_its_files_and_a_manifest(good) -> None:
    path, result = good
    assert {each.name for each in path.iterdir()} == {*COMPLETE, "run.log"}
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest["schema"] == "run/1"
    assert manifest["digests"] == {name: result[name] for name in DIGESTS}
    assert set(manifest["versions"]) >= {"pulsetwin", "python", "numpy", "simpy", "pyarrow", "kernels"}
    assert manifest["versions"]["pulsetwin"] == __version__
    assert (manifest["backend"], manifest["seed"], manifest["scenario"]) == ("simulated", 1, "idle")
    assert manifest["tables"]["ticks"]["rows"] == manifest["tables"]["ticks"]["kept"] == result["ticks"]
    for name, said in manifest["files"].items():
        assert (path / name).stat().st_size == said["bytes"]
    figures = json.loads((path / "fingerprint.json").read_text())
    assert {key: figures[key] for key in result["fingerprint"]} == result["fingerprint"]
    log = (path / "run.log").read_text()
    assert "idle, seed 1, loops 1_0_1_1_1_0" in log
    assert f"ended after 2 s, run digest {result['run_digest']}" in log
    assert not re.search(str(path), log)


def test_the_scenario_of_a_run_is_complete_and_gives_the_same_run(good) -> None:
    path, result = good
    text = (path / "scenario.toml").read_text()
    assert asdict(parse(text, "x.toml"))["duration_ms"] == 2_000
    assert "leakage_per_kelvin" in text
    again = answer("run", path / "scenario.toml", "--out", "again")
    assert digests(again) == digests(result)


def test_a_run_for_people(place: Path) -> None:
    said = command("run", "idle", *BRIEF)
    assert said.status == 0
    assert said.err == ""
    for part in ("idle, seed 1, on the simulated machine", "10 cycles", "run digest", "runs/idle-1"):
        assert part in said.out
    # Its directory, and that of the next one.
    assert [path.name for path in Path("runs").iterdir()] == ["idle-1"]
    assert "runs/idle-1 " in command("run", "idle", *BRIEF).out
    assert answer("run", "idle", *BRIEF, "--config", "0_0_0_0_0_0")["run_dir"] == "runs/idle-1-2"


def test_quiet_and_verbose() -> None:
    assert command("run", "idle", *BRIEF, "--quiet").err == ""
    for flag in (["-v"], ["--log-level", "info"]):
        said = command("run", "idle", *BRIEF, *flag, "--json")
        assert "INFO idle, seed 1" in said.err
        assert "INFO ended after 1 s" in said.err
        assert json.loads(said.out)["ticks"] > 0
    assert "INFO" not in command("run", "idle", *BRIEF, "-v", "--log-level", "warning").err


def test_seed_zero_is_a_seed() -> None:
    Path("zero.toml").write_text("seed = 0\n" + shipped()["idle"].read_text())
    asked = answer("run", "idle", *BRIEF, "--seed", "0", "--out", "asked")
    written = answer("run", "zero.toml", *BRIEF, "--out", "written")
    usual = answer("run", "idle", *BRIEF, "--out", "usual")
    assert (asked["seed"], written["seed"], usual["seed"]) == (0, 0, 1)
    assert digests(asked) == digests(written)
    assert all(zero != one for zero, one in zip(digests(asked), digests(usual), strict=True))


@pytest.mark.parametrize(("words", "kept"), [("all", 1), ("every:10", 10), ("none", 0)])
def test_ticks_that_are_kept_change_no_digest(good, words: str, kept: int) -> None:
    _, result = good
    path = Path("run")
    run = answer("run", "idle", "--duration", "2", "--set", "heartbeat.t0_ns=50000000", "--ticks", words, "--out", path)
    assert digests(run) == digests(result)
    numbers = pq.read_table(path / "ticks.parquet")["tick_number"].to_pylist()
    assert numbers == (list(range(run["ticks"]))[::kept] if kept else [])
    assert answer("replay", path)["equal"] is True
    # Rows that were not kept are no difference.
    assert answer("compare", path, good[0])["equal"] is True


@pytest.mark.parametrize("backend", ["simulated", "lockstep"])
def test_a_scenario_that_says_nothing_runs(backend: str) -> None:
    Path("nothing.toml").write_text("")
    result = answer("run", "nothing.toml", *BRIEF, "--backend", backend)
    assert result["scenario"] == "nothing"
    assert result["backend"] == backend
    assert answer("replay", result["run_dir"])["equal"] is True


def test_both_simulated_backends_give_the_same_digests(good) -> None:
    result = answer("run", "idle", "--duration", "2", "--set", "heartbeat.t0_ns=50000000", "--backend", "lockstep")
    assert digests(result) == digests(good[1])


def test_a_real_run_reads_and_logs_and_writes_nothing_without_act(place: Path) -> None:
    answer("run", "idle", *BRIEF, "--backend", "lockstep", "--root", "tree", "--out", "rendered")
    with unchanged(place / "tree"):
        result = answer("run", "idle", *BRIEF, "--backend", "linux", "--root", "tree", "--out", "run")
    assert result["backend"] == "linux"
    assert 0.9 < result["wall_seconds"] < 5
    assert answer("replay", "run")["equal"] is True
    # A run on a real machine is like no other, so it takes nobody's place.
    assert command("run", "idle", *BRIEF, "--backend", "linux", "--root", "tree", "--out", "run").status == 2


def test_replay_says_what_it_found(good) -> None:
    path, result = good
    replayed = answer("replay", path)
    assert list(replayed) == ["run_dir", "ticks", "cycles", *DIGESTS, "equal", "differing", "first_difference"]
    assert digests(replayed) == digests(result)
    assert (replayed["equal"], replayed["differing"], replayed["first_difference"]) == (True, [], None)
    assert "equal to the recorded run" in command("replay", path).out


def test_replay_can_keep_its_tables(good) -> None:
    path, _ = good
    command("replay", path, "--out", "kept")
    assert answer("compare", path, "kept") == {"equal": True, "difference": None}
    assert pq.read_table("kept/ticks.parquet").equals(pq.read_table(path / "ticks.parquet"))


def test_compare(good) -> None:
    path, _ = good
    shutil.copytree(path, "same")
    said = command("compare", path, "same")
    assert (said.status, said.out, said.err) == (0, "The runs are equal.\n", "")
    answer("run", "idle", "--duration", "2", "--set", "heartbeat.t0_ns=50000000", "--seed", "2", "--out", "other")
    difference = answer("compare", path, "other", status=1)["difference"]
    assert set(difference) == {"table", "row", "column", "a", "b", "time_ns", "note"}
    assert difference["table"] in ("ticks", "control")
    assert difference["row"] is not None
    assert difference["a"] != difference["b"]
    said = command("compare", path, "other")
    assert said.status == 1
    row, column = difference["row"], difference["column"]
    assert said.out == f"{difference['table']}, row {row}, {column}: {difference['a']} and {difference['b']}\n"


@pytest.mark.parametrize("form", ["csv", "json", "parquet"])
def test_export(good, form: str) -> None:
    path, result = good
    written = [Path(name) for name in answer("export", path, "--format", form, "--out", "out")["files"]]
    assert written == [Path(f"out/ticks.{form}"), Path(f"out/control.{form}")]
    for file, rows in zip(written, (result["ticks"], 20), strict=True):
        if form == "csv":
            with file.open(newline="") as text:
                table = list(csv.DictReader(text))
        elif form == "json":
            table = json.loads(file.read_text())
        else:
            table = pq.read_table(file).to_pylist()
        assert len(table) == rows
        assert "tick_jitter_ns" in table[0] or "cpu_temp_millicelsius" in table[0]
    shutil.copytree(path, "copy")
    said = command("export", "copy")
    assert said.out.splitlines() == ["copy/export/ticks.csv", "copy/export/control.csv"]
    # A run with exports may be run again.
    again = ("run", "idle", "--duration", "2", "--set", "heartbeat.t0_ns=50000000", "--out", "copy")
    assert command(*again).status == 0


def test_scenarios() -> None:
    found = answer("scenarios")["scenarios"]
    assert [item["name"] for item in found] == sorted(shipped())
    assert all(item["description"] and item["duration_seconds"] > 0 for item in found)
    assert all(name in command("scenarios").out for name in shipped())


def test_status_has_ten_steps(place: Path) -> None:
    answer("run", "idle", *BRIEF, "--backend", "lockstep", "--root", "tree", "--out", "run")
    result = answer("status", "--root", "tree")
    assert result["version"] == __version__
    assert [step["name"] for step in result["steps"]] == STEPS
    assert all(step["ready"] and step["found"] for step in result["steps"])
    Path("empty").mkdir()
    steps = {step["name"]: step for step in answer("status", "--root", "empty")["steps"]}
    assert [name for name, step in steps.items() if not step["ready"]] == STEPS[4:-1]
    assert all("off: " in step["found"][0] for step in steps.values() if not step["ready"])
    lines = command("status", "--root", "tree").out.splitlines()
    assert [line.split()[0] for line in lines if not line.startswith("   ")] == [str(n) for n in range(1, 11)]


def test_doctor() -> None:
    Path("empty").mkdir()
    with unchanged(Path()):
        result = answer("doctor", "--root", "empty")
    assert result["healthy"] is True
    assert all(set(finding) == {"needed", "missing", "mend"} for finding in result["findings"])
    assert any("temperature sensors" in finding["missing"] for finding in result["findings"])
    assert "What is missing" in command("doctor", "--root", "empty").out


@pytest.mark.parametrize("backend", ["simulated", "linux", "lockstep", "replay"])
def test_check_passes_on_every_backend(backend: str) -> None:
    arguments = []
    if backend == "linux":
        answer("run", "idle", *BRIEF, "--backend", "lockstep", "--root", "tree", "--out", "run")
        arguments = ["--root", "tree"]
    result = answer("check", backend, *arguments)
    assert result["backend"] == backend
    assert result["passed"] is True
    assert len(result["checks"]) >= 8
    assert all(set(check) == {"name", "passed", "detail"} for check in result["checks"])


def test_help_names_every_command() -> None:
    said = command("--help")
    assert said.status == 0
    assert "COMMAND" in said.out
    for name in ("run", "replay", "compare", "export", "status", "check", "scenarios", "benchmark", "doctor"):
        assert re.search(rf"^ +{name}\s", said.out, re.MULTILINE)
        assert command(name, "--help").status == 0
    assert command("--version").out == f"pulsetwin {__version__}\n"


def test_as_a_module_and_as_a_program() -> None:
    module = [PYTHON, "-m", "twin"]
    program = [str(Path(sys.executable).parent / "twin")]
    for words in (module, program):
        if not Path(words[0]).exists():
            pytest.skip("the package is not installed beside this Python")
        began = time.perf_counter()
        done = subprocess.run([*words, "--help"], capture_output=True, text=True, check=True)
        print(f"{' '.join(words[1:]) or 'twin'} --help took {time.perf_counter() - began:.3f} s")
        assert done.stdout.startswith("usage: twin")
        done = subprocess.run([*words, "scenarios", "--json"], capture_output=True, text=True, check=True)
        assert json.loads(done.stdout)["scenarios"]
    modules = "import sys, twin.cli; print(*sys.modules)"
    loaded = subprocess.run([PYTHON, "-c", modules], capture_output=True, text=True, check=True).stdout.split()
    assert not {"numpy", "numba", "simpy", "pydantic", "pyarrow", "rich"} & set(loaded)


def test_nothing_but_the_run_directory_is_written(place: Path) -> None:
    command("run", "idle", *BRIEF, "--out", "run")
    assert {name.partition("/")[0] for name in files_below(place)} == {"run"}
