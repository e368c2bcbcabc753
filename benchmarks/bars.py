"""Measure the speed figures and hold them against their bars. Exit status 1 when one is missed.

    python benchmarks/bars.py

Timings depend on the machine and on what else it does, so each is printed beside a raw SimPy event measured in the same
process; the bars are those of the project's documentation.
"""

from __future__ import annotations

import json
import subprocess
import sys

BARS = {
    "run_100s_seconds": 0.6,
    "run_100s_peak_mb": 350.0,
    "tick_ns": 3_000.0,
    "word_ns": 20.0,
    "capture_ns": 40.0,
    "decision_us_p99": 1_000.0,
    "policy_batch_us": 50.0,
}


def main() -> int:
    """Print a line for each figure."""
    done = subprocess.run(
        [sys.executable, "-m", "twin", "benchmark", "--json"], capture_output=True, text=True, check=True
    )
    figures = json.loads(done.stdout)
    event = figures["simpy_event_ns"]
    print(f"{'simpy_event_ns':18} {event:12,.1f}")
    missed = 0
    for name, bar in BARS.items():
        value = figures[name]
        kept = value <= bar
        missed += not kept
        scale = 1.0 if name.endswith("_ns") else 1e3 if "_us" in name else 1e9
        ratio = "" if name.endswith("_mb") else f"{value * scale / event:14,.3f} events"
        print(f"{name:18} {value:12,.3f} {ratio:21}  bar {bar:10,.3f}  {'kept' if kept else 'MISSED'}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
