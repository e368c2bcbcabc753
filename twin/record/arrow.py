"""Columns of integers and strings as Arrow and Parquet have them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import pyarrow as pa

COLUMN_KINDS = ("u8", "u16", "u32", "u64", "i64", "str")


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its name, its kind (one of `COLUMN_KINDS`), and whether a row may have no value there (i64 only)."""

    name: str
    kind: str
    nullable: bool = False

    def __post_init__(self) -> None:
        if self.kind not in COLUMN_KINDS:
            raise ValueError(f"column {self.name} has kind {self.kind!r}; allowed are {', '.join(COLUMN_KINDS)}")
        if self.nullable and self.kind != "i64":
            raise ValueError(f"column {self.name} of kind {self.kind} cannot be nullable; only i64 can")

    @property
    def code(self) -> str:
        """The kind as digests name it: `i64?` for a nullable one."""
        return "i64?" if self.nullable else self.kind


def schema(columns: Sequence[Column]) -> pa.Schema:
    """The Arrow schema of a table with these columns."""
    import pyarrow as pa

    types = {
        "u8": pa.uint8(), "u16": pa.uint16(), "u32": pa.uint32(), "u64": pa.uint64(), "i64": pa.int64(),
        "str": pa.string(),
    }  # fmt: skip
    return pa.schema([pa.field(c.name, types[c.kind], nullable=c.nullable) for c in columns])


def writer(place: Any, columns: Sequence[Column]) -> Any:
    """A `pyarrow.parquet.ParquetWriter` of such a table into the open binary file `place`."""
    import pyarrow.parquet as pq

    return pq.ParquetWriter(
        place,
        schema(columns),
        compression="zstd",
        write_page_checksum=True,
        use_dictionary=[c.name for c in columns if c.kind == "str"],
        column_encoding={c.name: "DELTA_BINARY_PACKED" for c in columns if c.kind != "str"},
    )


def table(columns: Sequence[Column], block: dict[str, npt.NDArray[np.int64] | int | str], rows: int) -> pa.Table:
    """A table of `rows` rows: for each column its integers (shape (rows,)), or one integer or text for all of them."""
    import pyarrow as pa

    wanted = schema(columns)
    arrays = []
    for column, field in zip(columns, wanted, strict=True):
        value = block[column.name]
        if isinstance(value, str):
            arrays.append(texts(np.zeros(rows, dtype=np.int32), [value]))
        else:
            kind = {"u8": "<u1", "u16": "<u2", "u32": "<u4", "u64": "<u8", "i64": "<i8"}[column.kind]
            values = np.full(rows, value, dtype=kind) if isinstance(value, int) else value.astype(kind)
            arrays.append(numbers(values, field.type))
    return pa.Table.from_arrays(arrays, schema=wanted)


def numbers(
    values: npt.NDArray[np.generic], kind: pa.DataType, missing: npt.NDArray[np.bool_] | None = None
) -> pa.Array:
    """An Arrow array over `values`. Made from buffers, because `pyarrow.array` imports pandas, which takes 0.3 s."""
    import pyarrow as pa

    valid = None if missing is None else pa.py_buffer(np.packbits(~missing, bitorder="little"))
    return pa.Array.from_buffers(kind, len(values), [valid, pa.py_buffer(np.ascontiguousarray(values))])


def texts(codes: npt.NDArray[np.generic], strings: list[str]) -> pa.Array:
    """An Arrow array with `strings[code]` in each row, made from buffers for the same reason."""
    import pyarrow as pa

    raw = [string.encode() for string in strings]
    offsets = np.zeros(len(codes) + 1, dtype=np.int32)
    np.cumsum(np.array([len(each) for each in raw], dtype=np.int32)[codes], out=offsets[1:])
    # Run by run, since neighbours are mostly alike.
    begins = np.flatnonzero(np.diff(codes, prepend=-1))
    counts = np.diff(begins, append=len(codes))
    data = b"".join([raw[n] * count for n, count in zip(codes[begins].tolist(), counts.tolist(), strict=True)])
    return pa.Array.from_buffers(pa.string(), len(codes), [None, pa.py_buffer(offsets), pa.py_buffer(data)])
