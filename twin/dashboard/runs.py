"""Runs as the page sees them: what each is, and its records, wherever they come from.

A record has a value for each column: those of the control table, then those of the last tick before the cycle. Values
are integers, texts, or None for what is missing; units are in the names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from twin.scenario import Scenario

Value = int | str | None
Record = Mapping[str, Value]
State = Literal["running", "ended", "stopped", "lost"]
"""`stopped`: cut short, but in order. `lost`: whoever wrote it is gone without a word."""
KEPT = 300
"""So many of the newest records are kept of a run that is going on, beside a thinned course of the whole."""
POINTS = 2_000
"""The most points of a course."""
FORECAST_STEPS = 5
"""The forecast in the control table is so many of the learner's steps ahead (`twin.learn.forecast.AHEAD`)."""


@dataclass(frozen=True, slots=True)
class Sensor:
    """A temperature sensor and its limit (millidegrees Celsius)."""

    name: str
    limit_millicelsius: int


@dataclass(frozen=True, slots=True)
class Output:
    """What may be commanded, and within what bounds, in the units of its name."""

    name: str
    least: int
    most: int


@dataclass(frozen=True, slots=True)
class About:
    """What a run is. `origin` says where its records come from: a loop that runs now, a replay, or stored tables.

    `backend` is None for a run that goes on elsewhere or was cut short: only its manifest would say it.
    `forecast_ms` is how far ahead of a record its forecasts are, 0 where there are none.
    """

    id: str
    name: str
    origin: Literal["live", "replayed", "recorded"]
    backend: str | None
    scenario: str
    seed: int
    config: str
    law: str
    machine: str
    run_dir: str
    period_ms: int
    duration_ms: int
    learns: bool
    sensors: tuple[Sensor, ...]
    outputs: tuple[Output, ...]
    columns: tuple[str, ...]
    forecast_ms: int = 0


def forecast_ms(scenario: Scenario) -> int:
    """How far ahead the forecasts of this scenario's learner are."""
    learn = scenario.learn
    return FORECAST_STEPS * learn.predict_every_cycles * scenario.control.period_ms if learn.enabled else 0


class Run(Protocol):
    """A run that can be asked. Every method may be called from any thread."""

    @property
    def about(self) -> About:
        """What it is."""

    @property
    def state(self) -> State:
        """How it stands."""

    @property
    def cycles(self) -> int:
        """How many records there have been."""

    @property
    def lost(self) -> int:
        """How many of them were never seen here, because the page was slower than the loop."""

    @property
    def age_ms(self) -> int | None:
        """How long ago the newest record came, or the log that is followed grew (ms).

        None before the first record, and for a run that is stored.
        """

    @property
    def tables(self) -> Path | None:
        """The folder of its tables, None where there are none, or none yet."""

    def history(self, most: int) -> Sequence[Record]:
        """The newest records, at most `most` (1 to KEPT), oldest first."""

    def course(self, columns: Sequence[str], first_ns: int, last_ns: int, points: int) -> dict[str, list[Value]]:
        """These columns between two times of the run, both included, as at most `points` (1 to POINTS) rows."""

    def records(self) -> Iterator[Record]:
        """Every record that is there, oldest first."""

    def insight(self) -> Mapping[str, Any] | None:
        """What the learner thinks now (`q_values` by action, `losses` by part), None where nobody tells."""
