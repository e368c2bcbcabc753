"""The page's process: it listens to feeds, and serves what they tell. It has no hardware and nobody waits for it."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from flask import Flask, Response
from flask_socketio import SocketIO
from werkzeug.exceptions import HTTPException
from werkzeug.serving import ThreadedWSGIServer

from twin.dashboard.answers import Refused, Served, answer, described, encoded, refusal
from twin.dashboard.api import api
from twin.dashboard.live import LiveRun, follow
from twin.dashboard.runs import Run

PER_SECOND, BURST = 10.0, 3.0
"""A client is told at most so many records a second, and so many at once after it was told none."""
LINGER_SECONDS = 2.0
"""So long the page can still be read when its run is over."""


@dataclass(frozen=True, slots=True)
class Access:
    """Who may ask: whoever knows the `token`, under one of the names in `hosts` (with the port)."""

    token: str
    hosts: tuple[str, ...]


class _Json:
    """JSON for events, as answers have it."""

    @staticmethod
    def dumps(value: Any, **_: Any) -> str:
        return encoded(value)

    @staticmethod
    def loads(text: str | bytes, **_: Any) -> Any:
        import json

        return json.loads(text)


def make_app(served: Served) -> tuple[Flask, SocketIO]:
    """The application, and what sends events."""
    app = Flask("twin.dashboard", static_folder=None)
    app.register_blueprint(api(served))

    @app.errorhandler(Refused)
    def refused(error: Refused) -> Response:
        return answer(error.body, error.status)

    @app.errorhandler(HTTPException)
    def wrong(error: HTTPException) -> Response:
        return answer(refusal(error.name), error.code or 500)

    events = SocketIO(
        app,
        async_mode="threading",
        transports=["websocket"],
        cors_allowed_origins=[],
        cors_credentials=False,
        async_handlers=False,
        json=_Json,
    )

    # Without a handler nobody may connect.
    events.on_event("connect", lambda _=None: None)
    return app, events


class Emitter:
    """Tells every client what a run has new, never more often than `PER_SECOND`."""

    def __init__(self, events: SocketIO) -> None:
        self._events = events
        self._allowed = BURST
        self._since = time.monotonic()
        self._state = ""

    def news(self, run: Run) -> None:
        """Something of the run has changed."""
        if run.state != self._state:
            self._state = run.state
            self._events.emit("run", {"run": described(run)})
        now = time.monotonic()
        self._allowed = min(BURST, self._allowed + (now - self._since) * PER_SECOND)
        self._since = now
        newest = run.history(1)
        if newest and self._allowed >= 1.0:
            self._allowed -= 1.0
            event = {"run": run.about.id, "record": newest[0], "insight": run.insight(), "lost": run.lost}
            self._events.emit("metrics", event)


def serve(
    listener: socket.socket,
    access: Access,
    served: Served,
    feeds: Sequence[socket.socket],
    until: threading.Event | None = None,
    take: Callable[[LiveRun], Run] = lambda live: live,
) -> None:
    """Serve until every feed has ended, and a moment longer; with `until`, until that is set.

    `take` says what is served in place of what a feed tells of.
    """
    app, events = make_app(served)
    host, port = listener.getsockname()[:2]
    server = ThreadedWSGIServer(host, port, app, fd=listener.fileno())
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def listen(channel: socket.socket) -> None:
        emitter = Emitter(events)
        runs: dict[LiveRun, Run] = {}

        def begun(live: LiveRun) -> None:
            runs[live] = take(live)
            served.add(runs[live])
            emitter.news(runs[live])

        follow(channel, begun, lambda live: emitter.news(runs[live]))

    listening = [threading.Thread(target=listen, args=(channel,), daemon=True) for channel in feeds]
    for thread in listening:
        thread.start()
    if until is None:
        for thread in listening:
            thread.join()
        time.sleep(LINGER_SECONDS)
    else:
        until.wait()
    server.shutdown()


def main(arguments: Sequence[str]) -> int:
    """The process that `twin run --dashboard` starts: descriptors of the listener and the feed.

    The first message on the feed says who may ask: on a command line the token could be read by others.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    listener, feed = (socket.socket(fileno=int(text)) for text in arguments)
    token, *hosts = feed.recv(4_096).decode().split("\n")
    serve(listener, Access(token, tuple(hosts)), Served(), [feed])
    return 0


if __name__ == "__main__":
    status = main(sys.argv[1:])
    sys.stdout.flush()
    # Threads that still answer somebody need not be waited for.
    os._exit(status)
