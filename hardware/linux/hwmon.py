"""Hardware monitoring chips, found by name and device and never by number.

Files and units are those of the kernel's `Documentation/hwmon/sysfs-interface.rst`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from hardware.interface import Source
from hardware.linux.sysfs import AmbiguousDeviceError, FileCell, Output, Root

FILES = {
    "temp": "temp{}_input",
    "fan": "fan{}_input",
    "pwm": "pwm{}",
    "power_average": "power{}_average",
    "power_cap": "power{}_cap",
    "freq": "freq{}_input",
    "gpu_busy_percent": "gpu_busy_percent",
}
"""The file of each attribute, with its index. `gpu_busy_percent` lies in the chip's device and has none."""

MANUAL = 1
"""`pwmN_enable` while a program sets the fan."""


@dataclass(frozen=True, slots=True)
class Chip:
    """A chip: its `name`, its resolved `directory`, the resolved path of its `device`, and the `files` it has."""

    name: str
    directory: str
    device: str
    files: frozenset[str]
    device_files: frozenset[str]

    @property
    def device_name(self) -> str:
        """What tells the device from others of the same name, such as its PCI address."""
        return self.device.rpartition("/")[2]


def base(attribute: str) -> str:
    """The part of the file name before the index: `power` for `power_average`."""
    return attribute.partition("_")[0]


def scan(root: Root) -> tuple[Chip, ...]:
    """All chips in the order of their device paths."""
    chips: list[Chip] = []
    for entry in root.names("sys/class/hwmon"):
        directory = root.resolve(root.absolute(f"sys/class/hwmon/{entry}"))
        if directory is None:
            continue
        device = root.resolve(f"{directory}/device") if "device" in root.names(directory) else None
        chips.append(
            Chip(
                root.read_word(f"{directory}/name"),
                directory,
                device or directory,
                frozenset(root.names(directory)),
                frozenset(root.names(device)) if device else frozenset(),
            )
        )
    return tuple(sorted(chips, key=lambda chip: (chip.device, chip.directory)))


def find(root: Root, chips: tuple[Chip, ...], source: Source) -> FileCell | str:
    """The file that `source` means, or the reason why there is none.

    The first of the accepted names that any chip matches wins, then the first label. A name may say which device it
    means: `amdgpu@0000:03:00.0`. Raises `AmbiguousDeviceError` for two matches.
    """
    match = _match(root, chips, source)
    if isinstance(match, str):
        return match
    chip, index = match
    if source.attribute == "gpu_busy_percent":
        return FileCell(root, f"{chip.device}/gpu_busy_percent")
    fault = f"{base(source.attribute)}{index}_fault"
    return FileCell(
        root,
        f"{chip.directory}/{FILES[source.attribute].format(index)}",
        f"{chip.directory}/{fault}" if fault in chip.files else None,
    )


def find_output(root: Root, chips: tuple[Chip, ...], source: Source) -> Output | str:
    """As `find`, for a file that is written. A fan with `pwmN_enable` is set to manual first and given back last."""
    match = _match(root, chips, source)
    if isinstance(match, str):
        return match
    chip, index = match
    value = FileCell(root, f"{chip.directory}/{FILES[source.attribute].format(index)}")
    if f"pwm{index}_enable" not in chip.files or source.attribute != "pwm":
        return Output(value.where, (value,), lambda raw: ((value, raw),))
    enable = FileCell(root, f"{chip.directory}/pwm{index}_enable")
    return Output(value.where, (value, enable), lambda raw: ((enable, MANUAL), (value, raw)))


def _match(root: Root, chips: tuple[Chip, ...], source: Source) -> tuple[Chip, int] | str:
    for wanted in source.names:
        name, _, device = wanted.partition("@")
        named = [chip for chip in chips if chip.name == name and device in ("", chip.device_name)]
        for label in source.labels or (None,):
            matches = [(chip, index) for chip in named for index in _indices(root, chip, source, label)]
            if len(matches) > 1:
                raise AmbiguousDeviceError(
                    f"{len(matches)} places match {wanted} {source.attribute} {label or ''}".rstrip()
                    + ": "
                    + ", ".join(
                        f"{root.where(chip.device)} (write {name}@{chip.device_name})" for chip, _index in matches
                    ),
                    tuple(root.where(chip.device) for chip, _index in matches),
                )
            if matches:
                return matches[0]
    label = f" labelled {', '.join(source.labels)}" if source.labels else ""
    return f"no hwmon chip called {' or '.join(source.names) or '(none named)'} has {source.attribute}{label}"


def _indices(root: Root, chip: Chip, source: Source, label: str | None) -> list[int]:
    """The indices at which the chip has the attribute, under `label` or at the source's own index."""
    if source.attribute == "gpu_busy_percent":
        return [source.index] if "gpu_busy_percent" in chip.device_files else []
    if label is None:
        return [source.index] if FILES[source.attribute].format(source.index) in chip.files else []
    labelled = re.compile(rf"{base(source.attribute)}(\d{{1,4}})_label")
    found = (int(match[1]) for file in sorted(chip.files) if (match := labelled.fullmatch(file)))
    return [
        index
        for index in found
        if FILES[source.attribute].format(index) in chip.files
        and root.read_word(f"{chip.directory}/{base(source.attribute)}{index}_label") == label
    ]
