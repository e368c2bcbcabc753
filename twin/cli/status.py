"""`twin status`: the ten steps of starting up, what each found, and what is off and why."""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hardware.linux.sysfs import Root
from twin import __version__
from twin.cli import DONE, output


@dataclass(frozen=True, slots=True)
class Step:
    """One step: its name, whether it is ready, and what was found or why it is off."""

    name: str
    ready: bool
    found: tuple[str, ...]


def main(options: argparse.Namespace) -> int:
    """Show every step. Nothing is written and no kernel is compiled."""
    steps = survey(Path(options.root))
    if options.json:
        found = [{"name": step.name, "ready": step.ready, "found": list(step.found)} for step in steps]
        output.print_json({"version": __version__, "steps": found})
        return DONE
    # Plain text, because importing a table printer would take longer than everything else here.
    for number, step in enumerate(steps, 1):
        first, *more = step.found
        print(f"{number:2}  {'ready' if step.ready else 'off  '}  {step.name:18} {first}")
        for line in more:
            print(f"{'':30}{line}")
    return DONE


def survey(root: Path) -> list[Step]:
    """The ten steps, in the order in which a run takes them."""
    machine = _machine(root)
    return [
        Step("python", sys.version_info >= (3, 11), (f"{sys.version.split()[0]} on {sys.platform}",)),
        _kernels(),
        _scenarios(),
        _clocks(),
        *(machine(name, belongs) for name, belongs in _MACHINE_STEPS),
        _crystal(),
    ]


_FANS = ("_rpm", "_pwm")
_MACHINE_STEPS: tuple[tuple[str, Callable[[str], bool]], ...] = (
    ("temperatures", lambda name: name.endswith("_temp_millicelsius")),
    ("fans", lambda name: name.endswith(_FANS)),
    (
        "processor, memory",
        lambda name: name.startswith(("cpu_", "memory_")) and not name.endswith(("_temp_millicelsius", *_FANS)),
    ),
    ("graphics", lambda name: name.startswith("gpu_") and not name.endswith(("_temp_millicelsius", *_FANS))),
    ("application port", lambda name: name.startswith(("frame_", "frames_", "game_", "words_"))),
)


def _kernels() -> Step:
    asked = os.environ.get("TWIN_KERNELS", "")
    there = importlib.util.find_spec("numba") is not None
    if asked not in ("", "python", "numba") or (asked == "numba" and not there):
        return Step("kernels", False, (f"TWIN_KERNELS is {asked!r}; allowed are python and numba (if installed)",))
    if asked == "python":
        return Step("kernels", True, ("interpreted, as TWIN_KERNELS=python asks",))
    if not there:
        return Step("kernels", True, ("interpreted; pip install numba makes ticks about 150 times faster",))
    return Step("kernels", True, ("compiled by numba",))


def _scenarios() -> Step:
    package = importlib.util.find_spec("scenarios")
    places = (package and package.submodule_search_locations) or ()
    names = sorted(path.stem for place in places for path in Path(place).glob("*.toml"))
    return Step("scenarios", bool(names), (", ".join(names) or "none found; install the package again",))


def _clocks() -> Step:
    if not hasattr(time, "CLOCK_BOOTTIME"):
        return Step("clocks", False, ("no boot clock: a suspend cannot be noticed here",))
    nanoseconds = time.clock_getres(time.CLOCK_MONOTONIC) * 1e9
    return Step("clocks", True, (f"monotonic, to {nanoseconds:.0f} ns; boot clock for suspends",))


_POOL_BYTES = 1 << 28
_POOL_BASE = 0x7FFF0000


def _crystal() -> Step:
    """Whether a memory pool of the usual size can be had, and where it would lie. No pool is made."""
    if not hasattr(os, "memfd_create"):
        return Step("Crystal Core", False, ("no memfd here: the memory pool needs Linux",))
    try:
        figures = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines() if ":" in line)
        available = int(figures["MemAvailable"].split()[0]) * 1_024
        taken = [tuple(int(end, 16) for end in line.split(" ", 1)[0].split("-"))
                 for line in Path("/proc/self/maps").read_text().splitlines()]  # fmt: skip
    except (OSError, ValueError, KeyError, IndexError) as error:
        return Step("Crystal Core", False, (f"cannot tell how much memory there is: {type(error).__name__}: {error}",))
    if available < _POOL_BYTES:
        return Step("Crystal Core", False, (f"256 MB are needed and {available >> 20:,} MB are available; "
                                            "--set pool.size_bytes= makes the pool smaller",))  # fmt: skip
    if platform.machine() != "x86_64":
        where = f"mapped anywhere, because only x86-64 has {_POOL_BASE:#x} free by custom"
    elif any(low < _POOL_BASE + _POOL_BYTES and high > _POOL_BASE for low, high in taken):
        where = f"mapped elsewhere than {_POOL_BASE:#x}, because something lies there"
    else:
        where = f"mapped at {_POOL_BASE:#x}, which is free"
    return Step("Crystal Core", True, (f"256 MB of shared memory with --crystal, {where}",))


def _machine(root: Path) -> Callable[[str, Callable[[str], bool]], Step]:
    """Open the Linux backend for reading; what it found is then sorted into steps."""
    try:
        from hardware.linux.adapter import LinuxHardware
        from hardware.linux.thermal import trip_points
        from twin.scenario import Machine
        from twin.wiring import wiring

        hardware = LinuxHardware(root, wiring(Machine()), time.monotonic_ns)
        found, missing = dict(hardware.found), dict(hardware.missing)
        hardware.close()
        trips = trip_points(Root(root))
        left = _journal(Root(root))
    except Exception as error:  # a survey reports whatever is wrong
        words = (f"{type(error).__name__}: {error}",)
        return lambda name, _: Step(name, False, words)

    def step(name: str, belongs: Callable[[str], bool]) -> Step:
        there = {channel: place for channel, place in found.items() if belongs(channel)}
        off = {channel: why for channel, why in missing.items() if belongs(channel)}
        words = [f"{channel} at {place}" for channel, place in there.items()]
        words += [f"{', '.join(channels)} off: {why}" for why, channels in _by_reason(off).items()]
        if name == "fans" and left:
            words.append(left)
        if name == "temperatures":
            words += [f"trips of {zone}: {_trip_words(points)}" for zone, points in trips.items() if points]
        return Step(name, bool(there), tuple(words) or ("nothing of the kind in the default machine",))

    return step


def _journal(root: Root) -> str:
    """What a journal that lies there means, or nothing."""
    from hardware.journal import FOLDER, Journal, JournalError

    journal = Journal(root.absolute(FOLDER))
    try:
        found = journal.read()
    except JournalError as error:
        return str(error)
    if found is None:
        return ""
    names = ", ".join(str(entry.get("name")) for entry in found[0]) or "nothing"
    return f"a guardian acts, or was killed: its journal has {names}; when none is running, twin restore gives it back"


def _trip_words(points: tuple[tuple[str, int], ...]) -> str:
    return ", ".join(f"{kind} at {millicelsius // 1_000} C" for kind, millicelsius in points)


def _by_reason(off: dict[str, str]) -> dict[str, list[str]]:
    reasons: dict[str, list[str]] = {}
    for channel, why in off.items():
        reasons.setdefault(why, []).append(channel)
    return reasons
