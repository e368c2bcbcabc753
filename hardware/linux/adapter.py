"""The Linux machine as hardware: discovery at start, one read and one apply per cycle, all given back at close."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType

from hardware.interface import (
    AmbiguousDeviceError,
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
from hardware.linux import cpufreq, hwmon, powercap, thermal
from hardware.linux import nvml as nvidia
from hardware.linux.application import Application
from hardware.linux.hands import Asked, Hands
from hardware.linux.output import Output
from hardware.linux.proc import Meminfo, Stat, Table, TableCell
from hardware.linux.sysfs import Outcome, Readable, Root

SCAN_READS = 10
"""While a device is missing, it is looked for again once in so many reads."""

_NOWHERE = Outcome(None, Status.ABSENT, "no device shows it")
_NO_OUTPUT = Outcome(None, Status.ABSENT, Status.ABSENT.words)
_TABLES = ("stat", "meminfo", "application")


class _Survey:
    """The devices that are there now; each kind is looked for when it is first asked for."""

    def __init__(self, root: Root) -> None:
        self._root = root
        self._chips: tuple[hwmon.Chip, ...] | None = None
        self._zones: tuple[thermal.Zone, ...] | None = None
        self._policies: tuple[cpufreq.Policy, ...] | None = None
        self._power_zones: tuple[powercap.PowerZone, ...] | None = None
        self._cooling_devices: tuple[thermal.Zone, ...] | None = None

    @property
    def chips(self) -> tuple[hwmon.Chip, ...]:
        if self._chips is None:
            self._chips = hwmon.scan(self._root)
        return self._chips

    @property
    def zones(self) -> tuple[thermal.Zone, ...]:
        if self._zones is None:
            self._zones = thermal.scan(self._root)
        return self._zones

    @property
    def cooling_devices(self) -> tuple[thermal.Zone, ...]:
        if self._cooling_devices is None:
            self._cooling_devices = thermal.scan(self._root, "cooling_device")
        return self._cooling_devices

    @property
    def policies(self) -> tuple[cpufreq.Policy, ...]:
        if self._policies is None:
            self._policies = cpufreq.scan(self._root)
        return self._policies

    @property
    def power_zones(self) -> tuple[powercap.PowerZone, ...]:
        if self._power_zones is None:
            self._power_zones = powercap.scan(self._root)
        return self._power_zones


@dataclass(slots=True)
class _Sensor:
    """Where a channel is read now; `place` is None while no device shows it. `in_table` channels never move."""

    channel: Channel
    in_table: bool
    place: Readable | None = None
    source: Source | None = None


class LinuxHardware:
    """Sensors and outputs of the machine whose `sys`, `proc` and `run` lie below `root`.

    `elapsed_ns` gives the nanoseconds since the run began. Without `hands` nothing is ever written, and `apply` says
    what would have been. Hands carry commands out, and give back in `close` what they found. NVML is asked only when
    `nvml` is set and `root` is `/`. Raises `AmbiguousDeviceError`, which names all channels for which several devices
    match, and what the hands raise when they cannot begin.
    """

    def __init__(
        self,
        root: Path,
        wiring: Wiring,
        elapsed_ns: Callable[[], int],
        hands: Hands | None = None,
        nvml: bool = True,
    ) -> None:
        self._root = Root(root)
        self._elapsed_ns = elapsed_ns
        self._hands: Hands | None = None
        self._limits = MappingProxyType({limit.name: limit for limit in wiring.outputs})
        self._tables: dict[str, Table] = {
            "stat": Stat(self._root),
            "meminfo": Meminfo(self._root),
            "application": Application(self._root, elapsed_ns),
        }
        self._gpu: nvidia.Gpu | None = None
        self._no_gpu = "" if nvml and self._root.path == "/" else "NVML is not asked"
        self._readings = tuple(
            _Sensor(channel, all(source.kind in _TABLES for source in channel.sources)) for channel in wiring.sensors
        )
        self._outputs: dict[str, tuple[Output, Source]] = {}
        self._bounds: dict[str, tuple[int, int, int]] = {}
        self._lost: set[str] = set()
        self._reads = 0
        self._next_scan = 0
        self._closed = False
        self.found: dict[str, str] = {}
        """Channel or output to where it is shown."""
        self.missing: dict[str, str] = {}
        """Channel or output to the reason why it is not there."""
        self.details: dict[str, str] = {}
        """Channel to the reason why its last reading had no value."""
        self.refused: Mapping[str, str] = {}
        """Output to the reason why the hands do not take it."""
        self.unrestored: tuple[tuple[str, str], ...] = ()
        """After `close`: each output that could not be given back, and why."""
        for table in self._tables.values():
            table.refresh()
        self._discover(strict=True)
        self._sensors = tuple(sensor.channel for sensor in self._readings)
        if hands is not None:
            self.take(hands)

    def take(self, hands: Hands) -> None:
        """From now on `hands` carry commands out. Raises what they raise when they cannot begin."""
        found = {name: self._asked(name, self._limits[name].safe) for name in self._outputs}
        self.refused = hands.begin(found, tuple(self._limits))
        self._hands = hands

    def narrower(self) -> dict[str, str]:
        """Outputs of which the machine takes less than the wiring may ask for, and what; the rest is cut off."""
        said = {}
        for name, (output, _source) in self._outputs.items():
            minimum, maximum, _safe = self._bounds[name]
            low, high = output.inside(minimum), output.inside(maximum)
            if (low, high) != (minimum, maximum):
                said[name] = f"{output.where} takes {low} to {high}, and asked are {minimum} to {maximum}"
        return said

    def let_go(self) -> None:
        """Let the hands give everything back, and only read from now on; `unrestored` has what could not be."""
        if self._hands is not None:
            hands, self._hands = self._hands, None
            self.unrestored = tuple(hands.close())

    @property
    def sensors(self) -> tuple[Channel, ...]:
        """The wiring's sensors, each counter with the wrap of the real one (None when the machine does not tell)."""
        return self._sensors

    @property
    def limits(self) -> Mapping[str, Limit]:
        """The wiring's outputs by name."""
        return self._limits

    # --- discovery ----------------------------------------------------------------------------------------------------

    def _discover(self, strict: bool) -> None:
        """Look for everything that has no place or has lost it."""
        survey = _Survey(self._root)
        ambiguous: list[AmbiguousDeviceError] = []
        for sensor in self._readings:
            if sensor.place is None or (sensor.channel.name in self._lost and not sensor.in_table):
                self._attempt(sensor.channel.name, partial(self._locate, sensor, survey), ambiguous)
        for name, limit in self._limits.items():
            if name not in self._outputs or name in self._lost:
                self._attempt(name, partial(self._locate_output, limit, survey), ambiguous)
        self._next_scan = self._reads + SCAN_READS
        if ambiguous and strict:
            raise AmbiguousDeviceError(
                "; ".join(map(str, ambiguous)) + "; name the one you mean in the scenario",
                tuple(candidate for error in ambiguous for candidate in error.candidates),
            )

    def _attempt(self, name: str, locate: Callable[[], str], ambiguous: list[AmbiguousDeviceError]) -> None:
        try:
            missing = locate()
        except AmbiguousDeviceError as error:
            missing = str(error)
            ambiguous.append(AmbiguousDeviceError(f"{name}: {error}", error.candidates))
        if missing:
            self.found.pop(name, None)
            self.missing[name] = missing.encode(errors="backslashreplace").decode()
        else:
            self.missing.pop(name, None)
            self._lost.discard(name)

    def _locate(self, sensor: _Sensor, survey: _Survey) -> str:
        """Bind the sensor to the first of its sources that is there; else say why none is."""
        channel = sensor.channel
        reasons: list[str] = []
        for source in channel.sources:
            place, wrap = self._find(source, survey)
            if isinstance(place, str):
                reasons.append(place)
                continue
            if source.kind in (*_TABLES, "nvml"):
                outcome = place.read()
                if outcome.status is Status.ABSENT:
                    # It may come up later; until then the place says that it is absent.
                    reasons.append(outcome.detail)
                    if sensor.place is None:
                        sensor.place, sensor.source = place, source
                    continue
            sensor.place, sensor.source = place, source
            if source.kind == "powercap":
                sensor.channel = replace(channel, wrap=None if wrap is None else to_channel(source, wrap))
            self.found[channel.name] = place.where
            return ""
        return "; ".join(reasons) or "the scenario names no source"

    def _find(self, source: Source, survey: _Survey) -> tuple[Readable | str, int | None]:
        match source.kind:
            case "hwmon":
                return hwmon.find(self._root, survey.chips, source), None
            case "thermal":
                return thermal.find(self._root, survey.zones, source), None
            case "cpufreq":
                return cpufreq.find(self._root, survey.policies, source), None
            case "powercap":
                counter = powercap.find(self._root, survey.power_zones, source)
                return (counter, None) if isinstance(counter, str) else counter
            case "nvml":
                gpu = self._open_gpu(source.names)
                return gpu if isinstance(gpu, str) else TableCell(gpu, source.attribute), None
            case "stat" | "meminfo" | "application":
                return TableCell(self._tables[source.kind], source.attribute), None
            case _:
                return f"unknown kind of source {source.kind!r}", None

    def _open_gpu(self, cards: tuple[str, ...]) -> nvidia.Gpu | str:
        """The one card of this machine. Raises `AmbiguousDeviceError` where there are several and none is named."""
        if self._gpu is None and not self._no_gpu:
            module = nvidia.load()
            if isinstance(module, str):
                self._no_gpu = module
            else:
                gpu = nvidia.Gpu(module, cards)
                gpu.refresh()
                if gpu.ambiguous is not None:
                    raise gpu.ambiguous
                self._gpu = self._tables["nvml"] = gpu
        return self._gpu or self._no_gpu

    def _locate_output(self, limit: Limit, survey: _Survey) -> str:
        reasons: list[str] = []
        for source in limit.sources:
            output = self._find_output(source, survey)
            if isinstance(output, str):
                reasons.append(output)
                continue
            self._outputs[limit.name] = output, source
            minimum, maximum, safe = (to_raw(source, bound) for bound in (limit.minimum, limit.maximum, limit.safe))
            self._bounds[limit.name] = minimum, maximum, safe
            self.found[limit.name] = output.where
            return ""
        return "; ".join(reasons) or "the scenario names no source"

    def _find_output(self, source: Source, survey: _Survey) -> Output | str:
        match source.kind:
            case "hwmon":
                return hwmon.find_output(self._root, survey.chips, source)
            case "cpufreq":
                return cpufreq.find_output(self._root, survey.policies, source)
            case "powercap":
                return powercap.find_output(self._root, survey.power_zones, source)
            case "thermal":
                return thermal.find_output(self._root, survey.cooling_devices, source)
            case "nvml":
                gpu = self._open_gpu(source.names)
                return gpu if isinstance(gpu, str) else nvidia.find_output(gpu, source.attribute)
            case _:
                return f"a source of kind {source.kind!r} takes no commands"

    # --- the cycle ----------------------------------------------------------------------------------------------------

    def read(self) -> Readings:
        """Read every sensor once, each stamped when it was read. Never raises.

        A device that has vanished is looked for at the next read, and then once in `SCAN_READS` reads.
        """
        if self._lost and self._reads >= self._next_scan:
            self._discover(strict=False)
        self._reads += 1
        for table in self._tables.values():
            table.refresh()
        values: list[int | None] = []
        times: list[int] = []
        statuses: list[Status] = []
        for sensor in self._readings:
            outcome = _NOWHERE if sensor.place is None else sensor.place.read()
            value = outcome.value
            if value is not None and sensor.source is not None:
                value = to_channel(sensor.source, value)
                if not -(1 << 63) <= value < 1 << 63:
                    outcome = Outcome(None, Status.GARBAGE, f"{sensor.place.where if sensor.place else ''}: too large")
                    value = None
            values.append(value)
            times.append(self._elapsed_ns())
            statuses.append(outcome.status)
            self._note(sensor, outcome)
        return Readings(tuple(values), tuple(times), tuple(statuses))

    def _note(self, sensor: _Sensor, outcome: Outcome) -> None:
        """Keep the books for people and for the next discovery."""
        name = sensor.channel.name
        if outcome.status is Status.OK:
            self.details.pop(name, None)
            if name in self.missing and sensor.place is not None:
                del self.missing[name]
                self.found[name] = sensor.place.where
            self._lost.discard(name)
            return
        self.details[name] = self.missing.get(name, outcome.detail) if sensor.place is None else outcome.detail
        if outcome.status is Status.ABSENT and not sensor.in_table:
            self._lose(name)

    def apply(self, command: Command) -> Applied:
        """Clamp to the limits and to what the device takes, and let the hands carry out what is left.

        `Applied.values` are the values in force as far as is known (without hands: those that would be), in the
        channel's unit after rounding down to the file's; a channel that failed is not among them. After `close` every
        channel fails.
        """
        command_inside = clamp(command, self._limits)
        if self._closed:
            failures = {name: Outcome(None, Status.UNREADABLE, "closed") for name in command_inside.values}
            wanted: dict[str, Asked] = {}
        else:
            wanted = {name: self._asked(name, value) for name, value in command_inside.values.items()
                      if name in self._outputs}  # fmt: skip
            failures = {} if self._hands is None else {
                **{name: _NO_OUTPUT for name in command_inside.values if name not in wanted},
                **self._hands.put(wanted),
            }  # fmt: skip
        values: dict[str, int] = {}
        clamped = list(command_inside.clamped)
        failed: list[tuple[str, str]] = []
        for name, value in command_inside.values.items():
            if name in failures:
                outcome = failures[name]
                self._lose(name, outcome)
                # A file's name may hold bytes that are no text; what is recorded is.
                failed.append((name, outcome.detail.encode(errors="backslashreplace").decode()))
            elif name not in wanted:
                values[name] = value
            else:
                source = self._outputs[name][1]
                values[name] = to_channel(source, wanted[name].raw)
                if wanted[name].raw != to_raw(source, value) and name not in clamped:
                    clamped.append(name)
        return Applied(MappingProxyType(values), tuple(clamped), tuple(failed))

    def _asked(self, name: str, value: int) -> Asked:
        output, source = self._outputs[name]
        return Asked(output, *self._bounds[name], output.inside(to_raw(source, value)))

    def _lose(self, name: str, outcome: Outcome = _NOWHERE) -> None:
        """A device that has just vanished is looked for at the next read, whenever the last search was."""
        if outcome.status is Status.ABSENT and name not in self._lost:
            self._lost.add(name)
            self._next_scan = self._reads

    def close(self) -> None:
        """Let the hands give everything back, and note in `unrestored` what could not be."""
        if self._closed:
            return
        self._closed = True
        self.let_go()
        if self._gpu is not None:
            self._gpu.close()
            self._tables.pop("nvml", None)
