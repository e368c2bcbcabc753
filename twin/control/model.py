"""What the sensors should show: the machine's thermal network, driven by measured power and fan speed.

An estimate that runs beside the machine and is never corrected by the sensors it checks, so that a sensor that is
stuck, slow, delayed or plausibly wrong parts from it. Sensors marked `reference` set their node instead. Backward
Euler, node by node in a fixed order, is stable for any step and dissipative, so errors die out.
"""

from __future__ import annotations

import numpy as np

from twin.kernels import Floats, Integers, kernel, power
from twin.scenario import Machine

SWEEPS = 8
"""Gauss-Seidel sweeps a step; the matrix is diagonally dominant, so each sweep shrinks the error."""


class ThermalModel:
    """Expected temperatures of all nodes. Temperatures in celsius, powers in watts, times in seconds."""

    def __init__(self, machine: Machine) -> None:
        places = {node.name: i for i, node in enumerate(machine.nodes)}
        ambient = len(places)
        self.places = places
        self._capacity = np.array([node.capacity_joules_per_kelvin for node in machine.nodes])
        self._ends = np.array(
            [[places.get(edge.a, ambient), places.get(edge.b, ambient)] for edge in machine.edges], dtype=np.int64
        )
        fans = {fan.name: i for i, fan in enumerate(machine.fans)}
        self._edge_fan = np.array([fans.get(edge.fan or "", -1) for edge in machine.edges], dtype=np.int64)
        self._still = np.array([edge.still_watts_per_kelvin for edge in machine.edges])
        self._forced = np.array([edge.forced_watts_per_kelvin for edge in machine.edges])
        self._exponent = np.array([edge.exponent for edge in machine.edges])
        self._max_rpm = np.array([float(fan.max_rpm) for fan in machine.fans])
        self._fixed = np.zeros(ambient + 1, dtype=np.int64)
        self._fixed[ambient] = 1
        start = [machine.ambient_celsius if n.initial_celsius is None else n.initial_celsius for n in machine.nodes]
        self.celsius: Floats = np.array([*start, machine.ambient_celsius])

    def set_reference(self, place: int, celsius: float) -> None:
        """Node `place` is measured: take its temperature as given from now on."""
        self.celsius[place] = celsius
        self._fixed[place] = 1

    def step(self, heat_watts: Floats, fan_rpm: Floats, seconds: float) -> None:
        """Advance all nodes by `seconds` under constant heat (one entry a node) and fan speeds (one a fan)."""
        _step(
            self.celsius,
            self._fixed,
            self._capacity,
            self._ends,
            self._edge_fan,
            self._still,
            self._forced,
            self._exponent,
            self._max_rpm,
            heat_watts,
            fan_rpm,
            seconds,
        )


@kernel
def _step(
    celsius: Floats,
    fixed: Integers,
    capacity: Floats,
    ends: Integers,
    edge_fan: Integers,
    still: Floats,
    forced: Floats,
    exponent: Floats,
    max_rpm: Floats,
    heat_watts: Floats,
    fan_rpm: Floats,
    seconds: float,
) -> None:
    before = celsius.copy()
    conductance = still.copy()
    for edge in range(len(ends)):
        fan = edge_fan[edge]
        if fan >= 0:
            conductance[edge] = still[edge] + forced[edge] * power(fan_rpm[fan] / max_rpm[fan], exponent[edge])
    for _ in range(SWEEPS):
        for node in range(len(capacity)):
            if fixed[node] != 0:
                continue
            inertia = capacity[node] / seconds
            total = inertia * before[node] + heat_watts[node]
            weight = inertia
            for edge in range(len(ends)):
                if ends[edge, 0] == node:
                    total += conductance[edge] * celsius[ends[edge, 1]]
                    weight += conductance[edge]
                elif ends[edge, 1] == node:
                    total += conductance[edge] * celsius[ends[edge, 0]]
                    weight += conductance[edge]
            celsius[node] = total / weight
