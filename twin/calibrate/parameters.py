"""What is fitted: the shape of a machine, its parameters with their bounds and expectations, and the chain they make.

Every parameter has an expectation (a mean and a standard deviation, mostly wide): where the recording says nothing, the
fit stays there, and the report says so. Times and resistances are fitted as logarithms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from twin.calibrate import forward
from twin.calibrate.recording import Recording
from twin.kernels import Floats

Kind = Literal["cpu", "gpu", "board", "laptop"]
Driven = Literal["power", "load", "nothing"]

FULL_WATTS: dict[Kind, float] = {"cpu": 65.0, "gpu": 200.0, "board": 3.0, "laptop": 35.0}
"""What full load is taken to add to the idle power where no power was recorded; every power scales with it."""
ROOMS_CELSIUS: dict[Kind, tuple[float, float]] = {
    "cpu": (30.0, 10.0), "gpu": (30.0, 10.0), "board": (23.0, 4.0), "laptop": (30.0, 10.0),
}  # fmt: skip
"""What is expected of the air around a machine (C), give or take what: inside a case it is that of the case."""
GIVEN_SPREAD_CELSIUS, RECORDED_SPREAD_CELSIUS = 0.1, 0.5
"""How sure a room is whose temperature was given, or recorded somewhere near."""
COLDEST_ROOM, HOTTEST_ROOM = 5.0, 55.0
SHORTEST_SECONDS = 0.02
NATURAL_MOST = 1.0
LEAKAGE_PER_KELVIN = 0.012


@dataclass(frozen=True)
class Shape:
    """What a machine has: nodes from the die to the air (1 to 4), what drives it, a recorded fan, a slow sensor."""

    nodes: int
    driven: Driven
    fan: bool = False
    lag: bool = False
    natural: bool = True


@dataclass(frozen=True)
class Parameter:
    """One number that is fitted, as the solver sees it (a logarithm when `log`).

    It starts at `start`, stays within `low` and `high`, and is expected at `mean` give or take `spread` (one standard
    deviation). `recording` is the recording it belongs to, -1 for the machine.
    """

    name: str
    unit: str
    start: float
    low: float
    high: float
    mean: float
    spread: float
    log: bool = False
    recording: int = -1

    def told(self, value: float) -> float:
        """The value as people have it."""
        return float(np.exp(value)) if self.log else float(value)


def shape_of(recordings: Sequence[Recording], nodes: int) -> Shape:
    """The shape for these recordings with `nodes` nodes: power drives where all have it, else load, else nothing."""
    driven: Driven = "nothing"
    if all(recording.loads is not None for recording in recordings):
        driven = "load"
    if all(recording.powers_watts is not None for recording in recordings):
        driven = "power"
    fan = any(recording.fan_rpm is not None and np.nanmax(recording.fan_rpm) > 0.0 for recording in recordings)
    return Shape(nodes=nodes, driven=driven, fan=fan, natural=not fan)


@dataclass(frozen=True)
class Outline:
    """What a first look at the recordings tells: where parameters may start and end."""

    resistance: float
    shortest_seconds: float
    longest_seconds: float
    full_watts: float
    first_celsius: tuple[float, ...]
    rooms_celsius: tuple[tuple[float, float], ...]


def outline(
    recordings: Sequence[Recording], kind: Kind, driven: Driven, full_watts: float, room_celsius: float | None
) -> Outline:  # fmt: skip
    """The outline of `recordings` of a `kind`; a room temperature that is given is that of all of them."""
    celsius = np.concatenate([r.temperatures_celsius[r.believable()] for r in recordings])
    if driven == "power":
        watts = np.concatenate([r.powers_watts for r in recordings if r.powers_watts is not None])
        mean_watts = float(np.nanmean(watts))
    else:
        loads = [r.loads for r in recordings if r.loads is not None]
        mean_load = float(np.nanmean(np.concatenate(loads))) if driven == "load" else 1.0
        mean_watts = full_watts * (0.4 + mean_load)
    rooms = rooms_of(recordings, kind, room_celsius)
    room = float(np.mean([celsius for celsius, _ in rooms]))
    above = max(1.0, float(np.mean(celsius)) - room)
    return Outline(
        resistance=above / max(mean_watts, 1e-3),
        shortest_seconds=max(SHORTEST_SECONDS, min(r.interval_seconds for r in recordings)),
        longest_seconds=max(float(r.times_seconds[-1]) for r in recordings),
        full_watts=full_watts,
        first_celsius=tuple(float(r.temperatures_celsius[r.believable()][0]) for r in recordings),
        rooms_celsius=rooms,
    )


def rooms_of(recordings: Sequence[Recording], kind: Kind, given: float | None) -> tuple[tuple[float, float], ...]:
    """What is expected of the rooms (C), and give or take what: given, recorded, or as it is around a `kind`."""
    if given is not None:
        return ((given, GIVEN_SPREAD_CELSIUS),) * len(recordings)
    return tuple(
        ROOMS_CELSIUS[kind] if recording.room_celsius is None else (recording.room_celsius, RECORDED_SPREAD_CELSIUS)
        for recording in recordings
    )


def parameters(shape: Shape, look: Outline, slowest_share: float) -> list[Parameter]:
    """The parameters of `shape`; the slowest time constant starts at `slowest_share` of the longest recording."""
    found: list[Parameter] = []
    n = shape.nodes
    fast = np.log(look.shortest_seconds * (1.0 if n > 1 else 20.0))
    slow = np.log(max(look.longest_seconds * slowest_share, look.shortest_seconds * 4.0))
    low, high = np.log(SHORTEST_SECONDS), np.log(2.0 * look.longest_seconds)
    for i in range(n):
        start = slow if n == 1 else fast + (slow - fast) * i / (n - 1)
        start = float(np.clip(start, low + 0.1, high - 0.1))
        found.append(Parameter(f"node{i + 1}_seconds", "s", start, low, high, start, 2.0, log=True))
    each = np.log(look.resistance / n)
    for i in range(n):
        start = float(each)
        found.append(Parameter(f"node{i + 1}_resistance", "K/W", start, start - 7.0, start + 4.0, start, 1.5, log=True))
    if shape.fan:
        forced = float(np.log(n / look.resistance))
        found += [
            Parameter("fan_conductance", "W/K", forced, forced - 7.0, forced + 4.0, forced, 2.0, log=True),
            Parameter("fan_exponent", "", 0.6, 0.1, 1.5, 0.65, 0.25),
        ]
    if shape.natural:
        found.append(Parameter("natural_exponent", "", 0.25, 0.0, NATURAL_MOST, 0.25, 0.25))
    if shape.lag:
        start = float(np.log(look.shortest_seconds))
        found.append(Parameter("sensor_lag", "s", start, np.log(0.01), np.log(60.0), start, 1.5, log=True))
    if shape.driven == "load":
        full = look.full_watts
        found += [
            Parameter("idle_watts", "W", 0.3 * full, 0.0, 3.0 * full, 0.4 * full, 0.4 * full),
            Parameter("leakage_watts", "W", 0.2 * full, 0.0, 1.5 * full, 0.2 * full, 0.3 * full),
            Parameter("leakage_per_kelvin", "1/K", LEAKAGE_PER_KELVIN, 0.0, 0.05, LEAKAGE_PER_KELVIN, 0.008),
            Parameter("voltage_bend", "", 0.9, forward.IDLE_VOLTS / forward.TOP_VOLTS, 1.0, 0.95, 0.15),
        ]
    for place in range(len(look.first_celsius)):
        room, spread = look.rooms_celsius[place]
        known = spread <= RECORDED_SPREAD_CELSIUS
        low = room - 10.0 * spread if known else COLDEST_ROOM
        high = room + 10.0 * spread if known else HOTTEST_ROOM
        found.append(Parameter("ambient", "C", room, low, high, room, spread, recording=place))
        for i in range(n):
            spread = 1.0 if i == 0 and n > 1 else 6.0
            found.append(Parameter(f"start{i + 1}", "K", 0.0, -60.0, 60.0, 0.0, spread, recording=place))
    return found


@dataclass(frozen=True)
class Chain:
    """Numbers for `forward.run_chain`, and the ambient and start temperatures of one recording."""

    numbers: Floats
    ambient: float
    start: Floats


def chain(shape: Shape, values: dict[str, float], full_watts: float, first_celsius: float) -> Chain:
    """The chain with these values (as people have them), for a recording whose first reading is `first_celsius`.

    The nodes start where a constant heat that gave the first reading would hold them, plus the start parameters.
    """
    n = shape.nodes
    resistances = np.array([values[f"node{i + 1}_resistance"] for i in range(n)])
    seconds = np.array([values[f"node{i + 1}_seconds"] for i in range(n)])
    numbers = np.zeros(2 * n + forward.REST)
    numbers[n : 2 * n] = 1.0 / resistances
    rest = 2 * n
    numbers[rest + forward.FORCED] = values.get("fan_conductance", 0.0)
    numbers[rest + forward.EXPONENT] = values.get("fan_exponent", 1.0)
    # A time constant is that of the node with what leads on from it, a fan at full speed included.
    leading = numbers[n : 2 * n].copy()
    leading[n - 1] += numbers[rest + forward.FORCED]
    numbers[:n] = seconds * leading
    numbers[rest + forward.NATURAL] = values.get("natural_exponent", 0.0)
    numbers[rest + forward.LAG] = values.get("sensor_lag", 0.0)
    leakage = values.get("leakage_watts", 0.0)
    numbers[rest + forward.IDLE] = values.get("idle_watts", 0.0)
    numbers[rest + forward.LEAKAGE] = leakage / forward.TOP_VOLTS
    numbers[rest + forward.LEAKAGE_PER_KELVIN] = values.get("leakage_per_kelvin", 0.0)
    numbers[rest + forward.BEND] = values.get("voltage_bend", 1.0)
    # Full load adds `full_watts` to the power at idle, and a part of that is leakage at a higher voltage.
    leaking = leakage * (1.0 - forward.IDLE_VOLTS / forward.TOP_VOLTS)
    numbers[rest + forward.SWITCHING] = max(0.0, full_watts - leaking) / (forward.TOP_VOLTS**2 * 1e9)
    ambient = values["ambient"]
    shares = np.cumsum(resistances[::-1])[::-1] / np.sum(resistances)
    start = ambient + (first_celsius - ambient) * shares
    start += np.array([values.get(f"start{i + 1}", 0.0) for i in range(n)])
    return Chain(numbers, ambient, start)
