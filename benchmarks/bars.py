"""Measure the speed figures and hold them against their bars. Exit status 1 when one is missed.

    python benchmarks/bars.py

Timings depend on the machine and on what else it does, so each is printed beside a raw SimPy event measured in the same
process; the bars are those of the project's documentation. Each figure is a median of five measurements, as
`twin benchmark` gives it; a decision is the least of five for each cycle, of which the percentiles are taken.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

AT_MOST = {
    "run_100s_seconds": 0.6,
    "run_100s_peak_mb": 350.0,
    "tick_ns": 3_000.0,
    "word_ns": 20.0,
    "capture_ns": 40.0,
    "inference_us": 200.0,
    "decision_us_p99": 100.0,
    "pool_alloc_ns": 1_500.0,
    "pool_free_ns": 1_500.0,
    "pool_free_scattered_ns": 1_500.0,
    "pool_write_1k_ns": 1_000.0,
    "pool_read_1k_ns": 1_000.0,
    "pool_attach_ms": 5.0,
    "policy_batch_us": 50.0,
    "thermal_predict_us": 15.0,
    "fingerprint_100k_ms": 20.0,
}
"""Bars from above. Of a figure that is an object, each entry has to keep it."""
AT_LEAST = {"pool_write_16m_share": 0.8, "pool_overwrite_16m_share": 0.8, "pool_read_16m_share": 0.8}
"""Bars from below: shares of what a plain copy reaches."""
FLAT = {"pool_alloc_ns": 2.0, "pool_free_ns": 2.0, "pool_free_scattered_ns": None}
"""How many times the smallest entry the largest may be; None where it is only told."""
_NANOSECONDS = {"ns": 1.0, "us": 1e3, "ms": 1e6, "seconds": 1e9}


def main() -> int:
    """Print a line for each figure."""
    done = subprocess.run(
        [sys.executable, "-m", "twin", "benchmark", "--json"], capture_output=True, text=True, check=True
    )
    figures = json.loads(done.stdout)
    print(f"{'simpy_event_ns':32} {figures['simpy_event_ns']:12,.1f}")
    return 1 if sum([not kept for kept in _lines(figures)]) else 0


def _lines(figures: dict[str, Any]) -> Iterator[bool]:
    """Print the lines one after another; whether each bar was kept."""
    event = figures["simpy_event_ns"]
    for name, bar in AT_MOST.items():
        value = figures[name]
        unit = next((unit for unit in name.split("_") if unit in _NANOSECONDS), None)
        for entry, number in value.items() if isinstance(value, dict) else [("", value)]:
            events = "" if unit is None else f"{number * _NANOSECONDS[unit] / event:,.3f} events"
            yield _line(f"{name} at {entry}" if entry else name, number, events, bar, number <= bar)
    for name, bar in AT_LEAST.items():
        yield _line(name, figures[name], "", bar, figures[name] >= bar)
    for name, most in FLAT.items():
        ratio = max(figures[name].values()) / min(figures[name].values())
        yield _line(f"{name} largest/smallest", ratio, "", most, most is None or ratio <= most)


def _line(name: str, value: float, events: str, bar: float | None, kept: bool) -> bool:
    said = "" if bar is None else f"bar {bar:9,.3f}  {'kept' if kept else 'MISSED'}"
    print(f"{name:38} {value:12,.3f} {events:>21}  {said}".rstrip())
    return kept


if __name__ == "__main__":
    sys.exit(main())
