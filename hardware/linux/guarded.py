"""Hands that do not write themselves: they start the guardian, send it proposals, and start it again when it dies.

Nothing in here waits for the hardware. A command is one message; what became of it is heard in a later cycle.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import struct
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hardware.guardian import ANSWER, ANSWER_EVERY, LONGEST_LEASE_NS, PACKET_BYTES
from hardware.interface import Status
from hardware.journal import FOLDER
from hardware.linux.hands import Asked
from hardware.linux.output import Output
from hardware.linux.sysfs import FileCell, Outcome, Readable
from hardware.watch import LEASE_NS

START_SECONDS = 40.0
"""So long the first start may take, the only one that is waited for: another guardian may just be ending, what it has
left is given back, and each output is tried."""
END_SECONDS = 25.0
"""So long giving everything back may take at the end: drivers may be slow to show that it was."""
NOTES = {
    "manual": "it was found in manual mode, in which whoever set it may have left it, and full cooling is what will be "
    "given back; bring it into its automatic mode before the next run, if it has one",
    "unseen": "nobody can tell what was set before, and nothing is set when it is given back",
}
"""What a user has to know of an output that is taken."""
DEAF_NS = 5_000_000_000
"""A guardian that has not answered for so long, or for three answers, is ended, and another one started."""
RESTARTS = 5
RESTART_NS = 60_000_000_000
"""So many restarts are tried within so long. One more is started without outputs, which gives back and ends."""

# Isolated as it is, the process finds nothing but the standard library by itself. As a module it is compiled already.
_GUARDIAN = (
    f"import sys; sys.path.append({str(Path(__file__).parent.parent.parent)!r}); "
    "from hardware.guardian import main; sys.exit(main(sys.argv[1:]))"
)


def guardian_words(descriptor: int) -> list[str]:
    """The command that starts a guardian with its channel at `descriptor`."""
    return [sys.executable, "-I", "-S", "-c", _GUARDIAN, str(descriptor)]


class GuardianError(Exception):
    """The guardian does not act on this machine; the message says why, and what mends it."""


class GuardedHands:
    """Acts through a guardian on the machine below `root`. `period_ns` is how often a command will come.

    The first guardian is waited for by who `waits`, up to `START_SECONDS`.
    """

    def __init__(
        self,
        root: Path,
        period_ns: int = 100_000_000,
        now_ns: Callable[[], int] = time.monotonic_ns,
        waits: bool = True,
    ) -> None:
        self._waits = waits
        self._began = self._refuses = False
        """Whether a guardian was ever ready; the first one that is not, is the last."""
        self.refused: Mapping[str, str] = {}
        """Outputs that the last guardian did not take, of those that were there when it began, and why."""
        # The guardian does not work where this process does.
        self._root = os.path.realpath(root)
        self._lease_ns = min(LONGEST_LEASE_NS, max(LEASE_NS, period_ns * 7 // 2))
        self._deaf_ns = max(DEAF_NS, 3 * ANSWER_EVERY * period_ns)
        self._now_ns = now_ns
        self._names: tuple[str, ...] = ()
        self._described: dict[str, Asked] = {}
        self._places: dict[str, int] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._former: list[subprocess.Popen[bytes]] = []
        self._channel: socket.socket | None = None
        self._news = select.poll()
        # A new megabyte for each message would cost more than all the rest of a cycle.
        self._packet = memoryview(bytearray(PACKET_BYTES))
        self._ready = self._refused_to_begin = False
        self._acts = True
        """Whether the last guardian was started to act, and not only to give back what the one before has left."""
        self._failed: dict[str, str] = {}
        self._gone = frozenset[str]()
        self.final: dict[str, Any] = {}
        """What the last guardian said at its end: why, what is unrestored, and how late it was."""
        self._why = ""
        self._tick = 0
        self._heard_ns = 0
        self._starts_ns: list[int] = []
        self.state = ""
        """The guardian's state, as far as it was heard."""
        self.reason = ""
        """Why it cools fully, while it does."""
        self.replayed: Mapping[str, Any] = {}
        """What a journal that lay there has led to."""
        self.notes: Mapping[str, str] = {}
        """What is to be known of outputs that were taken."""
        self.had: tuple[str, ...] = ()
        """What the guardian was allowed: realtime or nice, oom, memory."""
        self.missed = 0
        """Beats that the guardian has missed."""
        self.lost = ""
        """Why the last guardian that was lost is no more."""
        self.restarts = 0

    @property
    def why(self) -> str:
        """Why nothing is acted on, where it is so."""
        return self._why if self._refuses else "" if self._acts else self._given_up()

    @property
    def pid(self) -> int | None:
        """The guardian's process, while there is one."""
        return None if self._process is None else self._process.pid

    # --- the seam's three calls ---------------------------------------------------------------------------------------

    def begin(self, outputs: Mapping[str, Asked], names: tuple[str, ...]) -> Mapping[str, str]:
        """Start the guardian and wait until it has taken what it takes. Returns the outputs refused, and why.

        Raises `GuardianError` when it does not act at all; then nothing has changed. Where nobody `waits`, `acting` and
        `refused` say later what became of it.
        """
        self._names = names
        self._described = dict(outputs)
        self._start()
        if not self._waits:
            return {}
        deadline_ns = time.monotonic_ns() + round(START_SECONDS * 1e9)
        while not self._ready and not self._why and self._channel is not None:
            self._wait(deadline_ns)
            self._hear()
            if time.monotonic_ns() > deadline_ns:
                self._why = f"it did not get ready within {START_SECONDS:g} s"
        if not self._ready:
            why = self._why
            self._stop()
            raise GuardianError(f"the guardian does not act: {why}")
        return self.refused

    @property
    def acting(self) -> bool | None:
        """Whether a guardian acts now; None where there is none that will, or will again."""
        if not self._acts or self._refuses:
            return None
        return self._ready

    def put(self, wanted: Mapping[str, Asked]) -> Mapping[str, Outcome]:
        """Propose; returns the outputs that are known to have failed until now."""
        now_ns = self._now_ns()
        self._hear()
        if self._channel is None:
            self._again(now_ns)
        failed: dict[str, Outcome] = {}
        numbers: list[int] = []
        for name, asked in wanted.items():
            known = self._described.get(name)
            if known is None or known.output is not asked.output:
                self._describe(name, asked)
            if not self._acts:
                failed[name] = Outcome(None, Status.UNREADABLE, self._given_up())
            elif not self._ready:
                failed[name] = Outcome(None, Status.UNREADABLE, self._why or "the guardian is starting")
            elif name in self._failed:
                status = Status.ABSENT if name in self._gone else Status.UNREADABLE
                failed[name] = Outcome(None, status, self._failed[name])
            place = self._places.get(name)
            if place is not None:
                numbers += place, asked.raw
        if self._ready and self._acts:
            self._tick += 1
            # `PROPOSAL` and a `PAIR` for each output.
            count = len(numbers) // 2
            self._send(struct.pack("<cxxxIQ" + "Iq" * count, b"P", count, self._tick, *numbers))
            if now_ns - self._heard_ns > self._deaf_ns:
                self._lose("it does not answer")
        return failed

    def _describe(self, name: str, asked: Asked) -> None:
        """The output has another device now, or has one at last."""
        self._described[name] = asked
        self._places.pop(name, None)
        self._failed[name] = "the guardian is taking it"
        if not self._send(b"O" + json.dumps(_description(name, asked)).encode()) and self._channel is not None:
            # There was no room; the next cycle tries again.
            del self._described[name]

    def close(self) -> tuple[tuple[str, str], ...]:
        """Say goodbye and wait until everything was given back; what was not, and why."""
        if self._acts:
            self._send(b"B")
        self._ended()
        if self._refuses:
            return ()
        if self._names and not self.final:
            # The last guardian is gone, or was ended here, and may have left something: another one gives it back.
            self._start(acts=False)
            self._ended()
        if not self.final:
            journal = Path(self._root, FOLDER, "journal")
            said = f"nobody knows whether it was: {self._why}; {journal} has what was there before"
            return tuple((name, said) for name in self._described if name not in self.refused)
        return self._unrestored()

    def _ended(self) -> None:
        """Wait until the guardian has ended, not for ever."""
        deadline_ns = time.monotonic_ns() + round(END_SECONDS * 1e9)
        while self._channel is not None and time.monotonic_ns() < deadline_ns:
            self._wait(deadline_ns)
            self._hear()
        self._stop()

    def _unrestored(self) -> tuple[tuple[str, str], ...]:
        """What the last guardian could not give back, and why."""
        replayed = () if self._acts else self.replayed.get("unrestored", ())
        return tuple((name, why) for name, why in (*replayed, *self.final["unrestored"]))

    def _given_up(self) -> str:
        if self.final:
            left = "; ".join(f"{name}: {why}" for name, why in self._unrestored())
            said = f"given back was not {left}" if left else "everything was given back"
        else:
            said = f"giving back: {self._why or 'under way'}"
        return f"the guardian died {RESTARTS + 1} times in a minute and is not started again; {said}"

    # --- the process --------------------------------------------------------------------------------------------------

    def _start(self, acts: bool = True) -> None:
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            mine.setblocking(False)
            self._process = subprocess.Popen(
                guardian_words(theirs.fileno()),
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, pass_fds=[theirs.fileno()], cwd="/",
                start_new_session=True,
            )  # fmt: skip
        self._acts, self._channel, self._news = acts, mine, select.poll()
        self._news.register(mine, select.POLLIN)
        self._ready, self._why, self.final = False, "", {}
        self._refused_to_begin = False
        self._places, self._failed, self._gone = {}, {}, frozenset[str]()
        self._heard_ns = self._now_ns()
        self._starts_ns.append(self._heard_ns)
        outputs = [_description(name, self._described.get(name)) for name in self._names] if acts else []
        libraries = sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
        hello = {"root": self._root, "lease_ns": self._lease_ns, "outputs": outputs, "libraries": libraries}
        self._send(b"H" + json.dumps(hello).encode())
        if not acts:
            self._send(b"B")

    def _again(self, now_ns: int) -> None:
        """Start another guardian, which gives back what the last one left; not for ever: the last does only that."""
        self._starts_ns = [start_ns for start_ns in self._starts_ns if now_ns - start_ns < RESTART_NS]
        if self._process is None or self.acting is None:
            return
        acts = len(self._starts_ns) <= RESTARTS
        self.restarts += acts
        self._former = [process for process in self._former if process.poll() is None]
        with contextlib.suppress(OSError):
            self._start(acts)

    def _lose(self, why: str) -> None:
        """The guardian is of no more use."""
        if self._refused_to_begin:
            # It has said why itself.
            self.lost = self._why
        else:
            self.lost, self._why = why, f"the guardian has gone: {why}"
        self._ready = False
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        if self._process is not None and not self.final:
            # Should it live on, two would write. What it has left, its journal says.
            self._process.kill()
        if self._process is not None and self._process.poll() is None:
            # One that hangs in a driver is not waited for.
            self._former.append(self._process)

    def _stop(self) -> None:
        if self._channel is not None:
            self._lose("it was ended")
        for process in self._former:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(1.0)
        self._process = None

    def _wait(self, deadline_ns: int) -> None:
        if self._channel is not None:
            self._news.poll(max(0, (deadline_ns - time.monotonic_ns()) // 1_000_000))

    def _send(self, message: bytes) -> bool:
        """Whether the message is on its way. One that finds no room is not: whoever stays so busy does not answer."""
        if self._channel is None:
            return False
        try:
            self._channel.send(message)
        except BlockingIOError:
            return False
        except OSError as error:
            self._hear()
            if self._channel is not None:
                self._lose(error.strerror or type(error).__name__)
            return False
        return True

    def _hear(self) -> None:
        """Take in everything that the guardian has said."""
        # Asked first, because an exception where there is nothing, as mostly, takes longer than the question.
        while self._channel is not None and self._news.poll(0):
            try:
                message = self._packet[: self._channel.recv_into(self._packet)].tobytes()
            except ConnectionResetError:
                # It has ended without hearing everything; what it has said before is still to come, and then the end.
                continue
            except OSError as error:
                self._lose(error.strerror or type(error).__name__)
                return
            if not message:
                self._lose(self._why or "it ended")
                return
            self._heard_ns = self._now_ns()
            if message[:1] == b"A":
                self.missed = ANSWER.unpack(message)[2]
            else:
                self._told(json.loads(message[1:]))

    def _told(self, table: dict[str, Any]) -> None:
        if "ready" in table:
            if not table["ready"]:
                self._why, self._refused_to_begin = table["why"], True
                self._refuses = not self._began
                return
            self._ready = self._began = True
            self.replayed, self.had = table["replayed"], tuple(table["had"])
            self.notes = {name: NOTES[note] for name, note in table["notes"].items()}
            taken = [name for name in self._names if name not in table["refused"]] if self._acts else []
            self._failed = {name: why + _permitted(why) for name, why in table["refused"].items()}
            self.refused = {name: why for name, why in self._failed.items() if name in self._described}
        elif "final" in table:
            self.final, self.state = table, table["state"]
            self._why = table["why"]
            return
        else:
            self.state, self.reason = table["state"], table["reason"]
            self._failed = {**table["failed"], **table["refused"]}
            self._gone = frozenset(table["gone"])
            taken = table["taken"]
        self._places = {name: self._names.index(name) for name in taken}


def _permitted(why: str) -> str:
    """What mends it where it is a matter of permission, for who has it not."""
    denied = any(word in why for word in ("EACCES", "EPERM", "ermission"))
    return "; run as root" if denied and os.geteuid() != 0 else ""


def _description(name: str, asked: Asked | None) -> dict[str, Any]:
    if asked is None:
        return {"name": name, "minimum": 0, "maximum": 0, "safe": 0, "output": None}
    return {
        "name": name,
        "minimum": asked.minimum,
        "maximum": asked.maximum,
        "safe": asked.safe,
        "output": describe(asked.output),
    }


def describe(output: Output) -> dict[str, Any]:
    """The output in JSON's types, for `hardware.linux.output.rebuilt`."""
    cells = ("value", "mode", "floor")
    lanes = [
        {key: _place(value) if key in cells else value for key, value in lane._asdict().items()}
        for lane in output.lanes
    ]
    return {**output._asdict(), "lanes": lanes, "tach": _place(output.tach)}


def _place(cell: Readable | None) -> dict[str, Any] | None:
    if cell is None:
        return None
    if isinstance(cell, FileCell):
        return {"path": cell.path, "identity": cell.identity}
    return {"library": cell.where}
