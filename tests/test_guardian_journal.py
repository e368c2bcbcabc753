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
HEAD = len(MAGIC) + 8
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
    # Between two records is no better place than any other.
    place = data.draw(st.sampled_from([0, *boundaries(whole)[:-1]]) | st.integers(0, len(whole) - 1))
    path.write_bytes(whole[:place])
    found = journal.read()
    assert found is not None
    assert found[0] == records[: len(found[0])]
    assert len(found[0]) == max(0, sum(boundary <= place for boundary in boundaries(whole)) - 1)
    assert ("is empty" if place == 0 else "torn or damaged") in found[1]
    place = data.draw(st.integers(len(MAGIC), len(whole) - 1))
    flipped = bytearray(whole)
    flipped[place] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(flipped)
    found = journal.read()
    assert found is not None
    assert found[0] == records[: len(found[0])]
    assert "torn or damaged" in found[1]
    assert len(found[0]) == max(0, sum(boundary <= place for boundary in boundaries(whole)) - 1)
    path.write_bytes(whole + data.draw(st.binary(min_size=1, max_size=20)))
    assert journal.read() == (
        records,
        f"what follows its {len(records)} records at byte {len(whole)} is not its own",
    )


def boundaries(data: bytes) -> list[int]:
    """Where the head ends, and each record."""
    places = [HEAD]
    while places[-1] < len(data):
        places.append(places[-1] + 8 + int.from_bytes(data[places[-1] : places[-1] + 4], "little"))
    return places


def test_what_is_no_object_is_not_used(journal: Journal) -> None:
    journal.write([{"a": 1}, [1], {"b": 2}])  # type: ignore[list-item]
    said = "is torn or damaged; no later one was used"
    assert journal.read() == ([{"a": 1}], f"record 1 of 3 at byte {HEAD + 15} {said}")
    count = struct.pack("<I", 1)
    head = MAGIC + count + struct.pack("<I", zlib.crc32(count))
    Path(journal.path).write_bytes(head + struct.pack("<II", 1, zlib.crc32(b"{")) + b"{")
    assert journal.read() == ([], f"record 0 of 1 at byte {HEAD} {said}")
    Path(journal.path).write_bytes(head[:-1])
    assert journal.read() == ([], f"its first {HEAD} bytes are torn or damaged; nothing of it was used")


def test_a_change_of_the_file_is_seen(journal: Journal) -> None:
    assert not journal.intact()
    journal.write(RECORDS)
    path = Path(journal.path)
    assert journal.intact()
    path.rename(path.with_name("elsewhere"))
    assert not journal.intact()
    path.write_bytes(path.with_name("elsewhere").read_bytes())
    assert not journal.intact()
    journal.write(RECORDS)
    os.truncate(path, 20)
    assert not journal.intact()
    journal.remove()
    assert not journal.intact()
    path.mkdir()
    assert not journal.intact()


def test_another_version_is_refused(journal: Journal) -> None:
    Path(journal.path).write_bytes(b"pulsetwin journal 1\nwhatever")
    with pytest.raises(JournalError, match=r"begins with b'pulsetwin journal 1\\nwhat', not with"):
        journal.read()


def test_what_others_may_have_written_is_refused(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    journal.write(RECORDS)
    path = Path(journal.path)
    path.chmod(0o622)
    with pytest.raises(JournalError, match=r"is a file of user .*, mode 622, and not believed"):
        journal.read()
    path.chmod(0o600)
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
    with pytest.raises(JournalError, match=r"user 1?[0-9]+'s alone"):
        journal.read()
    monkeypatch.undo()
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))
    with pytest.raises(JournalError, match=r"cannot be read: .* it is a symbolic link; remove it, then twin restore"):
        journal.read()
    path.unlink()
    path.mkdir(mode=0o700)
    with pytest.raises(JournalError, match=r"is a directory of user .* and not believed; .* then remove it"):
        journal.read()
    path.rmdir()
    os.mkfifo(path, 0o600)
    with pytest.raises(JournalError, match="is no file of user"):
        journal.read()


@pytest.mark.parametrize("call", ["fsync", "replace", "open"])
def test_a_journal_that_cannot_be_written_leaves_the_old_one(
    journal: Journal, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    journal.write(RECORDS[:1])

    def fails(*_arguments: object, **_named: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, fails)
    with pytest.raises(JournalError, match=r"No space left .* without it; make room on the disk of"):
        journal.write(RECORDS)
    with pytest.raises(JournalError, match="No space left"):
        journal.settle(RECORDS)
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
