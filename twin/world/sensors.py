"""Temperature sensors: lag, sampling hold, offset, noise and quantum, in that order; what comes out is an integer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from twin.kernels import Floats, Integers, draw32, exp, kernel, stream_keys
from twin.scenario import Sensor
from twin.world.thermal import Network

# Columns of the integer array, one row a sensor.
NODE = 0
HOLD_NS = 1
OFFSET = 2
NOISE = 3
QUANTUM = 4
KEY0 = 5
KEY1 = 6
SAMPLE = 7
SHOWN = 8

# Columns of the float array.
FELT = 0
TAKE = 1

_LARGEST_CELSIUS = 1e6


@kernel
def sample(settings: Integers, sensor: int, number: int, felt_celsius: float) -> int:
    """Sample `number` of row `sensor` at the temperature its element has (millicelsius).

    Offset and uniform noise of +-noise (draw `number` of the stream `sensor.<channel>`) are added, then the value is
    floored to a multiple of the quantum, as converters do.
    """
    celsius = min(_LARGEST_CELSIUS, max(-_LARGEST_CELSIUS, felt_celsius))
    # Floor, for negative temperatures too, where int() would round towards 0.
    value: int = int((celsius + 2.0 * _LARGEST_CELSIUS) * 1000.0 + 0.5) - 2_000_000_000 + settings[sensor, OFFSET]
    noise = settings[sensor, NOISE]
    draw = draw32(settings[sensor, KEY0], settings[sensor, KEY1], number)
    value += ((draw * (2 * noise + 1)) >> 32) - noise
    quantum: int = settings[sensor, QUANTUM]
    return value // quantum * quantum


@kernel
def feel(elements: Floats, settings: Integers, sensor: int, now_ns: int, celsius: float) -> None:
    """Let the element of row `sensor` follow its node to `celsius`, and sample it when its hold has passed."""
    elements[sensor, FELT] += elements[sensor, TAKE] * (celsius - elements[sensor, FELT])
    number = now_ns // settings[sensor, HOLD_NS]
    if number != settings[sensor, SAMPLE]:
        settings[sensor, SAMPLE] = number
        settings[sensor, SHOWN] = sample(settings, sensor, number, elements[sensor, FELT])


def sensor_arrays(
    sensors: Sequence[Sensor], network: Network, celsius: Floats, step_ms: int, seed: int
) -> tuple[Floats, Integers]:
    """The sensors in the layout that the kernels read, settled at the nodes' `celsius`, sample 0 taken."""
    elements = np.zeros((len(sensors), 2))
    settings = np.zeros((len(sensors), 9), dtype=np.int64)
    for row, sensor in enumerate(sensors):
        node = network.index(sensor.node)
        key0, key1 = stream_keys(seed, f"sensor.{sensor.name}_temp_millicelsius")
        elements[row] = (celsius[node], 1.0 - exp(-step_ms / sensor.lag_ms) if sensor.lag_ms else 1.0)
        settings[row] = (
            node, sensor.hold_ms * 1_000_000, sensor.offset_millicelsius, sensor.noise_millicelsius,
            sensor.quantum_millicelsius, key0, key1, 0, 0,
        )  # fmt: skip
        settings[row, SHOWN] = sample(settings, row, 0, elements[row, FELT])
    return elements, settings
