"""Where jobs are done: in processes of this machine, or on a Dask cluster, behind one small interface.

An engine takes batches of jobs and gives their outcomes in whatever order they are ready. Whatever happens to a process
that works for it, each batch comes out once, or `EngineError` says why it cannot.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Protocol

from twin.experiment.jobs import Job, Outcome, Perform

Batch = Sequence[Job]
DEATHS_MOST = 1_000
"""Processes that may die while an experiment is done before something must be wrong with it."""
DEATHS_IN_A_ROW = 5
"""Deaths without a single outcome between them."""
_PR_SET_PDEATHSIG = 1


class EngineError(Exception):
    """An engine that cannot go on. What is done is done: the same command goes on from there."""


class Engine(Protocol):
    """Does jobs."""

    def outcomes(self, perform: Perform, batches: Iterator[Batch]) -> Iterator[list[Outcome]]:
        """The outcomes of each batch, in the order in which they are ready. Few batches are taken ahead of time."""


def batch_done(perform: Perform, batch: Batch) -> list[Outcome]:
    """Do the jobs of a batch, in a process of an engine."""
    return [perform(job) for job in batch]


class HereEngine:
    """Does jobs in this process, one after another."""

    def outcomes(self, perform: Perform, batches: Iterator[Batch]) -> Iterator[list[Outcome]]:
        """As `Engine.outcomes`."""
        for batch in batches:
            yield batch_done(perform, batch)


class LocalEngine:
    """Does jobs in `workers` processes of this machine. One that dies is replaced, and its batch done again."""

    def __init__(self, workers: int) -> None:
        if workers < 1:
            raise ValueError(f"{workers} workers; at least 1 is needed")
        self.workers = workers

    def outcomes(self, perform: Perform, batches: Iterator[Batch]) -> Iterator[list[Outcome]]:
        """As `Engine.outcomes`. Raises `EngineError` when processes keep dying."""
        again: list[Batch] = []
        deaths = in_a_row = 0
        while True:
            waiting: dict[Future[list[Outcome]], Batch] = {}
            # Spawned processes share no lock and no descriptor with this one, whose threads they could not know.
            context = get_context("spawn")
            pool = ProcessPoolExecutor(self.workers, context, initializer=_in_worker, initargs=(os.getpid(),))
            try:
                while True:
                    while len(waiting) < 2 * self.workers:
                        batch = again.pop() if again else next(batches, None)
                        if batch is None:
                            break
                        try:
                            waiting[pool.submit(batch_done, perform, batch)] = batch
                        except BrokenProcessPool:
                            again.append(batch)
                            raise
                    if not waiting:
                        return
                    ready, _ = wait(waiting, return_when=FIRST_COMPLETED)
                    for future in ready:
                        done = future.result()
                        del waiting[future]
                        in_a_row = 0
                        yield done
            except BrokenProcessPool as error:
                deaths += 1
                in_a_row += 1
                if deaths > DEATHS_MOST or in_a_row > DEATHS_IN_A_ROW:
                    raise EngineError(
                        f"processes of the experiment died {deaths} times, {in_a_row} in a row without a result; is "
                        "there enough memory (--workers takes fewer), or is somebody killing them? What was done is "
                        "saved, run the same command again to go on"
                    ) from error
                # What had been finished when the pool broke is taken, and only the rest is done again.
                for future, batch in waiting.items():
                    if future.done() and not future.cancelled() and future.exception() is None:
                        yield future.result()
                    else:
                        again.append(batch)
            finally:
                _stop(pool)


def _stop(pool: ProcessPoolExecutor) -> None:
    """End the pool at once: nobody waits for what it has not finished."""
    processes = list((pool._processes or {}).values())
    pool.shutdown(wait=False, cancel_futures=True)
    for process in processes:
        with contextlib.suppress(OSError, ValueError):
            process.terminate()
    for process in processes:
        with contextlib.suppress(OSError, ValueError, AssertionError):
            process.join(5)


def _in_worker(parent: int) -> None:
    """A worker leaves an interrupt to its parent, and dies with it, however that ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
