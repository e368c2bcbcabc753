"""What is shipped for a service, and what a run tells the service manager."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import BRIEF, answer, command, interpreted
from guarding import until
from hypothesis import given
from hypothesis import strategies as st

from twin.cli import _parser
from twin.cli import service as printed
from twin.cli.service import RULES, UNIT, filled
from twin.service import Announced, ServiceError, announced


class Manager:
    """A socket that listens as a service manager does."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address.replace("@", "\0"))
        self.socket.setblocking(False)

    def heard(self) -> list[str]:
        said = []
        while True:
            try:
                said.append(self.socket.recv(4_096).decode())
            except BlockingIOError:
                return said


@pytest.fixture(params=["a file", "no file"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    made = Manager(str(tmp_path / "notify") if request.param == "a file" else f"@twin-test-{os.getpid()}")
    with made.socket:
        yield made


class Kept:
    """A recorder that keeps what it is handed."""

    def __init__(self) -> None:
        self.kept: list[Any] = []

    def ticks(self, captured: Any) -> None:
        self.kept.append(captured)

    def cycle(self, cycle: Any) -> None:
        self.kept.append(cycle)


def test_a_loop_that_goes_on_is_heard_and_one_that_hangs_is_not(manager: Manager) -> None:
    kept, cycles = Kept(), [object() for _ in range(100)]
    environment = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "2000000", "WATCHDOG_PID": str(os.getpid())}
    with announced(kept, 100, environment) as told:
        assert manager.heard() == []
        said = []
        for cycle in cycles:
            told.cycle(cycle)  # type: ignore[arg-type]
            said += manager.heard()
        assert said[0] == "READY=1"
        # Ten seconds are five times the watchdog's; twice in each is what systemd asks.
        assert said[1:] == ["WATCHDOG=1"] * 20
        told.ticks("ticks")  # type: ignore[arg-type]
        # No thread, no timer: without a cycle there is no sign.
        assert manager.heard() == []
    assert manager.heard() == ["STOPPING=1"]
    assert kept.kept == [*cycles, "ticks"]


@given(period_ms=st.integers(1, 10_000), periods=st.integers(2, 100_000), rest_us=st.integers(0, 999))
def test_a_watchdog_is_fed_at_least_twice_in_its_time(period_ms: int, periods: int, rest_us: int) -> None:
    watchdog_us = 1_000 * period_ms * periods + rest_us
    with announced(Kept(), period_ms, {"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": str(watchdog_us)}) as told:
        assert isinstance(told, Announced)
        assert told._every >= 1
        assert 2 * told._every * 1_000 * period_ms <= watchdog_us


@pytest.mark.parametrize("asked", ["199999", "0", "-5", "soon", "\N{SUPERSCRIPT TWO}", "1e9"])
def test_a_watchdog_that_could_not_be_fed_is_bad_input(asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        pytest.raises(ServiceError, match="a whole number from 200000 on is needed"),
        announced(Kept(), 100, {"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": asked}),
    ):
        raise AssertionError("it began")


def test_nobody_is_told_who_does_not_listen(tmp_path: Path, manager: Manager) -> None:
    kept = Kept()
    for environment in ({}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:1234"}, {"WATCHDOG_USEC": "1"}):
        with announced(kept, 100, environment) as told:
            assert told is kept
    # Somebody else's watchdog, none at all, and a manager that has gone.
    for environment in ({"WATCHDOG_USEC": "1", "WATCHDOG_PID": "1"}, {}):
        with announced(kept, 100, {"NOTIFY_SOCKET": manager.address, **environment}) as told:
            told.cycle("cycle")  # type: ignore[arg-type]
        assert manager.heard() == ["READY=1", "STOPPING=1"]
    with announced(kept, 100, {"NOTIFY_SOCKET": str(tmp_path / "gone"), "WATCHDOG_USEC": "200000"}) as told:
        told.cycle("cycle")  # type: ignore[arg-type]
    assert kept.kept == ["cycle"] * 3


def test_a_manager_that_does_not_read_holds_no_cycle_up(manager: Manager) -> None:
    with announced(Kept(), 100, {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "200000"}) as told:
        for _cycle in range(2_000):
            told.cycle("cycle")  # type: ignore[arg-type]
    assert 1 <= len(manager.heard()) < 2_000


def test_a_run_tells_its_manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    manager = Manager(str(tmp_path / "notify"))
    with manager.socket:
        monkeypatch.setenv("NOTIFY_SOCKET", manager.address)
        monkeypatch.setenv("WATCHDOG_USEC", "800000")
        monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
        told = answer("run", "idle", *BRIEF, "--out", "told")
        assert manager.heard() == ["READY=1", *["WATCHDOG=1"] * 5, "STOPPING=1"]
        monkeypatch.setenv("WATCHDOG_USEC", "1000")
        said = command("run", "idle", *BRIEF, "--out", "fast")
        assert (said.status, "make WatchdogSec= of the service longer" in said.err) == (2, True)
        monkeypatch.delenv("NOTIFY_SOCKET")
        assert answer("run", "idle", *BRIEF, "--out", "untold")["run_digest"] == told["run_digest"]


def test_a_run_that_is_told_to_end_says_so(tmp_path: Path) -> None:
    manager = Manager(str(tmp_path / "notify"))
    words = [sys.executable, "-m", "twin", "run", "idle", "--backend", "linux", "--root", str(tmp_path), "--quiet"]
    environment = {**interpreted(), "NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "200000"}
    with manager.socket, subprocess.Popen(words, cwd=tmp_path, env=environment) as process:
        said: list[str] = []
        until(lambda: said.extend(manager.heard()) or said.count("WATCHDOG=1") >= 3, 60)  # type: ignore[func-returns-value]
        process.terminate()
        process.wait(60)
        assert (said + manager.heard())[-1] == "STOPPING=1"
        assert process.returncode == 130


# --- what is shipped --------------------------------------------------------------------------------------------------


def sections(text: str) -> dict[str, dict[str, list[str]]]:
    """A unit as systemd reads it: sections, keys, and every value of each."""
    found: dict[str, dict[str, list[str]]] = {}
    for line in text.splitlines():
        if re.fullmatch(r"\[\w+\]", line):
            section = found.setdefault(line[1:-1], {})
        elif line and not line.startswith("#"):
            key, value = re.fullmatch(r"([A-Za-z]+)=(.+)", line).groups()  # type: ignore[union-attr]
            section.setdefault(key, []).append(value)
    return found


def test_the_unit_restarts_restores_and_may_write_what_it_has_to() -> None:
    unit = sections(filled(UNIT))
    assert set(unit) == {"Unit", "Service", "Install"}
    service = {key: values[-1] for key, values in unit["Service"].items()}
    twin = str(Path(sys.executable).parent / "twin")
    assert service["ExecStart"].split()[:2] == [twin, "run"]
    assert service["ExecStopPost"] == f"{twin} restore"
    assert (service["Restart"], service["Type"]) == ("always", "notify")
    # The journal and /sys are what acting needs; what is read-only by ProtectKernelTunables is /sys too.
    assert (service["RuntimeDirectory"], service["RuntimeDirectoryPreserve"]) == ("pulsetwin", "yes")
    assert service["ProtectKernelTunables"] == "no"
    assert "RestrictRealtime" not in service
    # The guardian is killed last, and by nothing that it does not answer.
    assert "KillMode" not in service
    assert service["WatchdogSignal"] == "SIGTERM"
    words = service["ExecStart"].split()[1:]
    assert "--act" in words
    assert int(service["WatchdogSec"]) * 1_000 >= 2 * 100


def test_the_command_of_the_unit_is_one_that_twin_knows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = sections(filled(UNIT))["Service"]["ExecStart"][0].split()[1:]
    said = command(*words, "--root", str(tmp_path))
    assert (said.status, "/etc/pulsetwin/scenario.toml" in said.err) == (2, True)


def test_a_twin_in_a_home_that_is_closed_is_given_the_right_to_get_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, home = printed._closed, tmp_path / "home"
    program = home / "venv/bin/twin"
    program.parent.mkdir(parents=True)
    program.touch()
    monkeypatch.setattr(sys, "executable", str(program.with_name("python")))
    # The folders above belong to the tests.
    monkeypatch.setattr(
        printed, "_closed", lambda *paths: [name for name in real(*paths) if name.startswith(str(home))]
    )
    home.chmod(0o755)
    assert "CAP_DAC" not in filled(UNIT)
    home.chmod(0o600)
    unit = filled(UNIT)
    assert f"# {home} may be entered by few" in unit
    assert "\nCapabilityBoundingSet=CAP_DAC_READ_SEARCH CAP_SYS_NICE" in unit
    home.chmod(0o755)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here: the unit is only parsed")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / UNIT
    unit.write_text(filled(UNIT))
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    assert (done.returncode, [line for line in done.stderr.splitlines() if UNIT in line]) == (0, [])


def test_the_rule_is_one_for_the_energy_counter_alone() -> None:
    lines = [line for line in filled(RULES).splitlines() if line and not line.startswith("#")]
    assert len(lines) == 1
    term = r'[A-Z]+(\{[a-z_]+\})?(==|!=|=|\+=)"[^"]*"'
    assert re.fullmatch(rf"{term}(, {term})*", lines[0])
    assert 'SUBSYSTEM=="powercap"' in lines[0]
    assert "/energy_uj" in lines[0]


def test_every_command_of_the_page_is_one_that_twin_knows() -> None:
    page = (Path(__file__).parent.parent / "docs/running.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    commands = [match[1].split() for line in lines if (match := re.match(r"(?:sudo )?twin ([^|]+)", line))]
    assert len(commands) >= 8
    for words in commands:
        _parser().parse_args(words)


def test_both_are_printed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert command("service").out == filled(UNIT)
    assert command("service", "--udev").out == filled(RULES)
    assert answer("service", "--udev") == {"name": RULES, "text": filled(RULES)}
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert (command("service").status, "install pulsetwin" in command("service").err) == (2, True)
    spaced = tmp_path / "a b"
    spaced.mkdir()
    (spaced / "twin").touch()
    monkeypatch.setattr(sys, "executable", str(spaced / "python"))
    assert "install pulsetwin elsewhere" in command("service").err
