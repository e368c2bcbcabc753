"""`twin report`: the page of an experiment or a run, with figures and tables as files."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from twin.cli import DONE, output
from twin.report.page import write_report


def main(options: argparse.Namespace) -> int:
    """Write the report and name its page."""
    loud = not (options.quiet or options.json)

    def say(what: str) -> None:
        if loud and sys.stderr.isatty():
            print(f"report: {what}", file=sys.stderr)

    written = write_report(Path(options.directory), None if options.out is None else Path(options.out), say)
    if options.json:
        output.print_json({
            "page": str(written.page),
            "figures": [str(path) for path in written.figures],
            "tables": [str(path) for path in written.tables],
            "left_out": written.left_out,
        })  # fmt: skip
    elif not options.quiet:
        print(written.page)
        for sentence in written.left_out:
            print(f"left out: {sentence}")
    return DONE
