"""Plans of experiments: TOML in, a checked `Plan` out, all errors at once.

A plan names a scenario, the configurations to compare, and how many runs of how many heartbeat ticks each gets:

    name = "small"
    scenario = "study"
    runs = 20
    ticks = 10_000
    configurations = [
        "1_0_1_1_1_0",
        { name = "pace_off", config = "1_0_1_1_1_0", set = { "heartbeat.adapt_interval" = false } },
    ]

Run r of every configuration has the seed `first_seed` + r, so that configurations are compared on the same load and the
same lateness. `shuffle_seed` decides in which order runs are done, configurations interleaved; results do not depend
on it.
"""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import blake2b
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from annotated_types import Ge, Le, Len

from twin.kernels import Stream
from twin.loader import (
    ScenarioError,
    canonical,
    checkpoint_path,
    find,
    input_digests,
    load,
    shipped_files,
    trace_path,
)
from twin.record.keep import ALLOWED, Keep
from twin.scenario import Scenario
from twin.schema import Name, model

KickKind = Literal["heat_burst", "load_pulse", "window_reset", "hot_ambient"]
KICK_KINDS: tuple[KickKind, ...] = get_args(KickKind)
"""What a steady run can be kicked with; `twin.experiment.kicks` says what each does."""
MOST_RUNS = 10**7
"""Runs of all configurations together."""
_OF_THE_PLAN = {
    "seed": "first_seed", "ticks": "ticks", "duration_ms": "ticks", "recording.ticks": "keep",
}  # fmt: skip
"""Keys of a scenario that are the plan's to set, and with which key."""
_STAND_IN = "study"
LONGEST_MS = 10**10
"""Ten million seconds: runs of an experiment end with a tick."""


class PlanError(ScenarioError):
    """A plan that cannot be used; `problems` has one sentence for each thing that is wrong."""


@model
class Configuration:
    """One candidate: its loops, and whatever else of the scenario it sets (`key.path` to value)."""

    name: Name
    config: Name | None = None
    set: dict[str, bool | int | float | str] = field(default_factory=dict)


@model
class Kicks:
    """How the depth of a configuration's basin is measured: kinds of kick, their strengths, and how many seeds.

    A run is steady for `settle_ticks`, is kicked, and watched for `watch_ticks`. Strengths are in standard deviations.
    """

    kinds: tuple[KickKind, ...] = KICK_KINDS
    strengths_sigmas: Annotated[tuple[Annotated[float, Ge(0.1), Le(1e6)], ...], Len(1, 32)] = (
        1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0,
    )  # fmt: skip
    seeds: Annotated[int, Ge(0), Le(1_000)] = 2
    settle_ticks: Annotated[int, Ge(1_000), Le(10**8)] = 4_000
    watch_ticks: Annotated[int, Ge(1_000), Le(10**8)] = 6_000


@model
class PlanFile:
    """A plan as it is written. `keep` is as in a scenario's `recording.ticks`.

    `configurations` may also be `"all"`, the 64 combinations of L1 to L6, and its entries plain texts of six flags.
    """

    name: Name = "unnamed"
    description: str = ""
    scenario: Annotated[str, Len(1, 4_096)]
    runs: Annotated[int, Ge(1), Le(10**7)] = 20
    ticks: Annotated[int, Ge(1), Le(10**8)] = 10_000
    first_seed: Annotated[int, Ge(0), Le(1 << 62)] = 1
    shuffle_seed: Annotated[int, Ge(0), Le(1 << 62)] = 1
    keep: Name = "every:10"
    set: dict[str, bool | int | float | str] = field(default_factory=dict)
    configurations: Annotated[tuple[Configuration, ...], Len(1, 4_096)]
    kicks: Kicks = field(default_factory=Kicks)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A configuration and its scenario, whose seed each run sets anew; the files of the recording that drives it and of
    the weights that its learner begins with, where it has them, and their digests.
    """

    name: str
    scenario: Scenario
    trace_file: Path | None = None
    weights_file: Path | None = None
    inputs: tuple[str, str] = ("", "")


@dataclass(frozen=True, slots=True)
class Plan:
    """A checked plan. `candidates` are in the file's order."""

    file: PlanFile
    candidates: tuple[Candidate, ...]
    source: Path

    @property
    def name(self) -> str:
        """What it is called."""
        return self.file.name

    @property
    def runs(self) -> int:
        """Runs of all configurations together, kicked ones not counted."""
        return self.file.runs * len(self.candidates)

    @property
    def kicked_jobs(self) -> int:
        """Candidates times seeds that are kicked."""
        return len(self.candidates) * self.file.kicks.seeds

    def canonical(self) -> bytes:
        """The bytes that say what the results are of: everything but the texts for people and the order of runs."""
        data = asdict(self.file)
        for key in ("description", "shuffle_seed", "scenario", "set", "configurations", "name"):
            del data[key]
        data["configurations"] = [
            [each.name, canonical(each.scenario, *each.inputs).decode()] for each in self.candidates
        ]
        return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()

    @property
    def digest(self) -> str:
        """BLAKE2b-128 of `canonical`, lower-case hex: whose results a directory has."""
        return blake2b(self.canonical(), digest_size=16).hexdigest()

    def to_toml(self) -> str:
        """The plan as TOML, every default written out and every override in its place."""
        import tomli_w

        data = asdict(self.file)
        data["configurations"] = [
            {key: value for key, value in each.items() if value is not None} for each in data["configurations"]
        ]
        return tomli_w.dumps(data)

    def order(self) -> list[int]:
        """In which order the runs are done: a permutation of 0 .. runs - 1.

        Run number n is of candidate n % C with seed `first_seed` + n // C. The seeds are shuffled, and then the
        candidates within each seed, so that candidates stay interleaved: whenever one looks, all have had as many.
        """
        stream = Stream(self.file.shuffle_seed, "experiment.order")
        count = len(self.candidates)
        found = []
        for row in _shuffled(self.file.runs, stream):
            found += [row * count + place for place in _shuffled(count, stream)]
        return found


def _shuffled(count: int, stream: Stream) -> list[int]:
    """0 .. count - 1 in an order drawn from `stream` (Fisher and Yates)."""
    items = list(range(count))
    for last in range(count - 1, 0, -1):
        other = stream.below(last + 1)
        items[last], items[other] = items[other], items[last]
    return items


def shipped_plans() -> dict[str, Path]:
    """The plans that ship with the package: name to file."""
    return shipped_files("plans")


def load_plan(name_or_path: str, overrides: Iterable[str] = ()) -> Plan:
    """Read, override (`key=value`, as TOML has it) and check a plan. Raises `PlanError` with every problem."""
    known = shipped_plans()
    path = known.get(name_or_path, Path(name_or_path))
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        near = difflib.get_close_matches(name_or_path, known, n=1)
        hint = f", did you mean {near[0]}?" if near else ""
        reason = f"is neither a shipped plan nor a file{hint}; shipped are {', '.join(known)}; or name a .toml file"
        if path.exists():
            reason = f"cannot be read: {error.strerror}; check the path and its permissions (ls -l)"
        raise PlanError(name_or_path, [reason]) from error
    except UnicodeDecodeError as error:
        raise PlanError(str(path), ["is not UTF-8 text; save it as UTF-8"]) from error
    return parse_plan(text, path, overrides)


def parse_plan(text: str, source: Path, overrides: Iterable[str] = ()) -> Plan:
    """A checked plan from TOML text; a scenario named by a relative path lies beside `source`."""
    try:
        data = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise PlanError(str(source), [f"TOML syntax: {error}"]) from error
    data.setdefault("name", source.stem[:64])
    problems = [problem for item in overrides if (problem := _override(data, item))]
    file, found = _checked(data)
    problems += found
    if file is None:
        raise PlanError(str(source), problems)
    problems += _contradictions(file)
    candidates, wrong = _candidates(file, source)
    problems += wrong
    if problems:
        raise PlanError(str(source), problems)
    return Plan(file, tuple(candidates), source)


def _override(data: dict[str, Any], item: str) -> str | None:
    """Apply one `key=value`, or `table.key=value`; the problem in words, if there is one."""
    key, equals, raw = item.partition("=")
    table, dot, rest = key.partition(".")
    if not equals or not key or (dot and not rest):
        return f"--set {item!r}: write key=value, for example --set runs=3"
    try:
        # Six flags would be a number to TOML.
        value = raw if re.fullmatch("[01](_[01]){5}", raw) else tomllib.loads(f"value = {raw}")["value"]
    except (ValueError, RecursionError):
        value = raw
    if not dot:
        data[key] = value
        return None
    place = data.setdefault(table, {})
    if not isinstance(place, dict):
        return f"--set {item!r}: {table} is no table"
    # In `set` the keys are paths themselves; elsewhere there is one level only.
    place[rest] = value
    return None


def _checked(data: dict[str, Any]) -> tuple[PlanFile | None, list[str]]:
    """The plan as written, without what does not fit the schema, and what that is; None where too little is left."""
    from pydantic import TypeAdapter, ValidationError

    from twin.explain import misfits, unfit

    flaws = unfit(data)
    entries = data.get("configurations")
    if entries == "all":
        entries = ["_".join(flags) for flags in product("01", repeat=6)]
    if isinstance(entries, str):
        entries = [entries]
    if isinstance(entries, list):
        # A plain text is short for a table with that name and those loops.
        data["configurations"] = [
            {"name": entry, "config": entry} if isinstance(entry, str) else entry for entry in entries
        ]
    right = dict(data)
    new = flaws
    while True:
        # What is wrong counts as if it had been left out, so that the rest is checked too.
        for flaw in new:
            _leave_out(right, flaw.location)
        try:
            return TypeAdapter(PlanFile).validate_json(json.dumps(right)), [flaw.words for flaw in flaws]
        except ValidationError as error:
            new = misfits(error.errors(include_url=False), PlanFile)
            if all(flaw.location in [known.location for known in flaws] for flaw in new):
                return None, [flaw.words for flaw in flaws]
            flaws = [*flaws, *new]


def _leave_out(data: dict[str, Any], location: Sequence[str | int]) -> None:
    """Take what is wrong at `location` out of a plan; what a plan cannot do without gets a stand-in."""
    root = location[0]
    if root == "configurations" and len(location) > 1 and isinstance(location[1], int):
        entries = list(data["configurations"])
        entries[location[1]] = {"name": f"entry {location[1]}"}
        data["configurations"] = entries
    elif root == "configurations":
        data["configurations"] = [{"name": "stand-in"}]
    elif root == "scenario":
        data["scenario"] = _STAND_IN
    else:
        data.pop(str(root), None)


def _contradictions(file: PlanFile) -> list[str]:
    """What a type cannot say."""
    found = []
    try:
        Keep.parse(file.keep)
    except ValueError:
        found.append(f"keep = {file.keep!r}: allowed are {ALLOWED}")
    names = [each.name for each in file.configurations]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        found.append(f"configurations: {', '.join(twice)} named more than once; give each a name of its own")
    if file.runs * len(file.configurations) > MOST_RUNS:
        found.append(f"runs = {file.runs} of {len(file.configurations)} configurations are more than {MOST_RUNS} runs")
    for where, settings in [("set", file.set), *((f"{each.name}.set", each.set) for each in file.configurations)]:
        found += [f"{where}: {key} is the plan's to say; use its key {_OF_THE_PLAN[key]}"
                  for key in settings if key in _OF_THE_PLAN]  # fmt: skip
    strengths = list(file.kicks.strengths_sigmas)
    if strengths != sorted(set(strengths)):
        found.append(f"kicks.strengths_sigmas = {strengths}: must rise from entry to entry")
    return found


def _candidates(file: PlanFile, source: Path) -> tuple[list[Candidate], list[str]]:
    """The scenario of each configuration, and everything that is wrong with any of them, each thing once."""
    found, problems = [], []
    try:
        scenario_file = find(str(_scenario_path(file, source)))
    except ScenarioError as error:
        # Configurations are checked all the same, with another one in its place.
        problems += [f"scenario = {file.scenario!r}: {problem}" for problem in error.problems]
        scenario_file = find(_STAND_IN)
    for place, each in enumerate(file.configurations):
        settings: dict[str, Any] = {**file.set, **each.set}
        if each.config is not None:
            settings["heartbeat.config"] = each.config
        overrides = [f"{key}={_toml(value)}" for key, value in settings.items()]
        try:
            scenario = load(str(scenario_file), overrides)
            inputs = input_digests(scenario, scenario_file)
        except ScenarioError as error:
            where = f"configurations[{place}] ({each.name}): "
            problems += [where + text.removesuffix(" (from the command line)") for text in error.problems]
            continue
        recording = replace(scenario.recording, ticks=file.keep)
        whole = replace(scenario, ticks=file.ticks, duration_ms=LONGEST_MS, seed=file.first_seed, recording=recording)
        files = trace_path(scenario, scenario_file), checkpoint_path(scenario, scenario_file)
        found.append(Candidate(each.name, whole, *files, inputs))
    return found, _once(problems)


def _once(problems: Sequence[str]) -> list[str]:
    """Problems without those that only repeat, for another configuration, what was said before."""
    seen: set[str] = set()
    kept = []
    for problem in problems:
        text = re.sub(r"^configurations\[\d+\] \(.*?\): ", "", problem)
        if text not in seen:
            kept.append(problem)
        seen.add(text)
    return kept


def _scenario_path(file: PlanFile, source: Path) -> Path:
    """A shipped name, or a path as seen from the plan."""
    beside = source.parent / file.scenario
    return beside if beside.is_file() else Path(file.scenario)


def _toml(value: object) -> str:
    """A plain value as TOML has it."""
    return json.dumps(value, ensure_ascii=False)


def settings_of(candidate: Candidate) -> Mapping[str, Any]:
    """What of the heartbeat a candidate has that people compare: loops, law, and whether the interval adapts."""
    heart = candidate.scenario.heartbeat
    return {"config": heart.config, "law": heart.law, "adapt_interval": heart.adapt_interval}
