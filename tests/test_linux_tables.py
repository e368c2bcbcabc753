from __future__ import annotations

from pathlib import Path

import pytest
from hardware_fakes import FakeClock, put
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hardware.interface import Status
from hardware.linux.application import PORT, STALE_NS, Application, write_application
from hardware.linux.proc import Meminfo, Stat
from hardware.linux.sysfs import Root

STAT = """\
cpu  74608 2520 24433 1117073 6176 4054 1000 500 300 200
cpu0 37304 1260 12217 558536 3088 2027 500 250 150 100
cpu1 37304 1260 12216 558537 3088 2027 500 250 150 100
intr 12345 0 9 0
ctxt 1990473
"""


def stat_of(root: Path, text: str) -> tuple[object, object]:
    """Values, or statuses where there is none, of busy and total."""
    put(root, {"proc/stat": text})
    table = Stat(Root(root))
    table.refresh()
    outcomes = (table.read("busy"), table.read("total"))
    return tuple(outcome.status if outcome.value is None else outcome.value for outcome in outcomes)  # type: ignore[return-value]


def test_processor_time_is_busy_and_total_without_counting_guests_twice(tmp_path: Path) -> None:
    busy = 74_608 + 2_520 + 24_433 + 4_054 + 1_000 + 500
    assert stat_of(tmp_path, STAT) == (busy, busy + 1_117_073 + 6_176)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cpu  4 3 2 1", (9, 10)),
        ("cpu  4 3 2 1 5", (9, 15)),
        ("cpu  4 3 2", (9, Status.ABSENT)),
        ("cpu  4 3 2 ?", (9, Status.GARBAGE)),
        ("cpu  ? 3 2", (Status.GARBAGE, Status.ABSENT)),
        ("cpu  4 3", (Status.ABSENT, Status.ABSENT)),
        ("cpu", (Status.ABSENT, Status.ABSENT)),
        ("", (Status.ABSENT, Status.ABSENT)),
        ("cpu0 1 1 1 7\ncpu1 1 1 1 8", (Status.ABSENT, 21)),
        ("cpu0 1 1 1 7\ncpu1 1 1 1 x", (Status.ABSENT, Status.GARBAGE)),
        ("cpu  4 3 2 1 99999999999999999999", (9, Status.GARBAGE)),
        ("intr 5", (Status.ABSENT, Status.ABSENT)),
    ],
)
def test_each_processor_time_is_missing_by_itself(text: str, expected: tuple[object, object], tmp_path: Path) -> None:
    assert stat_of(tmp_path, text) == expected


def test_memory_is_read_in_kibibytes(tmp_path: Path) -> None:
    put(
        tmp_path,
        {"proc/meminfo": "MemTotal:       32653320 kB\nMemFree: 5 pages\nHugePages_Total:       0\nMemAvailable: x kB"},
    )
    table = Meminfo(Root(tmp_path))
    assert table.read("MemTotal").status is Status.ABSENT
    table.refresh()
    assert table.read("MemTotal").value == 32_653_320
    for key, status in (
        ("MemFree", Status.GARBAGE),
        ("MemAvailable", Status.GARBAGE),
        ("HugePages_Total", Status.GARBAGE),
        ("Mem", Status.ABSENT),
    ):
        assert table.read(key).status is status


def test_a_table_that_cannot_be_read_says_why_for_each_key(tmp_path: Path) -> None:
    (tmp_path / "proc/stat").mkdir(parents=True)
    table = Stat(Root(tmp_path))
    table.refresh()
    assert table.read("busy").status is Status.UNREADABLE
    assert table.read("busy").detail == "EISDIR: /proc/stat"


# --- the application port ---------------------------------------------------------------------------------------------


def test_a_record_goes_stale_when_it_is_not_renewed(tmp_path: Path) -> None:
    clock = FakeClock()
    port = Application(Root(tmp_path), clock)
    port.refresh()
    assert port.read("words").status is Status.ABSENT
    write_application(tmp_path, 5, {"words": 3})
    expected = {
        0: Status.OK,
        STALE_NS - 1: Status.OK,
        STALE_NS: Status.STALE,
        5 * STALE_NS: Status.STALE,
    }
    for now_ns, status in expected.items():
        clock.now_ns = now_ns
        port.refresh()
        assert port.read("words").status is status
        assert port.read("other").status is Status.ABSENT
    # A program that starts again may count from anywhere.
    write_application(tmp_path, 1, {"words": 4})
    port.refresh()
    assert port.read("words").value == 4
    (tmp_path / PORT).unlink()
    port.refresh()
    assert port.read("words").status is Status.ABSENT


@pytest.mark.parametrize("text", ["words 3", "sequence x\nwords 3", "sequence 1.5\nwords 3", "\x00\xff"])
def test_a_record_without_a_sequence_number_says_nothing(text: str, tmp_path: Path) -> None:
    put(tmp_path, {PORT: text})
    port = Application(Root(tmp_path), FakeClock())
    port.refresh()
    assert port.read("words").status is Status.GARBAGE


def test_a_line_that_is_no_number_spoils_its_channel_only(tmp_path: Path) -> None:
    put(tmp_path, {PORT: "sequence 1\na 1\nb 1.5\nc\n\nd  7\ne nan\nf 8 "})
    port = Application(Root(tmp_path), FakeClock())
    port.refresh()
    assert {key: port.read(key).value for key in "abcdef"} == {
        "a": 1,
        "b": None,
        "c": None,
        "d": None,
        "e": None,
        "f": 8,
    }
    assert {port.read(key).status for key in "bce"} == {Status.GARBAGE}


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=120))
def test_any_record_can_be_read(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / PORT
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"sequence 1\n" + data)
    port = Application(Root(tmp_path), FakeClock())
    port.refresh()
    assert (port.read("words").value is None) == (port.read("words").status is not Status.OK)


def test_the_port_takes_words_and_ints(tmp_path: Path) -> None:
    for name in ("", "two words", "line\nbreak"):
        with pytest.raises(ValueError, match="one word"):
            write_application(tmp_path, 1, {name: 1})
    for value in (1.0, True, None, float("nan")):
        with pytest.raises(TypeError, match="takes an int"):
            write_application(tmp_path, 1, {"words": value})  # type: ignore[dict-item]
    assert not (tmp_path / PORT).exists()
    write_application(tmp_path, 1, {"words": -1})
    assert [path.name for path in (tmp_path / PORT).parent.iterdir()] == ["values"]
