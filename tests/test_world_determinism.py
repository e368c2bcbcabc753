"""The same seed gives the same bits, compiled or interpreted, and named consumers do not disturb each other."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path

from world_cases import Run

from twin.scenario import AmbientStep, Fault, Machine, Phase, RandomFaults, Scenario, Workload


def _busy(seed: int = 11) -> Scenario:
    phases = (
        Phase(duration_ms=1_500, cpu_load=0.9, gpu_load=0.3, frames_per_second=90, burst_every_ms=400, burst_ms=130,
              burst_cpu_load=0.1, burst_gpu_load=0.7),
        Phase(duration_ms=1_000, cpu_load=0.2, memory_share=0.7, frames_per_second=30, state="combat"),
    )  # fmt: skip
    return Scenario(
        seed=seed,
        machine=replace(Machine(), ambient_steps=(AmbientStep(at_ms=2_010, celsius=31.0),)),
        workload=Workload(phases=phases),
        faults=(Fault(target="gpu", state="garbage", at_ms=700), Fault(target="gpu_fan", state="intermittent")),
        random_faults=RandomFaults(per_minute=60.0, duration_ms=400),
    )


def _trail(scenario: Scenario, seconds: int = 5) -> list[object]:
    run = Run(scenario)
    trail: list[object] = []
    for tenth in range(seconds * 10):
        run.after_events(tenth / 10)
        trail.append((
            run.world.sense(), run.world.heat_in_joules.hex(), run.world.heat_out_joules.hex(),
            [celsius.hex() for celsius in run.world.true_temperatures_celsius.values()],
        ))  # fmt: skip
        run.command(cpu_fan_pwm=tenth * 5 % 256, gpu_fan_pwm=255 - tenth, cpu_max_kilohertz=5_000_000 - tenth * 50_000)
    return trail


def world_hash() -> str:
    return blake2b(repr(_trail(_busy())).encode(), digest_size=16).hexdigest()


def test_the_same_seed_gives_the_same_bits_and_another_does_not() -> None:
    assert _trail(_busy(0), 2) == _trail(_busy(0), 2) != _trail(_busy(1), 2)


def test_compiled_and_interpreted_worlds_agree_to_the_last_bit() -> None:
    here = Path(__file__).parent
    program = "import test_world_determinism as t; import twin.kernels as k; print(k.MODE, t.world_hash())"
    environment = os.environ | {"TWIN_KERNELS": "python", "PYTHONPATH": os.pathsep.join([str(here), str(here.parent)])}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["python", world_hash()]


def test_frames_do_not_disturb_sensor_noise() -> None:
    def noise(jitter: float) -> list[int | None]:
        phase = Phase(duration_ms=10**9, cpu_load=0.0, frames_per_second=20, frame_jitter=jitter)
        machine = Machine(cpu=replace(Machine().cpu, node="case"), gpu=replace(Machine().gpu, node="case"))
        run = Run(Scenario(machine=machine, workload=Workload(phases=(phase,))))
        # Nothing heats the die: what its sensor shows differs by the noise alone.
        return [run.after_events(tenth / 10).values()["cpu_temp_millicelsius"] for tenth in range(10)]

    assert noise(0.0) == noise(1.0)
