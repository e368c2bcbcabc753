"""Fits of real machines, held to their bars on what they did not see; skipped where the recordings are not there."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from twin.calibrate.errors import Errors
from twin.calibrate.fit import Fit, fit
from twin.calibrate.judge import judge
from twin.calibrate.machine import machine
from twin.calibrate.parameters import Kind, chain
from twin.calibrate.power import fit_power
from twin.calibrate.recording import Recording, RecordingError, read_csv
from twin.kernels import MODE
from twin.world.plant import Plant, Work

TRACES = Path(__file__).parent.parent.parent / "shared" / "data" / "traces"
NIGHTLY = os.environ.get("HYPOTHESIS_PROFILE") == "nightly"
pytestmark = [
    pytest.mark.skipif(not TRACES.is_dir(), reason=f"no recordings in {TRACES}"),
    pytest.mark.skipif(MODE != "numba", reason="interpreted kernels fit some hundred times slower"),
]


def board(name: str) -> Recording:
    return read_csv(TRACES / "raspberry_pi_3b" / f"{name}.csv.gz", "cpu_temp_c", load_percent="cpu_load")


def boards(pattern: str) -> list[str]:
    return sorted(path.name.partition(".")[0] for path in (TRACES / "raspberry_pi_3b").glob(f"{pattern}*.csv.gz"))


def card(number: int) -> Recording:
    return read_csv(
        TRACES / "gpu_server_8x700w" / "recording_a.csv.gz",
        f"gpu{number}_temp_c",
        power_watts=f"gpu{number}_power_w",
        load_percent=f"gpu{number}_load",
    )


def _unseen(recording: Recording, kind: Kind) -> Errors:
    unseen = fit([recording], kind).unseen[0]
    assert unseen is not None
    return unseen


def _assert_median(judged: list[Errors], rmse_celsius: float, max_error_celsius: float) -> None:
    assert np.median([each.rmse_celsius for each in judged]) <= rmse_celsius
    assert np.median([each.max_error_celsius for each in judged]) <= max_error_celsius


def test_a_board_under_random_load() -> None:
    names = boards("pistress")
    _assert_median([_unseen(board(name), "board") for name in (names if NIGHTLY else names[2:4])], 0.75, 3.0)


def test_a_board_under_full_load_and_idle_in_turn() -> None:
    names = boards("minmax")
    _assert_median([_unseen(board(name), "board") for name in (names if NIGHTLY else names[1:2])], 0.70, 3.2)


def test_cards_of_a_server_at_powers_never_seen() -> None:
    _assert_median([_unseen(card(number), "gpu") for number in (range(8) if NIGHTLY else (2, 7))], 2.3, 6.0)


@pytest.mark.parametrize("column", ["cpu_pkg_temp_c", "cpu_temp_c"])
def test_a_laptop_is_foretold_better_than_by_a_line(column: str) -> None:
    path = TRACES / "laptop_precision_5570" / "normal_use.csv.gz"
    recording = read_csv(path, column, power_watts="cpu_power_w", load_percent="cpu_load")
    watts, celsius = recording.powers_watts, recording.temperatures_celsius
    assert watts is not None
    end = int(0.6 * len(celsius))
    line = np.polyfit(watts[:end], celsius[:end], 1)
    static = float(np.sqrt(np.mean((np.polyval(line, watts[end:]) - celsius[end:]) ** 2)))
    assert _unseen(recording, "laptop").rmse_celsius < static


@pytest.fixture(scope="module")
def closed() -> Fit:
    """One board with its panels on and no fan, from several recordings."""
    names = ["pistress_1100000011", "pistress_1101000011", *(["pistress_0000000011"] if NIGHTLY else [])]
    return fit([board(name) for name in names], "board", fitted_share=1.0, most_nodes=4 if NIGHTLY else 3)


def test_one_board_from_several_files_on_a_file_it_never_saw(closed: Fit) -> None:
    judged, _ = judge(closed, board("pistress_1101100011"), ambient_free=True)
    assert judged.rmse_celsius <= 1.0
    assert judged.max_error_celsius <= 4.0


def test_a_run_that_is_not_driven_by_what_was_fitted_is_refused(closed: Fit) -> None:
    undriven = replace(board("pistress_1101100011"), loads=None)
    with pytest.raises(RecordingError, match="no such column"):
        judge(closed, undriven)


def test_the_world_shows_what_the_fit_says() -> None:
    recording = board("pistress_1100000011").until(0.3)
    found = fit([recording], "board", fitted_share=1.0, most_nodes=3)
    values = found.values()
    start = chain(found.shape, values, found.look.full_watts, found.look.first_celsius[0]).start
    made = machine(found, "board")
    nodes = tuple(
        replace(node, initial_celsius=float(celsius)) for node, celsius in zip(made.nodes, start, strict=True)
    )
    sensor = replace(made.sensors[0], noise_millicelsius=0, quantum_millicelsius=1, offset_millicelsius=0)
    plant = Plant(replace(made, ambient_celsius=values["ambient"], nodes=nodes, sensors=(sensor,)), 1)
    plant.commands[:] = [made.cpu.frequencies_kilohertz[-1], round(made.cpu.pl1_watts * 1e6)]
    drive = found.problem.drives[0]
    ends = np.cumsum(drive.kinds[drive.kind_of, 0])
    shown = [start[0]]
    for step in range(int(ends[-1] * 1e9) // plant.step_ns):
        load = drive.loads[np.searchsorted(ends, (step + 0.5) * plant.step_ns / 1e9)]
        plant.step(Work(round(load * 1e6) * plant.step_ns, 0, 0, 0, 0))
        shown.append(plant.readings(0)[0] / 1e3)
    at = np.interp(recording.times_seconds, np.arange(len(shown)) * plant.step_ns / 1e9, shown)
    known = recording.times_seconds <= ends[-1] - 1.0
    # Sensors are sampled every 100 ms and the governor answers a step late; a wrong law would differ by degrees.
    apart = np.abs(at - found.problem.shown(found.point, 0))[known]
    assert np.sqrt(np.mean(apart**2)) < 0.1
    assert np.median(apart) < 0.03


def test_power_of_a_laptop_from_its_load() -> None:
    path = TRACES / "laptop_precision_5570" / "normal_use.csv.gz"
    recording = read_csv(path, "cpu_pkg_temp_c", power_watts="cpu_power_w", load_percent="cpu_load")
    power = fit_power([recording], [recording.believable()])
    assert power is not None
    assert min(power.idle_watts, power.switching_watts, power.leakage_watts) >= 0.0
    assert power.switching_watts > 5.0
    assert power.mape < 0.3
