"""What can be asked of the page's server beside its records: differences, exports, experiments, pools, itself."""

from __future__ import annotations

import csv
import fcntl
import io
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import answer, command
from dashboard_runs import recorded, told
from dashboards import about, some_run
from flask.testing import FlaskClient
from hypothesis import given
from hypothesis import strategies as st

from twin.dashboard.answers import Served
from twin.dashboard.experiments import Experiment
from twin.dashboard.export import csv_lines, json_lines
from twin.dashboard.pool import MAP_WIDTH, Pools
from twin.dashboard.runs import Record
from twin.dashboard.server import make_app
from twin.dashboard.tables import open_run
from twin.pool.pool import Pool
from twin.pool.share import Server, socket_name


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("runs")
    return {
        "one": recorded(place / "one", "--duration", "2"),
        "two": recorded(place / "two", "--duration", "2", "--seed", "2"),
        "longer": recorded(place / "longer", "--duration", "3"),
        "few": recorded(place / "few", "--duration", "2", "--ticks", "every:100"),
    }


@pytest.fixture(scope="module")
def client(folders: dict[str, Path]) -> FlaskClient:
    served = Served()
    for name, folder in folders.items():
        served.add(open_run(name, name, folder))
    served.add(some_run(20, "live"))
    return make_app(served)[0].test_client()


def refusal(client: FlaskClient, target: str, status: int) -> dict[str, str]:
    response = client.get(target)
    assert response.status_code == status
    refused: dict[str, str] = json.loads(response.data)["error"]
    return refused


@pytest.mark.parametrize("a", ["one", "longer", "few"])
@pytest.mark.parametrize("b", ["one", "two", "longer", "few"])
def test_the_first_difference_is_that_of_twin_compare(
    client: FlaskClient, folders: dict[str, Path], a: str, b: str
) -> None:
    compared = json.loads(command("compare", folders[a], folders[b], "--json").out)
    for _ in range(2):
        assert client.get(f"/api/difference?a={a}&b={b}").json == {"difference": compared["difference"]}


def test_a_difference_is_looked_for_once(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    before = client.get("/api/difference?a=one&b=two").json
    monkeypatch.setattr("twin.dashboard.compared.first_difference", None)
    assert client.get("/api/difference?a=one&b=two").json == before


def test_a_difference_of_what_has_none(client: FlaskClient) -> None:
    assert refusal(client, "/api/difference?a=one&b=live", 404)["key"] == "b"
    assert refusal(client, "/api/difference?a=one", 400)["key"] == "b"
    refused = refusal(client, "/api/difference?a=nobody&b=one", 404)
    assert (refused["key"], refused["value"], refused["allowed"]) == ("a", "nobody", "one, two, longer, few, live")


def test_an_export_is_that_of_twin_export(client: FlaskClient, folders: dict[str, Path], tmp_path: Path) -> None:
    for kind in ("csv", "json"):
        answer("export", folders["one"], "--format", kind, "--out", tmp_path)
    response = client.get("/api/export?run=one&format=json")
    exported = json.loads((tmp_path / "control.json").read_text())
    assert [{name: row[name] for name in exported[0]} for row in response.json] == exported
    assert response.json == told("duration_ms=2000")
    assert response.headers["Content-Disposition"] == 'attachment; filename="one.json"'
    text = client.get("/api/export?run=one").get_data(as_text=True)
    with (tmp_path / "control.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [{name: row[name] for name in lines[0]} for row in rows] == lines
    assert rows[7]["tick_number"] == str(response.json[7]["tick_number"])


def test_an_export_of_a_run_that_goes_on_has_what_is_there(client: FlaskClient) -> None:
    exported = client.get("/api/export?run=live&format=json").json
    assert [row["cycle"] for row in exported] == list(range(20))
    assert exported[7]["cpu_worst_millicelsius"] is None
    refused = refusal(client, "/api/export?run=live&format=xlsx", 400)
    assert (refused["key"], refused["value"], refused["allowed"]) == ("format", "xlsx", "csv, json")


FORMULAS = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""What a cell begins with that some spreadsheet takes for a formula, wide letters included."""
SIGNS = st.sampled_from("=+-@\t\r\n\uff1d,\"'a")
TEXTS = st.text(SIGNS | st.characters(codec="utf-8"), max_size=8)
VALUES = st.none() | st.integers(-(1 << 63), 1 << 64) | TEXTS
ROWS = st.lists(st.fixed_dictionaries({"first": VALUES, "=second,": VALUES}), max_size=5)


@given(ROWS)
def test_a_spreadsheet_gets_no_formula(rows: list[Record]) -> None:
    text = "".join(csv_lines(("first", "=second,"), rows))
    header, *lines = csv.reader(io.StringIO(text, newline=""))
    assert header == ["first", "'=second,"]
    assert len(lines) == len(rows)
    for line, row in zip(lines, rows, strict=True):
        for field, value in zip(line, (row["first"], row["=second,"]), strict=True):
            if isinstance(value, str):
                assert field == (f"'{value}" if value.startswith(FORMULAS) else value)
            else:
                assert field == ("" if value is None else str(value))


@given(ROWS)
def test_json_is_json(rows: list[Record]) -> None:
    assert json.loads("".join(json_lines(rows))) == rows


# --- experiments ------------------------------------------------------------------------------------------------------

PLAN = """
name = "small"
scenario = "study"
runs = 3
ticks = 1000
configurations = ["1_0_1_1_1_0", "0_0_0_0_0_0"]
kicks = { seeds = 0 }
"""


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("experiment")
    (place / "plan.toml").write_text(PLAN)
    answer("experiment", place / "plan.toml", "--out", place / "done", "--workers", "1")
    return place / "done"


def test_a_finished_experiment(experiment: Path) -> None:
    known = Experiment("small", experiment).progress()
    choice = json.loads((experiment / "golden.json").read_text())
    assert (known["name"], known["state"], known["total"], known["done"]) == ("small", "ended", 6, 6)
    assert known["configurations"] == [
        {"name": name, "total": 3, "done": 3} for name in ("1_0_1_1_1_0", "0_0_0_0_0_0")
    ]  # fmt: skip
    assert (known["golden"], known["tie"]) == (choice["golden"], choice["tie"])
    assert (known["jobs_per_second"], known["left_seconds"], known["trouble"]) == (None, None, None)


def test_an_experiment_that_goes_on(experiment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil
    import sqlite3

    folder = tmp_path / "going"
    shutil.copytree(experiment, folder)
    base = sqlite3.connect(folder / "manifest.sqlite")
    saved = list(base.execute("SELECT * FROM outcomes ORDER BY number"))
    with base:
        base.execute("DELETE FROM facts WHERE name = 'experiment_digest'")
        base.execute("DELETE FROM outcomes WHERE number > 2")
    clock = iter([100.0, 100.0, 110.0, 110.0, 110.5, 200.0, 200.0])
    monkeypatch.setattr("twin.dashboard.experiments.time.monotonic", lambda: next(clock))
    going = Experiment("small", folder)
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    first = going.progress()
    assert (first["state"], first["total"], first["done"], first["jobs_per_second"]) == ("running", 6, 3, None)
    assert [each["done"] for each in first["configurations"]] == [2, 1]
    with base:
        base.execute(f"INSERT INTO outcomes VALUES ({', '.join('?' * len(saved[3]))})", saved[3])
    second = going.progress()
    assert (second["done"], second["jobs_per_second"], second["left_seconds"]) == (4, 0.1, 20)
    with base:
        base.execute("DELETE FROM outcomes")
    base.close()
    assert going.progress() == second
    os.close(descriptor)
    third = going.progress()
    assert (third["state"], third["done"], third["left_seconds"]) == ("stopped", 0, None)


@pytest.mark.parametrize("name", ["plan.toml", "manifest.sqlite"])
def test_an_experiment_that_cannot_be_read(tmp_path: Path, experiment: Path, name: str) -> None:
    for each in ("plan.toml", "manifest.sqlite"):
        (tmp_path / each).write_bytes((experiment / each).read_bytes())
    (tmp_path / name).write_text("nothing of the kind " * 100)
    known = Experiment("odd", tmp_path).progress()
    assert (known["id"], known["name"], known["done"], known["configurations"]) == ("odd", "odd", None, [])
    assert str(tmp_path / name) in known["trouble"]


def test_experiments_are_told_of(experiment: Path) -> None:
    served = Served()
    served.experiments.append(Experiment("small", experiment))
    client = make_app(served)[0].test_client()
    told_of = client.get("/api/experiments").json
    assert [each["done"] for each in told_of["experiments"]] == [6]
    assert client.get("/api/runs").json["experiments"] == told_of["experiments"]


# --- pools ------------------------------------------------------------------------------------------------------------


class PooledRun:
    """A run whose pool is handed out in `run_dir`."""

    def __init__(self, run_dir: Path, state: str = "running") -> None:
        self.about = about("pooled", run_dir=str(run_dir))
        self.state = state


@pytest.fixture
def pooled(tmp_path: Path) -> Iterator[tuple[Path, Pool]]:
    with Pool.create(1 << 20) as pool:
        server = Server(pool.mapping, socket_name(tmp_path))
        yield tmp_path, pool
        server.close()


def test_a_pool_is_looked_at_from_outside(pooled: tuple[Path, Pool]) -> None:
    folder, pool = pooled
    pool.allocate(1_000)
    run: Any = PooledRun(folder)
    seen = Pools().of(run)
    assert seen is not None
    assert (seen["size_bytes"], sum(tier["blocks"] for tier in seen["tiers"].values())) == (1 << 20, 1)
    assert len(seen["map"]) == MAP_WIDTH
    ended: Any = PooledRun(folder, "ended")
    assert Pools().of(ended) is None


def test_a_pool_is_looked_at_once_a_second(pooled: tuple[Path, Pool], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, pool = pooled
    now = 100.0
    monkeypatch.setattr("twin.dashboard.pool.time.monotonic", lambda: now)
    run: Any = PooledRun(folder)
    pools = Pools()
    first = pools.of(run)
    pool.allocate(1_000)
    assert pools.of(run) == first
    now = 101.0
    assert pools.of(run) != first


def test_a_run_without_a_pool(client: FlaskClient) -> None:
    assert client.get("/api/pool?run=one").json == {"run": "one", "pool": None}
    assert client.get("/api/pool?run=live").json == {"run": "live", "pool": None}


# --- itself -----------------------------------------------------------------------------------------------------------


def test_every_route_is_described_and_every_described_one_is_there(client: FlaskClient) -> None:
    described = client.get("/api/openapi.json").json
    routes = {
        re.sub(r"<(\w+:)?(\w+)>", r"{\2}", rule.rule): rule.methods for rule in client.application.url_map.iter_rules()
    }
    assert set(described["paths"]) == set(routes)
    assert all((methods or set()) - {"HEAD", "OPTIONS"} == {"GET"} for methods in routes.values())
    for path in described["paths"].values():
        assert list(path) == ["get"]


def test_damaged_tables_are_no_fault_of_the_server(tmp_path: Path) -> None:
    folder = recorded(tmp_path / "run", "--duration", "2")
    run = open_run("run", "run", folder)
    served = Served()
    served.add(run)
    client = make_app(served)[0].test_client()
    with (folder / "control.parquet").open("r+b") as file:
        file.seek(4)
        file.write(bytes(2_000))
    error = refusal(client, "/api/metrics/latest", 503)
    assert f"{folder / 'control.parquet'}: is damaged" in error["message"]
