"""What the sensors should show, from two thermal models at once: one that the sensors guide, and one that they do not.

Both see the same fans and are advanced in one call, which also rounds what they expect to millidegrees.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from twin.control.model import ThermalModel, conduct, pull, step
from twin.kernels import Floats, Integers, kernel
from twin.scenario import Machine

# What a sensor does to the guided model: nothing, a pull by a reference, or a move to what it reads.
LEAVES, PULLS, MOVES = range(3)


@kernel
def _advance(
    guided: Floats, unaided: Floats, capacity: Floats, ends: Integers, edges: Floats, max_rpm: Floats,
    conductance: Floats, sensor_nodes: Integers, given: Floats, shown: Integers, seconds: float,
) -> None:  # fmt: skip
    """One cycle of both models.

    `given`: heat (W) of every node for the guided model, then for the unaided one; the fans' speeds; each sensor's
    distance from what was expected (millidegrees); and what it does with it. `shown`: the guided model at each sensor,
    the unaided one there, then the guided model's nodes and the room, rounded up (all millidegrees).
    """
    nodes, fans, sensors = len(capacity), len(max_rpm), len(sensor_nodes)
    gaps = 2 * nodes + fans
    for i in range(sensors):
        node = sensor_nodes[i]
        kind = given[gaps + sensors + i]
        if kind == PULLS:
            pull(guided, node, guided[node] + given[gaps + i] / 1_000.0, seconds)
        elif kind == MOVES:
            guided[node] += given[gaps + i] / 1_000.0
    conduct(guided, ends, edges, max_rpm, given[2 * nodes : gaps], conductance)
    step(guided, capacity, ends, conductance, given[:nodes], seconds)
    conduct(unaided, ends, edges, max_rpm, given[2 * nodes : gaps], conductance)
    step(unaided, capacity, ends, conductance, given[nodes : 2 * nodes], seconds)
    for i in range(sensors):
        shown[i] = int(guided[sensor_nodes[i]] * 1_000.0)
        shown[sensors + i] = int(unaided[sensor_nodes[i]] * 1_000.0)
    for node in range(nodes + 1):
        exact = guided[node] * 1_000.0
        up = int(exact)
        shown[2 * sensors + node] = up + 1 if up < exact else up


class Expectation:
    """Both models of a machine whose sensors are on `sensor_nodes`; millidegrees out."""

    def __init__(self, machine: Machine) -> None:
        self._guided = ThermalModel(machine)
        self._unaided = ThermalModel(machine)
        self.places = self._guided.places
        self.sensor_nodes = tuple(self.places[sensor.node] for sensor in machine.sensors)
        self._sensor_nodes = np.array(self.sensor_nodes, dtype=np.int64)
        sensors, nodes = len(self.sensor_nodes), len(machine.nodes)
        self._given: Floats = np.zeros(2 * nodes + len(machine.fans) + 2 * sensors)
        self._shown: Integers = np.zeros(2 * sensors + nodes + 1, dtype=np.int64)
        self._ends = (sensors, 2 * sensors)
        self._arrays = (
            self._guided.celsius, self._unaided.celsius, *self._guided.constants, self._guided.conductance,
            self._sensor_nodes, self._given, self._shown,
        )  # fmt: skip
        self.at_sensors = [0] * sensors
        """What the guided model has at each sensor's node."""
        self.unaided: tuple[int, ...] = ()
        """What the unaided one has there."""
        self.nodes: tuple[int, ...] = ()
        """Every node of the guided model and the room last, rounded up."""

    def start(self, known: Mapping[int, float], fan_rpm: Sequence[float]) -> None:
        """Begin the guided model from what is measured (node to celsius), where anything is."""
        if known:
            self._guided.start(known, np.array(fan_rpm, dtype=np.float64))
        celsius = self._guided.celsius.tolist()
        self.at_sensors = [int(celsius[node] * 1_000.0) for node in self.sensor_nodes]

    def advance(
        self,
        heat_watts: list[float],
        unaided_heat_watts: list[float],
        fan_rpm: list[float],
        gaps_millikelvin: list[int],
        kinds: list[int],
        seconds: float,
    ) -> None:
        """Take in what the sensors say, sensor by sensor, and then a step of both models."""
        self._given[:] = heat_watts + unaided_heat_watts + fan_rpm + gaps_millikelvin + kinds
        _advance(*self._arrays, seconds)
        shown = self._shown.tolist()
        one, two = self._ends
        self.at_sensors = shown[:one]
        self.unaided = tuple(shown[one:two])
        self.nodes = tuple(shown[two:])
