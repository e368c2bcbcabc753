"""`twin compare`: the first difference between two runs."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from twin.cli import ANSWER_IS_NO, DONE, output
from twin.record.compare import first_difference
from twin.record.rundir import CONTROL, TICKS, RunDirectory


def main(options: argparse.Namespace) -> int:
    """Say whether two runs are equal, or where they first part."""
    runs = [RunDirectory.open(Path(path), needs=(TICKS, CONTROL)) for path in (options.run, options.other)]
    difference = first_difference(runs[0].path, runs[1].path)
    if options.json:
        output.print_json({"equal": difference is None, "difference": difference and asdict(difference)})
    else:
        print("The runs are equal." if difference is None else str(difference))
    return DONE if difference is None else ANSWER_IS_NO
