"""What a fit hands over, and the machine file that comes of it, judged in the world on what the fit did not see."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np

from twin.calibrate.drift import apart_of, independent_samples
from twin.calibrate.reader import Measured
from twin.calibrate.recording import Recording
from twin.calibrate.validation import Judgement, judge
from twin.machines import Kind, MachineFile, Origin, Parameter, Unseen
from twin.scenario import Machine


class FittedParameter(Protocol):
    """One parameter: value, 95 % interval, the recording it belongs to (empty: the machine), why it is not told."""

    @property
    def name(self) -> str:
        """Such as `node1_seconds` or `ambient`."""

    @property
    def unit(self) -> str:
        """Its unit, empty for a plain number."""

    @property
    def value(self) -> float:
        """The best value."""

    @property
    def low(self) -> float:
        """Lower end of the interval."""

    @property
    def high(self) -> float:
        """Upper end."""

    @property
    def recording(self) -> str:
        """Name of the recording it belongs to."""

    @property
    def unknown(self) -> str:
        """Why the recordings do not tell it; empty when they do."""


@dataclass(frozen=True)
class Calibrated:
    """A fitted machine in the world's own terms, and how its numbers were found.

    `driven` is what gives the heat, `lead_seconds` how long before its time a recorded mean ends; the recordings tell
    the pairs of parameters in `together` only together.
    """

    machine: Machine
    driven: Literal["power", "load", "nothing"]
    lead_seconds: float
    parameters: Sequence[FittedParameter]
    together: Sequence[tuple[str, str]] = ()


Fitter = Callable[[Sequence[Recording], Kind, float], Calibrated]
"""Fits one machine to recordings, the last share of each left out: `fit(recordings, kind, holdout)`."""


def ambient_of(fit: Calibrated, recording: Recording) -> float:
    """The room's temperature (C) during a recording: its own where it was fitted, else the machine's."""
    for each in fit.parameters:
        if each.name == "ambient" and each.recording in ("", recording.name):
            return each.value
    return fit.machine.ambient_celsius


def judged(fit: Calibrated, kind: Kind, measured: Sequence[Measured], holdout: float) -> list[Judgement]:
    """Free runs of the fitted machine, judged on the last `holdout` of each recording, or on all of it (0)."""
    origin = Origin(kind=kind, driven=fit.driven, lead_seconds=fit.lead_seconds)
    return [
        judge(
            fit.machine, origin, each,
            from_share=1.0 - holdout if holdout > 0.0 else 0.0, ambient=float(ambient_of(fit, each.recording)),
        )
        for each in measured
    ]  # fmt: skip


def unseen(measured: Sequence[Measured], judgements: Sequence[Judgement]) -> Unseen:
    """The errors of several judgements as if they were of one recording."""
    parts = [
        apart_of(each, judgement.run.celsius[judgement.sensor], judgement.first, judgement.last)
        for each, judgement in zip(measured, judgements, strict=True)
    ]
    apart = np.concatenate(parts)
    return Unseen(
        rmse_celsius=_rounded(float(np.sqrt(np.mean(apart * apart)))),
        max_error_celsius=_rounded(float(np.max(np.abs(apart)))),
        mae_celsius=_rounded(float(np.mean(np.abs(apart)))),
        bias_celsius=_rounded(float(np.mean(apart))),
        samples=len(apart),
        independent_samples=max(1.0, _rounded(sum(independent_samples(part) for part in parts))),
    )


def machine_file(
    fit: Calibrated, kind: Kind, name: str, source: str, licence: str, command: str, errors: Unseen | None
) -> MachineFile:  # fmt: skip
    """The file of a fitted machine."""
    return MachineFile(
        origin=Origin(
            source=source,
            licence=licence,
            command=command,
            kind=kind,
            driven=fit.driven,
            lead_seconds=float(fit.lead_seconds),
            unseen=errors,
            parameters=tuple(
                Parameter(
                    name=each.name,
                    unit=each.unit,
                    value=_rounded(each.value),
                    low=_end(each.low),
                    high=_end(each.high),
                    unknown=each.unknown,
                    recording=each.recording,
                )
                for each in fit.parameters
            ),
        ),
        machine=replace(fit.machine, name=name),
    )


def _rounded(value: float) -> float:
    """Six digits, which is more than anything that was fitted deserves."""
    return float(f"{value:.6g}")


def _end(value: float) -> float | None:
    """The end of an interval; none for one without an end."""
    return _rounded(value) if abs(value) <= 1e15 else None
