"""The page of an experiment: whole, by itself, the same each time, and honest about what it cannot show."""

from __future__ import annotations

import csv
import importlib.util
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import answer, command, files_below, refused
from report_samples import FIVE, made, smallest

from twin.fingerprint.run import FIELDS
from twin.record.files import RecordInputError
from twin.report import canvas, page, style
from twin.report.page import write_report
from twin.report.source import MATRIX

TWO = FIVE[:2]


@pytest.fixture(scope="module", autouse=True)
def small_images() -> Iterator[None]:
    """Images nobody looks at need few pixels."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(canvas, "PNG_SCALE", 0.25)
        yield


@pytest.fixture(scope="module")
def experiment(small_images: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five made-up configurations with nine runs each, and their report."""
    folder = made(tmp_path_factory.mktemp("experiments") / "five", runs=9, ticks=3_000)
    write_report(folder)
    return folder


class Page(HTMLParser):
    """What a page has: its ids, what it refers to, its texts by element, and images without words for them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.mute: list[str] = []
        self.texts: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.ids += [given["id"] or ""] if "id" in given else []
        self.links += [given[name] or "" for name in ("href", "src") if name in given]
        if tag in ("img", "svg") and not (given.get("alt") or given.get("aria-label")):
            self.mute.append(tag)
        if tag not in ("meta", "link", "use"):
            self._open.append(tag)
            self.texts.setdefault(tag, []).append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in self._open:
            while self._open.pop() != tag:
                pass

    def handle_data(self, data: str) -> None:
        for tag in set(self._open):
            self.texts[tag][-1] += data


def read(folder: Path) -> str:
    return (folder / "report" / page.PAGE).read_text(encoding="utf-8")


def rows(folder: Path, name: str) -> list[dict[str, str]]:
    with (folder / "report" / "tables" / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_page_needs_nothing_but_itself(experiment: Path) -> None:
    text = read(experiment)
    found = Page(text)
    assert "http" not in text
    assert "@import" not in text
    assert "<script" not in text
    assert len(found.ids) == len(set(found.ids))
    for link in found.links:
        if link.startswith("#"):
            assert link[1:] in found.ids
        elif link != "data:,":
            assert (experiment / "report" / link).is_file(), link
    for name in re.findall(r"url\(#([^)]+)\)", text):
        assert name in found.ids
    assert not found.mute


def test_figures_follow_the_reader_s_colours(experiment: Path) -> None:
    text = read(experiment)
    body = text[text.index("<body>") :]
    assert not re.findall(r"(?:fill|stroke|color): ?#[0-9a-fA-F]{6}", body)
    for variable in set(re.findall(r"var\(--([a-z0-9-]+)\)", body)) - {"font"}:
        assert f"--{variable}: " in style.variables("dark")


def test_sections_and_captions(experiment: Path) -> None:
    found = Page(read(experiment))
    assert found.texts["h2"] == [
        "The choice", "What earned and what cost points", "Configurations", "Runs", "Courses in time",
        "Phase portraits", "Spectra", "Correlations", "Kicks", "What is not known, and why",
    ]  # fmt: skip
    captions = " ".join(found.texts["figcaption"])
    choice = json.loads((experiment / "golden.json").read_text())
    lead = choice["lead"]
    first = choice["ranking"][0]["name"]
    assert f"{first} has {choice['ranking'][0]['total']:.2f} points" in captions
    assert f"leads {lead['over']} by {lead['points']:.2f} points" in captions
    assert "Only one tick in 10 is kept" in captions
    assert all(len(caption) > 30 for caption in found.texts["figcaption"])
    assert choice["why"] in read(experiment)


def test_files_have_everything(experiment: Path) -> None:
    report = experiment / "report"
    figures = {path.stem for path in (report / "figures").glob("*.svg")}
    assert figures == {path.stem for path in (report / "figures").glob("*.png")}
    assert len(figures) == Page(read(experiment)).texts["h3"].__len__() - len(FIVE)
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in (report / "figures").glob("*.png"))
    runs = rows(experiment, "runs")
    assert [int(row["run_id"]) for row in runs] == list(range(45))
    assert {name for name in FIELDS if name != MATRIX} < set(runs[0])
    assert json.loads(runs[0]["reasons"]) == {"fps_mean": "no frame rate was ever read"}
    assert runs[0]["fps_mean"] == ""
    ranking = rows(experiment, "ranking")
    choice = json.loads((experiment / "golden.json").read_text())["ranking"]
    assert [row["configuration"] for row in ranking] == [entry["name"] for entry in choice]
    assert [float(row["total"]) for row in ranking] == [entry["total"] for entry in choice]
    assert {row["configuration"] for row in rows(experiment, "configurations")} == set(FIVE)
    assert len(rows(experiment, "kicks")) == 5 * 16
    assert {row["reason"] for row in rows(experiment, "reasons")} == {"no frame rate was ever read"}


def test_same_results_give_the_same_bytes_and_nothing_else_is_touched(tmp_path: Path) -> None:
    folder = made(tmp_path / "two", names=TWO, runs=3)
    before = files_below(folder)
    write_report(folder)
    first = files_below(folder / "report")
    write_report(folder)
    assert files_below(folder / "report") == first
    # SQLite's own files appear where a database that may be written beside is read.
    after = {name: data for name, data in files_below(folder).items() if not name.startswith(("report", "manifest"))}
    assert after == {name: data for name, data in before.items() if not name.startswith("manifest")}
    assert (folder / "manifest.sqlite").read_bytes() == before["manifest.sqlite"]
    elsewhere = made(tmp_path / "again", names=TWO, runs=3)
    write_report(elsewhere, tmp_path / "out")
    assert files_below(tmp_path / "out") == first


def test_many_configurations(tmp_path: Path) -> None:
    names = [f"candidate_{number}" for number in range(14)]
    folder = made(tmp_path / "many", names=names, runs=3, ticks=100, keep="none", kick_seeds=0)
    write_report(folder)
    text = read(folder)
    assert "Figures show the best 12 of 14 configurations; tables, and the files beside this page, have all." in text
    assert len(list((folder / "report" / "figures").glob("metrics-*.svg"))) == 12
    assert len(rows(folder, "ranking")) == len(rows(folder, "configurations")) == 14
    assert len(rows(folder, "runs")) == 42
    assert all(name in text for name in names)


def everything_unknown(place: int, seed: int, result: dict[str, Any]) -> None:
    for name in FIELDS:
        result[name] = None
    result["converged"] = False
    result["reasons"] = dict.fromkeys((name for name in FIELDS if name != "converged"), "the run did not <converge>")


def constant(place: int, seed: int, result: dict[str, Any]) -> None:
    for name, value in result.items():
        if isinstance(value, float):
            result[name] = 5.0
    result["convergence_time_ticks"] = 1_000
    result["converged"] = True
    result["metric_correlation_matrix"] = [[None] * 7 for _ in range(7)]


@pytest.mark.parametrize(
    ("changes", "sentences"),
    [
        ({"runs": 1}, ["Correlations of fields are not drawn", "cannot be judged"]),
        ({"runs": 1, "names": ["only"], "kick_seeds": 0}, ["Principal components: not drawn", "Nothing was kicked"]),
        ({"kick_seeds": 0}, ["Nothing was kicked, so no recovery is drawn."]),
        ({"keep": "none"}, ["are not drawn, because the plan keeps no ticks (keep = none)"]),
        ({"keep": "all", "ticks": 1_200}, ["Every tick is kept"]),
        ({"keep": "ends:400+sample:50", "ticks": 3_000}, ["Every tick is kept"]),
        ({"ticks": 10}, ["No spectrum is drawn"]),
        ({"edit": everything_unknown}, ["the run did not &lt;converge&gt;", "no run of any candidate converged"]),
        ({"edit": constant}, ["no correlations are drawn, because no run has them"]),
        ({"names": ["a" * 64, "b" * 63 + "c"]}, ["a" * 64]),
    ],
)  # fmt: skip
def test_degenerate_experiments(tmp_path: Path, changes: dict[str, Any], sentences: list[str]) -> None:
    folder = made(tmp_path / "odd", **{"names": TWO} | changes)
    written = write_report(folder)
    text = read(folder)
    for sentence in sentences:
        assert sentence in text
    for sentence in written.left_out:
        assert sentence.replace("<", "&lt;").replace("'", "&#39;") in text or sentence in text
    assert "nan" not in re.sub(r"<style>.*?</style>", "", " ".join(Page(text).texts["figcaption"])).split()
    assert len(Page(text).ids) == len(set(Page(text).ids))


def uncoupled(place: int, seed: int, result: dict[str, Any]) -> None:
    if place == 1:
        result["load_to_heartbeat_corr"] = None
        result["coupling_score"] = 0.0
        result["reasons"]["load_to_heartbeat_corr"] = "the interval does not vary"


def test_who_earns_nothing_for_coupling_is_explained(tmp_path: Path) -> None:
    folder = made(tmp_path / "five", edit=uncoupled)
    write_report(folder)
    choice = json.loads((folder / "golden.json").read_text())
    rank = [entry["name"] for entry in choice["ranking"]].index(FIVE[1])
    said = next(text for text in Page(read(folder)).texts["p"] if text.startswith(f"{FIVE[1]} earns nothing"))
    assert "because no run has load_to_heartbeat_corr (the interval does not vary)" in said
    points = sum(one["points"] for one in choice["ranking"][rank]["dimensions"].values())
    word = ("first", "second", "third", "fourth", "fifth")[rank]
    assert f"ranks {word} of 5, because everything else earns {points:.2f} of 80 points" in said
    assert "coupling (" in said


def test_unfinished(tmp_path: Path) -> None:
    folder = smallest(tmp_path / "one", finished=False)
    refused(2, ["the experiment is not finished; run the same twin experiment again"], command("report", folder))
    assert not (folder / "report").exists()


def test_neither_experiment_nor_run(tmp_path: Path) -> None:
    refused(2, ["is no directory of an experiment", "nor of a run"], command("report", tmp_path))
    refused(2, ["is no directory of an experiment"], command("report", tmp_path / "nowhere"))


def test_missing_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "matplotlib" else real(name))
    refused(2, ["needs matplotlib", "pip install 'pulsetwin[report]'"], command("report", tmp_path))


def test_command(tmp_path: Path) -> None:
    folder = smallest(tmp_path / "one")
    out = tmp_path / "elsewhere"
    said = answer("report", folder, "--out", out)
    assert said["page"] == str(out / "report.html")
    assert all(Path(path).is_file() for path in [said["page"], *said["figures"], *said["tables"]])
    assert said["left_out"]
    assert not (folder / "report").exists()
    assert command("report", folder, "--out", out, "--quiet").out == ""
    assert command("report", folder, "--out", out).out.startswith(f"{out / 'report.html'}\nleft out: ")


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path) -> None:
    folder = smallest(tmp_path / "one")
    out = tmp_path / "mine"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    refused(2, ["is not empty and holds no report.html"], command("report", folder, "--out", out))
    (out / "report.html").write_text("")
    refused(2, ["thesis.txt"], command("report", folder, "--out", out))
    assert (out / "thesis.txt").read_text() == "years of work"
    refused(2, ["is a file"], command("report", folder, "--out", out / "thesis.txt"))


def test_what_is_there_stays_when_a_report_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = smallest(tmp_path / "one")
    write_report(folder)
    before = files_below(folder / "report")

    def broken(report: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(page, "render", broken)
    assert command("report", folder).status == 3
    assert files_below(folder / "report") == before
    assert not (folder / "report.partial").exists()


def test_damaged_choice(tmp_path: Path) -> None:
    folder = smallest(tmp_path / "one")
    (folder / "golden.json").write_text('{"ranking": [{"name": "a"}]}')
    with pytest.raises(RecordInputError, match="writes it anew"):
        write_report(folder)


@pytest.mark.parametrize("which", ["light", "dark"])
def test_colours_can_be_seen(which: str) -> None:
    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))

    def contrast(a: str, b: str) -> float:
        low, high = sorted((luminance(a), luminance(b)))
        return (high + 0.05) / (low + 0.05)

    ground, ink = getattr(style.SURFACE, which), getattr(style.INK, which)
    assert all(contrast(getattr(shade, which), ground) >= 3.0 for shade in style.SERIES)
    assert all(contrast(getattr(shade, which), ink) >= 4.5 for shade in style.DIVERGING)
    assert contrast(getattr(style.MUTED, which), ground) >= 4.5
    assert len({style.mark(place) for place in range(style.SHOWN_MOST)}) == style.SHOWN_MOST
    assert len({shade.light for shade in style.SHADES}) == len(style.SHADES)
