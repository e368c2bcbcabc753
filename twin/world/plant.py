"""The machine as matter: all arrays of the physics, and the one compiled call that takes a plant step."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from twin.kernels import Floats, Integers, kernel
from twin.scenario import Machine
from twin.world import cpu, fan, gpu, processor, sensors, thermal

TICK_NS = 10_000_000
"""Linux counts CPU time in ticks, 100 a second (USER_HZ)."""

# Rows of the nodes array, one column a node.
DEVIATION = 0
WATTS = 1
INTEGRAL = 2
CAPACITY = 3
START = 4
MAXIMUM = 5

# Heat balance.
HEAT_IN = 0
HEAT_OUT = 1

# Places of numbers that concern the whole plant.
AIR = 0
BASE = 1
MEMORY_IDLE = 2
MEMORY_SPAN = 3

NO_LIMIT = 1 << 62

# Places of node indices (-1: there is none).
CPU_NODE = 0
GPU_NODE = 1
MEMORY_NODE = 2


class Work(NamedTuple):
    """What was asked of the machine during one step.

    `..._load_integral` and `memory_integral` are ppm (of full speed, of the memory) summed over nanoseconds,
    `..._frame_ns` how long frames were being made, `..._microwatts` a power that a trace prescribes (-1: none).
    """

    cpu_load_integral: int
    gpu_load_integral: int
    memory_integral: int
    cpu_frame_ns: int
    gpu_frame_ns: int
    cpu_microwatts: int = -1
    gpu_microwatts: int = -1


@kernel
def _step(
    now_ns: int, step_ns: int,
    cpu_load: int, gpu_load: int, memory: int, cpu_frame_ns: int, gpu_frame_ns: int, cpu_trace: int, gpu_trace: int,
    places: Integers, general: Floats, nodes: Floats, propagator: Floats, natural: Floats, balance: Floats,
    cpu_constants: Floats, cpu_table: Floats, cpu_state: Floats, cpu_counters: Integers,
    gpu_constants: Floats, gpu_table: Floats, gpu_state: Floats, gpu_counters: Integers,
    fans: Floats, elements: Floats, settings: Integers, commands: Integers,
) -> int:  # fmt: skip
    """Advance everything by the step that ends at `now_ns`; returns the fans' packed speeds (`Network.propagator`)."""
    n = nodes.shape[1]
    h = step_ns / 1e9
    base = general[BASE]
    deviation = nodes[DEVIATION]
    watts = nodes[WATTS]
    for i in range(n):
        watts[i] = 0.0
    die = places[CPU_NODE]
    watts[die] += cpu.cpu_work(
        cpu_constants, cpu_table, cpu_state, cpu_counters,
        step_ns, cpu_load, cpu_frame_ns, cpu_trace, base + deviation[die],
    )  # fmt: skip
    chip = places[GPU_NODE]
    if chip >= 0:
        watts[chip] += gpu.gpu_work(
            gpu_constants, gpu_table, gpu_state, gpu_counters,
            now_ns, step_ns, gpu_load, gpu_frame_ns, gpu_trace, base + deviation[chip],
        )  # fmt: skip
    share = memory / (step_ns * 1e6)
    watts[places[MEMORY_NODE]] += general[MEMORY_IDLE] + general[MEMORY_SPAN] * share
    given = 0.0
    for i in range(n):
        given += watts[i]
    balance[HEAT_IN] += given * h
    if natural.shape[0] > 0:
        balance[HEAT_OUT] += h * thermal.natural_heat(natural, deviation, watts, general[AIR] - base)
    balance[HEAT_OUT] += thermal.advance(
        deviation, watts, nodes[INTEGRAL], nodes[CAPACITY], propagator, h, general[AIR] - base
    )
    for i in range(n):
        nodes[MAXIMUM, i] = max(nodes[MAXIMUM, i], base + deviation[i])
    speeds = 0
    place = 1
    count: int = fans.shape[0]
    for i in range(count):
        rpm = fan.spin(fans, i, commands[i])
        speeds += min(int(rpm / fans[i, fan.MAXIMUM] * thermal.FAN_LEVELS + 0.5), thermal.FAN_LEVELS) * place
        place *= thermal.FAN_LEVELS + 1
    for i in range(settings.shape[0]):
        sensors.feel(elements, settings, i, now_ns, base + deviation[settings[i, sensors.NODE]])
    cpu.cpu_govern(
        cpu_constants, cpu_table, cpu_state, cpu_counters, commands[count], commands[count + 1], base + deviation[die]
    )
    if chip >= 0:
        most_kilohertz = commands[count + 3] if commands.shape[0] > count + 3 else NO_LIMIT
        gpu.gpu_govern(
            gpu_constants, gpu_table, gpu_state, gpu_counters, commands[count + 2], most_kilohertz,
            base + deviation[chip],
        )  # fmt: skip
    return speeds


class Plant:
    """The physics of `machine`: no events, no randomness but that of the sensors (from `seed`).

    `commands` are the values in force in the order of the wiring's outputs: fans (PWM), highest CPU clock (kHz), CPU
    power limit (uW), GPU power limit (uW, if there is a GPU), highest GPU clock (kHz, if that is an output). Raises
    `ValueError` for a machine that does not fit together.
    """

    def __init__(self, machine: Machine, seed: int) -> None:
        network = thermal.Network(machine)
        self.network = network
        self.step_ns = machine.step_ms * 1_000_000
        self._gpu_enabled = machine.gpu.enabled
        self._cores = machine.cpu.cores
        self._memory_kibibytes = machine.memory.total_kibibytes
        base = machine.ambient_celsius
        memory = machine.memory
        self._general = np.array([base, base, memory.idle_watts, memory.full_watts - memory.idle_watts])
        self._places = np.array([
            network.index(machine.cpu.node),
            network.index(machine.gpu.node) if machine.gpu.enabled else -1,
            network.index(memory.node),
        ], dtype=np.int64)  # fmt: skip
        start = np.array([base if n.initial_celsius is None else n.initial_celsius for n in machine.nodes])
        self._nodes = np.zeros((6, len(network.names)))
        self._nodes[DEVIATION] = start - base
        self._nodes[CAPACITY] = network.capacity
        self._nodes[START] = start - base
        self._nodes[MAXIMUM] = start
        self._balance = np.zeros(2)
        self._cpu_constants = cpu.cpu_constants(machine.cpu, machine.step_ms)
        self._cpu_table = processor.clock_table(machine.cpu.frequencies_kilohertz, machine.cpu.voltages_millivolt)
        self._cpu_kilohertz = tuple(machine.cpu.frequencies_kilohertz)
        self._gpu_kilohertz = tuple(machine.gpu.frequencies_kilohertz)
        self._cpu_state, self._cpu_counters = cpu.cpu_state(machine.cpu)
        self._gpu_constants = gpu.gpu_constants(machine.gpu, machine.step_ms)
        self._gpu_table = processor.clock_table(machine.gpu.frequencies_kilohertz, machine.gpu.voltages_millivolt)
        self._gpu_state, self._gpu_counters = gpu.gpu_state(machine.gpu)
        self._fans = fan.fan_array(machine.fans, machine.step_ms)
        self._elements, self._settings = sensors.sensor_arrays(machine.sensors, network, start, machine.step_ms, seed)
        graphics = machine.gpu.enabled + (machine.gpu.enabled and machine.gpu.limit_clock)
        self.commands: Integers = np.zeros(len(machine.fans) + 2 + graphics, dtype=np.int64)
        self._now_ns = 0
        self._speeds = 0
        place = 1
        for row, each in zip(self._fans, machine.fans, strict=True):
            self._speeds += int(row[fan.RPM] / each.max_rpm * thermal.FAN_LEVELS + 0.5) * place
            place *= thermal.FAN_LEVELS + 1
        self._propagator = network.propagator(self._speeds)

    def step(self, work: Work) -> None:
        """Advance by one step, under `commands` and `work`."""
        self._now_ns += self.step_ns
        speeds = _step(
            self._now_ns, self.step_ns,
            work.cpu_load_integral, work.gpu_load_integral, work.memory_integral, work.cpu_frame_ns, work.gpu_frame_ns,
            work.cpu_microwatts, work.gpu_microwatts,
            self._places, self._general, self._nodes, self._propagator, self.network.natural, self._balance,
            self._cpu_constants, self._cpu_table, self._cpu_state, self._cpu_counters,
            self._gpu_constants, self._gpu_table, self._gpu_state, self._gpu_counters,
            self._fans, self._elements, self._settings, self.commands,
        )  # fmt: skip
        if speeds != self._speeds:
            self._speeds = int(speeds)
            self._propagator = self.network.propagator(self._speeds)

    def set_ambient(self, celsius: float) -> None:
        """The temperature of the air from the next step on."""
        self._general[AIR] = celsius

    @property
    def cpu_kilohertz(self) -> int:
        """The CPU's clock."""
        return self._cpu_kilohertz[int(self._cpu_counters[cpu.LEVEL])]

    @property
    def gpu_kilohertz(self) -> int:
        """The GPU's clock."""
        return self._gpu_kilohertz[int(self._gpu_counters[gpu.LEVEL])]

    def readings(self, memory_ppm: int) -> list[int]:
        """What the kernel's files show now, in the order of the wiring, up to the application channels.

        `memory_ppm` is the share of the memory in use.
        """
        counters = self._cpu_counters.tolist()
        values: list[int] = self._settings[:, sensors.SHOWN].tolist()
        values += [int(rpm + 0.5) for rpm in self._fans[:, fan.RPM].tolist()]
        values += [
            counters[cpu.BUSY_NS] // TICK_NS,
            self._cores * self._now_ns // TICK_NS,
            self.cpu_kilohertz,
            counters[cpu.ENERGY],
        ]
        if self._gpu_enabled:
            shown = self._gpu_counters.tolist()
            values += [shown[gpu.SHOWN_BUSY_PPM], self.gpu_kilohertz, shown[gpu.SHOWN_MICROWATTS]]
        total = self._memory_kibibytes
        values += [total, total - total * memory_ppm // 1_000_000]
        return values

    @property
    def cpu_watts(self) -> float:
        """Mean power of the CPU over the last step (W)."""
        return float(self._cpu_state[cpu.WATTS])

    @property
    def cpu_average_watts(self) -> float:
        """The CPU's power averaged over the PL1 window (W)."""
        return float(self._cpu_state[cpu.AVERAGE_WATTS])

    @property
    def gpu_watts(self) -> float:
        """Mean power of the GPU over the last step (W)."""
        return float(self._gpu_state[gpu.WATTS])

    @property
    def temperatures_celsius(self) -> dict[str, float]:
        """The true temperature of every node now."""
        base = float(self._general[BASE])
        return {name: base + x for name, x in zip(self.network.names, self._nodes[DEVIATION].tolist(), strict=True)}

    @property
    def maxima_celsius(self) -> dict[str, float]:
        """The highest temperature of every node so far."""
        return dict(zip(self.network.names, self._nodes[MAXIMUM].tolist(), strict=True))

    @property
    def heat_in_joules(self) -> float:
        """What the parts gave off since the start."""
        return float(self._balance[HEAT_IN])

    @property
    def heat_out_joules(self) -> float:
        """What the air took since the start."""
        return float(self._balance[HEAT_OUT])

    @property
    def heat_stored_joules(self) -> float:
        """What the nodes hold more than at the start."""
        nodes = self._nodes
        stored = 0.0
        for capacity, now, start in zip(nodes[CAPACITY].tolist(), nodes[DEVIATION].tolist(), nodes[START].tolist(),
                                        strict=True):  # fmt: skip
            stored += capacity * (now - start)
        return stored
