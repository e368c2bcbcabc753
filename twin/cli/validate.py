"""`twin validate`: a machine judged by a recording, or a recorded heartbeat replayed through the reference law."""

from __future__ import annotations

import argparse
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from twin.cli import ANSWER_IS_NO, DONE, InputError, output


def main(options: argparse.Namespace) -> int:
    """Judge, and say whether the machine still matches."""
    if options.machine == "heartbeat":
        from twin.cli import validate_heartbeat

        return validate_heartbeat.main(options)
    return _machine(options)


def _machine(options: argparse.Namespace) -> int:
    from twin.calibrate.drift import drift
    from twin.calibrate.validation import judge
    from twin.cli.recordings import draw, recordings
    from twin.machines import load_machine

    if options.from_percent >= options.to_percent:
        raise InputError(f"--from-percent {options.from_percent:g}: must be below --to-percent {options.to_percent:g}")
    if options.max_rmse is not None and options.max_rmse <= 0.0:
        raise InputError(f"--max-rmse {options.max_rmse:g}: must be above 0")
    ambient = _ambient(options.ambient)
    loaded = load_machine(options.machine)
    machine, origin = loaded.file.machine, loaded.file.origin
    if options.kind is not None:
        origin = replace(origin, kind=options.kind)
        if options.kind == "gpu" and not machine.gpu.enabled:
            raise InputError(f"--kind gpu: the machine {options.machine} has no GPU")
    (measured,) = recordings(options, [options.trace], origin.kind, machine)
    with output.Progress(options, f"{Path(options.trace).name} on {machine.name}", 2, "steps") as progress:
        judged = judge(
            machine, origin, measured,
            from_share=options.from_percent / 100.0, to_share=options.to_percent / 100.0, ambient=ambient,
        )  # fmt: skip
        progress.reached(1)
        verdict = drift(
            judged.machine, origin, measured, judged.first, judged.last, judged.run.celsius[judged.sensor]
        )  # fmt: skip
    if options.plot:
        draw(options.plot, f"{machine.name} along {measured.recording.name}", [(measured, judged)])
    result = {
        "machine": machine.name,
        "trace": options.trace,
        **judged.figures(),
        "from_percent": options.from_percent,
        "to_percent": options.to_percent,
        "columns": dict(measured.columns),
        "matches": verdict.matches,
        "drift": {**asdict(verdict), "summary": verdict.words(), "start": verdict.start_words()},
    }
    if options.json:
        output.print_json(result)
    elif not options.quiet:
        _print(result)
    above = options.max_rmse is not None and judged.errors.rmse_celsius > options.max_rmse
    return ANSWER_IS_NO if above else DONE


def _ambient(text: str | None) -> float | str | None:
    if text in (None, "free"):
        return text
    from twin.cli.texts import finite

    try:
        value = finite(str(text))
    except argparse.ArgumentTypeError:
        value = float("inf")
    if not -60.0 <= value <= 200.0:
        raise InputError(f"--ambient {text}: allowed are free, and numbers from -60 to 200 (C)")
    return value


def _print(result: dict[str, Any]) -> None:
    rows = [
        (name, *(f"{each[key]:.2f}" for key in ("rmse_celsius", "max_error_celsius", "mae_celsius", "bias_celsius")),
         f"{each['samples']:,}")
        for name, each in result["sensors"].items()
    ]  # fmt: skip
    output.print_table(
        f"{result['machine']} along {result['trace']}, from {result['from_percent']:g} to {result['to_percent']:g} %",
        ("sensor", "RMSE \u00b0C", "worst \u00b0C", "mean \u00b0C", "bias \u00b0C", "readings"),
        rows,
    )
    drift = result["drift"]
    mape = result["power_mape"]
    facts = [
        (
            "power",
            f"not known: {result['power_mape_reason']}" if mape is None else f"{mape * 100.0:.1f} % off on average",
        ),
        (
            "room",
            f"{result['ambient_celsius']:.1f} \u00b0C" + (f" ({told})" if (told := result["ambient_reason"]) else ""),
        ),
        ("verdict", drift["summary"]),
    ]
    if drift["ratio"] is not None:
        chance = f"{drift['confidence']:.0%}, {drift['independent_samples']:.0f} independent errors"
        told = (
            f"mean square {drift['ratio']:.2f} times that of the fit; up to {drift['bound']:.2f} is chance ({chance})"
        )
        facts.append(("test", told))
        facts.append(("noticed", f"an error that lasts, from {drift['noticed_celsius']:.2f} C (RMSE)"))
    if drift["start"]:
        facts.append(("start", drift["start"]))
    facts += [(each["parameter"].replace("_", " "), _change(each)) for each in drift["changes"]]
    output.print_table("What that means", ("", ""), facts)


def _change(each: dict[str, Any]) -> str:
    """A change, its 95 % interval, and what it explains."""
    scale, unit, digits = (1.0, "C", 1) if each["unit"] == "C" else (100.0, "%", 0)
    moved, low, high = (f"{each[key] * scale:+.{digits}f}" for key in ("change", "low", "high"))
    return f"{moved} {unit} ({low} to {high}), explains {each['explains'] * 100.0:.0f} %"
