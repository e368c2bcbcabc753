"""The report of one run, put together."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from twin.fingerprint.run import FIELDS, METRICS
from twin.record import files
from twin.record.rundir import FINGERPRINT, MANIFEST, SCENARIO, TICKS, RunDirectory
from twin.record.tables import open_table, table_facts
from twin.report import courses, spread
from twin.report.parts import Cell, Report, Section, Table, digits
from twin.report.source import MATRIX
from twin.report.style import mark
from twin.report.tracks import read_track


def run_report(folder: Path) -> Report:
    """The report of the run in `folder`. Raises `RecordError`."""
    run = RunDirectory.open(folder, needs=(SCENARIO, TICKS, FINGERPRINT, MANIFEST))
    fingerprint = files.read_json(run.file(FINGERPRINT))
    manifest = run.manifest or {}
    left_out: list[str] = []
    sections = _tick_sections(run, manifest, left_out)
    sections.append(_correlations(fingerprint, left_out))
    sections.append(_table(fingerprint))
    facts = [(key, str(manifest[key])) for key in ("scenario", "seed", "config", "law", "backend") if key in manifest]
    facts += [("ticks", f"{fingerprint['ticks']:,}")] if isinstance(fingerprint.get("ticks"), int) else []
    facts += [("run digest", str(manifest.get("digests", {}).get("run_digest", "none")))]
    return Report(f"Run {folder.resolve().name}", _lead(fingerprint), facts, sections, left_out)


def _lead(fingerprint: Mapping[str, Any]) -> list[str]:
    score = fingerprint.get("overall_stability_score")
    reasons = fingerprint.get("reasons", {})
    if score is None:
        said = f"The run has no overall score: {reasons.get('overall_stability_score', 'its fingerprint has none')}."
    else:
        parts = [
            f"{name} {digits(fingerprint.get(f'{name}_score'), 1)}" for name in ("jitter", "convergence", "coupling")
        ]
        said = f"The overall score is {score:.1f} of 100 ({', '.join(parts)})."
    if fingerprint.get("converged"):
        said += f" It is steady from tick {fingerprint['convergence_time_ticks']:,} on."
    elif fingerprint.get("converged") is False:
        said += " It did not converge."
    return [said]


def _tick_sections(run: RunDirectory, manifest: Mapping[str, Any], left_out: list[str]) -> list[Section]:
    path = run.file(TICKS)
    facts = table_facts(path)
    with open_table(path) as file:
        track = read_track(path, file, 0, range(file.num_row_groups))
    course, spectra = Section("courses", "Course in time and phase portraits"), Section("spectra", "Spectrum")
    if track is None:
        sentence = f"Nothing of the ticks is drawn, because none are stored (--ticks {facts.keep}); "
        sentence += "twin replay --out DIR makes them again."
        course.paragraphs.append(sentence)
        left_out.append(sentence)
        return [course]
    shown = courses.Shown("the run", mark(0), {int(manifest.get("seed", 0)): track})
    rows, kept = facts.summary.rows, facts.summary.kept
    said = f"All {rows:,} ticks" if kept == rows else f"Of {rows:,} ticks {kept:,}"
    course.paragraphs.append(
        f"{said} are stored ({facts.keep}). In the phase portrait the triangle is the start, and the square the end."
    )
    course.drawings += [
        courses.strips("run", shown, "The run in time"),
        courses.portrait("phase", shown, "Load and interval, interval and cache hits", courses.ranges([track])[0]),
    ]
    drawings, why = courses.spectra([shown])
    spectra.drawings += drawings
    if why:
        spectra.paragraphs.append(why)
        left_out.append(why)
    return [course, spectra]


def _correlations(fingerprint: Mapping[str, Any], left_out: list[str]) -> Section:
    section = Section("correlations", "Correlations of metrics")
    matrix = fingerprint.get(MATRIX)
    if matrix is None:
        why = fingerprint.get("reasons", {}).get(MATRIX, "the fingerprint has none")
        sentence = f"No correlations are drawn: {why}."
        section.paragraphs.append(sentence)
        left_out.append(sentence)
        return section
    found = np.array(matrix, dtype=np.float64)
    section.drawings.append(spread.metric_map("metrics", found, "Correlations of the seven metrics", "Over all ticks"))
    records = ([METRICS[i], METRICS[j], matrix[i][j]] for i in range(len(METRICS)) for j in range(i + 1, len(METRICS)))
    section.tables.append(
        Table("metric_correlations", "Correlations of metrics", [], [], ["metric", "other", "correlation"], records)
    )
    return section


def _table(fingerprint: Mapping[str, Any]) -> Section:
    section = Section("fingerprint", "Fingerprint")
    reasons = fingerprint.get("reasons", {})
    rows: list[list[str]] = []
    records: list[list[Cell]] = []
    others = [name for name in fingerprint if name not in FIELDS and name not in ("schema", "reasons")]
    for name in [*(field for field in FIELDS if field != MATRIX), *others]:
        value = fingerprint.get(name)
        if isinstance(value, list | dict):
            continue
        why = str(reasons.get(name, "")) if value is None else ""
        if isinstance(value, bool):
            shown = "yes" if value else "no"
        elif isinstance(value, int):
            shown = f"{value:,}"
        else:
            shown = "none" if value is None else f"{value:,.6g}"
        rows.append([name, shown, why])
        records.append([name, value, why])
    section.tables.append(
        Table("fingerprint", "Every field, and why one is not known", ["field", "value", "reason"], rows,
              ["field", "value", "reason"], records)
    )  # fmt: skip
    return section
