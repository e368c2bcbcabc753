from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hardware_fakes import FakeClock, add_chip, add_zone, put
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hardware.interface import AmbiguousDeviceError, Channel, Limit, Source, Status, Wiring
from hardware.linux import cpufreq, hwmon, powercap, thermal
from hardware.linux.adapter import LinuxHardware
from hardware.linux.hands import DirectHands
from hardware.linux.output import Output
from hardware.linux.sysfs import FileCell, Root

CHIPS = {
    "platform/coretemp.0": (
        "coretemp",
        {"temp1_input": 51_000, "temp1_label": "Package id 0", "temp2_input": 52_000, "temp2_label": "Core 0"},
    ),
    "platform/coretemp.1": ("coretemp", {"temp1_input": 61_000, "temp1_label": "Package id 1"}),
    "platform/nct6775.656": ("nct6775", {"fan1_input": 1_100, "fan2_input": 1_200, "pwm2": 80, "pwm2_enable": 5}),
    "pci0000:00/0000:03:00.0": ("amdgpu", {"temp1_input": 71_000, "temp1_label": "edge", "freq1_input": 2_400_000_000}),
    "": ("acpitz", {"temp1_input": 27_800}),
}
SENSORS = (
    Channel("cpu", sources=(Source("hwmon", "temp", ("k10temp", "coretemp"), ("Tctl", "Package id 0")),)),
    Channel("fan", sources=(Source("hwmon", "fan", ("nct6798", "nct6775"), index=2),)),
    Channel("gpu", sources=(Source("hwmon", "temp", ("amdgpu",), ("edge",)),)),
    Channel("clock", sources=(Source("hwmon", "freq", ("amdgpu",), divide=1_000),)),
    Channel("board", sources=(Source("hwmon", "temp", ("acpitz",)),)),
)
FAN = Limit("fan_pwm", 0, 255, 255, (Source("hwmon", "pwm", ("nct6775",), index=2),))
EXPECTED = (51_000, 1_200, 71_000, 2_400_000, 27_800)


def build(root: Path, order: list[int]) -> None:
    """The chips with these numbers, as another order of module loading would give them."""
    for directory in ("sys/class/hwmon", "sys/devices"):
        shutil.rmtree(root / directory, ignore_errors=True)
    for number, (device, (name, files)) in zip(order, CHIPS.items(), strict=True):
        add_chip(root, number, device, name, files)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(before=st.permutations(range(5)), after=st.permutations(range(5)))
def test_numbers_of_chips_mean_nothing(before: list[int], after: list[int], tmp_path: Path) -> None:
    build(tmp_path, before)
    hardware = LinuxHardware(tmp_path, Wiring(SENSORS, (FAN,)), FakeClock(), DirectHands(FakeClock()))
    assert hardware.read().values == EXPECTED
    assert "coretemp.0" in hardware.found["cpu"]
    # Renumbered while running: nothing is ever read from the wrong chip, and all is found again at the next read.
    build(tmp_path, after)
    assert all(value in (None, expected) for value, expected in zip(hardware.read().values, EXPECTED, strict=True))
    assert hardware.read().values == EXPECTED


def test_two_chips_that_match_are_an_error_that_names_both(tmp_path: Path) -> None:
    for number, device in enumerate(("0000:03:00.0", "0000:0c:00.0")):
        add_chip(tmp_path, number, f"pci0000:00/{device}", "amdgpu", CHIPS["pci0000:00/0000:03:00.0"][1])
    wiring = Wiring(SENSORS, (Limit("cap", 0, 1, 0, (Source("hwmon", "temp", ("amdgpu",)),)),))
    with pytest.raises(AmbiguousDeviceError) as caught:
        LinuxHardware(tmp_path, wiring, FakeClock())
    text = str(caught.value)
    assert "/sys/devices/pci0000:00/0000:03:00.0 (write amdgpu@0000:03:00.0)" in text
    assert all(f"{name}: 2 places" in text for name in ("gpu", "clock", "cap"))
    assert len(caught.value.candidates) == 6
    # The name with the device is taken.
    exact = Source("hwmon", "temp", ("amdgpu@0000:0c:00.0",), ("edge",))
    hardware = LinuxHardware(tmp_path, Wiring((Channel("gpu", sources=(exact,)),), ()), FakeClock())
    assert "0000:0c:00.0" in hardware.found["gpu"]


def test_a_second_match_that_comes_later_is_no_reading(tmp_path: Path) -> None:
    wiring = Wiring((SENSORS[2],), ())
    hardware = LinuxHardware(tmp_path, wiring, FakeClock())
    assert hardware.read().statuses == (Status.ABSENT,)
    for number, device in enumerate(("a", "b")):
        add_chip(tmp_path, number, device, *CHIPS["pci0000:00/0000:03:00.0"])
    assert hardware.read().statuses == (Status.ABSENT,)
    assert "2 places match" in hardware.missing["gpu"]
    assert "2 places match" in hardware.details["gpu"]


def test_twice_the_same_label_on_one_chip_is_ambiguous(tmp_path: Path) -> None:
    files = {"temp1_input": 1, "temp1_label": "edge", "temp7_input": 2, "temp7_label": "edge"}
    add_chip(tmp_path, 0, "gpu", "amdgpu", files)
    root = Root(tmp_path)
    with pytest.raises(AmbiguousDeviceError):
        hwmon.find(root, hwmon.scan(root), SENSORS[2].sources[0])


def test_names_come_before_labels_in_preference(tmp_path: Path) -> None:
    files = {"temp1_input": 1, "temp1_label": "Tdie", "temp2_input": 2, "temp2_label": "Tctl", "temp3_label": "Tctl"}
    add_chip(tmp_path, 0, "pci/1", "k10temp", files)
    add_chip(tmp_path, 1, "pci/2", "zenpower", files)
    root = Root(tmp_path)
    chips = hwmon.scan(root)
    for names, labels, where in (
        (("zenpower", "k10temp"), ("Tdie", "Tctl"), "pci/2/hwmon/hwmon1/temp1_input"),
        (("k10temp", "zenpower"), ("Tctl", "Tdie"), "pci/1/hwmon/hwmon0/temp2_input"),
        (("other", "zenpower"), ("none", "Tctl"), "pci/2/hwmon/hwmon1/temp2_input"),
    ):
        cell = hwmon.find(root, chips, Source("hwmon", "temp", names, labels))
        assert isinstance(cell, FileCell)
        assert cell.where == f"/sys/devices/{where}"
    for source in (
        Source("hwmon", "temp", ("k10temp",), ("Tccd1",)),
        Source("hwmon", "fan"),
        Source("hwmon", "gpu_busy_percent", ("k10temp",)),
    ):
        assert "no hwmon chip" in str(hwmon.find(root, chips, source))


def test_links_that_lead_out_are_no_devices(tmp_path: Path) -> None:
    outside = add_chip(tmp_path / "outside", 0, "x", "coretemp", {"temp1_input": 1})
    for kind in ("hwmon", "thermal", "powercap"):
        (tmp_path / "root/sys/class" / kind).mkdir(parents=True)
    (tmp_path / "root/sys/class/hwmon/hwmon0").symlink_to(outside)
    (tmp_path / "root/sys/class/thermal/thermal_zone0").symlink_to(outside)
    (tmp_path / "root/sys/class/powercap/intel-rapl:0").symlink_to(outside)
    (tmp_path / "root" / cpufreq.DIRECTORY).mkdir(parents=True)
    (tmp_path / "root" / cpufreq.DIRECTORY / "policy0").symlink_to(outside)
    root = Root(tmp_path / "root")
    assert hwmon.scan(root) == thermal.scan(root) == powercap.scan(root) == cpufreq.scan(root) == ()


def test_a_sensor_that_reports_a_fault_has_no_value(tmp_path: Path) -> None:
    directory = add_chip(tmp_path, 0, "x", "coretemp", {"temp1_input": 128_000, "temp1_fault": 1})
    root = Root(tmp_path)
    cell = hwmon.find(root, hwmon.scan(root), Source("hwmon", "temp", ("coretemp",)))
    assert isinstance(cell, FileCell)
    assert cell.read().status is Status.UNREADABLE
    assert "temp1_fault" in cell.read().detail
    put(directory, {"temp1_fault": 0})
    assert cell.read().value == 128_000


def test_busy_percent_lies_in_the_device(tmp_path: Path) -> None:
    add_chip(tmp_path, 4, "pci/gpu", "amdgpu", {})
    put(tmp_path, {"sys/devices/pci/gpu/gpu_busy_percent": 37})
    busy = Channel("busy", sources=(Source("hwmon", "gpu_busy_percent", ("amdgpu",), multiply=10_000),))
    hardware = LinuxHardware(tmp_path, Wiring((busy,), ()), FakeClock())
    assert hardware.read().values == (370_000,)


# --- thermal, cpufreq, powercap ---------------------------------------------------------------------------------------


def test_thermal_zones_by_type(tmp_path: Path) -> None:
    trips = {
        "trip_point_0_temp": 119_000,
        "trip_point_0_type": "critical",
        "trip_point_1_temp": "",
        "trip_point_1_type": "hot",
    }
    add_zone(tmp_path, "thermal", "thermal_zone0", {"type": "acpitz", "temp": 27_800, **trips})
    add_zone(tmp_path, "thermal", "thermal_zone1", {"type": "x86_pkg_temp", "temp": 45_000})
    add_zone(tmp_path, "thermal", "cooling_device0", {"type": "Processor", "temp": 1})
    root = Root(tmp_path)
    cell = thermal.find(root, thermal.scan(root), Source("thermal", "temp", ("cpu-thermal", "x86_pkg_temp")))
    assert isinstance(cell, FileCell)
    assert cell.read().value == 45_000
    assert "no thermal zone" in str(thermal.find(root, thermal.scan(root), Source("thermal", "temp", ("Processor",))))
    assert thermal.trip_points(root) == {
        "acpitz@thermal_zone0": (("critical", 119_000),),
        "x86_pkg_temp@thermal_zone1": (),
    }
    (add_zone(tmp_path, "thermal", "thermal_zone2", {"type": "acpitz", "temp": 16_800}) / "device").symlink_to(
        "../../.."
    )
    with pytest.raises(AmbiguousDeviceError, match="write acpitz@devices"):
        thermal.find(root, thermal.scan(root), Source("thermal", "temp", ("acpitz",)))
    cell = thermal.find(root, thermal.scan(root), Source("thermal", "temp", ("acpitz@devices",)))
    assert isinstance(cell, FileCell)
    assert cell.read().value == 16_800


def add_policy(root: Path, number: int, low: int, high: int, now: object) -> Path:
    files = {
        "cpuinfo_min_freq": low, "cpuinfo_max_freq": high,
        "scaling_min_freq": low, "scaling_max_freq": high, "scaling_cur_freq": now,
    }  # fmt: skip
    put(root / cpufreq.DIRECTORY / f"policy{number}", files)
    return root / cpufreq.DIRECTORY / f"policy{number}"


def test_the_clock_is_that_of_the_fastest_policy(tmp_path: Path) -> None:
    clock = Source("cpufreq", "scaling_cur_freq")
    root = Root(tmp_path)
    assert "no cpufreq policy" in str(cpufreq.find(root, cpufreq.scan(root), clock))
    add_policy(tmp_path, 0, 800_000, 5_000_000, 1_200_000)
    add_policy(tmp_path, 4, 400_000, 3_800_000, 2_100_000)
    cell = cpufreq.find(root, cpufreq.scan(root), clock)
    assert not isinstance(cell, str)
    assert cell.read().value == 2_100_000
    put(tmp_path / cpufreq.DIRECTORY, {"policy4/scaling_cur_freq": "<unknown>"})
    assert cell.read().value == 1_200_000
    put(tmp_path / cpufreq.DIRECTORY, {"policy0/scaling_cur_freq": "<unknown>"})
    assert cell.read().status is Status.GARBAGE


def test_the_highest_clock_of_each_policy_stays_in_its_range_and_above_the_lowest(tmp_path: Path) -> None:
    policies = [add_policy(tmp_path, 0, 800_000, 5_000_000, 1), add_policy(tmp_path, 4, 400_000, 3_800_000, 1)]
    put(policies[0], {"scaling_min_freq": 3_000_000})
    root = Root(tmp_path)
    output = cpufreq.find_output(root, cpufreq.scan(root), Source("cpufreq", "scaling_max_freq"))
    assert isinstance(output, Output)
    writes = [(cell.where.rpartition("/")[2], cell.where.split("/")[-2], raw) for cell, raw in output.plan(2_000_000)]
    assert writes == [
        ("scaling_min_freq", "policy0", 2_000_000),
        ("scaling_max_freq", "policy0", 2_000_000),
        ("scaling_max_freq", "policy4", 2_000_000),
    ]
    assert [raw for _cell, raw in output.plan(9_000_000)] == [5_000_000, 3_800_000]
    assert [raw for _cell, raw in output.plan(500_000)] == [800_000, 800_000, 500_000]
    assert (output.inside(9_000_000), output.inside(1)) == (5_000_000, 800_000)
    for policy in policies:
        (policy / "cpuinfo_max_freq").unlink()
    output = cpufreq.find_output(root, cpufreq.scan(root), Source("cpufreq", "scaling_max_freq"))
    assert isinstance(output, Output)
    assert output.inside(9_000_000) == 9_000_000
    assert "no cpufreq" in str(cpufreq.find_output(root, (), Source("cpufreq", "scaling_max_freq")))


ENERGY = Channel("energy", 1_000, (Source("powercap", "energy_uj", ("package-0",)),))
LIMIT = Limit("limit", 0, 10**9, 5, (Source("powercap", "constraint_0_power_limit_uw", ("package-0",)),))


def test_a_counter_wraps_where_the_kernel_says(tmp_path: Path) -> None:
    zone = add_zone(
        tmp_path, "powercap", "intel-rapl:0", {"name": "package-0", "energy_uj": 7, "max_energy_range_uj": 65_532}
    )
    hardware = LinuxHardware(tmp_path, Wiring((ENERGY,), ()), FakeClock())
    assert hardware.sensors[0].wrap == 65_532
    assert hardware.read().values == (7,)
    # A range that is not told is not guessed.
    (zone / "max_energy_range_uj").unlink()
    assert LinuxHardware(tmp_path, Wiring((ENERGY,), ()), FakeClock()).sensors[0].wrap is None
    # Nor does a machine without the counter change the channel.
    (tmp_path / "bare").mkdir()
    assert LinuxHardware(tmp_path / "bare", Wiring((ENERGY,), ()), FakeClock()).sensors == (ENERGY,)


def test_a_zone_under_two_control_types_is_read_once_and_limited_twice(tmp_path: Path) -> None:
    files = {"name": "package-0", "energy_uj": 1, "constraint_0_power_limit_uw": 9}
    add_zone(tmp_path, "powercap", "intel-rapl-mmio:0", files)
    add_zone(tmp_path, "powercap", "intel-rapl:0", {**files, "energy_uj": 2})
    add_zone(tmp_path, "powercap", "intel-rapl:0:0", {"name": "core", "energy_uj": 3})
    (tmp_path / "sys/class/powercap/intel-rapl").symlink_to("../../devices/virtual/powercap")
    root = Root(tmp_path)
    found = powercap.find(root, powercap.scan(root), ENERGY.sources[0])
    assert not isinstance(found, str)
    assert found[0].read().value == 2
    output = powercap.find_output(root, powercap.scan(root), LIMIT.sources[0])
    assert isinstance(output, Output)
    assert [cell.where.split("/")[-2] for cell, _raw in output.plan(5)] == ["intel-rapl:0", "intel-rapl-mmio:0"]
    core = Source("powercap", "constraint_0_power_limit_uw", ("core", "uncore"))
    assert "no powercap zone called core or uncore" in str(powercap.find_output(root, powercap.scan(root), core))
    add_zone(tmp_path, "powercap", "intel-rapl:1", files)
    with pytest.raises(AmbiguousDeviceError, match="called package-0"):
        powercap.find(root, powercap.scan(root), ENERGY.sources[0])
