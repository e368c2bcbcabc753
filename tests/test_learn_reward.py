"""The reward: each term by hand, rewards of one's own, and that no fault of a sensor is worth more than the truth."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from running import FullCooling, Kept, quick, run, shipped_scenario
from strategies import SCENARIO, WIRING, view

from hardware.interface import Readings, Status
from twin.control.signals import Signals
from twin.control.view import View
from twin.learn.reward import (
    ANOMALY,
    COOL,
    COOL_MILLICELSIUS,
    HOT,
    HOT_MILLICELSIUS,
    MICRO,
    SMOOTH,
    SMOOTH_MILLIHERTZ,
    THRIFTY,
    RewardError,
    StandardReward,
    make_reward,
)
from twin.scenario import FAULT_STATES, AmbientStep, Fault, Learn, Scenario
from twin.world.faults import SENTINELS

STANDARD = StandardReward(SCENARIO.machine)
LIMITS = (95_000, 90_000, 65_000)


def at(room: int, **changes: object) -> View:
    """Every sensor and the model with `room` left, few frames, and processors at their limits."""
    temps = tuple(limit - room for limit in LIMITS)
    plain: dict[str, object] = {"cpu_power_microwatts": 105_000_000, "frame_rate_millihertz": 30_000}
    return view(temps, **(plain | changes))


@pytest.mark.parametrize(
    ("seen", "worth"),
    [
        (at(15_001), COOL),
        (at(15_000), 0),
        (at(5_000), 0),
        (at(4_999), -HOT),
        (at(-1), -HOT),
        (at(20_000, unaided_millicelsius=(80_001, 70_000, 45_000)), 0),
        (at(20_000, unaided_millicelsius=(20_000, 85_001, 20_000)), -HOT),
        (at(20_000, unaided_millicelsius=(20_000, 20_000, None)), -HOT),
        (at(20_000, temps_millicelsius=(None, 20_000, 20_000)), -HOT),
        (at(20_000, temps_millicelsius=(None,) * 3, worst_millicelsius=(None,) * 3), -HOT - ANOMALY),
        (at(10_000, frame_rate_millihertz=60_001, frames_counted_millihertz=60_001), SMOOTH),
        (at(10_000, frame_rate_millihertz=60_001, frames_counted_millihertz=60_000), 0),
        (at(10_000, frame_rate_millihertz=60_000, frames_counted_millihertz=60_001), 0),
        (at(10_000, frame_rate_millihertz=None, frames_counted_millihertz=99_000), 0),
        (at(10_000, frame_rate_millihertz=99_000, frames_counted_millihertz=None), 0),
        (at(10_000, cpu_power_microwatts=104_999_999), THRIFTY),
        (at(10_000, cpu_power_microwatts=None), 0),
        (at(10_000, cpu_power_microwatts=0, cpu_clock_kilohertz=None), 0),
        (at(10_000, cpu_power_microwatts=0, cpu_load_ppm=None), 0),
        # 8 * 1.7 nF * (1.32 V)^2 * 5 GHz = 118.48 W at full load, and 10 W: 95 W is at 80.2 % of it.
        (at(10_000, cpu_power_microwatts=0, cpu_clock_kilohertz=5_000_000, cpu_load_ppm=801_000), THRIFTY),
        (at(10_000, cpu_power_microwatts=0, cpu_clock_kilohertz=5_000_000, cpu_load_ppm=803_000), 0),
        (at(10_000, cpu_power_microwatts=0, gpu_power_microwatts=220_000_000), 0),
        (at(10_000, cpu_power_microwatts=0, gpu_power_microwatts=None), 0),
        (at(10_000, cpu_power_microwatts=0, gpu_clock_kilohertz=None), 0),
        (at(10_000, cpu_power_microwatts=0, gpu_load_ppm=None), 0),
        # 80 nF * (1.06 V)^2 * 2.4 GHz = 215.7 W at full load, and 13 W: 207 W is at 95.95 % of it.
        (at(10_000, cpu_power_microwatts=0, gpu_clock_kilohertz=2_400_000, gpu_load_ppm=959_000), THRIFTY),
        (at(10_000, cpu_power_microwatts=0, gpu_clock_kilohertz=2_400_000, gpu_load_ppm=960_000), 0),
        (at(10_000, failsafe="cpu: not there"), -ANOMALY),
        (at(10_000, suspicion="cpu reads colder"), -ANOMALY),
        (at(10_000, fan_trouble="cpu_fan turns at 0 rpm"), -ANOMALY),
        (at(10_000, fan_rpm=(1_000, None, 1_000)), -ANOMALY),
        (at(10_000, fan_rpm=(1_000, 1_000, 99_000)), -ANOMALY),
        (at(10_000, fan_rpm=(-1, 1_000, 1_000)), -ANOMALY),
        # The model that a reference guides, and what all other sensors say about the room.
        (at(20_000, worst_millicelsius=(80_001, 70_000, 45_000)), 0),
        (at(20_000, temps_millicelsius=(40_000, 70_000, 45_000), unaided_millicelsius=(70_000, 60_000, 35_000)), 0),
        (at(20_000, temps_millicelsius=(40_000, 70_000, 45_000), unaided_millicelsius=(65_000, 60_000, 35_000)), COOL),
        (at(1_000, failsafe="x", suspicion="y", fan_trouble="z"), -HOT - ANOMALY),
        (
            at(20_000, cpu_power_microwatts=0, frame_rate_millihertz=90_000, frames_counted_millihertz=90_000),
            COOL + SMOOTH + THRIFTY,
        ),
    ],
)
def test_every_term_by_hand(seen: View, worth: int) -> None:
    assert STANDARD(seen, False) == worth
    anomaly = seen.failsafe or seen.suspicion or seen.fan_trouble or None in seen.worst_millicelsius
    anomaly = anomaly or any(rpm not in range(5_000) for rpm in seen.fan_rpm)
    assert STANDARD(seen, True) == (worth if anomaly else worth - ANOMALY)


def test_without_graphics_the_processor_alone_is_thrifty() -> None:
    machine = replace(SCENARIO.machine, gpu=replace(SCENARIO.machine.gpu, enabled=False))
    seen = at(10_000, cpu_power_microwatts=0, gpu_power_microwatts=None, gpu_load_ppm=None, gpu_clock_kilohertz=None)
    assert StandardReward(machine)(seen, False) == THRIFTY


# --- rewards of one's own ---------------------------------------------------------------------------------------------


def of_our_own(monkeypatch: pytest.MonkeyPatch, function: object) -> Callable[[View, bool], int]:
    module = ModuleType("my_rewards")
    module.function = function  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "my_rewards", module)
    return make_reward(replace(SCENARIO, learn=Learn(reward="my_rewards:function")))


def raising(error: BaseException) -> Callable[[View, bool], int]:
    def function(view: View, held_back: bool) -> int:
        raise error

    return function


@pytest.mark.parametrize(
    ("answer", "worth"),
    [
        (0, 0), (-7, -7), (MICRO, MICRO), (MICRO + 1, MICRO), (-MICRO - 1, -MICRO), ((1 << 63) - 1, MICRO),
        (1 << 63, -MICRO), (1 << 99, -MICRO), (-(1 << 99), -MICRO), (True, -MICRO), (False, -MICRO),
        (None, -MICRO), (0.5, -MICRO), (float("nan"), -MICRO), (float("inf"), -MICRO), ("1", -MICRO),
    ],
)  # fmt: skip
def test_answers_of_a_reward_are_held_to_the_range(monkeypatch: pytest.MonkeyPatch, answer: Any, worth: int) -> None:
    reward = of_our_own(monkeypatch, lambda view, held_back: answer)
    assert [reward(at(0), held_back) for held_back in (False, True)] == [worth, worth]


@pytest.mark.parametrize(
    "error", [ValueError("x"), ZeroDivisionError(), SystemExit(1), RecursionError(), MemoryError()]
)
def test_a_reward_that_raises_is_the_least_and_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    reward = of_our_own(monkeypatch, raising(error))
    assert [reward(at(0), False) for _ in range(3)] == [-MICRO] * 3
    assert [type(error).__name__ in record.getMessage() for record in caplog.records] == [True]


def test_an_interrupt_is_none_of_its_business(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyboardInterrupt):
        of_our_own(monkeypatch, raising(KeyboardInterrupt()))(at(0), False)


@pytest.mark.parametrize(
    "name",
    [
        "standards",
        "no_such_module_here:function",
        "sys:no_such_function",
        ":",
        "sys:",
        ":x",
        "sys:version",
        ".a:b",
        "a\0:b",
    ],
)
def test_a_reward_that_cannot_be_had_says_what_can(name: str) -> None:
    with pytest.raises(RewardError, match=r"^learn\.reward = .*function"):
        make_reward(replace(SCENARIO, learn=Learn(reward=name)))


def test_the_standard_one_goes_by_name() -> None:
    assert make_reward(SCENARIO)(at(15_001), False) == COOL


# --- no fault is worth more than the truth ----------------------------------------------------------------------------


def agree(seen: View) -> bool:
    """Whether every term's witnesses say the same: without what its sensor reads, and without any one model."""
    temps, unaided = seen.temps_millicelsius, seen.unaided_millicelsius
    warmer = [
        temp - model for temp, model in zip(temps, unaided, strict=True) if temp is not None and model is not None
    ]
    if len(warmer) < len(temps):
        return False
    for i, (temp, model, worst, guided, limit) in enumerate(
        zip(temps, unaided, seen.worst_millicelsius, seen.expected_millicelsius, seen.limits_millicelsius, strict=True)
    ):
        if temp is None or model is None or worst is None:
            return False
        # `case` guides the model that it would be held against, so that the others have to say how warm it is.
        own = guided is not None and seen.sensors[i] != "case"
        others = max(model, model + min(warmer[:i] + warmer[i + 1 :]), guided if own else model)
        for threshold in (COOL_MILLICELSIUS + 1, HOT_MILLICELSIUS):
            if len({limit - hot < threshold for hot in (temp, others, max(temp, others, worst))}) > 1:
                return False
    told, counted = seen.frame_rate_millihertz, seen.frames_counted_millihertz
    if (told is not None and told > SMOOTH_MILLIHERTZ) != (counted is not None and counted > SMOOTH_MILLIHERTZ):
        return False
    processors = (
        (STANDARD._cpu, 105_000_000, seen.cpu_power_microwatts, seen.cpu_clock_kilohertz, seen.cpu_load_ppm),
        (STANDARD._gpu, 220_000_000, seen.gpu_power_microwatts, seen.gpu_clock_kilohertz, seen.gpu_load_ppm),
    )
    for switching, limit, measured, clock, load in processors:
        assert switching is not None
        implied = switching.at(clock, load)
        if measured is None or implied is None or (measured < limit) != (implied < limit):
            return False
    return True


rooms = st.sampled_from([-2_000, 3_000, 7_000, 13_000, 18_000, 40_000])
SIGNALS: dict[str, st.SearchStrategy[Any]] = {
    "cpu_power_microwatts": st.integers(0, 150_000_000),
    "cpu_clock_kilohertz": st.integers(800_000, 5_000_000),
    "cpu_load_ppm": st.integers(0, MICRO),
    "gpu_power_microwatts": st.integers(0, 250_000_000),
    "gpu_clock_kilohertz": st.integers(300_000, 2_400_000),
    "gpu_load_ppm": st.integers(0, MICRO),
    "frame_rate_millihertz": st.none() | st.integers(0, 150_000),
    "frames_counted_millihertz": st.none() | st.integers(0, 150_000),
}
ANYTHING = st.none() | st.integers(20_000, 100_000) | st.integers(-(1 << 63), 1 << 63)


@settings(max_examples=500)
@given(
    data=st.data(),
    room=st.tuples(rooms, rooms, rooms),
    aside=st.tuples(*[st.integers(-2_500, 1_900)] * 3),
    warmer=st.sampled_from([0, 9_000]),
    held_back=st.booleans(),
    trouble=st.sampled_from(["", "failsafe", "suspicion", "fan_trouble"]),
)
def test_no_single_witness_raises_the_reward(
    data: st.DataObject, room: tuple[int, ...], aside: tuple[int, ...], warmer: int, held_back: bool, trouble: str
) -> None:
    """In a room as warm as the model thinks, or warmer; what is in trouble stays so."""
    values = {name: data.draw(strategy, name) for name, strategy in SIGNALS.items()}
    values |= {trouble: "it is"} if trouble else {}
    temperatures = tuple(limit - left for limit, left in zip(LIMITS, room, strict=True))
    unaided = tuple(temp + by - warmer for temp, by in zip(temperatures, aside, strict=True))
    truth = view(temperatures, unaided_millicelsius=unaided, **values)
    if not agree(truth):
        return
    name = data.draw(st.sampled_from([*SIGNALS, "temps", "unaided", "rpm"]), "faulty")
    value = data.draw(ANYTHING, "shows")
    place = data.draw(st.integers(0, 2), "place")
    if name == "temps":
        seen = tuple(value if i == place else temp for i, temp in enumerate(temperatures))
        faulty = truth._replace(temps_millicelsius=seen, worst_millicelsius=seen)
    elif name == "rpm":
        faulty = truth._replace(fan_rpm=tuple(value if i == place else 1_000 for i in range(3)))
    elif name == "unaided":
        # A wrong power or fan speed sways all that the model says.
        faulty = truth._replace(unaided_millicelsius=data.draw(st.tuples(*[ANYTHING] * 3)))
    else:
        faulty = truth._replace(**{name: value})
    assert STANDARD(faulty, held_back) <= STANDARD(truth, held_back)


def warm(cpu_limit: float, gpu_limit: float, case_limit: float, fps: int, **phase: Any) -> Scenario:
    """The default machine with other limits of temperature, so that its headroom passes the thresholds."""
    scenario = shipped_scenario("gaming")
    sensors = tuple(
        replace(sensor, limit_celsius=limit)
        for sensor, limit in zip(scenario.machine.sensors, (cpu_limit, gpu_limit, case_limit), strict=True)
    )
    phases = tuple(
        replace(one, duration_ms=4_000, frames_per_second=fps if one.frames_per_second else 0, **phase)
        for one in scenario.workload.phases
    )
    return quick(
        scenario,
        duration_ms=14_000,
        machine=replace(scenario.machine, sensors=sensors),
        workload=replace(scenario.workload, phases=phases),
        learn=Learn(enabled=False),
    )


def with_dead_fan(scenario: Scenario) -> Scenario:
    return replace(scenario, faults=(Fault(target="cpu_fan", state="off", at_ms=2_000),))


def in_a_warm_room(scenario: Scenario) -> Scenario:
    """Everything is 14 K warmer, which nobody tells the model that hears no sensor."""
    nodes = tuple(replace(node, initial_celsius=38.0) for node in scenario.machine.nodes)
    return replace(
        scenario, machine=replace(scenario.machine, nodes=nodes, ambient_steps=(AmbientStep(at_ms=0, celsius=38.0),))
    )


TRUTHS = {
    "cool": lambda: warm(95.0, 90.0, 65.0, 60),
    "fast": lambda: warm(95.0, 90.0, 65.0, 90, frame_cpu_megacycles=8.0, frame_gpu_megacycles=6.0),
    "hot": lambda: warm(31.5, 90.0, 65.0, 60),
    "case": lambda: warm(95.0, 90.0, 28.0, 60),
    "lukewarm": lambda: warm(95.0, 42.5, 65.0, 60),
    "busy": lambda: warm(95.0, 90.0, 65.0, 60, cpu_load=1.0, gpu_load=1.0),
    "a dead fan": lambda: with_dead_fan(warm(95.0, 90.0, 65.0, 60)),
    "a dead fan, hot": lambda: with_dead_fan(warm(31.5, 90.0, 65.0, 60)),
    "a warm room, gpu": lambda: in_a_warm_room(warm(95.0, 55.0, 65.0, 60)),
    "a warm room, case": lambda: in_a_warm_room(warm(95.0, 90.0, 51.0, 60)),
}


@functools.cache
def history(name: str) -> tuple[Scenario, Kept]:
    """What a healthy machine's sensors say; the controller asks for the same, whatever they say."""
    scenario = TRUTHS[name]()
    return scenario, run(scenario, FullCooling({limit.name: limit for limit in WIRING.outputs}))


def seen_by_fresh_signals(scenario: Scenario, truth: Kept, change: Callable[[int, Readings], Readings]) -> list[View]:
    signals = Signals(scenario, WIRING.sensors)
    views = []
    for number, cycle in enumerate(truth.cycles):
        views.append(signals.see(number, cycle.due_ns, cycle.wake, change(number, cycle.readings)))
        signals.commanded(cycle.applied.values)
    return views


@functools.cache
def true_views(name: str) -> list[View]:
    return seen_by_fresh_signals(*history(name), lambda number, readings: readings)


def judged(name: str, channel: str, views: list[View]) -> None:
    """Every reward under the fault of `channel` against that without, where the true witnesses agree.

    A suspicion is a disagreement. And a fan has one witness: a tachometer that shows the speed of a healthy fan, stuck
    or late, cannot be told from a healthy fan.
    """
    truth = true_views(name)
    reward = StandardReward(history(name)[0].machine)
    held = [False, *[bool(cycle.verdict.changed) for cycle in history(name)[1].cycles]]
    fan = channel.removesuffix("_rpm")
    for number, (faulty, true) in enumerate(zip(views, truth, strict=True)):
        if not agree(true) or true.suspicion or true.failsafe:
            continue
        if true.fan_trouble and fan in true.fans and not faulty.fan_trouble:
            rpm = faulty.fan_rpm[true.fans.index(fan)]
            if rpm is not None and rpm <= 2 * 2_600:
                continue
        assert reward(faulty, held[number]) <= reward(true, held[number]), number


@pytest.mark.parametrize("name", TRUTHS)
def test_true_witnesses_mostly_agree(name: str) -> None:
    # Without this the properties below would say nothing.
    assert sum(map(agree, true_views(name))) > len(true_views(name)) // 5


@settings(max_examples=150)
@given(
    name=st.sampled_from(list(TRUTHS)),
    place=st.integers(0, len(WIRING.sensors) - 1),
    state=st.sampled_from([state for state in FAULT_STATES if state != "ok"]),
    begins=st.integers(0, 130),
    back=st.integers(0, 60),
    amount=st.integers(-20_000, 20_000) | st.integers(-(10**9), 10**9),
    garbage=st.lists(st.none() | st.sampled_from(SENTINELS) | st.integers(-(10**10), 10**10), min_size=1, max_size=8),
)
def test_no_fault_of_a_signal_raises_the_reward_through_the_pipeline(
    name: str, place: int, state: str, begins: int, back: int, amount: int, garbage: list[int | None]
) -> None:
    scenario, truth = history(name)
    shown = [cycle.readings.values[place] for cycle in truth.cycles]

    def at_fault(number: int) -> int | None:
        value = shown[number]
        match state:
            case "off":
                return None
            case "stuck":
                return shown[max(0, begins - back)]
            case "garbage":
                return garbage[number % len(garbage)]
            case "wrong":
                return None if value is None else value + amount
            case "slow":
                return shown[begins + (number - begins) // (back + 1) * (back + 1)]
            case "delayed":
                return shown[max(0, number - back)]
        return None if garbage[number % len(garbage)] is None else value

    def change(number: int, readings: Readings) -> Readings:
        if number < begins:
            return readings
        values, statuses = list(readings.values), list(readings.statuses)
        values[place] = at_fault(number)
        statuses[place] = Status.ABSENT if values[place] is None else Status.OK
        return Readings(tuple(values), readings.times_ns, tuple(statuses))

    judged(name, WIRING.sensors[place].name, seen_by_fresh_signals(scenario, truth, change))


def test_a_fan_in_trouble_stays_so_while_nobody_knows_its_speed() -> None:
    views = true_views("a dead fan")
    place = [channel.name for channel in WIRING.sensors].index("cpu_fan_rpm")
    reward = StandardReward(history("a dead fan")[0].machine)
    for shows in (None, 1 << 40):

        def silent(number: int, readings: Readings, shows: int | None = shows) -> Readings:
            values = list(readings.values)
            values[place] = shows if number >= 80 else values[place]
            return Readings(tuple(values), readings.times_ns, readings.statuses)

        seen = seen_by_fresh_signals(*history("a dead fan"), silent)
        assert views[90].fan_trouble
        assert seen[90].fan_trouble
        assert reward(seen[90], False) == reward(views[90], False)


@pytest.mark.parametrize("state", [state for state in FAULT_STATES if state != "ok"])
@pytest.mark.parametrize("channel", [channel.name for channel in WIRING.sensors])
@pytest.mark.parametrize("name", ["hot", "a dead fan, hot"])
def test_no_fault_of_the_world_raises_the_reward_of_a_run(name: str, channel: str, state: Any) -> None:
    # Full cooling is asked for always, so that the machine goes through the same with and without the fault.
    scenario, truth = history(name)
    fault = Fault(target=channel, state=state, at_ms=3_000, delay_ms=1_500)
    faulty = run(
        replace(scenario, faults=(*scenario.faults, fault)),
        FullCooling({limit.name: limit for limit in WIRING.outputs}),
    )
    assert [cycle.verdict.values for cycle in faulty.cycles] == [cycle.verdict.values for cycle in truth.cycles]
    judged(name, channel, [cycle.view for cycle in faulty.cycles])
