"""What sensors and fans should show, and whether they do: two thermal models at once, one of which the sensors guide.

Both models see the same fans. All that a cycle has to compute is done in one call, because calls are what costs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from twin.control.gate import APART_CYCLES, LAGGED, SUSPECTED, TOLERANCE, GateSettings, compare, suspicion
from twin.control.model import ThermalModel, conduct, pull, settle, step
from twin.control.view import NOTHING
from twin.kernels import Floats, Integers, kernel
from twin.scenario import Machine
from twin.timing import SECOND_NS

FAN_GRACE_CYCLES = 30
"""Cycles a fan has to follow its command before it counts as failing."""
MOST_SHARE = 2
"""No fan turns faster than so many times its largest speed."""
LONGEST_NS = 1_000 * SECOND_NS
"""What lags is where it leads to after so long; the products of longer times would not fit 64 bits."""

# Of what a cycle gives: its length, the powers (uW) and the used memory (ppm), then what is believed of each sensor and
# the speed of each fan; NOTHING where it is not known.
DT_NS, CPU_POWER, GPU_POWER, MEMORY_USED, BELIEVED = range(5)

# Of the machine's parts: whether the models run, whether they have begun, and the nodes (-1: there is none).
MODELLED, STARTED, CPU_NODE, GPU_NODE, MEMORY_NODE = range(5)

# Of the watts: the largest power of the processors, and what the memory takes when idle and more when full.
CPU_MOST, GPU_MOST, MEMORY_IDLE, MEMORY_SPAN = range(4)

# Columns of the sensors, beside those of their gates.
NODE, REFERENCE, LAG_NS, EXPECTED = range(SUSPECTED + 1, SUSPECTED + 5)

# Columns of the fans: what they are, and what is expected of them.
MAX_RPM, START_PWM, FAN_LAG_NS, PWM, EXPECTED_RPM, SLOW_CYCLES = range(6)


@kernel
def _watch_fans(fans: Integers, given: Integers, first: int, speeds: Floats) -> int:
    """How many fans turn at less than half the speed they should have reached, for too long.

    The fans' speeds stand from `first` on; `speeds` gets them too, with what is expected for what is not known. A
    speed that is not known, or that no fan has, neither brings a fan into trouble nor out of it.
    """
    troubled = 0
    dt_ns = min(given[DT_NS], LONGEST_NS)
    for i in range(len(fans)):
        pwm, rpm, expected = fans[i, PWM], given[first + i], fans[i, EXPECTED_RPM]
        target = pwm * fans[i, MAX_RPM] // 255 if pwm >= fans[i, START_PWM] else 0
        expected += (target - expected) * dt_ns // (fans[i, FAN_LAG_NS] + dt_ns)
        fans[i, EXPECTED_RPM] = expected
        speeds[i] = expected if rpm == NOTHING else max(0, rpm)
        if rpm != NOTHING and rpm <= MOST_SHARE * fans[i, MAX_RPM]:
            fans[i, SLOW_CYCLES] = fans[i, SLOW_CYCLES] + 1 if 2 * rpm < expected else 0
        if fans[i, SLOW_CYCLES] >= FAN_GRACE_CYCLES:
            troubled += 1
    return troubled


@kernel
def _is_blind(parts: Integers, given: Integers, node: int) -> bool:
    """Whether nobody knows how much power goes into `node`, so that nothing can be expected of its sensors."""
    if node == parts[CPU_NODE] and given[CPU_POWER] == NOTHING:
        return True
    return bool(node == parts[GPU_NODE] and given[GPU_POWER] == NOTHING)


@kernel
def _heat(parts: Integers, watts: Floats, given: Integers, guided: Floats, unaided: Floats) -> None:
    """Every node's heat (W). The model that hears no sensor takes what is not known for the largest."""
    for node in range(len(guided)):
        guided[node] = 0.0
        unaided[node] = 0.0
    used = given[MEMORY_USED]
    share = 0.5 if used == NOTHING else used / 1_000_000
    guided[parts[MEMORY_NODE]] += watts[MEMORY_IDLE] + watts[MEMORY_SPAN] * share
    share = 1.0 if used == NOTHING else share
    unaided[parts[MEMORY_NODE]] += watts[MEMORY_IDLE] + watts[MEMORY_SPAN] * share
    for processor in range(2):
        node, power = parts[CPU_NODE + processor], given[CPU_POWER + processor]
        if node >= 0 and power == NOTHING:
            unaided[node] += watts[CPU_MOST + processor]
        elif node >= 0:
            guided[node] += power / 1_000_000
            unaided[node] += power / 1_000_000


@kernel
def _begin(parts: Integers, given: Integers, sensors: Integers, celsius: Floats, ends: Integers, conductance: Floats)\
        -> None:  # fmt: skip
    """Begin the guided model from what is believed; it has begun once that is so at every sensor's node."""
    measured = np.zeros(len(celsius) - 1, dtype=np.int64)
    for i in range(len(sensors)):
        if given[BELIEVED + i] != NOTHING:
            celsius[sensors[i, NODE]] = given[BELIEVED + i] / 1_000
            measured[sensors[i, NODE]] = 1
    known, missing = 0, 0
    for i in range(len(sensors)):
        known += measured[sensors[i, NODE]]
        missing += 1 - measured[sensors[i, NODE]]
    if known > 0:
        settle(celsius, measured, ends, conductance)
    parts[STARTED] = 1 if missing == 0 else 0
    for i in range(len(sensors)):
        sensors[i, EXPECTED] = int(celsius[sensors[i, NODE]] * 1_000.0)
        sensors[i, LAGGED] = sensors[i, EXPECTED]


@kernel
def _others_agree(parts: Integers, given: Integers, sensors: Integers, reference: int, gap: int) -> bool:
    """Whether all sensors that can tell, and there is one, part from the model as `reference` does."""
    others = 0
    for i in range(len(sensors)):
        believed = given[BELIEVED + i]
        if believed == NOTHING or sensors[i, REFERENCE] == 1 or _is_blind(parts, given, sensors[i, NODE]):
            continue
        others += 1
        if abs(believed - sensors[i, EXPECTED] - gap) > sensors[reference, TOLERANCE]:
            return False
    return others > 0


@kernel
def _guide(parts: Integers, given: Integers, sensors: Integers, celsius: Floats, seconds: float) -> None:
    """What the sensors tell the guided model.

    Reference sensors say how warm the surroundings are; blind nodes follow their sensors. A reference that parts from
    the model is believed all the same if the other sensors part alike: then it is the room that has changed, and not
    the sensor.
    """
    for i in range(len(sensors)):
        believed, node = given[BELIEVED + i], sensors[i, NODE]
        if believed == NOTHING:
            continue
        gap = believed - sensors[i, EXPECTED]
        if sensors[i, REFERENCE] == 0:
            if _is_blind(parts, given, node):
                celsius[node] += gap / 1_000.0
        elif (sensors[i, SUSPECTED] == 0 and abs(gap) <= sensors[i, TOLERANCE]) or _others_agree(
            parts, given, sensors, i, gap
        ):
            pull(celsius, node, celsius[node] + gap / 1_000.0, seconds)


@kernel
def _judge(parts: Integers, given: Integers, sensors: Integers, celsius: Floats) -> int:
    """Hold what is believed against the guided model as the sensors would show it; how many are suspected."""
    dt_ns = min(given[DT_NS], LONGEST_NS)
    suspected = 0
    for i in range(len(sensors)):
        expected = int(celsius[sensors[i, NODE]] * 1_000.0)
        sensors[i, EXPECTED] = expected
        if _is_blind(parts, given, sensors[i, NODE]):
            sensors[i, LAGGED] = expected
            compare(sensors, i, NOTHING)
        else:
            sensors[i, LAGGED] += (expected - sensors[i, LAGGED]) * dt_ns // (sensors[i, LAG_NS] + dt_ns)
            compare(sensors, i, given[BELIEVED + i])
        if sensors[i, SUSPECTED] != 0:
            suspected += 1
    return suspected


@kernel
def _advance(
    given: Integers, parts: Integers, watts: Floats, sensors: Integers, fans: Integers, guided: Floats, unaided: Floats,
    capacity: Floats, ends: Integers, edges: Floats, max_rpm: Floats, conductance: Floats, scratch: Floats,
    shown: Integers,
) -> int:  # fmt: skip
    """One cycle of fans, both models and gates. Returns how many fans are in trouble and sensors suspected.

    `scratch`: heat (W) of every node for the guided model, then for the unaided one, then the fans' speeds. `shown`:
    whether the guided model has begun; what it has at each sensor, the unaided one there, and the guided model's nodes
    and the room, rounded up (all millidegrees).
    """
    nodes, count = len(capacity), len(sensors)
    speeds = scratch[2 * nodes :]
    amiss = _watch_fans(fans, given, BELIEVED + count, speeds)
    if parts[MODELLED] == 0:
        return amiss
    seconds = given[DT_NS] / SECOND_NS
    _heat(parts, watts, given, scratch[:nodes], scratch[nodes : 2 * nodes])
    if parts[STARTED] == 0:
        conduct(guided, ends, edges, max_rpm, speeds, conductance)
        _begin(parts, given, sensors, guided, ends, conductance)
    _guide(parts, given, sensors, guided, seconds)
    conduct(guided, ends, edges, max_rpm, speeds, conductance)
    step(guided, capacity, ends, conductance, scratch[:nodes], seconds)
    conduct(unaided, ends, edges, max_rpm, speeds, conductance)
    step(unaided, capacity, ends, conductance, scratch[nodes : 2 * nodes], seconds)
    amiss += _judge(parts, given, sensors, guided)
    shown[0] = parts[STARTED]
    for i in range(count):
        shown[1 + i] = sensors[i, EXPECTED]
        shown[1 + count + i] = int(unaided[sensors[i, NODE]] * 1_000.0)
    for node in range(nodes + 1):
        exact = guided[node] * 1_000.0
        up = int(exact)
        shown[1 + 2 * count + node] = up + 1 if up < exact else up
    return amiss


class Expectation:
    """What is expected of a machine's sensors and fans; `gates` are those of the sensors. Millidegrees out."""

    def __init__(self, machine: Machine, gates: Sequence[GateSettings], modelled: bool) -> None:
        """`modelled` says whether the thermal models run; without them only the fans are watched."""
        guided, unaided = ThermalModel(machine), ThermalModel(machine)
        places = guided.places
        self._names = tuple(gate.name for gate in gates)
        self._fan_names = tuple(fan.name for fan in machine.fans)
        cpu, gpu, memory = machine.cpu, machine.gpu, machine.memory
        self._parts = np.array(
            [modelled, 0, places[cpu.node], places[gpu.node] if gpu.enabled else -1, places[memory.node]],
            dtype=np.int64,
        )
        watts = np.array(
            [cpu.pl2_watts, gpu.power_limit_watts, memory.idle_watts, memory.full_watts - memory.idle_watts]
        )
        self._sensors: Integers = np.array(
            [
                [gate.tolerance_millicelsius, 0, 0, 0, places[sensor.node], sensor.reference,
                 (sensor.lag_ms + sensor.hold_ms // 2) * 1_000_000, 0]
                for gate, sensor in zip(gates, machine.sensors, strict=True)
            ],
            dtype=np.int64,
        )  # fmt: skip
        self._fans: Integers = np.array(
            [
                [fan.max_rpm, fan.start_pwm, fan.lag_ms * 1_000_000, fan.initial_pwm,
                 fan.initial_pwm * fan.max_rpm // 255, 0]
                for fan in machine.fans
            ],
            dtype=np.int64,
        ).reshape(len(machine.fans), SLOW_CYCLES + 1)  # fmt: skip
        sensors, nodes, fans = len(machine.sensors), len(machine.nodes), len(machine.fans)
        self._given: Integers = np.zeros(BELIEVED + sensors + fans, dtype=np.int64)
        self._shown: Integers = np.zeros(1 + 2 * sensors + nodes + 1, dtype=np.int64)
        self._arrays = (
            self._given, self._parts, watts, self._sensors, self._fans, guided.celsius, unaided.celsius,
            *guided.constants, guided.conductance, np.zeros(2 * nodes + fans), self._shown,
        )  # fmt: skip
        self._modelled = modelled
        self._ends = (1 + sensors, 1 + 2 * sensors)
        # None stands for what nobody expects.
        self._unknown: tuple[int | None, ...] = (None,) * sensors
        self.at_sensors: tuple[int, ...] = ()
        """What the guided model has at each sensor's node; empty without models."""
        self.unaided = self._unknown
        """What the unaided one has there."""
        self.nodes: tuple[int, ...] = ()
        """Every node of the guided model and the room last, rounded up; empty before it has begun."""
        self.suspicion = ""
        """Which sensors part from the model, in words."""
        self.fan_trouble = ""
        """Which fans do not turn as they should, in words."""

    def forget(self) -> None:
        """Nobody knows what happened meanwhile: begin again from what is believed next."""
        self._parts[STARTED] = 0
        self._sensors[:, APART_CYCLES] = 0

    def commanded(self, pwm: Sequence[int]) -> None:
        """What the fans were last told, in the order of the machine."""
        self._fans[:, PWM] = pwm

    def advance(
        self,
        dt_ns: int,
        cpu_microwatts: int | None,
        gpu_microwatts: int | None,
        memory_used_ppm: int | None,
        believed: Sequence[int | None],
        fan_rpm: Sequence[int | None],
    ) -> None:
        """A cycle of `dt_ns`, with what is `believed` of each sensor."""
        values = (dt_ns, cpu_microwatts, gpu_microwatts, memory_used_ppm, *believed, *fan_rpm)
        self._given[:] = [NOTHING if value is None else value for value in values]
        amiss = _advance(*self._arrays)
        if self._modelled:
            shown = self._shown.tolist()
            one, two = self._ends
            self.at_sensors = tuple(shown[1:one])
            self.unaided = tuple(shown[one:two])
            self.nodes = tuple(shown[two:]) if shown[0] else ()
        if amiss or self.suspicion or self.fan_trouble:
            self._tell(fan_rpm)

    def _tell(self, fan_rpm: Sequence[int | None]) -> None:
        apart = self._sensors[:, SUSPECTED].tolist()
        self.suspicion = "; ".join([suspicion(name, by) for name, by in zip(self._names, apart, strict=True) if by])
        self.fan_trouble = "; ".join([
            f"{name} turns at {'an unknown' if rpm is None else rpm} rpm where {fan[EXPECTED_RPM]} are expected"
            for name, rpm, fan in zip(self._fan_names, fan_rpm, self._fans.tolist(), strict=True)
            if fan[SLOW_CYCLES] >= FAN_GRACE_CYCLES
        ])  # fmt: skip
