"""A fit as a machine of a scenario."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from twin.calibrate import forward
from twin.calibrate.fit import Fit
from twin.calibrate.parameters import Kind, chain
from twin.calibrate.power import voltages
from twin.scenario import Cpu, Edge, Fan, Gpu, Machine, Memory, Node, Sensor

DIGITS = 6
"""Significant digits of numbers in a file."""
STEP_MS = 20
HOST = "host"
NODE_NAMES = {1: ("die",), 2: ("die", "sink"), 3: ("die", "sink", "case"), 4: ("die", "spreader", "sink", "case")}


@dataclass(frozen=True)
class _Usual:
    """What no recording tells of a machine of some kind, and a simulation needs."""

    cores: int
    top_kilohertz: int
    limit_celsius: float


USUAL: Mapping[Kind, _Usual] = {
    "cpu": _Usual(8, 4_500_000, 95.0),
    "gpu": _Usual(1, 1_800_000, 90.0),
    "board": _Usual(4, 1_200_000, 85.0),
    "laptop": _Usual(8, 4_500_000, 100.0),
}


def machine(fit: Fit, name: str) -> Machine:
    """The machine of `fit` under `name`.

    Clocks, cores and limits are those usual for its kind; its ambient is the mean of the recordings'. Numbers have six
    significant digits.
    """
    usual = USUAL[fit.kind]
    n = fit.shape.nodes
    made = chain(fit.shape, {**fit.values(), "ambient": fit.mean_ambient()}, fit.look.full_watts, 0.0)
    numbers, rest = made.numbers, 2 * n
    prefix = "gpu" if fit.kind == "gpu" else "cpu"
    names = [f"{prefix}_{part}" for part in NODE_NAMES[n]]
    nodes = [Node(name=each, capacity_joules_per_kelvin=_short(c))
             for each, c in zip(names, numbers[:n], strict=True)]  # fmt: skip
    edges = [
        Edge(a=here, b=there, still_watts_per_kelvin=_short(g))
        for here, there, g in zip(names, [*names[1:], "ambient"], numbers[n : 2 * n], strict=True)
    ]
    fans: tuple[Fan, ...] = ()
    natural = _short(numbers[rest + forward.NATURAL])
    edges = [replace(edge, natural_exponent=natural if place >= min(1, n - 1) else 0.0)
             for place, edge in enumerate(edges)]  # fmt: skip
    if fit.shape.fan:
        fans = (Fan(name=f"{prefix}_fan", max_rpm=max(1, round(fit.max_rpm))),)
        edges[-1] = replace(
            edges[-1],
            forced_watts_per_kelvin=_short(numbers[rest + forward.FORCED]),
            fan=fans[0].name,
            exponent=_short(numbers[rest + forward.EXPONENT]),
        )
    if fit.kind == "gpu":
        nodes.append(Node(name=HOST, capacity_joules_per_kelvin=500.0))
        edges.append(Edge(a=HOST, b="ambient", still_watts_per_kelvin=10.0))
    cpu, gpu = _processors(fit, names[0])
    return Machine(
        name=name,
        ambient_celsius=_short(made.ambient),
        step_ms=STEP_MS,
        cpu=cpu,
        gpu=gpu,
        memory=Memory(node=HOST if fit.kind == "gpu" else names[-1], idle_watts=0.0, full_watts=0.0),
        fans=fans,
        nodes=tuple(nodes),
        edges=tuple(edges),
        sensors=(sensor(fit, prefix, names[0], usual.limit_celsius),),
    )


def sensor(fit: Fit, name: str, node: str, limit_celsius: float) -> Sensor:
    """The sensor that showed the recordings: its step, an offset of half a step against flooring, noise and lag.

    The noise is what the errors have from one sample to the next beyond what the step of the sensor makes.
    """
    quantum = fit.quantum_celsius
    apart = np.concatenate([np.diff(fit.problem.errors(fit.point, place)) for place in range(len(fit.problem.drives))])
    jitter = 1.4826 * float(np.median(np.abs(apart))) / 2.0**0.5 if len(apart) else 0.0
    random = max(0.0, jitter * jitter - quantum * quantum / 12.0) ** 0.5
    return Sensor(
        name=name,
        node=node,
        limit_celsius=limit_celsius,
        quantum_millicelsius=min(10_000, max(1, round(quantum * 1e3))),
        offset_millicelsius=round(quantum * 500.0),
        noise_millicelsius=min(20_000, round(random * 3.0**0.5 * 1e3)),
        lag_ms=round(fit.values().get("sensor_lag", 0.0) * 1e3),
        hold_ms=max(1, min(100, round(fit.sample_seconds * 1e3))),
    )


def _processors(fit: Fit, node: str) -> tuple[Cpu, Gpu]:
    usual = USUAL[fit.kind]
    values = fit.values()
    full, power = fit.look.full_watts, fit.power
    if power is not None:
        idle, leakage, switching, bend = (
            power.idle_watts, power.leakage_watts, power.switching_watts, power.voltage_bend
        )  # fmt: skip
    else:
        idle, leakage = values.get("idle_watts", 0.0), values.get("leakage_watts", 0.0)
        bend = values.get("voltage_bend", 1.0)
        switching = max(0.0, full - leakage * (1.0 - forward.IDLE_VOLTS / forward.TOP_VOLTS))
    most = _short(max(1.0, 1.2 * (idle + leakage + switching)))
    clocks = tuple(round(usual.top_kilohertz * share) for share in forward.LEVEL_SHARES)
    shared: dict[str, Any] = {
        "frequencies_kilohertz": clocks,
        "voltages_millivolt": tuple(round(volts * 1e3) for volts in voltages(bend)),
        "capacitance_nanofarad": _short(
            max(1e-6, switching / (forward.TOP_VOLTS**2 * usual.top_kilohertz * 1e3 * usual.cores) * 1e9)
        ),
        "leakage_amperes": _short(leakage / forward.TOP_VOLTS),
        "leakage_per_kelvin": _short(values.get("leakage_per_kelvin", 0.012)),
        "leakage_reference_celsius": 50.0,
        "idle_leakage_share": 1.0,
        "idle_watts": _short(idle),
    }
    limit = usual.limit_celsius
    if fit.kind == "gpu":
        gpu = Gpu(node=node, power_limit_watts=most, minimum_power_limit_watts=_short(0.3 * most),
                  safe_watts=_short(0.3 * most), slowdown_celsius=limit, **shared)  # fmt: skip
        return Cpu(node=HOST), gpu
    cpu = Cpu(
        node=node,
        cores=usual.cores,
        pl1_watts=most,
        pl2_watts=_short(1.25 * most),
        safe_watts=_short(0.5 * most),
        safe_kilohertz=clocks[2],
        trip_celsius=limit,
        **shared,
    )
    return cpu, Gpu(enabled=False)


def _short(value: float) -> float:
    return float(f"{float(value):.{DIGITS}g}")
