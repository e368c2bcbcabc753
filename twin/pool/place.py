"""Mapping memory where it is wanted, and unmapping it when nobody looks at it any more."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import platform
import weakref
from pathlib import Path

from twin.pool.errors import PoolError
from twin.pool.layout import LOGICAL_BASE

_MAP_FIXED = 0x10
_MAP_NORESERVE = 0x4000
_MAP_FIXED_NOREPLACE = 0x100000
_FAILED = (1 << 64) - 1

_libc = ctypes.CDLL(None, use_errno=True)
_mmap = _libc.mmap
_mmap.restype = ctypes.c_size_t
_mmap.argtypes = (ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64)
_munmap = _libc.munmap
_munmap.restype = ctypes.c_int
_munmap.argtypes = (ctypes.c_size_t, ctypes.c_size_t)
_madvise = _libc.madvise
_madvise.restype = ctypes.c_int
_madvise.argtypes = (ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int)

PAGE = mmap.PAGESIZE
_WILL_NEED, _COLD, _PAGE_OUT = 3, 20, 21


def map_shared(fd: int, size_bytes: int, writable: bool) -> tuple[int, str]:
    """Map all of `fd`: at the logical base where that is possible. The address, and why it is another one ("" if not).

    Raises `PoolError` when there is no room for it in the address space.
    """
    why_not = ""
    if platform.machine() != "x86_64":
        why_not = f"tried on x86_64 only, and this is {platform.machine()}"
    else:
        try:
            # Kernels before 4.17 do not know the flag and take the address as a hint; what they give is as good.
            address = _map(LOGICAL_BASE, fd, size_bytes, writable, mmap.MAP_SHARED | _MAP_FIXED_NOREPLACE)
            return address, "" if address == LOGICAL_BASE else "the kernel would not give that address"
        except OSError as error:
            if error.errno == errno.EEXIST:
                why_not = f"{_inhabitant(LOGICAL_BASE, LOGICAL_BASE + size_bytes)} lies there in this process"
            else:
                why_not = os.strerror(error.errno or 0)
    try:
        return _map(0, fd, size_bytes, writable, mmap.MAP_SHARED), why_not
    except OSError as error:
        raise _no_address_space(size_bytes, error) from error


def map_private(size_bytes: int) -> int:
    """Map memory that no other process sees; its address. Raises `PoolError` when there is no room for it."""
    try:
        return _map(0, -1, size_bytes, True, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise _no_address_space(size_bytes, error) from error


def make_private(address: int, fd: int, size_bytes: int) -> None:
    """Put a private picture of `fd` in place of the shared mapping at `address`; writes to it reach nobody else.

    Where even that cannot be had, the memory cannot be written any more.
    """
    flags = mmap.MAP_PRIVATE | _MAP_FIXED | _MAP_NORESERVE
    try:
        _map(address, fd, size_bytes, True, flags)
    except OSError:
        _map(address, fd, size_bytes, False, flags)


def memory_at(address: int, size_bytes: int, writable: bool) -> memoryview:
    """The mapped bytes. They are unmapped when the last view of them, and of its views, is gone."""
    owner = (ctypes.c_ubyte * size_bytes).from_address(address)
    # Not at the interpreter's end: the kernel does it then, and somebody may still look.
    weakref.finalize(owner, _munmap, address, size_bytes).atexit = False
    view = memoryview(owner).cast("B")
    return view if writable else view.toreadonly()


def will_need(address: int, size_bytes: int) -> str:
    """Have the pages from `address` (a multiple of `PAGE`) on brought into memory; "" or why the kernel refuses."""
    return _advise(address, size_bytes, _WILL_NEED)


def is_cold(address: int, size_bytes: int) -> str:
    """Let the kernel take the pages from `address` (a multiple of `PAGE`) on before others; "" or why it refuses.

    A kernel that cannot put them last in line is asked to write them out at once. Either way no byte is lost.
    """
    return _advise(address, size_bytes, _COLD) and _advise(address, size_bytes, _PAGE_OUT)


def _advise(address: int, size_bytes: int, advice: int) -> str:
    if _madvise(address, size_bytes, advice) == 0:
        return ""
    return os.strerror(ctypes.get_errno())


def _map(address: int, fd: int, size_bytes: int, writable: bool, flags: int) -> int:
    access = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
    got = int(_mmap(address, size_bytes, access, flags, fd, 0))
    if got == _FAILED:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return got


def _no_address_space(size_bytes: int, error: OSError) -> PoolError:
    return PoolError(
        f"a pool of {size_bytes:,} bytes cannot be mapped ({error.strerror}); make it smaller (pool.size_bytes), or "
        "raise the limit of this process's address space (ulimit -v)"
    )


def _inhabitant(begin: int, end: int) -> str:
    """What the kernel says lies between these addresses, for people."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        fields = line.split(maxsplit=5)
        first, _, last = fields[0].partition("-")
        if int(first, 16) < end and int(last, 16) > begin:
            return fields[5] if len(fields) == 6 else "memory without a name"
    return "something"
