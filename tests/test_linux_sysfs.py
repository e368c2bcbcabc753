from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hardware_fakes import put
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hardware.interface import Source, Status, to_channel, to_raw
from hardware.linux.sysfs import FileCell, Root, parse_integer

UNITS = st.builds(
    lambda pair: Source("hwmon", "temp", multiply=pair[0], divide=pair[1]),
    st.sampled_from([(1, 1), (10_000, 1), (1, 1_000), (1_000, 1), (3, 7)]),
)


@given(UNITS, st.integers(-(10**15), 10**15))
def test_a_value_that_a_file_can_show_comes_back(source: Source, raw: int) -> None:
    value = to_channel(source, raw)
    if source.multiply == 1 or source.divide == 1:
        assert to_channel(source, to_raw(source, value)) == value
    quantum = source.multiply // source.divide + 1
    assert value - quantum <= to_channel(source, to_raw(source, value)) <= value


@given(st.binary(max_size=80) | st.from_regex(r"-?[0-9]{0,20}\n?\r?", fullmatch=True).map(str.encode))
def test_only_plain_integers_are_numbers(data: bytes) -> None:
    outcome = parse_integer(data)
    body = data.removesuffix(b"\n")
    digits = body.removeprefix(b"-")
    number = 1 <= len(digits) <= 18 and all(byte in b"0123456789" for byte in digits)
    assert (outcome.status is Status.OK) == number
    assert outcome.value == (int(body) if number else None)


@pytest.mark.parametrize(
    "text", ["", "\n", " 1", "1 ", "+1", "1_000", "0x10", "1.0", "--1", "1\n\n", "1\r\n", "nan", "\u0661", "1" * 19]
)
def test_what_is_no_integer_is_garbage(text: str) -> None:
    assert parse_integer(text.encode()).status is Status.GARBAGE


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=200))
def test_any_file_content_gives_an_outcome(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "sys/value"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    outcome = Root(tmp_path).read_integer(str(path))
    assert outcome == (parse_integer(data) if len(data) <= 64 else outcome)
    assert outcome.status in (Status.OK, Status.GARBAGE)
    assert (outcome.value is None) == (outcome.detail != "")


class Failing(Root):
    """The first `times` accesses fail with `number`."""

    def __init__(self, path: Path, number: int, times: int) -> None:
        super().__init__(path)
        self.number = number
        self.times = times

    def fail(self) -> None:
        self.times -= 1
        if self.times >= 0:
            raise OSError(self.number, os.strerror(self.number))

    def raw_read(self, path: str, limit: int) -> bytes:
        self.fail()
        return super().raw_read(path, limit)

    def raw_write(self, path: str, data: bytes) -> int:
        self.fail()
        return super().raw_write(path, data)


@pytest.mark.parametrize(
    ("number", "status"),
    [
        (errno.ENOENT, Status.ABSENT),
        (errno.ENODEV, Status.ABSENT),
        (errno.ENXIO, Status.ABSENT),
        (errno.EACCES, Status.DENIED),
        (errno.EPERM, Status.DENIED),
        (errno.EIO, Status.UNREADABLE),
        (errno.ENODATA, Status.UNREADABLE),
        (errno.EINVAL, Status.UNREADABLE),
        (errno.EAGAIN, Status.UNREADABLE),
        (errno.EINTR, Status.UNREADABLE),
        (9_999, Status.UNREADABLE),
    ],
)
def test_errors_become_statuses(number: int, status: Status, tmp_path: Path) -> None:
    put(tmp_path, {"sys/value": 7})
    path = str(tmp_path / "sys/value")
    for outcome in (
        Failing(tmp_path, number, 9).read_integer(path),
        Failing(tmp_path, number, 9).write_integer(path, 8),
    ):
        assert outcome.value is None
        assert outcome.status is status
        assert outcome.detail.endswith(": /sys/value")
        assert outcome.detail.startswith(errno.errorcode.get(number, "errno 9999"))
    assert (tmp_path / "sys/value").read_text() == "7\n"


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.EINTR])
def test_an_interrupted_read_is_repeated_twice_at_most(number: int, tmp_path: Path) -> None:
    put(tmp_path, {"sys/value": 7})
    path = str(tmp_path / "sys/value")
    assert Failing(tmp_path, number, 2).read_integer(path).value == 7
    root = Failing(tmp_path, number, 99)
    assert root.read_integer(path).status is Status.UNREADABLE
    assert root.times == 99 - 3
    root = Failing(tmp_path, errno.EIO, 99)
    root.read_integer(path)
    assert root.times == 99 - 1


def test_a_link_out_of_the_tree_is_not_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("4711\n")
    put(tmp_path / "root", {"sys/chip/pwm1": 1})
    root = Root(tmp_path / "root")
    link = tmp_path / "root/sys/chip/pwm2"
    link.symlink_to(secret)
    (tmp_path / "root/sys/away").symlink_to(tmp_path)
    assert root.resolve(str(link)) is None
    assert root.resolve(str(tmp_path / "root/sys/away/secret")) is None
    assert root.resolve(str(tmp_path / "root/sys/chip/../../../secret")) is None
    assert root.read_integer(str(link)).status is Status.UNREADABLE
    for path in (link, tmp_path / "root/sys/away/secret", tmp_path / "root/proc"):
        outcome = root.write_integer(str(path), 5)
        assert outcome.status is Status.DENIED
        assert "leads out of sys" in outcome.detail
    assert secret.read_text() == "4711\n"
    # A link that stays inside leads to the file itself.
    inside = tmp_path / "root/sys/chip/alias"
    inside.symlink_to("pwm1")
    assert root.write_integer(str(inside), 5).value == 5
    assert (tmp_path / "root/sys/chip/pwm1").read_text() == "5\n"
    assert inside.is_symlink()


def test_only_existing_regular_files_are_written(tmp_path: Path) -> None:
    put(tmp_path, {"sys/pwm1": 123_456})
    root = Root(tmp_path)
    assert root.write_integer(str(tmp_path / "sys/pwm1"), 7).value == 7
    assert (tmp_path / "sys/pwm1").read_bytes() == b"7\n"
    assert root.write_integer(str(tmp_path / "sys/pwm2"), 7).status is Status.ABSENT
    assert not (tmp_path / "sys/pwm2").exists()
    (tmp_path / "sys/dir").mkdir()
    os.mkfifo(tmp_path / "sys/pipe")
    for name in ("dir", "pipe"):
        outcome = root.write_integer(str(tmp_path / "sys" / name), 7)
        assert outcome.status is Status.DENIED
        assert "not a regular file" in outcome.detail
    # Neither does reading wait for a pipe's other end.
    assert root.read_integer(str(tmp_path / "sys/pipe")).status is Status.GARBAGE
    assert root.read_integer(str(tmp_path / "sys/dir")).status is Status.UNREADABLE


def test_a_short_write_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, {"sys/pwm1": 1})
    monkeypatch.setattr(Root, "raw_write", lambda self, path, data: 1)
    outcome = Root(tmp_path).write_integer(str(tmp_path / "sys/pwm1"), 77)
    assert outcome.status is Status.UNREADABLE
    assert "1 of 3 bytes" in outcome.detail


def test_permissions_are_asked_of_the_system(tmp_path: Path) -> None:
    put(tmp_path, {"sys/energy_uj": 1})
    (tmp_path / "sys/energy_uj").chmod(0)
    outcome = Root(tmp_path).read_integer(str(tmp_path / "sys/energy_uj"))
    # Root may read everything.
    assert outcome.status is (Status.OK if os.geteuid() == 0 else Status.DENIED)


def test_a_device_that_took_the_place_of_another_is_not_it(tmp_path: Path) -> None:
    put(tmp_path, {"sys/hwmon3/pwm1": 1})
    cell = FileCell(Root(tmp_path), str(tmp_path / "sys/hwmon3/pwm1"))
    assert cell.read().value == 1
    (tmp_path / "sys/hwmon3").rename(tmp_path / "sys/hwmon4")
    assert cell.read().status is Status.ABSENT
    put(tmp_path, {"sys/hwmon3/pwm1": 99})
    assert cell.read().status is Status.ABSENT
    assert cell.write(5).status is Status.ABSENT
    assert (tmp_path / "sys/hwmon3/pwm1").read_text() == "99\n"


def test_tables_are_read_to_their_end_or_limit(tmp_path: Path) -> None:
    (tmp_path / "table").write_bytes(b"x" * 300_000)
    root = Root(tmp_path)
    assert len(root.read_bytes(str(tmp_path / "table"), 300_000)[0]) == 300_000
    data, outcome = root.read_bytes(str(tmp_path / "table"), 299_999)
    assert (data, outcome.status) == (b"", Status.GARBAGE)
    assert root.names("nowhere") == ()


def test_a_table_that_comes_in_pieces_is_read_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, {"proc/stat": "x" * 1_000})
    real = os.read
    monkeypatch.setattr(os, "read", lambda descriptor, limit: real(descriptor, min(limit, 300)))
    root = Root(tmp_path)
    assert len(root.read_bytes(root.absolute("proc/stat"), 5_000)[0]) == 1_001
    assert root.read_bytes(root.absolute("proc/stat"), 900)[1].status is Status.GARBAGE
