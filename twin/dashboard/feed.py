"""The loop's side of the page: each control cycle's record is sent, and forgotten.

`twin.dashboard.live` is the other end, and has the kinds of messages.
"""

from __future__ import annotations

import logging
import marshal
import select
import shlex
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from hardware.interface import Channel
from twin.control.cycle import Cycle
from twin.dashboard.live import ABOUT, END, RECORD
from twin.dashboard.runs import About, State
from twin.kernels import Integers
from twin.record.recorder import control_columns, control_row
from twin.telemetry import TICK_FIELDS

log = logging.getLogger("twin")

END_SECONDS = 0.2
"""So long a page that takes nothing is waited for when the run is over."""
_TICK_COLUMNS = tuple(TICK_FIELDS.values())

Insight = Mapping[str, Mapping[str, float | None]]


def columns(channels: tuple[Channel, ...], outputs: tuple[str, ...], sensors: tuple[str, ...]) -> tuple[str, ...]:
    """The columns of a record: those of the control table, then the last tick's."""
    return (*(column.name for column in control_columns(channels, outputs, sensors)), *TICK_FIELDS)


class Feed:
    """A watcher of a loop, which never makes it wait: what the page has no room for is dropped, and counted."""

    def __init__(
        self,
        channel: socket.socket,
        about: About,
        insight: Callable[[], Insight | None] | None = None,
        waits: bool = False,
    ) -> None:
        """`channel` keeps the bounds of what is sent in it (SOCK_SEQPACKET); `insight` asks the learner.

        A loop that makes a run again has nobody to hurry for, so its feed `waits` for room.
        """
        channel.setblocking(waits)
        self._channel = channel
        self._outputs: Sequence[str] = [output.name for output in about.outputs]
        self._sensors = len(about.sensors)
        self._insight = insight
        self._run_dir = about.run_dir
        self.dropped = 0
        """Records that the page had no room for."""
        self.state: State = "stopped"
        """How the run comes out, as far as is known."""
        self.over = False
        """Nobody is there any more."""
        self._send((ABOUT, asdict(about)))

    def cycle(self, cycle: Cycle, tick: Integers | None) -> None:
        """Send the record of a cycle."""
        if self.over:
            return
        try:
            row = control_row(cycle, self._outputs, self._sensors)
            if tick is None:
                row += [None] * len(_TICK_COLUMNS)
            else:
                values = tick.tolist()
                row += [values[column] for column in _TICK_COLUMNS]
            self._send((RECORD, self.dropped, row, self._thought()))
        except Exception as error:  # whatever is wrong with the page is nothing to the run
            self._lose(f"the page gets no more records: {type(error).__name__}: {error}")

    def end(self) -> bool:
        """Say how the run came out, and close. Waits a moment for a page that is behind; False if it took nothing."""
        told = True
        try:
            if not self.over and not self._send((END, self.state)):
                poll = select.poll()
                poll.register(self._channel, select.POLLOUT)
                poll.poll(END_SECONDS * 1_000)
                told = self._send((END, self.state))
        finally:
            self.over = True
            self._channel.close()
        return told

    def _thought(self) -> Insight | None:
        """What the learner thinks. One that cannot tell is not asked again."""
        if self._insight is None:
            return None
        try:
            return self._insight()
        except Exception as error:  # whatever is wrong with the learner, the record is told
            log.warning("the learner cannot tell what it thinks: %s: %s", type(error).__name__, error)
            self._insight = None
            return None

    def _send(self, message: tuple[Any, ...]) -> bool:
        """Whether there was room for it."""
        try:
            self._channel.send(marshal.dumps(message))
        except BlockingIOError:
            self.dropped += 1
            return False
        except OSError as error:
            self._lose(f"the page is gone ({error.strerror}), run.log says why; the run goes on without it, and "
                       f"twin dashboard {shlex.quote(self._run_dir)} shows it")  # fmt: skip
        return True

    def _lose(self, why: str) -> None:
        if not self.over:
            self.over = True
            log.warning("%s", why)
