"""From raw readings to a `View`: utilisation and power out of counters, gates, and the thermal model.

The one place where counters become rates. Simulated and real readings pass through it alike.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

import numpy as np

from hardware.interface import Channel, Readings
from twin.control.gate import Gate, GateSettings
from twin.control.model import ThermalModel
from twin.control.view import View
from twin.kernels import Floats
from twin.scenario import Scenario
from twin.timing import SECOND_NS, Wake

MOST_FRAMES = 1_000_000
"""A count that rises by more within a second or so counts no frames."""
FAN_GRACE_CYCLES = 30
"""Cycles a fan has to follow its command before it counts as failing."""


class Signals:
    """Keeps what rates need (the last counters) and makes one `View` a cycle."""

    def __init__(self, scenario: Scenario, channels: tuple[Channel, ...]) -> None:
        machine, control = scenario.machine, scenario.control
        self._names = tuple(channel.name for channel in channels)
        self._places = {name: i for i, name in enumerate(self._names)}
        self._wrap = {channel.name: channel.wrap for channel in channels}
        self._machine = machine
        self._model = ThermalModel(machine)
        self._unaided = ThermalModel(machine)
        self._check = control.model_check
        self._hold_cycles = control.hold_cycles
        self._period_ns = control.period_ms * 1_000_000
        rises = _fastest_rises(scenario)
        self._gates = [
            Gate(
                GateSettings(
                    sensor.name,
                    rises[i],
                    control.slew_millicelsius,
                    control.suspicion_millicelsius,
                    sensor.hold_ms,
                    control.period_ms,
                )
            )
            for i, sensor in enumerate(machine.sensors)
        ]
        self._started = False
        self._unchecked: tuple[str, ...] = () if self._check else tuple(sensor.name for sensor in machine.sensors)
        self._sensor_nodes = tuple(self._model.places[sensor.node] for sensor in machine.sensors)
        self._lags_ns = tuple((sensor.lag_ms + sensor.hold_ms // 2) * 1_000_000 for sensor in machine.sensors)
        self._expected = [0] * len(machine.sensors)
        self._lagged = [0] * len(machine.sensors)
        self._limits = tuple(round(sensor.limit_celsius * 1_000) for sensor in machine.sensors)
        self._expected_rpm = [fan.initial_pwm * fan.max_rpm // 255 for fan in machine.fans]
        self._slow_cycles = [0] * len(machine.fans)
        self._commanded = [fan.initial_pwm for fan in machine.fans]
        self._counters: dict[str, tuple[int, int]] = {}
        self._frames: deque[tuple[int, int]] = deque()
        self._hold = 0
        self._hold_reason = ""
        self._last_ns: int | None = None
        self._sensor_names = tuple(sensor.name for sensor in machine.sensors)
        self._fan_names = tuple(fan.name for fan in machine.fans)
        self._fan_channels = tuple(f"{name}_rpm" for name in self._fan_names)
        # What a processor draws is at most a few times its limit; a counter that says more is wrong.
        self._most_cpu_microwatts = 2_000_000 * round(machine.cpu.pl2_watts)
        self._most_gpu_microwatts = 4_000_000 * round(machine.gpu.power_limit_watts)

    def see(self, cycle: int, due_ns: int, wake: Wake, readings: Readings) -> View:
        """The picture of this cycle. `due_ns + wake.lateness_ns` is when it began."""
        now_ns = due_ns + wake.lateness_ns
        dt_ns = self._period_ns if self._last_ns is None else max(1, now_ns - self._last_ns)
        self._last_ns = now_ns
        get = dict(zip(self._names, readings.values, strict=True)).get

        if wake.suspended_ns:
            self._counters.clear()
            for gate in self._gates:
                gate.forget()
            self._started = False
        cpu_power = self._power_microwatts("cpu_energy_microjoules", readings)
        gpu_power = get("gpu_power_microwatts")
        if gpu_power is not None and not 0 <= gpu_power <= self._most_gpu_microwatts:
            gpu_power = None
        memory_used = _memory_used_ppm(get("memory_total_kibibytes"), get("memory_available_kibibytes"))
        fan_rpm = tuple([get(name) for name in self._fan_channels])
        fan_trouble = self._judge_fans(fan_rpm, dt_ns)

        for i, gate in enumerate(self._gates):
            value = readings.values[i]
            if value is not None:
                value -= self._machine.sensors[i].offset_millicelsius
            gate.see(value, readings.statuses[i], readings.times_ns[i], now_ns)
        if self._check:
            self._advance_model(cpu_power, gpu_power, memory_used, fan_rpm, dt_ns)
        worst = tuple(self._worst(i, gate) for i, gate in enumerate(self._gates))
        suspicion = "; ".join(gate.suspicion for gate in self._gates if gate.suspicion)

        return View(
            cycle=cycle,
            time_ns=now_ns,
            dt_ns=dt_ns,
            sensors=self._sensor_names,
            temps_millicelsius=tuple(gate.believed for gate in self._gates),
            worst_millicelsius=worst,
            limits_millicelsius=self._limits,
            expected_millicelsius=self._judged(),
            unaided_millicelsius=self._without_sensors(),
            fans=self._fan_names,
            fan_rpm=fan_rpm,
            fan_trouble=fan_trouble,
            cpu_load_ppm=self._cpu_load_ppm(get("cpu_busy_ticks"), get("cpu_total_ticks")),
            cpu_power_microwatts=cpu_power,
            cpu_clock_kilohertz=get("cpu_clock_kilohertz"),
            gpu_load_ppm=get("gpu_busy_ppm"),
            gpu_power_microwatts=gpu_power,
            gpu_clock_kilohertz=get("gpu_clock_kilohertz"),
            memory_used_ppm=memory_used,
            frame_rate_millihertz=get("frame_rate_millihertz"),
            frame_latency_microseconds=get("frame_latency_microseconds"),
            frames_counted_millihertz=self._counted_millihertz(get("frames_completed"), now_ns),
            game_state_code=get("game_state_code"),
            words_offered_per_second=get("words_offered_per_second"),
            suspicion=suspicion,
            unchecked=" ".join(self._unchecked),
            failsafe=self._failsafe(wake, suspicion),
        )

    def commanded(self, fan_pwm: Mapping[str, int]) -> None:
        """Tell what the fans were last told (by fan name), so that their speed can be expected."""
        for place, name in enumerate(self._fan_names):
            self._commanded[place] = fan_pwm.get(name, self._commanded[place])

    # --- rates from counters ------------------------------------------------------------------------------------------

    def _power_microwatts(self, name: str, readings: Readings) -> int | None:
        """Mean power since the counter was last seen; None without two plausible sights of it."""
        place = self._places[name]
        value, taken_ns = readings.values[place], readings.times_ns[place]
        last = self._counters.get(name)
        if value is None:
            return None
        self._counters[name] = (value, taken_ns)
        if last is None or taken_ns <= last[1]:
            return None
        wrap = self._wrap[name]
        spent = value - last[0]
        if wrap is not None and (taken_ns - last[1]) * self._most_cpu_microwatts // SECOND_NS > wrap:
            return None  # it may have gone round more than once
        if spent < 0:
            if wrap is None:
                return None
            spent += wrap + 1
        microwatts = spent * SECOND_NS // (taken_ns - last[1])
        # A counter that was reset, or went round more than once, implies a power that the processor cannot draw.
        return microwatts if 0 <= microwatts <= self._most_cpu_microwatts else None

    def _cpu_load_ppm(self, busy: int | None, total: int | None) -> int | None:
        last = self._counters.get("cpu_busy_ticks")
        if busy is None or total is None:
            return None
        self._counters["cpu_busy_ticks"] = (busy, total)
        if last is None or total <= last[1] or not 0 <= busy - last[0] <= total - last[1]:
            return None
        return (busy - last[0]) * 1_000_000 // (total - last[1])

    def _counted_millihertz(self, count: int | None, now_ns: int) -> int | None:
        """Frames a second since a second ago (or as long as they were counted); None without two counts that fit."""
        seen = self._frames
        if count is None or (seen and (count < seen[-1][1] or now_ns <= seen[-1][0])):
            seen.clear()
        if count is None:
            return None
        seen.append((now_ns, count))
        while len(seen) > 2 and seen[1][0] <= now_ns - SECOND_NS:
            seen.popleft()
        first_ns, first = seen[0]
        if now_ns <= first_ns or not 0 <= count - first <= MOST_FRAMES:
            return None
        return (count - first) * 1_000 * SECOND_NS // (now_ns - first_ns)

    # --- plausibility -------------------------------------------------------------------------------------------------

    def _advance_model(
        self,
        cpu_power: int | None,
        gpu_power: int | None,
        memory_used: int | None,
        fan_rpm: tuple[int | None, ...],
        dt_ns: int,
    ) -> None:
        machine, model = self._machine, self._model
        heat = [0.0] * len(machine.nodes)
        memory = machine.memory
        share = 0.5 if memory_used is None else memory_used / 1_000_000
        heat[model.places[memory.node]] += memory.idle_watts + (memory.full_watts - memory.idle_watts) * share
        # Without a measured power nothing can be expected of the sensors on that processor's node.
        blind = set()
        for node, power, there in (
            (machine.cpu.node, cpu_power, True),
            (machine.gpu.node, gpu_power, machine.gpu.enabled),
        ):
            if there and power is None:
                blind.add(node)
            elif there and power is not None:
                heat[model.places[node]] += power / 1_000_000
        seconds = dt_ns / SECOND_NS
        rpm = np.array([float(self._expected_rpm[i] if r is None else max(0, r)) for i, r in enumerate(fan_rpm)])
        if not self._started:
            self._begin_model(rpm)
        self._pull_references(blind, seconds)
        model.step(np.array(heat), rpm, seconds)
        self._expect()
        self._advance_unaided(heat, cpu_power, gpu_power, rpm, seconds)
        for i, (gate, sensor) in enumerate(zip(self._gates, machine.sensors, strict=True)):
            if sensor.node in blind:
                gate.compare(None)
                self._lagged[i] = self._expected[i]
                continue
            self._lagged[i] += (self._expected[i] - self._lagged[i]) * dt_ns // (self._lags_ns[i] + dt_ns)
            gate.compare(self._lagged[i])
        self._unchecked = tuple(sensor.name for sensor in machine.sensors if sensor.node in blind)

    def _advance_unaided(
        self, heat: list[float], cpu_power: int | None, gpu_power: int | None, rpm: Floats, seconds: float
    ) -> None:
        """The model that begins as the scenario says and hears no sensor. An unknown power counts as the largest."""
        machine, places = self._machine, self._unaided.places
        if cpu_power is None:
            heat[places[machine.cpu.node]] += machine.cpu.pl2_watts
        if gpu_power is None and machine.gpu.enabled:
            heat[places[machine.gpu.node]] += machine.gpu.power_limit_watts
        self._unaided.step(np.array(heat), rpm, seconds)

    def _without_sensors(self) -> tuple[int | None, ...]:
        if not self._check:
            return (None,) * len(self._sensor_nodes)
        celsius = self._unaided.celsius.tolist()
        return tuple([int(celsius[node] * 1_000.0) for node in self._sensor_nodes])

    def _pull_references(self, blind: set[str], seconds: float) -> None:
        """Let reference sensors say how warm the surroundings are; let blind nodes follow their sensors.

        A reference that parts from the model is believed all the same if the other sensors part alike: then it is the
        room that has changed, and not the sensor.
        """
        model = self._model
        apart = {
            i: gate.believed - int(model.celsius[place] * 1_000.0)
            for i, (gate, place) in enumerate(zip(self._gates, self._sensor_nodes, strict=True))
            if gate.believed is not None
        }
        for i, gap in apart.items():
            gate, sensor, place = self._gates[i], self._machine.sensors[i], self._sensor_nodes[i]
            celsius = model.celsius[place] + gap / 1_000
            if sensor.reference:
                tolerance = gate.settings.tolerance_millicelsius
                others = [
                    other
                    for j, other in apart.items()
                    if not self._machine.sensors[j].reference and self._machine.sensors[j].node not in blind
                ]
                agrees = abs(gap) <= tolerance and not gate.suspicion
                if agrees or (others and all(abs(other - gap) <= tolerance for other in others)):
                    model.pull(place, celsius, seconds)
            elif sensor.node in blind:
                model.celsius[place] = celsius

    def _begin_model(self, rpm: Floats) -> None:
        """Start the model from the first readings that are believed."""
        known = {
            place: gate.believed / 1_000
            for gate, place in zip(self._gates, self._sensor_nodes, strict=True)
            if gate.believed is not None
        }
        self._started = len(known) == len(set(self._sensor_nodes))
        if known:
            self._model.start(known, rpm)
        self._expect()
        self._lagged = list(self._expected)

    def _expect(self) -> None:
        """Note what the model has at each sensor's node, millicelsius."""
        celsius = self._model.celsius.tolist()
        self._expected = [int(celsius[node] * 1_000.0) for node in self._sensor_nodes]

    def _judged(self) -> tuple[int | None, ...]:
        """What the model expects of each sensor; None where it cannot tell."""
        if not self._check or not self._started:
            return (None,) * len(self._expected)
        if not self._unchecked:
            return tuple(self._expected)
        return tuple(
            None if sensor.name in self._unchecked else expected
            for sensor, expected in zip(self._machine.sensors, self._expected, strict=True)
        )

    def _worst(self, i: int, gate: Gate) -> int | None:
        if gate.believed is None:
            return None
        return max(gate.believed, self._expected[i]) if self._check else gate.believed

    def _failsafe(self, wake: Wake, suspicion: str) -> str:
        """Why full cooling is due, now or still; empty when the last `hold_cycles` cycles were clean."""
        reasons = [gate.trouble for gate in self._gates if gate.trouble]
        if suspicion:
            reasons.append(suspicion)
        if wake.suspended_ns:
            reasons.append(f"the machine was suspended for {wake.suspended_ns // 1_000_000} ms")
        if wake.lateness_ns > self._period_ns:
            reasons.append(f"the control cycle came {wake.lateness_ns // 1_000_000} ms late")
        if reasons:
            self._hold = self._hold_cycles
            self._hold_reason = "; ".join(reasons)
            return self._hold_reason
        if self._hold > 0:
            self._hold -= 1
            return f"held after: {self._hold_reason}"
        return ""

    def _judge_fans(self, fan_rpm: tuple[int | None, ...], dt_ns: int) -> str:
        """A fan that turns at less than half the speed it should have reached is in trouble."""
        troubles = []
        for i, fan in enumerate(self._machine.fans):
            asked = self._commanded[i]
            target = asked * fan.max_rpm // 255 if asked >= fan.start_pwm else 0
            lag_ns = fan.lag_ms * 1_000_000
            self._expected_rpm[i] += (target - self._expected_rpm[i]) * dt_ns // (lag_ns + dt_ns)
            rpm = fan_rpm[i]
            if rpm is not None and 2 * rpm < self._expected_rpm[i]:
                self._slow_cycles[i] += 1
            else:
                self._slow_cycles[i] = 0
            if self._slow_cycles[i] >= FAN_GRACE_CYCLES:
                troubles.append(f"{fan.name} turns at {rpm} rpm where {self._expected_rpm[i]} are expected")
        return "; ".join(troubles)


def _memory_used_ppm(total: int | None, available: int | None) -> int | None:
    if total is None or available is None or total <= 0 or not 0 <= available <= total:
        return None
    return (total - available) * 1_000_000 // total


def _fastest_rises(scenario: Scenario) -> list[int]:
    return [fastest_rise_millicelsius_per_second(scenario, sensor.node) for sensor in scenario.machine.sensors]


def fastest_rise_millicelsius_per_second(scenario: Scenario, node: str) -> int:
    """How fast `node` can heat up: all heat that may enter it at once over its capacity, with no loss at all.

    A processor's node takes its largest power; a node that carries none takes that of both through its neighbours,
    which is more than can pass.
    """
    machine = scenario.machine
    cpu = machine.cpu.pl2_watts
    gpu = machine.gpu.power_limit_watts if machine.gpu.enabled else 0.0
    powers = {machine.cpu.node: cpu}
    if machine.gpu.enabled:
        powers[machine.gpu.node] = powers.get(machine.gpu.node, 0.0) + gpu
    watts = powers.get(node, cpu + gpu) + machine.memory.full_watts
    capacity = next(n.capacity_joules_per_kelvin for n in machine.nodes if n.name == node)
    return int(watts / capacity * 1_000.0) + 1
