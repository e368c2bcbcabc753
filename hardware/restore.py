"""Giving back what a journal says, by whoever has the lease of the machine: a guardian when it starts, or by hand."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Collection, Sequence
from typing import Any

from hardware import messages
from hardware.bounded import bounded
from hardware.journal import Journal
from hardware.linux.cells import Cell
from hardware.linux.output import MOST, Output, Place, checked, integer, place, rebuilt
from hardware.linux.sysfs import FileCell, Root
from hardware.programs import daemons

LEASE = "lease"
GIVE_BACK_SECONDS = 1.0
"""So long giving back one output may take, before the next one has its turn."""
LOOK_SECONDS = 0.05
"""So often it is looked whether files show what was given back."""
ACTS, BUSY = 20, 2_500
"""So many hundredths of a second a lease is waited for: of one that acts, which may have been killed a moment ago, and
of one that begins, gives back or restores."""


class RefusedError(ValueError):
    """The guardian cannot or will not act; the message says why and what mends it."""


def own(folder: str) -> None:
    """Raises `RefusedError` where others may take away what lies in the folder, and OSError."""
    if (status := os.stat(folder)).st_uid not in (0, os.geteuid()) or status.st_mode & 0o022:  # noqa: PTH116
        raise RefusedError(messages.not_own(folder, status))


def lease(folder: str) -> int:
    """The one lease of a machine, as an open descriptor. Raises `RefusedError` when somebody else has it, or may."""
    path = f"{folder}/{LEASE}"
    attempt = acts = 0
    while True:
        try:
            os.makedirs(folder, 0o755, exist_ok=True)  # noqa: PTH103
            own(folder)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise RefusedError(messages.no_lease(path, error)) from error
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The file may have gone, or another one have come, since it was opened.
            if holds(descriptor, folder):
                messages.mark(descriptor, b"busy")
                return descriptor
        holder = os.pread(descriptor, 64, 0).decode("ascii", "replace").split()
        os.close(descriptor)
        attempt, acts = attempt + 1, 0 if "busy" in holder else acts + 1
        if acts > ACTS or attempt > BUSY:
            raise RefusedError(f"{path}: process {' '.join(holder[:1])} acts on this machine already; end it first")
        time.sleep(0.01)


def holds(leased: int, folder: str) -> bool:
    """Whether the lease is still the file of its name: who finds another one there could act too."""
    try:
        return os.path.samestat(os.fstat(leased), os.lstat(f"{folder}/{LEASE}"))
    except OSError:
        return False


def leave(leased: int) -> None:
    """Give the lease up, if it was had. A full disk keeps nobody."""
    with contextlib.suppress(OSError):
        os.ftruncate(leased, 0)
    with contextlib.suppress(OSError):
        os.close(leased)


def library(where: str) -> Cell:
    """A place that is no file. Raises ValueError when there is none of that name."""
    from hardware.linux import nvml

    return nvml.place(where)


def give_back(output: Output, entry: dict[str, Any], rehearsal: bool = False) -> tuple[tuple[int | None, ...], str]:
    """As `Output.give_back`, or `Output.rehearse`, in bounded time. Never raises."""
    try:
        with bounded(GIVE_BACK_SECONDS):
            return (output.rehearse if rehearsal else output.give_back)(entry["originals"], entry["safe"])
    except Exception as error:  # too long, or whatever else: the other outputs have their turn all the same
        with contextlib.suppress(Exception), bounded(GIVE_BACK_SECONDS):
            output.cool(entry["safe"])
        return (), f"{output.where}: {error}"


def ignored(given: Sequence[tuple[Output, dict[str, Any], tuple[int | None, ...]]]) -> list[str]:
    """Wait until all of them show that they were given back, as long as they may take; why not, or nothing, for each.

    They come with their records and with what they showed before. Whatever shows something else took what was written
    and was not given back all the same: it is cooled fully.
    """
    longest_s = max((output.settle_ns for output, _entry, _before in given), default=0) / 1e9
    whys = [""] * len(given)
    waiting = list(range(len(given)))
    while waiting:
        time.sleep(min(longest_s, LOOK_SECONDS))
        longest_s -= LOOK_SECONDS
        for number in waiting:
            output, entry, before = given[number]
            try:
                with bounded(GIVE_BACK_SECONDS):
                    whys[number] = output.differs(entry["originals"], before, longest_s <= 0)
                    if whys[number] and longest_s <= 0:
                        output.cool(entry["safe"])
            except Exception as error:  # as above
                whys[number] = f"{output.where}: {error}"
        waiting = [number for number in waiting if whys[number] and longest_s > 0]
    return whys


def give_all_back(held: Sequence[tuple[Output, dict[str, Any]]], rehearsal: bool = False) -> list[str]:
    """Give these back in this order, by their records, and see that they obey; why not, or nothing, for each."""
    done = [give_back(output, entry, rehearsal) for output, entry in held]
    given = [(*each, before) for each, (before, why) in zip(held, done, strict=True) if not why]
    late = iter(ignored(given))
    return [why or next(late) for _before, why in done]


def replay(root: Root, journal: Journal, forget: Collection[str] = ()) -> dict[str, Any]:
    """Give back what a journal that lies there says, the last first; nobody else may be acting.

    Returns whether one was `found`, the names `restored`, pairs of what is `unrestored` and why, what was `cut` off.
    What could not be given back stays in the journal, also where the device is gone or the record cannot be used (its
    library may come back), unless its name is one to `forget`, and so does what is left to another program; a journal
    that was cut stays as it is, unless `journal` is one to forget. Raises `JournalError`.
    """
    found = journal.read()
    entries, cut = found or ([], "")
    busy = daemons(root) if entries else {}
    restored: list[str] = []
    unrestored: list[tuple[str, str]] = []
    left: list[dict[str, Any]] = []
    held: list[tuple[Output, dict[str, Any]]] = []
    for entry in reversed(entries):
        try:
            output = recorded(root, entry)
        except ValueError as error:
            name = str(entry.get("name"))
            unrestored.append((name, f"the journal's record cannot be used: {error}"))
            left += [entry] if name not in forget else []
            continue
        if output.cooler in busy:
            # It may have been taken over, and then is not ours to change.
            unrestored.append((entry["name"], f"left to {busy[output.cooler]}; stop that, then run twin restore"))
            left.append(entry)
        else:
            held.append((output, entry))
    for (_output, entry), why in zip(held, give_all_back(held), strict=True):
        if why:
            unrestored.append((entry["name"], why))
            left += [entry] if entry["name"] not in forget else []
        else:
            restored.append(entry["name"])
    if found is not None and (not cut or "journal" in forget):
        journal.settle([entry for entry in entries if entry in left])
    return {"found": found is not None, "restored": restored, "unrestored": unrestored, "cut": cut}


def cool(root: Root, acted: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """Cool fully, in bounded time, what a run describes as acted on and no journal knows; their names, and what it was.

    Never raises.
    """
    said = []
    for table in acted:
        try:
            with bounded(GIVE_BACK_SECONDS):
                why = rebuilt(root, table.get("output"), library).cool(integer(table, "safe", -MOST, MOST))
        except Exception as error:  # whatever it is, the others have their turn
            why = str(error)
        said.append((str(table.get("name")), messages.lost(why)))
    return said


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
    """The originals of a journal's record, by place; none of one that cannot be used."""
    try:
        return dict(zip(map(place, recorded(root, entry).cells), entry["originals"], strict=True))
    except ValueError:
        return {}
