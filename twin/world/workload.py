"""What is asked of the machine over time: phases with bursts, or a recording, as one timeline of changes."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace

from simpy import Event

from twin.clock import Order, TwinEnvironment
from twin.scenario import GAME_STATES, Phase, Scenario
from twin.scenario import Workload as WorkloadSettings
from twin.timing import MILLISECOND_NS
from twin.world.frames import FramePipeline
from twin.world.plant import Work
from twin.world.trace import TraceTable

PPM = 1_000_000


@dataclass(frozen=True, slots=True)
class Demand:
    """What is asked apart from frames: loads and memory in use in ppm; a power of -1 is not prescribed."""

    cpu_ppm: int
    gpu_ppm: int
    memory_ppm: int
    words_per_second: int
    state_code: int
    cpu_microwatts: int = -1
    gpu_microwatts: int = -1


@dataclass(frozen=True, slots=True)
class Change:
    """From `at_ns` on `demand` holds; `begins` is the phase that begins then, if one does."""

    at_ns: int
    demand: Demand
    begins: Phase | None = None


def phase_timeline(workload: WorkloadSettings) -> Iterator[Change]:
    """The changes of the phases of `workload` in order of time, without end when they repeat."""
    at_ns = 0
    while True:
        for index, phase in enumerate(workload.phases):
            endless = not workload.repeat and index == len(workload.phases) - 1
            end_ns = None if endless else at_ns + phase.duration_ms * MILLISECOND_NS
            yield from _phase_changes(phase, at_ns, end_ns)
            if end_ns is None:
                return
            at_ns = end_ns


def _phase_changes(phase: Phase, start_ns: int, end_ns: int | None) -> Iterator[Change]:
    calm = Demand(
        cpu_ppm=_ppm(phase.cpu_load),
        gpu_ppm=_ppm(phase.gpu_load),
        memory_ppm=_ppm(phase.memory_share),
        words_per_second=phase.words_per_second,
        state_code=GAME_STATES.index(phase.state),
    )
    burst = replace(
        calm,
        cpu_ppm=min(PPM, calm.cpu_ppm + _ppm(phase.burst_cpu_load)),
        gpu_ppm=min(PPM, calm.gpu_ppm + _ppm(phase.burst_gpu_load)),
        words_per_second=phase.words_per_second + phase.burst_words_per_second,
    )
    if phase.burst_ms == 0 or phase.burst_every_ms == 0:
        yield Change(start_ns, calm, phase)
        return
    if phase.burst_ms >= phase.burst_every_ms:
        yield Change(start_ns, burst, phase)
        return
    at_ns = start_ns
    begins: Phase | None = phase
    while end_ns is None or at_ns < end_ns:
        yield Change(at_ns, burst, begins)
        begins = None
        calm_ns = at_ns + phase.burst_ms * MILLISECOND_NS
        if end_ns is None or calm_ns < end_ns:
            yield Change(calm_ns, calm)
        at_ns += phase.burst_every_ms * MILLISECOND_NS


def trace_timeline(table: TraceTable, capacity_words_per_second: int) -> Iterator[Change]:
    """The changes of a recording: each sample holds until the next, the last one for ever. No frames.

    Words are the CPU load's share of the capacity; memory in use is that of a default phase.
    """
    memory_ppm = _ppm(Phase().memory_share)
    for index, at_ns in enumerate(table.times_ns):
        load_ppm = 0 if table.cpu_load_ppm is None else table.cpu_load_ppm[index]
        yield Change(at_ns, Demand(
            cpu_ppm=load_ppm,
            gpu_ppm=0 if table.gpu_load_ppm is None else table.gpu_load_ppm[index],
            memory_ppm=memory_ppm,
            words_per_second=load_ppm * capacity_words_per_second // PPM,
            state_code=0,
            cpu_microwatts=-1 if table.cpu_power_microwatts is None else table.cpu_power_microwatts[index],
            gpu_microwatts=-1 if table.gpu_power_microwatts is None else table.gpu_power_microwatts[index],
        ))  # fmt: skip


def _ppm(share: float) -> int:
    return int(share * PPM + 0.5)


class Workload:
    """The demand now, its sums over a plant step, and the frames. Starts its process in `env`."""

    def __init__(
        self, env: TwinEnvironment, scenario: Scenario, frames: FramePipeline, table: TraceTable | None
    ) -> None:
        if (scenario.workload.trace is None) != (table is None):
            raise ValueError("a world takes a trace table if and only if the scenario's workload names a trace")
        self._env = env
        self._frames = frames
        if table is None:
            changes = phase_timeline(scenario.workload)
        else:
            changes = trace_timeline(table, scenario.heartbeat.capacity_words_per_second)
        self._since_ns = 0
        self._sums = [0, 0, 0, 0, 0]
        first = next(changes)
        self.demand = first.demand
        if first.begins is not None:
            frames.begin(first.begins)
        env.process(self._play(changes))

    def _play(self, changes: Iterator[Change]) -> Generator[Event, None, None]:
        for change in changes:
            yield self._env.at(change.at_ns, Order.WORLD)
            self._sum_up()
            self.demand = change.demand
            if change.begins is not None:
                self._frames.begin(change.begins)

    def _sum_up(self) -> None:
        now_ns = int(self._env.now)
        passed_ns = now_ns - self._since_ns
        if passed_ns > 0:
            demand = self.demand
            sums = self._sums
            sums[0] += demand.cpu_ppm * passed_ns
            sums[1] += demand.gpu_ppm * passed_ns
            sums[2] += demand.memory_ppm * passed_ns
            sums[3] += demand.cpu_microwatts * passed_ns
            sums[4] += demand.gpu_microwatts * passed_ns
            self._since_ns = now_ns

    def take(self, step_ns: int) -> Work:
        """What was asked since the last call, `step_ns` ago; prescribed powers as their mean."""
        self._sum_up()
        cpu, gpu, memory, cpu_power, gpu_power = self._sums
        self._sums = [0, 0, 0, 0, 0]
        cpu_ns, gpu_ns = self._frames.take_busy_ns()
        return Work(cpu, gpu, memory, cpu_ns, gpu_ns, cpu_power // step_ns, gpu_power // step_ns)
