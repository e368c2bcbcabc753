"""Time: order at equal times, absolute deadlines, lateness and suspends."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twin.clock import (
    EndOfRecording,
    ModelledLateness,
    Order,
    RecordedLateness,
    VirtualEnvironment,
    WallEnvironment,
)
from twin.scenario import Heartbeat
from twin.timing import Wake


class FakeMachine:
    """A monotonic and a boot clock that move only when somebody sleeps or works."""

    def __init__(self) -> None:
        self.monotonic = 5_000_000_000
        self.boot = 9_000_000_000
        self.oversleep = 0

    def monotonic_ns(self) -> int:
        return self.monotonic

    def boottime_ns(self) -> int:
        return self.boot

    def sleep_until_ns(self, deadline: int) -> None:
        if deadline > self.monotonic:
            self.work(deadline + self.oversleep - self.monotonic)

    def work(self, duration: int) -> None:
        self.monotonic += duration
        self.boot += duration

    def suspend(self, duration: int) -> None:
        self.boot += duration

    def environment(self) -> WallEnvironment:
        return WallEnvironment(self.monotonic_ns, self.boottime_ns, self.sleep_until_ns)


@pytest.mark.parametrize("make", [VirtualEnvironment, lambda: FakeMachine().environment()])
@given(order=st.permutations(list(Order)))
def test_events_due_at_the_same_time_happen_in_the_written_order(make, order) -> None:
    env = make()
    seen: list[Order] = []
    for rank in order:
        env.at(1_000, rank).callbacks.append(lambda _, rank=rank: seen.append(rank))
    env.run()
    assert seen == sorted(Order)
    assert type(env.now) is int
    assert env.now == 1_000


def test_time_stays_an_exact_integer_over_many_steps() -> None:
    env = VirtualEnvironment()

    def walk():
        for _ in range(100_000):
            yield env.after(10_000_001)

    env.process(walk())
    env.run()
    assert env.now == 1_000_000_100_000


def test_an_event_before_now_is_refused() -> None:
    env = VirtualEnvironment()
    env.run(until=10)
    with pytest.raises(ValueError, match="before now"):
        env.at(9, Order.WORLD)


def test_wall_time_sleeps_to_absolute_deadlines_and_measures_lateness() -> None:
    machine = FakeMachine()
    machine.oversleep = 70_000
    env = machine.environment()
    lateness = []

    def beat():
        for number in range(1, 6):
            yield env.at(number * 1_000_000, Order.HEARTBEAT)
            lateness.append(int(env.heart_lateness(number, 1)[0]))
            machine.work(200_000)

    env.process(beat())
    env.run()
    # Neither oversleeping nor the work of 0.2 ms moves the next deadline.
    assert lateness == [70_000] * 5


def test_wall_time_notices_a_suspend_once() -> None:
    machine = FakeMachine()
    env = machine.environment()
    wakes = []

    def control():
        for number in range(3):
            yield env.at(number * 100_000_000, Order.CONTROL)
            if number == 1:
                machine.suspend(3_600_000_000_000)
            wakes.append(env.control_wake(number))

    env.process(control())
    env.run()
    assert wakes == [Wake(0, 0), Wake(0, 3_600_000_000_000), Wake(0, 0)]


def test_modelled_lateness_follows_its_quantiles_and_its_tick_numbers() -> None:
    quantiles = Heartbeat().lateness_quantiles_ns
    model = ModelledLateness(quantiles, 1)
    drawn = model.heart(0, 200_000)
    for probability, expected in zip(ModelledLateness.PROBABILITIES[1:-2], quantiles[1:-2], strict=True):
        # Five standard deviations of a share among 200,000 draws.
        tolerance = 5 * (probability * (1 - probability) / len(drawn)) ** 0.5
        assert np.mean(drawn <= expected) == pytest.approx(probability, abs=tolerance)
    assert drawn.min() >= quantiles[0]
    assert drawn.max() <= quantiles[-1]
    assert np.array_equal(model.heart(1_000, 50), drawn[1_000:1_050])
    assert not np.array_equal(ModelledLateness(quantiles, 2).heart(0, 50), drawn[:50])


def test_recorded_lateness_ends_where_the_log_ends() -> None:
    lateness = RecordedLateness(np.array([3, 4, 5]), [Wake(1)])
    assert lateness.heart(1, 10).tolist() == [4, 5]
    assert lateness.control(0) == Wake(1)
    with pytest.raises(EndOfRecording, match="tick 3"):
        lateness.heart(3, 1)
    with pytest.raises(EndOfRecording, match="cycle 1"):
        lateness.control(1)
