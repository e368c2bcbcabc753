"""Recorded advice: replayed in the same cycles, cut off anywhere, damaged anywhere."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

import pytest
from advising import facts, threads

from twin.pool.advice import AdviceLog, RecordedAdvisor
from twin.pool.errors import PoolError, PoolInputError

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
