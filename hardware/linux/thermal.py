"""Thermal zones and cooling devices, found by type: the kernel's `Documentation/driver-api/thermal/sysfs-api.rst`."""

from __future__ import annotations

from dataclasses import dataclass

from hardware.interface import AmbiguousDeviceError, Source
from hardware.linux.output import Lane, Output
from hardware.linux.sysfs import FileCell, Root


@dataclass(frozen=True, slots=True)
class Zone:
    """A thermal zone: its `type`, its resolved `directory`, and the resolved path of its `device` (or its own)."""

    type: str
    directory: str
    device: str

    @property
    def device_name(self) -> str:
        """What tells the zone from others of the same type."""
        return self.device.rpartition("/")[2]


def scan(root: Root, prefix: str = "thermal_zone") -> tuple[Zone, ...]:
    """All zones (or, with the prefix `cooling_device`, those) in the order of their devices."""
    zones: list[Zone] = []
    for entry in root.names("sys/class/thermal"):
        directory = root.resolve(root.absolute(f"sys/class/thermal/{entry}"))
        if directory is not None and entry.startswith(prefix):
            device = root.resolve(f"{directory}/device") if "device" in root.names(directory) else None
            zones.append(Zone(root.read_word(f"{directory}/type"), directory, device or directory))
    return tuple(sorted(zones, key=lambda zone: (zone.device, zone.directory)))


def find(root: Root, zones: tuple[Zone, ...], source: Source) -> FileCell | str:
    """The temperature file of the first type in `source.names` that a zone has, or the reason why there is none.

    A type may say which device it means: `acpitz@LNXTHERM:00`. Raises `AmbiguousDeviceError` for two matches.
    """
    zone = _match(root, zones, source, "thermal zone")
    return zone if isinstance(zone, str) else FileCell(root, f"{zone.directory}/temp")


def find_output(root: Root, devices: tuple[Zone, ...], source: Source) -> Output | str:
    """As `find`, for the state of a cooling device, which cools more the higher it is, up to its `max_state`.

    A source that divides by something else than 1 says by that how many states there are, and has to be right.
    """
    device = _match(root, devices, source, "cooling device")
    if isinstance(device, str):
        return device
    most = root.read_integer(f"{device.directory}/max_state").value
    if source.attribute != "cur_state" or most is None:
        return f"{root.where(device.directory)} has no {source.attribute} with a max_state"
    if source.divide not in (1, most):
        return f"{root.where(device.directory)} has states from 0 to {most}, and the scenario says {source.divide}"
    cell = FileCell(root, f"{device.directory}/cur_state")
    return Output(cell.where, (Lane(cell, 0, max(0, most)),), cooler=1)


def _match(root: Root, zones: tuple[Zone, ...], source: Source, what: str) -> Zone | str:
    for wanted in source.names:
        kind, _, device = wanted.partition("@")
        matches = [zone for zone in zones if zone.type == kind and device in ("", zone.device_name)]
        if len(matches) > 1:
            raise AmbiguousDeviceError(
                f"{len(matches)} {what}s have the type {wanted}: "
                + ", ".join(f"{root.where(zone.device)} (write {kind}@{zone.device_name})" for zone in matches),
                tuple(root.where(zone.device) for zone in matches),
            )
        if matches:
            return matches[0]
    return f"no {what} of type {' or '.join(source.names)}"


def trip_points(root: Root) -> dict[str, tuple[tuple[str, int], ...]]:
    """For each zone (`type@device`) its trip points that can be read: type and millidegrees Celsius, by number."""
    found: dict[str, tuple[tuple[str, int], ...]] = {}
    for zone in scan(root):
        points: list[tuple[str, int]] = []
        count = sum(name.startswith("trip_point_") and name.endswith("_temp") for name in root.names(zone.directory))
        for number in range(count):
            temperature = root.read_integer(f"{zone.directory}/trip_point_{number}_temp").value
            if temperature is not None:
                points.append((root.read_word(f"{zone.directory}/trip_point_{number}_type"), temperature))
        found[f"{zone.type}@{zone.device_name}"] = tuple(points)
    return found
