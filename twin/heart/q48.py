"""Unsigned 64-bit and Q48.16 arithmetic (65536 is 1.0) of the reference law, bit for bit, in int64.

A *word* is an int64 with the bits of the unsigned number: 0..2^63-1 is itself, 2^63..2^64-1 is the number minus 2^64,
so that `LARGEST` (2^64-1) is -1. No intermediate leaves int64, because interpreted Python would not wrap around there
and compiled code would: products are made of halves of 32 bits and quarters of 16.
"""

from __future__ import annotations

from twin.kernels import Integers, kernel

ONE = 65_536
LARGEST = -1
"""2^64-1: what a quotient that does not fit becomes."""

_LOW32 = 0xFFFFFFFF
_LOW48 = 0xFFFFFFFFFFFF
_LN2 = 45_426
_LOG_LIMIT = 100
_TERM_LIMIT = 50

LOGARITHMS = 65_536
"""Entries of the table that `ln` keeps: one for each mantissa of 17 bits."""


@kernel
def join(high: int, low: int) -> int:
    """The word with these halves, each 0..2^32-1."""
    # The high half as a signed number of 32 bits: the shift ends in -2^63..2^63-2^32.
    return (((high ^ 0x80000000) - 0x80000000) << 32) | low


@kernel
def less(a: int, b: int) -> bool:
    """Whether a < b as unsigned numbers."""
    if (a < 0) != (b < 0):
        return b < 0
    return a < b


@kernel
def add(a: int, b: int) -> int:
    """a + b modulo 2^64."""
    low = (a & _LOW32) + (b & _LOW32)
    high = (a >> 32) + (b >> 32) + (low >> 32)
    return join(high & _LOW32, low & _LOW32)


@kernel
def distance(a: int, b: int) -> int:
    """|a - b| as unsigned numbers."""
    if less(a, b):
        a, b = b, a
    low = (a & _LOW32) - (b & _LOW32)
    high = (a >> 32) - (b >> 32) + (low >> 32)
    return join(high & _LOW32, low & _LOW32)


@kernel
def whole(q48: int) -> int:
    """The integer part, 0..2^48-1."""
    return (q48 >> 16) & _LOW48


@kernel
def from_whole(number: int) -> int:
    """`number << 16` modulo 2^64: the upper 16 bits of the number are lost."""
    low = number & _LOW48
    if low >= 1 << 47:
        low -= 1 << 48
    return low << 16


@kernel
def _wide(a: int, b: int) -> tuple[int, int]:
    """The halves of a * b for a, b in 0..2^32-1."""
    upper = a * (b >> 16)
    lower = a * (b & 0xFFFF)
    # upper, lower < 2^48.
    low = ((upper & 0xFFFF) << 16) + lower
    return (upper >> 16) + (low >> 32), low & _LOW32


@kernel
def mul(a: int, b: int) -> int:
    """(a * b) >> 16 of the product of 128 bits, of which the lower 64 are kept."""
    if 0 <= a < 1 << 31 and 0 <= b < 1 << 31:
        return (a * b) >> 16
    a_high, a_low = (a >> 32) & _LOW32, a & _LOW32
    b_high, b_low = (b >> 32) & _LOW32, b & _LOW32
    high, first = _wide(a_low, b_low)
    left_high, left_low = _wide(a_high, b_low)
    right_high, right_low = _wide(a_low, b_high)
    _, top = _wide(a_high, b_high)
    # Columns of 32 bits; sums of at most four halves and a carry: below 2^35.
    second = high + left_low + right_low
    third = left_high + right_high + top + (second >> 32)
    low = (first >> 16) | ((second & 0xFFFF) << 16)
    return join(((second >> 16) & 0xFFFF) | ((third & 0xFFFF) << 16), low)


@kernel
def div(a: int, b: int) -> int:
    """(a << 16) / b, truncated: 0 when b is 0, else `LARGEST` when a > 2^48-1."""
    if b == 0:
        return 0
    if a < 0 or a > _LOW48:
        return LARGEST
    if b > 0 and a < 1 << 47:
        return (a << 16) // b
    if b < 0:
        # Both from 2^63 on, or the dividend is smaller: the quotient is 0 or 1.
        if a < 1 << 47:
            return 0
        return int(from_whole(a) >= b)
    # The dividend is twice a << 15 < 2^63: divide that, then settle the last bit from its remainder.
    half = (a << 15) // b
    rest = (a << 15) - half * b
    last = int(rest >= b - rest)
    if half >= 1 << 62:
        # Minus 2^63, which is no int64 itself.
        half = half - (1 << 62) - (1 << 62)
    return half * 2 + last


@kernel
def _exp(y: int) -> int:
    """e^y for y in 0..131071 by at most ten terms, each truncated; below 8.0, as every term is at most y^n/n!."""
    total = ONE + y
    term = y
    for n in range(2, 11):
        # term < 8 * 65536 and y < 2 * 65536: the product stays below 2^36.
        term = ((term * y) >> 16) // n
        total += term
        if term < _TERM_LIMIT:
            break
    return total


@kernel
def _ln_mantissa(m: int) -> int:
    """ln(m/65536) for m in 65536..131071 by at most six Newton steps that start at m/65536 - 1."""
    y = m - ONE
    for _ in range(6):
        power = _exp(y) if y > 0 else ONE
        error = m - power
        if error > 0:
            y += (error << 16) // power
        elif error < 0:
            y = max(0, y - (-error << 16) // power)
        if -_LOG_LIMIT < error < _LOG_LIMIT:
            break
    return y


@kernel
def ln(number: int, known: Integers) -> int:
    """The natural logarithm of number/65536 in Q48.16: negative below 65536; 0 for 0. `number` is 0..2^63-1.

    `known` (`LOGARITHMS` zeros at first) keeps what has been worked out: a logarithm plus one at each mantissa.
    """
    if number == 0:
        return 0
    exponent = 0
    m = number
    while m >= 2 * ONE:
        m >>= 1
        exponent += 1
    while m < ONE:
        m <<= 1
        exponent -= 1
    kept = known[m - ONE]
    if kept == 0:
        kept = _ln_mantissa(m) + 1
        known[m - ONE] = kept
    result: int = kept - 1 + exponent * _LN2
    return result
