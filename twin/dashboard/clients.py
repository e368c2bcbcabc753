"""The clients of a page: what each is sent waits in a queue of its own, and whoever takes nothing is let go."""

from __future__ import annotations

import contextlib
import queue
import select
import socket
import struct
import threading
import time
from collections.abc import Iterable
from typing import Any

import simple_websocket
from engineio.async_drivers._websocket_wsgi import SimpleWebSocketWSGI
from wsproto import ConnectionType, WSConnection
from wsproto.events import CloseConnection, Event
from wsproto.utilities import ProtocolError

from twin.dashboard.words import encoded, mistaken, refusal

WAITING = 64
"""So many messages wait for a client; then the oldest goes."""
PATIENCE_SECONDS = 5.0
"""So long a client may take for one message, and for its answer to a ping."""
PING_SECONDS = 5.0
SILENCE_SECONDS = PING_SECONDS + 2 * PATIENCE_SECONDS
"""A client that says nothing for so long is gone: it answers pings."""
HEARD = frozenset(("3", "40", "40{}", "41", "1"))
"""All that a client may say (Engine.IO 4): a ping's answer, connect, disconnect, close."""
_HEARD_BYTES, _HEARD_PER_SECOND = 8_192.0, 1_024.0
_CLOSING = 0x88
"""The first byte of a frame that closes."""


class Waiting(queue.Queue[Any]):
    """What waits for one client: at most `WAITING` messages. Where there is no room, the oldest makes some."""

    def __init__(self, *_: object) -> None:
        super().__init__()

    def _put(self, item: Any) -> None:
        if item is None:
            # The end. Nobody is told what came before it.
            self.unfinished_tasks -= len(self.queue)
            self.queue.clear()
        elif len(self.queue) >= WAITING:
            self.queue.popleft()
            self.unfinished_tasks -= 1
        self.queue.append(item)

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """The next message. Never more than one at a time is taken out, so that all others can still be dropped."""
        if not block:
            raise queue.Empty
        return super().get(True, timeout)


class PatientSocket:
    """A client's connection, which waits so long and no longer for the client.

    It stands where a WebSocket expects a socket: `send` sends everything, `recv` gives up on a client that is silent or
    says more than an answer to each ping.
    """

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(None)
        seconds = struct.pack("ll", int(SILENCE_SECONDS), 0)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, seconds)
        self._connection = connection
        self._room = select.poll()
        self._room.register(connection, select.POLLOUT)
        self._sending = threading.Lock()
        self._heard, self._since = 0.0, time.monotonic()
        self.blocked_since: float | None = None
        """Since when a message waits for the client to take it."""

    def send(self, data: bytes) -> int:
        """Send all of it. Raises `OSError` when the client does not take it in time; then it is gone."""
        with self._sending:
            self.blocked_since = time.monotonic()
            try:
                self._send(memoryview(data), self.blocked_since + PATIENCE_SECONDS)
            except OSError:
                self.shut()
                raise
            finally:
                self.blocked_since = None
        if data[:1] and data[0] == _CLOSING:
            self.shut()
        return len(data)

    def _send(self, left: memoryview, until: float) -> None:
        while left:
            try:
                left = left[self._connection.send(left, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL) :]
            except BlockingIOError:
                wait_ms = (until - time.monotonic()) * 1_000
                if wait_ms <= 0 or not self._room.poll(wait_ms):
                    raise BrokenPipeError("the client takes nothing") from None

    def recv(self, size: int) -> bytes:
        """What the client says; nothing when it is gone, silent for too long, or says too much."""
        try:
            data = self._connection.recv(size)
        except BlockingIOError:
            data = b""
        now = time.monotonic()
        self._heard = max(0.0, self._heard - (now - self._since) * _HEARD_PER_SECOND) + len(data)
        self._since = now
        if not data or self._heard > _HEARD_BYTES:
            self.shut()
            return b""
        return data

    def shut(self) -> None:
        """Let the client go; whoever waits on the connection wakes."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Give the descriptor back."""
        self._connection.close()

    def fileno(self) -> int:
        """The descriptor."""
        return self._connection.fileno()


class _Terse(WSConnection):
    """A WebSocket's words; what a library thought of a client is not among them."""

    def send(self, event: Event) -> bytes:
        """The bytes of an event; a close says its code alone."""
        return super().send(CloseConnection(event.code) if isinstance(event, CloseConnection) else event)


class _Socket(simple_websocket.Server):  # type: ignore[misc]
    """The library's WebSocket, which says so in a line where it fails."""

    def handshake(self) -> None:
        """Agree to the upgrade. Raises `ProtocolError` for one that is none."""
        self.ws = _Terse(ConnectionType.SERVER)
        super().handshake()

    def _thread(self) -> None:
        try:
            super()._thread()
        except Exception as error:
            mistaken("a WebSocket", error)
            self.connected = False
            self.event.set()


class Client(SimpleWebSocketWSGI):  # type: ignore[misc]
    """A client's WebSocket, on which nothing is listened to but what keeps it open."""

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Upgrade, and serve until the end. What a library does not take for an upgrade is refused."""
        try:
            self.ws = _Socket(environ, **self.server_args)
        except (ProtocolError, ValueError) as error:
            mistaken("an upgrade to a WebSocket", error)
            body = encoded(refusal("this is no upgrade to a WebSocket")).encode()
            start_response(
                "400 BAD REQUEST", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
            )
            return [body]
        try:
            self.app(self)
        except OSError:
            pass
        except Exception as error:  # whatever it is, the connection is used up
            mistaken("a WebSocket", error)
        raise ConnectionError

    def wait(self) -> str | None:
        """The next thing that the client says; None when it is gone, or says anything else."""
        said = super().wait()
        if said in HEARD:
            return str(said)
        return None

    def close(self) -> None:
        """Say goodbye, once."""
        with contextlib.suppress(OSError):
            super().close()
