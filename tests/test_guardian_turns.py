"""The guardian in this process, on real files, with clocks that stand until they are moved."""

from __future__ import annotations

import errno
import gc
import io
import json
import os
import shutil
import signal
import socket
import struct
from pathlib import Path
from typing import Any

import pytest
from guarding import (
    CHIP,
    FILES,
    MIDDLE,
    MODE,
    NAMES,
    SAFE,
    Bench,
    bench,
    build,
    given_back_or_cool,
    hello,
    proposal,
    shown,
)  # fmt: skip
from hardware_fakes import add_chip, contents, put
from hypothesis import given
from hypothesis import strategies as st
from profiles import NIGHTLY

from hardware import beats, death, messages
from hardware import guardian as module
from hardware import restore as restoring
from hardware.bounded import OverTimeError, bounded
from hardware.by_hand import restore
from hardware.guardian import PAIR, PROPOSAL, Guardian
from hardware.journal import FOLDER, Journal, JournalError
from hardware.linux.output import Output
from hardware.linux.sysfs import Root
from hardware.programs import DAEMONS
from hardware.restore import (
    RefusedError,
    lease,
)
from hardware.watch import GIVE_UP_NS, State


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return build(tmp_path)


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' own process keeps its priority."""
    monkeypatch.setattr(module, "privileged", lambda: ["nothing"])


class Files:
    """Fails accesses to files: a name to an errno; and notes what was written."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reads: dict[str, int] = {}
        self.writes: dict[str, int] = {}
        self.log: list[tuple[str, int]] = []
        real_read, real_write = Root.raw_read, Root.raw_write

        def raw_read(root: Root, path: str, limit: int) -> bytes:
            number = self.reads.get(path.rpartition("/")[2])
            if number is not None:
                raise OSError(number, os.strerror(number))
            return real_read(root, path, limit)

        def raw_write(root: Root, path: str, data: bytes) -> int:
            name = path.rpartition("/")[2]
            if name in self.writes:
                raise OSError(self.writes[name], os.strerror(self.writes[name]))
            self.log.append((name, int(data)))
            return real_write(root, path, data)

        monkeypatch.setattr(Root, "raw_read", raw_read)
        monkeypatch.setattr(Root, "raw_write", raw_write)

    def take(self) -> list[tuple[str, int]]:
        log, self.log = self.log, []
        return log


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> Files:
    return Files(monkeypatch)


def journal(root: Path) -> list[dict[str, Any]] | None:
    found = Journal(str(root / FOLDER)).read()
    return None if found is None else found[0]


def complaints(guarded: Bench, name: str) -> list[str]:
    """All that was ever said against an output."""
    return [why for said in guarded.said if (why := said.get("failed", {}).get(name))]


# --- the beginning ----------------------------------------------------------------------------------------------------


def test_before_the_first_proposal_it_is_tried_whether_all_can_be_given_back(root: Path, files: Files) -> None:
    before = shown(root)
    with bench(root) as guarded:
        assert guarded.said == [
            {
                "ready": True, "had": ["nothing"], "refused": {}, "notes": {},
                "replayed": {"found": False, "restored": [], "unrestored": [], "cut": ""},
            }
        ]  # fmt: skip
        # The fan is in a mode of its own: it goes the way back that it will go, from full speed in manual mode.
        assert files.take() == [
            ("pwm1_enable", 1), ("pwm1", 255), ("pwm1", 120), ("pwm1_enable", 5), ("pwm2", 60),
            ("scaling_max_freq", 4_000), ("scaling_min_freq", 2_500), ("constraint_0_power_limit_uw", 65),
            ("cur_state", 0),
        ]  # fmt: skip
        entries = journal(root)
        assert entries is not None
        assert [(entry["name"], entry["originals"]) for entry in entries] == [
            ("fan_pwm", [120, 5]), ("plain_pwm", [60]), ("clock", [4_000, 2_500]), ("watts", [65]), ("state", [0]),
        ]  # fmt: skip
        guarded.run(60_000, values=None)
        assert shown(root) == before
        guarded.guardian.watch.end("enough")
        assert guarded.guardian.end() == 0
        assert files.take() == []
    assert journal(root) is None


def test_proposals_are_carried_out_and_given_back(root: Path, files: Files) -> None:
    before = shown(root)
    with bench(root) as guarded:
        files.take()
        guarded.run(100)
        assert files.take() == [
            ("pwm1_enable", 1), ("pwm1", 90), ("pwm2", 60), ("scaling_max_freq", 3_000),
            ("constraint_0_power_limit_uw", 40), ("cur_state", 3),
        ]  # fmt: skip
        guarded.run(2_000, {**MIDDLE, "clock": 1_000})
        # Only what changes; the floor first; and it is read back without a complaint.
        assert files.take() == [("scaling_min_freq", 1_000), ("scaling_max_freq", 1_000)]
        assert guarded.said[-1]["state"] == "NORMAL"
        assert guarded.answers == 6
        guarded.mine.send(b"B")
        guarded.guardian.step()
        assert guarded.guardian.end() == 0
        assert files.take() == [
            ("cur_state", 0), ("constraint_0_power_limit_uw", 65), ("scaling_max_freq", 4_000),
            ("scaling_min_freq", 2_500), ("pwm2", 60), ("pwm1", 120), ("pwm1_enable", 5),
        ]  # fmt: skip
        final = guarded.hear()
        assert (final["why"], final["unrestored"], final["beats"], final["missed"]) == ("goodbye", [], 105, 105)
        # Each step of the test is two beats long.
        assert final["late"] == {"100": 105}
    assert shown(root) == before
    assert journal(root) is None


@pytest.mark.parametrize(
    ("break_it", "name", "why"),
    [
        (lambda root, files, outputs: outputs[0].update(output=None), "fan_pwm", "output is 'None'; a dict is needed"),
        (lambda root, files, outputs: outputs[0].update(safe=256), "fan_pwm", "not minimum <= safe <= maximum: 0, 256"),
        (lambda root, files, outputs: outputs[0].update(minimum="0"), "fan_pwm", "minimum is 0; allowed is an int"),
        (lambda root, files, outputs: put(root / CHIP, {"pwm1_enable": "?"}), "fan_pwm",
         "it cannot be read, so that it could not be given back: not an integer"),
        (lambda root, files, outputs: files.reads.update(cur_state=errno.EIO), "state", "could not be given back: EIO"),
        (lambda root, files, outputs: files.writes.update(pwm1_enable=errno.EINVAL), "fan_pwm",
         "it could not be given back, which was tried: EINVAL"),
        (lambda root, files, outputs: files.writes.update(scaling_max_freq=errno.EACCES), "clock",
         "EACCES: /sys/devices/system/cpu/cpufreq/policy0/scaling_max_freq"),
        (lambda root, files, outputs: outputs[3]["output"]["lanes"][0].update(high=0), "watts",
         "takes 0 to 0, and asked are 1 to 90"),
        (lambda root, files, outputs: outputs[4]["output"]["lanes"][0].update(low=11, high=12), "state",
         "takes 11 to 12, and asked are 0 to 10"),
        (lambda root, files, outputs: outputs[1]["output"]["lanes"][0]["value"].update(path=f"{root}/{FOLDER}/lease"),
         "plain_pwm", "/run/pulsetwin/lease is not below sys, or leads elsewhere"),
        (lambda root, files, outputs: outputs[1]["output"]["lanes"][0]["value"].update(
            path=f"{root}/sys/class/hwmon/hwmon2/pwm2"), "plain_pwm", "is not below sys, or leads elsewhere"),
        (lambda root, files, outputs: outputs[1]["output"].update(lanes=[]), "plain_pwm", "0 lanes"),
        (lambda root, files, outputs: outputs[1]["output"].update(cooler=0), "plain_pwm", "allowed are -1 and 1"),
        (lambda root, files, outputs: outputs[1]["output"]["lanes"][0].update(value=None), "plain_pwm", "is none"),
        (lambda root, files, outputs: outputs[1]["output"]["lanes"][0]["value"].update(path="\0"), "plain_pwm",
         "a path and two numbers are needed"),
        (lambda root, files, outputs: outputs[1]["output"]["lanes"][0].update(value={"library": "what"}), "plain_pwm",
         "'what' is no place of an NVIDIA card"),
    ],
)  # fmt: skip
def test_an_output_that_is_not_what_it_seems_is_refused_and_nothing_is_written(
    root: Path, files: Files, monkeypatch: pytest.MonkeyPatch, break_it: Any, name: str, why: str
) -> None:
    from hardware.linux import nvml

    class Nvml:
        def nvmlInit(self) -> None:
            raise RuntimeError("none")

    monkeypatch.setattr(nvml, "load", lambda: Nvml())
    outputs = hello(root)["outputs"]
    break_it(root, files, outputs)
    before = contents(root / "sys")
    with bench(root, outputs=outputs) as guarded:
        refused = guarded.said[0]["refused"]
        assert list(refused) == [name]
        assert why in refused[name]
        assert contents(root / "sys") == before
        assert [entry["name"] for entry in journal(root) or ()] == [each for each in NAMES if each != name]
        others = {each: raw for each, raw in MIDDLE.items() if each != name}
        guarded.run(1_000, others)
        assert guarded.said[-1]["state"] == "NORMAL"
        assert guarded.said[-1]["taken"] == list(others)
        # Whoever asks for it all the same is not to be trusted.
        guarded.run(200)
        assert guarded.said[-1]["state"] == "MAXCOOL"


@pytest.mark.parametrize("daemon", DAEMONS)
def test_a_program_that_controls_the_same_is_named(root: Path, daemon: str) -> None:
    put(root, {"proc/17/comm": "bash", "proc/self/comm": daemon})
    with bench(root):
        pass
    put(root, {"proc/4711/comm": daemon})
    before = shown(root)
    said = rf"^{daemon} \(process 4711\) controls this machine's cooling; stop it"
    with pytest.raises(RefusedError, match=said), bench(root):
        pass
    assert shown(root) == before
    with bench(root, begin=False) as guarded:
        guarded.mine.send(b"H" + json.dumps(hello(root, outputs=[])).encode())
        guarded.guardian.begin()


def test_a_machine_has_one_lease(root: Path) -> None:
    with bench(root):
        with pytest.raises(RefusedError, match=rf"lease: process {os.getpid()} acts on this machine already"):
            lease(str(root / FOLDER))
        put(root, {f"{FOLDER}/journal": "x"})
        with pytest.raises(RefusedError, match="acts on this machine already"):
            restore(Root(root))
    os.close(lease(str(root / FOLDER)))
    (root / FOLDER / "lease").unlink()
    (root / FOLDER / "lease").symlink_to("/dev/null")
    with pytest.raises(RefusedError, match="links; remove it; a plain file is made there"):
        lease(str(root / FOLDER))
    (root / FOLDER / "lease").unlink()
    (root / FOLDER / "lease").mkdir()
    with pytest.raises(RefusedError, match="lease: Is a directory; remove it; a plain file is made there"):
        lease(str(root / FOLDER))


@pytest.mark.parametrize(
    ("number", "user", "mend"),
    [
        (errno.ENOSPC, 0, "make room on the disk of /run/pulsetwin"),
        (errno.EROFS, 0, "make /run/pulsetwin a folder in which root can write"),
        (errno.EACCES, 5, "run as root, or make /run/pulsetwin writable for this user"),
    ],
)
def test_what_mends_a_lease_that_cannot_be_had(
    monkeypatch: pytest.MonkeyPatch, number: int, user: int, mend: str
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: user)
    said = messages.no_lease("/run/pulsetwin/lease", OSError(number, os.strerror(number)))
    assert said == f"/run/pulsetwin/lease: {os.strerror(number)}; {mend}"
    said = messages.not_written("/run/pulsetwin/journal", OSError(number, os.strerror(number)))
    assert ("make room on the disk of /run/pulsetwin" in said) is (number == errno.ENOSPC)
    assert "/run/pulsetwin" in said


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (b"", "nobody said what is to be guarded"),
        (b"P", "nobody said what is to be guarded"),
        (b"H{", "Expecting property name"),
        (b"H[]", "hello is '[]'; a dict is needed"),
        (b'H{"root": 3}', "root is '3'; a str is needed"),
        (b'H{"root": "tree"}', "root is 'tree'; an absolute path is needed"),
        (b'H{"root": "/", "libraries": [3]}', "libraries is '3'; a str is needed"),
        (b'H{"root": "/", "libraries": [], "lease_ns": 5}', "lease_ns is 5; allowed is an int from 350000000"),
        (b'H{"root": "/", "libraries": [], "lease_ns": 400000000, "outputs": [3]}', "output is '3'; a dict is needed"),
        (b"H" + b"[" * 50_000, "RecursionError"),
    ],
)
def test_a_beginning_that_cannot_be_is_refused_with_one_message(root: Path, message: bytes, why: str) -> None:
    with bench(root, begin=False) as guarded:
        guarded.mine.send(message) if message else guarded.mine.shutdown(1)
        assert guarded.guardian.serve(os.pipe()[0]) == 1
        (said,) = [said for said in [guarded.hear()] if said]
        assert said["ready"] is False
        assert why in said["why"]
    assert not (root / FOLDER).exists()


def test_a_controller_that_says_nothing_is_not_waited_for(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HELLO_SECONDS", 0.05)
    with bench(root, begin=False) as guarded:
        assert guarded.guardian.serve(os.pipe()[0]) == 1
        assert "timed out" in guarded.hear()["why"]


def test_a_journal_that_cannot_be_written_is_no_beginning(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_journal: Journal, _records: object) -> None:
        raise JournalError("full")

    monkeypatch.setattr(Journal, "write", full)
    before = shown(root)
    with pytest.raises(JournalError, match="full"), bench(root):
        pass
    assert shown(root) == before
    os.close(lease(str(root / FOLDER)))


# --- the course -------------------------------------------------------------------------------------------------------


def test_a_silent_controller_is_cooled_for_and_then_given_back(root: Path) -> None:
    before = shown(root)
    with bench(root) as guarded:
        guarded.run(1_000)
        guarded.run(440, values=None)
        now = shown(root)
        assert {name: now[path] for name, path in FILES.items()} == SAFE
        assert (guarded.said[-1]["state"], guarded.said[-1]["reason"]) == (
            "MAXCOOL", "the controller was silent for more than 350 ms",
        )  # fmt: skip
        guarded.run(3_500)
        assert guarded.said[-1]["state"] == "NORMAL"
        assert shown(root)[FILES["fan_pwm"]] == 90
        guarded.run(GIVE_UP_NS // 10**6 + 100, values=None)
        assert "silent for 30" in guarded.guardian.watch.ended
        guarded.guardian.end()
    assert shown(root) == before


def test_what_is_no_proposal_is_not_believed(root: Path) -> None:
    for message in (
        b"P", PROPOSAL.pack(b"P", 2, 99), proposal(99) + b"x", proposal(5), b"?", b"", b"O{", b"O[]", b'O{"name": "x"}',
        PROPOSAL.pack(b"P", 1, 99) + PAIR.pack(0, 1 << 40), b"O" + b"[" * 50_000,
    ):  # fmt: skip
        shutil.rmtree(root / FOLDER, ignore_errors=True)
        with bench(root) as guarded:
            guarded.run(1_000)
            if message:
                guarded.mine.send(message)
                guarded.guardian.step()
                assert guarded.guardian.watch.state is State.MAXCOOL, message
                assert shown(root)[FILES["fan_pwm"]] == 255
            guarded.guardian.end()


def test_the_controller_goes_in_the_middle(root: Path) -> None:
    before = shown(root)
    with bench(root) as guarded:
        guarded.run(200)
        guarded.mine.close()
        guarded.guardian.step()
        assert guarded.guardian.watch.ended
        assert guarded.guardian.end() == 0
    assert shown(root) == before
    with bench(root) as guarded:
        guarded.run(200)
        guarded.theirs.close()
        guarded.guardian.step()
        assert guarded.guardian.watch.ended == "the controller has gone"
        assert guarded.guardian.end() == 0
    assert shown(root) == before


def test_a_suspend_is_noticed_and_everything_written_again(root: Path, files: Files) -> None:
    with bench(root) as guarded:
        guarded.run(1_000)
        put(root / CHIP, {"pwm1_enable": 2})
        (root / FOLDER / "journal").unlink()
        files.take()
        guarded.asleep_ns += 600_000_000
        guarded.run(20, values=None)
        assert files.take()[:2] == [("pwm1_enable", 1), ("pwm1", 255)]
        assert journal(root) is not None
        guarded.run(60)
        assert guarded.said[-1]["reason"] == "the machine was suspended"
        guarded.run(4_000)
        assert guarded.said[-1]["state"] == "NORMAL"
        guarded.asleep_ns += 400_000_000
        guarded.run(100)
        assert guarded.said[-1]["state"] == "NORMAL"


def test_beats_that_were_missed_are_counted_and_not_made_up_for(root: Path) -> None:
    with bench(root) as guarded:
        guarded.run(200)
        guarded.now_ns += 10 * 20_000_000
        guarded.propose()
        guarded.guardian.step()
        told = guarded.guardian.beats.told()
        assert (told["beats"], told["missed"]) == (11, 29)
        guarded.guardian.step()
        assert guarded.guardian.beats.told() == told
        assert guarded.guardian.watch.state is State.NORMAL
        guarded.now_ns += 10**12
        guarded.guardian.step()
        assert guarded.guardian.beats.told()["late"][999] == 2


def test_less_cooling_by_others_is_an_alarm_for_all_and_taken_back(root: Path) -> None:
    with bench(root) as guarded:
        guarded.run(3_000)
        put(root / CHIP, {"pwm1": 20})
        guarded.run(1_200)
        assert guarded.said[-1]["state"] == "ALARM"
        assert any("20 where it was 90, which cools less" in why for why in complaints(guarded, "fan_pwm"))
        assert shown(root)[FILES["watts"]] == 5
        assert shown(root)[FILES["fan_pwm"]] == 255
        guarded.run(4_000)
        assert guarded.said[-1]["state"] == "NORMAL"
        assert shown(root)[FILES["fan_pwm"]] == 90


@pytest.mark.parametrize(
    ("theirs", "state"),
    [({"pwm1_enable": 0}, "DEGRADED"), ({"pwm1_enable": 2, "pwm1": 200}, "DEGRADED"), ({"pwm1": 160}, "DEGRADED"),
     ({"pwm1_enable": 2, "pwm1": 30}, "ALARM"), ({"pwm1_enable": "?"}, "DEGRADED"), ({"pwm1": "?"}, "DEGRADED")],
    ids=str,
)  # fmt: skip
def test_more_cooling_by_others_is_left_to_them_for_ten_seconds(root: Path, theirs: dict[str, Any], state: str) -> None:
    with bench(root) as guarded:
        guarded.run(3_000)
        put(root / CHIP, theirs)
        guarded.run(1_500)
        assert guarded.said[-1]["state"] == state
        assert complaints(guarded, "fan_pwm")
        if state == "DEGRADED" and "?" not in theirs.values():
            guarded.run(8_000)
            assert {key: int((root / CHIP / key).read_text()) for key in theirs} == theirs
            guarded.run(5_000)
            assert shown(root)[MODE] == 1
            assert shown(root)[FILES["fan_pwm"]] == 90
            assert guarded.said[-1]["state"] == "NORMAL"


def test_full_cooling_does_not_wait_for_firmware_that_was_yielded_to(root: Path) -> None:
    with bench(root) as guarded:
        guarded.run(3_000, {**MIDDLE, "fan_pwm": 60})
        put(root / CHIP, {"pwm1": 100})
        guarded.run(2_500, {**MIDDLE, "fan_pwm": 60})
        assert "left to it" in guarded.said[-1]["failed"]["fan_pwm"]
        put(root / CHIP, {"pwm1": 10})
        guarded.run(400, values=None)
        assert guarded.guardian.watch.cool
        assert shown(root)[FILES["fan_pwm"]] == 255


def test_a_fan_that_stands_is_kicked_and_then_an_alarm(root: Path) -> None:
    with bench(root) as guarded:
        guarded.run(3_000)
        put(root / CHIP, {"fan1_input": 0})
        seen: list[int] = []
        guarded.run(12_000, before=lambda: seen.append(shown(root)[FILES["fan_pwm"]]))
        assert 255 in seen
        assert guarded.said[-1]["state"] == "ALARM"
        assert "the fan stands" in guarded.said[-1]["failed"]["fan_pwm"]
        assert shown(root)[FILES["state"]] == 10
        put(root / CHIP, {"fan1_input": 2_000})
        guarded.run(6_000)
        assert guarded.said[-1]["state"] == "NORMAL"
        assert shown(root)[FILES["fan_pwm"]] >= 98


def test_a_driver_that_hides_its_value_in_its_own_mode(root: Path, files: Files) -> None:
    chip = root / CHIP
    outputs = hello(root)["outputs"]
    outputs[0]["output"]["lanes"][0]["blind"] = True
    files.reads["pwm1"] = errno.EOPNOTSUPP
    with bench(root, outputs=outputs) as guarded:
        assert guarded.said[0]["refused"] == {}
        assert (journal(root) or [{}])[0]["originals"] == [None, 5]
        files.reads.clear()
        guarded.run(3_000)
        # The firmware takes it back, and nobody can say how fast it turns.
        put(chip, {"pwm1_enable": 5})
        files.reads["pwm1"] = errno.EOPNOTSUPP
        guarded.run(1_200)
        assert guarded.said[-1]["state"] == "ALARM"
        files.take()
        guarded.guardian.end()
        assert ("pwm1_enable", 5) in files.take()
    assert shown(root)[MODE] == 5


def test_writes_that_fail_are_said_and_tried_again(root: Path, files: Files) -> None:
    with bench(root) as guarded:
        files.writes["pwm2"] = errno.EIO
        guarded.run(1_000, {**MIDDLE, "plain_pwm": 33})
        assert guarded.said[-1]["failed"] == {"plain_pwm": f"EIO: /{CHIP}/pwm2"}
        assert guarded.said[-1]["state"] == "DEGRADED"
        assert guarded.said[-1]["gone"] == []
        files.writes.clear()
        guarded.run(3_000, {**MIDDLE, "plain_pwm": 33})
        assert (guarded.said[-1]["failed"], guarded.said[-1]["state"]) == ({}, "NORMAL")
        assert shown(root)[FILES["plain_pwm"]] == 33


def test_a_device_that_goes_and_comes_back_elsewhere_is_described_anew(root: Path) -> None:
    with bench(root) as guarded:
        guarded.run(1_000)
        gone = (root / CHIP).rename(root / "gone")
        (root / "sys/class/hwmon/hwmon2").unlink()
        guarded.run(3_000, {**MIDDLE, "fan_pwm": 91})
        assert guarded.said[-1]["gone"] == ["fan_pwm", "plain_pwm"]
        assert guarded.said[-1]["failed"]["fan_pwm"].startswith("the device is gone")
        shutil.rmtree(root / "sys/devices/platform")
        back = add_chip(root, 7, "platform/chip.1", "chip", {"pwm1": 1, "pwm1_enable": 2, "pwm2": 2})
        assert gone.is_dir()
        for output in hello(root)["outputs"][:2]:
            guarded.mine.send(b"O" + json.dumps(output).encode())
        guarded.run(5_000)
        assert guarded.said[-1]["state"] == "NORMAL"
        assert int((back / "pwm1").read_text()) == 90
        guarded.mine.send(b"O" + json.dumps({**output, "safe": -1}).encode())
        guarded.run(20, values=None)
        assert "not minimum" in guarded.said[-1]["refused"]["plain_pwm"]
        guarded.guardian.end()
        # What was there first is what comes back.
        assert [(back / name).read_text() for name in ("pwm1", "pwm1_enable", "pwm2")] == ["120\n", "5\n", "60\n"]
    assert journal(root) is None


def test_without_a_journal_for_it_no_output_is_taken_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with bench(root) as guarded:
        guarded.run(200)

        def full(_journal: Journal, _records: object) -> None:
            raise JournalError("full")

        monkeypatch.setattr(Journal, "write", full)
        guarded.asleep_ns += 10**9
        guarded.run(20)
        guarded.mine.send(b"O" + json.dumps(hello(root)["outputs"][0]).encode())
        guarded.run(20, values=None)
        assert guarded.said[-1]["refused"] == {"fan_pwm": "full"}


def test_answers_that_find_no_room_stop_nothing(root: Path) -> None:
    with bench(root) as guarded:
        for _turn in range(400):
            guarded.propose()
            guarded.now_ns += 20_000_000
            guarded.guardian.step()
        assert guarded.guardian.watch.tick == 400
        put(root / CHIP, {"pwm1": "?"})
        for _turn in range(100):
            guarded.now_ns += 20_000_000
            guarded.propose()
            guarded.guardian.step()
        # Reports neither; they are said as soon as there is room.
        guarded.hear()
        guarded.guardian.step()
        assert "fan_pwm" in guarded.hear()["failed"]


# --- the end ----------------------------------------------------------------------------------------------------------


def test_what_cannot_be_given_back_is_cooled_told_and_kept(root: Path, files: Files) -> None:
    with bench(root) as guarded:
        guarded.run(1_000)
        files.writes.update({"pwm1_enable": errno.EINVAL, "cur_state": errno.ENODEV})
        files.take()
        guarded.guardian.watch.end("enough")
        assert guarded.guardian.end() == 1
        final = guarded.hear()
        assert [name for name, _why in final["unrestored"]] == ["state", "fan_pwm"]
        assert files.take()[-2:] == [("pwm1", 120), ("pwm1", 255)]
    # Both may still be given back, by the next guardian or by hand: a device that is gone may come back as it went.
    assert [entry["name"] for entry in journal(root) or ()] == ["fan_pwm", "state"]
    del files.writes["cur_state"]
    with bench(root) as guarded:
        assert guarded.said[0]["replayed"]["unrestored"][0][0] == "fan_pwm"
        assert "fan_pwm" in guarded.said[0]["refused"]
        assert next(entry["name"] for entry in journal(root) or ()) == "fan_pwm"
        guarded.guardian.end()
    assert [entry["originals"] for entry in journal(root) or ()] == [[120, 5]]
    files.writes.clear()
    assert restore(Root(root)) == {"found": True, "restored": ["fan_pwm"], "unrestored": [], "cut": ""}
    assert shown(root)[MODE] == 5
    assert restore(Root(root)) == {"found": False, "restored": [], "unrestored": [], "cut": ""}


def test_one_output_that_raises_does_not_hold_up_the_others(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = shown(root)
    real = Output.give_back

    def raises(output: Output, originals: Any, safe: int) -> Any:
        if output.where.endswith("cur_state"):
            raise RuntimeError("what nobody expected")
        return real(output, originals, safe)

    with bench(root) as guarded:
        guarded.run(1_000)
        monkeypatch.setattr(Output, "give_back", raises)
        assert guarded.guardian.end() == 1
        ((name, why),) = guarded.hear()["unrestored"]
        assert (name, "what nobody expected" in why) == ("state", True)
    assert shown(root) == {**before, FILES["state"]: SAFE["state"]}


def test_full_speed_by_mode_is_the_last_resort(root: Path, files: Files) -> None:
    with bench(root) as guarded:
        guarded.run(1_000)
        files.writes["pwm1"] = errno.EIO
        guarded.guardian.end()
        assert files.take()[-1] == ("pwm1_enable", 0)


def test_a_journal_of_one_that_was_killed_is_restored_first_and_its_originals_kept(root: Path) -> None:
    before = shown(root)
    with bench(root) as guarded:
        guarded.run(1_000)
        assert shown(root) != before
    with bench(root) as guarded:
        assert set(guarded.said[0]["replayed"]["restored"]) == set(NAMES)
        assert shown(root) == before
        guarded.run(500)
        guarded.guardian.end()
    assert shown(root) == before


def test_the_disk_fails_at_the_end(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with bench(root) as guarded:
        guarded.run(200)

        def broken(_journal: Journal) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        monkeypatch.setattr(Journal, "remove", broken)
        monkeypatch.setattr(os, "fsync", lambda _file: broken(guarded.guardian._journal))
        assert guarded.guardian.end() == 1
        assert guarded.hear()["unrestored"][0][0] == "journal"


def test_records_that_cannot_be_used_are_said_and_kept_until_they_are_let_go_of(root: Path) -> None:
    with bench(root) as guarded:
        guarded.run(1_000)
    good = journal(root)
    assert good is not None
    bad: list[dict[str, Any]] = [
        {}, {**good[0], "originals": [1]}, {**good[0], "originals": ["1", 2]}, {**good[0], "name": 3},
        {**good[0], "safe": None}, {**good[0], "output": {**good[0]["output"], "lanes": [3]}},
        {**good[0], "output": {**good[0]["output"], "lanes": [{**good[0]["output"]["lanes"][0], "manual": 256}]}},
    ]  # fmt: skip
    made = Journal(str(root / FOLDER))
    made.write([*bad, *good])
    with Path(made.path).open("ab") as file:
        file.write(b"more")
    done = restore(Root(root))
    assert done["restored"] == [entry["name"] for entry in reversed(good)]
    assert len(done["unrestored"]) == len(bad)
    assert all("record cannot be used" in why for _name, why in done["unrestored"])
    assert "what follows its 12 records" in done["cut"]
    assert len((made.read() or ([], ""))[0]) == 12
    assert restore(Root(root), ["journal"])["cut"]
    assert made.read() == (bad, "")
    # A guardian that acts on the same outputs meanwhile does not take them for its own.
    with bench(root) as guarded:
        guarded.run(200)
        assert (journal(root) or [])[: len(bad)] == bad
        assert guarded.guardian.end() == 0
    assert made.read() == (bad, "")
    restore(Root(root), ["None", "fan_pwm", "3"])
    assert made.read() is None


@pytest.mark.parametrize("outputs", [True, False])
def test_a_journal_that_is_torn_is_given_back_and_not_taken_for_all_there_was(root: Path, outputs: bool) -> None:
    before = shown(root)
    with bench(root) as guarded:
        guarded.run(1_000)
    path = root / FOLDER / "journal"
    whole = path.read_bytes()
    # A whole record less, and one byte less.
    torn = whole[: whole.rindex(b'{"name":"state"') - 8 if outputs else -1]
    path.write_bytes(torn)
    said = r"journal: record 4 of 5 at byte \d+ is torn .* Look at the modes .*, then run twin restore --forget journal"
    for _again in range(2):
        with pytest.raises(RefusedError, match=said), bench(root, **({} if outputs else {"outputs": []})):
            pass
        assert shown(root) == {**before, FILES["state"]: MIDDLE["state"]}
        assert path.read_bytes() == torn
    assert "torn" in restore(Root(root))["cut"]
    assert path.read_bytes() == torn
    assert "torn" in restore(Root(root), ["journal"])["cut"]
    assert not path.exists()
    with bench(root) as guarded:
        guarded.guardian.end()


def test_one_output_that_takes_for_ever_does_not_hold_up_the_others(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restoring, "GIVE_BACK_SECONDS", 0.05)
    before = shown(root)
    with bench(root) as guarded:
        guarded.run(1_000)
        real = Root.raw_write

        def stuck(root: Root, path: str, data: bytes) -> int:
            if path.endswith("pwm2"):
                signal.pause()
            return real(root, path, data)

        monkeypatch.setattr(Root, "raw_write", stuck)
        assert guarded.guardian.end() == 1
        monkeypatch.undo()
        ((name, why),) = guarded.hear()["unrestored"]
        assert name == "plain_pwm"
        assert why == f"/{CHIP}/pwm2: took longer than 0.05 s"
    assert {path: value for path, value in shown(root).items() if path != FILES["plain_pwm"]} == {
        path: value for path, value in before.items() if path != FILES["plain_pwm"]
    }
    with pytest.raises(OverTimeError), bounded(0.01):
        signal.pause()


@pytest.mark.parametrize("error", [KeyError("x"), KeyboardInterrupt(), MemoryError()], ids=repr)
def test_whatever_goes_wrong_inside_outputs_are_given_back(
    root: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    before = shown(root)
    turns = iter(range(3))
    real = Guardian.step

    def step(self: Guardian) -> None:
        if next(turns) == 2:
            raise error
        self._due_ns = 0
        real(self)

    with bench(root, begin=False) as guarded:
        guarded.mine.send(b"H" + json.dumps(hello(root)).encode())
        guarded.mine.send(proposal(1))
        monkeypatch.setattr(Guardian, "step", step)
        assert guarded.guardian.serve(os.pipe()[0]) == 1
        assert type(error).__name__ in guarded.hear()["why"]
        assert guarded.answers == 1
    assert shown(root) == before


def no_pidfd(_process: int) -> int:
    raise OSError(errno.ENOSYS, "none")


def test_it_serves_until_it_is_told_to_end(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = shown(root)
    with bench(root, begin=False) as guarded:
        read, write = os.pipe()
        guarded.mine.send(b"H" + json.dumps(hello(root)).encode())
        guarded.mine.send(proposal(1))
        os.write(write, b"\x0f")
        assert guarded.guardian.serve(read) == 0
        assert guarded.hear()["why"] == "the guardian was told to end"
    with bench(root, begin=False) as guarded:
        # Another signal, as the alarm of what took too long, ends nothing.
        read, write = os.pipe()
        guarded.mine.send(b"H" + json.dumps(hello(root)).encode())
        guarded.mine.send(proposal(1))
        guarded.mine.send(b"B")
        os.write(write, bytes([signal.SIGALRM]))
        assert guarded.guardian.serve(read) == 0
        assert guarded.hear()["why"] == "goodbye"
    with bench(root, begin=False) as guarded, pytest.MonkeyPatch.context() as patched:
        # Without process descriptors the connection is what is left to watch.
        patched.setattr(os, "pidfd_open", no_pidfd)
        guarded.mine.send(b"H" + json.dumps(hello(root)).encode())
        guarded.mine.send(proposal(1))
        guarded.mine.send(b"B")
        assert guarded.guardian.serve(os.pipe()[0]) == 0
    with bench(root, begin=False) as guarded:
        child = os.fork() or os._exit(0)
        monkeypatch.setattr(death, "maker", lambda _channel: child)
        guarded.mine.send(b"H" + json.dumps(hello(root)).encode())
        assert guarded.guardian.serve(os.pipe()[0]) == 0
        assert guarded.hear()["why"] == "the controller ended"
        os.waitpid(child, 0)
    assert shown(root) == before


def test_the_process_ends_when_it_is_told_by_a_signal(root: Path) -> None:
    before = shown(root)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    with bench(root, begin=False) as guarded:
        guarded.mine.send(b"H" + json.dumps(hello(root)).encode())
        for tick in range(1, 101):
            guarded.mine.send(proposal(tick))
        real, beats = Guardian.step, iter(range(9))

        def step(self: Guardian) -> None:
            real(self)
            if next(beats) == 2:
                assert shown(root)[FILES["fan_pwm"]] == 90
                os.kill(os.getpid(), signal.SIGTERM)

        try:
            with pytest.MonkeyPatch.context() as patched:
                patched.setattr(Guardian, "step", step)
                assert module.main([str(os.dup(guarded.theirs.fileno()))]) == 0
        finally:
            os.close(signal.set_wakeup_fd(-1))
            for number, handler in handlers.items():
                signal.signal(number, handler)
        assert guarded.hear()["why"] == "the guardian was told to end"
        assert guarded.answers == 25
    assert shown(root) == before


@given(st.binary(max_size=80))
def test_any_message_is_a_proposal_or_is_not(message: bytes) -> None:
    tick, wanted = module._proposal(message)
    if wanted is not None:
        assert PROPOSAL.pack(message[:1], len(wanted), tick)[:1] + message[1:] == message
        assert b"".join(PAIR.pack(*pair) for pair in wanted) == message[PROPOSAL.size :]
    else:
        assert len(message) < PROPOSAL.size or (
            len(message) != PROPOSAL.size + PAIR.size * struct.unpack_from("<I", message, 4)[0]
        )


def test_every_access_may_fail_once_and_nothing_stays_unsafe(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each read and write of a session fails in turn, with each class of error; at the end all is back, or cooled."""
    originals = shown(root)
    pristine = {path: (root / path).read_bytes() for path in originals}
    real = {"raw_read": Root.raw_read, "raw_write": Root.raw_write}
    count = failing = number = 0

    def access(name: str) -> Any:
        def method(root: Root, *arguments: object) -> object:
            nonlocal count
            count += 1
            if count == failing:
                raise OSError(number, os.strerror(number))
            return real[name](root, *arguments)  # type: ignore[arg-type]

        return method

    for name in real:
        monkeypatch.setattr(Root, name, access(name))
    table = hello(root)

    def session() -> None:
        nonlocal count
        count = 0
        with bench(root, outputs=table["outputs"]) as guarded:
            taken = [held.name for held in guarded.guardian.held if not held.refused]
            for turn in range(5):
                guarded.now_ns += 100_000_000
                guarded.propose({name: MIDDLE[name] + turn % 2 for name in taken})
                guarded.guardian.step()
            guarded.guardian.watch.end("enough")
            guarded.guardian.end()

    session()
    total = count
    assert total > 60
    # Each class of error has its turn at any step that has no factor in common with their number.
    for failing in range(1, total + 1, 1 if NIGHTLY else 5):
        number = (errno.EIO, errno.EACCES, errno.ENODEV, errno.EINTR, errno.ENOSPC, errno.EINVAL)[failing % 6]
        session()
        assert given_back_or_cool(root, originals), failing
        for path, data in pristine.items():
            (root / path).write_bytes(data)
        shutil.rmtree(root / FOLDER)


def test_what_keeps_it_on_time_is_asked_for_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(gc, "freeze", int)
    monkeypatch.setattr(gc, "disable", int)

    def denied(*_arguments: object, **_named: object) -> None:
        raise PermissionError(errno.EPERM, "no")

    asked: list[object] = []
    monkeypatch.setattr(os, "sched_setscheduler", lambda *arguments: asked.append(arguments))
    monkeypatch.setattr(os, "nice", denied)
    monkeypatch.setattr("builtins.open", denied)
    monkeypatch.setattr(os, "geteuid", lambda: 1_000)
    import ctypes

    class Library:
        def __init__(self, _name: object) -> None:
            pass

        def mlockall(self, flags: int) -> int:
            asked.append(flags)
            return 0 if flags == 1 else -1

    monkeypatch.setattr(ctypes, "CDLL", Library)
    assert beats.privileged() == ["realtime", "memory"]
    assert asked[1] == 1
    monkeypatch.setattr(os, "sched_setscheduler", denied)
    monkeypatch.setattr(os, "nice", asked.append)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr("builtins.open", lambda *_, **__: io.BytesIO())
    assert beats.privileged() == ["nice", "oom"]
    monkeypatch.setattr(os, "nice", denied)
    monkeypatch.setattr("builtins.open", denied)
    assert beats.privileged() == []


# --- what was left ----------------------------------------------------------------------------------------------------


def test_what_could_not_be_given_back_keeps_the_originals_of_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with bench(build(tmp_path)) as left:
        left.run(1_000)
    journal = Journal(str(tmp_path / FOLDER))
    before = journal.read()
    assert before is not None
    said = {"found": True, "restored": [], "unrestored": [("fan_pwm", "EIO")], "cut": ""}
    monkeypatch.setattr(restoring, "replay", lambda _root, _journal: said)
    with bench(tmp_path) as guarded:
        guarded.run(200)
        after = journal.read()
        assert after is not None
        assert [entry["originals"] for entry in after[0]] == [entry["originals"] for entry in before[0]]
        assert guarded.guardian.end() == 0
    assert shown(tmp_path)[FILES["fan_pwm"]] == 120


def test_what_was_left_is_known_by_its_files_and_not_by_its_name(root: Path, files: Files) -> None:
    with bench(root) as guarded:
        guarded.run(1_000)
    files.writes["pwm1_enable"] = files.writes["pwm1"] = errno.EBUSY
    assert [name for name, _why in restore(Root(root))["unrestored"]] == ["fan_pwm"]
    files.writes.clear()
    other = add_chip(root, 3, "platform/other.1", "other", {"pwm1": 77, "pwm1_enable": 2})
    text = json.dumps(hello(root)["outputs"][0])
    moved = json.loads(text.replace("chip.1/hwmon/hwmon2", "other.1/hwmon/hwmon3"))
    status = other.stat()
    for key in ("value", "mode"):
        moved["output"]["lanes"][0][key]["identity"] = [status.st_dev, status.st_ino]
    moved["output"]["tach"] = None
    files.writes["pwm1_enable"] = errno.EBUSY
    with bench(root, begin=False) as guarded:
        real = restoring.replay
        with pytest.MonkeyPatch.context() as patched:

            def busy(*arguments: Any) -> dict[str, Any]:
                done = real(*arguments)
                files.writes.clear()
                return done

            patched.setattr(restoring, "replay", busy)
            guarded.begin(outputs=[moved, {**json.loads(text), "name": "renamed"}])
        assert [(entry["name"], entry["originals"]) for entry in journal(root) or ()] == [
            ("fan_pwm", [77, 2]), ("renamed", [120, 5]),
        ]  # fmt: skip
        guarded.guardian.end()
    assert shown(root)[MODE] == 5
    files.writes["pwm1_enable"] = errno.EBUSY
    with bench(root) as guarded:
        guarded.run(200, {"state": 1})
    # Of the same name, and another device: both are kept.
    made = Journal(str(root / FOLDER))
    kept = [entry for entry in journal(root) or () if entry["name"] != "fan_pwm"]
    made.write([*kept, {**json.loads(text), "originals": [120, 5]}])
    with bench(root, outputs=[]) as guarded:
        assert [entry["originals"] for entry in guarded.guardian._left] == [[120, 5]]
    files.writes.clear()
    with bench(root, begin=False) as guarded:
        with pytest.MonkeyPatch.context() as patched:
            said = {"found": True, "restored": [], "unrestored": [], "cut": ""}
            patched.setattr(restoring, "replay", lambda *_arguments: said)
            guarded.begin(outputs=[moved])
        assert sorted(entry["originals"] for entry in journal(root) or ()) == [[77, 2], [120, 5]]
        assert guarded.guardian.end() == 0
    assert [entry["originals"] for entry in journal(root) or ()] == [[120, 5]]


CORE = {"cpuinfo_min_freq": 800, "cpuinfo_max_freq": 4_000, "scaling_min_freq": 800, "scaling_max_freq": 4_000}


def add_cores(root: Path) -> Path:
    """Two more policies of the clock's cores; the folder of all."""
    cpufreq = root / "sys/devices/system/cpu/cpufreq"
    for number in (1, 2):
        put(cpufreq / f"policy{number}", CORE)
    return cpufreq


def test_a_clock_with_other_cores_is_given_back_by_file(root: Path) -> None:
    cpufreq = add_cores(root)
    with bench(root) as guarded:
        guarded.run(1_000)
        shutil.rmtree(cpufreq / "policy1")
        put(cpufreq / "policy3", {**CORE, "scaling_max_freq": 3_900})
        guarded.mine.send(b"O" + json.dumps(hello(root)["outputs"][2]).encode())
        guarded.run(1_000)
        (clock,) = [entry for entry in journal(root) or () if entry["name"] == "clock"]
        assert clock["originals"] == [4_000, 4_000, 3_900, 2_500, 800, 800]
        shutil.rmtree(cpufreq / "policy3")
        guarded.mine.send(b"O" + json.dumps(hello(root)["outputs"][2]).encode())
        guarded.run(1_000)
        (clock,) = [entry for entry in journal(root) or () if entry["name"] == "clock"]
        assert clock["originals"] == [4_000, 4_000, 2_500, 800]


def rebound(root: Path) -> None:
    """The driver was loaded again: the same path, the same registers, and another device."""
    shutil.copytree(root / CHIP, root / "again", symlinks=True)
    (root / CHIP).rename(root / "before")
    (root / "again").rename(root / CHIP)


@pytest.mark.parametrize("broken", ["write", "read", "journal", "description"])
def test_an_output_that_was_changed_counts_when_it_cannot_be_taken_again(root: Path, files: Files, broken: str) -> None:
    others = {name: raw for name, raw in MIDDLE.items() if name != "fan_pwm"}
    before = shown(root)
    with bench(root) as guarded:
        guarded.run(1_000)
        if broken in ("write", "read"):
            rebound(root)
        fan, plain = hello(root)["outputs"][:2]
        with pytest.MonkeyPatch.context() as patched:
            if broken == "journal":

                def full(_journal: Journal, _records: object) -> None:
                    raise JournalError("full")

                patched.setattr(Journal, "write", full)
            elif broken == "description":
                fan["safe"] = 999
            else:
                getattr(files, f"{broken}s")["pwm1_enable"] = errno.EIO
            guarded.mine.send(b"O" + json.dumps(fan).encode())
            guarded.run(2_000, others)
            guarded.mine.send(b"O" + json.dumps(plain).encode())
        assert guarded.said[-1]["state"] == "DEGRADED"
        assert "fan_pwm" in guarded.said[-1]["failed"]
        files.writes.clear()
        files.reads.clear()
        guarded.run(1_000, values=None)
        assert guarded.guardian.watch.cool
        assert shown(root)[FILES["fan_pwm"]] == 255
        assert guarded.guardian.end() == 0, guarded.hear()
    assert shown(root) == before


def test_a_file_that_fails_leaves_no_other_of_its_output_unwritten(root: Path) -> None:
    cpufreq = add_cores(root)
    with bench(root) as guarded:
        guarded.run(1_000)
        shutil.rmtree(cpufreq / "policy1")
        guarded.run(1_000, values=None)
        assert guarded.guardian.watch.cool
        assert (cpufreq / "policy2/scaling_max_freq").read_text() == "2000\n"
        assert guarded.said[-1]["failed"]["clock"].startswith("the device is gone")
        assert "policy1" in guarded.said[-1]["failed"]["clock"]


def test_a_device_whose_driver_was_loaded_again_is_given_back_and_another_one_is_not(root: Path) -> None:
    before = shown(root)
    with bench(root) as guarded:
        guarded.run(1_000)
    rebound(root)
    put(root / CHIP, {"name": "other"})
    done = restore(Root(root))
    assert [name for name, why in done["unrestored"] if "the device is gone" in why] == ["plain_pwm", "fan_pwm"]
    assert shown(root)[FILES["fan_pwm"]] == 90
    put(root / CHIP, {"name": "chip"})
    with bench(root) as guarded:
        assert set(guarded.said[0]["replayed"]["restored"]) == {"fan_pwm", "plain_pwm"}
        assert shown(root) == before
        guarded.run(500)
        assert (journal(root) or [{}])[0]["originals"] == [120, 5]
        guarded.guardian.end()
    assert shown(root) == before


@pytest.mark.parametrize(
    ("name", "flags", "pending", "dying"),
    [(b"twin", 0x400000, 0, False), (b"a (b) c", 0x400000, 0x4200, False), (b"twin", 0x40000C, 0, True),
     (b") 0 4 (", 0x400000, 0x100, True)],
)  # fmt: skip
def test_a_process_that_was_killed_is_dying_before_it_has_a_processor(
    monkeypatch: pytest.MonkeyPatch, name: bytes, flags: int, pending: int, dying: bool
) -> None:
    fields = [b"7", b"(" + name + b")", b"R", *([b"3"] * 49)]
    fields[8], fields[30] = b"%d" % flags, b"%d" % pending
    monkeypatch.setattr(Root, "raw_read", lambda _root, path, _limit: {"/proc/7/stat": b" ".join(fields)}[path])
    assert death.dying(Root("/"), 7) is dying


def test_of_a_process_that_is_gone_nothing_is_known() -> None:
    child = os.fork() or os._exit(0)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    assert death.dying(Root("/"), child)
    os.waitpid(child, 0)
    assert not death.dying(Root("/"), child)
    assert not death.dying(Root("/"), os.getpid())


def test_an_end_is_seen_before_the_kernel_tells_of_it(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The controller's memory goes first. Its socket is held by others, and nobody is told of its end."""
    before = shown(root)
    mine, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        made = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        socket.send_fds(theirs, [b"."], [each.fileno() for each in made])
        os.read(theirs.fileno(), 1)
        os._exit(0)
    _data, (held, channel), _flags, _address = socket.recv_fds(mine, 1, 2)
    monkeypatch.setattr(os, "pidfd_open", no_pidfd)
    wake, waker = os.pipe()
    with socket.socket(fileno=held) as controller, socket.socket(fileno=channel) as served:
        beats = iter(range(1_000))
        real = Guardian.step

        def step(self: Guardian) -> None:
            real(self)
            beat = next(beats)
            if beat == 1:
                assert shown(root)[FILES["fan_pwm"]] == 90
                os.write(mine.fileno(), b".")
                os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
            if beat > 1:
                os.write(waker, bytes([signal.SIGTERM]))

        monkeypatch.setattr(Guardian, "step", step)
        controller.send(b"H" + json.dumps(hello(root)).encode())
        controller.send(proposal(1))
        assert Guardian(served).serve(wake) == 0
        said = b""
        while b"final" not in said:
            said = controller.recv(1 << 20)
    assert json.loads(said[1:])["why"] == "the controller ended"
    assert shown(root) == before
    os.waitpid(child, 0)
    for opened in (wake, waker):
        os.close(opened)
    mine.close()
    theirs.close()


def test_what_was_asked_stays_within_the_limits_of_a_device_that_came_back(root: Path) -> None:
    with bench(root) as guarded:
        guarded.run(1_000)
        fan = hello(root)["outputs"][0]
        for minimum, maximum, inside in ((100, 255, 100), (0, 80, 80)):
            limits = {"minimum": minimum, "maximum": maximum, "safe": maximum}
            guarded.mine.send(b"O" + json.dumps({**fan, **limits}).encode())
            guarded.run(140, values={})
            assert not guarded.guardian.watch.cool
            assert shown(root)[FILES["fan_pwm"]] == inside
