"""`twin restore`: give hardware back from the journal that a guardian left."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from hardware.journal import JournalError
from hardware.linux.sysfs import Root
from hardware.restore import RefusedError, restore
from twin.cli import ANSWER_IS_NO, DONE, InputError, output


def main(options: argparse.Namespace) -> int:
    """Restore, and say what became of each output. Exit status 1 when one could not be given back."""
    try:
        done: dict[str, Any] = restore(Root(Path(options.root)))
    except (RefusedError, JournalError) as error:
        raise InputError(str(error)) from error
    if options.json:
        unrestored = [{"output": name, "why": why} for name, why in done["unrestored"]]
        output.print_json({**done, "unrestored": unrestored})
    elif not done["found"]:
        print("There is no journal: nothing has to be given back.")
    else:
        for name in done["restored"]:
            print(f"{name}: given back")
        for name, why in done["unrestored"]:
            print(f"{name}: not given back: {why}")
        if done["cut"]:
            print(f"The journal: {done['cut']}")
    return ANSWER_IS_NO if done["unrestored"] or done["cut"] else DONE
