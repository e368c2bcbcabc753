"""NVML without a card: a library of C under the real binding, and the boards that it shows, in a file.

`nvml_library.c` is the library; it is compiled once a session, and whoever calls it, in whatever process, sees and sets
the boards that a test has mapped.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pynvml
import pytest

COMPILER = shutil.which("cc") or shutil.which("gcc")
FANS = 2
SOURCE = Path(__file__).with_suffix(".c")


class Board(ctypes.Structure):
    """Degrees, percent, megahertz and milliwatts; a `policy` of 1 is a program's, `locked` of 0 no locked clock."""

    _fields_ = (("uuid", ctypes.c_char * 48),
                *((name, ctypes.c_uint32) for name in ("temperature", "busy", "clock", "highest_clock", "milliwatts",
                                                       "limit", "lowest_limit", "highest_limit", "locked", "fans",
                                                       "lost")),
                ("policy", ctypes.c_uint32 * FANS), ("percent", ctypes.c_uint32 * FANS))  # fmt: skip


class _Failure(ctypes.Structure):
    _fields_ = (("name", ctypes.c_char * 56), ("code", ctypes.c_int32), ("hits", ctypes.c_uint32))


class _Machine(ctypes.Structure):
    _fields_ = (("count", ctypes.c_uint32), ("calls", ctypes.c_uint32), ("failures", _Failure * 8),
                ("boards", Board * 2))  # fmt: skip


class Boards:
    """Two boards in a file; `board` is the first of them."""

    def __init__(self, file: Path) -> None:
        file.write_bytes(bytes(ctypes.sizeof(_Machine)))
        with file.open("r+b") as opened:
            self._mapped = mmap.mmap(opened.fileno(), 0)
        self.machine = _Machine.from_buffer(self._mapped)
        self.file = file
        for number, board in enumerate(self.machine.boards):
            board.uuid = b"GPU-00000000-0000-0000-0000-00000000000%d" % number
            board.temperature, board.busy, board.clock, board.highest_clock = 61, 37, 1_500, 2_100
            board.milliwatts, board.limit, board.lowest_limit, board.highest_limit = 151_250, 220_000, 100_000, 300_000
            board.fans, board.percent = FANS, (30,) * FANS
        self.machine.count = 1

    @property
    def board(self) -> Any:
        return self.machine.boards[0]

    def fail(self, failures: Mapping[str, int]) -> None:
        """From now on these functions give these codes (`nvmlDevice*` is all that begin so), and all others work."""
        for place, failure in enumerate(self.machine.failures):
            name, code = list(failures.items())[place] if place < len(failures) else ("", 0)
            failure.name, failure.code, failure.hits = name.encode(), code, 0

    def hits(self) -> int:
        """How many calls have failed since."""
        return sum(failure.hits for failure in self.machine.failures)

    def set(self) -> tuple[int, int, tuple[int, ...], tuple[int, ...]]:
        """What programs have set: milliwatts, megahertz, who sets the fans, and to what."""
        board = self.board
        return board.limit, board.locked, tuple(board.policy), tuple(board.percent)


AS_IT_WAS = (220_000, 0, (0, 0), (30, 30))
"""What `Boards.set` says before and after."""


def compiled(folder: Path, *options: str) -> Path:
    """The library, in a folder of its own."""
    assert COMPILER is not None
    folder.mkdir(exist_ok=True)
    library = folder / "libnvidia-ml.so.1"
    subprocess.run([COMPILER, "-shared", "-fPIC", "-Wall", "-Werror", *options, "-o", library, SOURCE], check=True)
    return library


def installed(patch: pytest.MonkeyPatch, library: Path, file: Path) -> Boards:
    """The binding as it is in a process that has not used it yet, where `library` is what is found."""
    boards = Boards(file)
    patch.setattr(pynvml, "nvmlLib", None)
    patch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
    patch.setattr(pynvml, "CDLL", lambda name: ctypes.CDLL(str(library.with_name(name))))
    patch.setenv("NVML_BOARDS", str(file))
    # For processes that are started.
    patch.setenv("LD_LIBRARY_PATH", os.pathsep.join([str(library.parent), os.environ.get("LD_LIBRARY_PATH", "")]))
    return boards
