"""The look ahead, against the world itself: whoever follows it keeps every limit, whatever is asked of the machine."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from running import shipped_scenario
from strategies import FANS, LIMITS, SCENARIO, view

from hardware.interface import Command, Limit
from twin import kernels
from twin.cli.backends import simulated
from twin.control.foresight import Foresight
from twin.control.signals import Signals
from twin.control.view import View
from twin.scenario import Fault, Machine, Node, Phase, Scenario, Workload
from twin.timing import Wake
from twin.world import cpu as world_cpu
from twin.world import gpu as world_gpu
from twin.world import processor, thermal
from twin.world.fan import RPM, fan_array, spin

BOOST = {name: 0 if name in FANS else limit.maximum for name, limit in LIMITS.items()}
WARM = (70_000, 65_000, 40_000)
NODES = (69_500, 55_000, 64_500, 58_000, 39_800, 30_000)


@functools.cache
def shipped_foresight() -> Foresight:
    return Foresight(SCENARIO, LIMITS)


# --- against the world ------------------------------------------------------------------------------------------------


@dataclass
class Outcome:
    """What a machine went through whose every command was allowed by the look ahead, or was full cooling."""

    answers: Counter[bool]
    headroom_celsius: float
    model_error_celsius: float


def simplex(
    scenario: Scenario, proposal: Callable[[int, View], Mapping[str, int]], cycles: int, every: int = 1
) -> Outcome:
    """No shield and no baseline: what is proposed, or full cooling where the look ahead says no.

    Only each `every`-th cycle comes about; those between are missed.
    """
    backend = simulated(scenario)
    env, hardware, world = backend.env, backend.hardware, backend.world
    assert world is not None
    signals, foresight = Signals(scenario, hardware.sensors), Foresight(scenario, hardware.limits)
    safe = {name: limit.safe for name, limit in hardware.limits.items()}
    answers: Counter[bool] = Counter()
    error = -100.0
    period_ns = scenario.control.period_ms * 1_000_000
    for cycle in range(0, cycles, every):
        env.run(until=cycle * period_ns + 1)
        seen = signals.see(cycle, cycle * period_ns, Wake(0), hardware.read())
        command = proposal(cycle, seen)
        kept = foresight.keeps_limits(seen, command)
        answers[kept] += 1
        applied = hardware.apply(Command(command if kept else safe))
        signals.commanded(applied.values)
        true = list(world.true_temperatures_celsius.values())
        error = max([error, *(t - m / 1_000 for t, m in zip(true, seen.nodes_millicelsius, strict=False))])
    maxima = world.maxima_celsius
    room = min(sensor.limit_celsius - maxima[sensor.node] for sensor in scenario.machine.sensors)
    hardware.close()
    return Outcome(answers, room, error)


def hot_start(machine: Machine, kelvin: float) -> Machine:
    """Every node so much above the room: as after long work, and as the model has it that starts from the sensors."""
    start = machine.ambient_celsius + kelvin
    return replace(machine, nodes=tuple(replace(node, initial_celsius=start) for node in machine.nodes))


@st.composite
def machines(draw: st.DrawFn) -> Machine:
    """The default machine with other capacities, conductances, fans, steps, sensors and rooms."""
    base = SCENARIO.machine
    shrink, flow = draw(st.floats(0.1, 1.0)), draw(st.floats(0.6, 1.5))
    machine = replace(
        base,
        ambient_celsius=draw(st.floats(25.0, 48.0)),
        step_ms=draw(st.sampled_from([5, 20, 50])),
        nodes=tuple(
            Node(name=node.name, capacity_joules_per_kelvin=node.capacity_joules_per_kelvin * shrink)
            for node in base.nodes
        ),
        edges=tuple(
            replace(
                edge,
                forced_watts_per_kelvin=edge.forced_watts_per_kelvin * flow,
                exponent=draw(st.floats(0.4, 1.2)),
                natural_exponent=draw(st.sampled_from([0.0, 0.0, 0.25, 0.6])),
            )
            for edge in base.edges
        ),
        fans=tuple(replace(fan, lag_ms=draw(st.integers(100, 4_000))) for fan in base.fans),
        sensors=tuple(
            replace(sensor, limit_celsius=sensor.limit_celsius - draw(st.floats(0.0, 12.0))) for sensor in base.sensors
        ),
    )
    return hot_start(machine, draw(st.floats(0.0, 15.0)))


@st.composite
def loads(draw: st.DrawFn) -> Workload:
    """Full, partial, alternating faster than governors follow, in bursts, and frames."""
    phase = Phase(
        cpu_load=draw(st.sampled_from([1.0, 0.3, 0.0])),
        gpu_load=draw(st.sampled_from([1.0, 0.3, 0.0])),
        memory_share=draw(st.sampled_from([0.2, 1.0])),
        frames_per_second=draw(st.sampled_from([0, 30, 144])),
        frame_cpu_megacycles=draw(st.sampled_from([8.0, 60.0])),
        frame_gpu_megacycles=draw(st.sampled_from([6.0, 90.0])),
        duration_ms=120_000,
        burst_every_ms=draw(st.sampled_from([0, 40, 300, 5_000])),
        burst_ms=draw(st.sampled_from([20, 150, 2_500])),
        burst_cpu_load=1.0,
        burst_gpu_load=1.0,
    )
    other = replace(phase, cpu_load=1.0, gpu_load=1.0, duration_ms=draw(st.sampled_from([60, 700, 20_000])))
    return Workload(phases=(replace(phase, duration_ms=draw(st.sampled_from([40, 500, 30_000]))), other))


def commands(limits: Mapping[str, Limit]) -> st.SearchStrategy[dict[str, int]]:
    """Full power with the fans at their least, or anything else."""
    worst = {name: limit.minimum if name.endswith("_pwm") else limit.maximum for name, limit in limits.items()}
    return st.one_of(
        st.just(worst),
        st.fixed_dictionaries({name: st.integers(limit.minimum, limit.maximum) for name, limit in limits.items()}),
    )


def test_whoever_follows_it_keeps_every_limit() -> None:
    totals: Counter[bool] = Counter()
    headrooms: list[float] = []
    errors: list[float] = []

    @settings(max_examples=40)
    @given(machines(), loads(), st.lists(commands(LIMITS), min_size=1, max_size=4), st.sampled_from([50, 100, 300]))
    def follow(
        machine: Machine, workload: Workload, proposals: list[dict[str, int]], period_ms: int
    ) -> None:  # fmt: skip
        control = replace(SCENARIO.control, period_ms=period_ms)
        scenario = replace(SCENARIO, machine=machine, workload=workload, control=control, duration_ms=10**9)
        outcome = simplex(scenario, lambda cycle, _: proposals[cycle // 150 % len(proposals)], 40_000 // period_ms)
        totals.update(outcome.answers)
        # A machine that full cooling cannot hold was never allowed anything.
        if outcome.answers[True]:
            headrooms.append(outcome.headroom_celsius)
            errors.append(outcome.model_error_celsius)
            assert outcome.headroom_celsius >= 0.0, outcome

    follow()
    print(f"{totals[True]} times yes, {totals[False]} times no; least headroom {min(headrooms):.2f} K")
    print(f"the world was at most {max(errors):.2f} K warmer than the model")
    assert totals[True] > 1_000
    assert totals[False] > 1_000


def furnace(**phase: float) -> Scenario:
    """Full load in a room of 42 degrees."""
    work = Workload(phases=(Phase(cpu_load=1.0, gpu_load=1.0, memory_share=1.0, duration_ms=120_000),))
    work = replace(work, phases=(replace(work.phases[0], **phase),))
    machine = replace(shipped_scenario("idle").machine, ambient_celsius=42.0)
    return replace(shipped_scenario("idle"), machine=machine, workload=work, faults=())


@pytest.mark.parametrize("loads", [{}, {"gpu_load": 0.0}, {"cpu_load": 0.0}])
def test_in_the_furnace_it_says_both_and_lets_the_machine_come_near_its_limit(loads) -> None:
    """It is of use: it allows most of what can be allowed. And without it the limit is passed."""
    scenario = furnace(**loads)
    outcome = simplex(scenario, lambda *_: BOOST, 3_000)
    print(f"{loads}: {outcome}")
    assert outcome.answers[True] > 100
    assert outcome.answers[False] > 100
    assert 0.0 <= outcome.headroom_celsius < 12.0


def test_a_cycle_that_comes_a_period_late_is_early_enough() -> None:
    outcome = simplex(furnace(), lambda *_: BOOST, 3_000, every=2)
    assert outcome.answers[True] > 100
    assert outcome.answers[False] > 100
    assert outcome.headroom_celsius >= 0.0


@pytest.mark.parametrize("target", ["cpu_energy_microjoules", "gpu_power_microwatts"])
def test_without_a_measured_power_it_trusts_the_model_less(target) -> None:
    scenario = replace(furnace(), faults=(Fault(target=target, state="off", at_ms=0),))
    outcome = simplex(scenario, lambda *_: BOOST, 3_000)
    print(f"{target}: {outcome}")
    assert outcome.answers[True] > 0
    assert outcome.headroom_celsius >= 0.0


# --- the bound itself -------------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(
    machines(),
    st.floats(1.0, 60.0),
    st.sampled_from([20, 500]),
    st.tuples(*[st.floats(-5.0, 50.0)] * 5),
    st.tuples(*[st.floats(0.0, 1.0)] * 3),
    commands(LIMITS),
    st.sampled_from([100, 2_000]),
)
def test_no_node_is_ever_above_its_bound(machine, grown, step_ms, above, turning, command, period_ms) -> None:
    """The world's network and fans, exact, under the very heat that the bound reckons with; no margin helps."""
    machine = replace(
        machine,
        step_ms=step_ms,
        nodes=tuple(
            replace(node, capacity_joules_per_kelvin=node.capacity_joules_per_kelvin * grown) for node in machine.nodes
        ),
    )
    scenario = replace(SCENARIO, machine=machine, control=replace(SCENARIO.control, period_ms=period_ms))
    foresight = Foresight(scenario, LIMITS)
    room = round(machine.ambient_celsius * 1_000)
    nodes = (*(room + round(kelvin * 1_000) for kelvin in above), room)
    fans = fan_array(machine.fans, step_ms)
    fans[:, RPM] = [share * fan.max_rpm for share, fan in zip(turning, machine.fans, strict=True)]
    rpm = tuple(int(speed + 0.5) for speed in fans[:, RPM].tolist())
    foresight.keeps_limits(view((nodes[0], nodes[2], nodes[4]), nodes_millicelsius=nodes, fan_rpm=rpm), command)
    bound = foresight.peaks_millicelsius
    safe = {name: limit.safe for name, limit in LIMITS.items()}
    heats = [list(foresight.most_watts(each).values()) for each in (BOOST, command, safe)]

    network = thermal.Network(machine)
    lift = foresight.margin_millicelsius / 1_000
    deviation = np.array([node / 1_000 + lift for node in nodes[:5]])
    peaks = deviation.copy()
    integral = np.zeros(5)
    # One step as before; the proposal for a cycle, a late one, and the step in which the caps are not yet in force.
    hot = 1 + 2 * period_ms // step_ms + 1
    for step in range(hot + 3_000):
        packed, place = 0, 1
        for i, fan in enumerate(machine.fans):
            packed += round(fans[i, RPM] / fan.max_rpm * thermal.FAN_LEVELS) * place
            place *= thermal.FAN_LEVELS + 1
            spin(fans, i, command[f"{fan.name}_pwm"] if step < hot else 255)
        watts = np.array(heats[0 if step == 0 else 1 if step < hot else 2])
        propagator = network.propagator(packed)
        thermal.natural_heat(network.natural, deviation, watts, room / 1_000 + lift)
        thermal.advance(deviation, watts, integral, network.capacity, propagator, step_ms / 1_000, room / 1_000 + lift)
        peaks = np.maximum(peaks, deviation)
    for sensor, most in zip(machine.sensors, bound, strict=True):
        assert peaks[network.index(sensor.node)] * 1_000 <= most + 1, sensor.node


def test_the_proposed_fans_count_for_as_long_as_they_may_be_in_force() -> None:
    foresight = Foresight(replace(SCENARIO, control=replace(SCENARIO.control, period_ms=5_000)), LIMITS)
    seen = view((NODES[0], NODES[2], NODES[4]), nodes_millicelsius=NODES)
    peaks = []
    for pwm in (255, 60):
        foresight.keeps_limits(seen, {**BOOST, **dict.fromkeys(FANS, pwm)})
        peaks.append(foresight.peaks_millicelsius)
    assert all(slow > fast for slow, fast in zip(peaks[1][:2], peaks[0][:2], strict=True))


def test_the_bound_holds_for_ever() -> None:
    """A cold machine so heavy that it has hardly warmed up at the horizon is judged by where it comes to rest."""
    heavy = tuple(Node(name=node.name, capacity_joules_per_kelvin=1e8) for node in SCENARIO.machine.nodes)
    foresight = Foresight(replace(SCENARIO, machine=replace(SCENARIO.machine, nodes=heavy)), LIMITS)
    safe = {name: limit.safe for name, limit in LIMITS.items()}
    foresight.keeps_limits(view((30_000,) * 3, nodes_millicelsius=(30_000,) * 6), safe)
    watts = foresight.most_watts(safe)
    full = [edge.still_watts_per_kelvin + edge.forced_watts_per_kelvin for edge in SCENARIO.machine.edges]
    case = 30_000 + sum(watts.values()) / full[4] * 1_000
    gpu = case + watts["gpu_die"] * (1 / full[2] + 1 / full[3]) * 1_000
    assert foresight.peaks_millicelsius[2] >= case
    assert foresight.peaks_millicelsius[1] >= gpu


@pytest.mark.parametrize(("sensor", "place"), [("cpu", 0), ("gpu", 1)])
def test_a_sensor_that_nothing_checks_counts_as_late(sensor, place) -> None:
    foresight = shipped_foresight()
    seen = view((NODES[0], NODES[2], NODES[4]), nodes_millicelsius=NODES)
    foresight.keeps_limits(seen, BOOST)
    checked = foresight.peaks_millicelsius
    foresight.keeps_limits(seen._replace(unchecked=sensor), BOOST)
    # A reading lags and is held for a quarter of a second or more, in which a die may heat by a kelvin.
    assert foresight.peaks_millicelsius[place] >= checked[place] + 1_000


# --- its parts against the world's ------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.floats(0.0, 1.0), st.floats(0.0, 1.0)), min_size=2, max_size=60),
       st.integers(LIMITS["cpu_max_kilohertz"].minimum, LIMITS["cpu_max_kilohertz"].maximum),
       st.integers(LIMITS["gpu_power_limit_microwatts"].minimum, LIMITS["gpu_power_limit_microwatts"].maximum),
       st.floats(20.0, 90.0))  # fmt: skip
def test_no_sequence_of_loads_draws_more_than_the_most(sequence, clock, cap, celsius) -> None:
    """The world's own governors, step by step, under loads that change as they like."""
    machine = SCENARIO.machine
    most = shipped_foresight().most_watts({**BOOST, "cpu_max_kilohertz": clock, "gpu_power_limit_microwatts": cap})
    step_ns = 20_000_000
    constants = world_cpu.cpu_constants(machine.cpu, 20)
    table = processor.clock_table(machine.cpu.frequencies_kilohertz, machine.cpu.voltages_millivolt)
    state, counters = world_cpu.cpu_state(machine.cpu)
    gpu_constants = world_gpu.gpu_constants(machine.gpu, 20)
    gpu_table = processor.clock_table(machine.gpu.frequencies_kilohertz, machine.gpu.voltages_millivolt)
    gpu_state, gpu_counters = world_gpu.gpu_state(machine.gpu)
    for number, (load, frames) in enumerate(sequence, 1):
        integral, frame_ns = int(load * 1e6) * step_ns, int(frames * step_ns)
        watts = world_cpu.cpu_work(constants, table, state, counters, step_ns, integral, frame_ns, -1, celsius)
        assert watts <= most["cpu_die"]
        world_cpu.cpu_govern(constants, table, state, counters, clock, 10**9, celsius)
        now_ns = number * step_ns
        watts = world_gpu.gpu_work(
            gpu_constants, gpu_table, gpu_state, gpu_counters, now_ns, step_ns, integral, frame_ns, -1, celsius
        )
        assert watts <= most["gpu_die"]
        world_gpu.gpu_govern(gpu_constants, gpu_table, gpu_state, gpu_counters, cap, 1 << 62, celsius)


def test_the_most_is_what_the_world_draws_at_full_use() -> None:
    machine = SCENARIO.machine
    most = shipped_foresight().most_watts(BOOST)
    for node, constants, processor_, limit in (
        ("cpu_die", world_cpu.cpu_constants(machine.cpu, 20), machine.cpu, 95.0),
        ("gpu_die", world_gpu.gpu_constants(machine.gpu, 20), machine.gpu, 90.0),
    ):
        volts = processor_.voltages_millivolt[-1] / 1_000
        full = processor.watts_at(constants, float(processor_.frequencies_kilohertz[-1]), volts, 1.0, limit)
        assert most[node] == pytest.approx(full, rel=1e-12)
    assert most["case"] == machine.memory.full_watts


# --- what it must not know --------------------------------------------------------------------------------------------


def test_a_machine_that_is_warm_and_well_is_allowed_and_a_hot_one_is_not() -> None:
    foresight = shipped_foresight()
    assert foresight.keeps_limits(view(WARM, nodes_millicelsius=NODES), BOOST)
    assert not foresight.keeps_limits(view((93_000, *WARM[1:]), nodes_millicelsius=NODES), BOOST)


@pytest.mark.parametrize(
    "changes",
    [
        {"nodes_millicelsius": ()},
        {"worst_millicelsius": (None, *WARM[1:])},
        {"worst_millicelsius": (*WARM[:2], None)},
        {"fan_trouble": "cpu_fan turns at 0 rpm where 2000 are expected"},
        {"cpu_power_microwatts": 400_000_000},
        {"gpu_power_microwatts": 700_000_000},
    ],
)
def test_what_is_not_known_is_not_allowed(changes) -> None:
    seen = view(WARM, nodes_millicelsius=NODES)
    assert shipped_foresight().keeps_limits(seen, BOOST)
    assert not shipped_foresight().keeps_limits(seen._replace(**changes), BOOST)


def test_a_fan_that_shows_no_speed_counts_as_standing() -> None:
    foresight = shipped_foresight()
    cool = {**BOOST, **dict.fromkeys(FANS, 255)}
    peaks = []
    for rpm in ((2_200, 3_000, 1_400), (0, 0, 0), (None, None, None)):
        foresight.keeps_limits(view(WARM, nodes_millicelsius=NODES, fan_rpm=rpm), cool)
        peaks.append(foresight.peaks_millicelsius)
    assert peaks[1] == peaks[2]
    assert any(standing > turning for standing, turning in zip(peaks[1], peaks[0], strict=True))


def test_heat_that_cannot_leave_allows_nothing() -> None:
    machine = replace(SCENARIO.machine, edges=SCENARIO.machine.edges[:-1])
    foresight = Foresight(replace(SCENARIO, machine=machine), LIMITS)
    assert not foresight.keeps_limits(view(WARM, nodes_millicelsius=NODES), BOOST)


def test_the_view_shows_the_models_nodes_and_none_without_the_model() -> None:
    for check in (True, False):
        scenario = replace(furnace(), control=replace(SCENARIO.control, model_check=check))
        backend = simulated(scenario)
        signals = Signals(scenario, backend.hardware.sensors)
        signals.see(0, 0, Wake(0), backend.hardware.read())
        backend.env.run(until=100_000_001)
        # Power is known from the second cycle on.
        seen = signals.see(1, 100_000_000, Wake(0), backend.hardware.read())
        assert len(seen.nodes_millicelsius) == (len(scenario.machine.nodes) + 1 if check else 0)
        if check:
            places = {node.name: i for i, node in enumerate(scenario.machine.nodes)}
            for sensor, expected in zip(scenario.machine.sensors, seen.expected_millicelsius, strict=True):
                assert expected is not None
                assert 0 <= seen.nodes_millicelsius[places[sensor.node]] - expected <= 1


# --- monotone ---------------------------------------------------------------------------------------------------------

kelvins = st.integers(0, 20_000)


@given(
    st.tuples(*[st.integers(30_000, 90_000)] * 5, st.integers(10_000, 45_000)),
    st.tuples(*[st.integers(-2_000, 6_000)] * 3),
    st.tuples(*[kelvins] * 6),
    st.tuples(*[kelvins] * 3),
    st.tuples(*[st.integers(0, 3_500)] * 3),
    st.tuples(*[st.integers(0, 1_000)] * 3),
    commands(LIMITS),
    commands(LIMITS),
)
@settings(max_examples=300)
def test_hotter_slower_and_more_permissive_is_never_better(
    nodes, gaps, nodes_more, worst_more, rpm, less, first, second
) -> None:
    """Nodes as well as what is measured of them; a reading alone; a fan's speed; and every channel of the command."""
    foresight = shipped_foresight()
    at = [0, 2, 4]
    worst = tuple(nodes[place] + gap for place, gap in zip(at, gaps, strict=True))
    cool = {name: max(first[name], second[name]) if name in FANS else min(first[name], second[name]) for name in LIMITS}
    hot = {name: min(first[name], second[name]) if name in FANS else max(first[name], second[name]) for name in LIMITS}
    base = view(worst, nodes_millicelsius=nodes, fan_rpm=rpm)
    kept = foresight.keeps_limits(base, cool)
    peaks = foresight.peaks_millicelsius
    hotter = tuple(n + m for n, m in zip(nodes, nodes_more, strict=True))
    for seen, command in (
        (base._replace(worst_millicelsius=tuple(w + m for w, m in zip(worst, worst_more, strict=True))), cool),
        (base._replace(
            nodes_millicelsius=hotter,
            worst_millicelsius=tuple(w + nodes_more[p] for w, p in zip(worst, at, strict=True))), cool),
        (base._replace(fan_rpm=tuple(max(0, r - x) for r, x in zip(rpm, less, strict=True))), cool),
        (base, hot),
    ):  # fmt: skip
        now_kept = foresight.keeps_limits(seen, command)
        assert kept or not now_kept
        assert all(a >= b for a, b in zip(foresight.peaks_millicelsius, peaks, strict=True))


# --- the same bits ----------------------------------------------------------------------------------------------------

SESSION = """
import sys
from strategies import FANS, LIMITS, SCENARIO, view
from twin import kernels
from twin.control.foresight import Foresight
foresight = Foresight(SCENARIO, LIMITS)
draw = kernels.Stream(5, "test.foresight").between
print(kernels.MODE, file=sys.stderr)
for _ in range(60):
    nodes = tuple(draw(20_000, 92_000) for _ in range(5)) + (draw(10_000, 45_000),)
    seen = view((nodes[0] + draw(-500, 2_000), nodes[2], nodes[4]), nodes_millicelsius=nodes,
                fan_rpm=tuple(draw(0, 3_000) for _ in range(3)))
    command = {name: draw(limit.minimum, limit.maximum) for name, limit in LIMITS.items()}
    print(foresight.keeps_limits(seen, command), foresight.peaks_millicelsius, foresight._nodes.tobytes().hex())
"""


def test_compiled_and_interpreted_foresee_the_same_bits() -> None:
    printed = []
    modes = ["python"] if kernels.MODE == "python" else ["python", "numba"]
    for mode in modes:
        done = subprocess.run(
            [sys.executable, "-c", SESSION],
            env={
                **os.environ,
                "TWIN_KERNELS": mode,
                "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]),
            },
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stderr.split() == [mode]
        printed.append(done.stdout)
    assert len(set(printed)) == 1
    assert {line.split()[0] for line in printed[0].splitlines()} == {"True", "False"}


@pytest.mark.skipif(kernels.MODE != "numba", reason="kernels are not compiled here")
def test_the_compiled_look_ahead_allocates_nothing() -> None:
    from numba.core.runtime import _nrt_python, rtsys

    _nrt_python.memsys_enable_stats()
    foresight = shipped_foresight()
    seen = view(WARM, nodes_millicelsius=NODES)
    foresight.keeps_limits(seen, BOOST)
    before = rtsys.get_allocation_stats()
    for _ in range(100):
        foresight.keeps_limits(seen, BOOST)
    after = rtsys.get_allocation_stats()
    # The call itself makes a handle for each of the ten arrays, and drops it.
    assert after.alloc - before.alloc == after.mi_alloc - before.mi_alloc == 1_000
    assert after.free - before.free == 1_000
