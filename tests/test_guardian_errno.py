"""Every call on a file of a session that acts fails once, with each error that a kernel may give.

The program is the one that users run, and strace makes the kernel's answers for it: `twin run --act` on a machine of
files, and with it the guardian that it starts. Nightly all of it; else a sample.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from commands import interpreted
from guarding import until
from hardware_fakes import DESKTOP, contents
from profiles import NIGHTLY
from test_guardian_process import is_free, strace_injects

from hardware.by_hand import restore
from hardware.journal import FOLDER, Journal
from hardware.linux.sysfs import Root
from hardware.linux.tree import SysTree

ERRORS = (
    "EIO", "ENODATA", "ENXIO", "EAGAIN", "EACCES", "EPERM", "EROFS", "EBUSY", "ENOSPC", "ENODEV", "EINTR",
)  # fmt: skip
CALLS = ("openat", "read", "write", "fsync", "rename", "unlink", "flock")
SAMPLE = 1 if NIGHTLY else 701
"""One in so many is tried; a prime, so that all errors and calls have their turn."""
SECONDS = 60

needs_strace = pytest.mark.skipif(not strace_injects(), reason="no strace here that may trace: no errors are injected")


class Point(NamedTuple):
    """One call of a session: which, on which file, the how manieth."""

    call: str
    path: str
    number: int


class Session:
    """`twin run --act` for three cycles on a machine of its own, over and over."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "tree"
        self.renew()
        self.originals = contents(self.root / "sys")

    def renew(self) -> None:
        """Everything as in the beginning."""
        for path in (self.root, self.folder / "run"):
            shutil.rmtree(path, ignore_errors=True)
        SysTree(self.root, DESKTOP)
        for name in self.root.rglob("name"):
            # Whoever gives back waits for what drivers show late, for as long as they say.
            name.with_name("update_interval").write_text("100\n")

    def run(
        self, *strace: str, follow: bool = True, before: Sequence[str] = (), out: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """The session, recorded in `out`, under strace with these words, if there are any."""
        traced = ["strace", "-qq", "-y", "-o", str(self.folder / "log"), *(["-f", "--seccomp-bpf"] if follow else [])]
        return subprocess.run(
            [*before, *([*traced, *strace] if strace else []),
             sys.executable, "-m", "twin", "run", "idle", "--quiet", "--duration", "0.3", "--backend", "linux",
             "--act", "--root", str(self.root), "--out", str(out or self.folder / "run"),
             "--set", "heartbeat.t0_ns=50000000", "--set", "heartbeat.words=10"],
            cwd=self.folder, env=interpreted(), capture_output=True, text=True, check=False, timeout=SECONDS,
        )  # fmt: skip

    def points(self) -> list[Point]:
        """Every call on a file of the machine or of the record, as one session makes them."""
        self.renew()
        done = self.run("-e", f"trace={','.join(CALLS)}")
        assert done.returncode == 0, done.stderr
        found: Counter[tuple[str, str]] = Counter()
        for line in (self.folder / "log").read_text().splitlines():
            match = re.match(
                rf'\d+ +(\w+)\((?:\d+<|(?:AT_FDCWD<[^>]*>, )?")({re.escape(str(self.folder))}/[^">]+)', line
            )
            if match:
                found[match[1], match[2]] += 1
        return [Point(*key, number) for key, count in sorted(found.items()) for number in range(1, count + 1)]

    def fail(self, point: Point, injected: str) -> str:
        """The session with that call answered so; what is wrong with how it went, or nothing."""
        self.renew()
        done = self.run("-e", f"trace={point.call}", "-P", point.path, "-e", f"inject={point.call}:{injected}")
        until(lambda: is_free(self.root), 20)
        wrong = []
        if done.returncode not in (0, 2, 3):
            wrong.append(f"it gave {done.returncode}")
        if "Traceback" in done.stderr or "--debug" in done.stderr:
            wrong.append("a traceback was printed")
        if done.returncode and [line.startswith("twin: ") for line in done.stderr.splitlines()].count(True) != 1:
            wrong.append("there is not one message")
        left = [name for name, why in self.restored()] if Journal(str(self.root / FOLDER)).read() else []
        if left:
            wrong.append(f"{', '.join(left)} could not be given back")
        if contents(self.root / "sys") != self.originals:
            wrong.append("outputs are not as they were")
        return f"{point} {injected}: {'; '.join(wrong)}\n{done.stderr}" if wrong else ""

    def restored(self) -> list[tuple[str, str]]:
        unrestored: list[tuple[str, str]] = restore(Root(self.root))["unrestored"]
        return unrestored


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    return Session(tmp_path_factory.mktemp("session"))


@needs_strace
def test_each_call_of_a_session_may_fail_once(session: Session) -> None:
    points = session.points()
    assert {point.call for point in points} == set(CALLS)
    cases = [(point, f"error={error}:when={point.number}") for point in points for error in ERRORS]
    # What fails once may fail for ever. An interruption may not.
    cases += [(point, f"error={error}:when=1+") for point in points for error in ERRORS[:-1] if point.number == 1]
    # Of a write only a part may be taken; the kernel's files take a number as a whole, or so much of it as a number.
    cases += [(point, f"retval=1:when={point.number}") for point in points if point.call == "write"]
    tried = cases[::SAMPLE]
    wrong = [told for point, injected in tried if (told := session.fail(point, injected))]
    print(f"\n{len(points)} calls of a session, {len(cases)} cases, {len(tried)} tried")
    assert not wrong, "\n".join(wrong)


@needs_strace
def test_a_controller_killed_at_any_of_its_calls_is_given_back_for(session: Session) -> None:
    """The controller alone: its guardian is not traced, and gives back."""
    points = session.points()
    tried = points if NIGHTLY else points[3::31]
    for point in tried:
        session.renew()
        session.run("-e", f"trace={point.call}", "-P", point.path, "-e",
                    f"inject={point.call}:signal=KILL:when={point.number}", follow=False)  # fmt: skip
        until(lambda: is_free(session.root), 20)
        assert contents(session.root / "sys") == session.originals, point
        assert not (session.root / FOLDER / "journal").exists(), point
    print(f"\nkilled at {len(tried)} of {len(points)} calls")


def mounted(*words: str) -> list[str]:
    """The command before another one that gives it a mount of its own, which nobody else sees."""
    return ["unshare", "--mount", "sh", "-c", f'mount {" ".join(words)} && exec "$@"', "sh"]


def may_mount() -> bool:
    words = [*mounted("-t tmpfs -o size=1m tmpfs /mnt"), "true"]
    return (
        shutil.which("unshare") is not None and subprocess.run(words, capture_output=True, check=False).returncode == 0
    )


needs_mounts = pytest.mark.skipif(not may_mount(), reason="no mounts may be made here: full disks are not tried")


@needs_mounts
@pytest.mark.parametrize("left_kilobytes", [0, 4, 16, 64])
def test_a_full_disk_is_said_and_leaves_nothing(session: Session, left_kilobytes: int) -> None:
    """Of the record's disk so much is left; the run has more to say than that."""
    session.renew()
    disk = session.folder / "disk"
    disk.mkdir(exist_ok=True)
    fill = f"&& head -c {(1_024 - 16 - left_kilobytes) * 1_024} /dev/zero > {disk}/full"
    done = session.run(before=mounted(f"-t tmpfs -o size=1m tmpfs {disk}", fill), out=disk / "run")
    assert done.returncode in (0, 3), done.stderr
    assert left_kilobytes or done.returncode == 3
    if done.returncode:
        assert re.fullmatch(r"twin: .*[Nn]o space.*\n", done.stderr.splitlines(keepends=True)[-1]), done.stderr
        assert "Traceback" not in done.stderr
    until(lambda: is_free(session.root), 20)
    assert contents(session.root / "sys") == session.originals


@needs_mounts
@pytest.mark.parametrize(("place", "said"), [("sys", "could not be given back"), ("run", "Read-only file system")])
def test_what_is_read_only_is_not_acted_on(session: Session, place: str, said: str) -> None:
    session.renew()
    path = session.root / place
    path.mkdir(exist_ok=True)
    read_only = mounted(f"--bind {path} {path}", f"&& mount -o remount,ro,bind {path}")
    done = session.run(before=read_only)
    assert done.returncode == 2, done.stderr
    assert re.search(said, done.stderr), done.stderr
    assert "Traceback" not in done.stderr
    until(lambda: is_free(session.root), 20)
    assert contents(session.root / "sys") == session.originals
