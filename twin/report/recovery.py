"""Kicks in figures: how kicked runs came back, and how strong a kick may be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from twin.experiment.kicks import Course
from twin.fingerprint.configuration import KINDS, ladders
from twin.fingerprint.words import listed
from twin.report.canvas import (
    LINE,
    PANEL,
    WIDE,
    Axes,
    Canvas,
    few_ticks,
    legend_height,
    marked,
    name_margin,
    quiet_frame,
)
from twin.report.parts import Drawing, digits, short
from twin.report.source import Configuration
from twin.report.style import INK, SURFACE, Mark, level_colour

WORDS = {
    "heat_burst": "heat burst", "load_pulse": "load pulse", "window_reset": "window reset",
    "hot_ambient": "hot ambient",
}  # fmt: skip


class Reach(NamedTuple):
    """From what strength a configuration comes back from a kind of kick under every seed, and how long that takes.

    0 sigmas where it does not come back from the least; `most` is the strongest that was tried.
    """

    sigmas: float
    ticks: int | None
    most: float


def reach(configuration: Configuration, kind: str) -> Reach | None:
    """How far it reaches; None where it was not kicked so."""
    mine = [kick for kick in configuration.kicks if kick.kind == kind]
    if not mine:
        return None
    by_seed = [kinds[kind] for kinds in ladders(mine).values()]
    sigmas = min((rungs[-1][0] if rungs else 0.0) for rungs in by_seed)
    within = [ticks for rungs in by_seed for strength, ticks in rungs if strength == sigmas]
    return Reach(sigmas, max(within, default=None), max(kick.strength_sigmas for kick in mine))


def kicked_kinds(configurations: Sequence[Configuration]) -> list[str]:
    """The kinds of kick that somebody got, in the order in which they are defined."""
    there = {kick.kind for each in configurations for kick in each.kicks}
    return [kind for kind in KINDS if kind in there]


def depths(configurations: Sequence[Configuration]) -> Drawing:
    """From how strong a kick each configuration comes back, by kind."""
    from matplotlib.patches import Rectangle

    kinds = kicked_kinds(configurations)
    names = [each.name for each in configurations]
    canvas = Canvas(WIDE, 30 * len(names) + 52)
    axes = canvas.axes(name_margin(names), 8, 12, 36)
    tried = max(kick.strength_sigmas for each in configurations for kick in each.kicks)
    for row, each in enumerate(configurations):
        for column, kind in enumerate(kinds):
            found = reach(each, kind)
            share = 0.0 if found is None or tried <= 0 else (found.sigmas / tried) ** 0.5
            colour = SURFACE.light if found is None else level_colour(-share)
            axes.add_patch(Rectangle((column, row - 0.5), 1, 1, facecolor=colour, edgecolor=SURFACE.light, linewidth=2,
                                     clip_on=False))  # fmt: skip
            axes.text(column + 0.5, row, _reach_words(found), ha="center", va="center", fontsize=11, color=INK.light)
    axes.set_xlim(0, len(kinds))
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_yticks(range(len(names)), [short(name) for name in names])
    axes.set_xticks([column + 0.5 for column in range(len(kinds))], [WORDS[kind] for kind in kinds])
    axes.xaxis.tick_top()
    quiet_frame(axes)
    said = (
        "The strongest kick, in standard deviations of the steady state, from which (and from all weaker ones) every "
        "seed comes back, and the ticks that the slowest takes. " + _depth_words(configurations, kinds)
    )
    return canvas.done("kick-depths", "How strong a kick may be", said)


def _reach_words(found: Reach | None) -> str:
    if found is None:
        return "not kicked"
    if not found.sigmas:
        return "does not return"
    return f"{found.sigmas:g} σ, {found.ticks or 0:,} ticks"


def _depth_words(configurations: Sequence[Configuration], kinds: Sequence[str]) -> str:
    lost = {
        kind: [each.name for each in configurations if (found := reach(each, kind)) is not None and not found.sigmas]
        for kind in kinds
    }
    said = [
        f"{listed(names[:4])}{' and others' if len(names) > 4 else ''} {'does' if len(names) == 1 else 'do'} not come "
        f"back from the weakest {WORDS[kind]}"
        for kind, names in lost.items()
        if names
    ]
    if said:
        return "; ".join(said) + "."
    full = [
        each.name
        for each in configurations
        if all((found := reach(each, kind)) is None or found.sigmas >= found.most for kind in kinds)
    ]
    if len(full) == len(configurations):
        return "Everything comes back from everything that was tried."
    return (
        f"{listed(full[:4])} come back from everything that was tried." if full else "All come back from the weakest."
    )


def recoveries(configurations: Sequence[Configuration], marks: Sequence[Mark]) -> list[Drawing]:
    """The courses after kicks, a figure for each kind: each configuration's strongest kick under its first seed."""
    found = []
    for kind in kicked_kinds(configurations):
        lines = [
            (each, how, course)
            for each, how in zip(configurations, marks, strict=True)
            if (course := _strongest(each, kind)) is not None
        ]
        if lines:
            found.append(_recovery(kind, lines))
    return found


def _strongest(configuration: Configuration, kind: str) -> Course | None:
    courses = [course for course in configuration.courses if course.kind == kind and len(course.ticks) > 1]
    if not courses:
        return None
    seed = min(course.seed for course in courses)
    return max((course for course in courses if course.seed == seed), key=lambda course: course.strength_sigmas)


def _recovery(kind: str, lines: Sequence[tuple[Configuration, Mark, Course]]) -> Drawing:
    labels = [f"{short(each.name)}, {course.strength_sigmas:g} σ" for each, _, course in lines]
    below = legend_height(labels, PANEL)
    canvas = Canvas(PANEL, 300 + below)
    axes = canvas.axes(56, 42 + below, 14, 26)
    handles = []
    for place, (_, how, course) in enumerate(lines):
        handles.append(marked(axes, course.ticks, course.bands, how, offset=place / len(lines), linewidth=1.3))
    axes.axhline(1.0, linestyle=(0, (3, 3)), zorder=0.5, **LINE | {"color": INK.light})
    # Far outside and well inside are to be seen in one figure: linear up to the band's edge, logarithmic beyond.
    axes.set_yscale("symlog", linthresh=1.0, linscale=1.0)
    highest = max(max(course.bands) for *_, course in lines)
    axes.set_ylim(0, max(1.5, highest * 1.3))
    _symlog_ticks(axes, highest)
    few_ticks(axes, x=5, y=None)
    axes.set_xlabel("ticks after the kick")
    axes.set_title("largest distance of a metric, in bands of 5 %", fontsize=11)
    canvas.legend(handles, labels)
    said = "Below the dashed line all metrics are within their bands. "
    farthest = max(lines, key=lambda line: max(line[2].bands))
    said += f"{farthest[0].name} goes farthest, to {digits(max(farthest[2].bands), 1)} bands"
    out = [each.name for each, _, course in lines if course.bands[-1] > 1.0]
    inside = [each.name for each, _, course in lines if max(course.bands) <= 1.0]
    said += (
        f"; {listed(out[:4])}{' and others' if len(out) > 4 else ''} end{'s' * (len(out) == 1)} outside" if out else ""
    )
    if len(inside) == len(lines):
        said += "; nobody leaves the band"
    elif not out:
        said += "; all end inside"
    return canvas.done(f"kick-{kind.replace('_', '-')}", f"After the strongest {WORDS[kind]}", said + ".")


def _symlog_ticks(axes: Axes, highest: float) -> None:
    from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

    decades = [10.0**power for power in range(1, 12)]
    beyond = decades if highest > 200 else sorted([*decades, 2.0, 5.0, 20.0, 50.0])
    ticks = [0.0, 0.5, 1.0, *(tick for tick in beyond if tick <= highest * 1.3)]
    axes.yaxis.set_major_locator(FixedLocator(ticks))
    axes.yaxis.set_major_formatter(FixedFormatter([f"{tick:,g}" for tick in ticks]))
    axes.yaxis.set_minor_locator(NullLocator())
