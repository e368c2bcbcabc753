"""What the page is made of, without a browser: its size, its colours, and that it holds nothing that it must not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hardware.status import Status
from twin.control.view import SOURCES
from twin.dashboard import runs
from twin.learn import forecast
from twin.report import style
from twin.scenario import ACTIONS, GAME_STATES

STATIC = Path(runs.__file__).parent / "static"
OURS = sorted(path for path in STATIC.iterdir() if path.is_file())
STYLE = (STATIC / "style.css").read_text()
SHADES = {name: pair for name, *pair in re.findall(r"--([a-z-]+): light-dark\((#\w{6}), (#\w{6})\)", STYLE)}
MOST_BYTES = 500_000
TEXT, SHAPE = 4.5, 3.0
"""The least contrasts of WCAG 2.2, level AA: for text, and for what else has to be told apart."""


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_contrast_is_computed_as_defined() -> None:
    assert contrast("#000000", "#ffffff") == 21
    assert round(contrast("#767676", "#ffffff"), 2) == 4.54


def test_whole_page_is_small() -> None:
    files = [path for path in STATIC.rglob("*") if path.is_file()]
    assert {"index.html", "style.css", "app.js", "chart.js", "socket.io.js"} <= {path.name for path in files}
    assert sum(path.stat().st_size for path in files) <= MOST_BYTES


@pytest.mark.parametrize("which", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize(
    ("letters", "ground"),
    [(ink, ground) for ink in ("ink", "muted") for ground in ("ground", "surface", "raised")]
    + [(tone, place) for tone in ("good", "warn", "bad") for place in (f"{tone}-ground", "surface")]
    + [("accent", "surface"), ("accent", "ground"), ("surface", "accent"), ("surface", "ink")],
)
def test_text_can_be_read(letters: str, ground: str, which: int) -> None:
    assert contrast(SHADES[letters][which], SHADES[ground][which]) >= TEXT


@pytest.mark.parametrize("which", [0, 1], ids=["light", "dark"])
def test_lines_and_edges_can_be_seen(which: int) -> None:
    for name in (*(shade.name for shade in style.SERIES), "edge"):
        assert contrast(SHADES[name][which], SHADES["surface"][which]) >= SHAPE, name


def test_colours_are_those_of_the_reports() -> None:
    for shade in (style.SURFACE, style.INK, style.MUTED, *style.SERIES):
        assert SHADES[shade.name] == [shade.light, shade.dark], shade.name


def test_text_is_set_in_colours_that_are_checked() -> None:
    used = set(re.findall(r"(?<![-\w])color: var\(--([a-z-]+)\)", STYLE))
    assert used <= {"ink", "muted", "accent", "good", "warn", "bad", "surface"}


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.name)
def test_nothing_from_elsewhere_and_nothing_inline(path: Path) -> None:
    text = path.read_text()
    addresses = set(re.findall(r"(?:https?:|wss?:|ftp:)//[\w./-]+", text))
    # The name of a vocabulary, which nobody asks for.
    assert addresses <= {"http://www.w3.org/2000/svg"}
    assert not re.search(r"@import|url\(|[\"'(]data:", text)
    if path.suffix == ".html":
        assert not re.search(r"<style|\sstyle=|\son\w+\s*=|javascript:", text, re.IGNORECASE)
        assert all(body.strip() == "" for body in re.findall(r"<script[^>]*>(.*?)</script>", text, re.DOTALL))
    if path.suffix == ".js":
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|Fragment\(", text)
        assert not re.search(r"\beval\(|new Function|(?:setTimeout|setInterval)\(\s*[\"'`]", text)
        assert not re.search(r"document\.cookie|\.setAttribute\(\s*[\"']style", text)
        assert len(text.splitlines()) <= 500


def test_words_of_the_page_are_those_of_the_run() -> None:
    words = (STATIC / "words.js").read_text()

    def keys(name: str) -> list[str]:
        found = re.search(rf"export const {name} = \{{(.*?)^\}};", words, re.DOTALL | re.MULTILINE)
        assert found is not None
        return re.findall(r"^  (\w+): ", found[1], re.MULTILINE)

    assert keys("ACTIONS") == list(ACTIONS)
    assert keys("SOURCES") == list(SOURCES)
    assert keys("STATES") == ["running", "ended", "stopped", "lost"]
    assert f"GAME_STATES = {list(GAME_STATES)}".replace("'", '"') in words
    assert f"STATUSES = {[status.words for status in Status]}".replace("'", '"') in words


def test_forecasts_are_drawn_as_far_ahead_as_they_are() -> None:
    assert runs.FORECAST_STEPS == forecast.AHEAD
    assert int(re.findall(r"KEPT = (\d+)", (STATIC / "store.js").read_text())[0]) == runs.KEPT


def test_motion_is_only_where_it_is_liked() -> None:
    calm = re.sub(
        r"@media \(prefers-reduced-motion: no-preference\) \{.*?^\}", "", STYLE, flags=re.DOTALL | re.MULTILINE
    )
    assert "transition" not in calm
    assert "animation" not in calm
