"""Advice on where words lie: orders, carrying them out, asking a model that behaves or does not, recording answers."""

from __future__ import annotations

import errno
import json
import logging
import os
import random
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import chat_server
import numpy as np
import pytest
from chat_server import ChatServer
from hypothesis import given
from hypothesis import strategies as st

from twin.kernels import Integers
from twin.pool import advisor as advisor_module
from twin.pool.advice import AdviceLog, RecordedAdvisor
from twin.pool.advisor import (
    HeatAdvisor,
    WordFacts,
    apply_layout,
    check_order,
    make_advisor,
    relayed,
    swap_blocks,
)
from twin.pool.ask import ANSWER_BYTES, LONGEST_PAUSE, ChatAdvisor
from twin.pool.errors import PoolError, PoolInputError
from twin.pool.layout import H_HEAT, H_OWNER, H_SEQUENCE, H_SIZE, H_STAMP, UNIT_CELLS, header_is_whole, write_word

KEY = "sk-secret-0123456789"
VARIABLE = "PULSETWIN_TEST_KEY"
PATIENT_MS = 20_000
HASTY_MS = 300


def facts(words: int = 4) -> WordFacts:
    count = np.arange(words, dtype=np.int64)
    return WordFacts(heat_q48=count << 16, tier=count * 0 + 1, slot=count, block_bytes=64)


# --- orders -----------------------------------------------------------------------------------------------------------


@given(st.integers(0, 40).flatmap(lambda n: st.permutations(range(n))))
def test_every_permutation_is_an_order(order) -> None:
    assert check_order(order, len(order)) == ""


@given(st.permutations(range(6)), st.integers(0, 5), st.integers(-3, 9))
def test_an_order_with_one_entry_changed_is_none(order, slot, word) -> None:
    changed = [*order[:slot], word, *order[slot + 1 :]]
    assert (check_order(changed, 6) == "") == (changed == order)


@pytest.mark.parametrize(
    ("order", "wrong"),
    [
        ([0, 1], "2 entries for 3 words"),
        ([0, 1, 2, 3], "4 entries for 3 words"),
        ([0, True, 2], "entry 1 is a bool"),
        ([0.0, 1, 2], "entry 0 is a float"),
        ([0, 1, "2"], "entry 2 is a str"),
        ([0, 1, None], "entry 2 is a NoneType"),
        ([0, 1, -1], "entry 2 is -1; words are 0 to 2"),
        ([0, 1, 3], "entry 2 is 3; words are 0 to 2"),
        ([0, 1, 10**5_000], "entry 2 is a number of more than 18 digits"),
        ([0, 1, 1], "word 1 is there twice"),
    ],
)
def test_what_is_wrong_with_an_order_is_said(order, wrong) -> None:
    assert wrong in check_order(order, 3)


# --- by heat ----------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), max_size=30), st.randoms(use_true_random=False))
def test_heat_puts_hot_tiers_first_then_the_hotter_then_the_lower_number(words, chance) -> None:
    slots = list(range(len(words)))
    chance.shuffle(slots)
    heat = HeatAdvisor()
    tiers, heats = [tier for tier, _ in words], [heat for _, heat in words]
    heat.ask(0, WordFacts(np.array(heats), np.array(tiers), np.array(slots), 64))
    best = sorted(range(len(words)), key=lambda word: (tiers[word], -heats[word], word))
    already = sorted(range(len(words)), key=lambda word: slots[word])
    assert heat.answer(0) == (None if best == already else best)
    assert heat.answer(1) is None
    assert (heat.counts.asked, heat.counts.good) == (1, 1)


def test_facts_are_copies_and_of_one_length() -> None:
    heat = np.array([1, 2], dtype=np.int64)
    told = WordFacts(heat, heat, heat, 64)
    heat[0] = 9
    assert told.heat_q48.tolist() == [1, 2]
    with pytest.raises(PoolInputError, match="2 heats, 1 tiers and 2 slots"):
        WordFacts(heat, heat[:1], heat, 64)


# --- carrying it out --------------------------------------------------------------------------------------------------


def words_in_memory(place: list[int], payload_cells: int, chance) -> tuple[Integers, Integers]:
    """Cells with a used block of owner 3 at each of the slots that `place` names, everything else noise."""
    step = UNIT_CELLS + payload_cells + 2
    at = np.array([5 + slot * step for slot in place], dtype=np.int64)
    cells = np.array([chance.getrandbits(62) for _ in range(10 + step * len(place))], dtype=np.int64)
    for block in at:
        cells[block + H_SIZE] = (payload_cells * 8 + 1) * 4 + chance.randrange(4)
        cells[block + H_OWNER] = 3
        cells[block + H_SEQUENCE] = 2 * chance.randrange(3)
        write_word(cells, block, 1, 2)
    return cells, at


def carried(cells: Integers, block: int, payload_cells: int) -> list[int]:
    """What goes with a word: heat, stamp, tier, payload."""
    payload = cells[block + UNIT_CELLS : block + UNIT_CELLS + payload_cells].tolist()
    return [int(cells[block + H_HEAT]), int(cells[block + H_STAMP]), int(cells[block + H_SIZE]) & 3, *payload]


layouts = st.integers(0, 12).flatmap(
    lambda n: st.tuples(st.permutations(range(n)), st.permutations(range(n)), st.integers(0, 3))
)


@given(layouts, st.randoms(use_true_random=False))
def test_a_layout_moves_words_whole_and_nothing_else(layout, chance) -> None:
    slots, order, payload_cells = layout
    cells, place = words_in_memory(slots, payload_cells, chance)
    before, old_place = cells.copy(), place.copy()
    expected = relayed(order, place)
    assert place.tolist() == old_place.tolist()
    swaps = apply_layout(cells, place, order, payload_cells)
    assert place.tolist() == expected.tolist()
    sorted_slots = sorted(old_place.tolist())
    assert [int(place[word]) for word in order] == sorted_slots
    assert swaps <= max(len(order) - 1, 0)
    for word in range(len(order)):
        assert carried(cells, place[word], payload_cells) == carried(before, old_place[word], payload_cells)
    for block in sorted_slots:
        assert header_is_whole(cells, block)
        # A reader sees that something happened, and a block that was never committed stays so.
        was, now = int(before[block + H_SEQUENCE]), int(cells[block + H_SEQUENCE])
        assert now % 2 == 0
        assert (now == 0) == (was == 0)
        moved = carried(cells, block, payload_cells) != carried(before, block, payload_cells)
        assert now > was or was == 0 or payload_cells == 0 or not moved
        for cell in (H_SEQUENCE, H_HEAT, H_STAMP, *range(UNIT_CELLS, UNIT_CELLS + payload_cells)):
            before[block + cell] = cells[block + cell]
        before[block + H_SIZE] = before[block + H_SIZE] >> 2 << 2 | cells[block + H_SIZE] & 3
    assert cells.tolist() == before.tolist()


@given(layouts, st.randoms(use_true_random=False))
def test_a_layout_and_then_the_old_one_is_as_if_nothing_had_been(layout, chance) -> None:
    slots, order, payload_cells = layout
    cells, place = words_in_memory(slots, payload_cells, chance)
    for block in place:
        cells[block + H_SEQUENCE] = 0
    before, old_place = cells.copy(), place.copy()
    apply_layout(cells, place, order, payload_cells)
    apply_layout(cells, place, np.argsort(old_place), payload_cells)
    assert place.tolist() == old_place.tolist()
    assert cells.tolist() == before.tolist()


def test_readers_see_an_odd_sequence_while_payload_moves(monkeypatch) -> None:
    monkeypatch.setattr(advisor_module, "fence", lambda: None)
    a, b = 0, UNIT_CELLS + 2
    seen = []

    class Watched(list):
        def __setitem__(self, cell, value) -> None:
            if cell % (UNIT_CELLS + 2) >= UNIT_CELLS:
                seen.append((self[a + H_SEQUENCE], self[b + H_SEQUENCE]))
            super().__setitem__(cell, value)

    cells = Watched([0] * (2 * (UNIT_CELLS + 2)))
    cells[a + H_SEQUENCE], cells[b + H_SEQUENCE] = 2, 8
    getattr(swap_blocks, "py_func", swap_blocks)(cells, a, b, 2)
    assert seen == [(3, 9)] * 4
    assert (cells[a + H_SEQUENCE], cells[b + H_SEQUENCE]) == (4, 10)


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (lambda cells, place: cells.__setitem__(place[0] + H_OWNER, 4), "owners 3 to 4"),
        (lambda cells, place: cells.__setitem__(place[0] + H_SIZE, 400), "hold 17 to 100 bytes"),
        (lambda cells, place: cells.__setitem__(place + H_SIZE, 60), "16 bytes or more"),
        (lambda cells, place: cells.__setitem__(place[1] + H_SEQUENCE, 7), "is being written"),
        (lambda cells, place: place.__setitem__(0, place[1]), "overlap"),
        (lambda cells, place: place.__setitem__(0, len(cells) - UNIT_CELLS), "outside"),
        (lambda cells, place: place.__setitem__(0, -1), "outside"),
    ],
)
def test_words_that_cannot_change_places_stay_and_the_reason_is_said(spoil, match) -> None:
    cells, place = words_in_memory([2, 0, 1], 2, random.Random(1))
    spoil(cells, place)
    before, old_place = cells.copy(), place.copy()
    with pytest.raises(PoolInputError, match=match):
        apply_layout(cells, place, [0, 1, 2], 2)
    assert cells.tolist() == before.tolist()
    assert place.tolist() == old_place.tolist()


def test_an_order_of_other_words_moves_nothing() -> None:
    cells, place = words_in_memory([2, 0, 1], 2, random.Random(1))
    before = cells.copy()
    with pytest.raises(PoolInputError, match="2 entries for 3 words"):
        apply_layout(cells, place, [0, 1], 2)
    with pytest.raises(PoolInputError, match="twice"):
        relayed(np.array([1, 1, 0]), place)
    assert cells.tolist() == before.tolist()


# --- asking -----------------------------------------------------------------------------------------------------------


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "layout advisor"]


def finish(advisor) -> None:
    """Wait until the question under way has come to its end."""
    for thread in threads():
        thread.join(30)
        assert not thread.is_alive()


def ask(advisor, words: int = 4):
    advisor.ask(7, facts(words))
    finish(advisor)
    return advisor.answer(8)


def outcome(advisor) -> str:
    counts = advisor.counts
    assert counts.asked == counts.good + counts.bad + counts.late + counts.failed == 1
    return next(name for name in ("good", "bad", "late", "failed") if getattr(counts, name))


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


# --- the key ----------------------------------------------------------------------------------------------------------


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


# --- making one -------------------------------------------------------------------------------------------------------


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


# --- recorded ---------------------------------------------------------------------------------------------------------

ENTRIES = [(3, [1, 0, 2]), (10, [2, 1, 0]), (11, [0, 1, 2])]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("advice") / "advice.jsonl"
    with AdviceLog(path) as log:
        for cycle, order in ENTRIES:
            log.write(cycle, order)
    return path.read_bytes()


def replayed(path: Path) -> list[tuple[int, list[int]]]:
    advisor = RecordedAdvisor(path)
    answers = [(cycle, advisor.answer(cycle)) for cycle in range(20)]
    return [(cycle, order) for cycle, order in answers if order is not None]


def test_a_replay_gets_the_same_orders_in_the_same_cycles_and_asks_nobody(recorded, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(socket, "socket", None)
    path = tmp_path / "advice.jsonl"
    path.write_bytes(recorded)
    assert replayed(path) == ENTRIES
    advisor = RecordedAdvisor(path, words=3)
    advisor.ask(0, facts(3))
    assert threads() == []
    assert advisor.answer(10) == [2, 1, 0]
    assert advisor.answer(10) is None
    with pytest.raises(PoolInputError, match=r"line 2: an order of 3 words, and the run has 4"):
        RecordedAdvisor(path, words=4)


def test_a_run_without_advice_replays_without_advice(tmp_path) -> None:
    assert replayed(tmp_path / "nothing.jsonl") == []


def test_wherever_the_file_was_cut_off_the_whole_answers_count_and_it_can_be_gone_on_with(recorded, tmp_path) -> None:
    path = tmp_path / "advice.jsonl"
    for cut in range(len(recorded) + 1):
        path.write_bytes(recorded[:cut])
        whole = max(recorded[:cut].count(b"\n") - 1, 0)
        assert replayed(path) == ENTRIES[:whole]
        with AdviceLog(path):
            pass
        assert path.read_bytes() == b"".join(recorded.splitlines(keepends=True)[: whole + 1])
        with AdviceLog(path) as log:
            log.write(15, [2, 0, 1])
        assert replayed(path) == [*ENTRIES[:whole], (15, [2, 0, 1])]


def test_a_changed_bit_anywhere_is_found_with_file_and_line(recorded, tmp_path) -> None:
    path = tmp_path / "advice.jsonl"
    last = len(recorded) - 1
    for at in range(last):
        for bit in range(8):
            damaged = bytearray(recorded)
            damaged[at] ^= 1 << bit
            path.write_bytes(damaged)
            line = recorded[:at].count(b"\n") + 1
            with pytest.raises(PoolInputError, match=f"advice.jsonl, line {line}: "):
                RecordedAdvisor(path)
            with pytest.raises(PoolInputError, match=f"line {line}: "):
                AdviceLog(path)
            assert path.read_bytes() == damaged


@pytest.mark.parametrize(
    "content", [b"something else\n", b'{"format":"advice/2"}\n', b"no end", b'{"format":"advice/1"} \n', b"\n"]
)
def test_another_file_is_refused_and_left_alone(tmp_path, content) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    for use in (RecordedAdvisor, AdviceLog):
        with pytest.raises(PoolInputError, match=r"notes.txt, line 1: .* another version"):
            use(path)
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("cycle", "order", "match"),
    [
        (5, [0, 1], "cycle 5 comes after cycle 5"),
        (-1, [0, 1], "cycle -1"),
        (True, [0, 1], "cycle True"),
        (6, [0, 0], "twice"),
    ],
)
def test_an_answer_that_no_replay_could_read_is_not_written(tmp_path, cycle, order, match) -> None:
    path = tmp_path / "advice.jsonl"
    with AdviceLog(path) as log:
        log.write(5, [1, 0])
        with pytest.raises(PoolInputError, match=match):
            log.write(cycle, order)
    assert replayed(path) == [(5, [1, 0])]


def test_a_full_disk_is_an_error_and_the_answers_before_and_after_it_stand(tmp_path, monkeypatch) -> None:
    path = tmp_path / "advice.jsonl"
    write = os.pwrite
    with AdviceLog(path) as log:
        log.write(1, [1, 0, 2])

        def full(descriptor: int, data: bytes, offset: int) -> int:
            if len(data) <= 5:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return write(descriptor, data[:5], offset)

        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", full)
            with pytest.raises(PoolError, match=r"advice.jsonl: .*No space left"):
                log.write(2, list(range(3)))
        assert replayed(path) == [(1, [1, 0, 2])]
        log.write(3, [0])
    assert replayed(path) == [(1, [1, 0, 2]), (3, [0])]


def test_a_folder_in_the_files_place_is_one_clear_error(tmp_path) -> None:
    for use in (RecordedAdvisor, AdviceLog):
        with pytest.raises(PoolError, match="directory"):
            use(tmp_path)
    with pytest.raises(PoolError, match="cannot be kept"):
        AdviceLog(tmp_path / "missing" / "advice.jsonl")
