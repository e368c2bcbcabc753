"""What a model says against what is read: the residuals that the anomaly detector judges, from a `View` alone.

Three kinds, each divided by what is ordinary by design, so that 1 is about as far as a healthy signal strays:

* a sensor: reading, plus half a quantum because converters round down, less the free-running thermal model after the
  sensor's own lag; over half a quantum plus the noise,
* a fan: its speed less what its commands lead to, after the fan's own lag; over `FAN_SHARE` of its largest speed,
* the processor's power: what is measured less what clock and load explain; over `POWER_SHARE` of the sustained limit.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from twin.control.view import View
from twin.kernels import Floats, Integers, exp
from twin.scenario import Machine

FAN_SHARE = 0.02
POWER_SHARE = 0.1


def is_normal(view: View) -> bool:
    """Whether the gates and the fan watch find nothing amiss, now or a moment ago."""
    return not (view.failsafe or view.suspicion or view.fan_trouble)


class Evidence:
    """Makes the residuals of a machine. `names` says what they are, in their order."""

    def __init__(self, machine: Machine) -> None:
        self._sensors = tuple(
            (
                sensor.quantum_millicelsius / 2,
                sensor.quantum_millicelsius / 2 + sensor.noise_millicelsius,
                sensor.lag_ms * 1e6 + sensor.hold_ms * 5e5,
            )
            for sensor in machine.sensors
        )
        self._fans = tuple((fan.max_rpm, fan.start_pwm, fan.stall_pwm, fan.lag_ms * 1e6) for fan in machine.fans)
        cpu = machine.cpu
        self._idle_watts = cpu.idle_watts
        # Nanofarads, millivolts squared and kilohertz make 1e-12 W.
        self._levels = tuple(
            (
                kilohertz,
                cpu.cores * cpu.capacitance_nanofarad * millivolt * millivolt * kilohertz * 1e-12,
                cpu.leakage_amperes * millivolt * 1e-3,
            )
            for kilohertz, millivolt in zip(cpu.frequencies_kilohertz, cpu.voltages_millivolt, strict=True)
        )
        self._idle_share = cpu.idle_leakage_share
        self._leakage_per_kelvin = cpu.leakage_per_kelvin
        self._leakage_reference = cpu.leakage_reference_celsius * 1e3
        self._on_die = next((i for i, sensor in enumerate(machine.sensors) if sensor.node == cpu.node), None)
        self._level: int | None = None
        self._ordinary_watts = POWER_SHARE * cpu.pl1_watts
        self.names = (
            *(sensor.name for sensor in machine.sensors),
            *(fan.name for fan in machine.fans),
            "cpu_power",
        )
        self._lagged: list[float | None] = [None] * len(machine.sensors)
        self._rpm = [fan.initial_pwm / 255 * fan.max_rpm for fan in machine.fans]
        self._pwm: list[int] = [fan.initial_pwm for fan in machine.fans]

    def commanded(self, pwm: tuple[int, ...]) -> None:
        """Tell what the fans were last told (0..255, in the order of the machine)."""
        self._pwm = list(pwm)

    def arrays(self) -> dict[str, Floats]:
        """What it remembers from cycle to cycle, to go on from bit for bit."""
        remembered: list[float] = []
        for lagged in self._lagged:
            remembered += (0.0, 0.0) if lagged is None else (1.0, lagged)
        remembered += self._rpm
        remembered += self._pwm
        remembered.append(-1 if self._level is None else self._level)
        return {"evidence": np.array(remembered, dtype=np.float64)}

    def restore(self, arrays: Mapping[str, Floats]) -> None:
        """Go on from `arrays()` of the same machine. Raises `ValueError`, and changes nothing, for others."""
        own, given = self.arrays()["evidence"], arrays.get("evidence")
        if given is None or given.shape != own.shape or given.dtype != own.dtype or not np.isfinite(given).all():
            raise ValueError(f"array evidence is not {own.dtype} {own.shape}, finite; take it from the same machine")
        values = given.tolist()
        sensors, fans = len(self._lagged), len(self._rpm)
        self._lagged = [values[2 * i + 1] if values[2 * i] else None for i in range(sensors)]
        self._rpm = values[2 * sensors : 2 * sensors + fans]
        self._pwm = [int(pwm) for pwm in values[2 * sensors + fans : 2 * sensors + 2 * fans]]
        level = int(values[-1])
        self._level = level if 0 <= level < len(self._levels) else None

    def fill(self, view: View, residuals: Floats, usable: Integers) -> None:
        """Write the residuals of `view` and whether (1 or 0) each could be had. Once a cycle: lags advance."""
        dt_ns = view.dt_ns
        found: list[float] = []
        known: list[bool] = []
        readings, lagging = view.temps_millicelsius, self._lagged
        for i, expected in enumerate(view.expected_millicelsius):
            if expected is None:
                lagging[i] = None
                there = False
            else:
                half, ordinary, lag_ns = self._sensors[i]
                lagged = lagging[i]
                if lagged is None:
                    lagged = expected
                lagging[i] = lagged = lagged + (expected - lagged) * dt_ns / (lag_ns + dt_ns)
                reading = readings[i]
                there = reading is not None
                if reading is not None:
                    found.append((reading + half - lagged) / ordinary)
            if not there:
                found.append(0.0)
            known.append(there)
        for i, (most, start, stall, lag_ns) in enumerate(self._fans):
            pwm, rpm, turning = self._pwm[i], view.fan_rpm[i], self._rpm[i]
            needed = start if turning < FAN_SHARE * most else stall
            target = 0.0 if pwm < needed else pwm / 255 * most
            self._rpm[i] = turning = turning + (target - turning) * dt_ns / (lag_ns + dt_ns)
            known.append(rpm is not None)
            found.append(0.0 if rpm is None else (rpm - turning) / (FAN_SHARE * most))
        apart = self._power_apart_watts(view)
        known.append(apart is not None)
        found.append(0.0 if apart is None else apart / self._ordinary_watts)
        # Each place of an array costs what the whole does.
        residuals[:] = found
        usable[:] = known

    def _power_apart_watts(self, view: View) -> float | None:
        """How far the measured power lies outside of what load explains at any clock since the last cycle."""
        measured, clock, load = view.cpu_power_microwatts, view.cpu_clock_kilohertz, view.cpu_load_ppm
        if clock is None:
            self._level = None
            return None
        level = 0
        while level < len(self._levels) - 1 and self._levels[level][0] < clock:
            level += 1
        before = level if self._level is None else self._level
        self._level = level
        if measured is None or load is None:
            return None
        celsius = None
        if self._on_die is not None:
            celsius = view.expected_millicelsius[self._on_die]
            celsius = view.temps_millicelsius[self._on_die] if celsius is None else celsius
        hot = 0.0 if celsius is None else self._leakage_per_kelvin * (celsius - self._leakage_reference) / 1e3
        leaking = exp(hot)
        # The clock may have been a level beyond what two looks at it show.
        low = self._watts(max(min(before, level) - 1, 0), load / 1e6, leaking)
        high = self._watts(min(max(before, level) + 1, len(self._levels) - 1), load / 1e6, leaking)
        watts = measured / 1e6
        return watts - high if watts > high else min(0.0, watts - low)

    def _watts(self, level: int, load: float, leaking: float) -> float:
        """What the processor draws at this level and load; `leaking` is its leakage over that at the reference."""
        _, switching, leakage = self._levels[level]
        return self._idle_watts + switching * load + leaking * leakage * (load + (1.0 - load) * self._idle_share)
