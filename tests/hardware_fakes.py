"""What the tests of the backends share: a world that says what it is told, and machines made of files."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from hardware.interface import Status, Wiring
from twin.scenario import Machine
from twin.wiring import wiring

DESKTOP = wiring(Machine())


class FakeWorld:
    """Says `values` and `statuses`; keeps what it was told."""

    def __init__(self, machine: Wiring = DESKTOP) -> None:
        self.values: tuple[int | None, ...] = tuple(1_000_000 + 10_000 * n for n in range(len(machine.sensors)))
        self.statuses: tuple[Status, ...] = (Status.OK,) * len(machine.sensors)
        self.actuated: list[tuple[str, int]] = []
        self.released = 0

    def say(self, values: tuple[int | None, ...], statuses: tuple[Status, ...]) -> None:
        self.values, self.statuses = values, statuses

    def sense(self) -> tuple[tuple[int | None, ...], tuple[Status, ...]]:
        return self.values, self.statuses

    def actuate(self, name: str, value: int) -> None:
        self.actuated.append((name, value))

    def release(self) -> None:
        self.released += 1


class FakeClock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now_ns = 0

    def __call__(self) -> int:
        return self.now_ns


def put(root: Path, files: Mapping[str, object]) -> None:
    """Write files below `root`: path to content."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")


def add_chip(root: Path, number: int, device: str, name: str, files: Mapping[str, object]) -> Path:
    """A hwmon chip as the kernel shows it; returns its directory. Without `device` it is a virtual one."""
    parent = root / "sys/devices" / (device or "virtual")
    directory = parent / f"hwmon/hwmon{number}"
    put(directory, {"name": name, **files})
    if device:
        (directory / "device").symlink_to(os.path.relpath(parent, directory))
    link = root / f"sys/class/hwmon/hwmon{number}"
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(os.path.relpath(directory, link.parent))
    return directory


def add_zone(root: Path, place: str, name: str, files: Mapping[str, object]) -> Path:
    """A device `name` of a class directory (`thermal`, `powercap`), with its link."""
    directory = root / "sys/devices/virtual" / place / name
    put(directory, files)
    link = root / "sys/class" / place / name
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(os.path.relpath(directory, link.parent))
    return directory


def contents(root: Path) -> dict[str, bytes]:
    """Every file below `root`, to see whether anything was written."""

    def files() -> Iterator[tuple[str, bytes]]:
        for path in sorted(root.rglob("*")):
            if path.is_file() and not path.is_symlink():
                yield str(path.relative_to(root)), path.read_bytes()

    return dict(files())
