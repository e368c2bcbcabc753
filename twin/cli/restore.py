"""`twin restore`: give hardware back from the journal that a guardian left."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from hardware.by_hand import restore
from hardware.journal import FOLDER, Journal, JournalError
from hardware.linux.sysfs import Root
from hardware.restore import RefusedError
from twin.cli import ANSWER_IS_NO, DONE, InputError, output

MEND = "; it is kept: look at the modes and values of all outputs, then run twin restore --forget journal"


def main(options: argparse.Namespace) -> int:
    """Restore, and say what became of each output. Exit status 1 when one could not be given back."""
    root = Root(Path(options.root))
    try:
        entries, cut = Journal(root.absolute(FOLDER)).read() or ([], "")
        known = [*(str(entry.get("name")) for entry in entries), *(["journal"] if cut else [])]
        strange = [name for name in options.forget if name not in known]
        if strange:
            raise InputError(f"--forget {', '.join(strange)}: not in the journal; {', '.join(known) or 'nothing'} is")
        done: dict[str, Any] = restore(root, options.forget)
    except (RefusedError, JournalError) as error:
        raise InputError(str(error)) from error
    forgotten = [name for name, _why in done["unrestored"] if name in options.forget]
    forgotten += ["journal"] if done["cut"] and "journal" in options.forget else []
    done["unrestored"] = [(name, why) for name, why in done["unrestored"] if name not in forgotten]
    if options.json:
        unrestored = [{"output": name, "why": why} for name, why in done["unrestored"]]
        output.print_json({**done, "unrestored": unrestored, "forgotten": forgotten})
    elif not done["found"]:
        print("There is no journal: nothing has to be given back.")
    else:
        for name in done["restored"]:
            print(f"{name}: given back")
        for name, why in done["unrestored"]:
            print(f"{name}: not given back: {why}; if it is gone for good: twin restore --forget {name}")
        for name in forgotten:
            print(f"{name}: let go of")
        if done["cut"]:
            kept = "" if "journal" in forgotten else MEND
            print(f"The journal: {done['cut']}{kept}")
    return ANSWER_IS_NO if done["unrestored"] or done["cut"] else DONE
