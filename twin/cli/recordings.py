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
    """Readings, free run and errors over time, one row of pictures a recording, into `file`. Raises `InputError`."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError("--plot needs matplotlib, which is not there; pip install 'pulsetwin[report]'") from None
    path = Path(file)
    if path.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise InputError(f"--plot {file}: the name must end with .png, .svg or .pdf")
    figure = Figure(figsize=(11.0, 5.5 * len(judged)), layout="constrained")
    figure.suptitle(title)
    axes = figure.subplots(3 * len(judged), 1, height_ratios=[3, 2, 2] * len(judged), squeeze=False)[:, 0]
    for place, (measured, judgement) in enumerate(judged):
        above, middle, below = axes[3 * place : 3 * place + 3]
        recording = measured.recording
        minutes = recording.times_seconds / 60.0
        shown = judgement.run.celsius[judgement.sensor]
        above.plot(minutes, recording.temperatures_celsius, lw=0.8, color="0.4", label="recorded")
        above.plot(minutes, shown, lw=0.8, color="tab:red", label="free run")
        above.set(ylabel="\u00b0C", title=recording.name)
        middle.plot(minutes, shown - recording.temperatures_celsius, lw=0.6, color="tab:blue")
        middle.axhline(0.0, color="0.5", lw=0.6)
        middle.set(ylabel="error, \u00b0C")
        drives = (("load, %", recording.loads, 100.0), ("power, W", recording.powers_watts, 1.0),
                  ("fan, RPM / 100", recording.fan_rpm, 0.01))  # fmt: skip
        for label, column, scale in drives:
            if column is not None:
                below.plot(minutes, column * scale, lw=0.6, label=label)
        below.set(xlabel="minutes")
        for axis in (above, below):
            axis.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=3, fontsize="small", frameon=False)
        for axis in (above, middle, below):
            axis.set_xlim(float(minutes[0]), float(minutes[-1]))
            if judgement.first > 0:
                axis.axvspan(float(minutes[0]), float(minutes[judgement.first - 1]), color="0.9", zorder=0)
    try:
        figure.savefig(path, dpi=110, metadata={"Date": None} if path.suffix.lower() == ".svg" else None)
    except OSError as error:
        raise failure(path, "writing the picture", error) from error
