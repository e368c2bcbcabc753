"""`twin run --dashboard` with real processes: whatever becomes of the page, the run is the same."""

from __future__ import annotations

import argparse
import http.client
import ipaddress
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from commands import BRIEF, PYTHON, answer, command, interpreted, refused
from dashboards import about, row
from running import DIGESTS

from twin.cli import InputError, paging, texts
from twin.cli import page as page_module
from twin.cli.page import Pace
from twin.cli.paging import holder
from twin.control.cycle import Cycle
from twin.dashboard import keeper
from twin.dashboard.live import LiveRun

RUN = ("run", "gaming", "--duration", "3", "--set", "heartbeat.t0_ns=100000000", "--seed", "5")
"""Three seconds, which are enough to look in."""


class Running:
    """A run with a page, in processes of their own."""

    def __init__(self, place: Path, *more: str) -> None:
        self.place = place
        self.process = subprocess.Popen(
            [PYTHON, "-m", "twin", *RUN, "--dashboard", "--port", "0", "--json", "--out", str(place),
             *more],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=interpreted(),
        )  # fmt: skip
        assert self.process.stderr is not None
        self.link = self.process.stderr.readline().removeprefix("dashboard: ").strip()
        self.address, _, self.token = self.link.removeprefix("http://").partition("/?token=")
        assert self.token, self.process.stderr.read()
        (self.keeper,) = children(self.process.pid)
        self.page = self.newest_page()

    def newest_page(self, but: int = 0) -> int:
        """The process of the page, another one than `but`."""
        found: int = until(lambda: next((each for each in children(self.keeper) if each != but), 0))
        return found

    def data(self, target: str) -> Any:
        """What the page answers; None while nobody does."""
        connection = http.client.HTTPConnection(self.address, timeout=5)
        try:
            connection.request("GET", target, headers={"Authorization": f"Bearer {self.token}"})
            answered = connection.getresponse()
            said = json.loads(answered.read())
            return said if answered.status == 200 else None
        except OSError:
            return None
        finally:
            connection.close()

    def result(self) -> dict[str, Any]:
        out, err = self.process.communicate(timeout=60)
        assert self.process.returncode == 0, err
        self.said = err
        parsed: dict[str, Any] = json.loads(out)
        return parsed


def children(process: int) -> list[int]:
    return [int(text) for text in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until(what: Callable[[], Any], seconds: float = 20.0) -> Any:
    """What `what` gives, as soon as it gives anything."""
    for _ in range(int(seconds / 0.05)):
        if found := what():
            return found
        time.sleep(0.05)
    pytest.fail("it did not happen")


@contextmanager
def running(place: Path, *more: str) -> Iterator[Running]:
    run = Running(place, *more)
    try:
        yield run
    finally:
        run.process.kill()
        run.process.communicate()
        for each in (run.keeper, run.page):
            if alive(each):
                os.kill(each, signal.SIGKILL)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The run without a page."""
    return {name: answer(*RUN, "--out", tmp_path_factory.mktemp("alone") / "run")[name] for name in DIGESTS}


def test_a_run_that_is_watched_is_the_same_run(tmp_path: Path, alone: dict[str, Any]) -> None:
    place = tmp_path / "run"
    with running(place) as run:
        link = place / "page.link"
        assert link.read_text() == run.link + "\n"
        assert stat.S_IMODE(link.stat().st_mode) == 0o600
        first = until(lambda: (run.data("/api/metrics/latest") or {}).get("record"))
        assert first["cycle"] >= 0
        both = [Path("/proc", str(each)) for each in (run.keeper, run.page)]
        opened = [os.readlink(each) for process in both for each in (process / "fd").iterdir()]  # noqa: PTH115
        words = "".join((process / name).read_text() for process in both for name in ("cmdline", "environ"))
        result = run.result()
        # The command has ended; the page stays a moment, and says how it came out.
        (told,) = until(lambda: run.data("/api/runs"))["runs"]
        until(lambda: not alive(run.page))
        assert not link.exists()
    assert {name: result[name] for name in DIGESTS} == alone
    assert (told["state"], told["cycles"], told["run_dir"]) == ("ended", 30, str(place))
    # Its processes know the token from the feed alone, and have nothing open that is anybody's hardware.
    assert run.token not in words
    assert run.token not in (place / "run.log").read_text()
    for target in opened:
        assert target.startswith(("socket:", "pipe:", "anon_inode:", "/memfd:told")) or target in (
            "/dev/null",
            str(place / "run.log"),
        )
    assert {"page.link", "dashboard.url"}.isdisjoint(path.name for path in place.iterdir())


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
@pytest.mark.parametrize("which", ["keeper", "page"])
def test_what_becomes_of_the_page_is_nothing_to_the_run(
    tmp_path: Path, alone: dict[str, Any], number: signal.Signals, which: str
) -> None:
    with running(tmp_path / "run") as run:
        until(lambda: (run.data("/api/metrics/latest") or {}).get("record"))
        os.kill(getattr(run, which), number)
        result = run.result()
        # Nobody is left over, whatever had become of it.
        until(lambda: not alive(run.page) and not alive(run.keeper))
    assert {name: result[name] for name in DIGESTS} == alone
    gone = f"the run goes on without it, and twin dashboard {tmp_path / 'run'} shows it"
    assert run.said.count(gone) == (number == signal.SIGKILL and which == "keeper")


def test_a_page_that_dies_comes_back_with_the_same_address(tmp_path: Path, alone: dict[str, Any]) -> None:
    with running(tmp_path / "run", "--speed", "0.5") as run:
        until(lambda: (run.data("/api/metrics/latest") or {}).get("record"))
        os.kill(run.page, signal.SIGKILL)
        second = run.newest_page(but=run.page)
        until(lambda: (run.data("/api/metrics/latest") or {}).get("record"))
        (told,) = run.data("/api/runs")["runs"]
        result = run.result()
        until(lambda: not alive(second) and not alive(run.keeper))
    assert told["lost"] > 0
    assert told["cycles"] > told["lost"]
    assert {name: result[name] for name in DIGESTS} == alone
    assert "the page is gone" not in run.said
    assert "the page ended (signal 9); it is started again" in (tmp_path / "run" / "run.log").read_text()


def test_a_page_that_always_dies_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "PAUSES_SECONDS", (0.0, 0.0))
    monkeypatch.setattr(keeper, "SERVER", "no.such.module")
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, socket.create_server(("127.0.0.1", 0)) as listener:
        ours.send(b"hello")
        ours.send(b"about")
        before = signal.getsignal(signal.SIGINT)
        try:
            # A number has one owner: the keeper's are copies.
            copies = [str(os.dup(each.fileno())) for each in (listener, theirs)]
            assert keeper.main(copies) == keeper.GIVEN_UP
        finally:
            signal.signal(signal.SIGINT, before)


def test_what_an_earlier_page_had_is_lost_to_the_next() -> None:
    run = LiveRun(about(), again=True)
    for cycle in range(20, 25):
        run.record(3, row(cycle), None)
    assert (run.lost, run.cycles) == (20, 25)


def test_a_page_ends_with_a_run_that_is_killed(tmp_path: Path) -> None:
    with running(tmp_path / "run") as run:
        until(lambda: (run.data("/api/metrics/latest") or {}).get("record"))
        run.process.kill()
        assert until(lambda: run.data("/api/runs")["runs"][0]["state"] == "lost")
        until(lambda: not alive(run.page))


def test_a_page_that_cannot_start_is_said_and_the_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_module.sys, "executable", "/bin/false")
    said = command("run", "gaming", *BRIEF, "--dashboard", "--port", "0", "--speed", "10", "--out", tmp_path / "run")
    assert said.status == 0, said.err
    assert said.err.count("the page is gone") == 1


def test_ctrl_c_is_for_the_run(tmp_path: Path) -> None:
    with running(tmp_path / "run") as run:
        until(lambda: (run.data("/api/metrics/latest") or {}).get("record"))
        os.kill(run.page, signal.SIGINT)
        run.process.send_signal(signal.SIGINT)
        run.process.communicate(timeout=30)
        assert run.process.returncode == 130
        assert until(lambda: run.data("/api/runs")["runs"][0]["state"] == "stopped")


# Pace -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("speed", [0.5, 1.0, 100.0])
def test_a_paced_run_waits_for_what_is_due_and_no_longer(speed: float, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    waited: list[float] = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        now[0] += seconds

    monkeypatch.setattr(page_module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(page_module.time, "sleep", sleep)
    pace = Pace(speed)
    for number, took in enumerate([0.0, 0.0, 0.25 / speed, 0.0, 0.0]):
        now[0] += took
        cycle: Any = argparse.Namespace(due_ns=number * 100_000_000)
        assert isinstance(cycle, argparse.Namespace | Cycle)
        pace.cycle(cycle, None)
    # The third cycle took two and a half periods: what is late is caught up with, and nothing is waited for meanwhile.
    assert [round(seconds * speed, 9) for seconds in waited] == [0.1, 0.05]
    assert now[0] == pytest.approx(100.0 + 0.4 / speed)


@pytest.mark.parametrize(("text", "speed"), [("1", 1.0), ("0.1", 0.1), ("100", 100.0), ("max", float("inf"))])
def test_speeds(text: str, speed: float) -> None:
    assert texts.speed(text) == speed


@pytest.mark.parametrize("text", ["0", "-1", "101", "0.05", "nan", "inf", "x", ""])
def test_speeds_that_are_none(text: str) -> None:
    refused(2, ["--speed", "0.1 to 100, or max"], command("run", "gaming", "--dashboard", "--speed", text))


# What is asked for and cannot be --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (("--port", "8080"), ["--port goes with --dashboard"]),
        (("--speed", "2"), ["--speed goes with --dashboard"]),
        (("--bind", "::1", "--allow-remote"), ["--bind goes with", "--allow-remote goes with --dashboard"]),
        (("--dashboard", "--bind", "0.0.0.0"), ["--allow-remote", "127.0.0.1"]),
        (("--dashboard", "--bind", "192.0.2.7"), ["192.0.2.7", "--allow-remote"]),
        (("--dashboard", "--bind", "192.0.2.7", "--allow-remote"), ["192.0.2.7: is no address of this machine"]),
        (("--dashboard", "--allow-remote"), ["--allow-remote", "--bind 0.0.0.0"]),
        (("--dashboard", "--bind", "example.org"), ["example.org: is no address"]),
        (("--dashboard", "--port", "65536"), ["--port", "0 to 65535"]),
        (("--dashboard", "--port", "-1"), ["--port", "0 to 65535"]),
        (("--dashboard", "--port", "x"), ["--port", "whole number"]),
        (("--dashboard", "--backend", "linux", "--speed", "2"), ["--speed goes with a simulated machine"]),
    ],
)
def test_addresses_that_cannot_be(options: tuple[str, ...], parts: list[str], tmp_path: Path) -> None:
    refused(2, parts, command("run", "gaming", *BRIEF, *options, "--out", tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_port_that_is_taken_is_said_with_who_has_it_and_another(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = command("run", "gaming", *BRIEF, "--dashboard", "--port", port, "--out", tmp_path / "run")
    name = Path("/proc/self/comm").read_text().strip()
    refused(2, [f"--port {port}: is taken by {name} (process {os.getpid()})", " is free"], said)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("bind", "own"), [("0.0.0.0", "192.0.2.7"), ("::", "[2001:db8::7]")])
def test_who_lets_others_in_is_told_where_they_find_it(bind: str, own: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paging, "_own_ipv4", lambda: ["192.0.2.7"])
    monkeypatch.setattr(paging, "_own_ipv6", lambda: ["2001:db8::7"])
    monkeypatch.setattr(paging.socket, "gethostname", lambda: "box")
    monkeypatch.setattr(paging.socket, "getfqdn", lambda: "box.example")
    options = argparse.Namespace(port=0, bind=bind, allow_remote=True)
    try:
        with paging.listening(options) as (listener, access):
            port = listener.getsockname()[1]
            said = paging.elsewhere(access)
    except InputError:
        assert bind == "::", "a machine without IPv6"
        return
    assert said[:-1] == [
        f"from other machines http://{name}:{port}/?token={access.token}" for name in (own, "box", "box.example")
    ]
    assert "not encrypted" in said[-1]


def test_a_page_for_this_machine_alone_says_no_more() -> None:
    with paging.listening(argparse.Namespace(port=0, bind=None, allow_remote=False)) as (_, access):
        assert paging.elsewhere(access) == []


def test_own_addresses_are_none_of_a_loopback() -> None:
    for address in (*paging._own_ipv4(), *paging._own_ipv6()):
        assert not ipaddress.ip_address(address).is_loopback


def test_nobody_has_a_port_that_is_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert holder(port) == "another program"


def test_what_is_missing_is_said_with_the_command_that_adds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paging, "find_spec", lambda name: None if name == "flask" else name)
    said = command("run", "gaming", *BRIEF, "--dashboard", "--out", tmp_path / "run")
    refused(2, ["needs flask;", "pip install 'pulsetwin[dashboard]'"], said)


def test_a_link_that_cannot_be_kept_safe_is_not_given(tmp_path: Path) -> None:
    place = tmp_path / "run"
    place.mkdir()
    (place / "page.link").symlink_to(tmp_path / "elsewhere")
    said = command("run", "gaming", *BRIEF, "--dashboard", "--port", "0", "--out", place)
    assert said.status != 0
    assert not (tmp_path / "elsewhere").exists()


def test_all_three_at_once(tmp_path: Path) -> None:
    few = ("run", "gaming", *BRIEF)
    result = answer(*few, "--wave2", "--port", "0", "--speed", "max", "--out", tmp_path / "all")
    plain = answer(*few, "--crystal", "--neural", "--out", tmp_path / "two")
    # The page asks the learner what it thinks, and that changes nothing.
    assert {name: result[name] for name in DIGESTS} == {name: plain[name] for name in DIGESTS}
    said = command(*few, "--wave2", "--no-neural", "--no-crystal", "--port", "0", "--out", tmp_path / "one")
    assert said.status == 0
    assert "dashboard: http://127.0.0.1:" in said.err
    assert "Crystal Core" not in said.out


def test_a_run_without_a_page_imports_nothing_of_it() -> None:
    words = f"import sys, twin.cli.run; print([name for name in sys.modules if name.startswith(({NEEDED!r}))])"
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=True, env=interpreted())
    assert done.stdout.strip() == "[]"


NEEDED = ("flask", "werkzeug", "socketio", "engineio", "simple_websocket")
