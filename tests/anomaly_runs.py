"""Scenarios with one fault in each run, judged by the anomaly detector. Run as a program it prints the table of docs.

    python tests/anomaly_runs.py

A run warms up for 110 to 159 s and then has one fault for 30 s, to its end. Every cycle under fault is a positive;
the cycles of runs without a fault, after their first 60 s, are the negatives. A cycle under fault is informative when
what the signal shows differs from what it would show without the fault: by more than a quantum and twice the noise for
a temperature (both values carry noise), by more than 1 % for others, or by not being there. A fan without power is
informative in all cycles.
"""

from __future__ import annotations

import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np
from running import Kept, run, shipped_scenario

from twin.control.cycle import Cycle
from twin.kernels import Floats, Integers, Stream
from twin.learn.anomaly import AnomalyDetector
from twin.learn.evidence import Evidence, is_normal
from twin.learn.facts import fill_facts, new_facts
from twin.learn.features import FEATURES, Features
from twin.scenario import FAULT_STATES, Fault, RandomFaults, Scenario
from twin.wiring import fault_targets, wiring

STATES = tuple(state for state in FAULT_STATES if state != "ok")
TARGETS = ("cpu", "gpu", "case", "cpu_energy_microjoules", "cpu_fan_rpm", "gpu_fan_rpm", "case_fan_rpm")
FANS = ("cpu_fan", "gpu_fan", "case_fan")
WARM_UP_S = 110
FAULT_S = 30
SETTLED_CYCLES = 600


@dataclass(frozen=True)
class Job:
    """One run. `state` `ok` is a run without a fault."""

    scenario: str
    seed: int
    target: str = ""
    state: str = "ok"
    warm_up_s: int = 400
    delay_ms: int = 5_000


@dataclass
class Judged(Kept):
    """A recorder that has every cycle judged as it comes."""

    scenario: Scenario = field(default_factory=Scenario)
    place: int = -1
    keep_inputs: bool = False
    scores: list[float] = field(default_factory=list)
    alarms: list[bool] = field(default_factory=list)
    informative: list[bool] = field(default_factory=list)
    inputs: list[tuple[Floats, Floats, Integers, bool]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.evidence = Evidence(self.scenario.machine)
        machine = self.scenario.machine
        self._features = Features(self.scenario.learn, len(machine.sensors))
        self.facts = new_facts(len(machine.sensors), len(machine.fans))
        self.detector = AnomalyDetector(len(self.evidence.names), self.scenario.seed)
        self._state = np.zeros(len(FEATURES))
        self._residuals = np.zeros(len(self.evidence.names))
        self._usable = np.zeros(len(self.evidence.names), dtype=np.int64)

    def cycle(self, cycle: Cycle) -> None:
        view = cycle.view
        fill_facts(view, self.facts)
        self._features.fill(self.facts, self._state)
        self.evidence.fill(self.facts, self._residuals, self._usable)
        if self.keep_inputs:
            copies = self._state.copy(), self._residuals.copy(), self._usable.copy(), is_normal(view)
            self.inputs.append(copies)
        self.alarms.append(self.detector.see(self._state, self._residuals, self._usable, is_normal(view)))
        self.scores.append(self.detector.score)
        self.informative.append(self._differs(cycle))
        if self.keep_inputs:
            self.cycles.append(cycle)
        self.evidence.commanded(tuple(cycle.applied.values[f"{fan}_pwm"] for fan in view.fans))

    def _differs(self, cycle: Cycle) -> bool:
        if self.place < 0 or self.world is None:
            return True
        shown = cycle.readings.values[self.place]
        healthy = self.world._healthy()[0][self.place]
        if shown is None or healthy is None:
            return shown is not healthy
        sensors = self.scenario.machine.sensors
        if self.place < len(sensors):
            sensor = sensors[self.place]
            return abs(shown - healthy) > sensor.quantum_millicelsius + 2 * sensor.noise_millicelsius
        return abs(shown - healthy) * 100 > abs(healthy)


def judged(job: Job, keep_inputs: bool = False) -> Judged:
    """The run of `job`, judged; with a heartbeat of one word every 100 ms, since this is about control alone."""
    scenario = shipped_scenario(job.scenario)
    phases = tuple(replace(p, words_per_second=0, burst_words_per_second=0) for p in scenario.workload.phases)
    fault = Fault(
        target=job.target,
        state=job.state,  # type: ignore[arg-type]
        at_ms=job.warm_up_s * 1_000,
        duration_ms=FAULT_S * 1_000,
        delay_ms=job.delay_ms,
    )
    fails = job.state != "ok"
    scenario = replace(
        scenario,
        seed=job.seed,
        faults=(fault,) if fails else (),
        random_faults=RandomFaults(),
        workload=replace(scenario.workload, phases=phases),
        duration_ms=(job.warm_up_s + (FAULT_S if fails else 0)) * 1_000,
        heartbeat=replace(scenario.heartbeat, t0_ns=100_000_000, words=1),
    )
    channels = wiring(scenario.machine)
    names = [channel.name for channel in channels.sensors]
    channel = fault_targets(channels, scenario.machine)[job.target] if fails else ""
    place = names.index(channel) if channel in names else -1
    kept = Judged(scenario=scenario, place=place, keep_inputs=keep_inputs)
    run(scenario, file=job.scenario, kept=kept)
    return kept


@dataclass(frozen=True)
class Verdicts:
    """The cycles of `job` that count: under fault, or settled in a run without one."""

    job: Job
    scores: Floats
    alarms: Integers
    informative: Integers


def verdicts(job: Job) -> Verdicts:
    kept = judged(job)
    first = SETTLED_CYCLES if job.state == "ok" else job.warm_up_s * 10
    return Verdicts(
        job,
        np.array(kept.scores[first:]),
        np.array(kept.alarms[first:], dtype=np.int64),
        np.array(kept.informative[first:], dtype=np.int64),
    )


def fault_jobs(scenarios: tuple[str, ...], seed: int, targets: tuple[str, ...], fans: tuple[str, ...]) -> list[Job]:
    """Each target in each state, and fans without power. Delays are 5 s, but 3 s where the work repeats every 5 s."""
    return [
        Job(
            scenario,
            seed,
            target,
            state,
            WARM_UP_S + Stream(seed, f"{scenario}.{target}.{state}").below(50),
            3_000 if scenario == "burst" else 5_000,
        )
        for scenario in scenarios
        for target, states in (*((target, STATES) for target in targets), *((fan, ("off",)) for fan in fans))
        for state in states
    ]


def auroc(positives: Floats, negatives: Floats) -> float:
    """The chance that a positive scores higher than a negative, ties counted half (Mann and Whitney, 1947)."""
    ordered = np.sort(negatives)
    below = np.searchsorted(ordered, positives, side="left")
    not_above = np.searchsorted(ordered, positives, side="right")
    return float((below + not_above).sum() / (2.0 * len(positives) * len(negatives)))


def kind(job: Job) -> str:
    """The row of the table that a run belongs to."""
    return "failing fan" if job.target in FANS else job.state


def joined(parts: list[Floats]) -> Floats:
    return np.concatenate(parts) if parts else np.zeros(0)


def table(faulty: list[Verdicts], normal: list[Verdicts]) -> dict[str, tuple[float, float, int, int]]:
    """For each row: AUROC over informative cycles and over all under fault, and how many there are of each."""
    negatives = joined([v.scores for v in normal])
    rows = {}
    for row in (*STATES, "failing fan"):
        of_row = [v for v in faulty if kind(v.job) == row]
        every = joined([v.scores for v in of_row])
        telling = joined([v.scores[v.informative != 0] for v in of_row])
        if len(telling):
            rows[row] = (auroc(telling, negatives), auroc(every, negatives), len(telling), len(every))
    return rows


def main() -> int:
    """Print the tables: AUROC by state, by state and signal, and false alarms by scenario."""
    seed = int(sys.argv[1]) if len(sys.argv) > 1 else 21
    scenarios = ("gaming", "burst", "steps", "soak")
    others = ("idle", "hot_ambient", "recorded", "fan_failure", "sensor_faults")
    jobs = fault_jobs(scenarios, seed, TARGETS, FANS)
    clean = [Job(scenario, seed + 10) for scenario in (*scenarios, *others)]
    with ProcessPoolExecutor(2) as pool:
        faulty, normal = list(pool.map(verdicts, jobs, chunksize=4)), list(pool.map(verdicts, clean))
    print("| state | AUROC, informative | AUROC, all | informative cycles | cycles | alarmed, informative |")
    print("|---|---|---|---|---|---|")
    for row, (telling, every, count, total) in table(faulty, normal).items():
        rung = sum(int(v.alarms[v.informative != 0].sum()) for v in faulty if kind(v.job) == row)
        print(f"| {row} | {telling:.3f} | {every:.3f} | {count} | {total} | {100 * rung / count:.1f} % |")
    print(f"\n| state | {' | '.join(TARGETS)} |\n|---|{'---|' * len(TARGETS)}")
    for state in STATES:
        cells = []
        for target in TARGETS:
            found = table([v for v in faulty if v.job.target == target and v.job.state == state], normal).get(state)
            cells.append("-" if found is None else f"{found[0]:.3f} / {found[1]:.3f}")
        print(f"| {state} | {' | '.join(cells)} |")
    print("\n| scenario | false alarms | cycles |\n|---|---|---|")
    for v in normal:
        print(f"| {v.job.scenario} | {v.alarms.sum()} | {len(v.alarms)} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
