"""What a run with `--act` says: what it cannot act on, what the guardian goes through, what was not given back."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import Said, answer, command
from guarding import until
from hardware_fakes import DESKTOP, contents
from hypothesis import given
from hypothesis import strategies as st

import twin
from hardware.interface import Applied, Command
from hardware.journal import FOLDER
from hardware.linux.adapter import LinuxHardware
from hardware.linux.guarded import GuardedHands
from hardware.linux.tree import SysTree
from hardware.watch import State
from twin.cli.acting import Unlike
from twin.record.rundir import RUN_LOG

ACT = ("run", "idle", "--duration", "1", "--backend", "linux", "--act", "--root", "tree", "--out", "run",
       "--set", "heartbeat.t0_ns=50000000", "--set", "heartbeat.words=10")  # fmt: skip


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A desktop made of files, in an empty folder to be in."""
    monkeypatch.chdir(tmp_path)
    SysTree(tmp_path / "tree", DESKTOP)
    return tmp_path


def one(name: str) -> Path:
    """The file of the tree with this name."""
    return next(Path("tree").rglob(name))


def before_the_end(monkeypatch: pytest.MonkeyPatch, what: Callable[[GuardedHands], None]) -> None:
    """`what` happens to the machine after the last cycle."""
    let_go = LinuxHardware.let_go

    def then(self: LinuxHardware) -> None:
        if isinstance(self._hands, GuardedHands):
            what(self._hands)
        let_go(self)

    monkeypatch.setattr(LinuxHardware, "let_go", then)


def spoil(_hands: GuardedHands | None = None) -> None:
    """A fan's mode is no file any more."""
    mode = next(path for path in Path("tree").rglob("pwm2_enable"))
    mode.unlink()
    mode.mkdir()


def mend() -> None:
    mode = next(path for path in Path("tree").rglob("pwm2_enable"))
    mode.rmdir()
    mode.write_text("1\n")


def logged() -> str:
    return Path("run", RUN_LOG).read_text()


def rows(said: Said) -> str:
    """A table's cells as one text."""
    return re.sub(r"[\s┃│]+", " ", said.out)


def test_what_was_not_given_back_is_said_and_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    before_the_end(monkeypatch, spoil)
    said = command(*ACT)
    assert said.status == 3
    (line,) = [line for line in said.err.splitlines() if line.startswith("ERROR")]
    assert re.fullmatch(r"ERROR (\w+_pwm) was not given back: .*pwm2_enable.*; mend that, then run twin restore --root tree", line)  # noqa: E501  # fmt: skip
    assert line.removeprefix("ERROR ") in logged()
    name = line.split()[1]
    assert f"not given back {name}; run twin restore" in rows(said)
    mend()
    assert answer("restore", "--root", "tree")["restored"] == [name]


def test_it_is_said_in_json_in_a_quiet_run_and_to_python(monkeypatch: pytest.MonkeyPatch) -> None:
    before_the_end(monkeypatch, spoil)
    said = command(*ACT, "--json", "--quiet")
    assert said.status == 3
    ((name, why),) = [tuple(each.values()) for each in json.loads(said.out)["unrestored"]]
    assert f"ERROR {name} was not given back: {why}" in said.err
    mend()
    assert answer("restore", "--root", "tree")["restored"] == [name]
    run = twin.run(
        "idle", backend="linux", root="tree", act=True, duration=1,
        settings={"heartbeat.t0_ns": 50_000_000, "heartbeat.words": 10},
    )  # fmt: skip
    assert [each for each, _why in run.unrestored] == [name]


def test_a_guardian_that_died_and_cannot_be_started_has_left_its_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    def kill(hands: GuardedHands) -> None:
        Path("tree", FOLDER).chmod(0o777)
        assert hands.pid is not None
        os.kill(hands.pid, signal.SIGKILL)

    before = contents(Path("tree/sys"))
    before_the_end(monkeypatch, kill)
    said = command(*ACT, "--json")
    assert said.status == 3
    unrestored = json.loads(said.out)["unrestored"]
    assert {each["output"] for each in unrestored} == {limit.name for limit in DESKTOP.outputs}
    # What keeps the guardian from it is said in its own words.
    assert all("nobody knows whether it was: " in each["why"] for each in unrestored)
    assert all("has gone" not in each["why"] for each in unrestored), unrestored
    assert all(f"{FOLDER}/journal has what was there before" in each["why"] for each in unrestored)
    assert said.err.count("was not given back") == len(unrestored)
    Path("tree", FOLDER).chmod(0o755)
    answer("restore", "--root", "tree")
    assert contents(Path("tree/sys")) == before


def test_a_guardian_that_refuses_is_heard_in_its_own_words() -> None:
    Path("tree", FOLDER).mkdir(parents=True)
    Path("tree", FOLDER).chmod(0o777)
    said = command(*ACT)
    assert said.status == 2
    assert "the guardian does not act: " in said.err
    assert "has gone" not in said.err


def test_a_guardian_that_is_lost_is_said_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    apply, cycles = LinuxHardware.apply, []

    def killed(self: LinuxHardware, asked: Command) -> Applied:
        cycles.append(asked)
        hands = self._hands
        if len(cycles) == 4 and isinstance(hands, GuardedHands) and hands.pid is not None:
            os.kill(hands.pid, signal.SIGKILL)
            until(lambda: hands._process is None or hands._process.poll() is not None)
        return apply(self, asked)

    monkeypatch.setattr(LinuxHardware, "apply", killed)
    said = command(*ACT)
    assert said.status == 0
    assert said.err.count("WARNING the guardian was lost (it ended), and another one is started") == 1
    assert "the guardian was lost" in logged()
    found = re.search(r"guardian at worst \w+; an output was not as commanded in (\d+) of (\d+) cycles; started again 1", rows(said))  # noqa: E501  # fmt: skip
    assert found is not None
    assert 1 <= int(found[1]) < int(found[2]) == len(cycles)


def test_what_is_not_acted_on_is_said_however_quiet_the_run_is() -> None:
    one("power1_cap").unlink()
    said = command(*ACT, "-q")
    assert said.status == 0
    assert said.err.count("WARNING gpu_power_limit_microwatts is not acted on: no hwmon chip") == 1
    assert said.err.count("\n") == 1
    assert "gpu_power_limit_microwatts is not acted on: no hwmon chip" in logged()


def test_what_the_kernel_cuts_off_is_said() -> None:
    most = int(one("constraint_0_max_power_uw").read_text())
    one("constraint_0_max_power_uw").write_text("20000000\n")
    one("cpuinfo_max_freq").write_text("2500000\n")
    said = command(*ACT, "-q")
    assert said.status == 0
    lines = said.err.splitlines()
    assert len(lines) == 2
    assert all("the machine takes less than the scenario may ask for, which is cut off" in line for line in lines)
    assert any("cpu_max_kilohertz: " in line and "scaling_max_freq takes " in line and "to 2500000, and" in line for line in lines)  # noqa: E501  # fmt: skip
    assert any("constraint_0_power_limit_uw takes " in line and "to 20000000, and" in line and f"to {most}" in line for line in lines)  # noqa: E501  # fmt: skip
    assert all(line.removeprefix("WARNING ") in logged() for line in lines)


def test_a_twin_that_never_proved_says_how_near_it_was() -> None:
    words = ["--act", "--shadow", "--go-live-within", "0.001:60"]
    said = command(*(word for word in ACT if word != "--act"), *words)
    assert said.status == 0
    assert (
        "WARNING the twin has not proved good, and nothing was acted on: asked is within 0.001 C for 60 s" in said.err
    )
    assert "not acted on asked is within 0.001 C for 60 s" in rows(said)
    assert "the twin has not proved good" in logged()


STEPS = st.lists(
    st.tuples(
        st.dictionaries(st.sampled_from("abc"), st.sampled_from(("f shows 1", "f shows 2", "EIO: g")), max_size=3),
        st.sampled_from(["", *State.__members__]),
    ),
    max_size=30,
)


@given(STEPS, st.sets(st.sampled_from("abc")))
def test_each_kind_of_trouble_is_said_once_and_counted(
    steps: list[tuple[dict[str, str], str]], expected: set[str]
) -> None:
    texts: list[str] = []

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.levelno >= logging.WARNING:
                texts.append(record.getMessage())

    unlike, log, ear = Unlike(), logging.getLogger("twin"), Ear()
    unlike.expected = set(expected)
    log.addHandler(ear)
    try:
        for failed, state in steps:
            unlike.see({}, failed, state, "")
        once = list(texts)
        unlike.conclude()
    finally:
        log.removeHandler(ear)
    assert len(once) == len({re.sub(r"\d+", "#", text) for text in once})
    # Every output that failed and was not expected to, with every cause, is in what was said.
    for failed, state in steps:
        for name, why in failed.items():
            where = re.sub(r"\d+", "#", why)
            heard = any(name in text and where in re.sub(r"\d+", "#", text) and (state or "NORMAL") in text for text in once)  # noqa: E501  # fmt: skip
            assert heard or name in expected
    figures = unlike.figures
    assert (figures is None) == (not steps)
    if figures is not None:
        cool = ("MAXCOOL", "RESTORE", "ALARM")
        assert figures["cycles_not_as_commanded"] == sum(
            bool(failed.keys() - expected) or state in cool for failed, state in steps
        )
        assert figures["worst_state"] == max((State[state or "NORMAL"] for _failed, state in steps)).name


def test_numbers_that_change_are_one_trouble_which_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("twin").addHandler(caplog.handler)
    try:
        unlike = Unlike()
        for number in range(4):
            unlike.see({}, {"fan": f"pwm1 shows {number}"}, "ALARM", "")
            unlike.see({"fan": 1}, {}, "NORMAL", "")
            unlike.see({}, {"fan": "the guardian is starting"}, "NORMAL", "")
        unlike.conclude()
    finally:
        logging.getLogger("twin").removeHandler(caplog.handler)
    said = [(record.levelname, record.getMessage()) for record in caplog.records if record.levelno > logging.INFO]
    text = "the guardian is in ALARM: fan: pwm1 shows 0"
    assert said == [("ERROR", text), ("WARNING", f"3 more times: {text}")]
    assert unlike.figures == {"worst_state": "ALARM", "cycles_not_as_commanded": 8, "cycles": 12, "restarts": 0}
