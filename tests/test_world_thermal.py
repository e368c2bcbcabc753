"""The thermal network against closed forms, hand solutions, SciPy's matrix exponential and the first law."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import expm
from world_cases import FULL_FANS, Run, one_node, scenario

from twin.kernels import natural_share
from twin.scenario import AmbientStep, Edge, Fan, Machine, Node
from twin.world.thermal import CACHE_LIMIT, FAN_LEVELS, Network, propagate


def test_one_node_follows_the_exponential() -> None:
    run = Run(scenario(one_node(2.0, 50.0)))
    for second in (1, 5, 20, 100):
        run.after_events(second)
        expected = 24.0 + 15.0 / 2.0 * (1.0 - math.exp(-2.0 / 50.0 * second))
        assert run.world.true_temperatures_celsius["lump"] == pytest.approx(expected, rel=1e-12)
    assert run.world.maxima_celsius == run.world.true_temperatures_celsius


def test_a_chain_settles_where_the_hand_puts_it() -> None:
    machine = replace(
        one_node(),
        memory=replace(one_node().memory, node="sink"),
        nodes=(
            Node(name="lump", capacity_joules_per_kelvin=20.0, initial_celsius=90.0),
            Node(name="sink", capacity_joules_per_kelvin=80.0, initial_celsius=10.0),
        ),
        edges=(
            Edge(a="lump", b="sink", still_watts_per_kelvin=4.0),
            Edge(a="ambient", b="sink", still_watts_per_kelvin=1.5),
        ),
    )
    run = Run(scenario(machine)).until(3_000)
    sink = 24.0 + 15.0 / 1.5
    assert run.world.true_temperatures_celsius == pytest.approx({"sink": sink, "lump": sink + 10.0 / 4.0}, rel=1e-9)
    assert run.world.maxima_celsius["lump"] == 90.0


def test_ambient_steps_and_initial_temperatures() -> None:
    steps = (AmbientStep(at_ms=2_000_000, celsius=-5.0), AmbientStep(at_ms=1_000_000, celsius=40.0))
    run = Run(scenario(one_node(ambient_steps=steps)))
    assert run.world.true_temperatures_celsius == {"lump": 24.0}
    assert run.until(1_000).world.true_temperatures_celsius["lump"] == pytest.approx(31.5)
    assert run.until(2_000).world.true_temperatures_celsius["lump"] == pytest.approx(47.5)
    assert run.until(3_000).world.true_temperatures_celsius["lump"] == pytest.approx(2.5)
    assert run.values()["cpu_temp_millicelsius"] == 2_000


def test_negative_temperatures_are_floored_like_positive_ones() -> None:
    machine = one_node(ambient_steps=(AmbientStep(at_ms=0, celsius=-20.3 - 7.5),))
    run = Run(scenario(machine)).until(600)
    assert run.values()["cpu_temp_millicelsius"] == -21_000


@st.composite
def _machines(draw: st.DrawFn) -> Machine:
    count = draw(st.integers(1, 6))
    names = [f"n{i}" for i in range(count)]
    number = st.floats(0.0, 50.0)
    fans = (Fan(name="blower", initial_pwm=draw(st.integers(0, 255))),)
    nodes = tuple(
        Node(name=name, capacity_joules_per_kelvin=draw(st.floats(0.5, 2_000.0)), initial_celsius=draw(
            st.none() | st.floats(0.0, 90.0))) for name in names
    )  # fmt: skip
    edges = tuple(
        Edge(
            a=draw(st.sampled_from(names)),
            b=draw(st.sampled_from([*names, "ambient"])),
            still_watts_per_kelvin=draw(number),
            forced_watts_per_kelvin=draw(number),
            fan=draw(st.sampled_from([None, "blower"])),
        )
        for _ in range(draw(st.integers(1, 10)))
    )
    machine = Machine()
    return replace(
        machine,
        step_ms=draw(st.sampled_from([1, 20, 100, 1_000])),
        ambient_steps=(AmbientStep(at_ms=draw(st.integers(0, 3_000)), celsius=draw(st.floats(-20.0, 60.0))),),
        cpu=replace(machine.cpu, node=draw(st.sampled_from(names))),
        gpu=replace(machine.gpu, node=draw(st.sampled_from(names))),
        memory=replace(machine.memory, node=draw(st.sampled_from(names))),
        sensors=(replace(machine.sensors[0], node=names[0]),),
        fans=fans,
        nodes=nodes,
        edges=edges,
    )


@settings(max_examples=60, deadline=None)
@given(machine=_machines(), load=st.floats(0.0, 1.0), pwm=st.integers(0, 255))
def test_heat_in_is_heat_stored_and_heat_out(machine: Machine, load: float, pwm: int) -> None:
    run = Run(scenario(machine, cpu_load=load, gpu_load=load, frames_per_second=30)).until(2)
    run.command(blower_pwm=pwm).until(5)
    world = run.world
    missing = world.heat_in_joules - world.heat_stored_joules - world.heat_out_joules
    turnover = world.heat_in_joules + abs(world.heat_stored_joules) + abs(world.heat_out_joules)
    assert world.heat_in_joules > 0.0
    assert abs(missing) <= 1e-9 * world.heat_in_joules + 1e-12 * turnover


def test_the_default_machine_keeps_its_balance_for_long() -> None:
    world = Run(scenario(cpu_load=0.7, gpu_load=0.5)).until(1_000).world
    missing = world.heat_in_joules - world.heat_stored_joules - world.heat_out_joules
    assert abs(missing) <= 1e-9 * world.heat_in_joules


@pytest.mark.parametrize("h", [0.001, 0.02, 1.0, 30.0])
def test_propagators_agree_with_expm(h: float) -> None:
    random = np.random.default_rng(3)
    for n in (1, 2, 5, 8):
        g = random.uniform(0.0, 3.0, (n, n))
        g = g + g.T
        laplacian = np.diag(g.sum(axis=1) + 0.5) - g
        a = -laplacian / random.uniform(2.0, 200.0, n)[:, None]
        e, f, f2 = np.zeros((n, n)), np.zeros((n, n)), np.zeros((n, n))
        propagate(a, h, e, f, f2)
        whole = np.zeros((3 * n, 3 * n))
        whole[:n, :n] = a
        whole[:n, n : 2 * n] = np.eye(n)
        whole[n : 2 * n, 2 * n :] = np.eye(n)
        exact = expm(whole * h)
        np.testing.assert_allclose(e, expm(a * h), rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose(f, exact[:n, n : 2 * n], rtol=1e-12, atol=1e-15 * h)
        np.testing.assert_allclose(f2, exact[:n, 2 * n :], rtol=1e-12, atol=1e-15 * h * h)


def test_fans_change_conductances_by_their_law() -> None:
    network = Network(Machine())
    edge = Machine().edges[1]
    n = len(network.names)
    sink, case = network.index("cpu_sink"), network.index("case")
    still = network.propagator(0)[2 * n + sink, case]
    half = network.propagator(FAN_LEVELS // 2)[2 * n + sink, case]
    assert still == pytest.approx(-edge.still_watts_per_kelvin)
    assert half == pytest.approx(
        -edge.still_watts_per_kelvin - edge.forced_watts_per_kelvin * 0.5**edge.exponent, rel=1e-12
    )


def test_the_cache_is_bounded() -> None:
    network = Network(Machine())
    first = network.propagator(0)
    assert network.propagator(0) is first
    for speeds in range(1, CACHE_LIMIT + 1):
        network.propagator(speeds)
    assert network.propagator(0) is not first
    assert len(network._cache) == CACHE_LIMIT


@pytest.mark.parametrize(
    ("edge", "message"),
    [
        (Edge(a="lump", b="nowhere", still_watts_per_kelvin=1.0), "'nowhere'; the machine has: lump"),
        (Edge(a="lump", b="ambient", fan="blower", still_watts_per_kelvin=1.0), "'blower'; the machine has: none"),
        (Edge(a="lump", b="ambient", still_watts_per_kelvin=1e12), "too little for steps of 20 ms"),
    ],
)
def test_networks_that_do_not_fit_together_are_refused(edge: Edge, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Run(scenario(replace(one_node(), edges=(edge,))))


def test_the_default_machine_has_sensible_temperatures() -> None:
    full = {"cpu_load": 1.0, "gpu_load": 1.0}
    hot = Run(scenario(**full)).command(**FULL_FANS).until(1_500).world.true_temperatures_celsius
    assert 70.0 < hot["cpu_die"] < 90.0
    assert 68.0 < hot["gpu_die"] < 85.0
    safe = Run(scenario(**full))
    safe.command(**{limit.name: limit.safe for limit in safe.wiring.outputs})
    cool = safe.until(1_500).world.true_temperatures_celsius
    for sensor in Machine().sensors:
        assert cool[sensor.node] < sensor.limit_celsius - 20.0
    idle = Run(scenario(cpu_load=0.03)).command(**dict.fromkeys(FULL_FANS, 60)).until(1_500)
    assert 29.0 < idle.world.true_temperatures_celsius["cpu_die"] < 45.0


def test_natural_conductance_rises_with_the_difference_and_has_bounds() -> None:
    for kelvin, expected in ((30.0, 1.0), (-30.0, 1.0), (60.0, 2.0**0.25), (0.1, 6.0**-0.25), (500.0, 4.0**0.25)):
        assert natural_share(kelvin, 0.25) == pytest.approx(expected, rel=1e-12)


def test_a_natural_edge_settles_where_its_law_says_and_conserves_heat() -> None:
    machine = one_node(0.5, 50.0)
    machine = replace(machine, edges=(replace(machine.edges[0], natural_exponent=0.25),))
    run = Run(scenario(machine)).until(3_000)
    # G (D/30)^0.25 D = P, so D = 30 (P / (30 G))^(1/1.25).
    above = 30.0 * (15.0 / (30.0 * 0.5)) ** (1.0 / 1.25)
    world = run.world
    assert world.true_temperatures_celsius["lump"] == pytest.approx(24.0 + above, rel=1e-6)
    assert world.heat_in_joules == pytest.approx(world.heat_out_joules + world.heat_stored_joules, rel=1e-9)


def test_natural_edges_between_nodes_conserve_heat() -> None:
    machine = replace(
        one_node(),
        nodes=(
            Node(name="lump", capacity_joules_per_kelvin=20.0, initial_celsius=90.0),
            Node(name="sink", capacity_joules_per_kelvin=80.0, initial_celsius=10.0),
        ),
        edges=(
            Edge(a="sink", b="lump", still_watts_per_kelvin=1.0, natural_exponent=0.5),
            Edge(a="ambient", b="sink", still_watts_per_kelvin=0.2, natural_exponent=0.25),
        ),
    )
    world = Run(scenario(machine)).until(500).world
    assert world.heat_in_joules == pytest.approx(world.heat_out_joules + world.heat_stored_joules, rel=1e-9)
    warm, cool = world.true_temperatures_celsius["lump"], world.true_temperatures_celsius["sink"]
    assert warm > cool > 24.0
