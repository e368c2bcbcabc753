"""What the columns of a recording are, from their names: a quantity, its unit, and the part of the machine.

`cpu_temp_c`, `CPU Package [°C]`, `gpu0_power_w`, `temp_millicelsius`, `Core Temps (avg) [°C]`, `temperature.gpu`, ...
The order of columns says nothing: of several that would do, the one whose name fits best is taken, and of equals the
first in the order of names.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

Quantity = Literal["time", "temperature", "load", "power", "fan"]
Part = Literal["cpu", "gpu"]

UNITS: dict[Quantity, dict[str, str]] = {
    "time": {
        "ns": "ns", "nanoseconds": "ns", "us": "us", "µs": "us", "microseconds": "us", "ms": "ms", "msec": "ms",
        "millis": "ms", "milliseconds": "ms", "s": "s", "sec": "s", "secs": "s", "second": "s", "seconds": "s",
        "min": "min", "mins": "min", "minutes": "min", "h": "h", "hours": "h",
    },
    "temperature": {
        "c": "C", "°c": "C", "ºc": "C", "degc": "C", "deg": "C", "'c": "C", "celsius": "C", "k": "K", "kelvin": "K",
        "°f": "F", "f": "F", "degf": "F", "fahrenheit": "F", "mc": "mC", "m°c": "mC", "millic": "mC",
        "millicelsius": "mC", "millidegrees": "mC",
    },
    "load": {
        "%": "%", "percent": "%", "pct": "%", "perc": "%", "ratio": "1", "share": "1", "fraction": "1", "0..1": "1",
        "0-1": "1", "1": "1", "ppm": "ppm",
    },
    "power": {
        "kw": "kW", "kilowatts": "kW", "w": "W", "watt": "W", "watts": "W", "mw": "mW", "milliwatt": "mW",
        "milliwatts": "mW", "uw": "uW", "µw": "uW", "microwatt": "uW", "microwatts": "uW",
    },
    "fan": {"rpm": "rpm", "r/min": "rpm", "1/min": "rpm", "min-1": "rpm", "u/min": "rpm"},
}  # fmt: skip
"""The units of each quantity as they are written (in small letters), and what they are called here."""

_SURE = {quantity: set(units) - {"s", "c", "k", "f", "h", "min", "1", "deg"} for quantity, units in UNITS.items()}
_WORDS: dict[Quantity, set[str]] = {
    "temperature": {
        "temp",
        "temps",
        "temperature",
        "temperatures",
        "tmp",
        "tctl",
        "tdie",
        "tj",
        "thermal",
        "temperatur",
    },
    "load": {"load", "usage", "use", "util", "utilization", "utilisation", "utility", "busy", "auslastung", "last"},
    "power": {"power", "watt", "watts", "draw", "pwr", "ppt", "consumption", "leistung"},
    "fan": {"fan", "fans", "rpm", "tach", "tachometer", "lüfter", "luefter", "drehzahl"},
    "time": {
        "t",
        "time",
        "timestamp",
        "date",
        "datetime",
        "elapsed",
        "seconds",
        "monotonic",
        "uptime",
        "epoch",
        "ts",
        "zeit",
        "datum",
        "uhrzeit",
    },
}
_NEVER = {
    "limit", "limits", "tjmax", "distance", "margin", "critical", "crit", "target", "throttling", "throttle", "clock",
    "clocks", "freq", "frequency", "mhz", "ghz", "khz", "vid", "voltage", "volt", "volts", "pl1", "pl2", "dyn", "cap",
    "setpoint", "energy", "cycles", "pwm", "duty", "frame", "frametime", "latency", "phase", "remaining", "state",
    "status", "mode", "resistance", "residency", "event", "alert",
}  # fmt: skip
"""Words of columns that are none of the quantities, whatever else they say."""
_ELSEWHERE = {
    "ssd", "hdd", "nvme", "drive", "disk", "pch", "chipset", "vrm", "mos", "mosfet", "battery", "ambient", "room",
    "inlet", "outlet", "intake", "exhaust", "case", "chassis", "system", "sys", "systin", "board", "mainboard",
    "motherboard", "memory", "mem", "dimm", "ram", "vram", "hbm", "psu", "water", "coolant", "pump", "wifi", "radiator",
    "air", "skin", "charger", "display", "network", "swap", "dram", "uncore", "pin", "pcie", "rail", "slot", "npu",
    "bus", "video", "vid", "fb", "decode", "decoder", "encode", "encoder", "controller",
}  # fmt: skip
_CPU = {
    "cpu",
    "cpus",
    "core",
    "cores",
    "package",
    "pkg",
    "soc",
    "processor",
    "prozessor",
    "tctl",
    "tdie",
    "ccd",
    "ia",
    "coretemp",
}
_GPU = {"gpu", "graphics", "gfx", "nvidia", "vga", "dgpu", "igpu", "radeon", "geforce"}
_WHOLE = {"package", "pkg", "tctl", "tdie", "entire", "die", "edge", "soc"}
_TOTAL = {"total", "all", "overall", "avg", "average", "mean"}
_PIECE = {
    "max",
    "min",
    "hotspot",
    "hot",
    "spot",
    "junction",
    "peak",
    "highest",
    "maximum",
    "minimum",
    "thread",
    "input",
}
_SUMMARIES = _TOTAL | {"max", "min", "sum", "current", "value"}
_USUAL = {"load", "usage", "util", "utilization", "utilisation", "power", "temp", "temperature"}


@dataclass(frozen=True)
class Heading:
    """A column by its name: quantity (None: none that is known) and unit (empty: not said), words, and its device.

    `device` is the number of the card or processor of a machine that has several (`gpu3_temp_c`: 3; -1: none is named).
    """

    name: str
    quantity: Quantity | None
    unit: str
    words: tuple[str, ...]
    device: int = -1

    def fits(self, part: Part, primary: bool) -> float:
        """How well it is the quantity of `part`, 0 when it is not; a name without any part goes to the primary one."""
        words = set(self.words)
        if words & _ELSEWHERE:
            return 0.0
        is_gpu, is_cpu = bool(words & _GPU), bool(words & _CPU)
        if is_gpu != (part == "gpu") if is_gpu or is_cpu else not primary:
            return 0.0
        score = 10.0 if is_gpu or is_cpu else 5.0
        score += 4.0 * bool(words & _WHOLE) + 2.0 * bool(words & _TOTAL) + bool(words & {"cpu", "gpu"})
        score += bool(words & _USUAL) + 0.5 * bool(self.unit) - 3.0 * bool(words & _PIECE)
        if words & {"core", "cores", "ccd"} and part == "cpu":
            score -= 8.0 if any(word.isdigit() for word in self.words) else 2.0
        if any(re.fullmatch(r"(cpu|core|thread)[0-9]+", word) for word in words):
            score -= 6.0
        return max(score, 0.1)


def heading(name: str) -> Heading:
    """What the name of a column says."""
    text = _plain(name)
    bracket = re.search(r"[\[({]\s*([^\[\](){}]*?)\s*[\])}]\s*$", text)
    unit_text = bracket[1].lower() if bracket else ""
    if unit_text.startswith("% "):
        # A share of something: `[% TDP]`, `[% duty]`.
        unit_text = "%"
    if not any(unit_text in units for units in UNITS.values()):
        if bracket and bracket[0].startswith("[") and re.search("[a-z]", unit_text) and unit_text not in _SUMMARIES:
            # A unit of something else: `[MB]`, `[Yes/No]`, `[V]`.
            return Heading(name, None, "", (), _device(text))
        unit_text = ""
    bare = text[: bracket.start()] if unit_text and bracket else text
    chunks = [chunk for chunk in re.split(r"(?:[^\w°º%µ]|_)+", bare) if chunk]
    if not unit_text and len(chunks) > 1 and any(chunks[-1].lower() in units for units in UNITS.values()):
        unit_text = chunks[-1].lower()
        # Of a name like `load_1` the 1 is no unit, and of `cpu_temp_min` min is none.
        if unit_text == "1" or (unit_text == "min" and not _words(chunks[:-1]) & _WORDS["time"]):
            unit_text = ""
        elif unit_text not in _WORDS["fan"]:
            chunks = chunks[:-1]
    elif not unit_text and len(chunks) == 1 and chunks[0].lower() in _SURE["temperature"] | {"watts", "rpm"}:
        unit_text = chunks[0].lower()
    words = tuple(sorted(_words(chunks)))
    quantity = _quantity(set(words), unit_text)
    unit = "" if quantity is None else UNITS[quantity].get(unit_text, "")
    return Heading(name, quantity, unit, words, _device(text))


def _plain(name: str) -> str:
    """The name without what encodings make of a degree sign, which is anything beyond ASCII before a C or F."""
    text = re.sub(r"[^\x00-\x7f]+(?=[CF](?![A-Za-z]))", "°", name.strip())
    return unicodedata.normalize("NFKC", text).replace("\u03bc", "µ")


def _words(chunks: Iterable[str]) -> set[str]:
    found: set[str] = set()
    for chunk in chunks:
        parts = re.findall(r"[A-Z]+(?=[A-Z][a-z])|[A-ZÄÖÜ]?[a-zß-ÿ]+|[A-Z]+|[0-9]+", chunk)
        found |= {part.lower() for part in parts}
        # `pl1` and `cpu0` are words too, as `Fan1` is.
        found.add(chunk.lower())
    return found


def _quantity(words: set[str], unit: str) -> Quantity | None:
    if words & _NEVER:
        return None
    by_unit: tuple[Quantity, ...] = ("temperature", "power", "fan")
    by_word: tuple[Quantity, ...] = ("fan", "temperature", "load", "power")
    for quantity in by_unit:
        if unit in UNITS[quantity] and (unit in _SURE[quantity] or not words & _WORDS["time"]):
            return quantity
    for quantity in by_word:
        if words & _WORDS[quantity]:
            if unit and unit not in UNITS[quantity]:
                # A fan in percent is no speed, and an energy no power.
                return None
            return quantity
    if not unit and words & {"t", "p"} and words & (_CPU | _GPU):
        # T_cpu and P_cpu, as formulas have them.
        return "temperature" if "t" in words else "power"
    if words & _WORDS["time"] and (not unit or unit in UNITS["time"]):
        return "time"
    if unit in ("%", "percent", "pct") and words & (_CPU | _GPU):
        return "load"
    if not unit and words and words <= _CPU | _GPU and words & {"tctl", "tdie", "coretemp"}:
        return "temperature"
    if not unit and words - _TOTAL in ({"cpu"}, {"gpu"}):
        return "load"
    return None


def _device(text: str) -> int:
    found = re.search(r"(?:gpu|card|device|socket)[ _\-.#\[(]*([0-9]{1,3})(?![0-9]|-?pin)", text, re.IGNORECASE)
    return int(found[1]) if found else -1


def natural(name: str) -> tuple[tuple[bool, int, str], ...]:
    """A key that sorts names as people do: gpu2 before gpu10."""
    parts = re.findall(r"[0-9]{1,18}|[^0-9]+", name)
    return tuple((part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts)


def best(
    headings: Sequence[Heading], quantity: Quantity, part: Part, *, primary: bool, device: int | None = None
) -> Heading | None:
    """The column that fits `quantity` of `part` best, of `device` if that is given; None when none does."""
    fitting = [
        (heading.fits(part, primary), heading)
        for heading in headings
        if heading.quantity == quantity and (device is None or heading.device in (device, -1))
    ]
    fitting = [(score + 0.25 * (each.device == device), each) for score, each in fitting if score > 0.0]
    return min(fitting, key=lambda each: (-each[0], len(each[1].words), natural(each[1].name)))[1] if fitting else None


def best_room(headings: Sequence[Heading]) -> Heading | None:
    """The temperature of the air around the machine; None when there is none."""
    rooms = [each for each in headings if each.quantity == "temperature" and set(each.words) & {"ambient", "room"}]
    return min(rooms, key=lambda each: (len(each.words), natural(each.name))) if rooms else None


def names_devices(name: str) -> bool:
    """Whether a column says which of several cards or processors a row is of (`index`, `gpu_id`, `pci.bus_id`)."""
    words = set(re.findall(r"[a-z]+", name.lower()))
    return bool(words) and words <= {
        "index",
        "idx",
        "id",
        "uuid",
        "pci",
        "bus",
        "gpu",
        "cpu",
        "card",
        "device",
        "socket",
    }


def best_fan(headings: Sequence[Heading], part: Part) -> Heading | None:
    """The fan that cools `part`: its own, else one without a part, else one of the case; no pump, no other part's."""
    own, other = (_GPU, _CPU) if part == "gpu" else (_CPU, _GPU)
    fans = [each for each in headings if each.quantity == "fan" and "pump" not in each.words]
    fans = [each for each in fans if set(each.words) & own or not set(each.words) & other]

    def score(fan: Heading) -> int:
        words = set(fan.words)
        sure = bool(fan.unit) or bool(words & {"tach", "tachometer"})
        return 4 * bool(words & own) - 2 * bool(words & _ELSEWHERE) + sure

    return min(fans, key=lambda fan: (-score(fan), len(fan.words), natural(fan.name))) if fans else None


def best_time(headings: Sequence[Heading]) -> tuple[Heading, ...]:
    """The column of times, or a date and a time of day that belong together; empty when there is none."""
    times = [each for each in headings if each.quantity == "time"]
    dates = [each for each in times if each.words in (("date",), ("datum",))]
    clocks = [each for each in times if each.words in (("time",), ("zeit",), ("uhrzeit",)) and not each.unit]
    if len(dates) == 1 and len(clocks) == 1 and len(times) == 2:
        return dates[0], clocks[0]

    def score(time: Heading) -> float:
        words = set(time.words)
        return 2.0 * bool(time.unit) + bool(words & {"elapsed", "t", "time", "timestamp"}) - len(words) / 10.0

    return (min(times, key=lambda time: (-score(time), natural(time.name))),) if times else ()
