"""The CPU over one plant step: use, power, energy and time counters, then the clock for the next step.

The clock is the governor's (lowest that serves the demand of late), under the commanded maximum, the thermal
throttle, PL2 (expected power of the next step) and PL1: the power, averaged exponentially over its window, may not
pass the lower of `pl1_watts` and the commanded limit. Below the limit a step may spend what the average allows.
"""

from __future__ import annotations

import numpy as np

from twin.kernels import Floats, Integers, exp, kernel
from twin.scenario import Cpu
from twin.world import processor
from twin.world.processor import CONSTANTS, CORES, DEMAND_MEMORY_MS, KILOHERTZ, VOLTS

# Constants after the shared ones.
PL1_WATTS = CONSTANTS
PL2_WATTS = CONSTANTS + 1
PL1_SHARE = CONSTANTS + 2

# State in floats.
AVERAGE_WATTS = 0
ENERGY_FRACTION = 1
WATTS = 2
LOAD_KILOHERTZ = 3
FRAME_KILOHERTZ = 4

# State in integers.
LEVEL = 0
DROP = 1
BUSY_NS = 2
ENERGY = 3
ENERGY_WRAP = 4


def cpu_constants(cpu: Cpu, step_ms: int) -> Floats:
    """The CPU's numbers in the layout that the kernels read."""
    return np.array([
        cpu.cores, cpu.capacitance_nanofarad * 1e-9, cpu.leakage_amperes, cpu.leakage_per_kelvin,
        cpu.leakage_reference_celsius, cpu.idle_leakage_share, cpu.idle_watts, cpu.trip_celsius,
        cpu.trip_celsius - cpu.trip_hysteresis_celsius, exp(-step_ms / DEMAND_MEMORY_MS),
        cpu.pl1_watts, cpu.pl2_watts,
        1.0 - exp(-step_ms / cpu.pl1_window_ms),
    ])  # fmt: skip


def cpu_state(cpu: Cpu) -> tuple[Floats, Integers]:
    """The state at the start: slowest clock, counters at 0, the average at idle power."""
    return np.array([cpu.idle_watts, 0.0, cpu.idle_watts, 0.0, 0.0]), np.array(
        [0, 0, 0, 0, cpu.energy_wrap_microjoules]
    )


@kernel
def cpu_work(
    constants: Floats, table: Floats, state: Floats, counters: Integers,
    step_ns: int, load_integral: int, frame_ns: int, trace_microwatts: int, celsius: float,
) -> float:  # fmt: skip
    """Account for the step that ended; returns its mean power (W).

    `load_integral` is the background load (ppm of full speed) summed over nanoseconds, `frame_ns` how long one core
    made frames, `trace_microwatts` the power a trace prescribes (-1: none). No core is busy for more than the step; a
    core that is idle draws the idle share of its leakage. Energy in microjoules carries its fraction and starts again
    at 0 after `ENERGY_WRAP`.
    """
    level = counters[LEVEL]
    kilohertz = table[level, KILOHERTZ]
    cores = constants[CORES]
    load_kilohertz = table[table.shape[0] - 1, KILOHERTZ] * (load_integral / (step_ns * 1e6))
    all_ns = int(cores) * step_ns
    # Core by core: the background load is the same on all, and one of them makes frames in what it leaves.
    core_ns = int(min(load_kilohertz / kilohertz, 1.0) * step_ns + 0.5)
    busy_ns = min(core_ns + frame_ns, step_ns) + (int(cores) - 1) * core_ns
    counters[BUSY_NS] += busy_ns
    watts = processor.watts_at(constants, kilohertz, table[level, VOLTS], busy_ns / all_ns, celsius)
    if trace_microwatts >= 0:
        watts = trace_microwatts * 1e-6
    state[WATTS] = watts
    frame_kilohertz = kilohertz * (frame_ns / step_ns)
    state[LOAD_KILOHERTZ] = processor.remembered(constants, state[LOAD_KILOHERTZ], load_kilohertz)
    state[FRAME_KILOHERTZ] = processor.remembered(constants, state[FRAME_KILOHERTZ], frame_kilohertz)
    state[AVERAGE_WATTS] += constants[PL1_SHARE] * (watts - state[AVERAGE_WATTS])
    # Watts times nanoseconds over 1000 are microjoules.
    exact = state[ENERGY_FRACTION] + watts * step_ns / 1000.0
    whole = int(exact)
    state[ENERGY_FRACTION] = exact - whole
    counters[ENERGY] = (counters[ENERGY] + whole) % (counters[ENERGY_WRAP] + 1)
    return watts


@kernel
def cpu_govern(
    constants: Floats, table: Floats, state: Floats, counters: Integers,
    maximum_kilohertz: int, limit_microwatts: int, celsius: float,
) -> None:  # fmt: skip
    """Choose the clock for the next step, from the demand so far and the temperature now."""
    top = table.shape[0] - 1
    counters[DROP] = processor.throttled_levels(constants, counters[DROP], top, celsius)
    load = state[LOAD_KILOHERTZ]
    frames = state[FRAME_KILOHERTZ]
    level = processor.served_level(table, load + frames)
    level = processor.capped_level(table, level, maximum_kilohertz)
    level = min(level, top - counters[DROP])
    limit = min(constants[PL1_WATTS], limit_microwatts * 1e-6)
    average = state[AVERAGE_WATTS]
    budget = max(limit, average + (limit - average) / constants[PL1_SHARE])
    budget = min(budget, constants[PL2_WATTS])
    counters[LEVEL] = processor.powered_level(constants, table, level, budget, load, frames, celsius)
