"""`twin pool`: what is in a pool now, seen from another process."""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from twin.cli import DONE, InputError, output
from twin.pool.errors import PoolError
from twin.pool.layout import LOGICAL_BASE, TIERS
from twin.pool.pool import Pool
from twin.pool.records import read_records
from twin.pool.share import receive, socket_name
from twin.pool.survey import Survey, block_map, survey

MAP_WIDTH = 64


def main(options: argparse.Namespace) -> int:
    """Show it once, or every so many seconds until it is gone."""
    path = Path(options.pool)
    with attached(path) as pool:
        while True:
            seen = survey(pool)
            written, records = read_records(pool, options.records)
            if options.json:
                output.print_json(as_json(seen, written, records))
            else:
                show(str(path), seen, block_map(pool, MAP_WIDTH), written, records)
            if options.watch is None:
                return DONE
            time.sleep(options.watch)
            if path.is_dir() and not _is_served(path):
                return DONE


def attached(path: Path) -> Pool:
    """The pool of the run directory or pool file `path`, for reading. Raises `InputError` and `PoolError`."""
    if path.is_file():
        return Pool.attach_file(path)
    if not path.is_dir():
        raise InputError(f"{path}: is neither a run directory nor a pool file; name one of them")
    try:
        descriptor = receive(socket_name(path), writable=False)
    except PoolError as error:
        raise InputError(
            f"{path}: no pool of this run is to be seen now ({error}); a pool lives as long as its run, and only with "
            "--crystal. With --set pool.file=FILE it stays: twin pool FILE"
        ) from error
    try:
        return Pool.attach(descriptor)
    finally:
        os.close(descriptor)


def _is_served(path: Path) -> bool:
    try:
        os.close(receive(socket_name(path), writable=False))
    except PoolError:
        return False
    return True


def as_json(seen: Survey, written: int, records: list[dict[str, int | None]]) -> dict[str, Any]:
    """What `--json` prints: the survey's fields, `fragmentation`, `records_written` and `records`."""
    return {
        **asdict(seen),
        "base_address": LOGICAL_BASE,
        "fragmentation": seen.fragmentation,
        "records_written": written,
        "records": records,
    }


def _foretold(seen: Survey) -> str:
    if seen.guess_accuracy is None:
        return "none"
    return f"{seen.guesses:,}, {seen.guesses_right:,} of them right ({100 * seen.guess_accuracy:.1f} %)"


def show(name: str, seen: Survey, blocks: str, written: int, records: list[dict[str, int | None]]) -> None:
    """Tables for people."""
    where = f"{seen.mapped_at:#x}"
    if seen.why_not_at_base:
        where += f" here, {LOGICAL_BASE:#x} in addresses ({seen.why_not_at_base})"
    rows = [
        ("memory", f"{seen.size_bytes / 2**20:,.0f} MB, {seen.kind}, mapped at {where}"),
        ("used", f"{seen.used_blocks:,} blocks, {seen.used_bytes:,} bytes, of owners "
                 f"{', '.join(str(owner) for owner in seen.owners) or 'who are gone'}"),
        ("free", f"{seen.free_blocks:,} pieces, {seen.free_bytes:,} bytes, the largest {seen.largest_free_bytes:,}; "
                 f"fragmentation {100 * seen.fragmentation:.1f} %"),
        *((tier, f"{seen.tiers[tier]['blocks']:,} blocks, {seen.tiers[tier]['bytes']:,} bytes") for tier in TIERS),
        ("tier moves", f"{seen.promotions:,} promotions, {seen.demotions:,} demotions, the heartbeat's of its words "
                       "apart"),
        ("accesses foretold", _foretold(seen)),
        ("pages", f"{seen.pages_prefetched:,} prefetched, {seen.pages_advised_cold:,} advised cold, "
                  f"{seen.pages_refused:,} refused by the kernel"),
        ("layouts applied", f"{seen.layouts_applied:,}"),
        ("recoveries", f"{seen.recoveries:,}"),
        ("block map", blocks),
    ]  # fmt: skip
    output.print_table(f"Crystal Core of {name}", ("", ""), rows)
    if records:
        newest = records[-1]
        shown = [(field, "none" if value is None else f"{value:,}") for field, value in newest.items()]
        output.print_table(f"Record {written:,} (the newest of {len(records):,} shown with --json)", ("", ""), shown)
    else:
        print("no telemetry records")
