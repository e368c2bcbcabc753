"""A machine from recordings, from end to end: fitted, run by the world along what the fit did not see, and written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from twin.calibrate.drift import apart_of
from twin.calibrate.errors import independent_samples
from twin.calibrate.fit import MOST_NODES, Fit, Fitted, fit
from twin.calibrate.machine import machine
from twin.calibrate.reader import Measured, identifiable
from twin.calibrate.recording import RecordingError
from twin.calibrate.validation import Judgement, judge
from twin.machines import Kind, MachineFile, Origin, Parameter, Start, Unseen

HOLDOUT = 0.4
"""The last share of each recording that is not fitted but judges the fit."""


@dataclass(frozen=True)
class Calibrated:
    """A fitted machine and how good it is.

    `file` is what is written (`twin.machines.machine_toml`), with every parameter in its origin. `judgements` has a
    free run of the world along each recording, judged on the part that was not fitted, or on all where nothing was left
    out. The recordings tell the pairs of parameters in `together` only together. `foretold_celsius` is what machines of
    other shapes reached inside the fitted part on what they had not seen.
    """

    file: MachineFile
    judgements: tuple[Judgement, ...]
    together: tuple[tuple[str, str], ...] = ()
    foretold_celsius: Mapping[str, float] | None = None

    @property
    def unidentified(self) -> list[Parameter]:
        """The parameters that the recordings do not tell; `unknown` says why."""
        return [each for each in self.file.origin.parameters if each.unknown]


def calibrate(
    measured: Sequence[Measured],
    kind: Kind,
    *,
    holdout: float = HOLDOUT,
    name: str | None = None,
    source: str | None = None,
    licence: str | None = None,
    command: str = "",
    most_nodes: int = MOST_NODES,
) -> Calibrated:
    """Fit one machine to recordings of it, all but the last `holdout` (0 to 0.9) of each, and judge it on the rest.

    `name` is what the machine is called (else its kind); `source`, `licence` and `command` go into its origin. It has
    `most_nodes` (1 to 4) nodes at most. Raises `RecordingError` with everything that is wrong when the recordings
    cannot tell a machine.
    """
    recordings = [each.recording for each in measured]
    if untold := identifiable(recordings):
        raise RecordingError("\n".join(untold))
    found = fit(recordings, kind, fitted_share=1.0 - holdout, most_nodes=most_nodes)
    made = machine(found, name or kind)
    origin = Origin(
        source=source or ", ".join(recording.name for recording in recordings)[:4_096],
        licence=licence or "not stated",
        command=command,
        kind=kind,
        driven=found.shape.driven,
        lead_seconds=float(found.lead_seconds),
        starts=tuple(
            Start(recording=each, first_celsius=_rounded(first), celsius=tuple(_rounded(float(c)) for c in celsius))
            for each, first, celsius in found.starts()
        ),
        parameters=tuple(_parameter(each) for each in found.parameters),
    )
    judgements = tuple(
        judge(made, origin, each, from_share=1.0 - holdout if holdout > 0.0 else 0.0, ambient=_ambient(found, each))
        for each in measured
    )
    if holdout > 0.0:
        origin = replace(origin, unseen=_unseen(measured, judgements))
    return Calibrated(MachineFile(origin=origin, machine=made), judgements, found.together, found.foretold_celsius)


def _ambient(found: Fit, measured: Measured) -> float | None:
    """The room's temperature (C) during a recording; None for one that was too broken to be fitted itself."""
    own = (
        each.value for each in found.parameters if (each.name, each.recording) == ("ambient", measured.recording.name)
    )
    return next(own, None)


def _unseen(measured: Sequence[Measured], judgements: Sequence[Judgement]) -> Unseen:
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


def _parameter(each: Fitted) -> Parameter:
    return Parameter(
        name=each.name,
        unit=each.unit,
        value=_rounded(each.value),
        low=None if each.low is None else _end(each.low),
        high=None if each.high is None else _end(each.high),
        unknown=each.unknown,
        recording=each.recording,
    )


def _rounded(value: float) -> float:
    """Six digits, which is more than anything that was fitted deserves."""
    return float(f"{value:.6g}")


def _end(value: float) -> float | None:
    """The end of an interval; none for one without an end."""
    return _rounded(value) if abs(value) <= 1e15 else None
