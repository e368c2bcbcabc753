"""The spectrum of a series whose samples are not evenly spaced.

It is read off, along straight lines, at evenly spaced times (the median interval apart), cut into pieces that overlap
by half, each less its mean and under a Hann window, and the squares of their Fourier transforms are averaged (P. D.
Welch, "The use of fast Fourier transform for the estimation of power spectra", 1967).
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from twin.fingerprint.series import NotKnown, total, varies
from twin.kernels import Floats, Integers, kernel, log

LEAST_SAMPLES = 1_024
SEGMENT_LEAST, SEGMENT_MOST = 256, 16_384
PARTS = 4
"""A segment is at most one of so many parts of the series."""
STRETCH = 8
"""Long gaps become at most so many times as many evenly spaced values as there are samples."""
_HALF_PI = 1.5707963267948966


class Spectrum(NamedTuple):
    """The strongest frequency, and how evenly the power is spread: from 0 (one frequency) to 1 (all alike)."""

    frequency_hz: float
    entropy: float


@kernel
def resample(time_ns: Integers, values: Floats, step_ns: int, out: Floats) -> None:
    """Into `out` the series at its first time and every `step_ns` after, along straight lines between samples.

    Times never go back; of samples at one time the last counts.
    """
    last = len(time_ns) - 1
    left = 0
    for i in range(len(out)):
        now = time_ns[0] + i * step_ns
        while left < last - 1 and time_ns[left + 1] <= now:
            left += 1
        gap = time_ns[left + 1] - time_ns[left]
        if gap > 0:
            out[i] = values[left] + (values[left + 1] - values[left]) * (float(now - time_ns[left]) / float(gap))
        else:
            out[i] = values[left + 1]


@kernel
def hann(out: Floats) -> None:
    """Into `out` the periodic Hann window, sin^2(pi i / n), for an even n: Taylor's series for the sine up to pi/2."""
    size = len(out)
    for i in range(size // 2 + 1):
        # sin(x) for x from 0 to pi/2; the next term is below 10^-19.
        x = _HALF_PI * (2.0 * i / size)
        square = x * x
        term = 1.0
        n = 21
        while n > 1:
            term = 1.0 - term * square / (n * (n - 1))
            n -= 2
        out[i] = x * term * x * term
        if i > 0:
            out[size - i] = out[i]


@kernel
def windowed(even: Floats, begin: int, window: Floats, out: Floats) -> None:
    """Into `out` a piece of the series, less its mean, times the window."""
    size = len(window)
    first = even[begin]
    for i in range(size):
        out[i] = even[begin + i] - first
    mean = total(out) / size
    for i in range(size):
        out[i] = (out[i] - mean) * window[i]


@kernel
def add_power(transform: Floats, power: Floats) -> None:
    """Add the squares of a transform (real and imaginary parts by turns) to `power`; twice but at both ends.

    Each frequency between the ends stands for a negative one too.
    """
    last = len(power) - 1
    for k in range(last + 1):
        square = transform[2 * k] * transform[2 * k] + transform[2 * k + 1] * transform[2 * k + 1]
        power[k] += square if k in (0, last) else 2.0 * square


@kernel
def peak_and_entropy(power: Floats, out: Floats) -> None:
    """Into `out` the place of the largest power from bin 1 on, and the entropy of the powers from there on.

    The place, in bins, is refined by a parabola through the logarithms of the largest and its neighbours. Both are -1
    when there is no power.
    """
    last = len(power) - 1
    peak = 1
    whole = 0.0
    for k in range(1, last + 1):
        whole += power[k]
        if power[k] > power[peak]:
            peak = k
    out[0] = -1.0
    out[1] = -1.0
    if not whole > 0.0:
        return
    found = 0.0
    for k in range(1, last + 1):
        share = power[k] / whole
        if share > 0.0:
            found -= share * log(share)
    place = float(peak)
    if 1 < peak < last and power[peak - 1] > 0.0 and power[peak + 1] > 0.0:
        before, here, after = log(power[peak - 1]), log(power[peak]), log(power[peak + 1])
        bend = before - 2.0 * here + after
        if bend < 0.0:
            place += 0.5 * (before - after) / bend
    out[0] = place
    out[1] = min(1.0, max(0.0, found / log(float(last))))


@functools.cache
def _window(size: int) -> Floats:
    window = np.zeros(size)
    hann(window)
    return window


def spectrum(time_ns: Integers, values: Floats) -> Spectrum:
    """The spectrum of `values` at the times `time_ns`, which never go back. Both have shape (n,).

    Frequencies are known to about 1 % of 1 over the length of a segment, for pure ones. Raises `NotKnown` when there
    are fewer than `LEAST_SAMPLES`, they do not vary, or most of them are at one time.
    """
    count = len(values)
    if count < LEAST_SAMPLES:
        raise NotKnown(f"there are {count} samples; {LEAST_SAMPLES:,} are needed")
    if not varies(values):
        raise NotKnown("the series does not vary")
    middle = (count - 2) // 2
    step = int(np.partition(np.diff(time_ns), middle)[middle])
    span = int(time_ns[-1]) - int(time_ns[0])
    if step <= 0:
        raise NotKnown("no time passes between most of the samples")
    step = max(step, -(-span // (STRETCH * count)))
    even = np.zeros(span // step + 1)
    resample(time_ns, values, step, even)
    size = SEGMENT_LEAST
    while size < SEGMENT_MOST and 2 * size <= len(even) // PARTS:
        size *= 2
    window, piece, power = _window(size), np.zeros(size), np.zeros(size // 2 + 1)
    for begin in range(0, len(even) - size + 1, size // 2):
        windowed(even, begin, window, piece)
        add_power(np.fft.rfft(piece).view(np.float64), power)
    out = np.zeros(2)
    peak_and_entropy(power, out)
    if out[0] < 0.0:
        raise NotKnown("the series does not vary at evenly spaced times")
    return Spectrum(float(out[0]) * 1e9 / (size * step), float(out[1]))
