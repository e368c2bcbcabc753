from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hardware_fakes import DESKTOP, FakeClock, add_chip, add_zone, contents, put

from hardware.interface import Applied, Channel, Command, Limit, Source, Status, Wiring
from hardware.linux.adapter import SCAN_READS, LinuxHardware
from hardware.linux.hands import REASSERT_NS, DirectHands
from hardware.linux.sysfs import Root
from hardware.linux.tree import SysTree

MACHINE = Wiring(
    (
        Channel("temp", sources=(Source("hwmon", "temp", ("chip",)), Source("thermal", "temp", ("zone",)))),
        Channel("ticks", sources=(Source("stat", "busy"),)),
    ),
    (
        Limit("fan_pwm", 0, 255, 255, (Source("hwmon", "pwm", ("chip",)),)),
        Limit("plain_pwm", 0, 255, 200, (Source("hwmon", "pwm", ("chip",), index=2),)),
        Limit("clock", 1_000, 5_000, 2_000, (Source("cpufreq", "scaling_max_freq"),)),
        Limit("watts", 1, 90, 5, (Source("powercap", "constraint_0_power_limit_uw", ("package-0",)),)),
    ),
)
POLICY = "sys/devices/system/cpu/cpufreq/policy0"


@pytest.fixture
def chip(tmp_path: Path) -> Path:
    add_zone(tmp_path, "powercap", "intel-rapl:0", {"name": "package-0", "constraint_0_power_limit_uw": 65})
    policy = {"cpuinfo_min_freq": 800, "cpuinfo_max_freq": 4_000, "scaling_min_freq": 3_000, "scaling_max_freq": 4_000}
    put(tmp_path / POLICY, policy)
    files = {"temp1_input": 40_000, "pwm1": 120, "pwm1_enable": 5, "pwm2": 60}
    return add_chip(tmp_path, 2, "platform/chip.1", "chip", files)


class Writes:
    """Notes every write, and fails those to a file whose name ends in `failing`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.log: list[tuple[str, int]] = []
        self.failing: tuple[str, ...] = ()
        real = Root.raw_write

        def raw_write(root: Root, path: str, data: bytes) -> int:
            name = path.rpartition("/")[2]
            if name in self.failing:
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
            self.log.append((name, int(data)))
            return real(root, path, data)

        monkeypatch.setattr(Root, "raw_write", raw_write)

    def take(self) -> list[tuple[str, int]]:
        log, self.log = self.log, []
        return log


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> Writes:
    return Writes(monkeypatch)


def test_without_leave_to_act_nothing_is_written(chip: Path, tmp_path: Path, writes: Writes) -> None:
    before = contents(tmp_path)
    hardware = LinuxHardware(tmp_path, MACHINE, FakeClock())
    hardware.read()
    applied = hardware.apply(Command({"fan_pwm": 999, "clock": 5_000, "watts": 7}))
    assert applied == Applied({"fan_pwm": 255, "clock": 4_000, "watts": 7}, ("fan_pwm", "clock"))
    hardware.close()
    assert contents(tmp_path) == before
    assert writes.log == []
    (tmp_path / "bare").mkdir()
    bare = LinuxHardware(tmp_path / "bare", MACHINE, FakeClock())
    assert bare.apply(Command({"fan_pwm": 3})) == Applied({"fan_pwm": 3})
    assert set(bare.missing) == {"temp", "ticks", "fan_pwm", "plain_pwm", "clock", "watts"}


def test_a_fan_is_taken_then_set_and_given_back(chip: Path, tmp_path: Path, writes: Writes) -> None:
    before = contents(tmp_path)
    hardware = LinuxHardware(tmp_path, MACHINE, FakeClock(), DirectHands(FakeClock()))
    hardware.apply(Command({"fan_pwm": 80, "plain_pwm": 30}))
    assert writes.take() == [("pwm1_enable", 1), ("pwm1", 80), ("pwm2", 30)]
    # Only what changes is written.
    assert hardware.apply(Command({"fan_pwm": 80, "plain_pwm": 31})).values == {"fan_pwm": 80, "plain_pwm": 31}
    assert writes.take() == [("pwm2", 31)]
    hardware.apply(Command({"clock": 1_500, "watts": 9}))
    assert writes.take() == [
        ("scaling_min_freq", 1_500),
        ("scaling_max_freq", 1_500),
        ("constraint_0_power_limit_uw", 9),
    ]
    hardware.close()
    assert writes.take() == [
        ("constraint_0_power_limit_uw", 65),
        ("scaling_max_freq", 4_000),
        ("scaling_min_freq", 3_000),
        ("pwm2", 60),
        ("pwm1", 120),
        ("pwm1_enable", 5),
    ]
    assert contents(tmp_path) == before
    assert hardware.unrestored == ()
    hardware.close()
    assert hardware.apply(Command({"fan_pwm": 1})) == Applied({}, (), (("fan_pwm", "closed"),))
    assert writes.log == []


def test_closing_goes_on_after_a_failure_and_leaves_a_fan_safe(chip: Path, tmp_path: Path, writes: Writes) -> None:
    hardware = LinuxHardware(tmp_path, MACHINE, FakeClock(), DirectHands(FakeClock()))
    hardware.apply(Command({"fan_pwm": 10, "plain_pwm": 10, "watts": 3}))
    writes.take()
    writes.failing = ("pwm1_enable", "constraint_0_power_limit_uw")
    hardware.close()
    assert writes.take() == [("pwm2", 60), ("pwm1", 120), ("pwm1", 255)]
    assert [name for name, _why in hardware.unrestored] == ["watts", "fan_pwm"]
    assert "EINVAL: /sys/devices/platform/chip.1/hwmon/hwmon2/pwm1_enable" in hardware.unrestored[1][1]


def test_what_could_not_be_given_back_is_not_taken(chip: Path, tmp_path: Path, writes: Writes) -> None:
    put(chip, {"pwm1_enable": "vendor"})
    hardware = LinuxHardware(tmp_path, MACHINE, FakeClock(), DirectHands(FakeClock()))
    applied = hardware.apply(Command({"fan_pwm": 10, "plain_pwm": 20}))
    assert applied.values == {"plain_pwm": 20}
    ((name, why),) = applied.failed
    assert name == "fan_pwm"
    assert "could not be given back" in why
    assert writes.log == [("pwm2", 20)]


def test_a_write_that_fails_is_said_and_tried_again(chip: Path, tmp_path: Path, writes: Writes) -> None:
    hardware = LinuxHardware(tmp_path, MACHINE, FakeClock(), DirectHands(FakeClock()))
    hardware.apply(Command({"fan_pwm": 10}))
    writes.failing = ("pwm1",)
    applied = hardware.apply(Command({"fan_pwm": 20, "plain_pwm": 5}))
    assert applied.values == {"plain_pwm": 5}
    assert applied.failed == (("fan_pwm", "EINVAL: /sys/devices/platform/chip.1/hwmon/hwmon2/pwm1"),)
    writes.failing = ()
    writes.take()
    # Nobody knows what the failure left, so that even the old value is written again.
    hardware.apply(Command({"fan_pwm": 10}))
    assert writes.take() == [("pwm1_enable", 1), ("pwm1", 10)]


def test_a_value_that_something_else_changed_is_written_again_but_not_often(
    chip: Path, tmp_path: Path, writes: Writes
) -> None:
    clock = FakeClock()
    hardware = LinuxHardware(tmp_path, MACHINE, clock, DirectHands(clock))
    hardware.apply(Command({"fan_pwm": 90}))
    writes.take()
    put(chip, {"pwm1_enable": 2})
    clock.now_ns = REASSERT_NS - 1
    hardware.apply(Command({"fan_pwm": 90}))
    assert writes.take() == []
    clock.now_ns = REASSERT_NS
    hardware.apply(Command({"fan_pwm": 90}))
    assert writes.take() == [("pwm1_enable", 1), ("pwm1", 90)]
    clock.now_ns *= 3
    hardware.apply(Command({"fan_pwm": 90}))
    assert writes.take() == []


def test_outputs_that_are_not_there_fail_when_acting(tmp_path: Path) -> None:
    hardware = LinuxHardware(tmp_path, MACHINE, FakeClock(), DirectHands(FakeClock()))
    assert hardware.apply(Command({"fan_pwm": 3})) == Applied({}, (), (("fan_pwm", "not there"),))
    # A driver that is loaded later is found.
    add_chip(tmp_path, 0, "late", "chip", {"pwm1": 1})
    hardware.read()
    assert hardware.apply(Command({"fan_pwm": 3})).values == {"fan_pwm": 3}
    assert hardware.found["fan_pwm"].endswith("late/hwmon/hwmon0/pwm1")
    assert "fan_pwm" not in hardware.missing


def test_a_device_that_vanishes_and_returns_elsewhere_is_taken_and_restored(
    chip: Path, tmp_path: Path, writes: Writes
) -> None:
    hardware = LinuxHardware(tmp_path, MACHINE, FakeClock(), DirectHands(FakeClock()))
    hardware.apply(Command({"fan_pwm": 90}))
    (tmp_path / "sys/class/hwmon/hwmon2").unlink()
    chip.rename(chip.with_name("gone"))
    writes.take()
    assert hardware.apply(Command({"fan_pwm": 91})).failed[0][0] == "fan_pwm"
    hardware.read()
    assert "no hwmon chip called chip has pwm1" in hardware.missing["fan_pwm"]
    back = chip.with_name("hwmon7")
    chip.with_name("gone").rename(back)
    (tmp_path / "sys/class/hwmon/hwmon7").symlink_to(back)
    put(back, {"pwm1_enable": 2})
    for _read in range(SCAN_READS + 1):
        hardware.read()
    assert hardware.apply(Command({"fan_pwm": 91})).values == {"fan_pwm": 91}
    assert writes.take() == [("pwm1_enable", 1), ("pwm1", 91)]
    hardware.close()
    assert writes.take() == [("pwm1", 120), ("pwm1_enable", 5)]


def test_a_missing_device_is_looked_for_at_the_next_read_and_then_seldom(
    chip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hardware = LinuxHardware(tmp_path, MACHINE, FakeClock())
    assert hardware.read().values[0] == 40_000
    scans: list[int] = []
    real = LinuxHardware._discover
    monkeypatch.setattr(
        LinuxHardware, "_discover", lambda self, strict: (scans.append(self._reads), real(self, strict))[1]
    )
    (chip / "temp1_input").unlink()
    for _read in range(25):
        readings = hardware.read()
        assert readings.statuses[0] is Status.ABSENT
    assert scans == [2, 12, 22]
    # A sensor that comes back where it was needs no search; another source that appears is taken by the next one.
    put(chip, {"temp1_input": 41_000})
    assert hardware.read().values[0] == 41_000
    assert "temp" not in hardware.details
    (chip / "temp1_input").unlink()
    add_zone(tmp_path, "thermal", "thermal_zone0", {"type": "zone", "temp": 42_000})
    assert hardware.read().values[0] is None
    assert hardware.details["temp"].startswith("ENOENT")
    assert hardware.read().values[0] == 42_000
    assert hardware.found["temp"].endswith("thermal_zone0/temp")


def test_every_access_may_fail_and_nothing_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of the first accesses of a session fails in turn, with each class of error."""
    SysTree(tmp_path, DESKTOP)
    pristine = contents(tmp_path)
    command = Command({limit.name: limit.safe for limit in DESKTOP.outputs})
    real = {"raw_read": Root.raw_read, "raw_write": Root.raw_write}
    count = failing = number = 0

    def access(name: str):  # type: ignore[no-untyped-def]
        def method(root: Root, *arguments: object) -> object:
            nonlocal count
            count += 1
            if count == failing:
                raise OSError(number, os.strerror(number))
            return real[name](root, *arguments)  # type: ignore[arg-type]

        return method

    for name in real:
        monkeypatch.setattr(Root, name, access(name))

    def session() -> LinuxHardware:
        nonlocal count
        count = 0
        hardware = LinuxHardware(tmp_path, DESKTOP, FakeClock(), DirectHands(FakeClock()))
        for _cycle in range(2):
            readings = hardware.read()
            for value, status in zip(readings.values, readings.statuses, strict=True):
                assert (value is None) == (status is not Status.OK)
            applied = hardware.apply(command)
            assert set(applied.values) | {name for name, _why in applied.failed} == set(command.values)
        hardware.close()
        return hardware

    session()
    total = count
    assert total > 60
    for failing in range(1, total + 1):
        number = (errno.EIO, errno.EACCES, errno.ENODEV, errno.EAGAIN, errno.ENOSPC)[failing % 5]
        hardware = session()
        if not hardware.unrestored:
            assert contents(tmp_path) == pristine
        else:
            # The one write that failed was a restoration: only that file may differ.
            now = contents(tmp_path)
            assert sum(now[path] != pristine[path] for path in pristine) <= 2
            SysTree(tmp_path, DESKTOP)


def test_a_wiring_without_sources_is_missing_and_says_so(tmp_path: Path) -> None:
    odd = Wiring(
        (
            Channel("a"),
            Channel("b", sources=(Source("crystal ball", "temp"),)),
            Channel("c", sources=(Source("nvml", "temp"),)),
        ),
        (Limit("d", 0, 1, 0), Limit("e", 0, 1, 0, (Source("stat", "busy"), Source("nvml", "power_limit")))),
    )
    hardware = LinuxHardware(tmp_path, odd, FakeClock())
    assert hardware.read().statuses == (Status.ABSENT,) * 3
    assert hardware.found == {}
    assert hardware.missing == {
        "a": "the scenario names no source",
        "b": "unknown kind of source 'crystal ball'",
        "c": "NVML is not asked",
        "d": "the scenario names no source",
        "e": "a source of kind 'stat' takes no commands; NVML is not asked",
    }
    assert hardware.details["c"] == "NVML is not asked"


def test_a_number_that_fits_the_file_but_not_the_seam_is_garbage(tmp_path: Path) -> None:
    """18 digits of percent are more ppm than 64 bits hold."""
    from twin.scenario import Machine
    from twin.wiring import wiring

    channels = wiring(Machine())
    SysTree(tmp_path, channels)
    busy = next(tmp_path.rglob("gpu_busy_percent"), None)
    assert busy is not None
    busy.write_text("999999999999999999\n")
    hardware = LinuxHardware(tmp_path, channels, lambda: 0)
    place = [channel.name for channel in hardware.sensors].index("gpu_busy_ppm")
    found = hardware.read()
    assert (found.values[place], found.statuses[place]) == (None, Status.GARBAGE)
