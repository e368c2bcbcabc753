"""`twin export`: a run's tables for other tools."""

from __future__ import annotations

import argparse
from pathlib import Path

from twin.cli import DONE, output
from twin.record.export import export
from twin.record.rundir import CONTROL, TICKS, RunDirectory


def main(options: argparse.Namespace) -> int:
    """Write the tables and name the files."""
    run = RunDirectory.open(Path(options.run), needs=(TICKS, CONTROL))
    written = export(run.path, options.format, None if options.out is None else Path(options.out))
    if options.json:
        output.print_json({"files": [str(path) for path in written]})
    else:
        print("\n".join(str(path) for path in written))
    return DONE
