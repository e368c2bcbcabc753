"""What a model says against what is read: the residuals that the anomaly detector judges, from a `View` alone.

Three kinds, each divided by what is ordinary by design, so that 1 is about as far as a healthy signal strays:

* a sensor: reading, plus half a quantum because converters round down, less the free-running thermal model after the
  sensor's own lag; over half a quantum plus the noise,
* a fan: its speed less what its commands lead to, after the fan's own lag; over `FAN_SHARE` of its largest speed,
* the processor's power: what is measured less what clock and load explain; over `POWER_SHARE` of the sustained limit.
"""

from __future__ import annotations

import numpy as np

from twin.control.view import View
from twin.kernels import Floats, Integers, exp, kernel
from twin.learn.facts import CPU_CLOCK, CPU_LOAD, CPU_POWER, DT_NS, EXPECTED, FIRST_SENSOR, SENSOR_FACTS, TEMPS
from twin.scenario import Machine

FAN_SHARE = 0.02
POWER_SHARE = 0.1

# Columns of the sensors: half a quantum, what is ordinary, the lag, and the model after it (not a number: not known).
HALF, ORDINARY, LAG_NS, LAGGED = range(4)

# Columns of the fans: what they are, how fast they should turn, and what they were last told.
MOST_RPM, START_PWM, STALL_PWM, FAN_LAG_NS, RPM, PWM = range(6)

# Columns of the processor's clocks: kHz, what switching draws at full load, and leakage at the reference (W).
KILOHERTZ, SWITCHING, LEAKAGE = range(3)

# Of the processor: what it is, the sensor on its die and the clock when it was last seen (-1: there was none).
IDLE_WATTS, IDLE_SHARE, PER_KELVIN, REFERENCE, ORDINARY_WATTS, ON_DIE, LEVEL = range(7)


def is_normal(view: View) -> bool:
    """Whether the gates and the fan watch find nothing amiss, now or a moment ago."""
    return not (view.failsafe or view.suspicion or view.fan_trouble)


@kernel
def _watts(cpu: Floats, row: Floats, load: float, leaking: float) -> float:
    """What the processor draws at this clock and load; `leaking` is its leakage over that at the reference."""
    leakage = leaking * row[LEAKAGE] * (load + (1.0 - load) * cpu[IDLE_SHARE])
    return float(cpu[IDLE_WATTS] + row[SWITCHING] * load + leakage)


@kernel
def _power_apart_watts(facts: Floats, sensors: int, cpu: Floats, clocks: Floats) -> float:
    """How far the measured power lies outside of what load explains at any clock since the last cycle.

    Not a number where that is not known.
    """
    clock = facts[CPU_CLOCK]
    if clock != clock:
        cpu[LEVEL] = -1.0
        return float(clock)
    last = len(clocks) - 1
    level = 0
    while level < last and clocks[level, KILOHERTZ] < clock:
        level += 1
    before = level if cpu[LEVEL] < 0.0 else int(cpu[LEVEL])
    cpu[LEVEL] = level
    hot = 0.0
    if cpu[ON_DIE] >= 0.0:
        sensor = FIRST_SENSOR + int(cpu[ON_DIE])
        celsius = facts[sensor + EXPECTED * sensors]
        if celsius != celsius:
            celsius = facts[sensor + TEMPS * sensors]
        if celsius == celsius:
            hot = cpu[PER_KELVIN] * (celsius - cpu[REFERENCE]) / 1e3
    leaking = exp(hot)
    watts, load = facts[CPU_POWER] / 1e6, facts[CPU_LOAD] / 1e6
    # The clock may have been a level beyond what two looks at it show.
    low = _watts(cpu, clocks[max(min(before, level) - 1, 0)], load, leaking)
    high = _watts(cpu, clocks[min(max(before, level) + 1, last)], load, leaking)
    if watts > high:
        return float(watts - high)
    return float(watts - low) if not watts >= low else 0.0


@kernel
def _note(residuals: Floats, usable: Integers, place: int, value: float) -> None:
    known = value == value
    usable[place] = 1 if known else 0
    residuals[place] = value if known else 0.0


@kernel
def fill_evidence(
    facts: Floats, sensors: Floats, fans: Floats, cpu: Floats, clocks: Floats, residuals: Floats, usable: Integers
) -> None:
    """`Evidence.fill`."""
    dt_ns = facts[DT_NS]
    count = len(sensors)
    for i in range(count):
        sensor = sensors[i]
        expected = facts[FIRST_SENSOR + EXPECTED * count + i]
        lagged = sensor[LAGGED]
        if lagged != lagged:
            lagged = expected
        # Not a number where nothing is expected.
        sensor[LAGGED] = lagged + (expected - lagged) * dt_ns / (sensor[LAG_NS] + dt_ns)
        reading = facts[FIRST_SENSOR + TEMPS * count + i]
        _note(residuals, usable, i, (reading + sensor[HALF] - sensor[LAGGED]) / sensor[ORDINARY])
    for i in range(len(fans)):
        fan = fans[i]
        needed = fan[START_PWM] if fan[RPM] < FAN_SHARE * fan[MOST_RPM] else fan[STALL_PWM]
        target = 0.0 if fan[PWM] < needed else fan[PWM] / 255 * fan[MOST_RPM]
        fan[RPM] += (target - fan[RPM]) * dt_ns / (fan[FAN_LAG_NS] + dt_ns)
        rpm = facts[FIRST_SENSOR + SENSOR_FACTS * count + i]
        _note(residuals, usable, count + i, (rpm - fan[RPM]) / (FAN_SHARE * fan[MOST_RPM]))
    apart = _power_apart_watts(facts, count, cpu, clocks)
    _note(residuals, usable, count + len(fans), apart / cpu[ORDINARY_WATTS])


class Evidence:
    """Makes the residuals of a machine. `names` says what they are, in their order."""

    def __init__(self, machine: Machine) -> None:
        cpu = machine.cpu
        sensors = [
            (
                sensor.quantum_millicelsius / 2,
                sensor.quantum_millicelsius / 2 + sensor.noise_millicelsius,
                sensor.lag_ms * 1e6 + sensor.hold_ms * 5e5,
                np.nan,
            )
            for sensor in machine.sensors
        ]
        fans = [
            (
                fan.max_rpm,
                fan.start_pwm,
                fan.stall_pwm,
                fan.lag_ms * 1e6,
                fan.initial_pwm / 255 * fan.max_rpm,
                fan.initial_pwm,
            )
            for fan in machine.fans
        ]
        # Nanofarads, millivolts squared and kilohertz make 1e-12 W.
        clocks = [
            (
                kilohertz,
                cpu.cores * cpu.capacitance_nanofarad * millivolt * millivolt * kilohertz * 1e-12,
                cpu.leakage_amperes * millivolt * 1e-3,
            )
            for kilohertz, millivolt in zip(cpu.frequencies_kilohertz, cpu.voltages_millivolt, strict=True)
        ]
        on_die = next((i for i, sensor in enumerate(machine.sensors) if sensor.node == cpu.node), -1)
        self._fans: Floats = np.array(fans, dtype=np.float64).reshape(len(fans), PWM + 1)
        self.operands = (
            np.array(sensors, dtype=np.float64),
            self._fans,
            np.array(
                [
                    cpu.idle_watts,
                    cpu.idle_leakage_share,
                    cpu.leakage_per_kelvin,
                    cpu.leakage_reference_celsius * 1e3,
                    POWER_SHARE * cpu.pl1_watts,
                    on_die,
                    -1.0,
                ]
            ),
            np.array(clocks, dtype=np.float64),
        )
        self.names = (
            *(sensor.name for sensor in machine.sensors),
            *(fan.name for fan in machine.fans),
            "cpu_power",
        )

    def commanded(self, pwm: tuple[int, ...]) -> None:
        """Tell what the fans were last told (0..255, in the order of the machine)."""
        self._fans[:, PWM] = pwm

    def fill(self, facts: Floats, residuals: Floats, usable: Integers) -> None:
        """Write the residuals of a view and whether (1 or 0) each could be had. Once a cycle: lags advance."""
        fill_evidence(facts, *self.operands, residuals, usable)
