"""Hardware monitoring chips, found by name and device and never by number.

Files and units are those of the kernel's `Documentation/hwmon/sysfs-interface.rst`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from hardware.interface import AmbiguousDeviceError, Source, Status
from hardware.linux.output import Lane, Output
from hardware.linux.sysfs import FileCell, Outcome, Root

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


@dataclass(frozen=True, slots=True)
class Driver:
    """What `pwmN_enable` means to a driver; the kernel leaves all but 1 to it.

    `manual` lets a program set the fan and `full` is full speed, None where there is no such value. `blind` drivers
    refuse to read the PWM unless it is manual. `settle_ms` is how long read values may be old.
    """

    manual: int = 1
    full: int | None = 0
    blind: bool = False
    settle_ms: int = 2_000


DRIVERS = {
    "amc6821": Driver(full=None),
    "gpdfan": Driver(blind=True),
    "dell_smm": Driver(full=None, blind=True),
    "max31785": Driver(settle_ms=1_000),
    "amdgpu": Driver(settle_ms=1_000),
    "pwmfan": Driver(full=None, settle_ms=100),
}
"""Drivers by the name of the chip, from the kernel's `Documentation/hwmon`; all others are as `Driver()` says.

dell_smm up to Linux 6.17 has one `pwm1_enable` for all fans, which can be written and not be read: nobody can tell what
to give back, and the fan is refused. Since 6.18 most machines have one for each fan, which shows 1 or 2.

Automatic modes need no table: whatever the driver showed is what is given back, after it was seen to be accepted.
"""


class SensorCell(FileCell):
    """A sensor with a file `fault` that shows 1 while it is broken."""

    def __init__(self, root: Root, path: str, fault: str) -> None:
        super().__init__(root, path)
        self._fault = fault

    def read(self) -> Outcome:
        """The file's integer; UNREADABLE while the sensor reports a fault."""
        if self._root.read_integer(self._fault).value == 1 and self._gone() is None:
            return Outcome(None, Status.UNREADABLE, f"the sensor reports a fault: {self._root.where(self._fault)}")
        return super().read()


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
    path = f"{chip.directory}/{FILES[source.attribute].format(index)}"
    return SensorCell(root, path, f"{chip.directory}/{fault}") if fault in chip.files else FileCell(root, path)


def find_output(root: Root, chips: tuple[Chip, ...], source: Source) -> Output | str:
    """As `find`, for a file that is written. A fan with `pwmN_enable` is set to manual first and given back last."""
    match = _match(root, chips, source)
    if isinstance(match, str):
        return match
    chip, index = match
    value = FileCell(root, f"{chip.directory}/{FILES[source.attribute].format(index)}")
    driver = DRIVERS.get(chip.name, Driver())
    interval_ms = root.read_integer(f"{chip.directory}/update_interval").value
    # Between 0.1 and 10 s, whatever the chip says.
    settle_ns = min(10_000, max(100, driver.settle_ms if interval_ms is None else interval_ms)) * 1_000_000
    if source.attribute != "pwm":
        low, high = (root.read_integer(f"{value.path}_{end}").value for end in ("min", "max"))
        lane = Lane(value) if low is None or high is None or low > high else Lane(value, low, high)
        return Output(value.where, (lane,), settle_ns=settle_ns)
    fan = f"fan{index}_input"
    tach = FileCell(root, f"{chip.directory}/{fan}") if fan in chip.files else None
    if f"pwm{index}_enable" in chip.files:
        mode = FileCell(root, f"{chip.directory}/pwm{index}_enable")
        lane = Lane(value, 0, 255, mode, driver.manual, driver.full, blind=driver.blind)
    else:
        lane = Lane(value, 0, 255)
    return Output(value.where, (lane,), 1, tach, settle_ns)


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
    said = f"{source.attribute} labelled {', '.join(source.labels)}"
    looked_for = said if source.labels else FILES[source.attribute].format(source.index)
    return f"no hwmon chip called {' or '.join(source.names) or '(none named)'} has {looked_for}"


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
