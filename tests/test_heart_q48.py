"""Unsigned and Q48.16 arithmetic in int64 against Python's own integers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twin.heart import q48

LARGEST = (1 << 64) - 1
EDGES = sorted({
    edge + off
    for edge in (0, 1 << 15, 1 << 16, 1 << 31, 1 << 32, 1 << 47, 1 << 48, 1 << 62, 1 << 63, LARGEST)
    for off in (-2, -1, 0, 1)
    if 0 <= edge + off <= LARGEST
})  # fmt: skip

bits = st.integers(1, 64).flatmap(lambda size: st.integers(0, (1 << size) - 1))
unsigned = st.one_of(st.sampled_from(EDGES), bits)


def word(number: int) -> int:
    return number - (1 << 64) if number >> 63 else number


def product(a: int, b: int) -> int:
    return ((a * b) >> 16) & LARGEST


def quotient(a: int, b: int) -> int:
    if b == 0:
        return 0
    return LARGEST if a > (1 << 48) - 1 else (a << 16) // b


def check(a: int, b: int) -> None:
    # As array elements too: in interpreted mode those overflow where Python's integers do not.
    for x, y in ((word(a), word(b)), tuple(np.array([word(a), word(b)], dtype=np.int64))):
        assert q48.mul(x, y) == word(product(a, b))
        assert q48.div(x, y) == word(quotient(a, b))
        assert q48.add(x, y) == word((a + b) & LARGEST)
        assert q48.distance(x, y) == word(abs(a - b))
        assert bool(q48.less(x, y)) == (a < b)
        assert q48.from_whole(x) == word((a << 16) & LARGEST)
        assert q48.whole(x) == a >> 16


@given(unsigned, unsigned)
def test_words_calculate_as_unsigned_numbers(a, b) -> None:
    check(a, b)


def test_words_calculate_as_unsigned_numbers_at_every_edge() -> None:
    for a in EDGES:
        for b in EDGES:
            check(a, b)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        # 1.5 / 0.5 = 3.0
        (98_304, 32_768, 196_608),
        (98_304, 0, 0),
        # 2^48-1 is the last dividend that fits: shifted by 16 it is 2^64 - 2^16.
        ((1 << 48) - 1, 1, word(LARGEST - 65_535)),
        (1 << 48, 1, q48.LARGEST),
        (1 << 48, q48.LARGEST, q48.LARGEST),
    ],
)
def test_quotients_truncate_and_saturate(a, b, expected) -> None:
    assert q48.div(a, b) == expected


def test_products_keep_the_lower_64_bits() -> None:
    # 2^40 * 2^40 = 2^80; shifted 2^64, of which nothing is left. One bit less leaves the highest.
    assert q48.mul(1 << 40, 1 << 40) == 0
    assert q48.mul(1 << 40, 1 << 39) == word(1 << 63)


def obvious_exp(y: int) -> int:
    if y == 0:
        return 65_536
    total, term = 65_536 + y, y
    for n in range(2, 11):
        term = quotient(product(term, y), n << 16)
        total += term
        if term < 50:
            break
    return total


def obvious_ln(number: int) -> int:
    """Ln(number/65536) as the equations have it: a power of two, and at most six Newton steps for the rest."""
    k, m = 0, number
    while m >= 131_072:
        m, k = m >> 1, k + 1
    while m < 65_536:
        m, k = m << 1, k - 1
    y = m - 65_536
    for _ in range(6):
        power = obvious_exp(y)
        if m > power:
            y += quotient(m - power, power)
        else:
            y = max(0, y - quotient(power - m, power))
        if abs(m - power) < 100:
            break
    return y + k * 45_426


@given(st.integers(1, 63).flatmap(lambda size: st.integers(1 << (size - 1), (1 << size) - 1)))
def test_logarithms_are_those_of_the_equations_and_near_the_real_ones(number) -> None:
    known = np.zeros(q48.LOGARITHMS, dtype=np.int64)
    first = q48.ln(number, known)
    assert first == obvious_ln(number)
    # Newton stops within 100/65536 of the mantissa, and ln 2 is truncated 47 times at most.
    assert abs(first - math.log(number / 65_536) * 65_536) < 150
    # What is kept is the same.
    assert np.count_nonzero(known) == 1
    assert q48.ln(np.int64(number), known) == first


@pytest.mark.parametrize(
    ("number", "expected"),
    [(0, 0), (65_536, 0), (131_072, 45_426), (262_144, 90_852), (32_768, -45_426), (1, -726_816)],
)
def test_logarithms_of_powers_of_two_are_multiples_of_that_of_two(number, expected) -> None:
    assert q48.ln(number, np.zeros(q48.LOGARITHMS, dtype=np.int64)) == expected
