"""The memory of a pool: made, attached to, and let go of.

A pool in memory is a memfd: it has no name that could be left behind, and it is filled and sealed at its full size, so
that no access to it can fail. A pool in a file gets its name last, when it is complete. A file cannot be sealed:
whoever truncates it while it is used kills its users; it is made with mode 0600, so that only its owner can.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

import numpy as np

from twin.kernels import Integers
from twin.pool import forks, place, room
from twin.pool.errors import PoolError, PoolInputError
from twin.pool.layout import B_BYTES, B_MAGIC, B_VERSION, LARGEST_POOL, LOGICAL_BASE, POOL_MAGIC, SMALLEST_POOL, VERSION

_MFD_NOEXEC_SEAL = 8
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
_HEAD = struct.Struct("=8q")
_MEND = "name a pool, or make one with Pool.create"


class Mapping:
    """A pool's bytes in this process, and the descriptor behind them. Make one with a class method.

    `fd` may be passed on and has no locks; None for private memory. `lock_fd` is an open file description of its own,
    for this process's locks only, and is closed in forked children; None where nothing is written or shared.
    `address` is where the bytes lie, `at_base` whether that is the logical base, `why_not_at_base` the reason if not.
    """

    def __init__(
        self, kind: str, name: str, fd: int | None, size_bytes: int, address: int, writable: bool, why_not_at_base: str
    ) -> None:
        """Not for callers. Takes over the mapped memory at `address`, and `fd`."""
        self.kind = kind
        self.name = name
        self.fd = fd
        self.bytes = size_bytes
        self.address = address
        self.writable = writable
        self.why_not_at_base = why_not_at_base
        self.at_base = address == LOGICAL_BASE
        self.forked = False
        """Whether this is a child's picture of what its parent had mapped; then it must attach for itself."""
        self.lock_fd: int | None = None
        self.seat = -1
        """The seat that `lock_fd` holds; -1 for none."""
        self._memory: memoryview | None = place.memory_at(address, size_bytes, writable)
        self._cells: Integers | None = np.frombuffer(self._memory, dtype=np.int64)

    # --- making -----------------------------------------------------------------------------------------------------

    @classmethod
    def create(cls, size_bytes: int) -> Self:
        """A sealed memfd of `size_bytes` zero bytes, all of them there. Raises `PoolError` when memory is too short."""
        _check_size(size_bytes)
        room.check_memory(size_bytes)
        fd = _memfd()
        with _closed_on_error(fd):
            os.fchmod(fd, 0o600)
            try:
                os.posix_fallocate(fd, 0, size_bytes)
            except OSError as error:
                available_bytes, source = room.available_memory()
                raise PoolError(
                    f"a pool of {size_bytes:,} bytes does not fit into memory ({error.strerror}); {available_bytes:,} "
                    f"bytes are available ({source}){_file_limit(error)}; make it smaller (pool.size_bytes)"
                ) from error
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS | fcntl.F_SEAL_SEAL)
            return cls._shared("memfd", "memfd", fd, size_bytes, True)

    @classmethod
    def create_file(cls, path: Path, size_bytes: int, fill: Callable[[Self], None] | None = None) -> Self:
        """A new file of `size_bytes` bytes that only its owner can open, all of them on the disk.

        The file gets its name after `fill(mapping)` has put into it what belongs there, so that nobody, and no crash,
        ever meets half a pool under that name. Raises `PoolInputError` when the name is taken or the folder is not
        there, and `PoolError` when the disk is full or may not be written.
        """
        _check_size(size_bytes)
        path = Path(path)
        folder = path.parent
        if os.path.lexists(path):
            raise _taken(path)
        if not folder.is_dir():
            raise PoolInputError(f"{path}: there is no folder {folder}; make it first, or name another file")
        try:
            room.check_disk(folder, size_bytes)
            fd, temporary = _nameless(path)
        except OSError as error:
            raise PoolError(
                f"{path}: cannot be made ({error.strerror}); name a file in a folder of your own"
            ) from error
        mapping: Self | None = None
        try:
            with _closed_on_error(fd):
                os.posix_fallocate(fd, 0, size_bytes)
                mapping = cls._shared("file", str(path), fd, size_bytes, True)
            if fill is not None:
                fill(mapping)
            os.fsync(fd)
            _give_name(fd, temporary, path)
        except BaseException as error:
            if mapping is not None:
                mapping.close()
            if isinstance(error, FileExistsError):
                raise _taken(path) from error
            if isinstance(error, OSError):
                raise PoolError(
                    f"{path}: a pool of {size_bytes:,} bytes cannot be made there ({error.strerror}); "
                    f"{room.free_on_disk(folder):,} bytes are free{_file_limit(error)}; make it smaller "
                    "(pool.size_bytes)"
                ) from error
            raise
        finally:
            if temporary is not None:
                temporary.unlink(missing_ok=True)
        return mapping

    @classmethod
    def private(cls, size_bytes: int) -> Self:
        """Memory that no other process sees. Raises `PoolError` when it is too short."""
        _check_size(size_bytes)
        room.check_memory(size_bytes)
        address = place.map_private(size_bytes)
        return cls("private", "private memory", None, size_bytes, address, True, "the pool is not shared")

    # --- attaching --------------------------------------------------------------------------------------------------

    @classmethod
    def attach(cls, fd: int, writable: bool = False) -> Self:
        """The pool behind `fd`, which stays the caller's. Raises `PoolError` when it is no pool, or not safe."""
        if type(fd) is not int or fd < 0:
            raise PoolInputError(
                f"descriptor {fd!r}: it has to be an open file descriptor; see twin.pool.share.receive"
            )
        try:
            passed_for_reading = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
            if writable and passed_for_reading:
                raise PoolInputError(f"descriptor {fd} was passed for reading only; ask for it with writable=True")
            # Reopened, because locks belong to an open file description, and that of `fd` is shared with its sender.
            own = _reopened(fd, writable)
        except OSError as error:
            raise PoolError(f"descriptor {fd}: cannot be opened ({error.strerror}); {_MEND}") from error
        return cls._attached(own, f"descriptor {fd}", writable)

    @classmethod
    def attach_file(cls, path: Path, writable: bool = False) -> Self:
        """The pool in the file `path`; a symbolic link is followed, and its target is in `name`.

        Raises `PoolInputError` for what is not there or not a pool, and `PoolError` for what may not be used.
        """
        path = Path(path)
        name = f"{path} -> {path.resolve()}" if path.is_symlink() else str(path)
        try:
            facts = path.stat()
            if not stat.S_ISREG(facts.st_mode):
                what = "a folder" if stat.S_ISDIR(facts.st_mode) else "not a regular file"
                raise PoolInputError(f"{name}: is {what}; {_MEND}")
            _check_owner(name, facts.st_uid)
            fd = os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError as error:
            raise PoolInputError(f"{name}: there is no such file; {_MEND}") from error
        except OSError as error:
            raise PoolError(f"{name}: cannot be opened ({error.strerror}); {_MEND}") from error
        return cls._attached(fd, name, writable)

    @classmethod
    def _attached(cls, fd: int, name: str, writable: bool) -> Self:
        with _closed_on_error(fd):
            facts = os.fstat(fd)
            if not stat.S_ISREG(facts.st_mode):
                raise PoolInputError(f"{name}: is neither a regular file nor a memfd; {_MEND}")
            _check_owner(name, facts.st_uid)
            kind = _kind(fd, name)
            _check_head(name, os.pread(fd, _HEAD.size, 0), facts.st_size)
            return cls._shared(kind, name if kind == "file" else "memfd", fd, facts.st_size, writable)

    @classmethod
    def _shared(cls, kind: str, name: str, fd: int, size_bytes: int, writable: bool) -> Self:
        lock_fd = _reopened(fd, True) if writable else None
        with _closed_on_error(lock_fd):
            address, why_not = place.map_shared(fd, size_bytes, writable)
        mapping = cls(kind, name, fd, size_bytes, address, writable, why_not)
        mapping.lock_fd = lock_fd
        forks.watch(mapping)
        return mapping

    # --- using ------------------------------------------------------------------------------------------------------

    @property
    def cells(self) -> Integers:
        """All of it as int64 cells; read-only where `writable` is False. Raises `PoolError` once closed."""
        if self._cells is None:
            raise self._is_closed()
        return self._cells

    @property
    def memory(self) -> memoryview:
        """All of it as bytes; read-only where `writable` is False. Raises `PoolError` once closed."""
        if self._memory is None:
            raise self._is_closed()
        return self._memory

    def check_own(self) -> None:
        """Raise `PoolError` in a forked child, and once closed."""
        if self.forked:
            raise PoolError(
                f"{self.name}: was attached by the process that this one was forked from, and cannot be changed from "
                "here; attach in the child itself (Pool.attach(pool.mapping.fd, writable=True))"
            )
        if self._cells is None:
            raise self._is_closed()

    def check_whole(self) -> None:
        """Raise `PoolError` when somebody has truncated the file. What lies beyond its end kills whoever touches it."""
        if self.fd is not None and (size_bytes := os.fstat(self.fd).st_size) < self.bytes:
            raise PoolError(
                f"{self.name}: was cut to {size_bytes:,} of {self.bytes:,} bytes while it was used; its contents are "
                "lost, make a new pool (in memory nobody can cut it)"
            )

    def close(self) -> None:
        """Let go of it: locks and descriptors at once, the memory when its last view is gone. May be called again."""
        self._cells = self._memory = None
        self.seat = -1
        for fd in (self.lock_fd, self.fd):
            if fd is not None:
                os.close(fd)
        self.lock_fd = self.fd = None

    def after_fork_in_child(self) -> None:
        """Drop the parent's locks, and keep what this process does by mistake out of the parent's pool.

        `fd` stays open: the child may attach through it. Views that were there keep working, on a private picture.
        """
        self.forked = True
        self.seat = -1
        if self.lock_fd is not None:
            os.close(self.lock_fd)
            self.lock_fd = None
        if self.writable and self.fd is not None and self._memory is not None:
            place.make_private(self.address, self.fd, self.bytes)

    def _is_closed(self) -> PoolError:
        return PoolError(f"{self.name}: this pool was closed; attach again")


def _check_size(size_bytes: object) -> None:
    if type(size_bytes) is not int or not SMALLEST_POOL <= size_bytes <= LARGEST_POOL or size_bytes % 4_096:
        raise PoolInputError(
            f"a pool of {size_bytes!r} bytes: allowed are multiples of 4,096 from {SMALLEST_POOL:,} to {LARGEST_POOL:,}"
        )


def _check_owner(name: str, owner: int) -> None:
    if owner != os.geteuid():
        raise PoolError(
            f"{name}: belongs to user {owner}, and this process runs as user {os.geteuid()}; a pool is used by who "
            "made it, so run as that user or make a pool of your own"
        )


def _check_head(name: str, head: bytes, size_bytes: int) -> None:
    """The first cells say what this is; they are read, not mapped, so that a short file is no danger."""
    cells = _HEAD.unpack(head) if len(head) == _HEAD.size else (0,) * 8
    if cells[B_MAGIC] != POOL_MAGIC:
        raise PoolInputError(f"{name}: is not a pool (it begins with {head[:8]!r}); {_MEND}")
    if cells[B_VERSION] != VERSION:
        raise PoolInputError(
            f"{name}: is a pool of version {cells[B_VERSION]}, and this program knows version {VERSION}; use the "
            "program that made it, or make a new pool"
        )
    if cells[B_BYTES] != size_bytes:
        raise PoolInputError(
            f"{name}: is {size_bytes:,} bytes long and says that it is a pool of {cells[B_BYTES]:,}; it was cut or "
            "added to, make a new pool"
        )
    _check_size(size_bytes)


def _kind(fd: int, name: str) -> str:
    """`memfd` or `file`. Raises `PoolError` for a memfd that can still be cut, because that would kill its users."""
    try:
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except OSError:
        return "file"
    if "/memfd:" not in str(Path(f"/proc/self/fd/{fd}").readlink()):
        # A file of a tmpfs answers too: it has the seal against seals, and nothing else.
        return "file"
    if seals & _SEALS != _SEALS:
        raise PoolError(f"{name}: is memory that its sender can still cut (its size is not sealed); {_MEND}")
    return "memfd"


def _memfd() -> int:
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        return os.memfd_create("pulsetwin", flags | _MFD_NOEXEC_SEAL)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise PoolError(
                f"no memory file can be made ({error.strerror}); close some files, or use pool.file"
            ) from error
    # A kernel before 6.3.
    try:
        return os.memfd_create("pulsetwin", flags)
    except OSError as error:
        raise PoolError(f"no memory file can be made ({error.strerror}); close some files, or use pool.file") from error


def _reopened(fd: int, writable: bool) -> int:
    return os.open(f"/proc/self/fd/{fd}", (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC | os.O_NONBLOCK)


def _nameless(path: Path) -> tuple[int, Path | None]:
    """A new file without a name in the folder of `path`; where that cannot be, with a temporary one."""
    try:
        return os.open(path.parent, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600), None
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT):
            raise
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    return os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600), temporary


def _give_name(fd: int, temporary: Path | None, path: Path) -> None:
    """Name the file `path`. Raises `FileExistsError` when that name is taken: a link replaces nothing."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # Only with a folder's descriptor does Python follow the link in /proc to the file itself.
        source = temporary or Path(f"/proc/self/fd/{fd}")
        os.link(source, path.name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=temporary is None)
        os.fsync(fd)
    finally:
        os.close(folder)


def _taken(path: Path) -> PoolInputError:
    return PoolInputError(f"{path}: is there already; remove it, name another file, or attach to it if it is a pool")


def _file_limit(error: OSError) -> str:
    return "; this process may not make files of that size (ulimit -f)" if error.errno == errno.EFBIG else ""


@contextlib.contextmanager
def _closed_on_error(fd: int | None) -> Iterator[None]:
    try:
        yield
    except BaseException:
        if fd is not None:
            os.close(fd)
        raise
