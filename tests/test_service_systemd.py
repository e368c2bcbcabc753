"""The shipped unit under a real systemd: what it starts, and what is left when any part of it dies."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest
from drivers.programs import Served, served
from systemd import Systemd, booted, until, why_not

from twin.cli.service import UNIT, filled
from twin.kernels import cache_folder

# Nothing of this machine is started beside it, kernels that are compiled need not be again, and it may hang less long.
_DROP_IN = """
[Unit]
DefaultDependencies=no
[Service]
StandardError=file:/run/said
BindPaths={cache}:/var/cache/pulsetwin
PrivateTmp={private}
WatchdogSec=2
"""


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Served]:
    why = why_not()
    if why and os.environ.get("CI") == "true":
        pytest.fail(f"no systemd to run the unit under: {why}")
    if why:
        pytest.skip(f"no systemd to run the unit under: {why}")
    with served(tmp_path / "tree", "gaming") as one:
        yield one


@pytest.fixture
def systemd(tree: Served, tmp_path: Path) -> Iterator[Systemd]:
    cache = cache_folder()
    assert cache is not None
    # A checkout for trial may lie there itself.
    private = "no" if Path(sys.prefix).is_relative_to("/tmp") else "yes"
    drop_in = _DROP_IN.format(cache=Path(cache).parent, private=private)
    etc = {
        "pulsetwin/scenario.toml": files("scenarios").joinpath("gaming.toml").read_text(encoding="utf-8"),
        f"systemd/system/{UNIT}": filled(UNIT),
        f"systemd/system/{UNIT}.d/test.conf": drop_in,
    }
    with booted(tmp_path / "systemd", tree.root, etc, UNIT) as one:
        yield one


def modes(tree: Served) -> list[str]:
    """Who steers each of the board's fans: 1 is us, 2 is the firmware, whose they were."""
    return [path.read_text().strip() for path in sorted(tree.chip("nct6775").glob("pwm?_enable"))]


def acts(tree: Served) -> bool:
    return modes(tree) == ["1", "1"]


def processes(one: Systemd) -> tuple[int, int]:
    """The controller and its guardian, as this side numbers them; (0, 0) while there is no guardian."""
    for each in Path("/proc").glob("[0-9]*/status"):
        try:
            lines = dict(line.split(":", 1) for line in each.read_text().splitlines() if ":" in line)
            words = (each.parent / "cmdline").read_bytes()
            space = (each.parent / "ns/pid").readlink()
        except OSError:
            continue
        if b"hardware.guardian" in words and space == Path(f"/proc/{one.pid}/ns/pid").readlink():
            return int(lines["PPid"]), int(lines["Pid"])
    return 0, 0


def test_the_unit_acts_and_gives_back_whatever_dies(tree: Served, systemd: Systemd) -> None:
    # As long as the unit allows: the first start may have to compile the kernels.
    until(lambda: systemd.state(UNIT).get("ActiveState") == "active", 300)
    until(lambda: acts(tree), 10)
    assert systemd.state(UNIT)["NRestarts"] == "0"

    controller, guardian = processes(systemd)
    os.kill(guardian, signal.SIGKILL)
    # The controller starts another one, which gives back first; systemd does not even notice.
    until(lambda: processes(systemd)[1] not in (0, guardian), 20)
    until(lambda: acts(tree), 20)
    assert (systemd.state(UNIT)["NRestarts"], processes(systemd)[0]) == ("0", controller)

    for restarts, victims in enumerate(("controller", "both", "controller hangs"), start=1):
        controller, guardian = processes(systemd)
        began = time.monotonic()
        if victims == "both":
            os.kill(guardian, signal.SIGKILL)
        os.kill(controller, signal.SIGSTOP if victims == "controller hangs" else signal.SIGKILL)
        until(lambda: modes(tree) == ["2", "2"], 30)
        print(f"\nunder systemd, {victims}: given back after {1_000 * (time.monotonic() - began):.0f} ms")
        until(lambda: int(systemd.state(UNIT)["NRestarts"]) >= restarts, 60)  # noqa: B023 - is called at once
        until(lambda: acts(tree), 60)

    systemd.inside("systemctl", "stop", UNIT)
    assert modes(tree) == ["2", "2"]
    state = systemd.state(UNIT)
    assert (state["ActiveState"], state["Result"]) == ("inactive", "success"), systemd.inside("cat", "/run/said")
