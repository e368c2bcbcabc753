"""`twin dashboard` as a user starts it: for runs that have ended, go on, were killed or torn, and for bad input."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from commands import command, refused, unchanged
from dashboard_runs import Dashboard, Row, recorded, told

from twin import __version__
from twin.cli.dashboard import EXPERIMENT
from twin.experiment import store
from twin.record.rundir import MANIFEST, SCENARIO, SEAM_LOG
from twin.record.seamlog import SeamLogWriter, read_seam_log
from twin.scenario import ACTIONS


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return recorded(tmp_path_factory.mktemp("finished") / "finished", "--duration", "3")


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return recorded(tmp_path_factory.mktemp("learned") / "learned", "--duration", "3", "--neural")


def part_of(run: Path, place: Path, size: int) -> Path:
    """A run directory whose writer has come so far."""
    place.mkdir()
    shutil.copy(run / SCENARIO, place / SCENARIO)
    (place / SEAM_LOG).write_bytes((run / SEAM_LOG).read_bytes()[:size])
    return place


@contextmanager
def written(run: Path) -> Iterator[None]:
    """Somebody writes there."""
    descriptor = os.open(run, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(descriptor)


def killed(place: Path) -> Path:
    """A run that was killed while it was going on."""
    arguments = ("run", "gaming", "--duration", "3600", "--out", str(place), "--quiet")
    process = subprocess.Popen([sys.executable, "-m", "twin", *arguments])
    log = place / SEAM_LOG
    while not (log.is_file() and log.stat().st_size > 100_000):
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    return place


def records(page: Dashboard, run: str) -> list[Row]:
    exported: list[Row] = page.json("/api/export", run=run, format="json")
    return exported


def test_every_kind_of_run_side_by_side(tmp_path: Path, finished: Path, learned: Path) -> None:
    content = (finished / SEAM_LOG).read_bytes()
    third = len(content) // 3
    growing = part_of(finished, tmp_path / "growing", third)
    torn = part_of(finished, tmp_path / "torn", 2 * third)
    dead = killed(tmp_path / "killed")
    before = read_seam_log(growing / SEAM_LOG)
    expected = told("duration_ms=3000")
    with written(growing), Dashboard(finished, growing, torn, dead, learned, "--json") as page:
        assert [run["id"] for run in json.loads(page.first_line)["runs"]] == [
            "finished", "growing", "torn", "killed", "learned",
        ]  # fmt: skip
        page.wait_for(lambda: page.runs().get("growing", {}).get("cycles") == len(before.cycles))
        assert records(page, "growing") == expected[: len(before.cycles)]
        assert page.runs()["growing"]["state"] == "running"
        with (growing / SEAM_LOG).open("ab") as log:
            log.write(content[third : third + 1_001])
            log.flush()
            log.write(content[third + 1_001 :])
        page.wait_for(lambda: page.runs()["growing"]["cycles"] == len(expected))
        assert records(page, "growing") == records(page, "finished") == expected

        page.wait_for(lambda: page.runs().get("torn", {}).get("state") == "lost")
        saved = read_seam_log(torn / SEAM_LOG)
        assert 0 < len(saved.cycles) < len(expected)
        assert records(page, "torn") == expected[: len(saved.cycles)]

        page.wait_for(lambda: page.runs().get("killed", {}).get("state") == "lost")
        cycles = len(read_seam_log(dead / SEAM_LOG).cycles)
        assert records(page, "killed") == told(f"duration_ms={100 * cycles}")
        assert page.json("/api/difference", a="killed", b="torn")["difference"]["column"] == "row"

        assert records(page, "learned") == told("duration_ms=3000", "learn.enabled=true")
        page.wait_for(lambda: page.json("/api/metrics/latest", run="learned")["insight"])
        assert set(page.json("/api/metrics/latest", run="learned")["insight"]["q_values"]) == set(ACTIONS)
        runs = page.runs()
        origins = {name: run["origin"] for name, run in runs.items()}
        assert origins == {
            "finished": "recorded", "growing": "replayed", "torn": "replayed", "killed": "replayed",
            "learned": "recorded",
        }  # fmt: skip
        assert all(run["lost"] == 0 and run["scenario"] == "gaming" for run in runs.values())
        status, out, err = page.end(signal.SIGTERM)
    assert (status, out) == (0, "")
    assert f"{torn}: the run was cut short; what was saved is shown, up to {saved.last_good}" in err
    assert "Traceback" not in err


def test_a_run_has_ended_when_nobody_writes_its_directory_any_more(tmp_path: Path, finished: Path) -> None:
    run = part_of(finished, tmp_path / "run", 1 << 30)
    with written(run):
        page = Dashboard(run)
        page.wait_for(lambda: page.runs().get("run", {}).get("cycles") == 30)
        # The log has its end, and the rest is still being written.
        assert page.runs()["run"]["state"] == "running"
        killed_page = Dashboard(run, scratch=tmp_path)
        killed_page.wait_for(lambda: "run" in killed_page.runs())
        helpers = killed_page.children()
        assert len(helpers) == 1
        killed_page.end(signal.SIGKILL)
        page.wait_for(lambda: not any(map(is_alive, helpers)))
        stopped = (finished / MANIFEST).read_text().replace('"stopped": 0', '"stopped": 1')
        (run / MANIFEST).write_text(stopped)
    with page:
        page.wait_for(lambda: page.runs()["run"]["state"] != "running")
        assert page.runs()["run"]["state"] == "stopped"
        assert page.end(signal.SIGINT) == (0, "", "")


OWN = """
from twin.control.view import Decision

class Own:
    def __init__(self, scenario, limits):
        self._command = {name: limit.safe for name, limit in limits.items()}

    def decide(self, view):
        return Decision("conservative", "rules", f"cycle {view.cycle}", self._command)
"""


def test_a_controller_of_ones_own_and_one_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN)
    arguments = (sys.executable, "-m", "twin", "run", "gaming", "--duration", "1", "--out", "whole", "--quiet")
    subprocess.run([*arguments, "--set", "control.controller='own:Own'"], check=True)
    part_of(tmp_path / "whole", tmp_path / "part", 1 << 30)
    with Dashboard("whole", "part") as page:
        page.wait_for(lambda: page.runs().get("part", {}).get("state") == "ended")
        assert records(page, "part") == records(page, "whole")
        assert records(page, "part")[3]["reason"] == "cycle 3"
    (tmp_path / "own.py").unlink()
    shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)
    with Dashboard("whole", "part") as page:
        page.wait_for(page.children)
        page.wait_for(lambda: not any(map(is_alive, page.children())))
        assert list(page.runs()) == ["whole"]
        status, out, err = page.end(signal.SIGTERM)
    assert (status, out) == (0, "")
    assert err.startswith("twin: ")
    assert "own" in err
    assert "Traceback" not in err


def is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def other_version(run: Path, place: Path) -> Path:
    """The same run, as another version would have recorded it."""
    log = read_seam_log(run / SEAM_LOG)
    place.mkdir()
    with SeamLogWriter(place / SEAM_LOG, replace(log.header, product_version="0.0.9")) as writer:
        writer.cycle(log.cycles[0])
    return place


def test_bad_input_is_named_all_at_once(tmp_path: Path, finished: Path) -> None:
    place = tmp_path / "places"
    place.mkdir()
    empty, file = place / "empty", place / "file"
    empty.mkdir()
    file.write_text("")
    old = other_version(finished, place / "old")
    damaged = part_of(finished, place / "damaged", 1 << 30)
    content = bytearray((damaged / SEAM_LOG).read_bytes())
    content[len(content) // 2] ^= 64
    (damaged / SEAM_LOG).write_bytes(content)
    lost = place / "lost"
    shutil.copytree(finished, lost)
    (lost / SEAM_LOG).unlink()
    experiment = place / "experiment"
    experiment.mkdir()
    (experiment / "manifest.sqlite").write_text("no database, and long enough to be seen not to be one" * 99)
    with socket.create_server(("127.0.0.1", 0)) as taken, unchanged(place):
        port = taken.getsockname()[1]
        said = command(
            "dashboard", place / "none", file, empty, old, damaged, lost, experiment, finished, "--port", port
        )  # fmt: skip
    refused(
        2,
        [
            "8 errors",
            f"{place / 'none'}: is not a directory; name the directory of a run",
            f"{file}: is not a directory",
            f"{empty}: is not a run directory",
            f"{old}: was recorded by pulsetwin 0.0.9, and this is {__version__}",
            "pip install pulsetwin==0.0.9",
            f"{damaged / SEAM_LOG}: record ",
            " is damaged: ",
            f"{lost}: has no {SEAM_LOG}",
            f"{experiment / 'manifest.sqlite'}: is no SQLite file",
            f"--port {port}: is taken by ",
        ],
        said,
    )


def test_an_experiment_is_known_by_its_file() -> None:
    assert EXPERIMENT == store.MANIFEST


def test_one_mistake_is_one_line(tmp_path: Path) -> None:
    refused(2, [f"{tmp_path / 'none'}: is not a directory"], command("dashboard", tmp_path / "none", "--port", 0))
    said = command("dashboard", *[tmp_path / "none"] * 17, "--port", 0)
    refused(2, ["17 errors", "17 directories are named; at most 16 are shown"], said)
    assert command("dashboard").status == 2
