"""Runs as the page sees them: out of tables, out of logs, and as they happen, record for record the same."""

from __future__ import annotations

import os
import shutil
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from dashboard_runs import TICK_PLACES, Row, recorded, told
from hypothesis import given
from hypothesis import strategies as st

from twin.dashboard.answers import Served
from twin.dashboard.live import LiveRun
from twin.dashboard.replayed import ReplayedRun
from twin.dashboard.runs import KEPT, POINTS
from twin.dashboard.server import Emitter, make_app
from twin.dashboard.tables import TableRun, open_run
from twin.record.files import RecordInputError

DURATION = "duration_ms=3000"
SLOW = "heartbeat.t0_ns=700000000"
"""A heartbeat slower than control: most cycles have the tick of the cycle before."""


@pytest.fixture(scope="module")
def records() -> list[Row]:
    return told(DURATION)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return recorded(tmp_path_factory.mktemp("runs") / "run", "--duration", "3")


@pytest.fixture(scope="module")
def run(folder: Path) -> TableRun:
    return open_run("run-1", "run", folder)


def test_every_record_is_what_the_loop_told(run: TableRun, records: list[Row]) -> None:
    assert run.about.columns == tuple(records[0])
    assert list(run.records()) == records
    assert run.cycles == len(records) == 30
    assert (run.state, run.lost, run.insight()) == ("ended", 0, None)


def test_a_record_has_the_values_of_the_control_table(run: TableRun, folder: Path) -> None:
    rows = pq.read_table(folder / "control.parquet").to_pylist()
    assert [{name: record[name] for name in rows[0]} for record in run.records()] == rows


@pytest.mark.parametrize("keep", ["all", "every:3"])
def test_tables_of_many_row_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, records: list[Row], keep: str
) -> None:
    whole = open_run("one", "one", recorded(tmp_path / "one", "--duration", "3", "--ticks", keep))
    monkeypatch.setattr("twin.record.tables.GROUP_ROWS", 7)
    folder = recorded(tmp_path / "many", "--duration", "3", "--ticks", keep)
    assert pq.read_metadata(folder / "control.parquet").num_row_groups == 5
    many = open_run("many", "many", folder)
    assert list(many.records()) == list(whole.records())
    assert keep != "all" or list(many.records()) == records
    assert many.history(11) == whole.history(11)
    columns = ("time_ns", "reason", "tick_number")
    assert many.course(columns, 450_000_000, 2_600_000_000, 6) == whole.course(columns, 450_000_000, 2_600_000_000, 6)


def test_a_heartbeat_slower_than_control(tmp_path: Path) -> None:
    folder = recorded(tmp_path / "slow", "--duration", "5", "--set", SLOW)
    slow = told("duration_ms=5000", SLOW)
    assert len({record["tick_number"] for record in slow}) < len(slow) / 2
    assert list(open_run("slow", "slow", folder).records()) == slow


def without_ticks(record: Row) -> Row:
    return {**record, **dict.fromkeys(TICK_PLACES)}


@pytest.mark.parametrize("keep", ["none", "every:7", "ends:200+sample:20", "ends:3", "sample:9"])
def test_ticks_that_were_not_kept_are_missing(tmp_path: Path, records: list[Row], keep: str) -> None:
    folder = recorded(tmp_path / "some", "--duration", "3", "--ticks", keep)
    run = open_run("some", "some", folder)
    kept = pq.read_table(folder / "ticks.parquet").to_pylist()
    due = [tick["elapsed_ns"] - tick["lateness_ns"] for tick in kept]
    before = -1
    for record, told_record in zip(run.records(), records, strict=True):
        assert without_ticks(record) == without_ticks(told_record)
        now = record["time_ns"] - record["lateness_ns"]
        here = [tick for tick, at in zip(kept, due, strict=True) if before < at <= now]
        expected = {name: here[-1][name] if here else None for name in TICK_PLACES}
        assert {name: record[name] for name in TICK_PLACES} == expected
        before = now


def test_history(run: TableRun, records: list[Row]) -> None:
    assert run.history(1) == records[-1:]
    assert run.history(7) == records[-7:]
    assert run.history(KEPT) == records
    for most in (0, KEPT + 1):
        with pytest.raises(ValueError, match="1 to 300"):
            run.history(most)


TIMES = st.integers(-1, 3_100_000_000) | st.sampled_from([0, 100_000_000, 2_900_000_000])


@given(TIMES, TIMES, st.integers(1, 40))
def test_a_course_is_evenly_spread_and_keeps_both_ends(
    run: TableRun, records: list[Row], first_ns: int, last_ns: int, points: int
) -> None:
    columns = ("time_ns", "cpu_worst_millicelsius", "action", "window_width", "cpu_forecast_millicelsius")
    course = run.course(columns, first_ns, last_ns, points)
    times = [record["time_ns"] for record in records]
    within = records[bisect_left(times, first_ns) : bisect_right(times, last_ns)]
    assert tuple(course) == columns
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*course.values(), strict=True)]
    assert len(rows) == min(points, len(within))
    places = [within.index(next(record for record in within if record["time_ns"] == row["time_ns"])) for row in rows]
    assert rows == [{name: within[place][name] for name in columns} for place in places]
    assert places == sorted(set(places))
    if rows:
        assert places[-1] == len(within) - 1
        assert points == 1 or places[0] == 0
        assert is_even(places)


def is_even(places: Sequence[int]) -> bool:
    steps = {after - before for before, after in pairwise(places)}
    return len(steps) < 2 or max(steps) - min(steps) <= 1


def test_a_course_of_what_is_not_there(run: TableRun) -> None:
    with pytest.raises(ValueError, match="gpu_hum, hum: no column"):
        run.course(("time_ns", "gpu_hum", "hum"), 0, 1, 10)
    for points in (0, POINTS + 1):
        with pytest.raises(ValueError, match="1 to 2000"):
            run.course(("time_ns",), 0, 1, points)


def test_what_a_run_is(run: TableRun, folder: Path) -> None:
    about = run.about
    assert (about.id, about.name, about.origin, about.backend) == ("run-1", "run", "recorded", "simulated")
    assert (about.scenario, about.seed, about.period_ms, about.duration_ms) == ("gaming", 1, 100, 3_000)
    assert (about.run_dir, about.learns, about.machine) == (str(folder), False, "desktop")
    assert (about.sensors[0].name, about.sensors[0].limit_millicelsius) == ("cpu", 95_000)
    assert all(f"{output.name}_command" in about.columns and output.least < output.most for output in about.outputs)


def test_a_table_of_another_version(tmp_path: Path, folder: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    table = pq.read_table(folder / "control.parquet")
    metadata = pq.read_metadata(folder / "control.parquet").metadata
    with pq.ParquetWriter(copy / "control.parquet", table.schema) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({**metadata, b"twin.schema": b"control/0"})
    manifest = (copy / "manifest.json").read_text()
    size = (folder / "control.parquet").stat().st_size
    new = (copy / "control.parquet").stat().st_size
    (copy / "manifest.json").write_text(manifest.replace(f'"bytes": {size}', f'"bytes": {new}'))
    with pytest.raises(RecordInputError, match=r"has schema control/0; this program reads control/1; use the version"):
        open_run("copy", "copy", copy)


class Events:
    """Keeps what is emitted."""

    def __init__(self) -> None:
        self.told: list[tuple[str, Any]] = []

    def emit(self, name: str, content: Any) -> None:
        self.told.append((name, content))


def test_of_a_finished_run_only_what_the_learner_thought_is_made_again(run: TableRun, records: list[Row]) -> None:
    live = LiveRun(replace(run.about, origin="replayed"))
    events: Any = Events()
    emitter = Emitter(events)
    again = ReplayedRun(live, run, None)
    for number, record in enumerate(records):
        live.record(0, list(record.values()), {"losses": {"policy": float(number)}})
        emitter.news(again)
        assert (again.state, again.cycles, again.lost, again.age_ms) == ("ended", 30, 0, None)
    live.over("ended")
    emitter.news(again, last=True)
    assert (again.about.origin, again.tables) == ("recorded", run.tables)
    assert list(again.records()) == records
    told_of = [content for name, content in events.told if name == "metrics"]
    assert all(content["record"] == records[-1] for content in told_of)
    assert told_of[-1]["insight"] == again.insight() == {"losses": {"policy": 29.0}}
    # Told as seldom as ever, and no more when there is nothing new.
    assert len(told_of) < len(records)
    emitter.news(again, last=True)
    assert [name for name, _ in events.told].count("metrics") == len(told_of)


def test_a_run_that_was_made_again_is_read_from_its_tables(run: TableRun, records: list[Row], folder: Path) -> None:
    live = LiveRun(replace(run.about, origin="replayed"))
    again = ReplayedRun(live, None, folder)
    live.record(0, list(records[0].values()), None)
    assert (again.state, again.cycles, again.tables, list(again.records())) == ("running", 1, None, records[:1])
    assert again.course(("cycle",), 0, 1, 1) == {"cycle": [0]}
    live.over("lost")
    assert (again.state, again.cycles, again.tables, again.lost) == ("lost", 30, folder, 0)
    assert (again.about.origin, list(again.records())) == ("replayed", records)
    assert again.history(2) == records[-2:]


def test_a_followed_run_is_as_old_as_its_log(run: TableRun, tmp_path: Path) -> None:
    live = LiveRun(replace(run.about, run_dir=str(tmp_path)))
    again = ReplayedRun(live, None, None)
    assert again.age_ms is None
    live.record(0, list(run.history(1)[0].values()), None)
    assert again.age_ms is not None
    log = tmp_path / "seam.log"
    log.write_bytes(b"")
    os.utime(log, (0, 1_000))
    # The record came just now, and is old all the same.
    assert again.age_ms > 10**9
    os.utime(log, (0, 2**33))
    assert again.age_ms == 0


def test_tables_that_are_others_now_are_not_compared(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    shown = open_run("a", "a", copy)
    assert shown.tables == copy
    shutil.rmtree(copy)
    served = Served()
    served.add(shown)
    served.add(open_run("b", "b", folder))
    client = make_app(served)[0].test_client()
    for _ in range(2):
        answer = client.get("/api/difference?a=a&b=b")
        assert answer.status_code == 503
        assert "was removed or replaced while it was shown" in answer.json["error"]["message"]
        if not copy.exists():
            shutil.copytree(folder, copy)
            (copy / "control.parquet").touch()


def test_a_replay_that_failed_leaves_what_it_told(run: TableRun, records: list[Row], tmp_path: Path) -> None:
    live = LiveRun(replace(run.about, origin="replayed"))
    again = ReplayedRun(live, None, tmp_path)
    live.record(0, list(records[0].values()), None)
    live.over("lost")
    assert (again.state, again.cycles, again.tables, again.history(5)) == ("lost", 1, None, records[:1])
