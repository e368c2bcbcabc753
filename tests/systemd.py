"""A systemd of one's own for tests: process 1 of a namespace whose files are this machine's, and go when it does.

What is written there lands in memory. `/sys` is a tree of files, given by its path, so that units may act on it.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

SYSTEMD = Path("/usr/lib/systemd/systemd")
_BOOT = """
mount --make-rprivate /
mount -t tmpfs tmpfs "$0"
mkdir "$0/upper" "$0/work" "$0/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$0/upper,workdir=$0/work" "$0/root"
cd "$0/root"
mount -t proc proc proc
mount --rbind /dev dev
mount -t tmpfs tmpfs run
mkdir run/lock
mount --bind "$1/sys" sys
mount -t tmpfs tmpfs sys/fs/cgroup
mkdir sys/fs/cgroup/unified sys/fs/cgroup/systemd
mount -t cgroup2 cgroup2 sys/fs/cgroup/unified
mount -t cgroup -o none,name=systemd cgroup sys/fs/cgroup/systemd
cp -r "$2/." etc/
exec chroot . /usr/bin/env -i container=oci PATH=/usr/sbin:/usr/bin:/sbin:/bin "$3" \\
    --system "--unit=$4" --log-target=null --show-status=no
"""


def why_not() -> str:
    """Why there can be none here; empty if there can."""
    if os.geteuid() != 0:
        return "namespaces and mounts need root"
    missing = [name for name in ("unshare", "nsenter", "systemctl", "mount") if shutil.which(name) is None]
    if not SYSTEMD.is_file():
        missing.append("systemd")
    return f"not installed: {', '.join(missing)}" if missing else ""


class Systemd:
    """One that runs. Paths are those inside."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def inside(self, *command: object, check: bool = True) -> str:
        """What a command in its namespace prints."""
        enter = ["nsenter", "-t", str(self.pid), "-m", "-p", "-C", "-r", "-w"]
        done = subprocess.run([*enter, *map(str, command)], capture_output=True, text=True, timeout=120, check=False)
        assert not check or done.returncode == 0, (command, done.stdout, done.stderr)
        return done.stdout

    def state(self, unit: str) -> dict[str, str]:
        """The properties of a unit that tell how it stands."""
        names = "ActiveState,SubState,Result,NRestarts,MainPID,StatusText"
        said = self.inside("systemctl", "show", unit, f"--property={names}", check=False)
        return dict(line.split("=", 1) for line in said.splitlines())


@contextmanager
def booted(place: Path, tree: Path, files: Mapping[str, str], unit: str) -> Iterator[Systemd]:
    """A systemd that starts `unit`, with `files` in its `/etc` and the `sys` of `tree` as `/sys`."""
    etc, here = place / "etc", place / "here"
    here.mkdir(parents=True)
    for name, text in files.items():
        (etc / name).parent.mkdir(parents=True, exist_ok=True)
        (etc / name).write_text(text)
    (tree / "sys/fs/cgroup").mkdir(parents=True, exist_ok=True)
    command = ["unshare", "--fork", "--pid", "--mount", "--cgroup", "--kill-child", "sh", "-euc", _BOOT]
    process = subprocess.Popen([*command, here, tree, etc, SYSTEMD, unit], stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)  # fmt: skip
    try:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        until(lambda: bool(children.read_text().split()) or process.poll() is not None, 10)
        assert process.poll() is None
        one = Systemd(int(children.read_text().split()[0]))
        until(lambda: "ActiveState" in one.state(unit), 30)
        yield one
    finally:
        # Whoever is process 1 takes everything in its namespace along.
        for each in children.read_text().split():
            os.kill(int(each), signal.SIGKILL)
        process.kill()
        process.wait()


def until(true: Callable[[], bool], seconds: float) -> float:
    """Wait until it is so; how long that took (s)."""
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < seconds, f"not within {seconds} s"
        time.sleep(0.005)
    return time.monotonic() - began
