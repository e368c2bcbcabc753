"""Ticks of made-up runs for fingerprints, and a program that prints their fingerprints' digests."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
from run_ticks import run_ticks

from twin.fingerprint.run import run_fingerprint
from twin.heart import ticks
from twin.kernels import Stream
from twin.record.recorder import TICK_NAMES

WORDS = 512


def busy(count: int) -> np.ndarray:
    """Ticks as noisy as those of a machine, shape (COLUMNS, count)."""
    block = run_ticks(count)
    return np.array([block[name] for name in TICK_NAMES], dtype=np.int64).reshape(ticks.COLUMNS, count)


def answering(count: int, adapt: bool = True, seed: int = 1) -> np.ndarray:
    """A heartbeat whose interval follows the load five ticks later, or with `adapt` off stays; lateness is white.

    The load is a random walk; nine of ten words are found in the hot tier.
    """
    rng = np.random.default_rng(seed)
    load = np.clip(500_000 + np.cumsum(rng.normal(0, 6_000, count)), 0, 1_000_000).astype(np.int64)
    asked = np.full(count, 1_000_000)
    if adapt:
        asked = 500_000 + np.concatenate([load[:1].repeat(5), load])[:count]
    late = rng.gamma(2.0, 5_000.0, count).astype(np.int64)
    passed = asked + np.diff(late, prepend=late[0])
    words = np.full(count, 200)
    hits = rng.binomial(words, 0.9)
    found = np.zeros((ticks.COLUMNS, count), dtype=np.int64)
    for column, values in (
        (ticks.C_TICK, np.arange(count)), (ticks.C_ASKED, asked), (ticks.C_PASSED, passed),
        (ticks.C_ELAPSED, np.cumsum(passed)), (ticks.C_LATENESS, late), (ticks.C_LOAD, load), (ticks.C_WORDS, words),
        (ticks.C_CACHE_HITS, hits), (ticks.C_BUCKET_HITS, words - hits), (ticks.C_HOT, 60 + rng.integers(-5, 6, count)),
        (ticks.C_TOTAL, 10**9 + rng.integers(0, 10**6, count)), (ticks.C_SLOPE, 4), (ticks.C_WINDOW, 4_096),
    ):  # fmt: skip
        found[column] = values
    return found


def anything(seed: int, count: int) -> np.ndarray:
    """Ticks that no heartbeat would make: flat, noisy, holed, stepped, huge; unknown loads, time that stands still."""
    rng = np.random.default_rng(seed)
    found = np.zeros((ticks.COLUMNS, count), dtype=np.int64)
    number = np.arange(count)
    for column in range(ticks.COLUMNS):
        scale = 10 ** int(rng.integers(0, 12))
        kind = rng.integers(0, 6)
        if kind == 0:
            found[column] = scale
        elif kind == 1:
            found[column] = rng.integers(0, scale + 1, count)
        elif kind == 2:
            found[column] = rng.integers(0, scale + 1, count) * (rng.random(count) < 0.02)
        elif kind == 3:
            found[column] = np.where(number < count // 3, scale, 3 * scale)
        elif kind == 4:
            found[column] = number * int(rng.integers(0, 1_000))
        else:
            found[column] = (scale * (1 + np.sin(number / 50 / (1 + rng.random())))).astype(np.int64)
    if rng.random() < 0.5:
        found[ticks.C_ELAPSED] = np.cumsum(found[ticks.C_PASSED] % 10**9)
    else:
        found[ticks.C_ELAPSED] = np.sort(found[ticks.C_ELAPSED])
    if rng.random() < 0.3:
        found[ticks.C_LOAD, rng.random(count) < 0.01] = ticks.UNKNOWN_LOAD
    if rng.random() < 0.5:
        found[ticks.C_CACHE_HITS] = 50 + rng.integers(0, 3, count)
        found[ticks.C_BUCKET_HITS] = 9
    return found


def dealt(count: int) -> np.ndarray:
    """Ticks from our own random stream by integers alone: the same on every machine and with every NumPy."""
    stream = Stream(1, "tests.fingerprint")
    found = np.zeros((ticks.COLUMNS, count), dtype=np.int64)
    elapsed = late = 0
    load = 500_000
    for t in range(count):
        before, late = late, stream.below(20_000)
        load = min(1_000_000, max(0, load + stream.between(-20_000, 20_000)))
        asked = 600_000 + load
        elapsed += asked + late - before
        words = 150 + stream.below(40)
        hits = words * (60 + stream.below(5) + 30 * min(t, 2_000) // 2_000) // 100
        found[:, t] = (
            t, asked, asked + late - before, elapsed, late, load, words, hits, words - hits, 90, 80,
            50 + stream.below(7), (load << 8) + stream.below(1 << 20), 6 + t // 4_000, 4_096 - 64 * (t // 3_000),
        )  # fmt: skip
    return found


def digest_of(fingerprint: dict[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(fingerprint, allow_nan=False).encode(), digest_size=8).hexdigest()


def main() -> None:
    """One line for each of a few runs: what the two kinds of kernels have to agree in."""
    samples = [busy(12_000), answering(11_000), answering(2_500, adapt=False), *(anything(n, 3_000) for n in range(8))]
    samples += [anything(n, 10_500) for n in range(20, 23)]
    for sample in samples:
        print(digest_of(run_fingerprint(sample, WORDS, {})))


if __name__ == "__main__":
    main()
