"""What is wrong with a damaged record of a seam log: which bit and which field, or else how much is lost."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

import numpy as np

from twin.record.seamformat import COUNTS, OVERHEAD, PAYLOAD_LIMIT, PREFIX, U32, U64, Kind, Layout

_POLYNOMIAL = 0xEDB88320
"""CRC-32 (ISO 3309), reflected, as zlib computes it."""


@dataclass(frozen=True, slots=True)
class FlippedBit:
    """The one bit that explains a damaged record: where it is (bit 0 is worth 1), and the field with both values."""

    byte: int
    bit: int
    field: str
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.field}: {self.before} became {self.after}, byte {self.byte} bit {self.bit}"


def kind_name(data: bytes, offset: int) -> str:
    """The kind of the record at `offset`, for people."""
    code = data[offset + 4] if len(data) > offset + 4 else 0
    return Kind(code).name.lower() if code in tuple(Kind) else "unknown kind"


def record_end(data: bytes, offset: int) -> int | None:
    """Where the record at `offset` ends; None when that is beyond the file or cannot be."""
    if len(data) - offset < OVERHEAD:
        return None
    length = int(U32.unpack_from(data, offset)[0])
    end = offset + OVERHEAD + length
    return end if length <= PAYLOAD_LIMIT and end <= len(data) else None


def intact(data: bytes, offset: int, end: int) -> bool:
    """Whether the record from `offset` to `end` has the checksum that it says."""
    return zlib.crc32(memoryview(data)[offset : end - U32.size]) == int(U32.unpack_from(data, end - U32.size)[0])


def find_flipped_bit(data: bytes, offset: int, layout: Layout, first_tick: int) -> tuple[FlippedBit, str] | None:
    """The one bit whose flip makes the record at `offset` intact, and the kind of that record; None without one.

    `first_tick` is the number of the tick that would come next, and names ticks in the answer.
    """
    position = _flipped_position(data, offset)
    if position is None:
        return None
    byte, bit = divmod(position, 8)
    mended = bytearray(data[offset : offset + OVERHEAD + PAYLOAD_LIMIT])
    mended[byte] ^= 1 << bit
    name, start, form = _field(bytes(mended), byte, layout, first_tick)
    if form:
        before = str(struct.unpack_from(form, mended, start)[0])
        after = str(struct.unpack_from(form, data, offset + start)[0])
    else:
        before, after = repr(chr(mended[byte])), repr(chr(data[offset + byte]))
    return FlippedBit(offset + byte, bit, name, before, after), kind_name(bytes(mended[:5]), 0)


def _flipped_position(data: bytes, offset: int) -> int | None:
    """Which bit is flipped, counted from the record's first.

    A wrong length moves the end of the record, so its 32 bits are tried one by one. For the others, the checksum that
    was stored and the one that is computed differ by a pattern that depends only on the bit's distance from the end
    of the record, and no two bits share a pattern.
    """
    if len(data) - offset < OVERHEAD:
        return None
    length = int(U32.unpack_from(data, offset)[0])
    for bit in range(32):
        other = length ^ (1 << bit)
        stop = offset + PREFIX.size + other
        if other <= PAYLOAD_LIMIT and stop + U32.size <= len(data):
            checksum = zlib.crc32(memoryview(data)[offset + 4 : stop], zlib.crc32(U32.pack(other)))
            if checksum == U32.unpack_from(data, stop)[0]:
                return bit
    end = record_end(data, offset)
    if end is None:
        return None
    body = end - U32.size
    last = 8 * (body - offset) - 1
    pattern = zlib.crc32(memoryview(data)[offset:body]) ^ int(U32.unpack_from(data, body)[0])
    if pattern.bit_count() == 1:
        return last + pattern.bit_length()
    shifted = _POLYNOMIAL
    for distance in range(last - 31):
        if shifted == pattern:
            return last - distance
        shifted = (shifted >> 1) ^ (_POLYNOMIAL if shifted & 1 else 0)
    return None


def _field(record: bytes, byte: int, layout: Layout, first_tick: int) -> tuple[str, int, str]:
    """What byte number `byte` of an intact record belongs to: name, first byte, and `struct` format ("" for text)."""
    length, code = PREFIX.unpack_from(record)
    kind = kind_name(record, 0)
    inside = byte - PREFIX.size
    if byte < 4:
        return f"{kind}, length of the record", 0, "<I"
    if byte == 4:
        return f"{kind}, number of the kind", 4, "<B"
    if inside >= length:
        return f"{kind}, checksum of the record", PREFIX.size + length, "<I"
    number = inside // 8
    start = PREFIX.size + 8 * number
    if code == Kind.CYCLE and length >= layout.struct.size:
        name, start, form = layout.field(inside)
        return f"cycle {U64.unpack_from(record, PREFIX.size)[0]}, {name}", PREFIX.size + start, form
    if code == Kind.TICKS and 8 * number + 8 <= length:
        return (f"lateness of tick {first_tick + number - 1}" if number else "ticks, first tick"), start, "<q"
    if code == Kind.END and length == COUNTS.size:
        return f"end, number of {('ticks', 'cycles')[number]}", start, "<Q"
    return f"{kind}, text", byte, ""


def find_intact(data: bytes, offset: int) -> int | None:
    """Where the first intact record begins at or after `offset`; None when there is none."""
    rest = np.frombuffer(data, dtype=np.uint8, offset=offset).astype(np.int64)
    count = len(rest) - OVERHEAD + 1
    if count <= 0:
        return None
    lengths = rest[:count] + (rest[1 : count + 1] << 8) + (rest[2 : count + 2] << 16) + (rest[3 : count + 3] << 24)
    kinds = rest[4 : count + 4]
    room = np.arange(count - 1, -1, -1)
    fits = (kinds >= 1) & (kinds <= len(Kind)) & (lengths <= PAYLOAD_LIMIT) & (lengths <= room)
    for index in np.flatnonzero(fits).tolist():
        start = offset + int(index)
        if intact(data, start, start + OVERHEAD + int(lengths[index])):
            return start
    return None
