"""`--act`, `twin restore` and `twin status` around a guardian's journal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from commands import answer, command
from guarding import MODE, bench, build, shown, until
from hardware_fakes import DESKTOP, contents, put

from hardware.journal import FOLDER, Journal
from hardware.linux.tree import SysTree

ACT = ("run", "idle", "--quiet", "--duration", "1", "--backend", "linux", "--act", "--out", "run",
       "--set", "heartbeat.t0_ns=50000000", "--set", "heartbeat.words=10")  # fmt: skip


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("hardware.guardian.privileged", list)
    return tmp_path


def abandoned(root: Path) -> dict[str, int]:
    """A machine whose guardian was killed in the middle; returns what was there before."""
    before = shown(build(root))
    with bench(root) as guarded:
        guarded.run(1_000)
    assert shown(root) != before
    return before


def test_what_was_left_is_seen_and_given_back_by_hand(tmp_path: Path) -> None:
    before = abandoned(tmp_path / "machine")
    steps = {step["name"]: step["found"] for step in answer("status", "--root", "machine")["steps"]}
    assert "its journal has fan_pwm, plain_pwm, clock, watts, state" in steps["fans"][-1]
    done = answer("restore", "--root", "machine")
    assert done == {
        "found": True, "restored": ["state", "watts", "clock", "plain_pwm", "fan_pwm"], "unrestored": [], "cut": "",
        "forgotten": [],
    }  # fmt: skip
    assert shown(tmp_path / "machine") == before
    assert answer("restore", "--root", "machine")["found"] is False
    assert "nothing has to be given back" in command("restore", "--root", "machine").out
    assert not any("journal" in line for line in answer("status", "--root", "machine")["steps"][5]["found"])


def test_what_cannot_be_given_back_is_said(tmp_path: Path) -> None:
    abandoned(tmp_path / "machine")
    mode = tmp_path / "machine" / MODE
    mode.unlink()
    mode.mkdir()
    with (tmp_path / "machine" / FOLDER / "journal").open("ab") as file:
        file.write(b"more")
    said = command("restore", "--root", "machine")
    assert said.status == 1
    assert "watts: given back" in said.out
    assert "fan_pwm: not given back: not a regular file" in said.out
    assert "what follows its 5 records" in said.out
    assert "it is kept: look at the modes and values of all outputs, then run twin restore --forget journal" in said.out
    done = answer("restore", "--root", "machine", "--forget", "journal", status=1)
    assert done["forgotten"] == ["journal"]
    assert done["unrestored"][0]["output"] == "fan_pwm"
    assert answer("restore", "--root", "machine", status=1)["cut"] == ""
    os.truncate(tmp_path / "machine" / FOLDER / "journal", 0)
    said = command("restore", "--root", "machine")
    assert (said.status, "The journal: is empty: what was to be given back is not known; it is kept" in said.out) == (
        1, True,
    )  # fmt: skip


def test_what_is_gone_for_good_is_let_go_of_by_an_explicit_word(tmp_path: Path) -> None:
    before = abandoned(tmp_path / "machine")
    chip = (tmp_path / "machine" / MODE).parent
    chip.rename(tmp_path / "gone")
    said = command("restore", "--root", "machine")
    assert said.status == 1
    assert "fan_pwm: not given back: the device is gone" in said.out
    assert "if it is gone for good: twin restore --forget fan_pwm" in said.out
    said = command("restore", "--root", "machine", "--forget", "fan", "--forget", "fan_pwm")
    assert (said.status, "--forget fan: not in the journal; fan_pwm, plain_pwm is" in said.err) == (2, True)
    said = command("restore", "--root", "machine", "--forget", "fan_pwm")
    assert (said.status, "fan_pwm: let go of" in said.out) == (1, True)
    (tmp_path / "gone").rename(chip)
    # What is there all the same is given back.
    done = answer("restore", "--root", "machine", "--forget", "plain_pwm")
    assert (done["restored"], done["forgotten"]) == (["plain_pwm"], [])
    assert not (tmp_path / "machine" / FOLDER / "journal").exists()
    assert shown(tmp_path / "machine")[MODE] == 1 != before[MODE]


def test_a_journal_of_another_version_and_a_guardian_that_acts_are_bad_input(tmp_path: Path) -> None:
    put(tmp_path, {f"machine/{FOLDER}/journal": "pulsetwin journal 9"})
    said = command("restore", "--root", "machine")
    assert said.status == 2
    assert "the version that wrote it can restore it" in said.err
    assert "version that wrote it" in str(answer("status", "--root", "machine")["steps"][5])
    build(tmp_path / "other")
    with bench(tmp_path / "other"):
        said = command("restore", "--root", "other")
    assert (said.status, f"process {os.getpid()} acts on this machine already" in said.err) == (2, True)


def test_acting_is_refused_with_one_message_for_each_output(tmp_path: Path) -> None:
    SysTree(tmp_path / "tree", DESKTOP)
    for mode in (tmp_path / "tree").rglob("pwm*_enable"):
        mode.write_text("vendor\n")
    for name in ("scaling_max_freq", "power1_cap", "constraint_0_power_limit_uw"):
        next((tmp_path / "tree").rglob(name)).unlink()
    before = contents(tmp_path / "tree" / "sys")
    said = command(*ACT, "--root", "tree")
    assert said.status == 2
    for name in (limit.name for limit in DESKTOP.outputs):
        assert said.err.count(f"{name}: ") == 1
    assert "cpu_fan_pwm: it cannot be read, so that it could not be given back: not an integer" in said.err
    assert "cpu_max_kilohertz: no cpufreq policy has scaling_max_freq" in said.err
    assert contents(tmp_path / "tree" / "sys") == before
    assert not (tmp_path / "tree" / FOLDER / "journal").exists()


def test_acting_is_refused_where_the_kernel_or_others_act_first(tmp_path: Path) -> None:
    SysTree(tmp_path / "tree", DESKTOP)
    zone = next((tmp_path / "tree/sys/devices/virtual/thermal").iterdir())
    (zone / "trip_point_0_temp").write_text("60000\n")
    said = command(*ACT, "--root", "tree")
    assert said.status == 2
    kind = (zone / "type").read_text().strip()
    assert f"is not below the kernel's critical trip of {kind}@{zone.name} at 60 C; choose a lower limit" in said.err
    (zone / "trip_point_0_type").write_text("active\n")
    put(tmp_path, {"tree/proc/4711/comm": "thermald"})
    said = command(*ACT, "--root", "tree")
    assert (said.status, "thermald (process 4711) controls this machine's cooling" in said.err) == (2, True)


def test_a_run_acts_says_what_it_cannot_act_on_and_gives_back(tmp_path: Path) -> None:
    SysTree(tmp_path / "tree", DESKTOP)
    next((tmp_path / "tree").rglob("power1_cap")).unlink()
    before = contents(tmp_path / "tree" / "sys")
    said = command(*(word for word in ACT if word != "--quiet"), "--root", "tree")
    assert said.status == 0
    assert "gpu_power_limit_microwatts is not acted on: no hwmon chip" in said.err
    assert contents(tmp_path / "tree" / "sys") == before
    assert Journal(str(tmp_path / "tree" / FOLDER)).read() is None


def test_a_run_that_is_killed_is_given_back_for_and_the_next_one_goes_on(tmp_path: Path) -> None:
    SysTree(tmp_path / "tree", DESKTOP)
    before = contents(tmp_path / "tree" / "sys")
    words = [sys.executable, "-m", "twin", *ACT, "--duration", "60", "--root", "tree"]
    environment = {**os.environ, "TWIN_KERNELS": "python"}
    with subprocess.Popen(words, env=environment, stderr=subprocess.DEVNULL) as process:
        until(lambda: contents(tmp_path / "tree" / "sys") != before, 60)
        process.send_signal(signal.SIGKILL)
    until(lambda: contents(tmp_path / "tree" / "sys") == before)
