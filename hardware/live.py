"""A simulated world as a tree that other programs read and steer while it lives.

What `pwmN_enable` means is the kernel's `Documentation/hwmon/sysfs-interface.rst`: 0 is full speed, 1 is manual, and
from 2 on the firmware has the fan.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from hardware.interface import Limit, Source, Status, Wiring, to_channel, to_raw
from hardware.linux.sysfs import Root, parse_integer
from hardware.linux.tree import SysTree
from hardware.simulated import World

FULL_SPEED, MANUAL, AUTOMATIC, LAST_MODE = 0, 1, 2, 5


class LiveTree:
    """The tree of `world` below `root`, a folder for it alone. A context; at its end the tree is gone.

    `firmware` is what the world's outputs have now, and what a fan has whenever it is in automatic mode. Raises
    ValueError for a folder that holds something else, or in which another live tree is kept.
    """

    def __init__(self, world: World, wiring: Wiring, root: Path, firmware: Mapping[str, int]) -> None:
        self._world = world
        self._firmware = dict(firmware)
        self._limits = {limit.name: limit for limit in wiring.outputs}
        self._lock = _claim(root)
        try:
            self._tree = SysTree(root, wiring, firmware)
        except BaseException:
            os.close(self._lock)
            raise
        self._files = Root(root)
        with_mode = [name for name, (path, _) in self._tree.outputs.items() if os.path.exists(f"{path}_enable")]  # noqa: PTH110
        self._modes = dict.fromkeys(with_mode, AUTOMATIC)
        self.in_force = dict(firmware)
        """Output to the value that the world was told last."""
        self.changes = 0
        """How often another program has changed what is in force."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Take the tree away: a program that goes on reading must notice, and not see temperatures that stand still."""
        for name in ("sys", "proc", "run", ".pulsetwin"):
            # What marks the folder as a tree's goes last: cut short before that, it can be used again.
            shutil.rmtree(self._files.absolute(name), ignore_errors=True)
        os.close(self._lock)

    def show(self) -> None:
        """Bring what the world senses to the files; a reading that no file can show is absent."""
        values, statuses = self._world.sense()
        can_be_shown = (Status.OK, Status.ABSENT, Status.GARBAGE)
        self._tree.update(values, tuple(each if each in can_be_shown else Status.ABSENT for each in statuses))

    def take(self) -> None:
        """Bring what programs wrote to the world, and let each file say what became of it.

        Numbers are clamped to what the output takes. What is no number, or no mode, leaves what was, and so does a
        value for a fan that is not in manual mode.
        """
        for name, (path, source) in self._tree.outputs.items():
            value = self._asked(name, path, source, self._limits[name])
            if value != self.in_force[name]:
                self.in_force[name] = value
                self.changes += 1
                self._world.actuate(name, value)

    def _asked(self, name: str, path: str, source: Source, limit: Limit) -> int:
        low, high, last = (to_raw(source, value) for value in (limit.minimum, limit.maximum, self.in_force[name]))
        mode = MANUAL
        if name in self._modes:
            mode = self._modes[name] = self._settle(f"{path}_enable", self._modes[name], FULL_SPEED, LAST_MODE)
        if mode != MANUAL:
            low = high = high if mode == FULL_SPEED else to_raw(source, self._firmware[name])
        return to_channel(source, self._settle(path, last, low, high))

    def _settle(self, path: str, last: int, low: int, high: int) -> int:
        """What the file asks for, clamped, or `last`; the file then says so in the kernel's own form."""
        data, _ = self._files.read_bytes(path)
        asked = parse_integer(data).value
        value = min(high, max(low, last if asked is None else asked))
        text = b"%d\n" % value
        # An empty file is one that is being written at this moment.
        if data not in (b"", text):
            self._files.raw_write(path, text)
        return value


def _claim(root: Path) -> int:
    """A lock on the folder, which is made if it is not there. Raises ValueError when another tree lives in it."""
    root.mkdir(parents=True, exist_ok=True)
    lock = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise ValueError(f"another program keeps a live tree in {root}; give this one a folder of its own") from error
    return lock
