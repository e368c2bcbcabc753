"""Phases, bursts, recordings, and the frame pipeline."""

from __future__ import annotations

import gzip
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from world_cases import FULL_FANS, Run, scenario

from hardware.interface import Status
from twin.scenario import Machine, Phase, Scenario, Trace, Workload
from twin.timing import MILLISECOND_NS, SECOND_NS
from twin.world import TraceError, TraceTable, load_trace
from twin.world.workload import phase_timeline

MACHINE = Machine()
UNLIMITED = replace(
    MACHINE,
    cpu=replace(MACHINE.cpu, pl1_watts=900.0, pl2_watts=900.0),
    gpu=replace(MACHINE.gpu, power_limit_watts=900.0),
)


# --- phases -----------------------------------------------------------------------------------------------------------


def _changes(count: int, repeat: bool, *phases: Phase) -> list[tuple[int, int, str | None]]:
    timeline = phase_timeline(Workload(phases=phases, repeat=repeat))
    return [
        (change.at_ns // MILLISECOND_NS, change.demand.cpu_ppm, change.begins.name if change.begins else None)
        for change in islice(timeline, count)
    ]


def test_phases_follow_each_other_and_repeat_or_stay() -> None:
    a = Phase(name="a", duration_ms=100, cpu_load=0.1)
    b = Phase(name="b", duration_ms=50, cpu_load=0.2)
    assert _changes(4, True, a, b) == [(0, 100_000, "a"), (100, 200_000, "b"), (150, 100_000, "a"), (250, 200_000, "b")]
    assert _changes(4, False, a, b) == [(0, 100_000, "a"), (100, 200_000, "b")]
    assert _changes(9, False, a, a) == [(0, 100_000, "a"), (100, 100_000, "a")]


def test_bursts_come_on_time_end_with_their_phase_and_add_up_to_full() -> None:
    a = Phase(name="a", duration_ms=250, cpu_load=0.5, burst_every_ms=100, burst_ms=60, burst_cpu_load=0.9)
    b = Phase(name="b", duration_ms=50, cpu_load=0.2, burst_every_ms=10, burst_ms=20, burst_cpu_load=0.1)
    assert _changes(8, True, a, b) == [
        (0, 1_000_000, "a"), (60, 500_000, None), (100, 1_000_000, None), (160, 500_000, None), (200, 1_000_000, None),
        (250, 300_000, "b"), (300, 1_000_000, "a"), (360, 500_000, None),
    ]  # fmt: skip


@given(
    every=st.integers(0, 300), burst=st.integers(0, 300), duration=st.integers(1, 1_000), repeat=st.booleans(),
    load=st.floats(0.0, 1.0), more=st.floats(0.0, 1.0),
)  # fmt: skip
def test_timelines_never_go_back_and_loads_are_shares(
    every: int, burst: int, duration: int, repeat: bool, load: float, more: float
) -> None:
    phase = Phase(burst_every_ms=every, burst_ms=burst, duration_ms=duration, cpu_load=load, burst_cpu_load=more)
    changes = list(islice(phase_timeline(Workload(phases=(phase, phase), repeat=repeat)), 50))
    times = [change.at_ns for change in changes]
    assert times == sorted(times)
    assert len(set(times)) == len(times)
    assert all(0 <= change.demand.cpu_ppm <= 1_000_000 for change in changes)


def test_application_channels_and_memory_follow_the_phase() -> None:
    phases = (
        Phase(duration_ms=1_000, state="loading", words_per_second=1_000, memory_share=0.25),
        Phase(
            duration_ms=1_000, state="combat", words_per_second=2_000, memory_share=0.5, burst_every_ms=500,
            burst_ms=100, burst_words_per_second=300,
        ),
    )  # fmt: skip
    run = Run(Scenario(workload=Workload(phases=phases)))
    seen = [run.after_events(second).values() for second in (0.0, 0.999, 1.0, 1.1, 2.0)]
    assert [values["game_state_code"] for values in seen] == [1, 1, 3, 3, 1]
    assert [values["words_offered_per_second"] for values in seen] == [1_000, 1_000, 2_300, 2_000, 1_000]
    total = MACHINE.memory.total_kibibytes
    assert [values["memory_available_kibibytes"] for values in seen] == [
        total * 3 // 4, total * 3 // 4, total // 2, total // 2, total * 3 // 4,
    ]  # fmt: skip


# --- frames -----------------------------------------------------------------------------------------------------------


def _frames(machine: Machine = UNLIMITED, **phase: Any) -> Run:
    phase = {"frame_jitter": 0.0, "cpu_load": 0.0, "frames_per_second": 1_000} | phase
    return Run(scenario(machine, **phase)).command(**FULL_FANS)


def test_frames_bound_by_the_rate() -> None:
    run = _frames(frames_per_second=60, frame_cpu_megacycles=5.0, frame_gpu_megacycles=2.0).until(5.0005)
    assert run.values()["frame_rate_millihertz"] == 60_000


def test_frames_bound_by_the_cpu() -> None:
    run = _frames(frame_cpu_megacycles=50.0, frame_gpu_megacycles=2.0).until(5.005)
    values = run.values()
    assert values["cpu_clock_kilohertz"] == 5_000_000
    assert values["frame_rate_millihertz"] == 100_000
    # Two are under way: one waits while the other is made, then comes the GPU's share at its slow clock.
    gpu_ms = 2e6 / values["gpu_clock_kilohertz"]
    assert values["frame_latency_microseconds"] == pytest.approx((20.0 - gpu_ms + gpu_ms) * 1_000, rel=0.01)


def test_frames_bound_by_the_gpu() -> None:
    run = _frames(frame_cpu_megacycles=5.0, frame_gpu_megacycles=48.0).until(5.005)
    values = run.values()
    assert values["gpu_clock_kilohertz"] == 2_400_000
    assert values["frame_rate_millihertz"] == 50_000
    assert values["gpu_busy_ppm"] == 1_000_000
    assert values["frame_latency_microseconds"] == 40_000


def test_one_frame_at_a_time_takes_both_stages_in_turn() -> None:
    phase = Phase(
        duration_ms=10**9, cpu_load=0.0, frames_per_second=1_000, frame_jitter=0.0, frame_cpu_megacycles=20.0,
        frame_gpu_megacycles=12.0,
    )  # fmt: skip
    work = Workload(phases=(phase,), frame_queue=1)
    machine = replace(
        MACHINE,
        cpu=replace(MACHINE.cpu, frequencies_kilohertz=(2_000_000,), voltages_millivolt=(800,)),
        gpu=replace(MACHINE.gpu, frequencies_kilohertz=(1_000_000,), voltages_millivolt=(800,)),
    )
    values = Run(Scenario(machine=machine, workload=work)).until(10.001).values()
    assert values["frame_latency_microseconds"] == 10_000 + 12_000
    assert values["frame_rate_millihertz"] == 45_000
    assert values["cpu_busy_ticks"] == pytest.approx(1_000 * 10 / 22, rel=0.01)


def test_a_slow_frame_rate_still_finds_the_clock_up() -> None:
    run = _frames(frames_per_second=20, frame_cpu_megacycles=40.0, frame_gpu_megacycles=1.0).until(5)
    latency_us = run.values()["frame_latency_microseconds"]
    assert latency_us is not None
    assert latency_us < 25_000


def test_a_lower_clock_cap_lowers_the_frame_rate_in_proportion() -> None:
    run = _frames(frame_cpu_megacycles=50.0, frame_gpu_megacycles=2.0)
    run.command(cpu_max_kilohertz=2_400_000).until(5.005)
    assert run.values()["frame_rate_millihertz"] == 48_000


def test_frame_work_shows_as_use_of_both_processors() -> None:
    run = _frames(frames_per_second=50, frame_cpu_megacycles=8.0, frame_gpu_megacycles=3.0).until(20.001)
    values = run.values()
    # The frame core runs where 8 Mcycle * 50 / s = 400 MHz are served: 800 MHz, used at one half of one of 8 cores.
    assert values["cpu_clock_kilohertz"] == 800_000
    assert values["cpu_busy_ticks"] == pytest.approx(20 * 100 * 0.5, rel=0.01)
    assert values["gpu_clock_kilohertz"] == 300_000
    assert values["gpu_busy_ppm"] == pytest.approx(500_000, abs=20_000)


def test_without_a_gpu_frames_skip_its_stage() -> None:
    machine = replace(UNLIMITED, gpu=replace(MACHINE.gpu, enabled=False))
    run = _frames(machine, frame_cpu_megacycles=50.0, frame_gpu_megacycles=1e6).until(5.005)
    assert run.values()["frame_rate_millihertz"] == 100_000
    assert run.values()["frame_latency_microseconds"] == 20_000


def test_without_frames_both_channels_are_absent_and_without_completed_ones_latency_is() -> None:
    run = _frames(frames_per_second=0).until(2)
    assert run.values()["frame_rate_millihertz"] is None
    assert run.statuses()["frame_latency_microseconds"] is Status.ABSENT
    run = _frames(frame_cpu_megacycles=1e9).until(2)
    assert run.values()["frame_rate_millihertz"] == 0
    assert run.values()["frame_latency_microseconds"] is None


def test_frame_costs_vary_with_the_seed_within_the_jitter() -> None:
    def latencies(seed: int) -> list[int | None]:
        phase = {"frames_per_second": 1, "frame_jitter": 0.5, "cpu_load": 0.0}
        run = Run(scenario(UNLIMITED, seed=seed, frame_cpu_megacycles=8.0, frame_gpu_megacycles=0.0, **phase))
        return [run.until(second + 0.9).values()["frame_latency_microseconds"] for second in range(40)]

    first = latencies(1)
    assert first == latencies(1)
    assert first != latencies(2)
    assert all(value is not None and 5_000 <= value <= 15_000 for value in first)
    assert max(filter(None, first)) - min(filter(None, first)) > 7_000


def test_frames_of_a_phase_that_is_over_are_finished_and_no_more_are_started() -> None:
    phases = (
        Phase(duration_ms=1_005, frames_per_second=100, frame_cpu_megacycles=1.0, frame_gpu_megacycles=1.0),
        Phase(duration_ms=1_000),
        Phase(duration_ms=5_000, frames_per_second=10, frame_cpu_megacycles=1.0, frame_gpu_megacycles=1.0),
    )
    run = Run(Scenario(workload=Workload(phases=phases, repeat=False))).until(1.5)
    assert run.values()["frame_rate_millihertz"] is None
    assert run.world._frames._under_way == 0
    assert run.until(6).values()["frame_rate_millihertz"] == 10_000


# --- recordings -------------------------------------------------------------------------------------------------------

_TRACE = Trace(file="x.csv", cpu_load_column="load", gpu_power_column="watts")


def _write(path: Path, text: str) -> Path:
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


@pytest.mark.parametrize("name", ["x.csv", "x.csv.gz"])
def test_recordings_become_integers(tmp_path: Path, name: str) -> None:
    path = _write(tmp_path / name, "t_s,load,other,watts\n10.5,12.5,x,0.0000015\n\n11.25,100,y,74\r\n")
    assert load_trace(path, _TRACE) == TraceTable(
        times_ns=(0, 750_000_000), cpu_load_ppm=(125_000, 1_000_000), gpu_power_microwatts=(2, 74_000_000)
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("t_s,watts\n0,1\n", r"x.csv, line 1: there is no column 'load'; the file has: t_s, watts"),
        (
            "t_s,load,watts\n0,1,2\n1,101,2\n",
            r"x.csv, line 3, column load: '101' is out of range; allowed are 0 to 100",
        ),
        ("t_s,load,watts\n0,1,nan\n", r"column watts: 'nan' is out of range"),
        ("t_s,load,watts\n0,,2\n", r"line 2, column load: '' is not a number"),
        ("t_s,load,watts\n0,1,2\n0,1,2\n", r"line 3, column t_s: '0' is not later"),
        ("t_s,load,watts\n0,1\n", r"line 2, column load: 3 cells are needed, and the line has 2"),
        ("t_s,load,watts\n", r"no samples"),
        ("", r"there is no column 't_s'"),
    ],
)
def test_bad_recordings_say_where(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(TraceError, match=message):
        load_trace(_write(tmp_path / "x.csv", text), _TRACE)


def test_files_that_are_no_recordings_say_so(tmp_path: Path) -> None:
    broken = tmp_path / "x.csv.gz"
    broken.write_bytes(b"not gzip")
    with pytest.raises(TraceError, match="not a readable CSV"):
        load_trace(broken, _TRACE)
    binary = tmp_path / "y.csv"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TraceError, match="not a readable CSV"):
        load_trace(binary, _TRACE)
    with pytest.raises(TraceError, match="no column drives"):
        load_trace(binary, Trace(file="y.csv"))


def test_a_recording_drives_loads_powers_and_words() -> None:
    table = TraceTable(
        times_ns=(0, SECOND_NS, 2 * SECOND_NS),
        cpu_load_ppm=(0, 500_000, 1_000_000),
        cpu_power_microwatts=(10_000_000, 90_000_000, 30_000_000),
        gpu_power_microwatts=(200_000_000, 0, 50_000_000),
    )
    work = Workload(trace=Trace(file="x.csv"))
    run = Run(Scenario(machine=UNLIMITED, workload=work), table)
    run.until(0.9)
    assert run.world.plant.cpu_watts == pytest.approx(10.0)
    assert run.values()["words_offered_per_second"] == 0
    run.until(1.9)
    assert run.world.plant.cpu_watts == pytest.approx(90.0)
    assert run.world.plant.gpu_watts == 0.0
    assert run.values()["words_offered_per_second"] == 375_000
    run.until(50)
    assert run.world.plant.cpu_watts == pytest.approx(30.0)
    assert run.values()["gpu_power_microwatts"] == pytest.approx(50_000_000, abs=1_000)
    assert run.values()["cpu_clock_kilohertz"] == 5_000_000
    # 10 + 90 + 48 * 30 J, to the microjoule.
    assert run.values()["cpu_energy_microjoules"] == pytest.approx(1_540_000_000, abs=30 * 20_000)


def test_a_trace_comes_with_its_scenario_or_not_at_all() -> None:
    with pytest.raises(ValueError, match="if and only if"):
        Run(Scenario(workload=Workload(trace=Trace(file="x.csv"))))
    with pytest.raises(ValueError, match="if and only if"):
        Run(Scenario(), TraceTable(times_ns=(0,)))
