"""Free runs of a fitted machine: along a recording from its first sample, without a look at any later temperature."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from twin.calibrate import forward, solve
from twin.calibrate.errors import Errors, errors
from twin.calibrate.fit import Fit
from twin.calibrate.parameters import Shape, chain
from twin.calibrate.recording import Recording, RecordingError
from twin.kernels import Floats

SWEEP_STEP_KELVIN = 8.0
SWEEPS = 8
"""The search for an ambient starts with steps of 8 K and ends with steps of 0.06 K."""


def free_run(fit: Fit, recording: Recording, *, ambient_celsius: float | None = None) -> Floats:
    """What the sensor would show at the samples of `recording` (C).

    Only the first reading is used: nodes that nobody measures start where a constant heat that gave it would hold them.
    The room is that of the fitted recordings (their mean) unless `ambient_celsius` says otherwise. Raises
    `RecordingError` when the recording has nothing that could drive the machine.
    """
    column = {"power": recording.powers_watts, "load": recording.loads, "nothing": recording.times_seconds}
    if column[fit.shape.driven] is None:
        raise RecordingError(
            f"{recording.name}: the machine was fitted to its {fit.shape.driven}; there is no such column"
        )
    if fit.shape.fan and recording.fan_rpm is None:
        raise RecordingError(f"{recording.name}: the machine was fitted to its fan's speed; there is no such column")
    values = _machine_values(fit)
    ambient = mean_ambient(fit) if ambient_celsius is None else ambient_celsius
    return _shown(fit, fit.shape, values, recording, ambient, forward.drive(recording, fit.lead_seconds, fit.max_rpm))


def judge(fit: Fit, recording: Recording, *, ambient_free: bool = False) -> tuple[Errors, float]:
    """The errors of a free run along `recording`, and the ambient (C) that it had.

    With `ambient_free` the ambient is the one with the least mean square error, found by halving steps: one number of
    the recording that is not foretold.
    """
    recorded = np.where(recording.believable(), recording.temperatures_celsius, np.nan)
    best = mean_ambient(fit)
    found = errors(free_run(fit, recording, ambient_celsius=best), recorded)
    step = SWEEP_STEP_KELVIN if ambient_free else 0.0
    for _ in range(SWEEPS if ambient_free else 0):
        moved = True
        while moved:
            moved = False
            for tried in (best - step, best + step):
                judged = errors(free_run(fit, recording, ambient_celsius=tried), recorded)
                if judged.rmse_celsius < found.rmse_celsius:
                    best, found, moved = tried, judged, True
                    break
        step /= 2.0
    return found, best


def mean_ambient(fit: Fit) -> float:
    """The mean of the ambients of the recordings that were fitted (C)."""
    return float(np.mean([fit.values(place)["ambient"] for place in range(len(fit.problem.drives))]))


def _machine_values(fit: Fit) -> dict[str, float]:
    pairs = zip(fit.problem.parameters, fit.point, strict=True)
    return {p.name: p.told(x) for p, x in pairs if p.recording == -1}


def _shown(
    fit: Fit, shape: Shape, values: Mapping[str, float], recording: Recording, ambient: float, drive: forward.Drive
) -> Floats:  # fmt: skip
    first = float(recording.temperatures_celsius[recording.believable()][0])
    made = chain(shape, {**values, "ambient": ambient}, fit.look.full_watts, first)
    shown = np.zeros(drive.samples)
    solve.run(shape.nodes, made.numbers, made.ambient, made.start, drive, shown)
    return shown
