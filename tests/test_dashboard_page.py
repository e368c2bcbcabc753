"""The page in a real browser, where there is one: it shows what the tables have, wherever its records come from."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import browser as chromium
import pyarrow.parquet as pq
import pytest
from dashboard_runs import recorded
from dashboards import TOKEN, UNBOUNDED, row, some_run
from page_parts import OVERLAPS, SHOWN, fan_run

from twin.dashboard.answers import Served
from twin.dashboard.gate import Access
from twin.dashboard.runs import KEPT, Run
from twin.dashboard.server import Emitter, make_server
from twin.dashboard.tables import open_run
from twin.record.compare import first_difference

pytestmark = pytest.mark.skipif(not chromium.THERE, reason="there is no Chromium with its driver here")

Row = dict[str, Any]
UNITS = {
    "cpu_load_ppm": 10_000, "gpu_busy_ppm": 10_000, "memory_used_ppm": 10_000, "frame_rate_millihertz": 1_000,
    "cpu_power_microwatts": 1_000_000, "gpu_power_microwatts": 1_000_000, "frame_latency_microseconds": 1_000,
}  # fmt: skip
LIMITS = {"cpu": 95_000, "gpu": 90_000, "case": 65_000}


@pytest.fixture(scope="module")
def window() -> Iterator[chromium.Browser]:
    with chromium.browser() as one:
        yield one


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Runs that part: of the second, the room is hotter."""
    place = tmp_path_factory.mktemp("two")
    hot = ("--set", "machine.ambient_celsius=40.0")
    return recorded(place / "one", "--duration", "20", "--neural"), recorded(place / "two", "--duration", "20", *hot)


@pytest.fixture(autouse=True)
def calm(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever a test does, nothing is complained of on the console, and nobody else is asked for anything."""
    window: chromium.Browser = request.getfixturevalue("window")
    window.look(1_400, "light")
    window.log("browser")
    window.log("performance")
    yield
    said = [entry for entry in window.log("browser") if not _is_refused(entry["message"])]
    assert said == []
    asked = [json.loads(entry["message"])["message"] for entry in window.log("performance")]
    urls = {one["params"]["request"]["url"] for one in asked if one["method"] == "Network.requestWillBeSent"}
    urls |= {one["params"]["url"] for one in asked if one["method"] == "Network.webSocketCreated"}
    assert urls
    assert all(re.match(r"(http|ws)://127\.0\.0\.1:\d+/|data:|about:", url) for url in urls), urls


def _is_refused(message: str) -> bool:
    """What Chromium itself says when nobody is there, or who is there knows another token: no script can prevent it."""
    return "ERR_CONNECTION_REFUSED" in message or "status of 401" in message or "WebSocket connection to" in message


@dataclass
class Told:
    """An experiment that is as far as it says."""

    known: Row

    def progress(self) -> Row:
        return self.known


@contextmanager
def serving(
    *runs: Run, port: int = 0, token: str = TOKEN, experiments: Sequence[Row] = ()
) -> Iterator[tuple[str, Callable[[], None]]]:
    """The address of a page for these runs, and what tells its clients of news."""
    listener = socket.create_server(("127.0.0.1", port))
    with listener:
        port = listener.getsockname()[1]
        served = Served()
        for run in runs:
            served.add(run)
        served.experiments.extend(Told(one) for one in experiments)
        server, events = make_server(listener, Access(token, (f"127.0.0.1:{port}",)), served, UNBOUNDED)
    thread = threading.Thread(target=server.serve_forever, args=(0.1,))
    thread.start()
    emitter = Emitter(events)

    def tell() -> None:
        for run in runs:
            emitter.news(run)

    try:
        yield f"http://127.0.0.1:{port}/?token={token}", tell
    finally:
        # As when the process ends, nothing stays connected.
        for client in list(events.server.eio.sockets.values()):
            client.close(wait=False, abort=True)
        events.server.shutdown()
        server.shutdown()
        thread.join()


def shown(window: chromium.Browser, view: int = 0) -> Row:
    found: Row = window.run(SHOWN % view)
    return found


def table(run: Path) -> list[Row]:
    rows: list[Row] = pq.read_table(run / "control.parquet").to_pylist()
    return rows


def assert_shows(seen: Row, record: Row) -> None:
    """Every value of the first row, to the digit that is shown."""
    for name, unit in UNITS.items():
        if record[name] is None:
            assert seen[name] == "–", name
        else:
            assert abs(float(seen[name].replace(",", "")) * unit - record[name]) <= unit / 20 + 1e-6, name
    worst = {name: record[f"{name}_worst_millicelsius"] for name in LIMITS}
    assert abs(float(seen["hottest"]) * 1_000 - max(worst.values())) <= 50.001
    assert abs(float(seen["headroom"]) * 1_000 - min(LIMITS[name] - worst[name] for name in LIMITS)) <= 50.001
    assert seen["action"] == record["action"]
    changed = record["shield_changed"].replace("->", "→")
    assert seen["reason"] == (f"shield: {changed}" if record["source"] == "shield" else record["reason"])
    assert seen["game_state_code"] == ["menu", "loading", "exploration", "combat"][record["game_state_code"]]


def test_live_values_are_those_of_the_control_table(tmp_path: Path, window: chromium.Browser) -> None:
    out = tmp_path / "live"
    arguments = ("run", "gaming", "--dashboard", "--port", "0", "--speed", "4", "--duration", "24", "--out", str(out))
    with subprocess.Popen([sys.executable, "-m", "twin", *arguments], stderr=subprocess.PIPE, text=True) as run:
        assert run.stderr is not None
        url = next(found[0] for line in run.stderr if (found := re.search(r"http://\S+", line)))
        threading.Thread(target=run.stderr.read, daemon=True).start()
        window.open(url)
        window.wait_for("document.querySelector('.view')?.dataset.cycle > 0")
        assert "token" not in window.run("return location.href")
        seen, pictures = [], set()
        while run.poll() is None:
            seen.append(shown(window))
            pictures.add(window.run("return document.querySelector('.graph canvas[role]').toDataURL()"))
        window.wait_for("document.querySelector('.head').innerText.includes('Ended')")
    # That nobody answers any more is as it should be.
    window.wait_for("document.querySelector('#link').innerText === 'the run is over'")
    window.wait_for("document.querySelectorAll('.links a[aria-disabled]:not([href])').length === 2")
    assert window.run("return document.querySelector('#notice').dataset.tone") == "calm"
    seen.append(shown(window))
    rows = table(out)
    assert seen[-1]["cycle"] == rows[-1]["cycle"]
    assert len({one["cycle"] for one in seen}) >= 5
    assert len(pictures) >= 5
    for one in seen:
        assert_shows(one, rows[one["cycle"]])
    assert f"twin dashboard {out}" in window.run("return document.body.innerText")


def test_recorded_run_is_scrubbed_and_played(two: tuple[Path, Path], window: chromium.Browser) -> None:
    rows = table(two[0])
    with serving(open_run("one", "one", two[0])) as (url, _):
        window.open(url)
        window.wait_for("document.querySelector('.view')?.dataset.cycle")
        assert_shows(shown(window), rows[-1])
        window.run("document.querySelector('#transport input').focus()")
        window.press("Home")
        window.wait_for("document.querySelector('.view').dataset.cycle === '0'")
        assert window.run("return window.scrollY") == 0
        assert shown(window)["cpu_load_ppm"] == "–"
        assert "not known" in window.run("return document.querySelector('[data-shows=cpu_load_ppm]').ariaLabel")
        window.press("ArrowRight", 7)
        window.wait_for("document.querySelector('.view').dataset.cycle === '7'")
        assert_shows(shown(window), rows[7])
        window.run("document.querySelector('#transport select').value = 10;"
                   "document.querySelector('#transport select').dispatchEvent(new Event('change'))")  # fmt: skip
        window.run("document.activeElement.blur()")
        window.press("Space")
        seen = []
        while not seen or seen[-1]["cycle"] < len(rows) - 1:
            seen.append(shown(window))
        assert len({one["cycle"] for one in seen}) >= 4
        for one in seen:
            assert_shows(one, rows[one["cycle"]])
        assert window.run("return document.querySelector('#transport [aria-label=Play]') !== null")


def test_whole_run_and_each_range_are_drawn(two: tuple[Path, Path], window: chromium.Browser) -> None:
    with serving(open_run("one", "one", two[0])) as (url, _):
        window.open(url)
        window.wait_for("document.querySelector('.view')?.dataset.cycle")
        chart = "document.querySelector('.graph canvas[role]').of.chart"
        ends = f"[{chart}?.scales.x.min, {chart}?.scales.x.max].map(one => Math.round(10 * one)).join()"
        # The forecast is drawn five seconds ahead of the last record.
        for name, first, last in (("60", 13.9, 24.9), ("300", 0, 30), ("ten", 0, 600), ("whole", 0, 24.9)):
            window.run(f"const pick = document.querySelector('#range-pick'); pick.value = '{name}';"
                       "pick.dispatchEvent(new Event('change'))")  # fmt: skip
            window.wait_for(f"{ends} === '{10 * first:.0f},{10 * last:.0f}'")
            assert window.run(f"return {chart}.data.datasets[0].data.length") > 60


def test_two_runs_and_where_they_part(two: tuple[Path, Path], window: chromium.Browser) -> None:
    difference = first_difference(*two)
    assert difference is not None
    with serving(open_run("one", "one", two[0]), open_run("two", "two", two[1])) as (url, _):
        window.look(1_400, "light", height=3_000)
        window.open(url)
        window.wait_for("document.querySelectorAll('.view').length === 2")
        window.run("document.querySelector('#transport > button').click()")
        said = window.wait_for("document.querySelector('#transport .said').innerText.match(/First difference.*/)?.[0]")
        values = [json.dumps(value) for value in (difference.a, difference.b)]
        assert f"{difference.column} is {' and '.join(values)}" in said
        window.run("document.querySelector('#transport [aria-label=End]').click()")
        last = ",".join(str(len(table(run)) - 1) for run in two)
        window.wait_for(f"[...document.querySelectorAll('.view')].map(one => one.dataset.cycle).join() === '{last}'")
        for view, run in enumerate(two):
            assert_shows(shown(window, view), table(run)[-1])
        axes = "[...document.querySelectorAll('.graph.wide canvas[role]')].map(one => one.of.chart.scales.x.max)"
        left_heat, left_use, right_heat, right_use = window.wait_for(f"{axes}")
        assert (left_heat, left_use) == (right_heat, right_use)
        sets = "document.querySelector('.graph canvas[role]').of.chart.data.datasets"
        assert window.run(f"return {sets}.length") == len(LIMITS)
        window.run("document.querySelector('.graph .overlay').click()")
        window.wait_for(f"{sets}.length === {2 * len(LIMITS)}")
        assert window.run(f"return {sets}.slice(3).every(one => one.borderDash.length && one.data.length > 1)")


def test_exports_are_what_the_server_sends(two: tuple[Path, Path], window: chromium.Browser) -> None:
    run = open_run("one", "one", two[0])
    with serving(run) as (url, _):
        window.open(url)
        window.wait_for("document.querySelector('.links a')")
        for kind in ("CSV", "JSON"):
            link = window.run(
                f"return [...document.querySelectorAll('.links a')].find(one => one.text === '{kind}').href"
            )
            got = window.run(
                f"const ask = new XMLHttpRequest(); ask.open('GET', '{link}', false); ask.send();"
                "return [ask.status, ask.getResponseHeader('Content-Disposition'), ask.responseText]"
            )
            assert got[:2] == [200, f'attachment; filename="one.{kind.lower()}"']
            if kind == "JSON":
                assert json.loads(got[2]) == list(run.records())
            else:
                assert got[2].count("\n") == run.cycles + 1


# A server that is torn away may be in the middle of taking a connection, which nobody closes then.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_page_says_that_it_lost_its_server_and_heals(window: chromium.Browser) -> None:
    run = some_run(5)
    with serving(run) as (url, _):
        port = int(url.split(":")[2].split("/")[0])
        window.open(url)
        window.wait_for("document.querySelector('#link').innerText === 'connected'")
    window.wait_for("document.querySelector('#link').innerText === 'connection lost'")
    window.wait_for("document.querySelector('.view.stale') && !document.querySelector('#notice').hidden")
    assert window.run("return document.querySelector('.head .pill').innerText") == "unknown"
    window.run("const now = performance.now.bind(performance); performance.now = () => now() + 60_000")
    window.wait_for("document.querySelector('#notice').innerText.includes('twin dashboard runs/run shows the run')")
    run.record(0, row(5), None)
    with serving(run, port=port) as (_, news):
        window.wait_for("document.querySelector('#link').innerText === 'connected'")
        window.wait_for(
            "document.querySelector('.view').dataset.cycle === '5' && document.querySelector('#notice').hidden"
        )
        run.record(0, row(6), None)
        news()
        window.wait_for("document.querySelector('.view').dataset.cycle === '6'")
    with serving(run, port=port, token="another token") as (anew, _):
        window.wait_for("document.querySelector('#notice').innerText.includes('another token')")
        window.open(anew)
        window.wait_for("document.querySelector('#link').innerText === 'connected'")


def test_stale_ended_and_strange_values(window: chromium.Browser) -> None:
    """A loop that hangs is seen; what names say is text, whatever they say; what is missing is a dash with a reason."""
    run = some_run(8)
    with serving(run) as (url, news):
        window.open(url)
        window.wait_for("document.querySelector('.view.stale .age')?.innerText.match(/stale: [0-9]+ s old/)")
        assert "img src" in window.run("return document.querySelector('[data-shows=reason]').innerText")
        assert window.run("return document.querySelectorAll('img').length") == 0
        assert shown(window)["cpu_load_ppm"] == "–"
        assert "does not tell" in window.run(
            "return document.querySelector('[data-shows=cpu_load_ppm]').parentElement.title"
        )
        panels = window.run("return [...document.querySelectorAll('.panel > .empty')].map(one => one.innerText)")
        assert any("--neural" in one for one in panels)
        window.wait_for(
            "[...document.querySelectorAll('.panel > .empty')].some(one => one.innerText.includes('--crystal'))"
        )
        run.record(0, row(8), None)
        news()
        window.wait_for(
            "!document.querySelector('.view.stale') && document.querySelector('.view').dataset.cycle === '8'"
        )
        run.over("lost")
        news()
        window.wait_for("document.querySelector('.head').innerText.includes('Lost')")


def test_text_out_of_sight_follows_and_what_is_amiss_is_said(window: chromium.Browser) -> None:
    why = "cpu_fan turns at 3 rpm where 517 are expected, which has been so for longer than it takes a fan to start"
    run = fan_run("fan", 4)
    panel = "[...document.querySelectorAll('.panel')].find(one => one.querySelector('h3').textContent === 'Shield')"
    with serving(run) as (url, news):
        window.look(1_280, "light", height=300)
        window.open(url)
        window.wait_for(f"{panel}?.textContent.includes('Passed as asked')")
        card = window.run("return document.querySelector('.card').innerText")
        assert "hottest: cpu by model, reading 39.0\u00a0°C" in card
        assert "(cpu, limit 95 °C)" in card
        assert shown(window)["cpu_fan_rpm"] == "700"
        bad = (
            "cpu reads colder",
            "cpu",
            "conservative",
            "rules",
            why,
            60,
            255,
            None,
            "cpu_fan_pwm 60 -> 255",
            "cpu_fan_pwm: gone",
        )
        run.record(0, [4, 400_000_000, 39_000, 3, 41_000, *bad, 700_000, 512], None)
        news()
        window.wait_for("document.querySelector('.view').dataset.cycle === '4'")
        assert window.run("return window.scrollY") == 0
        text = window.wait_for(f"{panel}.textContent")
        assert all(
            word in text for word in ("Changed 1 output", "3 rpm", "cpu reads colder", "cpu_fan_pwm: gone", "255")
        )
        assert "512" in window.run("return document.querySelector('.small-graphs').textContent")
        assert shown(window)["reason"] == why
        clipped = (
            "const box = document.querySelector('[data-shows=reason]'); return box.scrollHeight > box.clientHeight"
        )
        assert not window.run(clipped)
        badges = window.run("return document.querySelector('.card .badges').innerText")
        assert all(word in badges for word in ("Fan trouble", "Sensor suspected", "Not applied", "Not checked"))
        assert window.run("return document.querySelector('.card .badges .pill').dataset.tone") != "good"


def test_run_is_not_shown_where_it_has_no_record(window: chromium.Browser) -> None:
    long, short = fan_run("long", 30, 40), fan_run("short", 5, 90, origin="replayed", backend="")
    for run in (long, short):
        run.over("ended")
    with serving(long, short) as (url, _):
        window.look(1_400, "light", height=3_000)
        window.open(url)
        window.wait_for("document.querySelectorAll('.view .absent')[1]?.innerText === 'ended at 0:00.4'")
        assert shown(window, 1)["hottest"] == shown(window, 1)["action"] == "–"
        assert (
            window.run("return document.querySelectorAll('.view')[1].querySelector('.legend .value').innerText") == "–"
        )
        assert shown(window, 0)["hottest"] == "40.0"
        pills = window.run("return [...document.querySelectorAll('.pill.plain:not(.age)')].map(one => one.innerText)")
        assert pills == ["live, simulated", "replayed"]
        window.run("document.querySelector('[aria-label=\"To the beginning\"]').click()")
        window.wait_for("document.querySelectorAll('.view')[1].dataset.cycle === '0'")
        assert shown(window, 1)["hottest"] == "90.0"
        ends = "one => [one.of.chart.scales.y.min, one.of.chart.scales.y.max]"
        graphs = "[...document.querySelectorAll('.graph.wide canvas[role]')]"
        window.wait_for(f"{graphs}.every(one => one.of.chart)")
        axes = window.run(f"return {graphs}.map({ends})")
        assert axes[:2] == axes[2:]


def test_experiments_are_told_whole(window: chromium.Browser) -> None:
    each = [{"name": f"1_0_1_1_1_{i}", "total": 16, "done": i} for i in range(3)]
    one = {
        "id": "a", "name": "demo", "directory": "here/demo-1", "scenario": "gaming", "ticks": 3_000, "state": "running",
        "total": 48, "done": 3, "failed": 1, "jobs_per_second": 0.25, "left_seconds": 180, "configurations": each,
    }  # fmt: skip
    over = {**one, "id": "b", "directory": "here/demo-2", "state": "ended", "done": 48, "golden": None, "tie": []}
    with serving(experiments=[one, {**over, "why": "There is none."}]) as (url, _):
        window.look(360, "light")
        window.open(url)
        text = window.wait_for(
            "document.querySelector('#experiments .number') && document.querySelector('#experiments').innerText"
        )
        for said in (
            *("here/demo-1", "here/demo-2", "3 of 48 runs done, 1 failed, 0.25 runs a second", "Running", "Ended"),
            *("Chosen once all is done", "There is none.", "1_0_1_1_1_2", "2 of 16"),
        ):
            assert said in text
        assert window.run("return document.documentElement.scrollWidth") == 360
        assert window.run(OVERLAPS) == []


def test_every_width_in_both_colours(two: tuple[Path, Path], window: chromium.Browser) -> None:
    with serving(open_run("one", "one", two[0]), open_run("two", "two", two[1])) as (url, _):
        for width in (360, 768, 1_400, 2_560):
            grounds = set()
            for scheme in ("light", "dark"):
                window.look(width, scheme)
                window.open(url)
                window.wait_for(
                    "document.querySelectorAll('.view').length === 2 && document.querySelector('.view').dataset.cycle"
                )
                assert window.run("return document.documentElement.scrollWidth") == width
                assert window.run(OVERLAPS) == []
                grounds.add(window.run("return getComputedStyle(document.body).backgroundColor"))
            assert len(grounds) == 2


def test_colours_stay_as_chosen(two: tuple[Path, Path], window: chromium.Browser) -> None:
    ground = "return getComputedStyle(document.body).backgroundColor"
    with serving(open_run("one", "one", two[0])) as (url, _):
        window.open(url)
        light = window.run(ground)
        window.run("document.querySelector('#theme').click()")
        assert window.run(ground) != light
        window.open(url)
        assert window.run(ground) != light
        assert window.run("return document.cookie") == ""
        window.run("localStorage.clear()")


def test_keyboard_alone_reaches_everything(two: tuple[Path, Path], window: chromium.Browser) -> None:
    kinds = "a, button, select, input, summary, .scroll"
    wanted = f"[...document.querySelectorAll('{kinds}')].filter(one => one.checkVisibility())"
    with serving(open_run("one", "one", two[0])) as (url, _):
        window.open(url)
        window.wait_for("document.querySelector('.view')?.dataset.cycle")
        count = window.run(f"return {wanted}.length")
        reached = set()
        for _ in range(count + 2):
            window.press("Tab")
            focus = window.run(
                f"const one = document.activeElement; const style = getComputedStyle(one);"
                f"return [{wanted}.indexOf(one), style.outlineStyle !== 'none' && style.outlineWidth !== '0px']"
            )
            if focus[0] >= 0:
                reached.add(focus[0])
                assert focus[1], focus
        assert len(reached) == count
        names = window.run(
            f"return {wanted}.map(one => one.ariaLabel || one.innerText || one.labels?.[0]?.innerText || '')"
        )
        assert all(name.strip() for name in names), names
        assert window.run("return [...document.querySelectorAll('canvas[role]')].every(one => one.ariaLabel)")


def test_memory_stays_flat(two: tuple[Path, Path], window: chromium.Browser) -> None:
    """Half an hour of records through the page's own store."""
    with serving(open_run("one", "one", two[0])) as (url, _):
        window.open(url)
        window.wait_for("document.querySelector('.view')?.dataset.cycle")
        feed = """
        const done = arguments[arguments.length - 1];
        const {Run} = await import("/static/run.js");
        const about = (await (await fetch("/api/runs", {headers: {Authorization: "Bearer %s"}})).json()).runs[0];
        window.fed ??= new Run({...about, state: "running"});
        const first = window.fed.newest.last?.cycle ?? -1;
        for (let cycle = first + 1; cycle <= first + %d; cycle += 1) {
          const record = Object.fromEntries(about.columns.map(name => [name, cycle]));
          const insight = {q_values: {noop: cycle}};
          window.fed.hear({...record, cycle, time_ns: cycle * 1e8, reason: `cycle ${cycle}`}, insight, 0);
          if (cycle %% 50 === 0) window.fed.graphs(Math.max(0, cycle - 60) * 1e8, cycle * 1e8, 0, () => null);
        }
        return window.fed.newest.rows.length;
        """
        window.devtools("HeapProfiler.enable")
        sizes = []
        for many in (2_000, 16_000):
            assert window.run(feed % (TOKEN, many)) == KEPT
            window.devtools("HeapProfiler.collectGarbage")
            sizes.append(window.devtools("Runtime.getHeapUsage")["usedSize"])
        assert sizes[1] - sizes[0] < 500_000
