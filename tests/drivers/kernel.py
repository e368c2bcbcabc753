"""A Debian kernel for the virtual machine: fetched by name from the registry, kept outside the repository."""

from __future__ import annotations

import fcntl
import gzip
import io
import lzma
import os
import re
import shutil
import stat
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

META_PACKAGE = "linux-image-amd64"
"""Depends on the kernel that Debian ships now, whichever that is."""

WANTED = (
    "virtio_pci", "virtio_console", "9p", "9pnet_virtio", "i2c-dev", "i2c-stub", "lm75", "amc6821", "adt7475",
)  # fmt: skip
_MODULE = re.compile(r"\./(?:usr/)?lib/modules/[^/]+/kernel/.*/([^/]+)\.ko(\.xz)?")
_IMAGE = re.compile(r"\./boot/vmlinuz-.+")
_DEPENDS = re.compile(rb"(?:^|\0)depends=([^\0]*)\0")


class CannotBeHadError(Exception):
    """What the job needs is not on this machine, and the reason why."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """A bootable image, and the modules in the order in which they are loaded; `package` says which kernel it is."""

    package: str
    image: Path
    modules: tuple[Path, ...]


def kernel() -> Kernel:
    """The kernel of Debian's present release, from the registry or the cache. Raises `CannotBeHadError`.

    Where the registry cannot be asked, the last one that was had.
    """
    # Several sessions may want it at once, and one has to fetch it.
    with (_cache() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _kernel()


def _kernel() -> Kernel:
    try:
        place = _newest()
    except CannotBeHadError:
        had = sorted(_cache().glob("*/complete"), key=lambda path: path.stat().st_mtime)
        if not had:
            raise
        place = had[-1].parent
    names = (place / "complete").read_text().split()
    return Kernel(place.name, place / "vmlinuz", tuple(place / f"{name}.ko" for name in names))


def _newest() -> Path:
    if shutil.which("apt-get") is None:
        raise CannotBeHadError("there is no apt-get, with which a Debian kernel is fetched")
    try:
        return _unpacked(_present_package())
    except CannotBeHadError:
        if os.geteuid() != 0:
            raise
    # The lists of packages are not there, or older than what the registry has.
    _run("apt-get", "update")
    return _unpacked(_present_package())


def _unpacked(package: str) -> Path:
    place = _cache() / package
    if not (place / "complete").is_file():
        _unpack(_download(package), place)
    return place


def initramfs(modules: tuple[Path, ...], init: str, busybox: Path) -> bytes:
    """A first file system with one program, the modules in `/modules` and the script `init`, as a gzipped archive."""
    out = io.BytesIO()
    for name in ("bin", "dev", "proc", "sys", "modules", "host"):
        _entry(out, name, stat.S_IFDIR | 0o755, b"")
    _entry(out, "bin/busybox", stat.S_IFREG | 0o755, busybox.read_bytes())
    _entry(out, "init", stat.S_IFREG | 0o755, init.encode())
    for number, module in enumerate(modules):
        _entry(out, f"modules/{number:02}-{module.name}", stat.S_IFREG | 0o644, module.read_bytes())
    _entry(out, "TRAILER!!!", 0, b"")
    return gzip.compress(out.getvalue(), compresslevel=1)


def _entry(out: io.BytesIO, name: str, mode: int, data: bytes) -> None:
    """One member of a cpio archive in the `newc` format (the kernel's Documentation/driver-api/early-userspace)."""
    encoded = name.encode() + b"\0"
    fields = (out.tell() + 1, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(encoded), 0)
    out.write(b"070701" + b"".join(b"%08X" % field for field in fields) + encoded)
    out.write(b"\0" * (-out.tell() % 4) + data)
    out.write(b"\0" * (-out.tell() % 4))


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "pulsetwin" / "drivers"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _present_package() -> str:
    listed = _run("apt-cache", "depends", META_PACKAGE)
    found = re.search(r"Depends: (linux-image-\d\S+)", listed)
    if found is None:
        raise CannotBeHadError(f"apt knows no {META_PACKAGE} (apt-get update fetches its lists)")
    return found[1]


def _download(package: str) -> Path:
    folder = _cache()
    _run("apt-get", "download", package, cwd=folder)
    found = sorted(folder.glob(f"{package}_*.deb"))
    if not found:
        raise CannotBeHadError(f"apt-get download {package} left no package in {folder}")
    return found[-1]


def _unpack(package: Path, place: Path) -> None:
    """Take the image and the wanted modules, with what they depend on, out of `package`; then drop it."""
    staging = place.with_name(f".{place.name}.{os.getpid()}")
    staging.mkdir()
    modules: dict[str, bytes] = {}
    unpacking = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE)
    assert unpacking.stdout is not None
    with unpacking, tarfile.open(fileobj=unpacking.stdout, mode="r|") as archive:
        for member in archive:
            module = _MODULE.fullmatch(member.name)
            if not (member.isfile() and (module or _IMAGE.fullmatch(member.name))):
                continue
            file = archive.extractfile(member)
            assert file is not None
            data = file.read()
            if module:
                modules[module[1].replace("-", "_")] = lzma.decompress(data) if module[2] else data
            else:
                (staging / "vmlinuz").write_bytes(data)
    order: list[str] = []
    for name in WANTED:
        _require(name.replace("-", "_"), modules, order)
    for name in order:
        (staging / f"{name}.ko").write_bytes(modules[name])
    (staging / "complete").write_text("\n".join(order))
    shutil.rmtree(place, ignore_errors=True)
    staging.rename(place)
    package.unlink()


def _require(name: str, modules: dict[str, bytes], order: list[str]) -> None:
    """Add `name` to `order`, after everything that it depends on. What is not there is part of the image."""
    if name in order or name not in modules:
        return
    found = _DEPENDS.search(modules[name])
    for other in (found[1].decode() if found else "").split(","):
        _require(other.replace("-", "_"), modules, order)
    order.append(name)


def _run(*command: str, cwd: Path | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise CannotBeHadError(f"{' '.join(command)}: {last}")
    return done.stdout
