"""Other people's programs in front of a served tree: in a mount namespace where it stands for the machine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from drivers.kernel import CannotBeHadError

# What docs/serving.md tells people to do; the last line is for the pid files of daemons.
_IN_FRONT = """
mount --bind "$0/sys/class" /sys/class
mount --bind "$0/sys/devices" /sys/devices
mount -t tmpfs tmpfs /run
exec "$@"
"""


def in_front_of(tree: Path, *command: object) -> list[str]:
    """`command` in a namespace of its own in which the tree stands for the machine."""
    return ["unshare", "--mount", "sh", "-ec", _IN_FRONT, str(tree), *map(str, command)]


def can_stand_in_front() -> None:
    """Raise `CannotBeHadError` where the programs or the permission are not there."""
    missing = [name for name in ("sensors", "fancontrol", "unshare") if shutil.which(name) is None]
    if missing:
        raise CannotBeHadError(f"{', '.join(missing)}: not installed")
    if subprocess.run(["unshare", "--mount", "mount", "--bind", "/tmp", "/tmp"], capture_output=True).returncode != 0:
        raise CannotBeHadError("a mount namespace needs root")


@dataclass
class Served:
    """A tree that `twin serve` keeps; `result` is what it said at its end."""

    root: Path
    result: dict[str, Any] = field(default_factory=dict)

    def chip(self, name: str) -> Path:
        return next(path for path in self.chips() if (path / "name").read_text() == f"{name}\n")

    def chips(self) -> list[Path]:
        return sorted((self.root / "sys/class/hwmon").iterdir())


@contextmanager
def served(root: Path, scenario: str, *options: object) -> Iterator[Served]:
    """The tree of `scenario` below `root` while the context lasts."""
    command = [sys.executable, "-m", "twin", "serve", scenario, "--root", root, "--json", *map(str, options)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        while not (root / "run/pulsetwin-application/values").exists():
            assert server.poll() is None, "twin serve has ended"
            time.sleep(0.02)
        tree = Served(root)
        yield tree
        server.terminate()
        out, _ = server.communicate()
        assert server.returncode == 0
        tree.result = json.loads(out)
    finally:
        server.kill()
        server.wait()


def nightly() -> bool:
    return os.environ.get("HYPOTHESIS_PROFILE") == "nightly"
