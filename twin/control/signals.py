"""From raw readings to a `View`: utilisation and power out of counters, gates, and the thermal model.

The one place where counters become rates. Simulated and real readings pass through it alike.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from operator import itemgetter

from hardware.interface import Channel, Readings
from twin.control.expectation import LEAVES, MOVES, PULLS, Expectation
from twin.control.gate import Gate, GateSettings
from twin.control.view import View
from twin.scenario import Scenario
from twin.timing import SECOND_NS, Wake

MOST_FRAMES = 1_000_000
"""A count that rises by more within a second or so counts no frames."""
FAN_GRACE_CYCLES = 30
"""Cycles a fan has to follow its command before it counts as failing."""

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
        self._names = tuple(channel.name for channel in channels)
        self._places = {name: i for i, name in enumerate(self._names)}
        # Channels that the machine does not have are read behind the last one, where a None is put.
        self._pick = itemgetter(*[self._places.get(name, len(channels)) for name in _PICKED])
        self._energy = self._places["cpu_energy_microjoules"]
        self._energy_wrap = channels[self._energy].wrap
        self._machine = machine
        self._expectation = Expectation(machine)
        self._cpu_place = self._expectation.places[machine.cpu.node]
        self._gpu_place = self._expectation.places[machine.gpu.node] if machine.gpu.enabled else -1
        self._memory_place = self._expectation.places[machine.memory.node]
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
        self._offsets = tuple(sensor.offset_millicelsius for sensor in machine.sensors)
        self._references = tuple(i for i, sensor in enumerate(machine.sensors) if sensor.reference)
        self._started = False
        self._unchecked: tuple[str, ...] = () if self._check else tuple(sensor.name for sensor in machine.sensors)
        self._sensor_nodes = self._expectation.sensor_nodes
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
        self._fan_places = tuple(self._places[f"{name}_rpm"] for name in self._fan_names)
        self._fan_settings = tuple((fan.max_rpm, fan.start_pwm, fan.lag_ms * 1_000_000) for fan in machine.fans)
        memory = machine.memory
        self._memory_watts = (memory.idle_watts, memory.full_watts - memory.idle_watts)
        self._nothing = [0.0] * len(machine.nodes)
        # What a processor draws is at most a few times its limit; a counter that says more is wrong.
        self._most_cpu_microwatts = 2_000_000 * round(machine.cpu.pl2_watts)
        self._most_gpu_microwatts = 4_000_000 * round(machine.gpu.power_limit_watts)

    def see(self, cycle: int, due_ns: int, wake: Wake, readings: Readings) -> View:
        """The picture of this cycle. `due_ns + wake.lateness_ns` is when it began."""
        now_ns = due_ns + wake.lateness_ns
        dt_ns = self._period_ns if self._last_ns is None else max(1, now_ns - self._last_ns)
        self._last_ns = now_ns
        values = readings.values
        (
            busy_ticks, total_ticks, cpu_clock, gpu_load, gpu_power, gpu_clock, memory_total, memory_available,
            frame_rate, frame_latency, frames_completed, game_state, words_offered,
        ) = self._pick((*values, None))  # fmt: skip

        if wake.suspended_ns:
            self._counters.clear()
            for gate in self._gates:
                gate.forget()
            self._started = False
        cpu_power = self._cpu_power_microwatts(values[self._energy], readings.times_ns[self._energy])
        if gpu_power is not None and not 0 <= gpu_power <= self._most_gpu_microwatts:
            gpu_power = None
        memory_used = _memory_used_ppm(memory_total, memory_available)
        fan_rpm = tuple([values[place] for place in self._fan_places])
        fan_trouble = self._judge_fans(fan_rpm, dt_ns)

        for i, gate in enumerate(self._gates):
            value = values[i]
            if value is not None:
                value -= self._offsets[i]
            gate.see(value, readings.statuses[i], readings.times_ns[i], now_ns)
        believed = tuple([gate.believed for gate in self._gates])
        if self._check:
            self._advance_model(cpu_power, gpu_power, memory_used, believed, fan_rpm, dt_ns)
        suspicion = "; ".join([gate.suspicion for gate in self._gates if gate.suspicion])

        # By position, in the order of the class: matching so many names takes microseconds.
        return View(
            cycle,
            now_ns,
            dt_ns,
            self._sensor_names,
            believed,
            self._worst(believed),
            self._limits,
            self._judged(),
            self._without_sensors(),
            self._modelled(),
            self._fan_names,
            fan_rpm,
            fan_trouble,
            self._cpu_load_ppm(busy_ticks, total_ticks),
            cpu_power,
            cpu_clock,
            gpu_load,
            gpu_power,
            gpu_clock,
            memory_used,
            frame_rate,
            frame_latency,
            self._counted_millihertz(frames_completed, now_ns),
            game_state,
            words_offered,
            suspicion,
            " ".join(self._unchecked),
            self._failsafe(wake, suspicion),
        )

    def commanded(self, fan_pwm: Mapping[str, int]) -> None:
        """Tell what the fans were last told (by fan name), so that their speed can be expected."""
        for place, name in enumerate(self._fan_names):
            self._commanded[place] = fan_pwm.get(name, self._commanded[place])

    # --- rates from counters ------------------------------------------------------------------------------------------

    def _cpu_power_microwatts(self, value: int | None, taken_ns: int) -> int | None:
        """Mean power since the energy counter was last seen; None without two plausible sights of it."""
        last = self._counters.get("cpu_energy_microjoules")
        if value is None:
            return None
        self._counters["cpu_energy_microjoules"] = (value, taken_ns)
        if last is None or taken_ns <= last[1]:
            return None
        wrap = self._energy_wrap
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
        believed: tuple[int | None, ...],
        fan_rpm: tuple[int | None, ...],
        dt_ns: int,
    ) -> None:
        machine = self._machine
        heat = self._nothing.copy()
        idle, span = self._memory_watts
        share = 0.5 if memory_used is None else memory_used / 1_000_000
        heat[self._memory_place] += idle + span * share
        # The model that hears no sensor takes an unknown power for the largest. Without a measured power nothing can
        # be expected of the sensors on that processor's node.
        unaided = heat.copy()
        blind: tuple[str, ...] = ()
        if cpu_power is None:
            blind += (machine.cpu.node,)
            unaided[self._cpu_place] += machine.cpu.pl2_watts
        else:
            heat[self._cpu_place] += cpu_power / 1_000_000
            unaided[self._cpu_place] += cpu_power / 1_000_000
        if self._gpu_place >= 0:
            if gpu_power is None:
                blind += (machine.gpu.node,)
                unaided[self._gpu_place] += machine.gpu.power_limit_watts
            else:
                heat[self._gpu_place] += gpu_power / 1_000_000
                unaided[self._gpu_place] += gpu_power / 1_000_000
        seconds = dt_ns / SECOND_NS
        rpm: list[float] = [self._expected_rpm[i] if r is None else max(0, r) for i, r in enumerate(fan_rpm)]
        if not self._started:
            self._begin_model(believed, rpm)
        gaps, kinds = self._guidance(believed, blind)
        self._expectation.advance(heat, unaided, rpm, gaps, kinds, seconds)
        self._expected = self._expectation.at_sensors
        lagged = self._lagged
        for i, expected in enumerate(self._expected):
            if blind and machine.sensors[i].node in blind:
                self._gates[i].compare(None)
                lagged[i] = expected
                continue
            lagged[i] += (expected - lagged[i]) * dt_ns // (self._lags_ns[i] + dt_ns)
            self._gates[i].compare(lagged[i])
        self._unchecked = tuple([sensor.name for sensor in machine.sensors if sensor.node in blind]) if blind else ()

    def _without_sensors(self) -> tuple[int | None, ...]:
        return self._expectation.unaided if self._check else (None,) * len(self._sensor_nodes)

    def _modelled(self) -> tuple[int, ...]:
        return self._expectation.nodes if self._check and self._started else ()

    def _guidance(self, believed: tuple[int | None, ...], blind: tuple[str, ...]) -> tuple[list[int], list[int]]:
        """How far each sensor is from what is expected, and what it does to the model with that.

        Reference sensors say how warm the surroundings are; blind nodes follow their sensors. A reference that parts
        from the model is believed all the same if the other sensors part alike: then it is the room that has changed,
        and not the sensor.
        """
        gaps = [0] * len(believed)
        kinds = [LEAVES] * len(believed)
        for i in range(len(believed)) if blind else self._references:
            value, sensor = believed[i], self._machine.sensors[i]
            if value is None:
                continue
            gap = gaps[i] = value - self._expected[i]
            if not sensor.reference:
                if sensor.node in blind:
                    kinds[i] = MOVES
            elif self._agrees(i, gap) or self._others_agree(gap, i, believed, blind):
                kinds[i] = PULLS
        return gaps, kinds

    def _agrees(self, i: int, gap: int) -> bool:
        gate = self._gates[i]
        return not gate.suspicion and abs(gap) <= gate.tolerance_millicelsius

    def _others_agree(self, gap: int, i: int, believed: tuple[int | None, ...], blind: tuple[str, ...]) -> bool:
        """Whether all sensors that can tell, and there is one, part from the model as reference `i` does."""
        tolerance = self._gates[i].tolerance_millicelsius
        others = [
            value - expected
            for sensor, value, expected in zip(self._machine.sensors, believed, self._expected, strict=True)
            if value is not None and not sensor.reference and sensor.node not in blind
        ]
        return bool(others) and all(abs(other - gap) <= tolerance for other in others)

    def _begin_model(self, believed: tuple[int | None, ...], rpm: list[float]) -> None:
        """Start the model from the first readings that are believed."""
        known = {
            place: value / 1_000 for value, place in zip(believed, self._sensor_nodes, strict=True) if value is not None
        }
        self._started = len(known) == len(set(self._sensor_nodes))
        self._expectation.start(known, rpm)
        self._expected = self._expectation.at_sensors
        self._lagged = list(self._expected)

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

    def _worst(self, believed: tuple[int | None, ...]) -> tuple[int | None, ...]:
        if not self._check:
            return believed
        return tuple([
            value if value is None or value > expected else expected
            for value, expected in zip(believed, self._expected, strict=True)
        ])  # fmt: skip

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
        for i, (max_rpm, start_pwm, lag_ns) in enumerate(self._fan_settings):
            asked, rpm, expected = self._commanded[i], fan_rpm[i], self._expected_rpm[i]
            target = asked * max_rpm // 255 if asked >= start_pwm else 0
            expected += (target - expected) * dt_ns // (lag_ns + dt_ns)
            self._expected_rpm[i] = expected
            if rpm is None or 2 * rpm >= expected:
                self._slow_cycles[i] = 0
                continue
            self._slow_cycles[i] += 1
            if self._slow_cycles[i] >= FAN_GRACE_CYCLES:
                troubles.append(f"{self._fan_names[i]} turns at {rpm} rpm where {expected} are expected")
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
