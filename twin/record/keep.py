"""Which rows of a table stay in its file, and how they are chosen while the table's length is not known yet.

| words | rows that stay |
|---|---|
| `all` | every row |
| `every:N` | rows 0, N, 2N, ... |
| `ends:M` | the first M and the last M |
| `sample:N` | evenly spread ones: rows 0, S, 2S, ... with S the smallest power of two that leaves at most N |
| `ends:M+sample:N` | the first M, the last M, and of those in between rows M, M + S, M + 2S, ... with S as above |
| `none` | none |

A sample has more than N/2 rows, unless there are no more than N/2 to choose from. No row is kept twice, and a table too
short to fill its ends and its sample is kept whole. What is kept follows from the number of rows alone, however they
came: a row that a stride leaves out is left out by every longer stride too, so doubling the stride as the table grows
ends with the rows that a second pass would have chosen.

The last M rows and the sample wait in memory until the table ends: about 100 bytes a row, so at the most (`LIMIT` of
each) 0.2 GB, and twice that for a moment while they are written.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import pyarrow as pa

LIMIT = 1_000_000
"""The largest N and M."""
ALLOWED = f"all, every:N, ends:M, sample:N, ends:M+sample:N and none (N and M from 1 to {LIMIT})"

_COUNT = re.compile(r"[1-9][0-9]{0,6}")
_CHOICES = (("every",), ("ends",), ("sample",), ("ends", "sample"))


@dataclass(frozen=True, slots=True)
class Keep:
    """Which rows stay: every `every`-th, or the first and last `ends` and at most `sample` of the others; 0 is none."""

    every: int = 0
    ends: int = 0
    sample: int = 0

    @classmethod
    def parse(cls, words: str) -> Keep:
        """The choice that `words` name, as in `ALLOWED`. Raises `ValueError` that says so."""
        if words in ("all", "none"):
            return cls(every=int(words == "all"))
        parts = [part.partition(":") for part in words.split("+")]
        names = tuple(name for name, _, _ in parts)
        if names in _CHOICES and all(_COUNT.fullmatch(count) and int(count) <= LIMIT for _, _, count in parts):
            return cls(**{name: int(count) for name, _, count in parts})
        raise ValueError(f"{words!r} does not say which rows to keep; allowed are {ALLOWED}")

    def __str__(self) -> str:
        if self.every == 1:
            return "all"
        counts = (("every", self.every), ("ends", self.ends), ("sample", self.sample))
        return "+".join(f"{name}:{count}" for name, count in counts if count) or "none"

    @property
    def waits(self) -> bool:
        """Whether the table must end before it is certain which rows stay."""
        return self.ends > 0 or self.sample > 0

    def rows(self, total: int) -> tuple[range, ...]:
        """The numbers of the rows that stay of `total`, in order; no range is empty."""
        first = min(self.ends, total)
        last = max(first, total - self.ends)
        between = range(first, last, stride(last - first, self.sample)) if self.sample else range(0)
        found = (range(0, total, self.every),) if self.every else (range(first), between, range(last, total))
        return tuple(each for each in found if each)

    def count(self, total: int) -> int:
        """How many of `total` rows stay."""
        return sum(len(each) for each in self.rows(total))

    def numbers(self, total: int, start: int, stop: int) -> npt.NDArray[np.int64]:
        """The numbers, among `total` rows, of the kept rows `start` .. `stop - 1`, counted as they lie in the file."""
        parts = [np.zeros(0, dtype=np.int64)]
        before = 0
        for kept in self.rows(total):
            part = kept[max(start - before, 0) : max(stop - before, 0)]
            parts.append(np.arange(part.start, part.stop, part.step, dtype=np.int64))
            before += len(kept)
        return np.concatenate(parts)


def stride(rows: int, most: int, least: int = 1) -> int:
    """The smallest power of two, from `least` on, of which at most `most` (1 or more) multiples are below `rows`."""
    while most * least < rows:
        least *= 2
    return least


class Selection:
    """Chooses the rows of `keep` (one that `waits`) from a table that comes in pieces, without knowing its length."""

    def __init__(self, keep: Keep) -> None:
        self._keep = keep
        self._taken = 0
        self._last: deque[pa.Table] = deque()
        self._last_rows = 0
        self._sampled: list[pa.Table] = []
        self._between = 0
        self._stride = 1

    def take(self, piece: pa.Table) -> list[pa.Table]:
        """Take the next rows; the rows that come next in the file, as far as that is certain."""
        first = piece.slice(0, max(self._keep.ends - self._taken, 0))
        self._taken += piece.num_rows
        self._last.append(piece.slice(first.num_rows))
        self._last_rows += self._last[-1].num_rows
        while self._last_rows > self._keep.ends:
            oldest = self._last.popleft()
            count = min(oldest.num_rows, self._last_rows - self._keep.ends)
            if count < oldest.num_rows:
                self._last.appendleft(oldest.slice(count))
            self._last_rows -= count
            if self._keep.sample:
                self._sample(oldest.slice(0, count))
        return [first] if first.num_rows else []

    def rest(self) -> list[pa.Table]:
        """The rows that waited for the end, in order, now that it is there."""
        return [*self._sampled, *self._last]

    def _sample(self, piece: pa.Table) -> None:
        """Take rows that are neither among the first nor among the last."""
        import pyarrow as pa

        start = self._between
        self._between += piece.num_rows
        wider = stride(self._between, self._keep.sample, self._stride)
        if wider > self._stride and self._sampled:
            self._sampled = [_picked(pa.concat_tables(self._sampled), 0, wider // self._stride)]
        self._stride = wider
        picked = _picked(piece, -start % wider, wider)
        if picked.num_rows:
            self._sampled.append(picked)


def _picked(table: pa.Table, start: int, step: int) -> pa.Table:
    """Rows `start`, `start + step`, ... of `table`; copied, unless they are all of them, to let go of the others."""
    import pyarrow as pa

    if step == 1:
        return table  # Then `start`, a remainder, is 0.
    rows = np.arange(start, table.num_rows, step, dtype=np.int64)
    # From a buffer, because `pyarrow.array` imports pandas, which takes 0.3 s.
    return table.take(pa.Array.from_buffers(pa.int64(), len(rows), [None, pa.py_buffer(rows)])).combine_chunks()
