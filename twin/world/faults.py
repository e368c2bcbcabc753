"""Faults of sensors and outputs: scheduled, or drawn from the seed; the eight states of the catalogue.

| state        | a sensor                                           | an output                                        |
|--------------|----------------------------------------------------|--------------------------------------------------|
| ok           | as it is (hides faults that began before)          | as commanded (hides faults that began before)    |
| off          | absent                                             | no effect: a fan without power, a cap ignored    |
| stuck        | keeps what it showed when the fault began          | keeps what was in force when the fault began     |
| garbage      | each slot no number, a sentinel or a random value  | each slot a random value within its limits       |
| wrong        | `amount` too much (temperatures -15 K, others -30%)| `amount` too much (-30 %), within its limits     |
| slow         | sampled when the fault begins and every `delay_ms` | takes commands only then                         |
| delayed      | what it was `delay_ms` ago, in slots               | what was commanded `delay_ms` ago                |
| intermittent | each slot absent with probability 1/2              | each slot ignores commands with probability 1/2  |

A slot is 100 ms, counted from the start of the run. Draws of a slot are draws of the stream `fault.<channel>`, so that
asking twice gives the same. Of several faults of one channel the one that started last holds; when it ends, the one
before is in force again. Random faults: in each slot and for each target one begins with probability
per_minute * 0.1 / 60, drawn from the stream `world.faults.<channel>`, its state being the next draw's.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass

from simpy import Event

from hardware.interface import Channel, Limit, Status, Wiring
from twin.clock import Order, TwinEnvironment
from twin.kernels import draw32, kernel, stream_keys
from twin.scenario import Fault, FaultState, Scenario
from twin.timing import MILLISECOND_NS
from twin.wiring import fault_targets

SLOT_NS = 100_000_000
DRAWN_DELAY_MS = Fault.delay_ms
"""Random faults delay, and sample slowly, by a fault's default."""
_SLOTS_AHEAD = 6_000
SENTINELS = (-128_000, 127_000, 255_000, 85_000, 0, 65_535)
"""What broken temperature sensors were seen to show in the field (millicelsius)."""
GARBAGE_MILLICELSIUS = (-40_000, 130_000)
WRONG_MILLICELSIUS = -15_000
WRONG_PERCENT = -30

Values = tuple[int | None, ...]
Statuses = tuple[Status, ...]


@kernel
def slot_of_next(key0: int, key1: int, slot: int, last: int, threshold: int) -> int:
    """The first slot in `slot..last` whose draw (number 2 * slot) is below `threshold` (0..2^32), or `last` + 1."""
    while slot <= last and draw32(key0, key1, 2 * slot) >= threshold:
        slot += 1
    return slot


@dataclass(slots=True)
class ActiveFault:
    """A fault in force. `held` is the value that stuck, slow and intermittent outputs and sensors keep."""

    state: FaultState
    amount: int
    delay_ns: int
    began_ns: int
    held: int | None = None
    held_status: Status = Status.OK


class _Target:
    """What sensors and outputs under fault have in common: the faults in force, and the draws of the slots."""

    def __init__(self, env: TwinEnvironment, seed: int, name: str) -> None:
        self.env = env
        self.name = name
        self.faults: list[ActiveFault] = []
        self._key0, self._key1 = stream_keys(seed, f"fault.{name}")

    @property
    def now_ns(self) -> int:
        return int(self.env.now)

    def draw(self, number: int, bound: int) -> int:
        """An integer in 0..bound-1: draw `number` (0..3) of the present slot."""
        slot = self.now_ns // SLOT_NS
        high = int(draw32(self._key0, self._key1, 8 * slot + 2 * number))
        low = int(draw32(self._key0, self._key1, 8 * slot + 2 * number + 1))
        return (((high << 32) | low) * bound) >> 64


class SensorTarget(_Target):
    """A sensor that may be at fault. `healthy` tells what it shows without faults."""

    def __init__(
        self, env: TwinEnvironment, seed: int, channel: Channel, healthy: Callable[[], tuple[int | None, Status]]
    ) -> None:
        super().__init__(env, seed, channel.name)
        self._channel = channel
        self._healthy = healthy
        self._temperature = channel.name.endswith("_millicelsius")
        self._history: deque[tuple[int | None, Status]] = deque()
        self._first_slot = 0

    def begin(self, fault: ActiveFault) -> None:
        """Put `fault` in force. What stays stuck is what was shown before it; a slow sensor takes a sample."""
        if fault.state == "stuck":
            fault.held, fault.held_status = self.shown(*self._healthy())
        elif fault.state == "slow":
            fault.held, fault.held_status = self._healthy()
        self.faults.append(fault)

    def renew(self, fault: ActiveFault) -> None:
        """The moment at which a slow sensor samples."""
        fault.held, fault.held_status = self._healthy()

    def remember(self, value: int | None, status: Status, slots: int) -> None:
        """Note the healthy value of the slot that begins now, of the last `slots` of them."""
        self._history.append((value, status))
        if len(self._history) > slots:
            self._history.popleft()
            self._first_slot += 1

    def shown(self, value: int | None, status: Status) -> tuple[int | None, Status]:
        """What the sensor shows now, with its faults, when it is `value` without. Changes nothing."""
        if not self.faults:
            return value, status
        fault = self.faults[-1]
        match fault.state:
            case "off":
                return None, Status.ABSENT
            case "stuck" | "slow":
                return fault.held, fault.held_status
            case "intermittent":
                return (None, Status.ABSENT) if self.draw(0, 2) == 0 else (value, status)
            case "garbage":
                garbage = self._garbage(value)
                return garbage, Status.GARBAGE if garbage is None else Status.OK
            case "delayed":
                slot = max(0, self.now_ns - fault.delay_ns) // SLOT_NS
                return self._history[max(0, slot - self._first_slot)]
            case "wrong" if value is not None:
                return self._wrong(value, fault.amount), Status.OK
        return value, status

    def _wrong(self, value: int, amount: int) -> int:
        if amount == 0:
            amount = WRONG_MILLICELSIUS if self._temperature else value * WRONG_PERCENT // 100
        if self._temperature:
            return value + amount
        if self._channel.wrap is not None:
            return (value + amount) % (self._channel.wrap + 1)
        return max(0, value + amount)

    def _garbage(self, value: int | None) -> int | None:
        kind = self.draw(0, 3)
        if kind == 0:
            return None
        sentinels: tuple[int, ...]
        if self._temperature:
            low, high = GARBAGE_MILLICELSIUS
            sentinels = SENTINELS
        else:
            # Other channels: up to twice what it should be, or what registers hold when nothing answers.
            low, high = 0, 2 * max(1_000, value or 0)
            sentinels = (-1, 0, 65_535, 2**31 - 1)
        if kind == 1:
            return sentinels[self.draw(1, len(sentinels))]
        return low + self.draw(2, high - low + 1)


class OutputTarget(_Target):
    """An output that may be at fault, and what was commanded to it. It starts with `initial` in force."""

    def __init__(self, env: TwinEnvironment, seed: int, limit: Limit, initial: int, fan: bool) -> None:
        super().__init__(env, seed, limit.name)
        self._limit = limit
        self._without = 0 if fan else limit.maximum
        self.commanded = initial
        self.longest_delay_ns = 0
        self._times_ns = [0]
        self._values = [initial]

    def take(self, value: int) -> None:
        """Command `value` (within the limits)."""
        self.commanded = value
        if self.longest_delay_ns > 0:
            self._times_ns.append(self.now_ns)
            self._values.append(value)
            # The newest command that a delay can still ask for stays.
            keep = bisect_right(self._times_ns, self.now_ns - self.longest_delay_ns) - 1
            if keep > 0:
                del self._times_ns[:keep], self._values[:keep]
        for fault in self.faults:
            if fault.state == "intermittent" and self.draw(0, 2) == 1:
                fault.held = value

    def begin(self, fault: ActiveFault) -> None:
        """Put `fault` in force; what it keeps is what was in force before it."""
        fault.held = self.in_force()
        self.faults.append(fault)

    def renew(self, fault: ActiveFault) -> None:
        """The moment at which a slow output takes the command."""
        fault.held = self.commanded

    def in_force(self) -> int:
        """What the machine does now, with the output's faults. Changes nothing."""
        limit = self._limit
        if not self.faults:
            return self.commanded
        fault = self.faults[-1]
        match fault.state:
            case "off":
                return self._without
            case "stuck" | "slow" | "intermittent":
                assert fault.held is not None
                return fault.held
            case "garbage":
                return limit.minimum + self.draw(1, limit.maximum - limit.minimum + 1)
            case "wrong":
                amount = fault.amount or self.commanded * WRONG_PERCENT // 100
                return min(limit.maximum, max(limit.minimum, self.commanded + amount))
            case "delayed":
                place = bisect_right(self._times_ns, self.now_ns - fault.delay_ns) - 1
                return self._values[max(0, place)]
        return self.commanded


class Faults:
    """Runs a scenario's faults in `env` and applies them to what the sensors show and what the outputs do.

    `healthy` gives the readings without faults, in the order of the wiring; `initial` the outputs' values at the start.
    Raises `ValueError` for a target that the wiring does not have.
    """

    def __init__(
        self,
        env: TwinEnvironment,
        scenario: Scenario,
        wiring: Wiring,
        healthy: Callable[[], tuple[Values, Statuses]],
        initial: dict[str, int],
    ) -> None:
        self._env = env
        self._healthy = healthy
        self._sensor_faults = 0
        self._output_faults = 0
        self._targets = fault_targets(wiring, scenario.machine)
        seed = scenario.seed
        self._sensors = {
            channel.name: SensorTarget(env, seed, channel, self._one_healthy(index))
            for index, channel in enumerate(wiring.sensors)
        }
        self.outputs = {
            limit.name: OutputTarget(env, seed, limit, initial[limit.name], limit.name.endswith("_pwm"))
            for limit in wiring.outputs
        }
        for fault in scenario.faults:
            env.process(self._scheduled(self._target(fault.target), fault))
        self._remember_delayed(scenario)
        random = scenario.random_faults
        if random.per_minute > 0.0 and random.states:
            targets = random.targets or (*self._sensors, *self.outputs)
            # In the order of the wiring and once each, however the scenario lists them.
            chosen = {self._target(name).name for name in targets}
            for name in (*self._sensors, *self.outputs):
                if name in chosen:
                    env.process(self._random(self._target(name), scenario))

    def shown(self, values: Values, statuses: Statuses) -> tuple[Values, Statuses]:
        """Healthy readings with the sensors' faults applied."""
        if self._sensor_faults == 0:
            return values, statuses
        shown = [
            sensor.shown(value, status)
            for sensor, value, status in zip(self._sensors.values(), values, statuses, strict=True)
        ]
        return tuple(value for value, _ in shown), tuple(status for _, status in shown)

    @property
    def outputs_at_fault(self) -> bool:
        """Whether an output has a fault in force, so that what it does may change without a command."""
        return self._output_faults > 0

    def _target(self, name: str) -> SensorTarget | OutputTarget:
        channel = self._targets.get(name)
        if channel is None:
            raise ValueError(f"fault target {name!r} does not exist; this machine has: {', '.join(self._targets)}")
        return self._sensors[channel] if channel in self._sensors else self.outputs[channel]

    def _one_healthy(self, index: int) -> Callable[[], tuple[int | None, Status]]:
        def one() -> tuple[int | None, Status]:
            values, statuses = self._healthy()
            return values[index], statuses[index]

        return one

    def _remember_delayed(self, scenario: Scenario) -> None:
        """Keep the past of those channels that a fault may delay, as far back as it may."""
        delays_ms: dict[str, int] = {}
        scheduled = [(fault.target, fault.delay_ms) for fault in scenario.faults if fault.state == "delayed"]
        random = scenario.random_faults
        drawn = random.per_minute > 0.0 and "delayed" in random.states
        everything = (*self._sensors, *self.outputs)
        scheduled += [(name, DRAWN_DELAY_MS) for name in (random.targets or everything) if drawn]
        for target, delay_ms in scheduled:
            name = self._target(target).name
            delays_ms[name] = max(delays_ms.get(name, 0), delay_ms)
        remembered: list[tuple[int, SensorTarget, int]] = []
        for name, delay_ms in delays_ms.items():
            delay_ns = delay_ms * MILLISECOND_NS
            if name in self.outputs:
                self.outputs[name].longest_delay_ns = delay_ns
            else:
                remembered.append((tuple(self._sensors).index(name), self._sensors[name], delay_ns // SLOT_NS + 2))
        if remembered:
            self._env.process(self._remember(remembered))

    def _remember(self, remembered: list[tuple[int, SensorTarget, int]]) -> Generator[Event, None, None]:
        slot = 0
        while True:
            yield self._env.at(slot * SLOT_NS, Order.FAULTS)
            values, statuses = self._healthy()
            for index, sensor, slots in remembered:
                sensor.remember(values[index], statuses[index], slots)
            slot += 1

    def _scheduled(self, target: SensorTarget | OutputTarget, fault: Fault) -> Generator[Event, None, None]:
        yield self._env.at(fault.at_ms * MILLISECOND_NS, Order.FAULTS)
        yield from self._hold(
            target, fault.state, fault.amount, fault.delay_ms * MILLISECOND_NS, fault.duration_ms * MILLISECOND_NS
        )

    def _hold(
        self, target: SensorTarget | OutputTarget, state: FaultState, amount: int, delay_ns: int, duration_ns: int
    ) -> Generator[Event, None, None]:
        """Hold a fault for `duration_ns` (0: for ever), renewing a slow one every `delay_ns`."""
        now_ns = int(self._env.now)
        active = ActiveFault(state, amount, delay_ns, now_ns)
        target.begin(active)
        self._count(target, 1)
        end_ns = now_ns + duration_ns
        if state == "slow":
            renewal_ns = now_ns + delay_ns
            while duration_ns == 0 or renewal_ns < end_ns:
                yield self._env.at(renewal_ns, Order.FAULTS)
                target.renew(active)
                renewal_ns += delay_ns
        if duration_ns > 0:
            yield self._env.at(end_ns, Order.FAULTS)
            # By identity: equal faults may be in force at once.
            target.faults[:] = [fault for fault in target.faults if fault is not active]
            self._count(target, -1)

    def _count(self, target: SensorTarget | OutputTarget, change: int) -> None:
        """Keep count of the faults in force, since readings and plant steps ask all the time whether there are any."""
        if isinstance(target, SensorTarget):
            self._sensor_faults += change
        else:
            self._output_faults += change

    def _random(self, target: SensorTarget | OutputTarget, scenario: Scenario) -> Generator[Event, None, None]:
        random = scenario.random_faults
        threshold = int(min(1.0, random.per_minute * 0.1 / 60.0) * (1 << 32))
        key0, key1 = stream_keys(scenario.seed, f"world.faults.{target.name}")
        slot = 0
        while True:
            last = slot + _SLOTS_AHEAD - 1
            found = int(slot_of_next(key0, key1, slot, last, threshold))
            yield self._env.at(found * SLOT_NS, Order.FAULTS)
            slot = found
            if found <= last:
                state = random.states[(int(draw32(key0, key1, 2 * found + 1)) * len(random.states)) >> 32]
                hold = self._hold(
                    target, state, 0, DRAWN_DELAY_MS * MILLISECOND_NS, random.duration_ms * MILLISECOND_NS
                )
                self._env.process(hold)
                slot = found + 1
