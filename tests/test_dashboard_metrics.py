"""What Prometheus is told, read by a parser that takes no more than Prometheus does, and the board that shows it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from dashboard_runs import Row, recorded, told
from dashboards import about
from hypothesis import given
from hypothesis import strategies as st

from twin import __version__
from twin.dashboard.answers import Served
from twin.dashboard.live import LiveRun
from twin.dashboard.prometheus import CHECKED, FAMILIES, PLAIN, STALE_SECONDS, Page, names
from twin.dashboard.server import make_app
from twin.dashboard.tables import TableRun, open_run

NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
LABEL = r'[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\["\\n])*"'
NUMBER = r"-?(?:[0-9]+(?:\.[0-9]+)?(?:e[-+][0-9]+)?)"
SAMPLE = re.compile(rf"({NAME})(?:\{{({LABEL}(?:,{LABEL})*)\}})? ({NUMBER})")
HELP = re.compile(rf"# HELP ({NAME}) ((?:[^\\\n]|\\[\\n])+)")
TYPE = re.compile(rf"# TYPE ({NAME}) (counter|gauge)")
ESCAPES = {r"\\": "\\", r"\"": '"', r"\n": "\n"}

Labels = frozenset[tuple[str, str]]


@dataclass
class Parsed:
    kind: str
    samples: dict[Labels, float] = field(default_factory=dict)


def parsed(text: str) -> dict[str, Parsed]:
    """The metrics of a scrape: HELP, TYPE and all samples of each stand together, and no sample comes twice."""
    assert text.endswith("\n")
    found: dict[str, Parsed] = {}
    lines = iter(text[:-1].split("\n"))
    name = ""
    for line in lines:
        if line.startswith("#"):
            help_line, type_line = HELP.fullmatch(line), TYPE.fullmatch(next(lines))
            assert help_line, line
            assert type_line, line
            name = type_line[1]
            assert help_line[1] == name
            assert name not in found
            found[name] = Parsed(type_line[2])
            continue
        sample = SAMPLE.fullmatch(line)
        assert sample, line
        assert sample[1] == name
        told_labels = [tuple(each.split("=", 1)) for each in re.findall(LABEL, sample[2] or "")]
        labels = frozenset(
            (key, re.sub(r"\\.", lambda escape: ESCAPES[escape[0]], text[1:-1])) for key, text in told_labels
        )  # fmt: skip
        assert len({key for key, _ in labels}) == len(told_labels)
        assert labels not in found[name].samples
        found[name].samples[labels] = float(sample[3])
    assert all(each.samples for each in found.values())
    return found


def scraped(*runs: Any) -> dict[str, Parsed]:
    served = Served()
    for run in runs:
        served.add(run)
    response = make_app(served)[0].test_client().get("/metrics")
    assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    return parsed(response.get_data(as_text=True))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> TableRun:
    folder = recorded(tmp_path_factory.mktemp("runs") / "run", "--duration", "3", "--neural")
    return open_run("run", "run", folder)


@pytest.fixture(scope="module")
def records() -> list[Row]:
    return told("duration_ms=3000", "learn.enabled=true")


def live(run: TableRun, record: Row, **changes: Any) -> LiveRun:
    """The same run while it goes on, with this as its newest record."""
    going = LiveRun(about(**{
        "machine": run.about.machine, "sensors": run.about.sensors, "outputs": run.about.outputs,
        "columns": run.about.columns, **changes,
    }))  # fmt: skip
    going.record(0, [record[name] for name in run.about.columns], None)
    return going


def value(metrics: dict[str, Parsed], name: str, **labels: str) -> float | None:
    family = metrics.get(f"pulsetwin_{name}")
    if family is None:
        return None
    return family.samples.get(frozenset({"run": "run", **labels}.items()))


def test_a_run_that_goes_on_tells_what_its_newest_record_says(run: TableRun, records: list[Row]) -> None:
    record = records[-1]
    metrics = scraped(live(run, record))
    chip = {"chip": run.about.machine}
    for sensor in run.about.sensors:
        where = {**chip, "sensor": sensor.name}
        assert value(metrics, "hwmon_temp_celsius", **where) == record[f"{sensor.name}_temp_millicelsius"] / 1_000
        assert value(metrics, "hwmon_temp_max_celsius", **where) == sensor.limit_millicelsius / 1_000
        worst, ahead = record[f"{sensor.name}_worst_millicelsius"], record[f"{sensor.name}_forecast_millicelsius"]
        assert value(metrics, "hwmon_temp_worst_celsius", **where) == worst / 1_000
        assert value(metrics, "hwmon_temp_forecast_celsius", **where) == ahead / 1_000
    assert value(metrics, "hwmon_fan_rpm", **chip, sensor="cpu_fan") == record["cpu_fan_rpm"]
    assert value(metrics, "hwmon_pwm", **chip, sensor="cpu_fan") == record["cpu_fan_pwm_applied"]
    assert value(metrics, "cpu_utilization_ratio") == record["cpu_load_ppm"] / 1e6
    assert value(metrics, "cpu_scaling_frequency_hertz") == record["cpu_clock_kilohertz"] * 1_000
    assert value(metrics, "memory_total_bytes") == record["memory_total_kibibytes"] * 1_024
    assert value(metrics, "gpu_power_watts") == record["gpu_power_microwatts"] / 1e6
    assert value(metrics, "rapl_package_joules_total") == record["cpu_energy_microjoules"] / 1e6
    assert value(metrics, "heartbeat_ticks_total") == record["tick_number"] + 1
    assert value(metrics, "heartbeat_interval_seconds") == record["tick_interval_ns"] / 1e9
    assert value(metrics, "control_cycles_total") == 30
    assert value(metrics, "learner_authority_ratio") == record["authority_percent"] / 100
    actions = metrics["pulsetwin_control_action"].samples
    assert [dict(labels)["action"] for labels, is_it in actions.items() if is_it] == [record["action"]]
    assert value(metrics, "run_state", state="running") == 1
    assert metrics["pulsetwin_build_info"].samples == {frozenset({("version", __version__)}): 1}


def test_every_column_that_is_told_exists(run: TableRun) -> None:
    columns = set(run.about.columns)
    gpu_clock = "gpu_max_kilohertz_applied"
    assert {each.column for each in (*PLAIN, *CHECKED)} - columns == {gpu_clock}
    assert {f"{each.column}_status" for each in CHECKED} <= columns
    assert {each.name for each in (*PLAIN, *CHECKED)} <= set(FAMILIES)


def test_what_is_missing_is_left_out_and_not_0(run: TableRun, records: list[Row]) -> None:
    known = scraped(live(run, records[-1]))
    for column in records[-1]:
        if isinstance(records[-1][column], int) and not column.endswith("_status") and column != "time_ns":
            for missing in ({column: None}, {f"{column}_status": 3}):
                metrics = scraped(live(run, {**records[-1], **missing}))
                for name, family in metrics.items():
                    for labels, number in family.samples.items():
                        assert name == "pulsetwin_run_record_age_seconds" or known[name].samples[labels] == number
    unknown = dict.fromkeys(records[-1])
    nothing = scraped(live(run, {**unknown, "time_ns": 0}))
    assert not [name for name in nothing if not name.startswith(("pulsetwin_run_", "pulsetwin_build_"))
                and set(nothing[name].samples.values()) != {0}
                and name != "pulsetwin_hwmon_temp_max_celsius"]  # fmt: skip


def test_a_load_that_nobody_tells(run: TableRun, records: list[Row]) -> None:
    assert value(scraped(live(run, {**records[-1], "load_ppm": 250_000})), "heartbeat_load_ratio") == 0.25
    assert value(scraped(live(run, {**records[-1], "load_ppm": (1 << 32) - 1})), "heartbeat_load_ratio") is None


MACHINE = ("pulsetwin_hwmon_temp_celsius", "pulsetwin_cpu_power_watts", "pulsetwin_control_action")


def test_nothing_is_told_of_a_machine_that_was(
    run: TableRun, records: list[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    going = live(run, records[-1])
    assert all(name in scraped(going) for name in MACHINE)
    ended = live(run, records[-1])
    ended.over("ended")
    for each in (run, ended):
        metrics = scraped(each)
        assert not any(name in metrics for name in MACHINE)
        assert value(metrics, "run_state", state="ended") == 1
        assert value(metrics, "run_state", state="running") == 0
    monkeypatch.setattr(LiveRun, "age_ms", 1_000 * int(STALE_SECONDS))
    assert all(name in scraped(going) for name in MACHINE)
    monkeypatch.setattr(LiveRun, "age_ms", 1_000 * int(STALE_SECONDS) + 1)
    metrics = scraped(going)
    assert not any(name in metrics for name in MACHINE)
    assert value(metrics, "run_record_age_seconds") == STALE_SECONDS + 0.001


def test_a_replay_tells_what_is_only_while_its_log_is_written(
    run: TableRun, records: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replayed = live(run, records[-1], origin="replayed", run_dir=str(tmp_path))
    assert not any(name in scraped(replayed) for name in MACHINE)
    monkeypatch.setattr("twin.dashboard.prometheus.is_written", lambda folder: folder == tmp_path)
    assert all(name in scraped(replayed) for name in MACHINE)
    gone = live(run, records[-1], origin="replayed", run_dir=str(tmp_path / "gone"))
    assert not any(name in scraped(gone) for name in MACHINE)


def test_two_runs_share_their_families(run: TableRun, records: list[Row]) -> None:
    other = live(run, records[3], id="other")
    metrics = scraped(live(run, records[-1]), other)
    assert {dict(labels)["run"] for labels in metrics["pulsetwin_cpu_power_watts"].samples} == {"run", "other"}


@given(st.dictionaries(st.from_regex(r"[a-z]{1,5}", fullmatch=True), st.text(), max_size=3), st.floats(0, 1e30))
def test_labels_and_numbers_come_back(labels: dict[str, str], number: float) -> None:
    page = Page()
    page.add("pool_blocks", number, labels)
    page.add("pool_used_bytes", None, labels)
    metrics = parsed(page.text())
    assert metrics["pulsetwin_pool_blocks"].samples == {frozenset(labels.items()): number}
    assert list(metrics) == ["pulsetwin_pool_blocks"]


def test_names_are_as_prometheus_wants_them() -> None:
    for name, family in FAMILIES.items():
        assert re.fullmatch(r"[a-zA-Z_]+", name)
        assert name.endswith("_total") == (family.kind == "counter")
        assert not re.search(r"milli|micro|_ns|_ppm|kilo|percent", name)
        assert family.words.endswith(".")
        assert "\\" not in family.words


def test_the_board_shows_metrics_that_there_are() -> None:
    text = (files("twin.dashboard") / "grafana.json").read_text()
    board = json.loads(text)
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]
    told_names = set(names())
    used = set()
    for panel in panels:
        for target in panel["targets"]:
            here = set(re.findall(r"pulsetwin_\w+", target["expr"]))
            assert here, panel["title"]
            used |= here
            assert '{run=~"$run"}' in target["expr"] or "experiment" in target["expr"]
    assert used <= told_names
    assert {query["query"]["query"] for query in board["templating"]["list"] if query["type"] == "query"} == {
        "label_values(pulsetwin_run_info, run)"
    }
    assert all(panel["datasource"]["uid"] == "${datasource}" for panel in panels)
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    # What the board leaves out is what nobody would draw.
    assert told_names - used == {
        "pulsetwin_build_info", "pulsetwin_run_info", "pulsetwin_run_state", "pulsetwin_run_lost_records_total",
        "pulsetwin_memory_total_bytes", "pulsetwin_memory_available_bytes", "pulsetwin_words_offered_hertz",
        "pulsetwin_pool_fragmentation_ratio", "pulsetwin_pool_guesses_total", "pulsetwin_pool_guesses_right_total",
    }  # fmt: skip


def test_panels_lie_side_by_side() -> None:
    board = json.loads((files("twin.dashboard") / "grafana.json").read_text())
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken
        assert place["x"] + place["w"] <= 24
        taken |= cells


def test_the_board_is_served(run: TableRun) -> None:
    served = Served()
    served.add(run)
    response = make_app(served)[0].test_client().get("/api/grafana.json")
    assert response.json["title"] == "pulsetwin"
