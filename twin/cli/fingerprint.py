"""`twin fingerprint`: what a recorded run was like, computed again from its ticks."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from twin.cli import ANSWER_IS_NO, DONE, InputError, output
from twin.fingerprint.run import METRICS, MOST_TICKS, SCHEMA, SCORES, TICK_FIELDS, run_fingerprint
from twin.heart import ticks
from twin.kernels import Integers
from twin.loader import load
from twin.record.files import read_json
from twin.record.recorder import TICK_NAMES
from twin.record.rundir import FINGERPRINT, SCENARIO, TICKS, RunDirectory
from twin.record.tables import read_table, table_facts

_COMPUTED = (*TICK_FIELDS, *SCORES, "schema", "latency_p99_ns")
"""What is not taken from the recorded fingerprint."""


def main(options: argparse.Namespace) -> int:
    """Compute, compare, and name the fields that differ."""
    directory = RunDirectory.open(Path(options.run), needs=(SCENARIO, FINGERPRINT))
    place = directory.path if options.ticks is None else Path(options.ticks)
    stored = read_json(directory.file(FINGERPRINT))
    words = load(str(directory.file(SCENARIO))).heartbeat.words
    captured = _every_tick(directory, place / TICKS)
    machine = {name: value for name, value in stored.items() if name not in _COMPUTED}
    if captured is not None:
        lateness = captured[ticks.C_LATENESS]
        machine["ticks"] = captured.shape[1]
        machine["word_executions"] = int(captured[ticks.C_WORDS].sum())
        machine["longest_lateness_ns"] = max(0, int(lateness.max())) if len(lateness) else 0
    found = run_fingerprint(captured, words, machine)
    comparable = stored.get("schema") == SCHEMA
    names = [*found, *(name for name in stored if name not in found)] if comparable else []
    differing = [name for name in names if found.get(name) != stored.get(name)]
    result = {
        "run_dir": str(directory.path),
        "equal": not differing if comparable else None,
        "differing": differing,
        "fingerprint": found,
    }
    _report(options, result)
    return ANSWER_IS_NO if differing else DONE


def _every_tick(directory: RunDirectory, path: Path) -> Integers | None:
    """Every tick in the table, in the columns of `twin.heart.ticks`; None where they are too many.

    Raises `InputError` when the table has not every tick of this run.
    """
    facts = table_facts(path)
    run = directory.path
    if facts.summary.kept != facts.summary.rows:
        raise InputError(
            f"{path}: this run kept {facts.keep} of its ticks, and a fingerprint needs every one; twin replay {run} "
            f"--out DIR makes them again, then twin fingerprint {run} --ticks DIR"
        )
    digest = (directory.manifest or {}).get("digests", {}).get("tick_digest", facts.summary.digest)
    if facts.summary.digest != digest:
        raise InputError(f"{path}: has the ticks of another run than {run}, or damaged ones; name its own")
    if facts.summary.rows > MOST_TICKS:
        return None
    table = read_table(path)
    missing = [name for name in TICK_NAMES if name not in table.column_names]
    if missing:
        raise InputError(f"{path}: has no {', '.join(missing)}, so an earlier version wrote it; run it again")
    captured = np.empty((ticks.COLUMNS, table.num_rows), dtype=np.int64)
    for row, name in enumerate(TICK_NAMES):
        captured[row] = table.column(name).to_numpy()
    return captured


def _report(options: argparse.Namespace, result: dict[str, Any]) -> None:
    if options.json:
        output.print_json(result)
        return
    if options.quiet:
        return
    found = result["fingerprint"]
    verdict = {None: "none to compare with: an earlier version recorded it", True: "equal to this one",
               False: f"DIFFERENT in {', '.join(result['differing'])}"}  # fmt: skip
    rows = [(name, _figure(found, name)) for name in found if name not in ("schema", "reasons")]
    rows.append(("recorded fingerprint", verdict[result["equal"]]))
    output.print_table(f"Fingerprint of {result['run_dir']}", ("", ""), rows)


def _figure(found: Mapping[str, Any], name: str) -> str:
    value = found[name]
    if value is None:
        return f"not known: {found['reasons'][name]}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        lines = (" ".join("   . " if r is None else f"{r:5.2f}" for r in row) for row in value)
        return "\n".join(f"{line}  {metric}" for line, metric in zip(lines, METRICS, strict=True))
    return f"{value:,}" if isinstance(value, int) else f"{value:,.6g}"
