"""Engines: the same outcomes wherever jobs are done, and whatever happens to the processes that do them."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
from light_jobs import BULK, DIES, RAISES, WAIT, light_plan, perform, quiet, straight
from profiles import NIGHTLY

from twin.experiment import engines, tables
from twin.experiment.conduct import conduct
from twin.experiment.engines import DEATHS_IN_A_ROW, EngineError, HereEngine, JobError, LocalEngine
from twin.experiment.store import Store

TESTS = Path(__file__).parent
KILLS = 1_000 if NIGHTLY else 50


@pytest.fixture(autouse=True)
def processes_that_start_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWIN_KERNELS", "python")


def started(folder: Path, workers: int = 2, wait_ms: int = 0, **env: str) -> subprocess.Popen[str]:
    """An experiment in a process (and a process group) of its own, in the folder of its plan."""
    command = [sys.executable, str(TESTS / "light_jobs.py"), str(folder / "out"), str(workers)]
    return subprocess.Popen(
        command, env={**os.environ, WAIT: str(wait_ms), **env}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, start_new_session=True, cwd=folder, preexec_fn=_hears_interrupts,
    )  # fmt: skip


def _hears_interrupts() -> None:
    # Whoever runs the tests in the background may have had the signal ignored, which children inherit.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def until(true: Callable[[], bool], seconds: float = 60.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if true():
            return True
        time.sleep(0.005)
    return False


def done_in(folder: Path) -> int:
    try:
        with Store(folder / "out") as store:
            return len(store.done())
    except Exception:
        return 0


def whole_and_once(folder: Path, runs: int, jobs: int) -> None:
    """No run was lost, and none is there twice."""
    with Store(folder / "out") as store:
        assert sorted(store.done()) == list(range(jobs))
        found = [each.number for each in store.outcomes(0, jobs)]
    assert found == list(range(jobs))
    rows = [
        row for path in tables.shards(folder / "out", "runs")
        for row in pq.read_table(path, columns=["run_id"])["run_id"].to_pylist()
    ]  # fmt: skip
    assert sorted(rows) == list(range(runs))


# --- the same everywhere --------------------------------------------------------------------------------------------


def test_one_worker_two_workers_and_none_come_to_the_same(tmp_path: Path) -> None:
    plan = light_plan(tmp_path, runs=10)
    expected = straight(plan, tmp_path / "here").experiment_digest
    for workers in (1, 2, 3):
        place = tmp_path / str(workers)
        summary = conduct(plan, place, LocalEngine(workers), perform, quiet)
        assert (summary.experiment_digest, summary.done_runs) == (expected, 33)
        # No process of it is left.
        assert not psutil.Process().children(recursive=True) or until(lambda: not workers_of(psutil.Process()))


def workers_of(process: psutil.Process) -> list[psutil.Process]:
    return [each for each in process.children(recursive=True) if "spawn_main" in " ".join(command_of(each))]


def command_of(process: psutil.Process) -> Sequence[str]:
    try:
        return process.cmdline() if process.status() != psutil.STATUS_ZOMBIE else []
    except psutil.NoSuchProcess:
        return []


def test_few_batches_are_taken_ahead(tmp_path: Path) -> None:
    from twin.experiment.conduct import _batches, jobs_of

    taken = 0

    def counted() -> Iterator[Sequence[engines.Job]]:
        nonlocal taken
        for batch in _batches(jobs_of(light_plan(tmp_path, runs=100), "", {}), 1):
            taken += 1
            yield batch

    ready = LocalEngine(1).outcomes(perform, counted())
    for got in range(1, 10):
        assert len(next(ready)) == 1
        assert taken <= got + 1
    ready.close()
    assert until(lambda: not workers_of(psutil.Process()))


def test_batches_are_as_large_as_their_ticks_say_and_kicked_jobs_alone(tmp_path: Path) -> None:
    from twin.experiment.conduct import _batches, jobs_of

    plan = light_plan(tmp_path, runs=3, kicked=2)
    sizes = [(len(batch), batch[0].kicks is None) for batch in _batches(jobs_of(plan, "", {}), 4)]
    assert sizes == [(4, True), (4, True), (1, True), *[(1, False)] * 6]


def test_no_workers_are_refused() -> None:
    with pytest.raises(ValueError, match="0 workers; at least 1"):
        LocalEngine(0)


# --- what goes wrong ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", [HereEngine(), LocalEngine(2)], ids=["here", "local"])
def test_what_a_job_raises_is_told_with_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: engines.Engine
) -> None:
    plan = light_plan(tmp_path, runs=10, ticks=100_000)
    expected = straight(plan, tmp_path / "straight").experiment_digest
    number = plan.order()[17]
    candidate = plan.candidates[number % 3].name
    monkeypatch.setenv(RAISES, str(number))
    seed = 1 + number // 3
    with pytest.raises(JobError) as caught:
        conduct(plan, tmp_path / "out", engine, perform, quiet)
    told = str(caught.value)
    assert (
        f"job {number} ({candidate}, seed {seed}) raised LookupError: nothing at {seed} (light_jobs.py, line " in told
    )
    assert "what was done is saved" in told
    # What came back before is kept, and the rest is done once the cause is mended.
    before = done_in(tmp_path)
    assert before >= 12
    monkeypatch.delenv(RAISES)
    summary = conduct(plan, tmp_path / "out", engine, perform, quiet)
    assert summary.experiment_digest == expected
    assert summary.done_runs == 33 - before


def test_workers_that_always_die(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DIES, "all")
    plan = light_plan(tmp_path, runs=10)
    with pytest.raises(EngineError) as caught:
        conduct(plan, tmp_path / "out", LocalEngine(1), perform, quiet)
    told = str(caught.value)
    assert f"died {DEATHS_IN_A_ROW + 1} times, {DEATHS_IN_A_ROW + 1} in a row without a result" in told
    assert "--workers takes fewer" in told
    assert "run the same command again" in told
    assert until(lambda: not workers_of(psutil.Process()))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_job_that_kills_its_process_keeps_no_other_from_being_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    plan = light_plan(tmp_path, runs=10, ticks=100_000)
    expected = straight(plan, tmp_path / "straight").experiment_digest
    number = plan.order()[3]
    monkeypatch.setenv(DIES, str(number))
    with pytest.raises(EngineError, match=rf"in a row without a result, the last time at job {number} \(") as caught:
        conduct(plan, tmp_path / "out", LocalEngine(workers), perform, quiet)
    assert str(caught.value).count("job ") == 1
    assert done_in(tmp_path) == 32
    monkeypatch.delenv(DIES)
    summary = conduct(plan, tmp_path / "out", LocalEngine(workers), perform, quiet)
    assert (summary.done_runs, summary.experiment_digest) == (1, expected)


def test_what_was_finished_when_a_process_died_counts(tmp_path: Path) -> None:
    # One worker dies again and again, but something comes back in between: that is no reason to give up.
    plan = light_plan(tmp_path, runs=40, ticks=100_000)
    kills = 0
    chance = random.Random(4)

    def kill(done: int, here: int, ticks: int) -> None:
        nonlocal kills
        workers = workers_of(psutil.Process())
        if workers and kills < 2 * DEATHS_IN_A_ROW and here:
            chance.choice(workers).kill()
            kills += 1

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("twin.experiment.conduct.COMMIT_SECONDS", 0.0)
        summary = conduct(plan, tmp_path / "out", LocalEngine(1), perform, kill)
    assert kills == 2 * DEATHS_IN_A_ROW
    assert summary.experiment_digest == straight(plan, tmp_path / "straight").experiment_digest
    whole_and_once(tmp_path, 120, 123)


def test_a_process_that_dies_in_the_middle_of_its_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(BULK, "2000000")
    monkeypatch.setattr("twin.experiment.conduct.COMMIT_SECONDS", 0.0)
    plan = light_plan(tmp_path, runs=4, ticks=100_000, kicked=0)
    expected = straight(plan, tmp_path / "straight").experiment_digest
    kills = 0

    def kill(done: int, here: int, ticks: int) -> None:
        nonlocal kills
        if here and kills < 4:
            # Nobody reads meanwhile, and a pipe holds less than an answer: all of them are in the middle of it.
            time.sleep(0.3)
            for worker in workers_of(psutil.Process()):
                worker.kill()
                kills += 1

    summary = conduct(plan, tmp_path / "out", LocalEngine(2), perform, kill)
    assert kills >= 4
    assert (summary.done_runs, summary.experiment_digest) == (12, expected)


# --- signals --------------------------------------------------------------------------------------------------------


def test_no_process_outlives_a_killed_experiment(tmp_path: Path) -> None:
    light_plan(tmp_path, runs=100, ticks=100_000)
    for moment in (0.0, 0.1):
        with started(tmp_path, workers=2, wait_ms=200) as parent:
            process = psutil.Process(parent.pid)
            assert until(lambda process=process: len(workers_of(process)) == 2)
            if moment:
                before = done_in(tmp_path)
                assert until(lambda before=before: done_in(tmp_path) > before)
            family = process.children(recursive=True)
            parent.kill()
            parent.wait()
        gone, alive = psutil.wait_procs(family, timeout=20)
        assert not alive, [each.cmdline() for each in alive]
        assert len(gone) >= 2


def test_an_interrupt_of_the_whole_group_keeps_what_is_done(tmp_path: Path) -> None:
    plan = light_plan(tmp_path, runs=30, ticks=100_000)
    expected = straight(plan, tmp_path / "straight").experiment_digest
    with started(tmp_path, workers=2, wait_ms=30) as parent:
        assert until(lambda: done_in(tmp_path) > 0)
        family = psutil.Process(parent.pid).children(recursive=True)
        os.killpg(parent.pid, signal.SIGINT)
        _, told = parent.communicate(timeout=60)
    assert parent.returncode == 130
    # Only the parent says anything: no worker prints a traceback of its own.
    assert told == "interrupted\n"
    assert not psutil.wait_procs(family, timeout=20)[1]
    before = done_in(tmp_path)
    assert 0 < before < 93
    summary = conduct(plan, tmp_path / "out", HereEngine(), perform, quiet)
    assert summary.done_runs == 93 - before
    assert summary.experiment_digest == expected


def test_an_interrupt_while_processes_start_is_theirs_to_ignore(tmp_path: Path) -> None:
    light_plan(tmp_path, runs=30)
    with started(tmp_path, workers=2, wait_ms=30) as parent:
        process = psutil.Process(parent.pid)
        assert until(lambda: bool(workers_of(process)))
        os.killpg(parent.pid, signal.SIGINT)
        _, told = parent.communicate(timeout=60)
    assert (parent.returncode, told) == (130, "interrupted\n")


def test_kills_at_random_lose_nothing_and_do_nothing_twice(tmp_path: Path) -> None:
    seed = random.randrange(10**6) if NIGHTLY else 7
    print(f"seed {seed}, {KILLS} kills")
    chance = random.Random(seed)
    runs = 40 * max(1, KILLS // 50)
    plan = light_plan(tmp_path, runs=runs)
    jobs = 3 * runs + 3
    expected = straight(plan, tmp_path / "straight").experiment_digest
    kills = parents = given_up = 0
    digest = ""
    while not digest:
        with started(tmp_path, workers=2, wait_ms=20 + chance.randrange(20)) as parent:
            process = psutil.Process(parent.pid)
            lives = chance.randrange(1, 7)
            while parent.poll() is None and kills < KILLS:
                time.sleep(chance.random() * 0.5)
                workers = workers_of(process)
                if lives == 0:
                    parent.kill()
                    parents += 1
                    kills += 1
                elif workers:
                    lives -= 1
                    kills += 1
                    try:
                        chance.choice(workers).kill()
                    except psutil.NoSuchProcess:
                        kills -= 1
            out, err = parent.communicate()
        assert parent.returncode in (0, 3, -signal.SIGKILL), err
        if parent.returncode == 3:
            # Too many deaths in a row: it says so, and goes on with the next command.
            assert "run the same command again" in err
            given_up += 1
        digest = out.strip() if parent.returncode == 0 else ""
        if digest and kills < KILLS:
            # Done before all kills were dealt: begin anew, with what is left of them.
            whole_and_once(tmp_path, 3 * runs, jobs)
            assert digest == expected
            for path in (tmp_path / "out").iterdir():
                path.unlink()
            digest = ""
    print(f"{kills} kills, {parents} of them of the parent; it gave up {given_up} times")
    assert digest == expected
    assert parents >= KILLS // 20
    whole_and_once(tmp_path, 3 * runs, jobs)
