"""The recorder of a run: seam log, tick table and control table, and what the machine did in a few figures."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hardware.interface import Channel, Command, Limit
from twin.control.cycle import Cycle
from twin.control.view import Learned
from twin.heart import ticks
from twin.kernels import Integers
from twin.record import seamformat
from twin.record.arrow import Column
from twin.record.files import RecordError
from twin.record.seamlog import SeamLogWriter
from twin.record.summary import RunSummary
from twin.record.tables import TableSummary, TableWriter
from twin.scenario import Scenario

TICK_SCHEMA = "tick/1"
CONTROL_SCHEMA = "control/1"
WAITING_TICKS = 4_096
"""Ticks that wait to be put into their table together, because they come by the hundred and the table has a price."""

TICK_COLUMNS = (
    Column("run_id", "u32"),
    Column("config", "str"),
    Column("tick_number", "u32"),
    Column("tick_ns", "u64"),
    Column("tick_interval_ns", "u64"),
    Column("elapsed_ns", "u64"),
    Column("lateness_ns", "i64"),
    Column("load_ppm", "u32"),
    Column("word_executions_delta", "u32"),
    Column("cache_hits_delta", "u32"),
    Column("bucket_hits_delta", "u32"),
    Column("predictions_delta", "u32"),
    Column("prefetch_hits_delta", "u32"),
    Column("hot_word_count", "u32"),
    Column("heat_total_q48", "u64"),
    Column("decay_slope_q48", "u64"),
    Column("window_width", "u32"),
)
TICK_NAMES = tuple(column.name for column in TICK_COLUMNS[2:])
"""The columns that the heartbeat captures, in the order of `twin.heart.ticks`."""


def control_columns(channels: tuple[Channel, ...], outputs: tuple[str, ...], sensors: tuple[str, ...]) -> list[Column]:
    """The control table of a machine: timing, readings with their status, what was made of them, decision, command.

    What a learner tells is empty, or null, where nobody learns.
    """
    columns = [
        Column("cycle", "u32"),
        Column("time_ns", "u64"),
        Column("lateness_ns", "i64"),
        Column("suspended_ns", "u64"),
    ]
    for channel in channels:
        columns += [Column(channel.name, "i64", nullable=True), Column(f"{channel.name}_status", "u8")]
    columns += [Column(f"{name}_worst_millicelsius", "i64", nullable=True) for name in sensors]
    columns += [
        Column(name, "i64", nullable=True) for name in ("cpu_load_ppm", "cpu_power_microwatts", "memory_used_ppm")
    ]
    columns += [Column(name, "str") for name in ("suspicion", "unchecked", "action", "source", "reason")]
    columns += [Column(name, "str") for name in ("proposed", "executed", "learner_note", "weights")]
    columns += [Column(name, "i64", nullable=True) for name in ("authority_percent", "reward_micro", "anomaly_micro")]
    columns += [Column(f"{name}_forecast_millicelsius", "i64", nullable=True) for name in sensors]
    for name in outputs:
        columns += [Column(f"{name}_asked", "i64", nullable=True), Column(f"{name}_command", "i64")]
        columns.append(Column(f"{name}_applied", "i64", nullable=True))
    return columns + [Column(name, "str") for name in ("shield_changed", "apply_failed")]


def tick_block(captured: Integers, run_id: int, config: str) -> dict[str, Integers | int | str]:
    """Captured ticks (shape COLUMNS x n) as rows of the tick table of run `run_id`, whose loops are `config`."""
    return {"run_id": run_id, "config": config, **dict(zip(TICK_NAMES, captured, strict=True))}


def control_row(cycle: Cycle, outputs: Sequence[str], sensors: int) -> list[int | str | None]:
    """A cycle as a row of the control table of a machine with these outputs and so many sensors."""
    readings, view, verdict, applied = cycle.readings, cycle.view, cycle.verdict, cycle.applied
    source, reason = cycle.decision.source, cycle.decision.reason
    if verdict.failsafe:
        source, reason = "failsafe", verdict.failsafe
    elif verdict.changed:
        source = "shield"
    row: list[int | str | None] = [
        cycle.number,
        cycle.due_ns + cycle.wake.lateness_ns,
        cycle.wake.lateness_ns,
        cycle.wake.suspended_ns,
    ]
    for value, status in zip(readings.values, readings.statuses, strict=True):
        row += (value, int(status))
    row += view.worst_millicelsius
    row += (view.cpu_load_ppm, view.cpu_power_microwatts, view.memory_used_ppm)
    row += (view.suspicion, view.unchecked, cycle.decision.action, source, reason)
    row += _learned(cycle.learned, sensors)
    for name in outputs:
        row += (_integer(cycle.decision.command.get(name)), verdict.values[name], applied.values.get(name))
    row += ("; ".join(verdict.changed), "; ".join(f"{name}: {why}" for name, why in applied.failed))
    return row


def _learned(learned: Learned | None, sensors: int) -> list[int | str | None]:
    if learned is None:
        return ["", "", "", "", None, None, None, *[None] * sensors]
    return [
        learned.proposed,
        learned.executed,
        learned.note,
        learned.weights,
        learned.authority_percent,
        learned.reward_micro,
        learned.anomaly_micro,
        *learned.forecast_millicelsius,
    ]


@dataclass(frozen=True, slots=True)
class Recorded:
    """What a finished recorder has: the tables' summaries, the machine's figures, and the channels that never came.

    `captured` has every tick, shape (COLUMNS, n), if the recorder gathered them and they were not too many; `columns`
    and `rows` are the control table's, of a recorder that keeps it in memory.
    """

    ticks: TableSummary
    control: TableSummary
    figures: dict[str, Any]
    missing: list[str]
    captured: Integers | None = None
    columns: Sequence[Column] = ()
    rows: Sequence[Sequence[int | str | None]] = ()


class RunRecorder:
    """Writes into `directory`: `seam.log` (unless there is no `log_header`), `ticks.parquet`, `control.parquet`.

    Raises `RecordError` when the disk takes no more; the seam log then holds everything up to there.
    """

    def __init__(
        self,
        directory: Path,
        scenario: Scenario,
        channels: tuple[Channel, ...],
        limits: Mapping[str, Limit],
        log_header: seamformat.SeamHeader | None,
        gather: int = 0,
    ) -> None:
        """Of a run with at most `gather` ticks all are kept in memory too, 120 bytes each."""
        self._outputs = tuple(limits)
        self._config = scenario.heartbeat.config
        self._sensors = len(scenario.machine.sensors)
        self._log = None if log_header is None else SeamLogWriter(directory / "seam.log", log_header)
        self._ticks = TableWriter(directory / "ticks.parquet", TICK_SCHEMA, TICK_COLUMNS, scenario.recording.ticks)
        columns = control_columns(channels, self._outputs, tuple(sensor.name for sensor in scenario.machine.sensors))
        self._control = TableWriter(directory / "control.parquet", CONTROL_SCHEMA, columns, "all")
        self._summary = RunSummary(channels)
        self._waiting: list[Integers] = []
        self._waiting_ticks = 0
        self._gather = gather
        self._gathered: list[Integers] = []
        self._all_ticks = 0

    def ticks(self, captured: Integers) -> None:
        """Log the lateness of these ticks and add their rows."""
        if self._log is not None:
            self._log.ticks(int(captured[ticks.C_TICK, 0]), captured[ticks.C_LATENESS])
        self._waiting.append(captured.copy())
        self._waiting_ticks += captured.shape[1]
        if self._waiting_ticks >= WAITING_TICKS:
            self._add_ticks()

    def _add_ticks(self) -> None:
        """Put the ticks that wait into their table."""
        if not self._waiting:
            return
        captured = np.concatenate(self._waiting, axis=1)
        self._waiting.clear()
        self._waiting_ticks = 0
        self._ticks.append_block(tick_block(captured, 0, self._config))
        self._summary.ticks(captured[ticks.C_WORDS], captured[ticks.C_LATENESS])
        self._all_ticks += captured.shape[1]
        if self._all_ticks <= self._gather:
            self._gathered.append(captured)
        else:
            self._gathered.clear()

    def _every_tick(self) -> Integers | None:
        """All ticks side by side. Each piece is let go of as soon as it is copied."""
        if not 0 < self._gather >= self._all_ticks:
            return None
        whole = np.empty((ticks.COLUMNS, self._all_ticks), dtype=np.int64)
        self._gathered.reverse()
        done = 0
        while self._gathered:
            piece = self._gathered.pop()
            whole[:, done : done + piece.shape[1]] = piece
            done += piece.shape[1]
        return whole

    def cycle(self, cycle: Cycle) -> None:
        """Log what crossed the seam and add a row of everything."""
        if self._log is not None:
            self._log.cycle(
                seamformat.Cycle(
                    cycle.number,
                    cycle.due_ns,
                    cycle.wake.lateness_ns,
                    cycle.wake.suspended_ns,
                    cycle.readings,
                    Command(cycle.verdict.values),
                    cycle.applied,
                )
            )
        self._control.append_row(control_row(cycle, self._outputs, self._sensors))
        self._summary.cycle(cycle.view, cycle.readings, cycle.decision.action, bool(cycle.verdict.failsafe))

    def close(self, ended: bool) -> Recorded:
        """Finish the files; `ended` says that the run reached its end (else the log stays without its END)."""
        if self._log is not None:
            self._log.close(ended=ended)
        self._add_ticks()
        return Recorded(
            self._ticks.close(),
            self._control.close(),
            self._summary.result(),
            self._summary.missing,
            self._every_tick(),
        )

    def abandon(self) -> None:
        """Keep what the log has, drop the tables: after a failure, and therefore without another."""
        self._ticks.abort()
        self._control.abort()
        if self._log is not None:
            with contextlib.suppress(RecordError):
                self._log.close(ended=False)


class Nowhere:
    """A recorder that keeps nothing."""

    def ticks(self, captured: Integers) -> None:
        """Not kept."""

    def cycle(self, cycle: Cycle) -> None:
        """Not kept."""


def _integer(value: object) -> int | None:
    """What a controller asked for, where the table can hold it."""
    return value if type(value) is int and -(1 << 63) <= value < (1 << 63) else None
