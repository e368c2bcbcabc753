"""A page served in this process, and clients that say exactly what a test wants to have said."""

from __future__ import annotations

import base64
import json
import socket
import struct
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from flask_socketio import SocketIO

from twin.dashboard.answers import Served
from twin.dashboard.gate import Access, Limits
from twin.dashboard.live import LiveRun
from twin.dashboard.runs import About, Output, Sensor
from twin.dashboard.server import make_server

TOKEN = "the-token-of-this-test"
MARKUP = "<img src=x onerror=alert(1)>"
UNBOUNDED = Limits(per_second=1e9, burst=1e9)
KEY = base64.b64encode(bytes(16)).decode()
UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": KEY,
}
COLUMNS = ("cycle", "time_ns", "cpu_worst_millicelsius", "action", "reason")


def about(name: str = "run", **changes: Any) -> About:
    known = {
        "id": name, "name": name, "origin": "live", "backend": "simulated", "scenario": MARKUP, "seed": 1,
        "config": "1_0_1_1_1_0", "law": "adaptive", "machine": "desktop", "run_dir": "runs/run", "period_ms": 100,
        "duration_ms": 1_000, "learns": False, "sensors": (Sensor(MARKUP, 95_000),),
        "outputs": (Output("cpu_fan_pwm", 0, 255),), "columns": COLUMNS,
    }  # fmt: skip
    return About(**{**known, **changes})


def row(cycle: int) -> list[int | str | None]:
    return [cycle, cycle * 100_000_000, None if cycle % 7 == 0 else 40_000 + cycle, "noop", MARKUP]


def some_run(cycles: int, name: str = "run") -> LiveRun:
    run = LiveRun(about(name))
    for cycle in range(cycles):
        run.record(0, row(cycle), None)
    return run


@dataclass
class Answer:
    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)

    @property
    def json(self) -> Any:
        return json.loads(self.body, parse_constant=no_number)


def no_number(word: str) -> None:
    raise AssertionError(f"{word} is no JSON")


@dataclass
class Page:
    port: int
    served: Served
    events: SocketIO
    token: str = TOKEN
    open: list[socket.socket] = field(default_factory=list)

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def connect(self, seconds: float = 5.0) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.port), seconds)
        self.open.append(connection)
        return connection

    def ask(
        self,
        target: str,
        method: str = "GET",
        headers: Mapping[str, str | Sequence[str] | None] | None = None,
        body: bytes = b"",
    ) -> Answer:
        """The answer to a request, whose headers are the usual ones but for `headers` (None: without)."""
        told = {"Host": self.host, "Connection": "close", **(headers or {})}
        lines = [f"{method} {target} HTTP/1.1"]
        for name, value in told.items():
            lines += [f"{name}: {each}" for each in ([value] if isinstance(value, str) else value or [])]
        return self.say("\r\n".join([*lines, "", ""]).encode("latin-1") + body)

    def say(self, words: bytes) -> Answer:
        """The answer to these very bytes."""
        with self.connect() as connection:
            connection.sendall(words)
            return read_answer(connection, empty=words.startswith(b"HEAD "))

    def data(self, target: str) -> Any:
        """What is answered to somebody who knows the token."""
        answer = self.ask(target, headers={"Authorization": f"Bearer {self.token}"})
        assert answer.status == 200, answer.body
        return answer.json


def read_answer(connection: socket.socket, empty: bool = False) -> Answer:
    received = b""
    while b"\r\n\r\n" not in received and (more := connection.recv(65_536)):
        received += more
    head, _, body = received.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    status = int(first.split()[1])
    headers = [(name, value) for name, _, value in (line.partition(": ") for line in lines)]
    size = next((int(value) for name, value in headers if name == "Content-Length"), 1 << 30)
    while status != 101 and not empty and len(body) < size and (more := connection.recv(65_536)):
        body += more
    return Answer(status, headers, body)


class WebSocketClient:
    """A client of Engine.IO 4 and Socket.IO that has no more than its socket."""

    def __init__(self, page: Page, target: str | None = None, headers: Mapping[str, str] | None = None) -> None:
        self.connection = page.connect()
        target = target or f"/socket.io/?EIO=4&transport=websocket&token={page.token}"
        told = {"Host": page.host, **UPGRADE, **(headers or {})}
        lines = [f"GET {target} HTTP/1.1", *(f"{name}: {value}" for name, value in told.items()), "", ""]
        self.connection.sendall("\r\n".join(lines).encode())
        self.answer = read_answer(self.connection)
        self.left = self.answer.body

    def join(self) -> None:
        """Be told of events from now on."""
        assert self.answer.status == 101, self.answer
        assert self.text().startswith("0{")
        self.say("40")
        assert self.text().startswith("40{")

    def say(self, text: str) -> None:
        self.frame(0x81, text.encode())

    def frame(self, first: int, content: bytes) -> None:
        size = len(content)
        length = bytes([0x80 | size]) if size < 126 else bytes([0xFE]) + struct.pack(">H", size)
        # Masked with zeros.
        self.connection.sendall(bytes([first]) + length + bytes(4) + content)

    def text(self) -> str:
        """The next message; empty when the server has closed."""
        while True:
            first, content = self._frame()
            if first in (0, 0x88):
                return ""
            if first == 0x81:
                return content.decode()

    def event(self) -> tuple[str, Any]:
        """The next event; pings are answered."""
        while text := self.text():
            if text == "2":
                self.say("3")
            elif text.startswith("42"):
                name, content = json.loads(text[2:], parse_constant=no_number)
                return name, content
        raise ConnectionError("closed")

    def _frame(self) -> tuple[int, bytes]:
        if not self._have(2):
            return 0, b""
        size, at = self.left[1] & 0x7F, 2
        if size == 126:
            self._have(4)
            size, at = struct.unpack(">H", self.left[2:4])[0], 4
        elif size == 127:
            self._have(10)
            size, at = struct.unpack(">Q", self.left[2:10])[0], 10
        if not self._have(at + size):
            return 0, b""
        first, content = self.left[0], self.left[at : at + size]
        self.left = self.left[at + size :]
        return first, content

    def _have(self, size: int) -> bool:
        while len(self.left) < size:
            try:
                more = self.connection.recv(65_536)
            except ConnectionError:
                more = b""
            if not more:
                return False
            self.left += more
        return True


@contextmanager
def serving(limits: Limits = UNBOUNDED, runs: Sequence[LiveRun] = (), remote: bool = False) -> Iterator[Page]:
    listener = socket.create_server(("127.0.0.1", 0))
    with listener:
        port = listener.getsockname()[1]
        access = Access(TOKEN, (f"127.0.0.1:{port}", f"localhost:{port}"), remote)
        served = Served()
        for run in runs:
            served.add(run)
        server, events = make_server(listener, access, served, limits)
    thread = threading.Thread(target=server.serve_forever, args=(0.1,))
    thread.start()
    page = Page(port, served, events)
    try:
        yield page
    finally:
        for connection in page.open:
            connection.close()
        server.shutdown()
        thread.join()
        events.server.shutdown()
