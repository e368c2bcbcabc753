"""Every route of the page against every way to get at it from elsewhere. The routes are the application's own."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

import pytest
from dashboards import MARKUP, TOKEN, UPGRADE, Answer, Page, WebSocketClient, serving, some_run
from hypothesis import given, settings
from hypothesis import strategies as st
from wsproto.utilities import RemoteProtocolError

from twin.dashboard import clients, words
from twin.dashboard.answers import Served
from twin.dashboard.gate import Access, Gate, Limits, heard, hello
from twin.dashboard.server import make_app

SOCKET = "/socket.io/?EIO=4&transport=websocket"
EXAMPLES = {"/static/<path:name>": "/static/vendor/chart.js"}
"""Where a route has parts to fill in."""
RULES = sorted({rule.rule for rule in make_app(Served())[0].url_map.iter_rules()})
ROUTES = [EXAMPLES.get(rule, rule) for rule in RULES] + [SOCKET]
OPEN = [route for route in ROUTES if route == "/" or route.startswith("/static/")]
"""The page itself, which has nothing in it that is not in the package."""
SECRET = [route for route in ROUTES if route not in OPEN]
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with serving(runs=[some_run(20, MARKUP)]) as served:
        yield served


def asked(page: Page, route: str, headers: Mapping[str, Any] | None = None, method: str = "GET", **more: Any) -> Answer:
    """The answer to somebody who does everything right but for `headers` and the method."""
    upgrade = UPGRADE if route.startswith("/socket.io/") else {}
    answer = page.ask(route, method, {**upgrade, **BEARER, **(headers or {})}, **more)
    well_dressed(page, answer)
    return answer


def well_dressed(page: Page, answer: Answer) -> None:
    """What every answer carries, and what none does."""
    names = [name.lower() for name, _ in answer.headers]
    assert "server" not in names
    assert "set-cookie" not in names
    assert not [name for name in names if name.startswith("access-control-")]
    assert answer.status < 500, answer
    if answer.status == 101:
        return
    policy = answer.header("Content-Security-Policy") or ""
    for part in ("default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "base-uri 'none'",
                 "form-action 'none'", "ws://"):  # fmt: skip
        assert part in policy
    assert "unsafe" not in policy
    assert answer.header("X-Content-Type-Options") == "nosniff"
    assert answer.header("Referrer-Policy") == "no-referrer"
    assert answer.header("Cross-Origin-Resource-Policy") == "same-origin"
    assert len(names) == len(set(names))
    if answer.status >= 400:
        assert answer.header("Cache-Control") in ("no-store", "no-cache")
        assert answer.header("Content-Type") == "application/json"
        if answer.body:
            assert set(answer.json["error"]) == {"message", "key", "value", "allowed"}


def test_every_kind_of_route_is_among_them() -> None:
    assert "<" not in "".join(ROUTES), "say in EXAMPLES what to ask for"
    assert {"/", "/api/runs", "/api/metrics/latest", "/api/metrics/history", "/api/course"} <= set(ROUTES)
    assert OPEN
    assert SECRET


@pytest.mark.parametrize("route", ROUTES)
def test_who_does_everything_right_gets_an_answer(page: Page, route: str) -> None:
    answer = asked(page, route)
    assert answer.status in ((101,) if route == SOCKET else (200, 400, 404))
    if route not in OPEN and route != SOCKET:
        assert answer.header("Cache-Control") == "no-store"


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": None},
        {"Authorization": ""},
        {"Authorization": "Bearer "},
        {"Authorization": "Bearer nonsense"},
        {"Authorization": f"Bearer {TOKEN}x"},
        {"Authorization": f"Bearer {TOKEN[:-1]}"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": [f"Bearer {TOKEN}", "Bearer x"]},
        {"Authorization": None, "Cookie": f"token={TOKEN}"},
        {"Authorization": "Bearer \xff"},
    ],
)
@pytest.mark.parametrize("route", SECRET)
def test_nothing_is_told_without_the_token(page: Page, route: str, headers: Mapping[str, Any]) -> None:
    answer = asked(page, route, headers)
    assert answer.status == 401
    assert answer.header("WWW-Authenticate") == "Bearer"


@pytest.mark.parametrize("query", ["token=", "token=x", f"token={TOKEN}&token=x", f"token=x&token={TOKEN}",
                                   f"Token={TOKEN}", f"token={TOKEN}%00", "token=%ff"])  # fmt: skip
@pytest.mark.parametrize("route", SECRET)
def test_nor_with_another_one_in_the_address(page: Page, route: str, query: str) -> None:
    assert asked(page, with_query(route, query), {"Authorization": None}).status == 401


def test_a_token_that_is_right_twice_is_right(page: Page) -> None:
    assert asked(page, f"/api/runs?token={TOKEN}").status == 200
    assert asked(page, f"/api/runs?token={TOKEN}", {"Authorization": None}).status == 200
    assert asked(page, "/api/runs?token=x").status == 401


@pytest.mark.parametrize(
    "host",
    ["attacker.example", "attacker.example:{port}", "127.0.0.1", "127.0.0.1:1", "localhost", "localhost.example:{port}",
     "127.0.0.1:{port}.example", "127.1:{port}", "2130706433:{port}", "LOCALHOST:{port}", "127.0.0.1:{port}, x",
     "user@127.0.0.1:{port}", "[::1]:{port}", "", None, ["127.0.0.1:{port}", "attacker.example"]],
)  # fmt: skip
@pytest.mark.parametrize("route", ROUTES)
def test_another_name_is_not_ours(page: Page, route: str, host: str | list[str] | None) -> None:
    if isinstance(host, list):
        told: Any = [each.replace("{port}", str(page.port)) for each in host]
    else:
        told = host if host is None else host.replace("{port}", str(page.port))
    assert asked(page, route, {"Host": told}).status in (400, 403)


@pytest.mark.parametrize("origin", ["http://attacker.example", "null", "https://127.0.0.1:{port}", "http://127.0.0.1",
                                    "http://127.0.0.1:1", "http://127.0.0.1:{port}/", "http://127.0.0.1:{port}.example",
                                    "HTTP://127.0.0.1:{port}", "", "file://",
                                    ["http://127.0.0.1:{port}", "null"]])  # fmt: skip
@pytest.mark.parametrize("route", ROUTES)
def test_another_page_may_not_ask(page: Page, route: str, origin: str | list[str]) -> None:
    texts = [each.replace("{port}", str(page.port)) for each in ([origin] if isinstance(origin, str) else origin)]
    assert asked(page, route, {"Origin": texts}).status == 403


@pytest.mark.parametrize("route", ROUTES)
def test_our_own_page_may(page: Page, route: str) -> None:
    for origin in (f"http://127.0.0.1:{page.port}", f"http://localhost:{page.port}"):
        assert asked(page, route, {"Origin": origin, "Sec-Fetch-Site": "same-origin"}).status not in (401, 403)


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
@pytest.mark.parametrize("mode", ["no-cors", "cors", "websocket", "navigate"])
@pytest.mark.parametrize("route", ROUTES)
def test_nothing_is_lent_to_another_site(page: Page, route: str, site: str, mode: str) -> None:
    status = asked(page, route, {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": mode}).status
    # A link may lead here; what it leads to has nothing in it that needs the token.
    assert (status == 403) == (not (mode == "navigate" and route == "/"))


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "get"])
@pytest.mark.parametrize("route", ROUTES)
def test_everything_is_for_reading(page: Page, route: str, method: str) -> None:
    answer = asked(page, route, {"Access-Control-Request-Method": "GET"}, method)
    assert answer.status == 405
    assert answer.header("Allow") == "GET, HEAD"


@pytest.mark.parametrize("headers", [{"Content-Length": "1"}, {"Content-Length": "99999999999"},
                                     {"Content-Length": "-1"}, {"Content-Length": "nan"},
                                     {"Transfer-Encoding": "chunked"}, {"Content-Length": ["0", "5"]},
                                     {"Expect": "100-continue", "Content-Length": "5"}])  # fmt: skip
@pytest.mark.parametrize("route", ROUTES)
def test_nobody_sends_a_body(page: Page, route: str, headers: Mapping[str, Any]) -> None:
    assert asked(page, route, headers, body=b"x" * 100_000).status in (400, 413)


def with_query(route: str, query: str) -> str:
    return f"{route}{'&' if '?' in route else '?'}{query}"


@pytest.mark.parametrize("route", ROUTES)
def test_addresses_have_a_size(page: Page, route: str) -> None:
    assert asked(page, with_query(route, "x=" + "y" * 5_000)).status == 414
    assert asked(page, route, {"X": "y" * 9_000}).status == 431
    assert asked(page, route, {"X": ["y"] * 150}).status == 431
    assert asked(page, with_query(route, "&".join(f"x{n}=" for n in range(100)))).status in (200, 400, 404, 101)


CLIMBS = ["/static/../server.py", "/static/%2e%2e/server.py", "/static/..%2fserver.py", "/static/..%5cserver.py",
          "/static/%252e%252e/server.py", "/static//etc/passwd", "//etc/passwd", "/static/./vendor/chart.js",
          "/static/vendor", "/static/vendor/..", "/..", "/.", "/static/vendor/chart.js%00.html", "/static/",
          "/static/vendor\\chart.js",
          "/api/../api/runs", "/api//runs", "/api/runs/", "/API/runs", "/static/vendor/chart.js/", "/%61pi/runs",
          "http://127.0.0.1/api/runs", "*", "api/runs", "//[x/", "/api/runs;x", "/api/r\xfcns", "/socket.io",
          "/socket.io/../api/runs", "/socket.io/x", "/~root", "/.git/config"]  # fmt: skip


@pytest.mark.parametrize("target", CLIMBS)
def test_there_is_no_way_around(page: Page, target: str) -> None:
    answer = asked(page, target)
    assert answer.status in (400, 403, 404, 308)
    assert b"root:" not in answer.body


@pytest.mark.parametrize("word", [b"GET / HTTP/1.1\n\n\r\n\r\n", b"\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n",
                                  b"GET / HTTP/x\r\n\r\n", b"\x16\x03\x01\r\n\r\n", b"GET /\r\n\r\n",
                                  b"GET / HTTP/1.1\r\nHost\r\n\r\n", b"GET  /  HTTP/1.1\r\n\r\n",
                                  b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET / HTTP/1.1\r\n Host: x\r\n\r\n",
                                  b"GET / HTTP/1.1\r\nHost: x\r\nHost : y\r\n\r\n"])  # fmt: skip
def test_what_is_no_request_is_refused(page: Page, word: bytes) -> None:
    with page.connect() as connection:
        connection.sendall(word)
        received = b"".join(iter(lambda: connection.recv(65_536), b""))
    head, _, body = received.partition(b"\r\n\r\n")
    assert b"200 OK" not in head
    assert not head.startswith(b"HTTP/1.1 5")
    assert b"Python" not in received
    assert not body or "error" in json.loads(body.rpartition(b"\r\n\r\n")[2])


@settings(max_examples=60)
@given(words=st.binary(max_size=400))
def test_no_bytes_bring_the_server_down(page: Page, words: bytes) -> None:
    with page.connect(2.0) as connection:
        connection.sendall(words + b"\r\n\r\n")
        received = b"".join(iter(lambda: connection.recv(65_536), b""))
    assert b" 50" not in received[:16]
    assert len(page.data("/api/runs")["runs"]) == 1


WORDS = st.one_of(st.text(max_size=40), st.sampled_from(["NaN", "-1", "1e9", "\u0661", "9" * 400, " 5", "1_0", "+5"]))


@settings(max_examples=100)
@given(
    key=st.sampled_from(["n", "run", "columns", "first_ns", "last_ns", "points", "a", "b", "format"]),
    text=WORDS,
    route=st.sampled_from([route for route in SECRET if route != SOCKET]),
)
def test_no_parameter_brings_an_answer_down(page: Page, key: str, text: str, route: str) -> None:
    assert asked(page, f"{route}?{key}={quote(text, safe='')}").status in (200, 400, 404)


def test_a_number_that_is_none_is_refused_with_what_is_allowed(page: Page) -> None:
    for wrong in ("0", "301", "-5", "x", "1.5", "", "nan", "\u0665".encode().decode("latin-1")):
        answer = page.ask("/api/metrics/history?n=" + "".join(f"%{byte:02x}" for byte in wrong.encode("latin-1")),
                          headers=BEARER)  # fmt: skip
        assert answer.status == 400
        assert answer.json["error"]["key"] == "n"
        assert answer.json["error"]["allowed"] == "1 to 300"


@pytest.mark.parametrize("query", ["run=a&run=b", "n=1&n=1", "x=1&x=2"])
def test_nothing_is_given_twice(page: Page, query: str) -> None:
    answer = asked(page, f"/api/metrics/history?{query}")
    assert answer.status == 400
    assert answer.json["error"]["allowed"] == "once"
    assert answer.json["error"]["key"] == query[0 : query.index("=")]


def test_a_course_has_both_its_ends(page: Page) -> None:
    assert asked(page, "/api/course?points=1").status == 400
    assert page.data("/api/course?points=2&columns=cycle")["columns"]["cycle"] == [0, 19]


def test_runs_are_told_in_the_order_of_the_command() -> None:
    served = Served(["b", "a"])
    for name in ("c", "a", "b"):
        served.add(some_run(1, name))
    assert [run.about.id for run in served.runs] == ["b", "a", "c"]


def test_names_with_markup_come_as_text(page: Page) -> None:
    answer = asked(page, "/api/runs")
    assert answer.header("Content-Type") == "application/json"
    assert answer.json["runs"][0]["id"] == MARKUP
    assert asked(page, "/api/metrics/latest?run=%3Cb%3E").status == 404


def test_what_is_no_number_is_never_sent() -> None:
    run = some_run(3)
    run.record(0, [3, 300_000_000, None, "noop", ""], {"q_values": {"noop": float("nan"), "boost": 1.5}})
    with serving(runs=[run]) as page:
        latest = page.data("/api/metrics/latest")
        assert latest["insight"] == {"q_values": {"noop": None, "boost": 1.5}}
        assert page.data("/api/metrics/history?n=2")["rows"][-1] == [3, 300_000_000, None, "noop", ""]


def test_head_is_get_without_its_body(page: Page) -> None:
    answer = asked(page, "/api/runs", method="HEAD")
    assert answer.status == 200
    assert answer.body == b""
    assert asked(page, "/api/runs", {"Authorization": None}, "HEAD").body == b""


# WebSockets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [{"Upgrade": "h2c"}, {"Connection": "close"}, {"Sec-WebSocket-Version": "8"},
                                    {"Sec-WebSocket-Key": "short"}, {"Sec-WebSocket-Key": None},
                                    {"Sec-WebSocket-Version": None}, {"Upgrade": None}])  # fmt: skip
def test_only_websockets_upgrade(page: Page, change: Mapping[str, Any]) -> None:
    assert asked(page, SOCKET, change).status == 400


@pytest.mark.parametrize("line", [b"X-A: b\0c", b"X-A: b\x01c", b"X-A: b\x7f", b"X A: b", b"X(: b", b"X-A: b\x0bc",
                                  b"X-A: b\x1b[31m", b"X-A: b\r\n c"])  # fmt: skip
@pytest.mark.parametrize("route", ["/api/runs", SOCKET])
def test_headers_are_of_plain_characters(
    page: Page, route: str, line: bytes, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    told = {"Host": page.host, "Connection": "close", **BEARER, **(UPGRADE if route == SOCKET else {})}
    head = "".join(f"{name}: {value}\r\n" for name, value in told.items()).encode()
    answer = page.say(f"GET {route} HTTP/1.1\r\n".encode() + head + line + b"\r\n\r\n")
    # A line that is no header at all ends the headers, and one that goes on in the next is put together.
    assert answer.status == 400 or line.startswith(b"X A") or line.endswith(b"\n c")
    well_dressed(page, answer)
    assert capfd.readouterr().err == ""
    assert not caplog.records


@settings(max_examples=100)
@given(name=st.binary(max_size=12), value=st.binary(max_size=30))
def test_no_header_brings_an_upgrade_down(page: Page, name: bytes, value: bytes) -> None:
    told = {"Host": page.host, **BEARER, **UPGRADE}
    head = "".join(f"{each}: {text}\r\n" for each, text in told.items()).encode()
    with page.connect() as connection:
        connection.sendall(b"GET " + SOCKET.encode() + b" HTTP/1.1\r\n" + head + name + b": " + value + b"\r\n\r\n")
        assert connection.recv(65_536)[9:12] in (b"101", b"400", b"401", b"403", b"405", b"413")


def test_what_a_library_makes_of_an_upgrade_is_one_line(
    page: Page, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: object) -> None:
        raise RemoteProtocolError("bad\n" + "x" * 2_000)

    monkeypatch.setattr(words, "_said", 0)
    monkeypatch.setattr(clients._Terse, "receive_data", fails)
    for _ in range(words.SAID + 5):
        assert asked(page, SOCKET).status == 400
    assert len(caplog.records) == words.SAID
    for record in caplog.records:
        assert "\n" not in record.getMessage()
        assert len(record.getMessage()) < 400
    assert capfd.readouterr().err == ""


def test_a_close_has_its_code_and_no_words(page: Page) -> None:
    client = WebSocketClient(page)
    client.join()
    client.frame(0x81, b"\xff\xfe")
    assert client._frame() == (0x88, (1007).to_bytes(2, "big"))


@pytest.mark.parametrize("query", ["EIO=4&transport=polling", "EIO=3&transport=websocket", "transport=websocket", "",
                                   "EIO=4&transport=websocket&sid=x", "EIO=4&transport=websocket&j=1"])  # fmt: skip
def test_there_is_no_other_transport(page: Page, query: str) -> None:
    assert asked(page, f"/socket.io/?{query}").status in (400, 101)
    assert page.ask(f"/socket.io/?{query}", headers=BEARER).status == 400


@pytest.mark.parametrize("route", [route for route in ROUTES if route != SOCKET])
def test_an_upgrade_elsewhere_is_none(page: Page, route: str) -> None:
    assert asked(page, route, UPGRADE).status != 101


@pytest.mark.parametrize("words", ["5", "6", "4", "42[\"x\"]", "451-[]", "40/admin,", "40" + "{" * 50, "x", "",
                                   "2probe", "b4AAAA", "4" * 2_000, "\u00e9"])  # fmt: skip
def test_whoever_says_anything_is_let_go(page: Page, words: str) -> None:
    client = WebSocketClient(page)
    client.join()
    client.say(words)
    assert client.text() == ""


@pytest.mark.parametrize("frame", [(0x82, b"\x00"), (0xC1, b"3"), (0x83, b""), (0x89, b"x" * 200), (0x01, b"3"),
                                   (0x80, b"3"), (0x88, b"\x00"), (0x81, b"\xff\xfe")])  # fmt: skip
def test_frames_that_are_none_harm_nobody(page: Page, frame: tuple[int, bytes]) -> None:
    client = WebSocketClient(page)
    client.join()
    client.frame(*frame)
    client.connection.settimeout(0.2)
    with contextlib.suppress(TimeoutError):
        client.text()
    assert page.data("/api/runs")["runs"]


@settings(max_examples=40)
@given(words=st.binary(min_size=1, max_size=200))
def test_no_frames_bring_a_thread_down(page: Page, words: bytes) -> None:
    client = WebSocketClient(page)
    client.join()
    client.connection.sendall(words)
    client.connection.shutdown(socket.SHUT_WR)
    client.connection.settimeout(5.0)
    while client.text():
        pass
    client.connection.close()


def test_whoever_talks_too_much_is_let_go(page: Page) -> None:
    client = WebSocketClient(page)
    client.join()
    # Each is answered, and none is more than may be said; but so many are.
    with contextlib.suppress(ConnectionError):
        for _ in range(200):
            client.frame(0x89, bytes(120))
    assert client.text() == ""


def test_compression_is_not_agreed_to(page: Page) -> None:
    client = WebSocketClient(page, headers={"Sec-WebSocket-Extensions": "permessage-deflate"})
    assert client.answer.status == 101
    assert client.answer.header("Sec-WebSocket-Extensions") is None


def test_events_come_to_every_client(page: Page) -> None:
    clients = [WebSocketClient(page) for _ in range(3)]
    for client in clients:
        client.join()
    page.events.emit("metrics", {"run": MARKUP})
    assert [client.event() for client in clients] == [("metrics", {"run": MARKUP})] * 3


# Limits ---------------------------------------------------------------------------------------------------------------


def test_who_asks_too_often_waits() -> None:
    now = [0.0]
    gate = Gate(lambda _, start: start("200 OK", []) or [b"x"], Access("t", ("h",)), Limits(burst=3.0, per_second=1.0),
                lambda: now[0])  # fmt: skip

    def status(address: str = "a") -> int:
        said: list[str] = []
        environ = {"REMOTE_ADDR": address, "REQUEST_METHOD": "GET", "RAW_URI": "/", "PATH_INFO": "/", "HTTP_HOST": "h"}
        gate(environ, lambda line, _: said.append(line))
        return int(said[0][:3])

    assert [status() for _ in range(5)] == [200, 200, 200, 429, 429]
    assert status("b") == 200
    now[0] = 2.0
    assert [status() for _ in range(3)] == [200, 200, 429]


def test_whoever_knows_the_token_pays_for_nobody_else() -> None:
    gate = Gate(lambda _, start: start("200 OK", []) or [b"x"], Access("t", ("h",)), Limits(burst=3.0, per_second=1.0),
                lambda: 0.0)  # fmt: skip

    def status(path: str = "/api/runs", token: str = "", host: str = "h", **more: str) -> int:
        said: list[str] = []
        environ = {"REMOTE_ADDR": "127.0.0.1", "REQUEST_METHOD": "GET", "RAW_URI": path, "PATH_INFO": path,
                   "HTTP_HOST": host, "QUERY_STRING": token and f"token={token}", **more}  # fmt: skip
        gate(environ, lambda line, _: said.append(line))
        return int(said[0][:3])

    # Refused for each of the reasons, all out of one bucket.
    assert [status(), status(host="x"), status(token="x")] == [401, 403, 401]
    assert [status(), status(host="x"), status(token="t", HTTP_ORIGIN="null")] == [429, 429, 429]
    assert [status("/") for _ in range(4)] == [200, 200, 200, 429]
    assert [status(token="t"), status("/", token="t"), status(token="t"), status(token="t")] == [200, 200, 200, 429]


def test_addresses_are_forgotten_in_the_end() -> None:
    gate = Gate(lambda _, start: start("200 OK", []) or [b"x"], Access("t", ("h",)), Limits(addresses=10))
    for number in range(100):
        gate({"REMOTE_ADDR": str(number), "REQUEST_METHOD": "GET", "RAW_URI": "/", "PATH_INFO": "/"}, lambda *_: None)
    assert len(gate._refused._left) == 10


def test_a_head_that_does_not_come_is_not_waited_for() -> None:
    with serving(Limits(head_seconds=0.3)) as page, page.connect() as slow, page.connect() as silent:
        slow.sendall(b"GET / HTTP/1.1\r\nHost:")
        began = time.monotonic()
        for connection in (slow, silent):
            assert b" 408 " in connection.recv(1_000)
        assert time.monotonic() - began < 5.0
        assert page.data("/api/runs")["runs"] == []


def test_who_only_connects_makes_room_for_who_asks() -> None:
    with serving(Limits(connections=8)) as page:
        silent = [page.connect() for _ in range(20)]
        assert page.data("/api/runs")["runs"] == []
        assert sum(gone(connection) for connection in silent) >= 12


def gone(connection: Any) -> bool:
    connection.settimeout(0.1)
    try:
        return connection.recv(1) == b""
    except TimeoutError:
        return False
    except ConnectionError:
        return True


def test_there_are_so_many_websockets_and_no_more() -> None:
    with serving(Limits(websockets=2, per_second=1e9, burst=1e9)) as page:
        first, second = WebSocketClient(page), WebSocketClient(page)
        first.join()
        second.join()
        third = WebSocketClient(page)
        assert third.answer.status == 503
        page.events.emit("metrics", {})
        assert first.event() == second.event() == ("metrics", {})
        first.connection.close()
        for _ in range(100):
            if WebSocketClient(page).answer.status == 101:
                break
            time.sleep(0.02)
        else:
            pytest.fail("a place that was given back is not given out")


def test_the_address_of_arrival_is_a_name_where_others_may_come() -> None:
    with serving(remote=True) as page:
        assert asked(page, "/api/runs", {"Host": f"127.0.0.1:{page.port}"}).status == 200
        assert asked(page, "/api/runs", {"Host": f"attacker.example:{page.port}"}).status == 403


def test_what_the_process_is_told_comes_as_it_was() -> None:
    access, limits = Access("t", ("a:1", "b:1"), True), Limits(websockets=3)
    assert heard(hello(access, limits)) == (access, limits)
