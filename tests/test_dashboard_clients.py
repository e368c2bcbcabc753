"""Clients that take nothing: what waits for them has bounds, they are let go, and nobody else notices."""

from __future__ import annotations

import queue
import resource
import socket
import threading
import time
from collections import deque

import pytest
from dashboards import UNBOUNDED, Page, WebSocketClient, serving
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from twin.dashboard import clients, listen
from twin.dashboard.clients import WAITING, PatientSocket, Waiting
from twin.dashboard.gate import Limits


class WaitingMachine(RuleBasedStateMachine):
    """The queue of a client against a deque with bounds."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting = Waiting()
        self.model: deque[object] = deque(maxlen=WAITING)
        self.taken = 0

    @rule(count=st.integers(1, 2 * WAITING))
    def put(self, count: int) -> None:
        for number in range(count):
            self.waiting.put(number)
            self.model.append(number)

    @rule()
    def end(self) -> None:
        self.waiting.put(None)
        self.model.clear()
        self.model.append(None)

    @rule()
    def take(self) -> None:
        if self.model:
            assert self.waiting.get(timeout=0) == self.model.popleft()
            self.waiting.task_done()
        else:
            with pytest.raises(queue.Empty):
                self.waiting.get(timeout=0.0001)

    @rule()
    def take_more_at_once(self) -> None:
        with pytest.raises(queue.Empty):
            self.waiting.get(block=False)

    @invariant()
    def it_is_as_long(self) -> None:
        assert self.waiting.qsize() == len(self.model) == self.waiting.unfinished_tasks


TestWaiting = WaitingMachine.TestCase
TestWaiting.settings = settings(max_examples=25, stateful_step_count=20)


@pytest.fixture
def connections() -> object:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        far = socket.create_connection(listener.getsockname())
        near, _ = listener.accept()
    with far, near:
        yield near, far


def test_everything_is_sent_however_small_the_room(connections: tuple[socket.socket, socket.socket]) -> None:
    near, far = connections
    near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)
    patient = PatientSocket(near)
    message = bytes(range(256)) * 4_000
    sender = threading.Thread(target=patient.send, args=(message,))
    sender.start()
    received = b""
    while len(received) < len(message):
        received += far.recv(10_000)
    sender.join()
    assert received == message
    assert patient.blocked_since is None


def test_who_takes_nothing_is_let_go(
    connections: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clients, "PATIENCE_SECONDS", 0.1)
    near, far = connections
    patient = PatientSocket(near)
    with pytest.raises(OSError, match="takes nothing"):
        patient.send(bytes(50_000_000))
    with pytest.raises(BrokenPipeError):
        patient.send(b"x")
    assert patient.recv(10) == b""
    far.setblocking(True)
    while far.recv(1 << 20):
        pass


def test_who_says_nothing_is_let_go(
    connections: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clients, "SILENCE_SECONDS", 1.0)
    near, far = connections
    patient = PatientSocket(near)
    far.send(b"x")
    assert patient.recv(10) == b"x"
    assert patient.recv(10) == b""
    assert far.recv(10) == b""


def test_a_frame_that_closes_is_the_last_one(connections: tuple[socket.socket, socket.socket]) -> None:
    near, far = connections
    patient = PatientSocket(near)
    patient.send(b"\x88\x00")
    assert far.recv(10) == b"\x88\x00"
    assert far.recv(10) == b""
    assert patient.recv(10) == b""


def memory_bytes() -> int:
    with open("/proc/self/statm") as file:  # noqa: PTH123
        return int(file.read().split()[1]) * resource.getpagesize()


def test_slow_clients_harm_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred that read nothing, and one that does: it gets every event, in order."""
    monkeypatch.setattr(listen, "SEND_BYTES", 4_096)
    text = "x" * 20_000
    with serving(UNBOUNDED) as page:
        slow = [WebSocketClient(page) for _ in range(100)]
        for each in slow:
            each.join()
        well = WebSocketClient(page)
        well.join()
        before = memory_bytes()
        for number in range(200):
            page.events.emit("metrics", {"number": number, "text": text})
            assert well.event() == ("metrics", {"number": number, "text": text})
        assert memory_bytes() - before < 32 << 20
        # What waits for the slow ones is what every one of them would get: the same objects.
        engine = page.events.server.eio
        waiting = [each.queue.qsize() for each in list(engine.sockets.values())]
        assert max(waiting) == WAITING
        assert sorted(waiting)[-100:][0] > 0


def test_a_client_that_does_not_answer_a_ping_is_let_go_with_all_it_had(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twin.dashboard.server.PING_SECONDS", 0.1)
    monkeypatch.setattr("twin.dashboard.server.PATIENCE_SECONDS", 0.2)
    with serving(UNBOUNDED) as page:
        client = WebSocketClient(page)
        client.join()
        assert until(lambda: not page.events.server.eio.sockets)
        said = [client.text() for _ in range(3)]
        assert said[0] == "2"
        assert said[-1] == ""
        assert until(lambda: threads_of(page) == 0)


def threads_of(page: Page) -> int:
    return sum("_answer" in thread.name for thread in threading.enumerate())


def until(what: object, seconds: float = 5.0) -> bool:
    assert callable(what)
    for _ in range(int(seconds / 0.02)):
        if what():
            return True
        time.sleep(0.02)
    return False


def test_a_client_that_is_stuck_makes_room_for_one_that_is_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listen, "GRACE_SECONDS", 0.2)
    with serving(Limits(websockets=2, per_second=1e9, burst=1e9)) as page:
        stuck, well = WebSocketClient(page), WebSocketClient(page)
        stuck.join()
        well.join()
        other = WebSocketClient(page)
        assert other.answer.status == 503
        for _ in range(10):
            page.events.emit("metrics", {"text": "x" * 1_000_000})
            well.event()
        time.sleep(0.3)
        assert until(lambda: WebSocketClient(page).answer.status == 101)
