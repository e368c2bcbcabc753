"""The page's process: it listens to feeds, and serves what they tell. It has no hardware and nobody waits for it."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from flask import Flask, Response
from flask_socketio import SocketIO
from werkzeug.exceptions import HTTPException

from twin.dashboard.answers import Refused, Served, answer, described, encoded, refusal
from twin.dashboard.api import api
from twin.dashboard.clients import PATIENCE_SECONDS, PING_SECONDS, Client, Waiting
from twin.dashboard.compared import compared
from twin.dashboard.experiments import experiments
from twin.dashboard.export import export
from twin.dashboard.gate import HELLO_BYTES, Access, Gate, Limits, heard
from twin.dashboard.listen import Server
from twin.dashboard.live import LiveRun, follow
from twin.dashboard.openapi import openapi
from twin.dashboard.pool import Pools, pool
from twin.dashboard.prometheus import prometheus
from twin.dashboard.runs import Run
from twin.record.files import RecordError

PER_SECOND, BURST = 10.0, 10.0
"""A client is told at most so many records a second, and so many at once after it was told none."""
LINGER_SECONDS = 2.0
"""So long the page can still be read when its run is over."""
STACK_BYTES = 1 << 20
NICE = 10


class _Json:
    """JSON for events, as answers have it."""

    @staticmethod
    def dumps(value: Any, **_: Any) -> str:
        return encoded(value)

    @staticmethod
    def loads(text: str | bytes, **_: Any) -> Any:
        return json.loads(text)


def make_app(served: Served) -> tuple[Flask, SocketIO]:
    """The application, and what sends events. Nothing of it asks who is there: that is the gate's."""
    app = Flask("twin.dashboard", static_folder=None)
    pools = Pools()
    for routes in (
        api(served, pools), compared(served), experiments(served), export(served), pool(served, pools),
        prometheus(served, pools), openapi(),
    ):  # fmt: skip
        app.register_blueprint(routes)

    @app.errorhandler(Refused)
    def refused(error: Refused) -> Response:
        return answer(error.body, error.status)

    @app.errorhandler(RecordError)
    def unreadable(error: RecordError) -> Response:
        return answer(refusal(str(error)), 503)

    @app.errorhandler(HTTPException)
    def wrong(error: HTTPException) -> Response:
        return answer(refusal(error.name), error.code or 500)

    quiet = logging.getLogger("twin.dashboard.engine")
    quiet.setLevel(logging.CRITICAL)
    events = SocketIO(
        app,
        async_mode="threading",
        async_handlers=False,
        transports=["websocket"],
        # The gate asks, and answers carry no such headers.
        cors_allowed_origins=[],
        cors_credentials=False,
        json=_Json,
        ping_interval=PING_SECONDS,
        ping_timeout=PATIENCE_SECONDS,
        manage_session=False,
        logger=quiet,
        engineio_logger=quiet,
    )
    # Where the library would take a queue without bounds, and a connection that waits for ever.
    engine = events.server.eio
    engine._async = {**engine._async, "queue": Waiting, "websocket": Client}
    # Without a handler nobody may connect.
    events.on_event("connect", lambda _=None: None)
    return app, events


def make_server(listener: socket.socket, access: Access, served: Served, limits: Limits) -> tuple[Server, SocketIO]:
    """A server at `listener` with the gate before it, and what sends events to its clients."""
    app, events = make_app(served)
    return Server(listener, Gate(app, access, limits), limits, access.hosts[0]), events


class Emitter:
    """Tells every client what a run has new, never more often than `PER_SECOND`."""

    def __init__(self, events: SocketIO) -> None:
        self._events = events
        self._allowed = BURST
        self._since = time.monotonic()
        self._state = ""
        self._told: tuple[int, object] = (0, None)

    def news(self, run: Run, last: bool = False) -> None:
        """Something of the run has changed; `last` says that nothing will after this."""
        if last:
            self._allowed = max(self._allowed, 1.0)
        if run.state != self._state:
            self._state = run.state
            self._events.emit("run", {"run": described(run)})
            # With the last record, whatever was told just before.
            self._allowed = max(self._allowed, 1.0)
        now = time.monotonic()
        self._allowed = min(BURST, self._allowed + (now - self._since) * PER_SECOND)
        self._since = now
        if self._allowed < 1.0:
            return
        newest = run.history(1)
        # Of a run that has ended, only what the learner thought may be told anew.
        tells = (run.cycles, run.insight())
        if newest and tells != self._told:
            self._told = tells
            self._allowed -= 1.0
            event = {"run": run.about.id, "record": newest[0], "insight": tells[1], "lost": run.lost}
            self._events.emit("metrics", event)


def serve(
    listener: socket.socket,
    access: Access,
    served: Served,
    feeds: Sequence[socket.socket],
    limits: Limits | None = None,
    until: threading.Event | None = None,
    take: Callable[[LiveRun], Run] = lambda live: live,
) -> None:
    """Serve until every feed has ended, and a moment longer; with `until`, until that is set.

    `take` says what is served in place of what a feed tells of.
    """
    # Hundreds of threads that do little.
    threading.stack_size(STACK_BYTES)
    server, events = make_server(listener, access, served, limits or Limits())

    def listen(channel: socket.socket) -> None:
        emitter = Emitter(events)
        runs: dict[LiveRun, Run] = {}

        def begun(live: LiveRun) -> None:
            runs[live] = take(live)
            served.add(runs[live])
            emitter.news(runs[live])

        follow(channel, begun, lambda live: emitter.news(runs[live], live.state != "running"))

    listening = [threading.Thread(target=listen, args=(channel,), daemon=True) for channel in feeds]
    for thread in listening:
        thread.start()

    def end() -> None:
        if until is not None:
            until.wait()
        else:
            for thread in listening:
                thread.join()
            time.sleep(LINGER_SECONDS)
        server.shutdown()

    threading.Thread(target=end, daemon=True).start()
    server.serve_forever()


def main(arguments: Sequence[str]) -> int:
    """The process beside a run; `arguments` are the descriptors of the listener and of the feed."""
    # Ctrl-C is for the run; the feed's end is what ends this.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Where there are too few processors, the run comes first.
    os.nice(NICE)
    listener, feed = (socket.socket(fileno=int(text)) for text in arguments)
    access, limits = heard(feed.recv(HELLO_BYTES))
    serve(listener, access, Served(), [feed], limits)
    return 0


if __name__ == "__main__":
    status = main(sys.argv[1:])
    sys.stdout.flush()
    # Threads that still answer somebody need not be waited for.
    os._exit(status)
