"""What a report is made of: sections with drawings, tables and words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

Cell = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Drawing:
    """A figure: for the page (`inline`), and as files. `width` is what its text is made for, in pixels."""

    name: str
    title: str
    caption: str
    inline: str
    svg: bytes
    png: bytes
    width: int


@dataclass(frozen=True, slots=True)
class Table:
    """A table. The page shows `rows` as they are written here; the CSV file of that name has `records`.

    `rows` may be empty: then the table is only a file, which the page links to.
    """

    name: str
    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    fields: Sequence[str]
    records: Iterable[Sequence[Cell]]


@dataclass(slots=True)
class Section:
    """A part of the page. `items` are heads with sentences."""

    key: str
    title: str
    paragraphs: list[str] = field(default_factory=list)
    drawings: list[Drawing] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    items: list[tuple[str, list[str]]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Report:
    """A whole report: a title, facts in pairs, what it says at once, and its sections."""

    title: str
    lead: Sequence[str]
    facts: Sequence[tuple[str, str]]
    sections: Sequence[Section]
    left_out: Sequence[str]
    summary: dict[str, Any] = field(default_factory=dict)


def digits(value: float | None, places: int = 2) -> str:
    """A figure for people: `places` decimals, thousands with commas, and 0 without a sign."""
    if value is None:
        return "none"
    text = f"{value:,.{places}f}"
    return text.removeprefix("-") if float(text.replace(",", "")) == 0 else text.replace("-", "−")


def precise(value: float) -> str:
    """A figure with three significant digits."""
    return f"{value:,.3g}".replace("-", "−")


def signed(value: float) -> str:
    """A correlation or a weight with its sign; what rounds to 0 has none."""
    text = digits(value)
    return text if text.startswith("−") or text == "0.00" else f"+{text}"


def short(name: str, most: int = 22) -> str:
    """A name of at most `most` characters; a longer one loses its middle."""
    if len(name) <= most:
        return name
    half = (most - 1) // 2
    return f"{name[: most - 1 - half]}…{name[len(name) - half :]}"


def ordinal(place: int) -> str:
    """`first` .. `twelfth`, then `13th`; places begin with 1."""
    words = (
        "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth", "eleventh",
        "twelfth",
    )  # fmt: skip
    if place <= len(words):
        return words[place - 1]
    ending = "th" if place % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(place % 10, "th")
    return f"{place}{ending}"
