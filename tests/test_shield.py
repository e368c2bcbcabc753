"""The shield: no command leaves the limits, hotter never cools less, and what is not known is cooled fully."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import FANS, LIMITS, SCENARIO, commands, fully_cooled, temperatures, view

from twin.control import shield as shield_module
from twin.control.shield import Shield, cap_ceiling, fan_floor

SHIELD = Shield(SCENARIO, LIMITS)
SAFE = {name: limit.safe for name, limit in LIMITS.items()}
three = st.tuples(temperatures, temperatures, temperatures)
sane_commands = st.fixed_dictionaries({name: st.integers(-1_000, 2 * limit.maximum) for name, limit in LIMITS.items()})


@given(three, commands)
def test_every_verdict_names_every_output_with_an_int_inside_its_limits(worst, command) -> None:
    verdict = SHIELD.project(view(worst), command)
    assert verdict.values.keys() == LIMITS.keys()
    for name, value in verdict.values.items():
        assert type(value) is int
        assert LIMITS[name].minimum <= value <= LIMITS[name].maximum


@given(three, commands)
def test_anything_that_is_not_an_int_means_full_cooling(worst, command) -> None:
    strange = any(type(value) is not int or name not in LIMITS for name, value in command.items())
    verdict = SHIELD.project(view(worst), command)
    if strange:
        assert fully_cooled(verdict.values)
        assert verdict.failsafe
    for words in (verdict.failsafe, *verdict.changed):
        words.encode()
        assert " at 0x" not in words


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 128.0, None, True, "255"])
@pytest.mark.parametrize("name", LIMITS)
def test_no_strange_value_reaches_a_fan_as_a_number(name, value) -> None:
    ordinary = dict.fromkeys(LIMITS, 128)
    assert fully_cooled(SHIELD.project(view((40_000, 40_000, 30_000)), {**ordinary, name: value}).values)


@given(st.lists(st.none() | temperatures, min_size=3, max_size=3).filter(lambda worst: None in worst), sane_commands)
def test_a_missing_temperature_means_the_safe_command(worst, command) -> None:
    verdict = SHIELD.project(view(tuple(worst)), command)
    assert fully_cooled(verdict.values)
    assert verdict.failsafe


@given(three, sane_commands)
def test_a_failsafe_view_means_the_safe_command(worst, command) -> None:
    assert fully_cooled(SHIELD.project(view(worst, failsafe="late"), command).values)


@given(three, st.tuples(*[st.integers(0, 30_000)] * 3), sane_commands)
def test_hotter_never_cools_less(worst, hotter_by, command) -> None:
    cool = SHIELD.project(view(worst), command).values
    hot = SHIELD.project(view(tuple(w + d for w, d in zip(worst, hotter_by, strict=True))), command).values
    for name in LIMITS:
        if name in FANS:
            assert hot[name] >= cool[name]
        else:
            assert hot[name] <= cool[name]


@given(three, sane_commands, st.integers(0, 2))
def test_losing_a_sensor_never_cools_less(worst, command, lost) -> None:
    """Not seeing a temperature is at least as careful as seeing any."""
    seen = SHIELD.project(view(worst), command).values
    blind = SHIELD.project(view(tuple(None if i == lost else w for i, w in enumerate(worst))), command).values
    for name in LIMITS:
        assert blind[name] >= seen[name] if name in FANS else blind[name] <= seen[name]


def test_the_figures_of_the_shield() -> None:
    assert [fan_floor(room, 55, 255) for room in (20_000, 14_000, 8_000)] == [55, 155, 255]
    assert [cap_ceiling(room, 1_000, 2_000) for room in (8_000, 5_500, 3_000)] == [2_000, 1_500, 1_000]


@given(three, sane_commands)
def test_a_safe_command_passes_unchanged(worst, command) -> None:
    once = SHIELD.project(view(worst), command)
    again = SHIELD.project(view(worst), dict(once.values))
    assert dict(again.values) == dict(once.values)
    assert again.changed == ()


def test_the_fan_floor_over_its_whole_domain() -> None:
    """Every headroom between the ends, and one beyond: bounds, ends and monotony, for several fans."""
    start, full = shield_module.FANS_START_MILLICELSIUS, shield_module.FANS_FULL_MILLICELSIUS
    for least in (0, 1, 60, 254, 255):
        before = 255
        for headroom in range(full - 2, start + 3):
            floor = fan_floor(headroom, least, 255)
            assert least <= floor <= before
            before = floor
        assert fan_floor(full, least, 255) == 255
        assert fan_floor(start, least, 255) == least
        assert fan_floor(start - 1, least, 255) > least or least == 255
        assert fan_floor(-(10**9), least, 255) == 255


@pytest.mark.parametrize(("safe", "maximum"), [(1_600_000, 5_000_000), (35_000_000, 105_000_000), (7, 7), (0, 1)])
def test_the_cap_ceiling_over_its_whole_domain(safe, maximum) -> None:
    start, end = shield_module.CAPS_START_MILLICELSIUS, shield_module.CAPS_SAFE_MILLICELSIUS
    before = safe
    for headroom in range(end - 2, start + 3):
        ceiling = cap_ceiling(headroom, safe, maximum)
        assert before <= ceiling <= maximum
        before = ceiling
    assert cap_ceiling(end, safe, maximum) == safe
    assert cap_ceiling(start, safe, maximum) == maximum
    assert cap_ceiling(-(10**9), safe, maximum) == safe


def test_changes_are_named_with_what_was_asked_and_given() -> None:
    verdict = SHIELD.project(
        view((94_000, 40_000, 30_000)), {**SAFE, "cpu_fan_pwm": 100, "cpu_max_kilohertz": 5_000_000}
    )
    assert "cpu_fan_pwm 100 -> 255" in verdict.changed
    assert "cpu_max_kilohertz 5000000 -> 1600000" in verdict.changed


def test_a_cap_answers_to_its_own_processor() -> None:
    """A hot graphics card does not throttle the processor, unless the case they share is hot."""
    ordinary = {name: limit.maximum for name, limit in LIMITS.items()}
    hot_gpu = SHIELD.project(view((50_000, 89_000, 30_000)), ordinary).values
    assert hot_gpu["cpu_max_kilohertz"] == LIMITS["cpu_max_kilohertz"].maximum
    assert hot_gpu["gpu_power_limit_microwatts"] == LIMITS["gpu_power_limit_microwatts"].safe
    hot_case = SHIELD.project(view((50_000, 50_000, 64_000)), ordinary).values
    assert hot_case["cpu_max_kilohertz"] == LIMITS["cpu_max_kilohertz"].safe
    assert hot_case["gpu_power_limit_microwatts"] == LIMITS["gpu_power_limit_microwatts"].safe
