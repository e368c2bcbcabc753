"""The pool's memory: made whole or not at all, attached to only when it is safe, and let go of with its last view."""

from __future__ import annotations

import ctypes
import errno
import faulthandler
import fcntl
import gc
import os
import resource
import signal
import stat
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from twin.pool import room
from twin.pool.errors import PoolError, PoolInputError
from twin.pool.layout import B_BYTES, B_MAGIC, B_VERSION, LOGICAL_BASE, POOL_MAGIC, SMALLEST_POOL, VERSION
from twin.pool.mapping import Mapping

SIZE = SMALLEST_POOL


def sign(mapping: Mapping) -> None:
    """Just enough of a superblock to be attached to."""
    mapping.cells[[B_MAGIC, B_VERSION, B_BYTES]] = POOL_MAGIC, VERSION, mapping.bytes


def signed() -> Mapping:
    mapping = Mapping.create(SIZE)
    sign(mapping)
    return mapping


def descriptors() -> set[str]:
    return {f"{path.name} {path.readlink()}" for path in Path("/proc/self/fd").iterdir() if path.exists()}


def in_child(work: Callable[[], object]) -> int:
    """Do it in a forked child; its exit status: 0 when nothing was raised, minus the signal that killed it."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_new_pool_is_zero_whole_and_can_neither_be_cut_nor_extended() -> None:
    mapping = Mapping.create(SIZE)
    assert mapping.fd is not None
    assert not mapping.cells.any()
    assert os.fstat(mapping.fd).st_blocks * 512 >= SIZE
    for size in (0, SIZE - 4096, SIZE + 4096):
        with pytest.raises(PermissionError):
            os.ftruncate(mapping.fd, size)
    assert fcntl.fcntl(mapping.fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    mapping.close()


def test_it_lies_at_the_base_or_says_why_not() -> None:
    first, second = Mapping.create(SIZE), Mapping.create(SIZE)
    for mapping in (first, second):
        assert mapping.at_base == (mapping.address == LOGICAL_BASE) == (mapping.why_not_at_base == "")
    assert not second.at_base
    if os.uname().machine == "x86_64":
        assert "lies there in this process" in second.why_not_at_base
    first.close()
    second.close()


@pytest.mark.parametrize("size", [0, -1, True, SIZE - 4096, SIZE + 1, 1 << 40, "1", 1e6])
def test_a_size_that_makes_no_sense_is_one_clear_error(size: object, tmp_path: Path) -> None:
    for make in (Mapping.create, Mapping.private, lambda size: Mapping.create_file(tmp_path / "pool", size)):
        with pytest.raises(PoolInputError, match="allowed are multiples"):
            make(size)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_views_outlive_close_and_the_last_one_unmaps() -> None:
    mapping = Mapping.create(SIZE)
    where = f"{mapping.address:x}-"
    view = np.frombuffer(mapping.memory[64:128], dtype=np.int64)
    mapping.memory[64:72] = (77).to_bytes(8, "little")
    mapping.close()
    mapping.close()
    assert view[0] == 77
    assert where in Path("/proc/self/maps").read_text()
    del view
    gc.collect()
    assert where not in Path("/proc/self/maps").read_text()
    with pytest.raises(PoolError, match="was closed"):
        _ = mapping.cells


def test_readers_see_what_writers_write_and_cannot_write() -> None:
    with_writer = signed()
    assert with_writer.fd is not None
    reader = Mapping.attach(with_writer.fd)
    with_writer.cells[100] = 5
    assert reader.cells[100] == 5
    assert not reader.cells.flags.writeable
    assert reader.memory.readonly

    def force() -> None:
        faulthandler.disable()
        ctypes.memset(reader.address, 1, 8)

    assert in_child(force) == -signal.SIGSEGV
    reader.close()
    with_writer.close()


def test_nothing_is_left_open() -> None:
    before = descriptors()
    mapping = signed()
    assert mapping.fd is not None
    Mapping.attach(mapping.fd, writable=True).close()
    Mapping.attach(mapping.fd).close()
    mapping.close()
    assert descriptors() == before


def test_a_descriptor_for_reading_does_not_turn_into_one_for_writing() -> None:
    mapping = signed()
    reading = os.open(f"/proc/self/fd/{mapping.fd}", os.O_RDONLY)
    with pytest.raises(PoolInputError, match="for reading only"):
        Mapping.attach(reading, writable=True)
    os.close(reading)
    mapping.close()


def test_memory_that_can_still_be_cut_is_refused() -> None:
    fd = os.memfd_create("loose", os.MFD_ALLOW_SEALING)
    os.truncate(fd, SIZE)
    os.pwrite(fd, struct.pack("=3q", POOL_MAGIC, VERSION, SIZE), 0)
    with pytest.raises(PoolError, match="not sealed"):
        Mapping.attach(fd)
    os.close(fd)


@pytest.mark.parametrize("fd", [-1, None, True, 1 << 20])
def test_what_is_no_descriptor_is_refused(fd: object) -> None:
    with pytest.raises(PoolError, match="descriptor"):
        Mapping.attach(fd)  # type: ignore[arg-type]


def test_a_pipe_is_no_pool() -> None:
    before = descriptors()
    ends = os.pipe()
    with pytest.raises(PoolError):
        Mapping.attach(ends[0])
    for end in ends:
        os.close(end)
    assert descriptors() == before


# --- files ------------------------------------------------------------------------------------------------------------


def test_a_file_gets_its_name_when_it_is_complete_and_only_its_owner_can_open_it(tmp_path: Path) -> None:
    path = tmp_path / "pool"

    def fill(mapping: Mapping) -> None:
        assert not list(tmp_path.iterdir())
        sign(mapping)

    mapping = Mapping.create_file(path, SIZE, fill)
    facts = path.stat()
    assert stat.S_IMODE(facts.st_mode) == 0o600
    assert facts.st_blocks * 512 >= SIZE
    reader = Mapping.attach_file(path)
    mapping.cells[9] = 4
    assert reader.cells[9] == 4
    assert (reader.kind, reader.name) == ("file", str(path))
    reader.close()
    mapping.close()


def test_a_failure_on_the_way_leaves_neither_a_name_nor_a_descriptor(tmp_path: Path) -> None:
    before = descriptors()

    def fail(mapping: Mapping) -> None:
        raise KeyError("on the way")

    with pytest.raises(KeyError):
        Mapping.create_file(tmp_path / "pool", SIZE, fail)
    assert not list(tmp_path.iterdir())
    assert descriptors() == before


def test_without_nameless_files_a_temporary_name_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    really = os.open

    def refuse(path: str, flags: int, *rest: int) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "not here")
        return really(path, flags, *rest)

    monkeypatch.setattr(os, "open", refuse)
    Mapping.create_file(tmp_path / "pool", SIZE, sign).close()
    assert [path.name for path in tmp_path.iterdir()] == ["pool"]
    Mapping.attach_file(tmp_path / "pool").close()


def test_a_name_that_is_taken_is_refused_and_what_has_it_stays(tmp_path: Path) -> None:
    path = tmp_path / "pool"
    path.write_bytes(b"precious")
    with pytest.raises(PoolInputError, match="is there already"):
        Mapping.create_file(path, SIZE)

    def meanwhile(mapping: Mapping) -> None:
        (tmp_path / "other").write_bytes(b"precious")

    with pytest.raises(PoolInputError, match="is there already"):
        Mapping.create_file(tmp_path / "other", SIZE, meanwhile)
    assert [(tmp_path / name).read_bytes() for name in ("pool", "other")] == [b"precious"] * 2


def test_a_link_is_followed_and_named(tmp_path: Path) -> None:
    Mapping.create_file(tmp_path / "pool", SIZE, sign).close()
    (tmp_path / "link").symlink_to("pool")
    mapping = Mapping.attach_file(tmp_path / "link")
    assert mapping.name == f"{tmp_path / 'link'} -> {(tmp_path / 'pool').resolve()}"
    mapping.close()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is not a pool"),
        (b"hello", "is not a pool"),
        (bytes(SIZE), "is not a pool"),
        (struct.pack("=8q", POOL_MAGIC, VERSION + 1, SIZE, *[0] * 5), "version"),
        (struct.pack("=8q", POOL_MAGIC, VERSION, SIZE, *[0] * 5), "is 64 bytes long"),
        (struct.pack("=8q", POOL_MAGIC, VERSION, SIZE, *[0] * 5).ljust(2 * SIZE, b"\0"), "it was cut or"),
        (struct.pack("=8q", POOL_MAGIC, VERSION, 64, *[0] * 5), "allowed are multiples"),
    ],
)
def test_what_is_no_pool_of_this_size_and_version_is_refused(tmp_path: Path, content: bytes, says: str) -> None:
    before = descriptors()
    path = tmp_path / "pool"
    path.write_bytes(content)
    for writable in (False, True):
        with pytest.raises(PoolInputError, match=says):
            Mapping.attach_file(path, writable)
    assert path.read_bytes() == content
    assert descriptors() == before


def test_what_is_not_there_or_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for name, says in (("none", "no such file"), (".", "is a folder"), ("fifo", "not a regular file")):
        with pytest.raises(PoolInputError, match=says):
            Mapping.attach_file(tmp_path / name)
    with pytest.raises(PoolInputError, match="there is no folder"):
        Mapping.create_file(tmp_path / "none" / "pool", SIZE)


def test_another_users_pool_is_refused_by_both_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    me = os.geteuid()
    Mapping.create_file(tmp_path / "pool", SIZE, sign).close()
    memory = signed()
    monkeypatch.setattr(os, "geteuid", lambda: me + 1)
    assert memory.fd is not None
    for attach in (lambda: Mapping.attach(memory.fd or 0), lambda: Mapping.attach_file(tmp_path / "pool")):
        with pytest.raises(PoolError, match=f"belongs to user {me}, and this process runs as user {me + 1}"):
            attach()
    memory.close()


def test_a_file_that_was_cut_while_in_use_is_noticed(tmp_path: Path) -> None:
    mapping = Mapping.create_file(tmp_path / "pool", SIZE, sign)
    mapping.check_whole()
    os.truncate(tmp_path / "pool", 4096)
    with pytest.raises(PoolError, match=r"was cut to 4,096 of 1,048,576 bytes"):
        mapping.check_whole()
    mapping.close()


# --- too little room --------------------------------------------------------------------------------------------------


def test_too_little_memory_is_one_error_with_both_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    before = descriptors()
    monkeypatch.setattr(room, "available_memory", lambda root=None: (50 << 20, "a test"))
    for make in (Mapping.create, Mapping.private):
        make(8 << 20).close()
        with pytest.raises(
            PoolError, match=r"33,554,432 bytes does not fit into memory: 52,428,800 bytes are available"
        ):
            make(32 << 20)
    assert descriptors() == before


def test_limits_of_the_process_are_errors_and_leave_nothing() -> None:
    def limited(what: int, make: Callable[[], Mapping]) -> None:
        before = descriptors()
        used = int(Path("/proc/self/statm").read_text().split()[0]) * 4096 if what == resource.RLIMIT_AS else 0
        resource.setrlimit(what, (used + (8 << 20),) * 2)
        with pytest.raises(PoolError, match="ulimit"):
            make()
        assert descriptors() == before

    assert in_child(lambda: limited(resource.RLIMIT_FSIZE, lambda: Mapping.create(64 << 20))) == 0
    assert in_child(lambda: limited(resource.RLIMIT_AS, lambda: Mapping.create(64 << 20))) == 0
    assert in_child(lambda: limited(resource.RLIMIT_AS, lambda: Mapping.private(64 << 20))) == 0


def test_a_full_disk_is_one_error_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(room, "free_on_disk", lambda folder: 1_000)
        with pytest.raises(PoolError, match="1,000 bytes are free there"):
            Mapping.create_file(tmp_path / "pool", SIZE)

    def full(*arguments: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    before = descriptors()
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(PoolError, match="No space left on device"):
        Mapping.create_file(tmp_path / "pool", SIZE)
    with pytest.raises(PoolError, match="No space left on device"):
        Mapping.create(SIZE)
    assert not list(tmp_path.iterdir())
    assert descriptors() == before


def machine(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


MEMORY = {"proc/meminfo": "MemTotal: 900 kB\nMemAvailable:     800 kB\n"}


@pytest.mark.parametrize(
    ("files", "available", "source"),
    [
        ({}, 1 << 62, "no limit is known"),
        (MEMORY, 800 * 1024, "MemAvailable in /proc/meminfo"),
        (
            # The limit is the parent group's; pages of files are given back when needed.
            MEMORY
            | {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/b/memory.max": "max\n",
                "sys/fs/cgroup/a/b/memory.current": "5\n",
                "sys/fs/cgroup/a/memory.max": "10000\n",
                "sys/fs/cgroup/a/memory.current": "9000\n",
                "sys/fs/cgroup/a/memory.stat": "anon 5\nactive_file 300\ninactive_file 200\n",
            },
            1_500,
            "memory limit of the control group",
        ),
        (
            MEMORY
            | {
                "proc/self/cgroup": "4:memory:/not/seen/here\n0::/\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "7000\n",
                "sys/fs/cgroup/memory/memory.usage_in_bytes": "6000\n",
                "sys/fs/cgroup/memory/memory.stat": "inactive_file 1\ntotal_inactive_file 11\n",
            },
            1_011,
            "memory limit of the control group",
        ),
    ],
)
def test_available_memory_is_the_least_that_anybody_allows(
    tmp_path: Path, files: dict[str, str], available: int, source: str
) -> None:
    found = room.available_memory(machine(tmp_path, files))
    assert found[0] == available
    assert found[1].startswith(source)


# --- fork -------------------------------------------------------------------------------------------------------------


def test_a_forked_child_cannot_harm_the_pool_and_can_attach_for_itself() -> None:
    mapping = signed()
    mapping.cells[100] = 5

    def child() -> None:
        assert mapping.forked
        assert mapping.lock_fd is None
        assert mapping.cells[100] == 5
        mapping.cells[100] = 6
        with pytest.raises(PoolError, match="forked"):
            mapping.check_own()
        assert mapping.fd is not None
        own = Mapping.attach(mapping.fd, writable=True)
        own.check_own()
        assert own.cells[100] == 5
        own.cells[101] = 7
        own.close()

    assert in_child(child) == 0
    assert mapping.cells[100:102].tolist() == [5, 7]
    mapping.check_own()
    mapping.close()
