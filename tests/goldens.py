"""The golden digests beside the shipped scenarios. Run as a program it writes them anew."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from running import DIGESTS, SCENARIOS, twin_json

from twin.loader import shipped
from twin.record.recorder import CONTROL_SCHEMA, TICK_SCHEMA


def golden_file(name: str) -> Path:
    return shipped()[name].with_suffix(".golden.json")


def golden(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(golden_file(name).read_text(encoding="utf-8"))
    return found


def measure(name: str, out: Path) -> dict[str, Any]:
    """The digests of a shipped scenario, run as it is."""
    result = twin_json("run", name, "--out", out)
    return {
        "tick_schema": TICK_SCHEMA,
        "control_schema": CONTROL_SCHEMA,
        "ticks": result["ticks"],
        **{key: result[key] for key in DIGESTS},
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name in SCENARIOS:
            found = measure(name, Path(folder) / name)
            path = golden_file(name)
            before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
            path.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
            print(f"{name:16} {found['run_digest'][:16]}  {'unchanged' if before == found else 'CHANGED'}")


if __name__ == "__main__":
    main()
