"""The advisor's key goes to the endpoint and nowhere else; advisors are made of what can work."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import chat_server
import pytest
from advising import PATIENT_MS, ask, outcome
from chat_server import ChatServer

from twin.pool.advisor import make_advisor
from twin.pool.errors import PoolInputError

KEY = "sk-secret-0123456789"
VARIABLE = "PULSETWIN_TEST_KEY"


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with ChatServer(chat_server.orders([3, 1, 0, 2])) as running:
        yield running


def test_the_key_goes_to_the_endpoint_and_nowhere_else(server, monkeypatch, caplog, capfd) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv(VARIABLE, KEY)
    echoes = [
        chat_server.orders([0, 1, 2, KEY]),
        chat_server.says(KEY),
        chat_server.body(KEY.encode()),
        chat_server.raw(f"HTTP/1.1 401 {KEY}\r\n\r\n".encode()),
        chat_server.raw(f"{KEY}\r\n\r\n".encode()),
        chat_server.raw(f"HTTP/1.1 200 OK\r\nContent-Length: {KEY}\r\n\r\n{KEY}".encode()),
        chat_server.raw(f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{KEY}\r\n".encode()),
        chat_server.redirects(f"{server.url}/{KEY}", 302),
    ]
    for behaviour in echoes:
        server.behaviour = behaviour
        advisor = make_advisor("http", server.url, "small", VARIABLE, PATIENT_MS)
        assert ask(advisor) is None
        assert server.requests[-1]["headers"]["Authorization"] == f"Bearer {KEY}"
        assert outcome(advisor) in ("bad", "failed")
        for shown in (repr(advisor), str(advisor), str(advisor.counts), repr(advisor.counts)):
            assert KEY not in shown
    assert KEY not in caplog.text + "".join(capfd.readouterr())


@pytest.mark.parametrize("key", ["", KEY + "\n", KEY + " x", "ключ-" + KEY, "\t" + KEY])
def test_a_key_that_is_none_is_refused_without_showing_it(monkeypatch, key) -> None:
    monkeypatch.setenv(VARIABLE, key)
    with pytest.raises(PoolInputError, match=VARIABLE) as caught:
        make_advisor("http", "http://127.0.0.1:1", "small", VARIABLE, 100)
    assert KEY not in str(caught.value)


def test_a_key_that_is_not_in_the_environment_is_an_error_that_names_the_variable(monkeypatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(PoolInputError, match=f"{VARIABLE} with the key is not there"):
        make_advisor("http", "http://127.0.0.1:1", "small", VARIABLE, 100)


def test_each_kind_can_be_made() -> None:
    assert make_advisor("off", "", "", "", 0) is None
    assert make_advisor("heat", "", "", "", 0).name == "heat"
    assert make_advisor("http", "https://[::1]:8443/v1/", "small", "", 100).name == "http"


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (("fast", "", "", "", 100), "'fast'.*off, heat, http"),
        (("http", "", "small", "", 100), "URL ''"),
        (("http", "localhost:8000/v1", "small", "", 100), "URL 'localhost"),
        (("http", "ftp://localhost/v1", "small", "", 100), "URL 'ftp"),
        (("http", "file:///etc/passwd", "small", "", 100), "URL 'file"),
        (("http", "http://", "small", "", 100), "URL 'http://'"),
        (("http", "http://a b/v1", "small", "", 100), "URL"),
        (("http", "http://host/v1\r\nX: y", "small", "", 100), "URL"),
        (("http", "http://host:port/v1", "small", "", 100), "URL"),
        (("http", "http://host:70000/v1", "small", "", 100), "URL"),
        (("http", "http://[::1/v1", "small", "", 100), "URL"),
        (("http", "http://host/v1?key=1", "small", "", 100), "URL"),
        (("http", "http://host/v1#a", "small", "", 100), "URL"),
        (("http", "http://me:hidden@host/v1", "small", "", 100), "user or password"),
        (("http", "http://me:hidden@host/v1?a", "small", "", 100), "URL with a password"),
        (("http", "http://host/v1", "", "", 100), "no model"),
        (("http", "http://host/v1", "small", "", 0), "0 ms"),
        (("http", "http://host/v1", "small", "", 600_001), "600001 ms"),
        (("http", "http://host/v1", "small", "", True), "True ms"),
    ],
)
def test_an_advisor_that_cannot_work_is_refused_with_one_clear_error(arguments, match) -> None:
    with pytest.raises(PoolInputError, match=match) as caught:
        make_advisor(*arguments)
    assert "hidden" not in str(caught.value)
