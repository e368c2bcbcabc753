"""A machine judged by recordings: free runs that do not peek, errors, powers, and what drift finds."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from calibration import BLOWN, BOARD, CARD, ORIGIN, TRACES, recorded, rows_of, write_csv, write_machine
from commands import BRIEF, answer, command, refused
from scipy.stats import f as f_distribution

from twin.calibrate.drift import CONFIDENCE, Drift, drift, independent_samples, offset
from twin.calibrate.freerun import free_run
from twin.calibrate.reader import Measured
from twin.calibrate.validation import judge
from twin.machines import Origin, Parameter, Start
from twin.scenario import AmbientStep, Machine

KEYS = {"rmse_celsius", "max_error_celsius", "mae_celsius", "bias_celsius", "power_mape", "sensors", "matches", "drift"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a machine, a recording of it, and the same machine with a fan."""
    folder = tmp_path_factory.mktemp("validate")
    write_machine(folder / "board.toml", BOARD)
    write_machine(folder / "blown.toml", BLOWN)
    write_csv(folder / "made.csv", rows_of(recorded(BOARD)))
    return folder


def verdict_of(machine: Machine, truth: Machine, origin: Origin = ORIGIN, **made: bool):  # type: ignore[no-untyped-def]
    measured = recorded(truth, origin, **made)
    judged = judge(machine, origin, measured)
    return drift(machine, origin, measured, judged.first, judged.last, judged.run.celsius[judged.sensor])


# --- the free run -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("machine", "kind"), [(BOARD, "board"), (BLOWN, "board"), (CARD, "gpu")])
def test_a_machine_foretells_itself(machine: Machine, kind: str) -> None:
    origin = replace(ORIGIN, kind=kind)
    measured = recorded(machine, origin, noise=0.0)
    judged = judge(machine, origin, measured)
    # It was recorded in coarser steps.
    assert judged.errors.max_error_celsius < 0.15
    assert judged.errors.samples == 900
    assert float(np.ptp(measured.recording.temperatures_celsius)) > 3.0


def test_later_temperatures_have_no_part_in_it() -> None:
    measured = recorded(BOARD)
    celsius = measured.recording.temperatures_celsius.copy()
    celsius[1:] = 90.0
    other = replace(measured, recording=replace(measured.recording, temperatures_celsius=celsius))
    one, two = (free_run(BOARD, ORIGIN, each).celsius["cpu"] for each in (measured, other))
    assert np.array_equal(one, two)


@pytest.mark.parametrize("lead", [-1.0, 0.0, 1.0, 0.5])
def test_a_recorded_mean_is_that_of_the_interval_before(lead: float) -> None:
    origin = replace(ORIGIN, lead_seconds=lead)
    measured = recorded(BOARD, count=200)
    load = np.zeros(200)
    load[100:] = 1.0
    measured = replace(measured, recording=replace(measured.recording, loads=load), loads={"cpu": load})
    shown = free_run(BOARD, origin, measured, step_ms=20).celsius["cpu"]
    rising = 50 + np.flatnonzero(np.diff(shown[50:]) > 0.2)
    # The load of sample 100 is that from 99 s on.
    assert rising[0] == 99 - np.ceil(lead)


def test_gaps_hold_the_last_value() -> None:
    measured = recorded(BOARD, count=300)
    assert measured.recording.loads is not None
    load = measured.recording.loads.copy()
    load[60:70] = np.nan
    gap = replace(measured, loads={"cpu": load})
    filled = replace(measured, loads={"cpu": np.where(np.isnan(load), load[59], load)})
    assert np.array_equal(free_run(BOARD, ORIGIN, gap).celsius["cpu"], free_run(BOARD, ORIGIN, filled).celsius["cpu"])


def test_after_a_gap_in_time_a_run_starts_anew() -> None:
    measured = recorded(BOARD, count=300)
    times = measured.recording.times_seconds.copy()
    times[200:] += 600.0
    celsius = measured.recording.temperatures_celsius + np.where(times > 300.0, 10.0, 0.0)
    gap = replace(measured, recording=replace(measured.recording, times_seconds=times, temperatures_celsius=celsius))
    shown = free_run(BOARD, ORIGIN, gap).celsius["cpu"]
    assert shown[200] == pytest.approx(celsius[200], abs=0.01)
    assert np.array_equal(shown[:200], free_run(BOARD, ORIGIN, measured).celsius["cpu"][:200])


def test_a_run_foretells_its_own_sensors(tmp_path: Path) -> None:
    answer("run", "steps", "--duration", "40", "--set", "heartbeat.t0_ns=100000000", "--out", tmp_path / "run")
    write_machine(tmp_path / "desktop.toml", Machine(), replace(ORIGIN, kind="cpu", driven="power"))
    found = answer("validate", tmp_path / "desktop.toml", tmp_path / "run")
    assert set(found["sensors"]) == {"cpu", "gpu", "case"}
    # Quantum 1 C and noise 0.3 C are in the recording.
    assert found["rmse_celsius"] < 1.0
    assert found["sensors"]["case"]["rmse_celsius"] < 0.6
    assert found["power_mape"] is not None


# --- the command ------------------------------------------------------------------------------------------------------


def test_keys_and_exit_status(place: Path) -> None:
    found = answer("validate", place / "board.toml", place / "made.csv")
    assert set(found) >= KEYS
    assert found["matches"] is True
    assert found["rmse_celsius"] < 0.1
    assert found["power_mape"] is None
    assert found["power_mape_reason"] == "no power was recorded"
    assert found["sensors"]["cpu"]["samples"] == 900
    assert answer("validate", place / "board.toml", place / "made.csv", "--max-rmse", "0.001", status=1)["matches"]
    assert answer("validate", place / "board.toml", place / "made.csv", "--max-rmse", "5")


def test_a_part_is_judged_and_what_is_before_it_run_through(place: Path) -> None:
    whole = answer("validate", place / "board.toml", place / "made.csv")
    part = answer("validate", place / "board.toml", place / "made.csv", "--from-percent", "60")
    middle = answer("validate", place / "board.toml", place / "made.csv", "--from-percent", "20", "--to-percent", "60")
    assert whole["sensors"]["cpu"]["samples"] == 900
    assert part["sensors"]["cpu"]["samples"] == 360
    assert middle["sensors"]["cpu"]["samples"] == 360
    assert part["rmse_celsius"] < 0.1


def test_the_picture(place: Path) -> None:
    pytest.importorskip("matplotlib")
    for name in ("plot.svg", "plot.png"):
        answer("validate", place / "board.toml", place / "made.csv", "--plot", place / name)
        assert (place / name).stat().st_size > 10_000
    refused(
        2,
        ["must end with .png"],
        command("validate", place / "board.toml", place / "made.csv", "--plot", place / "a.b"),
    )


def test_the_table_says_it_in_words(place: Path) -> None:
    said = command("validate", place / "board.toml", place / "made.csv")
    assert said.status == 0
    assert "the machine still matches" in said.out


def test_power_from_the_load(tmp_path: Path) -> None:
    measured = recorded(BOARD, watts=True)
    path = write_csv(tmp_path / "made.csv", rows_of(measured))
    for driven in ("power", "load"):
        write_machine(tmp_path / "board.toml", BOARD, replace(ORIGIN, driven=driven))
        mape = answer("validate", tmp_path / "board.toml", path)["power_mape"]
        assert 0.1 < mape < 1.0
    write_machine(tmp_path / "board.toml", BOARD, replace(ORIGIN, driven="power"))
    rows = rows_of(measured)
    del rows["cpu_load"]
    found = answer("validate", tmp_path / "board.toml", write_csv(tmp_path / "no.csv", rows))
    assert found["power_mape"] is None
    assert "no load was recorded" in found["power_mape_reason"]


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["nowhere", "made.csv"], ["neither a shipped machine nor a file"]),
        (["board.toml", "nowhere.csv"], ["nowhere.csv: cannot be read"]),
        (["board.toml", "made.csv", "--from-percent", "60", "--to-percent", "40"], ["must be below --to-percent"]),
        (["board.toml", "made.csv", "--from-percent", "101"], ["not a share from 0 to 100"]),
        (["board.toml", "made.csv", "--from-percent", "99.9"], ["readings without a gap lie from", "10 are needed"]),
        (["board.toml", "made.csv", "--max-rmse", "nan"], ["'nan' is not a number"]),
        (["board.toml", "made.csv", "--max-rmse", "-1"], ["must be above 0"]),
        (["board.toml", "made.csv", "--ambient", "warm"], ["allowed are free, and numbers from -60 to 200"]),
        (["board.toml", "made.csv", "--kind", "gpu"], ["has no GPU"]),
        (["board.toml", "made.csv", "--map", "cpu_temp=x"], ["there is no column 'x'; the file has: t_s, cpu_temp_c"]),
        (["board.toml", "made.csv", "--where", "x"], ["write COLUMN=TEXT"]),
        (["board.toml", "made.csv", "--plot", "nowhere/a.png"], ["nowhere/a.png"]),
    ],
)  # fmt: skip
def test_bad_input(place: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], parts: list[str]) -> None:
    monkeypatch.chdir(place)
    said = command("validate", *arguments)
    refused(3 if "nowhere/a.png" in arguments else 2, parts, said)


def test_what_drives_the_machine_has_to_be_there(place: Path) -> None:
    rows = rows_of(recorded(BOARD, watts=True))
    path = write_csv(place / "undriven.csv", {name: rows[name] for name in rows if name != "cpu_load"})
    refused(2, ["driven by its load, and no load was recorded"], command("validate", place / "board.toml", path))
    refused(
        2, ["a fan cools the machine", "--map fan_rpm"], command("validate", place / "blown.toml", place / "made.csv")
    )


# --- drift ------------------------------------------------------------------------------------------------------------


def test_the_same_machine_matches_and_does_not_cry_wolf() -> None:
    origin = replace(ORIGIN, unseen=replace(ORIGIN.unseen, rmse_celsius=0.06))  # type: ignore[type-var]
    for seed in range(1, 9):
        measured = recorded(BOARD, seed=seed)
        judged = judge(BOARD, origin, measured)
        found = drift(BOARD, origin, measured, judged.first, judged.last, judged.run.celsius["cpu"])
        assert found.matches, found
        assert found.changes == ()
        assert found.words() == "the machine still matches"


def started_hot(kelvin: float, count: int = 900) -> Measured:
    """A recording of BOARD whose board, which no sensor shows, begins warmer than its neighbours would hold it."""
    measured = recorded(BOARD, count=count)
    warm = free_run(BOARD, ORIGIN, measured, step_ms=100, warmer=("board", kelvin)).celsius["cpu"]
    usual = free_run(BOARD, ORIGIN, measured, step_ms=100).celsius["cpu"]
    celsius = measured.recording.temperatures_celsius + warm - usual
    return replace(measured, recording=replace(measured.recording, temperatures_celsius=celsius))


def found_in(measured: Measured, origin: Origin = ORIGIN) -> Drift:
    judged = judge(BOARD, origin, measured)
    return drift(BOARD, origin, measured, judged.first, judged.last, judged.run.celsius["cpu"])


@pytest.mark.parametrize("kelvin", [-4.0, 4.0])
def test_an_unknown_start_is_no_change(kelvin: float) -> None:
    measured = started_hot(kelvin)
    assert judge(BOARD, ORIGIN, measured).errors.rmse_celsius > 0.5
    found = found_in(measured)
    assert found.matches, found
    # The die hangs on the board alone, and soon follows all of it.
    assert 0.5 * abs(kelvin) < found.start_celsius < abs(kelvin)
    assert 0.0 < found.left_out_seconds <= 0.4 * 900
    assert "in which the start fades, do not count" in found.start_words()
    assert "are put down to the unknown start" in found.start_words()
    # A start that the fit found is none that explains errors.
    recording = measured.recording
    first = float(recording.temperatures_celsius[0])
    start = Start(recording=recording.name, first_celsius=first, celsius=(first, 22.0))
    assert found_in(measured, replace(ORIGIN, starts=(start,))).start_celsius == 0.0


def test_a_change_that_no_start_explains_is_noticed_all_the_same() -> None:
    measured = started_hot(4.0)
    warmer = replace(measured.recording, temperatures_celsius=measured.recording.temperatures_celsius + 5.0)
    assert found_in(replace(measured, recording=warmer)).matches is False


def test_a_short_recording_whose_start_is_unknown_tells_nothing() -> None:
    origin = replace(ORIGIN, unseen=replace(ORIGIN.unseen, independent_samples=400.0))  # type: ignore[type-var]
    found = found_in(recorded(BOARD, count=60), origin)
    assert found.matches is None
    assert "cannot tell" in found.words()


def test_a_fit_whose_errors_are_alike_gives_no_verdict() -> None:
    origin = replace(ORIGIN, unseen=replace(ORIGIN.unseen, independent_samples=3.8))  # type: ignore[type-var]
    found = found_in(recorded(BOARD), origin)
    assert found.matches is None
    assert found.bound is not None
    assert found.bound > 4.0
    assert found.noticed_celsius is not None
    assert found.noticed_celsius >= 0.2 * found.bound**0.5
    assert f"a change below {found.noticed_celsius:.1f} C could not be seen" in found.words()
    assert found.changes == ()


def test_a_fitted_recording_has_its_own_room_and_others_one_that_nobody_knows() -> None:
    measured = recorded(offset(BOARD, 6.0))
    first = float(measured.recording.temperatures_celsius[0])
    rooms = tuple(
        Parameter(name="ambient", unit="C", value=value, recording=name)
        for name, value in (("made", 28.0), ("colder", 16.0))
    )
    origin = replace(ORIGIN, parameters=rooms)
    fitted = replace(origin, starts=(Start(recording="made", first_celsius=first, celsius=(first,)),))
    own = judge(BOARD, fitted, measured)
    assert own.ambient_celsius == 28.0
    assert own.errors.rmse_celsius < 0.2
    assert judge(BOARD, fitted, measured, ambient=22.0).ambient_celsius == 22.0
    unknown = judge(BOARD, origin, measured)
    assert unknown.ambient_celsius == pytest.approx(28.0, abs=0.2)
    assert "fitted in 2 rooms (16.0 to 28.0 C)" in unknown.ambient_reason
    far = replace(origin, parameters=tuple(replace(each, value=each.value - 12.0) for each in rooms))
    assert judge(BOARD, far, measured).ambient_celsius == 21.0


def test_a_machine_that_cannot_be_is_bad_input(place: Path) -> None:
    stiff = replace(BOARD.edges[1], still_watts_per_kelvin=1e12)
    write_machine(place / "stiff.toml", replace(BOARD, edges=(BOARD.edges[0], stiff)))
    refused(
        2, ["cannot be: thermal node 'board'", "give it more capacity"],
        command("validate", place / "stiff.toml", place / "made.csv"),
    )  # fmt: skip


def test_a_warmer_room_is_found() -> None:
    found = verdict_of(BOARD, offset(BOARD, 3.1))
    assert found.matches is False
    assert found.changes[0].parameter == "ambient"
    assert found.changes[0].change == pytest.approx(3.1, abs=0.15)
    assert found.changes[0].low - 0.05 < 3.1 < found.changes[0].high + 0.05
    assert found.changes[0].explains > 0.95
    assert "ambient +3.1 C explains" in found.words()


def test_a_tired_fan_is_found() -> None:
    worn = replace(BLOWN.edges[1], forced_watts_per_kelvin=0.6 * BLOWN.edges[1].forced_watts_per_kelvin)
    found = verdict_of(BLOWN, replace(BLOWN, edges=(BLOWN.edges[0], worn)))
    assert found.matches is False
    assert found.changes[0].parameter == "fan_effect"
    assert found.changes[0].change == pytest.approx(-0.4, abs=0.03)


def test_dry_paste_is_found() -> None:
    dry = replace(BOARD.edges[0], still_watts_per_kelvin=0.1)
    found = verdict_of(BOARD, replace(BOARD, edges=(dry, BOARD.edges[1])))
    assert found.matches is False
    assert found.changes[0].parameter == "paste_resistance"
    assert found.changes[0].change == pytest.approx(1.0, abs=0.15)


def test_without_a_recorded_error_there_is_no_verdict_but_an_explanation() -> None:
    found = verdict_of(BOARD, offset(BOARD, -4.0), replace(ORIGIN, unseen=None))
    assert found.matches is None
    assert "does not say how well it was fitted" in found.words()
    assert found.changes[0].change == pytest.approx(-4.0, abs=0.2)


def test_drift_in_words_on_the_command_line(place: Path) -> None:
    path = write_csv(place / "warm.csv", rows_of(recorded(offset(BOARD, 3.1))))
    found = answer("validate", place / "board.toml", path)
    assert found["matches"] is False
    assert "ambient +3.1 C" in found["drift"]["summary"]
    said = command("validate", place / "board.toml", path).out
    assert re.search(r"ambient +. \+3\.1 C \(\+3\.\d to \+3\.\d\), explains \d+ %", said), said
    free = answer("validate", place / "board.toml", path, "--ambient", "free")
    assert free["matches"] is True
    assert free["ambient_celsius"] == pytest.approx(25.1, abs=0.2)
    assert answer("validate", place / "board.toml", path, "--ambient", "25.1")["matches"] is True


def test_errors_that_resemble_their_neighbours_count_less() -> None:
    generator = np.random.default_rng(1)
    white = generator.normal(size=4_000)
    slow = np.zeros(4_000)
    for place in range(1, 4_000):
        slow[place] = 0.9 * slow[place - 1] + white[place]
    assert independent_samples(white) > 3_000
    # (1 - 0.9) / (1 + 0.9) of them.
    assert independent_samples(slow) == pytest.approx(4_000 / 19, rel=0.3)
    assert independent_samples(np.zeros(50)) == 50
    assert independent_samples(np.array([1.0])) == 1


@pytest.mark.parametrize("alike", [0.0, 0.9, 0.98])
def test_the_interval_test_cries_wolf_once_in_a_hundred_at_most(alike: float) -> None:
    generator = np.random.default_rng(5)

    def errors(count: int) -> np.ndarray:
        white = generator.normal(size=count)
        slow = np.zeros(count)
        slow[0] = white[0] / (1.0 - alike**2) ** 0.5
        for place in range(1, count):
            slow[place] = alike * slow[place - 1] + white[place]
        return slow

    false, found, rounds = 0, 0, 100
    for _ in range(rounds):
        fitted, now = errors(900), errors(1_800)
        for offset_of, judged in ((0.0, now), (2.5, now + 2.5 * np.std(fitted))):
            degrees = max(2.0, independent_samples(judged)), max(2.0, independent_samples(fitted))
            beyond = np.mean(judged**2) / np.mean(fitted**2) > f_distribution.ppf(CONFIDENCE, *degrees)
            false += beyond and offset_of == 0.0
            found += beyond and offset_of > 0.0
    assert false <= 3
    assert found >= 0.8 * rounds


def test_the_room_moves_with_its_steps() -> None:
    moved = offset(replace(BOARD, ambient_steps=(AmbientStep(at_ms=5, celsius=30.0),)), 2.0)
    assert moved.ambient_celsius == 24.0
    assert moved.ambient_steps[0].celsius == 32.0


@pytest.mark.skipif(not TRACES.is_dir(), reason="the recordings are not beside the repository, in ../shared/data")
def test_a_real_recording_is_judged(place: Path) -> None:
    path = TRACES / "raspberry_pi_3b" / "pistress_1111010011.csv.gz"
    found = answer("validate", place / "board.toml", path, "--from-percent", "80", "--ambient", "free")
    assert found["sensors"]["cpu"]["samples"] > 700
    assert found["rmse_celsius"] < 5.0


def test_a_brief_run_is_too_short(tmp_path: Path) -> None:
    write_machine(tmp_path / "desktop.toml", Machine(), replace(ORIGIN, kind="cpu"))
    answer("run", "idle", *BRIEF, "--out", tmp_path / "run")
    refused(2, ["too short"], command("validate", tmp_path / "desktop.toml", tmp_path / "run"))
