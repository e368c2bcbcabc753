"""What is fitted is what is run: the chain of a fit, written as a machine and run by the world, shows the same."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from calibrating import measured, steps
from hypothesis import given, settings
from hypothesis import strategies as st

from twin.calibrate import solve
from twin.calibrate.fit import Fit
from twin.calibrate.freerun import coarse_step_ms, free_run, started
from twin.calibrate.machine import machine
from twin.calibrate.parameters import Kind, Shape, chain, outline, parameters
from twin.calibrate.power import fit_power
from twin.calibrate.recording import Recording
from twin.kernels import MODE
from twin.machines import Origin

pytestmark = pytest.mark.skipif(MODE != "numba", reason="interpreted kernels run some hundred times slower")
COUNT = 400


@st.composite
def shapes(draw: st.DrawFn) -> Shape:
    fan = draw(st.booleans())
    return Shape(
        nodes=draw(st.integers(1, 4)),
        driven=draw(st.sampled_from(["power", "load", "nothing"])),
        fan=fan,
        lag=draw(st.booleans()),
        natural=not fan,
    )


def recording(shape: Shape, seed: int) -> Recording:
    drive = steps(seed, COUNT, 0.0, 1.0, 60)
    return Recording(
        name="made",
        times_seconds=np.arange(COUNT) * 1.0,
        temperatures_celsius=np.full(COUNT, 40.0),
        loads=drive if shape.driven != "nothing" else None,
        powers_watts=5.0 + 40.0 * drive if shape.driven == "power" else None,
        fan_rpm=np.round(steps(seed + 1, COUNT, -300.0, 2_000.0, 60).clip(0.0)) if shape.fan else None,
    )


def fitted(shape: Shape, made: Recording, kind: Kind, lead: float, where: list[float]) -> Fit:
    """A fit that ended at a point that far from what is expected, in standard deviations."""
    full = 40.0
    look = replace(outline([made], kind, shape.driven, full, None), resistance=0.5, first_celsius=(40.0,))
    found = parameters(shape, look, 0.1)
    top = 0.0 if made.fan_rpm is None else float(np.max(made.fan_rpm))
    problem = solve.problem_of(shape, look, [made], found, lead, top, [made.believable()])
    point = np.array([
        np.clip(p.mean + p.spread * where[place % len(where)] * (0.3 if p.log else 0.7), p.low, p.high)
        for place, p in enumerate(found)
    ])  # fmt: skip
    power = fit_power([made], [made.believable()]) if shape.driven == "power" else None
    return Fit(
        kind=kind, shape=shape, look=look, lead_seconds=lead, max_rpm=top, parameters=(), together=(),
        foretold_celsius={}, noise_celsius=0.1, quantum_celsius=0.001, sample_seconds=1.0, point=point, problem=problem,
        power=power, stretches=("made",),
    )  # fmt: skip


@settings(max_examples=25 if settings.default.max_examples <= 60 else 500)
@given(
    shapes(),
    st.sampled_from(["cpu", "gpu", "board", "laptop"]),
    st.sampled_from([-1.0, 0.0, 1.0]),
    st.integers(0, 1_000),
    st.lists(st.floats(-1.0, 1.0), min_size=7, max_size=7),
)
def test_the_world_shows_what_the_fit_says(
    shape: Shape, kind: Kind, lead: float, seed: int, where: list[float]
) -> None:
    made = recording(shape, seed)
    fit = fitted(shape, made, kind, lead, where)
    origin = Origin(kind=kind, driven=shape.driven, lead_seconds=lead)
    written = machine(fit, "made")
    both = measured(made, "gpu" if kind == "gpu" else "cpu")
    begin = started(written, origin, both)
    run = free_run(written, origin, both, step_ms=50).celsius[written.sensors[0].name]
    # Leads are whole intervals: of a part of one the chain takes the mean, and a fast die would tell the difference.
    # From the same start: which temperatures hidden nodes begin with is not the matter here.
    own = chain(shape, fit.values(), fit.look.full_watts, 40.0)
    start = np.array([node.initial_celsius for node in begin.nodes[: shape.nodes]])
    shown = np.zeros(COUNT)
    solve.run(shape.nodes, own.numbers, own.ambient, start, fit.problem.drives[0], shown)
    apart = run - shown
    assert float(np.sqrt(np.mean(apart * apart))) < 0.1


@settings(max_examples=3 if settings.default.max_examples <= 60 else 100, deadline=None)
@given(
    shapes(), st.sampled_from([5.0, 20.0, 60.0]), st.booleans(), st.lists(st.floats(-1.0, 1.0), min_size=7, max_size=7)
)
def test_a_longer_step_of_the_world_shows_the_same(
    shape: Shape, interval: float, jitter: bool, where: list[float]
) -> None:
    made = recording(shape, 1)
    times = np.arange(COUNT) * interval + (np.arange(COUNT) * 7 % 10 * 0.013 if jitter else 0.0)
    made = replace(made, times_seconds=times).between(0, 40, "made")
    origin = Origin(kind="cpu", driven=shape.driven)
    written = machine(fitted(shape, made, "cpu", 0.0, where), "made")
    assert coarse_step_ms(written, origin, made) >= 20
    fast, exact = (
        free_run(written, origin, measured(made), step_ms=step).celsius[written.sensors[0].name] for step in (None, 20)
    )
    np.testing.assert_allclose(fast, exact, atol=0.05)
