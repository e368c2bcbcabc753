"""All Hypothesis strategies that more than one test uses, and small makers of what they need."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from hypothesis import strategies as st

from hardware.interface import Limit, Readings, Status
from twin.control.view import View
from twin.scenario import Scenario
from twin.wiring import wiring

SCENARIO = Scenario()
WIRING = wiring(SCENARIO.machine)
LIMITS: dict[str, Limit] = {limit.name: limit for limit in WIRING.outputs}
FANS = tuple(f"{fan.name}_pwm" for fan in SCENARIO.machine.fans)
SENSORS = len(SCENARIO.machine.sensors)

temperatures = st.integers(-40_000, 130_000)

strange_values = st.one_of(
    st.integers(-(10**15), 10**15),
    st.floats(allow_nan=True, allow_infinity=True),
    st.none(),
    st.booleans(),
    st.sampled_from(["full", "\ud800", 10**5_000, -(10**5_000), object(), np.array([1, 2]), np.int64(128), [255]]),
)
"""What a controller that has lost its mind may ask for."""

commands = st.dictionaries(st.sampled_from([*LIMITS, "no_such_channel", "\ud800"]), strange_values)

statuses = st.sampled_from([status for status in Status if status is not Status.OK])


def view(worst: tuple[int | None, ...], failsafe: str = "", **changes: object) -> View:
    """A view in which everything else is ordinary."""
    plain = View(
        cycle=0,
        time_ns=0,
        dt_ns=100_000_000,
        sensors=tuple(sensor.name for sensor in SCENARIO.machine.sensors),
        temps_millicelsius=worst,
        worst_millicelsius=worst,
        limits_millicelsius=tuple(round(sensor.limit_celsius * 1_000) for sensor in SCENARIO.machine.sensors),
        expected_millicelsius=(None,) * len(SCENARIO.machine.sensors),
        unaided_millicelsius=worst,
        nodes_millicelsius=(),
        fans=tuple(fan.name for fan in SCENARIO.machine.fans),
        fan_rpm=(1_000, 1_000, 1_000),
        fan_trouble="",
        cpu_load_ppm=500_000,
        cpu_power_microwatts=60_000_000,
        cpu_clock_kilohertz=4_000_000,
        gpu_load_ppm=500_000,
        gpu_power_microwatts=90_000_000,
        gpu_clock_kilohertz=1_800_000,
        memory_used_ppm=500_000,
        frame_rate_millihertz=60_000,
        frame_latency_microseconds=16_000,
        frames_counted_millihertz=60_000,
        game_state_code=2,
        words_offered_per_second=100_000,
        suspicion="",
        unchecked="",
        failsafe=failsafe,
    )
    return plain._replace(**changes)  # type: ignore[arg-type]


def readings(
    values: dict[str, int | None], time_ns: int, statuses_by_name: dict[str, Status] | None = None
) -> Readings:
    """Readings of the default machine: the named values, None elsewhere."""
    by_name = statuses_by_name or {}
    found = tuple(values.get(channel.name) for channel in WIRING.sensors)
    return Readings(
        found,
        (time_ns,) * len(found),
        tuple(
            Status.OK if value is not None else by_name.get(channel.name, Status.ABSENT)
            for channel, value in zip(WIRING.sensors, found, strict=True)
        ),
    )


def fully_cooled(values: Mapping[str, int]) -> bool:
    """Every fan at its most, and no cap above its safe value."""
    return all(
        value == LIMITS[name].safe if name in FANS else LIMITS[name].minimum <= value <= LIMITS[name].safe
        for name, value in values.items()
    ) and set(values) == set(LIMITS)
