from __future__ import annotations

from pathlib import Path

import pytest
from hardware_fakes import DESKTOP, FakeClock, FakeWorld, contents
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hardware.check import check_hardware
from hardware.interface import (
    Applied,
    Channel,
    Command,
    Hardware,
    Limit,
    Readings,
    Source,
    Status,
    UnknownChannelError,
    Wiring,
)
from hardware.linux.adapter import LinuxHardware
from hardware.linux.hands import DirectHands
from hardware.linux.tree import SysTree
from hardware.lockstep import LockstepHardware
from hardware.replay import Difference, RecordedCycle, RecordingHardware, ReplayExhausted, ReplayHardware
from hardware.simulated import SimulatedHardware

SAFE = {limit.name: limit.safe for limit in DESKTOP.outputs}


def conforms(hardware: Hardware) -> None:
    checks = check_hardware(lambda: hardware)
    assert len(checks) == 17
    assert [check for check in checks if not check.passed] == []


def test_conformance_simulated() -> None:
    conforms(SimulatedHardware(FakeWorld(), DESKTOP, FakeClock()))


def test_conformance_lockstep(tmp_path: Path) -> None:
    conforms(LockstepHardware(FakeWorld(), DESKTOP, tmp_path, FakeClock()))


@pytest.mark.parametrize("act", [False, True])
def test_conformance_linux(tmp_path: Path, act: bool) -> None:
    SysTree(tmp_path / "tree", DESKTOP)
    conforms(LinuxHardware(tmp_path / "tree", DESKTOP, FakeClock(), DirectHands(FakeClock()) if act else None))
    (tmp_path / "bare").mkdir()
    conforms(LinuxHardware(tmp_path / "bare", DESKTOP, FakeClock(), DirectHands(FakeClock()) if act else None))


def test_conformance_replay() -> None:
    recorder = RecordingHardware(SimulatedHardware(FakeWorld(), DESKTOP, FakeClock()))
    conforms(recorder)
    replay = ReplayHardware(recorder.sensors, recorder.limits, recorder.cycles)
    conforms(replay)
    assert replay.first_difference is None
    with pytest.raises(ReplayExhausted, match=f"after {len(recorder.cycles)} cycles"):
        replay.read()


def test_conformance_writes_nothing_to_a_machine_that_is_only_read(tmp_path: Path) -> None:
    SysTree(tmp_path, DESKTOP)
    before = contents(tmp_path)
    conforms(LinuxHardware(tmp_path, DESKTOP, FakeClock()))
    assert contents(tmp_path) == before


class Broken(SimulatedHardware):
    """A backend with one defect at a time."""

    def __init__(self, defect: str) -> None:
        super().__init__(FakeWorld(), DESKTOP, FakeClock())
        self.defect = defect
        self.reads = 0
        self.closes = 0

    @property
    def sensors(self) -> tuple[Channel, ...]:
        return (super().sensors[0], *super().sensors[:-1]) if self.defect == "twin names" else super().sensors

    @property
    def limits(self) -> dict[str, Limit]:  # type: ignore[override]
        limits = dict(super().limits)
        if self.defect == "unsafe":
            limits["cpu_fan_pwm"] = Limit("cpu_fan_pwm", 0, 255, 256)
        return limits

    def read(self) -> Readings:
        readings = super().read()
        values, times, statuses = list(readings.values), list(readings.times_ns), list(readings.statuses)
        self.reads += 1
        match self.defect:
            case "short":
                values.pop(), times.pop(), statuses.pop()
            case "float":
                values[0] = 1.0  # type: ignore[call-overload]
            case "silent zero":
                statuses[0] = Status.ABSENT
            case "time":
                times[0] = -self.reads
            case "counter":
                values[6] = 100 - self.reads
            case "raises":
                raise OSError("a sensor cannot be read")
        return Readings(tuple(values), tuple(times), tuple(statuses))

    def apply(self, command: Command) -> Applied:
        if self.defect == "takes anything":
            return Applied(command.values)
        applied = super().apply(command)
        match self.defect:
            case "clamps silently":
                return Applied(applied.values)
            case "invents":
                return Applied({**applied.values, "extra": 1})
            case "stubborn":
                return Applied(dict.fromkeys(applied.values, 255), applied.clamped)
        return applied

    def close(self) -> None:
        self.closes += 1
        if self.defect == "closes once" and self.closes > 1:
            raise RuntimeError("already closed")
        super().close()


@pytest.mark.parametrize(
    "defect",
    [
        "twin names", "unsafe", "short", "float", "silent zero", "time", "counter", "raises", "takes anything",
        "clamps silently", "invents", "stubborn", "closes once",
    ],
)  # fmt: skip
def test_conformance_finds_each_defect(defect: str) -> None:
    assert any(not check.passed and check.detail for check in check_hardware(lambda: Broken(defect)))


def test_conformance_says_when_a_backend_does_not_open() -> None:
    def make() -> Hardware:
        raise OSError("no machine")

    (check,) = check_hardware(make)
    assert not check.passed
    assert "no machine" in check.detail


# --- simulated and lockstep -------------------------------------------------------------------------------------------


def test_simulated_stamps_quantises_and_releases_once() -> None:
    world, clock = FakeWorld(), FakeClock()
    clock.now_ns = 12_345
    hardware = SimulatedHardware(world, DESKTOP, clock)
    busy = [channel.name for channel in DESKTOP.sensors].index("gpu_busy_ppm")
    world.say((*world.values[:busy], 123_456, *world.values[busy + 1 :]), world.statuses)
    readings = hardware.read()
    assert readings.values[busy] == 120_000
    assert set(readings.times_ns) == {12_345}
    applied = hardware.apply(Command({"cpu_fan_pwm": 300, "case_fan_pwm": 7}))
    assert applied == Applied({"cpu_fan_pwm": 255, "case_fan_pwm": 7}, ("cpu_fan_pwm",))
    assert world.actuated == [("cpu_fan_pwm", 255), ("case_fan_pwm", 7)]
    hardware.close()
    hardware.close()
    assert world.released == 1
    assert hardware.apply(Command({"cpu_fan_pwm": 3})).failed == (("cpu_fan_pwm", "closed"),)
    assert len(world.actuated) == 2


@pytest.mark.parametrize("kind", ["simulated", "lockstep"])
def test_a_refused_command_moves_nothing(kind: str, tmp_path: Path) -> None:
    world = FakeWorld()
    hardware: Hardware = (
        SimulatedHardware(world, DESKTOP, FakeClock())
        if kind == "simulated"
        else LockstepHardware(world, DESKTOP, tmp_path, FakeClock())
    )
    before = contents(tmp_path)
    with pytest.raises(UnknownChannelError, match="cpu_fan_pwm"):
        hardware.apply(Command({"cpu_fan_pwm": 9, "warp_core": 1}))
    with pytest.raises(TypeError, match="nan"):
        hardware.apply(Command({"cpu_fan_pwm": 9, "case_fan_pwm": float("nan")}))  # type: ignore[dict-item]
    assert world.actuated == []
    assert contents(tmp_path) == before


ODD = Wiring(
    (
        Channel("nameless_temp_millicelsius"),
        Channel("nvidia_ppm", sources=(Source("hwmon", "gpu_busy_percent"), Source("nvml", "busy", multiply=10_000))),
        Channel("a_rpm", sources=(Source("hwmon", "fan", ("nct6775",)),)),
        Channel("b_rpm", sources=(Source("hwmon", "fan", ("nct6775",)),)),
        Channel(
            "c_temp_millicelsius", sources=(Source("hwmon", "temp", ("../etc",)), Source("thermal", "temp", ("x",)))
        ),
        Channel("d_temp_millicelsius", sources=(Source("hwmon", "temp", ("k10temp@0000:00:18.3",), ("Tctl",)),)),
        Channel("e_temp_millicelsius", sources=(Source("hwmon", "temp", ("k10temp",), ("Tctl",)),)),
        Channel("f_temp_millicelsius", sources=(Source("hwmon", "temp", ("k10temp",)),)),
        Channel("g_temp_millicelsius", sources=(Source("hwmon", "temp", ("k10temp",), (" padded",)),)),
        Channel("uncore_microjoules", 65_535, (Source("powercap", "energy_uj", ("core", "uncore")),)),
        Channel("lonely_ticks", sources=(Source("stat", "total"),)),
        Channel("white space"),
    ),
    (
        Limit("a_pwm", 0, 255, 255, (Source("hwmon", "pwm", ("nct6775",)),)),
        Limit("b_pwm", 0, 255, 255, (Source("hwmon", "pwm", ("nct6775",)),)),
        Limit("nvidia_microwatts", 1_000, 9_999, 2_000, (Source("nvml", "power_limit", multiply=1_000),)),
        Limit("coarse_microwatts", 1_000, 9_000, 2_000, (Source("hwmon", "power_cap", ("chip",), multiply=1_000),)),
    ),
)
"""A machine with clashes, gaps and names that no kernel would print."""


@st.composite
def cycles(draw: st.DrawFn, machine: Wiring) -> list[tuple[tuple[int | None, ...], tuple[Status, ...], dict[str, int]]]:
    status = st.sampled_from([Status.OK, Status.OK, Status.ABSENT, Status.GARBAGE])
    found = []
    for _cycle in range(draw(st.integers(1, 4))):
        statuses = tuple(draw(status) for _channel in machine.sensors)
        value = st.integers(-(10**6), 10**12)
        values = tuple(draw(value) if status is Status.OK else None for status in statuses)
        names = draw(st.lists(st.sampled_from([limit.name for limit in machine.outputs]), unique=True))
        found.append((values, statuses, {name: draw(st.integers(-(10**4), 10**9)) for name in names}))
    return found


@pytest.mark.parametrize("machine", [DESKTOP, ODD], ids=["desktop", "odd"])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_lockstep_is_simulated(machine: Wiring, data: st.DataObject, tmp_path: Path) -> None:
    worlds, clock = (FakeWorld(machine), FakeWorld(machine)), FakeClock()
    simulated = SimulatedHardware(worlds[0], machine, clock)
    lockstep = LockstepHardware(worlds[1], machine, tmp_path, clock)
    assert simulated.sensors == lockstep.sensors
    assert simulated.limits == lockstep.limits
    assert lockstep._linux.missing == {}
    wraps = [channel.wrap for channel in lockstep._linux.sensors]
    assert wraps == [channel.wrap for channel in machine.sensors]
    for values, statuses, command in data.draw(cycles(machine)):
        clock.now_ns += 700_000_000
        for world in worlds:
            world.say(values, statuses)
        assert simulated.read() == lockstep.read()
        assert simulated.apply(Command(command)) == lockstep.apply(Command(command))
        assert worlds[0].actuated == worlds[1].actuated
    for hardware in (simulated, lockstep):
        hardware.close()
        hardware.close()
    assert worlds[0].released == worlds[1].released == 1
    assert lockstep._linux.unrestored == ()


def test_lockstep_gives_the_world_what_the_files_say(tmp_path: Path) -> None:
    world = FakeWorld()
    hardware = LockstepHardware(world, DESKTOP, tmp_path, FakeClock())
    before = contents(tmp_path)
    hardware.apply(Command({"cpu_fan_pwm": 99}))
    pwm = next(tmp_path.glob("sys/class/hwmon/*/pwm2"))
    assert pwm.read_text() == "99\n"
    assert pwm.with_name("pwm2_enable").read_text() == "1\n"
    # Another program interferes: the world follows the file.
    pwm.write_text("40\n")
    hardware.apply(Command({"cpu_fan_pwm": 99}))
    assert world.actuated == [("cpu_fan_pwm", 99), ("cpu_fan_pwm", 40)]
    hardware.close()
    assert contents(tmp_path) == before


# --- replay -----------------------------------------------------------------------------------------------------------


def replay_of(*commands: dict[str, int]) -> ReplayHardware:
    readings = Readings((1,), (0,), (Status.OK,))
    recorded = (RecordedCycle(readings, command, Applied(command)) for command in commands)
    return ReplayHardware((Channel("x"),), {limit.name: limit for limit in DESKTOP.outputs}, recorded)


def test_replay_notes_the_first_difference_and_goes_on() -> None:
    replay = replay_of({"cpu_fan_pwm": 1, "case_fan_pwm": 2}, {"cpu_fan_pwm": 3}, {"cpu_fan_pwm": 4})
    for asked, answered in (
        ({"case_fan_pwm": 2, "cpu_fan_pwm": 1}, {"cpu_fan_pwm": 1, "case_fan_pwm": 2}),
        ({"cpu_fan_pwm": 3, "gpu_fan_pwm": 7}, {"cpu_fan_pwm": 3}),
        ({"cpu_fan_pwm": 5}, {"cpu_fan_pwm": 4}),
    ):
        assert replay.read().values == (1,)
        assert replay.apply(Command(asked)).values == answered
    assert replay.first_difference == Difference(1, "gpu_fan_pwm", None, 7)
    with pytest.raises(UnknownChannelError):
        replay.apply(Command({"warp_core": 1}))


def test_replay_notes_a_value_that_differs_and_one_that_is_missing() -> None:
    replay = replay_of({"cpu_fan_pwm": 1})
    assert replay.apply(Command({"cpu_fan_pwm": 256})) == Applied({"cpu_fan_pwm": 255}, ("cpu_fan_pwm",))
    replay.read()
    replay.apply(Command({"cpu_fan_pwm": 2}))
    assert replay.first_difference == Difference(0, "cpu_fan_pwm", 1, 2)
    replay = replay_of({"cpu_fan_pwm": 1})
    replay.read()
    replay.apply(Command({}))
    assert replay.first_difference == Difference(0, "cpu_fan_pwm", 1, None)
    replay.close()


def test_a_recording_keeps_each_read_with_the_command_after_it() -> None:
    recorder = RecordingHardware(SimulatedHardware(FakeWorld(), DESKTOP, FakeClock()))
    recorder.apply(Command({"cpu_fan_pwm": 1}))
    first, second = recorder.read(), recorder.read()
    applied = recorder.apply(Command({"cpu_fan_pwm": 999}))
    assert recorder.cycles == [
        RecordedCycle(first, {}, Applied({})),
        RecordedCycle(second, {"cpu_fan_pwm": 999}, applied),
    ]
