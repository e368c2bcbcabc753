"""`twin calibrate` around the fit: options, the file it writes, its report; and the lateness of recorded heartbeats."""

from __future__ import annotations

import csv
import gzip
import os
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from calibration import BLOWN, BOARD, HEARTBEATS, recorded, rows_of, write_csv
from commands import BRIEF, answer, command, refused, unchanged
from hypothesis import given
from hypothesis import strategies as st

from twin.calibrate.calibrated import calibrate
from twin.calibrate.lateness import fit_lateness, lateness_toml
from twin.calibrate.recording import RecordingError
from twin.clock import ModelledLateness
from twin.kernels import MODE
from twin.loader import load
from twin.machines import load_machine
from twin.record.files import RecordError, write_atomic
from twin.scenario import Heartbeat

fitting = pytest.mark.skipif(MODE != "numba", reason="interpreted kernels fit some hundred times slower")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with recordings of a board, and one file that was fitted to two of them."""
    folder = tmp_path_factory.mktemp("calibrate")
    write_csv(folder / "made.csv", rows_of(recorded(BOARD)))
    write_csv(folder / "warm.csv", rows_of(recorded(replace(BOARD, ambient_celsius=25.0), seed=2)), ";", True)
    write_csv(folder / "brief.csv", rows_of(recorded(BOARD, count=300)))
    return folder


@pytest.fixture
def place(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    return folder


WORDS = ("calibrate", "made.csv", "warm.csv", "--kind", "board", "--out", "pi.toml", "--licence", "CC0", "--source",
         "a shelf", "--map", "cpu_load=cpu_load:%")  # fmt: skip


@fitting
def test_fitted_written_run_and_judged(place: Path) -> None:
    said = answer(*WORDS, "--plot", "plot.svg")
    file = load_machine("pi.toml").file
    assert file.machine.name == "pi"
    origin = file.origin
    assert (origin.source, origin.licence, origin.kind, origin.driven) == ("a shelf", "CC0", "board", "load")
    assert origin.command == ("twin calibrate made.csv warm.csv --kind board --map cpu_load=cpu_load:% "
                              "--source 'a shelf' --licence CC0 --out pi.toml")  # fmt: skip
    assert origin.unseen is not None
    # The last 40 % of both, each in its own room.
    assert origin.unseen.samples == 720
    assert origin.unseen.rmse_celsius < 0.4
    assert origin.unseen.independent_samples > 10
    rooms = {each.recording: each.value for each in origin.parameters if each.name == "ambient"}
    assert rooms["warm"] - rooms["made"] == pytest.approx(3.0, abs=0.8)
    # What the data do not tell is said here as in the file.
    assert said["unidentified"] == [
        {"name": each.name, "recording": each.recording, "why": each.unknown}
        for each in origin.parameters
        if each.unknown
    ]
    assert "leakage_per_kelvin" in {each["name"] for each in said["unidentified"]}
    assert [each["name"] for each in said["recordings"]] == ["made", "warm"]
    assert "1 node" in said["foretold_celsius"]
    assert (place / "plot.svg").stat().st_size > 10_000
    answer("run", "gaming", *BRIEF, "--machine", "pi.toml", "--out", "run")
    judged = answer("validate", "pi.toml", "made.csv", "--ambient", "free", "--from-percent", "60")
    assert judged["matches"] is True
    assert judged["rmse_celsius"] < 0.4
    before = (place / "pi.toml").read_bytes()
    answer(*WORDS)
    assert (place / "pi.toml").read_bytes() == before


@fitting
def test_without_out_the_file_is_printed(place: Path) -> None:
    said = command("calibrate", "brief.csv", "--kind", "board", "--holdout", "0")
    assert said.status == 0
    (place / "printed.toml").write_text(said.out)
    file = load_machine("printed.toml").file
    assert file.machine.name == "board"
    assert file.origin.licence == "not stated"
    assert file.origin.unseen is None


@fitting
def test_the_table(place: Path) -> None:
    said = command("calibrate", "brief.csv", "--kind", "board", "--out", "brief.toml")
    assert said.status == 0
    for part in ("node1_seconds", "not told by the data", "the last 40%", "Written to brief.toml"):
        assert part in said.out


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ([], ["a TRACE is needed", "--kind is needed: cpu, gpu, board or laptop"]),
        (["made.csv"], ["--kind is needed"]),
        (["made.csv", "--kind", "toaster"], ["invalid choice: 'toaster'"]),
        (["made.csv", "--kind", "board", "--holdout", "1"], ["--holdout 1: allowed are shares from 0 to 0.9"]),
        (["made.csv", "--kind", "board", "--out", "made.csv"], ["is one of the recordings"]),
        (["made.csv", "--kind", "board", "--out", "nowhere/x.toml"], ["there is no folder nowhere"]),
        (["nowhere.csv", "--kind", "board"], ["nowhere.csv: cannot be read"]),
        (["made.csv", "--kind", "gpu"], ["missing is the gpu's temperature"]),
        (["still.csv", "--kind", "board"], ["still: the load is 50 % throughout, so that resistances, time constants"]),
        (["heartbeat"], ["takes one recording"]),
        (["heartbeat", "nowhere.csv"], ["nowhere.csv: cannot be read"]),
        (["heartbeat", "made.csv"], ["missing is elapsed_ns, tick_interval_ns, tick_target_ns", "found are t_s"]),
    ],
)  # fmt: skip
def test_bad_input(place: Path, arguments: list[str], parts: list[str]) -> None:
    rows = rows_of(recorded(BOARD, count=60))
    write_csv(place / "still.csv", rows | {"cpu_load": ["50"] * 60})
    with unchanged(place):
        refused(2, parts, command("calibrate", *arguments))


@fitting
def test_a_fan_is_fitted(place: Path) -> None:
    write_csv(place / "blown.csv", rows_of(recorded(BLOWN)))
    said = answer("calibrate", "blown.csv", "--kind", "board", "--out", "blown.toml")
    assert {"fan_conductance", "fan_exponent"} <= {each["name"] for each in said["parameters"]}
    assert said["unseen"]["rmse_celsius"] < 0.4
    assert load_machine("blown.toml").file.machine.fans[0].max_rpm == max(
        int(value) for value in rows_of(recorded(BLOWN))["fan_rpm"]
    )


@fitting
def test_one_file_with_several_recordings(place: Path) -> None:
    one, two = rows_of(recorded(BOARD, count=200)), rows_of(recorded(BOARD, count=200, seed=2))
    both = {name: [*one[name], *two[name]] for name in one} | {"part": ["a"] * 200 + ["b"] * 200}
    write_csv(place / "both.csv", both)
    refused(2, ["--split part"], command("calibrate", "both.csv", "--kind", "board"))
    said = answer("calibrate", "both.csv", "--kind", "board", "--split", "part")
    assert [each["name"] for each in said["recordings"]] == ["both part=a", "both part=b"]
    refused(2, ["no column 'x' to split by"], command("calibrate", "both.csv", "--kind", "board", "--split", "x"))


# --- lateness ---------------------------------------------------------------------------------------------------------


def ticks(late: Sequence[int], target: int = 1_000_000) -> list[list[str]]:
    rows, elapsed = [], 20_000_000
    for each in late:
        elapsed += target + each
        rows.append([str(elapsed), str(target + each), str(target)])
    return rows


HEADER = ("elapsed_ns", "tick_interval_ns", "tick_target_ns")


@given(st.integers(0, 2**32), st.integers(1_000, 3_000))
def test_the_lateness_that_is_drawn_is_the_lateness_that_is_found(seed: int, count: int) -> None:
    model = ModelledLateness(Heartbeat().lateness_quantiles_ns, seed)
    drawn = model.heart(0, count)
    rows = ticks(drawn.tolist())
    fit = fit_lateness(HEADER, rows, range(2, len(rows) + 2), "made")
    assert fit.ticks == count - 1
    assert all(low <= value <= high for low, value, high in zip(fit.low_ns, fit.quantiles_ns, fit.high_ns, strict=True))
    # The middle of the distribution is known well; its ends are what happened to be seen.
    for place in range(3, 7):
        assert abs(fit.quantiles_ns[place] / Heartbeat().lateness_quantiles_ns[place] - 1.0) < 0.05
    assert fit.quantiles_ns[0] >= Heartbeat().lateness_quantiles_ns[0]


def test_the_section_is_one_of_a_scenario(tmp_path: Path) -> None:
    rows = ticks([5_000 + place * 10 for place in range(200)])
    fit = fit_lateness(HEADER, rows, range(2, 202), "made")
    (tmp_path / "mine.toml").write_text(lateness_toml(fit))
    assert load(str(tmp_path / "mine.toml")).heartbeat.lateness_quantiles_ns == fit.quantiles_ns


def test_early_and_very_late_ticks() -> None:
    late = [-50, *range(0, 20_000, 100), 2_000_000_000]
    rows = [["20000000", "1000000", "1000000"], *ticks(late)]
    fit = fit_lateness(HEADER, rows, range(2, len(rows) + 2), "made")
    assert (fit.early, fit.cut, fit.quantiles_ns[0], fit.quantiles_ns[-1]) == (1, 1, 0, 10**9)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda rows: rows[:50], "too short: 49 ticks"),
        (lambda rows: [["0", *row[1:]] for row in rows], "too short: 0 ticks are left, without those of the"),
        (lambda rows: [*rows[:9], ["x", *rows[9][1:]], *rows[10:]], "line 11, column elapsed_ns: 'x' is no whole"),
        (lambda rows: [*rows[:9], ["-1", *rows[9][1:]], *rows[10:]], "'-1' is no whole number"),
        (lambda rows: rows[::-1], "so time goes back"),
    ],
)  # fmt: skip
def test_ticks_that_are_none(change, part: str) -> None:  # type: ignore[no-untyped-def]
    rows = change(ticks(list(range(200))))
    with pytest.raises(RecordingError) as caught:
        fit_lateness(HEADER, rows, range(2, len(rows) + 2), "made")
    assert part in str(caught.value)


@pytest.mark.skipif(not HEARTBEATS.is_dir(), reason="the recordings are not beside the repository, in ../shared/data")
def test_recorded_heartbeats(tmp_path: Path) -> None:
    said = answer("calibrate", "heartbeat", HEARTBEATS / "ticks_tick1ms.csv.gz")
    # The defaults of a scenario are those of this recording.
    assert tuple(said["quantiles_ns"]) == Heartbeat().lateness_quantiles_ns
    assert said["ticks"] == 973
    for name in ("default", "noInfer", "noL5L6"):
        path = HEARTBEATS / f"ticks_{name}.csv.gz"
        said = answer("calibrate", "--lateness", path, "--out", tmp_path / "late.toml")
        assert said["quantiles_ns"] == sorted(said["quantiles_ns"])
        assert 70_000 < said["quantiles_ns"][5] < 80_000
        quantiles = load(str(tmp_path / "late.toml")).heartbeat.lateness_quantiles_ns
        assert list(quantiles) == said["quantiles_ns"]
        # Drawn again, the middle half is where it was recorded.
        with gzip.open(path, "rt", newline="") as file:
            rows = [row for row in csv.DictReader(file) if int(row["elapsed_ns"]) >= 20_000_000]
        late = np.array([int(b["tick_interval_ns"]) - int(a["tick_target_ns"]) for a, b in pairwise(rows)])
        drawn = ModelledLateness(quantiles, 7).heart(0, 20_000)
        assert np.quantile(drawn, [0.25, 0.5, 0.75]) == pytest.approx(np.quantile(late, [0.25, 0.5, 0.75]), rel=0.01)


# --- what is written, and where ---------------------------------------------------------------------------------------


def test_neither_a_recording_nor_a_device_is_written_over(tmp_path: Path) -> None:
    recording = tmp_path / "record.csv"
    write_csv(recording, rows_of(recorded(BOARD, count=300)))
    before = recording.read_bytes()
    (tmp_path / "other").symlink_to(tmp_path)
    (tmp_path / "pipe").touch()
    (tmp_path / "pipe").unlink()
    os.mkfifo(tmp_path / "pipe")
    for out, part in (
        (tmp_path / "other" / "record.csv", "is one of the recordings"),
        (tmp_path / "pipe", "is there, and no file"),
        (tmp_path / "nowhere" / "m.toml", "there is no folder"),
    ):
        for option in ("--out", "--plot"):
            said = command("calibrate", recording, "--kind", "board", option, out)
            assert said.status == 2
            assert f"{option} {out}: {part}" in said.err
    assert recording.read_bytes() == before
    with pytest.raises(RecordError, match="is a device or a pipe"):
        write_atomic(Path("/dev/null"), b"")
    assert not Path("/dev/null").is_file()


def test_the_lateness_of_a_run_is_fitted_from_its_directory_and_from_its_export(tmp_path: Path) -> None:
    run = tmp_path / "run"
    late = "heartbeat.lateness_quantiles_ns=[0,0,0,0,0,1000,2000,5000,9000,20000,90000]"
    answer("run", "idle", "--duration", "1", "--set", late, "--out", run)
    answer("export", run, "--out", tmp_path / "tables")
    found = answer("calibrate", "heartbeat", run)
    assert found["quantiles_ns"][-1] > 0
    assert answer("calibrate", "heartbeat", tmp_path / "tables" / "ticks.csv") == found


@fitting
def test_watts_that_nobody_recorded_are_said_to_be_assumed_and_no_watts_are_refused() -> None:
    measured = recorded(BOARD, count=600)
    found = calibrate([measured], "board", most_nodes=1)
    assert [each.name for each in found.unidentified if "assumed" in each.unknown] == ["full_watts"]
    recording = replace(measured.recording, powers_watts=np.zeros(len(measured.recording.times_seconds)))
    with pytest.raises(RecordingError, match="0 W throughout"):
        calibrate([replace(measured, recording=recording)], "board")
