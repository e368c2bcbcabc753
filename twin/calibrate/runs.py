"""Recorded runs as recordings: what crossed the seam, with counters made into loads and powers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from twin.calibrate.cells import Table
from twin.calibrate.recording import RecordingError
from twin.kernels import Floats
from twin.loader import ScenarioError, parse
from twin.record.files import RecordError
from twin.record.rundir import SEAM_LOG
from twin.record.seamlog import read_seam_log

MOST_ROWS = 7_200
"""Longer runs are taken once a second; means over that second lose nothing that a temperature shows."""


def run_table(path: Path) -> tuple[Table, dict[str, str]]:
    """The run in the directory `path` as a table, a row a control cycle, and which columns are which.

    Loads and powers are means since the row before, from the counters that crossed the seam; an empty cell is a reading
    that was not there. Raises `RecordingError` for a directory without a seam log, and for one that cannot be read.
    """
    file = path / SEAM_LOG
    if not file.is_file():
        raise RecordingError(f"{path}: is a folder without {SEAM_LOG}; name the directory of a run, or a CSV file")
    try:
        log = read_seam_log(file)
        scenario = parse(log.header.scenario, str(file))
    except (RecordError, ScenarioError) as error:
        raise RecordingError(str(error)) from None
    cycles = list(log.cycles)
    if not cycles:
        raise RecordingError(f"{path}: the run has no control cycle; a recording of some minutes is needed")
    names = [channel.name for channel in log.header.channels]
    values = np.array([[np.nan if v is None else float(v) for v in cycle.readings.values] for cycle in cycles])
    seconds = np.array([(cycle.due_ns + cycle.lateness_ns) / 1e9 for cycle in cycles])
    columns = {name: values[:, place] for place, name in enumerate(names)}
    step = 1 if len(cycles) <= MOST_ROWS else max(1, round(1_000 / scenario.control.period_ms))
    ends = np.arange(step - 1, len(cycles), step)
    shown: dict[str, Floats] = {"t_s": seconds[ends]}
    given = {"time": "t_s:s"}
    machine = scenario.machine
    for part, node in (("cpu", machine.cpu.node), ("gpu", machine.gpu.node if machine.gpu.enabled else None)):
        sensor = next((each.name for each in machine.sensors if each.node == node), None)
        if sensor is not None:
            given[f"{part}_temp"] = f"{sensor}_temp_millicelsius:mC"
    for name in names:
        if name.endswith(("_temp_millicelsius", "_rpm")):
            shown[name] = columns[name][ends]
        if name.endswith("_rpm"):
            given[name] = f"{name}:rpm"
    wraps = {channel.name: channel.wrap for channel in log.header.channels}
    if {"cpu_busy_ticks", "cpu_total_ticks"} <= set(columns):
        busy, total = (_increments(columns[name], ends, None) for name in ("cpu_busy_ticks", "cpu_total_ticks"))
        shown["cpu_load"] = np.divide(busy, total, out=np.full(len(ends), np.nan), where=total > 0.0)
        if "cpu_clock_kilohertz" in columns:
            # A load is a share of full speed; a core that is busy at a low clock does less.
            clock = columns["cpu_clock_kilohertz"][ends] / machine.cpu.frequencies_kilohertz[-1]
            shown["cpu_load"] = shown["cpu_load"] * np.clip(np.nan_to_num(clock, nan=1.0), 0.0, 1.0)
        given["cpu_load"] = "cpu_load:1"
    if "cpu_energy_microjoules" in columns:
        joules = _increments(columns["cpu_energy_microjoules"], ends, wraps["cpu_energy_microjoules"]) / 1e6
        shown["cpu_power_w"] = joules / np.append(np.nan, np.diff(seconds[ends]))
    for name, role, unit in (("gpu_busy_ppm", "gpu_load", "ppm"), ("gpu_power_microwatts", "gpu_power", "uW")):
        if name in columns:
            shown[name] = _means(columns[name], ends, step)
            given[role] = f"{name}:{unit}"
    rows = zip(*([_text(value) for value in column.tolist()] for column in shown.values()), strict=True)
    return Table(tuple(shown), tuple(rows), tuple(range(1, len(ends) + 1))), _there(given, shown)


def _there(given: dict[str, str], shown: dict[str, Floats]) -> dict[str, str]:
    """Only the columns that have values; a machine need not have every sensor of its scenario."""
    return {role: text for role, text in given.items() if np.any(np.isfinite(shown[text.partition(":")[0]]))}


def _text(value: float) -> str:
    return "" if value != value else repr(value)


def _increments(counter: Floats, ends: Sequence[int] | np.ndarray, wrap: int | None) -> Floats:
    """What a counter gained since the end before, unknown at the first; it starts anew after `wrap`."""
    grown = np.append(np.nan, np.diff(counter[ends]))
    if wrap is not None:
        grown = np.where(grown < 0.0, grown + wrap + 1.0, grown)
    return grown


def _means(column: Floats, ends: np.ndarray, step: int) -> Floats:
    """Means of a column over the rows that lead to each end."""
    used = column[: int(ends[-1]) + 1].reshape(len(ends), step)
    with np.errstate(invalid="ignore"):
        known = np.isfinite(used)
        means: Floats = np.divide(
            np.where(known, used, 0.0).sum(axis=1), known.sum(axis=1), out=np.full(len(ends), np.nan),
            where=known.any(axis=1),
        )  # fmt: skip
    return means
