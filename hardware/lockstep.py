"""The simulated world through real files: rendered as a tree, read and written by the Linux backend."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from hardware.interface import Applied, Channel, Command, Limit, Readings, Wiring
from hardware.linux.adapter import LinuxHardware
from hardware.linux.hands import DirectHands
from hardware.linux.tree import SysTree
from hardware.simulated import World


class LockstepHardware:
    """Answers exactly as `SimulatedHardware` does for the same world, by way of the tree below `root`.

    `root` is a folder for the tree alone (in memory, such as below /dev/shm, it is several times as fast as on a disk);
    `elapsed_ns` gives the nanoseconds since the run began.
    """

    def __init__(self, world: World, wiring: Wiring, root: Path, elapsed_ns: Callable[[], int]) -> None:
        self._world = world
        self._wiring = wiring
        self._tree = SysTree(root, wiring)
        self._linux = LinuxHardware(root, self._tree.wiring, elapsed_ns, DirectHands(elapsed_ns), nvml=False)
        self._limits = MappingProxyType({limit.name: limit for limit in wiring.outputs})
        self._closed = False

    @property
    def sensors(self) -> tuple[Channel, ...]:
        """The wiring's sensors."""
        return self._wiring.sensors

    @property
    def limits(self) -> Mapping[str, Limit]:
        """The wiring's outputs by name."""
        return self._limits

    def read(self) -> Readings:
        """Render what the world senses, then read the files."""
        self._tree.update(*self._world.sense())
        return self._linux.read()

    def apply(self, command: Command) -> Applied:
        """Write the files, then give the world what they say of the channels that were asked for."""
        applied = self._linux.apply(command)
        if applied.values:
            files = self._tree.commands()
            for name in applied.values:
                self._world.actuate(name, files.get(name, applied.values[name]))
        return applied

    def close(self) -> None:
        """Restore the files and release the world, once."""
        if not self._closed:
            self._closed = True
            self._linux.close()
            self._world.release()
