"""`twin dashboard`: the page for runs that have ended, that go on, or that were cut short, and for experiments."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import twin
from twin import __version__
from twin.cli import DONE, InputError, output
from twin.cli.paging import elsewhere, link, listening
from twin.cli.scratch import scratch
from twin.dashboard.answers import Served
from twin.dashboard.live import LiveRun
from twin.dashboard.replayed import ReplayedRun
from twin.dashboard.runs import Run
from twin.dashboard.tables import TableRun, open_run
from twin.loader import ScenarioError
from twin.record.files import RecordError
from twin.record.rundir import CONTROL, SEAM_LOG, TICKS, RunDirectory
from twin.record.seamfollow import SeamFollower, is_written
from twin.record.seamlog import read_seam_log

EXPERIMENT = "manifest.sqlite"
"""The file that an experiment's directory has (`twin.experiment.store`, whose import takes a compiler)."""
MOST_RUNS = 16
"""So many are shown side by side: each that is made again is a process."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A directory to show: the run's or experiment's name in addresses and for people, and what is known of it.

    `tables` is None for a run without them; `replays` says that a process makes it again from its log.
    """

    id: str
    name: str
    path: Path
    is_experiment: bool = False
    tables: TableRun | None = None
    backend: str | None = None
    replays: bool = False
    note: str = ""


def main(options: argparse.Namespace) -> int:
    """Serve until interrupted."""
    asked, wrong = checked([Path(each) for each in options.run])
    with contextlib.ExitStack() as stack:
        try:
            listener, access = stack.enter_context(listening(options))
        except InputError as error:
            raise _all_wrong([*wrong, str(error)]) from None
        if wrong:
            raise _all_wrong(wrong)
        over = stack.enter_context(_until_interrupted())
        for each in asked:
            if each.note:
                print(f"twin: {each.path}: {each.note}", file=sys.stderr)
        _announce(options, link(access), asked)
        for line in elsewhere(access):
            print(f"twin: {line}", file=sys.stderr)
        feeds, folders = stack.enter_context(_replays([each for each in asked if each.replays]))
        # Imported here: whoever named something wrong need not wait for it.
        from twin.dashboard.server import serve

        served, take = _served(asked, folders)
        serve(listener, access, served, feeds, until=over, take=take)
    return DONE


def _all_wrong(wrong: Sequence[str]) -> InputError:
    if len(wrong) == 1:
        return InputError(wrong[0])
    return InputError("\n".join([f"{len(wrong)} errors", *(f"  - {each}" for each in wrong)]))


def _served(asked: Sequence[Asked], folders: dict[str, Path]) -> tuple[Served, Callable[[LiveRun], Run]]:
    """What is served from the beginning, and what takes the place of a run of which a replay tells."""
    from twin.dashboard.experiments import Experiment

    served = Served([each.id for each in asked])
    tables = {each.id: each.tables for each in asked}
    for each in asked:
        if each.tables is not None:
            served.add(each.tables)
        elif each.is_experiment:
            served.experiments.append(Experiment(each.id, each.path))

    def take(live: LiveRun) -> Run:
        name = live.about.id
        return ReplayedRun(live, tables[name], folders.get(name))

    return served, take


def _announce(options: argparse.Namespace, url: str, asked: Sequence[Asked]) -> None:
    if not options.json:
        print(url, flush=True)
        return
    print(url, file=sys.stderr, flush=True)

    def named(experiments: bool) -> list[dict[str, Any]]:
        return [
            {"id": each.id, "name": each.name, "directory": str(each.path)}
            for each in asked
            if each.is_experiment == experiments
        ]

    output.print_json({"url": url, "runs": named(False), "experiments": named(True)})
    sys.stdout.flush()


def checked(paths: Sequence[Path]) -> tuple[list[Asked], list[str]]:
    """What is in these directories, and a sentence for each that cannot be shown."""
    wrong = [] if len(paths) <= MOST_RUNS else [f"{len(paths)} directories are named; at most {MOST_RUNS} are shown"]
    found: list[Asked] = []
    for path in paths[:MOST_RUNS]:
        try:
            found.append(_looked_at(path, {each.id for each in found}))
        except (RecordError, ScenarioError, InputError) as error:
            wrong.append(str(error))
    return found, wrong


def _looked_at(path: Path, taken: set[str]) -> Asked:
    name = path.resolve().name or "run"
    plain = re.sub(r"[^A-Za-z0-9_-]+", "_", name)[:64]
    run_id = next(each for n in range(1, MOST_RUNS + 2) if (each := plain if n == 1 else f"{plain}-{n}") not in taken)
    if (path / EXPERIMENT).is_file():
        from twin.experiment.store import Store

        Store(path).close()
        return Asked(run_id, name, path, is_experiment=True)
    directory = RunDirectory.open(path, needs=())
    manifest = directory.manifest
    if not directory.file(SEAM_LOG).is_file():
        raise InputError(f"{path}: has no {SEAM_LOG}, without which a run cannot be shown; run it again")
    if manifest is not None and directory.file(CONTROL).is_file() and directory.file(TICKS).is_file():
        tables = open_run(run_id, name, path)
        backend = tables.about.backend
        return Asked(run_id, name, path, tables=tables, backend=backend, replays=tables.about.learns)
    with SeamFollower(directory.file(SEAM_LOG)) as log:
        made_by = log.header.product_version
    if made_by != __version__:
        raise InputError(
            f"{path}: was recorded by pulsetwin {made_by}, and this is {__version__}, which need not make the same of "
            f"its log; use that version (pip install pulsetwin=={made_by})"
        )
    note = ""
    if not is_written(path):
        whole = read_seam_log(directory.file(SEAM_LOG))
        if not whole.complete:
            note = f"the run was cut short; what was saved is shown, up to {whole.last_good}"
    return Asked(run_id, name, path, backend=(manifest or {}).get("backend"), replays=True, note=note)


@contextlib.contextmanager
def _replays(asked: Sequence[Asked]) -> Iterator[tuple[list[socket.socket], dict[str, Path]]]:
    """A process for each run that is made again: their feeds, and where those put their tables that make some."""
    feeds: list[socket.socket] = []
    folders: dict[str, Path] = {}
    processes: list[subprocess.Popen[bytes]] = []
    with contextlib.ExitStack() as stack:
        place = stack.enter_context(scratch("twin-dashboard-")) if asked else Path()
        try:
            for number, each in enumerate(asked):
                if each.tables is None:
                    folders[each.id] = place / str(number)
                    folders[each.id].mkdir()
                ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                feeds.append(stack.enter_context(ours))
                with theirs:
                    processes.append(_replay(each, theirs, folders.get(each.id)))
            yield feeds, folders
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait()


def _replay(asked: Asked, feed: socket.socket, folder: Path | None) -> subprocess.Popen[bytes]:
    told = {
        "run": str(asked.path),
        "id": asked.id,
        "name": asked.name,
        "backend": asked.backend,
        "feed": feed.fileno(),
        "tables": None if folder is None else str(folder),
    }
    package = str(Path(twin.__file__).parent.parent)
    path = os.pathsep.join([package, *os.environ.get("PYTHONPATH", "").split(os.pathsep)]).rstrip(os.pathsep)
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "twin.cli.follow", json.dumps(told)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": path},
        pass_fds=(feed.fileno(),),
        # An interrupt of the terminal is for whoever started it.
        start_new_session=True,
    )


@contextlib.contextmanager
def _until_interrupted() -> Iterator[threading.Event]:
    """An event that SIGINT or SIGTERM sets; a second one ends the program at once."""
    over = threading.Event()
    before: dict[signal.Signals, Any] = {}

    def on_signal(number: int, _: object) -> None:
        over.set()
        signal.signal(number, before[signal.Signals(number)])

    for each in (signal.SIGINT, signal.SIGTERM):
        before[each] = signal.signal(each, on_signal)
    try:
        yield over
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
