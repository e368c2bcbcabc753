"""Shadow mode: a real machine is read, and what the controller commands is done to a twin of it and to nothing else.

Two plants with the world's own physics go along in step with the readings. The *twin* is driven by what drove the
machine (load, power, speed of the fans) and shows what its sensors ought to show: how far both part says how good the
twin is. The *acted* one has the machine's load and obeys the controller's commands: it shows what would have become of
them. Both cross the seam as channels of their own, so that they are in the log, in the control table, and in a replay.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from hardware.interface import Applied, Channel, Command, Hardware, Limit, Readings, Status
from twin.control.model import settled
from twin.control.rates import LoadMeter, PowerMeter, most_cpu_microwatts, most_gpu_microwatts
from twin.scenario import Fan, Machine, Scenario
from twin.timing import SECOND_NS
from twin.world.plant import Plant, Work

LONGEST_GAP_NS = 30 * SECOND_NS
"""After a longer time without a reading nobody knows what drove the machine, and the plants begin anew."""
LONGEST_GAP_CYCLES = 5
"""A budget of which so many control cycles saw nothing begins anew: what nobody has seen was not kept."""
ACTING = "acting_code"
"""The channel that is 1 while the machine is acted on, and 0 while it is only read."""
PLAUSIBLE_MILLICELSIUS = (-20_000, 125_000)
"""Readings outside are no temperatures of a machine that runs."""


def twin_channel(sensor: str) -> str:
    """The channel of what the twin expects of a sensor."""
    return f"twin_{sensor}_temp_millicelsius"


def acted_channel(sensor: str) -> str:
    """The channel of what a sensor would show had the commands been carried out."""
    return f"acted_{sensor}_temp_millicelsius"


class Acting(Protocol):
    """The machine's outputs, which are taken when the twin has proved good, and given back when it no longer is."""

    def begin(self) -> bool:
        """Begin to act; False when that cannot be, and need not be asked again."""

    def acts(self) -> bool | None:
        """Whether the machine is acted on now, which takes a while to begin; None when it will not be any more."""

    def end(self) -> None:
        """Give everything back, and only read."""


@dataclass(frozen=True)
class GoLive:
    """Act once every sensor was within `millicelsius` of its twin for `seconds` on end, and while it is.

    Each time the machine has to be given back, the time that is asked for doubles.
    """

    millicelsius: int
    seconds: float
    acting: Acting


class ShadowHardware:
    """`hardware`, which is read, with the two plants of `scenario`'s machine beside it. `elapsed_ns` is the run's time.

    `sensors` are the hardware's, then `twin_..._temp_millicelsius` and `acted_..._temp_millicelsius` for each of the
    machine's, absent until the machine has shown a temperature and while nothing tells what drives it, and
    `acting_code`. Nothing is acted on without `go_live`.
    """

    def __init__(
        self, hardware: Hardware, scenario: Scenario, elapsed_ns: Callable[[], int], go_live: GoLive | None = None
    ) -> None:
        self.hardware = hardware
        self._machine = machine = scenario.machine
        self._elapsed_ns = elapsed_ns
        names = [sensor.name for sensor in machine.sensors]
        own = tuple(Channel(make(name)) for make in (twin_channel, acted_channel) for name in names)
        self._sensors = (*hardware.sensors, *own, Channel(ACTING))
        self._go_live = go_live
        self._acts = self._proved = False
        self._budget = None if go_live is None else Budget(
            go_live.millicelsius, go_live.seconds, tuple(names), self._sensors,
            LONGEST_GAP_CYCLES * scenario.control.period_ms * 1_000_000,
        )  # fmt: skip
        self._places = {channel.name: place for place, channel in enumerate(hardware.sensors)}
        self._cpu_power = PowerMeter(
            hardware.sensors[self._places["cpu_energy_microjoules"]].wrap, most_cpu_microwatts(machine.cpu.pl2_watts)
        )
        self._cpu_load = LoadMeter()
        self._most_gpu_microwatts = most_gpu_microwatts(machine.gpu.power_limit_watts)
        self._outputs = tuple(hardware.limits)
        self._plants: tuple[Plant, Plant] | None = None
        self._then_ns = 0
        self._stepped_ns = 0

    @property
    def sensors(self) -> tuple[Channel, ...]:
        """The hardware's, and those of the plants."""
        return self._sensors

    @property
    def limits(self) -> Mapping[str, Limit]:
        """The hardware's."""
        return self.hardware.limits

    def read(self) -> Readings:
        """What the machine shows, and what the plants show at the same time."""
        readings = self.hardware.read()
        now_ns = self._elapsed_ns()
        shown = (*self._along(readings, now_ns), int(self._acting()))
        statuses = tuple(Status.ABSENT if value is None else Status.OK for value in shown)
        whole = Readings(
            (*readings.values, *shown), (*readings.times_ns, *(now_ns,) * len(shown)), (*readings.statuses, *statuses)
        )
        self._take(whole, now_ns)
        return whole

    def _acting(self) -> bool:
        """Whether the machine is acted on now, as whoever acts says."""
        acts = self._go_live.acting.acts() if self._go_live is not None and self._acts else False
        if acts is None:
            self._go_live, self._acts = None, False
        return bool(acts)

    def _take(self, readings: Readings, now_ns: int) -> None:
        """Take the machine, or give it back, by how far the twin and the machine part."""
        live, budget = self._go_live, self._budget
        if live is None or budget is None:
            return
        kept = budget.see(readings, now_ns)
        self._proved |= kept
        if kept and not self._acts:
            self._acts = live.acting.begin()
            if not self._acts:
                self._go_live = None
        elif self._acts and not kept:
            self._acts = False
            budget.harden()
            live.acting.end()
            # Giving back takes a while.
            budget.rest(self._elapsed_ns())

    def apply(self, command: Command) -> Applied:
        """Clamped by the hardware, which is told nothing unless it acts, and done to the acted plant."""
        applied = self.hardware.apply(command)
        if self._plants is not None:
            acted = self._plants[1]
            for place, name in enumerate(self._outputs):
                if name in applied.values:
                    acted.commands[place] = applied.values[name]
        return applied

    def close(self) -> None:
        """Close the hardware."""
        self.hardware.close()

    def proof(self) -> str:
        """How near the twin was to being acted on, where it never was; else nothing."""
        return "" if self._budget is None or self._proved else self._budget.nearness()

    # --- the plants ---------------------------------------------------------------------------------------------------

    def _along(self, readings: Readings, now_ns: int) -> tuple[int | None, ...]:
        """Take the plants to now, driven by what the readings say of the time since the last ones."""
        nothing: tuple[int | None, ...] = (None,) * (2 * len(self._machine.sensors))
        values = {channel.name: value for channel, value in zip(self.hardware.sensors, readings.values, strict=True)}
        energy = self._places["cpu_energy_microjoules"]
        cpu_power = self._cpu_power.see(readings.values[energy], readings.times_ns[energy])
        cpu_load = self._cpu_load.see(values["cpu_busy_ticks"], values["cpu_total_ticks"])
        if self._plants is None or now_ns - self._then_ns > LONGEST_GAP_NS:
            started = started_machine(self._machine, values)
            if started is None:
                return nothing
            self._plants = self._begin(started, values)
            self._then_ns = self._stepped_ns = now_ns
            return self._shown()
        gpu_power = values.get("gpu_power_microwatts")
        if gpu_power is not None and not 0 <= gpu_power <= self._most_gpu_microwatts:
            gpu_power = None
        gpu_load = values.get("gpu_busy_ppm")
        self._then_ns = now_ns
        if cpu_load is None and cpu_power is None and gpu_load is None and gpu_power is None:
            self._stepped_ns = now_ns
            return nothing
        twin, acted = self._plants
        for place, fan in enumerate(self._machine.fans):
            rpm = values[f"{fan.name}_rpm"]
            if rpm is not None:
                twin.commands[place] = _pwm(fan, rpm)
        step_ns = twin.step_ns
        driven = Work(
            (cpu_load or 0) * step_ns, (gpu_load or 0) * step_ns, 0, 0, 0,
            -1 if cpu_power is None else cpu_power, -1 if gpu_power is None else gpu_power,
        )  # fmt: skip
        # What is capped depends on the work, a share of full speed, whatever the machine draws.
        cpu, gpu = self._machine.cpu, self._machine.gpu
        work = Work(
            _of_full(cpu_load, values["cpu_clock_kilohertz"], cpu.frequencies_kilohertz[-1]) * step_ns,
            _of_full(gpu_load, values.get("gpu_clock_kilohertz"), gpu.frequencies_kilohertz[-1]) * step_ns, 0, 0, 0,
        )  # fmt: skip
        while self._stepped_ns + step_ns <= now_ns:
            self._stepped_ns += step_ns
            twin.step(driven)
            acted.step(work)
        return self._shown()

    def _begin(self, machine: Machine, values: Mapping[str, int | None]) -> tuple[Plant, Plant]:
        """The two plants at what is shown now."""
        # A fan that is measured is as fast as that, at once and whatever it is told.
        fans = tuple(replace(fan, start_pwm=0, stall_pwm=0, lag_ms=1) for fan in machine.fans)
        plants = Plant(replace(machine, fans=fans), 0), Plant(machine, 0)
        for plant in plants:
            for place, (name, limit) in enumerate(self.limits.items()):
                fan = next((each for each in machine.fans if name == f"{each.name}_pwm"), None)
                plant.commands[place] = limit.maximum if fan is None else fan.initial_pwm
        return plants

    def _shown(self) -> tuple[int | None, ...]:
        assert self._plants is not None
        count = len(self._machine.sensors)
        return tuple(value for plant in self._plants for value in plant.readings(0)[:count])


def _of_full(load_ppm: int | None, kilohertz: int | None, top_kilohertz: int) -> int:
    """A load at a clock as a share of what the highest clock does (ppm); at an unknown clock, the load."""
    if load_ppm is None or kilohertz is None:
        return load_ppm or 0
    return load_ppm * min(kilohertz, top_kilohertz) // top_kilohertz


def started_machine(machine: Machine, values: Mapping[str, int | None]) -> Machine | None:
    """`machine` at what its sensors show (millicelsius by channel), None when none of them shows a temperature.

    Nodes that nobody measures start where their neighbours would hold them; fans as fast as they are. Sensors have no
    noise, so that the twin shows what is to be expected.
    """
    known: dict[str, float] = {}
    low, high = PLAUSIBLE_MILLICELSIUS
    for sensor in reversed(machine.sensors):
        value = values[f"{sensor.name}_temp_millicelsius"]
        if value is not None and low <= value <= high:
            # What is shown was rounded down.
            known[sensor.node] = (value - sensor.offset_millicelsius + sensor.quantum_millicelsius // 2) / 1_000.0
    if not known:
        return None
    turning = ((fan, values[f"{fan.name}_rpm"]) for fan in machine.fans)
    fans = tuple(fan if rpm is None else replace(fan, initial_pwm=_pwm(fan, rpm)) for fan, rpm in turning)
    sensors = tuple(replace(sensor, noise_millicelsius=0) for sensor in machine.sensors)
    return settled(replace(machine, fans=fans, sensors=sensors), known)


def _pwm(fan: Fan, rpm: int) -> int:
    """The PWM at which `fan` would turn so fast in the end."""
    return min(255, max(0, (rpm * 255 + fan.max_rpm // 2) // fan.max_rpm))


class Budget:
    """How far the twin may part from the machine, and for how long it has not: every sensor within `millicelsius`.

    Sensors of which the machine or the twin shows nothing are not within it, unless they never came.
    """

    def __init__(
        self, millicelsius: int, seconds: float, sensors: tuple[str, ...], channels: tuple[Channel, ...],
        longest_gap_ns: int,
    ) -> None:  # fmt: skip
        self.millicelsius = millicelsius
        self.needed_ns = round(seconds * SECOND_NS)
        self._longest_gap_ns = longest_gap_ns
        places = {channel.name: place for place, channel in enumerate(channels)}
        self._pairs = [(name, places[f"{name}_temp_millicelsius"], places[twin_channel(name)]) for name in sensors]
        self._came: set[str] = set()
        self._since_ns: int | None = None
        self._then_ns = 0
        self._longest_ns = 0
        """So long it was kept on end at best."""
        self._gaps: list[tuple[int, str]] = []
        """The smallest and the last of the largest gaps, each with its sensor."""

    def see(self, readings: Readings, now_ns: int) -> bool:
        """Whether the budget has been kept for long enough up to now, without a pause in which nobody looked."""
        apart = {name: self._apart(readings, real, twin) for name, real, twin in self._pairs}
        self._came |= {name for name, kelvin in apart.items() if kelvin is not None}
        within = bool(self._came) and all(
            (kelvin := apart[name]) is not None and abs(kelvin) <= self.millicelsius for name in self._came
        )
        paused = now_ns - self._then_ns > self._longest_gap_ns
        self._then_ns = now_ns
        if not within:
            self._since_ns = None
        elif self._since_ns is None or paused:
            self._since_ns = now_ns
        if self._since_ns is not None:
            self._longest_ns = max(self._longest_ns, now_ns - self._since_ns)
        gaps = [(abs(kelvin), name) for name, kelvin in apart.items() if kelvin is not None]
        if gaps:
            self._gaps = [min([*self._gaps[:1], max(gaps)]), max(gaps)]
        return self._since_ns is not None and now_ns - self._since_ns >= self.needed_ns

    def nearness(self) -> str:
        """How near it came to being kept, for people."""
        asked = f"asked is within {self.millicelsius / 1_000:g} C for {self.needed_ns / SECOND_NS:g} s"
        if not self._gaps:
            return f"no sensor and its twin were ever seen together; {asked}"
        least, last = (f"{gap / 1_000:.1f} C ({name})" for gap, name in self._gaps)
        longest = self._longest_ns / SECOND_NS
        return f"{asked}; it was kept for {longest:.1f} s at most; apart by {last} at the end, by {least} at best"

    def rest(self, now_ns: int) -> None:
        """Time has passed up to now that does not count as a pause."""
        self._then_ns = now_ns

    def harden(self) -> None:
        """From now on twice the time is asked for."""
        self.needed_ns *= 2

    @staticmethod
    def _apart(readings: Readings, real: int, twin: int) -> int | None:
        shown, expected = readings.values[real], readings.values[twin]
        return None if shown is None or expected is None else shown - expected
