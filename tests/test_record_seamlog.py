"""The seam log: round trip, torn tails, damage, full disks, sudden death."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import signal
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from record_samples import CHANNELS, HEADER, cycle, write_log

from hardware.interface import Applied, Command, Readings, Status
from twin.record import seamlog
from twin.record.files import RecordError
from twin.record.seamlog import CorruptLogError, LogVersionError, SeamLogWriter, cut_torn_tail, read_seam_log

INT64 = st.integers(-(1 << 63), (1 << 63) - 1)


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("log") / "seam.log"
    write_log(path, cycles=4, ticks_each=2)
    return path.read_bytes()


def put(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "seam.log"


def boundaries(data: bytes) -> list[int]:
    """Where each record begins, and the end of the file."""
    places, offset = [], 12
    while offset < len(data):
        places.append(offset)
        offset += 9 + int.from_bytes(data[offset : offset + 4], "little")
    return [*places, offset]


def test_round_trip(log: Path) -> None:
    write_log(log, cycles=25, ticks_each=3)
    read = read_seam_log(log)
    assert read.header == HEADER
    assert read.lateness_ns.tolist() == list(range(77, 77 + 75))
    assert read.lateness_ns.dtype == np.int64
    assert list(read.cycles) == [cycle(n, temperature=None if n == 3 else 45_000) for n in range(25)]
    assert list(read.cycles[3:5]) == [cycle(3, temperature=None), cycle(4)]
    assert read.ticks_before == [3 * n for n in range(1, 26)]
    assert (read.complete, read.torn_bytes) == (True, 0)
    assert read.cycles[3].readings.statuses[0] is Status.DENIED


@settings(max_examples=60, deadline=None)
@given(
    values=st.tuples(*[st.none() | INT64] * 3), times=st.tuples(*[INT64] * 3), lateness=INT64, due=INT64,
    command=st.dictionaries(st.sampled_from(["fan_pwm", "cpu_max_kilohertz"]), INT64),
    applied=st.dictionaries(st.sampled_from(["fan_pwm", "cpu_max_kilohertz"]), INT64),
    failed=st.lists(st.tuples(st.text(), st.text()), max_size=2),
    ticks=st.lists(INT64, max_size=20),
)  # fmt: skip
def test_every_cycle_comes_back(
    tmp_path_factory, values, times, lateness, due, command, applied, failed, ticks
) -> None:
    log = tmp_path_factory.mktemp("log") / "seam.log"
    statuses = tuple(Status.OK if value is not None else Status.GARBAGE for value in values)
    written = cycle(
        0, due_ns=due, lateness_ns=lateness, readings=Readings(values, times, statuses), command=Command(command),
        applied=Applied(applied, tuple(name for name in ("fan_pwm",) if name in applied), tuple(failed)),
    )  # fmt: skip
    with SeamLogWriter(log, HEADER) as writer:
        writer.ticks(0, np.array(ticks, dtype=np.int64))
        writer.cycle(written)
    read = read_seam_log(log)
    assert read.cycles[0] == written
    assert read.lateness_ns.tolist() == ticks


def test_many_ticks_are_split_into_records(log: Path) -> None:
    lateness = np.arange(200_000, dtype=np.int64)
    with SeamLogWriter(log, HEADER) as writer:
        writer.ticks(0, lateness[:1])
        writer.ticks(1, lateness[1:])
        lateness_before = lateness.copy()
        lateness[:] = 0
    read = read_seam_log(log)
    assert np.array_equal(read.lateness_ns, lateness_before)
    assert len(boundaries(log.read_bytes())) > 5


@pytest.mark.parametrize("ended", [True, False])
def test_a_log_without_events_is_a_log(log: Path, ended: bool) -> None:
    write_log(log, cycles=0, ended=ended)
    read = read_seam_log(log)
    assert (len(read.lateness_ns), len(read.cycles), read.complete) == (0, 0, ended)


def test_an_exception_leaves_the_log_open_ended(log: Path) -> None:
    with pytest.raises(KeyError), SeamLogWriter(log, HEADER) as writer:  # noqa: PT012
        writer.cycle(cycle(0))
        raise KeyError("stop")
    read = read_seam_log(log)
    assert (len(read.cycles), read.complete, read.torn_bytes) == (1, False, 0)
    assert "cycle 0" in read.last_good


def test_a_second_of_simulated_time_is_flushed(log: Path) -> None:
    writer = SeamLogWriter(log, HEADER)
    for number in range(25):
        writer.cycle(cycle(number))
    assert len(read_seam_log(log).cycles) == 21
    writer.flush()
    assert len(read_seam_log(log).cycles) == 25
    writer.close(ended=False)
    writer.close()
    with pytest.raises(ValueError, match="closed"):
        writer.cycle(cycle(25))


def test_the_writer_refuses_what_it_could_not_give_back(log: Path) -> None:
    with SeamLogWriter(log, HEADER) as writer:
        writer.cycle(cycle(4))
        for wrong, words in [
            (cycle(4), "cannot follow"),
            (cycle(5, due_ns=1 << 63), "64 bits"),
            (cycle(5, command=Command({"gpu_pwm": 1})), "output is not one of"),
            (cycle(5, applied=Applied({}, clamped=("gpu_pwm",))), "output is not one of"),
            (cycle(5, readings=Readings((1,), (1,), (Status.OK,))), "3 readings"),
            (cycle(5, readings=Readings((None, 1, 1), (1, 1, 1), (Status.OK,) * 3)), "status"),
        ]:
            with pytest.raises(ValueError, match=words):
                writer.cycle(wrong)
        with pytest.raises(ValueError, match="tick 0 comes next"):
            writer.ticks(1, np.zeros(1, dtype=np.int64))
        with pytest.raises(ValueError, match="int64"):
            writer.ticks(0, np.zeros(1, dtype=np.float64))  # type: ignore[arg-type]
    assert len(read_seam_log(log).cycles) == 1


def test_every_truncation_is_a_torn_tail_or_no_log(log: Path, sample: bytes) -> None:
    places = boundaries(sample)
    whole = list(read_seam_log(put(log, sample)).cycles)
    for length in range(len(sample)):
        put(log, sample[:length])
        if length < places[1]:
            with pytest.raises(CorruptLogError):
                read_seam_log(log)
            continue
        read = read_seam_log(log)
        good = max(place for place in places if place <= length)
        assert not read.complete
        assert read.torn_bytes == length - good
        assert list(read.cycles) == whole[: len(read.cycles)]


def test_cutting_the_torn_tail(log: Path, sample: bytes) -> None:
    places = boundaries(sample)
    put(log, sample[: places[5] + 20])
    assert cut_torn_tail(log) == 20
    assert log.read_bytes() == sample[: places[5]]
    assert cut_torn_tail(log) == 0
    put(log, sample)
    assert cut_torn_tail(log) == 0
    assert log.read_bytes() == sample


def test_every_flipped_bit_is_named(log: Path, sample: bytes) -> None:
    places = boundaries(sample)
    for byte in range(len(sample)):
        for bit in range(8):
            damaged = bytearray(sample)
            damaged[byte] ^= 1 << bit
            put(log, bytes(damaged))
            with pytest.raises(LogVersionError if 8 <= byte < 12 else CorruptLogError) as caught:
                read_seam_log(log)
            if isinstance(caught.value, CorruptLogError):
                flipped = caught.value.flipped
                assert flipped is not None
                assert (flipped.byte, flipped.bit) == (byte, bit)
                if byte >= 12:
                    record = max(number for number, place in enumerate(places) if place <= byte)
                    assert (caught.value.record, caught.value.offset) == (record, places[record])


def test_a_flipped_bit_in_a_reading_shows_both_values(log: Path) -> None:
    write_log(log, cycles=20, ticks_each=2)
    data = bytearray(log.read_bytes())
    payload = boundaries(bytes(data))[2 * 18] + 5
    position = payload + 32 + len(CHANNELS)
    assert int.from_bytes(data[position : position + 8], "little") == 45_000
    data[position] ^= 1 << 6
    put(log, bytes(data))
    with pytest.raises(CorruptLogError) as caught:
        read_seam_log(log)
    message = str(caught.value)
    assert f"cycle 17, cpu_temp_millicelsius: 45000 became 44936, byte {position} bit 6" in message
    assert str(log) in message
    assert "record 36 (cycle, after 1.600 s)" in message
    assert "good up to record 35 (ticks 34 to 35)" in message
    assert (caught.value.time_ns, caught.value.kind, caught.value.record) == (1_600_000_000, "cycle", 36)


def test_a_flipped_bit_in_a_tick_shows_both_values(log: Path) -> None:
    write_log(log, cycles=3, ticks_each=2)
    data = bytearray(log.read_bytes())
    data[boundaries(bytes(data))[3] + 5 + 8 + 8] ^= 1
    put(log, bytes(data))
    with pytest.raises(CorruptLogError, match=r"lateness of tick 3: 80 became 81"):
        read_seam_log(log)


def test_more_damage_is_never_taken_for_a_torn_tail(log: Path, sample: bytes) -> None:
    places = boundaries(sample)
    for record in range(len(places) - 2):
        damaged = bytearray(sample)
        damaged[places[record] : places[record] + 4] = (900_000).to_bytes(4, "little")
        put(log, bytes(damaged))
        with pytest.raises(CorruptLogError, match=f"another record begins at byte {places[record + 1]}"):
            read_seam_log(log)
        damaged[places[record] : places[record] + 4] = b"\xff\xff\xff\x7f"
        put(log, bytes(damaged))
        with pytest.raises(CorruptLogError, match="length cannot be"):
            read_seam_log(log)
    damaged = bytearray(sample)
    damaged[places[2] + 10] ^= 0xFF
    with pytest.raises(CorruptLogError, match="more than one bit"):
        read_seam_log(put(log, bytes(damaged)))


def test_records_that_cannot_be_there(log: Path, sample: bytes) -> None:
    places = boundaries(sample)
    records = [sample[a:b] for a, b in itertools.pairwise(places)]
    start = sample[:12]
    for order, words in [
        ([0, 1, 2, 1], "tick 2 comes next, not 0"),
        ([0, 1, 2, 2], "cycle 0 cannot follow cycle 0"),
        ([0, 0], "header is the first record"),
        ([1], "header is the first record"),
        ([0, 1, 2, -1], "it counts 8 ticks and 4 cycles, the log has 2 and 1"),
        ([*range(len(records)), 1], "something follows the end"),
    ]:
        with pytest.raises(CorruptLogError, match=words):
            read_seam_log(put(log, start + b"".join(records[index] for index in order)))


def test_other_formats(log: Path, sample: bytes) -> None:
    put(log, sample[:8] + (2).to_bytes(4, "little") + sample[12:])
    with pytest.raises(LogVersionError, match="version 2; this program reads version 1"):
        read_seam_log(log)
    put(log, sample[:12] + framed(1, b'{"schema":"seam/2"}'))
    with pytest.raises(LogVersionError, match="seam/2"):
        read_seam_log(log)
    put(log, b"PAR1 this is something else")
    with pytest.raises(CorruptLogError, match="does not begin as a seam log"):
        read_seam_log(log)
    with pytest.raises(RecordError, match="No such file") as caught:
        read_seam_log(log.with_name("missing.log"))
    assert caught.value.errno == errno.ENOENT


def framed(kind: int, payload: bytes) -> bytes:
    body = len(payload).to_bytes(4, "little") + bytes([kind]) + payload
    return body + zlib.crc32(body).to_bytes(4, "little")


PAYLOADS = st.binary(max_size=200) | st.sampled_from(
    [b"[" * 5_000, b"{}", b"null", b'{"schema":"seam/1"}', b'{"schema":"seam/1","channels":[1]}', bytes(16)]
)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_fuzz(tmp_path_factory, sample: bytes, data: st.DataObject) -> None:
    header = sample[: boundaries(sample)[1]]
    kind = data.draw(st.sampled_from(["random", "after the start", "after the header", "well framed", "spliced"]))
    if kind == "well framed":
        records = data.draw(st.lists(st.tuples(st.integers(0, 6), PAYLOADS), max_size=4))
        start = data.draw(st.sampled_from([sample[:12], header]))
        content = start + b"".join(framed(code, payload) for code, payload in records)
    elif kind == "spliced":
        a, b = data.draw(st.integers(0, len(sample))), data.draw(st.integers(0, len(sample)))
        content = sample[:a] + data.draw(st.binary(max_size=8)) + sample[b:]
    else:
        starts = {"random": b"", "after the start": sample[:12], "after the header": header}
        content = starts[kind] + data.draw(st.binary(max_size=300))
    path = put(tmp_path_factory.getbasetemp() / "fuzz.log", content)
    try:
        read = read_seam_log(path)
    except (CorruptLogError, LogVersionError) as error:
        assert str(path) in str(error)  # noqa: PT017
        return
    assert [each.number for each in read.cycles] == sorted({each.number for each in read.cycles})
    if content != sample:
        assert not read.complete or kind == "well framed"


# --- a disk that takes no more ----------------------------------------------------------------------------------------


def test_every_write_may_fail_once(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_log(log, cycles=45)
    expected = log.read_bytes()
    real = os.write
    for failing in range(6):
        calls = 0

        def write(descriptor: int, data: bytes, failing: int = failing) -> int:
            nonlocal calls
            calls += 1
            if calls == 2 * failing + 1:
                return real(descriptor, data[: len(data) // 2])
            if calls == 2 * failing + 2:
                raise OSError(errno.ENOSPC, "full")
            return real(descriptor, data)

        monkeypatch.setattr(os, "write", write)
        raised: list[RecordError] = []
        try:
            writer = SeamLogWriter(log, HEADER)
        except RecordError as error:
            assert error.errno == errno.ENOSPC  # noqa: PT017
            assert failing == 0
            assert log.read_bytes() == expected
            assert not list(log.parent.glob("*.partial"))
            continue
        for number in range(45):
            writer.ticks(number * 3, np.arange(number * 3, number * 3 + 3, dtype=np.int64) + 77)
            try:
                writer.cycle(cycle(number, temperature=None if number == 3 else 45_000))
            except RecordError as error:
                raised.append(error)
                assert read_seam_log(log).torn_bytes == 0
        try:
            writer.close()
        except RecordError as error:
            raised.append(error)
        monkeypatch.setattr(os, "write", real)
        if calls > 2 * failing + 1:
            assert [error.errno for error in raised] == [errno.ENOSPC]
            assert "saved are" in str(raised[0])
            assert "free some space" in str(raised[0])
        # Space came back, so nothing is missing, except when the very last write failed.
        assert expected.startswith(log.read_bytes())
        assert read_seam_log(log).torn_bytes == 0


def test_a_failed_sync_ends_the_log(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = SeamLogWriter(log, HEADER)
    writer.cycle(cycle(0))
    real = os.fsync

    def fsync(descriptor: int) -> None:
        raise OSError(errno.EIO, "gone")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(RecordError) as caught:
        writer.sync()
    assert caught.value.errno == errno.EIO
    monkeypatch.setattr(os, "fsync", real)
    with pytest.raises(RecordError):
        writer.cycle(cycle(1))
    with pytest.raises(RecordError):
        writer.close()
    assert not read_seam_log(log).complete


def test_the_writer_gives_up_instead_of_filling_memory(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seamlog, "BUFFER_LIMIT", 5_000)
    writer = SeamLogWriter(log, HEADER)

    def full(descriptor: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "write", full)
    raised = 0
    for number in range(200):
        try:
            writer.cycle(cycle(number))
        except RecordError:
            raised += 1
    assert raised > 150
    assert len(writer._buffer) == 0
    with pytest.raises(RecordError):
        writer.close()
    monkeypatch.undo()
    assert len(read_seam_log(log).cycles) == 0


CHILD = """
import sys, resource, signal
from pathlib import Path
import numpy as np
from record_samples import HEADER, cycle
from twin.record.files import RecordError
from twin.record.seamlog import SeamLogWriter
limit = int(sys.argv[2])
writer = SeamLogWriter(Path(sys.argv[1]), HEADER)
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
number = 0
try:
    while True:
        writer.ticks(number * 100, np.full(100, number, dtype=np.int64))
        writer.cycle(cycle(number))
        number += 1
        if number == 30:
            print("running", flush=True)
except RecordError as error:
    print(error.errno, number, error, flush=True)
"""


def child(log: Path, limit: int) -> subprocess.Popen[str]:
    root = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), str(root.parent)])}
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(log), str(limit)], stdout=subprocess.PIPE, text=True, env=environment
    )


def test_a_file_size_limit_is_a_message_not_a_torn_log(log: Path) -> None:
    process = child(log, 100_000)
    output, _ = process.communicate(timeout=30)
    answer = output.splitlines()[-1]
    assert answer.startswith(f"{errno.EFBIG} ")
    assert "ulimit" in answer
    read = read_seam_log(log)
    assert (read.torn_bytes, read.complete) == (0, False)
    assert f"saved are {len(read.lateness_ns)} ticks and {len(read.cycles)} cycles" in answer
    assert len(read.cycles) > 50


@pytest.mark.parametrize("delay_ms", [0, 20, 90])
def test_sudden_death_leaves_every_flushed_record(log: Path, delay_ms: int) -> None:
    process = child(log, 0)
    assert process.stdout is not None
    assert process.stdout.readline() == "running\n"
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(delay_ms / 1_000)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    read = read_seam_log(log)
    assert not read.complete
    assert len(read.cycles) >= 21
    assert len(read.lateness_ns) == 100 * len(read.cycles)
    assert np.array_equal(read.lateness_ns, np.repeat(np.arange(len(read.cycles)), 100))
    assert read.cycles[-1] == cycle(len(read.cycles) - 1)
    cut_torn_tail(log)
    assert read_seam_log(log).torn_bytes == 0
