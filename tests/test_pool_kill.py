"""Writers killed at random moments: no deadlock, no lost committed byte, no damage, no name left, and soon again."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import struct
import time
import traceback
import zlib
from pathlib import Path

from profiles import NIGHTLY

from twin.pool import recovery
from twin.pool.block import Block
from twin.pool.errors import PoolError
from twin.pool.pool import Pool
from twin.pool.survey import blocks

KILLS = 10_000 if NIGHTLY else 200
RECOVERY_MS = 50.0
POOL_BYTES = 8 << 20
ACK = struct.Struct("<cqqqq")
HEAD = struct.Struct("<qqI")


def content(owner: int, serial: int, size: int) -> bytes:
    """Bytes that say who wrote them, when, and whether they are whole."""
    body = random.Random(owner << 32 | serial).randbytes(size - HEAD.size)
    return HEAD.pack(owner, serial, zlib.crc32(body)) + body


def is_whole(data: bytes) -> bool:
    """Whether `data` is what one `content` gave."""
    return zlib.crc32(data[HEAD.size :]) == HEAD.unpack_from(data)[2]


def live(descriptor: int, pipe: int, seed: int) -> None:
    """The life of a writer: allocate, write, overwrite, replace and free for ever; say so after each."""
    chance = random.Random(seed)
    pool = Pool.attach(descriptor, writable=True)
    mine: list[Block] = []
    serial = 0

    def say(what: bytes, block: Block) -> None:
        os.write(pipe, ACK.pack(what, block.address, block.generation, serial, pool.owner))

    os.write(pipe, ACK.pack(b"B", 0, 0, 0, pool.owner))
    while True:
        serial += 1
        what = chance.random()
        with contextlib.suppress(PoolError):
            if what < 0.4 or not mine:
                size = chance.choice((24, 100, 1_024, 5_000, 40_000))
                block = pool.allocate(size)
                pool.write(block, content(pool.owner, serial, size))
                mine.append(block)
                say(b"W", block)
            elif what < 0.7:
                block = chance.choice(mine)
                pool.write(block, content(pool.owner, serial, block.size))
                say(b"W", block)
            elif what < 0.8:
                at = chance.randrange(len(mine))
                old = mine[at]
                # Before it happens, because afterwards the old one may be gone without a word.
                say(b"f", old)
                mine[at] = pool.replace(old, content(pool.owner, serial, old.size))
                say(b"W", mine[at])
            else:
                block = mine.pop(chance.randrange(len(mine)))
                say(b"f", block)
                pool.free(block)
                say(b"F", block)


class Life:
    """A child process that lives until it is killed, and what it said."""

    def __init__(self, descriptor: int, seed: int) -> None:
        self.said, writing = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.close(self.said)
                live(descriptor, writing, seed)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(17)
        os.close(writing)

    def end(self) -> tuple[int, list[tuple[bytes, int, int, int, int]]]:
        """Kill it; how it ended, and everything it had said."""
        os.kill(self.pid, signal.SIGKILL)
        raw = b""
        while piece := os.read(self.said, 1 << 20):
            raw += piece
        os.close(self.said)
        _, status = os.waitpid(self.pid, 0)
        return status, [ACK.unpack_from(raw, at) for at in range(0, len(raw) // ACK.size * ACK.size, ACK.size)]


def warm_up(pool: Pool) -> None:
    """Let every kernel be there before the children are made, who live for milliseconds only."""
    block = pool.allocate(40_000)
    for _ in range(2):
        pool.write(block, bytes(40_000))
    block = pool.replace(block, bytes(100))
    pool.read(block)
    pool.free(block)
    pool.recover()


def names() -> set[str]:
    """What could be left behind."""
    return {str(path) for folder in ("/dev/shm", "/tmp") for path in Path(folder).glob("*pulsetwin*")}


def test_killed_writers_leave_a_pool_that_the_next_one_uses_with_every_committed_byte() -> None:
    seed = int(os.environ.get("TWIN_KILL_SEED", "1"))
    print(f"seed {seed} (TWIN_KILL_SEED)")
    chance = random.Random(seed)
    before = names()
    slowest_ms = 0.0
    checked = kills = 0
    with Pool.create(POOL_BYTES) as pool:
        assert pool.mapping.fd is not None
        # The pool's own descriptor is closed in a child, for the parent's locks hang on it.
        descriptor = os.dup(pool.mapping.fd)
        warm_up(pool)
        while kills < KILLS:
            lives = [Life(descriptor, chance.getrandbits(32)) for _ in range(chance.choice((1, 2)))]
            time.sleep(chance.uniform(0.004, 0.03))
            for each in lives:
                status, said = each.end()
                kills += 1
                # Anything but our own signal would be a fault of its own: SIGBUS, SIGSEGV, an exception.
                assert os.WIFSIGNALED(status), f"ended with {status}"
                assert os.WTERMSIG(status) == signal.SIGKILL
                began = time.perf_counter()
                pool.recover()
                # A living sibling may have it at the moment; what counts is how long one waits for a usable pool.
                pool.free(pool.allocate(100))
                slowest_ms = max(slowest_ms, (time.perf_counter() - began) * 1e3)
                checked += look_back(pool, said)
            code, where = recovery.verify(pool.cells)
            assert code == 0, f"seed {seed}: damage {code} at {where}"
        free_up(pool)
        os.close(descriptor)
    print(f"{kills} kills, {checked} committed blocks checked, slowest recovery {slowest_ms:.1f} ms")
    assert checked > kills
    assert slowest_ms <= RECOVERY_MS
    assert names() == before


def look_back(pool: Pool, said: list[tuple[bytes, int, int, int, int]]) -> int:
    """Check every block that the dead writer had said it wrote, and give it back; how many there were."""
    written: dict[int, tuple[int, int]] = {}
    leaving: set[int] = set()
    for what, address, generation, serial, _ in said:
        if what == b"W":
            written[address] = (generation, serial)
            leaving.discard(address)
        elif what == b"f":
            leaving.add(address)
        elif what == b"F":
            written.pop(address, None)
    owner = said[0][4] if said else 0
    for address, (generation, serial) in written.items():
        try:
            block = pool.block(address)
            if block.generation != generation:
                raise PoolError("another block lies there")
        except PoolError:
            # It had said that it was about to free it, and died before it could say that it had.
            assert address in leaving, f"the block at {address:#x}, written as {serial}, is gone"
            continue
        data = pool.read(block)
        who, when, _ = HEAD.unpack_from(data)
        assert is_whole(data), f"the block at {address:#x} is torn"
        # Either what it said last, or the whole of what it was just about to say.
        assert who == owner
        assert when >= serial
        pool.adopt(block)
        pool.free(block)
    return len(written)


def free_up(pool: Pool) -> None:
    """Whatever orphans are left were written, and not yet spoken of."""
    for facts in blocks(pool):
        block = pool.block(facts.address)
        if facts.owner != pool.owner:
            assert is_whole(pool.read(block))
            pool.adopt(block)
            pool.free(block)
    assert not list(blocks(pool))
