"""A machine along a recording: the world, driven by the recorded load, power and fan speeds, and by nothing later.

It starts at what the sensors showed at the first sample; nodes that nobody measures start where their neighbours would
hold them or, in a recording that was fitted, where the fit found them from the part that it was given. Sensors show
what is to be expected of them: without noise, and with the mean of what rounding takes off.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from simpy import Event

from twin.calibrate.headings import Part
from twin.calibrate.reader import Measured
from twin.calibrate.recording import COLDEST_CELSIUS, HOTTEST_CELSIUS, Recording, RecordingError
from twin.clock import Order, VirtualEnvironment
from twin.control.model import settled
from twin.kernels import Floats
from twin.machines import Origin, Start
from twin.scenario import Machine, Scenario, Trace, Workload
from twin.timing import MILLISECOND_NS, SECOND_NS
from twin.wiring import wiring
from twin.world.trace import TraceTable
from twin.world.world import World

Key = TypeVar("Key", bound=str)

STEPS_MS = (1_000, 500, 200, 100, 50)
"""Steps of the world that are tried in place of a finer one."""
STEPS_IN_AN_INTERVAL, STEPS_ON_A_GRID = 50, 10
"""How many steps an interval between samples has at least; fewer where every sample and change ends a step."""
STEPS_IN_A_LAG, STEPS_IN_A_TIME_CONSTANT = 5, 20
""" ... and a lead or a sensor's lag, and the time constant of a node whose conductance follows its temperature."""

LEAST_DOUBT_KELVIN = 1.0


@dataclass(frozen=True)
class FreeRun:
    """What each sensor of the machine shows at the samples of the recording (C), and each processor's power (W)."""

    celsius: Mapping[str, Floats]
    watts: Mapping[Part, Floats]


def judged_sensor(machine: Machine, kind: str) -> str:
    """The sensor that a recording of `kind` shows: the first one on the processor's node, else the first."""
    node = machine.gpu.node if kind == "gpu" else machine.cpu.node
    return next((each.name for each in machine.sensors if each.node == node), machine.sensors[0].name)


def free_run(
    machine: Machine, origin: Origin, measured: Measured, *, by_load: bool = False, step_ms: int | None = None,
    warmer: tuple[str | None, float] | None = None,
) -> FreeRun:  # fmt: skip
    """Run `machine` along `measured`. `by_load` has the load drive it even where power was recorded.

    `step_ms` is a step of the world other than `coarse_step_ms`. `warmer` names a node and by how much (K) warmer it
    starts wherever its start is not known; no name: every node starts warmer. After a gap (`Recording.pieces`), through
    which nobody knows what drove the machine, the run starts anew; what belongs to no stretch is NaN.
    """
    count = len(measured.recording.times_seconds)
    celsius = {sensor.name: np.full(count, np.nan) for sensor in machine.sensors}
    watts: dict[Part, Floats] = {"cpu": np.full(count, np.nan), "gpu": np.full(count, np.nan)}
    for begin, end in measured.recording.pieces():
        run = _stretch(machine, origin, _between(measured, begin, end), by_load, step_ms, warmer)
        for name, column in run.celsius.items():
            celsius[name][begin:end] = column
        for part, column in run.watts.items():
            watts[part][begin:end] = column
    return FreeRun(celsius, watts)


def _between(measured: Measured, begin: int, end: int) -> Measured:
    def cut(columns: Mapping[Key, Floats]) -> dict[Key, Floats]:
        return {key: column[begin:end] for key, column in columns.items()}

    return replace(
        measured,
        recording=measured.recording.stretch(begin, end),
        temperatures=cut(measured.temperatures),
        loads=cut(measured.loads),
        powers=cut(measured.powers),
        fans=cut(measured.fans),
    )


def _stretch(
    machine: Machine, origin: Origin, measured: Measured, by_load: bool, step_ms: int | None,
    warmer: tuple[str | None, float] | None,
) -> FreeRun:  # fmt: skip
    driven = started(machine, origin, measured)
    if warmer is not None and warmer[0] not in _known(driven, origin, measured):
        driven = replace(driven, nodes=tuple(
            replace(node, initial_celsius=float(np.clip((node.initial_celsius or 0.0) + warmer[1], -60.0, 200.0)))
            if warmer[0] in (None, node.name) else node
            for node in driven.nodes
        ))  # fmt: skip
    recording = measured.recording
    machine = replace(driven, step_ms=step_ms or coarse_step_ms(driven, origin, recording))
    times_ns = np.round(recording.times_seconds * SECOND_NS).astype(np.int64)
    changes, place_of = _changes(times_ns, round(origin.lead_seconds * SECOND_NS))
    table = _trace(machine, origin, measured, changes, place_of, by_load)
    scenario = Scenario(machine=machine, workload=Workload(trace=Trace(file="recording", cpu_load_column="cpu_load")))
    channels = wiring(machine)
    env = VirtualEnvironment()
    try:
        world = World(env, scenario, channels, table)
    except ValueError as error:
        raise RecordingError(f"the machine {machine.name} cannot be: {error}") from error
    shown = np.zeros((len(machine.sensors), len(times_ns)))
    watts = np.zeros((2, len(times_ns)))

    def sample() -> Generator[Event, None, None]:
        for place, time_ns in enumerate(times_ns.tolist()):
            yield env.at(time_ns, Order.RECORDER)
            values, _ = world.sense()
            for row in range(len(machine.sensors)):
                value = values[row]
                shown[row, place] = np.nan if value is None else value / 1_000.0
            watts[:, place] = world.plant.cpu_watts, world.plant.gpu_watts

    def blow(name: str, pwm: list[int]) -> Generator[Event, None, None]:
        before = pwm[0]
        for time_ns, value in zip(changes.tolist(), pwm, strict=True):
            if value != before:
                yield env.at(time_ns, Order.WORLD)
                world.actuate(f"{name}_pwm", value)
                before = value

    env.process(sample())
    for name, rpm in _fans(machine, origin, measured).items():
        fan = next(each for each in machine.fans if each.name == name)
        env.process(blow(name, _pwm(rpm, fan.max_rpm)[place_of].tolist()))
    env.run(until=int(times_ns[-1]) + 1)
    return FreeRun(
        {sensor.name: shown[row] for row, sensor in enumerate(machine.sensors)}, {"cpu": watts[0], "gpu": watts[1]}
    )


def coarse_step_ms(machine: Machine, origin: Origin, recording: Recording) -> int:
    """The longest step of the world (ms) that shows a recording as the machine's own would, by hundredths of a kelvin.

    Power is constant between changes and the network is solved exactly, so that a step may be long: what it has to
    follow are samples and changes that end no step, sensors that lag, and conductances that follow temperatures.
    """
    times_ns = np.round(recording.times_seconds * SECOND_NS).astype(np.int64)
    lead_ns = round(origin.lead_seconds * SECOND_NS)
    usual_ms = recording.interval_seconds * 1_000.0
    shortest_ms = [each.lag_ms / STEPS_IN_A_LAG for each in machine.sensors if each.lag_ms]
    shortest_ms += [1e3 * each / STEPS_IN_A_TIME_CONSTANT for each in _bending_seconds(machine)]
    if lead_ns:
        shortest_ms.append(abs(lead_ns) / MILLISECOND_NS / STEPS_IN_A_LAG)
    for step in STEPS_MS:
        on_grid = not np.any(times_ns % (step * MILLISECOND_NS)) and not lead_ns % (step * MILLISECOND_NS)
        longest_ms = usual_ms / (STEPS_ON_A_GRID if on_grid else STEPS_IN_AN_INTERVAL)
        if machine.step_ms < step <= min([longest_ms, *shortest_ms]):
            return step
    return machine.step_ms


def _bending_seconds(machine: Machine) -> list[float]:
    """The least time constants of nodes at edges that conduct better the warmer they are."""
    found = []
    for node in machine.nodes:
        edges = [edge for edge in machine.edges if node.name in (edge.a, edge.b)]
        if any(edge.natural_exponent > 0.0 for edge in edges):
            most = sum(edge.still_watts_per_kelvin + edge.forced_watts_per_kelvin for edge in edges)
            found.append(node.capacity_joules_per_kelvin / max(most, 1e-9))
    return found


def started(machine: Machine, origin: Origin, measured: Measured) -> Machine:
    """The machine at the first sample, with fans that are as fast as recorded at once, and sensors without noise."""
    speeds = _fans(machine, origin, measured)
    fans = tuple(
        replace(fan, start_pwm=0, stall_pwm=0, lag_ms=1, initial_pwm=int(_pwm(speeds[fan.name], fan.max_rpm)[1]))
        if fan.name in speeds
        else fan
        for fan in machine.fans
    )
    sensors = tuple(
        replace(
            each, noise_millicelsius=0, quantum_millicelsius=1,
            offset_millicelsius=max(-20_000, each.offset_millicelsius - each.quantum_millicelsius // 2),
        )
        for each in machine.sensors
    )  # fmt: skip
    machine = replace(machine, fans=fans, sensors=sensors)
    return settled(machine, _known(machine, origin, measured))


def _known(machine: Machine, origin: Origin, measured: Measured) -> dict[str, float]:
    """The nodes whose temperature (C) at the first sample is known: sensors show it, or the fit found it."""
    known: dict[str, float] = {}
    shown = readings(machine, origin, measured)
    for sensor in reversed(machine.sensors):
        # The first sensor of a node counts, and the judged one is the first.
        column = shown.get(sensor.name)
        believed = np.zeros(0) if column is None else column[believable(column)]
        if len(believed):
            known[sensor.node] = float(believed[0]) - sensor.offset_millicelsius / 1_000.0
    start = fitted_start(origin, measured)
    if start is not None:
        known |= dict(zip([node.name for node in machine.nodes], start.celsius, strict=False))
    return known


def fitted_start(origin: Origin, measured: Measured) -> Start | None:
    """Where the fit found this recording to begin; none for one that was not fitted."""
    own = measured.recording.temperatures_celsius[measured.recording.believable()]
    found = None
    for start in origin.starts:
        if start.recording == measured.recording.name and len(own) and abs(start.first_celsius - float(own[0])) < 1e-3:
            found = start
    return found


def doubts(machine: Machine, origin: Origin, measured: Measured) -> list[tuple[tuple[int, int], dict[str, float]]]:
    """For each stretch, from sample to sample: nodes whose start nobody knows, and how far it may be off (K).

    That is as far as it is from the room, LEAST_DOUBT_KELVIN at least: a machine that has just been switched on.
    """
    found = []
    for begin, end in measured.recording.pieces():
        piece = _between(measured, begin, end)
        driven = started(machine, origin, piece)
        known = _known(driven, origin, piece)
        far = {
            node.name: max(LEAST_DOUBT_KELVIN, abs((node.initial_celsius or 0.0) - machine.ambient_celsius))
            for node in driven.nodes
            if node.name not in known and any(node.name in (edge.a, edge.b) for edge in driven.edges)
        }
        found.append(((begin, end), far))
    return found


def readings(machine: Machine, origin: Origin, measured: Measured) -> dict[str, Floats]:
    """What was recorded of the machine's sensors (C), by name; the judged one always is."""
    found = {
        each.name: measured.temperatures[each.name] for each in machine.sensors if each.name in measured.temperatures
    }
    return found | {judged_sensor(machine, origin.kind): measured.recording.temperatures_celsius}


def believable(column: Floats) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Which readings can be a machine's temperature (C)."""
    with np.errstate(invalid="ignore"):
        return (column >= COLDEST_CELSIUS) & (column <= HOTTEST_CELSIUS)


def _fans(machine: Machine, origin: Origin, measured: Measured) -> dict[str, Floats]:
    """Recorded speeds (RPM) of the machine's fans; one without a name is that of the fan that cools the processor."""
    found = {fan.name: measured.fans[fan.name] for fan in machine.fans if fan.name in measured.fans}
    rpm = measured.recording.fan_rpm
    if not found and rpm is not None and machine.fans:
        part = "gpu" if origin.kind == "gpu" else "cpu"
        likely = next((fan.name for fan in machine.fans if part in fan.name), machine.fans[0].name)
        found[likely] = rpm
    return found


def _pwm(rpm: Floats, max_rpm: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    share = np.clip(_held(rpm) / max_rpm, 0.0, 1.0)
    return np.floor(share * 255.0 + 0.5).astype(np.int64)


def _held(column: Floats) -> Floats:
    """The column with the last value held where one is missing, before the first the next one."""
    known = np.isfinite(column)
    if not np.any(known):
        return np.zeros(len(column))
    place = np.maximum.accumulate(np.where(known, np.arange(len(column)), -1))
    place[place < 0] = int(np.argmax(known))
    held: Floats = column[place]
    return held


Places = np.ndarray[tuple[int], np.dtype[np.int64]]


def _changes(times_ns: Places, lead_ns: int) -> tuple[Places, Places]:
    """When what drives the machine changes, and to the values of which sample.

    What is recorded at a time is the mean over the interval that ends then (`lead_ns` before).
    """
    begins = np.maximum(times_ns[:-1] - lead_ns, 0)
    begins[0] = 0
    last = np.append(np.diff(begins) > 0, True)
    return begins[last], np.arange(1, len(times_ns))[last]


def _trace(
    machine: Machine, origin: Origin, measured: Measured, changes: Places, place_of: Places, by_load: bool
) -> TraceTable:  # fmt: skip
    own: Part = "gpu" if origin.kind == "gpu" else "cpu"

    def driving(columns: Mapping[Part, Floats], part: Part, scale: float) -> tuple[int, ...] | None:
        column = columns.get(part)
        if column is None or not np.any(np.isfinite(column)):
            return None
        return tuple(np.round(_held(column) * scale).astype(np.int64)[place_of].tolist())

    loads = {part: driving(measured.loads, part, 1e6) for part in ("cpu", "gpu")}
    powers = {part: driving(measured.powers, part, 1e6) for part in ("cpu", "gpu")}
    if by_load or (origin.driven != "power" and loads[own] is not None):
        powers[own] = None
    if loads[own] is None and powers[own] is None:
        loads[own] = (1_000_000,) * len(changes)
    if not machine.gpu.enabled:
        loads["gpu"] = powers["gpu"] = None
    return TraceTable(
        times_ns=tuple(changes.tolist()),
        cpu_load_ppm=loads["cpu"],
        gpu_load_ppm=loads["gpu"],
        cpu_power_microwatts=powers["cpu"],
        gpu_power_microwatts=powers["gpu"],
    )
