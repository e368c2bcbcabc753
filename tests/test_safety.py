"""The closed loop with broken sensors, broken actuators and mad controllers: nothing unsafe, nothing too hot."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from profiles import NIGHTLY
from running import SCENARIOS, FullCooling, Kept, quick, run, shipped_scenario
from strategies import LIMITS, fully_cooled

from twin.control.cycle import Cycle
from twin.control.view import Decision, View
from twin.kernels import Stream
from twin.scenario import Fault, Phase, RandomFaults, Scenario

NAMES = SCENARIOS if NIGHTLY else tuple(name for name in SCENARIOS if name in ("gaming", "hot_ambient", "steps"))
"""Scenarios in which every sensor fails in every way; by day three of them."""
FAULT_AT_MS = 20_000
FAULT_FOR_MS = 25_000
SENSORS = ("cpu", "gpu", "case")
SAFE = {name: limit.safe for name, limit in LIMITS.items()}


def with_fault(name: str, target: str, state: str, **more: int) -> Scenario:
    scenario = shipped_scenario(name)
    fault = Fault(target=target, state=state, at_ms=FAULT_AT_MS, duration_ms=FAULT_FOR_MS, **more)  # type: ignore[arg-type]
    return quick(scenario, faults=(fault,), random_faults=RandomFaults(), duration_ms=50_000)


def hottest(kept: Kept) -> dict[str, float]:
    assert kept.world is not None
    return kept.world.maxima_celsius


def too_hot(kept: Kept, scenario: Scenario) -> list[str]:
    """Nodes whose true temperature passed their limit."""
    found = hottest(kept)
    return [
        f"{sensor.node} reached {found[sensor.node]:.2f} C, limit {sensor.limit_celsius} C"
        for sensor in scenario.machine.sensors
        if found[sensor.node] > sensor.limit_celsius
    ]


def unavoidable(scenario: Scenario, name: str) -> set[str]:
    """Nodes that pass their limit under full cooling from the first cycle on, too."""
    kept = run(scenario, FullCooling(LIMITS), name)
    return {s.node for s in scenario.machine.sensors if hottest(kept)[s.node] > s.limit_celsius}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("state", ["off", "garbage", "intermittent"])
@pytest.mark.parametrize("sensor", SENSORS)
def test_a_sensor_that_fails_openly_means_full_cooling_within_ten_cycles(name, state, sensor) -> None:
    scenario = with_fault(name, sensor, state)
    kept = run(scenario, file=name)
    begins = FAULT_AT_MS // scenario.control.period_ms
    ends = (FAULT_AT_MS + FAULT_FOR_MS) // scenario.control.period_ms
    full = [fully_cooled(cycle.applied.values) for cycle in kept.cycles]
    first = next(i for i, safe in enumerate(full[begins:]) if safe)
    assert first < 10, f"full cooling came after {first} cycles"
    # And stays for as long as the fault does.
    assert all(full[begins + first : ends])
    assert all(cycle.verdict.failsafe for cycle in kept.cycles[begins + first : ends])
    assert not too_hot(kept, scenario)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("state", ["stuck", "wrong", "slow", "delayed"])
@pytest.mark.parametrize("sensor", SENSORS)
def test_a_sensor_that_fails_secretly_lets_nothing_pass_a_limit(name, state, sensor) -> None:
    scenario = with_fault(name, sensor, state)
    kept = run(scenario, file=name)
    hot = too_hot(kept, scenario)
    assert not hot or {text.split()[0] for text in hot} <= unavoidable(scenario, name), hot


@pytest.mark.parametrize("sensor", SENSORS)
@pytest.mark.parametrize(
    ("state", "more"),
    [
        ("stuck", {}),
        ("wrong", {}),
        ("wrong", {"amount": -5_500}),
        ("wrong", {"amount": -40_000}),
        ("wrong", {"amount": 15_000}),
        ("slow", {}),
        ("slow", {"delay_ms": 20_000}),
        ("delayed", {}),
        ("delayed", {"delay_ms": 1_000}),
        ("delayed", {"delay_ms": 20_000}),
    ],
)
def test_not_even_with_a_controller_that_always_boosts(sensor, state, more) -> None:
    """Heat everything with the fans as low as the shield allows, and break a sensor on the way up."""
    for at_ms in (0, 5_000, 60_000) if NIGHTLY else (5_000,):
        for loads in ({}, {"gpu_load": 0.0}, {"cpu_load": 0.0}):
            scenario = furnace(Fault(target=sensor, state=state, at_ms=at_ms, **more), **loads)
            assert too_hot(run(scenario, Boost()), scenario) == []


def furnace(*faults: Fault, cpu_load: float = 1.0, gpu_load: float = 1.0, **control: object) -> Scenario:
    """Full load in a room of 42 degrees, for two minutes."""
    base = quick(shipped_scenario("idle"))
    phase = Phase(cpu_load=cpu_load, gpu_load=gpu_load, memory_share=1.0, duration_ms=120_000)
    return replace(
        base,
        duration_ms=120_000,
        machine=replace(base.machine, ambient_celsius=42.0),
        workload=replace(base.workload, phases=(phase,)),
        control=replace(base.control, **control),  # type: ignore[arg-type]
        faults=faults,
    )


@pytest.mark.parametrize(("sensor", "loads"), [("cpu", {"gpu_load": 0.0}), ("gpu", {"cpu_load": 0.0})])
def test_the_furnace_is_one_and_the_model_is_what_saves_it(sensor, loads) -> None:
    """Full cooling holds it; without the model a stuck sensor lets its processor pass the limit."""
    assert too_hot(run(furnace(**loads), FullCooling(LIMITS)), furnace(**loads)) == []
    stuck = Fault(target=sensor, state="stuck", at_ms=5_000)
    assert too_hot(run(furnace(stuck, **loads), Boost()), furnace(**loads)) == []
    blind = furnace(stuck, model_check=False, **loads)
    assert any(text.startswith(f"{sensor}_die") for text in too_hot(run(blind, Boost()), blind))


@pytest.mark.parametrize(
    ("name", "sensor", "state"),
    [
        *[(name, sensor, "wrong") for name in ("idle", "steps", "gaming", "hot_ambient") for sensor in ("cpu", "gpu")],
        *[("sensor_faults", "cpu", state) for state in ("stuck", "slow", "delayed")],
        ("burst", "cpu", "stuck"),
        ("sensor_faults", "gpu", "delayed"),
        ("steps", "cpu", "stuck"),
        ("steps", "gpu", "stuck"),
        ("idle", "case", "wrong"),
        ("gaming", "case", "wrong"),
    ],
)
def test_the_suspicion_and_its_reason_are_recorded(name, sensor, state) -> None:
    kept = run(with_fault(name, sensor, state), file=name)
    during = kept.cycles[FAULT_AT_MS // 100 : (FAULT_AT_MS + FAULT_FOR_MS) // 100]
    before = kept.cycles[: FAULT_AT_MS // 100]
    reasons = {cycle.view.suspicion for cycle in during if cycle.view.suspicion}
    assert reasons
    assert all("than the model allows" in reason for reason in reasons)
    assert not any(cycle.view.suspicion for cycle in before)
    assert any(cycle.verdict.failsafe for cycle in during)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("sensor_faults", "soak")])
@pytest.mark.parametrize("state", ["stuck", "wrong", "slow", "delayed"])
@pytest.mark.parametrize("sensor", SENSORS)
def test_every_reading_that_is_far_from_the_truth_is_suspected_or_not_believed(name, state, sensor) -> None:
    """A secret fault that shows the truth, or nearly so, cannot be told and does no harm; any other is told."""
    scenario = with_fault(name, sensor, state)
    kept = run(scenario, file=name)
    place = SENSORS.index(sensor)
    node = scenario.machine.sensors[place].node
    tolerance = scenario.control.suspicion_millicelsius
    far = 0
    for cycle, true in zip(kept.cycles, kept.true_celsius, strict=True):
        reading = cycle.readings.values[place]
        # The tolerance, and what lag, noise, quantum and the model's own error may add.
        apart = reading is not None and abs(reading - true[node] * 1_000) > tolerance + 3_500
        far = far + 1 if apart else 0
        if far >= 5:
            assert cycle.verdict.failsafe, f"cycle {cycle.number}: shows {reading}, true {true[node]:.1f} C"


@pytest.mark.parametrize("name", [name for name in SCENARIOS if name not in ("sensor_faults", "soak")])
def test_without_faults_in_a_sensor_nothing_is_suspected(name) -> None:
    kept = run(quick(shipped_scenario(name)), file=name)
    assert not [cycle.view.suspicion for cycle in kept.cycles if cycle.view.suspicion]
    assert not [cycle.verdict.failsafe for cycle in kept.cycles if cycle.verdict.failsafe]
    assert not too_hot(kept, shipped_scenario(name))


@pytest.mark.parametrize("state", ["off", "stuck", "garbage", "wrong", "slow", "delayed", "intermittent"])
@pytest.mark.parametrize("output", sorted(LIMITS))
def test_a_broken_actuator_lets_nothing_pass_a_limit_that_full_cooling_could_have_kept(output, state) -> None:
    for name in ("hot_ambient", "steps"):
        scenario = with_fault(name, output, state)
        kept = run(scenario, file=name)
        hot = too_hot(kept, scenario)
        assert not hot or {text.split()[0] for text in hot} <= unavoidable(scenario, name), hot


class Mad:
    """Answers at random: legal and illegal numbers, NaN and infinity, too little, too much, and exceptions."""

    STRANGE = (
        math.nan,
        math.inf,
        -math.inf,
        1e308,
        -1,
        10**18,
        None,
        True,
        "255",
        127.5,
        10**5_000,
        "\ud800",
        object(),
    )

    def __init__(self, seed: int) -> None:
        self._stream = Stream(seed, "test.mad")

    def decide(self, view: View) -> Decision:
        draw = self._stream.below
        if draw(50) == 0:
            raise ZeroDivisionError("mad")
        command: dict[str, object] = {}
        for name, limit in LIMITS.items():
            kind = draw(10)
            if kind == 0:
                continue
            if kind == 1:
                command[name] = self.STRANGE[draw(len(self.STRANGE))]
            elif kind < 6:
                # The most dangerous legal answer: no cooling, full power.
                command[name] = 0 if name.endswith("_pwm") else limit.maximum
            else:
                command[name] = limit.minimum + draw(limit.maximum - limit.minimum + 1)
        actions = ("noop", "throttle", "boost", "reduce_power", "conservative", "explode")
        return Decision(actions[draw(6)], "rules", "why not", command)  # type: ignore[arg-type]


class Boost:
    """Always asks for full power and no cooling."""

    def decide(self, view: View) -> Decision:
        return Decision("boost", "rules", "more", {
            name: 0 if name.endswith("_pwm") else limit.maximum for name, limit in LIMITS.items()})  # fmt: skip


def unsafe(cycle: Cycle) -> list[str]:
    """What is outside the safe set, judged from the record alone and not with the shield's own code.

    Everything an int inside its limits; full cooling when a temperature is not known; and with a predicted headroom
    of less than 3 K every cap that answers to it safe, of less than 8 K every fan full.
    """
    applied = cycle.applied.values
    found = [
        f"cycle {cycle.number}: {name} = {applied[name]!r}"
        for name, limit in LIMITS.items()
        if type(applied[name]) is not int or not limit.minimum <= applied[name] <= limit.maximum
    ]
    worst = cycle.view.worst_millicelsius
    if any(value is None for value in worst) or cycle.view.failsafe:
        if not fully_cooled(applied):
            found.append(f"cycle {cycle.number}: {dict(applied)} while {cycle.view.failsafe}")
        return found
    rooms = [limit - value for limit, value in zip(cycle.view.limits_millicelsius, worst, strict=True)]
    if min(rooms) < 8_000:
        found += [f"cycle {cycle.number}: {name} = {applied[name]} with {min(rooms)} mK of headroom"
                  for name in LIMITS if name.endswith("_pwm") and applied[name] != 255]  # fmt: skip
    cpu, gpu, case = rooms
    for name, room in (
        ("cpu_max_kilohertz", min(cpu, case)),
        ("cpu_power_limit_microwatts", min(cpu, case)),
        ("gpu_power_limit_microwatts", min(gpu, case)),
    ):
        if room < 3_000 and applied[name] > LIMITS[name].safe:
            found.append(f"cycle {cycle.number}: {name} = {applied[name]} with {room} mK of headroom")
    return found


class Judge(Kept):
    """Judges every cycle as it comes, and keeps only what is unsafe and how often there was a failsafe."""

    def __init__(self) -> None:
        super().__init__()
        self.count = self.failsafes = 0
        self.unsafe: list[str] = []

    def cycle(self, cycle: Cycle) -> None:
        self.count += 1
        self.failsafes += bool(cycle.verdict.failsafe)
        self.unsafe += unsafe(cycle)


@pytest.mark.parametrize("seed", range(40 if NIGHTLY else 2))
def test_cycles_of_madness_with_faults_on_every_signal_are_safe(seed) -> None:
    scenario = quick(
        shipped_scenario("soak"), seed=seed, duration_ms=2_500_000,
        random_faults=RandomFaults(per_minute=0.2, duration_ms=4_000),
    )  # fmt: skip
    judge = Judge()
    run(scenario, Mad(seed), kept=judge)
    assert judge.count == 25_000
    assert judge.unsafe == []
    assert 0 < judge.failsafes < judge.count
    print(
        f"seed {seed}: {judge.count} cycles, {judge.failsafes} failsafes, 0 unsafe commands, hottest {hottest(judge)}"
    )


def test_a_controller_that_always_boosts_stays_below_every_limit() -> None:
    for name in ("gaming", "hot_ambient", "steps"):
        scenario = quick(shipped_scenario(name), duration_ms=600_000 if NIGHTLY else 200_000)
        scenario = replace(scenario, workload=replace(scenario.workload, repeat=True))
        kept = run(scenario, Boost())
        assert too_hot(kept, scenario) == []
        assert not [text for cycle in kept.cycles for text in unsafe(cycle)]
        assert any(cycle.verdict.changed for cycle in kept.cycles)


def test_what_a_controller_raises_is_a_failsafe_and_the_loop_goes_on() -> None:
    class Broken:
        def decide(self, view: View) -> Decision:
            raise KeyError("x")

    kept = run(quick(shipped_scenario("idle"), duration_ms=2_000), Broken())
    assert len(kept.cycles) == 20
    assert all(dict(cycle.applied.values) == SAFE for cycle in kept.cycles)
    assert kept.cycles[0].decision.reason == "the controller raised KeyError"
