"""The command line. Only the modules in here name a backend; each command's module is imported when it is called.

Exit status: 0 done, 1 the answer is no, 2 bad input, 3 the machine or a file failed. With `--json` standard output
carries one JSON object and nothing else; everything for people goes to standard error.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import io
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from twin import __version__
from twin.cli.fitting import add_fitting
from twin.cli.pagewords import add_page
from twin.cli.texts import file as _file
from twin.cli.texts import folder as _folder
from twin.cli.texts import part_and_time as _part_and_time
from twin.cli.texts import seconds as _seconds
from twin.cli.texts import speed as _speed
from twin.cli.texts import there as _there
from twin.cli.texts import whole as _whole

DONE, ANSWER_IS_NO, BAD_INPUT, FAILED = 0, 1, 2, 3
BACKENDS = ("simulated", "linux", "lockstep")
INTERRUPTED = 130
ALWAYS = "always"
"""A message with this (`extra={ALWAYS: True}`) is said on standard error whatever its level."""


class InputError(ValueError):
    """Something that the user asked for cannot be done; the message says why and what can."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line (`sys.argv` when `arguments` is None) and return the exit status."""
    if sys.stdout is None:
        # Started without standard output: what is printed goes where nobody looks.
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A path need not be text, and a terminal need not know every character.
        sys.stdout.reconfigure(errors="backslashreplace")
    parser = _parser()
    options = parser.parse_args(arguments)
    _start_logging(options)
    if "" not in sys.path:
        # A controller of one's own lies in the folder where one works; last, so that it hides nothing else.
        sys.path.append("")
    try:
        command = importlib.import_module(f"twin.cli.{options.module}")
        status: int = command.main(options)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        print("twin: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone; there is nobody left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except Exception as error:
        if options.debug:
            raise
        status = _status_of(error)
        print(f"twin: {_words(error, known=status != FAILED)}", file=sys.stderr)
        return status


def _status_of(error: Exception) -> int:
    """Which exit status an error means; by name, so that nothing has to be imported to ask."""
    names = {kind.__name__ for kind in type(error).__mro__}
    bad_input = {
        "InputError", "ScenarioError", "ControllerError", "KernelModeError", "RecordInputError", "CorruptLogError",
        "LogVersionError", "TraceError", "AmbiguousDeviceError", "PoolInputError", "ServiceError",
        "GuardianError", "RewardError", "CheckpointError", "PlanError", "ExperimentError", "RecordingError",
    }  # fmt: skip
    # A checkpoint that a full disk refuses is no mistake of whoever asked for it.
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO):
        return FAILED
    return BAD_INPUT if names & bad_input else FAILED


def _words(error: Exception, known: bool) -> str:
    text = str(error) or type(error).__name__
    if known or type(error).__module__.startswith(("twin.", "hardware.")):
        return text
    if isinstance(error, OSError) and error.strerror:
        from twin.record.files import mend

        return f"{error.filename or 'standard output'}: {error.strerror}; {mend(error.errno)}"
    return f"{type(error).__name__}: {text} (--debug shows where)"


class _Short(logging.Formatter):
    """Messages without the traceback that belongs to them: `run.log` has it."""

    def format(self, record: logging.LogRecord) -> str:
        """Level and message."""
        return f"{record.levelname} {record.getMessage()}"


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        """End the program with the status of bad input."""
        self.exit(BAD_INPUT, f"{self.prog}: {message}; {self.prog} --help shows what there is\n")


def _start_logging(options: argparse.Namespace) -> None:
    level = logging.WARNING - 10 * options.verbose + 10 * options.quiet
    if options.log_level is not None:
        level = logging.getLevelNamesMapping()[options.log_level.upper()]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s") if options.debug else _Short())
    # What a run with --act may not do in silence is said however quiet it is.
    handler.addFilter(lambda record: record.levelno >= level or hasattr(record, ALWAYS))
    # A log that cannot be written, on a full disk, must not spill tracebacks over what is said about it.
    logging.raiseExceptions = options.debug
    logger = logging.getLogger("twin")
    logger.handlers[:] = [handler]
    logger.setLevel(logging.DEBUG)
    logger.propagate = False


def _parser() -> argparse.ArgumentParser:
    common = _Parser(add_help=False)
    common.add_argument("--json", action="store_true", help="print one JSON object on standard output")
    common.add_argument("-q", "--quiet", action="count", default=0, help="no progress, no table, fewer messages")
    common.add_argument("-v", "--verbose", action="count", default=0, help="more messages")
    common.add_argument(
        "--log-level", choices=("debug", "info", "warning", "error"), help="messages from this level on"
    )
    common.add_argument("--debug", action="store_true", help="show the traceback of an error")

    parser = _Parser(
        prog="twin", description="Write a thermal, power or pacing controller once; prove it on a simulated machine."
    )
    parser.add_argument("--version", action="version", version=f"pulsetwin {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def add(name: str, help_text: str, module: str | None = None) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=help_text, description=help_text, parents=[common])
        sub.set_defaults(module=module or name)
        return sub

    run = add("run", "run a scenario")
    run.add_argument(
        "scenario", metavar="SCENARIO", help="a shipped scenario (twin scenarios lists them) or a TOML file"
    )
    run.add_argument(
        "--machine", metavar="MACHINE", type=_file, help="a shipped machine or a machine file, not the scenario's own"
    )
    run.add_argument("--backend", choices=BACKENDS, default="simulated", help="which machine (default: simulated)")
    run.add_argument(
        "--root", metavar="DIR", type=_folder, help="folder that holds sys and proc (linux: default /; lockstep: kept)"
    )
    run.add_argument("--duration", metavar="SECONDS", type=_seconds, help="how long, in simulated or real seconds")
    run.add_argument("--seed", metavar="N", type=_whole, help="instead of the scenario's seed; 0 is a seed")
    run.add_argument("--config", metavar="FLAGS", help="heartbeat loops L1 to L6, for example 1_0_1_1_1_0")
    run.add_argument("--law", choices=("adaptive", "reference"), help="the heartbeat's law")
    run.add_argument(
        "--crystal", action=argparse.BooleanOptionalAction, default=None, help="keep the words in a shared memory pool"
    )
    run.add_argument(
        "--neural", action=argparse.BooleanOptionalAction, default=None, help="let the optimizer learn and propose"
    )
    run.add_argument("--out", metavar="DIR", type=_folder, help="the run directory (default: a new one in runs/)")
    run.add_argument(
        "--set", metavar="KEY.PATH=VALUE", action="append", default=[], help="any scenario key; repeatable"
    )
    run.add_argument("--act", action="store_true", help="linux: write to the hardware; without it only read and log")
    run.add_argument("--shadow", action="store_true", help="linux: read the machine, and act on a twin beside it")
    run.add_argument(
        "--go-live-within", metavar="C:SECONDS", type=_part_and_time,
        help="with --shadow --act: act once, and while, machine and twin part by no more for so long",
    )  # fmt: skip
    run.add_argument("--load", action="store_true", help="linux: play the scenario's workload on the real processor")
    run.add_argument("--ticks", metavar="WHICH", help="which ticks to store: all, every:N, ends:M+sample:N or none")

    run.add_argument("--wave2", action="store_true", help="--crystal --neural --dashboard")
    run.add_argument("--dashboard", action="store_true", help="show the run in a browser while it goes on")
    run.add_argument(
        "--speed", metavar="N", type=_speed,
        help="with --dashboard: simulated seconds in a second, 0.1 to 100, or max (default: 1)",
    )  # fmt: skip
    add_page(run)

    dashboard = add("dashboard", "show runs and experiments in a browser: ended, going on, or cut short")
    dashboard.add_argument(
        "run", metavar="RUN", nargs="+", type=_folder, help="the directory of a run or of an experiment"
    )
    add_page(dashboard)

    replay = add("replay", "run a recorded run again from its seam log, and check every digest")
    replay.add_argument("run", metavar="RUN", help="a run directory")
    replay.add_argument("--out", metavar="DIR", type=_folder, help="keep the replay's tables there")
    replay.add_argument("--crystal", action="store_true", help="with a shared memory pool, laid out as it was recorded")

    compare = add("compare", "find the first difference between two runs, or how far a machine and its twin part")
    compare.add_argument("run", metavar="RUN", help="a run directory")
    compare.add_argument("other", metavar="RUN", nargs="?", help="another run directory")
    compare.add_argument("--live", action="store_true", help="how far one run in shadow mode parts")
    compare.add_argument("--seconds", metavar="SECONDS", type=_seconds, help="live: only the last so many seconds")
    compare.add_argument("--watch", metavar="SECONDS", type=_seconds, help="live: again every so many seconds")

    export = add("export", "write a run's tables for other tools")
    export.add_argument("run", metavar="RUN", help="a run directory")
    export.add_argument("--format", choices=("csv", "json", "parquet"), default="csv", help="default: csv")
    export.add_argument("--out", metavar="DIR", type=_folder, help="where to (default: export/ in the run directory)")

    fingerprint = add("fingerprint", "compute a run's fingerprint from its ticks, and compare it with the recorded one")
    fingerprint.add_argument("run", metavar="RUN", help="a run directory")
    fingerprint.add_argument(
        "--ticks", metavar="DIR", type=_folder, help="where its ticks are (default: RUN), if RUN kept not all of them"
    )

    status = add("status", "what was found on this machine, what is off, and why")
    status.add_argument(
        "--root", metavar="DIR", type=_there, default="/", help="folder that holds sys and proc (default: /)"
    )

    restore = add("restore", "give hardware back from the journal that a guardian left")
    restore.add_argument(
        "--root", metavar="DIR", type=_there, default="/", help="folder that holds sys and run (default: /)"
    )

    restore.add_argument(
        "--forget", metavar="OUTPUT", action="append", default=[],
        help="let go of this output where it cannot be given back, since its device is gone for good (may be repeated)",
    )  # fmt: skip

    service = add("service", "print a systemd unit for runs that act, or the udev rule for the energy counter")
    service.add_argument("--udev", action="store_true", help="the udev rule, not the unit")

    check = add("check", "the conformance suite against a backend")
    check.add_argument("backend", choices=(*BACKENDS, "replay"), help="which backend")
    check.add_argument("--root", metavar="DIR", type=_there, help="linux: folder that holds sys and proc (default: /)")

    serve = add("serve", "keep a live tree of the simulated machine in wall time, for other programs")
    serve.add_argument("scenario", metavar="SCENARIO", help="a shipped scenario or a TOML file")
    serve.add_argument("--root", metavar="DIR", type=_folder, required=True, help="a folder for the tree alone")
    serve.add_argument("--duration", metavar="SECONDS", type=_seconds, help="how long (default: until interrupted)")
    serve.add_argument("--seed", metavar="N", type=_whole, help="instead of the scenario's seed; 0 is a seed")
    serve.add_argument(
        "--set", metavar="KEY.PATH=VALUE", action="append", default=[], help="any scenario key; repeatable"
    )

    pool = add("pool", "blocks, tiers, fragmentation and records of a memory pool, live")
    pool.add_argument("pool", metavar="RUN|PATH", help="the directory of a run that is going on, or a pool file")
    pool.add_argument("--records", metavar="N", type=_whole, default=5, help="telemetry records (default: 5)")
    pool.add_argument("--watch", metavar="SECONDS", type=_seconds, help="again every so often, while the run goes on")

    add_fitting(add)

    train = add("train", "let the optimizer learn in simulation, over scenarios and seeds; goes on where it stopped")
    train.add_argument("scenario", metavar="SCENARIO", nargs="+", help="shipped scenarios or TOML files")
    train.add_argument("--out", metavar="CHECKPOINT", type=_file, required=True, help="the file of weights")
    evaluate = add("evaluate", "compare a checkpoint with the baseline")
    evaluate.add_argument("checkpoint", metavar="CHECKPOINT", help="a file of weights that twin train made")
    evaluate.add_argument(
        "scenario", metavar="SCENARIO", nargs="*", help="default: the shipped ones that it was not trained on"
    )
    evaluate.add_argument("--workers", metavar="N", type=_whole, default=1, help="processes (default: 1)")
    for sub, seeds, first in ((train, 8, 1), (evaluate, 8, 1_001)):
        sub.add_argument("--seeds", metavar="N", type=_whole, default=seeds, help=f"how many (default: {seeds})")
        sub.add_argument(
            "--first-seed", metavar="N", type=_whole, default=first, help=f"the first of them (default: {first})"
        )
        sub.add_argument(
            "--set", metavar="KEY.PATH=VALUE", action="append", default=[], help="any scenario key; repeatable"
        )

    experiment = add("experiment", "do a plan of many runs, or go on with it")
    experiment.add_argument("plan", metavar="PLAN", help="a shipped plan (demo, screening, phase2) or a TOML file")
    experiment.add_argument(
        "--out", metavar="DIR", type=_folder, help="where results are kept (default: one of the plan's own)"
    )
    experiment.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], help="any key of the plan, for example runs=3"
    )
    experiment.add_argument("--engine", choices=("local", "dask"), default="local", help="default: local processes")
    experiment.add_argument(
        "--scheduler", metavar="ADDRESS", help="dask: a scheduler (default: a cluster of this machine)"
    )
    experiment.add_argument("--workers", metavar="N", type=_whole, help="processes (default: one for each processor)")
    experiment.add_argument(
        "--resume", action=argparse.BooleanOptionalAction, default=True, help="go on with what is there (default)"
    )
    golden = add("golden", "which configuration an experiment found best, how sure that is, and why")
    golden.add_argument("directory", metavar="DIR", help="an experiment's directory")
    report = add("report", "write a page with figures and tables of an experiment, or of a run")
    report.add_argument("directory", metavar="DIR", help="the directory of an experiment or of a run")
    report.add_argument("--out", metavar="DIR", type=_folder, help="where to (default: report/ in that directory)")

    add("scenarios", "list the scenarios and machines that are shipped")

    benchmark = add("benchmark", "measure speed, each figure beside a reference from the same process")
    benchmark.add_argument(
        "--repeat", metavar="N", type=_whole, default=5, help="medians of N measurements (default: 5)"
    )

    doctor = add("doctor", "what is missing on this machine, and the command that mends it")
    doctor.add_argument(
        "--root", metavar="DIR", type=_there, default="/", help="folder that holds sys and proc (default: /)"
    )
    return parser
