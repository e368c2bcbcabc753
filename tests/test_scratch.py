"""Folders of which nothing is to be left."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from twin.cli import scratch as scratch_module
from twin.cli.scratch import scratch

HOLDS = """
import time
from twin.cli.scratch import scratch
with scratch("some-") as path:
    print(path, flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_what_a_killed_owner_left_is_removed_by_the_next_and_nothing_else_is(place: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(place)}
    owner = subprocess.Popen([sys.executable, "-c", HOLDS], stdout=subprocess.PIPE, text=True, env=environment)
    assert owner.stdout is not None
    with owner.stdout:
        left = Path(owner.stdout.readline().strip())
    (left / "0").mkdir()
    (left / "0" / "file").write_text("x")
    other, file, far = place / "other-1", place / "some-file", place / "far"
    for each in (other, far):
        each.mkdir()
        (each / "kept").write_text("x")
    file.write_text("x")
    (place / "some-link").symlink_to(far)
    with scratch("some-") as ours:
        assert left.is_dir()
        owner.send_signal(signal.SIGKILL)
        owner.wait()
        with scratch("some-") as second:
            assert not left.exists()
            assert ours.is_dir()
            assert second != ours
    assert sorted(path.name for path in place.iterdir()) == ["far", "other-1", "some-file", "some-link"]
    assert (far / "kept").is_file()


def test_another_users_is_left_alone(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "some-1").mkdir()
    monkeypatch.setattr(scratch_module.os, "getuid", lambda: os.geteuid() + 1)
    with scratch("some-"):
        assert (place / "some-1").is_dir()


def test_one_that_was_removed_before_it_was_held_is_made_again(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Path] = []
    flock = fcntl.flock

    def removed_first(descriptor: int, how: int) -> None:
        if not made:
            made.extend(place.glob("some-*"))
            made[0].rmdir()
        flock(descriptor, how)

    monkeypatch.setattr(scratch_module.fcntl, "flock", removed_first)
    with scratch("some-") as path:
        assert path.is_dir()
        assert path != made[0]
