"""How far a free run is from what was recorded, and how much that tells."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from twin.kernels import Floats


@dataclass(frozen=True)
class Errors:
    """Errors of a free run (C, model less reading): root mean square, largest, mean absolute, mean; and how many."""

    rmse_celsius: float
    max_error_celsius: float
    mae_celsius: float
    bias_celsius: float
    samples: int


def errors(shown: Floats, recorded: Floats) -> Errors:
    """The errors of `shown` against `recorded`, where both are numbers (never: no samples and errors of 0)."""
    apart = (shown - recorded)[np.isfinite(recorded) & np.isfinite(shown)]
    if len(apart) == 0:
        return Errors(0.0, 0.0, 0.0, 0.0, 0)
    return Errors(
        rmse_celsius=float(np.sqrt(np.mean(apart * apart))),
        max_error_celsius=float(np.max(np.abs(apart))),
        mae_celsius=float(np.mean(np.abs(apart))),
        bias_celsius=float(np.mean(apart)),
        samples=len(apart),
    )


def independent_samples(apart: Floats) -> float:
    """How many independent errors tell as much as these, which resemble their neighbours (1 to their number).

    n / (1 + 2 sum of autocorrelations), summed while pairs of them are positive (Geyer 1992, "Practical Markov chain
    Monte Carlo", the initial positive sequence).
    """
    count = len(apart)
    centred = apart - np.mean(apart)
    variance = float(np.mean(centred * centred)) if count else 0.0
    if count < 4 or variance <= 0.0:
        return float(max(1, count))
    size = 1 << (2 * count - 1).bit_length()
    spectrum = np.fft.rfft(centred, size)
    alike = np.fft.irfft(spectrum * np.conj(spectrum), size)[: count // 2] / (count * variance)
    pairs = alike[: len(alike) // 2 * 2].reshape(-1, 2).sum(axis=1)
    ends = np.flatnonzero(pairs <= 0.0)
    total = float(np.sum(pairs[: ends[0]] if len(ends) else pairs))
    return count / max(1.0, 2.0 * total - 1.0)
