"""One run of a scenario on the simulated machine, in memory; and the jobs of experiments, which are made of such runs.

A job gives the same outcome in any process; `perform` is what the engines of `twin.experiment` call.
"""

from __future__ import annotations

import functools
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from hardware.interface import Hardware
from twin.cli.backends import simulated
from twin.cli.run import run_digests
from twin.control.choose import make_controller
from twin.control.cycle import Cycle
from twin.experiment.jobs import Job, Outcome
from twin.experiment.kicks import Kick, Kicker, amount_of, judged, steadied, steady_state, unsteady, with_ambient
from twin.experiment.plan import Candidate
from twin.fingerprint.run import run_fingerprint
from twin.kernels import Integers
from twin.loop import Loop
from twin.record.memory import MemoryRecorder, kept_ticks
from twin.record.recorder import Recorded
from twin.scenario import Scenario, Trace
from twin.world.trace import TraceTable, load_trace


@dataclass(frozen=True, slots=True)
class Simulated:
    """A finished run: what was recorded, and its machine's hottest temperature in each control cycle, millidegrees
    Celsius.
    """

    recorded: Recorded
    hottest_millicelsius: list[int]
    missed_ticks: int
    missed_cycles: int

    @property
    def captured(self) -> Integers:
        """Every tick, shape COLUMNS x ticks."""
        assert self.recorded.captured is not None
        return self.recorded.captured

    def fingerprint(self, words: int) -> dict[str, Any]:
        """The run's fingerprint; `words` as in the scenario."""
        missed = {"missed_ticks": self.missed_ticks, "missed_cycles": self.missed_cycles}
        return run_fingerprint(self.captured, words, {**missed, **self.recorded.figures})


class _Recorder(MemoryRecorder):
    """Keeps the hottest temperatures too, and lets a kicker do its work."""

    kicker: Kicker | None = None

    def __init__(self, scenario: Scenario, hardware: Hardware) -> None:
        super().__init__(scenario, hardware.sensors, hardware.limits)
        self.hottest: list[int] = []

    def cycle(self, cycle: Cycle) -> None:
        super().cycle(cycle)
        known = [temp for temp in cycle.view.temps_millicelsius if temp is not None]
        if known:
            self.hottest.append(max(known))
        if self.kicker is not None:
            self.kicker.cycle()


def simulate(
    scenario: Scenario, trace: TraceTable | None = None, kick: Kick | None = None, weights: Path | None = None
) -> Simulated:
    """Run `scenario` to its end, kicked if asked. A learner begins with the weights in the file `weights`."""
    backend = simulated(scenario, trace)
    recorder = _Recorder(scenario, backend.hardware)
    controller = make_controller(scenario, backend.hardware.limits, weights)
    loop = Loop(backend.env, backend.hardware, scenario, controller, recorder)
    if kick is not None:
        recorder.kicker = Kicker(kick, loop.heart, scenario.workload.phases[0].words_per_second)
    loop.run()
    return Simulated(recorder.close(), recorder.hottest, loop.heart.missed, loop.missed_cycles)


def perform(job: Job) -> Outcome:
    """Do a job of an experiment."""
    return _run(job) if job.kicks is None else _kick(job)


def _run(job: Job) -> Outcome:
    scenario = job.scenario
    done = simulate(scenario, _trace(job.trace_file, scenario.workload.trace), weights=job.weights_file)
    digests = run_digests(scenario, job.inputs, done.recorded)
    return Outcome(
        job.number,
        job.key,
        job.candidate,
        scenario.seed,
        done.recorded.ticks.rows,
        digests["tick_digest"],
        digests["control_digest"],
        digests["run_digest"],
        done.fingerprint(scenario.heartbeat.words),
        kept_ticks(done.captured, job.number, scenario.heartbeat.config, scenario.recording.ticks),
    )


@functools.lru_cache(maxsize=2)
def _trace(path: Path | None, settings: Trace | None) -> TraceTable | None:
    return None if path is None or settings is None else load_trace(path, settings)


def _kick(job: Job) -> Outcome:
    """Every kind of kick with rising strength, each up to the first from which the run does not come back."""
    kicks = job.kicks
    assert kicks is not None
    seed = job.scenario.seed
    scenario = steadied(job.scenario, kicks.settle_ticks + kicks.watch_ticks)
    plain = simulate(scenario, weights=job.weights_file)
    steady = steady_state(plain.captured, kicks.settle_ticks, plain.hottest_millicelsius)
    results, courses = [], []
    if steady.unsteady:
        results = [asdict(each) for each in unsteady(kicks.kinds, seed, kicks.strengths_sigmas[0])]
    for kind in () if steady.unsteady else kicks.kinds:
        for strength in kicks.strengths_sigmas:
            amount = amount_of(kind, strength, steady)
            if kind == "hot_ambient":
                kicked = simulate(with_ambient(scenario, steady, amount), weights=job.weights_file)
            else:
                kicked = simulate(scenario, kick=Kick(kind, kicks.settle_ticks, amount), weights=job.weights_file)
            result, course = judged(kicked.captured, steady, kind, seed, strength, kicks.settle_ticks)
            results.append(asdict(result))
            courses.append(asdict(course))
            if not result.returned:
                break
    digests = run_digests(scenario, job.inputs, plain.recorded)
    return Outcome(
        job.number,
        job.key,
        job.candidate,
        seed,
        plain.recorded.ticks.rows,
        digests["tick_digest"],
        digests["control_digest"],
        digests["run_digest"],
        {"kicks": results, "courses": courses, "watched": list(steady.bands), "unsteady": list(steady.unsteady)},
    )


def warm(candidate: Candidate) -> None:
    """Run the first three control cycles of a candidate: every kernel is compiled, or loaded, before work is handed
    out, and what its scenario names and cannot be had is said before the first process is started.
    """
    scenario = candidate.scenario
    brief = replace(scenario, ticks=None, duration_ms=3 * scenario.control.period_ms)
    done = simulate(brief, _trace(candidate.trace_file, scenario.workload.trace), weights=candidate.weights_file)
    done.fingerprint(scenario.heartbeat.words)
