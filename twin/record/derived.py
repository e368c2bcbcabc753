"""Columns that are computed from the stored ones when a tick table is exported.

| column | formula | no value |
|---|---|---|
| `cache_hit_percent` | 100 * `cache_hits_delta` / (`cache_hits_delta` + `bucket_hits_delta`) | no lookups |
| `bucket_hit_percent` | 100 * `bucket_hits_delta` / (`cache_hits_delta` + `bucket_hits_delta`) | no lookups |
| `avg_word_heat` | `heat_total_q48` / 65536 / words of the scenario: mean heat in executions | |
| `tick_jitter_ns` | `tick_interval_ns` - `tick_ns`: what passed minus what the heartbeat had asked for | |
| `metric_stability_index` | max(0, 1 - mean of CV(m) over the seven metrics m) | first 255 ticks |

CV(m) is the population standard deviation over the mean of m in this tick and the 255 before. A metric that is 0 in all
of them does not vary: its CV is 0. The metrics are `tick_interval_ns`, `cache_hits_delta`, `bucket_hits_delta`,
`hot_word_count`, `avg_word_heat`, `window_width` and `word_executions_delta`; a CV has no unit, so `heat_total_q48`
stands for `avg_word_heat` and the number of words is not needed.

A column is left out where its source is: `avg_word_heat` when the scenario does not name its words, and
`metric_stability_index` when the file does not have every row of the run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import pyarrow as pa

WINDOW_TICKS = 256
"""Ticks that the stability index looks at. A power of two, because windows are put together from halves."""
METRICS = (
    "tick_interval_ns",
    "cache_hits_delta",
    "bucket_hits_delta",
    "hot_word_count",
    "heat_total_q48",
    "window_width",
    "word_executions_delta",
)
"""The stored columns of the seven metrics."""
_Q16 = 65_536.0


class Derived:
    """Adds the derived columns to the rows of a table, which come in order, in pieces of any size."""

    def __init__(self, whole: bool, words: int | None) -> None:
        """`whole` says that no row is left out, `words` how many the heartbeat has (None when that is not known)."""
        self._words = words
        self._index = StabilityIndex() if whole else None

    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """`batch` with the columns that can be derived from it and from what came before."""
        import pyarrow as pa

        there = batch.schema.names

        def has(*names: str) -> bool:
            return all(name in there for name in names)

        def integers(name: str) -> npt.NDArray[np.int64]:
            # No stored value reaches 2^63, so u64 fits.
            return np.asarray(batch.column(name).to_numpy(), dtype=np.int64)

        columns: dict[str, pa.Array] = {}
        if has("cache_hits_delta", "bucket_hits_delta"):
            cache, bucket = integers("cache_hits_delta"), integers("bucket_hits_delta")
            columns["cache_hit_percent"] = _array(share_percent(cache, bucket))
            columns["bucket_hit_percent"] = _array(share_percent(bucket, cache))
        if self._words is not None and has("heat_total_q48"):
            columns["avg_word_heat"] = _array(integers("heat_total_q48") / _Q16 / self._words)
        if has("tick_interval_ns", "tick_ns"):
            columns["tick_jitter_ns"] = pa.array(integers("tick_interval_ns") - integers("tick_ns"), pa.int64())
        if self._index is not None and has(*METRICS):
            columns["metric_stability_index"] = _array(self._index.take([integers(name) for name in METRICS]))
        for name, column in columns.items():
            batch = batch.append_column(name, column)
        return batch


def share_percent(part: npt.NDArray[np.int64], other: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """100 * part / (part + other), from 0 to 100, for arrays of shape (n,) from 0 to 2^32 - 1; NaN where both are 0."""
    both = part + other
    found = np.full(len(part), np.nan)
    np.divide(100.0 * part, both, out=found, where=both > 0)
    return found


class StabilityIndex:
    """`metric_stability_index`, tick by tick, of metrics that come in pieces.

    The value of a tick is computed from its 256 ticks alone, always in the same order, so the pieces' sizes change no
    bit of it.
    """

    def __init__(self) -> None:
        self._before: list[npt.NDArray[np.int64]] = [np.zeros(0, dtype=np.int64) for _ in METRICS]

    def take(self, metrics: Sequence[npt.NDArray[np.int64]]) -> npt.NDArray[np.float64]:
        """The index at each tick of a piece, from 0 to 1, NaN in the first 255 ticks of the run.

        `metrics` are as in `METRICS`: seven arrays of shape (n,), of values that are not negative.
        """
        ticks = len(metrics[0])
        windows = max(len(self._before[0]) + ticks - WINDOW_TICKS + 1, 0)
        total = np.zeros(windows)
        for place, values in enumerate(metrics):
            series = np.concatenate([self._before[place], values])
            if windows:
                total += _variation(series.astype(np.float64))
            self._before[place] = series[-(WINDOW_TICKS - 1) :]
        found = np.full(ticks, np.nan)
        found[ticks - windows :] = np.maximum(1.0 - total / len(METRICS), 0.0)
        return found


def _variation(series: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The coefficient of variation of every `WINDOW_TICKS` values in a row of `series`, which has at least as many.

    Each window is put together from two halves, those from quarters, and so on: eight steps for all windows at once.
    Of two groups of n values with means a and b, the squared deviations from the common mean (a + b) / 2 add up to
    those from a, those from b, and (b - a)^2 n / 2. Nothing is subtracted from a sum of squares, so nothing cancels.
    """
    mean, squares = series, np.zeros(len(series))
    size = 1
    while size < WINDOW_TICKS:
        apart = mean[size:] - mean[:-size]
        squares = squares[size:] + squares[:-size] + apart * apart * (size / 2)
        mean = mean[:-size] + apart / 2
        size *= 2
    found = np.zeros(len(mean))
    np.divide(np.sqrt(squares / WINDOW_TICKS), mean, out=found, where=mean > 0)
    return found


def _array(values: npt.NDArray[np.float64]) -> pa.Array:
    """An Arrow column of `values`, with no value where they are NaN."""
    import pyarrow as pa

    return pa.array(values, pa.float64(), mask=np.isnan(values))
