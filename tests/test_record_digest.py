"""Digests: golden vectors, and the documented format recomputed by other means."""

from __future__ import annotations

import struct
from hashlib import blake2b

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twin.record.digest import ColumnDigest, TableDigest, run_digest


def b256(data: bytes) -> bytes:
    return blake2b(data, digest_size=32).digest()


def text(value: str) -> bytes:
    return struct.pack("<I", len(value.encode())) + value.encode()


def example() -> TableDigest:
    table = TableDigest("example/1", [("n", "u16"), ("t", "i64?"), ("s", "str")])
    table.columns[0].integers(np.array([1, 2, 65_535]))
    table.columns[1].integers(np.array([-1, 7, 5]), np.array([True, False, True]))
    for value in ("a", "é", ""):
        table.columns[2].text(value)
    return table


def test_the_documented_format() -> None:
    columns = [
        text("n") + text("u16") + b256(struct.pack("<3H", 1, 2, 65_535)),
        text("t") + text("i64?") + b256(struct.pack("<3q", -1, 0, 5)) + b256(bytes([1, 0, 1])),
        text("s") + text("str") + b256(text("a") + text("é") + text("")),
    ]
    whole = text("example/1") + struct.pack("<QI", 3, 3) + b"".join(columns)
    assert example().hexdigest() == b256(whole).hex()


def test_golden_vectors() -> None:
    assert example().hexdigest() == "07d0f85bebc328d26352d18a44a69e12163cca967098f8db69ce213f2b987171"
    assert (
        TableDigest("example/1", []).hexdigest() == "5f32aa872afe94c1e9e207a0713dac09fff2f7a385065e346a81db57f4ebdbd3"
    )
    digest = run_digest("run/1", b'{"seed":0}', 0, "1_0_1_0_0_0", "adaptive", "11" * 32, "22" * 32)
    assert digest == "9f131c5bda949af98de5a4e25756b27b27dcdc894184463c0005859a68facd26"


def test_the_run_digest_depends_on_each_part() -> None:
    base = ("run/1", b"{}", 0, "c", "l", "11" * 32, "22" * 32)
    others = [
        ("run/2", *base[1:]), (base[0], b"[]", *base[2:]), (*base[:2], 1, *base[3:]), (*base[:3], "cl", "", *base[5:]),
        (*base[:5], base[6], base[5]),
    ]  # fmt: skip
    digests = {run_digest(*parts) for parts in (base, *others)}
    assert len(digests) == 6
    with pytest.raises(ValueError, match="not a digest"):
        run_digest("run/1", b"", 0, "c", "l", "11" * 31, "22" * 32)


@given(values=st.lists(st.integers(0, (1 << 32) - 1), max_size=40), cuts=st.lists(st.integers(0, 40)))
def test_block_sizes_do_not_matter(values: list[int], cuts: list[int]) -> None:
    whole, pieces = ColumnDigest("x", "u32"), ColumnDigest("x", "u32")
    array = np.array(values, dtype=np.int64)
    whole.integers(array)
    for piece in np.split(array, sorted(min(cut, len(values)) for cut in cuts)):
        pieces.integers(piece)
    assert whole.digest() == pieces.digest()
    once, twice = ColumnDigest("x", "str"), ColumnDigest("x", "str")
    once.text("ab", 2)
    twice.text("ab")
    twice.text("ab")
    assert once.digest() == twice.digest()


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [("u8", 255, 256), ("u16", 0, -1), ("u32", (1 << 32) - 1, 1 << 32), ("u64", (1 << 63) - 1, -1)],
)
def test_what_does_not_fit_is_named(kind: str, good: int, bad: int) -> None:
    column = ColumnDigest("load", kind)
    column.integers(np.array([good, good]))
    with pytest.raises(ValueError, match=rf"column load, row 3: {bad} does not fit {kind}"):
        column.integers(np.array([good, bad]))


def test_misuse() -> None:
    with pytest.raises(ValueError, match="allowed are u8"):
        ColumnDigest("x", "f64")
    table = TableDigest("t/1", [("a", "u8"), ("b", "u8")])
    table.columns[0].integers(np.array([1]))
    with pytest.raises(ValueError, match="different lengths"):
        table.hexdigest()
