"""The lateness of ticks, fitted to a recorded heartbeat: how long after its time each tick woke.

A tick is due one target after the tick before, where the target is the one that the row before recorded; what its
interval is longer is its lateness. Ticks of the first 20 ms are left out, as the replay of recordings does, because
self-tests set the targets there. The quantiles are those that `twin.clock.ModelledLateness` draws from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from twin.calibrate.recording import RecordingError
from twin.clock import ModelledLateness
from twin.heart.recorded import START_UP_NS

OWN = "lateness_ns"
NEEDED = ("elapsed_ns", "tick_interval_ns", "tick_target_ns")
FEWEST_TICKS = 100
MOST_NS = 10**9
"""The most that a scenario takes; a tick that is later was held up by something that is no lateness of the timer."""


@dataclass(frozen=True)
class LatenessFit:
    """The quantiles (ns) at `ModelledLateness.PROBABILITIES`, from how many ticks, and how well they can be known.

    `low_ns` and `high_ns` are 95 % intervals from order statistics (the extremes are known to be what was seen and no
    more). `early` ticks woke before their time and count as punctual, `cut` ticks as late as a scenario takes.
    """

    quantiles_ns: tuple[int, ...]
    low_ns: tuple[int, ...]
    high_ns: tuple[int, ...]
    ticks: int
    early: int
    cut: int


def fit_lateness(header: Sequence[str], rows: Sequence[Sequence[str]], lines: Sequence[int], where: str) -> LatenessFit:
    """Fit the quantiles to a table of ticks. Raises `RecordingError` for one that is none, or too short.

    A table with a column `lateness_ns`, as `twin export` writes it, says it itself.
    """
    if OWN in header:
        return quantiles(_whole(OWN, header.index(OWN), rows, lines, where), where)
    missing = [name for name in NEEDED if name not in header]
    if missing:
        raise RecordingError(f"{where}, line 1: missing is {', '.join(missing)}; needed are {', '.join(NEEDED)}; found "
                             f"are {', '.join(header)}")  # fmt: skip
    columns = {name: _whole(name, header.index(name), rows, lines, where) for name in NEEDED}
    elapsed, interval, target = (columns[name] for name in NEEDED)
    back = np.flatnonzero(np.diff(elapsed) < 0)
    if len(back):
        place = int(back[0]) + 1
        raise RecordingError(f"{where}, line {lines[place]}, column elapsed_ns: {elapsed[place]} comes after "
                             f"{elapsed[place - 1]}, so time goes back; sort the rows")  # fmt: skip
    kept = elapsed >= START_UP_NS
    # The first tick that is kept has no target before it that is kept.
    return quantiles((interval[1:] - target[:-1])[kept[1:] & kept[:-1]], where)


def quantiles(late: np.ndarray[tuple[int], np.dtype[np.int64]], where: str) -> LatenessFit:
    """Fit the quantiles to how late ticks woke (ns; below 0: early). Raises `RecordingError` for too few."""
    if len(late) < FEWEST_TICKS:
        raise RecordingError(f"{where}: too short: {len(late)} ticks are left, without those of the "
                             f"first {START_UP_NS // 10**6} ms; {FEWEST_TICKS} are needed; record longer")  # fmt: skip
    bounded = np.sort(np.clip(late, 0, MOST_NS))
    chances = np.array(ModelledLateness.PROBABILITIES)
    # An order statistic's rank is binomial: its 95 % interval is 1.96 standard deviations of that to both sides.
    doubt = 1.96 * np.sqrt(chances * (1.0 - chances) / len(bounded))
    low, middle, high = (
        tuple(int(value) for value in np.quantile(bounded, np.clip(chances + shift, 0.0, 1.0)))
        for shift in (-doubt, 0.0 * doubt, doubt)
    )
    return LatenessFit(
        middle, low, high, len(late), int(np.count_nonzero(late < 0)), int(np.count_nonzero(late > MOST_NS))
    )


def _whole(
    name: str, place: int, rows: Sequence[Sequence[str]], lines: Sequence[int], where: str
) -> np.ndarray[tuple[int], np.dtype[np.int64]]:  # fmt: skip
    for cells, line in zip(rows, lines, strict=True):
        text = cells[place]
        if not (text.isascii() and text.isdigit() and len(text) <= 18):
            raise RecordingError(f"{where}, line {line}, column {name}: {text[:40]!r} is no whole number of "
                                 "nanoseconds; allowed are 0 to 10^18; mend the line, or cut it off")  # fmt: skip
    return np.array([int(cells[place]) for cells in rows], dtype=np.int64)


def lateness_toml(fit: LatenessFit) -> str:
    """The quantiles as a section of a scenario."""
    return f"[heartbeat]\nlateness_quantiles_ns = [{', '.join(f'{value:_}' for value in fit.quantiles_ns)}]\n"
