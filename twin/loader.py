"""Scenario files: TOML in, a checked `Scenario` out, all errors at once; and the scenario back as TOML or bytes."""

from __future__ import annotations

import copy
import difflib
import functools
import json
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from hashlib import blake2b
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from twin.explain import Flaw, misfits, shortened, unfit
from twin.record.keep import ALLOWED, Keep
from twin.scenario import Scenario
from twin.wiring import fault_targets, wiring

_CONFIG_PATTERN = re.compile(r"[01](_[01]){5}")
_FACTORY_PATTERN = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
ROOM = ("ambient_celsius", "ambient_steps")
"""Keys of a machine that tell about the air around it."""
Schema = TypeVar("Schema")
REFERENCE_WORDS = 1_024
"""The reference law counts every pair of words, so there must not be too many."""


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


def shipped_files(folder: str = "") -> dict[str, Path]:
    """The TOML files that ship with the package in `folder` of the scenarios: name to file."""
    place = Path(str(resources.files("scenarios"))) / folder
    return {path.stem: path for path in sorted(place.glob("*.toml"))}


def shipped() -> dict[str, Path]:
    """The scenarios that ship with the package: name to file."""
    return shipped_files()


def find(name_or_path: str) -> Path:
    """The file of a shipped scenario, or the path itself. Raises `ScenarioError` when there is neither."""
    return find_among(shipped(), name_or_path, "scenario", "or name a .toml file")


def find_among(known: Mapping[str, Path], name_or_path: str, kind: str, mend: str) -> Path:
    """The file of that name in `known`, or the path itself. Raises `ScenarioError` that says which `kind` there is."""
    if name_or_path in known:
        return known[name_or_path]
    path = Path(name_or_path)
    try:
        if path.is_file():
            return path
        folder = path.is_dir()
    except OSError as error:
        raise ScenarioError(name_or_path, [f"cannot be read: {error.strerror}; check the path"]) from error
    near = difflib.get_close_matches(name_or_path, known, n=1)
    hint = f", did you mean {near[0]}?" if near else ""
    what = "is a folder, not a file" if folder else f"is neither a shipped {kind} nor a file"
    there = f"shipped are {', '.join(known)}" if known else "none is shipped"
    raise ScenarioError(name_or_path, [f"{what}{hint}; {there}; {mend}"])


def load(name_or_path: str, overrides: Iterable[str] = (), machine: Mapping[str, Any] | None = None) -> Scenario:
    """Read, override and check a scenario. `overrides` are `key.path=value`, the value as TOML would have it.

    `machine` is a `[machine]` table (of `twin.machines`) in place of the scenario's own.
    """
    path = find(name_or_path)
    return parse(read_text(path), str(path), overrides, machine)


def read_text(path: Path) -> str:
    """The text of a file, which must be UTF-8. Raises `ScenarioError`."""
    raw = b""
    try:
        raw = path.read_bytes()
        return raw.decode("utf-8-sig")
    except OSError as error:
        mend = "check its permissions (ls -l)"
        raise ScenarioError(str(path), [f"cannot be read: {error.strerror}; {mend}"]) from error
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise ScenarioError(str(path), [f"is not UTF-8 text (line {line}); save it as UTF-8"]) from error


def parse(text: str, where: str, overrides: Iterable[str] = (), machine: Mapping[str, Any] | None = None) -> Scenario:
    """A checked scenario from TOML text, on `machine` instead of its own if that is given.

    What the scenario says of the room (`ROOM`) holds for any machine. Raises `ScenarioError` with every problem.
    """
    data = toml_data(text, where)
    data.setdefault("name", Path(where).stem[:64])
    if machine is not None:
        own = data.get("machine", {})
        room = {key: value for key, value in own.items() if key in ROOM} if isinstance(own, dict) else {}
        data["machine"] = copy.deepcopy(dict(machine)) | room
    items = tuple(overrides)
    problems = [problem for item in items if (problem := _override(data, item))]
    scenario, flaws = build(data, Scenario)
    found = [flaw.words for flaw in flaws] + contradictions(scenario, {flaw.location[0] for flaw in flaws})
    given = tuple(re.sub(r"\.([0-9]+)", r"[\1]", item.partition("=")[0]) for item in items)
    problems += [f"{words} (from the command line)" if words.startswith(given) else words for words in found]
    if problems:
        raise ScenarioError(where, problems)
    return scenario


def to_toml(scenario: Scenario) -> str:
    """The complete scenario, every default written out; `parse` gives the same scenario back."""
    import tomli_w

    return tomli_w.dumps(without_none(asdict(scenario)))


def canonical(scenario: Scenario, trace_digest: str = "", checkpoint_digest: str = "") -> bytes:
    """The bytes of a scenario that enter the run digest: everything but its name for people, what is kept on disk, and
    the pool, which changes where things lie and no result.

    A trace and a checkpoint count by their content (their digests), not by the names of their files.
    """
    data = asdict(scenario)
    del data["recording"], data["description"], data["pool"]
    if scenario.ticks is None:
        # A bound that is not set has no part in what a run is.
        del data["ticks"]
    for edge in data["machine"]["edges"]:
        if edge["natural_exponent"] == 0.0:
            # An edge without one conducts as edges did before there were any.
            del edge["natural_exponent"]
    gpu = data["machine"]["gpu"]
    if not gpu["limit_clock"]:
        # As before there was such an output.
        del gpu["limit_clock"], gpu["safe_kilohertz"]
    if not gpu["nvml_cards"]:
        del gpu["nvml_cards"]
    for fan in data["machine"]["fans"]:
        if not fan["cooling_devices"]:
            del fan["cooling_devices"], fan["cooling_states"]
        if not fan["nvml"]:
            del fan["nvml"]
    if data["workload"]["trace"] is not None:
        data["workload"]["trace"]["file"] = trace_digest
    data["learn"]["checkpoint"] = checkpoint_digest
    return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def trace_path(scenario: Scenario, scenario_file: Path) -> Path | None:
    """The recording that drives the scenario, if one does; relative names start at the scenario's folder."""
    trace = scenario.workload.trace
    return None if trace is None else scenario_file.parent / trace.file


def checkpoint_path(scenario: Scenario, scenario_file: Path) -> Path | None:
    """The file of the weights that the learner begins with, if it does with any; `~` is the user's folder, and relative
    names start at the scenario's.

    It is the newest good one of those that training kept under that name: what is digested, copied and loaded is the
    same. Raises `CheckpointError` when there are some and none is good.
    """
    learn = scenario.learn
    if not learn.enabled or not learn.checkpoint:
        return None
    # Imported here, because most scenarios name none.
    from twin.learn.checkpoint import kept, latest_good

    path = scenario_file.parent / Path(learn.checkpoint).expanduser()
    return latest_good(path).path if any(one.is_file() for one in kept(path)) else path


def input_digests(scenario: Scenario, scenario_file: Path) -> tuple[str, str]:
    """The digests of the trace and of the checkpoint that the scenario names; empty for what it does not name.

    Raises `ScenarioError` when one of them cannot be read.
    """
    found, problems = [], []
    for key, path in (
        ("workload.trace.file", trace_path(scenario, scenario_file)),
        ("learn.checkpoint", checkpoint_path(scenario, scenario_file)),
    ):
        try:
            found.append("" if path is None else file_digest(path))
        except OSError as error:
            problems.append(f"{key} = {str(path)!r}: cannot be read: {error.strerror}; name a file that is there")
    if problems:
        raise ScenarioError(str(scenario_file), problems)
    return found[0], found[1]


def file_digest(path: Path) -> str:
    """BLAKE2b-256 of a file's bytes, lower-case hex."""
    return blake2b(path.read_bytes(), digest_size=32).hexdigest()


def toml_data(text: str, where: str) -> dict[str, Any]:
    """What a TOML text says. Raises `ScenarioError` where it is none."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        place = re.search(r"at line (\d+)", str(error))
        line = "" if place is None else text.split("\n")[int(place[1]) - 1].strip()
        shown = f", in {shortened(line)!r}" if line else ""
        raise ScenarioError(where, [f"TOML syntax: {error}{shown}"]) from error
    except (ValueError, RecursionError) as error:
        # A number of thousands of digits, or thousands of brackets.
        raise ScenarioError(where, ["TOML syntax: a value is too long or nested too deeply"]) from error


def _override(data: dict[str, Any], item: str) -> str | None:
    """Apply one `key.path=value` to the raw data; the problem in words, if there is one."""
    key, equals, raw = item.partition("=")
    *parents, last = key.split(".")
    shown = shortened(item)
    if not equals or not all((*parents, last)):
        return f"--set {shown!r}: write key.path=value, for example --set heartbeat.t0_ns=2000000"
    place: Any = data
    default: Any = _defaults()
    for depth, part in enumerate(parents):
        place, default = _descend(place, default, part)
        if place is None:
            return f"--set {shown!r}: {shortened('.'.join(parents[: depth + 1]))} is not a table or an entry of a list"
    if isinstance(place, list):
        if not _is_entry(place, last):
            return f"--set {shown!r}: {last} is not the number of an entry; there are {len(place)}, from 0"
        place[int(last)] = _value(raw)
    else:
        place[last] = _value(raw)
    return None


def _value(raw: str) -> Any:
    """What TOML makes of `raw`, or the text itself, so that plain words need no quotes."""
    try:
        parsed = tomllib.loads(f"value = {raw}")
    except (ValueError, RecursionError):
        return raw
    return parsed["value"] if len(parsed) == 1 else raw


def _descend(place: Any, default: Any, part: str) -> tuple[Any, Any]:
    """The table or list `part` of `place`, and its default; a list that the file leaves out begins as its default."""
    if isinstance(place, dict):
        default = default.get(part) if isinstance(default, dict) else None
        found = place.setdefault(part, copy.deepcopy(default) if isinstance(default, list) else {})
    elif isinstance(place, list) and _is_entry(place, part):
        found, default = place[int(part)], None
    else:
        return None, None
    return (found, default) if isinstance(found, dict | list) else (None, None)


def _is_entry(entries: list[Any], part: str) -> bool:
    return re.fullmatch("[0-9]{1,6}", part) is not None and int(part) < len(entries)


@functools.cache
def _defaults() -> Any:
    return without_none(asdict(Scenario()))


def build(data: Mapping[str, Any], schema: type[Schema]) -> tuple[Schema, list[Flaw]]:
    """A `schema`, whose sections have defaults, and what is wrong; that counts as a section left out."""
    from pydantic import TypeAdapter, ValidationError

    adapter = TypeAdapter(schema)
    flaws = unfit(data)
    while True:
        wrong = {flaw.location[0] for flaw in flaws}
        right = {key: value for key, value in data.items() if key not in wrong}
        try:
            # Through JSON, because only there strict validation takes arrays for tuples.
            return adapter.validate_json(json.dumps(right)), flaws
        except ValidationError as error:
            flaws += misfits(error.errors(include_url=False), schema)


def without_none(value: Any) -> Any:
    """`value` without what is None, which TOML cannot say."""
    if isinstance(value, dict):
        return {key: without_none(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [without_none(item) for item in value]
    return value


# --- what a type cannot say -------------------------------------------------------------------------------------------


def contradictions(scenario: Scenario, wrong: set[str | int]) -> list[str]:
    """What does not go together, as far as the sections that it is about are right by themselves."""
    found = []
    for sections, check in (
        ({"machine"}, _processor_problems),
        ({"machine"}, _network_problems),
        ({"heartbeat"}, _heartbeat_problems),
        ({"machine", "faults", "random_faults"}, _fault_problems),
        ({"workload"}, _workload_problems),
        ({"recording"}, _recording_problems),
        ({"control"}, _control_problems),
        ({"learn"}, _learn_problems),
    ):
        if wrong.isdisjoint(sections):
            found += check(scenario)
    return found


def _fault_problems(scenario: Scenario) -> list[str]:
    targets = fault_targets(wiring(scenario.machine), scenario.machine)
    named = [(f"faults[{i}].target", fault.target) for i, fault in enumerate(scenario.faults)]
    named += [(f"random_faults.targets[{i}]", name) for i, name in enumerate(scenario.random_faults.targets)]
    found = []
    for key, name in named:
        if name not in targets:
            near = difflib.get_close_matches(name, targets, n=1)
            found.append(f"{key} = {name!r}: no such channel{f'; did you mean {near[0]}?' if near else '.'} "
                         f"Known are {', '.join(targets)}")  # fmt: skip
    return found


def _workload_problems(scenario: Scenario) -> list[str]:
    return [
        f"workload.phases[{i}].burst_ms = {phase.burst_ms}: longer than burst_every_ms ({phase.burst_every_ms})"
        for i, phase in enumerate(scenario.workload.phases)
        if phase.burst_ms > phase.burst_every_ms
    ]


def _recording_problems(scenario: Scenario) -> list[str]:
    try:
        Keep.parse(scenario.recording.ticks)
    except ValueError:
        return [f"recording.ticks = {scenario.recording.ticks!r}: allowed are {ALLOWED}"]
    return []


def _control_problems(scenario: Scenario) -> list[str]:
    controller = scenario.control.controller
    if controller in ("rules-pid", "steady") or _FACTORY_PATTERN.fullmatch(controller):
        return []
    return [f"control.controller = {controller!r}: allowed are rules-pid, steady and module:factory"]


def _learn_problems(scenario: Scenario) -> list[str]:
    learn = scenario.learn
    found = [
        f"learn.ranges.{name} = [{low}, {high}]: the first must be below the second"
        for name, (low, high) in asdict(learn.ranges).items()
        if not low < high
    ]
    if learn.reward != "standard" and not _FACTORY_PATTERN.fullmatch(learn.reward):
        near = difflib.get_close_matches(learn.reward, ["standard"], n=1)
        found.append(f"learn.reward = {shortened(repr(learn.reward))}: allowed are standard and module:function"
                     f"{'; did you mean standard?' if near else ''}")  # fmt: skip
    if len(set(learn.actions)) < len(learn.actions):
        found.append(f"learn.actions = {list(learn.actions)}: one is named more than once")
    if "noop" not in learn.actions:
        found.append(f"learn.actions = {list(learn.actions)}: noop must be among them, it leaves things as they are")
    if learn.authority_percent > learn.authority_most_percent:
        found.append(f"learn.authority_percent = {learn.authority_percent}: must not exceed authority_most_percent "
                     f"({learn.authority_most_percent})")  # fmt: skip
    if learn.quantised and learn.learning:
        found.append("learn.quantised = true: eight-bit weights do not learn; set learn.learning = false")
    if learn.batch > learn.buffer:
        found.append(f"learn.batch = {learn.batch}: must not exceed buffer ({learn.buffer})")
    return found


def _processor_problems(scenario: Scenario) -> list[str]:
    machine = scenario.machine
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
    if gpu.limit_clock and not gpu.enabled:
        found.append("machine.gpu.limit_clock = true: there is no graphics card here; set machine.gpu.enabled = true")
    elif gpu.limit_clock and not gpu.frequencies_kilohertz[0] <= gpu.safe_kilohertz <= gpu.frequencies_kilohertz[-1]:
        found.append(f"machine.gpu.safe_kilohertz = {gpu.safe_kilohertz}: must lie within the frequencies, "
                     f"{gpu.frequencies_kilohertz[0]} to {gpu.frequencies_kilohertz[-1]}")  # fmt: skip
    found += [
        f"machine.fans[{i}].nvml = true: there is no graphics card here; set machine.gpu.enabled = true"
        for i, fan in enumerate(machine.fans)
        if fan.nvml and not gpu.enabled
    ]
    if not cpu.safe_watts <= cpu.pl1_watts <= cpu.pl2_watts:
        found.append(f"machine.cpu: safe_watts ({cpu.safe_watts}) <= pl1_watts ({cpu.pl1_watts}) <= pl2_watts "
                     f"({cpu.pl2_watts}) must hold")  # fmt: skip
    if not gpu.minimum_power_limit_watts <= gpu.safe_watts <= gpu.power_limit_watts:
        found.append(f"machine.gpu: minimum_power_limit_watts ({gpu.minimum_power_limit_watts}) <= safe_watts "
                     f"({gpu.safe_watts}) <= power_limit_watts ({gpu.power_limit_watts}) must hold")  # fmt: skip
    return found


def _network_problems(scenario: Scenario) -> list[str]:
    machine = scenario.machine
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
    hot = {machine.cpu.node} | ({machine.gpu.node} if machine.gpu.enabled else set())
    found += [
        f"machine.sensors[{i}].reference = true: {sensor.node} has a processor on it; a reference tells how warm the "
        "surroundings are, so its node must have none"
        for i, sensor in enumerate(machine.sensors)
        if sensor.reference and sensor.node in hot
    ]
    for i, edge in enumerate(machine.edges):
        for end in (edge.a, edge.b):
            if end not in nodes | {"ambient"}:
                found.append(f"machine.edges[{i}]: {end!r} is neither a node nor ambient")
        if edge.fan is not None and edge.fan not in fans:
            found.append(
                f"machine.edges[{i}].fan = {edge.fan!r}: no such fan; there are {', '.join(sorted(fans)) or 'none'}"
            )
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
    heartbeat = scenario.heartbeat
    config = heartbeat.config
    if not _CONFIG_PATTERN.fullmatch(config):
        found.append(f"heartbeat.config = {config!r}: write six flags for L1 to L6, for example 1_0_1_1_1_0")
    if heartbeat.law == "reference":
        if heartbeat.words > REFERENCE_WORDS:
            found.append(f"heartbeat.words = {heartbeat.words}: the reference law takes at most {REFERENCE_WORDS}; "
                         "choose fewer words, or the adaptive law")  # fmt: skip
    elif config.endswith("1"):
        least, slope, most = (
            heartbeat.decay_min_q48_per_microsecond,
            heartbeat.decay_q48_per_microsecond,
            heartbeat.decay_max_q48_per_microsecond,
        )
        if not least <= slope <= most:
            found.append(
                f"heartbeat.decay_q48_per_microsecond = {slope}: L6 keeps it from decay_min_q48_per_microsecond "
                f"({least}) to decay_max_q48_per_microsecond ({most}); choose one in between, or switch L6 off"
            )
    quantiles = heartbeat.lateness_quantiles_ns
    if list(quantiles) != sorted(quantiles):
        found.append(f"heartbeat.lateness_quantiles_ns = {list(quantiles)}: must not fall from entry to entry")
    return found
