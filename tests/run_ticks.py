"""Ticks with every column that a run records, without a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from twin.record.recorder import TICK_COLUMNS, TICK_SCHEMA
from twin.record.tables import TableSummary, TableWriter


def run_ticks(rows: int) -> dict[str, Any]:
    """Ticks of a busy run, as noisy as those of a machine: lateness of 20 us, 300 words of which 250 or so are hits."""
    noise = np.random.default_rng(5)
    number = np.arange(rows, dtype=np.int64)
    asked = 1_350_000 + (number // 512 * 7_919) % 200_000
    lateness = 76_000 + noise.gamma(2.0, 10_000.0, rows).astype(np.int64)
    passed = asked + np.diff(lateness, prepend=0)
    words = passed * 220 // 1_000_000
    hits = np.minimum(noise.binomial(300, 0.83, rows), words)
    tried = noise.binomial(words, 0.66)
    return {
        "run_id": 0, "config": "1_1_1_1_1_1", "tick_number": number, "tick_ns": asked, "tick_interval_ns": passed,
        "elapsed_ns": np.cumsum(passed), "lateness_ns": lateness, "load_ppm": 293_333 + number // 512 % 100,
        "word_executions_delta": words, "cache_hits_delta": hits, "bucket_hits_delta": words - hits,
        "predictions_delta": tried, "prefetch_hits_delta": noise.binomial(tried, 0.97),
        "hot_word_count": 470 + np.cumsum(noise.integers(-1, 2, rows)) % 60,
        "heat_total_q48": 1_790_000_000 + np.cumsum(noise.normal(0, 800_000, rows).astype(np.int64)) % 100_000_000,
        "decay_slope_q48": 6 + number // 5_000 % 3, "window_width": 2_048 + number // 5_000 % 2 * 64,
    }  # fmt: skip


def write_run_ticks(path: Path, block: dict[str, Any], keep: str = "all") -> TableSummary:
    """A tick table of a run."""
    with TableWriter(path, TICK_SCHEMA, TICK_COLUMNS, keep) as table:
        table.append_block(block)
        return table.close()
