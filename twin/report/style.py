"""How figures look: colours that are told apart by people who see few of them, and never colour alone.

Figures are drawn in the light colours. In the page each colour is replaced by a variable, which has another value where
the reader prefers dark pages. The eight series colours are those of M. Okabe and K. Ito ("Color universal design",
2008), made darker on light ground and lighter on dark ground until each has a contrast of 3 to 1 with it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple


class Shade(NamedTuple):
    """A colour by the name of its variable, on light and on dark ground."""

    name: str
    light: str
    dark: str


SURFACE = Shade("surface", "#fdfdfc", "#14181d")
INK = Shade("ink", "#1b2026", "#e9ebee")
MUTED = Shade("muted", "#5a636e", "#a6afba")
GRID = Shade("grid", "#dde1e6", "#39414b")
SERIES = (
    Shade("blue", "#0072b2", "#56a3e6"),
    Shade("vermillion", "#d55e00", "#f07f3c"),
    Shade("green", "#008a64", "#2fbf94"),
    Shade("purple", "#b5538c", "#dd95c0"),
    Shade("orange", "#b27700", "#e69f00"),
    Shade("black", "#2e3440", "#d9dde3"),
    Shade("sky", "#2f8fc9", "#8fd0f5"),
    Shade("yellow", "#857a00", "#f0e442"),
)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">", "h", "p")
LINES: tuple[Any, ...] = ("-", (0, (6, 2)), (0, (2, 1.5)), (0, (7, 2, 1.5, 2)))
SHOWN_MOST = 12
"""Figures show at most so many configurations; there are as many pairs of colour, marker and line."""
HATCHES = ("", "///", "...", "xx", "\\\\\\")


def _mixed(low: str, high: str, share: float) -> str:
    """The colour at `share` (0..1) of the way from `low` to `high`."""
    pairs = zip(_channels(low), _channels(high), strict=True)
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in pairs)


def _channels(colour: str) -> list[int]:
    return [int(colour[i : i + 2], 16) for i in (1, 3, 5)]


LEVELS = 10
"""Steps of a correlation's colour on either side of 0."""
_ENDS = {"light": ("#5aa7dd", "#f6f6f4", "#f0a25a"), "dark": ("#1d5f92", "#20252c", "#9a4a08")}


def _diverging() -> tuple[Shade, ...]:
    found = []
    for level in range(-LEVELS, LEVELS + 1):
        colours = [
            _mixed(middle, low if level < 0 else high, abs(level) / LEVELS) for low, middle, high in _ENDS.values()
        ]
        found.append(Shade(f"level-{level + LEVELS}", *colours))
    return tuple(found)


DIVERGING = _diverging()
"""From -1 (blue) over 0 to 1 (orange). Text in ink can be read on all of them."""

SHADES = (SURFACE, INK, MUTED, GRID, *SERIES, *DIVERGING)
_VARIABLES = {shade.light: f"var(--{shade.name})" for shade in SHADES}


class Mark(NamedTuple):
    """How one of several series is drawn. `scale` makes up for symbols that look small."""

    colour: str
    marker: str
    line: Any

    @property
    def scale(self) -> float:
        """How much larger than a circle the symbol has to be to look alike."""
        return {"*": 1.5, "P": 1.2, "X": 1.2, "D": 0.9}.get(self.marker, 1.0)


def mark(place: int) -> Mark:
    """The mark of series `place`, 0 .. `SHOWN_MOST` - 1."""
    return Mark(
        SERIES[place % len(SERIES)].light,
        MARKERS[place % len(MARKERS)],
        LINES[(place + place // len(SERIES)) % len(LINES)],
    )


def level_colour(value: float) -> str:
    """The colour of a correlation, -1..1."""
    return DIVERGING[round(max(-1.0, min(1.0, value)) * LEVELS) + LEVELS].light


def variables(which: str) -> str:
    """The declarations of all colours, `light` or `dark`, for a style sheet."""
    return " ".join(f"--{shade.name}: {getattr(shade, which)};" for shade in SHADES)


SETTINGS: Mapping[str, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": MUTED.light,
    "axes.facecolor": SURFACE.light,
    "axes.grid": True,
    "axes.labelcolor": INK.light,
    "axes.labelsize": 12,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK.light,
    "axes.titlelocation": "left",
    "axes.titlesize": 12,
    "axes.unicode_minus": True,
    "figure.facecolor": SURFACE.light,
    "font.family": "DejaVu Sans",
    "font.size": 12,
    "grid.color": GRID.light,
    "grid.linewidth": 0.8,
    "hatch.color": SURFACE.light,
    "hatch.linewidth": 1.2,
    "legend.frameon": False,
    "legend.fontsize": 11,
    "legend.labelcolor": INK.light,
    "lines.linewidth": 1.6,
    "lines.markersize": 6,
    "path.simplify": True,
    "svg.fonttype": "none",
    "svg.hashsalt": "pulsetwin",
    "text.color": INK.light,
    "xtick.color": MUTED.light,
    "xtick.labelcolor": INK.light,
    "xtick.labelsize": 11,
    "ytick.color": MUTED.light,
    "ytick.labelcolor": INK.light,
    "ytick.labelsize": 11,
}
"""What of matplotlib's settings is not its default."""

_COLOUR = re.compile(r"#[0-9a-fA-F]{6}\b")
_ID = re.compile(r' id="([^"]*)"')
_USED = re.compile(r'(?:url\(#|href="#)([^)"]+)')


def inline(svg: str, key: str, label: str) -> str:
    """A figure's SVG for the page: colours are variables, names are its own, the size is left to the style sheet.

    `key` begins the names, so that figures do not share them; `label` is what is read out in its place.
    """
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>\s*", "", body, flags=re.DOTALL)
    body = re.sub(r"<!--.*?-->\s*", "", body, flags=re.DOTALL)
    used = set(_USED.findall(body))
    body = _ID.sub(lambda found: f' id="{key}-{found[1]}"' if found[1] in used else "", body)
    body = _USED.sub(lambda found: found[0].replace(found[1], f"{key}-{found[1]}"), body)
    body = body.replace("xlink:href=", "href=")
    body = re.sub(r'stroke: #000000; stroke-opacity: 0(?=[;"])', "stroke: none", body)
    # A hundredth of a pixel is enough, in what is drawn; what is written stays as it is.
    body = re.sub(r"<[^>]*>", lambda tag: re.sub(r"(\d\.\d\d)\d+", r"\1", tag[0]), body)
    body = _COLOUR.sub(lambda found: _VARIABLES.get(found[0].lower(), found[0]), body)
    body = re.sub(r"font-family: [^;\"]*", "font-family: var(--font)", body)
    body = re.sub(r"font: ([^;\"]*?)(?:'DejaVu Sans'|DejaVu Sans)[^;\"]*", r"font: \1var(--font)", body)
    head, _, rest = body.partition(">")
    box = re.search(r'viewBox="([^"]*)"', head)
    assert box is not None
    # Text in SVG would be read out word by word, axis by axis.
    return f'<svg viewBox="{box[1]}" role="img" aria-label="{_attribute(label)}">{rest}'.rstrip()


def _attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
