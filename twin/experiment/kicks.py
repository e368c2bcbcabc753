"""Kicks: how far a steady heartbeat can be pushed and still comes back.

A configuration runs under a steady load (the mean of its scenario's). A second run, the same in everything, is kicked
once `settle_ticks` have passed, and its seven metrics are watched: the mean of each over 256 ticks has to come back
into a band about the mean that it has without the kick, and to stay there for the last 1,000 ticks at least. The band
is 5 % of that mean, and as much as the mean over 256 ticks wanders from it without a kick: what a metric does by itself
is no sign of a kick.
Strengths are in standard deviations of the metric that the kick moves, as it is without the kick (at least 1 % of its
mean):

| kick | pushes |
|---|---|
| `heat_burst` | every word's heat up, by so many deviations of the mean heat |
| `load_pulse` | the offered words up for 256 ticks, by so many deviations of the words of a tick |
| `window_reset` | the window towards the width that it starts with, by so many deviations of its width |
| `hot_ambient` | the room temperature up for good, by so many deviations of the hottest temperature (at least 0.5 K) |

A run is steady when, without a kick, the mean of each metric over 1,000 ticks stays within 5 %. From a state that is
not steady nothing can come back: such a run is not kicked, and its depth is 0. A metric that is 0 throughout is not
watched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from twin.fingerprint.configuration import KickResult
from twin.heart import ticks
from twin.heart.heartbeat import Heartbeat
from twin.heart.inference import RING
from twin.kernels import Floats, Integers
from twin.scenario import AmbientStep, Phase, RandomFaults, Scenario, Workload

MEAN_TICKS = 256
BAND = 0.05
STEADY_TICKS = 1_000
STAY_TICKS = 1_000
PULSE_TICKS = 256
LEAST_SHARE = 0.01
LEAST_KELVIN = 0.5
COURSE_POINTS = 200
METRICS = {
    "tick_interval_ns": ticks.C_PASSED,
    "cache_hits_delta": ticks.C_CACHE_HITS,
    "bucket_hits_delta": ticks.C_BUCKET_HITS,
    "hot_word_count": ticks.C_HOT,
    "avg_word_heat": ticks.C_TOTAL,
    "window_width": ticks.C_WINDOW,
    "word_executions_delta": ticks.C_WORDS,
}
"""The seven metrics and their columns; a mean heat and a total heat have the same band."""


@dataclass(frozen=True, slots=True)
class Kick:
    """What happens when `at_tick` ticks have passed; `amount` in the kick's own unit: total heat (Q48.16), a share of
    the load, words of width, kelvin.
    """

    kind: str
    at_tick: int
    amount: float


@dataclass(frozen=True, slots=True)
class Course:
    """How a kicked run went: the largest distance of any metric from its mean, in bands, at evenly spread ticks after
    the kick. 1 is the edge of the band.
    """

    kind: str
    seed: int
    strength_sigmas: float
    ticks: tuple[int, ...]
    bands: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Steady:
    """What a run is like without a kick: by metric the mean and deviation, half the band of those that are watched, and
    which ones do not stay.

    `at_ns` is when the kick would come; temperatures in millidegrees Celsius.
    """

    mean: Mapping[str, float]
    deviation: Mapping[str, float]
    bands: Mapping[str, float]
    unsteady: tuple[str, ...]
    at_ns: int
    temperature_deviation: float


def steadied(scenario: Scenario, ticks_most: int) -> Scenario:
    """`scenario` under the mean of its load all the time: no bursts, frames, faults or recordings, and in a
    room that stays as it is at the beginning.
    """
    phases = scenario.workload.phases
    whole = sum(phase.duration_ms for phase in phases)

    def mean(name: str) -> float:
        return sum(_with_bursts(phase, name) * phase.duration_ms for phase in phases) / whole

    steady = Phase(
        name="steady",
        duration_ms=10**9,
        cpu_load=min(1.0, mean("cpu_load")),
        gpu_load=min(1.0, mean("gpu_load")),
        memory_share=sum(phase.memory_share * phase.duration_ms for phase in phases) / whole,
        words_per_second=round(mean("words_per_second")),
    )
    return replace(
        scenario,
        ticks=ticks_most,
        machine=replace(scenario.machine, ambient_steps=()),
        workload=Workload(phases=(steady,)),
        faults=(),
        random_faults=RandomFaults(),
    )


def _with_bursts(phase: Phase, name: str) -> float:
    share = phase.burst_ms / phase.burst_every_ms if phase.burst_every_ms else 0.0
    return float(getattr(phase, name) + share * getattr(phase, f"burst_{name}"))


def steady_state(captured: Integers, settle_ticks: int, hottest_millicelsius: Sequence[int]) -> Steady:
    """What the unkicked run `captured` (shape COLUMNS x ticks) is like from `settle_ticks` on.

    `hottest_millicelsius` has the hottest temperature of each control cycle; the first half is left out.
    """
    mean, deviation, bands = {}, {}, {}
    unsteady = []
    for name, column in METRICS.items():
        values = captured[column, settle_ticks:].astype(np.float64)
        mean[name], deviation[name] = float(values.mean()), float(values.std())
        if mean[name] > 0:
            drift = _distance(captured[column], settle_ticks + STEADY_TICKS - 1, mean[name], STEADY_TICKS)
            if float(drift.max()) > BAND * mean[name]:
                unsteady.append(name)
                continue
            bands[name] = BAND * mean[name] + float(_distance(captured[column], settle_ticks, mean[name]).max())
    late = np.array(hottest_millicelsius[len(hottest_millicelsius) // 2 :], dtype=np.float64)
    at_ns = int(captured[ticks.C_ELAPSED, settle_ticks])
    return Steady(mean, deviation, bands, tuple(unsteady), at_ns, float(late.std()) if len(late) else 0.0)


def _distance(values: Integers, start: int, mean: float, over: int = MEAN_TICKS) -> Floats:
    """How far the mean over the last `over` ticks is from `mean`, from tick `start` (`over` - 1 at least) on."""
    sums = np.concatenate([[0.0], np.cumsum(values[start - over + 1 :].astype(np.float64))])
    means = (sums[over:] - sums[:-over]) / over
    apart: Floats = np.abs(means - mean)
    return apart


def amount_of(kind: str, strength_sigmas: float, steady: Steady) -> float:
    """How strong a kick of that kind is, in its own unit."""

    def sigma(name: str) -> float:
        return max(steady.deviation[name], LEAST_SHARE * steady.mean[name])

    if kind == "hot_ambient":
        return strength_sigmas * max(steady.temperature_deviation / 1_000, LEAST_KELVIN)
    if kind == "heat_burst":
        return strength_sigmas * sigma("avg_word_heat")
    if kind == "window_reset":
        return strength_sigmas * sigma("window_width")
    words = steady.mean["word_executions_delta"]
    return strength_sigmas * sigma("word_executions_delta") / words if words > 0 else 0.0


def with_ambient(scenario: Scenario, steady: Steady, kelvin: float) -> Scenario:
    """`scenario` in a room that is warmer from the kick on; no room is hotter than the schema allows."""
    machine = scenario.machine
    hotter = AmbientStep(at_ms=steady.at_ns // 1_000_000, celsius=min(200.0, machine.ambient_celsius + kelvin))
    return replace(scenario, machine=replace(machine, ambient_steps=(hotter,)))


class Kicker:
    """Kicks a heart at the first control cycle after the kick's tick; ask at every cycle."""

    def __init__(self, kick: Kick, heart: Heartbeat, words_per_second: int) -> None:
        self._kick = kick
        self._heart = heart
        self._words_per_second = words_per_second
        self._began_at: int | None = None

    def cycle(self) -> None:
        """A control cycle has just fed the heart."""
        now = self._heart.tick_number
        if now < self._kick.at_tick:
            return
        first = self._began_at is None
        # A pulse counts from here, so that it is there at all where control cycles are far between.
        began_at = self._began_at = now if self._began_at is None else self._began_at
        if self._kick.kind == "load_pulse" and now - began_at < PULSE_TICKS:
            self._heart.feed(round(self._words_per_second * (1.0 + self._kick.amount)), None)
        if not first:
            return
        if self._kick.kind == "heat_burst":
            # The total heat of all words is what the metric has; each word gets its share of what comes on top.
            words = len(self._heart.words.place)
            self._heart.heat_up(min(self._kick.amount / 65_536 / words, 1 << 20))
        elif self._kick.kind == "window_reset":
            width = int(self._heart.state[ticks.S_WINDOW])
            self._heart.state[ticks.S_WINDOW] = max(width, min(RING, width + round(self._kick.amount)))


def unsteady(kinds: Sequence[str], seed: int, least_sigmas: float) -> list[KickResult]:
    """The results of a run that is not steady: it comes back from no kick, not even from the least."""
    return [KickResult(kind, seed, least_sigmas, False, None) for kind in kinds]


def judged(
    captured: Integers, steady: Steady, kind: str, seed: int, strength_sigmas: float, settle_ticks: int
) -> tuple[KickResult, Course]:
    """Whether the kicked run came back, and how it went."""
    count = captured.shape[1] - settle_ticks
    distance = np.zeros(count)
    for name, band in steady.bands.items():
        distance = np.maximum(distance, _distance(captured[METRICS[name]], settle_ticks, steady.mean[name]) / band)
    outside = np.flatnonzero(distance > 1.0)
    back = 0 if not len(outside) else int(outside[-1]) + 1
    returned = back <= count - STAY_TICKS
    points = np.arange(0, count, max(1, count // COURSE_POINTS))
    course = Course(
        kind, seed, strength_sigmas, tuple(points.tolist()), tuple(float(f"{x:.4g}") for x in distance[points])
    )
    return KickResult(kind, seed, strength_sigmas, returned, back if returned else None), course
