"""The page in a real browser, where there is one: it asks nobody for anything, and its labels can be read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import browser as chromium
import pytest
from profiles import NIGHTLY
from report_samples import FIVE, made

from twin.report.page import write_report

pytestmark = pytest.mark.skipif(not chromium.THERE, reason="there is no Chromium with its driver here")

SAMPLES: dict[str, dict[str, Any]] = {
    "five": {"names": FIVE, "runs": 8, "ticks": 6_000},
    "eight": {"names": [*FIVE, "reference", "without_L7", "all_loops_off"], "runs": 2, "ticks": 3_000},
    "all": {"names": [f"configuration_{number:06b}" for number in range(64)], "runs": 3, "ticks": 600},
}
OVERLAPS = """
const found = [];
for (const svg of document.querySelectorAll("figure svg")) {
  const frame = svg.getBoundingClientRect();
  const title = svg.closest("figure").querySelector("h3").textContent;
  const pixel = frame.width / svg.viewBox.baseVal.width;
  const texts = [...svg.querySelectorAll("text")].filter(text => text.textContent.trim());
  const boxes = texts.map(text => [text.textContent.trim(), text.getBoundingClientRect()]);
  boxes.forEach(([a, p], i) => {
    if (p.left < frame.left - pixel || p.right > frame.right + pixel || p.top < frame.top - pixel
        || p.bottom > frame.bottom + pixel) found.push([title, "leaves the figure", a]);
    for (const [b, q] of boxes.slice(0, i)) {
      // Boxes have the height of a line, letters do not.
      if (Math.min(p.right, q.right) - Math.max(p.left, q.left) > pixel
          && Math.min(p.bottom, q.bottom) - Math.max(p.top, q.top) > 3 * pixel) found.push([title, a, b]);
    }
  });
}
return found;
"""


@pytest.fixture(scope="module")
def window() -> Iterator[chromium.Browser]:
    with chromium.browser() as one:
        yield one


# Each takes half a minute.
@pytest.mark.parametrize("name", SAMPLES if NIGHTLY else ["five"])
def test_page_in_a_browser(tmp_path: Path, window: chromium.Browser, name: str) -> None:
    written = write_report(made(tmp_path / name, **SAMPLES[name]))
    window.log("performance")
    grounds = {}
    for width in (1_400, 390):
        for scheme in ("light", "dark"):
            window.look(width, scheme)
            window.open(written.page)
            assert window.run(OVERLAPS) == []
            assert window.run("return document.documentElement.scrollWidth") == width
            ground = window.run("return getComputedStyle(document.body).backgroundColor")
            letters = window.run("return getComputedStyle(document.querySelector('figure svg text')).fill")
            grounds[scheme] = (ground, letters)
    assert all(light != dark for light, dark in zip(grounds["light"], grounds["dark"], strict=True))
    assert window.log("browser") == []
    asked = [json.loads(entry["message"])["message"] for entry in window.log("performance")]
    urls = {one["params"]["request"]["url"] for one in asked if one["method"] == "Network.requestWillBeSent"}
    assert urls
    assert all(url.startswith(("file://", "data:")) for url in urls), urls


def test_keyboard_reaches_everything_that_scrolls(tmp_path: Path, window: chromium.Browser) -> None:
    written = write_report(made(tmp_path / "two", names=FIVE[:2], runs=2))
    window.look(390, "light")
    window.open(written.page)
    hidden = window.run(
        "return [...document.querySelectorAll('main *')].filter(one => one.scrollWidth > one.clientWidth + 1 &&"
        " getComputedStyle(one).overflowX === 'auto' && one.tabIndex < 0).length"
    )
    assert hidden == 0
