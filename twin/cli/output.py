"""What commands print: JSON for programs, tables for people, progress for the patient."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any, Self

from twin.timing import SECOND_NS

if TYPE_CHECKING:
    from simpy import Event

    from twin.clock import TwinEnvironment


def print_json(value: Any) -> None:
    """One JSON object on standard output; NaN and infinity are refused."""
    print(json.dumps(value, allow_nan=False))


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on standard output, as wide as its contents where nobody says how wide a line is."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(cell.replace("[", r"\[") for cell in row))
    console = Console(width=None if sys.stdout.isatty() else 160)
    # Printed by us, because the library ends the program where nobody reads on.
    with console.capture() as captured:
        console.print(table)
    print(captured.get(), end="")


class Progress:
    """How far something is, on standard error: a bar on a terminal, a line every few seconds elsewhere.

    `total` is in `unit`s, which a line names.
    """

    LINE_EVERY_SECONDS = 5.0

    def __init__(self, options: argparse.Namespace, name: str, total: int, unit: str = "s") -> None:
        self._quiet = bool(options.quiet or options.json)
        self._name = name
        self._total = total
        self._unit = unit
        self._bar: Any = None
        self._task: Any = None
        self._last_line = time.monotonic()

    def __enter__(self) -> Self:
        if not self._quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import Progress as Bar

            self._bar = Bar(console=Console(stderr=True), transient=True)
            self._bar.start()
            self._task = self._bar.add_task(self._name, total=self._total)
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def reached(self, done: int, note: str = "") -> None:
        """So many of `total` are done; `note` is said beside it."""
        if self._bar is not None:
            self._bar.update(self._task, completed=done, description=f"{self._name} {note}".rstrip())
        elif not self._quiet and time.monotonic() - self._last_line >= self.LINE_EVERY_SECONDS:
            self._last_line = time.monotonic()
            print(f"{self._name}: {done} of {self._total} {self._unit}{note and f', {note}'}", file=sys.stderr)

    def watch(self, env: TwinEnvironment) -> None:
        """Follow a run from inside its environment, once a second of its time; `total` is its seconds."""
        if not self._quiet:
            env.process(self._follow(env))

    def _follow(self, env: TwinEnvironment) -> Generator[Event, None, None]:
        # Whoever has an environment has imported this already; a command without one need not wait for the compiler.
        from twin.clock import Order

        while True:
            yield env.after(SECOND_NS, Order.RECORDER)
            self.reached(int(env.now) // SECOND_NS)
