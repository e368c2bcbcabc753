"""The shield's integer core over its whole domain, against a definition of safety of its own.

A fan command is safe where it lies on or above the straight line from `least` at 20 K to `most` at 8 K, a cap where it
lies on or below the one from `most` at 8 K to `safe` at 3 K; both are said here by products, without a division. The
projection has to be the nearest safe value. Interpreted kernels see the thresholds and a sample of the rest.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from strategies import FANS, LIMITS, SCENARIO, view

from hardware.interface import Limit
from twin.control.shield import Shield, cap_ceiling, cooled, fan_floor, projected
from twin.control.signals import fastest_rise_millicelsius_per_second
from twin.control.words import short
from twin.kernels import MODE, Integers, kernel
from twin.scenario import Scenario, Sensor
from twin.wiring import wiring

COMPILED = MODE == "numba"
THRESHOLDS = [t + d for t in (3_000, 8_000, 20_000) for d in (-2, -1, 0, 1, 2)]
FAR = [-(1 << 60), -(10**9), 10**9, 1 << 60]
# Readings are believed from -20 to 125 degrees, limits lie between -60 and 200.
REACHABLE = range(-200_000, 230_001)
HEADROOMS = np.array(sorted({*(REACHABLE if COMPILED else [*range(-3_000, 23_000, 997), *THRESHOLDS]), *FAR}))
CAPS = [limit for limit in LIMITS.values() if limit.name not in FANS]


@kernel
def fan_is_safe(value: int, headroom: int, least: int, most: int) -> bool:
    if value < least or value > most:
        return False
    if headroom >= 20_000:
        return True
    if headroom <= 8_000:
        return value == most
    return (value - least) * 12_000 >= (most - least) * (20_000 - headroom)


@kernel
def cap_is_safe(value: int, headroom: int, least: int, safe: int, most: int) -> bool:
    if value < least or value > most:
        return False
    if headroom >= 8_000:
        return True
    if headroom <= 3_000:
        return value <= safe
    return (value - safe) * 5_000 <= (most - safe) * (headroom - 3_000)


@kernel
def fan_is_nearest(asked: int, headroom: int, least: int, most: int) -> bool:
    """Safe; and what was asked where that is safe, else the safe value that is next to it."""
    given = projected(1, headroom, asked, least, most, most)
    if not fan_is_safe(given, headroom, least, most):
        return False
    if fan_is_safe(asked, headroom, least, most):
        return given == asked
    return given == most if asked > most else not fan_is_safe(given - 1, headroom, least, most)


@kernel
def cap_is_nearest(asked: int, headroom: int, least: int, safe: int, most: int) -> bool:
    given = projected(0, headroom, asked, least, safe, most)
    if not cap_is_safe(given, headroom, least, safe, most):
        return False
    if cap_is_safe(asked, headroom, least, safe, most):
        return given == asked
    return given == least if asked < least else not cap_is_safe(given + 1, headroom, least, safe, most)


@kernel
def wrong_fans(headrooms: Integers, least: int, first: int, last: int) -> int:
    """How many (asked, headroom) are not projected to the nearest safe value, or cool less where it is hotter."""
    wrong = 0
    for asked in range(first, last + 1):
        cooler = 1 << 62
        for i in range(len(headrooms)):
            given = projected(1, headrooms[i], asked, least, 255, 255)
            if given > cooler or not fan_is_nearest(asked, headrooms[i], least, 255):
                wrong += 1
            cooler = given
    return wrong


@kernel
def wrong_floors(headrooms: Integers) -> int:
    """The same for the floors alone, of every fan that there can be."""
    wrong = 0
    for least in range(256):
        for i in range(len(headrooms)):
            floor = fan_floor(headrooms[i], least, 255)
            below = fan_is_safe(floor - 1, headrooms[i], least, 255)
            if below or not fan_is_safe(floor, headrooms[i], least, 255):
                wrong += 1
    return wrong


@kernel
def wrong_caps(headrooms: Integers, values: Integers, least: int, safe: int, most: int) -> int:
    wrong = 0
    for j in range(len(values)):
        hotter = -(1 << 62)
        for i in range(len(headrooms)):
            given = projected(0, headrooms[i], values[j], least, safe, most)
            if given < hotter or not cap_is_nearest(values[j], headrooms[i], least, safe, most):
                wrong += 1
            hotter = given
    return wrong


@kernel
def wrong_around_ceilings(headrooms: Integers, least: int, safe: int, most: int) -> int:
    """At every headroom: the ceiling itself, and what is asked just beside it. The projection is constant elsewhere."""
    wrong = 0
    for i in range(len(headrooms)):
        ceiling = cap_ceiling(headrooms[i], safe, most)
        above = cap_is_safe(ceiling + 1, headrooms[i], least, safe, most)
        if above or not cap_is_safe(ceiling, headrooms[i], least, safe, most):
            wrong += 1
        for asked in range(ceiling - 2, ceiling + 3):
            if not cap_is_nearest(asked, headrooms[i], least, safe, most):
                wrong += 1
    return wrong


@kernel
def wrong_everywhere(headroom: int, least: int, safe: int, most: int, step: int) -> int:
    """Every value from below the limits to above them at one headroom."""
    wrong = 0
    for asked in range(least - 3, most + 4, step):
        if not cap_is_nearest(asked, headroom, least, safe, most):
            wrong += 1
    return wrong


def test_every_fan_command_at_every_headroom() -> None:
    assert wrong_floors(HEADROOMS) == 0
    for least in (0, 50, 60, 255) if COMPILED else (60,):
        assert wrong_fans(HEADROOMS, least, -3, 258) == 0


@pytest.mark.parametrize("limit", [*CAPS, Limit("tiny", 0, 3, 1), Limit("fixed", 7, 7, 7)], ids=lambda cap: cap.name)
def test_every_cap_at_every_headroom(limit: Limit) -> None:
    least, safe, most = limit.minimum, limit.safe, limit.maximum
    assert wrong_around_ceilings(HEADROOMS, least, safe, most) == 0
    beside = [v + d for v in (least, safe, (safe + most) // 2, most) for d in (-1, 0, 1)]
    assert wrong_caps(HEADROOMS, np.array([*beside, -(1 << 61), 1 << 61]), least, safe, most) == 0
    headrooms = [*THRESHOLDS, 4_567] if most < 10_000_000 else [2_999, 3_001, 5_500]
    for headroom in headrooms:
        assert wrong_everywhere(headroom, least, safe, most, 1 if COMPILED else most // 97 + 1) == 0


def test_a_fan_has_no_ceiling() -> None:
    for headroom in THRESHOLDS:
        assert projected(1, headroom, 20, 5, 10, 20) == 20


def test_at_its_end_a_floor_is_full_to_the_last_step() -> None:
    """With more steps than a fan has, a millikelvin counts."""
    assert [fan_floor(headroom, 0, 24_000) for headroom in (-1, 8_000, 8_001, 20_000)] == [24_000, 24_000, 23_998, 0]


def test_full_cooling_takes_no_more_than_is_safe() -> None:
    for asked in range(-3, 20):
        assert cooled(1, asked, 5, 10) == 10
        assert cooled(0, asked, 5, 10) == min(10, max(5, asked))


# --- the whole shield ---------------------------------------------------------------------------------------------


def predicted(scenario: Scenario, sensor: int, worst: int) -> int:
    """The headroom that is left in two cycles of the fastest heating."""
    settings = scenario.machine.sensors[sensor]
    ahead = fastest_rise_millicelsius_per_second(scenario, settings.node) * 2 * scenario.control.period_ms // 1_000 + 1
    return round(settings.limit_celsius * 1_000) - worst - ahead


def check(scenario: Scenario, answering: dict[str, set[int]], headrooms: tuple[int, ...]) -> None:
    """What the shield makes of the least and of the most dangerous command, when each sensor has that headroom."""
    limits = {limit.name: limit for limit in wiring(scenario.machine).outputs}
    fans = {f"{fan.name}_pwm": max(fan.start_pwm, scenario.control.fan_floor_pwm) for fan in scenario.machine.fans}
    sensors = range(len(scenario.machine.sensors))
    worst = tuple(predicted(scenario, i, 0) - headroom for i, headroom in zip(sensors, headrooms, strict=True))
    seen = view(worst)
    hot = {name: 0 if name in fans else limit.maximum for name, limit in limits.items()}
    verdict = Shield(scenario, limits).project(seen, hot)
    assert verdict.failsafe == ""
    for name, limit in limits.items():
        if name in fans:
            wanted = projected(1, min(headrooms), 0, fans[name], 255, 255)
        else:
            near = min(headrooms[i] for i in answering.get(name, set(sensors)))
            wanted = projected(0, near, limit.maximum, limit.minimum, limit.safe, limit.maximum)
        assert verdict.values[name] == wanted, (name, headrooms)


ROOMS = (-5_000, 2_999, 3_001, 5_000, 7_999, 8_001, 12_345, 19_999, 20_001, 60_000)


def test_each_output_answers_to_the_least_headroom_of_its_sensors() -> None:
    answering = {
        "cpu_max_kilohertz": {0, 2}, "cpu_power_limit_microwatts": {0, 2}, "gpu_power_limit_microwatts": {1, 2},
    }  # fmt: skip
    for headrooms in product(ROOMS, repeat=3):
        check(SCENARIO, answering, headrooms)


def test_a_longer_cycle_looks_farther_ahead() -> None:
    for period_ms in (1, 50, 333):
        slow = replace(SCENARIO, control=replace(SCENARIO.control, period_ms=period_ms))
        for room in ROOMS:
            check(slow, {}, (room, room, room))


def sensors_on(*nodes: str) -> tuple[Sensor, ...]:
    return tuple(Sensor(name=f"s{i}", node=node, limit_celsius=90.0) for i, node in enumerate(nodes))


def test_without_a_graphics_card_its_place_counts_for_the_processor() -> None:
    machine = SCENARIO.machine
    alone = replace(machine, gpu=replace(machine.gpu, enabled=False), sensors=sensors_on("cpu_die", "gpu_die"))
    for headrooms in product(ROOMS, repeat=2):
        check(replace(SCENARIO, machine=alone), {}, headrooms)


def test_on_one_die_both_answer_to_its_sensor_and_to_others() -> None:
    machine = SCENARIO.machine
    shared = replace(machine, gpu=replace(machine.gpu, node="cpu_die"), sensors=sensors_on("cpu_die", "case"))
    for headrooms in product(ROOMS, repeat=2):
        check(replace(SCENARIO, machine=shared), {}, headrooms)


@pytest.mark.parametrize(("node", "cap"), [("gpu_die", "cpu_max_kilohertz"), ("cpu_die", "gpu_power_limit_microwatts")])
def test_a_cap_that_no_sensor_tells_about_answers_to_all(node: str, cap: str) -> None:
    machine = replace(SCENARIO.machine, sensors=sensors_on(node, node))
    for headrooms in product(ROOMS, repeat=2):
        check(replace(SCENARIO, machine=machine), {}, headrooms)
    # Beside one that tells, it does not answer to the other processor's.
    own = "cpu_die" if node == "gpu_die" else "gpu_die"
    machine = replace(SCENARIO.machine, sensors=sensors_on(node, own))
    other = {name: {0} if name.startswith("cpu") == (node == "cpu_die") else {1} for name in LIMITS if name not in FANS}
    assert other[cap] == {1}
    for headrooms in product(ROOMS, repeat=2):
        check(replace(SCENARIO, machine=machine), other, headrooms)


def test_a_fan_never_runs_below_its_own_least_nor_the_scenario_s() -> None:
    for floor, start in ((30, 70), (70, 30)):
        fans = tuple(replace(fan, start_pwm=start) for fan in SCENARIO.machine.fans)
        scenario = replace(
            SCENARIO,
            machine=replace(SCENARIO.machine, fans=fans),
            control=replace(SCENARIO.control, fan_floor_pwm=floor),
        )
        verdict = Shield(scenario, LIMITS).project(view((30_000, 30_000, 30_000)), dict.fromkeys(FANS, 0))
        assert {verdict.values[name] for name in FANS} == {70}


def test_a_fan_that_must_not_go_lower_does_not() -> None:
    limits = {name: replace(limit, minimum=200) if name in FANS else limit for name, limit in LIMITS.items()}
    verdict = Shield(SCENARIO, limits).project(view((30_000, 30_000, 30_000)), dict.fromkeys(FANS, 0))
    assert {verdict.values[name] for name in FANS} == {200}


# --- what it says -------------------------------------------------------------------------------------------------

CALM = (40_000, 40_000, 30_000)
MIDDLE = {name: (limit.safe + limit.maximum) // 2 for name, limit in LIMITS.items()}


def test_what_is_allowed_passes_and_nothing_is_said() -> None:
    verdict = Shield(SCENARIO, LIMITS).project(view(CALM), MIDDLE)
    assert (dict(verdict.values), verdict.changed, verdict.failsafe) == (MIDDLE, (), "")


def test_the_first_reason_for_a_failsafe_is_the_one_that_is_said() -> None:
    shield = Shield(SCENARIO, LIMITS)
    strange = {**MIDDLE, "cpu_fan_pwm": None, "no_such": 7}
    assert shield.project(view(CALM), strange).failsafe == (
        "the controller asked 'cpu_fan_pwm' = None; the controller asked 'no_such' = 7"
    )
    assert shield.project(view((None, 1, 2)), strange).failsafe.startswith("the controller asked 'cpu_fan_pwm'")
    assert shield.project(view((None, 1, 2)), MIDDLE).failsafe == "a temperature is not known"
    for worst in (CALM, (None, 1, 2)):
        assert shield.project(view(worst, failsafe="late"), strange).failsafe == "late"
        assert shield.project(view(worst, failsafe="late"), MIDDLE).failsafe == "late"


def test_what_was_not_asked_or_is_no_int_is_named_as_changed() -> None:
    shield = Shield(SCENARIO, LIMITS)
    without = {name: value for name, value in MIDDLE.items() if name != "cpu_max_kilohertz"}
    assert shield.project(view(CALM), without).changed == ("cpu_max_kilohertz nothing -> 1600000",)
    asked = {**{name: limit.safe for name, limit in LIMITS.items()}, "cpu_max_kilohertz": 1e6}
    assert shield.project(view(CALM), asked).changed == ("cpu_max_kilohertz 1000000.0 -> 1600000",)
    assert shield.project(view(CALM), {**MIDDLE, "cpu_max_kilohertz": 10**30}).values["cpu_max_kilohertz"] == 5_000_000
    assert shield.project(view(CALM), {**MIDDLE, "cpu_max_kilohertz": -(10**30)}).values["cpu_max_kilohertz"] == 800_000


def test_what_equals_the_answer_and_is_no_int_is_named_all_the_same() -> None:
    limits = {name: Limit(name, 0, 1, 1) for name in LIMITS}
    scenario = replace(SCENARIO, control=replace(SCENARIO.control, fan_floor_pwm=0))
    fans = tuple(replace(fan, start_pwm=0) for fan in SCENARIO.machine.fans)
    scenario = replace(scenario, machine=replace(SCENARIO.machine, fans=fans))
    verdict = Shield(scenario, limits).project(view(CALM), {**dict.fromkeys(limits, 1), "cpu_fan_pwm": True})
    assert verdict.changed == ("cpu_fan_pwm True -> 1",)


def test_values_in_words() -> None:
    assert short((1 << 63) - 1) == "9223372036854775807"
    assert short(-(1 << 63)) == "-9223372036854775808"
    assert short(1 << 63) == "an int of 64 bits"
    assert short(-(1 << 63) - 1) == "an int of 64 bits"
    assert short("x" * 100) == "'" + "x" * 79
    assert [short(v) for v in (True, None, 1.5, "a")] == ["True", "None", "1.5", "'a'"]
    assert short(object()) == "object"
