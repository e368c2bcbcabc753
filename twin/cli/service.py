"""`twin service`: what a machine needs for runs that act as a service, printed so that it can be put in place."""

from __future__ import annotations

import argparse
import re
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
    return text.replace("@TWIN@", str(program))
