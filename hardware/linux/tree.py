"""A machine rendered as the `sys`, `proc` and `run` that Linux would show of it, in real files below a folder.

The backend of this package reads such a tree exactly as it reads a machine, and so does any other program that takes a
root. Sensors are files that are replaced as a whole; outputs are files that anyone may write.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from hardware.interface import Channel, Limit, Source, Status, Wiring, to_channel, to_raw
from hardware.linux.application import PORT, record_text, replace_text
from hardware.linux.hwmon import FILES, base
from hardware.linux.sysfs import Root

OWN_CHIP = "pulsetwin"
"""The hwmon chip with the outputs for which the wiring names no file."""

_AUTOMATIC = 2
_CRITICAL_MILLICELSIUS = 100_000
_GARBAGE = "?"
_OTHER_MEMORY = ("Buffers", "Cached", "Active", "Inactive", "Shmem", "SwapTotal", "SwapFree")
_CHIP_NAME = re.compile(r"[A-Za-z0-9_.:+-]*[A-Za-z0-9]")
_SENSOR_KINDS = {"cpufreq": ("scaling_cur_freq",), "powercap": ("energy_uj",), "stat": ("busy", "total")}
_OUTPUT_KINDS = {"cpufreq": ("scaling_max_freq",), "powercap": ("constraint_0_power_limit_uw",)}


def shown(wiring: Wiring) -> Wiring:
    """The same wiring with exactly one source for each channel: the file that shows it in a tree.

    That is the first source which can be a file and is not taken by another channel. A sensor without one is shown at
    the application port, an output without one by a chip of its own.
    """
    taken: set[tuple[object, ...]] = set()
    sensors = tuple(
        replace(channel, sources=(_choose(channel.sources, False, taken) or Source("application", channel.name),))
        for channel in wiring.sensors
    )
    outputs = tuple(
        replace(limit, sources=(_choose(limit.sources, True, taken) or _own(limit.name, number),))
        for number, limit in enumerate(wiring.outputs, 1)
    )
    return Wiring(sensors, outputs)


def _own(name: str, number: int) -> Source:
    attribute = "pwm" if name.endswith("_pwm") else "power_cap"
    return Source("hwmon", attribute, (f"{OWN_CHIP}@{OWN_CHIP}.0",), index=number)


def _choose(sources: tuple[Source, ...], output: bool, taken: set[tuple[object, ...]]) -> Source | None:
    for source in sources:
        if _is_file(source, output):
            narrow = _narrow(source)
            key = (narrow.kind, narrow.attribute, narrow.names, narrow.labels, narrow.index)
            if key not in taken:
                taken.add(key)
                return narrow
    return None


def _narrow(source: Source) -> Source:
    """The first of the accepted names and labels. A chip's name also says its device, so that no other matches."""
    names, labels = source.names[:1], source.labels[:1]
    if source.kind == "hwmon" and "@" not in names[0]:
        names = (f"{names[0]}@{names[0]}.0",)
    elif source.kind in ("cpufreq", "stat", "meminfo", "application"):
        names, labels = (), ()
    by_index = source.kind == "hwmon" and not labels and source.attribute != "gpu_busy_percent"
    return replace(source, names=names, labels=labels, index=source.index if by_index else 1)


def _is_file(source: Source, output: bool) -> bool:
    """Whether the tree can show the source; names that no kernel would print are left to the fallbacks."""
    if source.kind == "hwmon":
        written = source.attribute in ("pwm", "power_cap")
        return (
            source.attribute in FILES
            and written == output
            and bool(source.names)
            and all(_CHIP_NAME.fullmatch(part) for part in source.names[0].split("@", 1))
            and all(_is_line(label) for label in source.labels[:1])
        )
    if source.kind in ("thermal", "powercap"):
        named = bool(source.names) and _is_line(source.names[0]) and "@" not in source.names[0]
        if source.kind == "thermal" or not named:
            return named and not output
    elif source.kind in ("meminfo", "application"):
        return not output and source.attribute != "sequence" and re.fullmatch(r"[\w()]+", source.attribute) is not None
    return source.attribute in (_OUTPUT_KINDS if output else _SENSOR_KINDS).get(source.kind, ())


def _is_line(text: str) -> bool:
    # Longer than an attribute may be, and it could not be read back.
    return text.isprintable() and text == text.strip() and 0 < len(text.encode()) < 64


@dataclass(frozen=True, slots=True)
class _Leaf:
    """The file that shows sensor number `index`."""

    index: int
    path: str
    source: Source


class SysTree:
    """The tree of one machine. All sensors are 0 until the first `update`.

    `root` is a folder without `sys` and `proc`, or one that held a tree before; anything else raises ValueError.
    `initial` gives outputs their first values (else: their maximum, as on a machine that nobody has limited).
    """

    def __init__(self, root: Path, wiring: Wiring, initial: Mapping[str, int] | None = None) -> None:
        self._root = _prepare(root)
        self._staging = f"{self._root}/.pulsetwin/new"
        self._written: dict[str, str | None] = {}
        self._chips: dict[str, str] = {}
        self._indices: dict[tuple[str, str], dict[str, int]] = {}
        self._zones: dict[str, str] = {}
        self._power_zones: dict[str, str] = {}
        self._sequence = 0
        self._leaves: list[_Leaf] = []
        self._rows: dict[str, list[tuple[int, Source]]] = {"stat": [], "meminfo": [], "application": []}
        self.outputs: dict[str, tuple[str, Source]] = {}
        """Output to its file and to what the file's integer means."""
        self.wiring = shown(wiring)
        """Each channel with the one source that shows it here; it is this that a backend on the tree is given."""
        self._reader = Root(root)
        self._build(wiring, initial or {})
        zeros = (0,) * len(wiring.sensors)
        self.update(zeros, (Status.OK,) * len(zeros))

    # --- layout -------------------------------------------------------------------------------------------------------

    def _build(self, wiring: Wiring, initial: Mapping[str, int]) -> None:
        taken: set[tuple[object, ...]] = set()
        for channel in self.wiring.sensors:
            _choose(channel.sources, False, taken)
        sensors = [(index, channel, channel.sources[0]) for index, channel in enumerate(self.wiring.sensors)]
        # The other places where a real machine would show the channel show it here too.
        for index, channel in enumerate(wiring.sensors):
            while (source := _choose(channel.sources, False, taken)) is not None:
                sensors.append((index, channel, source))
        outputs = [(limit, limit.sources[0]) for limit in self.wiring.outputs]
        for source in (*(source for _index, _channel, source in sensors), *(source for _limit, source in outputs)):
            if source.kind == "hwmon" and not source.labels:
                key = (source.names[0], base(source.attribute))
                self._indices.setdefault(key, {})[f"\n{source.index}"] = source.index
        for index, channel, source in sensors:
            if source.kind in self._rows:
                self._rows[source.kind].append((index, source))
            else:
                self._leaves.append(_Leaf(index, self._sensor_path(channel, source), source))
        for limit, source in outputs:
            self.outputs[limit.name] = self._output_path(limit, source), source
            first = initial.get(limit.name, limit.maximum)
            self._write(self.outputs[limit.name][0], f"{to_raw(source, first)}\n")

    def _sensor_path(self, channel: Channel, source: Source) -> str:
        if source.kind == "thermal":
            return f"{self._zone(source.names[0])}/temp"
        if source.kind == "cpufreq":
            return f"{self._policy()}/{source.attribute}"
        if source.kind == "powercap":
            zone = self._power_zone(source.names[0])
            if channel.wrap is not None:
                self._write(f"{zone}/max_energy_range_uj", f"{to_raw(source, channel.wrap)}\n")
            return f"{zone}/{source.attribute}"
        return self._chip_path(source)

    def _output_path(self, limit: Limit, source: Source) -> str:
        low, high = to_raw(source, limit.minimum), to_raw(source, limit.maximum)
        if source.kind == "cpufreq":
            policy = self._policy()
            for name, value in (("cpuinfo_min_freq", low), ("cpuinfo_max_freq", high), ("scaling_min_freq", low)):
                self._write(f"{policy}/{name}", f"{value}\n")
            return f"{policy}/{source.attribute}"
        if source.kind == "powercap":
            zone = self._power_zone(source.names[0])
            self._write(f"{zone}/constraint_0_name", "long_term\n")
            self._write(f"{zone}/constraint_0_max_power_uw", f"{high}\n")
            return f"{zone}/{source.attribute}"
        path = self._chip_path(source)
        if source.attribute == "pwm":
            self._write(f"{path}_enable", f"{_AUTOMATIC}\n")
        else:
            self._write(f"{path}_min", f"{low}\n")
            self._write(f"{path}_max", f"{high}\n")
        return path

    def _chip_path(self, source: Source) -> str:
        directory = self._chip(source.names[0])
        if source.attribute == "gpu_busy_percent":
            return f"{directory}/device/gpu_busy_percent"
        kind = base(source.attribute)
        indices = self._indices.setdefault((source.names[0], kind), {})
        index = source.index
        if source.labels:
            if source.labels[0] not in indices:
                used = set(indices.values())
                indices[source.labels[0]] = next(n for n in range(1, len(used) + 2) if n not in used)
                label = f"{directory}/{kind}{indices[source.labels[0]]}_label"
                self._write(label, f"{source.labels[0]}\n")
            index = indices[source.labels[0]]
        return f"{directory}/{FILES[source.attribute].format(index)}"

    def _chip(self, name: str) -> str:
        """The class path of the chip `name@device`, made when it is first asked for."""
        if name not in self._chips:
            number = len(self._chips)
            chip, _, device = name.partition("@")
            bus = "pci0000:00" if device.count(":") == 2 else "platform"
            parent = f"{self._root}/sys/devices/{bus}/{device}"
            directory = f"{parent}/hwmon/hwmon{number}"
            _directory(directory)
            _link(f"{directory}/device", parent)
            self._write(f"{directory}/name", f"{chip}\n")
            self._chips[name] = f"{self._root}/sys/class/hwmon/hwmon{number}"
            _link(self._chips[name], directory)
        return self._chips[name]

    def _zone(self, kind: str) -> str:
        if kind not in self._zones:
            name = f"thermal_zone{len(self._zones)}"
            directory = f"{self._root}/sys/devices/virtual/thermal/{name}"
            _directory(directory)
            self._write(f"{directory}/type", f"{kind}\n")
            self._write(f"{directory}/trip_point_0_temp", f"{_CRITICAL_MILLICELSIUS}\n")
            self._write(f"{directory}/trip_point_0_type", "critical\n")
            self._zones[kind] = f"{self._root}/sys/class/thermal/{name}"
            _link(self._zones[kind], directory)
        return self._zones[kind]

    def _power_zone(self, name: str) -> str:
        if name not in self._power_zones:
            zone = f"intel-rapl:{len(self._power_zones)}"
            directory = f"{self._root}/sys/devices/virtual/powercap/intel-rapl/{zone}"
            _directory(directory)
            self._write(f"{directory}/name", f"{name}\n")
            self._power_zones[name] = f"{self._root}/sys/class/powercap/{zone}"
            _link(self._power_zones[name], directory)
        return self._power_zones[name]

    def _policy(self) -> str:
        processors = f"{self._root}/sys/devices/system/cpu"
        policy = f"{processors}/cpufreq/policy0"
        if not os.path.isdir(policy):  # noqa: PTH112
            _directory(policy)
            _directory(f"{processors}/cpu0")
            _link(f"{processors}/cpu0/cpufreq", policy)
            self._write(f"{policy}/scaling_governor", "performance\n")
            self._write(f"{policy}/related_cpus", "0\n")
        return policy

    # --- contents -----------------------------------------------------------------------------------------------------

    def update(self, values: tuple[int | None, ...], statuses: tuple[Status, ...]) -> None:
        """Show what the sensors say, in the wiring's order, so that it is read back exactly (in the file's quantum).

        ABSENT takes the file or line away, GARBAGE puts something there that is no number. A file cannot show the other
        statuses; they raise ValueError. Values that have not changed are not written again.
        """
        for channel, status in zip(self.wiring.sensors, statuses, strict=True):
            if status not in (Status.OK, Status.ABSENT, Status.GARBAGE):
                raise ValueError(f"{channel.name} is {status.name}, which a file cannot show")
        for leaf in self._leaves:
            token = _token(leaf.source, values[leaf.index], statuses[leaf.index])
            self._write(leaf.path, None if token is None else f"{token}\n")
        rows = {
            kind: {source.attribute: _token(source, values[index], statuses[index]) for index, source in members}
            for kind, members in self._rows.items()
        }
        self._write(f"{self._root}/proc/stat", _stat_text(rows["stat"].get("busy"), rows["stat"].get("total")))
        self._write(f"{self._root}/proc/meminfo", "".join(_meminfo_lines(rows["meminfo"])))
        self._sequence += 1
        record = {name: token for name, token in rows["application"].items() if token is not None}
        self._write(f"{self._root}/{PORT}", record_text(self._sequence, record))

    def commands(self) -> dict[str, int]:
        """The outputs as their files say now, not clamped; one whose file is no integer is left out."""
        found: dict[str, int] = {}
        for name, (path, source) in self.outputs.items():
            raw = self._reader.read_integer(path).value
            if raw is not None:
                found[name] = to_channel(source, raw)
        return found

    def _write(self, path: str, text: str | None) -> None:
        if path in self._written and self._written[path] == text:
            return
        self._written[path] = text
        if text is None:
            Path(path).unlink(missing_ok=True)
        else:
            replace_text(path, text, self._staging)


def _prepare(root: Path) -> str:
    """Make the folder ready and return its path; what an earlier tree left there is removed."""
    path = os.path.realpath(root)
    if path == "/":
        raise ValueError("a tree cannot be rendered at /; give it a folder of its own")
    old = [name for name in ("sys", "proc", "run") if os.path.lexists(f"{path}/{name}")]
    if old and not os.path.isdir(f"{path}/.pulsetwin"):  # noqa: PTH112
        raise ValueError(
            f"{root} has {', '.join(old)} that no tree of ours put there; give the tree a folder of its own"
        )
    for name in old:
        shutil.rmtree(f"{path}/{name}")
    for name in (".pulsetwin", "sys/class/hwmon", "sys/class/thermal", "sys/class/powercap", "proc"):
        _directory(f"{path}/{name}")
    _directory(os.path.dirname(f"{path}/{PORT}"))  # noqa: PTH120
    return path


def _directory(path: str) -> None:
    Path(path).mkdir(parents=True, exist_ok=True)


def _link(link: str, target: str) -> None:
    """A relative symbolic link, as the kernel makes them."""
    parent = os.path.dirname(link)  # noqa: PTH120
    Path(link).symlink_to(os.path.relpath(target, parent))


def _token(source: Source, value: int | None, status: Status) -> str | None:
    if status is Status.ABSENT:
        return None
    return _GARBAGE if value is None else str(to_raw(source, value))


def _stat_text(busy: str | None, total: str | None) -> str:
    """/proc/stat with these tokens: None is not there, `?` is garbage.

    Total time contains busy time. When only the total is there, it is therefore shown as idle time of one processor,
    and the line of all processors has nothing that could be added up.
    """
    if busy not in (None, _GARBAGE) and total not in (None, _GARBAGE):
        busy_ticks = int(busy or 0)
        system = busy_ticks // 4
        columns = f"{busy_ticks - system} 0 {system} {int(total or 0) - busy_ticks} 0 0 0 0 0 0"
        lines = f"cpu  {columns}\ncpu0 {columns}\n"
    else:
        lines = "" if busy is None else f"cpu  {busy} 0 0"
        if total is None:
            lines += "\n" if lines else ""
        elif busy is not None and total == _GARBAGE:
            lines += f" {_GARBAGE}\n"
        else:
            lines += "\n" if lines else ""
            lines += f"cpu0 0 0 0 {total}\n"
    return lines + "intr 0\nctxt 0\nbtime 0\nprocesses 1\nprocs_running 1\nprocs_blocked 0\n"


def _meminfo_lines(rows: dict[str, str | None]) -> Iterator[str]:
    """/proc/meminfo with these tokens; the other lines are what programs expect to find."""
    everything = {"MemTotal": None, "MemFree": rows.get("MemAvailable"), "MemAvailable": None, **rows}
    everything |= {key: "0" for key in _OTHER_MEMORY if key not in rows}
    for key, token in everything.items():
        if token is not None:
            yield f"{key + ':':<16}{token:>8} kB\n"
