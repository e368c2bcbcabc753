"""Heat: a network of lumps, conductances and the air, advanced exactly for powers that are constant over a step.

With temperatures as deviations x from the ambient temperature at the start, C dx/dt = q - K x, where K (W/K) is the
graph's Laplacian plus the conductance of each lump to the air on the diagonal, and q = power + air conductance times
the air's own deviation. For A = -K/C, b = q/C and a step h the solution is

    x(h) = E x(0) + F b,     integral of x over the step = F x(0) + F2 b,
    E = exp(A h),  F = integral of exp(A s) from 0 to h,  F2 = integral of F from 0 to h

(the variation of constants formula; Van Loan 1978, "Computing integrals involving the matrix exponential"). The step
takes the integral from F and F2 and lets x change by the heat that crossed each conductance meanwhile, which is the
same x(h) and conserves heat by construction.

An edge whose conductance depends on the difference of temperature (`natural_exponent`) is in K with the conductance it
has at 30 K; what it carries more or less than that enters the power, held over a step.
"""

from __future__ import annotations

import numpy as np

from twin.kernels import Floats, kernel, natural_share, power
from twin.scenario import Machine

FAN_LEVELS = 64
"""Fan speeds enter conductances in steps of max_rpm / 64, so that few different propagators are needed."""
CACHE_LIMIT = 512
"""How many propagators a network keeps."""
STIFFNESS_LIMIT = 1e8
"""Largest K h / C of a lump: beyond it the rounding of large flows would show in the temperatures (1e-8 relative)."""
AMBIENT = "ambient"

# Columns of the natural edges, one row an edge: its nodes (the second -1: the air), W/K at 30 K, and its exponent.
NATURAL_A = 0
NATURAL_B = 1
NATURAL_STILL = 2
NATURAL_EXPONENT = 3

_TERMS = 16


@kernel
def _multiply(a: Floats, b: Floats, out: Floats) -> None:
    n = a.shape[0]
    for i in range(n):
        for j in range(n):
            total = 0.0
            for k in range(n):
                total += a[i, k] * b[k, j]
            out[i, j] = total


@kernel
def propagate(a: Floats, h: float, e: Floats, f: Floats, f2: Floats) -> None:
    """Fill `e`, `f` and `f2` (all n x n, as `a`, in 1/s) with E, F (s) and F2 (s^2) for a step of `h` seconds.

    Taylor series of 17 terms on a step halved until the row-sum norm of A h is at most 1/2 (remainder below 1e-19),
    then doubled back: E(2h) = E E, F(2h) = F + E F, F2(2h) = F2 + h F + E F2.
    """
    n = a.shape[0]
    norm = 0.0
    for i in range(n):
        row = 0.0
        for j in range(n):
            row += abs(a[i, j])
        norm = max(norm, row * h)
    doublings = 0
    step = h
    while norm > 0.5:
        norm *= 0.5
        step *= 0.5
        doublings += 1
    term = np.zeros((n, n))
    product = np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            term[i, j] = 1.0 if i == j else 0.0
            e[i, j] = term[i, j]
            f[i, j] = term[i, j] * step
            f2[i, j] = term[i, j] * step * step / 2.0
    for k in range(1, _TERMS + 1):
        _multiply(a, term, product)
        for i in range(n):
            for j in range(n):
                term[i, j] = product[i, j] * step / k
                e[i, j] += term[i, j]
                f[i, j] += term[i, j] * step / (k + 1)
                f2[i, j] += term[i, j] * step * step / ((k + 1) * (k + 2))
    for _ in range(doublings):
        _multiply(e, f2, product)
        for i in range(n):
            for j in range(n):
                f2[i, j] += step * f[i, j] + product[i, j]
        _multiply(e, f, product)
        for i in range(n):
            for j in range(n):
                f[i, j] += product[i, j]
        _multiply(e, e, product)
        for i in range(n):
            for j in range(n):
                e[i, j] = product[i, j]
        step *= 2.0


@kernel
def _relax(conductance: Floats, capacity: Floats, h: float, propagator: Floats) -> None:
    """Fill a propagator: rows 0..n-1 hold F, n..2n-1 F2, 2n..3n-1 K (`conductance`)."""
    n = capacity.shape[0]
    a = np.zeros((n, n))
    e = np.zeros((n, n))
    f = np.zeros((n, n))
    f2 = np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            a[i, j] = -conductance[i, j] / capacity[i]
    propagate(a, h, e, f, f2)
    for i in range(n):
        for j in range(n):
            propagator[i, j] = f[i, j]
            propagator[n + i, j] = f2[i, j]
            propagator[2 * n + i, j] = conductance[i, j]


@kernel
def advance(
    deviation: Floats, watts: Floats, integral: Floats, capacity: Floats, propagator: Floats, h: float, air: float
) -> float:
    """Advance `deviation` (K, length n) by `h` seconds under `watts` (length n); returns the joules given to the air.

    `air` is the air's deviation (K) during the step. `watts` is overwritten by q, `integral` (K s) by the integral of
    the deviations. `propagator` comes from `Network.propagator` for the same `h`.
    """
    n = deviation.shape[0]
    for i in range(n):
        watts[i] = watts[i] + propagator[3 * n, i] * air
    out = 0.0
    for i in range(n):
        total = 0.0
        for j in range(n):
            total += propagator[i, j] * deviation[j]
            total += propagator[n + i, j] * (watts[j] / capacity[j])
        integral[i] = total
        out += propagator[3 * n, i] * (total - h * air)
    for i in range(n):
        lost = 0.0
        for j in range(n):
            lost += propagator[2 * n + i, j] * integral[j]
        deviation[i] += (h * watts[i] - lost) / capacity[i]
    return out


@kernel
def natural_heat(edges: Floats, deviation: Floats, watts: Floats, air: float) -> float:
    """Add to `watts` what natural edges carry beyond their conductance at 30 K; returns how much of it the air takes.

    `edges` are `Network.natural`, `air` the air's deviation (K).
    """
    out = 0.0
    for i in range(edges.shape[0]):
        a = int(edges[i, NATURAL_A])
        b = int(edges[i, NATURAL_B])
        kelvin = deviation[a] - (air if b < 0 else deviation[b])
        flow = edges[i, NATURAL_STILL] * (natural_share(kelvin, edges[i, NATURAL_EXPONENT]) - 1.0) * kelvin
        watts[a] -= flow
        if b < 0:
            out += flow
        else:
            watts[b] += flow
    return out


class Network:
    """The thermal network of a machine, and its propagators by fan speeds.

    `names` are the nodes in order, `capacity` their heat capacities (J/K). Raises `ValueError` for an edge that names a
    node or fan that does not exist, and for a lump too small for the step.
    """

    def __init__(self, machine: Machine) -> None:
        self.names = tuple(node.name for node in machine.nodes)
        self.capacity: Floats = np.array([node.capacity_joules_per_kelvin for node in machine.nodes])
        self._machine = machine
        self._step_seconds = machine.step_ms / 1000.0
        self._fans = {fan.name: index for index, fan in enumerate(machine.fans)}
        self._cache: dict[int, Floats] = {}
        for edge in machine.edges:
            for end in (edge.a, edge.b):
                if end != AMBIENT:
                    self.index(end)
            if edge.fan is not None and edge.fan not in self._fans:
                known = ", ".join(self._fans) or "none"
                raise ValueError(f"edge {edge.a}-{edge.b} names fan {edge.fan!r}; the machine has: {known}")
        self.natural: Floats = self._natural_edges()
        self._check_stiffness()

    def index(self, node: str) -> int:
        """Where `node` stands in `names`. Raises `ValueError` with the names for one that is not there."""
        if node not in self.names:
            raise ValueError(f"there is no thermal node {node!r}; the machine has: {', '.join(self.names)}")
        return self.names.index(node)

    def propagator(self, speeds: int) -> Floats:
        """The propagator for packed fan speeds, an array of 3 n + 1 rows by n: F, F2, K, and air conductances (W/K).

        `speeds` is the sum of level_i * 65^i over the fans in order, level_i in 0..64 being rpm / max_rpm * 64.
        """
        found = self._cache.get(speeds)
        if found is None:
            if len(self._cache) >= CACHE_LIMIT:
                # Oldest first: a dictionary keeps the order of insertion.
                del self._cache[next(iter(self._cache))]
            found = self._cache[speeds] = self._build(speeds)
        return found

    def _build(self, speeds: int) -> Floats:
        n = len(self.names)
        conductance, air = self._conductances(speeds)
        propagator = np.zeros((3 * n + 1, n))
        _relax(conductance, self.capacity, self._step_seconds, propagator)
        propagator[3 * n] = air
        return propagator

    def _conductances(self, speeds: int) -> tuple[Floats, Floats]:
        n = len(self.names)
        conductance = np.zeros((n, n))
        air = np.zeros(n)
        for edge in self._machine.edges:
            g = edge.still_watts_per_kelvin
            if edge.fan is not None:
                level = speeds // (FAN_LEVELS + 1) ** self._fans[edge.fan] % (FAN_LEVELS + 1)
                g += edge.forced_watts_per_kelvin * power(level / FAN_LEVELS, edge.exponent)
            ends = [self.index(end) for end in (edge.a, edge.b) if end != AMBIENT]
            if len(ends) == 2 and ends[0] == ends[1]:
                continue
            for end in ends:
                conductance[end, end] += g
            if len(ends) == 2:
                conductance[ends[0], ends[1]] -= g
                conductance[ends[1], ends[0]] -= g
            elif ends:
                air[ends[0]] += g
        return conductance, air

    def _natural_edges(self) -> Floats:
        rows = []
        for edge in self._machine.edges:
            ends = [self.index(end) for end in (edge.a, edge.b) if end != AMBIENT]
            if edge.natural_exponent > 0.0 and ends and ends != ends[:1] * 2:
                other = ends[1] if len(ends) == 2 else -1
                rows.append((ends[0], other, edge.still_watts_per_kelvin, edge.natural_exponent))
        return np.array(rows, dtype=np.float64).reshape(len(rows), 4)

    def _check_stiffness(self) -> None:
        fastest = sum(FAN_LEVELS * (FAN_LEVELS + 1) ** index for index in self._fans.values())
        conductance, _ = self._conductances(fastest)
        for index, name in enumerate(self.names):
            stiffness = float(conductance[index, index]) * self._step_seconds / float(self.capacity[index])
            if stiffness > STIFFNESS_LIMIT:
                raise ValueError(
                    f"thermal node {name!r} has {self.capacity[index]:g} J/K for {conductance[index, index]:g} W/K, "
                    f"too little for steps of {self._machine.step_ms} ms; give it more capacity or shorten step_ms"
                )
