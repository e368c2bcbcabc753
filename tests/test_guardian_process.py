"""Real processes: a controller and its guardian, killed, stopped and starved, on files.

Figures are printed (`-s` shows them) and measured by `benchmarks/guardian.py`; here only what must hold is asserted.
"""

from __future__ import annotations

import fcntl
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import psutil
import pytest
from guarding import (
    FILES,
    MACHINE,
    MIDDLE,
    MODE,
    NAMES,
    build,
    controller,
    given_back_or_cool,
    gone,
    hello,
    proposal,
    shown,
    until,
)  # fmt: skip
from hardware_fakes import contents, put
from profiles import NIGHTLY

from hardware.interface import Command
from hardware.journal import FOLDER
from hardware.linux import guarded as module
from hardware.linux.adapter import LinuxHardware
from hardware.linux.guarded import GuardedHands, GuardianError
from hardware.linux.sysfs import Root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return build(tmp_path)


def acting(root: Path) -> LinuxHardware:
    return LinuxHardware(root, MACHINE, time.monotonic_ns, GuardedHands(root))


def applied_until(hardware: LinuxHardware, root: Path, name: str = "fan_pwm", value: int = MIDDLE["fan_pwm"]) -> None:
    """Cycles until the output shows the value."""

    def done() -> bool:
        hardware.apply(Command({**MIDDLE, name: value}))
        time.sleep(0.02)
        return shown(root)[FILES[name]] == value

    until(done)


def test_the_guardian_writes_and_the_controller_does_not(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(root / "sys")

    def never(*_arguments: object) -> int:
        raise AssertionError("the controller wrote")

    monkeypatch.setattr(Root, "raw_write", never)
    hands = GuardedHands(root)
    hardware = LinuxHardware(root, MACHINE, time.monotonic_ns, hands)
    try:
        assert hardware.refused == {}
        assert hands.pid is not None
        assert os.getsid(hands.pid) == hands.pid
        applied_until(hardware, root)
        assert hardware.apply(Command({**MIDDLE, "fan_pwm": 999})).clamped == ("fan_pwm",)
        for process in (os.getpid(), hands.pid):
            for link in Path(f"/proc/{process}/fd").iterdir():
                assert not os.path.realpath(link).startswith(f"{root}/sys")
        # The guardian has its channel, its lease, its wake-up and the controller, and nothing else of it.
        assert len(list(Path(f"/proc/{hands.pid}/fd").iterdir())) <= 9
        assert psutil.Process(hands.pid).num_threads() == 1
        assert hands.state == "NORMAL"
    finally:
        hardware.close()
    assert hardware.unrestored == ()
    assert contents(root / "sys") == before
    assert hands.pid is None
    assert not (root / FOLDER / "journal").exists()
    hardware.close()
    assert hardware.apply(Command({"watts": 3})).failed == (("watts", "closed"),)


def test_a_controller_that_is_killed_leaves_nothing_unsafe(tmp_path: Path) -> None:
    """Killed at random moments; nightly more often. How long it took is printed."""
    chance = random.Random(7)
    took = []
    for kill in range(1_000 if NIGHTLY else 20):
        # On a machine of its own: on one that was given back a moment ago it would wait.
        root = build(tmp_path / str(kill))
        originals = shown(root)
        with controller(root) as process:
            guardian = int(process.stdout.readline())
            # From the first proposal on, wherever it is then.
            for _cycle in range(chance.randrange(1, 4)):
                process.stdout.readline()
            time.sleep(chance.random() * 0.1)
            process.send_signal(signal.SIGKILL)
            took.append(until(partial(given_back_or_cool, root, originals)))
        until(partial(gone, guardian))
        assert shown(root) == originals
        assert not (root / FOLDER / "journal").exists()
    took.sort()
    print(f"\nkilled -> given back: median {took[len(took) // 2] * 1e3:.1f} ms, most {took[-1] * 1e3:.1f} ms")


@pytest.mark.parametrize("hang", ["SIGSTOP", "while cycle == 5: pass"])
def test_a_controller_that_hangs_is_cooled_for(root: Path, hang: str) -> None:
    originals = shown(root)
    with controller(root, "pass" if hang == "SIGSTOP" else hang) as process:
        int(process.stdout.readline())
        for _cycle in range(5):
            process.stdout.readline()
        if hang == "SIGSTOP":
            process.send_signal(signal.SIGSTOP)
        took = until(lambda: given_back_or_cool(root, originals))
        print(f"\nhung -> full cooling: {took * 1e3:.0f} ms")
        assert shown(root)[FILES["fan_pwm"]] == 255
        assert shown(root)[MODE] == 1
        if hang == "SIGSTOP":
            # It is not given up yet, and may go on.
            process.send_signal(signal.SIGCONT)
            until(lambda: 80 <= shown(root)[FILES["fan_pwm"]] < 100)


def test_a_controller_that_ends_or_raises_gives_back(root: Path) -> None:
    originals = shown(root)
    for each in ("sys.exit()", "1 / 0", "import os; os._exit(3)", "import os; os.abort()"):
        with controller(root, f"if cycle == 2: {each}" if "import" not in each else each) as process:
            guardian = int(process.stdout.readline())
            process.wait(20)
        until(lambda: gone(guardian))  # noqa: B023
        assert shown(root) == originals, each


def test_a_guardian_that_is_killed_is_followed_by_one_that_restores_first(root: Path) -> None:
    originals = shown(root)
    hardware = acting(root)
    hands = hardware._hands
    assert isinstance(hands, GuardedHands)
    try:
        applied_until(hardware, root)
        assert hands.pid is not None
        os.kill(hands.pid, signal.SIGKILL)
        until(lambda: gone(hands.pid or 0))
        assert shown(root)[FILES["fan_pwm"]] == 90
        failed = hardware.apply(Command(MIDDLE)).failed
        assert {name for name, _why in failed} == set(NAMES)
        # No cycle comes before it has restored: what was there is seen again.
        took = until(lambda: shown(root) == originals)
        print(f"\nguardian started -> given back: {took * 1e3:.0f} ms")
        applied_until(hardware, root)
        assert hands.restarts == 1
        assert set(hands.replayed["restored"]) == set(NAMES)
        until(lambda: hardware.apply(Command(MIDDLE)).failed == ())
        # Told to end, it gives back by itself; and another one is started.
        os.kill(hands.pid, signal.SIGTERM)
        until(lambda: shown(root) == originals)
        applied_until(hardware, root)
        assert hands.restarts == 2
    finally:
        hardware.close()
    assert shown(root) == originals


def test_a_guardian_that_keeps_dying_is_not_started_for_ever_and_the_last_word_is_restoring(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    originals = shown(root)
    monkeypatch.setattr(module, "RESTARTS", 1)
    hardware = acting(root)
    hands = hardware._hands
    assert isinstance(hands, GuardedHands)
    for _death in range(2):
        applied_until(hardware, root)
        assert hands.pid is not None
        os.kill(hands.pid, signal.SIGKILL)
        until(lambda: gone(hands.pid or 0))
        hardware.apply(Command(MIDDLE))
    # Nobody waits for the end of the run, or has to come: the last guardian gives back and ends.
    until(lambda: shown(root) == originals)

    def said() -> bool:
        failed = dict(hardware.apply(Command(MIDDLE)).failed)
        assert "the guardian died 2 times in a minute and is not started again; " in failed["fan_pwm"]
        return failed["fan_pwm"].endswith("everything was given back")

    until(said)
    assert shown(root) == originals
    assert not (root / FOLDER / "journal").exists()
    hardware.close()
    assert hands.restarts == 1
    assert hardware.unrestored == ()
    assert shown(root) == originals


def test_a_guardian_that_is_stopped_at_the_end_is_followed_by_one_that_restores(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    originals = shown(root)
    hardware = acting(root)
    hands = hardware._hands
    assert isinstance(hands, GuardedHands)
    applied_until(hardware, root)
    assert hands.pid is not None
    os.kill(hands.pid, signal.SIGSTOP)
    real = GuardedHands._ended

    def ended(self: GuardedHands) -> None:
        monkeypatch.setattr(module, "END_SECONDS", 0.1 if self._acts else 20.0)
        real(self)

    monkeypatch.setattr(GuardedHands, "_ended", ended)
    hardware.close()
    assert hardware.unrestored == ()
    assert shown(root) == originals
    assert not (root / FOLDER / "journal").exists()
    assert set(hands.replayed["restored"]) == set(NAMES)


def test_a_guardian_that_does_not_answer_is_replaced(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DEAF_NS", 200_000_000)
    originals = shown(root)
    hands = GuardedHands(root, period_ns=10_000_000)
    hardware = LinuxHardware(root, MACHINE, time.monotonic_ns, hands)
    try:
        applied_until(hardware, root)
        stopped = hands.pid
        assert stopped is not None
        os.kill(stopped, signal.SIGSTOP)

        def replaced() -> bool:
            hardware.apply(Command({**MIDDLE, "fan_pwm": 91}))
            time.sleep(0.02)
            return shown(root)[FILES["fan_pwm"]] == 91

        until(replaced)
        assert hands.restarts >= 1
        assert gone(stopped)
    finally:
        hardware.close()
    assert shown(root) == originals


def test_two_of_them_and_other_programs_are_refused_by_name(root: Path) -> None:
    hardware = acting(root)
    try:
        with pytest.raises(GuardianError, match=rf"process {hardware._hands.pid} acts on this machine already"):  # type: ignore[union-attr]
            acting(root)
    finally:
        hardware.close()
    put(root, {"proc/4711/comm": "fancontrol"})
    with pytest.raises(GuardianError, match=r"fancontrol \(process 4711\) controls this machine's cooling"):
        acting(root)


def test_a_guardian_that_is_not_waited_for_says_when_it_acts_or_that_it_will_not(root: Path) -> None:
    put(root / FILES["fan_pwm"].rpartition("/")[0], {"pwm1_enable": "vendor"})
    hands = GuardedHands(root, waits=False)
    hardware = LinuxHardware(root, MACHINE, time.monotonic_ns, hands)
    assert hands.acting is False
    assert dict(hardware.apply(Command(MIDDLE)).failed)["watts"] == "the guardian is starting"
    until(lambda: bool(hardware.apply(Command(MIDDLE)) and hands.acting))
    assert list(hands.refused) == ["fan_pwm"]
    hardware.close()
    put(root, {"proc/4711/comm": "fancontrol"})
    hands = GuardedHands(root, waits=False)
    hardware = LinuxHardware(root, MACHINE, time.monotonic_ns, hands)
    until(lambda: bool(hardware.apply(Command(MIDDLE)) and hands.acting is None))
    for _cycle in range(3):
        assert "fancontrol (process 4711)" in dict(hardware.apply(Command(MIDDLE)).failed)["watts"]
    assert "fancontrol (process 4711)" in hands.why
    assert hands.restarts == 0
    hardware.close()
    assert hardware.unrestored == ()


def test_an_output_that_is_refused_fails_and_the_others_go_on(root: Path) -> None:
    put(root / FILES["fan_pwm"].rpartition("/")[0], {"pwm1_enable": "vendor"})
    hardware = acting(root)
    try:
        assert list(hardware.refused) == ["fan_pwm"]
        put(root / FILES["fan_pwm"].rpartition("/")[0], {"pwm1_enable": 5})
        applied_until(hardware, root, "watts", 33)
        ((name, why),) = hardware.apply(Command(MIDDLE)).failed
        assert name == "fan_pwm"
        assert "could not be given back" in why
    finally:
        hardware.close()
    assert hardware.unrestored == ()


def test_a_device_that_comes_late_is_taken_late(root: Path) -> None:
    link, chip = root / "sys/class/hwmon/hwmon2", root / "sys/devices/platform"
    target = link.readlink()
    link.unlink()
    hardware = acting(root)
    try:
        failed = dict(hardware.apply(Command(MIDDLE)).failed)
        assert failed == {"fan_pwm": "not there", "plain_pwm": "not there"}
        link.symlink_to(target)
        hardware.read()
        assert "is taking it" in dict(hardware.apply(Command(MIDDLE)).failed)["fan_pwm"]
        applied_until(hardware, root)
        assert chip.is_dir()
    finally:
        hardware.close()
    assert shown(root)[MODE] == 5


def test_a_guardian_that_cannot_be_started_is_said(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_GUARDIAN", "")
    with pytest.raises(GuardianError, match="the guardian does not act: the guardian has gone"):
        acting(root)
    monkeypatch.setattr(module, "_GUARDIAN", "import time; time.sleep(60)")
    monkeypatch.setattr(module, "START_SECONDS", 0.3)
    with pytest.raises(GuardianError, match=r"did not get ready within 0\.3 s"):
        acting(root)


def test_a_slow_file_delays_no_cycle(root: Path) -> None:
    """A pipe that nobody reads refuses a write; a guardian that is stopped answers none. A cycle waits for neither."""
    hardware = acting(root)
    hands = hardware._hands
    assert isinstance(hands, GuardedHands)
    try:
        applied_until(hardware, root)
        assert hands.pid is not None
        os.kill(hands.pid, signal.SIGSTOP)
        # More than the channel holds: nothing blocks, and all that is late is news.
        for number in range(1_000):
            hardware.apply(Command({**MIDDLE, "fan_pwm": number % 256}))
        os.kill(hands.pid, signal.SIGCONT)
        applied_until(hardware, root, value=77)
        assert hands.restarts == 0
    finally:
        hardware.close()


def test_the_guardian_imports_nothing_but_the_standard_library() -> None:
    words = module.guardian_words(0)
    words[4] = words[4].replace("sys.exit(main(sys.argv[1:]))", "print(*sys.modules)")
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    names = {name.partition(".")[0] for name in done.stdout.split()}
    assert not {name for name in names if name not in sys.stdlib_module_names} - {"hardware", "__main__"}
    assert not {"twin", "numpy", "threading"} & names


def killed_at_each_call(root: Path, call: str, most: int) -> int:
    """Kill the guardian at each `call` (a system call) of a short session, one after the other; returns how many."""
    originals = shown(root)
    for number in range(1, most + 1):
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with mine, theirs:
            words = ["strace", "-qq", "-o", "/dev/null", "-e", f"trace={call}", "-e",
                     f"inject={call}:signal=KILL:when={number}", *module.guardian_words(theirs.fileno())]  # fmt: skip
            with subprocess.Popen(words, pass_fds=[theirs.fileno()]) as process:
                mine.send(b"H" + json.dumps(hello(root)).encode())
                for tick in (1, 2):
                    mine.send(proposal(tick, {**MIDDLE, "fan_pwm": 80 + tick, "clock": 2_000 + tick}))
                    until(lambda: process.poll() is not None or shown(root)[FILES["state"]] == MIDDLE["state"])
                    until(lambda: process.poll() is not None or shown(root)[FILES["fan_pwm"]] == 80 + tick)  # noqa: B023
                mine.send(b"B")
        if process.returncode == 0:
            assert shown(root) == originals
            return number - 1
        assert process.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL)
        # Whatever is left, the next one gives it back.
        module_restore(root)
        assert shown(root) == originals, f"{call} {number}"
        shutil.rmtree(root / FOLDER, ignore_errors=True)
    return most


def module_restore(root: Path) -> None:
    from hardware.by_hand import restore

    assert restore(Root(root))["unrestored"] == []


def strace_injects() -> bool:
    if shutil.which("strace") is None:
        return False
    words = ["strace", "-qq", "-o", "/dev/null", "-e", "inject=getpid:signal=KILL:when=1", "true"]
    return subprocess.run(words, check=False, capture_output=True).returncode in (0, -9, 137)


@pytest.mark.skipif(not strace_injects(), reason="no strace here that may trace: kills at system calls are not tried")
@pytest.mark.parametrize(
    ("call", "most"), [("fsync", 99), ("rename", 99), ("unlink", 99), ("write", 400 if NIGHTLY else 12)]
)
def test_a_guardian_killed_at_any_system_call_leaves_what_the_next_one_gives_back(
    root: Path, call: str, most: int
) -> None:
    killed = killed_at_each_call(root, call, most)
    print(f"\n{call}: killed at {killed} calls")
    assert killed >= 1


@pytest.mark.skipif(not strace_injects(), reason="no strace here that may trace: kills at system calls are not tried")
def test_a_controller_killed_at_any_message_is_given_back_for(root: Path) -> None:
    """From the first message, before there is a journal, to the goodbye. Nightly all of them."""
    originals = shown(root)
    for number in (1, 2, 3, 4, 5, 6) if NIGHTLY else (1, 3, 6):
        words = ("strace", "-qq", "-o", "/dev/null", "-e", "trace=sendto", "-e",
                 f"inject=sendto:signal=KILL:when={number}")  # fmt: skip
        with controller(root, cycles=4, wrapper=words) as process:
            said = process.stdout.read()
            assert process.wait(60) != 0
            # The guardian's process comes first, then the cycles that were over.
            assert len(said.splitlines()) == max(0, number - 1)
        until(lambda: is_free(root))
        assert shown(root) == originals
        assert not (root / FOLDER / "journal").exists()


def is_free(root: Path) -> bool:
    """Whether no guardian acts below `root`."""
    path = root / FOLDER / "lease"
    if not path.exists():
        return True
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
    return True
