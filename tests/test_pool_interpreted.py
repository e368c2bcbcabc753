"""The pool through its interface leaves the same bytes with compiled and with interpreted kernels."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SESSION = """
import random, sys
from pathlib import Path
from twin import kernels
from twin.pool.layout import B_MUTEX, CELL
from twin.pool.errors import PoolError
from twin.pool.pool import Pool
from twin.pool.records import RecordRing
from twin.pool.survey import blocks, survey

path = Path(sys.argv[1])
chance = random.Random(5)
refused = 0
with Pool.create_file(path, 1 << 20) as first, Pool.attach_file(path, writable=True) as second:
    RecordRing(first, ["a", "b"], 4).append([1, None])
    held = []
    for step in range(400):
        first.now_us = step * 1_000
        pool = chance.choice((first, second))
        mine = [at for at, (owner, _) in enumerate(held) if owner is pool]
        what = chance.random()
        try:
            if what < 0.4 or not mine:
                block = pool.allocate(chance.choice((1, 100, 5_000, 40_000)), chance.choice(("HOT", "WARM", "COLD")))
                held.append((pool, block))
                if what < 0.35:
                    pool.write(block, chance.randbytes(block.size))
            elif what < 0.6:
                block = held[chance.choice(mine)][1]
                pool.write(block, chance.randbytes(block.size))
            elif what < 0.7:
                at = chance.choice(mine)
                held[at] = pool, pool.replace(held[at][1], chance.randbytes(300))
            elif what < 0.8:
                for _ in range(40):
                    pool.read(held[chance.choice(mine)][1])
            else:
                pool.free(held.pop(chance.choice(mine))[1])
        except PoolError:
            refused += 1
    second.close()
    first.recover()
    for facts in blocks(first)[:20]:
        if facts.owner != first.owner:
            first.adopt(first.block(facts.address))
    seen = survey(first)
print(kernels.MODE, refused, seen.used_blocks, seen.free_blocks, seen.tiers)
content = bytearray(path.read_bytes())
# The lock's words name threads of this process.
content[B_MUTEX * CELL : (B_MUTEX + 8) * CELL] = bytes(64)
path.write_bytes(content)
"""


def test_a_session_leaves_the_same_bytes_compiled_and_interpreted(tmp_path: Path) -> None:
    pytest.importorskip("numba")
    said, left = {}, {}
    for mode in ("numba", "python"):
        path = tmp_path / mode
        done = subprocess.run(
            [sys.executable, "-c", SESSION, str(path)],
            env={**os.environ, "TWIN_KERNELS": mode},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        name, _, said[mode] = done.stdout.partition(" ")
        assert name == mode
        left[mode] = path.read_bytes()
    assert said["numba"] == said["python"]
    refused, used, free = map(int, said["numba"].split()[:3])
    # A session that meets the end of the room, and leaves a pool in pieces.
    assert min(refused, used, free) > 3
    assert left["numba"] == left["python"]
