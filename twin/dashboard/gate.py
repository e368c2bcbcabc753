"""The gate before everything that answers: pages, data and the upgrade to a WebSocket alike.

A request passes that comes to one of our own names, from one of our own pages or from none, reads, has no body and a
plain path, does not come too often, and knows the token. Whatever is answered, by whomever, leaves with the headers
that keep a browser from lending the page to another.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import parse_qs

from twin.dashboard.words import encoded, refusal

METHODS = ("GET", "HEAD")
SOCKET = "/socket.io/"
_PLAIN = re.compile(r"/[A-Za-z0-9._~/-]*")
"""What our own paths are made of; nothing in them is ever encoded."""
_QUERY = re.compile(r"[!-~]*")
_HEADER = re.compile(r"HTTP_[!#$%&'*+.^_`|~0-9A-Z]+")
_CONTROLS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
"""What no header has in it: the libraries behind would stumble over it, each in its own way."""
_REASONS = {
    400: "BAD REQUEST", 401: "UNAUTHORIZED", 403: "FORBIDDEN", 405: "METHOD NOT ALLOWED",
    408: "REQUEST TIMEOUT", 413: "REQUEST ENTITY TOO LARGE", 414: "REQUEST URI TOO LONG", 429: "TOO MANY REQUESTS",
    431: "REQUEST HEADER FIELDS TOO LARGE", 503: "SERVICE UNAVAILABLE",
}  # fmt: skip

Environ = dict[str, Any]
Headers = list[tuple[str, str]]
Start = Callable[..., Any]
Application = Callable[[Environ, Start], Iterable[bytes]]


@dataclass(frozen=True, slots=True)
class Access:
    """Who may ask: whoever knows the `token`, at one of `hosts` (names with their port).

    With `remote` the address at which a connection arrived is one of them too: no other site's name can become it.
    """

    token: str
    hosts: tuple[str, ...]
    remote: bool = False


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is asked at most, and how long somebody may take for it."""

    head_bytes: int = 8_192
    """Of a request, all headers together."""
    target_bytes: int = 4_096
    head_seconds: float = 10.0
    """For a whole head, from the moment of connecting."""
    answer_seconds: float = 10.0
    """For taking what is sent at once."""
    connections: int = 512
    connections_each: int = 64
    """From one address other than this machine's."""
    answers: int = 64
    """At the same time."""
    websockets: int = 128
    per_second: float = 200.0
    """Requests from one address: with the token, for the page itself, and refused ones, each counted apart."""
    burst: float = 400.0
    addresses: int = 1_024
    """So many addresses are remembered."""


def headers(host: str) -> Headers:
    """What every answer carries, from the page at `host`."""
    policy = (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        f"connect-src 'self' ws://{host}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return [
        ("Content-Security-Policy", policy),
        ("X-Content-Type-Options", "nosniff"),
        ("Referrer-Policy", "no-referrer"),
        ("Cross-Origin-Resource-Policy", "same-origin"),
        ("Cross-Origin-Opener-Policy", "same-origin"),
        ("X-Frame-Options", "DENY"),
    ]


def refusing(status: int, message: str, host: str) -> tuple[str, Headers, bytes]:
    """An answer that says no: status, headers and body."""
    body = encoded(refusal(message)).encode()
    more = {405: ("Allow", ", ".join(METHODS)), 401: ("WWW-Authenticate", "Bearer"), 429: ("Retry-After", "1")}
    told = [("Content-Type", "application/json"), ("Content-Length", str(len(body))), ("Cache-Control", "no-store")]
    return f"{status} {_REASONS[status]}", [*told, *([more[status]] if status in more else []), *headers(host)], body


class Gate:
    """WSGI middleware: what does not pass never reaches `application`."""

    def __init__(
        self,
        application: Application,
        access: Access,
        limits: Limits | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._application = application
        self._access = access
        self._token = access.token.encode()
        self._limits = limits or Limits()
        # Whoever knows the token pays nothing for what others at the same address do.
        self._known, self._open, self._refused = (_Rates(self._limits, clock) for _ in range(3))

    def __call__(self, environ: Environ, start_response: Start) -> Iterable[bytes]:
        """Answer, or hand on."""
        host = environ.get("HTTP_HOST", "")
        wrong = self._wrong(environ, host)
        if wrong is not None:
            status, told, body = refusing(*wrong, self._access.hosts[0])
            start_response(status, told)
            return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]
        # Compression would keep a third of a megabyte for each client.
        environ.pop("HTTP_SEC_WEBSOCKET_EXTENSIONS", None)
        # A shipped file may be kept if it is asked for again; nothing else may.
        keep = "no-cache" if environ["PATH_INFO"].startswith("/static/") else "no-store"

        def start(status: str, told: Headers, *rest: Any) -> Any:
            kept = [(name, value) for name, value in told if name.lower() not in ("cache-control", "date", "server")]
            return start_response(status, [*kept, ("Cache-Control", keep), *headers(host)], *rest)

        return self._application(environ, start)

    def _wrong(self, environ: Environ, host: str) -> tuple[int, str] | None:
        """The status and the message for a request that does not pass."""
        wrong = self._wrong_request(environ, host)
        if wrong is not None:
            rates = self._refused
        else:
            rates = self._known if self._token_is_right(environ) else self._open
        if not rates.admits(environ.get("REMOTE_ADDR", "")):
            return 429, "too many requests from this address; wait a second"
        # Last, because it takes a place.
        return wrong or (self._wrong_upgrade(environ) if environ["PATH_INFO"].startswith(SOCKET) else None)

    def _wrong_request(self, environ: Environ, host: str) -> tuple[int, str] | None:
        if environ["REQUEST_METHOD"] not in METHODS:
            return 405, "only GET and HEAD: everything here is for reading"
        if environ.get("CONTENT_LENGTH", "0") not in ("", "0") or "HTTP_TRANSFER_ENCODING" in environ:
            return 413, "a request has no body here"
        for name, value in environ.items():
            if name.startswith("HTTP_") and (not _HEADER.fullmatch(name) or _CONTROLS.search(value)):
                return 400, "a header has a character that no header has"
        return self._wrong_target(environ) or self._wrong_place(environ, host) or self._wrong_token(environ)

    def _wrong_target(self, environ: Environ) -> tuple[int, str] | None:
        path, _, query = environ["RAW_URI"].partition("?")
        if len(path) + len(query) >= self._limits.target_bytes:
            return 414, f"an address has at most {self._limits.target_bytes} bytes here"
        segments = path.split("/")[1:]
        # Only these two end as a folder does.
        inner = segments[:-1] if path in ("/", SOCKET) else segments
        if not _PLAIN.fullmatch(path) or not {"", ".", ".."}.isdisjoint(inner):
            return 400, "the path has something in it that no path here has"
        if not _QUERY.fullmatch(query):
            return 400, "the query has a character that has to be encoded"
        return None

    def _wrong_place(self, environ: Environ, host: str) -> tuple[int, str] | None:
        hosts = self._access.hosts
        if self._access.remote:
            hosts = (*hosts, place(environ.get("SERVER_NAME", ""), environ.get("SERVER_PORT", "")))
        if host not in hosts:
            return 403, "this is not the name of the page; open the address that was printed"
        origin = environ.get("HTTP_ORIGIN")
        if origin is not None and origin not in {f"http://{each}" for each in hosts}:
            return 403, "another site's page may not ask"
        # Says the browser itself; a link that is followed to the page is the one thing from elsewhere.
        site, mode = environ.get("HTTP_SEC_FETCH_SITE", "none"), environ.get("HTTP_SEC_FETCH_MODE", "")
        if site not in ("none", "same-origin") and not (mode == "navigate" and environ["PATH_INFO"] == "/"):
            return 403, "another site's page may not ask"
        return None

    def _wrong_token(self, environ: Environ) -> tuple[int, str] | None:
        try:
            right = self._token_is_right(environ)
        except ValueError:
            return 400, "the query has too many fields"
        if environ["PATH_INFO"] == "/" or environ["PATH_INFO"].startswith("/static/"):
            return None
        if right is None:
            return 401, "the token is missing; open the address that was printed"
        return None if right else (401, "this is not the token of this start; open the address that was printed")

    def _token_is_right(self, environ: Environ) -> bool | None:
        """Whether every token that is given is the right one; None where none is. Raises `ValueError`."""
        given = parse_qs(environ.get("QUERY_STRING", ""), keep_blank_values=True, max_num_fields=64)
        tokens = given.get("token", [])
        kind, _, bearer = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
        if kind.lower() == "bearer":
            tokens.append(bearer.strip())
        # Each is compared, and whole, whatever the others are like: the time taken tells nothing.
        right = [hmac.compare_digest(token.encode(errors="replace"), self._token) for token in tokens]
        return all(right) if right else None

    def _wrong_upgrade(self, environ: Environ) -> tuple[int, str] | None:
        connection = [word.strip().lower() for word in environ.get("HTTP_CONNECTION", "").split(",")]
        if (
            environ["REQUEST_METHOD"] != "GET"
            or "upgrade" not in connection
            or environ.get("HTTP_UPGRADE", "").lower() != "websocket"
            or environ.get("HTTP_SEC_WEBSOCKET_VERSION") != "13"
            or environ.get("SERVER_PROTOCOL") != "HTTP/1.1"
            or not _is_key(environ.get("HTTP_SEC_WEBSOCKET_KEY", ""))
        ):
            return 400, "this is for WebSockets alone"
        asked = parse_qs(environ["QUERY_STRING"])
        if (
            environ["PATH_INFO"] != SOCKET
            or asked.pop("EIO", None) != ["4"]
            or asked.keys() - {"token", "transport", "t"}
        ):
            return 400, "this is for Engine.IO 4 alone"
        if asked.get("transport") != ["websocket"]:
            return 400, "there is no transport but websocket"
        room = environ.get("twin.room")
        if room is not None:
            patient = room()
            if patient is None:
                return 503, f"{self._limits.websockets} pages are open already; close one"
            environ["werkzeug.socket"] = patient
        return None


def place(address: str, port: str | int) -> str:
    """A host with its port, as a browser writes it."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _is_key(text: str) -> bool:
    try:
        return len(base64.b64decode(text, validate=True)) == 16
    except (binascii.Error, ValueError):
        return False


def hello(access: Access, limits: Limits | None = None) -> bytes:
    """The first message of a feed, for the process that serves it: on a command line the token could be read."""
    return json.dumps({"access": asdict(access), "limits": asdict(limits or Limits())}).encode()


def heard(message: bytes) -> tuple[Access, Limits]:
    """What `hello` said."""
    told = json.loads(message)
    access = told["access"]
    return Access(access["token"], tuple(access["hosts"]), access["remote"]), Limits(**told["limits"])


class _Rates:
    """How much each address may still ask: a bucket that fills steadily. The addresses seen last are remembered."""

    def __init__(self, limits: Limits, clock: Callable[[], float]) -> None:
        self._limits = limits
        self._clock = clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def admits(self, address: str) -> bool:
        """Whether another request is not too many."""
        now = self._clock()
        with self._lock:
            left, since = self._left.pop(address, (self._limits.burst, now))
            left = min(self._limits.burst, left + (now - since) * self._limits.per_second)
            admitted = left >= 1.0
            self._left[address] = (left - 1.0 if admitted else left, now)
            if len(self._left) > self._limits.addresses:
                self._left.popitem(last=False)
        return admitted
