"""Compiled or interpreted, the same bits: the switch, the polynomials and the random streams.

A kernel is plain scalar Python over integers, `+ - * / sqrt` and preallocated arrays, in a fixed order. `kernel`
compiles it with numba where numba imports and leaves it alone otherwise; `TWIN_KERNELS=python|numba` chooses. Neither
`fastmath` nor a library function of the platform is ever used, because both change last bits between machines.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import numpy as np
import numpy.typing as npt

Function = TypeVar("Function", bound=Callable[..., Any])
Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_MASK32 = 0xFFFFFFFF


class KernelModeError(ValueError):
    """`TWIN_KERNELS` asks for something that is not there."""


def _choose_mode() -> str:
    asked = os.environ.get("TWIN_KERNELS", "")
    there = importlib.util.find_spec("numba") is not None
    if asked == "":
        return "numba" if there else "python"
    if asked not in ("python", "numba"):
        raise KernelModeError(f"TWIN_KERNELS is {asked!r}; allowed are python and numba, or unset it")
    if asked == "numba" and not there:
        raise KernelModeError("TWIN_KERNELS is numba, but numba is not installed; pip install numba, or unset it")
    return asked


MODE: str = _choose_mode()
"""`numba` or `python`."""

KEPT_CACHES = 16
"""How many states of the sources keep their compiled kernels."""


def kernel(function: Function) -> Function:
    """Compile `function` with numba, or return it as it is, as `MODE` says."""
    return _compiled(function, "python")


def kernel_nonzero(function: Function) -> Function:
    """Like `kernel`, for a function none of whose divisors can be 0.

    The test for 0 is left out: it would keep a loop from doing several divisions at once.
    """
    return _compiled(function, "numpy")


def _compiled(function: Function, error_model: Literal["python", "numpy"]) -> Function:
    if MODE == "python":
        return function
    # Intel's vector library would replace plain arithmetic calls by approximations of its own.
    os.environ.setdefault("NUMBA_DISABLE_INTEL_SVML", "1")
    import numba

    folder = cache_folder()
    if folder is not None:
        numba.config.CACHE_DIR = folder  # type: ignore[attr-defined]
    compiled = numba.njit(cache=folder is not None, fastmath=False, error_model=error_model)(function)
    return cast("Function", compiled)


@functools.cache
def cache_folder() -> str | None:
    """Where compiled kernels are kept; None where no folder can be written, and each process compiles for itself.

    One folder for each state of the sources: numba itself looks only at the file of a kernel, not at those that the
    kernel calls, and would go on using old code after a change in them.
    """
    home = os.environ.get("NUMBA_CACHE_DIR") or Path(
        os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "pulsetwin"
    )
    state = blake2b(digest_size=8)
    for source in sorted(Path(__file__).parent.rglob("*.py")):
        state.update(str(source.relative_to(Path(__file__).parent)).encode() + source.read_bytes())
    folder = Path(home) / f"kernels-{state.hexdigest()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        os.utime(folder)
        folders = sorted(folder.parent.glob("kernels-*"), key=lambda path: path.stat().st_mtime)
        for old in folders[:-KEPT_CACHES]:
            shutil.rmtree(old, ignore_errors=True)
    except (OSError, RuntimeError):
        return None
    return str(folder)


# --- exp, log, tanh, power --------------------------------------------------------------------------------------------

_LN2_HIGH = 0.6931471803691238
_LN2_LOW = 1.9082149292705877e-10
_LN2 = 0.6931471805599453
_INVERSE_LN2 = 1.4426950408889634
_SQRT_HALF = 0.7071067811865476
_POWERS_OF_TWO = (2.0**512, 2.0**256, 2.0**128, 2.0**64, 2.0**32, 2.0**16, 2.0**8, 2.0**4, 2.0**2, 2.0**1)


@kernel
def exp(x: float) -> float:
    """Exponential of x, within 2 units in the last place for |x| <= 700; 0 below -745, the value at 709 above 709.

    Taylor polynomial of degree 13 on |r| <= ln(2)/2 after x = k*ln2 + r (error below 2e-17 relative).
    """
    if x < -745.0:
        return 0.0
    if x > 709.0:
        x = 709.0
    k = int(x * _INVERSE_LN2 + 0.5) if x >= 0.0 else int(x * _INVERSE_LN2 - 0.5)
    r = (x - k * _LN2_HIGH) - k * _LN2_LOW
    p = 1.0
    n = 13
    while n > 0:
        p = 1.0 + r * p / n
        n -= 1
    base = 2.0 if k >= 0 else 0.5
    count = k if k >= 0 else -k
    # Multiplying by 2 (or 0.5) is exact, and so is squaring a power of two.
    while count > 0:
        if count & 1:
            p = p * base
        base = base * base if count > 1 else base
        count >>= 1
    return p


@kernel
def log(x: float) -> float:
    """Natural logarithm, within 2 units in the last place for normal x > 0; -745 for x <= 0 (a floor, not an error).

    log(m * 2^k) = k*ln2 + 2*atanh((m-1)/(m+1)) with m in [sqrt(1/2), sqrt(2)); series to s^23.
    """
    if x <= 0.0:
        return -745.0
    k = 0
    for i in range(10):
        while x >= _POWERS_OF_TWO[i]:
            x = x / _POWERS_OF_TWO[i]
            k += 512 >> i
        while x * _POWERS_OF_TWO[i] <= 1.0:
            x = x * _POWERS_OF_TWO[i]
            k -= 512 >> i
    while x < _SQRT_HALF:
        x = x * 2.0
        k -= 1
    while x >= 2.0 * _SQRT_HALF:
        x = x * 0.5
        k += 1
    s = (x - 1.0) / (x + 1.0)
    square = s * s
    total = 0.0
    n = 23
    while n > 0:
        total = total * square + 1.0 / n
        n -= 2
    return k * _LN2_HIGH + (k * _LN2_LOW + 2.0 * s * total)


@kernel
def tanh(x: float) -> float:
    """Hyperbolic tangent: odd, monotone, within 4 units in the last place away from 0 and 1e-16 absolute near it."""
    size = x if x >= 0.0 else -x
    if size < 1e-4:
        return x - x * x * x / 3.0
    if size > 20.0:
        return 1.0 if x >= 0.0 else -1.0
    e = exp(-2.0 * size)
    value = (1.0 - e) / (1.0 + e)
    return value if x >= 0.0 else -value


@kernel
def power(base: float, exponent: float) -> float:
    """`base` to the `exponent` for base >= 0; 0 to anything is 0."""
    if base <= 0.0:
        return 0.0
    return exp(exponent * log(base))


NATURAL_KELVIN = 30.0
"""The difference at which air that moves by itself has its nominal conductance."""
NATURAL_LEAST_KELVIN = 5.0
"""Below it the conductance falls no further, and above the next it rises no further, so that it has bounds."""
NATURAL_MOST_KELVIN = 120.0


@kernel
def natural_share(kelvin: float, exponent: float) -> float:
    """Conductance at a difference of `kelvin`, as a share of that at 30 K; 1 for an exponent of 0."""
    size = min(max(abs(kelvin), NATURAL_LEAST_KELVIN), NATURAL_MOST_KELVIN)
    return power(size / NATURAL_KELVIN, exponent)


# --- random streams ---------------------------------------------------------------------------------------------------
#
# Counter-based: draw number n of a stream is a function of the stream's two 32-bit keys and n alone, so that streams
# do not disturb each other and a batch draws what single steps draw. 32-bit halves keep every product inside int64,
# where interpreted and compiled arithmetic agree. The multipliers are those of a published 32-bit avalanche function
# ("lowbias32", bias 0.17 bits); the second is written as a negative number, which is the same modulo 2^32.


@kernel
def mix32(x: int) -> int:
    """A bijection of 0..2^32-1 in which every input bit flips each output bit with probability near one half."""
    x = x ^ (x >> 16)
    x = (x * 0x7FEB352D) & 0xFFFFFFFF
    x = x ^ (x >> 15)
    x = (x * -0x7B935975) & 0xFFFFFFFF
    return x ^ (x >> 16)


@kernel
def draw32(key0: int, key1: int, counter: int) -> int:
    """Draw number `counter` (0..2^63-1) of the stream with these keys: an integer in 0..2^32-1."""
    low = counter & 0xFFFFFFFF
    high = counter >> 32
    return mix32((mix32(low ^ key0) + high * 0x9E3779B + key1) & 0xFFFFFFFF)


def stream_keys(seed: int, consumer: str) -> tuple[int, int]:
    """The two keys of the stream that belongs to `consumer` under `seed` (any integer, 0 included)."""
    digest = blake2b(f"{seed}\x00{consumer}".encode(), digest_size=8, person=b"twin.stream").digest()
    return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little")


class Stream:
    """A named stream of random integers. Two streams with different names never share draws by construction."""

    def __init__(self, seed: int, consumer: str) -> None:
        self.key0, self.key1 = stream_keys(seed, consumer)
        self.counter = 0

    def next32(self) -> int:
        """The next draw, 0..2^32-1."""
        value = int(draw32(self.key0, self.key1, self.counter))
        self.counter += 1
        return value

    def below(self, bound: int) -> int:
        """An integer in 0..bound-1 (bound from 1 to 2^31) by multiply and shift; bias at most bound/2^32."""
        if not 1 <= bound <= 1 << 31:
            raise ValueError(f"bound is {bound}; allowed are 1 to {1 << 31}")
        return (self.next32() * bound) >> 32

    def between(self, low: int, high: int) -> int:
        """An integer in low..high, both ends included."""
        return low + self.below(high - low + 1)


def stream_key_array(seed: int, consumer: str) -> Integers:
    """The keys as an array for kernels: `[key0, key1]`."""
    return np.array(stream_keys(seed, consumer), dtype=np.int64)
