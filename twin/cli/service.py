"""`twin service`: what a machine needs for runs that act as a service, printed so that it can be put in place."""

from __future__ import annotations

import argparse
import os
import re
import stat
import sys
from importlib.resources import files
from pathlib import Path

from twin.cli import DONE, InputError, output

UNIT = "pulsetwin.service"
RULES = "60-pulsetwin-energy.rules"


def main(options: argparse.Namespace) -> int:
    """Print the systemd unit, or the udev rule. Nothing is written."""
    name = RULES if options.udev else UNIT
    text = filled(name)
    if options.json:
        output.print_json({"name": name, "text": text})
    else:
        print(text, end="")
    return DONE


def filled(name: str) -> str:
    """The shipped file, with the path of this `twin` in it."""
    text = files("hardware.linux").joinpath("systemd", name).read_text(encoding="utf-8")
    if "@TWIN@" not in text:
        return text
    program = Path(sys.executable).parent / "twin"
    if not program.is_file():
        raise InputError(f"{program}: is not there; install pulsetwin in this Python's environment")
    if not re.fullmatch(r"[A-Za-z0-9/._+-]+", str(program)):
        raise InputError(f"{program}: a unit takes letters, digits and /._+- in a path; install pulsetwin elsewhere")
    closed = _closed(program, Path(sys.executable).resolve(), Path(__file__))
    if closed:
        # Without it, as the unit has it, root is nobody special to files.
        text = text.replace(
            "CapabilityBoundingSet=",
            f"# {', '.join(closed)} may be entered by few, and this twin needs what lies in there.\n"
            "CapabilityBoundingSet=CAP_DAC_READ_SEARCH ",
        )
    return text.replace("@TWIN@", str(program))


def _closed(*paths: Path) -> list[str]:
    """The folders on the way that a root without the right to pass everywhere may not enter."""
    folders = dict.fromkeys(folder for path in paths for folder in reversed(path.parents))
    statuses = {str(folder): folder.stat() for folder in folders}
    return [folder for folder, status in statuses.items() if not status.st_mode & _enters(status)]


def _enters(status: os.stat_result) -> int:
    """The bit that lets root enter as the owner, as one of the group, or as anybody."""
    return stat.S_IXUSR if status.st_uid == 0 else stat.S_IXGRP if status.st_gid == 0 else stat.S_IXOTH
