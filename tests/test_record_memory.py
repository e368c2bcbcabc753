"""A run recorded in memory is the run that the files would have."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from running import here, shipped_scenario

from twin.cli.run import run_digests
from twin.cli.simulate import simulate
from twin.loader import load, shipped, trace_path
from twin.record.memory import kept_ticks
from twin.record.recorder import TICK_COLUMNS, TICK_SCHEMA, tick_block
from twin.record.rundir import CONTROL, TICKS
from twin.record.tables import TableWriter
from twin.world.trace import load_trace

ROWS = 3_000


@pytest.fixture(scope="module")
def captured() -> Any:
    from dataclasses import replace

    return simulate(replace(shipped_scenario("study"), ticks=ROWS)).captured


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("study", ("ticks=1500",)),
        ("gaming", ("duration_ms=1500", "heartbeat.law=reference")),
        ("sensor_faults", ("duration_ms=3000",)),
        ("recorded", ("duration_ms=2000",)),
        ("gaming", ("duration_ms=1500", "learn.enabled=true", "learn.authority_percent=100")),
        ("gaming", ("duration_ms=1500", "pool.shared=true", "pool.size_bytes=4194304")),
    ],
)
def test_the_digests_are_those_of_twin_run(name: str, changes: tuple[str, ...], tmp_path: Path) -> None:
    options = [word for change in changes for word in ("--set", change)]
    result = here("run", name, *options, "--out", tmp_path / "run")
    scenario = load(name, changes)
    place = trace_path(scenario, shipped()[name])
    trace = None if place is None else load_trace(place, scenario.workload.trace)  # type: ignore[arg-type]
    inputs = ("", "")
    if place is not None:
        from twin.loader import input_digests

        inputs = input_digests(scenario, shipped()[name])
    done = simulate(scenario, trace)
    assert run_digests(scenario, inputs, done.recorded) == {
        key: result[key] for key in ("tick_digest", "control_digest", "run_digest")
    }
    assert done.recorded.ticks.rows == result["ticks"]
    assert done.recorded.control.rows == pq.read_metadata(tmp_path / "run" / CONTROL).num_rows
    assert list(done.recorded.missing) == list(result["missing"])
    # The fingerprint, with what the machine did, is the same to the last digit.
    assert done.fingerprint(scenario.heartbeat.words) == result["fingerprint"]
    assert pq.read_metadata(tmp_path / "run" / TICKS).num_rows == result["ticks"]


def test_a_run_without_ticks_has_a_digest(tmp_path: Path) -> None:
    slow = ("heartbeat.t0_ns=1000000000", "duration_ms=100")
    result = here("run", "study", *[word for key in slow for word in ("--set", key)], "--out", tmp_path / "run")
    scenario = load("study", slow)
    done = simulate(scenario)
    assert done.recorded.ticks.rows == result["ticks"] == 0
    assert run_digests(scenario, ("", ""), done.recorded)["run_digest"] == result["run_digest"]
    assert kept_ticks(done.captured, 0, "1_0_1_1_1_0", "all") == b""


COUNT = st.one_of(st.integers(1, 40), st.integers(1, ROWS + 10), st.integers(1, 1_000_000))
WORDS = st.one_of(
    st.sampled_from(["all", "none", f"every:{ROWS}", f"ends:{ROWS // 2}", f"ends:{ROWS // 2 - 1}+sample:1"]),
    st.builds("every:{}".format, COUNT),
    st.builds("ends:{}".format, COUNT),
    st.builds("sample:{}".format, COUNT),
    st.builds("ends:{}+sample:{}".format, COUNT, COUNT),
)


@given(keep=WORDS, rows=st.integers(0, ROWS), run_id=st.integers(0, 2**32 - 1))
@settings(max_examples=80)
def test_kept_rows_are_those_of_a_table_of_a_run(
    captured: Any, tmp_path_factory: pytest.TempPathFactory, keep: str, rows: int, run_id: int
) -> None:
    path = tmp_path_factory.mktemp("kept") / "ticks.parquet"
    block = tick_block(captured[:, :rows], run_id, "1_0_1_1_1_0")
    with TableWriter(path, TICK_SCHEMA, TICK_COLUMNS, keep) as table:
        table.append_block(block)
        written = table.close()
    blob = kept_ticks(captured[:, :rows], run_id, "1_0_1_1_1_0", keep)
    expected = pq.read_table(path)
    path.unlink()
    if not written.kept:
        assert blob == b""
        return
    found = pq.read_table(BytesIO(blob))
    assert found.schema.remove_metadata().equals(expected.schema.remove_metadata())
    assert found.equals(expected.replace_schema_metadata(found.schema.metadata))


def test_kept_ticks_take_little_room(captured: Any) -> None:
    per_tick = len(kept_ticks(captured, 0, "1_0_1_1_1_0", "all")) / ROWS
    assert per_tick < 40
