"""The pool's speed figures."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

from twin.pool.block import Block
from twin.pool.pool import Pool

POOL_BYTES = 1 << 28
LIVE_BLOCKS = (100, 5_000, 50_000)
BY_LIVE_BLOCKS = ("pool_alloc_ns", "pool_free_ns", "pool_free_scattered_ns")
"""The figures that are objects: a median for each number of `LIVE_BLOCKS`."""
_SIZES = (64, 200, 1_000, 3_000)
_CALLS = 1_000
_STRIDE = 15_485_863
"""A prime, so that its multiples come to every place of a list."""

_ATTACH = """
import sys, time
from twin.pool.pool import Pool
began = time.perf_counter_ns()
pool = Pool.attach(int(sys.argv[1]))
first = pool.cells[0]
print(time.perf_counter_ns() - began)
"""
"""What another process does: everything is imported, then it attaches and looks at the first cell."""


def pool_figures(repeat: int) -> dict[str, Any]:
    """Medians of `repeat` measurements, through the Python API."""
    with Pool.create(POOL_BYTES) as pool:
        block = pool.allocate(1_024)
        data = bytes(range(256)) * 4
        pool.write(block, data)
        found: dict[str, Any] = {
            **{name: {} for name in BY_LIVE_BLOCKS},
            "pool_write_1k_ns": _median_ns(repeat, lambda: pool.write(block, data)),
            "pool_read_1k_ns": _median_ns(repeat, lambda: pool.read(block)),
            "pool_attach_ms": median(_attach_ms(pool) for _ in range(repeat)),
        }
        live: list[Block] = []
        for wanted in LIVE_BLOCKS:
            while len(live) + 1 < wanted:
                live.append(pool.allocate(_SIZES[len(live) % len(_SIZES)]))
            times = [_allocate_and_free(pool) for _ in range(repeat)]
            found["pool_alloc_ns"][str(wanted)] = median(pair[0] for pair in times)
            found["pool_free_ns"][str(wanted)] = median(pair[1] for pair in times)
            found["pool_free_scattered_ns"][str(wanted)] = median(_free_scattered(pool, live) for _ in range(repeat))
        found |= _large(pool, repeat)
    return found


def _median_ns(repeat: int, call: Callable[[], object]) -> float:
    call()
    times = []
    for _ in range(repeat):
        began = time.perf_counter_ns()
        for _ in range(_CALLS):
            call()
        times.append((time.perf_counter_ns() - began) / _CALLS)
    return median(times)


def _allocate_and_free(pool: Pool) -> tuple[float, float]:
    began = time.perf_counter_ns()
    blocks = [pool.allocate(500) for _ in range(_CALLS)]
    between = time.perf_counter_ns()
    # In another order than they were made, so that neighbours come together late.
    for block in [*blocks[::2], *blocks[1::2]]:
        pool.free(block)
    ended = time.perf_counter_ns()
    return (between - began) / _CALLS, (ended - between) / _CALLS


def _free_scattered(pool: Pool, live: list[Block]) -> float:
    """Freeing blocks from all over the pool, at most half of them, before others take their places."""
    count = min(_CALLS, len(live) // 2)
    took = 0
    for turn in range(_CALLS // count):
        # Neighbours in this order are far apart, and no place comes twice.
        places = [(turn + number) * _STRIDE % len(live) for number in range(count)]
        blocks = [live[place] for place in places]
        began = time.perf_counter_ns()
        for block in blocks:
            pool.free(block)
        took += time.perf_counter_ns() - began
        for place in places:
            live[place] = pool.allocate(_SIZES[place % len(_SIZES)])
    return took / (_CALLS // count * count)


def _large(pool: Pool, repeat: int) -> dict[str, float]:
    """Copies of 16 MiB as a share of what copying between two buffers reaches (more is better)."""
    # Not zeroes: the system keeps fresh ones in one page, which never leaves the cache.
    data = bytes(range(256)) * (16 << 12)
    target = bytearray(len(data))
    read_from = pool.allocate(len(data))
    pool.write(read_from, data)

    def best(call: Callable[[], object]) -> float:
        times = []
        for _ in range(3 * repeat):
            began = time.perf_counter_ns()
            call()
            times.append(time.perf_counter_ns() - began)
        return float(min(times))

    def write_new() -> None:
        block = pool.allocate(len(data))
        pool.write(block, data)
        pool.free(block)

    replaced = [pool.allocate(len(data))]
    pool.write(replaced[0], data)

    def overwrite() -> None:
        replaced[0] = pool.replace(replaced[0], data)

    copy = best(lambda: target.__setitem__(slice(None), data))
    return {
        "pool_write_16m_share": copy / best(write_new),
        "pool_overwrite_16m_share": copy / best(overwrite),
        "pool_read_16m_share": copy / best(lambda: pool.read_into(read_from, target)),
    }


def _attach_ms(pool: Pool) -> float:
    assert pool.mapping.fd is not None
    done = subprocess.run(
        [sys.executable, "-c", _ATTACH, str(pool.mapping.fd)],
        pass_fds=(pool.mapping.fd,),
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout) / 1e6
