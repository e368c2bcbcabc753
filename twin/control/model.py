"""What the sensors should show: the machine's thermal network, driven by measured power and fan speed.

An estimate that runs beside the machine and is not corrected by the sensors it checks, so that a sensor that is stuck,
slow, delayed or plausibly wrong parts from it. Sensors marked `reference` pull their node and the estimated ambient
slowly towards them, because nothing else tells how warm the room is. Backward Euler, node by node in a fixed order, is
stable for any step and dissipative, so errors die out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from twin.kernels import Floats, Integers, kernel, natural_share, power
from twin.scenario import Machine

PULL_SECONDS = 2.0
"""How fast a reference sensor pulls its node."""
ROOM_SECONDS = 60.0
"""How fast it pulls the estimated ambient."""
SETTLING_SWEEPS = 200
SWEEPS = 8
"""Gauss-Seidel sweeps a step; the matrix is diagonally dominant, so each sweep shrinks the error."""

# Columns of the integers that an edge has: its two nodes and its fan (-1: none).
A = 0
B = 1
FAN = 2

# Columns of its floats (W/K, W/K, 1, 1).
STILL = 0
FORCED = 1
EXPONENT = 2
NATURAL = 3


class ThermalModel:
    """Expected temperatures: `celsius` has an entry for each node, and the ambient last. Watts, seconds, celsius."""

    def __init__(self, machine: Machine) -> None:
        places = {node.name: i for i, node in enumerate(machine.nodes)}
        ambient = len(places)
        self.places = places
        self._capacity = np.array([node.capacity_joules_per_kelvin for node in machine.nodes])
        fans = {fan.name: i for i, fan in enumerate(machine.fans)}
        self._ends = np.array(
            [
                (places.get(edge.a, ambient), places.get(edge.b, ambient), fans.get(edge.fan or "", -1))
                for edge in machine.edges
            ],
            dtype=np.int64,
        )
        self._edges = np.array(
            [
                (edge.still_watts_per_kelvin, edge.forced_watts_per_kelvin, edge.exponent, edge.natural_exponent)
                for edge in machine.edges
            ]
        )
        self.conductance: Floats = np.zeros(len(machine.edges))
        self._max_rpm = np.array([float(fan.max_rpm) for fan in machine.fans])
        self.constants = (self._capacity, self._ends, self._edges, self._max_rpm)
        start = [machine.ambient_celsius if n.initial_celsius is None else n.initial_celsius for n in machine.nodes]
        self.celsius: Floats = np.array([*start, machine.ambient_celsius])


@kernel
def pull(celsius: Floats, place: int, target: float, seconds: float) -> None:
    """Draw node `place`, and the ambient, towards a reference reading that was in force for `seconds`."""
    apart = target - celsius[place]
    celsius[place] += apart * seconds / (PULL_SECONDS + seconds)
    celsius[len(celsius) - 1] += apart * seconds / (ROOM_SECONDS + seconds)


@kernel
def conduct(
    celsius: Floats, ends: Integers, edges: Floats, max_rpm: Floats, fan_rpm: Floats, conductance: Floats
) -> None:
    """Every edge's conductance at these temperatures and fan speeds, into `conductance`."""
    for edge in range(len(edges)):
        fan = ends[edge, FAN]
        conductance[edge] = edges[edge, STILL]
        if edges[edge, NATURAL] > 0.0:
            kelvin = celsius[ends[edge, A]] - celsius[ends[edge, B]]
            conductance[edge] *= natural_share(kelvin, edges[edge, NATURAL])
        if fan >= 0:
            conductance[edge] += edges[edge, FORCED] * power(fan_rpm[fan] / max_rpm[fan], edges[edge, EXPONENT])


@kernel
def _with_neighbours(
    node: int, celsius: Floats, ends: Integers, conductance: Floats, total: float, weight: float
) -> tuple[float, float]:
    """`total` and `weight` with every neighbour of `node` added: its temperature times the conductance, and that."""
    for edge in range(len(ends)):
        if ends[edge, A] == node:
            total += conductance[edge] * celsius[ends[edge, B]]
            weight += conductance[edge]
        elif ends[edge, B] == node:
            total += conductance[edge] * celsius[ends[edge, A]]
            weight += conductance[edge]
    return total, weight


@kernel
def settle(celsius: Floats, measured: Integers, ends: Integers, conductance: Floats) -> None:
    """Begin from what is measured (1): give every other node the mean of its neighbours, weighted by conductance.

    That is where they would hold it in the long run: heat flows through such nodes and does not begin in them. A
    machine that was at work before is thus met as it is.
    """
    for _ in range(SETTLING_SWEEPS):
        for node in range(len(measured)):
            if measured[node] != 0:
                continue
            total, weight = _with_neighbours(node, celsius, ends, conductance, 0.0, 0.0)
            if weight > 0.0:
                celsius[node] = total / weight


def settled(machine: Machine, known_celsius: Mapping[str, float]) -> Machine:
    """`machine` with nodes that start at what is known of them (by name), and the others where those would hold them.

    Its fans turn as fast as their `initial_pwm` makes them.
    """
    model = ThermalModel(machine)
    there = np.zeros(len(machine.nodes), dtype=np.int64)
    for name, celsius in known_celsius.items():
        model.celsius[model.places[name]], there[model.places[name]] = celsius, 1
    _, ends, edges, max_rpm = model.constants
    fan_rpm = np.array([fan.initial_pwm / 255.0 * fan.max_rpm for fan in machine.fans])
    conduct(model.celsius, ends, edges, max_rpm, fan_rpm, model.conductance)
    settle(model.celsius, there, ends, model.conductance)
    return replace(
        machine,
        nodes=tuple(
            replace(node, initial_celsius=min(200.0, max(-60.0, float(celsius))))
            for node, celsius in zip(machine.nodes, model.celsius[:-1], strict=True)
        ),
    )


@kernel
def step(
    celsius: Floats, capacity: Floats, ends: Integers, conductance: Floats, heat_watts: Floats, seconds: float
) -> None:
    """Advance all nodes by `seconds` under constant heat (one entry a node) and conductances (one an edge)."""
    before = celsius.copy()
    for _ in range(SWEEPS):
        for node in range(len(capacity)):
            inertia = capacity[node] / seconds
            own = inertia * before[node] + heat_watts[node]
            total, weight = _with_neighbours(node, celsius, ends, conductance, own, inertia)
            celsius[node] = total / weight
