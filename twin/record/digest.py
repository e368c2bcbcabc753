"""Digests that anyone can recompute: BLAKE2b with 32 bytes of output, no key, over plain little-endian bytes.

The format, version 1. `text(s)` stands for the length of `s` in UTF-8 bytes as u32, then those bytes.

* Column: each value as fixed-width little-endian bytes (u8, u16, u32, u64, i64), or `text(value)` (str), one after
  another. A column that may be empty (`i64?`) has two digests, one after another: of the values, with 0 where there is
  none, and of one byte a row, 1 where there is a value and 0 where there is none.
* Table: `text(schema name)`, number of rows as u64, number of columns as u32, then for each column `text(name)`,
  `text(kind)` and its digest (32 bytes; 64 for `i64?`).
* Run: `text(schema version)`, length of the canonical scenario as u64 and its bytes, seed as u64, `text(config)`,
  `text(law)`, tick digest (32 bytes), control digest (32 bytes).

How many rows were hashed at a time makes no difference, and neither does what was kept of the table.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

SIZE = 32
"""Bytes in a digest."""

RANGES: dict[str, tuple[str, int, int]] = {
    "u8": ("<u1", 0, (1 << 8) - 1),
    "u16": ("<u2", 0, (1 << 16) - 1),
    "u32": ("<u4", 0, (1 << 32) - 1),
    "u64": ("<u8", 0, (1 << 63) - 1),
    "i64": ("<i8", -(1 << 63), (1 << 63) - 1),
    "i64?": ("<i8", -(1 << 63), (1 << 63) - 1),
}
"""Integer kinds: NumPy type and smallest and largest value. u64 ends at 2^63 - 1, since kernels count in int64."""

KINDS = (*RANGES, "str")
"""Every kind a column can have."""


def text(value: str) -> bytes:
    """`value` as it enters a digest: u32 length in bytes, then UTF-8."""
    raw = value.encode()
    return len(raw).to_bytes(4, "little") + raw


class ColumnDigest:
    """The digest of one column, fed in pieces of any size."""

    def __init__(self, name: str, kind: str) -> None:
        """`kind` is one of `KINDS`; anything else raises `ValueError`."""
        if kind not in KINDS:
            raise ValueError(f"column {name} has kind {kind!r}; allowed are {', '.join(KINDS)}")
        self.name = name
        self.kind = kind
        self.rows = 0
        self._values = blake2b(digest_size=SIZE)
        self._valid = blake2b(digest_size=SIZE)

    def integers(
        self, values: npt.NDArray[np.int64], valid: npt.NDArray[np.bool_] | None = None
    ) -> npt.NDArray[np.generic]:
        """Take `values` (shape (n,)); `valid` (same shape) says where there is one, everywhere when left out.

        Returns the values in the column's own type. Raises `ValueError` for a value outside the kind's range.
        """
        kind, low, high = RANGES[self.kind]
        if valid is not None:
            values = np.where(valid, values, 0)
        if len(values) and (int(values.min()) < low or int(values.max()) > high):
            row = int(np.flatnonzero((values < low) | (values > high))[0])
            raise ValueError(
                f"column {self.name}, row {self.rows + row}: {values[row]} does not fit {self.kind} ({low} to {high})"
            )
        typed = values.astype(kind)
        self._values.update(typed.data)
        if self.kind == "i64?":
            present = np.ones(len(values), dtype="u1") if valid is None else valid.astype("u1")
            self._valid.update(present.data)
        self.rows += len(values)
        return typed

    def text(self, value: str, count: int = 1) -> None:
        """Take `value` for `count` rows."""
        self._values.update(text(value) * count)
        self.rows += count

    def digest(self) -> bytes:
        """What has been taken so far: 32 bytes, 64 for `i64?`."""
        values = self._values.digest()
        return values + self._valid.digest() if self.kind == "i64?" else values


class TableDigest:
    """The digest of a table: feed `columns[i]`, the same number of rows to each, then ask `hexdigest`."""

    def __init__(self, schema_name: str, columns: Sequence[tuple[str, str]]) -> None:
        """`columns` are (name, kind) in the table's order."""
        self.schema_name = schema_name
        self.columns = tuple(ColumnDigest(name, kind) for name, kind in columns)

    def hexdigest(self) -> str:
        """Lower-case hex, 64 characters. Raises `ValueError` when the columns differ in length."""
        rows = {column.rows for column in self.columns}
        if len(rows) > 1:
            raise ValueError(f"the columns of {self.schema_name} have different lengths: {sorted(rows)}")
        count = rows.pop() if rows else 0
        whole = blake2b(text(self.schema_name), digest_size=SIZE)
        whole.update(count.to_bytes(8, "little"))
        whole.update(len(self.columns).to_bytes(4, "little"))
        for column in self.columns:
            whole.update(text(column.name) + text(column.kind) + column.digest())
        return whole.hexdigest()


def run_digest(
    schema_version: str,
    scenario: bytes,
    seed: int,
    config: str,
    law: str,
    tick_digest: str,
    control_digest: str,
) -> str:
    """The digest of a run, lower-case hex, from its inputs and the hex digests of its two tables.

    `scenario` is the canonical scenario, `seed` from 0 to 2^64 - 1. Raises `ValueError` for a digest that is not one.
    """
    whole = blake2b(text(schema_version), digest_size=SIZE)
    whole.update(len(scenario).to_bytes(8, "little") + scenario)
    whole.update(seed.to_bytes(8, "little"))
    whole.update(text(config) + text(law))
    for digest in (tick_digest, control_digest):
        raw = bytes.fromhex(digest)
        if len(raw) != SIZE:
            raise ValueError(f"{digest!r} is not a digest of {SIZE} bytes in hex")
        whole.update(raw)
    return whole.hexdigest()
