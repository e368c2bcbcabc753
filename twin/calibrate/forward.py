"""The world's equations along a recording: a chain of lumps from the die to the air, exact from sample to sample.

The same physics as `twin.world` (`thermal.propagate`, `processor.watts_at`, `natural_share`), with steps as long as the
recording holds its drive and with curves looked up in tables, because a fit runs it some thousand times. Power is
constant over a step, so that for a linear network the temperatures at the samples are those of the world at any step
length.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from twin.calibrate.recording import Recording
from twin.kernels import NATURAL_LEAST_KELVIN, NATURAL_MOST_KELVIN, Floats, Integers, kernel, natural_share, power
from twin.world import processor, thermal

LONGEST_STEP_SECONDS = 2.0
"""Longer intervals are divided: leakage and natural conductance are held over a step."""
MOST_LENGTHS = 20
"""With more different intervals (ms) times are rounded to a `FINEST_SHARE` of the usual one: every length costs a
matrix exponential in every run, and hundreds of them ten times as much as all the steps."""
FINEST_SHARE = 0.05
NATURAL_PER_KELVIN = 4.0
"""Entries of the table of natural conductances, one kelvin of difference."""
LEAKS_FROM_CELSIUS = -60.0
LEAKS_PER_KELVIN = 4.0
"""Entries of the table of leakage, one kelvin."""
LEVEL_SHARES = (0.107, 0.257, 0.407, 0.557, 0.707, 0.857, 1.0)
"""Clocks of a machine whose clock nobody recorded, as shares of the highest.

The loads at which the governor changes them (80 % of these) are no whole tenths of a percent, where recorded loads
would lie and rounding would decide."""
IDLE_VOLTS, TOP_VOLTS = 0.8, 1.2
"""Voltages at its slowest and its highest clock."""

# Places of the numbers of a chain, after capacities (n) and conductances (n, the last one to the air).
FORCED = 0
EXPONENT = 1
NATURAL = 2
LAG = 3
IDLE = 4
SWITCHING = 5
LEAKAGE = 6
LEAKAGE_PER_KELVIN = 7
BEND = 8
REST = 9
"""How many numbers there are after capacities and conductances."""


@dataclass(frozen=True)
class Drive:
    """A recording as steps: lengths and fan speeds as indices into `kinds`, load and power, and where samples lie.

    `kinds` has a row for each pair of step length (s) and fan speed (share of the highest, 64 levels). `sample_of[k]`
    is the sample at the end of step k, or -1. `watts` is NaN where no power was recorded.
    """

    kinds: Floats
    kind_of: Integers
    loads: Floats
    watts: Floats
    sample_of: Integers
    samples: int

    def until(self, last: int) -> Drive:
        """The steps that lead to the samples from the first to `last`."""
        steps = int(np.searchsorted(np.maximum.accumulate(self.sample_of), last)) + 1 if last > 0 else 0
        return replace(
            self, kind_of=self.kind_of[:steps], loads=self.loads[:steps], watts=self.watts[:steps],
            sample_of=self.sample_of[:steps], samples=last + 1,
        )  # fmt: skip


def drive(recording: Recording, lead_seconds: float, max_rpm: float) -> Drive:
    """What drove the machine in `recording`, for `run_chain`.

    The drive recorded at a time is the mean over the interval that ends `lead_seconds` before it: with 0 the
    recorder averages between samples, with one interval less it reads what holds from now on.
    """
    times = rounded_times(recording.times_seconds)
    parts = np.maximum(1, np.ceil(np.diff(times) / LONGEST_STEP_SECONDS - 1e-9)).astype(np.int64)
    lengths = np.round(np.repeat(np.diff(times) / parts, parts), 4)
    edges = np.append(0.0, np.cumsum(np.repeat(np.diff(times) / parts, parts)))
    sample_of = np.full(len(lengths), -1, dtype=np.int64)
    sample_of[np.cumsum(parts) - 1] = np.arange(1, len(times))
    loads = np.clip(_means(times, recording.loads, edges + lead_seconds, 1.0), 0.0, 1.0)
    watts = _means(times, recording.powers_watts, edges + lead_seconds, np.nan)
    speeds = _means(times, recording.fan_rpm, edges + lead_seconds, 0.0) / max(max_rpm, 1.0)
    levels = np.floor(np.clip(speeds, 0.0, 1.0) * thermal.FAN_LEVELS + 0.5) / thermal.FAN_LEVELS
    kinds, kind_of = np.unique(np.column_stack([lengths, levels]), axis=0, return_inverse=True)
    return Drive(kinds, kind_of.reshape(-1).astype(np.int64), loads, watts, sample_of, len(times))


def rounded_times(times_seconds: Floats) -> Floats:
    """Times to the millisecond or, where the intervals between them are many, to a share of the usual one.

    Times are rounded and not intervals, so that no error adds up.
    """
    times: Floats = np.round(times_seconds, 3)
    steps = np.diff(times)
    if len(np.unique(np.round(steps, 3))) <= MOST_LENGTHS:
        return times
    grid = max(0.001, round(FINEST_SHARE * float(np.median(steps)), 3))
    coarse: Floats = np.round(np.round(times / grid) * grid, 3)
    # Two samples much closer than usual stay apart.
    return coarse if np.all(np.diff(coarse) > 0.0) else times


def _means(times: Floats, column: Floats | None, edges: Floats, missing: float) -> Floats:
    """Means of `column` between `edges`; what is missing holds its last value, before the first the next one."""
    if column is None or not np.any(np.isfinite(column)):
        return np.full(len(edges) - 1, missing)
    known = np.isfinite(column)
    place = np.maximum.accumulate(np.where(known, np.arange(len(column)), -1))
    place[place < 0] = int(np.argmax(known))
    held = column[place]
    total = np.append(0.0, np.cumsum(np.diff(times) * held[1:]))
    first = held[1] if len(held) > 1 else held[0]
    at = np.interp(edges, times, total)
    at = np.where(edges > times[-1], total[-1] + (edges - times[-1]) * held[-1], at)
    at = np.where(edges < times[0], (edges - times[0]) * first, at)
    means: Floats = np.diff(at) / np.diff(edges)
    return means


@kernel
def clocks(bend: float, table: Floats) -> None:
    """Fill a clock table (kHz of a 1 GHz machine, volts): slowest at the idle voltage, then from bend * top to top."""
    top = len(LEVEL_SHARES) - 1
    for level in range(top + 1):
        table[level, processor.KILOHERTZ] = LEVEL_SHARES[level] * 1e6
        rise = (LEVEL_SHARES[level] - LEVEL_SHARES[1]) / (LEVEL_SHARES[top] - LEVEL_SHARES[1])
        volts = TOP_VOLTS * (bend + (1.0 - bend) * rise)
        table[level, processor.VOLTS] = volts if level > 0 else IDLE_VOLTS


@kernel
def _looked_up(table: Floats, place: float) -> float:
    """The value of `table` at a place between its entries, on the line from one to the next; beyond them the last."""
    if not place > 0.0:
        # No number ends here too.
        return float(table[0])
    place = min(place, table.shape[0] - 1.0)
    i = min(int(place), table.shape[0] - 2)
    found: float = table[i] + (place - i) * (table[i + 1] - table[i])
    return found


@kernel
def run_chain(
    nodes: int, numbers: Floats, ambient: float, start: Floats,
    kinds: Floats, kind_of: Integers, loads: Floats, watts: Floats, sample_of: Integers, shown: Floats,
) -> None:  # fmt: skip
    """Fill `shown` with what the sensor's element has at each sample (C).

    `numbers` are capacities (J/K), conductances (W/K, from each node to the next, the last to the air), and the rest by
    the places above; `start` the nodes' temperatures (C) at the first sample. A lag is one more state, exactly.
    """
    n = nodes
    lag = numbers[2 * n + LAG]
    size = n + 1 if lag > 0.0 else n
    natural = numbers[2 * n + NATURAL]
    e = np.zeros((size, size))
    f = np.zeros((size, size))
    f2 = np.zeros((size, size))
    a = np.zeros((size, size))
    count = kinds.shape[0]
    propagators = np.zeros((count, size, size + n))
    for kind in range(count):
        for i in range(size):
            for j in range(size):
                a[i, j] = 0.0
        for i in range(n):
            g = numbers[n + i]
            if i == n - 1:
                g += numbers[2 * n + FORCED] * power(kinds[kind, 1], numbers[2 * n + EXPONENT])
            a[i, i] -= g / numbers[i]
            if i < n - 1:
                a[i, i + 1] += g / numbers[i]
                a[i + 1, i] += g / numbers[i + 1]
                a[i + 1, i + 1] -= g / numbers[i + 1]
        if size > n:
            a[n, 0] = 1.0 / lag
            a[n, n] = -1.0 / lag
        thermal.propagate(a, kinds[kind, 0], e, f, f2)
        for i in range(size):
            for j in range(size):
                propagators[kind, i, j] = e[i, j]
            for j in range(n):
                propagators[kind, i, size + j] = f[i, j] / numbers[j]
    table = np.zeros((len(LEVEL_SHARES), 2))
    clocks(numbers[2 * n + BEND], table)
    constants = np.zeros(processor.CONSTANTS)
    constants[processor.CORES] = 1.0
    constants[processor.FARADS] = numbers[2 * n + SWITCHING]
    constants[processor.LEAKAGE_AMPERES] = numbers[2 * n + LEAKAGE]
    constants[processor.LEAKAGE_PER_KELVIN] = numbers[2 * n + LEAKAGE_PER_KELVIN]
    constants[processor.LEAKAGE_REFERENCE] = 50.0
    constants[processor.IDLE_SHARE] = 1.0
    constants[processor.IDLE_WATTS] = numbers[2 * n + IDLE]
    # Tables of curves that cost as much as all the rest of a step: the lines between their entries are off by less than
    # a part in ten thousand.
    shares = np.ones(0)
    if natural > 0.0:
        shares = np.zeros(int((NATURAL_MOST_KELVIN - NATURAL_LEAST_KELVIN) * NATURAL_PER_KELVIN) + 1)
        for i in range(shares.shape[0]):
            shares[i] = natural_share(NATURAL_LEAST_KELVIN + i / NATURAL_PER_KELVIN, natural)
    leaks = np.zeros(0)
    if numbers[2 * n + LEAKAGE] > 0.0:
        leaks = np.zeros(int((processor.LEAKAGE_CEILING_CELSIUS - LEAKS_FROM_CELSIUS) * LEAKS_PER_KELVIN) + 1)
        for i in range(leaks.shape[0]):
            celsius = LEAKS_FROM_CELSIUS + i / LEAKS_PER_KELVIN
            leaks[i] = processor.watts_at(constants, 0.0, 1.0, 0.0, celsius) - constants[processor.IDLE_WATTS]
    x = np.zeros(size)
    y = np.zeros(size)
    heat = np.zeros(n)
    for i in range(n):
        x[i] = start[i] - ambient
    x[size - 1] = x[0] if size > n else x[n - 1]
    shown[0] = start[0]
    for k in range(kind_of.shape[0]):
        kind = kind_of[k]
        q = watts[k]
        if q != q:
            level = processor.served_level(table, loads[k] * 1e6)
            use = min(1.0, loads[k] * 1e6 / table[level, 0])
            volts = table[level, 1]
            q = constants[processor.FARADS] * volts * volts * (table[level, 0] * 1e3) * use
            q += constants[processor.IDLE_WATTS]
            if leaks.shape[0] > 0:
                q += volts * _looked_up(leaks, (ambient + x[0] - LEAKS_FROM_CELSIUS) * LEAKS_PER_KELVIN)
        for i in range(n):
            heat[i] = 0.0
        heat[0] = q
        if natural > 0.0:
            # What moves air by itself: every edge but the one from the die, which is metal, and the only one if there
            # is one.
            for i in range(min(1, n - 1), n):
                kelvin = x[i] - (x[i + 1] if i < n - 1 else 0.0)
                share = _looked_up(shares, (abs(kelvin) - NATURAL_LEAST_KELVIN) * NATURAL_PER_KELVIN)
                more = numbers[n + i] * (share - 1.0) * kelvin
                heat[i] -= more
                if i < n - 1:
                    heat[i + 1] += more
        for i in range(size):
            total = 0.0
            for j in range(n):
                total += propagators[kind, i, size + j] * heat[j]
            for j in range(size):
                total += propagators[kind, i, j] * x[j]
            y[i] = total
        for i in range(size):
            x[i] = y[i]
        if sample_of[k] >= 0:
            shown[sample_of[k]] = ambient + (x[n] if size > n else x[0])
