"""A recording of a machine: what drove it, and what one of its temperature sensors showed."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from twin.kernels import Floats

KELVIN_AT_0_CELSIUS = 273.15
FEWEST_SAMPLES = 30
"""With fewer readings nothing is fitted."""
GAP_INTERVALS = 20.0
GAP_SECONDS = 30.0
HELD_SECONDS = 300.0
"""Up to this length an interval is no gap where what drives the machine is the same before and after it."""
HELD_SHARE = 0.1
"""The same is a difference below this share of the range that the drive has in the recording."""
_HELD_SAMPLES = 5
COLDEST_CELSIUS, HOTTEST_CELSIUS = -50.0, 150.0
"""Readings outside are no temperatures of a machine that runs; they are left out like missing ones."""


class RecordingError(ValueError):
    """A recording cannot be used; the message says which, why, and what is needed."""


@dataclass(frozen=True)
class Recording:
    """One heat source, one sensor, over time.

    `times_seconds` rise from 0 (length n). The others are None, or have one entry for each time, NaN where nothing was
    recorded: `temperatures_celsius` what the sensor showed, `loads` the share of the processor in use (0 to 1) and
    `powers_watts` its power, both as means over the interval that ends at their time, `fan_rpm` the fan's speed.
    `room_celsius` is the temperature of the air around it, where that was recorded (the median).
    """

    name: str
    times_seconds: Floats
    temperatures_celsius: Floats
    loads: Floats | None = None
    powers_watts: Floats | None = None
    fan_rpm: Floats | None = None
    room_celsius: float | None = None

    def __post_init__(self) -> None:
        times = self.times_seconds
        if len(times) == 0:
            raise RecordingError(f"{self.name}: it is empty; {FEWEST_SAMPLES} readings are needed at least")
        if not np.all(np.isfinite(times)) or np.any(np.diff(times) <= 0.0):
            place = int(np.argmin(np.append(np.inf, np.diff(times))))
            raise RecordingError(
                f"{self.name}: times must rise; sample {place} ({times[place]:g} s) is not later than the one before"
            )
        for what, column in self.columns().items():
            if len(column) != len(times):
                raise RecordingError(f"{self.name}: {len(column)} {what} for {len(times)} times; give one each")
        known = int(np.count_nonzero(self.believable()))
        if known < FEWEST_SAMPLES:
            raise RecordingError(
                f"{self.name}: {known} readings between {COLDEST_CELSIUS:g} and {HOTTEST_CELSIUS:g} C; "
                f"{FEWEST_SAMPLES} are needed at least"
            )

    def columns(self) -> dict[str, Floats]:
        """The columns that are there, by name, without the times."""
        named = {
            "temperatures_celsius": self.temperatures_celsius,
            "loads": self.loads,
            "powers_watts": self.powers_watts,
            "fan_rpm": self.fan_rpm,
        }
        return {name: column for name, column in named.items() if column is not None}

    def believable(self) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """Which temperatures are there and can be a machine's."""
        celsius = self.temperatures_celsius
        with np.errstate(invalid="ignore"):
            return np.isfinite(celsius) & (celsius >= COLDEST_CELSIUS) & (celsius <= HOTTEST_CELSIUS)

    def between(self, begin: int, end: int, name: str) -> Recording:
        """The samples from `begin` up to `end`, under another name, with times from 0."""
        cut = {column: values[begin:end] for column, values in self.columns().items()}
        times = self.times_seconds[begin:end]
        return Recording(name, times - times[0], room_celsius=self.room_celsius, **cut)

    def stretch(self, begin: int, end: int) -> Recording:
        """One of the `pieces`, under a name that says where it begins."""
        from_there = f" from {self.times_seconds[begin]:g} s" if begin > 0 else ""
        return self.between(begin, end, f"{self.name}{from_there}")

    def pieces(self) -> list[tuple[int, int]]:
        """Where the recording has no gap: first and last sample (not included) of each stretch with enough readings.

        An interval is a gap when it is longer than both 20 usual ones and 30 s: what drove the machine meanwhile is
        not known, so that nothing is known of its state afterwards. It is none when it is shorter than 300 s and the
        power (else the load) is the same on both sides: who records steady states waits between them, and the machine
        runs on.
        """
        steps = np.diff(self.times_seconds)
        longest = max(GAP_INTERVALS * self.interval_seconds, GAP_SECONDS)
        gaps = [place for place in (np.flatnonzero(steps > longest) + 1).tolist() if not self._held(place)]
        cuts = [0, *gaps, len(self.times_seconds)]
        known = self.believable()
        return [(a, b) for a, b in pairwise(cuts) if np.count_nonzero(known[a:b]) >= FEWEST_SAMPLES]

    def _held(self, place: int) -> bool:
        """Whether what drives the machine is the same before sample `place` as from there on."""
        if self.times_seconds[place] - self.times_seconds[place - 1] > HELD_SECONDS:
            return False
        drive = self.loads if self.powers_watts is None else self.powers_watts
        if drive is None:
            return False
        sides = (drive[max(0, place - _HELD_SAMPLES) : place], drive[place : place + _HELD_SAMPLES])
        if not all(np.any(np.isfinite(side)) for side in sides):
            return False
        before, after = (float(np.nanmedian(side)) for side in sides)
        return abs(after - before) <= HELD_SHARE * float(np.nanmax(drive) - np.nanmin(drive))

    @property
    def interval_seconds(self) -> float:
        """The usual time between two samples; 1 for a single one."""
        steps = np.diff(self.times_seconds)
        return float(np.median(steps)) if len(steps) else 1.0

    @property
    def quantum_celsius(self) -> float:
        """The step of the sensor, the least usual difference of its readings; 0.001 where there is none."""
        values = np.unique(np.round(self.temperatures_celsius[self.believable()], 4))
        steps = np.diff(values)
        if len(steps) == 0:
            return 0.001
        # Decimals are cut off in files, so that the same step is a little longer or shorter.
        least = float(np.quantile(steps, 0.1))
        whole = steps / least
        regular = np.mean(np.abs(whole - np.round(whole)) < 0.02) if least > 0.0 else 0.0
        return max(0.001, round(least, 3)) if regular > 0.9 else 0.001
