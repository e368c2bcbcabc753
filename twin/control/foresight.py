"""Would full cooling from the next cycle on still keep every limit? The look ahead of a black-box Simplex.

An upper bound on every node of the thermal network, not a prediction. Heat is the most that can enter (`most_watts`);
heat flows to a colder neighbour at the least fan speed and from a warmer one at the greatest, so that neither rounding
nor ignorance of the speed helps. The network is cooperative (a warmer node never cools another), so each node may be
advanced by itself, with its neighbours as warm as they ever are in the step: it then tends in a straight exponential to
its balance, its warmest moment is one end of the step, and coarse steps make the answer more careful, not less.
(Kamke's comparison theorem; see Smith, "Monotone Dynamical Systems", 1995.)
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence

import numpy as np

from hardware.interface import Limit
from twin.control.signals import fastest_rise_millicelsius_per_second
from twin.control.view import View
from twin.kernels import NATURAL_MOST_KELVIN, Floats, Integers, exp, kernel, natural_share, power
from twin.scenario import Cpu, Gpu, Machine, Scenario

MARGIN_MILLICELSIUS = 1_000
"""Every node, and the room, counts as warmer than the model has it by this, and by what STALE_MS of heating add."""
STALE_MS = 100
"""Measured power is a mean, over as long a window as this, and may have risen since."""
HOT_STEPS = 4
FIRST_SECONDS = 0.1
GROWTH = 1.25
HORIZON_SECONDS = 120.0
"""Full cooling is followed so long, in growing steps; after that a bound holds for ever (`_rest`)."""
SWEEPS = 3
"""How often a step is taken anew with what the neighbours then reach."""
LEVELS = 64
"""Fan speeds are rounded down to this part of max_rpm."""
SERVED_AT = 0.8
"""A governor raises the clock when the busiest core would be in use for more."""
LEAKAGE_CEILING_CELSIUS = 150.0
STRAY_WATTS = 0.1
"""Heat that the final bound adds to every node, so that it lies above the room everywhere."""

# Whose heat a step has: what was in force before, what is proposed, full cooling.
BEFORE = 0
PROPOSED = 1
COOLED = 2

# Columns of the steps array, before one for each fan (the share of a difference in speed that is left after the step).
SECONDS = 0
PHASE = 1
KEEPS = 2

# Columns of an edge: its nodes and its fan (-1: none).
A = 0
B = 1
FAN = 2

# Columns of an outlet: what it may be commanded, its largest speed and the command at which it surely turns.
LEAST_PWM, MOST_PWM, MAX_RPM, STARTS_PWM = range(4)

# Rows of the nodes array, one column a node and the room last.
INVERSE_CAPACITY = 0
LIMIT = 1
REST = 2
INVERSE_REST = 3
NOW = 4
NEXT = 5
MOST = 6
NET = 7
WEIGHT = 8
PEAK = 9
NODE_ROWS = 10

# Rows of the fans array, one column a fan: shares of max_rpm, and the conductances' column.
SPEED = 0
TARGET = 1
LEVEL = 2
FAN_ROWS = 3


@kernel
def _advance(seconds: float, watts: Floats, ends: Integers, conductance: Floats, fans: Floats, nodes: Floats) -> None:
    """From NOW to NEXT, and MOST of what lies between, with neighbours at their MOST."""
    count = nodes.shape[1] - 1
    full = conductance.shape[1] - 1
    for node in range(count):
        nodes[NET, node] = watts[node]
        nodes[WEIGHT, node] = 0.0
    for edge in range(len(ends)):
        a, b, fan = ends[edge, A], ends[edge, B], ends[edge, FAN]
        most = conductance[edge, full]
        least = conductance[edge, 0 if fan < 0 else int(fans[LEVEL, fan])]
        apart = nodes[MOST, b] - nodes[NOW, a]
        weight = most if apart > 0.0 else least
        nodes[NET, a] += weight * apart
        nodes[WEIGHT, a] += weight
        apart = nodes[MOST, a] - nodes[NOW, b]
        weight = most if apart > 0.0 else least
        nodes[NET, b] += weight * apart
        nodes[WEIGHT, b] += weight
    for node in range(count):
        change = nodes[NET, node] * seconds * nodes[INVERSE_CAPACITY, node]
        z = nodes[WEIGHT, node] * seconds * nodes[INVERSE_CAPACITY, node]
        # (1 - exp(-z)) / z, bounded from above for what rises and from below for what falls.
        if change > 0.0:
            factor = 1.0 - z / 2.0 + z * z / 6.0
            if z * factor > 1.0:
                factor = 1.0 / z
        else:
            factor = (1.0 + z / 2.0) / (1.0 + z + z * z / 2.0)
        reached = nodes[NOW, node] + change * factor
        nodes[NEXT, node] = reached
        nodes[MOST, node] = max(nodes[NOW, node], reached)


@kernel
def foresee(
    steps: Floats, watts: Floats, ends: Integers, conductance: Floats, fans: Floats, nodes: Floats
) -> bool:  # fmt: skip
    """Whether PEAK stays at or below LIMIT everywhere, from the nodes' NOW and the fans' SPEED and TARGET on.

    `watts` has a row for each of BEFORE, PROPOSED and COOLED. NOW, SPEED and TARGET are overwritten.
    """
    count = nodes.shape[1] - 1
    for node in range(count + 1):
        nodes[PEAK, node] = nodes[NOW, node]
        nodes[MOST, node] = nodes[NOW, node]
    for step in range(len(steps)):
        phase = int(steps[step, PHASE])
        for fan in range(fans.shape[1]):
            before = fans[SPEED, fan]
            target = 1.0 if phase == COOLED else fans[TARGET, fan]
            after = target + (before - target) * steps[step, KEEPS + fan]
            fans[SPEED, fan] = after
            fans[LEVEL, fan] = int(min(before, after) * LEVELS)
        for _ in range(SWEEPS):
            _advance(steps[step, SECONDS], watts[phase], ends, conductance, fans, nodes)
        for node in range(count):
            nodes[PEAK, node] = max(nodes[PEAK, node], nodes[MOST, node])
            nodes[NOW, node] = nodes[NEXT, node]
            nodes[MOST, node] = nodes[NEXT, node]
    # A multiple of the balance under full cooling that lies above every node is never left again.
    room = nodes[NOW, count]
    multiple = 1.0
    for node in range(count):
        multiple = max(multiple, (nodes[NOW, node] - room) * nodes[INVERSE_REST, node])
    kept = True
    for node in range(count):
        nodes[PEAK, node] = max(nodes[PEAK, node], room + multiple * nodes[REST, node])
        if nodes[PEAK, node] > nodes[LIMIT, node]:
            kept = False
    return kept


@kernel
def look(
    given: Floats, sensors: Integers, outlets: Floats, places: Integers, steps: Floats, watts: Floats, ends: Integers,
    conductance: Floats, fans: Floats, nodes: Floats,
) -> bool:  # fmt: skip
    """`foresee` from what a view and a command say.

    `given` holds the heat (W) of memory, processor and graphics, whose nodes are `places` (-1: there is none); the
    margin of every node; the modelled nodes, the room last; the fans' speeds (rpm, not a number: not known) and their
    commands; what is read at worst of each of `sensors`, by its node, and by how much more it may be (millidegrees).
    `outlets` are the fans' columns LEAST_PWM to STARTS_PWM.
    """
    count, spun = nodes.shape[1], fans.shape[1]
    for node in range(count - 1):
        watts[PROPOSED, node] = 0.0
    for part in range(3):
        if places[part] >= 0:
            watts[PROPOSED, places[part]] += given[part]
    # What is warmer than the model has it where it is measured may be so everywhere: the room, say, has warmed up.
    lift = 0.0
    for i in range(len(sensors)):
        first = 4 + count + 2 * spun + i
        lift = max(lift, given[first] - given[4 + sensors[i]] + given[first + len(sensors)])
    lift += given[3]
    for node in range(count):
        nodes[NOW, node] = (given[4 + node] + lift) / 1_000.0
    for fan in range(spun):
        rpm, pwm = given[4 + count + fan], given[4 + count + spun + fan]
        pwm = min(max(pwm, outlets[fan, LEAST_PWM]), outlets[fan, MOST_PWM])
        most = outlets[fan, MAX_RPM]
        # What is shown is rounded.
        fans[SPEED, fan] = 0.0 if rpm != rpm else min(max(0.0, rpm - 1.0), most) / most
        fans[TARGET, fan] = pwm / 255.0 if pwm >= outlets[fan, STARTS_PWM] else 0.0
    return bool(foresee(steps, watts, ends, conductance, fans, nodes))


class Foresight:
    """Answers for one scenario. `limits` are the outputs: what full cooling commands is their safe values."""

    def __init__(self, scenario: Scenario, limits: Mapping[str, Limit]) -> None:
        machine = scenario.machine
        count = len(machine.nodes)
        self._limits = dict(limits)
        self._places = {node.name: place for place, node in enumerate(machine.nodes)}
        self._sensor_nodes = tuple(self._places[sensor.node] for sensor in machine.sensors)
        # Without a measured power the model follows the sensor, which shows what was.
        rises = [fastest_rise_millicelsius_per_second(scenario, sensor.node) for sensor in machine.sensors]
        self._blind_margins = tuple(
            rise * (sensor.lag_ms + sensor.hold_ms) // 1_000
            for rise, sensor in zip(rises, machine.sensors, strict=True)
        )
        self._no_margins = (0,) * len(machine.sensors)
        self.margin_millicelsius = MARGIN_MILLICELSIUS + max(rises) * STALE_MS // 1_000
        outputs = [limits[f"{fan.name}_pwm"] for fan in machine.fans]
        outlets = [
            (limit.minimum, limit.maximum, fan.max_rpm, max(fan.start_pwm, fan.stall_pwm))
            for limit, fan in zip(outputs, machine.fans, strict=True)
        ]
        self._outputs = tuple((limit.name, limit.safe) for limit in outputs)
        self._steps = _schedule(scenario)
        self._ends, self._conductance = _edges(machine, self._places)
        self._speeds: Floats = np.zeros((FAN_ROWS, len(machine.fans)))
        self._nodes: Floats = np.zeros((NODE_ROWS, count + 1))
        self._nodes[INVERSE_CAPACITY, :count] = [1.0 / node.capacity_joules_per_kelvin for node in machine.nodes]
        self._nodes[LIMIT] = 1e9
        for sensor in machine.sensors:
            place = self._places[sensor.node]
            self._nodes[LIMIT, place] = min(self._nodes[LIMIT, place], sensor.limit_celsius)
        self._cpu = _cpu_watts(machine.cpu, self._hot_celsius(machine.cpu.node))
        self._gpu = _gpu_watts(machine.gpu, self._hot_celsius(machine.gpu.node)) if machine.gpu.enabled else None
        self._cpu_place = self._places[machine.cpu.node]
        self._gpu_place = self._places[machine.gpu.node] if machine.gpu.enabled else -1
        self._memory_place = self._places[machine.memory.node]
        self._memory_watts = max(machine.memory.full_watts, machine.memory.idle_watts)
        self._watts: Floats = np.zeros((3, count))
        self._fill(BEFORE, {name: limit.maximum for name, limit in limits.items()})
        self._fill(COOLED, {name: limit.safe for name, limit in limits.items()})
        self._most = tuple(int(most[1][-1] * 1e6) if most else 0 for most in (self._cpu, self._gpu))
        levels = [int((1.0 - exp(-HORIZON_SECONDS * 1_000.0 / fan.lag_ms)) * LEVELS) for fan in machine.fans]
        rest = _rest([w + STRAY_WATTS for w in self._watts[COOLED].tolist()], self._ends, self._conductance, levels)
        self._settles = rest is not None
        self._given: Floats = np.zeros(4 + count + 1 + 2 * len(machine.fans) + 2 * len(machine.sensors))
        self._arrays = (
            self._given,
            np.array(self._sensor_nodes, dtype=np.int64),
            np.array(outlets, dtype=np.float64).reshape(len(outlets), STARTS_PWM + 1),
            np.array([self._memory_place, self._cpu_place, self._gpu_place], dtype=np.int64),
            self._steps,
            self._watts,
            self._ends,
            self._conductance,
            self._speeds,
            self._nodes,
        )
        self._nodes[REST, :count] = rest or [1.0] * count
        self._nodes[INVERSE_REST, :count] = [1.0 / kelvin for kelvin in self._nodes[REST, :count].tolist()]

    def keeps_limits(self, view: View, command: Mapping[str, int]) -> bool:
        """Whether `command` may be in force for this cycle: full cooling after it would still keep every limit.

        False also where that cannot be known: without the model, with a temperature that is not known, with a fan in
        trouble, on which cooling cannot count, or with a processor that draws more than the scenario says it can.
        Channels that `command` does not name have their safe value.
        """
        modelled = view.nodes_millicelsius
        if len(modelled) != self._nodes.shape[1] or not self._settles or view.fan_trouble or self._beyond(view):
            return False
        if None in view.worst_millicelsius:
            return False
        margins = self._no_margins
        if view.unchecked:
            blind = view.unchecked.split()
            known = zip(view.sensors, self._blind_margins, strict=True)
            margins = tuple([margin if name in blind else 0 for name, margin in known])
        self._given[:] = (
            *self._heat_watts(command),
            self.margin_millicelsius,
            *modelled,
            *view.fan_rpm,
            *[command.get(name, safe) for name, safe in self._outputs],
            *view.worst_millicelsius,
            *margins,
        )
        return bool(look(*self._arrays))

    @property
    def peaks_millicelsius(self) -> tuple[int, ...]:
        """The bound on each sensor's node in the last look ahead, rounded up."""
        peaks = self._nodes[PEAK].tolist()
        return tuple(-int(-peaks[node] * 1_000.0 // 1.0) for node in self._sensor_nodes)

    def most_watts(self, command: Mapping[str, int]) -> dict[str, float]:
        """The most heat that `command` lets into each node, once it is in force, whatever the machine has to do."""
        self._fill(PROPOSED, command)
        return dict(zip(self._places, self._watts[PROPOSED].tolist(), strict=True))

    def _beyond(self, view: View) -> bool:
        cpu, gpu = view.cpu_power_microwatts, view.gpu_power_microwatts
        return (cpu is not None and cpu > self._most[0]) or (gpu is not None and gpu > self._most[1])

    def _asked(self, name: str, command: Mapping[str, int]) -> int:
        limit = self._limits[name]
        return min(max(command.get(name, limit.safe), limit.minimum), limit.maximum)

    def _heat_watts(self, command: Mapping[str, int]) -> tuple[float, float, float]:
        """The most that memory, processor and graphics give off."""
        gpu = 0.0
        if self._gpu is not None:
            gpu = _up_to(self._gpu, self._asked("gpu_power_limit_microwatts", command))
        return self._memory_watts, _up_to(self._cpu, self._asked("cpu_max_kilohertz", command)), gpu

    def _fill(self, phase: int, command: Mapping[str, int]) -> None:
        watts = self._watts[phase]
        watts[:] = 0.0
        places = (self._memory_place, self._cpu_place, self._gpu_place)
        for place, heat in zip(places, self._heat_watts(command), strict=True):
            if place >= 0:
                watts[place] += heat

    def _hot_celsius(self, node: str) -> float:
        """How hot a die is while its limit is kept, which is all that counts; where it has none, as hot as can be."""
        return min(float(self._nodes[LIMIT, self._places[node]]), LEAKAGE_CEILING_CELSIUS)


Watts = tuple[tuple[int, ...], tuple[float, ...]]
"""Caps in rising order, and the most power (W) from each on."""


def _up_to(most: Watts, cap: int) -> float:
    caps, watts = most
    return watts[max(0, bisect_right(caps, cap) - 1)]


def _cpu_watts(cpu: Cpu, hot_celsius: float) -> Watts:
    """By the highest clock (kHz). The power limit holds an average down, over seconds: for a while only PL2 counts."""
    clocks = cpu.frequencies_kilohertz
    found = [(clock, watts) for clock, (least, watts) in zip(clocks, _levels(cpu, cpu.cores, hot_celsius), strict=True)
             if least <= cpu.pl2_watts or clock == clocks[0]]  # fmt: skip
    return _rising(found)


def _gpu_watts(gpu: Gpu, hot_celsius: float) -> Watts:
    """By the power cap (uW)."""
    levels = _levels(gpu, 1, hot_celsius)
    return _rising([(0, levels[0][1]), *((int(least * 1e6), watts) for least, watts in levels[1:])])


def _rising(found: Sequence[tuple[int, float]]) -> Watts:
    caps, watts, most = [], [], 0.0
    for cap, power_watts in sorted(found):
        most = max(most, power_watts)
        caps.append(cap)
        watts.append(most)
    return tuple(caps), tuple(watts)


def _levels(processor: Cpu | Gpu, cores: int, hot_celsius: float) -> list[tuple[float, float]]:
    """For each clock: the least power (W) at which a governor expects it to stay within a cap, and its full power.

    A governor judges by the demand of late. It takes a clock only for more than the next lower one serves, on one core
    at least; and a demand that then jumps meets that clock at full use for a step. So whatever the loads alternate
    between, no power passes the full power of the highest clock whose least power the cap admits. Leakage is left out
    of the least power, and taken at `hot_celsius` for the full one.
    """
    kelvin = hot_celsius - processor.leakage_reference_celsius
    amperes = processor.leakage_amperes * exp(processor.leakage_per_kelvin * kelvin)
    found = []
    slower = 0
    for clock, millivolt in zip(processor.frequencies_kilohertz, processor.voltages_millivolt, strict=True):
        volts = millivolt / 1_000.0
        switching = cores * processor.capacitance_nanofarad * 1e-9 * volts * volts * (clock * 1_000.0)
        least = processor.idle_watts + switching * SERVED_AT * slower / (clock * cores)
        found.append((least, processor.idle_watts + switching + volts * amperes))
        slower = clock
    return found


def _schedule(scenario: Scenario) -> Floats:
    """The steps: one plant step in which what was in force before still is; the proposal for a cycle, one more for
    what is late, and the plant step in which full cooling is not yet in force; then full cooling.
    """
    fans = scenario.machine.fans
    step_seconds = scenario.machine.step_ms / 1_000.0
    hot_seconds = (2 * scenario.control.period_ms) / 1_000.0 + step_seconds
    plan = [(step_seconds, BEFORE), *[(hot_seconds / HOT_STEPS, PROPOSED)] * HOT_STEPS]
    passed, seconds = 0.0, FIRST_SECONDS
    while passed < HORIZON_SECONDS:
        plan.append((seconds, COOLED))
        passed += seconds
        seconds *= GROWTH
    return np.array([
        (seconds, float(phase), *(exp(-seconds * 1_000.0 / fan.lag_ms) for fan in fans)) for seconds, phase in plan
    ])  # fmt: skip


def _edges(machine: Machine, places: Mapping[str, int]) -> tuple[Integers, Floats]:
    """The edges' ends, and their least conductances (W/K) at each of LEVELS + 1 speeds of their fans, then the most."""
    room = len(places)
    fans = {fan.name: i for i, fan in enumerate(machine.fans)}
    ends = [(places.get(e.a, room), places.get(e.b, room), fans.get(e.fan or "", -1)) for e in machine.edges]
    conductance = np.zeros((len(ends), LEVELS + 2))
    for row, edge in zip(conductance, machine.edges, strict=True):
        for column in range(LEVELS + 2):
            difference = NATURAL_MOST_KELVIN if column > LEVELS else 0.0
            share = natural_share(difference, edge.natural_exponent) if edge.natural_exponent > 0.0 else 1.0
            row[column] = edge.still_watts_per_kelvin * share
            if edge.fan is not None:
                row[column] += edge.forced_watts_per_kelvin * power(min(column, LEVELS) / LEVELS, edge.exponent)
    return np.array(ends, dtype=np.int64), conductance


def _rest(
    watts: Sequence[float], ends: Integers, conductance: Floats, levels: Sequence[int]
) -> list[float] | None:  # fmt: skip
    """How far above the room (K) each node comes to rest under constant `watts`, with fans at `levels` or faster.

    As in a step, heat comes from warmer neighbours at the greatest and leaves to colder ones at the least speed. Which
    neighbour is warmer is settled by solving again until it is as assumed. None where heat cannot leave.
    """
    count = len(watts)
    kelvin = [0.0] * (count + 1)
    for _ in range(2 * count + 2):
        rows = [[0.0] * count + [q] for q in watts]
        for (a, b, fan), row in zip(ends.tolist(), conductance.tolist(), strict=True):
            for here, there in ((a, b), (b, a)):
                if here == count or a == b:
                    continue
                flow = row[-1] if kelvin[there] > kelvin[here] else row[0 if fan < 0 else levels[fan]]
                rows[here][here] += flow
                if there < count:
                    rows[here][there] -= flow
        found = _solve(rows)
        if found is None:
            return None
        before, kelvin = kelvin, [*found, 0.0]
        if kelvin == before:
            break
    return kelvin[:count]


def _solve(rows: list[list[float]]) -> list[float] | None:
    """Gaussian elimination; the matrix is dominant by rows, so that no pivoting is needed. None if it is singular."""
    count = len(rows)
    for pivot in range(count):
        if rows[pivot][pivot] <= 1e-9:
            return None
        for below in range(pivot + 1, count):
            share = rows[below][pivot] / rows[pivot][pivot]
            if share != 0.0:
                rows[below] = [x - share * y for x, y in zip(rows[below], rows[pivot], strict=True)]
    found = [0.0] * count
    for i in range(count - 1, -1, -1):
        known = rows[i][count]
        for j in range(i + 1, count):
            known -= rows[i][j] * found[j]
        found[i] = known / rows[i][i]
    return found
