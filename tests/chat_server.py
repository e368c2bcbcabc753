"""A chat completions endpoint on this machine that behaves as it is told, well and badly."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Behaviour = Callable[["ChatServer", BaseHTTPRequestHandler], None]


class ChatServer:
    """Listens on a free port of 127.0.0.1 while the context lasts. `behaviour` may be changed between questions."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.requests: list[dict[str, Any]] = []
        self.released = threading.Event()
        """Set at the end: whoever hangs goes home."""
        self.asked = threading.Event()
        """A request is here and read."""
        self.broken = threading.Event()
        """The client has hung up on a behaviour that was still at it."""
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                owner._serve(self)

            def do_GET(self) -> None:
                owner._serve(self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        self.requests.append({"path": handler.path, "headers": dict(handler.headers), "body": body})
        handler.close_connection = True
        self.asked.set()
        try:
            self.behaviour(self, handler)
            handler.wfile.flush()
        except OSError:
            self.broken.set()

    def __enter__(self) -> ChatServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def completion(content: object) -> bytes:
    """The body of a chat completion whose message is `content`."""
    return json.dumps({"choices": [{"index": 0, "message": {"role": "assistant", "content": content}}]}).encode()


def body(data: bytes, status: int = 200, length: int | None = None) -> Behaviour:
    """Answers with these bytes, and says that there are `length` of them."""

    def behave(server: ChatServer, handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(data) if length is None else length))
        handler.end_headers()
        handler.wfile.write(data)

    return behave


def says(content: object) -> Behaviour:
    """Answers with a chat completion."""
    return body(completion(content))


def orders(order: Sequence[object]) -> Behaviour:
    """Answers with an order, as asked."""
    return says(json.dumps({"order": list(order)}))


def redirects(to: str, status: int) -> Behaviour:
    """Sends the client elsewhere."""

    def behave(server: ChatServer, handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("Location", to)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return behave


def raw(data: bytes) -> Behaviour:
    """Sends bytes that need not be HTTP, and hangs up."""

    def behave(server: ChatServer, handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(data)

    return behave


def chunked(data: bytes, end: bool = True) -> Behaviour:
    """Answers in chunks of 10 bytes, and may leave out the end."""
    pieces = [data[i : i + 10] for i in range(0, len(data), 10)]
    sent = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    return raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + sent + (b"0\r\n\r\n" if end else b""))


def hangs(server: ChatServer, handler: BaseHTTPRequestHandler) -> None:
    """Never answers, and notices when the client goes."""
    # Longer than any test waits, or it would end what a test says must end by itself.
    handler.connection.settimeout(600)
    if handler.connection.recv(1) == b"":
        server.broken.set()


def drips(head: bytes) -> Behaviour:
    """Sends `head` and then a byte every few milliseconds for ever."""

    def behave(server: ChatServer, handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(head)
        while not server.released.wait(0.005):
            handler.wfile.write(b" ")

    return behave


def endless(server: ChatServer, handler: BaseHTTPRequestHandler) -> None:
    """Sends without end, as fast as it is taken."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while not server.released.is_set():
        handler.wfile.write(b" " * 65_536)
