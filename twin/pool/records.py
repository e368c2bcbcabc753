"""A ring of telemetry records in a pool: written by one loop, read by anybody.

The block's payload: number of records ever written, records in the ring, fields in a record, bytes of the field names
(four int64), the names as JSON padded to a multiple of 8 bytes, then the records, one int64 a field. A field without a
value holds the smallest int64.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from struct import Struct

from twin.pool.errors import PoolError
from twin.pool.layout import B_RECORDS
from twin.pool.pool import Pool

NO_VALUE = -(1 << 63)
_HEAD = Struct("<4q")
_COUNT = Struct("<q")


class RecordRing:
    """The writing end. `names` are the fields of a record, `records` how many the ring holds, `block` is where."""

    def __init__(self, pool: Pool, names: Sequence[str], records: int) -> None:
        text = json.dumps(list(names)).encode()
        text += b" " * (-len(text) % 8)
        self._pool = pool
        self._row = Struct(f"<{len(names)}q")
        self._records = records
        self._first = _HEAD.size + len(text)
        self._written = 0
        self.block = pool.allocate(self._first + records * self._row.size)
        pool.write(self.block, _HEAD.pack(0, records, len(names), len(text)) + text)
        pool.cells[B_RECORDS] = self.block.address

    def append(self, values: Sequence[int | None]) -> None:
        """Write a record: a value for each field, integers of 63 bits, or None."""
        row = self._row.pack(*(NO_VALUE if value is None else value for value in values))
        self._pool.write(self.block, row, self._first + self._written % self._records * self._row.size)
        self._written += 1
        # Last, so that a record counts only when it is there.
        self._pool.write(self.block, _COUNT.pack(self._written))


def read_records(pool: Pool, last: int) -> tuple[int, list[dict[str, int | None]]]:
    """How many records were ever written, and up to `last` of the newest, oldest first. (0, []) without a ring.

    Raises `PoolError` when what is there is no ring.
    """
    address = int(pool.cells[B_RECORDS])
    if address == 0:
        return 0, []
    block = pool.block(address)
    raw = pool.read(block)
    written, records, fields, length = _HEAD.unpack_from(raw) if len(raw) >= _HEAD.size else (0, 0, 0, 0)
    first = _HEAD.size + length
    if not (0 < records <= len(raw) and 0 < fields <= len(raw) and 0 < length <= len(raw) and written >= 0
            and first + records * fields * 8 == len(raw)):  # fmt: skip
        raise PoolError(
            f"{block!r} is said to hold telemetry records, and does not; the pool was written to by a stranger"
        )
    try:
        names = json.loads(raw[_HEAD.size : first])
    except (ValueError, RecursionError) as error:
        raise PoolError(f"{block!r}: the names of the telemetry fields are not JSON ({error})") from error
    if not isinstance(names, list) or len(names) != fields:
        raise PoolError(f"{block!r}: there are names for {len(names)} telemetry fields, and {fields} fields")
    row = Struct(f"<{fields}q")
    found: list[dict[str, int | None]] = []
    for number in range(max(0, written - min(last, records)), written):
        values = row.unpack_from(raw, first + number % records * row.size)
        found.append(
            {str(name): None if value == NO_VALUE else value for name, value in zip(names, values, strict=True)}
        )
    return written, found
