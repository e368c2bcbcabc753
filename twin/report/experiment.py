"""The report of an experiment, put together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from twin.report import choice, courses, recovery, spread, tables, tracks
from twin.report.parts import Report, Section, Table
from twin.report.source import Configuration, Experiment, read_experiment
from twin.report.style import SHOWN_MOST, Mark, mark

RUNS_READ = 6
"""Runs of each configuration whose ticks are read."""
SCORES = (
    ("overall_stability_score", "Overall score"), ("jitter_score", "Jitter score"),
    ("convergence_score", "Convergence score"), ("coupling_score", "Coupling score"),
)  # fmt: skip
Say = Callable[[str], None]


def experiment_report(folder: Path, say: Say = lambda _: None) -> tuple[Report, bytes]:
    """The report of the finished experiment in `folder`, and its runs as CSV. `say` hears what is being done.

    Raises `RecordError`, and `UnfinishedError` where the experiment is not done yet.
    """
    rows = tables.RunRows()
    say("reading the results")
    experiment = read_experiment(folder, rows.add)
    configurations = experiment.configurations
    shown = configurations[:SHOWN_MOST]
    marks = [mark(place) for place in range(len(shown))]
    left_out: list[str] = []
    say("drawing the choice")
    sections = [
        _with(choice.choice_section(experiment), [tables.ranking(experiment)]),
        choice.justification_section(experiment),
        _with(Section("configurations", "Configurations"), [tables.configurations(experiment)]),
    ]
    say("drawing the runs")
    sections.append(_runs(experiment, shown, marks, left_out))
    say("drawing the ticks")
    sections += _ticks(experiment, shown, marks, left_out)
    say("drawing correlations")
    sections += [_correlations(experiment, shown, left_out), _kicks(experiment, shown, marks, left_out)]
    found = tables.reasons(experiment)
    unknown = _with(Section("unknown", "What is not known, and why"), [found] if found else [])
    if not found:
        unknown.paragraphs.append("Everything is known.")
    sections.append(unknown)
    return Report(
        f"Experiment {experiment.name}",
        _lead(experiment),
        _facts(experiment),
        sections,
        left_out,
    ), rows.bytes()


def _with(section: Section, more: Sequence[Table]) -> Section:
    section.tables += more
    return section


def _lead(experiment: Experiment) -> list[str]:
    lead = [experiment.description] if experiment.description else []
    count = len(experiment.configurations)
    if count > SHOWN_MOST:
        lead.append(
            f"Figures show the best {SHOWN_MOST} of {count} configurations; tables, and the files beside "
            "this page, have all."
        )
    return [*lead, str(experiment.choice["why"])]


def _facts(experiment: Experiment) -> list[tuple[str, str]]:
    runs = experiment.runs
    each = sorted({one.entry["runs"] for one in experiment.configurations})
    ticks = sorted(set(runs.ticks.tolist()))
    found = [
        ("configurations", f"{len(experiment.configurations):,}"),
        ("runs", f"{len(runs):,}" + (f", {each[0]:,} of each" if len(each) == 1 else "")),
        ("ticks", f"{int(runs.ticks.sum()):,}" + (f", {ticks[0]:,} a run" if len(ticks) == 1 else "")),
    ]
    if experiment.scenario:
        found.append(("scenario", experiment.scenario))
    return [*found, ("experiment digest", str(experiment.choice.get("experiment_digest", "none")))]


def _runs(
    experiment: Experiment, shown: Sequence[Configuration], marks: Sequence[Mark], left_out: list[str]
) -> Section:  # fmt: skip
    section = Section("runs", "Runs")
    runs = experiment.runs
    places = [(each.place, each.name, how) for each, how in zip(shown, marks, strict=True)]
    for field, title in SCORES:
        drawing = spread.violins(runs, places, field, title)
        if drawing is None:
            _omit(section, left_out, f"{title}: not drawn, because no run has one.")
        else:
            section.drawings.append(drawing)
    found = spread.components(runs)
    if found is None:
        _omit(section, left_out, "Principal components: not drawn; three runs and two fields that vary are needed.")
    else:
        section.drawings.append(spread.scatter(found, runs, places))
        section.tables += tables.component_tables(found, experiment)
    section.tables.insert(0, tables.run_summary(experiment))
    section.paragraphs.append("Every run, with every field of its fingerprint, is in tables/runs.csv.")
    return section


def _omit(section: Section, left_out: list[str], sentence: str) -> None:
    section.paragraphs.append(sentence)
    left_out.append(sentence)


def _ticks(
    experiment: Experiment, shown: Sequence[Configuration], marks: Sequence[Mark], left_out: list[str]
) -> list[Section]:  # fmt: skip
    """Sections that need ticks: courses, portraits, spectra."""
    lines = _shown_lines(experiment, shown, marks)
    course, portraits, spectra = (
        Section("courses", "Courses in time"), Section("portraits", "Phase portraits"), Section("spectra", "Spectra"),
    )  # fmt: skip
    places = [(each.place, each.name, how) for each, how in zip(shown, marks, strict=True)]
    frequency = courses.frequencies(experiment.runs, places)
    if lines:
        read = sum(len(line.tracks) for line in lines)
        course.paragraphs.append(
            f"From the kept ticks of {read} runs, {'up to ' if read < RUNS_READ * len(lines) else ''}{RUNS_READ} of "
            f"each configuration. A point is the mean of the kept ticks in one of {tracks.BINS} parts of a run."
        )
        for metric in ("interval_us", "cache_percent", "heat_thousands", "window"):
            course.drawings.append(courses.together(lines, metric))
        axes = courses.ranges([line.track for line in lines])
        for number, (line, axes_of) in enumerate(zip(lines, axes, strict=True), 1):
            key = file_name(number, line.name)
            course.drawings.append(courses.strips(f"run-{key}", line, f"{line.name} in time"))
            portraits.drawings.append(courses.portrait(f"phase-{key}", line, line.name, axes_of))
        portraits.paragraphs.append(
            "Left: load and interval; right: interval and cache hits. The triangle is the start, the square the end, a "
            "dot the mean of a part of the run. Axes are the same in all, unless a caption says otherwise."
        )
        drawings, why = courses.spectra(lines)
        spectra.drawings += drawings
        if why:
            _omit(spectra, left_out, why)
    else:
        sentence = "Courses, phase portraits and spectra are not drawn, because the plan keeps no ticks (keep = none)."
        _omit(course, left_out, sentence)
        portraits.paragraphs.append(sentence)
        spectra.paragraphs.append(sentence)
    if frequency is not None:
        spectra.drawings.append(frequency)
    else:
        _omit(spectra, left_out, "Dominant frequencies: not drawn, because no run has one.")
    return [course, portraits, spectra]


def file_name(number: int, name: str) -> str:
    """A part of a file's name that no two configurations share."""
    return f"{number:02}-" + "".join(
        each if each.isascii() and (each.isalnum() or each in "-_") else "-" for each in name
    )


def _shown_lines(
    experiment: Experiment, shown: Sequence[Configuration], marks: Sequence[Mark]
) -> list[courses.Shown]:  # fmt: skip
    """The courses of a few runs of each configuration, the same seeds where they have them in common."""
    runs = experiment.runs
    count = len(shown)
    mine = np.flatnonzero(runs.of < count)
    owner = dict(zip(runs.number[mine].tolist(), runs.of[mine].tolist(), strict=True))
    seeds = dict(zip(runs.number[mine].tolist(), runs.seed[mine].tolist(), strict=True))
    there = tracks.places(experiment.folder, owner, RUNS_READ)
    by_place: list[dict[int, int]] = [{} for _ in shown]
    for number in sorted(there):
        by_place[owner[number]].setdefault(seeds[number], number)
    common = set.intersection(*(set(each) for each in by_place)) if by_place else set()
    chosen = {}
    for each in by_place:
        order = sorted(each, key=lambda seed: (seed not in common, seed))
        chosen.update({each[seed]: there[each[seed]] for seed in order[:RUNS_READ]})
    read = tracks.read_tracks(chosen)
    found = []
    for configuration, how, each in zip(shown, marks, by_place, strict=True):
        mine_read = {seed: read[number] for seed, number in each.items() if number in read}
        if mine_read:
            found.append(courses.Shown(configuration.name, how, mine_read))
    return found


def _correlations(experiment: Experiment, shown: Sequence[Configuration], left_out: list[str]) -> Section:
    section = Section("correlations", "Correlations")
    runs = experiment.runs
    for number, each in enumerate(shown, 1):
        matrix = runs.correlations[each.place]
        if np.isnan(matrix).all():
            _omit(section, left_out, f"{each.name}: no correlations are drawn, because no run has them.")
            continue
        count = each.entry["runs"]
        over = f"The mean over {count:,} runs" if count > 1 else "Of the only run"
        section.drawings.append(spread.metric_map(f"metrics-{file_name(number, each.name)}", matrix, each.name, over))
    section.tables.append(tables.metric_correlations(experiment))
    fields = spread.field_correlations(runs, len(experiment.configurations))
    if fields is None:
        _omit(
            section,
            left_out,
            "Correlations of fields are not drawn: several runs of a configuration are needed, and two fields that "
            "vary among them.",
        )
    else:
        section.drawings.append(spread.field_map(fields))
        section.tables.append(tables.field_correlations(fields))
    return section


def _kicks(
    experiment: Experiment, shown: Sequence[Configuration], marks: Sequence[Mark], left_out: list[str]
) -> Section:  # fmt: skip
    section = Section("kicks", "Kicks")
    if not recovery.kicked_kinds(shown):
        _omit(section, left_out, "Nothing was kicked, so no recovery is drawn.")
        return section
    section.drawings.append(recovery.depths(shown))
    section.drawings += recovery.recoveries(shown, marks)
    section.tables += tables.kicks(experiment)
    return section
