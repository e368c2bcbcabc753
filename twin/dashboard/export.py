"""A run's records as a file: CSV or JSON, sent as they are read, whatever their number."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from flask import Blueprint, Response, request

from twin.dashboard.answers import Refused, Served
from twin.dashboard.runs import Record, Value

FORMATS = {"csv": "text/csv; charset=utf-8", "json": "application/json"}
PIECE = 1 << 16
"""Characters that are sent at a time."""
_ACTIVE = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")
"""What a text begins with that a spreadsheet would take for a formula; the last four are wide letters."""
_QUOTED = frozenset(',"\n\r')


def export(served: Served) -> Blueprint:
    """The route."""
    routes = Blueprint("export", __name__)

    @routes.get("/api/export")
    def sent() -> Response:
        kind = request.args.get("format", "csv")
        if kind not in FORMATS:
            raise Refused(400, "the format is unknown", "format", kind, ", ".join(FORMATS))
        run = served.asked()
        lines = csv_lines(run.about.columns, run.records()) if kind == "csv" else json_lines(run.records())
        # The name is made of the server's own, whose letters are plain.
        attachment = {"Content-Disposition": f'attachment; filename="{run.about.id}.{kind}"'}
        return Response(_pieces(lines), 200, attachment, content_type=FORMATS[kind])

    return routes


def csv_lines(columns: Iterable[str], records: Iterable[Record]) -> Iterator[str]:
    """A header and a line a record; an empty field is no value, and an empty text is two quotes.

    A text that a spreadsheet would take for a formula gets an apostrophe before it.
    """
    names = tuple(columns)
    yield ",".join(_field(name) for name in names) + "\n"
    for record in records:
        yield ",".join([_field(record[name]) for name in names]) + "\n"


def json_lines(records: Iterable[Record]) -> Iterator[str]:
    """A list of objects, one a line, with null for no value."""
    between = "[\n"
    for record in records:
        yield between + json.dumps(record, allow_nan=False)
        between = ",\n"
    yield "\n]\n" if between == ",\n" else "[]\n"


def _field(value: Value) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        return str(value)
    if not value:
        return '""'
    text = f"'{value}" if value.startswith(_ACTIVE) else value
    return f'"{text.replace(chr(34), chr(34) * 2)}"' if not _QUOTED.isdisjoint(text) else text


def _pieces(lines: Iterable[str]) -> Iterator[bytes]:
    waiting: list[str] = []
    size = 0
    for line in lines:
        waiting.append(line)
        size += len(line)
        if size >= PIECE:
            yield "".join(waiting).encode()
            waiting.clear()
            size = 0
    yield "".join(waiting).encode()
