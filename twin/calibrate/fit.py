"""A machine from recordings: its shape chosen by errors on what a fit did not see, its parameters, and their doubts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from twin.calibrate import intervals, solve
from twin.calibrate.errors import independent_samples
from twin.calibrate.parameters import FULL_WATTS, Kind, Outline, Shape, chain, outline, parameters, rooms_of, shape_of
from twin.calibrate.power import Power, fit_power
from twin.calibrate.recording import FEWEST_SAMPLES, Recording, RecordingError
from twin.kernels import Floats

FITTED_SHARE = 0.6
"""How much of a recording is fitted; the rest judges the fit."""
MOST_NODES = 4
CUTS = (0.4, 0.6, 0.8)
"""Where the fitted part is cut to choose a shape: what is before is fitted, what follows is foretold."""
CUT_WEIGHTS = (1.0, 2.0, 4.0)
"""How much the forecasts after each cut count: the more was fitted, the more they are like the one that matters."""
WORTH = 0.01
"""A slow sensor, or a further node where nothing but noise is left, has to lower the foretold error by this share."""
NOTICEABLE_CELSIUS = 0.05
"""And by this at least."""
ALIKE = 0.15
"""More nodes are taken as long as they foretell no worse than by this share."""
INDEPENDENT_SHARE = 0.2
"""Errors of which this share are independent are the sensor's noise, and tell of no further node."""
NOTHING_CELSIUS, NOTHING_STEPS = 0.1, 0.35
"""Nor do errors (C) below any sensor's own, and those that are a good sensor's steps (1/sqrt(12) = 0.29 of one)."""
CLOSE_ENOUGH = 1e-4
"""Searches that only choose a shape end earlier than the last one."""
SLOWEST_SHARES = (0.03, 0.15)
"""Where searches begin: the slowest time constant as shares of the recording."""
FIRST_TRUST, FIRST_SCALE = 2.0, 20.0
"""What a standard deviation of expectation weighs (K), and where errors begin to count as outliers (K), at first."""
TRUST_SHARE = 0.5
"""How much of the weight that the noise alone would give them expectations have at the end."""
LEAST_TRUST = 0.03
"""And the least (K), where there is no noise."""
LEAST_SCALE = 2.0
"""Errors below this (K) are no outliers while a shape is chosen."""
LEAST_NOISE = 1e-4
OUTLIER_DEVIATIONS = 3.0
LEADS = (-1.0, -0.5, 0.5, 1.0, 1.5)
"""Delays of the recorded drive that are tried, in intervals between samples; none unless one is better."""
LEADS_SECONDS = (-1.5, -1.0, -0.75, -0.5, -0.25, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
"""Delays in seconds that are tried too: meters average over about a second, however often they are read."""
LEAD_WORTH = 0.01
LEAD_TRUST = 0.5
"""What a delay is worth the readings tell, and expectations (K) little: they would rather have it than a fast node."""
FEWEST_FITTED = 10
"""A stretch of a recording with fewer readings in the fitted part is not fitted."""


@dataclass(frozen=True)
class Fitted:
    """One parameter: its value and 95 % interval, and why the data do not tell it (empty when they do).

    What was assumed has no interval (None). `recording` names the recording it belongs to; it is empty for parameters
    of the machine.
    """

    name: str
    unit: str
    value: float
    low: float | None
    high: float | None
    recording: str = ""
    unknown: str = ""

    @property
    def label(self) -> str:
        """The name, and the recording in brackets where it belongs to one."""
        return f"{self.name} ({self.recording})" if self.recording else self.name


@dataclass(frozen=True)
class Fit:
    """What a fit found.

    A gap ends a stretch of a recording; the one after it has its own ambient and start. `foretold_celsius` is what each
    number of nodes reached inside the fitted part on what it had not seen, for choosing. `point` and `problem` belong
    to the solver; `power` is the law of the power where that was recorded beside the load. How good the machine is on
    what was not fitted, the world tells (`twin.calibrate.calibrated`).
    """

    kind: Kind
    shape: Shape
    look: Outline
    lead_seconds: float
    max_rpm: float
    parameters: tuple[Fitted, ...]
    together: tuple[tuple[str, str], ...]
    foretold_celsius: dict[str, float]
    noise_celsius: float
    quantum_celsius: float
    sample_seconds: float
    point: Floats
    problem: solve.Problem
    power: Power | None
    stretches: tuple[str, ...]

    def values(self, recording: int = 0) -> dict[str, float]:
        """The parameters by name, those of one recording (or one stretch between gaps) among them."""
        return self.problem.values(self.point, recording)

    def starts(self) -> list[tuple[str, float, Floats]]:
        """Of each stretch its name, its first reading and the nodes' temperatures then (C)."""
        found = []
        for place, (name, first) in enumerate(zip(self.stretches, self.look.first_celsius, strict=True)):
            begin = chain(self.shape, self.values(place), self.look.full_watts, first).start
            found.append((name, float(self.problem.celsius[place][self.problem.used[place]][0]), begin))
        return found

    def mean_ambient(self) -> float:
        """The mean of the rooms' temperatures in all stretches (C)."""
        return float(np.mean([self.values(place)["ambient"] for place in range(len(self.problem.drives))]))


@dataclass(frozen=True)
class _Task:
    recordings: tuple[Recording, ...]
    look: Outline
    max_rpm: float
    used: tuple[solve.Flags, ...]
    lead_seconds: float = 0.0
    scale: float = FIRST_SCALE

    def problem(self, shape: Shape, slowest_share: float, used: Sequence[solve.Flags] | None = None) -> solve.Problem:
        found = parameters(shape, self.look, slowest_share)
        flags = self.used if used is None else used
        return solve.problem_of(
            shape, self.look, self.recordings, found, self.lead_seconds, self.max_rpm, flags
        )  # fmt: skip


def fit(
    recordings: Sequence[Recording],
    kind: Kind,
    *,
    fitted_share: float = FITTED_SHARE,
    full_watts: float | None = None,
    room_celsius: float | None = None,
    most_nodes: int = MOST_NODES,
) -> Fit:
    """Fit one machine to the first `fitted_share` (0.1 to 1) of each of its recordings.

    `full_watts` is what full load adds to the power at idle, where no power was recorded (else a value usual for
    `kind`); `room_celsius` the room's temperature where it is known and was not recorded. The same recordings give the
    same fit. Raises `RecordingError` when there is nothing to fit.
    """
    if not recordings:
        raise RecordingError("there is no recording; give one at least")
    if not 0.1 <= fitted_share <= 1.0:
        raise RecordingError(f"the share to fit is {fitted_share:g}; allowed are 0.1 to 1")
    stretches = [each for recording in recordings for each in _stretches(recording, fitted_share)]
    fitted = [each for each in stretches if np.count_nonzero(each.used) >= FEWEST_FITTED]
    if not fitted:
        raise RecordingError(f"{recordings[0].name}: no stretch without a gap has {FEWEST_FITTED} readings to fit")
    driven = shape_of(recordings, 1).driven
    look = outline([each.recording.between(0, int(np.flatnonzero(each.used)[-1]) + 1, each.recording.name)
                    for each in fitted if np.count_nonzero(each.used) >= FEWEST_SAMPLES] or
                   [each.recording for each in fitted],
                   kind, driven, FULL_WATTS[kind] if full_watts is None else full_watts, room_celsius)  # fmt: skip
    look = replace(
        look,
        first_celsius=tuple(_first(each.recording) for each in fitted),
        rooms_celsius=rooms_of([each.recording for each in fitted], kind, room_celsius),
    )
    task = _Task(tuple(each.recording for each in fitted), look, _max_rpm(recordings), tuple(e.used for e in fitted))
    task = _acquainted(task)
    shape, point, foretold = _choose(task, most_nodes)
    problem = task.problem(shape, SLOWEST_SHARES[0])
    solution, noise = _polish(problem, point, task.scale)
    doubts = intervals.intervals(problem, solution)
    found = tuple(
        Fitted(p.name, p.unit, p.told(x), doubt.low, doubt.high,
               fitted[p.recording].recording.name if p.recording >= 0 else "", doubt.unknown)
        for p, x, doubt in zip(problem.parameters, solution.point, doubts.each, strict=True)
    )  # fmt: skip
    assumed = () if driven == "power" else (
        Fitted("full_watts", "W", look.full_watts, None, None, "",
               "no power was recorded: what full load adds is assumed, and resistances and powers scale with it"),
    )  # fmt: skip
    return Fit(
        kind=kind,
        shape=shape,
        look=look,
        lead_seconds=task.lead_seconds,
        max_rpm=task.max_rpm,
        parameters=(*found, *assumed),
        together=tuple((found[one].label, found[other].label) for one, other in doubts.together),
        foretold_celsius=foretold,
        noise_celsius=noise,
        quantum_celsius=min(recording.quantum_celsius for recording in recordings),
        sample_seconds=min(recording.interval_seconds for recording in recordings),
        point=solution.point,
        problem=problem,
        power=fit_power(task.recordings, task.used) if driven == "power" else None,
        stretches=tuple(each.recording.name for each in fitted),
    )  # fmt: skip


def _max_rpm(recordings: Sequence[Recording]) -> float:
    return max((float(np.nanmax(r.fan_rpm)) for r in recordings if r.fan_rpm is not None), default=0.0)


@dataclass(frozen=True)
class _Stretch:
    """A stretch of a recording without a gap, and which readings are fitted."""

    recording: Recording
    used: solve.Flags


def _stretches(recording: Recording, share: float) -> list[_Stretch]:
    found = []
    end_fitted = int(len(recording.times_seconds) * share)
    for begin, end in recording.pieces():
        piece = recording.stretch(begin, end)
        used = piece.believable() & (np.arange(begin, end) < end_fitted)
        found.append(_Stretch(piece, used))
    return found


def _first(recording: Recording) -> float:
    """The first reading, or the median of the first three, should it be an outlier."""
    return float(np.median(recording.temperatures_celsius[recording.believable()][:3]))


def _acquainted(task: _Task) -> _Task:
    """The task with the delay of its drive, and the size of its outliers, that three nodes and a slow sensor fit best.

    With less a delay would stand for a fast node, or for the sensor, that is missing.
    """
    interval = min(recording.interval_seconds for recording in task.recordings)
    shape = replace(shape_of(task.recordings, 3), lag=True)
    problem = task.problem(shape, SLOWEST_SHARES[0])
    first = solve.search(problem, np.array([p.start for p in problem.parameters]), FIRST_TRUST, FIRST_SCALE, 30)
    task = replace(task, scale=max(LEAST_SCALE, OUTLIER_DEVIATIONS * _noise(problem, first.point)))
    if shape.driven == "nothing":
        return task
    seconds = [each for each in LEADS_SECONDS if abs(each) > LEADS[-1] * interval]
    leads = [0.0, *(round(each * interval, 3) for each in LEADS), *seconds]
    costs = []
    for lead in leads:
        problem = replace(task, lead_seconds=lead).problem(shape, SLOWEST_SHARES[0])
        costs.append(solve.search(problem, first.point, LEAD_TRUST, task.scale, 15).cost)
    unnoticed = NOTICEABLE_CELSIUS**2 * sum(np.count_nonzero(used) for used in task.used)
    best = int(np.argmin(costs))
    if costs[0] - costs[best] < LEAD_WORTH * costs[0] + unnoticed:
        return task
    return replace(task, lead_seconds=leads[best])


def _noise(problem: solve.Problem, point: Floats) -> float:
    """The usual size of an error (C): one standard deviation, were there no outliers."""
    apart = np.concatenate([problem.errors(point, place) for place in range(len(problem.drives))])
    return 1.4826 * float(np.median(np.abs(apart - np.median(apart))))


def _choose(task: _Task, most_nodes: int) -> tuple[Shape, Floats, dict[str, float]]:
    """The shape for the data, and a point near its best.

    Machines have more nodes than any chain. A further one that a recording excites little stays near what is expected
    of it, which does less harm than its absence, where what follows excites it more. So of the shapes that foretell
    alike the one with the most nodes is taken, but where a simple one leaves nothing to explain: errors that are too
    small to notice, or independent as noise is.
    """
    foretold: dict[str, float] = {}
    found: list[tuple[float, Shape, Floats]] = []
    for nodes in range(1, most_nodes + 1):
        shape = shape_of(task.recordings, nodes)
        point = _best_start(task, shape)
        score = _foretell(task, shape, point)
        foretold[f"{nodes} nodes" if nodes > 1 else "1 node"] = round(score, 4)
        found.append((score, shape, point))
    least = min(score for score, _, _ in found)
    enough = least + max(WORTH * least, NOTICEABLE_CELSIUS)
    score, shape, point = next(each for each in found if each[0] <= enough)
    quantum = max(recording.quantum_celsius for recording in task.recordings)
    nothing = least <= max(NOTHING_CELSIUS, NOTHING_STEPS * quantum)
    if not nothing and _independent_share(task, shape, point) < INDEPENDENT_SHARE:
        score, shape, point = next(each for each in found[::-1] if each[0] <= least * (1.0 + ALIKE))
    if shape.nodes == 1 and most_nodes > 1:
        # Its lag would stand for the second node.
        return shape, point, foretold
    slow = replace(shape, lag=True)
    slow_point = _slowed(task, slow, shape, point)
    slow_score = _foretell(task, slow, slow_point)
    foretold["slow sensor"] = round(slow_score, 4)
    if slow_score < score - max(WORTH * score, NOTICEABLE_CELSIUS):
        shape, point = slow, slow_point
    return shape, point, foretold


def _independent_share(task: _Task, shape: Shape, point: Floats) -> float:
    """How many of the errors that a shape leaves tell as much as all, as a share of them."""
    problem = task.problem(shape, SLOWEST_SHARES[0])
    parts = [problem.errors(point, place) for place in range(len(problem.drives))]
    return sum(independent_samples(part) for part in parts) / sum(len(part) for part in parts)


def _best_start(task: _Task, shape: Shape) -> Floats:
    solutions = []
    for slowest_share in SLOWEST_SHARES:
        problem = task.problem(shape, slowest_share)
        start = np.array([p.start for p in problem.parameters])
        solutions.append(solve.search(problem, start, FIRST_TRUST, task.scale, 40, CLOSE_ENOUGH))
    # The expectations of the starts differ, so their costs are not comparable to the last digit; the data rule.
    return min(solutions, key=lambda solution: solution.cost).point


def _slowed(task: _Task, slow: Shape, shape: Shape, point: Floats) -> Floats:
    """The best of a slow sensor from what is best without: the lag is the only number to find from nothing."""
    names = [(p.name, p.recording) for p in task.problem(shape, SLOWEST_SHARES[0]).parameters]
    there = dict(zip(names, point.tolist(), strict=True))
    problem = task.problem(slow, SLOWEST_SHARES[0])
    start = np.array([there.get((p.name, p.recording), p.start) for p in problem.parameters])
    return solve.search(problem, start, FIRST_TRUST, task.scale, 40, CLOSE_ENOUGH).point


def _foretell(task: _Task, shape: Shape, point: Floats) -> float:
    """Weighted mean of the errors (C) of forecasts inside the fitted part, from each cut to its end."""
    scores = []
    for cut in CUTS:
        before, after = [], []
        for used in task.used:
            end = int(np.flatnonzero(used)[-1]) + 1
            place = np.arange(len(used))
            before.append(used & (place < int(end * cut)))
            after.append(used & (place >= int(end * cut)))
        problem = task.problem(shape, SLOWEST_SHARES[0], before)
        solution = solve.search(problem, point, FIRST_TRUST, task.scale, 15, CLOSE_ENOUGH)
        judged = task.problem(shape, SLOWEST_SHARES[0], after)
        apart = np.concatenate([judged.errors(solution.point, place) for place in range(len(after))])
        scores.append(float(np.sqrt(np.mean(apart * apart))))
    return float(np.average(scores, weights=CUT_WEIGHTS))


def _polish(problem: solve.Problem, point: Floats, scale: float) -> tuple[solve.Solution, float]:
    """The best point near `point`, with expectations and outliers weighed by the noise that the fit itself shows."""
    noise = 0.0
    solution = solve.search(problem, point, FIRST_TRUST, scale, 60)
    for _ in range(3):
        parts = [problem.errors(solution.point, place) for place in range(len(problem.drives))]
        noise = max(_noise(problem, solution.point), LEAST_NOISE)
        trust = max(
            LEAST_TRUST, TRUST_SHARE * noise * max(len(part) / independent_samples(part) for part in parts) ** 0.5
        )
        solution = solve.search(problem, solution.point, trust, OUTLIER_DEVIATIONS * noise, 60)
    return solution, noise
