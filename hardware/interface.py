"""The seam: what every machine, real or simulated, looks like from above.

Four calls make a backend: `read() -> Readings`, `apply(Command) -> Applied`, `limits` and `close()`, beside the
list of `sensors` it answers for. Values are integers in the units of the Linux kernel, and the unit ends the name of
the channel: `_millicelsius`, `_microwatts`, `_microjoules`, `_kilohertz`, `_rpm`, `_pwm` (0..255), `_ppm`, `_ticks`
(100 a second), `_kibibytes`. A reading that is missing is `None`, never 0, and says why.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

from hardware.status import Status as Status


@dataclass(frozen=True, slots=True)
class Source:
    """One place where Linux may show a channel.

    `kind` is one of hwmon, thermal, cpufreq, powercap, stat, meminfo, application, nvml. `names` are the accepted
    device names (a chip's `name`, a zone's `type`, a card's UUID or PCI address), `labels` the accepted labels; without
    labels `index` counts (`pwm2` has index 2). `attribute` is the part of the file name that carries the meaning
    (`temp`, `fan`, `pwm`, `power_average`, `scaling_max_freq`, ...). The file's integer times `multiply` over `divide`
    is the channel's.
    """

    kind: str
    attribute: str
    names: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    index: int = 1
    multiply: int = 1
    divide: int = 1


def to_channel(source: Source, raw: int) -> int:
    """The channel's value for the file's integer `raw`, rounded down."""
    return raw * source.multiply // source.divide


def to_raw(source: Source, value: int) -> int:
    """The file's integer for the channel's `value`, rounded down."""
    return value * source.divide // source.multiply


@dataclass(frozen=True, slots=True)
class Channel:
    """Something that can be read. `wrap` is the largest value of a counter that starts again at 0, None elsewhere."""

    name: str
    wrap: int | None = None
    sources: tuple[Source, ...] = ()


@dataclass(frozen=True, slots=True)
class Limit:
    """Something that can be commanded, with the range that `apply` clamps to and the value that is safe.

    `minimum <= safe <= maximum`. For a fan the safe value is full speed, for a cap it is a low one.
    """

    name: str
    minimum: int
    maximum: int
    safe: int
    sources: tuple[Source, ...] = ()


@dataclass(frozen=True, slots=True)
class Wiring:
    """The channels of one machine in their fixed order, as a scenario declares them."""

    sensors: tuple[Channel, ...]
    outputs: tuple[Limit, ...]


@dataclass(frozen=True, slots=True)
class Readings:
    """What the sensors said, in the order of `Hardware.sensors`.

    `values[i]` is an integer or None, `times_ns[i]` when it was taken (nanoseconds since the run began) and
    `statuses[i]` why there is none. `values[i] is None` if and only if `statuses[i] is not Status.OK`.
    """

    values: tuple[int | None, ...]
    times_ns: tuple[int, ...]
    statuses: tuple[Status, ...]

    def __post_init__(self) -> None:
        if not len(self.values) == len(self.times_ns) == len(self.statuses):
            raise ValueError("values, times_ns and statuses must have one entry for each sensor")


@dataclass(frozen=True, slots=True)
class Command:
    """What the machine is asked to do: channel name to integer. Channels that are not named keep what they have."""

    values: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Applied:
    """What became of a command: the values in force after clamping, what was clamped, and what failed and why."""

    values: Mapping[str, int]
    clamped: tuple[str, ...] = ()
    failed: tuple[tuple[str, str], ...] = ()


class UnknownChannelError(KeyError):
    """A command named a channel that the hardware does not have."""

    def __init__(self, name: str, known: tuple[str, ...]) -> None:
        super().__init__(name)
        self.name = name
        self.known = known

    def __str__(self) -> str:
        return f"unknown channel {self.name!r}; this hardware takes {', '.join(self.known) or 'no commands'}"


class AmbiguousDeviceError(LookupError):
    """Several devices answer to one name, and taking the first would be a guess. `candidates` are their paths."""

    def __init__(self, message: str, candidates: tuple[str, ...]) -> None:
        super().__init__(message)
        self.candidates = candidates


class Hardware(Protocol):
    """A machine, as the loop sees it."""

    @property
    def sensors(self) -> tuple[Channel, ...]:
        """What `read` answers for, in that order."""

    @property
    def limits(self) -> Mapping[str, Limit]:
        """What `apply` takes, by name. Never changes during a run."""

    def read(self) -> Readings:
        """Read every sensor once. Never raises for a sensor that cannot be read."""

    def apply(self, command: Command) -> Applied:
        """Clamp to `limits`, carry out, and say what was clamped or failed.

        Raises `UnknownChannelError` for a channel that is not in `limits` and `TypeError` for a value that is not
        an int; in both cases nothing has been carried out.
        """

    def close(self) -> None:
        """Give control back to the firmware. May be called twice."""


def clamp(command: Command, limits: Mapping[str, Limit]) -> Applied:
    """The part of `apply` that all backends share: check the names and types, then clamp to the limits.

    Raises `UnknownChannelError` or `TypeError` before anything is carried out.
    """
    values: dict[str, int] = {}
    clamped: list[str] = []
    for name, value in command.values.items():
        limit = limits.get(name)
        if limit is None:
            raise UnknownChannelError(name, tuple(limits))
        if type(value) is not int:
            raise TypeError(f"{name} is {value!r}; a command is an int (from {limit.minimum} to {limit.maximum})")
        if not limit.minimum <= value <= limit.maximum:
            value = min(limit.maximum, max(limit.minimum, value))
            clamped.append(name)
        values[name] = value
    return Applied(MappingProxyType(values), tuple(clamped))
