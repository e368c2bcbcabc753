"""What a feed tells, and what becomes of it: nothing waits, nothing is told wrong, memory has bounds."""

from __future__ import annotations

import functools
import itertools
import marshal
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from dashboards import COLUMNS, about, row, some_run
from hypothesis import given, settings
from hypothesis import strategies as st
from running import quick, run, shipped_scenario

from hardware.interface import Limit
from twin.control.cycle import Cycle
from twin.dashboard import feed as feed_module
from twin.dashboard.feed import Feed, Insight, columns
from twin.dashboard.live import ABOUT, END, RECORD, LiveRun, follow, thinned
from twin.dashboard.runs import KEPT, POINTS, About, Output, Sensor
from twin.record.recorder import control_row
from twin.wiring import wiring

MOST_NS = 1 << 62


@settings(max_examples=30)
@given(st.lists(st.integers(0, 400), max_size=4), st.integers(1, KEPT), st.integers(1, 50))
def test_the_newest_are_kept_whole(pieces: list[int], most: int, points: int) -> None:
    live = LiveRun(about())
    total = 0
    for piece in pieces:
        for _ in range(piece):
            live.record(0, row(total), None)
            total += 1
        newest = live.history(most)
        assert [record["cycle"] for record in newest] == list(range(total))[-min(most, KEPT) :]
        assert [tuple(record) for record in newest] == [COLUMNS] * len(newest)
        course = live.course(["time_ns", "cycle"], 0, MOST_NS, points)
        cycles = course["cycle"]
        assert course["time_ns"] == [int(cycle) * 100_000_000 for cycle in cycles if cycle is not None]
        assert cycles == sorted(set(cycles), key=int)
        assert len(cycles) == min(points, total)
        assert not cycles or cycles[-1] == total - 1
        assert len(cycles) < 2 or cycles[0] == 0
    assert live.cycles == total
    assert live.state == "running"


def test_a_long_run_takes_no_more_room() -> None:
    live = some_run(9 * POINTS)
    kept = [record["cycle"] for record in live.records()]
    assert POINTS <= len(kept) <= 2 * POINTS + KEPT
    assert kept[0] == 0
    assert kept[-1] == 9 * POINTS - 1
    old = kept[: -KEPT - 1]
    steps = {int(later) - int(earlier) for earlier, later in itertools.pairwise(old)}
    assert len(steps) == 1, "what is old is kept evenly"
    # A narrow range near the end has every record, wherever the course is coarse.
    last_ns = (9 * POINTS - 1) * 100_000_000
    assert len(live.course(["cycle"], last_ns - 10_000_000_000, last_ns, 600)["cycle"]) == 101
    assert live.course(["cycle"], 5, 6, 600) == {"cycle": []}


@given(st.integers(0, 300), st.integers(1, 300))
def test_thinning_keeps_the_ends(count: int, points: int) -> None:
    rows = [bytes([n % 256, n // 256]) for n in range(count)]
    kept = thinned(rows, points)
    assert len(kept) == min(count, points)
    assert kept == sorted(set(kept), key=rows.index)
    assert not kept or kept[-1] == rows[-1]
    assert len(kept) < 2 or kept[0] == rows[0]


# The feed -------------------------------------------------------------------------------------------------------------


@functools.cache
def cycles(count: int) -> tuple[About, list[Cycle]]:
    scenario = quick(shipped_scenario("gaming"), duration_ms=count * 100)
    wired = wiring(scenario.machine)
    kept = run(scenario)
    limits: list[Limit] = list(wired.outputs)
    told = about(
        sensors=tuple(Sensor(sensor.name, 0) for sensor in scenario.machine.sensors),
        outputs=tuple(Output(limit.name, 0, 1) for limit in limits),
        columns=columns(
            wired.sensors, tuple(limit.name for limit in limits), tuple(one.name for one in scenario.machine.sensors)
        ),
    )
    return told, kept.cycles


@contextmanager
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield ours, theirs


def heard(channel: socket.socket) -> tuple[list[LiveRun], int]:
    """The runs that a feed told of, and how often there was news."""
    runs: list[LiveRun] = []
    news: list[int] = []
    follow(channel, runs.append, lambda each: news.append(each.cycles))
    return runs, len(news)


def test_a_record_is_a_row_of_the_control_table_and_a_tick() -> None:
    told, kept = cycles(5)
    with pair() as (ours, theirs):
        feed = Feed(ours, told, lambda: {"q_values": {"noop": 0.5, "boost": float("inf")}})
        for cycle in kept:
            feed.cycle(cycle, None)
        feed.state = "ended"
        feed.end()
        (live,), news = heard(theirs)
    assert news == 6
    assert live.about == told
    assert (live.state, live.cycles, live.lost) == ("ended", 5, 0)
    outputs = [output.name for output in told.outputs]
    for record, cycle in zip(live.history(10), kept, strict=True):
        expected = control_row(cycle, outputs, len(told.sensors))
        assert list(record.values())[: len(expected)] == expected
        assert all(value is None for value in list(record.values())[len(expected) :])
    assert live.insight() == {"q_values": {"noop": 0.5, "boost": None}}


def test_what_the_page_has_no_room_for_is_counted() -> None:
    told, kept = cycles(10)
    with pair() as (ours, theirs):
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        feed = Feed(ours, told)
        for _ in range(100):
            for cycle in kept:
                feed.cycle(cycle, None)
        assert feed.dropped > 0
        assert not feed.over
        # The page wakes up; the next record says what it missed.
        messages = drained(theirs)
        assert marshal.loads(messages[0])[0] == ABOUT
        feed.cycle(kept[0], None)
        kind, lost, *_ = marshal.loads(theirs.recv(1 << 20))
        assert (kind, lost) == (RECORD, feed.dropped)
        assert lost + len(messages) - 1 == 1_000
        feed.end()
        assert marshal.loads(theirs.recv(1 << 20)) == (END, "stopped")


def drained(channel: socket.socket) -> list[bytes]:
    messages = []
    channel.setblocking(False)
    try:
        while True:
            messages.append(channel.recv(1 << 20))
    except BlockingIOError:
        return messages


def test_a_page_that_has_stopped_holds_nobody_up_at_the_end() -> None:
    told, kept = cycles(10)
    with pair() as (ours, theirs):
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        feed = Feed(ours, told)
        while not feed.dropped:
            feed.cycle(kept[0], None)
        assert not feed.end()
        assert feed.over
        (live,), _ = heard(theirs)
    # The end did not come through: to the page the run is lost.
    assert live.state == "lost"


def test_a_page_that_is_gone_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(feed_module.log, "warning", lambda words, *values: said.append(words % values))
    told, kept = cycles(3)
    with pair() as (ours, theirs):
        feed = Feed(ours, told)
        theirs.close()
        for cycle in kept:
            feed.cycle(cycle, None)
        assert feed.end()
    (only,) = said
    assert only.startswith("the page is gone (")
    assert only.endswith("the run goes on without it, and twin dashboard runs/run shows it")


def test_a_learner_that_cannot_tell_costs_what_it_thinks() -> None:
    told, kept = cycles(3)
    asked = []

    def insight() -> Insight:
        asked.append(1)
        raise ZeroDivisionError

    with pair() as (ours, theirs):
        feed = Feed(ours, told, insight)
        for cycle in kept:
            feed.cycle(cycle, None)
        feed.end()
        (live,), _ = heard(theirs)
    assert live.cycles == 3
    assert live.insight() is None
    assert asked == [1]


def test_whatever_is_wrong_in_a_feed_the_loop_goes_on() -> None:
    told, kept = cycles(1)
    with pair() as (ours, _):
        feed = Feed(ours, told)
        feed.cycle(None, None)  # type: ignore[arg-type]
        assert feed.over
        feed.cycle(kept[0], None)


@pytest.mark.parametrize("messages", [[], [(RECORD, 0, row(0), None)], [(END, "ended")]])
def test_a_feed_that_tells_of_no_run(messages: list[tuple[object, ...]]) -> None:
    with pair() as (ours, theirs):
        for message in messages:
            ours.send(marshal.dumps(message))
        ours.close()
        assert heard(theirs) == ([], 0)


def test_a_feed_that_ends_in_the_middle_is_a_run_that_is_lost() -> None:
    told, kept = cycles(2)
    with pair() as (ours, theirs):
        feed = Feed(ours, told)
        feed.cycle(kept[0], None)
        ours.close()
        (live,), news = heard(theirs)
    assert live.state == "lost"
    assert news == 2
