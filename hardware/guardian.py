"""The guardian: a small process of its own, the only one that writes to the hardware while a controller acts.

It is started by `hardware.linux.guarded` in an isolated Python, with one end of a socket pair. It takes the lease of
the machine, gives back what an earlier one may have left, proves that every output can be given back, writes the
journal, and only then carries proposals out. Whatever happens to the controller, or goes wrong in here, the outputs are
given back at the end. What is decided is decided in `hardware.watch`; here are the files and the process.

Messages are one packet each. To the guardian: `H` (JSON, first), `O` (JSON, an output anew), `P` (a proposal), `B`
(goodbye). From it: `A` (an answer to one proposal in four), `R` (JSON, when anything has changed).
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from hardware import death, messages, restore, told
from hardware.beats import Beats, privileged
from hardware.bounded import OverTimeError, bounded
from hardware.journal import FOLDER, Journal, JournalError
from hardware.linux.output import MOST, Output, Place, checked, integer, place, rebuilt
from hardware.linux.sysfs import FileCell, Root
from hardware.programs import daemons
from hardware.status import Status
from hardware.watch import LEASE_NS, Bounds, OutputWatch, Trouble, Watch

BEAT_NS = 10_000_000
"""So often messages are taken in and everything is looked after."""
CHECK_NS = 1_000_000_000
"""So often it is looked whether the journal and its folder are what they were."""
SUSPEND_NS = 500_000_000
"""The boot clock runs on while the machine sleeps; a jump of so much against the other is a suspend."""
PROPOSAL = struct.Struct("<cxxxIQ")
PAIR = struct.Struct("<Iq")
HELLO_SECONDS = 10.0
PACKET_BYTES = 1 << 20
LONGEST_LEASE_NS = 60_000_000_000


def main(arguments: list[str]) -> int:
    """Serve the controller at the other end of the descriptor. Returns the process's exit status."""
    wake, waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(waker)
    signal.signal(signal.SIGTERM, lambda *_: None)
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    with socket.socket(fileno=int(arguments[0])) as channel:
        return Guardian(channel).serve(wake)


class Held:
    """One output in the guardian's hands; without a `watch` it was `refused`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.entry: dict[str, Any] = {}
        """Its record in the journal."""
        self._first: dict[str, int | None] = {}
        """What files had that were its own at any time: cores go, and come back as they went."""
        self.output = Output("", ())
        """Without files until it was admitted."""
        self.watch: OutputWatch | None = None
        self.note = ""
        """What its user has to know: it was found in `manual` mode, or what was there is `unseen`."""
        self.slow_ns = 0
        """So long its files took when they were used last."""
        self.touched = self.gone = False

    def admit(self, root: Root, table: dict[str, Any], known: dict[Place, int | None]) -> None:
        """Take the output if it is what it is said to be and can be read; else say in `refused` why not.

        `known` are originals that were left to be given back. Nothing is written. What was taken before stays to be
        given back, and is tried again when it fails, rather than refused.
        """
        before, self.refused, self.watch, self.gone = self.watch, "", None, False
        try:
            minimum, maximum, safe = (integer(table, key, -MOST, MOST) for key in ("minimum", "maximum", "safe"))
            if not minimum <= safe <= maximum:
                raise ValueError(f"not minimum <= safe <= maximum: {minimum}, {safe}, {maximum}")
            output = rebuilt(root, table.get("output"), restore.library)
            for cell in output.cells:
                if isinstance(cell, FileCell) and root.resolve(cell.path) != cell.path:
                    raise ValueError(f"{root.where(cell.path)} is not below sys, or leads elsewhere")
            for lane in output.lanes:
                if lane.high < minimum or lane.low > maximum:
                    raise ValueError(messages.other_limits(lane.value.where, lane[1:3], (minimum, maximum)))
            present = output.originals()
            if isinstance(present, str):
                if not self.touched:
                    raise ValueError(f"it cannot be read, so that it could not be given back: {present}")
                present = (None,) * len(output.cells)
        except ValueError as error:
            self.refused = str(error)
            return
        self.keep(root, table, output, present, known)
        bounds = Bounds(minimum, maximum, output.inside(safe), output.cooler, output.settle_ns)
        self.watch = OutputWatch(bounds, output.tach is not None)
        if before is not None and before.asked is not None:
            self.watch.asked = min(maximum, max(minimum, before.asked))

    def keep(self, root: Root, table: dict[str, Any], output: Output, present: Sequence[int | None],
             known: dict[Place, int | None]) -> None:  # fmt: skip
        """What was there before is what is given back; where nobody knows, it is what is there at `present`."""
        before = self.output.cells if self.touched else ()
        first = {cell.where: raw for cell, raw in zip(before, self.entry.get("originals", ()), strict=False)}
        self._first = {**self._first, **first}
        kept = output.kept(present, table["safe"])
        originals = [known.get(place(cell), self._first.get(cell.where, raw))
                     for cell, raw in zip(output.cells, kept, strict=True)]  # fmt: skip
        if len(first) == len(present) and first.keys().isdisjoint(cell.where for cell in output.cells):
            # The device came back in another place.
            originals = list(first.values())
        self.touched |= not known.keys().isdisjoint(map(place, output.cells))
        if not self.touched:
            self.note = "unseen" if output.unseen else "manual" if kept != tuple(present) else ""
        self.entry = {**table, "originals": originals, "device": output.device(root)}
        self.output = output

    def fail(self, why: str) -> None:
        """It cannot be given back, which was tried. If it was changed, it stays to be tried again, cooled fully."""
        if self.output.differs(self.entry["originals"], (None,) * len(self.output.cells), True):
            self.touched = True
            self.output.cool(self.entry["safe"])
        elif not self.touched:
            self.entry = {}
        self.watch = None
        self.refused = f"it could not be given back, which was tried: {why}"

    def write(self, raw: int) -> str:
        """Bring `raw` into force, in every file that takes it; what failed first, or nothing."""
        assert self.watch is not None
        self.touched, self.gone = True, False
        entering, why = self.watch.written is None, ""
        for lane in self.output.lanes:
            for cell, value in self.output._replace(lanes=(lane,)).plan(raw, entering):
                outcome = cell.write(value)
                if outcome.value is None:
                    self.gone = outcome.status is Status.ABSENT
                    why = why or outcome.detail
                    break
        return why

    def look(self, now_ns: int, before: bool = False) -> bool:
        """Read back what is in force, and tell the watch. Of several files the one that cools least counts.

        Just `before` it is written over: whether it may be.
        """
        assert self.watch is not None
        written, bounds = self.watch.written, self.watch.bounds
        values: list[int] = []
        ours, why = True, ""
        for lane in self.output.lanes:
            outcome = lane.value.read()
            value = outcome.value
            mode = lane.manual if lane.mode is None else lane.mode.read().value
            if mode is not None and mode != lane.manual:
                ours = False
                if mode == lane.full:
                    value = bounds.maximum
                elif value is None and lane.blind:
                    # Somebody else's mode, which does not say what it does: the worst is assumed.
                    value = bounds.minimum
            if value is None or mode is None:
                why = outcome.detail or f"its mode cannot be read: {lane.value.where}"
                self.gone = outcome.status is Status.ABSENT
            else:
                values.append(written if written is not None and value == lane.inside(written) else value)
        shown = None if why else min(values) if bounds.cooler > 0 else max(values)
        if before:
            return self.watch.found(now_ns, shown, ours)
        rpm = None if self.output.tach is None else self.output.tach.read().value
        self.watch.looked(now_ns, shown, ours, rpm, why)
        return True


class Guardian:
    """Serves one controller at the other end of `channel`. The clocks may be others in tests."""

    def __init__(self, channel: socket.socket, now_ns: Callable[[], int] = time.monotonic_ns,
                 boot_ns: Callable[[], int] = lambda: time.clock_gettime_ns(time.CLOCK_BOOTTIME)) -> None:  # fmt: skip
        channel.setblocking(False)
        self._channel = channel
        self._now_ns, self._boot_ns = now_ns, boot_ns
        self._ahead_ns = boot_ns() - now_ns()
        self._root = Root("/")
        self._journal = Journal("")
        self._left: list[dict[str, Any]] = []
        self._leased = -1
        self._replayed: dict[str, Any] = {"found": False, "restored": [], "unrestored": [], "cut": ""}
        self._said: dict[str, Any] = {}
        self._due_ns = self._check_ns = 0
        self.beats = Beats()
        self.held: list[Held] = []
        self.watch = Watch()

    # --- life ---------------------------------------------------------------------------------------------------------

    def serve(self, wake: int) -> int:
        """From the first message to the end, which `wake` may be. Returns 0 when everything was given back, else 1."""
        with contextlib.ExitStack() as stack:
            stack.callback(lambda: restore.leave(self._leased))
            try:
                self.begin()
            except Exception as error:  # nothing was changed yet
                told.tell(self._channel, {"ready": False, "why": told.words(error), **self._replayed})
                return 1
            # Proposals wait for the next beat: waking up for each would take the processor from whoever sends it.
            try:
                watched, controller = [wake], death.maker(self._channel)
                with contextlib.suppress(OSError):
                    watched.append(os.pidfd_open(controller))
                    stack.callback(os.close, watched[-1])
                while not self.watch.ended:
                    wait_ns = max(0, self._due_ns - self._now_ns())
                    ready, _, _ = select.select(watched, [], [], wait_ns / 1e9)
                    if wake in ready and signal.SIGTERM not in os.read(wake, 4096):
                        # The alarm of something that took too long, while giving back.
                        ready.remove(wake)
                    if ready or death.dying(self._root, controller):
                        self.watch.end("the guardian was told to end" if wake in ready else "the controller ended")
                    self.step()
            except BaseException as error:  # whatever it is, outputs do not stay as they are
                self.watch.end(f"the guardian failed: {told.words(error)}")
                self.end()
                return 1
            return self.end()

    def begin(self) -> None:
        """Everything that comes before the first proposal. Raises what is wrong."""
        self._channel.settimeout(HELLO_SECONDS)
        hello = self._channel.recv(PACKET_BYTES)
        self._channel.setblocking(False)
        if hello[:1] != b"H":
            raise restore.RefusedError("nobody said what is to be guarded")
        table = checked(json.loads(hello[1:]), "hello", dict)
        root = checked(table.get("root"), "root", str)
        if not root.startswith("/"):
            raise ValueError(f"root is {root!r}; an absolute path is needed")
        self._root = Root(root)
        sys.path += [checked(path, "libraries", str) for path in checked(table.get("libraries"), "libraries", list)]
        self.watch = Watch(integer(table, "lease_ns", LEASE_NS, LONGEST_LEASE_NS))
        outputs, acted = ([checked(output, "output", dict) for output in checked(table.get(key), key, list)]
                          for key in ("outputs", "acted"))  # fmt: skip
        self._journal = Journal(self._root.absolute(FOLDER))
        try:
            self._leased = restore.lease(self._journal.folder)
            self._replayed = restore.replay(self._root, self._journal)
        finally:
            # A journal that is whole says all of it. Whoever else has the lease does not know what was acted on here.
            if self._replayed["cut"] or not self._replayed["found"]:
                known = {*self._replayed["restored"], *dict(self._replayed["unrestored"])}
                lost = [output for output in acted if output.get("name") not in known]
                self._replayed["unrestored"] += restore.cool(self._root, lost)
        if self._replayed["cut"]:
            raise restore.RefusedError(messages.torn(self._journal.path, self._replayed["cut"]))
        for name in daemons(self._root).values() if outputs else ():
            raise restore.RefusedError(f"{name} controls this machine's cooling; stop it first")
        self._left = (self._journal.read() or ([], ""))[0]
        for output in outputs:
            self.held.append(Held(checked(output.get("name"), "name", str)))
            self._admit(self.held[-1], output)
        self._write_journal()
        self._rehearse()
        self.watch.outputs = [held.watch for held in self.held]
        had = privileged()
        messages.mark(self._leased)
        self._due_ns = self._now_ns() + BEAT_NS
        notes = {held.name: held.note for held in self.held if held.note and not held.refused}
        told.tell(self._channel, {"ready": True, "replayed": self._replayed, "had": had,
                                  "refused": told.refused(self.held), "notes": notes})  # fmt: skip

    def _rehearse(self) -> None:
        """See of every output that it can be given back. What cannot, is refused."""
        tried = [held for held in self.held if held.watch is not None and not held.output.unseen]
        whys = restore.give_all_back([(held.output, held.entry) for held in tried], rehearsal=True)
        for held, why in zip(tried, whys, strict=True):
            if why:
                held.fail(why)
        self._write_journal(any(whys))

    def end(self) -> int:
        """Give everything back that was touched, fast ones first, then the last first, and see that it was.

        Returns 0 when all of it was, else 1.
        """
        messages.mark(self._leased, b"busy")
        held = sorted((each for each in self.held[::-1] if each.touched), key=lambda each: each.slow_ns)
        whys = restore.give_all_back([(each.output, each.entry) for each in held])
        kept = {each.name: why for each, why in zip(held, whys, strict=True) if why}
        unrestored = list(kept.items())
        left = [*self._left, *(each.entry for each in self.held if each.name in kept)]
        try:
            if not restore.holds(self._leased, self._journal.folder):
                # Where somebody else has it, the journal is his.
                self._leased = restore.lease(self._journal.folder)
            self._journal.settle(left)
        except (OSError, ValueError) as error:
            unrestored.append(("journal", str(error)))
        told.final(self._channel, self.watch.ended, unrestored, self.beats.told())
        # Only now that it was said that everything was given back, nothing need say so.
        with contextlib.suppress(OSError):
            if not unrestored and not left:
                self._journal.remove()
        return 1 if unrestored else 0

    def _admit(self, held: Held, table: dict[str, Any]) -> None:
        """What could not be given back keeps the originals of before, whatever its name is now."""
        left = [(entry, restore.places(self._root, entry)) for entry in self._left]
        held.admit(self._root, table, {key: raw for _entry, known in left for key, raw in known.items()})
        if not held.refused:
            taken = {place(cell) for cell in held.output.cells}
            self._left = [entry for entry, known in left if not known or not taken.issuperset(known)]

    def _write_journal(self, changed: bool = True) -> None:
        if changed:
            self._journal.write([*self._left, *(held.entry for held in self.held if held.entry)])

    # --- one turn -----------------------------------------------------------------------------------------------------

    def step(self) -> None:
        """Take in what has come, judge, write and look where that is due, and say what has changed."""
        self._hear()
        self._beat()
        now_ns = self._now_ns()
        self.watch.judge(now_ns)
        if self.watch.ended:
            return
        turns = [(held, held.watch, held.watch.due(now_ns, self.watch.cool))
                 for held in sorted(self.held, key=lambda held: held.slow_ns) if held.watch is not None]  # fmt: skip
        new = [held for held, _watch, raw in turns if raw is not None and not held.touched]
        for held in new:
            # What is there now is what is given back, and not what was there when it was admitted.
            if not isinstance(present := held.output.originals(), str):
                held.keep(self._root, held.entry, held.output, present, {})
        # What the journal says already will do if it cannot be written now.
        with contextlib.suppress(OSError, JournalError):
            self._write_journal(bool(new))
        for held, watch, raw in turns:
            if raw is not None or watch.look_due(self._now_ns()):
                self._turn(held, watch, raw)
        report = told.report(self.held, self.watch)
        if report != self._said and told.tell(self._channel, report):
            self._said = report

    def _turn(self, held: Held, watch: OutputWatch, raw: int | None) -> None:
        """Write and look where that is due, in bounded time."""
        began_ns = self._now_ns()
        try:
            with bounded(restore.GIVE_BACK_SECONDS):
                if raw is not None and (self.watch.cool or watch.written is None or held.look(began_ns, before=True)):
                    why = held.write(raw)
                    watch.wrote(self._now_ns(), raw, why)
                if watch.look_due(self._now_ns()):
                    held.look(self._now_ns())
        except OverTimeError as error:
            watch.wrote(self._now_ns(), 0, f"{held.entry['output']['where']}: {error}")
        held.slow_ns = self._now_ns() - began_ns
        watch.took(self._now_ns(), held.slow_ns)

    def _hear(self) -> None:
        # A bound, so that outputs have their turn whatever comes.
        for _message in range(64):
            try:
                message = self._channel.recv(PACKET_BYTES)
            except BlockingIOError:
                return
            except OSError:
                message = b""
            if not message:
                self.watch.end("the controller has gone")
                return
            self._take(message)

    def _take(self, message: bytes) -> None:
        kind = message[:1]
        if kind == b"P":
            tick, wanted = _proposal(message)
            self.watch.proposal(self._now_ns(), tick, wanted)
            told.answer(self._channel, tick, self.beats.missed, self.watch)
        elif kind == b"B":
            self.watch.end("goodbye")
        elif kind == b"O":
            try:
                self._again(checked(json.loads(message[1:]), "output", dict))
            except (ValueError, RecursionError) as error:
                self.watch.distrust(f"an output that cannot be: {error}")
        else:
            self.watch.distrust(f"a message of kind {kind!r}")

    def _again(self, table: dict[str, Any]) -> None:
        """An output is described anew, because its device has come (back)."""
        number = {held.name: number for number, held in enumerate(self.held)}.get(str(table.get("name")))
        if number is None:
            raise ValueError(f"{table.get('name')!r} is no output of this session")
        old, held = self.held[number], copy.copy(self.held[number])
        self._admit(held, table)
        self._said, self.held[number] = {}, held
        try:
            self._write_journal()
            # Nobody waits here until it shows: what does not obey is seen later, as in the course of things.
            if held.watch is not None and not held.output.unseen:
                why = restore.give_back(held.output, held.entry, rehearsal=True)[1]
                if why and not held.touched:
                    held.fail(why)
                    self._write_journal()
        except (OSError, JournalError) as error:
            held.refused, held.watch = str(error), None
        if held.refused and old.touched and old.watch is not None:
            # What was changed is looked after, and cooled, as well as that can be done.
            old.refused, self.held[number] = held.refused, old
            old.watch.note("again", Trouble.FAILED, held.refused)
        self.watch.outputs[number] = self.held[number].watch

    def _beat(self) -> None:
        """Count how late the beat is, skip those that were missed, and notice when the machine has slept."""
        now_ns = self._now_ns()
        late_ns = now_ns - self._due_ns
        if late_ns < 0:
            return
        missed = late_ns // BEAT_NS
        self.beats.beat(late_ns, missed)
        if not restore.holds(self._leased, self._journal.folder):
            self.watch.end(f"{self._journal.folder}: the lease was removed or replaced, so that another one may act")
        self._due_ns += BEAT_NS * (1 + missed)
        # The clocks cannot be read at once; the least of two differences has the least of other things in it.
        ahead_ns = min(self._boot_ns() - now_ns, self._boot_ns() - self._now_ns())
        if ahead_ns - self._ahead_ns > SUSPEND_NS:
            self.watch.suspended()
            self._check_ns = now_ns
        self._ahead_ns = ahead_ns
        if now_ns >= self._check_ns:
            self._check_ns = now_ns + CHECK_NS
            try:
                restore.own(self._journal.folder)
                # What it says is known here as well.
                self._write_journal(not self._journal.intact())
            except (OSError, ValueError) as error:
                self.watch.end(f"what was there before cannot be kept: {told.words(error)}")


def _proposal(message: bytes) -> tuple[int, list[tuple[int, int]] | None]:
    """The number of a proposal and its pairs, None where it is no proposal."""
    if len(message) < PROPOSAL.size:
        return 0, None
    _kind, count, tick = PROPOSAL.unpack_from(message)
    if len(message) != PROPOSAL.size + count * PAIR.size:
        return tick, None
    return tick, list(PAIR.iter_unpack(message[PROPOSAL.size :]))
