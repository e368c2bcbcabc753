"""Machine files: a `[machine]` table as in a scenario, and an `[origin]` table that says where its numbers come from.

`twin calibrate` writes them, `twin run SCENARIO --machine NAME` takes one instead of the scenario's machine, and `twin
validate` judges one by a recording. Those that are shipped lie in `scenarios/machines`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le, Len

from twin.loader import (
    ScenarioError,
    build,
    contradictions,
    find_among,
    read_text,
    shipped_files,
    toml_data,
    without_none,
)
from twin.scenario import Machine, Scenario
from twin.schema import Name, NonNegative, Positive, model

Kind = Literal["cpu", "gpu", "board", "laptop"]
KINDS: tuple[Kind, ...] = ("cpu", "gpu", "board", "laptop")
Text = Annotated[str, Len(0, 4_096)]
Number = Annotated[float, Ge(-1e15), Le(1e15)]


@model
class Parameter:
    """A fitted parameter, its 95 % interval, and why the recordings do not tell it (empty: they do).

    `recording` names the recording that it belongs to, as the room's temperature does; empty: it is the machine's.
    """

    name: Name
    unit: Annotated[str, Len(0, 64)] = ""
    value: Number = 0.0
    low: Number | None = None
    high: Number | None = None
    unknown: Text = ""
    recording: Text = ""


@model
class Unseen:
    """Errors of a free run on the part of the recordings that the fit did not see (C), over all of them.

    `independent_samples` is how many independent errors tell as much as `samples` that resemble their neighbours.
    """

    rmse_celsius: NonNegative = 0.0
    max_error_celsius: NonNegative = 0.0
    mae_celsius: NonNegative = 0.0
    bias_celsius: Number = 0.0
    samples: Positive = 1
    independent_samples: Annotated[float, Ge(1.0), Le(1e12)] = 1.0


@model
class Start:
    """Temperatures (C) of the first nodes at the first sample of a recording that was fitted, which no sensor shows.

    They are those of that recording alone: of the one with this name whose first reading is `first_celsius`.
    """

    recording: Text
    first_celsius: Number
    celsius: Annotated[tuple[Number, ...], Len(1, 64)]


@model
class Origin:
    """Where a machine's numbers come from.

    `source` and `licence` are those of the recordings, `command` is what made the file. `kind` says which processor a
    recording is of (`gpu`: the GPU, else the CPU), `driven` what gives its heat: the recorded power, the recorded load
    through the machine's power law, or nothing that was recorded. A recorded load or power is the mean over the
    interval that ends `lead_seconds` before its time.
    """

    source: Text = ""
    licence: Text = ""
    command: Text = ""
    kind: Kind = "cpu"
    driven: Literal["power", "load", "nothing"] = "load"
    lead_seconds: Annotated[float, Ge(-3_600.0), Le(3_600.0)] = 0.0
    unseen: Unseen | None = None
    starts: tuple[Start, ...] = ()
    parameters: tuple[Parameter, ...] = ()


@model
class MachineFile:
    """A machine and its origin."""

    origin: Origin = field(default_factory=Origin)
    machine: Machine = field(default_factory=Machine)


@dataclass(frozen=True)
class Loaded:
    """A machine file that was read, and its `[machine]` table as it stands there."""

    path: Path
    file: MachineFile
    table: Mapping[str, Any]


def shipped_machines() -> dict[str, Path]:
    """The machines that ship with the package: name to file."""
    return shipped_files("machines")


def find_machine(name_or_path: str) -> Path:
    """The file of a shipped machine, or the path itself. Raises `ScenarioError` when there is neither."""
    return find_among(shipped_machines(), name_or_path, "machine", "or name a .toml file that twin calibrate made")


def load_machine(name_or_path: str) -> Loaded:
    """A checked machine file. Raises `ScenarioError` with every problem."""
    path = find_machine(name_or_path)
    text = read_text(path)
    file = parse_machine(text, str(path))
    return Loaded(path, file, toml_data(text, str(path))["machine"])


def parse_machine(text: str, where: str) -> MachineFile:
    """A checked machine file from TOML text. Raises `ScenarioError` with every problem."""
    data = toml_data(text, where)
    file, flaws = build(data, MachineFile)
    problems = [flaw.words for flaw in flaws]
    wrong = {flaw.location[0] for flaw in flaws}
    problems += [
        f"{key}: the table is missing; a machine file needs [origin] and [machine], as twin calibrate writes them"
        for key in ("origin", "machine")
        if key not in data
    ]
    if "origin" in data and "origin" not in wrong:
        problems += [
            f"origin.{key}: is required and missing; say where the numbers come from"
            for key in ("source", "licence")
            if not getattr(file.origin, key).strip()
        ]
        problems += [
            f"origin.parameters[{place}]: low ({each.low}) must not exceed high ({each.high})"
            for place, each in enumerate(file.origin.parameters)
            if each.low is not None and each.high is not None and each.low > each.high
        ]
    # Only what is said about machines; the rest of the scenario is made of defaults.
    problems += contradictions(Scenario(machine=file.machine), wrong | {"machine"} if "machine" not in data else wrong)
    if not problems and file.origin.kind == "gpu" and not file.machine.gpu.enabled:
        problems.append('origin.kind = "gpu": the machine has no GPU (machine.gpu.enabled = false)')
    if problems:
        raise ScenarioError(where, problems)
    return file


def machine_toml(file: MachineFile) -> str:
    """The file as text, every default written out; `parse_machine` gives the same back."""
    import tomli_w

    return tomli_w.dumps(without_none(asdict(file)))
