"""Dask: the same digest, and a clear word when the cluster is not there, or goes away.

Everything that needs `distributed` runs in processes of its own: it warns and logs as it likes.
"""

from __future__ import annotations

import builtins
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import command, refused
from light_jobs import WAIT, light_plan, perform, straight
from test_experiment_engines import done_in, until, whole_and_once

from twin.experiment import dask_engine
from twin.experiment.dask_engine import DaskEngine
from twin.experiment.engines import EngineError

TESTS = Path(__file__).parent
CLUSTER = """
import sys, time
from distributed import LocalCluster
if __name__ == "__main__":
    cluster = LocalCluster(n_workers=int(sys.argv[1]), threads_per_worker=1, dashboard_address=None, silence_logs=50)
    print(cluster.scheduler_address, flush=True)
    time.sleep(600)
"""


def environment(wait_ms: int = 0) -> dict[str, str]:
    return {**os.environ, "TWIN_KERNELS": "python", "PYTHONPATH": str(TESTS), WAIT: str(wait_ms)}


def experiment(folder: Path, dask: str, wait_ms: int = 0) -> subprocess.Popen[str]:
    command = [sys.executable, str(TESTS / "light_jobs.py"), str(folder / "out"), "1", dask]
    return subprocess.Popen(
        command, env=environment(wait_ms), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder,
        start_new_session=True,
    )  # fmt: skip


@contextlib.contextmanager
def cluster(folder: Path, wait_ms: int, workers: int = 1) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A scheduler with its workers, in a process group of its own."""
    (folder / "cluster.py").write_text(CLUSTER)
    with subprocess.Popen(
        [sys.executable, str(folder / "cluster.py"), str(workers)], env=environment(wait_ms), stdout=subprocess.PIPE,
        text=True, start_new_session=True, cwd=folder,
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip(), process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def test_a_cluster_of_this_machine_comes_to_the_same(tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    plan = light_plan(tmp_path, runs=4)
    expected = straight(plan, tmp_path / "straight").experiment_digest
    with experiment(tmp_path, "here") as process:
        out, err = process.communicate(timeout=120)
    assert (process.returncode, out.strip()) == (0, expected), err
    whole_and_once(tmp_path, 12, 15)


def test_a_scheduler_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed")
    light_plan(tmp_path, runs=2)
    with experiment(tmp_path, "tcp://127.0.0.1:1") as process:
        _, err = process.communicate(timeout=120)
    assert process.returncode == 3, err
    assert "--scheduler tcp://127.0.0.1:1: no Dask scheduler answers there" in err
    assert "start one (dask scheduler), or check the address" in err
    assert len(err.strip().splitlines()) == 1, err


@pytest.mark.parametrize("address", ["foo", "", "tcp://localhost", "ftp://x:1", "tcp://x:1/y", "tcp://x:99999"])
def test_an_address_that_is_none(tmp_path: Path, address: str) -> None:
    pytest.importorskip("distributed")
    with pytest.raises(EngineError, match=f"^--scheduler {address}: is no address of a Dask scheduler; write tcp://"):
        next(DaskEngine(address, 1).outcomes(perform, iter([])))


def test_something_else_that_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setattr(dask_engine, "CONNECT_SECONDS", 1)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(EngineError, match=f"^--scheduler {address}: no Dask scheduler answers there"):
            next(DaskEngine(address, 1).outcomes(perform, iter([])))


def test_a_scheduler_without_workers(tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    light_plan(tmp_path, runs=2)
    with cluster(tmp_path, 0, workers=0) as (address, _), experiment(tmp_path, address) as process:
        _, err = process.communicate(timeout=120)
    assert process.returncode == 3, err
    assert "it has no workers, and none came within 10 seconds; start some (dask worker tcp://" in err
    assert len(err.strip().splitlines()) == 1, err


def test_a_scheduler_that_goes_away(tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    plan = light_plan(tmp_path, runs=30, ticks=100_000)
    expected = straight(plan, tmp_path / "straight").experiment_digest
    with cluster(tmp_path, 100) as (address, scheduler), experiment(tmp_path, address) as process:
        assert until(lambda: done_in(tmp_path) >= 3 or process.poll() is not None, 120)
        os.killpg(scheduler.pid, signal.SIGKILL)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 3, err
    assert "the Dask scheduler went away" in err
    assert "run the same command again to go on" in err
    assert len(err.strip().splitlines()) == 1, err
    before = done_in(tmp_path)
    assert 3 <= before < 93
    # What was done on the cluster is gone on with by whatever engine there is.
    summary = straight(plan, tmp_path / "out")
    assert (summary.done_runs, summary.experiment_digest) == (93 - before, expected)


def test_dask_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *arguments: Any) -> Any:
        if name.partition(".")[0] in ("dask", "distributed"):
            raise ModuleNotFoundError(f"No module named {name!r}")
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without)
    said = command("experiment", "demo", "--engine", "dask", "--out", tmp_path / "out")
    refused(2, ["--engine dask needs the extra `cluster`", "pip install 'pulsetwin[cluster]'"], said)
    assert not (tmp_path / "out").exists()
    refused(2, ["--scheduler goes with --engine dask"],
            command("experiment", "demo", "--scheduler", "tcp://x:1", "--out", tmp_path / "out"))  # fmt: skip
