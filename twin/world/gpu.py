"""The GPU over one plant step: as the CPU, with one clock domain, a cap on expected power and a slowdown temperature.

What it shows (use in whole percent, power in whole milliwatts) are means over windows of 100 ms, as drivers do.
"""

from __future__ import annotations

import numpy as np

from twin.kernels import Floats, Integers, exp, kernel
from twin.scenario import Gpu
from twin.world import processor
from twin.world.processor import DEMAND_MEMORY_MS, KILOHERTZ, VOLTS

WINDOW_NS = 100_000_000

# State in floats.
WATTS = 0
LOAD_KILOHERTZ = 1
FRAME_KILOHERTZ = 2
WINDOW_MICROJOULES = 3

# State in integers.
LEVEL = 0
DROP = 1
WINDOW_BUSY_NS = 2
WINDOW_LENGTH_NS = 3
SHOWN_BUSY_PPM = 4
SHOWN_MICROWATTS = 5


def gpu_constants(gpu: Gpu, step_ms: int) -> Floats:
    """The GPU's numbers in the layout that the kernels read."""
    return np.array([
        1.0, gpu.capacitance_nanofarad * 1e-9, gpu.leakage_amperes, gpu.leakage_per_kelvin,
        gpu.leakage_reference_celsius, gpu.idle_leakage_share, gpu.idle_watts, gpu.slowdown_celsius,
        gpu.slowdown_celsius - gpu.slowdown_hysteresis_celsius, exp(-step_ms / DEMAND_MEMORY_MS),
    ])  # fmt: skip


def gpu_state(gpu: Gpu) -> tuple[Floats, Integers]:
    """The state at the start: slowest clock, idle power shown."""
    idle_microwatts = int(gpu.idle_watts * 1e3) * 1000
    return np.array([gpu.idle_watts, 0.0, 0.0, 0.0]), np.array([0, 0, 0, 0, 0, idle_microwatts])


@kernel
def gpu_work(
    constants: Floats, table: Floats, state: Floats, counters: Integers,
    now_ns: int, step_ns: int, load_integral: int, frame_ns: int, trace_microwatts: int, celsius: float,
) -> float:  # fmt: skip
    """Account for the step that ended at `now_ns`; returns its mean power (W). Arguments as for `cpu_work`."""
    level = counters[LEVEL]
    kilohertz = table[level, KILOHERTZ]
    load_kilohertz = table[table.shape[0] - 1, KILOHERTZ] * (load_integral / (step_ns * 1e6))
    load_ns = int(min(load_kilohertz / kilohertz, 1.0) * step_ns + 0.5)
    busy_ns = min(load_ns + frame_ns, step_ns)
    watts = processor.watts_at(constants, kilohertz, table[level, VOLTS], busy_ns / step_ns, celsius)
    if trace_microwatts >= 0:
        watts = trace_microwatts * 1e-6
    state[WATTS] = watts
    frame_kilohertz = kilohertz * (frame_ns / step_ns)
    state[LOAD_KILOHERTZ] = processor.remembered(constants, state[LOAD_KILOHERTZ], load_kilohertz)
    state[FRAME_KILOHERTZ] = processor.remembered(constants, state[FRAME_KILOHERTZ], frame_kilohertz)
    state[WINDOW_MICROJOULES] += watts * step_ns / 1000.0
    counters[WINDOW_BUSY_NS] += busy_ns
    counters[WINDOW_LENGTH_NS] += step_ns
    if now_ns // WINDOW_NS != (now_ns - step_ns) // WINDOW_NS:
        length_ns = counters[WINDOW_LENGTH_NS]
        counters[SHOWN_BUSY_PPM] = counters[WINDOW_BUSY_NS] * 100 // length_ns * 10_000
        # Microjoules over microseconds are watts.
        counters[SHOWN_MICROWATTS] = int(state[WINDOW_MICROJOULES] / (length_ns / 1000.0) * 1e3) * 1000
        state[WINDOW_MICROJOULES] = 0.0
        counters[WINDOW_BUSY_NS] = 0
        counters[WINDOW_LENGTH_NS] = 0
    return watts


@kernel
def gpu_govern(
    constants: Floats, table: Floats, state: Floats, counters: Integers,
    limit_microwatts: int, most_kilohertz: int, celsius: float,
) -> None:  # fmt: skip
    """Choose the clock for the next step, from the demand so far and the temperature now."""
    top = table.shape[0] - 1
    counters[DROP] = processor.throttled_levels(constants, counters[DROP], top, celsius)
    load = state[LOAD_KILOHERTZ]
    frames = state[FRAME_KILOHERTZ]
    level = min(processor.served_level(table, load + frames), top - counters[DROP])
    level = processor.capped_level(table, level, most_kilohertz)
    limit = limit_microwatts * 1e-6
    counters[LEVEL] = processor.powered_level(constants, table, level, limit, load, frames, celsius)
