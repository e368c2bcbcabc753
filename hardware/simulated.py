"""A simulated world as hardware: integers out, clamped commands in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Protocol

from hardware.interface import (
    Applied,
    Channel,
    Command,
    Limit,
    Readings,
    Source,
    Status,
    Wiring,
    clamp,
    to_channel,
    to_raw,
)
from hardware.linux.tree import shown


class World(Protocol):
    """What a backend needs of a simulated machine."""

    def sense(self) -> tuple[tuple[int | None, ...], tuple[Status, ...]]:
        """What every sensor says now and why it says nothing, in the order of the wiring's sensors.

        A status is `OK` (with a value), `ABSENT` or `GARBAGE` (with None).
        """

    def actuate(self, name: str, value: int) -> None:
        """Output `name` of the wiring is `value` from now on; the value lies within the output's limits."""

    def release(self) -> None:
        """The controller is gone: the simulated firmware takes over."""


def _coarse(source: Source) -> bool:
    """Whether the source's file cannot hold every value of its channel."""
    return source.divide % source.multiply != 0


class SimulatedHardware:
    """The world seen directly. Its values have the quantum of the file that would show them on a Linux machine.

    `elapsed_ns` gives the nanoseconds since the run began.
    """

    def __init__(self, world: World, wiring: Wiring, elapsed_ns: Callable[[], int]) -> None:
        self._world = world
        self._wiring = wiring
        self._elapsed_ns = elapsed_ns
        files = shown(wiring)
        # Only sources whose file is coarser than the channel change a value.
        sensor_sources = [(place, channel.sources[0]) for place, channel in enumerate(files.sensors)]
        self._coarse_sensors = tuple((place, source) for place, source in sensor_sources if _coarse(source))
        output_sources = [(limit.name, limit.sources[0]) for limit in files.outputs]
        self._coarse_outputs = {name: source for name, source in output_sources if _coarse(source)}
        self._limits = MappingProxyType({limit.name: limit for limit in wiring.outputs})
        self._closed = False

    @property
    def sensors(self) -> tuple[Channel, ...]:
        """The wiring's sensors."""
        return self._wiring.sensors

    @property
    def limits(self) -> Mapping[str, Limit]:
        """The wiring's outputs by name."""
        return self._limits

    def read(self) -> Readings:
        """What the world's sensors say, all stamped with the present time."""
        values, statuses = self._world.sense()
        times_ns = (self._elapsed_ns(),) * len(values)
        if not self._coarse_sensors:
            return Readings(values, times_ns, statuses)
        quantised = list(values)
        for place, source in self._coarse_sensors:
            value = quantised[place]
            if value is not None:
                quantised[place] = to_channel(source, to_raw(source, value))
        return Readings(tuple(quantised), times_ns, statuses)

    def apply(self, command: Command) -> Applied:
        """Clamp and hand over to the world; after `close` every channel fails."""
        wanted = clamp(command, self._limits)
        if self._closed:
            return Applied(MappingProxyType({}), wanted.clamped, tuple((name, "closed") for name in wanted.values))
        if self._coarse_outputs:
            wanted = self._quantised(wanted)
        for name, value in wanted.values.items():
            self._world.actuate(name, value)
        return wanted

    def _quantised(self, wanted: Applied) -> Applied:
        values = dict(wanted.values)
        for name, source in self._coarse_outputs.items():
            if name in values:
                values[name] = to_channel(source, to_raw(source, values[name]))
        return Applied(MappingProxyType(values), wanted.clamped)

    def close(self) -> None:
        """Release the world, once."""
        if not self._closed:
            self._closed = True
            self._world.release()
