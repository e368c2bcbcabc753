"""Scenario files: TOML in, a checked `Scenario` out, all errors at once; and the scenario back as TOML or bytes."""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from hashlib import blake2b
from importlib import resources
from pathlib import Path
from typing import Any, get_type_hints

from twin.scenario import Machine, Scenario
from twin.wiring import fault_targets, wiring

KEEP_PATTERN = re.compile(r"all|none|every:[1-9][0-9]{0,8}")
_CONFIG_PATTERN = re.compile(r"[01](_[01]){5}")
_BUILT_LOOPS = (1, 3)


class ScenarioError(ValueError):
    """A scenario that cannot be used; `problems` has one sentence for each thing that is wrong."""

    def __init__(self, where: str, problems: Sequence[str]) -> None:
        super().__init__(where, problems)
        self.where = where
        self.problems = list(problems)

    def __str__(self) -> str:
        if len(self.problems) == 1:
            return f"{self.where}: {self.problems[0]}"
        return "\n".join([f"{self.where}: {len(self.problems)} errors", *(f"  - {text}" for text in self.problems)])


def shipped() -> dict[str, Path]:
    """The scenarios that ship with the package: name to file."""
    folder = Path(str(resources.files("scenarios")))
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def find(name_or_path: str) -> Path:
    """The file of a shipped scenario, or the path itself. Raises `ScenarioError` when there is neither."""
    known = shipped()
    if name_or_path in known:
        return known[name_or_path]
    path = Path(name_or_path)
    if path.is_file():
        return path
    near = difflib.get_close_matches(name_or_path, known, n=1)
    hint = f", did you mean {near[0]}?" if near else ""
    what = "is a folder, not a file" if path.is_dir() else "is neither a shipped scenario nor a file"
    raise ScenarioError(name_or_path, [f"{what}{hint}; shipped are {', '.join(known)}; or name a .toml file"])


def load(name_or_path: str, overrides: Iterable[str] = ()) -> Scenario:
    """Read, override and check a scenario. `overrides` are `key.path=value`, the value as TOML would have it."""
    path = find(name_or_path)
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise ScenarioError(str(path), [f"cannot be read: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        raise ScenarioError(str(path), [f"is not UTF-8 text (byte {error.start}); save it as UTF-8"]) from error
    return parse(text, str(path), overrides)


def parse(text: str, where: str, overrides: Iterable[str] = ()) -> Scenario:
    """A checked scenario from TOML text. Raises `ScenarioError` with every problem."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ScenarioError(where, [f"TOML syntax: {error}"]) from error
    data.setdefault("name", Path(where).stem)
    problems = [problem for item in overrides if (problem := _override(data, item))]
    if problems:
        raise ScenarioError(where, problems)
    scenario = _build(data, where)
    problems = _contradictions(scenario)
    if problems:
        raise ScenarioError(where, problems)
    return scenario


def to_toml(scenario: Scenario) -> str:
    """The complete scenario, every default written out; `parse` gives the same scenario back."""
    import tomli_w

    return tomli_w.dumps(_without_none(asdict(scenario)))


def canonical(scenario: Scenario, trace_digest: str = "") -> bytes:
    """The bytes of a scenario that enter the run digest: everything but its name for people and what is kept on disk.

    A trace counts by its content (`trace_digest`), not by the name of its file.
    """
    data = asdict(scenario)
    del data["recording"], data["description"]
    if data["workload"]["trace"] is not None:
        data["workload"]["trace"]["file"] = trace_digest
    return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def trace_path(scenario: Scenario, scenario_file: Path) -> Path | None:
    """The recording that drives the scenario, if one does; relative names start at the scenario's folder."""
    trace = scenario.workload.trace
    return None if trace is None else scenario_file.parent / trace.file


def file_digest(path: Path) -> str:
    """BLAKE2b-256 of a file's bytes, lower-case hex."""
    return blake2b(path.read_bytes(), digest_size=32).hexdigest()


def _override(data: dict[str, Any], item: str) -> str | None:
    """Apply one `key.path=value` to the raw data; the problem in words, if there is one."""
    key, equals, raw = item.partition("=")
    if not equals or not key:
        return f"--set {item!r}: write key.path=value, for example --set heartbeat.t0_ns=2000000"
    try:
        value = tomllib.loads(f"value = {raw}")["value"]
    except tomllib.TOMLDecodeError:
        value = raw
    place: Any = data
    *parents, last = key.split(".")
    for depth, part in enumerate(parents):
        place = _descend(place, part)
        if place is None:
            return f"--set {item!r}: {'.'.join(parents[: depth + 1])} is not a table or an entry of the file"
    if isinstance(place, list):
        if not last.isdigit() or int(last) >= len(place):
            return f"--set {item!r}: {last} is not the number of an entry; there are {len(place)}, from 0"
        place[int(last)] = value
    else:
        place[last] = value
    return None


def _descend(place: Any, part: str) -> Any:
    if isinstance(place, dict):
        found = place.setdefault(part, {})
    elif isinstance(place, list) and part.isdigit() and int(part) < len(place):
        found = place[int(part)]
    else:
        return None
    return found if isinstance(found, dict | list) else None


def _build(data: Mapping[str, Any], where: str) -> Scenario:
    from pydantic import TypeAdapter, ValidationError

    try:
        # Through JSON, because only there strict validation takes arrays for tuples.
        return TypeAdapter(Scenario).validate_json(json.dumps(data, default=str))
    except ValidationError as error:
        items = error.errors(include_url=False)
        # A list whose entries are all wrong is also reported as too short: say what is wrong with the entries only.
        inner = {tuple(item["loc"])[:-2] for item in items}
        kept = [item for item in items if item["type"] != "too_short" or tuple(item["loc"]) not in inner]
        raise ScenarioError(where, [_explain(item) for item in kept]) from error


def _explain(item: Any) -> str:
    location = tuple(item["loc"])
    key = _key_text(location)
    value = item.get("input")
    if item["type"] == "unexpected_keyword_argument":
        known = _known_keys(location[:-1])
        near = difflib.get_close_matches(str(location[-1]), known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
        return f"{key}: unknown key; {hint}"
    if item["type"] == "missing":
        return f"{key}: is required and missing"
    allowed = item["msg"][0].lower() + item["msg"][1:].replace("Input should", "should")
    return f"{key} = {json.dumps(value, default=str)}: {allowed.replace('input should', 'should')}"


def _key_text(location: tuple[Any, ...]) -> str:
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f"{'.' if text else ''}{part}"
    return text


def _known_keys(location: tuple[Any, ...]) -> list[str]:
    """The keys that a table of the schema may have."""
    kind: Any = Scenario
    for part in location:
        if isinstance(part, str) and is_dataclass(kind):
            kind = get_type_hints(kind).get(part)
        kind = _dataclass_inside(kind)
    return [item.name for item in fields(kind)] if is_dataclass(kind) else []


def _dataclass_inside(kind: Any) -> Any:
    if is_dataclass(kind):
        return kind
    for argument in getattr(kind, "__args__", ()):
        found = _dataclass_inside(argument)
        if found is not None:
            return found
    return None


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [_without_none(item) for item in value]
    return value


# --- what a type cannot say -------------------------------------------------------------------------------------------


def _contradictions(scenario: Scenario) -> list[str]:
    found = [*_processor_problems(scenario.machine), *_network_problems(scenario.machine)]
    found += _heartbeat_problems(scenario)
    targets = fault_targets(wiring(scenario.machine), scenario.machine)
    named = [(f"faults[{i}].target", fault.target) for i, fault in enumerate(scenario.faults)]
    named += [(f"random_faults.targets[{i}]", name) for i, name in enumerate(scenario.random_faults.targets)]
    for key, name in named:
        if name not in targets:
            near = difflib.get_close_matches(name, targets, n=1)
            found.append(f"{key} = {name!r}: no such channel{f'; did you mean {near[0]}?' if near else ''} "
                         f"Known are {', '.join(targets)}")  # fmt: skip
    for i, phase in enumerate(scenario.workload.phases):
        if phase.burst_ms > phase.burst_every_ms:
            found.append(f"workload.phases[{i}].burst_ms = {phase.burst_ms}: longer than burst_every_ms "
                         f"({phase.burst_every_ms})")  # fmt: skip
    if not KEEP_PATTERN.fullmatch(scenario.recording.ticks):
        found.append(f"recording.ticks = {scenario.recording.ticks!r}: allowed are all, every:N and none")
    controller = scenario.control.controller
    if controller not in ("rules-pid", "steady") and not re.fullmatch(r"[\w.]+:\w+", controller):
        found.append(f"control.controller = {controller!r}: allowed are rules-pid, steady and module:factory")
    return found


def _processor_problems(machine: Machine) -> list[str]:
    found = []
    for key, processor in (("machine.cpu", machine.cpu), ("machine.gpu", machine.gpu)):
        clocks = processor.frequencies_kilohertz
        if len(clocks) != len(processor.voltages_millivolt):
            found.append(f"{key}.voltages_millivolt has {len(processor.voltages_millivolt)} entries: one is needed for "
                         f"each of the {len(clocks)} frequencies")  # fmt: skip
        if list(clocks) != sorted(set(clocks)):
            found.append(f"{key}.frequencies_kilohertz = {list(clocks)}: must rise from entry to entry")
    cpu, gpu = machine.cpu, machine.gpu
    if not cpu.frequencies_kilohertz[0] <= cpu.safe_kilohertz <= cpu.frequencies_kilohertz[-1]:
        found.append(f"machine.cpu.safe_kilohertz = {cpu.safe_kilohertz}: must lie within the frequencies, "
                     f"{cpu.frequencies_kilohertz[0]} to {cpu.frequencies_kilohertz[-1]}")  # fmt: skip
    if not cpu.safe_watts <= cpu.pl1_watts <= cpu.pl2_watts:
        found.append(f"machine.cpu: safe_watts ({cpu.safe_watts}) <= pl1_watts ({cpu.pl1_watts}) <= pl2_watts "
                     f"({cpu.pl2_watts}) must hold")  # fmt: skip
    if not gpu.minimum_power_limit_watts <= gpu.safe_watts <= gpu.power_limit_watts:
        found.append(f"machine.gpu: minimum_power_limit_watts ({gpu.minimum_power_limit_watts}) <= safe_watts "
                     f"({gpu.safe_watts}) <= power_limit_watts ({gpu.power_limit_watts}) must hold")  # fmt: skip
    return found


def _network_problems(machine: Machine) -> list[str]:
    found = []
    for key, names in (
        ("nodes", [node.name for node in machine.nodes] + ["ambient"]),
        ("fans", [fan.name for fan in machine.fans]),
        ("sensors", [sensor.name for sensor in machine.sensors]),
    ):
        strange = sorted({name for name in names if not re.fullmatch(r"[A-Za-z0-9_]+", name)})
        if strange:
            found.append(f"machine.{key}: {strange!r}: names are made of letters, digits and underscores")
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            found.append(f"machine.{key}: {', '.join(twice)} named more than once (ambient is always there)")
    nodes = {node.name for node in machine.nodes}
    fans = {fan.name for fan in machine.fans}
    places = [("machine.cpu.node", machine.cpu.node), ("machine.memory.node", machine.memory.node)]
    if machine.gpu.enabled:
        places.append(("machine.gpu.node", machine.gpu.node))
    places += [(f"machine.sensors[{i}].node", sensor.node) for i, sensor in enumerate(machine.sensors)]
    found += [f"{key} = {name!r}: no such node; there are {', '.join(sorted(nodes))}"
              for key, name in places if name not in nodes]  # fmt: skip
    for i, edge in enumerate(machine.edges):
        for end in (edge.a, edge.b):
            if end not in nodes | {"ambient"}:
                found.append(f"machine.edges[{i}]: {end!r} is neither a node nor ambient")
        if edge.fan is not None and edge.fan not in fans:
            found.append(f"machine.edges[{i}].fan = {edge.fan!r}: no such fan; there are {', '.join(sorted(fans))}")
        if edge.forced_watts_per_kelvin > 0 and edge.fan is None:
            found.append(f"machine.edges[{i}].forced_watts_per_kelvin = {edge.forced_watts_per_kelvin}: needs a fan")
    for i, fan in enumerate(machine.fans):
        if fan.stall_pwm > fan.start_pwm:
            found.append(f"machine.fans[{i}].stall_pwm = {fan.stall_pwm}: must not exceed start_pwm ({fan.start_pwm})")
    carrying = [(edge.a, edge.b) for edge in machine.edges if edge.still_watts_per_kelvin > 0]
    reached = {"ambient"}
    while grown := {end for pair in carrying for end in pair if not reached.isdisjoint(pair)} - reached:
        reached |= grown
    found += [f"machine.nodes: {name} has no way for its heat to reach ambient at fan standstill"
              for name in sorted(nodes - reached)]  # fmt: skip
    return found


def _heartbeat_problems(scenario: Scenario) -> list[str]:
    found = []
    config = scenario.heartbeat.config
    if not _CONFIG_PATTERN.fullmatch(config):
        found.append(f"heartbeat.config = {config!r}: write six flags for L1 to L6, for example 1_0_1_0_0_0")
    else:
        unbuilt = [f"L{loop}" for loop in range(1, 7) if config[2 * (loop - 1)] == "1" and loop not in _BUILT_LOOPS]
        if unbuilt:
            found.append(f"heartbeat.config = {config!r}: {', '.join(unbuilt)} cannot be switched on; this version has "
                         f"L1 and L3, for example 1_0_1_0_0_0")  # fmt: skip
    quantiles = scenario.heartbeat.lateness_quantiles_ns
    if list(quantiles) != sorted(quantiles):
        found.append(f"heartbeat.lateness_quantiles_ns = {list(quantiles)}: must not fall from entry to entry")
    return found
