"""The one loop: read, tick, decide, shield, apply, record, wait.

It does not know which machine it runs on. The environment decides how to wait, the hardware what is read and what
becomes of a command, the recorder what is kept.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Mapping
from typing import Protocol

from simpy import Event

from hardware.interface import Command, Hardware
from twin.clock import EndOfRecording, Order, TwinEnvironment
from twin.control.cycle import Cycle
from twin.control.shield import Shield
from twin.control.signals import Signals
from twin.control.view import SOURCES, Controller, Decision, Learned, Learner, View
from twin.heart.heartbeat import Heartbeat, Words
from twin.kernels import Integers
from twin.scenario import ACTIONS, Scenario
from twin.telemetry import Watcher

log = logging.getLogger("twin")

_PLAIN = frozenset((str,))
_MOST = (1 << 63) - 1
"""The largest number that the record holds."""


class Recorder(Protocol):
    """Keeps what the loop hands it."""

    def ticks(self, captured: Integers) -> None:
        """Heartbeat ticks: shape COLUMNS x ticks, in the columns of `twin.heart.ticks`; a view, to be copied."""

    def cycle(self, cycle: Cycle) -> None:
        """One control cycle."""


class Loop:
    """One run of one controller on one machine. `run` may be called once."""

    def __init__(
        self,
        env: TwinEnvironment,
        hardware: Hardware,
        scenario: Scenario,
        controller: Controller,
        recorder: Recorder,
        words: Words | None = None,
        watcher: Watcher | None = None,
    ) -> None:
        """`words` is where the heartbeat's words live (memory of its own when left out)."""
        self.env = env
        self.hardware = hardware
        self.heart = Heartbeat(scenario.heartbeat, scenario.seed, words, scenario.ticks)
        self.missed_cycles = 0
        self._controller = controller
        self._learner: Learner | None = controller if isinstance(controller, Learner) else None
        self._recorder = recorder
        self._watcher = watcher
        self._last_tick: Integers | None = None
        self._signals = Signals(scenario, hardware.sensors)
        self._sensors = len(scenario.machine.sensors)
        self._shield = Shield(scenario, hardware.limits)
        self._period_ns = scenario.control.period_ms * 1_000_000
        self._duration_ns = scenario.duration_ms * 1_000_000
        self._next_cycle_ns = 0
        self._stop = False
        self._over: Event = env.event()
        self._failure: BaseException | None = None
        self._complaints = 0

    def stop(self) -> None:
        """End the run cleanly before its next control cycle. Safe to call from a signal handler."""
        self._stop = True

    def run(self) -> bool:
        """Run to the scenario's end. Returns False when it was stopped, or its recording ended, before that.

        Whatever happens, the hardware is closed; what went wrong is raised after that.
        """
        self.env.process(self._guard(self.heart.beat(self.env, self._next_input, self._flush)))
        self.env.process(self._guard(self._control()))
        end = self.env.at(self._duration_ns, Order.END)
        assert end.callbacks is not None
        end.callbacks.append(lambda _: self._finish())
        try:
            self.env.run(until=self._over)
            if self._failure is None or isinstance(self._failure, EndOfRecording):
                self._flush()
        finally:
            self.hardware.close()
        if self._failure is not None and not isinstance(self._failure, EndOfRecording):
            raise self._failure
        return self._failure is None and not self._stop

    def _next_input(self) -> int:
        return min(self._next_cycle_ns, self._duration_ns)

    def _finish(self) -> None:
        if not self._over.triggered:
            self._over.succeed()

    def _guard(self, process: Generator[Event, None, None]) -> Generator[Event, None, None]:
        try:
            yield from process
        except Exception as error:  # handed on by `run`, once the hardware is closed
            self._failure = error
        self._finish()

    def _flush(self) -> None:
        if self.heart.captured.shape[1]:
            self._recorder.ticks(self.heart.captured)
            if self._watcher is not None:
                self._last_tick = self.heart.captured[:, -1].copy()
            self.heart.clear()

    def _control(self) -> Generator[Event, None, None]:
        number = 0
        due_ns = 0
        while True:
            yield self.env.at(due_ns, Order.CONTROL)
            if self._stop:
                return
            wake = self.env.control_wake(number)
            readings = self.hardware.read()
            view = self._signals.see(number, due_ns, wake, readings)
            decision = self._decide(view)
            verdict = self._shield.project(view, decision.command)
            applied = self.hardware.apply(Command(verdict.values))
            # What is not needed for the command comes after it.
            self.heart.feed(view.words_offered_per_second, view.cpu_load_ppm)
            self._signals.commanded(applied.values)
            learned = self._learned(applied.values, bool(verdict.changed or verdict.failsafe))
            # The ticks of before come first in the log, as they came first in time.
            self._flush()
            cycle = Cycle(number, due_ns, wake, readings, view, decision, verdict, applied, learned)
            self._recorder.cycle(cycle)
            if self._watcher is not None:
                self._watcher.cycle(cycle, self._last_tick)
            missed = wake.lateness_ns // self._period_ns
            self.missed_cycles += missed
            due_ns += self._period_ns * (1 + missed)
            number += 1
            self._next_cycle_ns = due_ns

    def _decide(self, view: View) -> Decision:
        """Ask the controller; whatever it does wrong becomes an empty command, which the shield answers with safety."""
        try:
            decision = _plain(self._controller.decide(view))
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            self._complain(error)
            return Decision("conservative", "failsafe", f"the controller raised {type(error).__name__}", {})
        if decision.action not in ACTIONS or decision.source not in SOURCES:
            reason = f"the controller answered action {decision.action!r} from {decision.source!r}, unknown here"
            return Decision("conservative", "failsafe", reason, {})
        return decision

    def _learned(self, values: Mapping[str, int], held_back: bool) -> Learned | None:
        """Tell a controller that learns what became of its decision. What it raises costs only what it would tell."""
        if self._learner is None:
            return None
        try:
            return _checked(self._learner.executed(values, held_back), self._sensors)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            self._complain(error, "nothing is told of this cycle")
            return None

    def _complain(self, error: BaseException, so: str = "the shield cools fully") -> None:
        self._complaints += 1
        if self._complaints == 1:
            log.error("the controller raised %s; %s, and it goes on", type(error).__name__, so, exc_info=error)


def _plain(answer: object) -> Decision:
    """A copy of a controller's answer in plain types, which nobody else can change.

    Raises `TypeError` or `ValueError` for what is no decision, no mapping, or no text that can be written down.
    """
    if not isinstance(answer, Decision):
        raise TypeError(f"decide() answered {type(answer).__name__}; a Decision is needed")
    command = dict(answer.command)
    texts = (answer.action, answer.source, answer.reason)
    # As a rule they are; asking each by itself takes longer.
    if _PLAIN.issuperset(map(type, (*texts, *command))) and "".join((*texts, *command)).isascii():
        return Decision(*texts, command)
    command = {_text(name): value for name, value in command.items()}
    return Decision(_text(answer.action), _text(answer.source), _text(answer.reason), command)


def _checked(answer: object, sensors: int) -> Learned | None:
    """What a controller tells about a cycle, if the record can hold it. None, too: there is nothing to tell.

    Raises `TypeError` or `ValueError` for anything else.
    """
    if answer is None:
        return None
    if type(answer) is not Learned:
        raise TypeError(f"executed() answered {type(answer).__name__}; a Learned, or None, is needed")
    texts = (answer.proposed, answer.executed, answer.weights, answer.note)
    if not (_PLAIN.issuperset(map(type, texts)) and "".join(texts).isascii()):
        raise ValueError("executed() answered with texts that are none, or not plain")
    forecast = answer.forecast_millicelsius
    if type(forecast) is not tuple or len(forecast) != sensors:
        raise ValueError(f"executed() answered with a forecast that has no entry for each of {sensors} sensors")
    for number in (answer.authority_percent, answer.reward_micro, answer.anomaly_micro, *forecast):
        if number is not None and not (type(number) is int and -_MOST <= number <= _MOST):
            raise ValueError("executed() answered with a number that the record cannot hold")
    return answer


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} stands where a text is needed")
    # A slice of a subclass of str is a plain str; encoding raises for half a letter.
    plain: str = value[:]
    plain.encode()
    return plain
