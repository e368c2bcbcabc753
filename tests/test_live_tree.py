"""A live tree: whatever other programs write, the world gets what a driver would make of it, and the files say so."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import command
from hardware_fakes import DESKTOP, FakeWorld
from hypothesis import given
from hypothesis import strategies as st

from hardware.interface import Status
from hardware.linux.tree import SysTree
from hardware.live import LiveTree

FIRMWARE = {limit.name: 80 if limit.name.endswith("_pwm") else limit.maximum for limit in DESKTOP.outputs}
LIMITS = {limit.name: limit for limit in DESKTOP.outputs}


def served(root: Path) -> tuple[LiveTree, FakeWorld, dict[str, Path]]:
    """A live tree, its world, and output -> file."""
    world = FakeWorld()
    tree = LiveTree(world, DESKTOP, root, FIRMWARE)
    files = {
        "cpu_fan_pwm": "sys/class/hwmon/hwmon2/pwm2", "gpu_fan_pwm": "sys/class/hwmon/hwmon1/pwm1",
        "case_fan_pwm": "sys/class/hwmon/hwmon2/pwm1",
        "cpu_max_kilohertz": "sys/devices/system/cpu/cpu0/cpufreq/scaling_max_freq",
        "cpu_power_limit_microwatts": "sys/class/powercap/intel-rapl:0/constraint_0_power_limit_uw",
        "gpu_power_limit_microwatts": "sys/class/hwmon/hwmon1/power1_cap",
    }  # fmt: skip
    assert set(files) == set(LIMITS)
    return tree, world, {name: root / file for name, file in files.items()}


def mode_of(pwm: Path) -> Path:
    return pwm.with_name(f"{pwm.name}_enable")


def test_a_fan_begins_in_automatic_mode_and_goes_back_to_it(tmp_path: Path) -> None:
    tree, world, files = served(tmp_path)
    with tree:
        fan = files["cpu_fan_pwm"]
        tree.take()
        assert (fan.read_bytes(), mode_of(fan).read_bytes(), world.actuated) == (b"80\n", b"2\n", [])
        # In automatic mode a value is not kept, as on a real chip.
        fan.write_text("200\n")
        tree.take()
        assert (fan.read_bytes(), world.actuated) == (b"80\n", [])
        mode_of(fan).write_text("1\n")
        tree.take()
        assert world.actuated == []
        fan.write_text("200")
        tree.take()
        assert (fan.read_bytes(), world.actuated) == (b"200\n", [("cpu_fan_pwm", 200)])
        mode_of(fan).write_text("0")
        tree.take()
        assert (fan.read_bytes(), mode_of(fan).read_bytes()) == (b"255\n", b"0\n")
        mode_of(fan).write_text("5")
        tree.take()
        assert (fan.read_bytes(), world.actuated[1:]) == (b"80\n", [("cpu_fan_pwm", 255), ("cpu_fan_pwm", 80)])
        assert tree.changes == 3


@pytest.mark.parametrize("text", ["", "\n", "fast\n", "1.5\n", "--1\n", "9" * 30, "\x00\xff", "1\n2\n"])
def test_what_is_no_number_changes_nothing(text: str, tmp_path: Path) -> None:
    tree, world, files = served(tmp_path)
    with tree:
        for name, file in files.items():
            file.write_text(text, encoding="latin-1")
            if name.endswith("_pwm"):
                mode_of(file).write_text(text, encoding="latin-1")
        tree.take()
        assert world.actuated == []
        # A file that is empty is being written at this moment: that is left to whoever does it.
        assert {file.read_bytes() == b"" for file in files.values()} == {text == ""}


WRITES = st.one_of(
    st.integers(-(10**19), 10**19).map(lambda number: b"%d\n" % number),
    st.integers(0, 6).map(lambda number: b"%d\n" % number),
    st.binary(max_size=80),
)


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LiveTree, FakeWorld, dict[str, Path]]]:
    tree, world, files = served(tmp_path_factory.mktemp("tree"))
    with tree:
        yield tree, world, files


@given(writes=st.lists(st.tuples(st.sampled_from([*FIRMWARE]), st.booleans(), WRITES), max_size=8))
def test_nothing_that_is_written_leaves_the_limits(
    writes: list[tuple[str, bool, bytes]], lasting: tuple[LiveTree, FakeWorld, dict[str, Path]]
) -> None:
    # The tree goes on from one example to the next: whatever state it is in, this holds.
    tree, world, files = lasting
    world.actuated.clear()
    for name, mode, data in writes:
        target = mode_of(files[name]) if mode and name.endswith("_pwm") else files[name]
        target.write_bytes(data)
        tree.take()
        for told, value in world.actuated:
            assert LIMITS[told].minimum <= value <= LIMITS[told].maximum
        if data:
            told_back = target.read_bytes()
            assert told_back == b"%d\n" % int(told_back)
            tree.take()
            assert target.read_bytes() == told_back
    assert dict(world.actuated).items() <= tree.in_force.items()


def test_sensors_are_shown_and_what_cannot_be_is_absent(tmp_path: Path) -> None:
    tree, world, _ = served(tmp_path)
    with tree:
        temperature = tmp_path / "sys/class/hwmon/hwmon0/temp1_input"
        tree.show()
        assert temperature.read_bytes() == b"1000000\n"
        world.say((None, *world.values[1:]), (Status.DENIED, *world.statuses[1:]))
        tree.show()
        assert not temperature.exists()
    assert not (tmp_path / "sys").exists()
    assert not (tmp_path / "proc").exists()


def test_a_folder_has_one_live_tree(tmp_path: Path) -> None:
    first, _, _ = served(tmp_path)
    with first, pytest.raises(ValueError, match="another program keeps a live tree"):
        served(tmp_path)
    again, _, _ = served(tmp_path)
    with again:
        assert (tmp_path / "sys").is_dir()
    SysTree(tmp_path, DESKTOP)


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "sys").mkdir()
    for _ in range(2):
        with pytest.raises(ValueError, match="no tree of ours"):
            served(tmp_path)


def test_the_command_says_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "sys").mkdir()
    said = command("serve", "idle", "--root", tmp_path)
    assert (said.status, said.out) == (2, "")
    assert "--root" in said.err
    assert "a folder of its own" in said.err
    (tmp_path / "file").touch()
    said = command("serve", "idle", "--root", tmp_path / "file")
    assert (said.status, said.out) == (2, "")
    assert "is a file; name a folder" in said.err
    assert command("serve", "nothing_like_it", "--root", tmp_path / "new").status == 2
    assert not (tmp_path / "new").exists()
    assert command("serve", "idle", "--root", tmp_path / "new", "--set", "seed=-1").status == 2
    assert "--root" in command("serve", "idle").err


def test_a_served_machine_is_steered_by_a_shell_until_it_is_interrupted(tmp_path: Path) -> None:
    root = tmp_path / "tree"
    server = subprocess.Popen(
        [sys.executable, "-m", "twin", "serve", "idle", "--root", root, "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        while not (root / "run/pulsetwin-application/values").exists():
            assert server.poll() is None
            time.sleep(0.02)
        fan = root / "sys/class/hwmon/hwmon2/pwm2"
        subprocess.run(["sh", "-c", f"echo 1 > {fan}_enable; echo 999 > {fan}"], check=True)
        while fan.read_bytes() != b"255\n":
            assert server.poll() is None
            time.sleep(0.02)
        server.send_signal(signal.SIGINT)
        out, err = server.communicate()
    finally:
        server.kill()
        server.wait()
    assert server.returncode == 0, err
    result = json.loads(out)
    assert result["in_force"]["cpu_fan_pwm"] == 255
    assert result["changes"] >= 1
    assert result["over_limit"] == []
    assert "lives in" in err
    assert os.listdir(root) == []  # noqa: PTH208
