"""A virtual machine with real drivers: a Debian kernel under QEMU, the host's files to read, and a way to call it."""

from __future__ import annotations

import os
import pickle
import shutil
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from drivers.kernel import CannotBeHadError, Kernel, initramfs

CHECKOUT = Path(__file__).resolve().parents[2]
ADDRESSES = (0x18, 0x2E, 0x48, 0x49, 0x4A)
START_SECONDS, ANSWER_SECONDS = 300.0, 60.0
"""Long, since processors may have much else to do; an idle one starts a machine in 12 s."""

# Nothing is written to the host: its files are there to read only, and what is to be written lies in memory.
_INIT = """#!/bin/busybox sh
B=/bin/busybox
$B mount -t proc proc /proc
$B mount -t sysfs sysfs /sys
$B mount -t devtmpfs dev /dev
for module in /modules/*; do
    case $module in
    *-i2c_stub.ko) $B insmod $module chip_addr=ADDRESSES ;;
    *) $B insmod $module ;;
    esac
done
$B mount -t 9p -o trans=virtio,version=9p2000.L,msize=524288,cache=loose,ro host /host
for name in proc sys dev; do $B mount --move /$name /host/$name; done
$B mount -t tmpfs tmpfs /host/run
export PYTHONPATH="CHECKOUT:CHECKOUT/tests" TMPDIR=/run HOME=/run PATH=/usr/sbin:/usr/bin:/sbin:/bin
exec $B chroot /host "PYTHON" -S -B -m drivers.guest
"""


class Machine:
    """A machine that starts; once it is `up`, `call` runs a function of `guest.py` in it.

    Its clock counts instructions, two nanoseconds each, and so says how long something takes on a processor of 500
    million a second, however busy the host is.
    """

    def __init__(self, kernel: Kernel, folder: Path, qemu: str, busybox: str) -> None:
        init = _INIT.replace("ADDRESSES", ",".join(hex(address) for address in ADDRESSES))
        init = init.replace("CHECKOUT", str(CHECKOUT)).replace('"PYTHON"', f'"{os.path.realpath(sys.executable)}"')
        (folder / "initramfs").write_bytes(initramfs(kernel.modules, init, Path(busybox)))
        self.console = folder / "console"
        self._port, inner = socket.socketpair()
        self._port.settimeout(START_SECONDS)
        self._began = time.monotonic()
        with inner:
            self._process = subprocess.Popen(
                [
                    qemu, "-accel", "tcg", "-cpu", "max", "-icount", "shift=1", "-smp", "1", "-m", "512",
                    "-nodefaults", "-display", "none",
                    "-nic", "none", "-no-reboot", "-kernel", kernel.image, "-initrd", folder / "initramfs",
                    "-append", "console=ttyS0 quiet panic=-1 mitigations=off",
                    "-serial", f"file:{self.console}",
                    "-virtfs", "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap",
                    "-device", "virtio-serial-pci", "-chardev", f"socket,id=calls,fd={inner.fileno()}",
                    "-device", "virtserialport,chardev=calls,name=calls",
                ],
                pass_fds=(inner.fileno(),), stdin=subprocess.DEVNULL,
            )  # fmt: skip

    def up(self) -> None:
        """Wait until it answers."""
        waited = time.monotonic()
        inside: float = self.call("uptime_seconds")
        self._port.settimeout(ANSWER_SECONDS)
        now = time.monotonic()
        print(f"up in {now - self._began:.1f} s ({inside:.1f} s inside), {now - waited:.1f} s waited for")

    def call(self, function: str, *arguments: Any) -> Any:
        """Run `guest.function(*arguments)` and return what it returns. Raises RuntimeError when it raised."""
        data = pickle.dumps((function, arguments))
        try:
            self._port.sendall(struct.pack("<I", len(data)) + data)
            went_well, value = pickle.loads(self._exactly(struct.unpack("<I", self._exactly(4))[0]))
        except (OSError, EOFError) as error:
            console = self.console.read_text(errors="replace") if self.console.exists() else ""
            raise RuntimeError(f"{function}: the machine does not answer ({error!r}); console:\n{console}") from error
        if not went_well:
            raise RuntimeError(f"in the machine:\n{value}")
        return value

    def stop(self) -> None:
        """End it as pulling the plug does."""
        self._process.kill()
        self._process.wait()
        self._port.close()

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            piece = self._port.recv(count - len(data))
            if not piece:
                raise EOFError("it ended")
            data += piece
        return data


@contextmanager
def booted(kernel: Kernel, folder: Path) -> Iterator[Machine]:
    """A machine that starts, and runs while the context lasts. Raises `CannotBeHadError`."""
    machine = Machine(kernel, folder, needed("qemu-system-x86_64"), needed("busybox"))
    try:
        yield machine
    finally:
        machine.stop()


def needed(program: str) -> str:
    """The path of a program. Raises `CannotBeHadError` where it is not installed."""
    path = shutil.which(program)
    if path is None:
        raise CannotBeHadError(f"{program} is not installed")
    return path
