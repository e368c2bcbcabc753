"""`twin compare`: the first difference between two runs, or how far a machine and its twin part (`--live`)."""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict
from pathlib import Path

from twin.cli import ANSWER_IS_NO, DONE, InputError, output
from twin.record.compare import first_difference
from twin.record.rundir import CONTROL, SEAM_LOG, TICKS, RunDirectory
from twin.record.seamlog import SeamLog, read_seam_log
from twin.timing import SECOND_NS


def main(options: argparse.Namespace) -> int:
    """Say whether two runs are equal, or where they first part."""
    wrong = []
    if options.live == (options.other is not None):
        wrong.append("two runs are compared, or one with --live; " + (
            "name one run" if options.live else "name another run, or add --live"))  # fmt: skip
    if not options.live:
        wrong += [f"--{name} goes with --live" for name in ("seconds", "watch") if getattr(options, name) is not None]
    if wrong:
        raise InputError("; ".join(wrong))
    if options.live:
        return _live(options)
    runs = [RunDirectory.open(Path(path), needs=(TICKS, CONTROL)) for path in (options.run, options.other)]
    difference = first_difference(runs[0].path, runs[1].path)
    if options.json:
        output.print_json({"equal": difference is None, "difference": difference and asdict(difference)})
    else:
        print("The runs are equal." if difference is None else str(difference))
    return DONE if difference is None else ANSWER_IS_NO


def _live(options: argparse.Namespace) -> int:
    """How far the machine and its twin parted, once or every so many seconds until the run has ended."""
    from twin.gap import gaps

    path = Path(options.run)
    while True:
        if not path.is_dir():
            raise InputError(f"{path}: is no run directory; name the directory that twin run --shadow --out names")
        log = read_seam_log(path / SEAM_LOG)
        cycles = log.cycles[_first(log, options.seconds) :]
        found = gaps(log.header.channels, list(cycles))
        if not found:
            raise InputError(f"{path}: is no run in shadow mode; twin run SCENARIO --backend linux --shadow makes one")
        if options.json:
            output.print_json({"cycles": len(cycles), "ended": log.complete, "sensors": [asdict(gap) for gap in found]})
        else:
            rows = [
                (gap.sensor, *map(_celsius, (gap.reading, gap.twin, gap.acted, gap.rms, gap.worst, gap.bias)))
                for gap in found
            ]
            output.print_table(
                f"{path}: the machine and its twin over {len(cycles)} cycles" + (", ended" if log.complete else ""),
                ("sensor", "reads", "twin", "had it acted", "gap RMS", "worst", "mean"), rows,
            )  # fmt: skip
        if options.watch is None or log.complete:
            return DONE
        time.sleep(options.watch)


def _first(log: SeamLog, seconds: float | None) -> int:
    """The first cycle of the last so many seconds; 0 for all."""
    if seconds is None or not len(log.cycles):
        return 0
    from_ns = log.cycles[len(log.cycles) - 1].due_ns - round(seconds * SECOND_NS)
    low, high = 0, len(log.cycles)
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if log.cycles[middle].due_ns < from_ns else (low, middle)
    return low


def _celsius(millicelsius: float | None) -> str:
    return "not known" if millicelsius is None else f"{millicelsius / 1_000:.2f} \u00b0C"
