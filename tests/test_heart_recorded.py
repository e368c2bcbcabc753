"""The replay of recorded heartbeats: made ones, real ones where they are, altered ones, and what is none."""

from __future__ import annotations

import argparse
import csv
import functools
import gzip
import io
import json
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twin.cli import InputError, validate
from twin.heart import recorded, ticks
from twin.heart import reference as law
from twin.heart.recorded import BITS, NEEDED, RecordingError, Settings, Verdict
from twin.pool.layout import UNIT_CELLS

MS = 1_000_000
RECORDINGS = Path(__file__).parents[2] / "shared" / "data" / "heartbeat"
REAL = {
    "default": Settings(),
    "noL5L6": Settings(cv_threshold=2.0),
    "noInfer": Settings(),
    "tick1ms": Settings(t0_ns=MS, inference_ticks=10),
}

Row = dict[str, int]


def simulated(count: int, config: str = "1_1_1_1_1_1", settings: Settings | None = None) -> list[Row]:
    """What a recorder beside the reference law writes, `count` ticks of a program whose load comes and goes."""
    settings = settings or Settings(t0_ns=MS, inference_ticks=10)
    words = 16
    made = law.ReferenceLaw(
        np.zeros(words * UNIT_CELLS, dtype=np.int64),
        np.arange(words, dtype=np.int64) * UNIT_CELLS,
        t0_ns=settings.t0_ns,
        keys=(5, 6),
        inference_ticks=settings.inference_ticks,
        config=config,
        thresholds=law.Thresholds(
            settings.entropy_threshold,
            settings.temporal_threshold,
            settings.low_temporal_threshold,
            settings.cv_threshold,
        ),
    )
    captured = np.zeros((ticks.COLUMNS, 1), dtype=np.int64)
    rows = []
    for number in range(count):
        made.state[ticks.S_RATE] = (0, 200_000, 5_000)[number // 40 % 3] * MS // settings.t0_ns
        assert made.run(np.array([70_000], dtype=np.int64), 1 << 62, captured, 0) == 1
        mode = int(made.state[law.S_MODE])
        rows.append({
            "tick_number": int(made.state[ticks.S_TICK]),
            "elapsed_ns": int(captured[ticks.C_ELAPSED, 0]),
            "jitter_ns": -10_000,
            "word_executions_delta": int(captured[ticks.C_WORDS, 0]),
            "prefetch_hits_delta": int(captured[ticks.C_PREFETCH_HITS, 0]),
            "tick_target_ns": int(made.state[ticks.S_INTERVAL]),
            "decay_slope_q48": int(made.state[law.S_SLOPE]),
            "window_width": int(made.state[law.S_WINDOW]),
            "l8_mode": mode,
            **{name: int(mode & bit != 0) for name, bit in BITS.items()},
            "inference_runs": int(made.state[law.S_INFERENCES]),
            "early_exits": int(made.state[law.S_EARLY]),
            "window_variance_q48": int(made.state[law.S_VARIANCE]) % (1 << 64),
        })  # fmt: skip
    return rows


@functools.cache
def sample() -> tuple[tuple[tuple[str, int], ...], ...]:
    return tuple(tuple(row.items()) for row in simulated(500))


def rows() -> list[Row]:
    """A fresh copy of a made recording with inferences of both kinds and several modes."""
    return [dict(row) for row in sample()]


@functools.cache
def quiet() -> tuple[tuple[tuple[str, int], ...], ...]:
    return tuple(tuple(row.items()) for row in simulated(500, "1_1_1_0_1_1"))


def rows_without_hits() -> list[Row]:
    """A fresh copy of one in which nothing was speculated, so that every mode follows from its columns."""
    return [dict(row) for row in quiet()]


def table(made: list[Row]) -> list[list[str]]:
    return [list(made[0]), *([str(value) for value in row.values()] for row in made)]


def judged(made: list[Row], settings: Settings | None = None) -> Verdict:
    return recorded.judge(recorded.read_rows(table(made)), settings or Settings(t0_ns=MS, inference_ticks=10))


def set_mode(row: Row, mode: int) -> None:
    """A mode with the bits that belong to it."""
    row["l8_mode"] = mode
    row.update({name: int(mode & bit != 0) for name, bit in BITS.items()})


def text(made: list[Row]) -> str:
    out = io.StringIO()
    csv.writer(out).writerows(table(made))
    return out.getvalue()


def command(path: Path, as_json: bool = True, machine: str = "heartbeat", **options) -> tuple[int, str]:
    """Exit status and standard output."""
    asked = {"t0_ns": MS, "inference_ticks": 10, "cv_threshold": 0.15, "temporal_threshold": 0.5, **options}
    out = io.StringIO()
    with redirect_stdout(out):
        status = validate.main(argparse.Namespace(machine=machine, trace=str(path), json=as_json, **asked))
    return status, out.getvalue()


# --- made recordings --------------------------------------------------------------------------------------------------


def test_what_the_law_does_is_what_the_law_says() -> None:
    made = rows()
    kept = [row for row in made if row["elapsed_ns"] >= 20 * MS]
    verdict = judged(made)
    assert verdict == Verdict(
        l7_transitions=kept[-1]["inference_runs"] - kept[0]["inference_runs"], l8_ticks=len(kept) - 1
    )
    # Something of everything was there to be judged.
    assert verdict.l7_transitions > kept[-1]["early_exits"] > 20
    assert {row["l8_mode"] for row in kept} == {7, 15}
    assert sum(row["prefetch_hits_delta"] for row in made) > 100


@pytest.mark.parametrize("config", ["1_0_1_1_1_0", "1_1_1_0_0_1", "0_0_0_1_1_1", "1_1_1_1_0_0"])
@pytest.mark.parametrize(
    "settings",
    [
        Settings(t0_ns=250_000, inference_ticks=3),
        Settings(t0_ns=MS, inference_ticks=25, cv_threshold=2.0),
        Settings(t0_ns=MS, inference_ticks=1, cv_threshold=0.7, temporal_threshold=1.5),
        Settings(t0_ns=777_777, inference_ticks=40, cv_threshold=-5.0, temporal_threshold=0.0),
    ],
)
def test_other_machines_replay_too(config, settings) -> None:
    made = simulated(300, config, settings)
    verdict = judged(made, settings)
    assert (verdict.l7_mismatches, verdict.l8_mismatches) == (0, 0), verdict.mismatches
    assert verdict.l7_transitions > 0
    assert verdict.l8_ticks > 100


kept_from = next(i for i, row in enumerate(rows()) if row["elapsed_ns"] >= 20 * MS)
anywhere = st.integers(kept_from + 6, len(rows()) - 1)


@given(anywhere, st.integers(1, 10**7))
def test_one_altered_target_is_a_mismatch(at, target) -> None:
    made = rows()
    if made[at]["tick_target_ns"] == target:
        target += 1
    made[at]["tick_target_ns"] = target
    verdict = judged(made)
    assert 1 <= verdict.l7_mismatches <= 2
    assert verdict.l8_mismatches == 0
    assert verdict.mismatches[0].column == "tick_target_ns"
    assert verdict.mismatches[0].line == at + 2
    assert verdict.mismatches[0].recorded == target


@given(anywhere, st.integers(1, 15), st.booleans())
def test_one_altered_mode_is_a_mismatch(at, change, with_bits) -> None:
    made = rows_without_hits()
    mode = made[at]["l8_mode"] ^ change
    if with_bits:
        set_mode(made[at], mode)
    else:
        made[at]["l8_mode"] = mode
    verdict = judged(made)
    assert 1 <= verdict.l8_mismatches <= 6
    assert verdict.l7_mismatches == 0
    first = verdict.mismatches[0]
    assert (first.line, first.column, first.recorded) == (at + 2, "l8_mode", mode)


@given(anywhere, st.sampled_from(sorted(BITS)))
def test_one_altered_bit_is_a_mismatch(at, column) -> None:
    made = rows()
    made[at][column] ^= 1
    verdict = judged(made)
    assert (verdict.l7_mismatches, verdict.l8_mismatches) == (0, 1)
    assert verdict.mismatches[0].column == column


@given(anywhere, st.sampled_from(["inference_runs", "early_exits"]), st.sampled_from([-1, 1, 1_000]))
def test_one_altered_counter_is_a_mismatch(at, column, by) -> None:
    made = rows()
    made[at][column] = abs(made[at][column] + by)
    assert made[at] != rows()[at]
    assert judged(made).l7_mismatches >= 1


@pytest.mark.parametrize(
    ("settings", "l7", "l8"),
    [
        (Settings(t0_ns=2 * MS, inference_ticks=10), True, False),
        (Settings(t0_ns=MS, inference_ticks=11), True, False),
        (Settings(t0_ns=MS, inference_ticks=9), True, False),
        (Settings(t0_ns=MS, inference_ticks=10, cv_threshold=2.0), False, True),
        (Settings(t0_ns=MS, inference_ticks=10, temporal_threshold=1.1), False, True),
    ],
)
def test_a_machine_built_otherwise_does_not_replay(settings, l7, l8) -> None:
    verdict = judged(rows(), settings)
    assert (verdict.l7_mismatches > 0, verdict.l8_mismatches > 0) == (l7, l8)


def simple(count: int, **constant: int) -> list[Row]:
    """Ticks in which nothing changes: mode 15 of a machine that never infers."""
    row = {
        "elapsed_ns": 0, "prefetch_hits_delta": 0, "tick_target_ns": 10_000, "decay_slope_q48": 21_845,
        "window_width": 4_096, "l8_mode": 15, "inference_runs": 0, "early_exits": 0, **constant,
    }  # fmt: skip
    return [{"tick_number": i + 1, **row, "elapsed_ns": 20 * MS + i} for i in range(count)]


def judged_simple(made: list[Row]) -> tuple[int, int, int, int]:
    verdict = judged(made, Settings())
    return verdict.l7_transitions, verdict.l7_mismatches, verdict.l8_ticks, verdict.l8_mismatches


def test_the_fifth_proposal_in_a_row_commits_and_no_other() -> None:
    for at, wrong in [(9, 0), (8, 1), (10, 1)]:
        made = simple(20)
        for row in made[5:]:
            row["window_width"] = 256  # proposes 7 from the sixth row on: the tenth commits it
        for row in made[at:]:
            row["l8_mode"] = 7
        assert judged_simple(made)[2:] == (19, wrong), at


def test_a_differing_proposal_restarts_the_count() -> None:
    made = simple(20)
    for i, row in enumerate(made):
        row["window_width"] = 4_096 if i < 5 or i == 8 else 256
        row["l8_mode"] = 7 if i >= 13 else 15
    assert judged_simple(made) == (0, 0, 19, 0)


def test_a_first_row_and_one_after_a_gap_are_taken_as_they_are() -> None:
    made = simple(20)
    for row in made[8:]:
        row["tick_number"] += 3
        row["l8_mode"] = 7
        row["window_width"] = 256
    assert judged_simple(made) == (0, 0, 18, 0)


def test_inferences_in_a_gap_are_judged_when_their_order_does_not_matter() -> None:
    def made(inferences: int, early: int, target: int) -> list[Row]:
        recording = simple(6, tick_target_ns=10_000)
        for row in recording[3:]:
            row["tick_number"] += 4
            row["inference_runs"], row["early_exits"] = inferences, early
            row["tick_target_ns"] = target
        return recording[:4]

    assert judged_simple(made(2, 2, 15_625))[:2] == (2, 0)
    assert judged_simple(made(2, 2, 12_500))[:2] == (2, 1)
    assert judged_simple(made(2, 0, 6_400))[:2] == (2, 0)
    assert judged_simple(made(0, 0, 10_000))[:2] == (0, 0)
    assert judged_simple(made(0, 0, 10_001))[:2] == (0, 1)
    # One early and one full, in whichever order: not judged.
    assert judged_simple(made(2, 1, 1))[:2] == (0, 0)
    # Five ticks cannot hold six inferences.
    assert judged_simple(made(6, 6, 30_512))[:2] == (0, 1)


def test_hits_before_a_recording_that_starts_late_are_not_known() -> None:
    # With cv below 0.15 modes have no bits 2 and 1. From the first tick on it is known that there were no hits.
    made = simple(10, l8_mode=12)
    assert judged_simple(made)[3] > 0
    for row in made:
        row["tick_number"] += 100
    assert judged_simple(made)[3] == 0
    # Hits in the start-up count, too.
    made = simple(10, l8_mode=12)
    made[0]["elapsed_ns"] = 5
    made[0]["prefetch_hits_delta"] = 3
    assert judged_simple(made)[3] == 0


def test_rows_of_the_start_up_are_dropped() -> None:
    made = simple(10)
    for row in made[:4]:
        row["elapsed_ns"] = 20 * MS - 1
        row["tick_target_ns"] = 987_654
        row["l8_mode"] = 3
    assert judged_simple(made) == (0, 0, 5, 0)


def test_mismatches_are_kept_up_to_ten_and_all_are_counted() -> None:
    made = simple(60)
    for row in made[::2]:
        row["tick_target_ns"] = 9_999
    verdict = judged(made, Settings())
    assert verdict.l7_mismatches == 59
    assert len(verdict.mismatches) == 10
    first = verdict.mismatches[0]
    assert (first.loop, first.line, first.tick_number, first.recorded, first.expected) == ("L7", 3, 2, 10_000, "9999")


# --- real recordings --------------------------------------------------------------------------------------------------

needs_recordings = pytest.mark.skipif(
    not RECORDINGS.is_dir(), reason="the recordings are not beside the repository, in ../shared/data/heartbeat"
)


@functools.cache
def real(name: str) -> tuple[recorded.Row, ...]:
    with gzip.open(RECORDINGS / f"ticks_{name}.csv.gz", "rt", newline="") as file:
        return tuple(recorded.read_rows(csv.reader(file)))


@needs_recordings
@pytest.mark.parametrize("name", sorted(REAL))
def test_recorded_machines_replay_without_a_mismatch(name) -> None:
    verdict = recorded.judge(real(name), REAL[name])
    assert (verdict.l7_mismatches, verdict.l8_mismatches) == (0, 0), verdict.mismatches
    assert verdict.l8_ticks > 900
    assert (verdict.l7_transitions > 400) == (name != "noInfer")


@needs_recordings
@pytest.mark.parametrize("name", sorted(REAL))
@pytest.mark.parametrize(("column", "loop"), [("tick_target_ns", "L7"), ("l8_mode", "L8")])
def test_one_altered_value_in_a_recording_is_a_mismatch(name, column, loop) -> None:
    rng = np.random.default_rng(7)
    count = len(real(name))
    for at in rng.integers(count * 3 // 10, count, 3):
        made = list(real(name)[at - 200 : at + 200])
        values = {**made[200].values, column: made[200][column] ^ 1}
        if loop == "L8":
            values["L6"] ^= 1
        made[200] = recorded.Row(made[200].line, values)
        verdict = recorded.judge(made, REAL[name])
        assert verdict.mismatches
        assert {wrong.loop for wrong in verdict.mismatches} == {loop}
        assert made[200].line <= verdict.mismatches[0].line <= made[200].line + 1


@needs_recordings
def test_recorded_machines_do_not_replay_as_each_other() -> None:
    assert recorded.judge(real("noL5L6"), REAL["default"]).l8_mismatches > 1_000
    assert recorded.judge(real("default"), REAL["noL5L6"]).l8_mismatches > 1_000
    assert recorded.judge(real("tick1ms"), REAL["default"]).l7_mismatches > 100


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ticks.csv", "ticks.csv.gz"])
def test_the_command_prints_one_object_and_says_no_when_there_are_mismatches(tmp_path, name) -> None:
    path = tmp_path / name
    write: Callable[[bytes], bytes] = gzip.compress if name.endswith("gz") else bytes
    path.write_bytes(write(text(rows()).encode()))
    status, out = command(path)
    said = json.loads(out)
    assert status == 0
    assert said["l7_mismatches"] == said["l8_mismatches"] == 0
    assert said["l7_transitions"] > 40
    assert said["l8_ticks"] > 400
    status, out = command(path, cv_threshold=2.0)
    assert status == 1
    wrong = json.loads(out)["mismatches"][0]
    assert set(wrong) == {"loop", "line", "tick_number", "column", "recorded", "expected"}


def test_the_command_shows_a_table_and_the_first_mismatches(tmp_path) -> None:
    made = rows()
    made[300]["tick_target_ns"] = 123_457
    path = tmp_path / "ticks.csv"
    path.write_text("\N{ZERO WIDTH NO-BREAK SPACE}" + text(made), "utf-8")
    status, out = command(path, as_json=False)
    assert status == 1
    for part in ("L7 interval", "L8 mode", "First mismatches", "302", "tick_target_ns", "123457"):
        assert part in out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"t0_ns": 0}, "--t0-ns is 0; allowed are whole numbers from 1"),
        ({"t0_ns": 1 << 63}, "--t0-ns"),
        ({"inference_ticks": -1}, "--inference-ticks is -1"),
        ({"cv_threshold": float("nan")}, "--cv-threshold is nan"),
        ({"temporal_threshold": float("inf")}, "--temporal-threshold is inf"),
    ],
)
def test_options_out_of_range_are_refused(tmp_path, options, said) -> None:
    path = tmp_path / "ticks.csv"
    path.write_text(text(rows()))
    with pytest.raises(InputError, match=said):
        command(path, **options)


def altered(at: int, column: str, value: str) -> list[list[str]]:
    """The table of ten ticks with one cell changed; `at` counts lines from 1."""
    made = table(simple(10))
    made[at - 1][made[0].index(column)] = value
    return made


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ([], "the file is empty; a header"),
        ([[]], "line 1: there is no column tick_number"),
        ([["a", "b"], ["1", "2"]], "line 1: there is no column tick_number; needed are tick_number, elapsed_ns"),
        ([list(NEEDED)], "line 2: there is no tick"),
        (altered(1, "l8_mode", "mode"), "line 1: there is no column l8_mode"),
        (
            altered(4, "tick_target_ns", "fast"),
            "line 4, column tick_target_ns: 'fast'; allowed are whole numbers from 0",
        ),
        (altered(4, "tick_target_ns", ""), "line 4, column tick_target_ns: ''"),
        (altered(4, "tick_target_ns", "1e4"), "line 4, column tick_target_ns: '1e4'"),
        (altered(4, "tick_target_ns", "-5"), "line 4, column tick_target_ns: '-5'; allowed are whole numbers from 0"),
        (altered(4, "tick_target_ns", "nan"), "'nan'"),
        (altered(4, "tick_target_ns", "\N{ARABIC-INDIC DIGIT FOUR}"), "column tick_target_ns"),
        (
            altered(4, "tick_target_ns", str(1 << 63)),
            f"'{1 << 63}'; allowed are whole numbers from 0 to {(1 << 63) - 1}",
        ),
        (altered(4, "decay_slope_q48", "9" * 10_000), "line 4, column decay_slope_q48: '9999"),
        (altered(4, "l8_mode", "16"), "line 4, column l8_mode: '16'; allowed are whole numbers from 0 to 15"),
        (altered(4, "tick_number", "2"), "line 4, column tick_number: 2 after 2; allowed are growing numbers"),
        (altered(4, "tick_number", "1"), "line 4, column tick_number: 1 after 2"),
        (altered(4, "elapsed_ns", "5"), "line 4, column elapsed_ns: 5 after 20000001; time does not go back"),
        ([*table(simple(3)), ["1", "2"]], "line 5: 2 columns; the header has 9"),
        (table([{**row, "elapsed_ns": 3} for row in simple(4)]), "no row has elapsed_ns of 20000000 or more"),
    ],
)
def test_what_is_no_recording_is_refused_with_line_and_column(made, said) -> None:
    with pytest.raises(RecordingError) as refused:
        recorded.judge(recorded.read_rows(made), Settings())
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("ticks.csv", b"", "the file is empty"),
        ("ticks.csv.gz", b"", "not a gzip file, as its name says"),
        ("ticks.csv.gz", b"tick_number,elapsed_ns\n", "not a gzip file"),
        ("ticks.csv.gz", gzip.compress(text(simple(500)).encode())[:-20], "the gzip file is damaged"),
        ("ticks.csv.gz", b"\x1f\x8b" + bytes(40), "the gzip file is damaged"),
        ("ticks.csv", b"\xff\xfe\x00", "not a text"),
        ("ticks.csv", b'"' + b"x" * 200_000, "not a CSV file"),
        ("ticks.csv", b"\x00\x01\x02", "there is no column tick_number"),
        ("missing.csv", None, "there is no such file"),
        (".", None, "there is no such file"),
    ],
)
def test_what_is_no_file_of_ticks_is_refused(tmp_path, name, content, said) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError) as refused:
        command(path)
    assert said in str(refused.value)
    assert str(path) in str(refused.value)


@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_are_a_recording_or_refused(tmp_path_factory, content, compressed) -> None:
    path = tmp_path_factory.mktemp("any") / "ticks.csv"
    path.write_bytes(gzip.compress(content) if compressed else content)
    with pytest.raises(InputError):
        command(path)
