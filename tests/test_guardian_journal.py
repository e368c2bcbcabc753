"""The journal: all of it or none, and nothing that is not ours."""

from __future__ import annotations

import errno
import os
import stat
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hardware.journal import MAGIC, Journal, JournalError

RECORDS: list[dict[str, Any]] = [{"name": "fan", "originals": [120, 5]}, {"name": "\u20ac", "deep": {"a": [None, -1]}}]
KEPT = [HealthCheck.function_scoped_fixture]


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(str(tmp_path))


def test_what_was_written_is_read_and_replaced_and_removed(journal: Journal) -> None:
    assert journal.read() is None
    journal.write(RECORDS)
    assert journal.read() == (RECORDS, "")
    assert stat.S_IMODE(Path(journal.path).stat().st_mode) == 0o600
    journal.write(RECORDS[:1])
    assert journal.read() == (RECORDS[:1], "")
    journal.write([])
    assert journal.read() == ([], "")
    journal.remove()
    journal.remove()
    assert journal.read() is None
    assert os.listdir(Path(journal.path).parent) == []  # noqa: PTH208


@settings(suppress_health_check=KEPT)
@given(
    st.lists(st.dictionaries(st.text(), st.integers(-(10**18), 10**18) | st.text() | st.none()), max_size=4), st.data()
)
def test_wherever_it_is_cut_or_changed_what_is_before_that_is_used(
    journal: Journal, records: list[dict[str, Any]], data: st.DataObject
) -> None:
    journal.write(records)
    path = Path(journal.path)
    whole = path.read_bytes()
    if len(whole) == len(MAGIC):
        return
    place = data.draw(st.integers(len(MAGIC), len(whole) - 1))
    path.write_bytes(whole[:place])
    found = journal.read()
    assert found is not None
    assert found[0] == records[: len(found[0])]
    assert (found[1] == "") is (place == len(MAGIC) or len(found[0]) == whole_records(whole, place))
    flipped = bytearray(whole)
    flipped[place] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(flipped)
    found = journal.read()
    assert found is not None
    assert len(found[0]) < len(records)
    assert found[0] == records[: len(found[0])]
    assert "torn or damaged" in found[1]


def whole_records(data: bytes, end: int) -> int:
    """How many records end exactly at `end`, or -1 where none does."""
    place, count = len(MAGIC), 0
    while place < end:
        place += 8 + int.from_bytes(data[place : place + 4], "little")
        count += 1
    return count if place == end else -1


def test_what_is_no_object_is_not_used(journal: Journal) -> None:
    journal.write([{"a": 1}, [1], {"b": 2}])  # type: ignore[list-item]
    said = "is no object; what follows it was not used"
    assert journal.read() == ([{"a": 1}], f"record 1 at byte {len(MAGIC) + 15} {said}")
    path = Path(journal.path)
    path.write_bytes(MAGIC + struct.pack("<II", 1, zlib.crc32(b"{")) + b"{")
    assert journal.read() == ([], f"record 0 at byte {len(MAGIC)} {said}")


def test_another_version_is_refused(journal: Journal) -> None:
    Path(journal.path).write_bytes(b"pulsetwin journal 2\nwhatever")
    with pytest.raises(JournalError, match=r"begins with b'pulsetwin journal 2\\nwhat', not with"):
        journal.read()


def test_what_others_may_have_written_is_refused(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    journal.write(RECORDS)
    path = Path(journal.path)
    path.chmod(0o622)
    with pytest.raises(JournalError, match="may be written by others"):
        journal.read()
    path.chmod(0o600)
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
    with pytest.raises(JournalError, match="belongs to user"):
        journal.read()
    monkeypatch.undo()
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))
    with pytest.raises(JournalError, match="cannot be read"):
        journal.read()
    path.unlink()
    path.mkdir(mode=0o700)
    with pytest.raises(JournalError, match="is not believed"):
        journal.read()


@pytest.mark.parametrize("call", ["fsync", "replace", "open"])
def test_a_journal_that_cannot_be_written_leaves_the_old_one(
    journal: Journal, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    journal.write(RECORDS[:1])

    def fails(*_arguments: object, **_named: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, fails)
    with pytest.raises(JournalError, match="No space left on device; nothing may be changed without it"):
        journal.write(RECORDS)
    monkeypatch.undo()
    assert journal.read() == (RECORDS[:1], "")
    # What was left of the attempt is in nobody's way.
    journal.write(RECORDS)
    assert journal.read() == (RECORDS, "")


def test_a_write_that_took_only_a_part_is_no_journal(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.fdopen

    class Short:
        def __init__(self, file: Any) -> None:
            self.file = file

        def __enter__(self) -> Short:
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def write(self, data: bytes) -> int:
            return int(self.file.write(data[:-1]))

    monkeypatch.setattr(os, "fdopen", lambda descriptor, *a, **k: Short(real(descriptor, *a, **k)))
    with pytest.raises(JournalError, match="cannot be written"):
        journal.write(RECORDS)
    monkeypatch.undo()
    assert journal.read() is None
