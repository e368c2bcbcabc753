"""Fits of real machines, held to their bars on what they did not see; skipped where the recordings are not there.

All of it goes the way of `twin calibrate` and `twin validate`: the reader, the fit of the first 60 %, and a free run of
the world from the first sample on, judged on the last 40 %. The nightly profile takes every file.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from calibration import TRACES
from profiles import NIGHTLY

from twin.calibrate.calibrated import Calibrated, calibrate
from twin.calibrate.errors import Errors
from twin.calibrate.reader import Measured, read
from twin.calibrate.roles import Choice, parse_map
from twin.calibrate.validation import judge
from twin.kernels import MODE
from twin.machines import Kind

nightly = pytest.mark.skipif(not NIGHTLY, reason="one of its kind is enough by day; HYPOTHESIS_PROFILE=nightly")
pytestmark = [
    pytest.mark.skipif(not TRACES.is_dir(), reason=f"no recordings in {TRACES}"),
    pytest.mark.skipif(MODE != "numba", reason="interpreted kernels fit some hundred times slower"),
]
CLOSED = ("pistress_1100000011", "pistress_1101000011")
"""Recordings of one board with its panels on and no fan."""


def board(name: str) -> Measured:
    return read(TRACES / "raspberry_pi_3b" / f"{name}.csv.gz", Choice("board"))


def boards(pattern: str) -> list[str]:
    return sorted(path.name.partition(".")[0] for path in (TRACES / "raspberry_pi_3b").glob(f"{pattern}*.csv.gz"))


def card(number: int) -> Measured:
    return read(TRACES / "gpu_server_8x700w" / "recording_a.csv.gz", Choice("gpu", device=number))


def laptop(column: str) -> Measured:
    path = TRACES / "laptop_precision_5570" / "normal_use.csv.gz"
    return read(path, Choice("laptop", mapped=parse_map([f"cpu_temp={column}"])))


def unseen(measured: Measured, kind: Kind) -> Errors:
    return calibrate([measured], kind).judgements[0].errors


def assert_median(judged: Sequence[Errors], rmse_celsius: float, max_error_celsius: float) -> None:
    assert np.median([each.rmse_celsius for each in judged]) <= rmse_celsius
    assert np.median([each.max_error_celsius for each in judged]) <= max_error_celsius


def test_a_board_under_random_load() -> None:
    names = boards("pistress") if NIGHTLY else ["pistress_1111000111"]
    assert_median([unseen(board(name), "board") for name in names], 0.75, 3.0)


@nightly
def test_a_board_under_full_load_and_idle_in_turn() -> None:
    assert_median([unseen(board(name), "board") for name in boards("minmax")], 0.70, 3.2)


def test_cards_of_a_server_at_powers_never_seen() -> None:
    cards = [card(number) for number in (range(8) if NIGHTLY else (3,))]
    assert_median([unseen(each, "gpu") for each in cards], 2.3, 6.0)


@pytest.mark.parametrize("column", ["cpu_pkg_temp_c", pytest.param("cpu_temp_c", marks=nightly)])
def test_a_laptop_is_foretold_better_than_by_a_line(column: str) -> None:
    measured = laptop(column)
    watts, celsius = measured.recording.powers_watts, measured.recording.temperatures_celsius
    assert watts is not None
    end = int(0.6 * len(celsius))
    line = np.polyfit(watts[:end], celsius[:end], 1)
    static = float(np.sqrt(np.mean((np.polyval(line, watts[end:]) - celsius[end:]) ** 2)))
    found = calibrate([measured], "laptop")
    assert found.judgements[0].errors.rmse_celsius < static
    mape = found.judgements[0].power_mape
    assert mape is not None
    assert mape < 0.3


@pytest.fixture(scope="module")
def closed() -> Calibrated:
    names = [*CLOSED, *(["pistress_0000000011"] if NIGHTLY else [])]
    return calibrate([board(name) for name in names], "board", holdout=0.0, most_nodes=4 if NIGHTLY else 3)


def test_one_board_from_several_files_on_a_file_it_never_saw(closed: Calibrated) -> None:
    file = closed.file
    judged = judge(file.machine, file.origin, board("pistress_1101100011"), ambient="free").errors
    assert judged.rmse_celsius <= 1.0
    assert judged.max_error_celsius <= 4.0
