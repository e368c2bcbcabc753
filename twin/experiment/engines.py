"""Where jobs are done: in processes of this machine, or on a Dask cluster, behind one small interface.

An engine takes batches of jobs and gives their outcomes in whatever order they are ready. Whatever happens to a process
that works for it, each batch comes out once, or `EngineError` says why it cannot.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
import traceback
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from multiprocessing import get_context, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType
from typing import Protocol, cast

from twin.experiment.jobs import Job, Outcome, Perform, package_version

Batch = Sequence[Job]
DEATHS_MOST = 1_000
"""Processes that may die while an experiment is done before something must be wrong with it."""
DEATHS_IN_A_ROW = 5
"""Deaths without a single outcome between them, where one process works; one more for each that works beside it."""
_PR_SET_PDEATHSIG = 1


class EngineError(Exception):
    """An engine that cannot go on. What is done is done: the same command goes on from there."""


class Engine(Protocol):
    """Does jobs."""

    def outcomes(self, perform: Perform, batches: Iterator[Batch]) -> Generator[list[Outcome]]:
        """The outcomes of each batch, in the order in which they are ready. Few batches are taken ahead of time."""


class JobError(Exception):
    """A job that raised something: which one it is, and what that was. It would do so again."""


def batch_done(perform: Perform, batch: Batch) -> list[Outcome]:
    """Do the jobs of a batch, in a process of an engine. Raises `JobError`."""
    return [_done(perform, job) for job in batch]


def _done(perform: Perform, job: Job) -> Outcome:
    if job.code not in ("", package_version()):
        raise JobError(
            f"the process that was to do job {job.number} has other sources of pulsetwin than the one that handed it "
            "out; install the same on all machines, and change none while an experiment runs. What was done is saved"
        )
    try:
        return perform(job)
    except Exception as error:
        # Only the words: not every exception can go from process to process.
        where = traceback.extract_tb(error.__traceback__)[-1]
        raise JobError(
            f"job {job.number} ({job.candidate}, seed {job.scenario.seed}) raised {type(error).__name__}: {error} "
            f"({Path(where.filename).name}, line {where.lineno}); what was done is saved; run the same command again "
            "once the cause is mended"
        ) from None


class HereEngine:
    """Does jobs in this process, one after another."""

    def outcomes(self, perform: Perform, batches: Iterator[Batch]) -> Generator[list[Outcome]]:
        """As `Engine.outcomes`."""
        for batch in batches:
            yield batch_done(perform, batch)


class LocalEngine:
    """Does jobs in `workers` processes of this machine. One that dies is replaced, and its batch done again.

    Each process has a pipe of its own, of which nobody else has an end: however it dies, and in the middle of whatever
    message, the pipe ends with it, and no other process waits for a lock that it held.
    """

    def __init__(self, workers: int) -> None:
        if workers < 1:
            raise ValueError(f"{workers} workers; at least 1 is needed")
        self.workers = workers

    def outcomes(self, perform: Perform, batches: Iterator[Batch]) -> Generator[list[Outcome]]:
        """As `Engine.outcomes`. Raises `EngineError` when processes keep dying, and `JobError`."""
        again: deque[Batch] = deque()
        busy: dict[Connection, tuple[BaseProcess, Batch]] = {}
        idle: list[tuple[Connection, BaseProcess]] = []
        done: list[list[Outcome]] = []
        deaths = in_a_row = 0
        try:
            while True:
                if deaths > DEATHS_MOST or in_a_row >= DEATHS_IN_A_ROW + self.workers:
                    yield from done
                    raise EngineError(
                        f"processes of the experiment died {deaths} times, {in_a_row} in a row without a result, "
                        f"the last time at {_names(again)}; is there enough memory (--workers takes fewer), or is "
                        "somebody killing them? What was done is saved, run the same command again to go on"
                    )
                while len(busy) < self.workers:
                    # What a process died of comes last, so that a job that kills it keeps no other from being done.
                    batch = next(batches, None) or (again.popleft() if again else None)
                    if batch is None:
                        break
                    pipe, process = idle.pop() if idle else _started()
                    busy[pipe] = process, batch
                    with contextlib.suppress(OSError):  # A process that has died is noticed below.
                        pipe.send((perform, batch))
                # Only now, so that nobody waits for work while what is done is being kept.
                yield from done
                if not busy:
                    return
                done = []
                for pipe in cast("list[Connection]", wait(list(busy))):
                    process, batch = busy.pop(pipe)
                    try:
                        answer = pipe.recv()
                    except (EOFError, OSError):
                        _ended(pipe, process)
                        again.append(batch)
                        deaths += 1
                        in_a_row += 1
                        continue
                    idle.append((pipe, process))
                    in_a_row = 0
                    if isinstance(answer, str):
                        raise JobError(answer)
                    done.append(answer)
        finally:
            family = [*idle, *((pipe, process) for pipe, (process, _) in busy.items())]
            for _, process in family:
                process.terminate()
            for pipe, process in family:
                _ended(pipe, process)


def _started() -> tuple[Connection, BaseProcess]:
    """A new process, and our end of its pipe."""
    # A spawned process shares no lock and no descriptor with this one, whose threads it could not know.
    context = get_context("spawn")
    ours, its = context.Pipe()
    process = context.Process(target=_work, args=(its, os.getpid()), daemon=True)
    with _no_main(), _interrupts_held():
        process.start()
    its.close()
    return ours, process


def _ended(pipe: Connection, process: BaseProcess) -> None:
    """Wait for a process that ends, and let go of it."""
    pipe.close()
    process.join(5)
    if process.is_alive():
        process.kill()
        process.join()
    process.close()


def _work(pipe: Connection, parent: int) -> None:
    """Do batches as long as somebody asks: each is answered by its outcomes, or by what one of its jobs raised."""
    _in_worker(parent)
    with contextlib.suppress(EOFError, OSError):
        while True:
            perform, batch = pipe.recv()
            try:
                answer: list[Outcome] | str = batch_done(perform, batch)
            except JobError as error:
                answer = str(error)
            pipe.send(answer)


def _names(batches: Iterable[Batch], most: int = 4) -> str:
    """The first jobs of these, for people."""
    jobs = [f"job {job.number} ({job.candidate}, seed {job.scenario.seed})" for batch in batches for job in batch]
    return ", ".join(jobs[:most]) + (", ..." if len(jobs) > most else "")


@contextlib.contextmanager
def _no_main() -> Iterator[None]:
    """Processes that are started in here do not import the program's main script, which needs no guard therefore."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """A process that is started meanwhile does not hear an interrupt; this one hears it at the end."""
    # The first process started brings this one along, which lets interrupts through again.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    # Another thread, a library's say, may take the signal all the same; this one would be interrupted by it.
    heard: list[int] = []
    here = threading.current_thread() is threading.main_thread()
    handler = signal.signal(signal.SIGINT, lambda number, _: heard.append(number)) if here else None
    try:
        yield
    finally:
        if here:
            signal.signal(signal.SIGINT, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if heard:
            signal.raise_signal(signal.SIGINT)


def _in_worker(parent: int) -> None:
    """A worker leaves an interrupt to its parent, and dies with it, however that ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
