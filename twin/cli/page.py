"""The page beside a run: where it listens, the process that serves it, and what the loop tells it."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import secrets
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

import twin
from hardware.interface import Hardware
from twin.cli import InputError
from twin.control.cycle import Cycle
from twin.control.view import Controller
from twin.dashboard.feed import Feed, Insight, columns
from twin.dashboard.runs import About, Output, Sensor, forecast_ms
from twin.kernels import Integers
from twin.scenario import Scenario
from twin.telemetry import Watcher

log = logging.getLogger("twin")

NEEDED = ("flask", "flask_socketio", "simple_websocket", "werkzeug")
"""What the extra `dashboard` brings."""
LOCAL = ("127.0.0.1", "::1", "localhost")


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
    """An address that is taken, and the process that serves the page there once a run begins."""

    def __init__(self, listener: socket.socket) -> None:
        host, port = listener.getsockname()[:2]
        self.listener = listener
        self.token = secrets.token_urlsafe(32)
        self.hosts = (f"{host}:{port}", f"localhost:{port}")
        self.url = f"http://{host}:{port}/?token={self.token}"

    def begin(self, about: About, insight: Callable[[], Insight | None] | None) -> Feed:
        """Start the process, and tell it of the run."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            ours.send("\n".join((self.token, *self.hosts)).encode())
            package = str(Path(twin.__file__).parent.parent)
            path = os.pathsep.join([package, *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
            listener, feed = self.listener.fileno(), theirs.fileno()
            os.set_inheritable(listener, True)
            os.set_inheritable(feed, True)
            try:
                os.posix_spawn(
                    sys.executable,
                    [sys.executable, "-P", "-m", "twin.dashboard.server", str(listener), str(feed)],
                    {**os.environ, "PYTHONPATH": path.rstrip(os.pathsep)},
                    file_actions=[(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)],
                    setsid=True,
                )
            finally:
                os.set_inheritable(listener, False)
        self.listener.close()
        return Feed(ours, about, insight)


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
        machine=options.machine or scenario.name,
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
def listening(options: argparse.Namespace) -> Iterator[Page | None]:
    """The page's address, if a page was asked for. Raises `InputError` when it cannot be had."""
    if not options.dashboard:
        yield None
        return
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise InputError(
            f"--dashboard: {', '.join(missing)} missing; pip install 'pulsetwin[dashboard]' adds what it needs"
        )
    with socket.create_server((options.bind, options.port)) as listener:
        yield Page(listener)


@contextlib.contextmanager
def fed(page: Page | None, about: About, controller: Controller) -> Iterator[Feed | None]:
    """What the loop tells the page, while the context lasts."""
    if page is None:
        yield None
        return
    feed = page.begin(about, getattr(controller, "insight", None))
    print(f"dashboard: {page.url}", file=sys.stderr, flush=True)
    try:
        yield feed
    finally:
        feed.end()


def paced(options: argparse.Namespace) -> Pace | None:
    """How fast a simulated run with a page goes; None for one that goes as fast as it can, or by the clock anyway."""
    if not options.dashboard or options.backend == "linux" or options.speed is None:
        return None
    return Pace(options.speed)
