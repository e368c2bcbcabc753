"""What is not known of a start, and how much of an error it may explain.

Nodes that no sensor shows begin where their neighbours would hold them. In truth each may be as much colder or warmer
as it is away from the room: a machine that was just switched on, or at work until a moment ago. The errors that such
starts make are those of a run that begins 1 K warmer there, times what is missing (the network is all but linear).
What is missing is sought by least squares, with that doubt as a normal prior and as a bound, for each stretch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from twin.calibrate.freerun import doubts, free_run, judged_sensor
from twin.calibrate.reader import Measured
from twin.kernels import Floats
from twin.machines import Origin
from twin.scenario import Machine

FADED_CELSIUS = 0.2
"""A start that makes less than this at the sensor has faded."""
MOST_LEFT_OUT = 0.4
"""The share of a recording that may be left out for its start at most; fits are judged by what is behind as much."""
_TRIED_KELVIN = 5.0
_SWEEPS = 200


@dataclass(frozen=True)
class Starts:
    """Starts that nobody knows: a row each in `response` (K at the sensor at each judged sample, for 1 K at the start).

    `most_kelvin` is how far each may be from where the run begins, `noise` the mean square of errors that are none of
    the start's (K^2), times how many of them tell as much as one that is independent. The first `left_out` samples
    tell the starts, and do not count otherwise.
    """

    response: Floats
    most_kelvin: Floats
    noise: float
    left_out: int = 0

    def rest(self, apart: Floats) -> Floats:
        """The errors that count: without what the starts explain, and without the first `left_out` of them."""
        kept: Floats = (apart - self.explained(apart))[self.left_out :]
        return kept

    def explained(self, apart: Floats) -> Floats:
        """The part of the errors `apart` (C) that the starts explain; 0 where all of them are known."""
        count = len(self.most_kelvin)
        if count == 0:
            return np.zeros(len(apart))
        both = np.array([[float(np.sum(a * b)) for b in self.response] for a in self.response])
        pulled = [float(np.sum(row * apart)) for row in self.response]
        missing = np.zeros(count)
        # Descent along one coordinate at a time keeps within bounds and has few sums, in one order.
        for _ in range(_SWEEPS):
            before = missing.copy()
            for row in range(count):
                own = both[row, row] + self.noise / self.most_kelvin[row] ** 2
                rest = pulled[row] - float(np.sum(both[row] * missing)) + both[row, row] * missing[row]
                most = self.most_kelvin[row]
                missing[row] = min(most, max(-most, rest / own)) if own > 0.0 else 0.0
            if float(np.max(np.abs(missing - before))) < 1e-6:
                break
        told: Floats = np.sum(missing[:, None] * self.response, axis=0)
        return told


def unknown_starts(
    machine: Machine, origin: Origin, measured: Measured, judged: np.ndarray[tuple[int], np.dtype[np.bool_]],
    noise: float, step_ms: int,
) -> Starts:  # fmt: skip
    """The starts in the recording that nobody knows, at the samples that are `judged` (one for each sample)."""
    sensor = judged_sensor(machine, origin.kind)
    found = doubts(machine, origin, measured)
    names = sorted({name for _, each in found for name in each})
    usual = free_run(machine, origin, measured, step_ms=step_ms).celsius[sensor] if names else np.zeros(0)
    rows, most = [], []
    for name in names:
        warmer = free_run(machine, origin, measured, step_ms=step_ms, warmer=(name, _TRIED_KELVIN)).celsius[sensor]
        effect = (warmer - usual) / _TRIED_KELVIN
        for (begin, end), each in found:
            if name not in each:
                continue
            row = np.zeros(len(effect))
            row[begin:end] = effect[begin:end]
            row = row[judged]
            if float(np.sum(np.abs(row))) > 0.0:
                rows.append(row)
                most.append(each[name])
    return Starts(
        np.array(rows).reshape(len(rows), int(np.count_nonzero(judged))), np.array(most, dtype=np.float64), noise
    )


def faded(machine: Machine, origin: Origin, measured: Measured, step_ms: int) -> int:
    """The first sample at which the start has faded, after MOST_LEFT_OUT of the recording at the latest.

    From there on, two runs of which one starts warmer everywhere show the same but for FADED_CELSIUS.
    """
    sensor = judged_sensor(machine, origin.kind)
    usual, warm = (
        free_run(machine, origin, measured, step_ms=step_ms, warmer=(None, kelvin)).celsius[sensor]
        for kelvin in (0.0, _TRIED_KELVIN)
    )
    begin, end = measured.recording.pieces()[0]
    apart = np.flatnonzero(np.abs(warm - usual)[begin:end] >= FADED_CELSIUS)
    last = begin + int(apart[-1]) + 1 if len(apart) else begin
    return min(last, int(MOST_LEFT_OUT * len(usual)))
