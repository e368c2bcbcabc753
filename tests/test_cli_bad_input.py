"""Bad input and a failing machine, as a stranger meets them: one clear message, the right status, nothing written."""

from __future__ import annotations

import gzip
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from commands import BRIEF, PYTHON, Said, answer, command, interpreted, refused, unchanged

from twin.record.seamformat import PREFIX, START, U32

ROOT = os.geteuid() == 0
SCENARIO = """
    nam = "x"
    seed = -3
    [machine]
    ambient_celsius = 297.15
    [[machine.fans]]
    name = "a"
    initial_pwm = 300
    [recording]
    ticks = "some"
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to be in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete run. Tests copy it before they break it."""
    path = tmp_path_factory.mktemp("good") / "run"
    answer("run", "idle", *BRIEF, "--out", path)
    return path


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A machine as files, for the linux backend."""
    path = tmp_path_factory.mktemp("machine") / "tree"
    answer("run", "idle", *BRIEF, "--backend", "lockstep", "--root", path, "--out", path.parent / "run")
    return path


# --- scenarios and options --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["run"], ["twin run: the following arguments are required: SCENARIO"]),
        (["run", "nowhere.toml"], ["nowhere.toml: is neither a shipped scenario nor a file; shipped are burst"]),
        (["run", "gamign"], ["did you mean gaming?"]),
        (["run", "."], [".: is a folder, not a file"]),
        (["run", "x" * 5_000], ["cannot be read: File name too long"]),
        (["run", "latin.toml"], ["latin.toml: is not UTF-8 text (line 1); save it as UTF-8"]),
        (["run", "syntax.toml"], ["syntax.toml: TOML syntax:", "at line 2, column 7", "in 'name ='"]),
        (["run", "wrong.toml"], [
            "wrong.toml: 5 errors", "nam: unknown key; did you mean name?", "seed = -3: allowed are whole numbers from",
            "machine.ambient_celsius = 297.15: allowed are numbers from -60 to 200",
            "machine.fans[0].initial_pwm = 300: allowed are whole numbers from 0 to 255",
            "recording.ticks = 'some': allowed are all, every:N, ends:M, sample:N, ends:M+sample:N and none",
        ]),
        (["run", "idle", "--set", "machine.nodes.0.capacity_joules_per_kelvin=-1"],
         ["capacity_joules_per_kelvin = -1: allowed are numbers from 0.001", "(from the command line)"]),
        (["run", "idle", "--set", "machine.ambient_celsius=nan"], ["idle.toml: machine.ambient_celsius = NaN"]),
        (["run", "idle", "--set", "machine.nodes.0.capacity_joules_per_kelvin=0.001",
          "--set", "machine.edges.0.still_watts_per_kelvin=1e9"],
         ["thermal node 'cpu_die' has 0.001 J/K", "give it more capacity or shorten step_ms"]),
        (["run", "idle", "--set", "nonsense"], ["--set 'nonsense': write key.path=value"]),
        (["run", "idle", "--set", "workload.phases.7.name=x"], ["workload.phases.7 is not a table or an entry"]),
        (["run", "idle", "--seed", "-1"], ["seed = -1: allowed are whole numbers from 0", "(from the command line)"]),
        (["run", "idle", "--seed", "1.5"], ["argument --seed: '1.5' is not a whole number"]),
        (["run", "idle", "--seed", "one"], ["argument --seed: 'one' is not a whole number"]),
        (["run", "idle", "--seed", "9" * 5_000], ["argument --seed: '999", "is not a whole number"]),
        (["run", "idle", "--duration", "0"], ["argument --duration: '0' is not a number of seconds from 0.001 to"]),
        (["run", "idle", "--duration", "-1"], ["'-1' is not a number of seconds"]),
        (["run", "idle", "--duration", "abc"], ["'abc' is not a number of seconds"]),
        (["run", "idle", "--duration", "nan"], ["'nan' is not a number of seconds"]),
        (["run", "idle", "--backend", "magic"], ["argument --backend: invalid choice: 'magic'", "lockstep"]),
        (["run", "idle", "--law", "magic"], ["argument --law: invalid choice: 'magic'", "adaptive"]),
        (["run", "idle", "--config", '1"2'], ["heartbeat.config = ", "(from the command line)"]),
        (["run", "idle", "--config", ""], ["heartbeat.config = ", "(from the command line)"]),
        (["run", "idle", "--config", "1_1_1_0_0"], ["heartbeat.config = '1_1_1_0_0': write six flags for L1 to L6"]),
        (
            ["run", "idle", "--ticks", "some"],
            ["recording.ticks = 'some': allowed are all, every:N, ends:M, sample:N, ends:M+sample:N and none"],
        ),
        (["run", "idle", "--act"], ["--act goes with --backend linux"]),
        (["run", "idle", "--load", "--backend", "lockstep"], ["--load goes with --backend linux"]),
        (["run", "idle", "--root", "."], ["--root goes with --backend linux or lockstep"]),
        (["run", "idle", "--backend", "linux", "--root", "nowhere"], ["--root nowhere: is not a folder"]),
        (["run", "idle", "--backend", "lockstep", "--root", "wrong.toml"], ["--root wrong.toml: is a file"]),
        (["run", "idle", "--backend", "lockstep", "--root", "/"], ["--root: a tree cannot be rendered at /"]),
        (["run", "idle", "--backend", "lockstep", "--root", "foreign"], ["--root: foreign has sys that no tree of"]),
        (["run", "idle", "--out", ""], ["argument --out: the name of a folder is needed"]),
        (["run", "idle", "--out", "foreign"], ["foreign: has 'sys', which belongs to no run; name another directory"]),
        (["run", "idle", "--out", "wrong.toml"], ["wrong.toml: is a file; name a directory (--out)"]),
        (["run", "idle", "--out", "wrong.toml/run"], ["wrong.toml/run: making the run directory failed: Not a dir"]),
        (["run", "idle", "--out", "x" * 300], ["making the run directory failed: File name too long"]),
        (["frobnicate"], ["argument COMMAND: invalid choice: 'frobnicate'", "twin --help shows what there is"]),
        ([], ["the following arguments are required: COMMAND"]),
        (["check", "magic"], ["invalid choice: 'magic'"]),
        (["check", "simulated", "--root", "."], ["--root goes with the linux backend"]),
        (["check", "linux", "--root", "nowhere"], ["'nowhere' is not a folder; name one that holds sys and proc"]),
        (["status", "--root", "nowhere"], ["'nowhere' is not a folder"]),
        (["doctor", "--root", "wrong.toml"], ["'wrong.toml' is not a folder"]),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else None,
)  # fmt: skip
def test_bad_input(place: Path, arguments: list[str], parts: list[str]) -> None:
    (place / "latin.toml").write_bytes(b'name = "caf\xe9"')
    (place / "syntax.toml").write_text("seed = 1\nname =\n")
    (place / "wrong.toml").write_text(SCENARIO)
    (place / "foreign" / "sys").mkdir(parents=True)
    with unchanged(place):
        refused(2, parts, command(*arguments))


@pytest.mark.parametrize("value", ["", "no tree", "a.b", "../x", "x/y\nz", "\x1b[31m", "é" * 64, "."])
def test_whatever_a_scenario_is_called_its_runs_lie_in_runs(place: Path, value: str) -> None:
    said = command("run", "idle", *BRIEF, "--json", "--set", f"name={json.dumps(value)}")
    if value == "":
        refused(2, ['name = "": allowed are texts of 1 to 64 characters'], said)
    else:
        assert said.status == 0, said.err
        assert [path.name for path in place.iterdir()] == ["runs"]
        assert Path(json.loads(said.out)["run_dir"]).parent == Path("runs")


def test_runs_is_a_file(place: Path) -> None:
    (place / "runs").write_text("mine")
    with unchanged(place):
        refused(2, ["runs: making the directory failed", "it is a file"], command("run", "idle", *BRIEF))


def test_a_directory_with_a_run_is_taken_by_the_same_run_only(place: Path, good: Path) -> None:
    shutil.copytree(good, "taken")
    with unchanged(place):
        said = command("run", "idle", *BRIEF, "--seed", "2", "--out", "taken")
        refused(2, ["taken: has a different run, with key", "name another directory (--out)"], said)
    assert command("run", "idle", *BRIEF, "--out", "taken").status == 0
    (place / "taken" / "manifest.json").unlink()
    with unchanged(place):
        said = command("run", "idle", *BRIEF, "--out", "taken")
        refused(2, ["taken: has an unfinished run; name another directory (--out), or delete it"], said)


def test_kernels_that_do_not_exist(place: Path) -> None:
    environment = {**os.environ, "TWIN_KERNELS": "nonsense"}
    run = partial(subprocess.run, env=environment, capture_output=True, text=True, check=False)
    done = run([PYTHON, "-m", "twin", "run", "idle", *BRIEF])
    refused(2, ["TWIN_KERNELS is 'nonsense'; allowed are python and numba"], said_by(done))
    assert not list(place.iterdir())
    # What needs no kernel works, and says so.
    done = run([PYTHON, "-m", "twin", "status", "--json"])
    kernels = next(step for step in json.loads(done.stdout)["steps"] if step["name"] == "kernels")
    assert not kernels["ready"]
    assert "TWIN_KERNELS is 'nonsense'" in kernels["found"][0]


def said_by(done: subprocess.CompletedProcess[str]) -> Said:
    return Said(done.returncode, done.stdout, done.stderr)


# --- controllers ------------------------------------------------------------------------------------------------------

CONTROLLERS = """
import sys
from twin.control.view import Decision

class Steady:
    def decide(self, view):
        return Decision("noop", "rules", "as it is", {})

class Broken:
    def decide(self, view):
        raise KeyError("lost")

class Strange:
    def decide(self, view):
        return Decision("explode", "rules", "why not", {})

class Odd:
    def __init__(self, answer):
        self.answer = answer

    def decide(self, view):
        if self.answer == "leave":
            sys.exit(7)
        return self.answer

def answers_nothing(scenario, limits): return Odd(None)
def answers_no_command(scenario, limits): return Odd(Decision("noop", "rules", "x", None))
def answers_no_text(scenario, limits): return Odd(Decision("noop", "rules", None, {}))
def answers_half_a_letter(scenario, limits): return Odd(Decision("noop", "rules", "\\ud800", {}))
def leaves_later(scenario, limits): return Odd("leave")
def steady(scenario, limits): return Steady()
def broken(scenario, limits): return Broken()
def strange(scenario, limits): return Strange()
def nothing(scenario, limits): return None
def raises(scenario, limits): raise RuntimeError("boom")
def leaves(scenario, limits): sys.exit(7)
def takes_none(): return Steady()
value = 3
"""


@pytest.fixture
def controllers(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with modules of somebody's own, forgotten at the end."""
    (place / "controllers_of_mine.py").write_text(CONTROLLERS)
    (place / "syntax_of_mine.py").write_text("def (")
    (place / "boom_of_mine.py").write_text("raise ValueError('at import')")
    (place / "leave_of_mine.py").write_text("import sys; sys.exit(7)")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield place
    for name in [name for name in sys.modules if name.endswith("_of_mine")]:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nowhere_of_mine:x", "ModuleNotFoundError: No module named 'nowhere_of_mine'"),
        ("controllers_of_mine:x", "AttributeError: module 'controllers_of_mine' has no attribute 'x'"),
        ("syntax_of_mine:x", "SyntaxError: "),
        ("boom_of_mine:x", "ValueError: at import"),
        ("leave_of_mine:x", "SystemExit: 7"),
        ("controllers_of_mine:nothing", "it made NoneType, which has no method decide(view)"),
        ("controllers_of_mine:raises", "RuntimeError: boom, when called as raises(scenario, limits)"),
        ("controllers_of_mine:leaves", "SystemExit: 7, when called as leaves(scenario, limits)"),
        ("controllers_of_mine:takes_none", "TypeError: takes_none() takes 0 positional arguments but 2 were given"),
        ("controllers_of_mine:value", "TypeError: 'int' object is not callable"),
        ("controllers_of_mine", "allowed are rules-pid, steady and module:factory"),
        (".:x", "allowed are rules-pid, steady and module:factory"),
    ],
)
def test_controllers_that_cannot_be_had(controllers: Path, name: str, said: str) -> None:
    with unchanged(controllers):
        refused(2, [f"control.controller = '{name}'", said], command(
            "run", "idle", *BRIEF, "--set", f"control.controller={name}"))  # fmt: skip


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("broken", "the controller raised KeyError"),
        ("strange", "the controller answered action 'explode'"),
        ("answers_nothing", "the controller raised TypeError"),
        ("answers_no_command", "the controller raised TypeError"),
        ("answers_no_text", "the controller raised TypeError"),
        ("answers_half_a_letter", "the controller raised UnicodeEncodeError"),
        ("leaves_later", "the controller raised SystemExit"),
    ],
)
def test_a_controller_that_misbehaves_means_full_cooling_and_the_run_goes_on(controllers, name, reason) -> None:
    said = command("run", "idle", *BRIEF, "--out", "run", "--set", f"control.controller=controllers_of_mine:{name}")
    assert said.status == 0
    assert "Traceback" not in said.err
    command("export", "run", "--format", "json")
    rows = json.loads((controllers / "run/export/control.json").read_text())
    assert all(reason in row["reason"] and row["cpu_fan_pwm_applied"] == 255 for row in rows)
    if name == "broken":
        # The screen has one line; where to look for the mistake stands in the log.
        assert said.err == "ERROR the controller raised KeyError; the shield cools fully, and it goes on\n"
        assert 'raise KeyError("lost")' in (controllers / "run/run.log").read_text()
    assert answer("replay", "run")["equal"] is True


def test_another_version_of_a_controller_is_another_run(controllers: Path) -> None:
    words = ("run", "idle", *BRIEF, "--out", "run", "--set", "control.controller=controllers_of_mine:steady")
    assert command(*words).status == command(*words).status == 0
    file = controllers / "controllers_of_mine.py"
    file.write_text(file.read_text() + "\n# changed\n")
    refused(2, ["run: has a different run"], command(*words))


def test_a_controller_of_ones_own_is_found_where_one_works(controllers: Path) -> None:
    assert answer("run", "idle", *BRIEF, "--set", "control.controller=controllers_of_mine:steady")["ticks"] > 0


# --- recordings that drive the world ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (None, ["drive.csv: the trace of the scenario is not there", "workload.trace.file names it"]),
        (b"", ["drive.csv, line 1: there is no column 't_s'; the file has: nothing"]),
        (b"t_s,load\n", ["drive.csv: no samples below the header"]),
        (b"time,load\n0,1\n", ["line 1: there is no column 't_s'; the file has: time, load"]),
        (b"t_s,load,load\n0,1,2\n", ["line 1: column 'load' is there more than once"]),
        (b"t_s,load\n0,1\n1,x\n", ["line 3, column load: 'x' is not a number"]),
        (b"t_s,load\n0,1\n1,101\n", ["line 3, column load: '101' is out of range; allowed are 0 to 100 percent"]),
        (b"t_s,load\n0,1\n1,nan\n", ["line 3, column load: 'nan' is out of range"]),
        (b"t_s,load\n0,1\n1,1e999999999\n", ["line 3, column load: '1e999999999' is out of range"]),
        (b"t_s,load\n0,1\n0,2\n", ["line 3, column t_s: '0' is not later than the line before"]),
        (b"t_s,load\n0,1\n-1,2\n", ["line 3, column t_s: '-1' is out of range"]),
        (b"t_s,load\n0,1\n1\n", ["line 3, column t_s: 2 cells are needed, and the line has 1, up to '1'"]),
        (b"t_s,load\n0,1\n1,2,3\n", ["line 3, column load: 2 cells are needed, and the line has 3"]),
        (b"t_s,load\n0,\xff\n", ["drive.csv: not a readable CSV file", "save it as UTF-8"]),
        (b't_s,load\n0,"1\n', ["line 2, column load: '1\\n' is not a number"]),
    ],
    ids=lambda value: repr(value)[:40] if not isinstance(value, list) else None,
)  # fmt: skip
def test_recordings_that_cannot_drive(place: Path, content: bytes | None, parts: list[str]) -> None:
    (place / "driven.toml").write_text("[workload.trace]\nfile = 'drive.csv'\ncpu_load_column = 'load'\n")
    if content is not None:
        (place / "drive.csv").write_bytes(content)
    if parts == ["line 2, column load: '1\\n' is not a number"]:
        # A number may have white space around it, so this one is good.
        assert answer("run", "driven.toml", *BRIEF, "--out", "run")["ticks"] > 0
        return
    with unchanged(place):
        refused(2, parts, command("run", "driven.toml", *BRIEF))


def test_compressed_recordings_that_cannot_drive(place: Path) -> None:
    (place / "driven.toml").write_text("[workload.trace]\nfile = 'drive.csv.gz'\ncpu_load_column = 'load'\n")
    whole = gzip.compress(b"t_s,load\n" + b"".join(b"%d,%d\n" % (i, i % 100) for i in range(2_000)))
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 4
    for content in (b"no gzip", whole[:-20], whole[: len(whole) // 2], bytes(flipped)):
        (place / "drive.csv.gz").write_bytes(content)
        with unchanged(place):
            said = command("run", "driven.toml", *BRIEF)
            assert said.status == 2
            assert "drive.csv.gz" in said.err
            assert "Traceback" not in said.err
    (place / "drive.csv.gz").write_bytes(whole)
    result = answer("run", "driven.toml", *BRIEF, "--out", "run")
    assert answer("replay", "run")["run_digest"] == result["run_digest"]
    (place / "run" / "trace.csv.gz").unlink()
    refused(2, ["workload.trace.file", "trace.csv.gz", "cannot be read: No such file"], command("replay", "run"))


def test_a_recording_that_drives_nothing(place: Path) -> None:
    (place / "driven.toml").write_text("[workload.trace]\nfile = 'drive.csv'\n")
    (place / "drive.csv").write_text("t_s,load\n0,1\n")
    refused(2, ["drive.csv: no column drives anything; name a load or power column"], command("run", "driven.toml"))


# --- things that are no run -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["replay", "X"], ["export", "X"], ["compare", "X", "GOOD"],
                                       ["compare", "GOOD", "X"]], ids=" ".join)  # fmt: skip
def test_what_is_no_run(place: Path, good: Path, arguments: list[str]) -> None:
    (place / "file").write_text("x")
    (place / "empty").mkdir()
    for name, part in (
        ("nowhere", "nowhere: is not a directory; name the directory of a run"),
        ("file", "file: is not a directory"),
        ("empty", "empty: is not a run directory: it has neither manifest.json nor seam.log"),
    ):
        with unchanged(place):
            words = [{"X": name, "GOOD": str(good)}.get(word, word) for word in arguments]
            refused(2, [part], command(*words))


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("manifest.json", b"{", "manifest.json: is not JSON"),
        ("manifest.json", b"[]", "manifest.json: is JSON, but not an object"),
        ("manifest.json", b"{}", "manifest.json: has schema None; this program reads 'run/1'"),
        ("manifest.json", b'{"schema": "run/1", "digests": 3}', "manifest.json: has no table of digests"),
        ("manifest.json", b"\xff", "manifest.json: is not JSON"),
        ("ticks.parquet", b"PAR1", "ticks.parquet: has 4 bytes, and the manifest says"),
    ],
)
def test_runs_with_damaged_files(place: Path, good: Path, name: str, content: bytes, part: str) -> None:
    shutil.copytree(good, "run")
    (place / "run" / name).write_bytes(content)
    commands = [["export", "run"], ["compare", "run", str(good)]]
    for arguments in commands if name == "ticks.parquet" else [*commands, ["replay", "run"]]:
        with unchanged(place):
            refused(2, [part], command(*arguments))


def test_tables_that_are_missing_or_none(place: Path, good: Path) -> None:
    shutil.copytree(good, "run")
    (place / "run" / "manifest.json").unlink()
    (place / "run" / "ticks.parquet").write_bytes(b"junk")
    refused(2, ["run/ticks.parquet: is not a Parquet file"], command("export", "run"))
    (place / "run" / "ticks.parquet").unlink()
    part = "run: has no ticks.parquet; the run was cut short; twin replay --out DIR brings back its tables"
    refused(2, [part], command("export", "run"))
    # And it does.
    assert command("replay", "run", "--out", "again").status == 0
    assert answer("compare", "again", good)["equal"] is True
    with unchanged(place):
        refused(
            2, ["again: is not empty; name an empty folder, or a new one"], command("replay", "run", "--out", "again")
        )
    (place / "run" / "seam.log").unlink()
    shutil.copy(good / "manifest.json", "run")
    refused(2, ["run: has no seam.log, without which a run cannot be replayed"], command("replay", "run"))


def test_places_that_an_export_cannot_go_to(place: Path, good: Path) -> None:
    (place / "file").write_text("x")
    with unchanged(place):
        refused(2, ["file: making the directory failed"], command("export", good, "--out", "file"))
        refused(2, ["is the run's own table"], command("export", good, "--format", "parquet", "--out", good))
        refused(2, ["argument --format: invalid choice: 'xml'"], command("export", good, "--format", "xml"))


# --- logs -------------------------------------------------------------------------------------------------------------


def records(log: bytes) -> list[tuple[int, int]]:
    """First and last byte of each record."""
    found = []
    at = START
    while at < len(log):
        end = at + PREFIX.size + PREFIX.unpack_from(log, at)[0] + U32.size
        found.append((at, end))
        at = end
    return found


def test_a_log_of_another_version(place: Path, good: Path) -> None:
    shutil.copytree(good, "run")
    log = bytearray((good / "seam.log").read_bytes())
    log[8] = 9
    (place / "run" / "seam.log").write_bytes(log)
    refused(2, ["run/seam.log: is a seam log of version 9; this program reads version 1"], command("replay", "run"))
    (place / "run" / "seam.log").write_bytes(b"something else altogether")
    refused(2, ["run/seam.log:", "does not begin as a seam log does"], command("replay", "run"))


def test_a_truncated_log_of_a_complete_run_is_refused_and_names_the_last_good_record(place: Path, good: Path) -> None:
    shutil.copytree(good, "run")
    log = (good / "seam.log").read_bytes()
    ends = records(log)
    # The last record, the end, is lost; and the one before is cut in the middle.
    for cut, last in ((ends[-2][1], len(ends) - 2), (ends[-2][1] - 5, len(ends) - 3)):
        (place / "run" / "seam.log").write_bytes(log[:cut])
        with unchanged(place):
            said = command("replay", "run")
            refused(
                2, ["run/seam.log: the run was complete, but its log is truncated", f"good up to record {last} ("], said
            )
    for cut in (0, 5, START, START + 40):
        (place / "run" / "seam.log").write_bytes(log[:cut])
        refused(2, ["run/seam.log", "take the file from a copy, or run again"], command("replay", "run"))


def test_a_flipped_bit_is_named_exactly(place: Path, good: Path) -> None:
    shutil.copytree(good, "run")
    log = (good / "seam.log").read_bytes()
    for number in range(0, len(log) * 8, len(log) * 8 // 40):
        byte, bit = divmod(number, 8)
        flipped = bytearray(log)
        flipped[byte] ^= 1 << bit
        (place / "run" / "seam.log").write_bytes(flipped)
        said = command("replay", "run")
        assert said.status == 2, said
        assert "Traceback" not in said.err
        if not 8 <= byte < START:
            assert f"byte {byte} bit {bit}" in said.err, said.err


def test_a_changed_reading_with_a_good_checksum_is_the_first_difference(place: Path, good: Path) -> None:
    """One bit of one value, checksum and all: only the replay can tell, and it says where."""
    shutil.copytree(good, "run")
    log = (good / "seam.log").read_bytes()
    cycles = [(start, end) for start, end in records(log) if log[start + 4] == 3]
    command("export", good, "--format", "json", "--out", "plain")
    plain = json.loads((place / "plain" / "control.json").read_text())
    channels = [name for name in plain[0] if f"{name}_status" in plain[0]]
    for cycle, name in ((2, "case_temp_millicelsius"), (5, "cpu_temp_millicelsius"), (7, "cpu_energy_microjoules"),
                        (9, "words_offered_per_second")):  # fmt: skip
        start, end = cycles[cycle]
        changed = bytearray(log)
        changed[start + PREFIX.size + 32 + len(channels) + 8 * channels.index(name)] ^= 1
        changed[end - 4 : end] = U32.pack(zlib.crc32(changed[start : end - 4]))
        (place / "run" / "seam.log").write_bytes(changed)
        result = answer("replay", "run", status=1)
        value = plain[cycle][name]
        assert result["first_difference"] == f"control, row {cycle}, {name}: {value} and {value ^ 1}"
        assert result["equal"] is False
        assert "control_digest" in result["differing"]
        assert "run_digest" in result["differing"]
    said = command("replay", "run")
    assert said.status == 1
    assert "DIFFERENT" in said.out


# --- the real machine -------------------------------------------------------------------------------------------------


def test_two_chips_that_match_are_an_error_that_lists_both(place: Path, tree: Path) -> None:
    shutil.copytree(tree, "tree", symlinks=True)
    first = place / "tree" / "sys/devices/platform/coretemp.0"
    second = first.with_name("coretemp.1")
    shutil.copytree(first, second, symlinks=True)
    (place / "tree/sys/class/hwmon/hwmon9").symlink_to("../../devices/platform/coretemp.1/hwmon/hwmon0")
    with unchanged(place):
        refused(2, ["cpu_temp_millicelsius", "coretemp.0", "coretemp.1", "name the one you mean in the scenario"],
                command("run", "idle", *BRIEF, "--backend", "linux", "--root", "tree"))  # fmt: skip
    steps = {step["name"]: step for step in answer("status", "--root", "tree")["steps"]}
    assert not steps["temperatures"]["ready"]
    assert "coretemp.1" in " ".join(steps["temperatures"]["found"])


@pytest.fixture(scope="module")
def stopped(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Said]]:
    """Six runs, each stopped in the middle by a signal: where they are, and what they said."""
    place = tmp_path_factory.mktemp("stopped")
    machine = ("--backend", "linux", "--root", tree, "--set", "heartbeat.t0_ns=10000000")
    running: dict[str, tuple[subprocess.Popen[str], signal.Signals]] = {}
    for kind, options in (("linux", machine), ("simulated", ())):
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            name = f"{kind} {number.name}"
            words = [PYTHON, "-m", "twin", "run", "steps", "--duration", "100000", "--json", *options,
                     "--out", place / name]  # fmt: skip
            process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            running[name] = process, number
    found = {}
    header_bytes: dict[str, int] = {}
    until = time.monotonic() + 120
    while running:
        assert time.monotonic() < until
        time.sleep(0.02)
        for name, (process, number) in list(running.items()):
            assert process.poll() is None, process.communicate()
            log = place / name / "seam.log"
            # The log gets its name with its header in it, and grows once in a second of the run.
            size = log.stat().st_size if log.exists() else 0
            if size > header_bytes.setdefault(name, size) > 0:
                process.send_signal(number)
                out, err = process.communicate(timeout=60)
                found[name] = place / name, Said(process.returncode, out, err)
                del running[name]
            elif size:
                header_bytes[name] = min(size, header_bytes[name] or size)
    return found


@pytest.mark.parametrize("kind", ["simulated", "linux"])
@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
def test_a_run_that_is_interrupted_is_complete_up_to_there(stopped, kind: str, number: str) -> None:
    path, said = stopped[f"{kind} {number}"]
    assert said.status == 130
    assert said.err == ""
    result = json.loads(said.out)
    assert 0 < result["simulated_seconds"] < 100_000
    replayed = answer("replay", path)
    assert replayed["equal"] is True
    assert replayed["run_digest"] == result["run_digest"]
    assert replayed["ticks"] == result["ticks"]
    assert "stopped after" in (path / "run.log").read_text()


@pytest.mark.parametrize("kind", ["simulated", "linux"])
def test_a_run_that_is_killed_replays_up_to_its_last_good_record(stopped, kind: str) -> None:
    path, said = stopped[f"{kind} SIGKILL"]
    assert said.status == -signal.SIGKILL
    assert not (path / "manifest.json").exists()
    replayed = command("replay", path, "--json")
    assert replayed.status == 0
    assert "the run was cut short; replaying up to record" in replayed.err
    result = json.loads(replayed.out)
    assert result["equal"] is None
    assert result["ticks"] > 0
    assert result["cycles"] >= 10


def test_an_interrupt_of_the_whole_group_leaves_no_noise_and_no_worker(place: Path, tree: Path) -> None:
    """As Ctrl-C at a terminal does it: the processes that make load get the signal too."""
    port = tree / "run/pulsetwin-application/values"
    port.unlink()
    words = [PYTHON, "-m", "twin", "run", "idle", "--duration", "100", "--backend", "linux", "--root", tree, "--load",
             "--json", "--out", place / "run", "--set", "heartbeat.t0_ns=10000000"]  # fmt: skip
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    until = time.monotonic() + 60
    while "game_state_code" not in (port.read_text() if port.exists() else ""):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == ""
    assert json.loads(out)["backend"] == "linux"
    assert not port.exists()
    # What the interpreter itself keeps for its children goes a moment later.
    while alive(process.pid):
        assert time.monotonic() < until
        time.sleep(0.02)


def alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


# --- disks and permissions --------------------------------------------------------------------------------------------


def limited(words: list[object], limit_bytes: int, cwd: Path) -> Said:
    """A command in a process whose files cannot grow beyond a limit."""
    done = subprocess.run(
        [PYTHON, "-m", "twin", *map(str, words)],
        env=interpreted(), cwd=cwd, capture_output=True, text=True, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes)),
    )  # fmt: skip
    return said_by(done)


def test_a_disk_that_is_full_ends_a_real_run_cleanly(place: Path, tree: Path) -> None:
    shutil.copytree(tree, "tree", symlinks=True)
    outputs = {
        path: path.read_bytes()
        for pattern in ("pwm*", "power*_cap", "scaling_max_freq", "*_limit_uw")
        for path in (place / "tree").rglob(pattern)
        if path.is_file()
    }
    assert len(outputs) >= 6
    said = limited(["run", "idle", "--duration", "60", "--backend", "linux", "--root", "tree", "--act", "--out", "run",
                    "--quiet", "--set", "heartbeat.t0_ns=50000000"], 15_200, place)  # fmt: skip
    refused(3, ["run/seam.log: writing the seam log failed: File too large; saved are", "and 11 cycles, to 1.000 s",
                "raise the file size limit (ulimit -f)"], said)  # fmt: skip
    assert {path: path.read_bytes() for path in outputs} == outputs
    assert "cut short" in (place / "run" / "run.log").read_text()
    assert answer("replay", "run")["cycles"] == 11


@pytest.mark.parametrize("limit_bytes", [1_000, 5_000, 6_500, 30_000])
def test_a_limit_on_files_ends_a_simulated_run_cleanly(place: Path, limit_bytes: int) -> None:
    said = limited(["run", "idle", "--quiet", "--duration", "60", "--out", "run", "--set", "heartbeat.t0_ns=100000000"],
                   limit_bytes, place)  # fmt: skip
    refused(3, ["run/", "failed: File too large", "raise the file size limit (ulimit -f)"], said)
    if limit_bytes == 30_000:
        assert answer("replay", "run")["cycles"] > 10


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 128 KiB."""
    path = tmp_path / "disk"
    path.mkdir()
    if not ROOT:
        pytest.skip("only root may mount a small file system")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "none", path], check=False).returncode != 0:
        pytest.skip("this machine does not let us mount a small file system")
    yield path
    subprocess.run(["umount", path], check=True)


def test_a_full_disk_ends_a_simulated_run_cleanly(small_disk: Path) -> None:
    words = (
        "run",
        "idle",
        "--quiet",
        "--duration",
        "60",
        "--set",
        "heartbeat.t0_ns=100000000",
        "--out",
        small_disk / "run",
    )
    refused(3, ["run/seam.log: writing the seam log failed: No space left on device; saved are", "free some space"],
            command(*words))  # fmt: skip
    assert answer("replay", small_disk / "run")["cycles"] > 10
    # Full from the start: nothing begins, and nothing is left that looks like a run.
    size = os.statvfs(small_disk)
    (small_disk / "filler").write_bytes(bytes(size.f_bavail * size.f_frsize))
    refused(3, ["No space left on device"], command("run", "idle", *BRIEF, "--out", small_disk / "other"))
    refused(2, ["is not a run directory"], command("replay", small_disk / "other"))


def test_nowhere_to_print_to(place: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([PYTHON, "-m", "twin", "scenarios"], stdout=full, stderr=subprocess.PIPE, text=True,
                              check=False)  # fmt: skip
    refused(3, ["standard output: No space left on device"], Said(done.returncode, "", done.stderr))


@pytest.mark.parametrize("words", [["scenarios"], ["scenarios", "--json"], ["--help"], ["run", "idle", *BRIEF]])
def test_nobody_reads_what_is_printed(place: Path, words: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [PYTHON, "-m", "twin", *words], stdout=writer, stderr=subprocess.PIPE, text=True, check=False, cwd=place
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_there_is_no_standard_output() -> None:
    done = subprocess.run(["sh", "-c", f"{PYTHON} -m twin scenarios >&-"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture
def stranger() -> Iterator[tuple[Path, list[str]]]:
    """A folder that everybody may enter, and what runs a command as a user who may do nothing."""
    with tempfile.TemporaryDirectory(prefix="twin-test-") as folder:
        path = Path(folder)
        path.chmod(0o755)
        prefix: list[str] = []
        if ROOT:
            if shutil.which("setpriv") is None:
                pytest.skip("root may read everything, and setpriv, which makes one another user, is not there")
            prefix = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        if subprocess.run([*prefix, PYTHON, "-c", "import twin.cli.run"], env=interpreted(), cwd=path,
                          capture_output=True, check=False).returncode != 0:  # fmt: skip
            pytest.skip("another user cannot run this Python")
        yield path, prefix


def test_without_permission(stranger: tuple[Path, list[str]], good: Path) -> None:
    place, prefix = stranger

    def as_stranger(*words: object) -> Said:
        done = subprocess.run(
            [*prefix, PYTHON, "-m", "twin", *map(str, words)],
            env=interpreted(), cwd=place, capture_output=True, text=True, check=False,
        )  # fmt: skip
        return said_by(done)

    shutil.copytree(good, place / "run")
    (place / "secret.toml").write_text("seed = 1\n")
    (place / "secret.toml").chmod(0)
    (place / "locked").mkdir(mode=0)
    (place / "run/seam.log").chmod(0)
    place.chmod(0o555)
    try:
        with unchanged(place):
            refused(2, ["secret.toml: cannot be read: Permission denied"], as_stranger("run", "secret.toml"))
            refused(3, ["runs: making the directory failed: Permission denied", "choose a place that this user may"],
                    as_stranger("run", "idle", *BRIEF))  # fmt: skip
            refused(3, ["new: making the run directory failed: Permission denied"],
                    as_stranger("run", "idle", *BRIEF, "--out", "new"))  # fmt: skip
            refused(3, ["locked", "Permission denied"], as_stranger("replay", "locked"))
            refused(3, ["run/seam.log: reading the seam log failed: Permission denied"], as_stranger("replay", "run"))
            refused(3, ["run/export: making the directory failed: Permission denied"], as_stranger("export", "run"))
    finally:
        place.chmod(0o755)
        (place / "locked").chmod(0o755)
