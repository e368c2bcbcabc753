"""`twin scenarios`: what is shipped."""

from __future__ import annotations

import argparse
import tomllib

from twin.cli import DONE, output
from twin.loader import shipped


def main(options: argparse.Namespace) -> int:
    """List the shipped scenarios with what they are for."""
    found = []
    for name, path in shipped().items():
        data = tomllib.loads(path.read_text(encoding="utf-8"))
        found.append({"name": name, "description": data["description"], "duration_seconds": data["duration_ms"] / 1e3})
    if options.json:
        output.print_json({"scenarios": found})
    else:
        rows = [(item["name"], f"{item['duration_seconds']:g} s", item["description"]) for item in found]
        output.print_table("Scenarios", ("name", "lasts", "what it is for"), rows)
    return DONE
