"""What the guardian's tests share: a machine of files with one output of each kind, and both ends of a guardian."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar

from hardware_fakes import add_chip, add_zone, put

from hardware import restore
from hardware.guardian import PAIR, PROPOSAL, Guardian
from hardware.interface import Limit, Source, Wiring
from hardware.linux.adapter import LinuxHardware
from hardware.linux.guarded import describe

MACHINE = Wiring(
    (),
    (
        Limit("fan_pwm", 0, 255, 255, (Source("hwmon", "pwm", ("chip",)),)),
        Limit("plain_pwm", 0, 255, 200, (Source("hwmon", "pwm", ("chip",), index=2),)),
        Limit("clock", 1_000, 4_000, 2_000, (Source("cpufreq", "scaling_max_freq"),)),
        Limit("watts", 1, 90, 5, (Source("powercap", "constraint_0_power_limit_uw", ("package-0",)),)),
        Limit("state", 0, 10, 10, (Source("thermal", "cur_state", ("Processor",)),)),
    ),
)
NAMES = tuple(limit.name for limit in MACHINE.outputs)
SAFE = {"fan_pwm": 255, "plain_pwm": 200, "clock": 2_000, "watts": 5, "state": 10}
MIDDLE = {"fan_pwm": 90, "plain_pwm": 60, "clock": 3_000, "watts": 40, "state": 3}
CHIP = "sys/devices/platform/chip.1/hwmon/hwmon2"
POLICY = "sys/devices/system/cpu/cpufreq/policy0"
FILES = {
    "fan_pwm": f"{CHIP}/pwm1", "plain_pwm": f"{CHIP}/pwm2", "clock": f"{POLICY}/scaling_max_freq",
    "watts": "sys/devices/virtual/powercap/intel-rapl:0/constraint_0_power_limit_uw",
    "state": "sys/devices/virtual/thermal/cooling_device0/cur_state",
}  # fmt: skip
MODE = f"{CHIP}/pwm1_enable"
FLOOR = f"{POLICY}/scaling_min_freq"


def build(root: Path) -> Path:
    """The machine, in its own hands."""
    add_zone(root, "powercap", "intel-rapl:0", {"name": "package-0", "constraint_0_power_limit_uw": 65})
    add_zone(root, "thermal", "cooling_device0", {"type": "Processor", "cur_state": 0, "max_state": 10})
    policy = {"cpuinfo_min_freq": 800, "cpuinfo_max_freq": 4_000, "scaling_min_freq": 2_500, "scaling_max_freq": 4_000}
    put(root / POLICY, policy)
    fan = {"pwm1": 120, "pwm1_enable": 5, "pwm2": 60, "fan1_input": 1_200, "update_interval": 500}
    add_chip(root, 2, "platform/chip.1", "chip", fan)
    return root


def shown(root: Path) -> dict[str, int]:
    """What every file that may be written says."""
    return {path: int((root / path).read_text()) for path in (*FILES.values(), MODE, FLOOR)}


def given_back_or_cool(root: Path, originals: Mapping[str, int]) -> bool:
    """Whether nothing is left that only a living controller could answer for.

    Each output has to be as it was, or at its safe value or beyond. The floor of the clock comes back after it.
    """
    now = shown(root)
    cool = {
        "fan_pwm": now[FILES["fan_pwm"]] == 255, "plain_pwm": now[FILES["plain_pwm"]] >= 200,
        "clock": now[FILES["clock"]] <= 2_000, "watts": now[FILES["watts"]] <= 5, "state": now[FILES["state"]] == 10,
    }  # fmt: skip
    back = {name: now[path] == originals[path] for name, path in FILES.items()}
    back["fan_pwm"] = now[MODE] == originals[MODE]
    return all(back[name] or cool[name] for name in NAMES)


def hello(root: Path, **changes: object) -> dict[str, Any]:
    """The first message for the machine below `root`, as an adapter finds it."""
    found: dict[str, Any] = {}

    class Finder:
        def begin(self, outputs: Mapping[str, Any], names: tuple[str, ...]) -> Mapping[str, str]:
            found.update(outputs)
            return {}

        def put(self, wanted: Mapping[str, Any]) -> Mapping[str, Any]:
            return {}

        def close(self) -> tuple[tuple[str, str], ...]:
            return ()

    LinuxHardware(root, MACHINE, lambda: 0, Finder())
    outputs = [
        {"name": name, "minimum": asked.minimum, "maximum": asked.maximum, "safe": asked.safe,
         "output": describe(asked.output)}
        for name, asked in found.items()
    ]  # fmt: skip
    table = {"root": str(root), "lease_ns": 350_000_000, "outputs": outputs, "acted": [], "libraries": []}
    # As it crosses the socket.
    copied: dict[str, Any] = json.loads(json.dumps({**table, **changes}))
    return copied


def proposal(tick: int, values: Mapping[str, int] = MIDDLE) -> bytes:
    """One proposal for outputs of `MACHINE`."""
    pairs = b"".join(PAIR.pack(NAMES.index(name), raw) for name, raw in values.items())
    return PROPOSAL.pack(b"P", len(values), tick) + pairs


class Still:
    """Time that passes when somebody sleeps."""

    slept: ClassVar[list[float]] = []

    @classmethod
    def sleep(cls, seconds: float) -> None:
        cls.slept.append(seconds)


class Bench:
    """A guardian in this process, whose clocks stand until they are moved, and the other end of its channel."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.now_ns = 10**9
        self.asleep_ns = 0
        self.mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.mine.setblocking(False)
        self.theirs = theirs
        self.guardian = Guardian(theirs, lambda: self.now_ns, lambda: self.now_ns + self.asleep_ns)
        self.tick = 0
        self.said: list[dict[str, Any]] = []
        self.answers = 0

    def begin(self, **changes: object) -> None:
        self.mine.send(b"H" + json.dumps(hello(self.root, **changes)).encode())
        self.guardian.begin()
        self.hear()

    def hear(self) -> dict[str, Any]:
        """Everything that was said; the last of it."""
        while True:
            try:
                message = self.mine.recv(1 << 20)
            except BlockingIOError:
                return self.said[-1] if self.said else {}
            if message[:1] == b"R":
                self.said.append(json.loads(message[1:]))
            else:
                self.answers += 1

    def propose(self, values: Mapping[str, int] = MIDDLE) -> None:
        """The next proposal is sent."""
        self.tick += 1
        self.mine.send(proposal(self.tick, values))

    def run(
        self, milliseconds: int, values: Mapping[str, int] | None = MIDDLE, before: Callable[[], None] = int
    ) -> None:  # type: ignore[assignment]
        """Time passes in steps of 20 ms; with `values`, a proposal comes every 100 ms. `before` is called each step."""
        for step in range(milliseconds // 20):
            self.now_ns += 20_000_000
            if values is not None and step % 5 == 0:
                self.propose(values)
            before()
            self.guardian.step()
        self.hear()

    def close(self) -> None:
        if self.guardian._leased >= 0:
            with suppress(OSError):
                os.close(self.guardian._leased)
        self.mine.close()
        self.theirs.close()


@contextmanager
def bench(root: Path, begin: bool = True, **changes: object) -> Iterator[Bench]:
    """A `Bench` that is closed at the end. Nobody waits for files to show what was written: these do at once."""
    made = Bench(root)
    real = restore.time
    restore.time = Still  # type: ignore[assignment]
    try:
        if begin:
            made.begin(**changes)
        yield made
    finally:
        restore.time = real
        made.close()


CONTROLLER = """
import signal, sys, time
from pathlib import Path
sys.path[:0] = [{repository!r}, {tests!r}]
from guarding import MACHINE, MIDDLE
from hardware.interface import Command
from hardware.linux.adapter import LinuxHardware
from hardware.linux.guarded import GuardedHands
hands = GuardedHands(Path({root!r}))
hardware = LinuxHardware(Path({root!r}), MACHINE, time.monotonic_ns, hands)
signal.signal(signal.SIGTERM, lambda *_: sys.exit())
print(hands.pid, flush=True)
cycle = 0
try:
    while cycle != {cycles}:
        cycle += 1
        hardware.read()
        applied = hardware.apply(Command({{**MIDDLE, "fan_pwm": 80 + cycle % 20}}))
        print("cycle", cycle, *(name for name, _ in applied.failed), flush=True)
        {each}
        time.sleep(0.1)
finally:
    hardware.close()
"""


@contextmanager
def controller(root: Path, each: str = "pass", cycles: int = -1, wrapper: tuple[str, ...] = ()) -> Iterator[Any]:
    """A controller in a process of its own, acting below `root`; it prints the guardian's process, then its cycles."""
    tests = Path(__file__).parent
    program = CONTROLLER.format(
        repository=str(tests.parent), tests=str(tests), root=str(root), each=each, cycles=cycles
    )
    process = subprocess.Popen(
        [*wrapper, sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()


def until(true: Callable[[], bool], seconds: float = 20.0) -> float:
    """How many seconds it took until `true` was; fails when it never is."""
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < seconds, "it never came true"
        time.sleep(0.001)
    return time.monotonic() - began


def gone(process: int) -> bool:
    """Whether there is no such process any more, or only what is left of it."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True
