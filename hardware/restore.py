"""Giving back what a journal says, by whoever has the lease of the machine: a guardian when it starts, or by hand."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

from hardware.journal import FOLDER, Journal
from hardware.linux.output import MOST, Output, Place, checked, integer, place, rebuilt
from hardware.linux.sysfs import Cell, FileCell, Root

LEASE = "lease"
GIVE_BACK_SECONDS = 1.0
"""So long giving back one output may take, before the next one has its turn."""
DAEMONS = ("fancontrol", "thermald", "coolercontrold", "fan2go", "thinkfan", "nbfc_service", "afancontrol")
"""Programs that write to the same outputs, by the names of their processes."""


class RefusedError(ValueError):
    """The guardian cannot or will not act; the message says why and what mends it."""


def lease(folder: str) -> int:
    """The one lease of a machine, as an open descriptor. Raises `RefusedError` when somebody else has it."""
    path = f"{folder}/{LEASE}"
    try:
        os.makedirs(folder, 0o755, exist_ok=True)  # noqa: PTH103
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise RefusedError(f"{path}: {error.strerror}; run as root, or make {folder} writable for this user") from error
    # One that was killed a moment ago is still being taken apart.
    for _attempt in range(20):
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.pwrite(descriptor, b"%-10d" % os.getpid(), 0)
            return descriptor
        time.sleep(0.01)
    holder = os.pread(descriptor, 64, 0).decode("ascii", "replace").partition(" ")[0].strip()
    os.close(descriptor)
    raise RefusedError(f"{path}: process {holder} acts on this machine already; end it first")


def ended_ns(leased: int) -> int:
    """When the session before gave its outputs back, on the boot clock; long before it when nobody knows of one."""
    words = os.pread(leased, 64, 0).split()
    return int(words[1]) if len(words) == 2 and words[1].isdigit() else -(1 << 62)


def leave(leased: int) -> None:
    """Give the lease up, for the next one to know when everything was given back. A full disk keeps nobody."""
    with contextlib.suppress(OSError):
        os.pwrite(leased, b"%-10d %d\n" % (0, time.clock_gettime_ns(time.CLOCK_BOOTTIME)), 0)
    os.close(leased)


def refuse_daemons(root: Root) -> None:
    """Raises `RefusedError`, with the name, when a program is running that writes to the same outputs."""
    for process in root.names("proc"):
        name = root.read_word(root.absolute(f"proc/{process}/comm")) if process.isdigit() else ""
        if name in DAEMONS:
            raise RefusedError(f"{name} (process {process}) controls this machine's cooling; stop it first")


def library(where: str) -> Cell:
    """A place that is no file. Raises ValueError when there is none of that name."""
    from hardware.linux import nvml

    return nvml.place(where)


class OverTimeError(Exception):
    """A file took too long. It is no OSError, so that nobody takes it for the failure of one call and tries again."""


@contextlib.contextmanager
def bounded(seconds: float) -> Iterator[None]:
    """Whatever the body does raises `OverTimeError` after so long, in the midst of it."""

    def over(_number: int, _frame: FrameType | None) -> None:
        raise OverTimeError(f"took longer than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def give_back(output: Output, entry: dict[str, Any]) -> str:
    """As `Output.give_back`, in bounded time. Never raises."""
    try:
        with bounded(GIVE_BACK_SECONDS):
            return output.give_back(entry["originals"], entry["safe"])
    except Exception as error:  # too long, or whatever else: the other outputs have their turn all the same
        with contextlib.suppress(Exception), bounded(GIVE_BACK_SECONDS):
            output.cool(entry["safe"])
        return f"{output.where}: {error}"


def replay(root: Root, journal: Journal, by_hand: bool = False) -> dict[str, Any]:
    """Give back what a journal that lies there says, the last first; nobody else may be acting.

    Returns whether one was `found`, the names `restored`, pairs of what is `unrestored` and why, what was `cut` off.
    What could not be given back stays in the journal, also where the device is gone; a journal that was cut stays as it
    is, but for who was told so `by_hand`. Raises `JournalError`.
    """
    found = journal.read()
    entries, cut = found or ([], "")
    restored: list[str] = []
    unrestored: list[tuple[str, str]] = []
    left: list[dict[str, Any]] = []
    for entry in reversed(entries):
        try:
            why = give_back(recorded(root, entry), entry)
            left += [entry] if why else []
        except ValueError as error:
            why = f"the journal's record cannot be used: {error}"
        if why:
            unrestored.append((str(entry.get("name")), why))
        else:
            restored.append(entry["name"])
    if found is not None and (by_hand or not cut):
        journal.keep(left[::-1])
    return {"found": found is not None, "restored": restored, "unrestored": unrestored, "cut": cut}


def recorded(root: Root, entry: dict[str, Any]) -> Output:
    """The output of a journal's record. Raises ValueError for one that cannot be used."""
    output = rebuilt(root, entry.get("output"), library)
    if entry.get("device") and entry["device"] == output.device(root):
        # The same device at the same place, whose driver may have been loaded again.
        for cell in (cell for cell in output.cells if isinstance(cell, FileCell)):
            cell.identity = root.identity(cell.path.rpartition("/")[0])
    originals = checked(entry.get("originals"), "originals", list)
    if len(originals) != len(output.cells) or any(type(value) not in (int, type(None)) for value in originals):
        raise ValueError(f"originals are {str(originals)[:80]} for {len(output.cells)} files")
    checked(entry.get("name"), "name", str)
    integer(entry, "safe", -MOST, MOST)
    return output


def places(root: Root, entry: dict[str, Any]) -> dict[Place, int | None]:
    """The originals of a journal's record that can be used, by place."""
    return dict(zip(map(place, recorded(root, entry).cells), entry["originals"], strict=True))


def restore(root: Root) -> dict[str, Any]:
    """`replay` by hand. Raises `RefusedError` while a guardian acts, and `JournalError`."""
    folder = root.absolute(FOLDER)
    journal = Journal(folder)
    if not os.path.lexists(journal.path):
        return {"found": False, "restored": [], "unrestored": [], "cut": ""}
    leased = lease(folder)
    try:
        return replay(root, journal, by_hand=True)
    finally:
        leave(leased)
