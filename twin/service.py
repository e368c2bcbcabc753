"""What a service manager is told of a run: that it has begun, that its control loop goes on, and that it ends.

The protocol is systemd's (sd_notify(3), sd_watchdog_enabled(3)): datagrams to the socket that `NOTIFY_SOCKET` names.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator, Mapping

from twin.control.cycle import Cycle
from twin.kernels import Integers
from twin.loop import Recorder

SIGNS = 4
"""So many signs of life are given within the watchdog's time; a loop that is late may lose half of them."""


class ServiceError(ValueError):
    """The service manager asks for what cannot be; the message says what, and what mends it."""


class Announced:
    """A `recorder` whose cycles are the signs of life that `address` is sent, one in `every`."""

    def __init__(self, recorder: Recorder, address: str, every: int) -> None:
        self._recorder = recorder
        self._address = address
        self._every = every
        self._cycles = 0
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)

    def ticks(self, captured: Integers) -> None:
        """Handed on."""
        self._recorder.ticks(captured)

    def cycle(self, cycle: Cycle) -> None:
        """Handed on; the first one says that the run has begun."""
        self._recorder.cycle(cycle)
        if self._cycles == 0:
            self.tell(b"READY=1")
        if self._every and self._cycles % self._every == 0:
            self.tell(b"WATCHDOG=1")
        self._cycles += 1

    def tell(self, words: bytes) -> None:
        """Send it if there is room: a manager that does not listen must not hold a control cycle up."""
        with contextlib.suppress(OSError):
            self._socket.sendto(words, socket.MSG_DONTWAIT, self._address)

    def close(self) -> None:
        """Say that it is over; what comes now may take its time."""
        self.tell(b"STOPPING=1")
        self._socket.close()


@contextlib.contextmanager
def announced(recorder: Recorder, period_ms: int, environment: Mapping[str, str] = os.environ) -> Iterator[Recorder]:
    """The recorder for a loop with so long a period (ms), which tells the service manager, if there is one.

    Raises `ServiceError` for a watchdog that the loop could not feed in time.
    """
    address = environment.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        yield recorder
        return
    # A name that begins with @ is no file's.
    telling = Announced(recorder, address.replace("@", "\0", 1) if address[0] == "@" else address,
                        _every(period_ms, environment))  # fmt: skip
    try:
        yield telling
    finally:
        telling.close()


def _every(period_ms: int, environment: Mapping[str, str]) -> int:
    """One cycle in so many feeds the watchdog; 0 where there is none."""
    asked = environment.get("WATCHDOG_USEC", "")
    if not asked or environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0
    if not (asked.isascii() and asked.isdigit()) or int(asked) < 2_000 * period_ms:
        raise ServiceError(
            f"WATCHDOG_USEC is {asked!r}; a whole number from {2_000 * period_ms} on is needed, two periods of control "
            "(control.period_ms): make WatchdogSec= of the service longer"
        )
    return max(1, int(asked) // (SIGNS * 1_000 * period_ms))
