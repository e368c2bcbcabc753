"""Fits of recordings that the world itself made: parameters recovered, intervals that hold, what must not matter."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from calibrating import machine, measured, record, steps
from profiles import NIGHTLY

from twin.calibrate import forward
from twin.calibrate.calibrated import calibrate
from twin.calibrate.errors import errors
from twin.calibrate.fit import Fit, fit
from twin.calibrate.recording import Recording, RecordingError
from twin.calibrate.validation import judge
from twin.kernels import MODE, Stream
from twin.scenario import Machine, Node

pytestmark = pytest.mark.skipif(MODE != "numba", reason="interpreted kernels fit some hundred times slower")


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
    for seed in range(60 if NIGHTLY else 3):
        found = fit([record(made, 1_000 + seed)], "cpu", most_nodes=2)
        held += [each.low <= truth[each.name] <= each.high for each in found.parameters if each.name in truth]
    # Those of one fit hang together, so a few fits may miss several at once.
    assert np.mean(held) >= (0.95 if NIGHTLY else 0.85), np.mean(held)


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


def test_a_meter_that_is_a_second_late_is_noticed_however_often_it_is_read() -> None:
    recording = record(machine(capacities=(1.0, 300.0)), 6, seconds=240, interval_seconds=0.2)
    assert recording.powers_watts is not None
    watts = np.append(np.full(5, recording.powers_watts[0]), recording.powers_watts[:-5])
    assert fit([replace(recording, powers_watts=watts)], "cpu", most_nodes=2).lead_seconds == 1.0


def test_intervals_that_all_differ_are_steps_of_few_lengths() -> None:
    stream = Stream(1, "jitter")
    times = np.arange(400) + np.array([0, *(stream.below(2_000) for _ in range(399))]) / 1e4
    made = Recording("jitter", times, np.full(400, 40.0), powers_watts=np.full(400, 20.0))
    drive = forward.drive(made, 0.0, 0.0)
    assert len(drive.kinds) <= 12
    assert np.cumsum(drive.kinds[drive.kind_of, 0]) == pytest.approx(times[1:], abs=0.026)


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


def fanned(seed: int, stopping: bool) -> Recording:
    """A cooler R = 0.951 (rpm / 1500)^-0.58 K/W with 219 J/K, or a laptop whose fan stops, as a logger has them.

    Temperatures are in whole degrees, speeds shake, and one cell in twenty is missing.
    """
    count, k = 2_400, 0.0
    cut = int(0.6 * count)
    stream = Stream(seed, "fanned")
    watts = np.append(steps(seed, cut, 15.0, 39.0), steps(seed + 1, count - cut, 39.0, 51.0))
    celsius, rpm = np.zeros(count), np.zeros(count)
    now, speed = 45.0, 800.0
    for i in range(count):
        wanted = min(2_000.0, max(600.0, 600.0 + 35.0 * (now - 35.0)))
        if stopping:
            wanted = 0.0 if now < (46.0 if speed > 300.0 else 52.0) else 700.0 + 40.0 * (now - 46.0)
        speed += 0.3 * (wanted - speed)
        if wanted == 0.0 and speed < 300.0:
            speed = 0.0
        rpm[i] = speed
        for _ in range(10):
            k = (speed / 1_500.0) ** 0.58 / 0.951 + (0.4 if stopping else 0.0)
            now += 0.1 * (watts[i] - (now - 23.0) * k) / 219.0
        celsius[i] = now
    shaken = np.array([0.0 if v == 0.0 else v + stream.below(81) - 40 for v in rpm])
    shaken[[i for i in range(1, count) if stream.below(20) == 0]] = np.nan
    return Recording("fanned", np.arange(count) * 1.0, np.round(celsius), powers_watts=watts, fan_rpm=np.round(shaken))


@pytest.mark.parametrize("stopping", [False, True], ids=["desktop", "stopping fan"])
def test_a_fan_foretells_powers_never_seen(stopping: bool) -> None:
    found = calibrate([measured(fanned(1, stopping))], "cpu", most_nodes=2)
    assert found.judgements[0].errors.rmse_celsius < 1.2
    assert found.judgements[0].errors.max_error_celsius < 3.0


def test_the_sensor_is_found() -> None:
    made = machine(noise_millicelsius=800, quantum_millicelsius=500)
    sensor = calibrate([measured(record(made, 8, seconds=1_500))], "cpu", most_nodes=2).file.machine.sensors[0]
    assert (sensor.quantum_millicelsius, sensor.offset_millicelsius, sensor.lag_ms) == (500, 250, 0)
    assert sensor.noise_millicelsius == pytest.approx(800, rel=0.1)


def test_the_lag_of_a_sensor_is_found() -> None:
    made = machine()
    made = replace(made, sensors=(replace(made.sensors[0], lag_ms=8_000),))
    # The die takes 4.8 s: of two lags in a row, and of a delay, a sensor tells the sum.
    found = calibrate([measured(record(made, 9, seconds=1_500))], "cpu", most_nodes=2)
    lag, origin = found.file.machine.sensors[0].lag_ms / 1e3, found.file.origin
    assert lag > 0.0
    die = next(each.value for each in origin.parameters if each.name == "node1_seconds")
    assert lag + die - origin.lead_seconds == pytest.approx(12.8, rel=0.1)
    assert next(each.unknown for each in origin.parameters if each.name == "sensor_lag")
    assert found.judgements[0].errors.rmse_celsius < 0.2


def test_hidden_nodes_start_where_the_fit_found_them() -> None:
    recording = record(replace(machine(), nodes=_warm(machine())), 10, seconds=900)
    found = calibrate([measured(recording)], "cpu", most_nodes=2).file
    (start,) = found.origin.starts
    assert start.celsius == pytest.approx((30.0, 60.0), abs=0.5)
    before, after = (
        judge(found.machine, origin, measured(recording)).errors.rmse_celsius
        for origin in (replace(found.origin, starts=()), found.origin)
    )
    assert after < 0.05 < before
    other = replace(recording, name="another")
    assert judge(found.machine, found.origin, measured(other)).errors.rmse_celsius == before


def _warm(made: Machine) -> tuple[Node, ...]:
    return tuple(replace(node, initial_celsius=c) for node, c in zip(made.nodes, (30.0, 60.0), strict=True))


def test_a_gap_in_a_recording_with_load_and_power() -> None:
    whole = record(machine(), 12, seconds=600)
    late = whole.times_seconds + np.where(whole.times_seconds < 300.0, 0.0, 4_000.0)
    assert whole.powers_watts is not None
    # The load goes its own way, so that the pause is a gap.
    loads = np.roll(whole.powers_watts, 3) / 80.0
    gap = replace(whole, times_seconds=late, loads=loads)
    found = calibrate([measured(gap)], "cpu", most_nodes=2).file.origin
    assert {each.recording for each in found.starts} == {gap.name, f"{gap.name} from 4300 s"}
