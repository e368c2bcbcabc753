"""Scenario files: every kind of mistake is named with its key, its value and what is allowed, and all at once."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twin.loader import ScenarioError, canonical, find, load, parse, shipped, to_toml
from twin.scenario import Fan, Scenario

WHOLE_SEED = "allowed are whole numbers from 0 to 9223372036854775807"
MISTAKES = [
    ("seed = -3", f"seed = -3: {WHOLE_SEED}"),
    ("seed = 1.5", f"seed = 1.5: {WHOLE_SEED}"),
    ("seed = '7'", f'seed = "7": {WHOLE_SEED}'),
    ("seed = true", f"seed = true: {WHOLE_SEED}"),
    ("seed = 2024-01-01", "seed = 2024-01-01: is a date or time"),
    ("name = 07:32:00", "name = 07:32:00: is a date or time"),
    ("seed = 99999999999999999999", f"seed = 99999999999999999999: {WHOLE_SEED}"),
    (f"seed = 0x{'f' * 5_000}", f"seed: is a number of 20000 bits; {WHOLE_SEED}"),
    ("duration_ms = 0", "duration_ms = 0: allowed are whole numbers from 1 to 10000000000"),
    ("name = ''", 'name = "": allowed are texts of 1 to 64 characters'),
    ("nam = 'x'", "nam: unknown key; did you mean name?"),
    ("zzz = 1", "zzz: unknown key; known are name, description, seed"),
    ("machine = 3", "machine = 3: a table is needed, with name, ambient_celsius"),
    ("machine.ambient_celsius = 297.15", "machine.ambient_celsius = 297.15: allowed are numbers from -60 to 200"),
    ("machine.ambient_celsius = nan", "machine.ambient_celsius = NaN: allowed are numbers from -60 to 200"),
    ("machine.cpu.idle_watts = inf", "machine.cpu.idle_watts = Infinity: allowed are numbers from 0 to 100000"),
    ("machine.cpu.coers = 4", "machine.cpu.coers: unknown key; did you mean cores?"),
    ("machine.gpu.enabled = 1", "machine.gpu.enabled = 1: allowed are true and false"),
    ("machine.sensors = []", "machine.sensors = []: allowed are lists of 1 to 16 entries"),
    ("machine.fans = [{name = 'a', initial_pwm = 256}]",
     "machine.fans[0].initial_pwm = 256: allowed are whole numbers from 0 to 255"),
    ("machine.fans = [{}]", "machine.fans[0].name: is required and missing; allowed are texts of 1 to 64 characters"),
    ("machine.nodes = [{name = 'cpu_die', capacity_joules_per_kelvin = -25.0}]",
     "machine.nodes[0].capacity_joules_per_kelvin = -25.0: allowed are numbers from 0.001 to 1e+09"),
    ("machine.cpu.frequencies_kilohertz = [1]", "machine.cpu.voltages_millivolt has 8 entries: one is needed for each"),
    ("machine.cpu.safe_kilohertz = 1", "machine.cpu.safe_kilohertz = 1: must lie within the frequencies"),
    ("machine.cpu.pl1_watts = 1.0", "machine.cpu: safe_watts (35.0) <= pl1_watts (1.0)"),
    ("machine.gpu.safe_watts = 1.0", "machine.gpu: minimum_power_limit_watts (60.0) <= safe_watts (1.0)"),
    ("machine.gpu = {limit_clock = true, safe_kilohertz = 1}", "machine.gpu.safe_kilohertz = 1: must lie within the"),
    ("machine.gpu = {limit_clock = true, enabled = false}", "machine.gpu.limit_clock = true: there is no"),
    ("machine = {fans = [{name = 'a', nvml = true}], gpu = {enabled = false}}", "machine.fans[0].nvml = true: there"),
    ("machine.fans = [{name = 'a', cooling_states = 0}]",
     "machine.fans[0].cooling_states = 0: allowed are whole numbers from 1 to 255"),
    ("machine.cpu.node = 'moon'", "machine.cpu.node = 'moon': no such node; there are case, cpu_die"),
    ("machine.fans = []", "machine.edges[1].fan = 'cpu_fan': no such fan; there are none"),
    ("machine.fans = [{name = 'a b'}]", "machine.fans: ['a b']: names are made of letters, digits and underscores"),
    ("workload.phases = []", "workload.phases = []: allowed are lists of 1 to 256 entries"),
    ("workload.phases = [{cpu_load = 1.5}]", "workload.phases[0].cpu_load = 1.5: allowed are numbers from 0 to 1"),
    ("workload.phases = [{state = 'sleep'}]", 'workload.phases[0].state = "sleep": allowed are menu, loading'),
    ("workload.phases = [{burst_ms = 5}]", "workload.phases[0].burst_ms = 5: longer than burst_every_ms (0)"),
    ("workload.trace = {}", "workload.trace.file: is required and missing"),
    ("heartbeat = {law = 'reference', words = 1025}", "heartbeat.words = 1025"),
    ("heartbeat.config = '2_0_0_0_0_0'", "heartbeat.config = '2_0_0_0_0_0': write six flags for L1 to L6"),
    ("heartbeat.law = 'none'", 'heartbeat.law = "none": allowed are adaptive'),
    ("heartbeat.lateness_quantiles_ns = [1, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1]", "must not fall from entry to entry"),
    ("heartbeat.lateness_quantiles_ns = [1, 0]", "allowed are lists of 11 entries"),
    (
        "recording.ticks = 'every:0'",
        "recording.ticks = 'every:0': allowed are all, every:N, ends:M, sample:N, ends:M+sample:N and none",
    ),
    ("control.controller = 'mine'", "control.controller = 'mine': allowed are rules-pid, steady and module:factory"),
    ("control.controller = '..:x'", "control.controller = '..:x': allowed are"),
    ("faults = [{target = 'cpu_fam', state = 'off'}]",
     "faults[0].target = 'cpu_fam': no such channel; did you mean cpu_fan?"),
    ("faults = [{target = 'cpu', state = 'broken'}]", 'faults[0].state = "broken": allowed are ok, off, stuck'),
    ("random_faults.targets = ['moon']", "random_faults.targets[0] = 'moon': no such channel. Known are"),
    (f"a = {'[' * 40}{']' * 40}", "a[0][0]...: is nested 32 deep and more"),
    (f"{'a.' * 3_000}a = 1", "a.a.a...: is nested 32 deep and more"),
    ("name = \nseed = 1", "TOML syntax: Invalid value (at line 1, column 8), in 'name ='"),
    (f"seed = {'9' * 5_000}", "TOML syntax: a value is too long or nested too deeply"),
    (f"a = {'[' * 100_000}", "TOML syntax: a value is too long or nested too deeply"),
]  # fmt: skip


def problems(text: str, *overrides: str) -> list[str]:
    with pytest.raises(ScenarioError) as caught:
        parse(text, "here.toml", overrides)
    assert str(caught.value).startswith("here.toml: ")
    return caught.value.problems


@pytest.mark.parametrize(("text", "said"), MISTAKES, ids=[said[:40] for _, said in MISTAKES])
def test_a_mistake_is_named_with_key_value_and_what_is_allowed(text: str, said: str) -> None:
    found = problems(text)
    assert any(said in problem for problem in found), found
    assert all(len(problem) < 1_000 for problem in found)


def test_all_mistakes_of_a_file_are_reported_at_once() -> None:
    text = """
        nam = "x"
        seed = -3
        faults = [{target = "cpu", state = "broken"}]
        [machine]
        ambient_celsius = 297.15
        [machine.cpu]
        coers = 8
        capacitance_nanofarad = nan
        [[workload.phases]]
        burst_ms = 5
        [recording]
        ticks = "some"
        [heartbeat]
        config = "1_1_0_0_0"
        [control]
        controller = "mine"
    """
    found = problems(text, "--x", "description=2024-01-01")
    keys = [problem.split(" ")[0].rstrip(":") for problem in found]
    assert sorted(keys) == sorted([
        "--set", "description", "nam", "seed", "faults[0].state", "machine.ambient_celsius", "machine.cpu.coers",
        "machine.cpu.capacitance_nanofarad", "workload.phases[0].burst_ms", "recording.ticks", "heartbeat.config",
        "control.controller",
    ])  # fmt: skip


def test_one_wrong_key_does_not_make_others_wrong() -> None:
    # Eight voltages would be missing if the wrong section counted as left out in part.
    text = "[machine.cpu]\nfrequencies_kilohertz = [800_000, 1_600_000]\nvoltages_millivolt = [700, 'x']\n"
    assert problems(text) == ['machine.cpu.voltages_millivolt[1] = "x": allowed are whole numbers from 1 to 10000']


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("seed", "--set 'seed': write key.path=value"),
        ("=1", "--set '=1': write key.path=value"),
        ("machine..x=1", "--set 'machine..x=1': write key.path=value"),
        ("a.b.c=1", "a: unknown key"),
        ("seed=", f'seed = "": {WHOLE_SEED} (from the command line)'),
        ("seed=1e400", "seed = Infinity"),
        ("seed=1\nname='x'", "seed = \"1\\nname='x'\""),
        ("seed.x=1", 'seed = {"x": 1}'),
        ("workload.phases.9.name=x", "workload.phases.9 is not a table or an entry of a list"),
        ("workload.phases.².name=x", "workload.phases.² is not a table or an entry of a list"),
        (f"workload.phases.{'1' * 5_000}.name=x", "is not a table or an entry of a list"),
        ("machine.cpu.voltages_millivolt.8=1", "8 is not the number of an entry; there are 8, from 0"),
        ("machine.fans.1.max_rpm=x", 'machine.fans[1].max_rpm = "x": allowed are whole numbers from 1 to 100000 (from'),
        ("name=\udcff", "name: is not UTF-8 text (from the command line)"),
        ("\udcff=1", ": is not UTF-8 text"),
        (f"a={'[' * 100_000}", "a: unknown key"),
        ("a." * 5_000 + "a=1", "is nested 32 deep and more"),
    ],
)
def test_a_wrong_override_is_named(override: str, said: str) -> None:
    found = problems("", override)
    assert any(said in problem for problem in found), found
    assert all(len(problem) < 1_000 for problem in found)


def test_any_key_can_be_overridden_also_in_lists_that_the_file_leaves_out() -> None:
    scenario = parse("", "x.toml", [
        "machine.fans.1.max_rpm=2500", "machine.cpu.voltages_millivolt.0=710", "workload.phases.0.name=busy",
        "name='two words'", "seed=0",
    ])  # fmt: skip
    assert scenario.machine.fans[1] == Fan(name="gpu_fan", max_rpm=2_500, lag_ms=800, hwmon_chips=("amdgpu",), index=1)
    assert len(scenario.machine.fans) == 3
    assert scenario.machine.cpu.voltages_millivolt[:2] == (710, 750)
    assert (scenario.workload.phases[0].name, scenario.name, scenario.seed) == ("busy", "two words", 0)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "latin.toml").write_bytes(b'name = "x"\ndescription = "caf\xe9"\n')
    for name, said in (
        ("nowhere.toml", "is neither a shipped scenario nor a file"),
        (str(tmp_path), "is a folder, not a file"),
        ("x" * 5_000, "cannot be read: File name too long"),
        ("gamign", "did you mean gaming?"),
        (str(tmp_path / "latin.toml"), "is not UTF-8 text (line 2); save it as UTF-8"),
    ):
        with pytest.raises(ScenarioError) as caught:
            load(name)
        assert said in str(caught.value)
        assert name in str(caught.value)


def test_what_windows_editors_save_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "saved.toml"
    path.write_bytes(b"\xef\xbb\xbfseed = 5\r\n")
    assert load(str(path)).seed == 5


def test_a_file_without_a_name_is_called_after_itself() -> None:
    assert parse("", "/some/where/mine.toml").name == "mine"
    assert parse("", "x" * 200 + ".toml").name == "x" * 64
    assert parse("", "mine.toml") == Scenario(name="mine")


@pytest.mark.parametrize("name", sorted(shipped()))
def test_a_shipped_scenario_written_out_is_the_same_scenario(name: str) -> None:
    scenario = load(name)
    assert parse(to_toml(scenario), "copy.toml") == scenario
    assert find(name) == shipped()[name]
    assert scenario.description


def test_canonical_bytes_leave_out_what_is_only_for_people() -> None:
    scenario = parse("", "x.toml")
    same = parse("description = 'other'\nrecording.ticks = 'none'\n", "x.toml")
    assert canonical(scenario) == canonical(same)
    assert canonical(scenario) != canonical(parse("", "x.toml", ["machine.step_ms=21"]))
    traced = [parse(f"workload.trace.file = '{name}'\n", "x.toml") for name in ("a.csv", "b.csv")]
    assert canonical(traced[0], "d") == canonical(traced[1], "d")
    assert canonical(traced[0], "d") != canonical(traced[0], "e")


def leaves(value: Any, path: str = "") -> list[str]:
    if isinstance(value, dict):
        return [leaf for key, item in value.items() for leaf in leaves(item, f"{path}.{key}" if path else key)]
    if isinstance(value, list | tuple) and value:
        return [leaf for number, item in enumerate(value) for leaf in leaves(item, f"{path}.{number}")]
    return [path]


LEAVES = leaves(asdict(Scenario()))
NONSENSE = st.one_of(
    st.sampled_from(
        ["", "nan", "-inf", "1e400", "2024-01-01", "[]", "{}", "[[1]]", "'", '"', "\x00", "true", "-1", "0"]
    ),
    st.text(max_size=20),
    st.integers().map(str),
    st.floats().map(str),
)


@given(st.sampled_from(LEAVES) | st.text(max_size=20), NONSENSE)
def test_nonsense_is_a_scenario_or_a_scenario_error(key: str, value: str) -> None:
    with suppress(ScenarioError):
        parse("", "x.toml", [f"{key}={value}"])


@given(st.text(max_size=60))
def test_any_text_is_a_scenario_or_a_scenario_error(text: str) -> None:
    with suppress(ScenarioError):
        parse(text, "x.toml")


def test_outputs_that_are_not_named_leave_the_bytes_as_they_always_were() -> None:
    scenario = Scenario()
    machine = scenario.machine
    keys = (b"limit_clock", b"cooling_devices", b"cooling_states", b'"nvml"', b"nvml_cards")
    assert not any(key in canonical(scenario) for key in keys)
    assert canonical(scenario).count(b"safe_kilohertz") == 1
    gpu = replace(machine.gpu, limit_clock=True, nvml_cards=("GPU-1",))
    fan = replace(machine.fans[0], cooling_devices=("Fan",), nvml=True)
    named = replace(scenario, machine=replace(machine, gpu=gpu, fans=(fan, *machine.fans[1:])))
    assert all(canonical(named).count(key) == 1 for key in keys)
    assert canonical(named).count(b"safe_kilohertz") == 2


def test_an_edge_without_natural_conductance_has_the_bytes_it_always_had() -> None:
    scenario = Scenario()
    assert b"natural_exponent" not in canonical(scenario)
    machine = scenario.machine
    edges = (replace(machine.edges[0], natural_exponent=0.25), *machine.edges[1:])
    moved = replace(scenario, machine=replace(machine, edges=edges))
    assert canonical(moved).count(b"natural_exponent") == 1
