"""The golden choice in figures and words: who has how many points, where they come from, and how sure that is."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from twin.fingerprint.scoring import CHANCE_CORRELATION
from twin.fingerprint.words import listed
from twin.report.canvas import (
    LINE,
    PANEL,
    WIDE,
    Canvas,
    few_ticks,
    legend_height,
    name_margin,
    one_row_each,
)
from twin.report.parts import Drawing, Section, digits, ordinal
from twin.report.source import Configuration, Experiment
from twin.report.style import HATCHES, INK, SERIES, SHOWN_MOST, SURFACE, mark

ROW = 30


def choice_section(experiment: Experiment) -> Section:
    """Everything about the choice."""
    shown = [each for each in experiment.configurations if each.entry["total"] is not None][:SHOWN_MOST]
    section = Section("choice", "The choice")
    section.paragraphs.append(str(experiment.choice["why"]))
    if shown:
        section.drawings.append(_totals(experiment, shown))
        if shown[0].entry["probability_best"] is not None:
            section.drawings.append(_probabilities(experiment, shown))
        else:
            section.paragraphs.append("No probability of being best is drawn: " + _no_probability(experiment) + ".")
        section.drawings.append(_points(shown))
    else:
        section.paragraphs.append("Nothing is drawn, because no configuration has a run.")
    return section


def justification_section(experiment: Experiment) -> Section:
    """Where each configuration's points come from, in words; and those that earn nothing for coupling."""
    section = Section("justification", "What earned and what cost points")
    section.items = [
        (f"{each.place + 1}. {each.name}", sentences(str(each.entry["justification"])))
        for each in experiment.configurations
    ]
    section.paragraphs += uncoupled(experiment.configurations)
    return section


def sentences(text: str) -> list[str]:
    """A justification by dimensions: each begins with its name."""
    return re.split(r"(?<=\.) (?=[A-Z][a-z]+ earns )", text.replace("+-", "±"))


def _no_probability(experiment: Experiment) -> str:
    reasons = experiment.configurations[0].entry.get("reasons", {})
    return str(reasons.get("probability_best", "it is not known"))


def points_of(entry: Mapping[str, Any]) -> dict[str, float]:
    """The points of each dimension."""
    return {name: each["points"] or 0.0 for name, each in entry["dimensions"].items()}


def _interval(entry: Mapping[str, Any]) -> str:
    low_high = entry["interval"]
    if low_high is None:
        return f"no interval, because {entry['reasons'].get('interval', 'its spread is not known')}"
    return f"95 % interval {low_high[0]:.2f} to {low_high[1]:.2f}"


def _totals(experiment: Experiment, shown: Sequence[Configuration]) -> Drawing:
    names = [each.name for each in shown]
    canvas = Canvas(PANEL, ROW * len(shown) + 56)
    axes = canvas.axes(name_margin(names), 44, 52, 8)
    for row, each in enumerate(shown):
        how, total = mark(row), each.entry["total"]
        if each.entry["interval"] is not None:
            low, high = each.entry["interval"]
            axes.plot([low, high], [row, row], color=how.colour, linewidth=3, solid_capstyle="butt")
            axes.plot([low, low, None, high, high], [row - 0.2, row + 0.2, None, row - 0.2, row + 0.2],
                      color=how.colour, linewidth=1.6)  # fmt: skip
        axes.plot([total], [row], color=how.colour, marker=how.marker, markersize=9 * how.scale,
                  markeredgecolor=SURFACE.light, markeredgewidth=0.7)  # fmt: skip
        axes.annotate(f"{total:.2f}", (1, row), xycoords=("axes fraction", "data"), xytext=(6, 0),
                      textcoords="offset points", va="center", color=INK.light)  # fmt: skip
    one_row_each(axes, names)
    few_ticks(axes, x=5, y=None)
    axes.set_xlabel("points of 100, with the 95 % interval")
    best = shown[0]
    said = f"{best.name} has {best.entry['total']:.2f} points ({_interval(best.entry)})"
    lead = experiment.choice.get("lead")
    if lead is not None:
        said += f" and leads {lead['over']} by {lead['points']:.2f} points"
        said += f" (95 % interval {lead['interval'][0]:.2f} to {lead['interval'][1]:.2f})"
    elif len(shown) > 1:
        ahead = best.entry["total"] - shown[1].entry["total"]
        said += f" and leads {shown[1].name} by {ahead:.2f} points"
    if len(shown) > 1:
        last = shown[-1]
        said += f"; {last.name} is {ordinal(last.place + 1)} with {last.entry['total']:.2f}"
    return canvas.done("totals", "Points of each configuration", said + ".")


def _points(shown: Sequence[Configuration]) -> Drawing:
    names = [each.name for each in shown]
    weights = {name: 100 * each["weight"] for name, each in shown[0].entry["dimensions"].items()}
    labels = [f"{name} (of {weight:.0f})" for name, weight in weights.items()]
    below = legend_height(labels, WIDE)
    canvas = Canvas(WIDE, ROW * len(shown) + 58 + below)
    axes = canvas.axes(name_margin(names), 44 + below, 20, 8)
    starts = [0.0] * len(shown)
    handles = []
    for place, name in enumerate(weights):
        widths = [points_of(each.entry)[name] for each in shown]
        handles.append(axes.barh(
            range(len(shown)), widths, left=starts, height=0.7, color=SERIES[place].light, hatch=HATCHES[place],
            edgecolor=SURFACE.light, linewidth=0.8,
        ))  # fmt: skip
        starts = [start + width for start, width in zip(starts, widths, strict=True)]
    one_row_each(axes, names)
    axes.set_xlim(0, 100)
    few_ticks(axes, x=6, y=None)
    axes.set_xlabel("points")
    canvas.legend(handles, labels)
    return canvas.done("points", "Where the points come from", _points_words(shown, weights))


def _points_words(shown: Sequence[Configuration], weights: Mapping[str, float]) -> str:
    best = points_of(shown[0].entry)
    lost = {name: weights[name] - best[name] for name in weights}
    most = max(lost, key=lambda name: lost[name])
    said = f"{shown[0].name} loses most on {most}: {best[most]:.2f} of {weights[most]:.0f} points."
    if len(shown) > 1:
        said += " " + _difference(shown[0], shown[1])
    spreads = {
        name: max(points_of(each.entry)[name] for each in shown) - min(points_of(each.entry)[name] for each in shown)
        for name in weights
    }
    widest = max(spreads, key=lambda name: spreads[name])
    if spreads[widest] > 0:
        said += f" Configurations differ most in {widest}, by up to {spreads[widest]:.2f} points."
    return said


def _difference(ahead: Configuration, behind: Configuration) -> str:
    """Where the lead of one over the other comes from."""
    first, second = points_of(ahead.entry), points_of(behind.entry)
    apart = {name: first[name] - second[name] for name in first}
    lead = sum(apart.values())
    gains = [name for name in sorted(apart, key=lambda name: -apart[name]) if apart[name] >= 0.005]
    losses = [name for name in sorted(apart, key=lambda name: apart[name]) if apart[name] <= -0.005]

    def pairs(names: Sequence[str]) -> str:
        return listed([f"{name} ({first[name]:.2f} against {second[name]:.2f})" for name in names[:2]])

    if not gains and not losses:
        return f"{ahead.name} and {behind.name} have the same points in everything."
    said = f"{ahead.name} is ahead of {behind.name} by {lead:.2f} points"
    if gains:
        said += f", which come mostly from {pairs(gains)}"
    if losses:
        said += f"; it is behind in {pairs(losses)}"
    return said + "."


def _probabilities(experiment: Experiment, shown: Sequence[Configuration]) -> Drawing:
    names = [each.name for each in shown]
    canvas = Canvas(PANEL, ROW * len(shown) + 56)
    axes = canvas.axes(name_margin(names), 44, 52, 8)
    chances = [each.entry["probability_best"] or 0.0 for each in shown]
    for row, chance in enumerate(chances):
        how = mark(row)
        axes.plot([0, chance], [row, row], color=how.colour, linewidth=3, solid_capstyle="butt")
        axes.plot([chance], [row], color=how.colour, marker=how.marker, markersize=9 * how.scale,
                  markeredgecolor=SURFACE.light, markeredgewidth=0.7)  # fmt: skip
        axes.annotate(f"{chance:.3f}", (1, row), xycoords=("axes fraction", "data"), xytext=(6, 0),
                      textcoords="offset points", va="center", color=INK.light)  # fmt: skip
    axes.axvline(0.95, linestyle=(0, (3, 3)), **LINE)
    one_row_each(axes, names)
    axes.set_xlim(-0.04, 1.04)
    few_ticks(axes, x=6, y=None)
    axes.set_xlabel("probability of being best; golden needs 0.95")
    tie = experiment.choice["tie"]
    if experiment.choice["golden"] is not None:
        said = f"{experiment.choice['golden']} passes the line, and is golden."
    elif tie:
        said = f"Nobody is golden: {listed(tie)} share the chances."
    else:
        said = f"{names[0]} has the largest probability, {chances[0]:.3f}, and there is no golden configuration."
    never = sum(1 for chance in chances if chance == 0.0)
    if never:
        said += f" {never} of the {len(chances)} shown {'is' if never == 1 else 'are'} best in no resample."
    return canvas.done("probabilities", "Probability of being best", said)


def uncoupled(configurations: Sequence[Configuration]) -> list[str]:
    """For each configuration that earns nothing for coupling: why, where it ranks, and what carries it there."""
    found = []
    for each in configurations:
        dimensions = each.entry["dimensions"]
        if "coupling" not in dimensions or each.entry["total"] is None or (dimensions["coupling"]["points"] or 0) > 0:
            continue
        others = {name: one for name, one in dimensions.items() if name != "coupling"}
        earned = sum(one["points"] or 0.0 for one in others.values())
        worth = sum(100 * one["weight"] for one in others.values())
        parts = listed(
            [f"{name} {one['points'] or 0.0:.2f} of {100 * one['weight']:.0f}" for name, one in others.items()]
        )
        still = "still ranks" if each.place < len(configurations) - 1 else "ranks"
        said = (
            f"{each.name} earns nothing for coupling, because {_why_uncoupled(each.fingerprint)}. It {still} "
            f"{ordinal(each.place + 1)} of {len(configurations)}, because everything else earns {earned:.2f} of "
            f"{worth:.0f} points ({parts})."
        )
        if each.place > 0:
            said += " " + _difference(configurations[each.place - 1], each)
        below = configurations[each.place + 1] if each.place + 1 < len(configurations) else None
        if below is not None and below.entry["total"] is not None:
            said += " " + _difference(each, below)
        found.append(said)
    return found


def _why_uncoupled(fingerprint: Mapping[str, Any]) -> str:
    mean = fingerprint.get("load_to_heartbeat_corr_mean")
    if mean is None:
        return str(fingerprint.get("reasons", {}).get("load_to_heartbeat_corr_mean", "no run tells its coupling"))
    if mean < 0:
        return (
            f"its interval gets shorter with more load (a correlation of {digits(mean, 3)} on the mean), and only one "
            "that gets longer earns points"
        )
    if mean > CHANCE_CORRELATION:
        # Runs earn by the least of five: a mean above chance may come with runs below it.
        return (
            f"its interval goes with the load by a correlation of {digits(mean, 3)} on the mean, but in nearly all "
            f"runs by {CHANCE_CORRELATION:g} at most, which the best of 51 lags has by chance"
        )
    return (
        f"its interval goes with the load by a correlation of {digits(mean, 3)} only, and the best of 51 lags has "
        f"about {CHANCE_CORRELATION:g} by chance"
    )
