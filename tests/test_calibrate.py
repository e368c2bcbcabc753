"""Fits of recordings that the world itself made: parameters recovered, intervals that hold, what must not matter."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pytest
from calibrating import machine, measured, record

from twin.calibrate.calibrated import calibrate
from twin.calibrate.errors import errors
from twin.calibrate.fit import Fit, fit
from twin.calibrate.recording import Recording, RecordingError
from twin.calibrate.validation import judge
from twin.kernels import MODE
from twin.scenario import Machine

pytestmark = pytest.mark.skipif(MODE != "numba", reason="interpreted kernels fit some hundred times slower")
NIGHTLY = os.environ.get("HYPOTHESIS_PROFILE") == "nightly"


def _truth(made: Machine) -> dict[str, float]:
    capacities = [node.capacity_joules_per_kelvin for node in made.nodes]
    found = {"ambient": made.ambient_celsius}
    for i, (capacity, edge) in enumerate(zip(capacities, made.edges, strict=True), 1):
        found[f"node{i}_resistance"] = 1.0 / edge.still_watts_per_kelvin
        found[f"node{i}_seconds"] = capacity / (edge.still_watts_per_kelvin + edge.forced_watts_per_kelvin)
    last = made.edges[-1]
    if last.fan is None:
        found["natural_exponent"] = last.natural_exponent
    else:
        found |= {"fan_conductance": last.forced_watts_per_kelvin, "fan_exponent": last.exponent}
    return found


def _assert_recovered(found: Fit, truth: dict[str, float]) -> None:
    values = found.values()
    assert {name: values[name] for name in truth} == pytest.approx(truth, rel=0.02)


@pytest.mark.parametrize(
    ("capacities", "resistances"),
    [((12.0, 300.0), (0.4, 0.5)), ((5.0, 60.0, 900.0), (0.3, 0.4, 0.25))],
    ids=["two nodes", "three nodes"],
)
def test_without_noise_the_parameters_are_recovered(
    capacities: tuple[float, ...], resistances: tuple[float, ...]
) -> None:
    made = machine(capacities=capacities, resistances=resistances)
    found = fit([record(made, 1)], "cpu")
    assert found.shape.nodes == len(capacities)
    assert not found.shape.lag
    _assert_recovered(found, _truth(made))
    assert found.lead_seconds == 0.0


def test_without_noise_the_law_of_a_fan_is_recovered() -> None:
    made = machine(fan=True)
    found = fit([record(made, 3, pwm=lambda sample: (0, 60, 90, 140, 255, 40, 200)[sample // 200 % 7])], "cpu")
    assert found.shape.fan
    _assert_recovered(found, _truth(made))


def test_without_noise_powers_are_recovered_from_load_alone() -> None:
    # Only where the room is known: an idle power and a warmer room are the same to a sensor.
    made = machine()
    found = fit([record(made, 4, drive="load", low=0.0, high=1.0)], "cpu", full_watts=40.0, room_celsius=22.0)
    truth = _truth(made) | {"idle_watts": 12.0, "leakage_watts": 6.0, "leakage_per_kelvin": 0.012, "voltage_bend": 0.9}
    _assert_recovered(found, truth)


def test_with_noise_the_intervals_hold_the_parameters() -> None:
    made = machine(noise_millicelsius=800, quantum_millicelsius=500)
    truth = _truth(made)
    held = []
    for seed in range(60 if NIGHTLY else 8):
        found = fit([record(made, 1_000 + seed)], "cpu", most_nodes=2)
        held += [each.low <= truth[each.name] <= each.high for each in found.parameters if each.name in truth]
    # Those of one fit hang together, so a few fits may miss several at once.
    assert np.mean(held) >= (0.92 if NIGHTLY else 0.85), np.mean(held)


@pytest.fixture(scope="module")
def noisy() -> Recording:
    return record(machine(noise_millicelsius=300, quantum_millicelsius=250), 7, seconds=1_500)


def test_gaps_and_outliers_change_little(noisy: Recording) -> None:
    whole = fit([noisy], "cpu", most_nodes=2).values()
    celsius = noisy.temperatures_celsius.copy()
    celsius[100:900:37] += 25.0
    celsius[50:70] = np.nan
    celsius[400] = 3_000.0
    keep = np.ones(len(celsius), dtype=bool)
    keep[600:700] = False
    assert noisy.powers_watts is not None
    hurt = Recording(
        name="hurt",
        times_seconds=noisy.times_seconds[keep],
        temperatures_celsius=celsius[keep],
        powers_watts=noisy.powers_watts[keep],
    )
    values = fit([hurt], "cpu", most_nodes=2).values()
    for name in ("node1_resistance", "node2_resistance", "node1_seconds", "node2_seconds"):
        assert values[name] == pytest.approx(whole[name], rel=0.12), name


def test_several_recordings_of_one_machine_in_different_rooms(noisy: Recording) -> None:
    made = machine(noise_millicelsius=300, quantum_millicelsius=250)
    others = [record(replace(made, ambient_celsius=room), seed, 900) for seed, room in ((11, 18.0), (12, 27.0))]
    found = calibrate([measured(each) for each in others], "cpu", holdout=0.0)
    assert found.file.origin.unseen is None
    rooms = [each.value for each in found.file.origin.parameters if each.name == "ambient"]
    assert rooms[1] - rooms[0] == pytest.approx(9.0, abs=0.5)
    free = judge(found.file.machine, found.file.origin, measured(noisy), ambient="free")
    assert free.ambient_celsius == pytest.approx(22.0, abs=1.5)
    assert free.errors.rmse_celsius < 0.3


def test_a_recorder_that_reads_late_is_noticed() -> None:
    recording = record(machine(), 5, seconds=1_200)
    assert recording.powers_watts is not None
    late = replace(recording, powers_watts=np.append(recording.powers_watts[0], recording.powers_watts[:-1]))
    found = fit([late], "cpu", most_nodes=2)
    assert found.lead_seconds == 1.0


def test_constant_input_is_told_apart_from_what_it_can_tell() -> None:
    count = 600
    dull = Recording(
        name="dull",
        times_seconds=np.arange(count) * 1.0,
        temperatures_celsius=np.full(count, 45.0),
        powers_watts=np.full(count, 20.0),
    )
    found = fit([dull], "cpu")
    unknown = {each.name for each in found.parameters if each.unknown}
    assert {"node1_seconds", "natural_exponent"} <= unknown


def test_what_cannot_be_fitted_is_refused() -> None:
    times = np.arange(100) * 1.0
    with pytest.raises(RecordingError, match="30 are needed"):
        Recording(name="short", times_seconds=times[:20], temperatures_celsius=np.full(20, 40.0))
    with pytest.raises(RecordingError, match="empty"):
        Recording(name="empty", times_seconds=times[:0], temperatures_celsius=times[:0])
    with pytest.raises(RecordingError, match="sample 5"):
        Recording(name="back", times_seconds=np.array([0.0, 1, 2, 3, 4, 2, 6]), temperatures_celsius=np.zeros(7))
    with pytest.raises(RecordingError, match="30 are needed"):
        Recording(name="kelvin", times_seconds=times, temperatures_celsius=np.full(100, 320.0))
    with pytest.raises(RecordingError, match="no recording"):
        fit([], "cpu")


def test_errors_of_a_run() -> None:
    judged = errors(np.array([1.0, 2.0, 3.0, 9.0]), np.array([1.0, 1.0, 5.0, np.nan]))
    assert judged.samples == 3
    assert judged.rmse_celsius == pytest.approx((5.0 / 3.0) ** 0.5)
    assert (judged.max_error_celsius, judged.mae_celsius) == (2.0, 1.0)
    assert judged.bias_celsius == pytest.approx(-1.0 / 3.0)
