"""An advisor behind a chat endpoint: asked once, in the background, whatever the endpoint does."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

import chat_server
import pytest
from advising import HASTY_MS, PATIENT_MS, ask, facts, finish, outcome, threads
from chat_server import ChatServer

from twin.pool.ask import ANSWER_BYTES, LONGEST_PAUSE, ChatAdvisor


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with ChatServer(chat_server.orders([3, 1, 0, 2])) as running:
        yield running


@pytest.fixture
def patient(server) -> Iterator[ChatAdvisor]:
    advisor = ChatAdvisor(server.url, "small", "", PATIENT_MS)
    yield advisor
    advisor.close()
    finish(advisor)


@pytest.fixture
def hasty(server) -> Iterator[ChatAdvisor]:
    advisor = ChatAdvisor(server.url, "small", "", HASTY_MS)
    yield advisor
    advisor.close()
    finish(advisor)


def test_the_endpoint_is_asked_once_with_the_facts_and_its_order_is_given_once(server, patient) -> None:
    assert ask(patient) == [3, 1, 0, 2]
    assert patient.answer(9) is None
    assert outcome(patient) == "good"
    (request,) = server.requests
    assert request["path"] == "/v1/chat/completions"
    assert "Authorization" not in request["headers"]
    body = json.loads(request["body"])
    assert (body["model"], body["temperature"]) == ("small", 0)
    assert body["response_format"] == {"type": "json_object"}
    told = json.loads(body["messages"][-1]["content"])
    assert told == {"words": 4, "block_bytes": 64, "tier": [1] * 4, "heat": [0, 1, 2, 3], "slot": [0, 1, 2, 3]}


@pytest.mark.parametrize(
    "behaviour",
    [
        chat_server.says('```json\n{"order": [3, 1, 0, 2]}\n```'),
        chat_server.says('\n```\r\n{"order": [3, 1, 0, 2], "why": "heat"}\r\n```\n'),
        chat_server.chunked(chat_server.completion('{"order": [3, 1, 0, 2]}')),
        chat_server.raw(b"HTTP/1.0 200 OK\r\n\r\n" + chat_server.completion('{"order": [3, 1, 0, 2]}')),
    ],
    ids=["fence", "bare fence", "chunks", "no length"],
)
def test_an_answer_may_come_in_a_fence_in_chunks_or_without_a_length(server, patient, behaviour) -> None:
    server.behaviour = behaviour
    assert ask(patient) == [3, 1, 0, 2]
    assert outcome(patient) == "good"


GOOD = chat_server.completion('{"order": [3, 1, 0, 2]}')


@pytest.mark.parametrize(
    ("behaviour", "kind", "reason"),
    [
        (chat_server.body(b"hello"), "bad", "answer is not JSON"),
        (chat_server.body(b""), "bad", "answer is not JSON"),
        (chat_server.body(b"\xff\xfe\x00"), "bad", "answer is not JSON"),
        (chat_server.body(b"[" * 200_000), "bad", "answer is not JSON"),
        (chat_server.body(b"[]"), "bad", "not a chat completion"),
        (chat_server.body(b"null"), "bad", "not a chat completion"),
        (chat_server.body(b'{"choices": []}'), "bad", "not a chat completion"),
        (chat_server.body(b'{"choices": {"0": 1}}'), "bad", "not a chat completion"),
        (chat_server.says(None), "bad", "has no text"),
        (chat_server.says({"order": [0, 1, 2, 3]}), "bad", "has no text"),
        (chat_server.says("Certainly! [3, 1, 0, 2]"), "bad", "message is not JSON"),
        (chat_server.says("[" * 200_000), "bad", "message is not JSON"),
        (chat_server.says('{"order": [' + "9" * 5_000 + "]}"), "bad", "message is not JSON"),
        (chat_server.says("[3, 1, 0, 2]"), "bad", "not an object with a list"),
        (chat_server.says('{"layout": [3, 1, 0, 2]}'), "bad", "not an object with a list"),
        (chat_server.says('{"order": "3102"}'), "bad", "not an object with a list"),
        (chat_server.orders([0, 1, 2]), "bad", "3 entries for 4 words"),
        (chat_server.orders([0, 1, 2, 2]), "bad", "word 2 is there twice"),
        (chat_server.orders([0, 1, 2, 4]), "bad", "entry 3 is 4"),
        (chat_server.orders([0, True, 2, 3]), "bad", "entry 1 is a bool"),
        (chat_server.orders([0, 1.0, 2, 3]), "bad", "entry 1 is a float"),
        (chat_server.body(b" " * (ANSWER_BYTES + 1)), "bad", f"more than {ANSWER_BYTES} bytes"),
        (chat_server.endless, "bad", f"more than {ANSWER_BYTES} bytes"),
        (chat_server.body(GOOD, status=500), "failed", "HTTP 500"),
        (chat_server.body(GOOD, status=401), "failed", "HTTP 401"),
        (chat_server.body(GOOD, status=204), "failed", "HTTP 204"),
        (chat_server.body(GOOD, length=len(GOOD) - 9), "bad", "answer is not JSON"),
        (chat_server.body(GOOD, length=len(GOOD) + 9), "failed", "ended 9 bytes early"),
        (chat_server.chunked(GOOD, end=False), "failed", "IncompleteRead"),
        (chat_server.raw(b""), "failed", ""),
        (chat_server.raw(b"SSH-2.0-OpenSSH\r\n"), "failed", "BadStatusLine"),
        (chat_server.raw(b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 200 + b"\r\n"), "failed", "not HTTP"),
    ],
)
def test_a_bad_answer_changes_nothing_and_is_counted_with_its_reason(server, patient, behaviour, kind, reason) -> None:
    server.behaviour = behaviour
    assert ask(patient) is None
    assert outcome(patient) == kind
    assert patient.counts.reason
    assert reason in patient.counts.reason
    assert patient.counts.reason in str(patient.counts)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(server, patient, status) -> None:
    with ChatServer(chat_server.orders([0, 1, 2, 3])) as elsewhere:
        server.behaviour = chat_server.redirects(elsewhere.url, status)
        assert ask(patient) is None
        assert elsewhere.requests == []
    assert len(server.requests) == 1
    assert outcome(patient) == "failed"
    assert "redirect" in patient.counts.reason


LENGTH = b"Content-Length: 100000\r\n\r\n"


@pytest.mark.parametrize(
    "behaviour",
    [
        chat_server.hangs,
        chat_server.drips(b""),
        chat_server.drips(b"HTTP/1.1 200 OK\r\nA: "),
        chat_server.drips(b"HTTP/1.1 200 OK\r\n" + LENGTH),
        chat_server.drips(b"HTTP/1.1 500 No\r\n"),
    ],
    ids=["never", "drips before the status", "drips in a header", "drips the body", "drips after a bad status"],
)
def test_a_server_that_never_answers_or_drips_is_late_and_is_hung_up_on(server, hasty, behaviour) -> None:
    server.behaviour = behaviour
    assert ask(hasty) is None
    assert outcome(hasty) == "late"
    assert "no answer within 0.3 s" in hasty.counts.reason
    assert server.broken.wait(30)


def test_an_answer_after_the_time_limit_is_not_taken_up(server, hasty) -> None:
    late = threading.Event()

    def slow(running, handler) -> None:
        late.wait(30)
        chat_server.orders([3, 1, 0, 2])(running, handler)

    server.behaviour = slow
    assert ask(hasty) is None
    late.set()
    assert hasty.answer(9) is None
    assert outcome(hasty) == "late"


def test_asking_does_not_wait_and_one_question_is_under_way_at_most(server, patient) -> None:
    server.behaviour = chat_server.hangs
    patient.ask(1, facts())
    assert server.asked.wait(30)
    assert patient.answer(1) is None
    patient.ask(2, facts())
    assert (patient.counts.asked, patient.counts.skipped) == (1, 1)
    assert len(server.requests) == 1
    assert len(threads()) == 1


def test_a_thread_that_cannot_be_woken_keeps_others_from_being_started(server, hasty, monkeypatch) -> None:
    stuck = threading.Event()
    connect = hasty._connect

    def resolve():
        stuck.wait(30)
        return connect()

    monkeypatch.setattr(hasty, "_connect", resolve)
    hasty.ask(1, facts())
    hasty._timer.join(30)
    assert hasty.answer(2) is None
    assert outcome(hasty) == "late"
    hasty.ask(3, facts())
    assert (hasty.counts.asked, hasty.counts.skipped) == (1, 1)
    stuck.set()
    finish(hasty)
    # It was too late to ask, so nobody was asked.
    assert server.requests == []


def test_nobody_listening_is_a_failure_with_the_systems_reason() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        advisor = ChatAdvisor(f"http://127.0.0.1:{bound.getsockname()[1]}", "small", "", PATIENT_MS)
        assert ask(advisor) is None
    assert outcome(advisor) == "failed"
    assert advisor.counts.reason == os.strerror(errno.ECONNREFUSED)


def test_a_server_without_tls_asked_for_tls_is_a_failure(server) -> None:
    advisor = ChatAdvisor(server.url.replace("http:", "https:"), "small", "", PATIENT_MS)
    assert ask(advisor) is None
    assert outcome(advisor) == "failed"
    assert server.requests == []


def test_no_proxy_is_asked(server, patient, monkeypatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert ask(patient) == [3, 1, 0, 2]


def test_no_more_threads_is_a_failure_and_no_exception(patient, monkeypatch) -> None:
    def refuse(thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        patient.ask(1, facts())
    assert patient.answer(2) is None
    assert outcome(patient) == "failed"
    assert ask(patient) == [3, 1, 0, 2]


def test_after_three_troubles_in_a_row_questions_are_left_out_and_a_good_answer_ends_that(server, patient) -> None:
    server.behaviour = chat_server.body(b"", status=503)

    def asked() -> bool:
        before = patient.counts.asked
        ask(patient)
        return patient.counts.asked > before

    pattern = [asked() for _ in range(3 + (1 + 1) + (2 + 1) + (4 + 1))]
    assert pattern == [True] * 3 + [False, True] + [False] * 2 + [True] + [False] * 4 + [True]
    for pause in (8, 16, 32, 64, LONGEST_PAUSE):
        assert [asked() for _ in range(pause + 1)] == [False] * pause + [True]
    server.behaviour = chat_server.orders([0, 1, 2, 3])
    assert [asked() for _ in range(LONGEST_PAUSE + 1)] == [False] * LONGEST_PAUSE + [True]
    server.behaviour = chat_server.body(b"", status=503)
    assert [asked() for _ in range(5)] == [True] * 3 + [False, True]


def test_closing_hangs_up_at_once_and_nothing_is_asked_or_told_after_it(server) -> None:
    server.behaviour = chat_server.hangs
    # Far longer than `finish` waits: only closing ends this question.
    patient = ChatAdvisor(server.url, "small", "", 600_000)
    patient.ask(1, facts())
    assert server.asked.wait(30)
    patient.close()
    patient.close()
    finish(patient)
    assert server.broken.wait(30)
    assert patient.answer(2) is None
    patient.ask(3, facts())
    assert threads() == []
    assert (patient.counts.asked, patient.counts.late, patient.counts.failed) == (1, 0, 0)


def test_a_question_under_way_does_not_keep_the_program_from_ending(server) -> None:
    server.behaviour = chat_server.hangs
    program = (
        "import sys, numpy as np\n"
        "from twin.pool.advisor import WordFacts, make_advisor\n"
        "zero = np.zeros(1, dtype=np.int64)\n"
        "advisor = make_advisor('http', sys.argv[1], 'small', '', 600_000)\n"
        "advisor.ask(0, WordFacts(zero, zero, zero, 64))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, server.url], timeout=60, capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stderr) == (0, "")
