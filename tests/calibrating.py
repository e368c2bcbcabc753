"""Machines whose parameters are known, and recordings that the world itself makes of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from twin.calibrate import forward
from twin.calibrate.headings import Part
from twin.calibrate.power import voltages
from twin.calibrate.reader import Measured
from twin.calibrate.recording import Recording
from twin.kernels import Floats, Stream
from twin.scenario import Cpu, Edge, Fan, Gpu, Machine, Memory, Node, Sensor
from twin.world.plant import Plant, Work

TOP_KILOHERTZ = 1_000_000


def machine(
    *,
    capacities: Sequence[float] = (12.0, 300.0),
    resistances: Sequence[float] = (0.4, 0.5),
    natural: float = 0.25,
    fan: bool = False,
    ambient: float = 22.0,
    noise_millicelsius: int = 0,
    quantum_millicelsius: int = 1,
) -> Machine:
    """A chain of nodes with one sensor on the first, whose powers and clocks are those that a fit assumes."""
    names = [f"n{i}" for i in range(len(capacities))]
    edges = [
        Edge(a=here, b=there, still_watts_per_kelvin=1.0 / r)
        for here, there, r in zip(names, [*names[1:], "ambient"], resistances, strict=True)
    ]
    edges[1:] = [replace(edge, natural_exponent=0.0 if fan else natural) for edge in edges[1:]]
    if fan:
        edges[-1] = replace(edges[-1], forced_watts_per_kelvin=3.0, fan="blower", exponent=0.58)
    return Machine(
        ambient_celsius=ambient,
        step_ms=100,
        cpu=Cpu(
            node="n0", cores=1, frequencies_kilohertz=tuple(round(s * TOP_KILOHERTZ) for s in forward.LEVEL_SHARES),
            voltages_millivolt=tuple(round(volts * 1e3) for volts in voltages(0.9)),
            capacitance_nanofarad=(40.0 - 6.0 / 3.0) / 1.44, leakage_amperes=6.0 / 1.2, leakage_per_kelvin=0.012,
            idle_leakage_share=1.0, idle_watts=12.0, pl1_watts=1_000.0, pl2_watts=2_000.0, trip_celsius=190.0,
        ),
        gpu=Gpu(enabled=False),
        memory=Memory(node="n0", idle_watts=0.0, full_watts=0.0),
        fans=(Fan(name="blower", max_rpm=2_000, initial_pwm=120),) if fan else (),
        nodes=tuple(Node(name=n, capacity_joules_per_kelvin=c) for n, c in zip(names, capacities, strict=True)),
        edges=tuple(edges),
        sensors=(Sensor(name="cpu", node="n0", limit_celsius=95.0, lag_ms=0, hold_ms=100,
                        noise_millicelsius=noise_millicelsius, quantum_millicelsius=quantum_millicelsius,
                        offset_millicelsius=quantum_millicelsius // 2),),
    )  # fmt: skip


def steps(seed: int, count: int, low: float, high: float, longest: int = 120) -> Floats:
    """A drive that holds random values between `low` and `high` for 5 to `longest` samples each."""
    stream = Stream(seed, "calibrating")
    values: list[float] = []
    while len(values) < count:
        value = low + (high - low) * stream.below(1_001) / 1_000.0
        values += [value] * stream.between(5, longest)
    return np.array(values[:count])


def record(
    made: Machine,
    seed: int,
    seconds: int = 3_000,
    interval_seconds: float = 1.0,
    drive: str = "power",
    pwm: Callable[[int], int] | None = None,
    low: float = 5.0,
    high: float = 60.0,
) -> Recording:
    """What a recorder of the machine's first sensor writes while random powers (W) or loads (0 to 1) drive it."""
    plant = Plant(made, seed)
    plant.commands[-2:] = [TOP_KILOHERTZ, 1_000_000_000]
    count = int(seconds / interval_seconds)
    values = steps(seed, count, low, high)
    ticks = round(interval_seconds * 1_000 / made.step_ms)
    fans = len(made.fans)
    celsius, rpm = [plant.readings(0)[0] / 1e3], [float(plant.readings(0)[1])]
    for sample in range(1, count):
        if fans and pwm is not None:
            plant.commands[0] = pwm(sample)
        turned = 0.0
        for _ in range(ticks):
            load = round(values[sample] * 1e6) * plant.step_ns if drive == "load" else 0
            plant.step(Work(load, 0, 0, 0, 0, cpu_microwatts=round(values[sample] * 1e6) if drive == "power" else -1))
            turned += plant.readings(0)[1] / ticks
        celsius.append(plant.readings(0)[0] / 1e3)
        rpm.append(turned)
    return Recording(
        name=f"synthetic {seed}",
        times_seconds=np.arange(count) * interval_seconds,
        temperatures_celsius=np.array(celsius),
        loads=values if drive == "load" else None,
        powers_watts=values if drive == "power" else None,
        fan_rpm=np.array(rpm) if fans else None,
    )


def measured(recording: Recording, part: Part = "cpu") -> Measured:
    """A recording as the reader hands it over."""
    loads, powers = recording.loads, recording.powers_watts
    return Measured(
        recording=recording,
        columns={},
        loads={} if loads is None else {part: loads},
        powers={} if powers is None else {part: powers},
    )
