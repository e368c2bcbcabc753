"""Doing an experiment: whatever of its plan is not done yet is handed to an engine, and what comes back is kept."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

from twin.experiment.engines import Batch, Engine
from twin.experiment.jobs import Job, Outcome, Perform, code_version, job_key, numbered, package_version
from twin.experiment.plan import Kicks, Plan
from twin.experiment.store import SHARD_RUNS, ExperimentError, Store
from twin.fingerprint.configuration import configuration_fingerprint
from twin.fingerprint.golden import golden
from twin.fingerprint.scoring import Candidate as Contender
from twin.record.files import canonical_json, write_json

COMMIT_SECONDS = 0.25
"""What comes back within this time is committed together."""
BATCH_TICKS = 100_000
"""Short runs are handed over several at a time, about this many ticks together."""
BATCH_RUNS = 100
"""And never more runs than these."""
CHOICE = "golden.json"


@dataclass(frozen=True, slots=True)
class Summary:
    """What an experiment came to. `ticks` and `runs` are of the whole, `seconds` of this process's share of it."""

    experiment_digest: str
    runs: int
    ticks: int
    done_runs: int
    done_ticks: int
    seconds: float
    choice: dict[str, Any]


def jobs_of(plan: Plan, code: str, done: Mapping[int, str]) -> Iterator[Job]:
    """The jobs that are not done yet, in the plan's order; the kicked ones come last.

    Raises `ExperimentError` when one that is done has another key.
    """

    def job(number: int, kicks: Kicks | None) -> Job | None:
        # Kicked jobs are numbered on from the runs.
        of_their_kind = number if kicks is None else number - plan.runs
        candidate, seed_number = numbered(plan.candidates, of_their_kind)
        seed = plan.file.first_seed + seed_number
        key = job_key(plan, candidate, seed, code, kicks)
        if number in done:
            if done[number] != key:
                raise ExperimentError(plan.source, f"job {number} of the directory is of something else; name another")
            return None
        scenario = replace(candidate.scenario, seed=seed)
        files = candidate.trace_file, candidate.weights_file
        return Job(number, key, candidate.name, scenario, candidate.inputs, *files, kicks, package_version())

    for number in plan.order():
        found = job(number, None)
        if found is not None:
            yield found
    for number in range(plan.runs, plan.runs + plan.kicked_jobs):
        found = job(number, plan.file.kicks)
        if found is not None:
            yield found


def _batches(jobs: Iterator[Job], size: int) -> Iterator[Batch]:
    batch: list[Job] = []
    for job in jobs:
        if job.kicks is not None and batch and batch[-1].kicks is None:
            # Kicked runs are long: each is a batch of its own.
            yield batch
            batch = []
        batch.append(job)
        if len(batch) >= (1 if job.kicks is not None else size):
            yield batch
            batch = []
    if batch:
        yield batch


def conduct(
    plan: Plan, folder: Path, engine: Engine, perform: Perform, progress: Callable[[int, int, int], None]
) -> Summary:
    """Do what is left of `plan` and keep it in `folder`.

    `progress` hears now and then how many jobs are done, how many of them in this call, and the ticks of those. Raises
    what the engine and the store raise; what was done until then is kept.
    """
    code = code_version(each.scenario for each in plan.candidates)
    facts = {"plan": plan.digest, "code": code}
    with Store(folder, facts, plan.to_toml()) as store:
        began = time.monotonic()
        done = store.done()
        shards = _Shards(store, plan.order(), set(done))
        shards.write()
        batches = _batches(jobs_of(plan, code, done), min(BATCH_RUNS, max(1, BATCH_TICKS // plan.file.ticks)))
        here = ticks = 0
        waiting: list[Outcome] = []
        committed = time.monotonic()

        def commit() -> None:
            nonlocal here, ticks, waiting, committed
            # What could not be committed is not tried a second time: it is done again by the next command.
            outcomes, waiting = waiting, []
            shards.add(outcomes)
            here += len(outcomes)
            ticks += sum(each.ticks for each in outcomes)
            committed = time.monotonic()
            progress(len(done) + here, here, ticks)

        commit()
        # Closed at once when something is raised here, so that no process of the engine works on meanwhile.
        with contextlib.closing(engine.outcomes(perform, batches)) as ready:
            try:
                for outcomes in ready:
                    waiting += outcomes
                    if time.monotonic() - committed >= COMMIT_SECONDS:
                        commit()
            finally:
                # An interrupt, too, ends with everything kept that had come back.
                commit()
        choice = finish(plan, store)
        digest = store.fact("experiment_digest")
        assert digest is not None
        return Summary(digest, plan.runs, store.ticks(plan.runs), here, ticks, time.monotonic() - began, choice)


class _Shards:
    """Commits outcomes, and writes each shard once its last run is there."""

    def __init__(self, store: Store, order: list[int], done: set[int]) -> None:
        self._store = store
        self._members = [order[start : start + SHARD_RUNS] for start in range(0, len(order), SHARD_RUNS)]
        self._of = {number: shard for shard, members in enumerate(self._members) for number in members}
        written = store.shards()
        self._left = {
            shard: len(members) - sum(number in done for number in members)
            for shard, members in enumerate(self._members)
            if shard not in written
        }

    def add(self, outcomes: list[Outcome]) -> None:
        if not outcomes:
            return
        self._store.add(outcomes)
        for outcome in outcomes:
            shard = self._of.get(outcome.number)
            if shard is not None:
                self._left[shard] -= 1
        self.write()

    def write(self) -> None:
        for shard in [shard for shard, left in self._left.items() if left == 0]:
            # Tried once: where that fails, the next command begins with it.
            del self._left[shard]
            self._store.write_shard(shard, self._members[shard])


def finish(plan: Plan, store: Store) -> dict[str, Any]:
    """Fingerprints of the configurations, the choice, and the experiment's digest, once every job is done."""
    runs: dict[str, list[dict[str, Any]]] = {each.name: [] for each in plan.candidates}
    digests = {each.name: blake2b(digest_size=32) for each in plan.candidates}
    kicks: dict[str, list[Any]] = {each.name: [] for each in plan.candidates}
    for outcome in store.outcomes(0, plan.runs + plan.kicked_jobs):
        text = canonical_json([outcome.number, outcome.seed, outcome.run_digest, outcome.result])
        digests[outcome.candidate].update(len(text).to_bytes(8, "little") + text)
        if outcome.number < plan.runs:
            runs[outcome.candidate].append(_slim(outcome.result))
        else:
            kicks[outcome.candidate] += outcome.kicked()[0]
    contenders = {name: Contender(runs[name], kicks[name]) for name in runs}
    choice = golden(contenders)
    choice["configurations"] = {
        name: {**configuration_fingerprint(runs[name], kicks[name]), "digest": digests[name].hexdigest()}
        for name in runs
    }
    whole = blake2b(digest_size=32)
    for name in sorted(digests):
        whole.update(canonical_json([name, digests[name].hexdigest()]))
    whole.update(canonical_json(choice))
    choice["experiment_digest"] = whole.hexdigest()
    write_json(store.folder / CHOICE, choice)
    # Last: it says that the experiment is finished, and the choice there.
    store.note("experiment_digest", whole.hexdigest())
    return choice


def _slim(result: dict[str, Any]) -> dict[str, Any]:
    """What of a run's fingerprint the configuration's needs: with a million runs the rest would not fit into memory."""
    reasons = {name: reason for name, reason in result.get("reasons", {}).items() if name in _NEEDED}
    return {name: result.get(name) for name in _NEEDED} | {"reasons": reasons}


_NEEDED = (
    "overall_stability_score", "converged", "convergence_time_ticks", "load_to_heartbeat_corr", "avg_jitter_ns_steady",
    "jitter_is_white", "metric_noise_coupling", "entropy_growth_rate", "eigenmode_decay_rate_hz",
)  # fmt: skip
