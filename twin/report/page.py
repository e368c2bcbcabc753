"""Writing a report: the page, and its figures and tables as files, all at once or not at all."""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from twin.experiment.store import MANIFEST as EXPERIMENT
from twin.record import files
from twin.record.files import PARTIAL, RecordInputError
from twin.record.rundir import MANIFEST, REPORT, SEAM_LOG, TICKS
from twin.report import canvas
from twin.report.experiment import experiment_report
from twin.report.parts import Report
from twin.report.run import run_report
from twin.report.style import variables
from twin.report.tables import csv_bytes

PAGE = "report.html"
FIGURES, TABLES = "figures", "tables"
_TEMPLATE = "page.html"
_NEEDED = ("jinja2", "matplotlib")


class MissingExtraError(RecordInputError):
    """Packages that reports need are not installed."""


@dataclass(frozen=True, slots=True)
class Written:
    """What was written: the page, figures and tables, and what was left out, in sentences."""

    page: Path
    figures: list[Path]
    tables: list[Path]
    left_out: list[str]


def write_report(folder: Path, out: Path | None = None, say: Callable[[str], None] = lambda _: None) -> Written:
    """Write the report of the experiment or run in `folder` into `out` (by default `report` inside it).

    A report that is there is replaced. `say` hears what is being done. Raises `MissingExtraError`, `RecordInputError`
    for a folder that is neither or an `out` that holds something else, and `RecordError`.
    """
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtraError(
            folder, f"a report needs {' and '.join(missing)}, not installed here; pip install 'pulsetwin[report]'"
        )
    target = folder / REPORT if out is None else out
    _check_target(target)
    with canvas.drawing_settings():
        if (folder / EXPERIMENT).is_file():
            report, runs = experiment_report(folder, say)
            more = {f"{TABLES}/runs.csv": runs}
        elif any((folder / name).is_file() for name in (MANIFEST, SEAM_LOG, TICKS)):
            say("drawing the run")
            report, more = run_report(folder), {}
        else:
            raise RecordInputError(
                folder, f"is no directory of an experiment ({EXPERIMENT}) nor of a run ({MANIFEST}); name one of them"
            )
    say("writing")
    return _write(target, report, more)


def render(report: Report) -> str:
    """The page of a report."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
    )
    template = environment.get_template(_TEMPLATE)
    return template.render(report=report, light=variables("light"), dark=variables("dark"))


def _check_target(target: Path) -> None:
    """A folder that is not there, empty, or an earlier report may be written to."""
    try:
        if target.exists() and not target.is_dir():
            raise RecordInputError(target, "is a file; name a folder (--out)")
        if target.is_dir():
            there = {entry.name for entry in target.iterdir()}
            if there and PAGE not in there:
                raise RecordInputError(target, f"is not empty and holds no {PAGE}; name another folder (--out)")
            if foreign := sorted(there - {PAGE, FIGURES, TABLES}):
                raise RecordInputError(
                    target, f"has {foreign[0]!r} in it besides a report; name another folder (--out)"
                )
    except OSError as error:
        raise files.failure(target, "looking into the folder", error) from error


def _write(target: Path, report: Report, more: dict[str, bytes]) -> Written:
    """Write everything under another name, then let it take the place of what is there."""
    drawings = [drawing for section in report.sections for drawing in section.drawings]
    tables = [table for section in report.sections for table in section.tables]
    fresh, old = files.partial_name(target), target.with_name(f"{target.name}.old{PARTIAL}")
    try:
        for left in (fresh, old):
            if left.is_dir():
                shutil.rmtree(left)
        (fresh / FIGURES).mkdir(parents=True)
        (fresh / TABLES).mkdir()
        (fresh / PAGE).write_text(render(report), encoding="utf-8")
        for drawing in drawings:
            (fresh / FIGURES / f"{drawing.name}.svg").write_bytes(drawing.svg)
            (fresh / FIGURES / f"{drawing.name}.png").write_bytes(drawing.png)
        for table in tables:
            (fresh / TABLES / f"{table.name}.csv").write_bytes(csv_bytes(table.fields, table.records))
        for name, data in more.items():
            (fresh / name).write_bytes(data)
        if target.exists():
            target.replace(old)
        fresh.replace(target)
        if old.exists():
            shutil.rmtree(old)
        files.sync_directory(target.parent)
    except OSError as error:
        _undo(target, fresh, old)
        raise files.failure(target, "writing the report", error, "what was there before is unchanged") from error
    except BaseException:
        _undo(target, fresh, old)
        raise
    return Written(
        target / PAGE,
        [target / FIGURES / f"{drawing.name}.{kind}" for drawing in drawings for kind in ("svg", "png")],
        [target / TABLES / f"{table.name}.csv" for table in tables] + [target / name for name in more],
        list(report.left_out),
    )


def _undo(target: Path, fresh: Path, old: Path) -> None:
    with contextlib.suppress(OSError):
        if old.exists() and not target.exists():
            old.replace(target)
        shutil.rmtree(fresh, ignore_errors=True)
