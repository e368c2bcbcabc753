"""Drawing with matplotlib: a figure of a known size, whose margins follow from what is written in them."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from twin.report.parts import Drawing, short
from twin.report.style import MUTED, SETTINGS, Mark, inline

Axes = Any
"""`matplotlib.axes.Axes`. What the library declares of its types is another thing in each of its versions."""
POINTS_AN_INCH = 72
PNG_SCALE = 2
CHARACTER = 6.9
"""Width of a character of 11 points, on the mean and a little more, in pixels."""
LEGEND_ROW = 19
PANEL, WIDE = 480, 760
"""Widths of figures, in pixels."""


@contextmanager
def drawing_settings() -> Iterator[None]:
    """Draw with our settings, whatever the user's matplotlibrc says."""
    import matplotlib as mpl

    settings: Any = mpl.rcParams
    with mpl.rc_context():
        settings.update({key: value for key, value in mpl.rcParamsDefault.items() if not key.startswith("backend")})
        settings.update(SETTINGS)
        yield


class Canvas:
    """A figure; lengths in pixels from its lower left corner."""

    def __init__(self, width: int, height: int) -> None:
        from matplotlib.figure import Figure

        self.width, self.height = width, height
        self.figure: Any = Figure(figsize=(width / POINTS_AN_INCH, height / POINTS_AN_INCH), dpi=POINTS_AN_INCH)

    def axes(self, left: float, bottom: float, right: float, top: float, **how: Any) -> Axes:
        """Axes whose edges lie so far from those of the figure."""
        width, height = self.width - left - right, self.height - bottom - top
        place = (left / self.width, bottom / self.height, width / self.width, height / self.height)
        return self.figure.add_axes(place, **how)

    def words(self, x: float, y: float, text: str, **how: Any) -> None:
        """Text at a place, in pixels from the lower left corner."""
        self.figure.text(x / self.width, y / self.height, text, **how)

    def legend(self, handles: Sequence[Any], labels: Sequence[str]) -> None:
        """A legend along the lower edge, in as many rows as `legend_rows` says."""
        columns, _ = _legend_shape(labels, self.width)
        self.figure.legend(
            handles, labels, loc="lower left", bbox_to_anchor=(4 / self.width, 2 / self.height), ncols=columns,
            borderaxespad=0, borderpad=0, labelspacing=0.35, columnspacing=1.2, handlelength=2.6, handletextpad=0.6,
        )  # fmt: skip

    def done(self, name: str, title: str, caption: str) -> Drawing:
        """The figure in all its forms."""
        svg = io.BytesIO()
        self.figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None}, dpi=POINTS_AN_INCH)
        png = io.BytesIO()
        self.figure.savefig(png, format="png", metadata={"Software": None}, dpi=POINTS_AN_INCH * PNG_SCALE)
        text = svg.getvalue().decode()
        return Drawing(
            name, title, caption, inline(text, name, f"{title}. {caption}"), text.encode(), png.getvalue(), self.width
        )


def _legend_shape(labels: Sequence[str], width: int) -> tuple[int, int]:
    """Columns and rows of a legend."""
    widest = max((len(label) for label in labels), default=0) * CHARACTER + 52
    columns = max(1, min(len(labels), int((width - 8) / widest)))
    return columns, -(-len(labels) // columns)


def legend_height(labels: Sequence[str], width: int) -> int:
    """What a legend takes of a figure's height, with what lies between it and the axes; in pixels."""
    return _legend_shape(labels, width)[1] * LEGEND_ROW + 8 if labels else 0


def name_margin(names: Sequence[str]) -> int:
    """The left margin that names as tick labels need."""
    return int(max((len(short(name)) for name in names), default=0) * CHARACTER) + 18


def one_row_each(axes: Axes, names: Sequence[str]) -> None:
    """Names as labels of rows 0, 1, ... from the top."""
    axes.set_yticks(range(len(names)), [short(name) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")


def few_ticks(axes: Axes, x: int | None = 6, y: int | None = 5) -> None:
    """At most so many ticks, with thousands by commas; None leaves an axis alone."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    for axis, most in ((axes.xaxis, x), (axes.yaxis, y)):
        if most is not None:
            axis.set_major_locator(MaxNLocator(most, steps=[1, 2, 2.5, 5, 10]))
            axis.set_major_formatter(FuncFormatter(lambda value, _: _tick(value)))


def _tick(value: float) -> str:
    return f"{value:,.6g}".replace("-", "−")


def marked(axes: Axes, x: Any, y: Any, how: Mark, label: str | None = None, offset: float = 0.0, **more: Any) -> Any:
    """A line with a few of its mark's symbols on it, the first of them `offset` (0..1) of their distance in."""
    every = 1 / 7
    settings = {"markevery": (offset * every, every), "markeredgecolor": "none", "markersize": 6.5 * how.scale} | more
    return axes.plot(x, y, color=how.colour, linestyle=how.line, marker=how.marker, label=label, **settings)[0]


def quiet_frame(axes: Axes) -> None:
    """No frame, no ticks: for tables of colours."""
    axes.grid(visible=False)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


LINE: dict[str, Any] = {"color": MUTED.light, "linewidth": 1.0}
"""A thin line that helps to read."""
