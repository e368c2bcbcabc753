"""The kept ticks in figures: courses in time, phase portraits and spectra of a few runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from twin.fingerprint.words import listed
from twin.report.canvas import PANEL, WIDE, Axes, Canvas, few_ticks, legend_height, marked, name_margin, one_row_each
from twin.report.parts import Drawing, digits, precise, short
from twin.report.source import Runs
from twin.report.style import INK, MUTED, SURFACE, Mark
from twin.report.tracks import Track

Floats = npt.NDArray[np.float64]

NAMES = {
    "load_percent": "offered load, %",
    "interval_us": "interval of the heartbeat, µs",
    "cache_percent": "cache hits, % of words",
    "heat_thousands": "heat of all words, thousand executions",
    "window": "window, words",
}
"""What is drawn in time, and how it is called."""
_SHORT = {
    "interval_us": ("interval", "interval", " µs"),
    "cache_percent": ("cache-hits", "share of cache hits", " %"),
    "heat_thousands": ("heat", "heat", " thousand executions"),
    "window": ("window", "window", " words"),
}
STRIP, GAP = 74, 30
GRID_POINTS = 240
DOTS_MOST = 150
DECADE_POINTS = 60
FAR = 2.0
"""So many times the usual longest interval is far longer."""


class Shown(NamedTuple):
    """A configuration as the figures have it: its runs' courses, by seed, the first of which is drawn."""

    name: str
    how: Mark
    tracks: Mapping[int, Track]

    @property
    def track(self) -> Track:
        """The run that is drawn."""
        return self.tracks[min(self.tracks)]

    @property
    def seed(self) -> int:
        """Its seed."""
        return min(self.tracks)


def _known(values: Floats) -> Floats:
    return values[~np.isnan(values)]


def _ends(values: Floats) -> tuple[float, float]:
    """The 5th and the 95th percentile."""
    low, high = np.percentile(values, [5, 95]).tolist()
    return low, high


def strips(name: str, shown: Shown, title: str, extra: str = "") -> Drawing:
    """One run's load, interval, cache hits, heat and window under one another, and how far other seeds lie from it."""
    canvas = Canvas(PANEL, 46 + len(NAMES) * (STRIP + GAP))
    track = shown.track
    others = [other for seed, other in shown.tracks.items() if seed != shown.seed]
    last = len(NAMES) - 1
    for row, (metric, label) in enumerate(NAMES.items()):
        bottom = 42 + (last - row) * (STRIP + GAP)
        axes = canvas.axes(64, bottom, 12, canvas.height - bottom - STRIP)
        colour = MUTED.light if metric == "load_percent" else shown.how.colour
        values = track.course(metric)
        if others:
            span = _span([track, *others], metric)
            if span is not None:
                axes.fill_between(*span, color=colour, alpha=0.22, linewidth=0)
        axes.plot(track.seconds, values, color=colour, linewidth=1.4)
        axes.set_title(label, fontsize=11, pad=4)
        few_ticks(axes, y=3)
        _room(axes, values)
        if row < last:
            axes.tick_params(labelbottom=False)
        else:
            axes.set_xlabel("seconds")
    said = f"Seed {shown.seed}"
    if others:
        said += f"; the band spans it and the {len(others)} other run{'s' * (len(others) > 1)} that were read"
    said += ". " + _course_words(track)
    return canvas.done(name, title, " ".join([said, extra]).strip())


def _room(axes: Axes, values: Floats) -> None:
    """A constant line lies in the middle of an axis about it, not on one that shows its rounding."""
    known = _known(values)
    if len(known) and float(known.max() - known.min()) <= 1e-9 * abs(float(known.max())):
        centre = float(known[0])
        low, high = (0.9 * centre, 1.1 * centre) if centre > 0 else (-0.05, 1.0)
        axes.set_ylim(low, high)


def _span(tracks: Sequence[Track], metric: str) -> tuple[Floats, Floats, Floats] | None:
    """Seconds, and the least and the largest of the runs there."""
    end = min(float(track.seconds[-1]) for track in tracks)
    at = np.linspace(0.0, end, GRID_POINTS)
    rows = []
    for track in tracks:
        known = ~np.isnan(track.course(metric))
        if known.sum() >= 2:
            rows.append(np.interp(at, track.seconds[known], track.course(metric)[known]))
    if len(rows) < 2:
        return None
    return at, np.min(rows, axis=0), np.max(rows, axis=0)


def _course_words(track: Track) -> str:
    said = []
    for metric, name in (("load_percent", "the load"), ("interval_us", "the interval")):
        known = _known(track.course(metric))
        unit = "%" if metric == "load_percent" else "µs"
        if not len(known):
            said.append(f"{name} is not known")
        elif known.min() == known.max():
            said.append(f"{name} stays at {digits(float(known[0]), 0)} {unit}")
        else:
            said.append(f"{name} goes from {digits(float(known.min()), 0)} to {digits(float(known.max()), 0)} {unit}")
    r = _correlation(track.load_percent, track.interval_us)
    if r is not None:
        said.append(f"at the same moment they have a correlation of {digits(r)}")
    cache = _known(track.cache_percent)
    if len(cache) >= 4:
        late = float(cache[-len(cache) // 4 :].mean())
        said.append(f"in the last quarter {digits(late, 1)} % of the words are cache hits")
    text = ", ".join(said[:2]) + "".join(f"; {part}" for part in said[2:])
    return text[0].upper() + text[1:] + "."


def _correlation(a: Floats, b: Floats) -> float | None:
    """Pearson's r of two series where both are known; None where one does not vary by more than rounding."""
    both = ~np.isnan(a) & ~np.isnan(b)
    a, b = a[both], b[both]
    if len(a) < 3 or any(float(np.ptp(each)) <= 1e-9 * float(np.abs(each).max()) for each in (a, b)):
        return None
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))


def together(shown: Sequence[Shown], metric: str) -> Drawing:
    """The courses of all configurations in one metric, under the load of one seed if they share it."""
    name, word, unit = _SHORT[metric]
    labels = [short(each.name) for each in shown]
    below = legend_height(labels, PANEL)
    canvas = Canvas(PANEL, 300 + below)
    axes = canvas.axes(64, 42 + below, 12, 26)
    handles = []
    for place, each in enumerate(shown):
        track = each.track
        at = np.linspace(0.0, float(track.seconds[-1]), GRID_POINTS)
        values = track.course(metric)
        known = ~np.isnan(values)
        values = np.interp(at, track.seconds[known], values[known]) if known.any() else np.full(len(at), np.nan)
        handles.append(marked(axes, at, values, each.how, offset=place / len(shown), linewidth=1.3))
    axes.set_title(NAMES[metric], fontsize=11)
    axes.set_xlabel("seconds")
    few_ticks(axes)
    if len(shown) == 1:
        _room(axes, shown[0].track.course(metric))
    elif metric == "heat_thousands":
        _far_apart(axes, [_known(each.track.course(metric)) for each in shown])
    canvas.legend(handles, labels)
    seeds = {each.seed for each in shown}
    said = f"All under the load of seed {min(seeds)}. " if len(seeds) == 1 else "Seeds differ, and so do the loads. "
    return canvas.done(f"course-{name}", f"The {word} in time", said + _together_words(shown, metric, word, unit))


def _far_apart(axes: Axes, series: Sequence[Floats]) -> None:
    """Where some are many times as large as others: linear up to the smallest one's peak, logarithmic beyond."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    peaks = [float(values.max()) for values in series if len(values) and values.max() > 0]
    if not peaks or max(peaks) < 30 * min(peaks):
        return
    decade = 10.0 ** np.floor(np.log10(min(peaks)))
    axes.set_yscale("symlog", linthresh=decade, linscale=0.6)
    ticks = [0.0, *(decade * 10.0**power for power in range(12) if decade * 10.0**power <= 1.5 * max(peaks))]
    axes.set_ylim(-0.08 * decade, 1.6 * max(peaks))
    axis = axes.yaxis
    axis.set_major_locator(FixedLocator(ticks[:1] + ticks[1 :: -(-len(ticks) // 6)]))
    axis.set_major_formatter(FuncFormatter(_plain))
    axis.set_minor_locator(NullLocator())


def _together_words(shown: Sequence[Shown], metric: str, word: str, unit: str) -> str:
    found = [(each.name, known) for each in shown if len(known := _known(each.track.course(metric)))]
    if not found:
        return f"No configuration has a {word}."
    ends = {name: _ends(values) for name, values in found}
    widths = {name: high - low for name, (low, high) in ends.items()}
    places = 0 if max(abs(high) for _, high in ends.values()) >= 100 else 1

    def span(name: str) -> str:
        low, high = (digits(value, places) for value in ends[name])
        return f"stays at {low}{unit}" if low == high else f"from {low} to {high}{unit}"

    widest = max(widths, key=lambda name: widths[name])
    groups: dict[str, list[str]] = {}
    for name, wide in widths.items():
        if wide == 0:
            groups.setdefault(digits(ends[name][0], places), []).append(name)
    stays = listed([f"at {value}{unit} in {listed(names)}" for value, names in groups.items()])
    if max(widths.values()) == 0:
        if len(groups) == 1 and len(found) > 1:
            stays = f"at {next(iter(groups))}{unit} in every configuration"
        always = all(float(values.min()) == float(values.max()) for _, values in found)
        return f"The {word} stays {stays}{'' if always else ', nine tenths of the time'}."
    said = f"The {word} moves most in {widest} (nine tenths of the time {span(widest)})"
    narrowest = min(widths, key=lambda name: widths[name])
    if groups:
        said += f", and stays {stays}"
    elif narrowest != widest:
        inside = span(narrowest)
        inside = f"where it {inside}" if inside.startswith("stays") else inside
        said += f", and least in {narrowest} ({inside})"
    return said + "."


class Ranges(NamedTuple):
    """The axes of a phase portrait; `own` where they are not those of all others."""

    load: tuple[float, float]
    interval: tuple[float, float]
    cache: tuple[float, float]
    own: bool


def ranges(tracks: Sequence[Track]) -> list[Ranges]:
    """Common axes, so that portraits can be compared, but for those whose intervals are far longer than the others'."""
    longest = [float(track.interval_us.max()) for track in tracks]
    usual = float(np.median(longest))
    far = [high > FAR * usual for high in longest]

    def of(metric: str, some: Sequence[Track]) -> tuple[float, float]:
        values = np.concatenate([_known(track.course(metric)) for track in some])
        if not len(values):
            return 0.0, 1.0
        low, high = float(values.min()), float(values.max())
        more = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
        return low - more, high + more

    near = of("interval_us", [track for track, is_far in zip(tracks, far, strict=True) if not is_far])
    load, cache = of("load_percent", tracks), of("cache_percent", tracks)
    return [
        Ranges(load, of("interval_us", [track]) if is_far else near, cache, is_far)
        for track, is_far in zip(tracks, far, strict=True)
    ]


def portrait(name: str, shown: Shown, title: str, axes_of: Ranges) -> Drawing:
    """Load against interval, and interval against cache hits."""
    canvas = Canvas(PANEL, 272)
    half = PANEL // 2
    track = shown.track
    load, passed, cache = (_paired(track.course(each)) for each in ("load_percent", "interval_us", "cache_percent"))
    pairs = (
        (load, passed, "load, %", "interval, µs", axes_of.load, axes_of.interval),
        (passed, cache, "interval, µs", "cache hits, %", axes_of.interval, axes_of.cache),
    )
    for place, (x, y, below, beside, x_range, y_range) in enumerate(pairs):
        axes = canvas.axes(place * half + 54, 44, (1 - place) * half + 14, 28)
        axes.plot(x, y, color=shown.how.colour, linewidth=0.7, alpha=0.55)
        axes.plot(x, y, color=shown.how.colour, linestyle="none", marker=".", markersize=4, markeredgecolor="none")
        both = np.flatnonzero(~np.isnan(x) & ~np.isnan(y))
        if len(both):
            first, last = both[0], both[-1]
            axes.plot(x[first], y[first], marker="^", markersize=8, color=SURFACE.light, markeredgecolor=INK.light)
            axes.plot(x[last], y[last], marker="s", markersize=7, color=INK.light, markeredgecolor=SURFACE.light)
        else:
            axes.text(0.5, 0.5, "not known", transform=axes.transAxes, ha="center", color=MUTED.light)
        axes.set_xlim(*x_range)
        axes.set_ylim(*y_range)
        few_ticks(axes, x=4, y=5)
        axes.set_xlabel(below, fontsize=11)
        axes.set_title(beside, fontsize=11)
    said = _portrait_words(track)
    if axes_of.own:
        said += " Its intervals are so much longer that it has axes of its own."
    return canvas.done(name, title, said)


def _paired(values: Floats) -> Floats:
    """Means of two points, where both are known."""
    return values if len(values) < 2 else values[: len(values) // 2 * 2].reshape(-1, 2).mean(axis=1)


def _portrait_words(track: Track) -> str:
    said = []
    r = _correlation(track.load_percent, track.interval_us)
    if r is None:
        load = _known(track.load_percent)
        still = "interval" if len(load) and load.min() < load.max() else "load"
        why = "is not known" if not len(load) else "does not vary"
        said.append(f"The {still} {why}, so there is no line from load to interval")
    else:
        slope = _slope(track.load_percent, track.interval_us)
        longer = f"{digits(abs(10 * slope), 0)} µs {'longer' if slope >= 0 else 'shorter'}"
        said.append(
            "With a load 10 percentage points higher the interval is "
            f"{longer if abs(10 * slope) >= 0.5 else 'no longer'} on the mean, "
            f"which explains {digits(100 * r * r, 0)} % of its variance"
        )
    cache = _known(track.cache_percent)
    if len(cache):
        low, high = (digits(value, 1) for value in _ends(cache))
        with_interval = _correlation(track.interval_us, track.cache_percent)
        text = (
            f"cache hits stay at {low} %"
            if low == high
            else f"nine tenths of the cache hits lie between {low} and {high} %"
        )
        said.append(text if with_interval is None else f"{text}, r = {digits(with_interval)} with the interval")
    return "; ".join(said) + "."


def _slope(x: Floats, y: Floats) -> float:
    both = ~np.isnan(x) & ~np.isnan(y)
    x, y = x[both] - x[both].mean(), y[both] - y[both].mean()
    return float((x * y).sum() / (x * x).sum())


def spectra(shown: Sequence[Shown]) -> tuple[list[Drawing], str]:
    """The spectra of the interval, the mean over the runs that were read; and why there is none, if there is none."""
    lines = []
    for each in shown:
        found = [track.spectrum for track in each.tracks.values() if track.spectrum is not None]
        sizes = {len(one.share) for one in found}
        if found:
            size = max(sizes)
            same = [one for one in found if len(one.share) == size]
            frequency = np.mean([one.frequency_hz for one in same], axis=0)
            lines.append((each, frequency, np.mean([one.share for one in same], axis=0), same[0].spacing_s))
    if not lines:
        return (
            [],
            "No spectrum is drawn: the kept ticks are too few, too uneven in time, or their interval is constant.",
        )
    from matplotlib.ticker import FuncFormatter

    labels = [short(each.name) for each, *_ in lines]
    below = legend_height(labels, WIDE)
    canvas = Canvas(WIDE, 330 + below)
    axes = canvas.axes(72, 42 + below, 14, 26)
    handles = []
    for place, (each, frequency, share, _) in enumerate(lines):
        frequency, density = _thinned(frequency, share / frequency[0])
        handles.append(marked(axes, frequency, density, each.how, offset=place / len(lines), linewidth=1.2))
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(_plain))
    axes.yaxis.set_major_formatter(FuncFormatter(_plain))
    axes.set_title("share of the interval's variance in 1 Hz", fontsize=11)
    axes.set_xlabel("frequency, Hz")
    axes.minorticks_off()
    canvas.legend(handles, labels)
    every = max(each.track.every for each, *_ in lines)
    spacings = [1_000 * spacing for *_, spacing in lines]
    limit = min(frequency[-1] for _, frequency, *_ in lines)
    peaks = [_peak(each.name, frequency, share) for each, frequency, share, _ in lines[:3]]
    said = f"The strongest frequency is {listed(peaks)}"
    said += f"; frequencies are told apart down to {precise(max(float(f[0]) for _, f, *_ in lines))} Hz. "
    said += _band_words(every, spacings, limit)
    return [canvas.done("spectra", "Spectrum of the interval", said)], ""


def _peak(name: str, frequency: Floats, share: Floats) -> str:
    peak = int(np.argmax(share))
    return f"{precise(float(frequency[peak]))} Hz in {name}{' (the lowest that is seen)' if peak == 0 else ''}"


def _thinned(frequency: Floats, density: Floats) -> tuple[Floats, Floats]:
    """Means over parts of equal width on a logarithmic axis, where there are many values in one."""
    place = (np.log(frequency / frequency[0]) * DECADE_POINTS / np.log(10.0)).astype(np.int64)
    begins = np.flatnonzero(np.diff(place, prepend=-1))
    counts = np.diff(begins, append=len(place))
    return np.add.reduceat(frequency, begins) / counts, np.add.reduceat(density, begins) / counts


def _plain(value: float, _: object = None) -> str:
    return f"{value:,g}"


def _band_words(every: int, spacings_ms: Sequence[float], limit_hz: float) -> str:
    low, high = digits(min(spacings_ms), 1), digits(max(spacings_ms), 1)
    apart = f"{low} ms" if low == high else f"{low} to {high} ms"
    if every == 1:
        return f"Every tick is kept, about {apart} apart; nothing above {digits(limit_hz, 0)} Hz can be seen."
    return (
        f"Only one tick in {every} is kept, about {apart} apart: nothing above {digits(limit_hz, 0)} Hz can be seen, "
        "and what swings faster in truth shows folded down to lower frequencies, jitter most of all."
    )


def frequencies(runs: Runs, places: Sequence[tuple[int, str, Mark]]) -> Drawing | None:
    """The dominant frequency of each run, which was computed from every tick."""
    field = "dominant_frequency_hz"
    rows = [(place, name, how, runs.of_place(place, field)) for place, name, how in places]
    rows = [row for row in rows if len(row[3]) and row[3].min() > 0]
    if not rows:
        return None
    names = [name for _, name, _, _ in rows]
    canvas = Canvas(WIDE, 30 * len(rows) + 60)
    axes = canvas.axes(name_margin(names), 46, 20, 8)
    for row, (_, _, how, values) in enumerate(rows):
        dots = some(values)
        axes.plot(dots, row + shaken(len(dots)), linestyle="none", marker=how.marker, color=how.colour,
                  markersize=5 * how.scale, alpha=0.75, markeredgecolor="none")  # fmt: skip
    axes.set_xscale("log")
    axes.minorticks_off()
    _plain_decades(axes, [float(each) for *_, values in rows for each in (values.min(), values.max())])
    one_row_each(axes, names)
    axes.set_xlabel("dominant frequency of the interval, Hz")
    medians = {name: float(np.median(values)) for _, name, _, values in rows}
    spreads = {name: float(values.max() / values.min()) for _, name, _, values in rows}
    widest = max(spreads, key=lambda name: spreads[name])
    said = f"A dot is a run. The median is {precise(medians[names[0]])} Hz in {names[0]}"
    others = [name for name in names[1:] if not 0.8 <= medians[name] / medians[names[0]] <= 1.25]
    if len(names) > 1:
        far = max(names[1:], key=lambda name: abs(np.log(medians[name] / medians[names[0]])))
        said += (
            f", and farthest from that in {far} ({precise(medians[far])} Hz)"
            if others
            else ", and within a quarter of that in all others"
        )
    said += f"; runs differ most in {widest}, by a factor of {digits(spreads[widest], 1)}."
    return canvas.done("dominant-frequencies", "Dominant frequency of each run, from every tick", said)


def _plain_decades(axes: Axes, values: Sequence[float]) -> None:
    """Ticks of a logarithmic axis as plain numbers, few enough to be read."""
    from matplotlib.ticker import FixedFormatter, FixedLocator

    low, high = min(values), max(values)
    steps = (1, 2, 5) if high < 300 * low else (1,)
    axes.set_xlim(low / 1.6, high * 1.6)
    ticks = [step * 10.0**power for power in range(-12, 13) for step in steps]
    inside = [tick for tick in ticks if low / 1.6 <= tick <= high * 1.6]
    axes.xaxis.set_major_locator(FixedLocator(inside))
    axes.xaxis.set_major_formatter(FixedFormatter([f"{tick:g}" for tick in inside]))


def some(values: Floats) -> Floats:
    """At most `DOTS_MOST` of the values, evenly spread over their order."""
    if len(values) <= DOTS_MOST:
        return values
    return np.sort(values)[np.linspace(0, len(values) - 1, DOTS_MOST).astype(np.int64)]


def shaken(count: int) -> Floats:
    """Small offsets that keep dots apart: the golden ratio's multiples, from -0.25 to 0.25."""
    return np.asarray(np.arange(1, count + 1) * 0.6180339887498949 % 1.0 * 0.5 - 0.25, dtype=np.float64)
