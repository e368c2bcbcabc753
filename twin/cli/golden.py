"""`twin golden`: the choice that an experiment led to, and why."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from twin.cli import DONE, InputError, output
from twin.experiment.store import Store
from twin.record.files import read_json


def main(options: argparse.Namespace) -> int:
    """Print the choice of a finished experiment."""
    folder = Path(options.directory)
    with Store(folder) as store:
        finished = store.fact("experiment_digest") is not None
    if not finished:
        raise InputError(
            f"{folder}: the experiment is not finished; run the same twin experiment again, and it goes on"
        )
    from twin.experiment.conduct import CHOICE

    choice = read_json(folder / CHOICE)
    if options.json:
        output.print_json(choice)
    elif not options.quiet:
        print_choice(choice)
    return DONE


def print_choice(choice: Mapping[str, Any]) -> None:
    """The ranking as a table, and under it the choice and what each configuration's points come from."""
    rows = []
    for entry in choice["ranking"]:
        interval = entry["interval"]
        best = entry["probability_best"]
        rows.append((
            entry["name"],
            "" if entry["total"] is None else f"{entry['total']:.2f}",
            "none" if interval is None else f"{interval[0]:.2f} to {interval[1]:.2f}",
            "" if best is None else f"{100 * best:.1f} %",
            *(_points(entry, dimension) for dimension in entry["dimensions"]),
        ))  # fmt: skip
    dimensions = choice["ranking"][0]["dimensions"] if choice["ranking"] else {}
    heads = [f"{name} ({100 * each['weight']:.0f})" for name, each in dimensions.items()]
    output.print_table("Points", ("configuration", "total", "95 % interval", "best", *heads), rows)
    print(choice["why"])
    for entry in choice["ranking"]:
        print(f"\n{entry['name']}: {entry['justification']}")


def _points(entry: Mapping[str, Any], dimension: str) -> str:
    points = entry["dimensions"][dimension]["points"]
    return "" if points is None else f"{points:.1f}"
