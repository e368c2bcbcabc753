"""A seam log that is read while it is written."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from record_samples import cycle, write_log

from twin.record.seamfollow import SeamFollower, is_written
from twin.record.seamformat import START, Kind, record
from twin.record.seamlog import CorruptLogError, Cycle, LogVersionError, read_seam_log

CYCLES, TICKS_EACH = 5, 3


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "seam.log"
    write_log(path, CYCLES, TICKS_EACH)
    return path.read_bytes()


class Growing:
    """A log that has its bytes up to each of `ends`, one after the other, whenever a reader waits."""

    def __init__(self, path: Path, content: bytes, ends: list[int]) -> None:
        self.path = path
        self._content = content
        self._ends = ends
        self.pauses = 0
        self.grow()

    def grow(self) -> None:
        self.path.write_bytes(self._content[: self._ends.pop(0)])

    def written(self) -> bool:
        return bool(self._ends)

    def pause(self) -> None:
        self.pauses += 1
        self.grow()

    def read(self, tick_pieces: int) -> tuple[list[Cycle], list[int], SeamFollower]:
        """Everything, cycles and ticks by turns."""
        with SeamFollower(self.path, self.written, self.pause) as log:
            cycles: list[Cycle] = []
            ticks: list[int] = []
            while True:
                piece = log.lateness(len(ticks), tick_pieces)
                ticks += piece.tolist()
                if (found := log.take()) is not None:
                    cycles.append(found)
                elif not len(piece):
                    return cycles, ticks, log


@settings(max_examples=150)
@given(st.data())
def test_a_growing_log_gives_what_the_whole_one_has(
    tmp_path_factory: pytest.TempPathFactory, whole: bytes, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("growing") / "seam.log"
    first = data.draw(st.integers(header_end(whole), len(whole)))
    last = data.draw(st.integers(first, len(whole)))
    ends = sorted([first, *data.draw(st.lists(st.integers(first, last), max_size=6)), last])
    cycles, ticks, log = Growing(path, whole, ends).read(data.draw(st.integers(1, 7)))
    expected = read_seam_log(path)
    assert cycles == list(expected.cycles)
    assert ticks == expected.lateness_ns.tolist()
    assert (log.complete, log.last_good) == (expected.complete, expected.last_good)
    assert log.header == expected.header


def header_end(content: bytes) -> int:
    return START + 9 + int.from_bytes(content[START : START + 4], "little")


def test_what_is_there_is_not_waited_for(tmp_path: Path, whole: bytes) -> None:
    growing = Growing(tmp_path / "seam.log", whole, [len(whole), len(whole)])
    with SeamFollower(growing.path, growing.written, growing.pause) as log:
        assert [log.take() for _ in range(CYCLES)] == list(read_seam_log(growing.path).cycles)
        assert log.lateness(0, 100).tolist() == [77, 78, 79]
        assert log.lateness(1, 100).tolist() == [78, 79]
        assert log.lateness(14, 100).tolist() == [91]
        assert growing.pauses == 0
        assert log.take() is None
        assert log.complete


def test_pieces_larger_than_a_look(tmp_path: Path, whole: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "seam.log"
    path.write_bytes(whole)
    monkeypatch.setattr("twin.record.seamfollow.CHUNK", header_end(whole) + 1)
    with SeamFollower(path, lambda: False) as log:
        assert [log.take() for _ in range(CYCLES)] == list(read_seam_log(path).cycles)


@settings(max_examples=100)
@given(st.data())
def test_damage_is_named_as_ever(tmp_path_factory: pytest.TempPathFactory, whole: bytes, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("damaged") / "seam.log"
    place = data.draw(st.integers(0, 8 * len(whole) - 1))
    flipped = bytearray(whole)
    flipped[place // 8] ^= 1 << place % 8
    path.write_bytes(flipped)
    with pytest.raises((CorruptLogError, LogVersionError)) as known:
        read_seam_log(path)
    with pytest.raises((CorruptLogError, LogVersionError)) as told:
        Growing(path, bytes(flipped), [len(whole)]).read(100)
    assert str(told.value) == str(known.value)


def test_something_after_the_end(tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "seam.log"
    for more in (record(Kind.END, bytes(16)), b"\0"):
        content = whole + more
        growing = Growing(path, content, [len(content)])
        if len(more) > 1:
            with pytest.raises(CorruptLogError, match="something follows the end"):
                growing.read(100)
        else:
            assert len(growing.read(100)[0]) == CYCLES


def test_the_lock_of_a_run_directory_tells_whether_it_is_written(tmp_path: Path) -> None:
    assert not is_written(tmp_path)
    descriptor = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    assert is_written(tmp_path)
    os.close(descriptor)
    assert not is_written(tmp_path)
    # Looking takes nothing away from whoever wants to write.
    descriptor = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(descriptor)


def test_cycles_are_the_ones_that_were_written(tmp_path: Path) -> None:
    path = tmp_path / "seam.log"
    write_log(path, 4, 2)
    with SeamFollower(path, lambda: False) as log:
        assert log.peek() == cycle(0)
        assert log.peek() == log.take()
        assert log.take() == cycle(1)
        assert np.array_equal(log.lateness(0, 1), [77])
