"""What `twin calibrate` and `twin validate` have in common: the recordings that options name, and pictures."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from twin.calibrate.reader import Measured, read_recordings, values_of
from twin.calibrate.roles import Choice, parse_map
from twin.cli import InputError
from twin.record.files import failure

if TYPE_CHECKING:
    from matplotlib.figure import SubFigure

    from twin.calibrate.validation import Judgement
    from twin.scenario import Machine


def recordings(
    options: argparse.Namespace, paths: Sequence[str], kind: str, machine: Machine | None = None
) -> list[Measured]:
    """Read what the options ask for; what people should know goes to standard error."""
    where: dict[str, str] = {}
    for item in options.where:
        column, equals, text = item.partition("=")
        if not equals or not column:
            raise InputError(f"--where {item!r}: write COLUMN=TEXT, for example --where condition=idle")
        where[column] = text
    choice = Choice(
        kind=kind,
        mapped=parse_map(options.map),
        device=options.device,
        where=where,
        sensors=() if machine is None else tuple(sensor.name for sensor in machine.sensors),
        fans=() if machine is None else tuple(fan.name for fan in machine.fans),
    )
    split = getattr(options, "split", None)
    if split is None:
        found = read_recordings([Path(path) for path in paths], choice)
    else:
        found = [
            measured
            for path in paths
            for value in values_of(Path(path), split)
            for measured in read_recordings([Path(path)], replace(choice, where={**where, split: value}))
        ]
    if not options.quiet:
        for measured in found:
            for note in measured.notes:
                print(f"twin: note: {note}", file=sys.stderr)
    return found


def draw(file: str, title: str, judged: Sequence[tuple[Measured, Judgement]]) -> None:
    """Readings, free run, errors and what drove them over time, and errors against those, into `file`.

    One block of pictures a recording; what was not judged is grey. Raises `InputError`.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError("--plot needs matplotlib, which is not there; pip install 'pulsetwin[report]'") from None
    path = Path(file)
    if path.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise InputError(f"--plot {file}: the name must end with .png, .svg or .pdf")
    figure = Figure(figsize=(11.0, 7.5 * len(judged)), layout="constrained")
    figure.suptitle(title)
    parts = figure.subfigures(len(judged), 1, squeeze=False)[:, 0]
    for part, (measured, judgement) in zip(parts, judged, strict=True):
        _picture(part, measured, judgement)
    try:
        figure.savefig(path, dpi=110, metadata={"Date": None} if path.suffix.lower() == ".svg" else None)
    except OSError as error:
        raise failure(path, "writing the picture", error) from error


def _picture(part: SubFigure, measured: Measured, judgement: Judgement) -> None:
    axes = part.subplot_mosaic(
        [["shown"] * 2, ["errors"] * 2, ["drives"] * 2, ["warmth", "drive"]],
        height_ratios=[3, 2, 2, 3],
    )  # fmt: skip
    recording = measured.recording
    minutes = recording.times_seconds / 60.0
    shown = judgement.run.celsius[judgement.sensor]
    apart = shown - recording.temperatures_celsius
    axes["shown"].plot(minutes, recording.temperatures_celsius, lw=0.8, color="0.4", label="recorded")
    axes["shown"].plot(minutes, shown, lw=0.8, color="tab:red", label="free run")
    axes["shown"].set(ylabel="\u00b0C", title=recording.name)
    axes["errors"].plot(minutes, apart, lw=0.6, color="tab:blue")
    axes["errors"].set(ylabel="error, \u00b0C")
    drives = [(label, column * scale) for label, column, scale in (
        ("load, %", recording.loads, 100.0), ("power, W", recording.powers_watts, 1.0),
        ("fan, RPM / 100", recording.fan_rpm, 0.01)) if column is not None]  # fmt: skip
    for label, column in drives:
        axes["drives"].plot(minutes, column, lw=0.6, label=label)
    axes["drives"].set(xlabel="minutes")
    for name in ("shown", "drives"):
        axes[name].legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=3, fontsize="small", frameon=False)
    for name in ("shown", "errors", "drives"):
        axes[name].set_xlim(float(minutes[0]), float(minutes[-1]))
        if judgement.first > 0:
            axes[name].axvspan(float(minutes[0]), float(minutes[judgement.first - 1]), color="0.9", zorder=0)
    # An error that grows with warmth or with what drives it is one of the model, not of the sensor.
    against = [("warmth", "recorded \u00b0C", recording.temperatures_celsius)]
    # Power tells more than load, and either more than a fan.
    against += [("drive", *each) for each in sorted(drives, key=lambda each: "plf".index(each[0][0]))[:1]]
    for name, label, column in against:
        for begin, end, color in ((0, judgement.first, "0.7"), (judgement.first, judgement.last, "tab:blue")):
            axes[name].plot(column[begin:end], apart[begin:end], ls="", marker=".", ms=2.0, color=color)
        axes[name].set(xlabel=label, ylabel="error, \u00b0C")
    for name in ("errors", "warmth", "drive"):
        axes[name].axhline(0.0, color="0.5", lw=0.6)
