"""Small recordings and machines for the tests of calibration and validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from twin.calibrate.freerun import free_run
from twin.calibrate.reader import Measured
from twin.calibrate.recording import Recording
from twin.kernels import Stream
from twin.machines import MachineFile, Origin, Unseen, machine_toml
from twin.scenario import Cpu, Edge, Fan, Gpu, Machine, Memory, Node, Sensor

TRACES = Path(__file__).parents[2] / "shared" / "data" / "traces"
HEARTBEATS = TRACES.parent / "heartbeat"

BOARD = Machine(
    name="board",
    ambient_celsius=22.0,
    cpu=Cpu(
        cores=4, frequencies_kilohertz=(600_000, 1_200_000), voltages_millivolt=(1_200, 1_300),
        capacitance_nanofarad=0.3, leakage_amperes=0.1, idle_watts=1.0, safe_kilohertz=600_000, safe_watts=2.0,
        pl1_watts=10.0, pl2_watts=12.0,
    ),
    gpu=Gpu(enabled=False),
    memory=Memory(node="board", idle_watts=0.0, full_watts=0.0),
    fans=(),
    nodes=(
        Node(name="cpu_die", capacity_joules_per_kelvin=3.0),
        Node(name="board", capacity_joules_per_kelvin=30.0),
    ),
    edges=(
        Edge(a="cpu_die", b="board", still_watts_per_kelvin=0.2),
        Edge(a="board", b="ambient", still_watts_per_kelvin=0.1),
    ),
    sensors=(Sensor(name="cpu", node="cpu_die", limit_celsius=85.0, quantum_millicelsius=500),),
)  # fmt: skip
"""A board without a fan."""
BLOWN = replace(
    BOARD,
    name="blown",
    fans=(Fan(name="cpu_fan", max_rpm=2_000),),
    edges=(
        Edge(a="cpu_die", b="board", still_watts_per_kelvin=0.4),
        Edge(
            a="board", b="ambient", still_watts_per_kelvin=0.02, forced_watts_per_kelvin=0.15, fan="cpu_fan",
            exponent=0.8,
        ),
    ),
)  # fmt: skip
"""The same with a fan."""
CARD = replace(
    BOARD,
    name="card",
    gpu=Gpu(node="card", idle_watts=10.0),
    nodes=(*BOARD.nodes, Node(name="card", capacity_joules_per_kelvin=80.0)),
    edges=(*BOARD.edges, Edge(a="card", b="ambient", still_watts_per_kelvin=4.0)),
    sensors=(*BOARD.sensors, Sensor(name="gpu", node="card", limit_celsius=90.0)),
)
"""A board with a GPU."""
ORIGIN = Origin(
    source="made by the tests", licence="none", kind="board",
    unseen=Unseen(rmse_celsius=0.2, max_error_celsius=0.6, mae_celsius=0.15, samples=400, independent_samples=100.0),
)  # fmt: skip


def steps(seed: int, name: str, count: int, hold: int, low: float, high: float) -> np.ndarray:
    """Random levels, each for `hold` samples."""
    stream = Stream(seed, name)
    levels = [low + (high - low) * stream.next32() / 2**32 for _ in range(count // hold + 1)]
    return np.repeat(levels, hold)[:count]


def recorded(
    machine: Machine, origin: Origin = ORIGIN, count: int = 900, noise: float = 0.1, seed: int = 1, watts: bool = False
) -> Measured:  # fmt: skip
    """What a recorder beside `machine` would have written, a sample a second."""
    load = np.round(steps(seed, "load", count, 40, 0.0, 1.0), 3)
    plain = Measured(
        recording=Recording(
            name="made",
            times_seconds=np.arange(count, dtype=float),
            temperatures_celsius=np.full(count, 30.0),
            loads=load,
            powers_watts=np.round(1.0 + 4.0 * load, 3) if watts else None,
            fan_rpm=np.round(steps(seed, "fan", count, 70, 0.0, 2_000.0)) if machine.fans else None,
        ),
        columns={},
        loads={"gpu" if origin.kind == "gpu" else "cpu": load},
    )
    if watts:
        assert plain.recording.powers_watts is not None
        plain = replace(plain, powers={"cpu": plain.recording.powers_watts})
    run = free_run(machine, origin, plain, step_ms=100)
    sensor = "gpu" if origin.kind == "gpu" else "cpu"
    stream = Stream(seed, "noise")
    shaken = noise * np.array([stream.next32() / 2**31 - 1.0 for _ in range(count)])
    celsius = np.round(run.celsius[sensor] + shaken, 3)
    return replace(plain, recording=replace(plain.recording, temperatures_celsius=celsius))


def rows_of(measured: Measured) -> dict[str, list[str]]:
    """A recording as columns of text, as in a CSV."""
    recording = measured.recording
    found = {"t_s": [f"{value:g}" for value in recording.times_seconds],
             "cpu_temp_c": [f"{value:.3f}" for value in recording.temperatures_celsius]}  # fmt: skip
    if recording.loads is not None:
        found["cpu_load"] = [f"{value * 100.0:.1f}" for value in recording.loads]
    if recording.powers_watts is not None:
        found["cpu_power_w"] = [f"{value:.3f}" for value in recording.powers_watts]
    if recording.fan_rpm is not None:
        found["fan_rpm"] = [f"{value:.0f}" for value in recording.fan_rpm]
    return found


def write_csv(
    path: Path, columns: Mapping[str, Sequence[str]], delimiter: str = ",", decimal_comma: bool = False
) -> Path:  # fmt: skip
    """A CSV of these columns."""
    lines = [delimiter.join(columns)]
    for cells in zip(*columns.values(), strict=True):
        shown = [cell.replace(".", ",") for cell in cells] if decimal_comma else list(cells)
        if decimal_comma and delimiter == ",":
            shown = [f'"{cell}"' if "," in cell else cell for cell in shown]
        lines.append(delimiter.join(shown))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_machine(path: Path, machine: Machine, origin: Origin = ORIGIN) -> Path:
    """A machine file."""
    path.write_text(machine_toml(MachineFile(origin=origin, machine=machine)), encoding="utf-8")
    return path
