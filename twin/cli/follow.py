"""The process that makes a run again from its seam log for the page, while the log is being written if it is."""

from __future__ import annotations

import json
import select
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from hardware.replay import RecordedCycle, ReplayHardware
from twin.cli import DONE, FAILED
from twin.clock import EndOfRecording, VirtualEnvironment
from twin.control.choose import make_controller
from twin.control.cycle import Cycle
from twin.dashboard.feed import Feed, columns
from twin.dashboard.runs import State
from twin.dashboard.tables import about
from twin.kernels import Integers
from twin.loader import checkpoint_path, parse
from twin.loop import Loop
from twin.record.files import read_json
from twin.record.recorder import Nowhere, RunRecorder
from twin.record.rundir import MANIFEST, SCENARIO, SEAM_LOG
from twin.record.seamfollow import PAUSE_SECONDS, SeamFollower, is_written
from twin.scenario import Recording
from twin.timing import Wake


class FollowedLateness:
    """How ticks and cycles woke, out of a log that is followed."""

    def __init__(self, log: SeamFollower) -> None:
        self._log = log

    def heart(self, first_tick: int, count: int) -> Integers:
        """What was recorded, once it is; raises `EndOfRecording` when there will be nothing."""
        lateness = self._log.lateness(first_tick, count)
        if not len(lateness):
            raise EndOfRecording(f"the log ends before tick {first_tick}")
        return lateness

    def control(self, cycle: int) -> Wake:
        """What was recorded, once it is; raises `EndOfRecording` when there will be nothing."""
        following = self._log.peek()
        if following is None:
            raise EndOfRecording(f"the log ends before control cycle {cycle}")
        return Wake(following.lateness_ns, following.suspended_ns)


def main(arguments: Sequence[str]) -> int:
    """Follow the log of a run directory. `arguments` are one JSON object: `run`, `id`, `name`, `backend`, the number of
    the descriptor of the `feed`, and the folder for the `tables` (null: none are made).
    """
    # Whoever started this process ends it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A controller of one's own lies in the folder where one works, as for every command.
    sys.path.append("")
    told = json.loads(arguments[0])
    channel = socket.socket(fileno=int(told["feed"]))
    tables = None if told["tables"] is None else Path(told["tables"])
    try:
        follow(Path(told["run"]), channel, (told["id"], told["name"], told["backend"]), tables)
    except Exception as error:  # said in a line, as everywhere; the page shows what there is
        print(f"twin: {error}", file=sys.stderr)
        return FAILED
    return DONE


def follow(run: Path, channel: socket.socket, names: tuple[str, str, str | None], tables: Path | None) -> None:
    """Replay the log of the run directory `run` into the feed `channel`, and into tables in the folder `tables`.

    `names` are its name among the runs that are served, its name for people, and its backend. Raises `RecordError`.
    """
    hung_up = select.poll()
    hung_up.register(channel, 0)

    def pause() -> None:
        if hung_up.poll(PAUSE_SECONDS * 1_000):
            raise SystemExit(DONE)

    with SeamFollower(run / SEAM_LOG, pause=pause) as log:
        header = log.header
        scenario = parse(header.scenario, str(run / SEAM_LOG))
        pool = replace(scenario.pool, shared=False, file="")
        scenario = replace(scenario, recording=Recording(ticks="all"), pool=pool)
        limits = {limit.name: limit for limit in header.limits}
        hardware = ReplayHardware(header.channels, limits, _cycles(log))
        controller = make_controller(scenario, limits, checkpoint_path(scenario, run / SCENARIO))
        sensors = tuple(sensor.name for sensor in scenario.machine.sensors)
        what = replace(
            about(header, names[0], names[1], run, "replayed", names[2]),
            columns=columns(header.channels, tuple(limits), sensors),
        )
        feed = Feed(channel, what, getattr(controller, "insight", None), waits=True)
        recorder = None if tables is None else RunRecorder(tables, scenario, header.channels, limits, None)
        env = VirtualEnvironment(FollowedLateness(log))
        try:
            Loop(env, hardware, scenario, controller, recorder or Nowhere(), None, _Watched(feed)).run()
        except BaseException:
            if recorder is not None:
                recorder.abandon()
            raise
        if recorder is not None:
            recorder.close(ended=True)
        # The replay ends with the run's time, before the log says that it is complete.
        log.peek()
        while is_written(run):
            # The log has its end; the manifest, which says more, comes a moment later.
            pause()
        feed.state = _came_out(run, log)
        feed.end()


class _Watched:
    """A feed without which there is nothing to do."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed

    def cycle(self, cycle: Cycle, tick: Integers | None) -> None:
        """Hand the cycle on."""
        self._feed.cycle(cycle, tick)
        if self._feed.over:
            raise SystemExit(DONE)


def _cycles(log: SeamFollower) -> Iterator[RecordedCycle]:
    while (cycle := log.take()) is not None:
        yield RecordedCycle(cycle.readings, cycle.command.values, cycle.applied)


def _came_out(run: Path, log: SeamFollower) -> State:
    """How the run ended, now that nobody writes it."""
    if (run / MANIFEST).is_file():
        return "stopped" if read_json(run / MANIFEST).get("stopped") else "ended"
    return "ended" if log.complete else "lost"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
