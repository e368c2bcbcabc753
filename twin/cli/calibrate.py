"""`twin calibrate`: a machine fitted to recordings of a real one, or the lateness of a recorded heartbeat."""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twin.cli import DONE, InputError, output

if TYPE_CHECKING:
    from twin.machines import MachineFile

MOST_HOLDOUT = 0.9


def main(options: argparse.Namespace) -> int:
    """Fit, write the file, and say what the data tell and what they do not."""
    if options.lateness is not None or options.trace[:1] == ["heartbeat"]:
        return _lateness(options)
    return _machine(options)


def _machine(options: argparse.Namespace) -> int:
    from twin.calibrate.calibrated import calibrate
    from twin.cli.recordings import draw, recordings
    from twin.machines import machine_toml
    from twin.record.files import write_atomic

    _check(options)
    measured = recordings(options, options.trace, options.kind)
    name = options.name or (Path(options.out).stem[:64] if options.out else options.kind)
    with output.Progress(options, f"fitting {len(measured)} recordings", 1, "steps"):
        found = calibrate(
            measured, options.kind, holdout=options.holdout, name=name, source=options.source, licence=options.licence,
            command=command_of(options),
        )  # fmt: skip
    origin = found.file.origin
    text = machine_toml(found.file)
    if options.out:
        write_atomic(Path(options.out), text.encode())
    if options.plot:
        draw(options.plot, f"{name} along its recordings", list(zip(measured, found.judgements, strict=True)))
    result = {
        "machine": name,
        "kind": options.kind,
        "out": options.out,
        "driven": origin.driven,
        "lead_seconds": origin.lead_seconds,
        "holdout": options.holdout,
        "foretold_celsius": found.foretold_celsius,
        "parameters": [asdict(each) for each in origin.parameters],
        "unidentified": [
            {"name": each.name, "recording": each.recording, "why": each.unknown} for each in found.unidentified
        ],
        "together": [list(pair) for pair in found.together],
        "unseen": None if origin.unseen is None else asdict(origin.unseen),
        "recordings": [
            {"name": each.recording.name, "columns": dict(each.columns), **judgement.figures()}
            for each, judgement in zip(measured, found.judgements, strict=True)
        ],
        "toml": None if options.out else text,
    }
    if options.json:
        output.print_json(result)
    elif options.out is None:
        print(text, end="")
    elif not options.quiet:
        _print(result, found.file)
    return DONE


def _check(options: argparse.Namespace) -> None:
    wrong = []
    if not options.trace:
        wrong.append("a TRACE is needed: a CSV file, or the directory of a run")
    if options.kind is None:
        wrong.append("--kind is needed: cpu, gpu, board or laptop")
    if not 0.0 <= options.holdout <= MOST_HOLDOUT:
        wrong.append(f"--holdout {options.holdout:g}: allowed are shares from 0 to {MOST_HOLDOUT:g}")
    for flag, written in (("--out", options.out), ("--plot", options.plot)):
        if written:
            wrong += [f"{flag} {written}: {why}" for why in _unwritable(Path(written), options.trace)]
    if wrong:
        raise InputError("; ".join(wrong))


def _unwritable(path: Path, traces: Sequence[str]) -> Iterator[str]:
    """Why `path` cannot be written, before anybody has waited for a fit."""
    there = path.exists()
    if there and any(Path(trace).exists() and path.samefile(trace) for trace in traces):
        yield "is one of the recordings; name another file"
    if there and not path.is_file():
        yield "is there, and no file; name a file"
    if not path.parent.is_dir():
        yield f"there is no folder {path.parent}; make it first"
    elif not os.access(path.parent, os.W_OK):
        yield f"nothing can be written in {path.parent}; name another folder"


def command_of(options: argparse.Namespace) -> str:
    """The command that makes the same file again."""
    words = ["twin", "calibrate", *options.trace, "--kind", options.kind]
    for flag, items in (("--map", options.map), ("--where", options.where)):
        for item in items:
            words += [flag, item]
    named = ("device", "split", "name", "source", "licence", "out")
    for flag, value in ((f"--{name}", getattr(options, name)) for name in named):
        if value is not None:
            words += [flag, str(value)]
    if options.holdout != 0.4:
        words += ["--holdout", f"{options.holdout:g}"]
    return shlex.join(words)[:4_096]


def _print(result: dict[str, Any], file: MachineFile) -> None:
    rows = [
        (each["name"], *(f"{each[key]:.2f}" for key in ("rmse_celsius", "max_error_celsius", "bias_celsius")))
        for each in result["recordings"]
    ]
    part = (
        f"the last {result['holdout']:.0%}, which the fit did not see" if result["holdout"] > 0.0 else "what was fitted"
    )
    output.print_table(f"Errors on {part}", ("recording", "RMSE \u00b0C", "worst \u00b0C", "bias \u00b0C"), rows)
    # What the recordings tell comes first.
    parameters = sorted(file.origin.parameters, key=lambda each: bool(each.unknown))
    rows = [
        (each.name + (f" ({each.recording})" if each.recording else ""), f"{each.value:.4g} {each.unit}".rstrip(),
         "" if each.low is None or each.high is None else f"{each.low:.4g} to {each.high:.4g}", each.unknown)
        for each in parameters
    ]  # fmt: skip
    output.print_table(f"{result['machine']}, heated by {result['driven']}",
                       ("parameter", "value", "95 % interval", "not told by the data, because"), rows)  # fmt: skip
    for group in _groups(result["together"]):
        print(f"Told only together: {', '.join(group)}")
    print(f"Written to {result['out']}")


def _groups(pairs: Sequence[Sequence[str]]) -> list[list[str]]:
    """Names that hang together by pairs, in the order in which they come."""
    groups: list[list[str]] = []
    for pair in pairs:
        touched = [group for group in groups if set(pair) & set(group)]
        joined = list(dict.fromkeys([name for group in touched for name in group] + list(pair)))
        groups = [group for group in groups if group not in touched] + [joined]
    return groups


# --- lateness ---------------------------------------------------------------------------------------------------------


def _lateness(options: argparse.Namespace) -> int:
    from twin.calibrate.cells import read_table
    from twin.calibrate.lateness import fit_lateness, lateness_toml, quantiles
    from twin.clock import ModelledLateness
    from twin.record.files import write_atomic
    from twin.record.rundir import SEAM_LOG
    from twin.record.seamlog import read_seam_log

    given = [*options.trace[1:], *([] if options.lateness is None else [options.lateness])]
    if len(given) != 1:
        raise InputError("twin calibrate heartbeat TICKS takes one recording, a CSV file of ticks or a run; name one")
    path = Path(given[0])
    if path.is_dir():
        fit = quantiles(read_seam_log(path / SEAM_LOG).lateness_ns, str(path))
    else:
        try:
            table = read_table(path)
        except OSError as error:
            raise InputError(
                f"{path}: cannot be read: {error.strerror}; name a run, or a recording, a CSV file or one in gzip"
            ) from None
        fit = fit_lateness(table.header, table.rows, table.lines, str(path))
    text = lateness_toml(fit)
    if options.out:
        write_atomic(Path(options.out), text.encode())
    if options.json:
        output.print_json({**asdict(fit), "probabilities": ModelledLateness.PROBABILITIES, "toml": text})
    elif not options.quiet:
        told = f"{fit.ticks} ticks, {fit.early} of them early (taken as punctual), {fit.cut} cut at 1 s"
        print(f"# {path.name}: {told}\n{text}", end="")
    return DONE
