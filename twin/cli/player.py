"""Plays a scenario's workload on the real processor, and reports what it does through the application port.

One worker process a core keeps its core busy for the asked share of every slice of 20 ms. One more process draws the
frames: each takes its share of real processor time, queues as the simulated ones do, and its rate and latency are
measured. A worker ends by itself when its parent is gone.
"""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.synchronize import Barrier
from pathlib import Path

from hardware.linux.application import PORT, write_application
from twin.cli import InputError
from twin.kernels import Stream
from twin.scenario import Phase, Scenario
from twin.timing import SECOND_NS
from twin.world.trace import TraceTable
from twin.world.workload import Change, phase_timeline, trace_timeline

SLICE_NS = 20_000_000
REPORT_NS = 50_000_000
READY_SECONDS = 60.0
ABANDONED_SECONDS = 2.0
"""A record that was not renewed for this long belongs to nobody any more."""


class _Schedule:
    """The demand at a time that only grows."""

    def __init__(self, scenario: Scenario, trace: TraceTable | None) -> None:
        if trace is None:
            self._changes: Iterator[Change] = phase_timeline(scenario.workload)
        else:
            self._changes = trace_timeline(trace, scenario.heartbeat.capacity_words_per_second)
        self.now = next(self._changes)
        self.phase: Phase | None = self.now.begins
        self._next = next(self._changes, None)

    def advance(self, elapsed_ns: int) -> None:
        """Go to `elapsed_ns` after the start."""
        while self._next is not None and self._next.at_ns <= elapsed_ns:
            self.now = self._next
            if self.now.begins is not None:
                self.phase = self.now.begins
            self._next = next(self._changes, None)


@contextmanager
def playing(scenario: Scenario, trace: TraceTable | None, root: Path) -> Iterator[None]:
    """Play while the context lasts; the application record goes below `root`, and goes away at the end.

    Begins when every worker is ready. Raises `InputError` when somebody else offers a record there, and OSError when
    none can be written.
    """
    with _only_writer(root):
        # A fresh interpreter for each worker: forking a process whose libraries run threads is not safe.
        context = multiprocessing.get_context("spawn")
        parent = os.getpid()
        cores = os.cpu_count() or 1
        ready = context.Barrier(cores + 2)
        workers = [context.Process(target=_keep_busy, args=(scenario, trace, ready, parent), daemon=True)
                   for _ in range(cores)]  # fmt: skip
        workers.append(context.Process(target=_draw_frames, args=(scenario, trace, ready, parent, root), daemon=True))
        try:
            # Workers inherit this: Ctrl-C, which reaches the whole group, is for the parent alone.
            before = signal.signal(signal.SIGINT, signal.SIG_IGN)
            try:
                for worker in workers:
                    worker.start()
            finally:
                signal.signal(signal.SIGINT, before)
            ready.wait(READY_SECONDS)
            yield
        finally:
            for worker in workers:
                if worker.pid is not None:
                    worker.terminate()
                    worker.join()


def check_port(root: Path) -> None:
    """Raise `InputError` when somebody else writes the application port below `root` now."""
    record = root / PORT
    if record.exists() and time.time() - record.stat().st_mtime < ABANDONED_SECONDS:
        raise InputError(f"--load: {record} is being written by another program or run; stop that one first")


@contextmanager
def _only_writer(root: Path) -> Iterator[None]:
    """Claim the application port, and give it back without a trace."""
    check_port(root)
    record = root / PORT
    write_application(root, 0, {})
    lock = os.open(record.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"--load: another run plays its workload through {record}; wait until it ends") from error
        try:
            yield
        finally:
            record.unlink(missing_ok=True)
    finally:
        os.close(lock)


def _keep_busy(scenario: Scenario, trace: TraceTable | None, ready: Barrier, parent: int) -> None:
    schedule = _Schedule(scenario, trace)
    ready.wait(READY_SECONDS)
    start_ns = time.monotonic_ns()
    while os.getppid() == parent:
        began = time.monotonic_ns()
        schedule.advance(began - start_ns)
        busy_until = began + SLICE_NS * schedule.now.demand.cpu_ppm // 1_000_000
        while time.monotonic_ns() < busy_until:
            pass
        left = began + SLICE_NS - time.monotonic_ns()
        if left > 0:
            time.sleep(left / SECOND_NS)


def _draw_frames(scenario: Scenario, trace: TraceTable | None, ready: Barrier, parent: int, root: Path) -> None:
    schedule = _Schedule(scenario, trace)
    costs = Stream(scenario.seed, "player.frames")
    fastest_megahertz = scenario.machine.cpu.frequencies_kilohertz[-1] / 1_000
    done: deque[tuple[int, int]] = deque()
    queue: deque[int] = deque()
    next_frame_ns = next_report_ns = 0
    sequence = completed = 0
    ready.wait(READY_SECONDS)
    start_ns = time.monotonic_ns()
    while os.getppid() == parent:
        elapsed = time.monotonic_ns() - start_ns
        schedule.advance(elapsed)
        phase = schedule.phase
        rate = 0 if phase is None else phase.frames_per_second
        if rate and elapsed >= next_frame_ns:
            if len(queue) < scenario.workload.frame_queue:
                queue.append(elapsed)
            next_frame_ns = max(next_frame_ns + SECOND_NS // rate, elapsed)
        if queue and phase is not None:
            jitter = phase.frame_jitter * (costs.below(2_001) - 1_000) / 1_000
            _spin(phase.frame_cpu_megacycles * (1 + jitter) / fastest_megahertz)
            finished = time.monotonic_ns() - start_ns
            completed += 1
            done.append((finished, finished - queue.popleft()))
        elapsed = time.monotonic_ns() - start_ns
        while done and done[0][0] <= elapsed - SECOND_NS:
            done.popleft()
        if elapsed >= next_report_ns:
            next_report_ns = elapsed + REPORT_NS
            sequence += 1
            record = {
                "game_state_code": schedule.now.demand.state_code,
                "words_offered_per_second": schedule.now.demand.words_per_second,
            }
            if done:
                record["frame_rate_millihertz"] = len(done) * 1_000
                record["frames_completed"] = completed
                record["frame_latency_microseconds"] = sum(latency for _, latency in done) // len(done) // 1_000
            write_application(root, sequence, record)
        if not queue:
            wake = min(next_report_ns, next_frame_ns if rate else next_report_ns)
            time.sleep(max(0, start_ns + wake - time.monotonic_ns()) / SECOND_NS)


def _spin(seconds: float) -> None:
    """Use this much processor time, however long that takes."""
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass
