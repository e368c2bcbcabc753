"""How much memory there is for a pool: asked before it is taken, because whoever takes too much is killed, not told."""

from __future__ import annotations

import os
from pathlib import Path

from twin.pool.errors import PoolError

RESERVE_BYTES = 32 << 20
"""What has to be left over for everybody else."""


def check_memory(size_bytes: int, root: Path = Path("/")) -> None:
    """Raise `PoolError` when `size_bytes` of memory are not to be had. `root` is where /proc and /sys lie."""
    available_bytes, source = available_memory(root)
    if size_bytes + RESERVE_BYTES > available_bytes:
        raise PoolError(
            f"a pool of {size_bytes:,} bytes does not fit into memory: {max(available_bytes, 0):,} bytes are available "
            f"({source}), and {RESERVE_BYTES:,} have to stay; make the pool smaller (pool.size_bytes) or free memory"
        )


def check_disk(folder: Path, size_bytes: int) -> None:
    """Raise `PoolError` when the file system of `folder` has less than `size_bytes` bytes left."""
    free_bytes = free_on_disk(folder)
    if size_bytes > free_bytes:
        raise PoolError(
            f"a pool of {size_bytes:,} bytes does not fit into {folder}: {free_bytes:,} bytes are free there; make the "
            "pool smaller (pool.size_bytes), free room, or name another folder (pool.file)"
        )


def free_on_disk(folder: Path) -> int:
    """Bytes that a plain user can still take in the file system of `folder`. Raises `OSError`."""
    facts = os.statvfs(folder)
    return facts.f_bavail * facts.f_frsize


def available_memory(root: Path = Path("/")) -> tuple[int, str]:
    """Bytes that can be taken without anybody being killed, and what says so.

    The least of what the kernel estimates for the machine and of what the memory limits of this process's control
    groups (version 2 or 1) leave. Swap does not count: a control loop cannot wait for it.
    """
    choices = [(1 << 62, "no limit is known")]
    choices += [
        (int(line.split()[1]) * 1_024, "MemAvailable in /proc/meminfo")
        for line in _text(root / "proc/meminfo").splitlines()
        if line.startswith("MemAvailable:")
    ]
    choices += [(left, f"memory limit of the control group {group}") for left, group in _groups(root)]
    return min(choices)


def _groups(root: Path) -> list[tuple[int, str]]:
    """What each control group around this process leaves of its memory limit, for those that have one."""
    found = []
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, name = line.split(":", 2)
        if controllers == "":
            top, limit, usage, prefix = root / "sys/fs/cgroup", "memory.max", "memory.current", ""
        elif "memory" in controllers.split(","):
            top, limit = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
            usage, prefix = "memory.usage_in_bytes", "total_"
        else:
            continue
        # In a container the name may be one of the host's that is not to be seen here; the top is ours then.
        place = top / name.lstrip("/") if (top / name.lstrip("/")).is_dir() else top
        for folder in (place, *place.parents):
            most, now = _number(folder / limit), _number(folder / usage)
            if most is not None and now is not None:
                found.append((most - now + _reclaimable(folder / "memory.stat", prefix), str(folder)))
            if folder == top:
                break
    return found


def _reclaimable(path: Path, prefix: str) -> int:
    """Bytes of files in memory: they count as used, and are given up as soon as somebody needs memory."""
    wanted = {f"{prefix}inactive_file", f"{prefix}active_file"}
    rows = (line.split() for line in _text(path).splitlines())
    return sum(int(row[1]) for row in rows if len(row) == 2 and row[0] in wanted)


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdecimal() else None


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
