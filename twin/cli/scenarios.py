"""`twin scenarios`: what is shipped."""

from __future__ import annotations

import argparse
import tomllib

from twin.cli import DONE, output
from twin.loader import shipped
from twin.machines import shipped_machines


def main(options: argparse.Namespace) -> int:
    """List the shipped scenarios with what they are for, and the machines with where they come from."""
    found = []
    for name, path in shipped().items():
        data = tomllib.loads(path.read_text(encoding="utf-8"))
        found.append({"name": name, "description": data["description"], "duration_seconds": data["duration_ms"] / 1e3})
    machines = []
    for name, path in shipped_machines().items():
        origin = tomllib.loads(path.read_text(encoding="utf-8"))["origin"]
        rmse = origin.get("unseen", {}).get("rmse_celsius")
        machines.append({"name": name, "kind": origin["kind"], "source": origin["source"], "licence": origin["licence"],
                         "unseen_rmse_celsius": rmse})  # fmt: skip
    if options.json:
        output.print_json({"scenarios": found, "machines": machines})
    else:
        rows = [(item["name"], f"{item['duration_seconds']:g} s", item["description"]) for item in found]
        output.print_table("Scenarios", ("name", "lasts", "what it is for"), rows)
    if machines and not options.json:
        shown = [
            (each["name"], each["kind"], "" if each["unseen_rmse_celsius"] is None else
             f"{each['unseen_rmse_celsius']:.2f} \u00b0C", f"{each['source']} ({each['licence']})")
            for each in machines
        ]  # fmt: skip
        output.print_table("Machines (--machine)", ("name", "kind", "error", "fitted from"), shown)
    return DONE
