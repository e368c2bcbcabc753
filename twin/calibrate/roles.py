"""Which column of a recording is what: found by its heading, or as somebody mapped it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from twin.calibrate import headings
from twin.calibrate.headings import UNITS, Heading, Part, Quantity
from twin.calibrate.recording import RecordingError

ROOM = "ambient_temp"
"""The role of the air around the machine."""
MOST_NAMED = 40
"""So many columns are named in a message at most."""
KINDS = ("cpu", "gpu", "board", "laptop")
QUANTITIES: dict[str, Quantity] = {
    "temp": "temperature", "temperature": "temperature", "load": "load", "power": "power", "fan": "fan",
    "fan_rpm": "fan", "rpm": "fan", "time": "time",
}  # fmt: skip


@dataclass(frozen=True)
class Choice:
    """What somebody who reads a recording asks for.

    `mapped` are columns by role (`cpu_temp`, `gpu_power`, `load`, `fan_rpm`, `case_temp`, `time`), each with its unit
    or an empty text; `device` is the number of the card or processor; `where` picks rows by the texts in columns;
    `sensors` and `fans` name further sensors and fans of the machine to look for.
    """

    kind: str
    mapped: Mapping[str, str] = field(default_factory=dict)
    device: int | None = None
    where: Mapping[str, str] = field(default_factory=dict)
    sensors: Sequence[str] = ()
    fans: Sequence[str] = ()

    @property
    def part(self) -> Part:
        """Which processor the recording is of."""
        return "gpu" if self.kind == "gpu" else "cpu"


def parse_map(items: Sequence[str]) -> dict[str, str]:
    """`role=COLUMN[:unit]` items as role -> `COLUMN[:unit]`. Raises `RecordingError` with every one that is wrong."""
    found: dict[str, str] = {}
    wrong = []
    for item in items:
        role, equals, column = item.partition("=")
        role = role.strip().lower()
        if not equals or not column.strip():
            wrong.append(f"--map {item!r}: write ROLE=COLUMN or ROLE=COLUMN:UNIT, for example --map cpu_temp=Tctl:C")
        elif quantity_of(role) is None:
            wrong.append(f"--map {item!r}: there is no role {role!r}; roles are time, temp, load, power and fan_rpm, "
                         "the middle three with cpu_ or gpu_ before them, temp with any sensor")  # fmt: skip
        elif role in found:
            wrong.append(f"--map {item!r}: {role} is mapped more than once; once is enough")
        else:
            found[role] = column.strip()
    if wrong:
        raise RecordingError("\n".join(wrong) if len(wrong) == 1 else listed("--map", wrong))
    return found


def listed(where: str, problems: Sequence[str]) -> str:
    """All problems as one message, a line each when there are several."""
    if len(problems) == 1:
        return f"{where}{problems[0]}"
    return "\n".join([f"{where}: {len(problems)} errors", *(f"  - {text.lstrip(', :')}" for text in problems)])


def some(names: Sequence[str]) -> str:
    """Names in a row, of many the first, none of them endless."""
    shown = ", ".join(name if len(name) <= 80 else f"{name[:80]}..." for name in names[:MOST_NAMED])
    return shown if len(names) <= MOST_NAMED else f"{shown} and {len(names) - MOST_NAMED} more"


def quantity_of(role: str) -> Quantity | None:
    """What a role is of; None when there is no such role."""
    if role in QUANTITIES:
        return QUANTITIES[role]
    before, _, last = role.rpartition("_")
    if last in ("load", "power"):
        return QUANTITIES[last] if before in ("cpu", "gpu") else None
    if role.endswith("_fan_rpm"):
        return "fan"
    return QUANTITIES.get(last) if before and last in ("temp", "temperature", "rpm") else None


class Roles:
    """The columns of a file by role, each with its unit: as mapped, else as the name says, else empty.

    `problems` and `notes` are sentences about the file at `path`; `given` are columns that need not be looked for.
    """

    def __init__(self, path: Path, found: Sequence[Heading], choice: Choice, given: Mapping[str, str]) -> None:
        self._path = path
        self._headings = list(found)
        self._names = [heading.name for heading in found]
        self._choice = choice
        self._given = given
        self.problems: list[str] = []
        self.notes: list[str] = []
        self.roles = self._find()

    def _find(self) -> dict[str, tuple[Heading, str]]:
        found: dict[str, tuple[Heading, str]] = {}
        part = self._choice.part
        aliases = {"temperature": f"{part}_temp", "temp": f"{part}_temp", "load": f"{part}_load",
                   "power": f"{part}_power", "fan": "fan_rpm", "rpm": "fan_rpm"}  # fmt: skip
        for role, text in self._given.items():
            role = aliases.get(role, re.sub(r"temperature$", "temp", role))
            quantity = quantity_of(role)
            heading, unit = self._mapped(role, text, quantity)
            if heading is not None:
                found[role] = (heading, unit)
        device = self._device(found)
        free = [each for each in self._headings if all(each is not taken for taken, _ in found.values())]
        if "time" not in found:
            for place, time in enumerate(headings.best_time(free)):
                found["time" if place == 0 else "time of day"] = (time, time.unit)
        other: Part = "cpu" if part == "gpu" else "gpu"
        wanted: list[tuple[Part, str, Quantity]] = [
            (each, short, QUANTITIES[short]) for each in (part, other) for short in ("temp", "load", "power")
        ]
        for each, short, quantity in wanted:
            if f"{each}_{short}" not in found:
                chosen = headings.best(
                    free, quantity, each, primary=each == part, device=device if each == part else None
                )
                if chosen is not None:
                    found[f"{each}_{short}"] = (chosen, chosen.unit)
        self._fans(found, free)
        room = headings.best_room(free)
        if ROOM not in found and room is not None:
            found[ROOM] = (room, room.unit)
        for sensor in self._choice.sensors:
            same = [each for each in free if each.quantity == "temperature" and sensor.lower() in each.words]
            if f"{sensor}_temp" not in found and same:
                chosen = min(same, key=lambda each: (len(each.words), headings.natural(each.name)))
                found[f"{sensor}_temp"] = (chosen, chosen.unit)
        self._required(found)
        return found

    def _fans(self, found: dict[str, tuple[Heading, str]], free: Sequence[Heading]) -> None:
        for name in self._choice.fans:
            words = set(name.lower().split("_"))
            own = [each for each in free if each.quantity == "fan" and words <= set(each.words)]
            if f"{name}_rpm" not in found and own:
                chosen = min(own, key=lambda each: (len(each.words), headings.natural(each.name)))
                found[f"{name}_rpm"] = (chosen, chosen.unit)
        if "fan_rpm" not in found:
            fan = headings.best_fan(self._headings, self._choice.part)
            if fan is not None:
                found["fan_rpm"] = (fan, fan.unit)

    def _mapped(self, role: str, text: str, quantity: Quantity | None) -> tuple[Heading | None, str]:
        header = self._names
        name, unit = text, ""
        if text not in header and ":" in text:
            name, _, unit = text.rpartition(":")
        same = [each for each in header if each == name] or [each for each in header if each.lower() == name.lower()]
        if not same:
            self.problems.append(f": --map {role}={text}: there is no column {name!r}; the file has: {some(header)}")
            return None, ""
        heading = self._headings[header.index(same[0])]
        if quantity is None or not unit:
            return heading, heading.unit if heading.quantity == quantity else ""
        known = UNITS[quantity]
        base, slash, divisor = unit.lower().partition("/")
        if base not in known or (slash and (quantity != "load" or not divisor.isdigit() or int(divisor) == 0)):
            allowed = sorted(set(known.values()), key=str.lower)
            more = ", and %/N for a sum over N cores" if quantity == "load" else ""
            self.problems.append(f": --map {role}={text}: there is no unit {unit!r} of a {quantity}; allowed are "
                                  f"{', '.join(allowed)}{more}")  # fmt: skip
            return None, ""
        return heading, known[base] + (f"/{divisor}" if slash else "")

    def _device(self, found: Mapping[str, tuple[Heading, str]]) -> int | None:
        """The number of the device that is read; None where columns have none."""
        part = self._choice.part
        there = sorted({
            each.device for each in self._headings
            if each.quantity in ("temperature", "power", "load") and each.device >= 0 and each.fits(part, primary=False)
        })  # fmt: skip
        wanted = self._choice.device
        if wanted is not None:
            if wanted not in there:
                names = ", ".join(map(str, there)) or "none"
                self.problems.append(f": --device {wanted}: there is no {part} with that number; there are {names}")
            return wanted
        mapped = sorted({heading.device for role, (heading, _) in found.items() if role.startswith(f"{part}_")} - {-1})
        if mapped:
            return mapped[0]
        if len(there) > 1:
            self.notes.append(f"{self._path}: there are {len(there)} devices ({', '.join(map(str, there))}); {part} "
                              f"{there[0]} is taken, --device N takes another")  # fmt: skip
        return there[0] if there else None

    def _required(self, found: Mapping[str, object]) -> None:
        part = self._choice.part
        needed = []
        if "time" not in found:
            needed.append("a time (such as t_s; or --map time=COLUMN:UNIT)")
        if f"{part}_temp" not in found:
            needed.append(f"the {part}'s temperature (such as {part}_temp_c; or --map {part}_temp=COLUMN:UNIT)")
        if not {f"{part}_load", f"{part}_power", "fan_rpm"} & set(found):
            needed.append(f"what drives it: a load (such as {part}_load), a power ({part}_power_w) or a fan (fan_rpm); "
                          f"or --map {part}_load=COLUMN:UNIT")  # fmt: skip
        if needed:
            self.problems.append(f", line 1: missing is {', and '.join(needed)}; found are {self._found()}")

    def _found(self) -> str:
        known = [f"{each.name} ({each.quantity})" for each in self._headings if each.quantity is not None]
        return some([*known, *(each.name for each in self._headings if each.quantity is None)])
