"""`twin calibrate` around the fit: options, the file it writes, its report; and the lateness of recorded heartbeats."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from calibration import BLOWN, BOARD, HEARTBEATS, recorded, rows_of, write_csv
from commands import BRIEF, answer, command, refused, unchanged
from hypothesis import given
from hypothesis import strategies as st

from twin.calibrate.calibrated import Calibrated
from twin.calibrate.lateness import fit_lateness, lateness_toml
from twin.calibrate.recording import Recording, RecordingError
from twin.cli import calibrate
from twin.clock import ModelledLateness
from twin.loader import load
from twin.machines import load_machine
from twin.scenario import Heartbeat, Machine


@dataclass(frozen=True)
class Found:
    name: str
    unit: str
    value: float
    low: float
    high: float
    recording: str = ""
    unknown: str = ""


PARAMETERS = (
    Found("node1_seconds", "s", 15.0, 14.0, 16.0),
    Found("leakage_per_kelvin", "1/K", 0.012, 0.0, float("inf"), unknown="the temperature hardly changed"),
    Found("ambient", "C", 22.0, 21.5, 22.5, recording="made"),
    Found("ambient", "C", 25.0, 24.5, 25.5, recording="warm"),
)


def made(machine: Machine = BOARD) -> Calibrated:
    """What a fit that finds everything finds."""
    return Calibrated(machine, "load", 0.0, PARAMETERS, (("idle_watts", "ambient"),))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with recordings, and a fit that always finds the machine they were made with."""

    def fit(recordings: Sequence[Recording], kind: str, holdout: float) -> Calibrated:
        assert kind == "board"
        assert recordings[0].loads is not None
        return made()

    monkeypatch.setattr(calibrate, "fitter", lambda: fit)
    monkeypatch.chdir(tmp_path)
    write_csv(tmp_path / "made.csv", rows_of(recorded(BOARD)))
    write_csv(tmp_path / "warm.csv", rows_of(recorded(replace(BOARD, ambient_celsius=25.0), seed=2)), ";", True)
    return tmp_path


def test_the_file_and_the_report(place: Path) -> None:
    said = answer("calibrate", "made.csv", "warm.csv", "--kind", "board", "--out", "pi.toml", "--licence", "CC0",
                  "--source", "a shelf", "--map", "cpu_load=cpu_load:%", "--plot", "plot.svg")  # fmt: skip
    file = load_machine("pi.toml").file
    assert file.machine == replace(BOARD, name="pi")
    origin = file.origin
    assert (origin.source, origin.licence, origin.kind, origin.driven) == ("a shelf", "CC0", "board", "load")
    assert origin.command == ("twin calibrate made.csv warm.csv --kind board --map cpu_load=cpu_load:% "
                              "--source 'a shelf' --licence CC0 --out pi.toml")  # fmt: skip
    assert origin.unseen is not None
    # The last 40 % of both, each in its own room.
    assert origin.unseen.samples == 720
    assert origin.unseen.rmse_celsius < 0.1
    assert origin.unseen.independent_samples > 100
    assert origin.parameters[1].high is None
    assert said["unidentified"] == [
        {"name": "leakage_per_kelvin", "recording": "", "why": "the temperature hardly changed"}
    ]
    assert said["together"] == [["idle_watts", "ambient"]]
    assert [each["name"] for each in said["recordings"]] == ["made", "warm"]
    assert (place / "plot.svg").stat().st_size > 10_000
    # What it wrote can be run, judged, and written again.
    answer("run", "gaming", *BRIEF, "--machine", "pi.toml", "--out", "run")
    assert answer("validate", "pi.toml", "made.csv")["matches"] is True
    before = (place / "pi.toml").read_bytes()
    answer("calibrate", "made.csv", "warm.csv", "--kind", "board", "--out", "pi.toml", "--licence", "CC0",
           "--source", "a shelf", "--map", "cpu_load=cpu_load:%")  # fmt: skip
    assert (place / "pi.toml").read_bytes() == before


def test_without_out_the_file_is_printed(place: Path) -> None:
    said = command("calibrate", "made.csv", "--kind", "board")
    assert said.status == 0
    (place / "printed.toml").write_text(said.out)
    file = load_machine("printed.toml").file
    assert file.machine.name == "board"
    assert file.origin.licence == "not stated"
    assert answer("calibrate", "made.csv", "--kind", "board", "--holdout", "0")["unseen"] is None


def test_the_table(place: Path) -> None:
    said = command("calibrate", "made.csv", "--kind", "board", "--out", "pi.toml")
    assert said.status == 0
    for part in ("node1_seconds", "14 to 16", "the temperature hardly changed", "the last 40%", "Told only together"):
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


def test_a_fan_is_read(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Recording] = []

    def fit(recordings: Sequence[Recording], kind: str, holdout: float) -> Calibrated:
        seen.extend(recordings)
        return made(BLOWN)

    monkeypatch.setattr(calibrate, "fitter", lambda: fit)
    write_csv(place / "blown.csv", rows_of(recorded(BLOWN)))
    said = answer("calibrate", "blown.csv", "--kind", "board")
    assert seen[0].fan_rpm is not None
    assert said["unseen"]["rmse_celsius"] < 0.1


def test_one_file_with_several_recordings(place: Path) -> None:
    one, two = rows_of(recorded(BOARD)), rows_of(recorded(BOARD, seed=2))
    both = {name: [*one[name], *two[name]] for name in one} | {"part": ["a"] * 900 + ["b"] * 900}
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
        (lambda rows: [["0", *row[1:]] for row in rows], "too short: 0 ticks are left after the first 20 ms"),
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
