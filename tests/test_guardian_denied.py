"""What goes while a machine is guarded: rights, calls, chips, cores, controllers and the wall clock."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import time
from itertools import product
from pathlib import Path
from typing import Any

import psutil
import pytest
from guarding import (
    CHIP,
    FILES,
    FLOOR,
    MIDDLE,
    NAMES,
    bench,
    build,
    controller,
    given_back_or_cool,
    gone,
    hello,
    shown,
    until,
)  # fmt: skip
from hardware_fakes import add_chip, contents, put
from nvml_library import COMPILER
from profiles import NIGHTLY
from test_guardian_errno import mounted, needs_mounts
from test_guardian_process import acting, applied_until

from hardware import guardian as module
from hardware.by_hand import restore
from hardware.interface import Command
from hardware.journal import FOLDER, Journal
from hardware.linux.sysfs import Root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return build(tmp_path)


def left_in_journal(root: Path) -> list[str]:
    return [entry["name"] for entry in (Journal(str(root / FOLDER)).read() or ([], ""))[0]]


# --- rights -----------------------------------------------------------------------------------------------------------

# Root's rights, and not its name, are what opens files that others may not write.
POWERLESS = ("setpriv", "--bounding-set=-all", "--inh-caps=-all") if os.geteuid() == 0 else ()


def failing(process: Any, names: set[str]) -> None:
    """Cycles go on until exactly these outputs are said to have failed."""

    def said() -> bool:
        words = process.stdout.readline().split()
        assert words, "the controller has ended"
        return set(words[2:]) == names

    until(said)


@pytest.mark.skipif(POWERLESS != () and shutil.which(POWERLESS[0]) is None, reason="no setpriv here to give up rights")
def test_rights_that_come_and_go_are_said_and_what_they_keep_is_given_back_later(root: Path) -> None:
    before = shown(root)
    (root / FILES["watts"]).chmod(0o444)
    with controller(root, wrapper=POWERLESS) as process:
        guardian = int(process.stdout.readline())
        failing(process, {"watts"})
        until(lambda: shown(root)[FILES["fan_pwm"]] < 100)
        (root / FILES["fan_pwm"]).chmod(0o444)
        failing(process, {"watts", "fan_pwm"})
        (root / FILES["fan_pwm"]).chmod(0o644)
        failing(process, {"watts"})
        assert shown(root)[FILES["clock"]] == MIDDLE["clock"]
        (root / FILES["clock"]).chmod(0o444)
        process.kill()
        until(lambda: gone(guardian))
    # Its floor may have been lowered for the full cooling that could not be had either.
    assert {**shown(root), FLOOR: before[FLOOR]} == {**before, FILES["clock"]: MIDDLE["clock"]}
    assert left_in_journal(root) == ["clock"]
    (root / FILES["clock"]).chmod(0o644)
    assert restore(Root(root))["unrestored"] == []
    assert shown(root) == before


@needs_mounts
def test_a_sys_that_becomes_read_only_is_said_and_given_back_once_it_can_be(root: Path) -> None:
    before, sys = shown(root), root / "sys"
    remount = f"cycle == 3 and __import__('os').system('mount -o remount,ro,bind {sys}')"
    with controller(root, each=remount, wrapper=tuple(mounted(f"--bind {sys} {sys}"))) as process:
        guardian = int(process.stdout.readline())
        failing(process, set())
        # The fan is all that changes from cycle to cycle.
        failing(process, {"fan_pwm"})
        process.kill()
        until(lambda: gone(guardian))
    assert set(left_in_journal(root)) == set(NAMES)
    assert shown(root)[FILES["clock"]] == MIDDLE["clock"]
    # Read-only was the guardian's own view.
    assert restore(Root(root))["unrestored"] == []
    assert shown(root) == before


# --- calls ------------------------------------------------------------------------------------------------------------

SHORT = -1
"""Of what is written only the first byte is taken."""
ERRORS = (
    errno.EPERM, errno.EROFS, errno.EBUSY, errno.EACCES, errno.EIO, errno.ENODATA, errno.ENXIO, errno.EAGAIN,
    errno.ENOSPC, errno.ENODEV, errno.EINTR, errno.EINVAL, errno.ETIMEDOUT, SHORT,
)  # fmt: skip
READ = {path.rpartition("/")[2]: name for name, path in FILES.items()} | {"pwm1_enable": "fan_pwm"}
WRITTEN = {path.rpartition("/")[2]: name for name, path in FILES.items()} | {FLOOR.rpartition("/")[2]: "clock"}
OTHER = {"fan_pwm": 111, "plain_pwm": 77, "clock": 2_000, "watts": 33, "state": 5}


class Calls:
    """The calls on one file fail, with an error or short."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reads: dict[str, int] = {}
        self.writes: dict[str, int] = {}
        real_read, real_write = Root.raw_read, Root.raw_write

        def raw_read(root: Root, path: str, limit: int) -> bytes:
            if (number := self.reads.get(path.rpartition("/")[2])) is not None:
                raise OSError(number, os.strerror(number))
            return real_read(root, path, limit)

        def raw_write(root: Root, path: str, data: bytes) -> int:
            number = self.writes.get(path.rpartition("/")[2])
            if number == SHORT:
                return real_write(root, path, data[:1])
            if number is not None:
                raise OSError(number, os.strerror(number))
            return real_write(root, path, data)

        monkeypatch.setattr(Root, "raw_read", raw_read)
        monkeypatch.setattr(Root, "raw_write", raw_write)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    monkeypatch.setattr(module, "privileged", list)
    return Calls(monkeypatch)


def paired(files: dict[str, str], errors: tuple[int, ...]) -> list[tuple[str, int]]:
    """Every file with every error; by day each error once, and each file."""
    names = list(files)
    daily = [(names[place % len(names)], number) for place, number in enumerate(errors)]
    return list(product(names, errors)) if NIGHTLY else daily


CASES = [("writes", *each) for each in paired(WRITTEN, ERRORS)] + [
    ("reads", *each) for each in paired(READ, ERRORS[:-1])
]


@pytest.mark.parametrize(("what", "file", "number"), CASES)
def test_calls_that_fail_for_a_while_are_said_and_change_nothing_for_the_others(
    root: Path, calls: Calls, what: str, file: str, number: int
) -> None:
    before, name = shown(root), (READ if what == "reads" else WRITTEN)[file]
    with bench(root) as guarded:
        guarded.run(1_000)
        getattr(calls, what)[file] = number
        guarded.run(1_500, OTHER)
        assert set(guarded.said[-1]["failed"]) == {name}
        assert guarded.said[-1]["state"] == "DEGRADED"
        now = shown(root)
        assert {other: now[path] for other, path in FILES.items() if other != name} == {
            other: raw for other, raw in OTHER.items() if other != name
        }
        getattr(calls, what).clear()
        guarded.run(5_000, OTHER)
        assert (guarded.said[-1]["failed"], guarded.said[-1]["state"]) == ({}, "NORMAL")
        assert {other: shown(root)[path] for other, path in FILES.items()} == OTHER
        assert guarded.guardian.end() == 0
    assert shown(root) == before


# --- chips ------------------------------------------------------------------------------------------------------------


def test_a_chip_that_comes_back_under_another_number_is_taken_there_and_whoever_has_its_number_is_not(
    root: Path,
) -> None:
    """As after its driver was unbound and bound again, while another chip has come."""
    originals = {name: (root / CHIP / name).read_text() for name in ("pwm1", "pwm1_enable", "pwm2")}
    hardware = acting(root)
    try:
        applied_until(hardware, root)
        shutil.copytree(root / CHIP, root / "unbound", symlinks=True)
        shutil.rmtree(root / CHIP)
        (root / "sys/class/hwmon/hwmon2").unlink()
        until(lambda: {"fan_pwm", "plain_pwm"} == dict(hardware.apply(Command(OTHER)).failed).keys())
        other = add_chip(root, 2, "platform/other.1", "other", {"pwm1": 10, "pwm1_enable": 1, "pwm2": 20})
        before = contents(other)
        back = (root / CHIP).with_name("hwmon7")
        (root / "unbound").rename(back)
        (root / "sys/class/hwmon/hwmon7").symlink_to(f"../../devices/{back.relative_to(root / 'sys/devices')}")

        def taken() -> bool:
            hardware.read()
            time.sleep(0.02)
            return not hardware.apply(Command(OTHER)).failed

        until(taken)
        until(lambda: [(back / name).read_text() for name in ("pwm1", "pwm2")] == ["111\n", "77\n"])
        assert contents(other) == before
    finally:
        hardware.close()
    assert hardware.unrestored == ()
    assert {name: (back / name).read_text() for name in originals} == originals
    assert contents(other) == before


# --- cores ------------------------------------------------------------------------------------------------------------

CPUFREQ = "sys/devices/system/cpu/cpufreq"
LIMITS = {"cpuinfo_min_freq": 800, "cpuinfo_max_freq": 4_000, "scaling_min_freq": 800, "scaling_max_freq": 3_900}


def highest(root: Path) -> list[int]:
    """What every policy has as its highest clock."""
    return [int(path.read_text()) for path in sorted((root / CPUFREQ).glob("policy*/scaling_max_freq"))]


def described(guarded: Any, root: Path, name: str) -> None:
    """The output is described anew, as it is found now."""
    guarded.mine.send(b"O" + json.dumps(hello(root)["outputs"][NAMES.index(name)]).encode())


def test_cores_that_go_offline_and_come_back_get_what_the_others_have(root: Path, monkeypatch: Any) -> None:
    """The kernel keeps the folder of their policy, and answers EBUSY."""
    monkeypatch.setattr(module, "privileged", list)
    for number in (1, 2):
        put(root / CPUFREQ / f"policy{number}", LIMITS)
    offline = False

    def busy(real: Any) -> Any:
        def asked(root: Root, path: str, what: Any) -> Any:
            if offline and "/policy1/" in path:
                raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
            return real(root, path, what)

        return asked

    for call in ("raw_read", "raw_write"):
        monkeypatch.setattr(Root, call, busy(getattr(Root, call)))
    with bench(root) as guarded:
        guarded.run(1_000)
        assert highest(root) == [3_000] * 3
        offline = True
        guarded.run(1_500, {**MIDDLE, "clock": 2_600})
        assert highest(root) == [2_600, 3_000, 2_600]
        assert "EBUSY" in guarded.said[-1]["failed"]["clock"]
        # What it asks for meanwhile, full cooling too, reaches those that are there.
        guarded.run(1_000, values=None)
        assert guarded.guardian.watch.cool
        assert highest(root) == [2_000, 3_000, 2_000]
        offline = False
        guarded.run(5_000, {**MIDDLE, "clock": 2_600})
        assert highest(root) == [2_600] * 3
        assert guarded.said[-1]["state"] == "NORMAL"
        offline = True
        # An output that cannot be given back as a whole is cooled fully as far as it can be, and kept.
        assert guarded.guardian.end() == 1
        assert highest(root) == [2_000, 2_600, 2_000]
        assert left_in_journal(root) == ["clock"]
    offline = False
    assert restore(Root(root))["unrestored"] == []
    assert highest(root) == [4_000, 3_900, 3_900]


def test_cores_that_are_taken_out_and_put_in_again_get_their_own_limits_back(root: Path, monkeypatch: Any) -> None:
    """The policy's folder goes and comes, the output is described without it and with it; the kernel remembers."""
    monkeypatch.setattr(module, "privileged", list)
    for number in (1, 2):
        put(root / CPUFREQ / f"policy{number}", LIMITS)
    with bench(root) as guarded:
        guarded.run(1_000)
        (root / CPUFREQ / "policy1").rename(root / "out")
        described(guarded, root, "clock")
        guarded.run(1_000)
        assert highest(root) == [3_000] * 2
        (root / "out").rename(root / CPUFREQ / "policy1")
        described(guarded, root, "clock")
        guarded.run(1_000)
        assert highest(root) == [3_000] * 3
        assert guarded.guardian.end() == 0
    assert highest(root) == [4_000, 3_900, 3_900]


# --- controllers ------------------------------------------------------------------------------------------------------


def test_a_child_that_holds_the_socket_is_no_living_controller(root: Path) -> None:
    before = shown(root)
    fork = "cycle == 3 and (child := __import__('os').fork()) == 0 and time.sleep(60)"
    with controller(root, each=fork) as process:
        guardian = int(process.stdout.readline())
        try:
            for _cycle in range(5):
                process.stdout.readline()
            (child,) = {each.pid for each in psutil.Process(process.pid).children()} - {guardian}
            links = [str(link.readlink()) for link in Path(f"/proc/{child}/fd").iterdir()]
            assert any(link.startswith("socket:") for link in links)
            process.kill()
            until(lambda: given_back_or_cool(root, before))
            until(lambda: gone(guardian))
            assert not gone(child)
        finally:
            # Its session is its own.
            os.killpg(process.pid, signal.SIGKILL)
    assert shown(root) == before
    assert not (root / FOLDER / "journal").exists()


STEPPING = """
#define _GNU_SOURCE
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

/* The wall clock is ten years late, right, and ten years early, one after the other. */
static long step(void)
{
    static int calls;
    return (calls++ % 3 - 1) * 315360000L;
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    int failed = syscall(SYS_clock_gettime, clock, now);
    if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)
        now->tv_sec += step();
    return failed;
}

int gettimeofday(struct timeval *now, void *zone)
{
    (void)zone;
    now->tv_sec = syscall(SYS_time, 0) + step();
    now->tv_usec = 0;
    return 0;
}

time_t time(time_t *now)
{
    time_t told = syscall(SYS_time, 0) + step();
    if (now)
        *now = told;
    return told;
}
"""


@pytest.mark.skipif(COMPILER is None, reason="there is no C compiler: no clock is stepped")
def test_a_wall_clock_that_steps_changes_nothing(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = tmp_path / "stepping.so"
    words = [str(COMPILER), "-shared", "-fPIC", "-Werror", "-x", "c", "-", "-o", library]
    subprocess.run(words, input=STEPPING, text=True, check=True)
    monkeypatch.setenv("LD_PRELOAD", str(library))
    before = shown(root)
    with controller(root, each="print(time.time())") as process:
        guardian = int(process.stdout.readline())
        years = set()
        for _cycle in range(12):
            process.stdout.readline()
            years.add(round(float(process.stdout.readline()) / 31_536_000))
        assert max(years) - min(years) >= 19
        # Full cooling would have been the answer to a silence that was none.
        assert {shown(root)[FILES[name]] for name in ("clock", "watts")} == {MIDDLE["clock"], MIDDLE["watts"]}
        process.kill()
        until(lambda: gone(guardian))
    assert shown(root) == before
