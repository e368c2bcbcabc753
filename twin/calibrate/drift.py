"""Whether a machine is still the one that was fitted, and what changed most if it is not.

The test compares mean squares: that of the errors now with that on what the fit had not seen. Errors resemble their
neighbours, so each counts only as many samples as would tell as much if they were independent; the ratio is then held
against the F distribution. What the start of nodes that no sensor shows may explain does not count (`starts`). What
changed is looked for one parameter at a time: how far it has to move for the squares to be least, and what share of
them that takes away.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from twin.calibrate.errors import independent_samples
from twin.calibrate.freerun import free_run, judged_sensor
from twin.calibrate.reader import Measured
from twin.calibrate.starts import FADED_CELSIUS, Starts, faded, unknown_starts
from twin.kernels import Floats
from twin.machines import Origin
from twin.scenario import Machine

CONFIDENCE = 0.99
COARSEST_STEP_MS = 200
WORTH = 0.1
"""A change that explains less than this share is not worth a sentence."""
ALIKE = 0.05
"""Changes whose shares differ by less explain it as well as each other."""
FEWEST = 10
MOST_BOUND = 4.0
"""A mean square that may be more times that of the fit by chance leaves no test that is worth a verdict."""
LEAST_SHARE = 0.5
"""Where the start explains more of an error that lasts, nothing can be told either."""
_LOG_MOST = 2.5
_KELVIN_MOST = 40.0


@dataclass(frozen=True)
class Change:
    """A parameter that may have moved: by how much, in what unit, its 95 % interval, and what share that explains.

    `change` is in kelvin for the ambient and a ratio less 1 for the others (0.3: 30 percent more).
    """

    parameter: str
    change: float
    unit: str
    low: float
    high: float
    explains: float

    def words(self) -> str:
        """A sentence for people."""
        moved = f"{self.change:+.1f} C" if self.unit == "C" else f"{self.change * 100.0:+.0f} %"
        return f"{self.parameter.replace('_', ' ')} {moved} explains {self.explains * 100.0:.0f} % of the difference"


@dataclass(frozen=True)
class Drift:
    """The verdict: `matches` is None, with a reason, where nothing can be told.

    `ratio` is the mean square of the errors over that of the fit, `bound` what it may be at `confidence`, both after
    the first `left_out_seconds` of what is judged, in which the start fades, and without what an unknown start
    explains: `start_celsius` at most, and FADED_CELSIUS or more during `start_seconds` in all. `noticed_celsius` is
    the least error that lasts (C, RMSE) which would be noticed; None where nobody knows.
    """

    matches: bool | None
    reason: str
    ratio: float | None
    bound: float | None
    confidence: float
    independent_samples: float
    changes: tuple[Change, ...]
    noticed_celsius: float | None = None
    left_out_seconds: float = 0.0
    start_celsius: float = 0.0
    start_seconds: float = 0.0

    def start_words(self) -> str:
        """What of the recording does not count; empty where all of it does."""
        told = []
        if self.left_out_seconds > 0.0:
            told.append(f"the first {_span(self.left_out_seconds)}, in which the start fades, do not count")
        if self.start_celsius >= FADED_CELSIUS:
            told.append(
                f"up to {self.start_celsius:.1f} C, for {_span(self.start_seconds)}, are put down to the unknown start"
            )
        return "; ".join(told)

    def words(self) -> str:
        """The verdict in a sentence."""
        if self.matches:
            return "the machine still matches"
        if self.matches is None and self.noticed_celsius is not None:
            return self.reason
        best = max((each.explains for each in self.changes), default=0.0)
        told = ", or ".join(each.words() for each in self.changes if each.explains >= max(WORTH, best - ALIKE))
        told = told or "no single parameter explains the difference"
        return f"{self.reason or 'the machine has changed'}: {told}"


def offset(machine: Machine, kelvin: float) -> Machine:
    """The machine in a room that is warmer by `kelvin`."""
    steps = tuple(replace(step, celsius=_room(step.celsius + kelvin)) for step in machine.ambient_steps)
    return replace(machine, ambient_celsius=_room(machine.ambient_celsius + kelvin), ambient_steps=steps)


def _room(celsius: float) -> float:
    return min(200.0, max(-60.0, celsius))


def drift(machine: Machine, origin: Origin, measured: Measured, first: int, last: int, shown: Floats) -> Drift:
    """The verdict on the samples from `first` to `last`; `shown` is what the free run's sensor had at all samples."""
    from scipy.stats import f as f_distribution

    step_ms = _step_ms(machine, measured)
    apart = apart_of(measured, shown, first, last)
    # What the fit is judged by is far from any start, and so has to be what is held against it.
    later = max(first, faded(machine, origin, measured, step_ms))
    left_out = len(apart) - len(apart_of(measured, shown, later, last))
    if len(apart) - left_out < FEWEST:
        later, left_out = first, 0
    unseen = origin.unseen
    fitted = unseen is not None and unseen.rmse_celsius > 0.0
    if unseen is not None and fitted:
        noise = unseen.rmse_celsius**2 * max(1.0, unseen.samples / unseen.independent_samples)
    else:
        noise = float(np.mean(apart * apart)) * len(apart) / independent_samples(apart)
    judged = _judged(measured, shown, first, last)
    starts = unknown_starts(machine, origin, measured, judged, noise, step_ms)
    starts = replace(starts, left_out=left_out)
    explained = starts.explained(apart)
    rest = starts.rest(apart)
    independent = max(2.0, independent_samples(rest))
    ratio = bound = matches = noticed = None
    reason = "the machine file does not say how well it was fitted (origin.unseen)"
    if unseen is not None and fitted:
        ratio = float(np.mean(rest * rest)) / unseen.rmse_celsius**2
        bound = float(f_distribution.ppf(CONFIDENCE, independent, max(2.0, unseen.independent_samples)))
        least = bound**0.5 * unseen.rmse_celsius
        lasting = np.full(len(apart), 2.0 * least)
        share = _root(starts.rest(lasting)) / (2.0 * least)
        noticed = least / max(share, 1e-3)
        matches, reason = _verdict(ratio, bound, share, noticed)
    found = (
        () if matches or (reason and fitted) else tuple(changes(machine, origin, measured, first, last, starts=starts))
    )
    seconds = measured.recording.interval_seconds * float(np.count_nonzero(np.abs(explained) >= FADED_CELSIUS))
    times = measured.recording.times_seconds
    return Drift(
        matches, reason, ratio, bound, CONFIDENCE, independent, found, noticed,
        float(times[later] - times[first]), float(np.max(np.abs(explained), initial=0.0)), seconds,
    )  # fmt: skip


def _verdict(ratio: float, bound: float, share: float, noticed: float) -> tuple[bool | None, str]:
    """Whether the machine matches; none, and why, where a test without power found nothing."""
    if ratio > bound:
        return False, ""
    if bound > MOST_BOUND:
        return None, (
            "cannot tell: the fit's errors, or those of this recording, are alike, so that few of them count; "
            f"a change below {noticed:.1f} C could not be seen"
        )
    if share < LEAST_SHARE:
        return None, (
            "cannot tell: the recording is too short, and its unknown start may explain most of it; "
            f"a change below {noticed:.1f} C could not be seen"
        )
    return True, ""


def _span(seconds: float) -> str:
    return f"{seconds / 60.0:.0f} min" if seconds >= 90.0 else f"{seconds:.0f} s"


def _root(apart: Floats) -> float:
    return float(np.sqrt(np.mean(apart * apart)))


def _step_ms(machine: Machine, measured: Measured) -> int:
    """A coarser step moves temperatures by hundredths of a kelvin and takes a tenth of the time."""
    usual_ms = measured.recording.interval_seconds * 1_000.0
    return max(machine.step_ms, int(min(COARSEST_STEP_MS, max(20.0, usual_ms / 5.0))))


def _judged(
    measured: Measured, shown: Floats, first: int, last: int
) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:  # fmt: skip
    known = measured.recording.believable() & np.isfinite(shown)
    known[:first] = False
    known[last:] = False
    return known


def apart_of(measured: Measured, shown: Floats, first: int, last: int) -> Floats:
    """Errors of what a free run's sensor had `shown`, from sample `first` to `last`, without what cannot be judged."""
    known = _judged(measured, shown, first, last)
    return shown[known] - measured.recording.temperatures_celsius[known]


def changes(
    machine: Machine, origin: Origin, measured: Measured, first: int, last: int, only: str | None = None,
    starts: Starts | None = None,
) -> list[Change]:  # fmt: skip
    """What may have changed, each parameter by itself and with the best of `starts`, best explanation first."""
    sensor = judged_sensor(machine, origin.kind)
    step_ms = _step_ms(machine, measured)

    def errors_of(moved: Machine) -> Floats:
        run = free_run(moved, origin, measured, step_ms=step_ms)
        apart = apart_of(measured, run.celsius[sensor], first, last)
        return apart if starts is None else starts.rest(apart)

    before = errors_of(machine)
    found = [
        _best(name, unit, most, move, machine, before, errors_of)
        for name, unit, most, move in _movable(machine, origin, measured)
        if only in (None, name)
    ]
    return sorted(found, key=lambda each: (-each.explains, each.parameter))


def _best(
    name: str, unit: str, most: float, move: Callable[[Machine, float], Machine], machine: Machine, before: Floats,
    errors_of: Callable[[Machine], Floats],
) -> Change:  # fmt: skip
    """How far a parameter has to move for the squares to be least: secants, which two or three steps settle."""
    whole = float(np.sum(before * before))
    best, error, least = 0.0, before, whole
    here, now = 0.0, before
    there = 1.0 if unit == "C" else 0.1
    steep = 0.0
    for _ in range(4):
        tried = errors_of(move(machine, there))
        slope = (tried - now) / (there - here)
        squares = float(np.sum(tried * tried))
        if squares < least:
            best, error, least = there, tried, squares
        steep = float(np.sum(slope * slope))
        if steep <= 1e-12:
            break
        here, now = there, tried
        there = float(np.clip(here - float(np.sum(slope * tried)) / steep, -most, most))
        if abs(there - here) < (0.02 if unit == "C" else 0.005):
            break
    spread = float(np.std(error)) * (len(error) / independent_samples(error)) ** 0.5
    doubt = 1.96 * spread / steep**0.5 if steep > 1e-12 else most
    low, high = max(-most, best - doubt), min(most, best + doubt)
    if unit != "C":
        best, low, high = (float(np.expm1(value)) for value in (best, low, high))
    return Change(name, best, unit, low, high, 1.0 - least / whole if whole > 0.0 else 0.0)


def _movable(
    machine: Machine, origin: Origin, measured: Measured
) -> list[tuple[str, str, float, Callable[[Machine, float], Machine]]]:  # fmt: skip
    """The parameters that can be told apart, each with its unit, its range, and how a machine is moved by it."""
    die = machine.gpu.node if origin.kind == "gpu" else machine.cpu.node
    blown = [edge.fan is not None and edge.forced_watts_per_kelvin > 0.0 for edge in machine.edges]
    outside = ["ambient" in (edge.a, edge.b) for edge in machine.edges]
    inside = [die in (edge.a, edge.b) and not out for edge, out in zip(machine.edges, outside, strict=True)]
    found: list[tuple[str, str, float, Callable[[Machine, float], Machine]]] = [("ambient", "C", _KELVIN_MOST, offset)]
    if any(inside):
        # Warmer at the same power: what lies between the die and its cooler conducts less.
        found.append(
            ("paste_resistance", "1", _LOG_MOST, lambda m, log: _conducting(m, inside, np.exp(-log), np.exp(-log)))
        )
    if any(blown) and (measured.recording.fan_rpm is not None or measured.fans):
        found.append(("fan_effect", "1", _LOG_MOST, lambda m, log: _conducting(m, blown, 1.0, np.exp(log))))
    if any(out and not fan for out, fan in zip(outside, blown, strict=True)):
        found.append(("surface_resistance", "1", _LOG_MOST, lambda m, log: _conducting(m, outside, np.exp(-log), 1.0)))
    if origin.driven != "power":
        found.append(("power", "1", _LOG_MOST, lambda m, log: _drawing(m, origin, float(np.exp(log)))))
    return found


def _conducting(machine: Machine, which: list[bool], still: float, forced: float) -> Machine:
    """The machine with these edges' conductances multiplied."""
    return replace(
        machine,
        edges=tuple(
            replace(
                edge,
                still_watts_per_kelvin=edge.still_watts_per_kelvin * float(still),
                forced_watts_per_kelvin=edge.forced_watts_per_kelvin * float(forced),
            )
            if moved
            else edge
            for edge, moved in zip(machine.edges, which, strict=True)
        ),
    )


def _drawing(machine: Machine, origin: Origin, factor: float) -> Machine:
    """The machine with its processor's power multiplied."""
    if origin.kind == "gpu":
        gpu = machine.gpu
        return replace(machine, gpu=replace(
            gpu, capacitance_nanofarad=gpu.capacitance_nanofarad * factor,
            leakage_amperes=gpu.leakage_amperes * factor, idle_watts=gpu.idle_watts * factor,
        ))  # fmt: skip
    cpu = machine.cpu
    return replace(machine, cpu=replace(
        cpu, capacitance_nanofarad=cpu.capacitance_nanofarad * factor,
        leakage_amperes=cpu.leakage_amperes * factor, idle_watts=cpu.idle_watts * factor,
    ))  # fmt: skip
