"""The forecast on recordings of real machines, judged on their last 40 %, on which nothing is fitted before its time.

A step is 1 s where samples are as close as that, else the recording's own step (laptop_victus_15: 5 s). Of rows that
come closer (gpu_server_8x700w: 0.29 s) the last one at or before each whole second is taken; rows at half a step or
less after another, or with something missing, are left out. The load of a graphics processor in the server is its
power as a share of 700 W; where there is none (laptop_victus_15) it is the fan's speed as a share of 2,500 rpm.
"""

from __future__ import annotations

import csv
import functools
import gzip
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
import pytest

from twin.kernels import MODE, Stream
from twin.learn.forecast import AHEAD, BEHIND, Predictor
from twin.learn.holt import next_level, next_trend, trend_sum

TRACES = Path(__file__).parents[2] / "shared" / "data" / "traces"

pytestmark = [
    pytest.mark.skipif(not TRACES.is_dir(), reason="the recordings are not beside the repository, in ../shared/data"),
    pytest.mark.skipif(MODE != "numba", reason="kernels are not compiled here, and interpreted they take too long"),
]

RANDOM, IN_TURN, SERVER = "Pi, random load", "Pi, full load and idle in turn", "GPU server"


class Series(NamedTuple):
    group: str
    name: str
    temperatures: np.ndarray
    loads: np.ndarray


class Errors(NamedTuple):
    """Root mean squares of the error at the fifth step, in kelvin."""

    persistence: float
    holt: float
    temperatures: float
    blind: float
    knowing: float
    linear: float
    linear_knowing: float


def columns(path: Path, select: tuple[str, str] | None = None) -> dict[str, np.ndarray]:
    with gzip.open(path, "rt", newline="") as file:
        rows = [row for row in csv.DictReader(file) if select is None or row[select[0]] == select[1]]
    found = {}
    for name in rows[0]:
        try:
            found[name] = np.array([float(row[name]) if row[name] else np.nan for row in rows])
        except ValueError:
            continue
    return found


def stepped(group: str, name: str, seconds: np.ndarray, temperatures: np.ndarray, loads: np.ndarray) -> Series:
    known = np.isfinite(temperatures) & np.isfinite(loads)
    seconds, temperatures, loads = seconds[known], temperatures[known], loads[known]
    if np.median(np.diff(seconds)) < 0.5:
        at = np.searchsorted(seconds, np.arange(np.ceil(seconds[0]), seconds[-1]), side="right") - 1
    else:
        apart = np.diff(seconds) > 0.5 * np.median(np.diff(seconds))
        at = np.flatnonzero(np.concatenate(([True], apart)))
    return Series(group, name, temperatures[at], loads[at])


def all_series() -> list[Series]:
    found = []
    for path in sorted((TRACES / "raspberry_pi_3b").iterdir()):
        data = columns(path)
        group = RANDOM if path.name.startswith("pistress") else IN_TURN
        found.append(stepped(group, path.name, data["t_s"], data["cpu_temp_c"], data["cpu_load"] / 100.0))
    data = columns(TRACES / "gpu_server_8x700w" / "recording_a.csv.gz")
    for i in range(8):
        power = data[f"gpu{i}_power_w"] / 700.0
        found.append(stepped(SERVER, f"gpu{i}", data["t_s"], data[f"gpu{i}_temp_c"], power))
    data = columns(TRACES / "laptop_precision_5570" / "normal_use.csv.gz")
    found.extend(
        stepped("Laptop Precision", name, data["t_s"], data[name], data["cpu_load"] / 100.0)
        for name in data
        if name.endswith("temp_c")
    )
    path = TRACES / "laptop_victus_15" / "cooling_pad.csv.gz"
    with gzip.open(path, "rt", newline="") as file:
        conditions = sorted({row["condition"] for row in csv.DictReader(file)})
    for condition in conditions:
        data = columns(path, ("condition", condition))
        for name in ("cpu_temp_c", "gpu_temp_c"):
            made = stepped("Laptop Victus", f"{condition} {name}", data["t_s"], data[name], data["fan_rpm"] / 2_500.0)
            found.append(made)
    return found


def forecasts(series: Series, with_loads: bool) -> tuple[np.ndarray, np.ndarray]:
    """The fifth step from each sample on, blind and with the loads that came; nothing is seen before its time."""
    count = series.temperatures.size
    bank = Predictor(1, int(with_loads), Stream(1, "learn.forecast"))
    blind, knowing = np.zeros(count), np.zeros(count)
    loads = series.loads[:, None] if with_loads else np.zeros((count, 0))
    for t in range(count):
        blind[t] = bank.see(series.temperatures[t : t + 1], loads[t])[0, -1]
        if t + AHEAD < count:
            knowing[t] = bank.conditional(series.loads[None, t + 1 : t + 1 + AHEAD])[0, -1]
    assert bank.rollbacks == 0
    return blind, knowing


def holt(temperatures: np.ndarray) -> np.ndarray:
    made = np.empty(temperatures.size)
    level, trend = float(temperatures[0]), 0.0
    for t, sample in enumerate(temperatures.tolist()):
        if t:
            before = level
            level = next_level(before, trend, sample)
            trend = next_trend(before, trend, level)
        made[t] = level + trend_sum(AHEAD) * trend
    return made


def linear(series: Series, fitted_to: int, knowing: bool) -> np.ndarray:
    """Least squares on ten temperatures and ten loads (and five to come), fitted to the first samples only."""
    count = series.temperatures.size
    at = np.arange(BEHIND - 1, count - AHEAD)
    steps = [*range(-BEHIND + 1, 1)]
    inputs = [series.temperatures[at + i] for i in steps]
    inputs += [series.loads[at + i] for i in ([*steps, *range(1, AHEAD + 1)] if knowing else steps)]
    x = np.stack([*inputs, np.ones(at.size)], axis=1)
    fit = at + AHEAD < fitted_to
    weights = np.linalg.lstsq(x[fit], series.temperatures[at[fit] + AHEAD], rcond=None)[0]
    made = np.full(count, np.nan)
    made[at] = x @ weights
    return made


@functools.cache
def measured() -> dict[tuple[str, str], Errors]:
    found = {}
    for series in all_series():
        count = series.temperatures.size
        begin = int(0.6 * count)
        at = np.arange(begin, count - AHEAD)
        blind, knowing = forecasts(series, True)
        alone, _ = forecasts(series, False)
        made = (
            series.temperatures, holt(series.temperatures), alone, blind, knowing,
            linear(series, begin, False), linear(series, begin, True),
        )  # fmt: skip
        came = series.temperatures[at + AHEAD]
        errors = [float(np.sqrt(np.mean((forecast[at] - came) ** 2))) for forecast in made]
        found[series.group, series.name] = Errors(*errors)
    return found


def medians(group: str) -> Errors:
    return Errors(
        *(median(column) for column in zip(*(e for (g, _), e in measured().items() if g == group), strict=True))
    )


def gains(group: str, over: str, of: str = "blind") -> list[float]:
    return [1.0 - getattr(e, of) / getattr(e, over) for (g, _), e in measured().items() if g == group]


def test_figures_are_printed() -> None:
    groups = list(dict.fromkeys(group for group, _ in measured()))
    print("\n" + " | ".join(["group", *Errors._fields]))
    for group in groups:
        print(" | ".join([group, *(f"{value:.3f}" for value in medians(group))]))
    for group in (RANDOM, IN_TURN):
        for over in ("persistence", "holt"):
            both = [100 * median(gains(group, over, of)) for of in ("temperatures", "blind", "linear")]
            print(f"{group}, below {over} by %: temperatures {both[0]:.1f}, blind {both[1]:.1f}, linear {both[2]:.1f}")
    assert len(measured()) == 42


@pytest.mark.parametrize(("kind", "worse"), [("blind", 1.02), ("temperatures", 1.02), ("knowing", 1.02)])
def test_no_forecast_is_worse_than_persistence_by_more_than_two_in_a_hundred(kind, worse) -> None:
    ratios = {key: (getattr(e, kind), e.persistence) for key, e in measured().items()}
    key = max(ratios, key=lambda k: ratios[k][0] / ratios[k][1] if ratios[k][1] else float(ratios[k][0] > 0.0))
    print(kind, key, ratios[key])
    for name, (error, persistence) in ratios.items():
        assert error <= worse * persistence, name


@pytest.mark.parametrize("over", ["persistence", "holt"])
@pytest.mark.parametrize(("group", "share"), [(RANDOM, 0.10), (IN_TURN, 0.22)])
def test_the_blind_forecast_is_better_than_persistence_and_holt(group, share, over) -> None:
    gained = median(gains(group, over))
    print(group, over, round(gained, 4))
    assert gained >= share


@pytest.mark.parametrize(("group", "most"), [(RANDOM, 0.55), (IN_TURN, 0.40), (SERVER, 0.62)])
def test_the_forecast_for_a_known_load_is_close(group, most) -> None:
    print(group, round(medians(group).knowing, 4))
    assert medians(group).knowing <= most


def test_temperatures_alone_are_better_than_persistence_where_loads_come_and_go() -> None:
    assert median(gains(RANDOM, "persistence", "temperatures")) >= 0.04
    assert median(gains(IN_TURN, "persistence", "temperatures")) >= 0.04
