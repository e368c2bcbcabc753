"""Machine files: what they hold, what is wrong with them all at once, and runs of scenarios on them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from calibration import BOARD, CARD, ORIGIN, write_machine
from commands import BRIEF, answer, command, refused

import twin
from twin.loader import ScenarioError, load, parse, shipped
from twin.machines import (
    MachineFile,
    Origin,
    Parameter,
    find_machine,
    load_machine,
    machine_toml,
    parse_machine,
    shipped_machines,
)

FILE = MachineFile(
    origin=replace(ORIGIN, parameters=(Parameter(name="ambient", unit="C", value=22.0, low=21.0, high=23.0),)),
    machine=BOARD,
)
TEXT = machine_toml(FILE)


def test_a_file_says_what_was_written() -> None:
    assert parse_machine(TEXT, "made.toml") == FILE


@pytest.mark.parametrize(
    ("old", "new", "parts"),
    [
        ('source = "made by the tests"', "source = 3", ["origin.source = 3: allowed are texts"]),
        ('source = "made by the tests"', "", ["origin.source: is required and missing"]),
        ('licence = "none"', 'licence = " "', ["origin.licence: is required and missing"]),
        ('kind = "board"', 'kind = "bord"',
         ['origin.kind = "bord": allowed are cpu, gpu, board, laptop; did you mean board?']),
        ('kind = "board"', 'kind = "gpu"', ["the machine has no GPU"]),
        ("low = 21.0", "low = 24.0", ["origin.parameters[0]: low (24.0) must not exceed high (23.0)"]),
        ("rmse_celsius", "rmsse_celsius", ["origin.unseen.rmsse_celsius: unknown key; did you mean rmse_celsius?"]),
        ("cores = 4", "cores = 0", ["machine.cpu.cores = 0: allowed are whole numbers from 1"]),
        ('b = "ambient"', 'b = "outside"',
         ["machine.edges[1]: 'outside' is neither a node nor ambient", "no way for its heat"]),
        ("[origin]", "[heartbeat]\n[origin]", ["heartbeat: unknown key"]),
        ('kind = "board"', 'kind = "board"\nx = nan', ["origin.x: unknown key"]),
    ],
)  # fmt: skip
def test_bad_files(old: str, new: str, parts: list[str]) -> None:
    assert old in TEXT
    with pytest.raises(ScenarioError) as caught:
        parse_machine(TEXT.replace(old, new), "made.toml")
    assert not [part for part in parts if part not in str(caught.value)], str(caught.value)


def test_every_error_at_once() -> None:
    with pytest.raises(ScenarioError) as caught:
        parse_machine("x = 1\n[machine]\nstep_ms = 0\n", "made.toml")
    assert len(caught.value.problems) == 3
    with pytest.raises(ScenarioError, match="origin: the table is missing"):
        parse_machine("", "made.toml")


def test_names_and_files(tmp_path: Path) -> None:
    path = write_machine(tmp_path / "board.toml", BOARD)
    assert find_machine(str(path)) == path
    assert load_machine(str(path)).file.machine == BOARD
    for name, part in (("nowhere", "neither a shipped machine nor a file"), (str(tmp_path), "is a folder")):
        with pytest.raises(ScenarioError, match=part):
            find_machine(name)


def test_a_scenario_runs_on_another_machine(tmp_path: Path) -> None:
    path = write_machine(tmp_path / "board.toml", BOARD)
    first = answer("run", "gaming", *BRIEF, "--machine", path, "--out", tmp_path / "one")
    own = answer("run", "gaming", *BRIEF, "--out", tmp_path / "own")
    assert first["run_digest"] != own["run_digest"]
    kept = parse((tmp_path / "one" / "scenario.toml").read_text(), "kept")
    assert kept.machine == BOARD
    # The run directory needs no machine file: its scenario has the machine.
    assert answer("replay", tmp_path / "one")["run_digest"] == first["run_digest"]
    # The machine is what is in the file, not how it is called; and a key can still be set.
    again = answer(
        "run", "gaming", *BRIEF, "--machine", write_machine(tmp_path / "b.toml", BOARD), "--out", tmp_path / "two"
    )
    assert again["run_digest"] == first["run_digest"]
    warm = answer(
        "run", "gaming", *BRIEF, "--machine", path, "--set", "machine.ambient_celsius=40.0", "--out", tmp_path / "3"
    )
    assert warm["run_digest"] != first["run_digest"]


def test_the_room_of_a_scenario_stays() -> None:
    table = load_machine(str(shipped_machines().get("x", "")) or "x").table if "x" in shipped_machines() else None
    assert table is None
    machine = {"name": "m", "ambient_celsius": 10.0}
    hot = load("hot_ambient", (), machine).machine
    assert hot.name == "m"
    assert hot.ambient_steps == load("hot_ambient").machine.ambient_steps
    assert load("esports", (), machine).machine.ambient_celsius == 32.0
    assert load("idle", (), machine).machine.ambient_celsius == 10.0


def test_every_shipped_scenario_runs_on_a_machine_with_the_same_parts_or_says_why_not(tmp_path: Path) -> None:
    board = write_machine(tmp_path / "board.toml", BOARD)
    card = write_machine(tmp_path / "card.toml", CARD)
    for place, name in enumerate(shipped()):
        for machine in (board, card):
            said = command(
                "run", name, *BRIEF, "--machine", machine, "--out", tmp_path / f"{place}-{machine.stem}", "--json"
            )
            if name in ("fan_failure", "sensor_faults"):
                refused(2, [f"on the machine {machine}", "no such channel"], said)
            else:
                assert said.status == 0, said.err


def test_bad_machines_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.toml").write_text(TEXT.replace("cores = 4", "cores = 0"))
    refused(2, ["bad.toml: machine.cpu.cores = 0"], command("run", "idle", *BRIEF, "--machine", "bad.toml"))
    refused(2, ["neither a shipped machine"], command("run", "idle", *BRIEF, "--machine", "nowhere"))
    assert not (tmp_path / "runs").exists()


def test_shipped_machines_are_whole_and_run(tmp_path: Path) -> None:
    listed = answer("scenarios")
    assert [each["name"] for each in listed["machines"]] == list(shipped_machines())
    for name in shipped_machines():
        file = load_machine(name).file
        assert file.origin.command.startswith("twin calibrate ")
        assert file.origin.unseen is not None
        answer("run", "gaming", *BRIEF, "--machine", name, "--out", tmp_path / name)


def test_a_hand_made_origin_is_enough() -> None:
    text = '[origin]\nsource = "a data sheet"\nlicence = "CC0"\n[machine]\nname = "mine"\n'
    file = parse_machine(text, "mine.toml")
    assert file.origin == Origin(source="a data sheet", licence="CC0")
    assert file.machine.name == "mine"
    assert json.dumps(load("idle", (), {"name": "mine"}).machine.name) == '"mine"'


def test_a_machine_from_python(tmp_path: Path) -> None:
    path = write_machine(tmp_path / "board.toml", BOARD)
    run = twin.run("gaming", duration=1, settings={"heartbeat.t0_ns": 100_000_000}, machine=path)
    command_line = answer("run", "gaming", *BRIEF, "--machine", path, "--out", tmp_path / "run")
    assert run.run_digest == command_line["run_digest"]
