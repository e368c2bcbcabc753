"""The learner's state: where each number comes from, its range, and that what is missing is not little."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import view

from twin.control.view import View
from twin.learn.facts import fill_facts, new_facts
from twin.learn.features import FEATURES, HIGHEST, LOWEST, UNKNOWN, Features
from twin.scenario import Learn, Ranges

ORDINARY = view((60_000, 50_000, 30_000))


def state_of(seen: View, learn: Learn | None = None) -> list[float]:
    state = np.full(len(FEATURES), 9.0)
    facts = new_facts(3, 3)
    fill_facts(seen, facts)
    Features(learn or Learn(), 3).fill(facts, state)
    values: list[float] = state.tolist()
    return values


def test_every_feature_by_hand() -> None:
    # Rooms are 35, 40 and 35 K; of two that are equal the first counts. 150 W of 325, 60 of 144 frames, 16 of 100 ms.
    expected = [40 / 80, 35 / 60, 0.5, 0.5, 150 / 325, 60 / 144, 0.16, 0.5]
    assert state_of(ORDINARY) == pytest.approx(expected, abs=0, rel=1e-15)


def test_the_ends_of_the_ranges_are_0_and_1_and_beyond_is_cut() -> None:
    ranges = Ranges(temperature_celsius=(30.0, 80.0), headroom_celsius=(5.0, 45.0))
    hot = view((80_000, 20_000, 20_000), limits_millicelsius=(85_000, 90_000, 90_000))
    assert state_of(hot, Learn(ranges=ranges))[:2] == [1.0, 0.0]
    cold = view((30_000, 20_000, 20_000), limits_millicelsius=(75_000, 90_000, 90_000))
    assert state_of(cold, Learn(ranges=ranges))[:2] == [0.0, 1.0]
    assert state_of(view((10**9, 0, 0)))[:2] == [HIGHEST, LOWEST]
    assert state_of(view((-(10**9),) * 3))[:2] == [LOWEST, HIGHEST]


@pytest.mark.parametrize(
    ("changes", "unknown"),
    [
        ({"worst_millicelsius": (None, 20_000, 20_000)}, {0, 1}),
        ({"worst_millicelsius": (20_000, 20_000, None)}, {0, 1}),
        ({"cpu_load_ppm": None}, {2}),
        ({"gpu_load_ppm": None}, {3}),
        ({"cpu_power_microwatts": None}, {4}),
        ({"gpu_power_microwatts": None}, {4}),
        # Neither load nor power: there are no graphics.
        ({"gpu_power_microwatts": None, "gpu_load_ppm": None}, {3}),
        ({"frame_rate_millihertz": None}, {5}),
        ({"frame_latency_microseconds": None}, {6}),
        ({"memory_used_ppm": None}, {7}),
    ],
)
def test_what_is_not_known_is_told_apart(changes: dict[str, object], unknown: set[int]) -> None:
    state = state_of(ORDINARY._replace(**changes))  # type: ignore[arg-type]
    assert {i for i, value in enumerate(state) if value == UNKNOWN} == unknown


def test_unknown_is_outside_of_what_is_known() -> None:
    assert not LOWEST <= UNKNOWN <= HIGHEST


def test_the_sensor_with_the_least_room_counts_and_powers_add_up() -> None:
    assert state_of(view((60_000, 70_000, 30_000)))[:2] == [50 / 80, 20 / 60]
    ranges = Ranges(power_watts=(0.0, 10e-6))
    drawn = ORDINARY._replace(cpu_power_microwatts=3, gpu_power_microwatts=4)
    assert state_of(drawn, Learn(ranges=ranges))[4] == pytest.approx(0.7, abs=0, rel=1e-15)
    alone = drawn._replace(gpu_power_microwatts=None, gpu_load_ppm=None)
    assert state_of(alone, Learn(ranges=ranges))[4] == pytest.approx(0.3, abs=0, rel=1e-15)


integers = st.none() | st.integers(-(1 << 63), 1 << 63)


@given(data=st.data(), worst=st.tuples(integers, integers, integers))
def test_whatever_is_seen_each_feature_is_in_range(data: st.DataObject, worst: tuple[int | None, ...]) -> None:
    names = [name for name in ORDINARY._fields if name.startswith(("cpu_", "gpu_", "frame", "memory_"))]
    seen = view(worst, **{name: data.draw(integers, name) for name in names})
    state = state_of(seen)
    assert all(value == UNKNOWN or LOWEST <= value <= HIGHEST for value in state)
    # The same again, bit for bit, whatever stood there before.
    assert state_of(seen) == state
