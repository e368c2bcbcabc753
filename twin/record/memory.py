"""A recorder for runs of which no files are wanted: the ticks in memory, and the digests that the files would have."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np

from hardware.interface import Channel, Limit
from twin.control.cycle import Cycle
from twin.heart import ticks
from twin.kernels import Integers
from twin.record import arrow
from twin.record.arrow import Column
from twin.record.digest import TableDigest
from twin.record.keep import Keep
from twin.record.recorder import (
    CONTROL_SCHEMA,
    TICK_COLUMNS,
    TICK_SCHEMA,
    Recorded,
    control_columns,
    control_row,
    tick_block,
)
from twin.record.summary import RunSummary
from twin.record.tables import TableSummary
from twin.scenario import Scenario


class MemoryRecorder:
    """Keeps what `twin.record.recorder.RunRecorder` writes; `close` gives the same summaries and the same digests."""

    def __init__(self, scenario: Scenario, channels: tuple[Channel, ...], limits: Mapping[str, Limit]) -> None:
        self._outputs = tuple(limits)
        self._config = scenario.heartbeat.config
        sensors = tuple(sensor.name for sensor in scenario.machine.sensors)
        self._sensors = len(sensors)
        self._control_columns = control_columns(channels, self._outputs, sensors)
        self._summary = RunSummary(channels)
        self._blocks: list[Integers] = []
        self._rows: list[list[int | str | None]] = []

    def ticks(self, captured: Integers) -> None:
        """Keep these ticks."""
        self._blocks.append(captured.copy())

    def cycle(self, cycle: Cycle) -> None:
        """Keep what the control table says of this cycle."""
        self._rows.append(control_row(cycle, self._outputs, self._sensors))
        self._summary.cycle(cycle.view, cycle.readings, cycle.decision.action, bool(cycle.verdict.failsafe))

    def close(self) -> Recorded:
        """What the run comes to, with every tick."""
        captured: Integers = np.zeros((ticks.COLUMNS, 0), dtype=np.int64)
        if self._blocks:
            captured = np.concatenate(self._blocks, axis=1)
            self._blocks.clear()
            self._summary.ticks(captured[ticks.C_WORDS], captured[ticks.C_LATENESS])
        count = captured.shape[1]
        block = tick_block(captured, 0, self._config)
        tick_digest = TableDigest(TICK_SCHEMA, [(column.name, column.code) for column in TICK_COLUMNS])
        for column in tick_digest.columns:
            values = block[column.name]
            if isinstance(values, str):
                column.text(values, count)
            else:
                column.integers(np.full(count, values) if isinstance(values, int) else values)
        return Recorded(
            TableSummary(count, count, tick_digest.hexdigest()),
            TableSummary(len(self._rows), len(self._rows), _rows_digest(self._control_columns, self._rows)),
            self._summary.result(),
            self._summary.missing,
            captured,
        )


def _rows_digest(columns: Sequence[Column], rows: Sequence[Sequence[int | str | None]]) -> str:
    """The digest of a control table with these rows."""
    digest = TableDigest(CONTROL_SCHEMA, [(column.name, column.code) for column in columns])
    for column, values in zip(digest.columns, zip(*rows, strict=True), strict=True) if rows else ():
        if column.kind == "str":
            for value in values:
                column.text(str(value))
        else:
            valid = np.array([value is not None for value in values])
            integers = np.array([0 if value is None else value for value in values], dtype=np.int64)
            column.integers(integers, valid if column.kind == "i64?" else None)
    return digest.hexdigest()


def kept_ticks(captured: Integers, run_id: int, config: str, keep: str) -> bytes:
    """A Parquet file of those ticks of a run (shape COLUMNS x ticks) that `keep` names; empty when those are none."""
    choice = Keep.parse(keep)
    total = captured.shape[1]
    rows = choice.count(total)
    if not rows:
        return b""
    block = tick_block(captured[:, choice.numbers(total, 0, rows)], run_id, config)
    place = io.BytesIO()
    with arrow.writer(place, TICK_COLUMNS) as writer:
        writer.write_table(arrow.table(TICK_COLUMNS, block, rows))
    return place.getvalue()
