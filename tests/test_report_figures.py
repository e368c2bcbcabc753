"""What figures of reports are computed from: components, spectra, courses; and the report of a run."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import BRIEF, command, refused
from report_samples import captured, made

from twin.heart import ticks as heart
from twin.record.memory import kept_ticks
from twin.record.tables import open_table
from twin.report import choice, courses, spread, tracks
from twin.report.page import PAGE, write_report
from twin.report.parts import digits, ordinal, short, signed
from twin.report.source import NUMBERS, Runs, read_experiment
from twin.report.style import mark


def runs_of(values: dict[str, Any], of: Any) -> Runs:
    count = len(of)
    unknown = np.full(count, np.nan)
    return Runs(
        np.arange(count), np.arange(count), np.full(count, 10), of,
        {name: values.get(name, unknown) for name in NUMBERS}, np.zeros((2, 7, 7)), Counter(),
    )  # fmt: skip


def test_components_of_a_line() -> None:
    """Two fields that are one but for their scale are one component, and its weights are alike and positive."""
    at = np.random.default_rng(3).normal(size=200)
    found = spread.components(runs_of({"jitter_score": -3.0 * at, "coupling_score": 100.0 - at}, np.zeros(200, int)))
    assert found is not None
    assert found.shares[0] == pytest.approx(1.0)
    assert found.weights[:, 0] == pytest.approx([0.5**0.5] * 2, abs=1e-6)
    assert found.coordinates[:, 0] == pytest.approx(-(at - at.mean()) / at.std() * 2**0.5, abs=1e-4)


def test_signs_of_components_are_fixed() -> None:
    chance = np.random.default_rng(4)
    values = {name: chance.normal(size=50) for name in ("jitter_score", "coupling_score", "energy_joules")}
    found = spread.components(runs_of(values, np.zeros(50, int)))
    assert found is not None
    for component in (0, 1):
        assert found.weights[np.argmax(np.abs(found.weights[:, component])), component] > 0


def test_unknown_fields_take_no_part() -> None:
    chance = np.random.default_rng(5)
    values = {name: chance.normal(size=50) for name in ("jitter_score", "coupling_score", "fps_mean")}
    values["fps_mean"][:20] = np.nan
    values["coupling_score"][:5] = np.nan
    found = spread.components(runs_of(values, np.zeros(50, int)))
    assert found is not None
    assert set(found.fields) == {"jitter_score", "coupling_score"}
    assert found.filled == (5, 100)
    assert spread.components(runs_of({"jitter_score": chance.normal(size=50)}, np.zeros(50, int))) is None


def test_fields_are_compared_within_configurations() -> None:
    """Two configurations that differ in both fields do not make the fields go together."""
    of = np.repeat([0, 1], 500)
    chance = np.random.default_rng(6)
    values = {
        "jitter_score": 50.0 * of + chance.normal(size=1_000),
        "energy_joules": 900.0 * of + chance.normal(size=1_000),
    }
    found = spread.field_correlations(runs_of(values, of), 2)
    assert found is not None
    assert abs(found.matrix[0, 1]) < 0.1


def test_fields_that_do_not_vary_where_the_other_is_known_have_no_correlation() -> None:
    """A constant less the mean of its configuration leaves rounding, which goes together with nothing."""
    chance = np.random.default_rng(7)
    of = np.repeat([0, 1], 50)
    energy = np.where(of == 0, 0.1, 0.1 + 0.01 * chance.normal(size=100))
    settled = np.where(of == 0, chance.normal(size=100), np.nan)
    values = {"energy_joules": energy, "overshoot_percent": settled, "jitter_score": chance.normal(size=100)}
    found = spread.field_correlations(runs_of(values, of), 2)
    assert found is not None
    a, b, c = (found.names.index(name) for name in ("energy_joules", "overshoot_percent", "jitter_score"))
    assert np.isnan(found.matrix[a, b])
    assert np.isnan(found.matrix[b, a])
    assert not np.isnan(found.matrix[a, c])


def window_words(**windows: list[float]) -> str:
    def shown(name: str, values: list[float]) -> courses.Shown:
        window = np.array(values)
        track = tracks.Track(0, len(window), 1, *(window for _ in range(6)), None)
        return courses.Shown(name, mark(0), {1: track})

    return courses.together([shown(name, values) for name, values in windows.items()], "window").caption


def test_windows_that_stay_elsewhere_are_told_apart() -> None:
    still, wide = [256.0] * 40, [4096.0] * 40
    assert "The window stays at 256 words in every configuration." in window_words(a=still, b=still)
    assert "stays at 256 words in every configuration, nine tenths of the time." in window_words(
        a=[4096.0] + 99 * [256.0], b=still
    )
    assert "stays at 256 words in a and at 4,096 words in off and ref." in window_words(a=still, off=wide, ref=wide)
    said = window_words(a=still, b=still + wide, ref=wide)
    assert "moves most in b (nine tenths of the time from 256 to 4,096 words), and stays at 256 words in a and" in said


@pytest.mark.parametrize(
    ("mean", "said"),
    [
        (-0.247, "its interval gets shorter with more load (a correlation of −0.247 on the mean)"),
        (0.12, "a correlation of 0.120 only, and the best of 51 lags has about 0.2 by chance"),
        (0.31, "a correlation of 0.310 on the mean, but in nearly all runs by 0.2 at most"),
    ],
)
def test_why_nothing_is_earned_for_coupling(mean: float, said: str) -> None:
    assert said in choice._why_uncoupled({"load_to_heartbeat_corr_mean": mean})


def test_load_is_told_in_percentage_points() -> None:
    load = np.linspace(20.0, 70.0, 50)
    track = tracks.Track(0, 50, 1, load, load, 1_000.0 + 37.0 * load, load, load, load, None)
    assert "With a load 10 percentage points higher the interval is 370 µs longer" in courses._portrait_words(track)


@pytest.mark.parametrize("hz", [0.7, 5.0, 30.0])
def test_spectrum_finds_an_oscillation(hz: float) -> None:
    steps = np.where(np.arange(20_000) % 3 == 0, 14_000_000, 8_000_000)
    elapsed = np.cumsum(steps)
    found = tracks.spectrum(elapsed, 1_000.0 + np.sin(2 * np.pi * hz * elapsed / 1e9))
    assert found is not None
    peak = float(found.frequency_hz[np.argmax(found.share)])
    assert peak == pytest.approx(hz, abs=float(found.frequency_hz[0]))
    assert found.share.sum() == pytest.approx(1.0)
    assert tracks.spectrum(elapsed, np.full(20_000, 5.0)) is None
    assert tracks.spectrum(elapsed[:100], np.arange(100.0)) is None


@pytest.mark.parametrize(
    ("keep", "every"), [("every:10", 10), ("all", 1), ("ends:500+sample:100", 1), ("sample:300", 16)]
)
def test_track_of_kept_ticks(tmp_path: Path, keep: str, every: int) -> None:
    ticks = captured(0, 1, 4_000)
    ticks[heart.C_LOAD, :100] = heart.UNKNOWN_LOAD
    path = tmp_path / "ticks.parquet"
    path.write_bytes(kept_ticks(ticks, 7, "1_0_1_1_1_0", keep))
    with open_table(path) as file:
        track = tracks.read_track(path, file, 7, range(file.num_row_groups))
    assert track is not None
    assert track.every == every
    assert np.isnan(track.load_percent[0])
    assert set(np.round(track.load_percent[~np.isnan(track.load_percent)][-3:])) <= {20.0, 70.0}
    assert track.interval_us.min() > 850
    assert track.cache_percent[-1] == pytest.approx(93.0, abs=1.0)
    assert track.window[-1] == 256.0
    assert len(track.seconds) == min(tracks.BINS, track.kept)
    assert (np.diff(track.seconds) > 0).all()


def test_only_a_few_runs_are_read(tmp_path: Path) -> None:
    folder = made(tmp_path / "five", runs=20, ticks=200)
    experiment = read_experiment(folder, lambda _: None)
    owner = dict(zip(experiment.runs.number.tolist(), experiment.runs.of.tolist(), strict=True))
    there = tracks.places(folder, owner, 2)
    assert len(there) == 100
    read = tracks.read_tracks({number: there[number] for number in (3, 99)})
    assert sorted(read) == [3, 99]
    assert all(track.kept == 20 for track in read.values())


def test_words() -> None:
    assert short("x" * 22) == "x" * 22
    assert len(short("abcdefgh" * 8)) == 22
    assert [ordinal(place) for place in (1, 12, 13, 21, 111)] == ["first", "twelfth", "13th", "21st", "111th"]
    assert (digits(-0.001), digits(-1234.5, 1), digits(None)) == ("0.00", "−1,234.5", "none")
    assert (signed(0.5), signed(-0.5), signed(0.001)) == ("+0.50", "−0.50", "0.00")


@pytest.mark.parametrize(("which", "said"), [("all", "Every tick is kept"), ("none", "none are stored (--ticks none)")])
def test_report_of_a_run(tmp_path: Path, which: str, said: str) -> None:
    folder = tmp_path / "run"
    done = command("run", "gaming", "--duration", "3", "--ticks", which, "--out", folder, "--quiet")
    assert done.status == 0, done.err
    written = write_report(folder)
    text = written.page.read_text(encoding="utf-8")
    assert said in text
    assert "overall_stability_score" in text
    figures = {path.stem for path in written.figures}
    assert ("run" in figures, "phase" in figures) == ((True, True) if which == "all" else (False, False))
    assert (folder / "report" / "tables" / "fingerprint.csv").is_file()
    # A run may be done again where its report lies.
    again = command("run", "gaming", "--duration", "3", "--ticks", which, "--out", folder, "--quiet")
    assert again.status == 0, again.err


def test_report_of_a_short_run_and_of_one_cut_short(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert command("run", "gaming", *BRIEF, "--out", folder, "--quiet").status == 0
    assert write_report(folder).left_out
    (folder / "manifest.json").unlink()
    refused(2, ["manifest.json"], command("report", folder))


PLAN = """
scenario = "study"
runs = 3
ticks = 1_500
configurations = ["1_0_1_1_1_0", { name = "off", config = "0_0_0_0_0_0", set = { "heartbeat.adapt_interval" = false } }]
kicks = { kinds = ["load_pulse"], strengths_sigmas = [1.0], seeds = 1, settle_ticks = 1_000, watch_ticks = 1_000 }
"""


def test_report_of_a_real_experiment(tmp_path: Path) -> None:
    plan = tmp_path / "tiny.toml"
    plan.write_text(PLAN)
    folder = tmp_path / "tiny"
    done = command("experiment", plan, "--out", folder, "--workers", "1", "--quiet")
    assert done.status == 0, done.err
    said = command("report", folder)
    assert said.status == 0, said.err
    text = (folder / "report" / PAGE).read_text(encoding="utf-8")
    assert "off earns nothing for coupling" in text
    assert "loops 0_0_0_0_0_0, heartbeat.adapt_interval = false" in text
