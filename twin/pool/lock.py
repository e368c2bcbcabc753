"""The lock of those who change a pool's chain: a robust mutex in the pool itself, which the kernel frees when its
holder dies; and the fence that keeps stores in order.

`try_lock`, `unlock` and `fence` can be called inside kernels. A mutex of the C library is used because only there
taking a free lock costs no system call: two calls of `flock` take a microsecond, this takes 20 ns.
"""

from __future__ import annotations

import ctypes
import errno
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from twin.kernels import MODE
from twin.pool.errors import PoolError
from twin.pool.layout import B_DATA, B_MUTEX, CELL

if TYPE_CHECKING:
    from twin.pool.mapping import Mapping

EOWNERDEAD = errno.EOWNERDEAD
WAIT_SECONDS = 2
"""Longest wait for the lock. Holders need microseconds, a recovery milliseconds."""

_libc = ctypes.CDLL(None, use_errno=True)
_SHARED, _ROBUST, _ERRORCHECK = 1, 1, 2
_CLOCK_MONOTONIC = 1
_MUTEX_BYTES = 56
HOLDER = 0x3FFFFFFF
"""The bits of its first cell in which the kernel wants the thread that has it."""
_KIND = B_MUTEX + 2
_KIND_KEPT = B_MUTEX + 7
"""The cell of the mutex in which glibc and musl keep what kind it is, and a copy of it after the mutex."""


class _Time(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


def _compiled() -> tuple[Any, Any, Any]:
    """The three as compiled kernels call them."""
    from numba import types
    from numba.extending import intrinsic

    @intrinsic
    def fence(_context: Any) -> Any:
        def generate(context: Any, builder: Any, _signature: Any, _arguments: Any) -> Any:
            builder.fence("seq_cst")
            return context.get_dummy_value()

        return types.none(), generate

    kind = types.int32(types.int64)
    return (
        types.ExternalFunction("pthread_mutex_trylock", kind),
        types.ExternalFunction("pthread_mutex_unlock", kind),
        fence,
    )


def _interpreted() -> tuple[Any, Any, Any]:
    """The three as interpreted kernels call them; the interpreter stores in program order."""

    def try_lock(address: int) -> int:
        return int(_libc.pthread_mutex_trylock(ctypes.c_void_p(address)))

    def unlock(address: int) -> int:
        return int(_libc.pthread_mutex_unlock(ctypes.c_void_p(address)))

    def fence() -> None:
        return None

    return try_lock, unlock, fence


_try_lock, _unlock, _fence = _compiled() if MODE == "numba" else _interpreted()
try_lock: Callable[[int], int] = _try_lock
"""Take the mutex at this address if it is free: 0, or an errno. For kernels."""
unlock: Callable[[int], int] = _unlock
"""Give the mutex at this address back: 0, or an errno. For kernels."""
fence: Callable[[], None] = _fence
"""Stores before are seen before stores after, by compiler and processor. For kernels."""


class Lock:
    """The mutex of a mapping, as Python takes it."""

    def __init__(self, mapping: Mapping) -> None:
        self._mapping = mapping
        self._name = mapping.name
        self._cells = mapping.cells
        self.address = mapping.address + B_MUTEX * CELL

    def prepare(self) -> None:
        """Make the mutex, once, in a new pool."""
        attributes = ctypes.create_string_buffer(_MUTEX_BYTES)
        mutex = ctypes.c_void_p(self.address)
        failed = (
            _libc.pthread_mutexattr_init(attributes)
            or _libc.pthread_mutexattr_setpshared(attributes, _SHARED)
            or _libc.pthread_mutexattr_setrobust(attributes, _ROBUST)
            or _libc.pthread_mutexattr_settype(attributes, _ERRORCHECK)
            or _libc.pthread_mutex_init(mutex, attributes)
        )
        if failed:
            raise PoolError(f"{self._name}: this system has no robust locks in shared memory (errno {failed})")
        self._cells[_KIND_KEPT] = self._cells[_KIND]

    def check(self) -> None:
        """Raise `PoolError` when what lies there is no mutex: the C library aborts the process on some of those."""
        if self._cells[_KIND] != self._cells[_KIND_KEPT] or not self._cells[_KIND]:
            raise PoolError(f"{self._name}: the pool's lock is damaged; make a new pool")

    def acquire(self) -> bool:
        """Take the lock. True when its last holder died with it: repair, then call `make_consistent`.

        Raises `PoolError` when it is held for `WAIT_SECONDS`, or is no lock any more.
        """
        self._mapping.check_own()
        self.check()
        until = _Time()
        _libc.clock_gettime(_CLOCK_MONOTONIC, ctypes.byref(until))
        until.seconds += WAIT_SECONDS
        code = _libc.pthread_mutex_clocklock(ctypes.c_void_p(self.address), _CLOCK_MONOTONIC, ctypes.byref(until))
        if code in (0, errno.EOWNERDEAD):
            return bool(code)
        if code == errno.ETIMEDOUT:
            holder = int(self._cells[B_MUTEX]) & HOLDER
            raise PoolError(
                f"{self._name}: the pool's lock is held for more than {WAIT_SECONDS} s, by thread {holder}; end that "
                "process, or make a new pool"
            )
        raise PoolError(
            f"{self._name}: the pool's lock cannot be taken ({errno.errorcode.get(code, code)}); the pool was damaged "
            "or given up, make a new one"
        )

    def drop(self) -> None:
        """Give the lock back if this thread has it, before its memory goes.

        The C library keeps a pointer to each robust lock that a thread has, and follows it when the next one is taken.
        """
        if int(self._cells[B_MUTEX]) & HOLDER == threading.get_native_id():
            self.release()

    def make_consistent(self) -> None:
        """What the dead holder left is repaired."""
        _libc.pthread_mutex_consistent(ctypes.c_void_p(self.address))

    def release(self) -> None:
        """Give the lock back."""
        _libc.pthread_mutex_unlock(ctypes.c_void_p(self.address))


assert B_MUTEX * CELL + _MUTEX_BYTES <= 24 * CELL
assert B_DATA < B_MUTEX
