"""Polynomials, random streams and the switch: the same bits compiled and interpreted, with golden vectors."""

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from profiles import NIGHTLY

from twin import kernels
from twin.kernels import Stream, draw32, exp, log, mix32, power, stream_keys, tanh

GOLDEN: dict[str, Any] = {
    "mix32": [0, 1753845952, 3507691905, 1734902346],
    "keys_seed_0": [978222068, 3444867938],
    "keys_seed_1": [3799394269, 1145544612],
    "stream": [2422363826, 4022316446, 3931867461, 3384567946, 708203309],
    "far": 2359150144,
}


@given(st.floats(-700, 700))
def test_exp_is_within_four_units_in_the_last_place(x: float) -> None:
    assert exp(x) == pytest.approx(math.exp(x), rel=4 * 2.3e-16)


@given(st.floats(1e-300, 1e300))
def test_log_is_within_two_units_in_the_last_place(x: float) -> None:
    assert log(x) == pytest.approx(math.log(x), rel=4.5e-16, abs=1e-16)


@given(st.floats(-30, 30))
def test_tanh(x: float) -> None:
    assert tanh(x) == pytest.approx(math.tanh(x), rel=1e-12, abs=1e-15)
    assert tanh(-x) == -tanh(x)


@given(st.floats(0.001, 1_000), st.floats(-3, 3))
def test_power(base: float, exponent: float) -> None:
    assert power(base, exponent) == pytest.approx(base**exponent, rel=1e-13)


def test_ends_of_the_ranges() -> None:
    assert exp(-1e9) == 0.0
    assert exp(1e9) == exp(709.0) < float("inf")
    assert log(0.0) == log(-1.0) == -745.0
    assert tanh(1e9) == 1.0
    assert power(0.0, 0.6) == 0.0


def test_streams_have_golden_vectors() -> None:
    assert [mix32(x) for x in (0, 1, 2, 0xFFFFFFFF)] == GOLDEN["mix32"]
    assert list(stream_keys(0, "world.frames")) == GOLDEN["keys_seed_0"]
    assert list(stream_keys(1, "world.frames")) == GOLDEN["keys_seed_1"]
    stream = Stream(7, "golden")
    assert [stream.next32() for _ in range(5)] == GOLDEN["stream"]
    assert draw32(1, 2, (1 << 62) + 3) == GOLDEN["far"]


@given(st.integers(0, (1 << 63) - 1), st.integers(1, 1 << 31))
def test_below_stays_below(seed: int, bound: int) -> None:
    stream = Stream(seed, "any")
    assert all(0 <= stream.below(bound) < bound for _ in range(10))


def test_a_stream_is_even_and_its_neighbours_are_independent() -> None:
    stream, neighbour = Stream(3, "even"), Stream(3, "even2")
    draws = [stream.below(16) for _ in range(32_000)]
    others = [neighbour.below(16) for _ in range(32_000)]
    expected = 2_000
    chi_square = sum((draws.count(k) - expected) ** 2 / expected for k in range(16))
    assert chi_square < 44.3  # 15 degrees of freedom, one in ten thousand
    agreements = sum(a == b for a, b in zip(draws, others, strict=True))
    assert abs(agreements - 2_000) < 5 * 43.3  # binomial, five standard deviations


def test_an_unknown_mode_is_refused() -> None:
    result = subprocess.run(
        [sys.executable, "-c", "import twin.kernels"],
        env={**os.environ, "TWIN_KERNELS": "fast"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode != 0
    assert "allowed are python and numba" in result.stderr


@pytest.mark.skipif(kernels.MODE != "numba", reason="kernels are not compiled here")
def test_compiled_kernels_contain_no_fused_multiply_add(tmp_path: Path) -> None:
    """In a process with an empty cache, because the machine code of cached kernels cannot be looked at."""
    done = subprocess.run(
        [sys.executable, Path(__file__).parent / "compile_everything.py", *([] if NIGHTLY else ["few"])],
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path), "NUMBA_CACHE_DIR": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    print(done.stdout)
