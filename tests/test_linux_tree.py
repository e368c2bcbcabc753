from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest
from hardware_fakes import DESKTOP, FakeClock, contents
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hardware.interface import Channel, Source, Status, Wiring
from hardware.linux.adapter import LinuxHardware
from hardware.linux.application import PORT
from hardware.linux.tree import SysTree, shown

NAMES = [channel.name for channel in DESKTOP.sensors]
ZEROS = (0,) * len(NAMES)
OK = (Status.OK,) * len(NAMES)


def test_the_tree_is_laid_out_as_the_kernel_does(tmp_path: Path) -> None:
    tree = SysTree(tmp_path, DESKTOP)
    values = tuple(1_000_000 + 10_000 * n for n in range(len(NAMES)))
    tree.update(values, OK)
    value = dict(zip(NAMES, values, strict=True))
    links = {path for path in tmp_path.rglob("*") if path.is_symlink()}
    for link in links:
        assert not os.path.isabs(os.readlink(link))  # noqa: PTH115, PTH117
        assert link.resolve().is_relative_to(tmp_path / "sys/devices")
    by_name = {path.parent.name: path.parent for path in tmp_path.glob("sys/class/hwmon/*/name")}
    assert sorted(by_name) == ["hwmon0", "hwmon1", "hwmon2"]
    core, gpu, board = (by_name[name] for name in sorted(by_name))
    assert {path.name for path in core.iterdir()} == {"name", "device", "temp1_input", "temp1_label"}
    expected = {
        core / "name": "coretemp",
        core / "temp1_label": "Package id 0",
        core / "temp1_input": value["cpu_temp_millicelsius"],
        board / "fan2_input": value["cpu_fan_rpm"],
        board / "pwm2_enable": 2,
        board / "pwm2": 255,
        gpu / "device/gpu_busy_percent": value["gpu_busy_ppm"] // 10_000,
        gpu / "freq1_input": value["gpu_clock_kilohertz"] * 1_000,
        gpu / "power1_cap_max": 220_000_000,
        tmp_path / "sys/class/thermal/thermal_zone0/type": "x86_pkg_temp",
        tmp_path / "sys/class/thermal/thermal_zone0/temp": value["cpu_temp_millicelsius"],
        tmp_path / "sys/class/thermal/thermal_zone0/trip_point_0_type": "critical",
        tmp_path / "sys/class/thermal/thermal_zone1/type": "acpitz",
        tmp_path / "sys/class/powercap/intel-rapl:0/name": "package-0",
        tmp_path / "sys/class/powercap/intel-rapl:0/max_energy_range_uj": 262_143_328_850,
        tmp_path / "sys/devices/system/cpu/cpufreq/policy0/scaling_min_freq": 800_000,
        tmp_path / "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq": 5_000_000,
        tmp_path / "sys/devices/system/cpu/cpufreq/policy0/scaling_governor": "performance",
    }
    assert {path: path.read_text() for path in expected} == {path: f"{text}\n" for path, text in expected.items()}
    assert (core / "device").resolve() == tmp_path / "sys/devices/platform/coretemp.0"
    assert (tmp_path / "proc/meminfo").read_text().startswith(f"MemTotal:{value['memory_total_kibibytes']:>15} kB\n")


def test_other_programs_read_the_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = SysTree(tmp_path, DESKTOP)
    value = dict(zip(NAMES, ZEROS, strict=True))
    value |= {"cpu_busy_ticks": 1_001, "cpu_total_ticks": 5_000}
    value |= {"memory_total_kibibytes": 1_000, "memory_available_kibibytes": 400}
    tree.update(tuple(value.values()), OK)
    monkeypatch.setattr(psutil, "PROCFS_PATH", str(tmp_path / "proc"))
    memory = psutil.virtual_memory()
    assert (memory.total, memory.available) == (1_000 * 1_024, 400 * 1_024)
    times = psutil.cpu_times()
    assert (times.user + times.system, times.idle) == (10.01, 39.99)
    assert psutil.cpu_stats().ctx_switches == 0


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_combination_of_channels_comes_back(data: st.DataObject, tmp_path: Path) -> None:
    """Also through the full wiring, as `--root` would read the tree of another process."""
    tree = SysTree(tmp_path, DESKTOP)
    backends = [LinuxHardware(tmp_path, wiring, FakeClock()) for wiring in (tree.wiring, DESKTOP)]
    for _update in range(data.draw(st.integers(1, 3))):
        statuses = tuple(
            data.draw(st.sampled_from([Status.OK, Status.ABSENT, Status.GARBAGE]), label=name) for name in NAMES
        )
        values = tuple(
            data.draw(st.integers(0, 10**8).map(lambda n: n * 10_000)) if status is Status.OK else None
            for status in statuses
        )
        tree.update(values, statuses)
        for backend in backends:
            readings = backend.read()
            assert (readings.values, readings.statuses) == (values, statuses)


def test_the_two_times_and_the_two_sizes_are_independent(tmp_path: Path) -> None:
    tree = SysTree(tmp_path, DESKTOP)
    hardware = LinuxHardware(tmp_path, tree.wiring, FakeClock())
    states = (Status.OK, Status.ABSENT, Status.GARBAGE)
    for pair in (("cpu_busy_ticks", "cpu_total_ticks"), ("memory_total_kibibytes", "memory_available_kibibytes")):
        places = [NAMES.index(name) for name in pair]
        for first in states:
            for second in states:
                statuses, values = list(OK), [7] * len(NAMES)
                values[NAMES.index("gpu_busy_ppm")] = 0
                for place, status in zip(places, (first, second), strict=True):
                    statuses[place] = status
                shown_values = tuple(
                    value if status is Status.OK else None for value, status in zip(values, statuses, strict=True)
                )
                tree.update(shown_values, tuple(statuses))
                assert hardware.read().values == shown_values
                assert hardware.read().statuses == tuple(statuses)


@pytest.mark.parametrize("status", [Status.DENIED, Status.UNREADABLE, Status.STALE])
def test_what_no_file_can_show_is_refused(status: Status, tmp_path: Path) -> None:
    tree = SysTree(tmp_path, DESKTOP)
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=f"cpu_temp_millicelsius is {status.name}"):
        tree.update((None, *ZEROS[1:]), (status, *OK[1:]))
    assert contents(tmp_path) == before


def test_files_are_replaced_as_a_whole_and_only_when_they_change(tmp_path: Path) -> None:
    tree = SysTree(tmp_path, DESKTOP)
    temperature = next(tmp_path.glob("sys/class/hwmon/*/temp1_input"))
    fan = next(tmp_path.glob("sys/class/hwmon/*/fan2_input"))
    with temperature.open() as held:
        inodes = temperature.stat().st_ino, fan.stat().st_ino
        tree.update((55_000, *ZEROS[1:]), OK)
        assert temperature.stat().st_ino != inodes[0]
        assert fan.stat().st_ino == inodes[1]
        # Who had opened the file before still reads the old value.
        assert held.read() == "0\n"
    assert (tmp_path / PORT).read_text().startswith("sequence 2\n")
    assert os.listdir(tmp_path / ".pulsetwin") == []  # noqa: PTH208


def test_outputs_begin_as_asked_and_show_what_anyone_writes(tmp_path: Path) -> None:
    tree = SysTree(tmp_path, DESKTOP, {"cpu_fan_pwm": 80})
    assert tree.commands() == {
        **{limit.name: limit.maximum for limit in DESKTOP.outputs},
        "cpu_fan_pwm": 80,
    }
    pwm = next(tmp_path.glob("sys/class/hwmon/*/pwm2"))
    pwm.write_text("300\n")
    assert tree.commands()["cpu_fan_pwm"] == 300
    # An update of the sensors leaves outputs alone.
    tree.update(ZEROS, OK)
    assert tree.commands()["cpu_fan_pwm"] == 300
    pwm.write_text("full\n")
    assert "cpu_fan_pwm" not in tree.commands()


def test_a_tree_takes_only_a_folder_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at /"):
        SysTree(Path("/"), DESKTOP)
    (tmp_path / "home/proc").mkdir(parents=True)
    with pytest.raises(ValueError, match="has proc that no tree of ours put there"):
        SysTree(tmp_path / "home", DESKTOP)
    SysTree(tmp_path / "new/deep", DESKTOP)
    stray = tmp_path / "new/deep/sys/class/hwmon/hwmon9"
    stray.mkdir()
    SysTree(tmp_path / "new/deep", DESKTOP)
    assert not stray.exists()


def test_each_channel_has_one_place_and_no_two_share_it() -> None:
    places = shown(DESKTOP)
    assert all(len(channel.sources) == 1 for channel in places.sensors)
    assert shown(places) == places
    assert [channel.name for channel in places.sensors] == NAMES
    twice = Wiring(
        (Channel("a", sources=(Source("stat", "busy"),)), Channel("b", sources=(Source("stat", "busy"),))), ()
    )
    assert [channel.sources[0].kind for channel in shown(twice).sensors] == ["stat", "application"]
