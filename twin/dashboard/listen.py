"""Werkzeug's server, bounded: a connection gets a thread once its request is there as a whole, and only so many do.

Heads are waited for in one place, without threads and without copies (`MSG_PEEK`, edge-triggered `epoll`), so that a
thousand connections that say nothing cost a descriptor each, for as long as they are let.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import select
import socket
import threading
import time
from typing import Any

from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler

from twin.dashboard.clients import PatientSocket
from twin.dashboard.gate import Application, Limits, refusing
from twin.dashboard.words import mistaken

ACCEPTED = 64
"""So many connections are accepted before those that wait are looked at again."""
SEND_BYTES = 65_536
"""What the kernel keeps for a client that is slow."""
GRACE_SECONDS = 2.0
"""An answer that is not taken for so long, or a blocked page, makes room when all places are taken."""
_END = b"\r\n\r\n"


class Handler(WSGIRequestHandler):
    """One request, whose head is known; no banner, no log."""

    server: Server

    def __init__(self, connection: socket.socket, address: Any, server: Server, head: bytes) -> None:
        self._head = head
        super().__init__(connection, address, server)

    def setup(self) -> None:
        """Read the head and nothing after it: there is no body, and what a WebSocket says is read elsewhere."""
        super().setup()
        self.rfile.close()
        self.rfile = io.BufferedReader(io.BytesIO(self._head))

    def make_environ(self) -> dict[str, Any]:
        """With the address at which the connection arrived, and who gives a WebSocket its place."""
        environ = super().make_environ()
        environ["SERVER_NAME"] = self.connection.getsockname()[0]
        environ["twin.room"] = functools.partial(self.server.room, self.connection)
        return environ

    def run_wsgi(self) -> None:
        """Answer. An address that cannot be taken apart is refused."""
        del self.headers["Expect"]
        try:
            super().run_wsgi()
        except ValueError:
            self.send_error(400)

    def handle_expect_100(self) -> bool:
        """Nobody is asked to send a body."""
        return True

    def send_response(self, code: int, message: str | None = None) -> None:
        """As it is, without saying what serves."""
        self.send_response_only(code, message)
        self.send_header("Date", self.date_time_string())

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What is no request is answered as others are."""
        known = {414: "the address is too long", 431: "too many headers", 505: "HTTP/1.1 is spoken here"}
        status = code if code in (414, 431) else 400
        self.wfile.write(raw(status, known.get(code, "this is no request"), self.server.name))
        self.close_connection = True

    def log(self, type: str, message: str, *args: Any) -> None:  # noqa: A002
        """Nothing: whoever is refused is told so."""


class Server(BaseWSGIServer):
    """Serves `application` at `listener`, within `limits`, until `shutdown`. `name` is the page's host."""

    multithread = True

    def __init__(self, listener: socket.socket, application: Application, limits: Limits, name: str) -> None:
        host, port = listener.getsockname()[:2]
        super().__init__(host, port, application, Handler, fd=listener.fileno())
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BYTES)
        self.name = name
        self._limits = limits
        self._waiting: dict[int, tuple[socket.socket, Any, float]] = {}
        self._answering: dict[socket.socket, float] = {}
        self._clients: dict[socket.socket, PatientSocket] = {}
        self._addresses: dict[str, int] = {}
        self._lock = threading.Lock()
        self._stop_read, self._stop_write = os.pipe()

    def serve_forever(self, poll_interval: float = 0.5) -> None:
        """Accept, and hand each whole request to a thread."""
        with select.epoll() as ready, self.socket:
            self._ready = ready
            ready.register(self.socket.fileno(), select.EPOLLIN)
            ready.register(self._stop_read, select.EPOLLIN)
            while True:
                for descriptor, _ in ready.poll(poll_interval):
                    if descriptor == self._stop_read:
                        return
                    if descriptor == self.socket.fileno():
                        self._accept()
                    else:
                        self._look(descriptor)
                self._expire(time.monotonic())

    def log(self, type: str, message: str, *args: Any) -> None:  # noqa: A002
        """A mistake in answering, without where it came from line by line."""
        if type == "error":
            mistaken("a request", RuntimeError(message.strip().rpartition("\n")[2]))

    def shutdown(self) -> None:
        """End `serve_forever`; answers that are being given end with the process."""
        os.write(self._stop_write, b".")

    def room(self, connection: socket.socket) -> PatientSocket | None:
        """A place for a WebSocket on this connection, None when all are taken by clients that are well."""
        now = time.monotonic()
        with self._lock:
            if len(self._clients) >= self._limits.websockets:
                slow = [
                    client
                    for client in self._clients.values()
                    if client.blocked_since is not None and now - client.blocked_since > GRACE_SECONDS
                ]
                if not slow:
                    return None
                min(slow, key=lambda client: client.blocked_since or now).shut()
            self._answering.pop(connection, None)
            client = self._clients[connection] = PatientSocket(connection)
        return client

    def _accept(self) -> None:
        for _ in range(ACCEPTED):
            try:
                connection, address = self.socket.accept()
            except BlockingIOError:
                return
            except OSError:
                # No descriptors left, or the client has gone again. Whoever waits longest makes room.
                self._drop_oldest()
                return
            connection.setblocking(False)
            if len(self._waiting) + len(self._answering) + len(self._clients) >= self._limits.connections:
                self._drop_oldest()
            if not self._admits(address[0]):
                self._refuse(connection, 503, "there are too many connections; try again")
                continue
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            descriptor = connection.fileno()
            self._waiting[descriptor] = (connection, address, time.monotonic() + self._limits.head_seconds)
            self._ready.register(descriptor, select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET)

    def _admits(self, address: str) -> bool:
        """Count the address in, if it has not too many connections. All of this machine are one, and count together."""
        with self._lock:
            here = self._addresses.get(address, 0)
            local = address.startswith("127.") or address == "::1"
            most = self._limits.connections if local else self._limits.connections_each
            if here >= most or sum(self._addresses.values()) >= self._limits.connections:
                return False
            self._addresses[address] = here + 1
        return True

    def _leaves(self, address: str) -> None:
        with self._lock:
            left = self._addresses[address] - 1
            if left:
                self._addresses[address] = left
            else:
                del self._addresses[address]

    def _look(self, descriptor: int) -> None:
        """Whether the head is there as a whole; then answer it."""
        if descriptor not in self._waiting:
            return
        connection, address, _ = self._waiting[descriptor]
        try:
            there = connection.recv(self._limits.head_bytes, socket.MSG_PEEK)
        except BlockingIOError:
            return
        except OSError:
            there = b""
        end = there.find(_END)
        if end < 0 and 0 < len(there) < self._limits.head_bytes:
            return
        self._forget(descriptor)
        if end >= 0:
            self._start(connection, address, end + len(_END))
        else:
            self._leaves(address[0])
            if there:
                self._refuse(connection, 431, f"a request has at most {self._limits.head_bytes} bytes of headers here")
            else:
                connection.close()

    def _start(self, connection: socket.socket, address: Any, size: int) -> None:
        now = time.monotonic()
        with self._lock:
            full = len(self._answering) >= self._limits.answers
            oldest = next(iter(self._answering.items()), None)
            if full and oldest is not None and now - oldest[1] > GRACE_SECONDS:
                with contextlib.suppress(OSError):
                    oldest[0].shutdown(socket.SHUT_RDWR)
            if not full:
                self._answering[connection] = now
        if full:
            self._leaves(address[0])
            self._refuse(connection, 503, "everybody is busy; try again")
            return
        try:
            threading.Thread(target=self._answer, args=(connection, address, size), daemon=True).start()
        except RuntimeError:
            # The system gives no more threads.
            with self._lock:
                del self._answering[connection]
            self._leaves(address[0])
            self._refuse(connection, 503, "everybody is busy; try again")

    def _answer(self, connection: socket.socket, address: Any, size: int) -> None:
        try:
            connection.settimeout(self._limits.answer_seconds)
            head = connection.recv(size)
            Handler(connection, address, self, head)
            with contextlib.suppress(OSError):
                _part(connection)
        except OSError:
            pass
        except Exception as error:  # a mistake of ours, told to whoever started the page and not to the client
            mistaken("a request", error)
        finally:
            with self._lock:
                self._answering.pop(connection, None)
                self._clients.pop(connection, None)
            self._leaves(address[0])
            connection.close()

    def _expire(self, now: float) -> None:
        """Refuse those that have waited too long for their own words. They wait in the order of their deadlines."""
        while self._waiting:
            descriptor, (connection, address, until) = next(iter(self._waiting.items()))
            if until > now:
                return
            self._forget(descriptor)
            self._leaves(address[0])
            self._refuse(connection, 408, "the request did not come in time")

    def _drop_oldest(self) -> None:
        if self._waiting:
            descriptor, (connection, address, _) = next(iter(self._waiting.items()))
            self._forget(descriptor)
            self._leaves(address[0])
            connection.close()

    def _forget(self, descriptor: int) -> None:
        self._ready.unregister(descriptor)
        del self._waiting[descriptor]

    def _refuse(self, connection: socket.socket, status: int, message: str) -> None:
        """Say no without a thread, if that can be said at once."""
        with connection, contextlib.suppress(OSError):
            connection.send(raw(status, message, self.name), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            _part(connection)


def raw(status: int, message: str, host: str) -> bytes:
    """A whole answer that says no."""
    line, told, body = refusing(status, message, host)
    head = "".join(f"{name}: {value}\r\n" for name, value in told)
    return f"HTTP/1.1 {line}\r\n{head}Connection: close\r\n\r\n".encode() + body


def _part(connection: socket.socket) -> None:
    """Say that nothing more comes, and let go of what the client said meanwhile: else it may not see the answer."""
    connection.shutdown(socket.SHUT_WR)
    connection.setblocking(False)
    for _ in range(16):
        if not connection.recv(65_536):
            return
