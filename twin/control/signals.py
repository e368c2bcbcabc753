"""From raw readings to a `View`: utilisation and power out of counters, gates, and the thermal model.

Simulated and real readings pass through it alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from operator import itemgetter

from hardware.interface import Channel, Readings
from twin.control.expectation import Expectation
from twin.control.gate import Gate, GateSettings
from twin.control.rates import FrameMeter, LoadMeter, PowerMeter, most_cpu_microwatts, most_gpu_microwatts
from twin.control.view import View
from twin.scenario import Scenario
from twin.timing import Wake

_PICKED = (
    "cpu_busy_ticks", "cpu_total_ticks", "cpu_clock_kilohertz", "gpu_busy_ppm", "gpu_power_microwatts",
    "gpu_clock_kilohertz", "memory_total_kibibytes", "memory_available_kibibytes", "frame_rate_millihertz",
    "frame_latency_microseconds", "frames_completed", "game_state_code", "words_offered_per_second",
)  # fmt: skip
"""The channels that `see` takes by name, in that order."""


class Signals:
    """Keeps what rates need (the last counters) and makes one `View` a cycle."""

    def __init__(self, scenario: Scenario, channels: tuple[Channel, ...]) -> None:
        machine, control = scenario.machine, scenario.control
        places = {channel.name: i for i, channel in enumerate(channels)}
        # Channels that the machine does not have are read behind the last one, where a None is put.
        self._pick = itemgetter(*[places.get(name, len(channels)) for name in _PICKED])
        self._energy = places["cpu_energy_microjoules"]
        most_microwatts = most_cpu_microwatts(machine.cpu.pl2_watts)
        self._cpu_power = PowerMeter(channels[self._energy].wrap, most_microwatts)
        self._cpu_load = LoadMeter()
        self._frames = FrameMeter()
        settings = [
            GateSettings(
                sensor.name,
                fastest_rise_millicelsius_per_second(scenario, sensor.node),
                control.slew_millicelsius,
                control.suspicion_millicelsius,
                sensor.hold_ms,
                control.period_ms,
            )
            for sensor in machine.sensors
        ]
        self._gates = [Gate(each) for each in settings]
        self._expectation = Expectation(machine, settings, control.model_check)
        self._check = control.model_check
        self._hold_cycles = control.hold_cycles
        self._period_ns = control.period_ms * 1_000_000
        self._hold = 0
        self._hold_reason = ""
        self._last_ns: int | None = None
        self._offsets = tuple(sensor.offset_millicelsius for sensor in machine.sensors)
        self._limits = tuple(round(sensor.limit_celsius * 1_000) for sensor in machine.sensors)
        self._sensor_names = tuple(sensor.name for sensor in machine.sensors)
        self._sensor_nodes = tuple(sensor.node for sensor in machine.sensors)
        self._cpu_node = machine.cpu.node
        self._gpu_node = machine.gpu.node if machine.gpu.enabled else ""
        self._fan_names = tuple(fan.name for fan in machine.fans)
        self._fan_places = tuple(places[f"{name}_rpm"] for name in self._fan_names)
        self._fan_outputs = tuple(f"{name}_pwm" for name in self._fan_names)
        self._commanded = [fan.initial_pwm for fan in machine.fans]
        self._most_gpu_microwatts = most_gpu_microwatts(machine.gpu.power_limit_watts)

    def see(self, cycle: int, due_ns: int, wake: Wake, readings: Readings) -> View:
        """The picture of this cycle. `due_ns + wake.lateness_ns` is when it began."""
        now_ns = due_ns + wake.lateness_ns
        fresh = self._last_ns is None or wake.suspended_ns > 0
        dt_ns = self._period_ns if self._last_ns is None else max(1, now_ns - self._last_ns)
        self._last_ns = now_ns
        values, statuses, times_ns = readings.values, readings.statuses, readings.times_ns
        (
            busy_ticks, total_ticks, cpu_clock, gpu_load, gpu_power, gpu_clock, memory_total, memory_available,
            frame_rate, frame_latency, frames_completed, game_state, words_offered,
        ) = self._pick((*values, None))  # fmt: skip

        expectation = self._expectation
        if wake.suspended_ns:
            self._cpu_power.forget()
            self._cpu_load.forget()
            for gate in self._gates:
                gate.forget()
            expectation.forget()
        cpu_power = self._cpu_power.see(values[self._energy], times_ns[self._energy])
        if gpu_power is not None and not 0 <= gpu_power <= self._most_gpu_microwatts:
            gpu_power = None
        memory_used = _memory_used_ppm(memory_total, memory_available)
        fan_rpm = tuple([values[place] for place in self._fan_places])

        temps: list[int | None] = []
        troubles: list[str] = []
        for i, gate in enumerate(self._gates):
            value = values[i]
            if value is not None:
                value -= self._offsets[i]
            gate.see(value, statuses[i], times_ns[i], now_ns)
            temps.append(gate.believed)
            if gate.trouble:
                troubles.append(gate.trouble)
        believed = tuple(temps)
        expectation.advance(dt_ns, cpu_power, gpu_power, memory_used, believed, fan_rpm)
        unchecked = self._unchecked(cpu_power, gpu_power)

        # By position, in the order of the class: matching so many names takes microseconds.
        return View(
            cycle,
            now_ns,
            dt_ns,
            self._sensor_names,
            believed,
            self._worst(believed),
            self._limits,
            self._judged(unchecked),
            expectation.unaided,
            expectation.nodes,
            self._fan_names,
            fan_rpm,
            expectation.fan_trouble,
            self._cpu_load.see(busy_ticks, total_ticks),
            cpu_power,
            cpu_clock,
            gpu_load,
            gpu_power,
            gpu_clock,
            memory_used,
            frame_rate,
            frame_latency,
            self._frames.see(frames_completed, now_ns),
            game_state,
            words_offered,
            expectation.suspicion,
            " ".join(unchecked),
            self._failsafe(wake, troubles, expectation.suspicion),
            fresh,
        )

    def commanded(self, values: Mapping[str, int]) -> None:
        """Tell what the outputs were last told (by their names), so that the fans' speed can be expected."""
        last = self._commanded
        self._commanded = [values.get(name, pwm) for name, pwm in zip(self._fan_outputs, last, strict=True)]
        if self._commanded != last:
            self._expectation.commanded(self._commanded)

    # --- plausibility -------------------------------------------------------------------------------------------------

    def _unchecked(self, cpu_power: int | None, gpu_power: int | None) -> tuple[str, ...]:
        """The sensors of which nothing can be expected, because nobody knows their processor's power."""
        if not self._check:
            return self._sensor_names
        if cpu_power is not None and (gpu_power is not None or not self._gpu_node):
            return ()
        blind = [self._cpu_node] if cpu_power is None else []
        if gpu_power is None:
            blind.append(self._gpu_node)
        sensors = zip(self._sensor_names, self._sensor_nodes, strict=True)
        return tuple([name for name, node in sensors if node in blind])

    def _judged(self, unchecked: tuple[str, ...]) -> tuple[int | None, ...]:
        """What the model expects of each sensor; None where it cannot tell."""
        expected = self._expectation.at_sensors
        if not self._expectation.nodes:
            return (None,) * len(self._sensor_names)
        if not unchecked:
            return expected
        sensors = zip(self._sensor_names, expected, strict=True)
        return tuple([None if name in unchecked else value for name, value in sensors])

    def _worst(self, believed: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """The hotter of reading and model, where the reading is believed."""
        if not self._check:
            return believed
        return tuple([
            value if value is None or value > expected else expected
            for value, expected in zip(believed, self._expectation.at_sensors, strict=True)
        ])  # fmt: skip

    def _failsafe(self, wake: Wake, reasons: list[str], suspicion: str) -> str:
        """Why full cooling is due, now or still; empty when the last `hold_cycles` cycles were clean."""
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


def _memory_used_ppm(total: int | None, available: int | None) -> int | None:
    if total is None or available is None or total <= 0 or not 0 <= available <= total:
        return None
    return (total - available) * 1_000_000 // total


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
