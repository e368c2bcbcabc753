"""Small logs and tables for the tests of `twin.record`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from hardware.interface import Applied, Channel, Command, Limit, Readings, Status
from twin.record.arrow import Column
from twin.record.seamlog import Cycle, SeamHeader, SeamLogWriter
from twin.record.tables import TableSummary, TableWriter

CHANNELS = (Channel("cpu_temp_millicelsius"), Channel("cpu_energy_microjoules", wrap=1_000), Channel("fan_rpm"))
LIMITS = (Limit("fan_pwm", 0, 255, 255), Limit("cpu_max_kilohertz", 800_000, 5_000_000, 1_600_000))
HEADER = SeamHeader("0.1.0", 'name = "småll"\n', 0, "1_0_1_0_0_0", "adaptive", CHANNELS, LIMITS)

TICK_COLUMNS = (
    Column("run_id", "u32"), Column("config", "str"), Column("tick_number", "u32"), Column("tick_ns", "u64"),
    Column("tick_interval_ns", "u64"), Column("elapsed_ns", "u64"), Column("lateness_ns", "i64"),
    Column("load_ppm", "u32"), Column("word_executions_delta", "u32"), Column("hot_word_count", "u32"),
    Column("heat_total_q48", "u64"),
)  # fmt: skip
CONTROL_COLUMNS = (
    Column("cycle", "u32"), Column("time_ns", "u64"), Column("cpu_temp_millicelsius", "i64", nullable=True),
    Column("action", "str"), Column("fan_pwm", "u8"),
)  # fmt: skip


def cycle(number: int, temperature: int | None = 45_000, **changes: Any) -> Cycle:
    """Cycle `number` of a run with ten a second; without `temperature` its sensor is denied."""
    status = Status.OK if temperature is not None else Status.DENIED
    fields: dict[str, Any] = {
        "number": number,
        "due_ns": number * 100_000_000,
        "lateness_ns": 70_000 + number,
        "suspended_ns": 0,
        "readings": Readings((temperature, 12, 900), (number, number, number), (status, Status.OK, Status.OK)),
        "command": Command({"fan_pwm": 300, "cpu_max_kilohertz": 4_000_000}),
        "applied": Applied({"fan_pwm": 255, "cpu_max_kilohertz": 4_000_000}, clamped=("fan_pwm",)),
    }
    return Cycle(**{**fields, **changes})


def write_log(path: Path, cycles: int = 5, ticks_each: int = 3, *, ended: bool = True) -> None:
    """A log with `ticks_each` ticks before each cycle; a tick's lateness is its number plus 77."""
    writer = SeamLogWriter(path, HEADER)
    for number in range(cycles):
        first = number * ticks_each
        writer.ticks(first, np.arange(first, first + ticks_each, dtype=np.int64) + 77)
        writer.cycle(cycle(number, temperature=None if number == 3 else 45_000))
    writer.close(ended=ended)


def tick_block(rows: int, first: int = 0, **changes: Any) -> dict[str, Any]:
    """`rows` ticks from number `first` on, 1 ms and a little apart."""
    number = np.arange(first, first + rows, dtype=np.int64)
    block: dict[str, Any] = {
        "run_id": 0,
        "config": "1_0_1_0_0_0",
        "tick_number": number,
        "tick_ns": 1_000_000 + number % 7,
        "tick_interval_ns": 1_000_000 + number % 11,
        "elapsed_ns": 1_000_000 * (number + 1),
        "lateness_ns": number % 5 - 2,
        "load_ppm": 100_000 + number % 13,
        "word_executions_delta": 75 + number % 3,
        "hot_word_count": number % 150,
        "heat_total_q48": 65_536 * (number + 1),
    }
    return {**block, **changes}


def write_ticks(path: Path, rows: int, keep: str = "all", **changes: Any) -> TableSummary:
    """A tick table."""
    with TableWriter(path, "tick/0", TICK_COLUMNS, keep) as table:
        table.append_block(tick_block(rows, **changes))
        return table.close()


def write_control(path: Path, rows: int, temperature_at: dict[int, int | None] | None = None) -> TableSummary:
    """A control table with ten rows a second; `temperature_at` changes some temperatures."""
    with TableWriter(path, "control/0", CONTROL_COLUMNS, "all") as table:
        for number in range(rows):
            temperature = (temperature_at or {}).get(number, 45_000 + number)
            table.append_row((number, number * 100_000_000, temperature, "hold", 80))
        return table.close()


def write_run(path: Path, ticks: int = 300, cycles: int = 4, keep: str = "all", **changes: Any) -> Path:
    """The tables of a run, in a directory of their own."""
    temperature_at = changes.pop("temperature_at", None)
    path.mkdir()
    write_ticks(path / "ticks.parquet", ticks, keep, **changes)
    write_control(path / "control.parquet", cycles, temperature_at)
    return path
