"""Frames: started at a rate, made by one CPU core and then by the GPU, at most `frame_queue` of them under way.

A stage's time is the frame's cycles over the clock at the moment the stage begins. A frame that finds the queue full
starts as soon as one leaves it; the next one is due a period after that, so that nothing is caught up on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from simpy import Event

from twin.clock import Order, TwinEnvironment
from twin.kernels import Stream
from twin.scenario import Phase
from twin.timing import SECOND_NS


@dataclass(slots=True)
class Frame:
    """A frame under way: when it started, and its cost in cycles of each processor."""

    started_ns: int
    cpu_cycles: int
    gpu_cycles: int


class Stage:
    """One server with a queue: makes frames one after the other at the `kilohertz` it has when it begins each."""

    def __init__(
        self, env: TwinEnvironment, cycles: Callable[[Frame], int], done: Callable[[Frame], None], kilohertz: int
    ) -> None:
        self.kilohertz = kilohertz
        self._env = env
        self._cycles = cycles
        self._done = done
        self._waiting: deque[Frame] = deque()
        self._current: Frame | None = None
        self._since_ns = 0
        self._busy_ns = 0

    def put(self, frame: Frame) -> None:
        """Begin `frame`, or let it wait its turn."""
        if self._current is None:
            self._begin(frame)
        else:
            self._waiting.append(frame)

    def take_busy_ns(self) -> int:
        """How long the stage was busy since the last call."""
        busy_ns = self._busy_ns
        self._busy_ns = 0
        if self._current is not None:
            now_ns = int(self._env.now)
            busy_ns += now_ns - self._since_ns
            self._since_ns = now_ns
        return busy_ns

    def _begin(self, frame: Frame) -> None:
        self._current = frame
        self._since_ns = int(self._env.now)
        # A cycle at one kilohertz takes a million nanoseconds.
        finished = self._env.after(self._cycles(frame) * 1_000_000 // self.kilohertz, Order.WORLD)
        finished.callbacks.append(self._finish)

    def _finish(self, _event: Event) -> None:
        frame = self._current
        assert frame is not None
        self._busy_ns += int(self._env.now) - self._since_ns
        self._current = None
        if self._waiting:
            self._begin(self._waiting.popleft())
        self._done(frame)


class FramePipeline:
    """Frames of the phase at hand, and how many came out and how late over the last second.

    `stream` varies their costs (two draws a frame), `limit` is how many may be under way. Without a GPU the second
    stage is left out.
    """

    def __init__(
        self, env: TwinEnvironment, stream: Stream, limit: int, cpu_kilohertz: int, gpu_kilohertz: int | None
    ) -> None:
        self._env = env
        self._stream = stream
        self._limit = limit
        self.cpu = Stage(env, lambda frame: frame.cpu_cycles, self._rendered, cpu_kilohertz)
        self.gpu = Stage(env, lambda frame: frame.gpu_cycles, self._completed, gpu_kilohertz or 1)
        self._gpu_enabled = gpu_kilohertz is not None
        self._active = False
        self._period_ns = SECOND_NS
        self._cpu_cycles = 0
        self._gpu_cycles = 0
        self._jitter_ppm = 0
        self._timer: Event | None = None
        self._due = False
        self._under_way = 0
        self._completions: deque[tuple[int, int]] = deque()
        self.completed = 0
        """All frames since the start."""
        self._latencies_ns = 0

    def begin(self, phase: Phase) -> None:
        """From now on frames are started as `phase` says; the first one now. Frames under way are finished."""
        self._timer = None
        self._due = False
        self._active = phase.frames_per_second > 0
        if not self._active:
            return
        self._cpu_cycles = int(phase.frame_cpu_megacycles * 1e6 + 0.5)
        self._gpu_cycles = int(phase.frame_gpu_megacycles * 1e6 + 0.5)
        self._jitter_ppm = int(phase.frame_jitter * 1_000_000 + 0.5)
        self._period_ns = SECOND_NS // phase.frames_per_second
        self._arm(0)

    def take_busy_ns(self) -> tuple[int, int]:
        """How long the CPU's and the GPU's stage were busy since the last call."""
        return self.cpu.take_busy_ns(), self.gpu.take_busy_ns()

    def shown(self) -> tuple[int | None, int | None]:
        """Frames completed over the last second, in millihertz, and their mean time under way, in microseconds.

        Both are None in a phase without frames, and the second when none was completed.
        """
        if not self._active:
            return None, None
        self._forget_old(int(self._env.now))
        count = len(self._completions)
        return count * 1000, self._latencies_ns // count // 1000 if count else None

    def _forget_old(self, now_ns: int) -> None:
        """Drop the completions that are a second old; `_latencies_ns` is the sum over the others."""
        completions = self._completions
        while completions and completions[0][0] <= now_ns - SECOND_NS:
            self._latencies_ns -= completions.popleft()[1]

    def _arm(self, delay_ns: int) -> None:
        self._timer = self._env.after(delay_ns, Order.WORLD)
        self._timer.callbacks.append(self._tick)

    def _tick(self, event: Event) -> None:
        # A timer of a phase that is over is not the current one.
        if event is not self._timer:
            return
        if self._under_way < self._limit:
            self._start()
        else:
            self._due = True

    def _start(self) -> None:
        self._due = False
        self._under_way += 1
        self._arm(self._period_ns)
        cpu_cycles = self._vary(self._cpu_cycles)
        gpu_cycles = self._vary(self._gpu_cycles)
        self.cpu.put(Frame(int(self._env.now), cpu_cycles, gpu_cycles))

    def _vary(self, cycles: int) -> int:
        # The draw, taken as a fraction from -1 to 1 of 2^31, times the jitter in ppm.
        return cycles + (cycles * self._jitter_ppm * (self._stream.next32() - (1 << 31)) >> 31) // 1_000_000

    def _rendered(self, frame: Frame) -> None:
        if self._gpu_enabled:
            self.gpu.put(frame)
        else:
            self._completed(frame)

    def _completed(self, frame: Frame) -> None:
        now_ns = int(self._env.now)
        latency_ns = now_ns - frame.started_ns
        self.completed += 1
        self._completions.append((now_ns, latency_ns))
        self._latencies_ns += latency_ns
        self._forget_old(now_ns)
        self._under_way -= 1
        if self._due:
            self._start()
