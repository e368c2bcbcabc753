"""The page beside a run: where it listens, the process that serves it, and what the loop tells it."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from math import isinf
from pathlib import Path

import twin
from hardware.interface import Hardware
from twin.cli.paging import elsewhere, link, listening
from twin.control.cycle import Cycle
from twin.control.view import Controller
from twin.dashboard.feed import Feed, Insight, columns
from twin.dashboard.gate import Access, hello
from twin.dashboard.runs import About, Output, Sensor, forecast_ms
from twin.kernels import Integers
from twin.record import rundir
from twin.record.files import failure
from twin.scenario import Scenario
from twin.telemetry import Watcher

log = logging.getLogger("twin")


class Watchers:
    """Several watchers as one."""

    def __init__(self, watchers: Sequence[Watcher]) -> None:
        self._watchers = watchers

    def cycle(self, cycle: Cycle, tick: Integers | None) -> None:
        """Tell each."""
        for watcher in self._watchers:
            watcher.cycle(cycle, tick)

    def __bool__(self) -> bool:
        return bool(self._watchers)


class Pace:
    """Holds a simulated run back until as much wall time has passed as simulated, times `speed`."""

    def __init__(self, speed: float) -> None:
        self._speed = speed
        self._began: float | None = None

    def cycle(self, cycle: Cycle, tick: Integers | None) -> None:
        """Wait until the cycle is due."""
        now = time.monotonic()
        if self._began is None:
            self._began = now - cycle.due_ns / 1e9 / self._speed
        ahead = self._began + cycle.due_ns / 1e9 / self._speed - now
        if ahead > 0:
            time.sleep(ahead)


class Page:
    """An address that is taken, and the process that keeps the page there once a run begins."""

    def __init__(self, listener: socket.socket, access: Access) -> None:
        self._listener = listener
        self._access = access
        self.process = 0
        """The one that keeps the page's, once it has begun."""
        self.link = link(access)
        self.elsewhere = elsewhere(access)

    def begin(self, about: About, insight: Callable[[], Insight | None] | None, errors: Path) -> Feed:
        """Start the process, and tell it of the run. What goes wrong there is added to the file `errors`."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            ours.send(hello(self._access))
            package = str(Path(twin.__file__).parent.parent)
            path = [package, *(each for each in os.environ.get("PYTHONPATH", "").split(os.pathsep) if each)]
            # Only these two: everything else that is open here, hardware among it, closes there.
            descriptors = (self._listener.fileno(), theirs.fileno())
            for descriptor in descriptors:
                os.set_inheritable(descriptor, True)
            self.process = os.posix_spawn(
                sys.executable,
                [sys.executable, "-P", "-m", "twin.dashboard.keeper", *map(str, descriptors)],
                # Hundreds of threads would each have a heap of their own.
                {**os.environ, "PYTHONPATH": os.pathsep.join(path), "MALLOC_ARENA_MAX": "2"},
                # Who reads our output waits for its end, and the page ends later.
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                    (os.POSIX_SPAWN_OPEN, 2, errors, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644),
                ],
                setsid=True,
            )
        self._listener.close()
        return Feed(ours, about, insight)

    def end(self, told: bool) -> None:
        """Let go of the process, which ends by itself a moment after its feed; not `told`, or stopped, it is ended."""
        with contextlib.suppress(OSError):
            children = Path(f"/proc/{self.process}/task/{self.process}/children").read_text().split()
            states = [
                Path("/proc", each, "stat").read_text().rpartition(")")[2].split()[0]
                for each in (str(self.process), *children)
            ]
            if not told or "T" in states:
                os.kill(self.process, signal.SIGKILL)
                os.waitpid(self.process, 0)
            else:
                os.waitpid(self.process, os.WNOHANG)


def about_run(options: argparse.Namespace, scenario: Scenario, hardware: Hardware, run_dir: Path) -> About:
    """What the page says about a run."""
    heart, machine = scenario.heartbeat, scenario.machine
    sensors = tuple(Sensor(sensor.name, round(sensor.limit_celsius * 1_000)) for sensor in machine.sensors)
    outputs = tuple(Output(limit.name, limit.minimum, limit.maximum) for limit in hardware.limits.values())
    return About(
        id=run_dir.name,
        name=run_dir.name,
        origin="live",
        backend=options.backend,
        scenario=scenario.name,
        seed=scenario.seed,
        config=heart.config,
        law=heart.law,
        machine=machine.name,
        run_dir=str(run_dir),
        period_ms=scenario.control.period_ms,
        duration_ms=scenario.duration_ms,
        learns=scenario.learn.enabled,
        forecast_ms=forecast_ms(scenario),
        sensors=sensors,
        outputs=outputs,
        columns=columns(hardware.sensors, tuple(hardware.limits), tuple(sensor.name for sensor in sensors)),
    )


@contextlib.contextmanager
def page_for(options: argparse.Namespace) -> Iterator[Page | None]:
    """The page's address, if a page was asked for. Raises `InputError` when it cannot be had."""
    if not options.dashboard:
        yield None
        return
    with listening(options) as (listener, access):
        yield Page(listener, access)


@contextlib.contextmanager
def fed(page: Page | None, about: About, controller: Controller, run_dir: rundir.RunDirectory) -> Iterator[Feed | None]:
    """What the loop tells the page, while the context lasts; the link lies in the run directory for so long.

    Raises `RecordError` when it cannot.
    """
    if page is None:
        yield None
        return
    file = run_dir.file(rundir.PAGE)
    try:
        # Nobody else may read it, from the first moment on.
        with open(file, "x", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW, 0o600)) as out:
            out.write(page.link + "\n")
    except OSError as error:
        raise failure(file, "writing the page's link", error) from error
    feed = page.begin(about, getattr(controller, "insight", None), run_dir.file(rundir.RUN_LOG))
    for line in (page.link, *page.elsewhere):
        print(f"dashboard: {line}", file=sys.stderr, flush=True)
    try:
        yield feed
    finally:
        page.end(told=feed.end())
        file.unlink(missing_ok=True)


def paced(options: argparse.Namespace) -> Pace | None:
    """How fast a simulated run with a page goes; None for one that goes as fast as it can, or by the clock anyway."""
    if not options.dashboard or options.backend == "linux":
        return None
    speed = 1.0 if options.speed is None else options.speed
    return None if isinf(speed) else Pace(speed)


def check_page(options: argparse.Namespace) -> list[str]:
    """What is wrong with the options of a page; `--wave2` is taken apart."""
    if options.wave2:
        options.dashboard = True
        # What was asked for by itself is what is meant.
        options.crystal = True if options.crystal is None else options.crystal
        options.neural = True if options.neural is None else options.neural
    wrong = []
    if not options.dashboard:
        given = {name: getattr(options, name) for name in ("port", "bind", "allow_remote", "speed")}
        wrong += [
            f"--{name.replace('_', '-')} goes with --dashboard" for name, value in given.items()
            if value is not None and value is not False
        ]  # fmt: skip
    elif options.backend == "linux" and options.speed is not None:
        wrong.append("--speed goes with a simulated machine; a real one has its own")
    return wrong
