"""What is going on now, for Prometheus: text format 0.0.4, base units, names as the node exporter has them.

| family | labels | is |
|---|---|---|
| `build_info`, `run_info`, `run_state` | | 1, and what it is about in labels; of states the one that holds |
| `hwmon_*`, `rapl_*`, `cpu_*`, `gpu_*`, `memory_*`, `frame*` | `chip` is the machine, `sensor` its name | the machine |
| `heartbeat_*`, `control_*`, `learner_*`, `pool_*`, `experiment_*` | | the twin |

A value that is missing is left out, and never 0. So is everything of a machine once its run is over, or nothing has
come from it for `STALE_SECONDS`: Prometheus then sees its series end. A run that is made again tells what was, not what
is, unless it is just being written.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from flask import Blueprint, Response

from twin import __version__
from twin.dashboard.answers import Served
from twin.dashboard.pool import Pools
from twin.dashboard.runs import Record, Run
from twin.record.files import RecordError
from twin.record.seamfollow import is_written
from twin.scenario import ACTIONS

PREFIX = "pulsetwin_"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
STALE_SECONDS = 10.0
STATES = ("running", "ended", "stopped", "lost")
SOURCES = ("rules", "pid", "neural", "shield", "failsafe")
UNKNOWN_LOAD = 0xFFFFFFFF
"""What a tick's load holds while nothing tells it."""
OK = 0
"""The status of a reading that is there."""

Labels = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Family:
    """A metric: its kind (`gauge` or `counter`) and what it is, in a sentence."""

    kind: str
    words: str


@dataclass(frozen=True, slots=True)
class Reading:
    """A metric that is a column of a record: `offset` is added, then it is times `times` over `over`."""

    name: str
    column: str
    over: int = 1
    times: int = 1
    offset: int = 0

    def of(self, value: object) -> float | None:
        """The metric, None for a value that is none."""
        if not isinstance(value, int):
            return None
        scaled = (value + self.offset) * self.times
        return scaled if self.over == 1 else scaled / self.over


FAMILIES = {
    "build_info": Family("gauge", "1; the version that answers."),
    "run_info": Family("gauge", "1; what the run is."),
    "run_state": Family("gauge", "1 for the state that the run is in, 0 for the others."),
    "run_record_age_seconds": Family("gauge", "How long ago the newest record came."),
    "run_lost_records_total": Family("counter", "Records that the page was too slow for."),
    "hwmon_temp_celsius": Family("gauge", "Temperature as the sensor says it."),
    "hwmon_temp_max_celsius": Family("gauge", "Temperature that must not be passed."),
    "hwmon_temp_worst_celsius": Family("gauge", "The hotter of the sensor and what the model expects."),
    "hwmon_temp_forecast_celsius": Family("gauge", "Temperature that is expected forecast_ms of /api/runs ahead."),
    "hwmon_fan_rpm": Family("gauge", "Fan speed in rotations a minute."),
    "hwmon_pwm": Family("gauge", "What the fan was set to, 0 to 255."),
    "cpu_utilization_ratio": Family("gauge", "Use of the processor, 0 to 1."),
    "cpu_scaling_frequency_hertz": Family("gauge", "Clock of the processor."),
    "cpu_scaling_frequency_max_hertz": Family("gauge", "Highest clock that the processor may take."),
    "cpu_power_watts": Family("gauge", "Power of the processor, out of its energy counter."),
    "cpu_power_limit_watts": Family("gauge", "Power that the processor may take for long."),
    "rapl_package_joules_total": Family("counter", "Energy counter of the processor."),
    "gpu_utilization_ratio": Family("gauge", "Use of the graphics processor, 0 to 1."),
    "gpu_frequency_hertz": Family("gauge", "Clock of the graphics processor."),
    "gpu_frequency_max_hertz": Family("gauge", "Highest clock that the graphics processor may take."),
    "gpu_power_watts": Family("gauge", "Power of the graphics card."),
    "gpu_power_limit_watts": Family("gauge", "Power that the graphics card may take."),
    "memory_total_bytes": Family("gauge", "Memory of the machine."),
    "memory_available_bytes": Family("gauge", "Memory that is available."),
    "memory_used_ratio": Family("gauge", "Use of the memory, 0 to 1."),
    "frames_total": Family("counter", "Frames that the application has finished."),
    "frame_rate_hertz": Family("gauge", "Frames a second, as the application says."),
    "frame_latency_seconds": Family("gauge", "Time that a frame took."),
    "words_offered_hertz": Family("gauge", "Words a second that the application offers."),
    "heartbeat_ticks_total": Family("counter", "Ticks of the heartbeat."),
    "heartbeat_interval_seconds": Family("gauge", "Time between the last two ticks."),
    "heartbeat_load_ratio": Family("gauge", "Load of the heartbeat; above 1 is overload."),
    "heartbeat_window_words": Family("gauge", "Width of the window, in words."),
    "heartbeat_hot_words": Family("gauge", "Hot words."),
    "heartbeat_heat_executions": Family("gauge", "Heat of all words together, in executions."),
    "control_cycles_total": Family("counter", "Control cycles."),
    "control_lateness_seconds": Family("gauge", "How late the control cycle woke."),
    "control_action": Family("gauge", "1 for the action that was decided, 0 for the others."),
    "control_source": Family("gauge", "1 for who decided, 0 for the others."),
    "learner_authority_ratio": Family("gauge", "How much of a proposal is let through, 0 to 1."),
    "learner_reward": Family("gauge", "What the cycle before was worth."),
    "learner_anomaly_ratio": Family("gauge", "How unusual it looks; 1 is the alarm."),
    "pool_used_bytes": Family("gauge", "Memory of the pool's used blocks."),
    "pool_free_bytes": Family("gauge", "Memory of the pool's free blocks."),
    "pool_fragmentation_ratio": Family("gauge", "Share of the free memory that is not in the largest piece."),
    "pool_blocks": Family("gauge", "Used blocks of a tier."),
    "pool_guesses_total": Family("counter", "Accesses that were foretold."),
    "pool_guesses_right_total": Family("counter", "Accesses that were foretold and came."),
    "experiment_jobs": Family("gauge", "Jobs of the experiment."),
    "experiment_jobs_done": Family("gauge", "Jobs of the experiment that are done."),
}
"""Every metric, without its prefix."""

PLAIN = (
    Reading("cpu_utilization_ratio", "cpu_load_ppm", 1_000_000),
    Reading("cpu_power_watts", "cpu_power_microwatts", 1_000_000),
    Reading("memory_used_ratio", "memory_used_ppm", 1_000_000),
    Reading("cpu_scaling_frequency_max_hertz", "cpu_max_kilohertz_applied", times=1_000),
    Reading("cpu_power_limit_watts", "cpu_power_limit_microwatts_applied", 1_000_000),
    Reading("gpu_frequency_max_hertz", "gpu_max_kilohertz_applied", times=1_000),
    Reading("gpu_power_limit_watts", "gpu_power_limit_microwatts_applied", 1_000_000),
    Reading("heartbeat_ticks_total", "tick_number", offset=1),
    Reading("heartbeat_interval_seconds", "tick_interval_ns", 1_000_000_000),
    Reading("heartbeat_window_words", "window_width"),
    Reading("heartbeat_hot_words", "hot_word_count"),
    Reading("heartbeat_heat_executions", "heat_total_q48", 65_536),
    Reading("control_cycles_total", "cycle", offset=1),
    Reading("control_lateness_seconds", "lateness_ns", 1_000_000_000),
    Reading("learner_authority_ratio", "authority_percent", 100),
    Reading("learner_reward", "reward_micro", 1_000_000),
    Reading("learner_anomaly_ratio", "anomaly_micro", 1_000_000),
)  # fmt: skip
"""What has no status of its own."""
CHECKED = (
    Reading("cpu_scaling_frequency_hertz", "cpu_clock_kilohertz", times=1_000),
    Reading("rapl_package_joules_total", "cpu_energy_microjoules", 1_000_000),
    Reading("gpu_utilization_ratio", "gpu_busy_ppm", 1_000_000),
    Reading("gpu_frequency_hertz", "gpu_clock_kilohertz", times=1_000),
    Reading("gpu_power_watts", "gpu_power_microwatts", 1_000_000),
    Reading("memory_total_bytes", "memory_total_kibibytes", times=1_024),
    Reading("memory_available_bytes", "memory_available_kibibytes", times=1_024),
    Reading("frames_total", "frames_completed"),
    Reading("frame_rate_hertz", "frame_rate_millihertz", 1_000),
    Reading("frame_latency_seconds", "frame_latency_microseconds", 1_000_000),
    Reading("words_offered_hertz", "words_offered_per_second"),
)  # fmt: skip
"""Readings, each with a column that says whether it is there."""


@dataclass
class Page:
    """The answer to a scrape while it is made: samples by family."""

    samples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, name: str, value: float | None, labels: Labels) -> None:
        """A sample; None is none."""
        if value is None:
            return
        told = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
        where = f"{{{told}}}" if told else ""
        self.samples.setdefault(name, []).append(f"{PREFIX}{name}{where} {value!r}")

    def one_of(self, name: str, all_of_them: tuple[str, ...], it: object, label: str, labels: Labels) -> None:
        """1 for the one that it is, 0 for the others."""
        for each in all_of_them:
            self.add(name, int(each == it), {**labels, label: each})

    def text(self) -> str:
        """All of it; each family once, in the order of `FAMILIES`."""
        lines = []
        for name, family in FAMILIES.items():
            if name in self.samples:
                lines.append(f"# HELP {PREFIX}{name} {family.words}")
                lines.append(f"# TYPE {PREFIX}{name} {family.kind}")
                lines += self.samples[name]
        return "\n".join(lines) + "\n"


def prometheus(served: Served, pools: Pools) -> Blueprint:
    """The route."""
    routes = Blueprint("prometheus", __name__)
    current = Current()

    @routes.get("/metrics")
    def metrics() -> Response:
        page = Page()
        page.add("build_info", 1, {"version": __version__})
        for run in served.runs:
            _add_run(page, run, pools, current.tells(run))
        for each in served.experiments:
            told = each.progress()
            labels = {"experiment": str(told["id"])}
            page.add("experiment_jobs", told["total"], labels)
            page.add("experiment_jobs_done", told["done"], labels)
        return Response(page.text(), content_type=CONTENT_TYPE)

    @routes.get("/api/grafana.json")
    def board() -> Response:
        return Response((files("twin.dashboard") / "grafana.json").read_bytes(), content_type="application/json")

    return routes


class Current:
    """Whether what a run tells is how things are now."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._written: dict[str, tuple[float, bool]] = {}

    def tells(self, run: Run) -> bool:
        """Whether it goes on, and said something lately."""
        age_ms = run.age_ms
        if run.state != "running" or age_ms is None or age_ms > 1_000 * STALE_SECONDS:
            return False
        return run.about.origin == "live" or self._is_written(run)

    def _is_written(self, run: Run) -> bool:
        with self._lock:
            now = time.monotonic()
            at, written = self._written.get(run.about.id, (now - 2.0, False))
            if now - at >= 1.0:
                try:
                    written = is_written(Path(run.about.run_dir))
                except RecordError:
                    written = False
                self._written[run.about.id] = (now, written)
            return written


def _add_run(page: Page, run: Run, pools: Pools, tells: bool) -> None:
    about = run.about
    labels = {"run": about.id}
    what = {
        "scenario": about.scenario, "machine": about.machine, "backend": about.backend or "", "origin": about.origin,
        "config": about.config, "law": about.law, "seed": str(about.seed),
    }  # fmt: skip
    page.add("run_info", 1, {**labels, **what})
    page.one_of("run_state", STATES, run.state, "state", labels)
    age_ms = run.age_ms
    page.add("run_record_age_seconds", None if age_ms is None else age_ms / 1_000, labels)
    page.add("run_lost_records_total", run.lost, labels)
    newest = run.history(1) if tells else ()
    if newest:
        _add_record(page, run, newest[0], labels)
        _add_pool(page, pools.of(run), labels)


def _add_record(page: Page, run: Run, record: Record, labels: Labels) -> None:
    for sensor in run.about.sensors:
        where = {**labels, "chip": run.about.machine, "sensor": sensor.name}
        temp = _checked(record, f"{sensor.name}_temp_millicelsius")
        page.add("hwmon_temp_celsius", _scaled(temp, 1_000), where)
        page.add("hwmon_temp_max_celsius", sensor.limit_millicelsius / 1_000, where)
        for name in ("worst", "forecast"):
            value = record.get(f"{sensor.name}_{name}_millicelsius")
            page.add(f"hwmon_temp_{name}_celsius", _scaled(value, 1_000), where)
    for column in record:
        if column.endswith("_rpm"):
            where = {**labels, "chip": run.about.machine, "sensor": column.removesuffix("_rpm")}
            page.add("hwmon_fan_rpm", _scaled(_checked(record, column), 1), where)
        elif column.endswith("_pwm_applied"):
            where = {**labels, "chip": run.about.machine, "sensor": column.removesuffix("_pwm_applied")}
            page.add("hwmon_pwm", _scaled(record[column], 1), where)
    for each in PLAIN:
        page.add(each.name, each.of(record.get(each.column)), labels)
    for each in CHECKED:
        page.add(each.name, each.of(_checked(record, each.column)), labels)
    load = record.get("load_ppm")
    page.add("heartbeat_load_ratio", None if load == UNKNOWN_LOAD else _scaled(load, 1_000_000), labels)
    page.one_of("control_action", ACTIONS, record.get("action"), "action", labels)
    page.one_of("control_source", SOURCES, record.get("source"), "source", labels)


def _add_pool(page: Page, pool: Mapping[str, Any] | None, labels: Labels) -> None:
    if pool is None:
        return
    page.add("pool_used_bytes", pool["used_bytes"], labels)
    page.add("pool_free_bytes", pool["free_bytes"], labels)
    page.add("pool_fragmentation_ratio", pool["fragmentation"], labels)
    page.add("pool_guesses_total", pool["guesses"], labels)
    page.add("pool_guesses_right_total", pool["guesses_right"], labels)
    for tier, figures in pool["tiers"].items():
        page.add("pool_blocks", figures["blocks"], {**labels, "tier": tier})


def _checked(record: Record, column: str) -> object:
    """A reading, None where its status says that it is not there."""
    return record.get(column) if record.get(f"{column}_status") == OK else None


def _scaled(value: object, over: int) -> float | None:
    return value / over if isinstance(value, int) else None


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def names() -> Iterator[str]:
    """Every metric, with its prefix."""
    return (PREFIX + name for name in FAMILIES)
