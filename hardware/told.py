"""What the guardian says of itself."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from hardware.watch import State

if TYPE_CHECKING:
    from hardware.guardian import Held
    from hardware.watch import Watch

ANSWER = struct.Struct("<cBxxIQ")
ANSWER_EVERY = 4
"""One proposal in so many is answered."""


def answer(channel: socket.socket, tick: int, missed: int, watch: Watch) -> None:
    """A sign of life now and then. One that finds no room is not missed: the next one says the same."""
    if tick % ANSWER_EVERY == 1:
        with contextlib.suppress(OSError):
            channel.send(ANSWER.pack(b"A", watch.state, missed & 0xFFFFFFFF, watch.tick))


def tell(channel: socket.socket, message: dict[str, Any]) -> bool:
    """Whether it found room."""
    try:
        channel.send(b"R" + json.dumps(message).encode())
    except OSError:
        return False
    return True


def final(channel: socket.socket, why: str, unrestored: list[tuple[str, str]], beats: dict[str, Any]) -> None:
    """What became of everything at the end."""
    state = (State.ALARM if unrestored else State.RESTORE).name
    tell(channel, {"final": True, "state": state, "why": why, "unrestored": unrestored, **beats})


def refused(held: Iterable[Held]) -> dict[str, str]:
    """The outputs that were refused, and why."""
    return {each.name: each.refused for each in held if each.refused}


def report(held: Iterable[Held], watch: Watch) -> dict[str, Any]:
    """How things stand."""
    failed = {each.name: each.watch.why for each in held if each.watch is not None and each.watch.trouble}
    return {"state": watch.state.name, "reason": watch.reason, "failed": failed,
            "refused": refused(held), "gone": [each.name for each in held if each.gone],
            "taken": [each.name for each in held if each.watch is not None]}  # fmt: skip


def words(error: BaseException) -> str:
    """What went wrong, with its kind unless it was said for people."""
    return str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
