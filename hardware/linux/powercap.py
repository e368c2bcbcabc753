"""Energy counters and power limits, in microjoules and microwatts. See the kernel's `Documentation/power/powercap`."""

from __future__ import annotations

from dataclasses import dataclass

from hardware.interface import AmbiguousDeviceError, Source
from hardware.linux.output import MOST, Lane, Output
from hardware.linux.sysfs import FileCell, Root


@dataclass(frozen=True, slots=True)
class PowerZone:
    """A zone: its `name`, its control type (`intel-rapl`, `intel-rapl-mmio`), its resolved `directory`, its `files`."""

    name: str
    control: str
    directory: str
    files: frozenset[str]


def scan(root: Root) -> tuple[PowerZone, ...]:
    """All zones, those of the processor's registers (`intel-rapl`) first."""
    zones: list[PowerZone] = []
    for entry in root.names("sys/class/powercap"):
        directory = root.resolve(root.absolute(f"sys/class/powercap/{entry}"))
        if directory is not None and ":" in entry:
            name = root.read_word(f"{directory}/name")
            zones.append(PowerZone(name, entry.partition(":")[0], directory, frozenset(root.names(directory))))
    return tuple(sorted(zones, key=lambda zone: (zone.control != "intel-rapl", zone.control, zone.directory)))


def find(root: Root, zones: tuple[PowerZone, ...], source: Source) -> tuple[FileCell, int | None] | str:
    """The counter and its largest value (None when the kernel does not tell), or the reason why there is none.

    The same zone may be shown under two control types, which count the same; the first is taken. Raises
    `AmbiguousDeviceError` for two matches under one.
    """
    matches = _matches(root, zones, source)
    if isinstance(matches, str):
        return matches
    wrap = root.read_integer(f"{matches[0].directory}/max_energy_range_uj").value
    return FileCell(root, f"{matches[0].directory}/{source.attribute}"), wrap


def find_output(root: Root, zones: tuple[PowerZone, ...], source: Source) -> Output | str:
    """The limit under every control type, since the lowest of them is in force, or the reason why there is none."""
    matches = _matches(root, zones, source)
    if isinstance(matches, str):
        return matches
    lanes = tuple(_lane(root, zone, source) for zone in matches)
    return Output(", ".join(lane.value.where for lane in lanes), lanes)


def _lane(root: Root, zone: PowerZone, source: Source) -> Lane:
    # A zone that names no largest limit shows 0, or nothing.
    most = root.read_integer(f"{zone.directory}/{source.attribute.replace('_power_limit_uw', '_max_power_uw')}").value
    return Lane(FileCell(root, f"{zone.directory}/{source.attribute}"), 0, most or MOST)


def _matches(root: Root, zones: tuple[PowerZone, ...], source: Source) -> list[PowerZone] | str:
    for name in source.names:
        matches = [zone for zone in zones if zone.name == name and source.attribute in zone.files]
        controls = [zone.control for zone in matches]
        if len(set(controls)) != len(controls):
            candidates = tuple(root.where(zone.directory) for zone in matches)
            raise AmbiguousDeviceError(
                f"{len(matches)} powercap zones are called {name}: {', '.join(candidates)}", candidates
            )
        if matches:
            return matches
    return f"no powercap zone called {' or '.join(source.names)} has {source.attribute}"
