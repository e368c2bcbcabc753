"""How runs differ, in figures: scores, correlations, principal components."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from twin.fingerprint.run import METRICS
from twin.fingerprint.words import listed
from twin.report.canvas import (
    LINE,
    PANEL,
    WIDE,
    Axes,
    Canvas,
    few_ticks,
    legend_height,
    name_margin,
    one_row_each,
    quiet_frame,
)
from twin.report.courses import shaken, some
from twin.report.parts import Drawing, digits, precise, short, signed
from twin.report.source import NUMBERS, Runs
from twin.report.style import GRID, INK, MUTED, SURFACE, Mark, level_colour

Floats = npt.NDArray[np.float64]
Place = tuple[int, str, Mark]

METRIC_WORDS = ("interval", "cache hits", "bucket hits", "hot words", "heat", "window", "words")
VIOLIN_LEAST = 8
"""Fewer runs are drawn as dots only."""
KNOWN_LEAST = 0.8
"""A field takes part in principal components when so many of the runs have it."""
ROWS_MOST = 20_000
DOTS_MOST = 1_500

COMPARED = (
    "overall_stability_score", "jitter_score", "convergence_score", "coupling_score", "convergence_time_ticks",
    "cache_hit_percent_steady", "avg_jitter_ns_steady", "hotword_ratio_steady", "overshoot_percent",
    "load_to_heartbeat_corr", "load_to_cache_corr", "heartbeat_to_cache_corr", "dominant_frequency_hz",
    "spectral_entropy", "dominant_eigenvalue", "eigenmode_decay_rate_hz", "entropy_growth_rate",
    "metric_noise_coupling", "energy_joules", "max_temp_millicelsius", "fps_mean", "latency_p99_ns",
)  # fmt: skip
"""Fields whose correlations are drawn, where they vary."""


def violins(runs: Runs, places: Sequence[Place], field: str, title: str) -> Drawing | None:
    """How a score (0..100) is spread over the runs of each configuration; None where no run has it."""
    rows = [(name, how, values) for place, name, how in places if len(values := runs.of_place(place, field))]
    if not rows:
        return None
    names = [name for name, *_ in rows]
    canvas = Canvas(PANEL, 32 * len(rows) + 58)
    axes = canvas.axes(name_margin(names), 44, 16, 8)
    for row, (_, how, values) in enumerate(rows):
        _violin(axes, row, how, values)
    one_row_each(axes, names)
    low = min(float(values.min()) for *_, values in rows)
    high = max(float(values.max()) for *_, values in rows)
    more = max(0.04 * (high - low), 0.5)
    axes.set_xlim(low - more, high + more)
    few_ticks(axes, x=6, y=None)
    axes.set_xlabel(f"{title.lower()}, of 100")
    return canvas.done(f"violin-{field.removesuffix('_score')}", title, _violin_words(rows, title))


def _violin(axes: Axes, row: int, how: Mark, values: Floats) -> None:
    varies = float(values.max()) - float(values.min()) > 1e-6
    if len(values) >= VIOLIN_LEAST and varies:
        at, density = _density(values)
        axes.fill_between(at, row - 0.38 * density, row + 0.38 * density, color=how.colour, alpha=0.35, linewidth=0)
    if len(values) > 1:
        middle = float(np.median(values))
        axes.plot([middle, middle], [row - 0.4, row + 0.4], color=INK.light, linewidth=1.6)
    dots = some(values) if varies else values[:1]
    axes.plot(dots, row + 0.6 * shaken(len(dots)), linestyle="none", marker=how.marker, color=how.colour,
              markersize=5 * how.scale, markeredgecolor="none", alpha=0.85)  # fmt: skip


def _density(values: Floats) -> tuple[Floats, Floats]:
    """A Gaussian kernel estimate within the values' range (Silverman's width), scaled to 1 at its peak."""
    few = np.sort(values)[np.linspace(0, len(values) - 1, min(len(values), 500)).astype(np.int64)]
    quarters = np.percentile(few, [25, 75])
    spread = min(float(few.std(ddof=1)), float(quarters[1] - quarters[0]) / 1.34) or float(few.std(ddof=1))
    width = max(0.9 * spread * len(few) ** -0.2, 1e-3 * float(few[-1] - few[0]))
    at = np.linspace(few[0], few[-1], 100)
    density = np.exp(-0.5 * ((at[:, None] - few[None, :]) / width) ** 2).sum(axis=1)
    return at, density / density.max()


def _violin_words(rows: Sequence[tuple[str, Mark, Floats]], title: str) -> str:
    medians = {name: float(np.median(values)) for name, _, values in rows}
    best = max(medians, key=lambda name: medians[name])
    said = (
        f"A dot is a run, the stroke the median. The {title.lower()} is highest in {best} (median {medians[best]:.2f})"
    )
    worst = min(medians, key=lambda name: medians[name])
    if medians[worst] < medians[best]:
        said += f" and lowest in {worst} ({medians[worst]:.2f})"
    elif len(rows) > 1:
        said = f"A dot is a run, the stroke the median. The {title.lower()} has a median of {medians[best]:.2f} in all"
    spreads = {name: float(values.std(ddof=1)) for name, _, values in rows if len(values) > 1}
    if spreads and max(spreads.values()) > 0:
        widest = max(spreads, key=lambda name: spreads[name])
        said += f"; runs differ most in {widest}, with a deviation of {precise(spreads[widest])}"
    if all(len(values) < VIOLIN_LEAST for *_, values in rows):
        said += f". No shape is drawn with fewer than {VIOLIN_LEAST} runs"
    elif not all(len(values) >= VIOLIN_LEAST for *_, values in rows):
        said += f". Those with fewer than {VIOLIN_LEAST} runs have no shape"
    return said + "."


def metric_map(name: str, matrix: Floats, title: str, over: str) -> Drawing:
    """The 7 x 7 correlations of the metrics. `over` says of what."""
    canvas = _map(matrix, METRIC_WORDS, PANEL, 46)
    pairs = _pairs(matrix)
    if not pairs:
        said = "No two of the metrics vary."
    else:
        strongest = max(pairs, key=lambda pair: abs(pair[2]))
        weakest = min(pairs, key=lambda pair: abs(pair[2]))
        closest, farthest = (
            f"{METRIC_WORDS[i]} and {METRIC_WORDS[j]} ({signed(value)})" for i, j, value in (strongest, weakest)
        )
        said = f"{over}. Closest are {closest}; least to do with one another have {farthest}"
        still = [METRIC_WORDS[i] for i in range(len(METRICS)) if np.isnan(matrix[i, i])]
        said += f"; {listed(still)} {'does' if len(still) == 1 else 'do'} not vary." if still else "."
    return canvas.done(name, title, said[0].upper() + said[1:])


def _pairs(matrix: Floats) -> list[tuple[int, int, float]]:
    size = len(matrix)
    return [(i, j, float(matrix[i, j])) for i in range(size) for j in range(i) if not np.isnan(matrix[i, j])]


def _map(matrix: Floats, names: Sequence[str], width: int, row: int) -> Canvas:
    """A matrix of correlations as colours with their figures; an empty cell has a dash."""
    from matplotlib.patches import Rectangle

    size = len(names)
    left = int(max(len(name) for name in names) * 6.9) + 14
    cell = (width - left - 10) / size
    height = min(cell, row)
    canvas = Canvas(width, int(height * size) + left + 16)
    axes = canvas.axes(left, left + 6, 10, 10)
    axes.set_xlim(0, size)
    axes.set_ylim(size, 0)
    for i in range(size):
        for j in range(size):
            value = matrix[i, j]
            known = not np.isnan(value)
            axes.add_patch(Rectangle((j, i), 1, 1, facecolor=level_colour(float(value)) if known else SURFACE.light,
                                     edgecolor=SURFACE.light, linewidth=1.5, clip_on=False))  # fmt: skip
            text = digits(float(value)) if known else "–"
            axes.text(j + 0.5, i + 0.54, _cell(text, cell), ha="center", va="center", fontsize=min(11, cell / 3.1),
                      color=INK.light if known else MUTED.light)  # fmt: skip
    axes.set_xticks(np.arange(size) + 0.5, names, rotation=90)
    axes.set_yticks(np.arange(size) + 0.5, names)
    quiet_frame(axes)
    return canvas


def _cell(text: str, width: float) -> str:
    """A correlation's figure for a narrow cell loses its zero."""
    return text.replace("0.", ".") if width < 34 else text


class Fields(NamedTuple):
    """Correlations of fields from run to run, within configurations."""

    names: list[str]
    matrix: Floats
    runs: int


def field_correlations(runs: Runs, configurations: int) -> Fields | None:
    """How fields go together from run to run: each run less the mean of its configuration. None for too few runs."""
    found, least = {}, {}
    for name in COMPARED:
        values = _centred(runs.values[name], runs.of, configurations)
        known = values[~np.isnan(values)]
        if len(known) < 4:
            continue
        # What a mean leaves of equal values by rounding is no variation.
        rounding = 1e-9 * max(1e-12, float(np.nanmax(np.abs(runs.values[name]))))
        if float(known.std()) > rounding:
            found[name], least[name] = values, rounding
    names = list(found)
    if len(names) < 2:
        return None
    matrix = np.full((len(names), len(names)), np.nan)
    most = 0
    for i, a in enumerate(names):
        matrix[i, i] = 1.0
        for j in range(i):
            b = names[j]
            both = ~np.isnan(found[a]) & ~np.isnan(found[b])
            x, y = found[a][both], found[b][both]
            # Either may vary elsewhere, and not where the other is known.
            if both.sum() >= 4 and float(np.abs(x).max()) > least[a] and float(np.abs(y).max()) > least[b]:
                matrix[i, j] = matrix[j, i] = (x * y).sum() / np.sqrt((x * x).sum() * (y * y).sum())
                most = max(most, int(both.sum()))
    return Fields(names, matrix, most)


def _centred(values: Floats, of: npt.NDArray[np.int64], configurations: int) -> Floats:
    """Values less the mean of their configuration; NaN for the only run of one, which tells nothing."""
    known = ~np.isnan(values)
    counts = np.bincount(of[known], minlength=configurations).astype(np.float64)
    sums = np.bincount(of[known], weights=values[known], minlength=configurations)
    mean = np.full(configurations, np.nan)
    np.divide(sums, counts, out=mean, where=counts > 1)
    found: Floats = values - mean[of]
    return found


def field_map(fields: Fields) -> Drawing:
    """The correlations of fields as a figure."""
    canvas = _map(fields.matrix, [_plain(name) for name in fields.names], WIDE, 26)
    pairs = sorted(_pairs(fields.matrix), key=lambda pair: -abs(pair[2]))
    said = "Each run is taken less the mean of its configuration, so that only what differs from run to run counts"
    strong = [f"{_plain(fields.names[i])} and {_plain(fields.names[j])} ({signed(value)})" for i, j, value in pairs[:3]]
    said += f". Closest are {listed(strong)}" if strong else ""
    if fields.runs < 30:
        said += f". With {fields.runs} runs much of this is chance"
    return canvas.done("fields", "How fields of the fingerprint go together", said + ".")


def _plain(field: str) -> str:
    return short(field.replace("_", " "), 26)


class Components(NamedTuple):
    """Principal components of runs: coordinates (runs, 2), weights (fields, 2), shares of the variance (2).

    `rows` says which runs those are; `filled` how many values of how many were not known, and count as the mean.
    """

    rows: npt.NDArray[np.int64]
    coordinates: Floats
    fields: list[str]
    weights: Floats
    shares: Floats
    filled: tuple[int, int]


def components(runs: Runs) -> Components | None:
    """The first two principal components of standardised fields. None for fewer than 3 runs or 2 fields that vary.

    The sign of a component is such that its largest weight is positive.
    """
    count = len(runs)
    rows = np.arange(count)
    if count > ROWS_MOST:
        rows = np.linspace(0, count - 1, ROWS_MOST).astype(np.int64)
    columns, names, missing = [], [], 0
    for name in NUMBERS:
        values = runs.values[name][rows]
        known = ~np.isnan(values)
        if count < 3 or known.sum() < max(3, KNOWN_LEAST * len(rows)):
            continue
        centre, spread = float(values[known].mean()), float(values[known].std())
        if spread <= 1e-9 * max(1e-12, float(np.abs(values[known]).max())):
            continue
        columns.append(np.where(known, (values - centre) / spread, 0.0))
        names.append(name)
        missing += int((~known).sum())
    if len(names) < 2:
        return None
    table = np.stack(columns, axis=1)
    _, singular, directions = np.linalg.svd(table, full_matrices=False)
    weights = directions[:2].T
    for component in range(weights.shape[1]):
        # The largest; of those that differ by less than rounding, the first.
        size = np.abs(weights[:, component])
        largest = int(np.flatnonzero(size >= size.max() - 1e-9)[0])
        if weights[largest, component] < 0:
            weights[:, component] *= -1.0
    shares = singular**2 / (singular**2).sum()
    coordinates = np.round(table @ weights, 5)
    return Components(rows, coordinates, names, np.round(weights, 6), shares[:2], (missing, table.size))


def scatter(found: Components, runs: Runs, places: Sequence[Place]) -> Drawing:
    """Runs in the plane of the first two components."""
    labels = [short(name) for _, name, _ in places]
    below = legend_height(labels, WIDE)
    canvas = Canvas(WIDE, 430 + below)
    axes = canvas.axes(58, 42 + below, 14, 26)
    of = runs.of[found.rows]
    each_most = max(1, DOTS_MOST // len(places))
    handles, left_out = [], 0
    for place, _, how in places:
        mine = np.flatnonzero(of == place)
        chosen = mine[np.linspace(0, len(mine) - 1, each_most).astype(np.int64)] if len(mine) > each_most else mine
        left_out += len(mine) - len(chosen)
        handles.append(axes.plot(
            found.coordinates[chosen, 0], found.coordinates[chosen, 1], linestyle="none", marker=how.marker,
            color=how.colour, markersize=7 * how.scale, markeredgecolor=SURFACE.light, markeredgewidth=0.5,
        )[0])  # fmt: skip
    axes.axhline(0, zorder=0, **LINE | {"color": GRID.light})
    axes.axvline(0, zorder=0, **LINE | {"color": GRID.light})
    few_ticks(axes)
    axes.set_xlabel(f"first component, {100 * found.shares[0]:.0f} % of the variance")
    axes.set_title(f"second component, {100 * found.shares[1]:.0f} %", fontsize=11)
    canvas.legend(handles, labels)
    return canvas.done("components", "Principal components of runs", _scatter_words(found, of, places, left_out))


def _scatter_words(
    found: Components, of: npt.NDArray[np.int64], places: Sequence[Place], left_out: int
) -> str:  # fmt: skip
    said = (
        f"The first two components carry {100 * found.shares[0]:.0f} and {100 * found.shares[1]:.0f} % of the variance "
        f"of {len(found.fields)} fields; the first goes with {listed(_heaviest(found, 0))}, the second with "
        f"{listed(_heaviest(found, 1))}."
    )
    centres = {name: found.coordinates[of == place].mean(axis=0) for place, name, _ in places if (of == place).any()}
    names = list(centres)
    if len(names) > 1:
        apart = [
            (float(np.sqrt(((centres[a] - centres[b]) ** 2).sum())), a, b)
            for i, a in enumerate(names)
            for b in names[:i]
        ]
        far, near = max(apart), min(apart)
        said += f" Farthest apart are the runs of {far[2]} and {far[1]}"
        said += f", closest those of {near[2]} and {near[1]}." if len(apart) > 1 else "."
    if found.filled[0]:
        share = 100 * found.filled[0] / found.filled[1]
        said += f" {digits(share, 1)} % of the values are not known, and count as the mean of their field."
    return said + (f" {left_out:,} dots are left out, evenly." if left_out else "")


def _heaviest(found: Components, component: int) -> list[str]:
    order = sorted(range(len(found.fields)), key=lambda i: (-abs(found.weights[i, component]), i))
    return [
        f"{_plain(found.fields[i])} ({signed(float(found.weights[i, component]))})" for i in order[:3]
    ]  # fmt: skip
