"""Shadow mode: how far the twin and the machine part, what would have become of the commands, and when to go live."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from commands import command
from hypothesis import given
from hypothesis import strategies as st
from running import Kept, here, quick, shipped_scenario

from hardware.interface import Channel, Command, Readings, Status
from twin.cli.backends import simulated
from twin.control.choose import make_controller
from twin.loop import Loop
from twin.scenario import Fault, Scenario
from twin.shadow import Budget, GoLive, ShadowHardware, acted_channel, twin_channel


def watched(machine: Scenario, twin: Scenario) -> tuple[Kept, ShadowHardware]:
    """A simulated machine, run as if it were a real one, with a twin beside it."""
    backend = simulated(machine)
    shadow = ShadowHardware(backend.hardware, twin, backend.env.elapsed_ns)
    kept = Kept()
    Loop(backend.env, shadow, machine, make_controller(machine, shadow.limits), kept).run()
    return kept, shadow


def apart(kept: Kept, shadow: ShadowHardware, name: str, other: str) -> list[int]:
    places = [channel.name for channel in shadow.sensors]
    here, there = places.index(f"{name}_temp_millicelsius"), places.index(other)
    pairs = [(cycle.readings.values[here], cycle.readings.values[there]) for cycle in kept.cycles]
    return [shown - expected for shown, expected in pairs if shown is not None and expected is not None]


@pytest.mark.parametrize("name", ["steps", "hot_ambient"])
def test_the_twin_of_the_machine_itself_parts_by_no_more_than_sensors_round(name: str) -> None:
    scenario = quick(shipped_scenario(name), duration_ms=15_000)
    kept, shadow = watched(scenario, scenario)
    for sensor in scenario.machine.sensors:
        # The load that the acted plant has is measured to a hundredth of a second.
        for other, steps in ((twin_channel(sensor.name), 2), (acted_channel(sensor.name), 4)):
            found = apart(kept, shadow, sensor.name, other)
            assert len(found) == len(kept.cycles)
            assert max(map(abs, found)) <= steps * sensor.quantum_millicelsius + 3 * sensor.noise_millicelsius, other


def test_a_dry_paste_is_seen_by_how_far_they_part() -> None:
    scenario = quick(shipped_scenario("hot_ambient"), duration_ms=15_000)
    die = scenario.machine.cpu.node
    edges = tuple(
        replace(edge, still_watts_per_kelvin=edge.still_watts_per_kelvin * 0.5) if die in (edge.a, edge.b) else edge
        for edge in scenario.machine.edges
    )
    worn = replace(scenario, machine=replace(scenario.machine, edges=edges))
    kept, shadow = watched(worn, scenario)
    assert max(apart(kept, shadow, "cpu", twin_channel("cpu"))) > 5_000


def test_commands_reach_the_acted_plant_alone_and_the_seam_is_the_machines() -> None:
    scenario = quick(shipped_scenario("idle"))
    backend = simulated(scenario)
    shadow = ShadowHardware(backend.hardware, scenario, backend.env.elapsed_ns)
    count = len(scenario.machine.sensors)
    own = len(backend.hardware.sensors)
    assert shadow.sensors[:own] == backend.hardware.sensors
    assert len(shadow.sensors) == own + 2 * count + 1
    assert shadow.limits == backend.hardware.limits
    first = shadow.read()
    assert all(status is Status.OK for status in first.statuses[own:])
    assert shadow.apply(Command({"cpu_fan_pwm": 999})).clamped == ("cpu_fan_pwm",)
    shadow.close()
    shadow.close()


class Silent:
    """A machine of which some channels show nothing."""

    def __init__(self, hardware, missing: set[str]) -> None:
        self._hardware = hardware
        self._missing = missing
        self.sensors, self.limits = hardware.sensors, hardware.limits

    def read(self) -> Readings:
        readings = self._hardware.read()
        gone = [channel.name in self._missing for channel in self.sensors]
        return Readings(
            tuple(None if away else value for value, away in zip(readings.values, gone, strict=True)),
            readings.times_ns,
            tuple(Status.ABSENT if away else status for status, away in zip(readings.statuses, gone, strict=True)),
        )


DRIVES = {"cpu_energy_microjoules", "cpu_busy_ticks", "gpu_busy_ppm", "gpu_power_microwatts"}


@pytest.mark.parametrize("missing", [{f"{name}_temp_millicelsius" for name in ("cpu", "gpu", "case")}, DRIVES])
def test_without_a_temperature_or_a_drive_nothing_is_expected(missing: set[str]) -> None:
    scenario = quick(shipped_scenario("idle"), duration_ms=2_000)
    backend = simulated(scenario)
    shadow = ShadowHardware(Silent(backend.hardware, missing), scenario, backend.env.elapsed_ns)  # type: ignore[arg-type]
    shadow.read()
    backend.env.run(until=1_000_000_000)
    readings = shadow.read()
    own = len(backend.hardware.sensors)
    assert readings.values[own:-1] == (None,) * (2 * len(scenario.machine.sensors))
    assert set(readings.statuses[own:-1]) == {Status.ABSENT}


def test_after_a_long_pause_it_begins_anew() -> None:
    scenario = quick(shipped_scenario("idle"), faults=(Fault(target="cpu", state="stuck", at_ms=1),))
    backend = simulated(scenario)
    shadow = ShadowHardware(backend.hardware, scenario, backend.env.elapsed_ns)
    place = [channel.name for channel in shadow.sensors].index(twin_channel("cpu"))
    shown = shadow.read().values[place]
    backend.env.run(until=40_000_000_000)
    assert shadow.read().values[place] == shown


CHANNELS = tuple(
    Channel(name)
    for name in ("cpu_temp_millicelsius", "gpu_temp_millicelsius", twin_channel("cpu"), twin_channel("gpu"))
)


def reading(cpu: int | None, gpu: int | None, twin_cpu: int | None = 50_000, twin_gpu: int | None = 50_000) -> Readings:
    values = (cpu, gpu, twin_cpu, twin_gpu)
    return Readings(values, (0,) * 4, tuple(Status.ABSENT if value is None else Status.OK for value in values))


def test_a_budget_is_kept_for_so_long_by_every_sensor_that_ever_came() -> None:
    budget = Budget(1_000, 2.0, ("cpu", "gpu"), CHANNELS, 2_500_000_000)
    second = 1_000_000_000
    assert not budget.see(reading(None, None), 0)
    assert not budget.see(reading(50_000, None), 1 * second)
    assert not budget.see(reading(51_000, None), 2 * second)
    assert budget.see(reading(49_000, None), 3 * second)
    assert not budget.see(reading(50_000, 51_001), 4 * second)
    assert not budget.see(reading(50_000, 51_000), 5 * second)
    assert budget.see(reading(50_000, 51_000), 7 * second)
    # What came once and is away is not within it.
    assert not budget.see(reading(50_000, None), 8 * second)
    assert not budget.see(reading(50_000, 50_000, twin_gpu=None), 9 * second)
    # What nobody has seen was not kept, and after a failure it has to be kept for longer.
    assert not budget.see(reading(50_000, 50_000), 10 * second)
    assert not budget.see(reading(50_000, 50_000), 600 * second)
    assert budget.see(reading(50_000, 50_000), 602 * second)
    budget.harden()
    assert not budget.see(reading(50_000, 50_000), 603 * second)
    assert budget.see(reading(50_000, 50_000), 604 * second)
    budget.rest(700 * second)
    assert budget.see(reading(50_000, 50_000), 702 * second)


@given(st.lists(st.tuples(st.integers(1, 900), st.one_of(st.none(), st.integers(47_000, 53_000))), max_size=40))
def test_a_budget_is_what_its_sentence_says(steps: list[tuple[int, int | None]]) -> None:
    budget = Budget(1_500, 1.0, ("cpu",), (CHANNELS[0], CHANNELS[2]), 10**9)
    now_ns, history = 0, []
    for passed_ms, value in steps:
        now_ns += passed_ms * 1_000_000
        within = value is not None and abs(value - 50_000) <= 1_500
        history.append((now_ns, within))
        run = []
        for at_ns, each in reversed(history):
            if not each:
                break
            run.append(at_ns)
        kept = bool(run) and run[0] - run[-1] >= 1_000_000_000
        statuses = (Status.ABSENT if value is None else Status.OK, Status.OK)
        assert budget.see(Readings((value, 50_000), (0, 0), statuses), now_ns) is kept


class Hands:
    """Notes when it was to act; refuses once it was told to, and gives up after so many questions whether it acts."""

    def __init__(self, able: bool = True, starts: int = 1, lasts: int = 1_000) -> None:
        self.said: list[str] = []
        self.able = able
        self.starts, self.lasts = starts, lasts
        self.asked = 0

    def begin(self) -> bool:
        self.said.append("begin")
        return self.able

    def acts(self) -> bool | None:
        self.asked += 1
        return None if self.asked > self.lasts else self.asked > self.starts

    def end(self) -> None:
        self.said.append("end")
        self.asked = 0


@pytest.mark.parametrize("able", [True, False])
def test_it_goes_live_when_the_budget_was_kept_and_no_longer_when_it_is_not(able: bool) -> None:
    scenario = quick(
        shipped_scenario("idle"), duration_ms=11_000,
        faults=(Fault(target="cpu", state="wrong", at_ms=4_000, duration_ms=1_000, amount=20_000),),
    )  # fmt: skip
    backend = simulated(scenario)
    hands = Hands(able)
    shadow = ShadowHardware(backend.hardware, scenario, backend.env.elapsed_ns, GoLive(3_000, 2.0, hands))
    kept = Kept()
    Loop(backend.env, shadow, scenario, make_controller(scenario, shadow.limits), kept).run()
    place = [channel.name for channel in shadow.sensors].index("acting_code")
    acting = [cycle.readings.values[place] for cycle in kept.cycles]
    if not able:
        # What cannot be is not asked for again.
        assert hands.said == ["begin"]
        assert set(acting) == {0}
        return
    assert hands.said == ["begin", "end", "begin"]
    assert acting[:20] == [0] * 20
    # It takes a while until it acts, which is not waited for.
    assert set(acting[22:40]) == {1}
    # It was given back at 4 s and a bit, good again from 5 s and a bit on, and has now twice as long to prove it.
    assert set(acting[42:90]) == {0}
    assert acting[-1] == 1


def test_whoever_gives_up_acting_is_not_said_to_act() -> None:
    scenario = quick(shipped_scenario("idle"), duration_ms=6_000)
    backend = simulated(scenario)
    hands = Hands(starts=5, lasts=20)
    shadow = ShadowHardware(backend.hardware, scenario, backend.env.elapsed_ns, GoLive(3_000, 2.0, hands))
    kept = Kept()
    Loop(backend.env, shadow, scenario, make_controller(scenario, shadow.limits), kept).run()
    place = [channel.name for channel in shadow.sensors].index("acting_code")
    acting = [cycle.readings.values[place] for cycle in kept.cycles]
    assert (sum(acting), hands.said) == (15, ["begin"])
    assert acting[20:26] == [0] * 6
    assert acting[-1] == 0


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A machine as files, which stand still."""
    root = tmp_path_factory.mktemp("machine") / "root"
    here("run", "idle", "--backend", "lockstep", "--root", root, "--duration", 1, "--out", root.parent / "made")
    return root


def test_shadow_and_live_as_a_user_runs_them(tree: Path, tmp_path: Path) -> None:
    outputs = sorted(tree.glob("sys/class/hwmon/*/pwm*"))
    before = [path.read_text() for path in outputs]
    run = tmp_path / "run"
    live = ("--shadow", "--act", "--go-live-within", "5:1")
    result = here("run", "idle", "--backend", "linux", "--root", tree, "--duration", 2.5, *live, "--out", run)
    assert [path.read_text() for path in outputs] == before
    table = pd.read_parquet(run / "control.parquet")
    assert table["acting_code"].iloc[0] == 0
    assert table["acting_code"].iloc[-1] == 1
    assert here("replay", run)["control_digest"] == result["control_digest"]
    found = here("compare", "--live", run, "--seconds", 1)
    assert found["ended"]
    assert {gap["sensor"] for gap in found["sensors"]} == {"cpu", "gpu", "case"}
    assert all(gap["samples"] == found["cycles"] and abs(gap["worst"]) <= 5_000 for gap in found["sensors"])
    assert "the twin has proved good" in (run / "run.log").read_text()
    said = command("compare", "--live", run)
    assert "had it acted" in said.out


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("run", "idle", "--shadow"), "--shadow goes with --backend linux"),
        (("run", "idle", "--backend", "linux", "--root", "{tree}", "--shadow", "--act"), "name it"),
        (("run", "idle", "--backend", "linux", "--root", "{tree}", "--go-live-within", "2:5"), "--shadow --act"),
        (("run", "idle", "--go-live-within", "2"), "write C:SECONDS"),
        (("run", "idle", "--go-live-within", "nan:2"), "write C:SECONDS"),
        (("run", "idle", "--go-live-within", "2:0"), "is not a number of seconds"),
        (("run", "idle", "--go-live-within", "2:0.5"), "a second at least"),
        (("compare", "{tree}"), "name another run, or add --live"),
        (("compare", "{tree}", "{tree}", "--live"), "name one run"),
        (("compare", "{tree}", "{tree}", "--watch", "2"), "--watch goes with --live"),
        (("compare", "{tree}", "--live"), "reading the seam log"),
        (("compare", "{tree}/../made", "--live"), "is no run in shadow mode"),
        (("compare", "/nowhere", "--live"), "is no run directory"),
    ],
)
def test_bad_input(tree: Path, arguments: tuple[str, ...], part: str) -> None:
    said = command(*(each.format(tree=tree) for each in arguments))
    assert said.status in (2, 3)
    assert part in said.err
    assert "Traceback" not in said.err
