"""The options of `twin calibrate` and `twin validate`."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from twin.cli.texts import file, finite, percent, whole

KINDS = ("cpu", "gpu", "board", "laptop")


def add_fitting(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add both commands by `add(name, help)`."""
    calibrate = add("calibrate", "fit a machine to recordings of a real one; or the lateness of a recorded heartbeat")
    calibrate.add_argument(
        "trace", metavar="TRACE", nargs="*",
        help="recordings of one machine: CSV, CSV.gz or directories of runs; or: heartbeat TICKS",
    )  # fmt: skip
    calibrate.add_argument("--kind", choices=KINDS, help="what was recorded: a processor, a card, a board, a laptop")
    calibrate.add_argument("--out", metavar="MACHINE.toml", type=file, help="the machine file to write")
    calibrate.add_argument(
        "--holdout", metavar="SHARE", type=finite, default=0.4,
        help="the last share of each recording that is not fitted but judges the fit (default: 0.4)",
    )  # fmt: skip
    calibrate.add_argument(
        "--split", metavar="COLUMN", help="every text in this column is a recording of its own, with a time of its own"
    )
    calibrate.add_argument("--name", metavar="NAME", help="what the machine is called (default: as its file)")
    calibrate.add_argument("--source", metavar="TEXT", help="where the recordings come from (default: their names)")
    calibrate.add_argument("--licence", metavar="TEXT", help="under what licence (default: not stated)")
    calibrate.add_argument("--lateness", metavar="TICKS", help="fit the lateness of a recorded heartbeat instead")

    validate = add(
        "validate", "judge a machine by a recording; or replay a recorded heartbeat through the reference law"
    )
    validate.add_argument("machine", metavar="MACHINE", help="a shipped machine, a machine file, or: heartbeat")
    validate.add_argument(
        "trace", metavar="TRACE", help="a recording: CSV, CSV.gz or the directory of a run; of a heartbeat its ticks"
    )
    validate.add_argument("--max-rmse", metavar="CELSIUS", type=finite, help="exit status 1 when the error is above")
    validate.add_argument(
        "--from-percent", metavar="P", type=percent, default=0.0, help="judge the recording from here on (default: 0)"
    )
    validate.add_argument(
        "--to-percent", metavar="P", type=percent, default=100.0, help="judge it up to here (default: 100)"
    )
    validate.add_argument(
        "--ambient", metavar="CELSIUS|free", help="the room's temperature then; free: the one that fits best"
    )
    validate.add_argument("--kind", choices=KINDS, help="what was recorded (default: as the machine file says)")
    for sub in (calibrate, validate):
        sub.add_argument(
            "--map", metavar="ROLE=COLUMN[:UNIT]", action="append", default=[],
            help="which column is cpu_temp, cpu_load, cpu_power, gpu_temp, ..., fan_rpm or time; repeatable",
        )  # fmt: skip
        sub.add_argument("--device", metavar="N", type=whole, help="which card, where columns of several are there")
        sub.add_argument(
            "--where", metavar="COLUMN=TEXT", action="append", default=[], help="only rows that have this; repeatable"
        )
        sub.add_argument("--plot", metavar="FILE", type=file, help="draw readings, free run and errors (png, svg, pdf)")
    validate.add_argument(
        "--t0-ns", metavar="N", type=whole, default=10_000, help="heartbeat: nominal interval (default: 10000)"
    )
    validate.add_argument(
        "--inference-ticks",
        metavar="N",
        type=whole,
        default=1_000,
        help="heartbeat: ticks between inferences (default: 1000)",
    )
    validate.add_argument(
        "--cv-threshold",
        metavar="X",
        type=float,
        default=0.15,
        help="heartbeat: when predictions vary too much (default: 0.15)",
    )
    validate.add_argument(
        "--temporal-threshold",
        metavar="X",
        type=float,
        default=0.5,
        help="heartbeat: when decay is slow (default: 0.5)",
    )
