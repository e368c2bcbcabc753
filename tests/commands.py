"""The command line for tests: in this process, where a process of its own would only take time."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twin.cli import main

BRIEF = ("--duration", "1", "--set", "heartbeat.t0_ns=100000000")
"""A run that takes no time: ten control cycles, a dozen ticks."""


@dataclass(frozen=True)
class Said:
    """What a command answered."""

    status: int
    out: str
    err: str


def command(*arguments: object) -> Said:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as end:
            status = int(end.code or 0)
    return Said(status, out.getvalue(), err.getvalue())


def answer(*arguments: object, status: int = 0) -> dict[str, Any]:
    """What a command prints with `--json`: one object and nothing else."""
    said = command(*arguments, "--json")
    assert said.status == status, said.err
    parsed: dict[str, Any] = json.loads(said.out)
    return parsed


def files_below(place: Path) -> dict[str, bytes | None]:
    """Every file and folder below, with the content of those that can be read, to see that nothing changed."""
    return {str(path.relative_to(place)): _content(path) for path in sorted(place.rglob("*"))}


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes() if path.is_file() else None
    except PermissionError:
        return None


@contextmanager
def unchanged(place: Path) -> Iterator[None]:
    before = files_below(place)
    yield
    assert files_below(place) == before


def refused(status: int, parts: Sequence[str], said: Said) -> None:
    """One clear message on standard error, with these parts, no traceback, and nothing on standard output."""
    assert said.status == status, (said.status, said.err)
    assert said.out == ""
    assert said.err.startswith("twin")
    assert "Traceback" not in said.err
    assert "--debug" not in said.err or "when called as" in said.err
    missing = [part for part in parts if part not in said.err]
    assert not missing, said.err
    # One line, or a headline with a line for each error.
    first, *more = said.err.rstrip("\n").split("\n")
    assert first
    assert all(line.startswith("  - ") for line in more), said.err


def interpreted() -> dict[str, str]:
    """The environment of a process that need not compile."""
    return {**os.environ, "TWIN_KERNELS": "python"}


PYTHON = sys.executable
