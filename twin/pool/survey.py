"""What is in a pool, in figures and in words. Nothing here takes a lock: a pool in use is seen as it changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from twin.pool.allocator import last_edge
from twin.pool.errors import PoolError
from twin.pool.layout import (
    B_COOLED,
    B_DEMOTIONS,
    B_GUESSES,
    B_HITS,
    B_PREFETCHES,
    B_PROMOTIONS,
    B_RECOVERIES,
    B_REFUSED,
    B_RELAYS,
    CELL,
    DATA_CELL,
    LOGICAL_BASE,
    SEAT_CELLS,
    SEATS,
    SEATS_CELL,
    T_OWNER,
    TIERS,
    UNIT,
    UNIT_CELLS,
    USED,
)
from twin.pool.pool import Pool
from twin.pool.recovery import walk

_ROWS = 4_096
ATTEMPTS = 100
"""How often a chain that broke off, because it changed meanwhile, is followed from its beginning again."""
Seen = TypeVar("Seen")
_SHADES = " .:-=+*#%@"


@dataclass(frozen=True, slots=True)
class BlockFacts:
    """A used block: its address, bytes asked for and taken, tier, owner, whether it was committed, and heat."""

    address: int
    size_bytes: int
    taken_bytes: int
    tier: str
    owner: int
    committed: bool
    heat_q48: int


@dataclass(frozen=True, slots=True)
class Survey:
    """One look at a pool. Bytes are of whole blocks, headers included."""

    name: str
    kind: str
    size_bytes: int
    mapped_at: int
    why_not_at_base: str
    owners: list[int]
    used_blocks: int
    used_bytes: int
    free_blocks: int
    free_bytes: int
    largest_free_bytes: int
    fragmentation: float
    """The share of the free bytes that is not in the largest piece, 0 to 1."""
    tiers: dict[str, dict[str, int]]
    """For each tier `blocks` and `bytes`."""
    guesses: int
    guesses_right: int
    guess_accuracy: float | None
    """The share of the guesses that was right, 0 to 1; None without any."""
    pages_prefetched: int
    pages_advised_cold: int
    pages_refused: int
    """For which the kernel took no advice."""
    promotions: int
    demotions: int
    """Of blocks, without those of the heartbeat's words by the heartbeat."""
    recoveries: int
    layouts_applied: int


def survey(pool: Pool) -> Survey:
    """Look once. Takes a millisecond for some 50,000 blocks. Raises `PoolError` where headers are damaged."""
    return _looked(pool, lambda: _survey(pool))


def _survey(pool: Pool) -> Survey:
    mapping, cells = pool.mapping, pool.cells
    tiers = {name: {"blocks": 0, "bytes": 0} for name in TIERS}
    free_blocks = free_units = largest = 0
    for rows in _chain(pool):
        used = rows[:, 1] == USED
        for number, figures in enumerate(tiers.values()):
            here = used & (rows[:, 4] == number)
            figures["blocks"] += int(np.count_nonzero(here))
            figures["bytes"] += int(rows[here, 2].sum()) * UNIT
        free = rows[~used, 2]
        free_blocks += len(free)
        free_units += int(free.sum())
        largest = max(largest, int(free.max(initial=0)))
    guesses, right = int(cells[B_GUESSES]), int(cells[B_HITS])
    owners = cells[SEATS_CELL + T_OWNER : SEATS_CELL + SEATS * SEAT_CELLS : SEAT_CELLS]
    return Survey(
        name=mapping.name,
        kind=mapping.kind,
        size_bytes=mapping.bytes,
        mapped_at=mapping.address,
        why_not_at_base=mapping.why_not_at_base,
        owners=sorted(int(owner) for owner in owners if owner),
        used_blocks=sum(figures["blocks"] for figures in tiers.values()),
        used_bytes=sum(figures["bytes"] for figures in tiers.values()),
        free_blocks=free_blocks,
        free_bytes=free_units * UNIT,
        largest_free_bytes=largest * UNIT,
        fragmentation=1.0 - largest / free_units if free_units else 0.0,
        tiers=tiers,
        guesses=guesses,
        guesses_right=right,
        guess_accuracy=right / guesses if guesses > 0 else None,
        pages_prefetched=int(cells[B_PREFETCHES]),
        pages_advised_cold=int(cells[B_COOLED]),
        pages_refused=int(cells[B_REFUSED]),
        promotions=int(cells[B_PROMOTIONS]),
        demotions=int(cells[B_DEMOTIONS]),
        recoveries=int(cells[B_RECOVERIES]),
        layouts_applied=int(cells[B_RELAYS]),
    )


def blocks(pool: Pool) -> list[BlockFacts]:
    """The used blocks, by address. Raises `PoolError` where headers are damaged."""
    return _looked(pool, lambda: _blocks(pool))


def _blocks(pool: Pool) -> list[BlockFacts]:
    return [
        BlockFacts(LOGICAL_BASE + cell * CELL, size, units * UNIT, TIERS[tier], owner, sequence != 0, heat)
        for rows in _chain(pool)
        for cell, kind, units, size, tier, owner, sequence, heat in rows.tolist()
        if kind == USED
    ]


def block_map(pool: Pool, width: int) -> str:
    """The pool as `width` signs, each a stretch of it: blank is free, @ is full. Raises as `survey` does."""
    return _looked(pool, lambda: _block_map(pool, width))


def _block_map(pool: Pool, width: int) -> str:
    taken = np.zeros(width)
    each = (len(pool.cells) - DATA_CELL) / width
    for rows in _chain(pool):
        for cell, kind, units in rows[:, :3].tolist():
            if kind != USED:
                continue
            begin = (cell - DATA_CELL) / each
            end = begin + units * UNIT_CELLS / each
            for sign in range(int(begin), min(int(end), width - 1) + 1):
                taken[sign] += min(end, sign + 1) - max(begin, sign)
    top = len(_SHADES) - 1
    return "".join(_SHADES[0 if share <= 0 else min(top, 1 + int(share * (top - 0.001)))] for share in taken)


def words_for(seen: Survey) -> str:
    """One line for people."""
    where = f"at {seen.mapped_at:#x}"
    if seen.why_not_at_base:
        where += f" instead of {LOGICAL_BASE:#x} ({seen.why_not_at_base})"
    tiers = ", ".join(f"{name} {figures['blocks']:,}" for name, figures in seen.tiers.items())
    return (
        f"{seen.size_bytes / 2**20:,.0f} MB {seen.kind} {where}; {seen.used_blocks:,} blocks ({tiers}), "
        f"{seen.used_bytes / 2**20:,.2f} MB used, fragmentation {100 * seen.fragmentation:.1f} %"
    )


class _BrokenError(Exception):
    """The chain broke off at this cell."""


def _looked(pool: Pool, look: Callable[[], Seen]) -> Seen:
    """What `look` sees of the chain when it comes to the chain's end, which changes of a pool in use may prevent."""
    cell = 0
    for _ in range(ATTEMPTS):
        try:
            return look()
        except _BrokenError as error:
            cell = error.args[0]
    raise PoolError(
        f"{pool.mapping.name}: the headers are damaged at {LOGICAL_BASE + cell * CELL:#x}, or its writers left no "
        f"moment to look in {ATTEMPTS} attempts; try again, and if it stays so make a new pool"
    )


def _chain(pool: Pool) -> Iterator[np.ndarray]:
    """All blocks between the edges, in pieces of rows as `walk` fills them. Raises `_BrokenError`."""
    cells = pool.cells
    at = DATA_CELL + UNIT_CELLS
    last = int(last_edge(cells))
    while at < last:
        rows = np.empty((_ROWS, 8), dtype=np.int64)
        count, following = walk(cells, at, rows)
        yield rows[:count]
        # Always further on, so that it ends; the same cell again only when nothing was there.
        end = int(rows[count - 1, 0] + rows[count - 1, 2] * UNIT_CELLS) if count else at
        if following == 0 and end != last:
            raise _BrokenError(end)
        at = end
