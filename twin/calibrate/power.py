"""Idle, switching and leakage power from recorded power, load and temperature, in the world's own formula."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import lsq_linear

from twin.calibrate.forward import IDLE_VOLTS, LEVEL_SHARES, TOP_VOLTS
from twin.calibrate.parameters import LEAKAGE_PER_KELVIN
from twin.calibrate.recording import Recording
from twin.calibrate.solve import Flags
from twin.kernels import Floats
from twin.world import processor

BENDS = (IDLE_VOLTS / TOP_VOLTS, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0)
REFERENCE_CELSIUS = 50.0
MOST_LEAKING = 0.3
"""Leakage at 50 C is at most this share of the greatest power: power makes heat, which looks like leakage."""
USUAL_IDLE, USUAL_LEAKAGE = 0.1, 0.05
"""What is expected, as shares of the greatest power, where a load that hardly changes does not tell it."""
STILL_LOAD = 0.1
"""Loads of which nine tenths lie closer together tell nothing of the power at another load."""


@dataclass(frozen=True)
class Power:
    """P = idle + switching * (V/1.2)^2 * load + leakage * V/1.2 * exp(0.012 (T - 50)), V that of the clock for a load.

    Powers are in watts, at full load and 50 C. `mape` is the mean error of the power at the samples that were fitted,
    as a share of it (0.1 for 10 %).
    """

    idle_watts: float
    switching_watts: float
    leakage_watts: float
    voltage_bend: float
    mape: float

    def watts(self, loads: Floats, celsius: Floats) -> Floats:
        """The power (W) at loads (0 to 1) and temperatures."""
        columns = _columns(self.voltage_bend, loads, celsius)
        watts: Floats = columns @ np.array([self.idle_watts, self.switching_watts, self.leakage_watts])
        return watts


def voltages(bend: float) -> Floats:
    """The voltage of each of `LEVEL_SHARES`, as `forward.clocks` has them."""
    shares = np.array(LEVEL_SHARES)
    volts: Floats = TOP_VOLTS * (bend + (1.0 - bend) * (shares - shares[1]) / (shares[-1] - shares[1]))
    volts[0] = IDLE_VOLTS
    return volts


def fit_power(recordings: Sequence[Recording], used: Sequence[Flags]) -> Power | None:
    """The power of a machine whose recordings have both power and load; None where they have not.

    Linear least squares with no negative power, for each of a few bends of the voltage; the best of them. What is usual
    counts as much as one sample; where the load hardly changes it counts more than they do.
    """
    loads, watts, celsius = [], [], []
    for recording, flags in zip(recordings, used, strict=True):
        if recording.loads is None or recording.powers_watts is None:
            return None
        known = flags & np.isfinite(recording.loads) & np.isfinite(recording.powers_watts)
        loads.append(np.clip(recording.loads[known], 0.0, 1.0))
        watts.append(recording.powers_watts[known])
        celsius.append(recording.temperatures_celsius[known])
    load, watt, warm = np.concatenate(loads), np.concatenate(watts), np.concatenate(celsius)
    if len(watt) == 0:
        return None
    top = max(float(np.max(watt)), 1e-3)
    spread = float(np.quantile(load, 0.95) - np.quantile(load, 0.05))
    weight = 1.0 if spread > STILL_LOAD else 10.0 * len(watt) ** 0.5
    usual = np.array([[weight, 0.0, 0.0], [0.0, 0.0, weight]])
    target = np.concatenate([watt, [weight * USUAL_IDLE * top, weight * USUAL_LEAKAGE * top]])
    best: Power | None = None
    least = np.inf
    for bend in BENDS:
        columns = _columns(bend, load, warm)
        most = [np.inf, np.inf, MOST_LEAKING * top]
        found = lsq_linear(np.vstack([columns, usual]), target, bounds=([0.0, 0.0, 0.0], most), tol=1e-10)
        if found.cost < least * (1.0 - 1e-6):
            least = float(found.cost)
            mape = float(np.mean(np.abs(columns @ found.x - watt) / np.maximum(watt, 1e-3)))
            idle, switching, leakage = (float(x) for x in found.x)
            best = Power(idle, switching, leakage, bend, mape)
    return best


def _columns(bend: float, loads: Floats, celsius: Floats) -> Floats:
    # The governor's rule (`processor.served_level`): the lowest clock that serves the load at 80 % use.
    level = np.searchsorted(np.array(LEVEL_SHARES[:-1]) * processor.SERVED_AT, loads, side="left")
    volts = voltages(bend)[level] / TOP_VOLTS
    hot = np.minimum(celsius, processor.LEAKAGE_CEILING_CELSIUS) - REFERENCE_CELSIUS
    return np.column_stack([np.ones(len(loads)), volts * volts * loads, volts * np.exp(LEAKAGE_PER_KELVIN * hot)])
