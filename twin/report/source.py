"""What a report reads of an experiment: its choice, its configurations, its runs in columns, and its kicks."""

from __future__ import annotations

import tomllib
from array import array
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from twin.experiment.conduct import CHOICE
from twin.experiment.jobs import Outcome
from twin.experiment.kicks import Course
from twin.experiment.store import PLAN, Store
from twin.fingerprint.configuration import KickResult
from twin.fingerprint.run import FIELDS, METRICS
from twin.record.files import RecordInputError, read_json

Floats = npt.NDArray[np.float64]
MATRIX = "metric_correlation_matrix"
NUMBERS = tuple(name for name in FIELDS if name != MATRIX)
"""Fields of a run's fingerprint that are one number, or yes (1) or no (0)."""
LAST_NUMBER = 1 << 62


class UnfinishedError(RecordInputError):
    """An experiment that is not done yet."""


@dataclass(slots=True)
class Configuration:
    """A configuration: its place in the ranking (0 is best), what it earned, what its runs have in common, its kicks.

    `settings` says in words what the plan sets for it.
    """

    name: str
    place: int
    entry: Mapping[str, Any]
    fingerprint: Mapping[str, Any]
    settings: str
    kicks: list[KickResult] = field(default_factory=list)
    courses: list[Course] = field(default_factory=list)


@dataclass(slots=True)
class Runs:
    """All runs, in columns. `of` has the place of each run's configuration; what is not known is NaN.

    `correlations` has for each configuration (first axis) the mean of its runs' 7 x 7 correlations of metrics.
    `reasons` counts the runs of a configuration (place) for which a field is not known, for a reason.
    """

    number: npt.NDArray[np.int64]
    seed: npt.NDArray[np.int64]
    ticks: npt.NDArray[np.int64]
    of: npt.NDArray[np.int64]
    values: Mapping[str, Floats]
    correlations: Floats
    reasons: Counter[tuple[int, str, str]]

    def __len__(self) -> int:
        return len(self.number)

    def of_place(self, place: int, name: str) -> Floats:
        """The known values of a field in the runs of one configuration."""
        values: Floats = self.values[name][self.of == place]
        known: Floats = values[~np.isnan(values)]
        return known


@dataclass(frozen=True, slots=True)
class Experiment:
    """A finished experiment; configurations in the order of the ranking."""

    folder: Path
    name: str
    description: str
    scenario: str
    choice: Mapping[str, Any]
    configurations: Sequence[Configuration]
    runs: Runs


class _Columns:
    """Columns while they grow: eight bytes a value, not a Python object."""

    def __init__(self, places: Mapping[str, int]) -> None:
        self._places = places
        self.identity = {name: array("q") for name in ("number", "seed", "ticks", "of")}
        self.values = {name: array("d") for name in NUMBERS}
        size = len(METRICS)
        self.sums = np.zeros((len(places), size, size))
        self.counts = np.zeros((len(places), size, size))
        self.reasons: Counter[tuple[int, str, str]] = Counter()

    def add(self, outcome: Outcome) -> None:
        place = self._places[outcome.candidate]
        for name, value in zip(
            self.identity, (outcome.number, outcome.seed, outcome.ticks, place), strict=True
        ):  # fmt: skip
            self.identity[name].append(value)
        for name, column in self.values.items():
            told = outcome.result.get(name)
            column.append(float("nan") if told is None else float(told))
        matrix = outcome.result.get(MATRIX)
        if matrix is not None:
            found = np.array(matrix, dtype=np.float64)
            known = ~np.isnan(found)
            self.sums[place][known] += found[known]
            self.counts[place] += known
        for name, reason in outcome.result.get("reasons", {}).items():
            self.reasons[place, name, reason] += 1

    def done(self) -> Runs:
        mean = np.full(self.sums.shape, np.nan)
        np.divide(self.sums, self.counts, out=mean, where=self.counts > 0)
        identity = {name: np.array(values, dtype=np.int64) for name, values in self.identity.items()}
        values = {name: np.array(column, dtype=np.float64) for name, column in self.values.items()}
        return Runs(**identity, values=values, correlations=mean, reasons=self.reasons)


def read_experiment(folder: Path, each: Callable[[Outcome], None]) -> Experiment:
    """Read a finished experiment; `each` is given every run on the way. Raises `UnfinishedError` and `RecordError`."""
    with Store(folder) as store:
        if store.fact("experiment_digest") is None:
            raise UnfinishedError(
                folder, "the experiment is not finished; run the same twin experiment again, and it goes on"
            )
        choice = read_json(folder / CHOICE)
        plan = _plan(folder / PLAN)
        settings = _settings(plan)
        try:
            configurations = [
                Configuration(
                    entry["name"], place, entry, choice["configurations"][entry["name"]],
                    settings.get(entry["name"], ""),
                )
                for place, entry in enumerate(choice["ranking"])
            ]  # fmt: skip
        except (KeyError, TypeError) as error:
            raise RecordInputError(
                folder / CHOICE, f"lacks {error}; run the same twin experiment again, which writes it anew"
            ) from error
        places = {each.name: each.place for each in configurations}
        columns = _Columns(places)
        for outcome in store.outcomes(0, LAST_NUMBER):
            if "kicks" not in outcome.result:
                each(outcome)
                columns.add(outcome)
                continue
            results, courses = outcome.kicked()
            kicked = configurations[places[outcome.candidate]]
            kicked.kicks += results
            kicked.courses += courses
    return Experiment(
        folder,
        str(plan.get("name", folder.resolve().name)),
        str(plan.get("description", "")),
        str(plan.get("scenario", "")),
        choice,
        configurations,
        columns.done(),
    )


def _plan(path: Path) -> Mapping[str, Any]:
    """The plan as it was given, for its words only: what was run, the results say. Empty where it cannot be read."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        return {}


def _settings(plan: Mapping[str, Any]) -> dict[str, str]:
    """What the plan sets for each configuration, in words."""
    found = {}
    entries = plan.get("configurations")
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, str):
            found[entry] = f"loops {entry}"
        elif isinstance(entry, dict) and "name" in entry:
            said = [f"loops {entry['config']}"] if "config" in entry else []
            given = entry.get("set", {})
            said += [f"{key} = {_plain(value)}" for key, value in given.items()] if isinstance(given, dict) else []
            found[str(entry["name"])] = ", ".join(said)
    return found


def _plain(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
