"""What runs in the virtual machine: the Linux backend beside the registers of the chips, called from outside.

Only the standard library and `hardware`. A call is a pickled `(function, arguments)` and its answer `(went well,
value)`, each behind its length in four bytes, on the machine's one virtual serial port.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import pickle
import select
import shutil
import signal
import struct
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hardware.by_hand import restore
from hardware.interface import Applied, Command, Readings, Status, Wiring
from hardware.journal import FOLDER
from hardware.linux.adapter import LinuxHardware
from hardware.linux.guarded import GuardedHands
from hardware.linux.hands import DirectHands, Hands
from hardware.linux.sysfs import Root
from hardware.linux.tree import SysTree
from hardware.restore import LEASE

MACHINE = Path("/run/machine")
"""The root that the backend is given: the kernel's own sys, and the world's proc and application port."""

SAID = Path("/run/controller")
"""What a controller said that could not go on."""

BUS = Path("/sys/bus/i2c/devices/i2c-0")
TRIED_NS = 20_000_000
"""So long an output may be on its way back that a guardian tries at its start."""
_SLAVE_FORCE, _SMBUS, _READ = 0x0706, 0x0720, 1


class _Transfer(ctypes.Structure):
    _fields_ = (("read", ctypes.c_uint8), ("register", ctypes.c_uint8), ("size", ctypes.c_uint32),
                ("data", ctypes.c_void_p))  # fmt: skip


class Bus:
    """The I2C bus as `/dev/i2c-0` offers it, also where a driver is bound."""

    def __init__(self) -> None:
        self._descriptor = os.open("/dev/i2c-0", os.O_RDWR | os.O_CLOEXEC)
        self._address = -1

    def transfer(self, register: tuple[int, int, int], value: int | None) -> int:
        """Write `value`, or read, the register (address, number, size)."""
        address, number, size = register
        if address != self._address:
            fcntl.ioctl(self._descriptor, _SLAVE_FORCE, address)
            self._address = address
        data = ctypes.create_string_buffer(struct.pack("<H", value or 0), 34)
        transfer = _Transfer(_READ if value is None else 0, number, size, ctypes.addressof(data))
        fcntl.ioctl(self._descriptor, _SMBUS, transfer)
        read: int = struct.unpack("<H", data.raw[:2])[0]
        return read if size == 3 else read & 0xFF


bus: Bus
backend: LinuxHardware
tree: SysTree
held: dict[str, int] = {}


def show(writes: list[tuple[tuple[int, int, int], int]]) -> None:
    """Put values into registers."""
    for register, value in writes:
        bus.transfer(register, value)


def look(registers: list[tuple[int, int, int]]) -> list[int]:
    """What registers hold."""
    return [bus.transfer(register, None) for register in registers]


def plug(name: str, address: int) -> None:
    """A chip appears on the bus, and its driver binds."""
    (BUS / "new_device").write_text(f"{name} {address:#x}")


def unplug(address: int) -> None:
    """The chip is gone."""
    (BUS / "delete_device").write_text(f"{address:#x}")


def unbind(name: str, address: int) -> None:
    """The driver `name` lets go of the chip, which stays."""
    Path(f"/sys/bus/i2c/drivers/{name}/unbind").write_text(f"0-{address:04x}")


def bind(name: str, address: int) -> None:
    """The driver takes the chip again."""
    Path(f"/sys/bus/i2c/drivers/{name}/bind").write_text(f"0-{address:04x}")


def plugged() -> dict[int, tuple[str, str]]:
    """Address -> the chip's name and its class device, `hwmonN`."""
    found = {}
    for device in Path("/sys/class/hwmon").iterdir():
        address = (device / "device").resolve().name
        if address.startswith("0-"):
            found[int(address.removeprefix("0-"), base=16)] = (device / "name").read_text().strip(), device.name
    return found


def read_file(path: str) -> bytes | str:
    """A file's content, or the name of the error."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        return errno.errorcode[error.errno or 0]


def write_file(path: str, text: str) -> str:
    """Write in one call; the name of the error, or nothing."""
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.write(descriptor, text.encode())
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    finally:
        os.close(descriptor)
    return ""


def hold(path: str) -> None:
    """Keep a file open."""
    held[path] = os.open(path, os.O_RDONLY)


def read_held(path: str) -> bytes | str:
    """What an open file says now, from its beginning, or the name of the error."""
    try:
        return os.pread(held[path], 64, 0)
    except OSError as error:
        return errno.errorcode[error.errno or 0]


def assemble(wiring: Wiring) -> None:
    """Make the root of the machine: the kernel's sys, and a tree for what no chip shows."""
    global tree
    tree = SysTree(Path("/run/tree"), wiring)
    for name, source in (("sys", "/sys"), ("proc", "/run/tree/proc"), ("run", "/run/tree/run")):
        (MACHINE / name).mkdir(parents=True)
        _mount(source, str(MACHINE / name))


def forget_sessions() -> None:
    """Nobody acts on this machine, or has before. A guardian that still looks whether it was obeyed is ended."""
    with contextlib.suppress(FileNotFoundError), (MACHINE / FOLDER / LEASE).open() as lease:
        with contextlib.suppress(IndexError, ProcessLookupError):
            os.kill(int(lease.read().split()[0]), signal.SIGKILL)
        fcntl.flock(lease, fcntl.LOCK_EX)
    shutil.rmtree(MACHINE / FOLDER, ignore_errors=True)


def start(wiring: Wiring, acts: str) -> tuple[dict[str, str], dict[str, str]]:
    """Begin a backend that acts with these hands; what it found and what it misses."""
    global backend
    backend = LinuxHardware(MACHINE, wiring, lambda: elapsed_ns(), hands(acts))
    return backend.found, backend.missing


def hands(acts: str) -> Hands | None:
    """What a backend acts with: nothing ("no"), this process ("directly"), or a guardian ("guarded")."""
    if acts == "no":
        return None
    return GuardedHands(MACHINE) if acts == "guarded" else DirectHands(lambda: elapsed_ns())


elapsed_ns: Callable[[], int] = lambda: 0  # noqa: E731 - replaced at each cycle


def cycle(
    now_ns: int, writes: list[tuple[tuple[int, int, int], int]], values: tuple[int | None, ...],
    statuses: tuple[Status, ...],
) -> Readings:  # fmt: skip
    """One cycle's reading: the world shows itself, and the backend looks. `now_ns` is the time since the run began."""
    global elapsed_ns
    mark = time.monotonic_ns() - now_ns
    elapsed_ns = lambda: time.monotonic_ns() - mark  # noqa: E731
    show(writes)
    tree.update(values, statuses)
    return backend.read()


def read() -> Readings:
    """A reading of the backend alone."""
    return backend.read()


def apply(values: dict[str, int], registers: list[tuple[int, int, int]]) -> tuple[Applied, list[int]]:
    """Carry out a command, and read registers after it."""
    applied = backend.apply(Command(values))
    return Applied(dict(applied.values), applied.clamped, applied.failed), look(registers)


def act(values: dict[str, int], cycles: int, registers: list[tuple[int, int, int]]) -> tuple[Applied, list[int]]:
    """So many control cycles, ten a second, with one and the same command; as `apply`, of the last one."""
    for _cycle in range(cycles - 1):
        backend.read()
        backend.apply(Command(values))
        time.sleep(0.1)
    backend.read()
    return apply(values, registers)


def close() -> tuple[tuple[str, str], ...]:
    """Close the backend; what could not be given back."""
    backend.close()
    return backend.unrestored


def give_back() -> dict[str, Any]:
    """What `twin restore` does."""
    return restore(Root(MACHINE))


def strike(
    wiring: Wiring, registers: list[tuple[int, int, int]], number: int, after_seconds: float, acting: bool,
    allowed_ns: int,
) -> dict[str, Any]:  # fmt: skip
    """A controller acts through a guardian and gets signal `number` so long after its start, or after it acted first.

    `registers` are the duty cycle and the mode of each output. Says how long after the signal an output was last seen
    that was neither given back nor at full speed, in nanoseconds; how many such were seen after `allowed_ns`; whether
    all are given back when the controller is dead; and whether it acted.
    """
    SAID.write_text("")
    before = look(registers)
    told, telling = os.pipe()
    controller = os.fork()
    if controller == 0:
        _control(wiring, registers, telling)
    os.close(telling)
    if acting:
        os.read(told, 1)
    time.sleep(after_seconds)
    acted = look(registers) != before
    os.kill(controller, number)
    struck_ns = time.monotonic_ns()
    last_ns = unsafe = 0
    seen_ns: dict[int, int] = {}
    while (since_ns := time.monotonic_ns() - struck_ns) < allowed_ns + 200_000_000:
        now = look(registers)
        seen_ns = {place: seen_ns.get(place, since_ns) for place in _unsafe(before, now)}
        # Before anybody acts an output that is being tried is in manual mode for an instant: what counts is what stays.
        if any(acted or since_ns - began_ns > TRIED_NS for began_ns in seen_ns.values()):
            last_ns = since_ns
            unsafe += since_ns > allowed_ns
        # Looking takes all that the processor can do. What was given back may only become unsafe again.
        time.sleep(0.005 if _given_back(before, now) and acted else 0.0005)
    if number != signal.SIGKILL:
        os.kill(controller, signal.SIGKILL)
        time.sleep(0.2)
    os.close(told)
    os.waitpid(controller, 0)
    given_back = _given_back(before, look(registers))
    seen = {"last_ns": last_ns, "unsafe": unsafe, "given_back": given_back, "acted": acted,
            "said": SAID.read_text()}  # fmt: skip
    return seen if given_back and not unsafe else {**seen, "now": look(registers), **_autopsy(before, registers)}


def _autopsy(before: list[int], registers: list[tuple[int, int, int]]) -> dict[str, Any]:
    """What a guardian is doing that has not given back what it should have, and when it does."""
    began_ns = time.monotonic_ns()
    processes = []
    for place in Path("/proc").glob("[0-9]*"):
        command = (place / "cmdline").read_bytes().replace(b"\0", b" ")
        if b"hardware.guardian" in command:
            status = (place / "status").read_text().split("\n")[2]
            processes.append(f"{place.name} {status} {(place / 'stack').read_text()}")
    while not _given_back(before, look(registers)) and time.monotonic_ns() - began_ns < 5_000_000_000:
        time.sleep(0.001)
    return {"guardians": processes, "later_ns": time.monotonic_ns() - began_ns}


def kill_both(wiring: Wiring, registers: list[tuple[int, int, int]]) -> dict[str, Any]:
    """Controller and guardian are killed at once; then the journal is restored. Says how long that took."""
    before = look(registers)
    told, telling = os.pipe()
    controller = os.fork()
    if controller == 0:
        _control(wiring, registers, telling)
    os.close(telling)
    guardian = int.from_bytes(os.read(told, 4), "little")
    os.kill(guardian, signal.SIGKILL)
    os.kill(controller, signal.SIGKILL)
    os.waitpid(controller, 0)
    os.close(told)
    left = look(registers)
    began_ns = time.monotonic_ns()
    restored = restore(Root(MACHINE))
    return {"nanoseconds": time.monotonic_ns() - began_ns, "unsafe": sorted(_unsafe(before, left)), **restored,
            "given_back": _given_back(before, look(registers))}  # fmt: skip


def _control(wiring: Wiring, registers: list[tuple[int, int, int]], telling: int) -> None:
    """Acts until it is killed; says the guardian's process when its first command is in the registers."""
    try:
        before = look(registers)
        acts = GuardedHands(MACHINE)
        machine = LinuxHardware(MACHINE, wiring, time.monotonic_ns, acts)
        for cycle in range(100_000):
            machine.read()
            asked = {name: 60 + (37 * cycle + 50 * place) % 120 for place, name in enumerate(machine.limits)}
            machine.apply(Command({name: value for name, value in asked.items() if name.endswith("_pwm")}))
            if telling and all(now != was for now, was in zip(look(registers), before, strict=True)):
                os.write(telling, (acts.pid or 0).to_bytes(4, "little"))
                telling = 0
            time.sleep(0.05)
    except BaseException:
        SAID.write_text(traceback.format_exc())
    finally:
        os._exit(1)


def _given_back(before: list[int], now: list[int]) -> bool:
    """Whether every output is in the mode in which it was. All were automatic, where the duty cycle is the chip's."""
    return before[1::2] == now[1::2]


def _unsafe(before: list[int], now: list[int]) -> set[int]:
    """The outputs, by place, that are neither given back nor at full speed."""
    outputs = enumerate(zip(before[1::2], now[::2], now[1::2], strict=True))
    return {place for place, (how, duty, mode) in outputs if mode != how and duty != 255}


def pause(seconds: float) -> None:
    """Let time pass."""
    time.sleep(seconds)


def uptime_seconds() -> float:
    """Since the kernel began."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _mount(source: str, target: str) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    bind = 4096
    if library.mount(source.encode(), target.encode(), None, bind, None) != 0:
        raise OSError(ctypes.get_errno(), f"mount {source} on {target}")


def serve(descriptor: int) -> None:
    """Answer calls for ever."""
    with os.fdopen(descriptor, "r+b", buffering=0) as port:
        while True:
            # The emulated clock stands while nothing is awaited but a call, and the drivers' own time with it.
            while not select.select([port], [], [], 0.002)[0]:
                pass
            function, arguments = pickle.loads(_exactly(port.read, struct.unpack("<I", _exactly(port.read, 4))[0]))
            try:
                answer: Any = True, globals()[function](*arguments)
            except BaseException:
                answer = False, traceback.format_exc()
            data = pickle.dumps(answer)
            rest = memoryview(struct.pack("<I", len(data)) + data)
            while rest:
                rest = rest[port.write(rest) :]


def _exactly(read: Callable[[int], bytes], count: int) -> bytes:
    data = b""
    while len(data) < count:
        data += read(count - len(data))
    return data


if __name__ == "__main__":
    bus = Bus()
    serve(os.open(next(Path("/dev").glob("vport*")), os.O_RDWR | os.O_CLOEXEC))
