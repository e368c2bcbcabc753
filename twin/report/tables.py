"""The tables of an experiment's report: what the page shows of them, and what their CSV files have."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from twin.experiment.jobs import Outcome
from twin.fingerprint.configuration import KINDS
from twin.fingerprint.run import FIELDS, METRICS
from twin.report.parts import Cell, Table, digits
from twin.report.recovery import WORDS, reach
from twin.report.source import MATRIX, NUMBERS, Configuration, Experiment
from twin.report.spread import Components
from twin.report.spread import Fields as FieldMap

REASONS_MOST = 60
"""Rows that the page shows of the reasons; the file has all."""
IDENTITY = ("run_id", "configuration", "seed", "ticks", "tick_digest", "control_digest", "run_digest")
_PAIRS = [(i, j) for i in range(len(METRICS)) for j in range(i + 1, len(METRICS))]


def csv_bytes(fields: Sequence[str], records: Iterable[Sequence[Cell]]) -> bytes:
    """A CSV file: a header, commas, UTF-8, an empty field for no value."""
    place = io.StringIO(newline="")
    writer = csv.writer(place, lineterminator="\n")
    writer.writerow(fields)
    writer.writerows([_cell(value) for value in record] for record in records)
    return place.getvalue().encode()


def _cell(value: Cell) -> str:
    if value is None or (isinstance(value, float) and value != value):
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value) if isinstance(value, float) else str(value)


class RunRows:
    """The table of all runs, as CSV, while runs are read one by one."""

    def __init__(self) -> None:
        self._place = io.StringIO(newline="")
        self._writer = csv.writer(self._place, lineterminator="\n")
        pairs = [f"correlation_{METRICS[i]}_{METRICS[j]}" for i, j in _PAIRS]
        self._writer.writerow([*IDENTITY, *NUMBERS, *pairs, "reasons"])

    def add(self, outcome: Outcome) -> None:
        """A run's row: what it is, every field, the correlations above the diagonal, and reasons as JSON."""
        result = outcome.result
        matrix = result.get(MATRIX)
        pairs = [None if matrix is None else matrix[i][j] for i, j in _PAIRS]
        row: list[Cell] = [
            outcome.number, outcome.candidate, outcome.seed, outcome.ticks, outcome.tick_digest,
            outcome.control_digest, outcome.run_digest, *(result.get(name) for name in NUMBERS), *pairs,
            json.dumps(result.get("reasons", {}), sort_keys=True),
        ]  # fmt: skip
        self._writer.writerow([_cell(value) for value in row])

    def bytes(self) -> bytes:
        """The file."""
        return self._place.getvalue().encode()


def ranking(experiment: Experiment) -> Table:
    """Points, intervals and probabilities, by rank."""
    weights = {name: 100 * each["weight"] for name, each in _dimensions(experiment).items()}
    rows, records = [], []
    for each in experiment.configurations:
        entry = each.entry
        low, high = entry["interval"] or (None, None)
        parts = [entry["dimensions"][name]["points"] for name in weights]
        rows.append([
            str(each.place + 1), each.name, digits(entry["total"]),
            "none" if low is None else f"{low:.2f} to {high:.2f}", digits(entry["probability_best"], 3),
            *(digits(points) for points in parts),
        ])  # fmt: skip
        inner: list[Cell] = []
        for name in weights:
            one = entry["dimensions"][name]
            inner += [one["points"], one["score"], *(one["interval"] or (None, None))]
        records.append([each.place + 1, each.name, entry["runs"], entry["total"], low, high,
                        entry["probability_best"], *inner, entry["justification"]])  # fmt: skip
    fields = ["rank", "configuration", "runs", "total", "interval_low", "interval_high", "probability_best"]
    for name in weights:
        fields += [f"{name}_points", f"{name}_score", f"{name}_score_low", f"{name}_score_high"]
    heads = ["rank", "configuration", "points", "95 % interval", "best with",
             *(f"{name} (of {weight:.0f})" for name, weight in weights.items())]  # fmt: skip
    return Table("ranking", "The ranking", heads, rows, [*fields, "justification"], records)


def _dimensions(experiment: Experiment) -> Mapping[str, Any]:
    found: Mapping[str, Any] = experiment.configurations[0].entry["dimensions"] if experiment.configurations else {}
    return found


_SHOWN = (
    ("runs", "runs", 0), ("convergence_success_rate", "converge, %", 0),
    (("score_mean", "score_std"), "score", 2),
    (("convergence_time_mean_ticks", "convergence_time_std_ticks"), "steady after, ticks", 0),
    (("load_to_heartbeat_corr_mean", "load_to_heartbeat_corr_std"), "load to interval, r", 3),
    ("coupling_is_stable", "stably coupled", 0), (("jitter_mean_ns", "jitter_std_ns"), "jitter, ns", 0),
    ("jitter_cv", "jitter CV", 3), ("white_ratio", "white jitter, %", 0), ("noise_coupling_mean", "noise coupling", 3),
    ("entropy_growth_mean", "entropy growth a block", 4), ("eigenmode_decay_rate_hz_mean", "decay, 1/s", 3),
    ("basin_depth_sigmas", "basin, σ", 1), ("basin_return_ticks", "return, ticks", 0),
)  # fmt: skip
_PERCENT = ("convergence_success_rate", "white_ratio")


def configurations(experiment: Experiment) -> Table:
    """What the runs of each configuration have in common."""
    fields = [
        name for name in (experiment.configurations[0].fingerprint if experiment.configurations else {})
        if name not in ("schema", "reasons", "runs")
    ]  # fmt: skip
    rows, records = [], []
    for each in experiment.configurations:
        rows.append(
            [
                each.name,
                each.settings or "as the plan has it",
                *(_common(each, name, places) for name, _, places in _SHOWN),
            ]
        )
        records.append([each.name, each.settings, each.entry["runs"], *(each.fingerprint.get(name) for name in fields)])
    return Table(
        "configurations", "What the runs of each configuration have in common; ± is the deviation from run to run",
        ["configuration", "settings", *(head for _, head, _ in _SHOWN)], rows,
        ["configuration", "settings", "runs", *fields], records,
    )  # fmt: skip


def _common(configuration: Configuration, name: str | tuple[str, str], places: int) -> str:
    fingerprint = configuration.fingerprint
    if isinstance(name, tuple):
        mean, deviation = (fingerprint.get(each) for each in name)
        return digits(mean, places) + ("" if deviation is None else f" ± {digits(deviation, places)}")
    if name == "runs":
        return f"{configuration.entry['runs']:,}"
    value = fingerprint.get(name)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return digits(100 * value if name in _PERCENT and value is not None else value, places)


_QUARTILES = (
    ("overall_stability_score", 2), ("convergence_time_ticks", 0), ("cache_hit_percent_steady", 2),
    ("avg_jitter_ns_steady", 0), ("load_to_heartbeat_corr", 3), ("dominant_frequency_hz", 2), ("energy_joules", 1),
)  # fmt: skip


def run_summary(experiment: Experiment) -> Table:
    """Quartiles over runs of the fields that people ask for first; the file has them of every field."""
    rows, records = [], []
    for each in experiment.configurations:
        cells = [each.name]
        for name, places in _QUARTILES:
            values = experiment.runs.of_place(each.place, name)
            if not len(values):
                cells.append("none")
                continue
            low, middle, high = np.percentile(values, [25, 50, 75]).tolist()
            text = digits(middle, places)
            cells.append(text if len(values) == 1 else f"{text} ({digits(low, places)} to {digits(high, places)})")
        rows.append(cells)
        for name in NUMBERS:
            values = experiment.runs.of_place(each.place, name)
            found: list[Cell] = [None] * 6
            if len(values):
                found = [
                    float(f"{x:.9g}")
                    for x in [*np.percentile(values, [0, 25, 50, 75, 100]).tolist(), float(values.mean())]
                ]
            records.append([each.name, name, len(values), *found])
    return Table(
        "run_quartiles", "Runs of each configuration: the median, with the middle half of the runs in brackets",
        ["configuration", *(name.replace("_", " ") for name, _ in _QUARTILES)], rows,
        ["configuration", "field", "runs", "least", "first_quartile", "median", "third_quartile", "largest", "mean"],
        records,
    )  # fmt: skip


def kicks(experiment: Experiment) -> list[Table]:
    """From what each configuration comes back; every kick; and the courses."""
    kinds = [
        kind for kind in KINDS if any(kick.kind == kind for each in experiment.configurations for kick in each.kicks)
    ]
    rows = []
    for each in experiment.configurations:
        cells = [each.name]
        for kind in kinds:
            found = reach(each, kind)
            if found is None:
                cells.append("not kicked")
            elif not found.sigmas:
                cells.append("does not return")
            else:
                cells.append(f"{found.sigmas:g} σ of {found.most:g}, {found.ticks or 0:,} ticks")
        rows.append(cells)
    every = [
        [each.name, kick.kind, kick.seed, kick.strength_sigmas, kick.returned, kick.return_ticks]
        for each in experiment.configurations
        for kick in each.kicks
    ]
    points: Iterable[list[Cell]] = (
        [each.name, course.kind, course.seed, course.strength_sigmas, tick, bands]
        for each in experiment.configurations
        for course in each.courses
        for tick, bands in zip(course.ticks, course.bands, strict=True)
    )
    return [
        Table("kicks", "The strongest kick from which every seed comes back, of the strongest that was tried, and how "
              "long the slowest takes", ["configuration", *(WORDS[kind] for kind in kinds)], rows,
              ["configuration", "kind", "seed", "strength_sigmas", "returned", "return_ticks"], every),
        Table("kick_courses", "Every course after a kick", [], [],
              ["configuration", "kind", "seed", "strength_sigmas", "ticks_after_the_kick", "bands"], points),
    ]  # fmt: skip


def reasons(experiment: Experiment) -> Table | None:
    """Why fields are not known: by reason on the page, by configuration and field in the file. None when all are."""
    names = [each.name for each in experiment.configurations]
    order = {name: place for place, name in enumerate((*FIELDS, "latency_p99_us"))}
    counted = sorted(
        experiment.runs.reasons.items(), key=lambda item: (item[0][0], order.get(item[0][1], len(order)), item[0][1:])
    )
    records: list[list[Cell]] = [[names[place], field, count, reason] for (place, field, reason), count in counted]
    by_reason: dict[str, tuple[dict[str, None], dict[int, int]]] = {}
    for (place, field, reason), count in counted:
        fields, who = by_reason.setdefault(reason, ({}, {}))
        fields[field] = None
        who[place] = max(who.get(place, 0), count)
    for each in experiment.configurations:
        for source in (each.fingerprint, each.entry):
            for field, reason in source.get("reasons", {}).items():
                records.append([each.name, field, None, reason])
                fields, who = by_reason.setdefault(reason, ({}, {}))
                fields[field] = None
                who.setdefault(each.place, 0)
    if not records:
        return None
    rows = [
        [reason, ", ".join(fields), _who(who, experiment)]
        for reason, (fields, who) in sorted(by_reason.items(), key=lambda item: (-sum(item[1][1].values()), item[0]))
    ]
    title = "Why something is not known"
    if len(rows) > REASONS_MOST:
        title += f" (the {REASONS_MOST} most frequent of {len(rows)} reasons)"
    return Table("reasons", title, ["reason", "fields", "where"], rows[:REASONS_MOST],
                 ["configuration", "field", "runs", "reason"], records)  # fmt: skip


def _who(who: Mapping[int, int], experiment: Experiment) -> str:
    """Which configurations, and in how many of their runs; 0 says that it is of the configuration as a whole."""
    configurations = experiment.configurations
    if len(who) == len(configurations) > 1 and all(who[each.place] == each.entry["runs"] for each in configurations):
        return "every run"
    parts = []
    for place, count in sorted(who.items()):
        runs = configurations[place].entry["runs"]
        parts.append(configurations[place].name + (f" ({count:,} of {runs:,} runs)" if count else ""))
    return ", ".join(parts) if len(parts) <= 8 else f"{', '.join(parts[:7])} and {len(parts) - 7} more"


def metric_correlations(experiment: Experiment) -> Table:
    """The mean 7 x 7 correlations, as a file."""
    records = (
        [each.name, METRICS[i], METRICS[j], _rounded(float(experiment.runs.correlations[each.place, i, j]))]
        for each in experiment.configurations
        for i, j in _PAIRS
    )
    return Table("metric_correlations", "Mean correlation of metrics in each configuration", [], [],
                 ["configuration", "metric", "other", "correlation"], records)  # fmt: skip


def field_correlations(found: FieldMap) -> Table:
    """The correlations of fields, as a file."""
    records = (
        [a, b, _rounded(float(found.matrix[i, j]))]
        for i, a in enumerate(found.names)
        for j, b in enumerate(found.names[:i])
    )
    return Table("field_correlations", "Correlations of fields from run to run", [], [],
                 ["field", "other", "correlation"], records)  # fmt: skip


def component_tables(found: Components, experiment: Experiment) -> list[Table]:
    """Weights and coordinates of principal components, as files."""
    runs = experiment.runs
    names = [each.name for each in experiment.configurations]
    weights: list[list[Cell]] = [[name, *map(float, found.weights[i])] for i, name in enumerate(found.fields)]
    points: Iterable[list[Cell]] = (
        [int(runs.number[row]), names[int(runs.of[row])], int(runs.seed[row]), *map(float, found.coordinates[i])]
        for i, row in enumerate(found.rows)
    )
    return [
        Table("component_weights", "Weights of fields in the principal components", [], [],
              ["field", "first", "second"], weights),
        Table("components", "Coordinates of runs in the principal components", [], [],
              ["run_id", "configuration", "seed", "first", "second"], points),
    ]  # fmt: skip


def _rounded(value: float) -> float | None:
    return None if value != value else float(f"{value:.9g}")
