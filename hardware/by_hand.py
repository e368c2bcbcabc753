"""Giving back by hand what a journal says: what a guardian does when it starts, without one."""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import Any

from hardware.journal import FOLDER, Journal
from hardware.linux.sysfs import Root
from hardware.restore import lease, leave, replay


def restore(root: Root, forget: Collection[str] = ()) -> dict[str, Any]:
    """As `replay`. Raises `RefusedError` while a guardian acts, and `JournalError`."""
    folder = root.absolute(FOLDER)
    journal = Journal(folder)
    if not os.path.lexists(journal.path):
        return {"found": False, "restored": [], "unrestored": [], "cut": ""}
    leased = lease(folder)
    try:
        done = replay(root, journal, forget)
        if journal.read() == ([], ""):
            journal.remove()
        return done
    finally:
        leave(leased)
