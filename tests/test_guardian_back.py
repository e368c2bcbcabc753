"""The way back: that it is tried, that it is seen, what is given back at all, and to whom the machine belongs."""

from __future__ import annotations

import errno
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from guarding import CHIP, FILES, MIDDLE, MODE, NAMES, SAFE, Still, bench, build, hello, shown
from hardware_fakes import put
from test_guardian_turns import Files, complaints, journal

from hardware import guardian as module
from hardware import messages
from hardware import restore as restoring
from hardware.by_hand import restore
from hardware.journal import FOLDER, Journal, JournalError
from hardware.linux.sysfs import Root
from hardware.restore import RefusedError, holds, lease, leave, replay
from hardware.watch import SLOW_NS

FAN = FILES["fan_pwm"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return build(tmp_path)


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> Files:
    return Files(monkeypatch)


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' own process keeps its priority."""
    monkeypatch.setattr(module, "privileged", lambda: ["nothing"])


class Deaf:
    """Files that take every write and do not do it, from now on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: set[str] = set()
        self.takes = 0
        """So many writes are obeyed all the same."""
        real = Root.raw_write

        def raw_write(root: Root, path: str, data: bytes) -> int:
            if path.rpartition("/")[2] in self.names:
                self.takes -= 1
                if self.takes < 0:
                    return len(data)
            return real(root, path, data)

        monkeypatch.setattr(Root, "raw_write", raw_write)


@pytest.fixture
def deaf(monkeypatch: pytest.MonkeyPatch) -> Deaf:
    return Deaf(monkeypatch)


# --- whose machine it is ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["unlinked", "replaced", "folder"])
def test_a_guardian_whose_lease_is_another_file_gives_back_and_ends(root: Path, how: str) -> None:
    before = shown(root)
    path = root / FOLDER / "lease"
    with bench(root) as guarded:
        guarded.run(1_000)
        if how == "folder":
            path.parent.rename(root / "elsewhere")
        else:
            path.unlink()
        other = lease(str(root / FOLDER)) if how == "replaced" else -1
        theirs = (root / FOLDER / "journal").read_bytes() if how == "replaced" else b""
        guarded.run(20)
        assert "the lease was removed or replaced" in guarded.guardian.watch.ended
        assert guarded.guardian.end() == (1 if how == "replaced" else 0)
        assert shown(root) == before
        final = guarded.hear()
        if how == "replaced":
            # The journal is that of whoever has the lease now.
            ((name, why),) = final["unrestored"]
            assert (name, "acts on this machine already" in why) == ("journal", True)
            assert (root / FOLDER / "journal").read_bytes() == theirs
            leave(other)
        else:
            assert journal(root) is None


def test_a_lease_that_is_replaced_while_it_is_taken_is_taken_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    real, path = fcntl.flock, root / FOLDER / "lease"
    turns = iter(range(9))

    def flock(descriptor: int, how: int) -> None:
        if next(turns) == 0:
            path.unlink()
            path.write_text("17")
        real(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    leased = lease(str(root / FOLDER))
    assert holds(leased, str(root / FOLDER))
    assert path.read_text() == f"{os.getpid()} busy"
    leave(leased)
    assert path.read_text() == ""


def test_a_folder_that_others_may_write_has_no_lease(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = root / FOLDER
    folder.mkdir(parents=True)
    for mode in (0o775, 0o777, 0o1777):
        folder.chmod(mode)
        with pytest.raises(
            RefusedError, match=rf"mode {mode & 0o777:o}: others could take the lease away; make it root"
        ):
            lease(str(folder))
    folder.chmod(0o755)
    before = shown(root)
    monkeypatch.setattr(os, "geteuid", lambda: folder.stat().st_uid + 7)
    if folder.stat().st_uid == 0:
        # Root's folder is good for everybody who may write there.
        leave(lease(str(folder)))
        os.chown(folder, 12, -1)
    with pytest.raises(RefusedError, match=r"user \d+, mode 755: others could take"), bench(root):
        pass
    assert shown(root) == before


def test_who_gives_back_is_waited_for_and_who_acts_is_not(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restoring, "time", Still)
    monkeypatch.setattr(restoring, "BUSY", 40)
    folder = str(root / FOLDER)
    leased = lease(folder)
    messages.mark(leased)
    Still.slept.clear()
    with pytest.raises(RefusedError, match=rf"process {os.getpid()} acts"):
        lease(folder)
    assert len(Still.slept) == restoring.ACTS
    messages.mark(leased, b"busy")
    Still.slept.clear()
    with pytest.raises(RefusedError, match=rf"process {os.getpid()} acts"):
        lease(folder)
    assert len(Still.slept) == 40
    # For an instant it acts, before it is seen that nobody is there whom it acts for.
    monkeypatch.setattr(Still, "sleep", lambda _seconds: next(turns))
    turns = (messages.mark(leased, b"" if 25 <= turn < 40 else b"busy") for turn in range(30))
    with pytest.raises(StopIteration):
        lease(folder)
    leave(leased)
    messages.mark(-1)
    leave(lease(folder))


# --- that it is given back --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["pwm1_enable", "scaling_min_freq", "constraint_0_power_limit_uw", "cur_state"])
def test_what_takes_a_write_and_does_not_obey_was_not_given_back(root: Path, deaf: Deaf, name: str) -> None:
    output = {"pwm1_enable": "fan_pwm", "scaling_min_freq": "clock", "cur_state": "state"}.get(name, "watts")
    with bench(root) as guarded:
        guarded.run(1_000, {**MIDDLE, "clock": 1_000})
        deaf.names = {name}
        assert guarded.guardian.end() == 1
        final = guarded.hear()
        assert final["state"] == "ALARM"
        ((which, why),) = final["unrestored"]
        assert which == output
        assert f"{name} shows " in why
        assert "which was written" in why
        # It is cooled fully as far as it goes, and stays in the journal.
        assert shown(root)[FAN] == (255 if output == "fan_pwm" else 120)
    assert [entry["name"] for entry in journal(root) or ()] == [output]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(restoring, "time", Still)
        assert [name for name, _why in restore(Root(root))["unrestored"]] == [output]
        deaf.names = set()
        assert restore(Root(root))["restored"] == [output]


def test_what_shows_late_is_waited_for_and_no_longer(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with bench(root) as guarded:
        guarded.run(1_000)
        Still.slept.clear()
        assert guarded.guardian.end() == 0
        # The fan that was asked what it was at before shows nothing new: half a second says that it is true.
        assert sum(Still.slept) == pytest.approx(0.5)
    with bench(root) as guarded:
        guarded.run(1_000, {**MIDDLE, "plain_pwm": 70, "clock": 1_000})
        Still.slept.clear()
        assert guarded.guardian.end() == 0
        # All of them show at once that they have changed.
        assert len(Still.slept) == 1
    # A driver that shows for a while what it has read before.
    real, turns = Root.read_integer, iter(range(1_000))

    def cached(root: Root, path: str) -> Any:
        outcome = real(root, path)
        return outcome._replace(value=1) if path.endswith("pwm1_enable") and next(turns) < 6 else outcome

    with bench(root) as guarded:
        guarded.run(1_000, {**MIDDLE, "plain_pwm": 70})
        monkeypatch.setattr(Root, "read_integer", cached)
        assert guarded.guardian.end() == 0


def test_a_cap_that_something_else_holds_lower_was_given_back(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Root.raw_write

    def held(root: Root, path: str, data: bytes) -> int:
        lower = path.endswith("scaling_max_freq") and int(data) > 3_200
        return real(root, path, b"3200\n" if lower else data)

    with bench(root) as guarded:
        guarded.run(1_000)
        monkeypatch.setattr(Root, "raw_write", held)
        assert guarded.guardian.end() == 0
    assert shown(root)[FILES["clock"]] == 3_200


def test_a_cooling_device_that_the_kernel_takes_over_at_once_was_given_back(root: Path) -> None:
    put(root, {FILES["state"]: 4})
    with bench(root) as guarded:
        guarded.run(1_000)
        real = restoring.ignored

        def governed(given: Any) -> list[str]:
            put(root, {FILES["state"]: 1})
            return real(given)

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(restoring, "ignored", governed)
            assert guarded.guardian.end() == 0
    assert shown(root)[FILES["state"]] == 1


def test_what_cannot_be_read_after_it_was_given_back_was_not(root: Path, files: Files, deaf: Deaf) -> None:
    with bench(root) as guarded:
        guarded.run(1_000)
        real = restoring.ignored

        def unreadable(given: Any) -> list[str]:
            files.reads["cur_state"] = errno.EIO
            return real(given)

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(restoring, "ignored", unreadable)
            assert guarded.guardian.end() == 1
        assert [(name, "EIO" in why) for name, why in guarded.hear()["unrestored"]] == [("state", True)]


def test_a_file_that_hangs_when_it_is_looked_at_is_said(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restoring, "GIVE_BACK_SECONDS", 0.05)
    with bench(root) as guarded:
        guarded.run(1_000)
        real, reads = Root.raw_read, iter(range(100))

        def stuck(root: Root, path: str, limit: int) -> bytes:
            if path.endswith("cur_state") and next(reads) == 1:
                signal.pause()
            return real(root, path, limit)

        monkeypatch.setattr(Root, "raw_read", stuck)
        assert guarded.guardian.end() == 0
        monkeypatch.undo()


# --- that it is tried -------------------------------------------------------------------------------------------------


def test_the_way_back_is_tried_from_manual_mode_and_the_journal_is_there_first(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, seen = Root.raw_write, []

    def raw_write(root_: Root, path: str, data: bytes) -> int:
        assert next(entry["originals"] for entry in journal(root) or ()) == [120, 5]
        done = real(root_, path, data)
        seen.append((shown(root)[MODE], shown(root)[FAN]))
        return done

    monkeypatch.setattr(Root, "raw_write", raw_write)
    with bench(root):
        # Manual at what the firmware had, at full speed, and on the way back: no moment is less than what was there.
        assert seen[:4] == [(1, 120), (1, 255), (1, 120), (5, 120)]


def test_a_way_back_that_takes_the_write_and_does_nothing_is_refused_cooled_and_kept(root: Path, deaf: Deaf) -> None:
    deaf.names, deaf.takes = {"pwm1_enable"}, 1
    with bench(root) as guarded:
        why = guarded.said[0]["refused"]["fan_pwm"]
        assert "it could not be given back, which was tried: " in why
        assert "pwm1_enable shows 1 and not 5, which was written" in why
        assert (shown(root)[MODE], shown(root)[FAN]) == (1, 255)
        deaf.names = set()
        guarded.guardian.watch.end("enough")
        assert guarded.guardian.end() == 0
    assert shown(root)[MODE] == 5
    assert journal(root) is None


def test_nothing_is_left_in_the_journal_where_nothing_could_be_written(root: Path, files: Files) -> None:
    names = {path.rpartition("/")[2] for path in (*FILES.values(), MODE)} | {"scaling_min_freq"}
    files.writes.update(dict.fromkeys(names, errno.EACCES))
    with bench(root) as guarded:
        assert set(guarded.said[0]["refused"]) == set(NAMES)
        assert journal(root) == []
        assert guarded.guardian.end() == 0


def test_what_an_earlier_one_left_stays_in_the_journal_while_it_takes_no_write(root: Path, files: Files) -> None:
    with bench(root) as guarded:
        guarded.run(1_000)
        files.writes["cur_state"] = errno.EBUSY
        guarded.guardian.end()
    # Somebody else has put it right, and yet it is not known to be ours.
    put(root, {FILES["state"]: 0})
    with bench(root) as guarded:
        assert "which was tried: EBUSY" in guarded.said[0]["refused"]["state"]
        assert [entry["name"] for entry in journal(root) or ()][-1] == "state"


def test_an_output_that_comes_late_is_tried_too(root: Path, files: Files) -> None:
    outputs = hello(root)["outputs"]
    with bench(
        root, outputs=[{**each, "output": None} if each["name"] == "watts" else each for each in outputs]
    ) as made:
        watts = next(each for each in outputs if each["name"] == "watts")
        files.writes["constraint_0_power_limit_uw"] = errno.EACCES
        made.mine.send(b"O" + json.dumps(watts).encode())
        made.run(40, values=None)
        assert "which was tried: EACCES" in made.said[-1]["refused"]["watts"]
        assert "watts" not in [entry["name"] for entry in journal(root) or ()]
        files.writes.clear()
        made.mine.send(b"O" + json.dumps(watts).encode())
        made.run(40, values=None)
        assert made.said[-1]["refused"] == {}


# --- what is given back -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("value", "note"), [(40, True), (255, False)])
def test_a_fan_that_was_left_in_manual_mode_is_given_back_at_full_speed(root: Path, value: int, note: bool) -> None:
    put(root / CHIP, {"pwm1": value, "pwm1_enable": 1})
    with bench(root) as guarded:
        assert guarded.said[0]["notes"] == ({"fan_pwm": "manual"} if note else {})
        guarded.run(1_000)
        assert shown(root)[FAN] == 90
        guarded.guardian.end()
    assert (shown(root)[MODE], shown(root)[FAN]) == (1, 255)


def test_what_was_changed_before_the_first_write_is_what_is_given_back(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with bench(root) as guarded:
        guarded.run(60_000, values=None)
        put(root / CHIP, {"pwm1_enable": 2})
        put(root, {FILES["watts"]: 50})
        guarded.run(100)
        originals = {entry["name"]: entry["originals"] for entry in journal(root) or ()}
        assert (originals["fan_pwm"], originals["watts"]) == ([120, 2], [50])
        guarded.run(1_000)
        assert {entry["name"]: entry["originals"] for entry in journal(root) or ()} == originals
        assert guarded.guardian.end() == 0
    assert (shown(root)[MODE], shown(root)[FILES["watts"]]) == (2, 50)
    with bench(root) as guarded:
        # What cannot be read or written then is as it was found.
        before = journal(root)
        put(root, {FILES["state"]: "?"})

        def full(_journal: Journal, _records: object) -> None:
            raise JournalError("full")

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(Journal, "write", full)
            guarded.run(100)
        assert journal(root) == before
        assert guarded.guardian.end() == 0
    assert shown(root)[FILES["state"]] == 0


# --- what others do, and what is slow ---------------------------------------------------------------------------------


def test_full_cooling_is_taken_back_within_a_look(root: Path) -> None:
    """Something else slows the fan down again and again while everything has to be cooled."""
    with bench(root) as guarded:
        guarded.run(3_000)
        guarded.run(1_000, values=None)
        assert shown(root)[FAN] == 255
        slow: list[bool] = []

        def theirs() -> None:
            slow.append(shown(root)[FAN] != 255)
            if guarded.now_ns % 10**9 == 0:
                put(root / CHIP, {"pwm1": 10, "pwm1_enable": 2})

        guarded.run(20_000, values=None, before=theirs)
        # It is looked every half second, and one second is theirs in two.
        assert 0 < sum(slow) <= len(slow) * 0.6
        longest = max(len(run) for run in "".join(".x"[each] for each in slow).split("."))
        assert longest <= 26


@pytest.mark.parametrize(
    ("daemon", "left"),
    [*((daemon, {"fan_pwm", "plain_pwm", "state"})
       for daemon in ("fancontrol", "coolercontrold", "fan2go", "thinkfan", "nbfc_service", "afancontrol")),
     ("thermald", {"clock", "watts"})],
)  # fmt: skip
def test_what_another_program_may_have_taken_over_is_left_to_it(root: Path, daemon: str, left: set[str]) -> None:
    before = shown(root)
    with bench(root) as guarded:
        guarded.run(1_000)
    put(root, {"proc/4711/comm": daemon})
    now = shown(root)
    with pytest.raises(RefusedError, match=f"{daemon} .process 4711. controls this machine's cooling"), bench(root):
        pass
    for name, path in FILES.items():
        assert shown(root)[path] == (now if name in left else before)[path]
    with bench(root, outputs=[]) as guarded:
        said = dict(guarded.said[0]["replayed"]["unrestored"])
        assert set(said) == left
        assert all(f"left to {daemon} (process 4711); stop that, then run twin restore" in why for why in said.values())
        guarded.guardian.end()
    assert {entry["name"] for entry in journal(root) or ()} == left
    (root / "proc/4711/comm").unlink()
    with bench(root, outputs=[]):
        assert shown(root) == before


def test_what_is_gone_for_good_is_let_go_of_by_name(root: Path, files: Files) -> None:
    with bench(root) as guarded:
        guarded.run(1_000)
        files.writes.update({"cur_state": errno.ENODEV, "constraint_0_power_limit_uw": errno.ENODEV})
        assert guarded.guardian.end() == 1
        made = Journal(str(root / FOLDER))
        assert {entry["name"] for entry in journal(root) or ()} == {"state", "watts"}
        done = replay(Root(root), made, forget=["watts", "fan_pwm"])
        assert {name for name, _why in done["unrestored"]} == {"state", "watts"}
        assert [entry["name"] for entry in journal(root) or ()] == ["state"]


def test_what_is_slow_does_not_hold_up_the_others(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with bench(root) as guarded:
        guarded.run(1_000)
        real, order = Root.raw_write, []

        def slow(root_: Root, path: str, data: bytes) -> int:
            order.append(path.rpartition("/")[2])
            guarded.now_ns += 2 * SLOW_NS * path.endswith("cur_state")
            return real(root_, path, data)

        monkeypatch.setattr(Root, "raw_write", slow)
        for turn in range(4):
            guarded.run(200, {**MIDDLE, "state": turn, "plain_pwm": 60 + turn})
        assert any("its files took 100 ms" in why for why in complaints(guarded, "state"))
        assert guarded.said[-1]["state"] == "DEGRADED"
        order.clear()
        guarded.run(460, values=None)
        # In an emergency, and when all is given back, it comes last.
        assert order[-1] == "cur_state"
        assert "pwm1" in order[:-1]
        order.clear()
        guarded.guardian.end()
        assert order[-1] == "cur_state"


def test_what_hangs_is_left_after_a_while_and_counts_as_failed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restoring, "GIVE_BACK_SECONDS", 0.05)
    with bench(root) as guarded:
        guarded.run(1_000)
        real = Root.raw_write

        def stuck(root: Root, path: str, data: bytes) -> int:
            if path.endswith("pwm2"):
                signal.pause()
            return real(root, path, data)

        monkeypatch.setattr(Root, "raw_write", stuck)
        guarded.run(100, {**MIDDLE, "plain_pwm": 99, "state": 7})
        assert guarded.said[-1]["failed"]["plain_pwm"] == f"/{CHIP}/pwm2: took longer than 0.05 s"
        assert shown(root)[FILES["state"]] == 7
        monkeypatch.undo()
        guarded.run(1_000, {**MIDDLE, "plain_pwm": 99})
        assert shown(root)[FILES["plain_pwm"]] == 99


# --- a journal that is lost while a guardian acts ---------------------------------------------------------------------


def spoil(root: Path, how: str) -> None:
    """What may become of the journal or its folder."""
    path = root / FOLDER / "journal"
    if how == "open":
        path.parent.chmod(0o777)
    elif how in ("rm", "dir"):
        path.unlink()
        if how == "dir":
            path.mkdir()
    else:
        os.truncate(path, int(how))


@pytest.mark.parametrize("how", ["rm", "dir", "open", "0", "20", "28"])
def test_what_no_journal_knows_any_more_is_cooled_by_the_next_one(root: Path, how: str) -> None:
    with bench(root) as guarded:
        guarded.run(1_000)
    spoil(root, how)
    acted = [each for each in hello(root)["outputs"] if each["name"] != "state"]
    strange = {"name": "strange", "safe": 1, "output": None}
    with bench(root, begin=False) as guarded:
        guarded.mine.send(b"H" + json.dumps(hello(root, acted=[*acted, strange])).encode())
        if how == "rm":
            guarded.guardian.begin()
        else:
            assert guarded.guardian.serve(os.pipe()[0]) == 1
        said = guarded.hear()
        said = dict((said["replayed"] if how == "rm" else said)["unrestored"])
        now = shown(root)
        assert {name: now[FILES[name]] for name in NAMES} == {**SAFE, "state": MIDDLE["state"]}
        assert set(said) == {*NAMES, "strange"} - {"state"}
        assert said["clock"] == "what it was before is not known any more; it was cooled fully, and stays so"
        assert "could not be cooled fully: output is 'None'" in said["strange"]
        if how == "rm":
            # What is found is not taken for what was there before: of the fan, and of what is cooled.
            kept = {entry["name"]: entry["originals"] for entry in journal(root) or ()}
            assert kept["fan_pwm"] == [255, 1]
            assert kept["clock"][0] == SAFE["clock"]
            assert guarded.guardian.end() == 0


def test_a_journal_that_knows_is_believed_and_not_the_run(root: Path) -> None:
    before = shown(root)
    with bench(root) as guarded:
        guarded.run(1_000)
    with bench(root, acted=hello(root)["outputs"]) as guarded:
        assert guarded.said[0]["replayed"]["unrestored"] == []
        assert shown(root) == before
    # A guardian that was killed when it had given everything back.
    Journal(str(root / FOLDER)).write([])
    with bench(root, acted=hello(root)["outputs"]):
        assert shown(root) == before


@pytest.mark.parametrize("how", ["rm", "0", "20"])
def test_a_journal_that_was_changed_is_written_anew_while_acting(root: Path, how: str) -> None:
    with bench(root) as guarded:
        guarded.run(500)
        kept = journal(root)
        spoil(root, how)
        guarded.run(1_000)
        assert journal(root) == kept
        assert guarded.guardian.end() == 0
    assert journal(root) is None


@pytest.mark.parametrize(("how", "why"), [("dir", "cannot be written: Is a directory"), ("open", "mode 777: others")])
def test_where_the_journal_cannot_be_kept_everything_is_given_back(root: Path, how: str, why: str) -> None:
    before = shown(root)
    with bench(root) as guarded:
        guarded.run(500)
        spoil(root, how)
        guarded.run(1_000)
        assert why in guarded.guardian.watch.ended
        assert guarded.guardian.end() == (how == "dir")
    assert shown(root) == before


def test_another_program_that_writes_between_two_proposals_is_reported(root: Path) -> None:
    step = 0

    def other() -> None:
        nonlocal step
        step += 1
        if step % 25 == 3:
            put(root, {FAN: "10"})

    with bench(root) as guarded:
        guarded.run(500)
        for cycle in range(20):
            guarded.run(100, {**MIDDLE, "fan_pwm": 80 + cycle}, other)
        assert guarded.said[-1]["state"] == "ALARM"
        assert any("something else has made it 10 where it was" in why for why in complaints(guarded, "fan_pwm"))
        assert shown(root)[FAN] == 255
        assert guarded.guardian.end() == 0
