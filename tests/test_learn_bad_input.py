"""What a scenario and the command line can get wrong about learning: named, with what is allowed and what was meant."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import BRIEF, command, refused, unchanged

from twin.learn.checkpoint import load, save
from twin.loader import ScenarioError, parse

ACTIONS = "allowed are noop, throttle, boost, reduce_power, conservative"
MISTAKES = [
    ("predictor = 'load'", 'learn.predictor = "load": allowed are auto, temperatures, loads; did you mean loads?'),
    ("predictor = 'lstm'", 'learn.predictor = "lstm": allowed are auto, temperatures, loads'),
    ("predictor = 10", "learn.predictor = 10: allowed are auto, temperatures, loads"),
    ("reward = 'standart'", "learn.reward = 'standart': allowed are standard and module:function; did you mean"),
    ("reward = 'mine'", "learn.reward = 'mine': allowed are standard and module:function"),
    ("reward = ':f'", "learn.reward = ':f': allowed are standard and module:function"),
    ("reward = ''", 'learn.reward = "": allowed are texts of 1 to 256 characters'),
    ("actions = ['noop', 'bost']", f'learn.actions[1] = "bost": {ACTIONS}; did you mean boost?'),
    ("actions = ['noop', 'fly']", f'learn.actions[1] = "fly": {ACTIONS}'),
    ("actions = ['noop', 3]", f"learn.actions[1] = 3: {ACTIONS}"),
    ("actions = []", "learn.actions = []: allowed are lists of 1 to 5 entries"),
    ("actions = ['boost']", "learn.actions = ['boost']: noop must be among them"),
    ("actions = ['noop', 'noop']", "learn.actions = ['noop', 'noop']: one is named more than once"),
    ("action = ['noop']", "learn.action: unknown key; did you mean actions?"),
    ("authority_percent = 20", "learn.authority_percent = 20: allowed are 0, 10, 50, 100"),
    ("authority_percent = 'all'", 'learn.authority_percent = "all": allowed are 0, 10, 50, 100'),
    ("authority_percent = true", "learn.authority_percent = true: allowed are 0, 10, 50, 100"),
    ("authority_percent = 50\nauthority_most_percent = 10", "learn.authority_percent = 50: must not exceed"),
    ("quantised = true", "learn.quantised = true: eight-bit weights do not learn; set learn.learning = false"),
    ("batch = 257", "learn.batch = 257: allowed are whole numbers from 1 to 256"),
    ("buffer = 16", "learn.batch = 32: must not exceed buffer (16)"),
    ("discount = 1.0", "learn.discount = 1.0: allowed are numbers from 0 to 0.999"),
    ("discount = nan", "learn.discount = NaN: allowed are numbers"),
    ("epsilon_start = 1.1", "learn.epsilon_start = 1.1: allowed are numbers from 0 to 1"),
    ("ranges.power_watts = [5.0, 5.0]", "learn.ranges.power_watts = [5.0, 5.0]: the first must be below the second"),
]


@pytest.mark.parametrize(("text", "said"), MISTAKES, ids=[text for text, _ in MISTAKES])
def test_a_mistake_is_named_with_what_is_allowed_and_meant(text: str, said: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        parse(f"[learn]\n{text}\n", "here.toml")
    assert len(caught.value.problems) == 1
    assert said in caught.value.problems[0]
    assert ("did you mean" in caught.value.problems[0]) == ("did you mean" in said)


def test_all_mistakes_at_once() -> None:
    with pytest.raises(ScenarioError) as caught:
        parse("[learn]\npredictor = 'x'\nactions = ['up']\nauthority_percent = 1\n", "here.toml")
    assert len(caught.value.problems) == 3


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--set", "learn.predictor=linear"], ['learn.predictor = "linear": allowed are', "(from the command line)"]),
        (["--set", "learn.reward=standrad"], ["did you mean standard?", "(from the command line)"]),
        (["--set", "learn.reward=nowhere:reward"],
         ["learn.reward = 'nowhere:reward': ModuleNotFoundError", "allowed are standard, or a function of your own"]),
        (["--set", "learn.reward=json:nothing"], ["AttributeError", "allowed are standard"]),
        (["--set", "learn.reward=json:__name__"], ["is a str; name a function(view, held_back)"]),
        (["--set", "learn.actions=['noop','trottle']"], ["learn.actions[1]", "did you mean throttle?"]),
        (["--set", "learn.checkpoint=nowhere.ck"], ["learn.checkpoint = ", "nowhere.ck", "cannot be read: No such"]),
        (["--set", "learn.checkpoint={place}"], ["learn.checkpoint = ", "Is a directory; name a file"]),
        (["--set", "learn.checkpoint={place}/text"], ["text: is not a checkpoint: it does not begin with"]),
    ],
    ids=lambda value: " ".join(value)[:60],
)  # fmt: skip
def test_a_run_that_cannot_learn_does_not_begin(place: Path, arguments: list[str], parts: list[str]) -> None:
    (place / "text").write_text("a text, and no weights")
    with unchanged(place):
        words = [word.format(place=place) for word in arguments]
        refused(2, parts, command("run", "idle", *BRIEF, "--neural", "--out", "run", *words))


# --- checkpoints ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trained") / "weights"
    said = command("train", "idle", "--seeds", "1", "--set", "duration_ms=1000", "--out", path, "-q")
    assert said.status == 0, said.err
    return path


def shrunk(path: Path, copy: Path, **changes: Any) -> None:
    found = load(path)
    save(copy, {**found.arrays, **changes}, found.facts)


def broken(path: Path, copy: Path, how: str) -> list[str]:
    """Break a copy of a checkpoint; what has to be said about it."""
    data = bytearray(path.read_bytes())
    if how == "truncated":
        copy.write_bytes(data[:-100])
        return ["is cut off or altered"]
    if how == "altered":
        data[len(data) // 2] ^= 1
        copy.write_bytes(data)
        return ["is cut off or altered"]
    if how == "of another version":
        data[8] += 1
        copy.write_bytes(data)
        return ["has version 2; this program reads version 1"]
    if how == "empty":
        copy.write_bytes(b"")
        return ["is not a checkpoint"]
    found = load(path)
    name = "policy.online"
    if how == "of another shape":
        shrunk(path, copy, **{name: found.arrays[name][:-1]})
        return ["does not fit this scenario", "online of a policy's checkpoint is"]
    if how == "of another kind":
        shrunk(path, copy, **{name: np.zeros(len(found.arrays[name]), dtype=np.int64)})
        return ["does not fit this scenario", "online of a policy's checkpoint is int64"]
    if how == "with a part of its own":
        shrunk(path, copy, **{"other.part": np.zeros(3)})
        return ["does not fit this scenario", "there is no place for other.part"]
    if how == "without a part":
        save(copy, {key: array for key, array in found.arrays.items() if key != "policy.rows"}, found.facts)
        return ["does not fit this scenario", "has no rows"]
    assert how == "with NaN"
    from hashlib import blake2b

    # `save` refuses what is no number, so the file is made by hand, with a digest that is right.
    at = data.index(found.arrays[name].tobytes())
    data[at : at + 8] = np.array([np.nan]).tobytes()
    data[-32:] = blake2b(data[:-32], digest_size=32).digest()
    copy.write_bytes(data)
    return ["policy.online has 1 values that are not finite"]


@pytest.mark.parametrize(
    "how",
    [
        "truncated", "altered", "of another version", "empty", "of another shape", "of another kind",
        "with a part of its own", "without a part", "with NaN",
    ],
)  # fmt: skip
def test_a_checkpoint_is_whole_or_refused(trained: Path, place: Path, how: str) -> None:
    parts = ["weights: ", *broken(trained, place / "weights", how)]
    with unchanged(place):
        run = ("run", "idle", *BRIEF, "--neural", "--out", "run", "--set", f"learn.checkpoint={place / 'weights'}")
        refused(2, parts, command(*run))
        refused(2, parts, command("evaluate", "weights", "gaming", "--seeds", "1", "--workers", "2"))
    said = command("evaluate", "weights", "gaming", "--seeds", "1", "--json")
    assert len(said.err.strip().split("\n")) == 1


@pytest.mark.parametrize(
    "setting", ["learn.buffer=500", "machine.sensors=[{name='cpu',node='cpu_die',limit_celsius=95.0}]"]
)
def test_a_checkpoint_of_another_machine_is_refused(trained: Path, place: Path, setting: str) -> None:
    with unchanged(place):
        refused(2, ["weights: does not fit this scenario: "],
                command("run", "idle", *BRIEF, "--neural", "--out", "run", "--set", setting,
                        "--set", f"learn.checkpoint={trained}"))  # fmt: skip
        refused(2, ["weights: does not fit this scenario: "],
                command("evaluate", trained, "gaming", "--seeds", "2", "--workers", "2", "--set", setting))  # fmt: skip


def test_what_was_refused_runs_where_it_fits(trained: Path, place: Path) -> None:
    said = command("run", "idle", *BRIEF, "--neural", "--out", "run", "--set", f"learn.checkpoint={trained}", "--json")
    assert said.status == 0, said.err
    assert json.loads(said.out)["fingerprint"]["cycles"] == 10


# --- options of training and evaluation -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["train"], ["required: SCENARIO, --out"]),
        (["train", "idle"], ["required: --out"]),
        (["train", "idle", "--out", ""], ["argument --out: the name of a file is needed"]),
        (["train", "idel", "--out", "w"], ["idel: is neither a shipped scenario nor a file, did you mean idle?"]),
        (["train", "idle", "idle", "--out", "w"], ["idle is there more than once; name each once"]),
        (["train", "idle", "--out", "w", "--seeds", "0"], ["--seeds 0: at least 1 is needed"]),
        (["train", "idle", "--out", "w", "--seeds", "-3"], ["--seeds -3: at least 1 is needed"]),
        (["train", "idle", "--out", "w", "--seeds", "many"], ["argument --seeds: 'many' is not a whole number"]),
        (["train", "idle", "--out", "w", "--first-seed", "-1"], ["--first-seed -1: allowed are 0 to 92233720368547"]),
        (["train", "idle", "--out", "w", "--first-seed", str(2**63 - 1), "--seeds", "2"], ["--first-seed 92233"]),
        (["train", "idle", "--out", "w", "--set", "learn.rate_start=2"], ["learn.rate_start = 2: allowed are"]),
        (["train", "idle", "--out", "w", "--set", "learn.checkpoint=old"], ["training begins with weights drawn"]),
        (["train", "idle", "--out", "nowhere/w"], ["nowhere/w: there is no folder nowhere; make it first"]),
        (["train", "idle", "--out", "."], [".: is a folder; name a file in it (--out)"]),
        (["train", "idle", "--out", "text"], ["text: is not a checkpoint"]),
        (["evaluate"], ["required: CHECKPOINT"]),
        (["evaluate", "nowhere"], ["nowhere: reading the checkpoint failed: No such file"]),
        (["evaluate", "text"], ["text: is not a checkpoint"]),
        (["evaluate", "{trained}", "idel"], ["did you mean idle?"]),
        (["evaluate", "{trained}", "--seeds", "0"], ["--seeds 0: at least 1 is needed"]),
        (["evaluate", "{trained}", "--workers", "0"], ["--workers 0: at least 1 is needed"]),
        (["evaluate", "{trained}", "--first-seed", "-5"], ["--first-seed -5: allowed are 0 to"]),
        (["evaluate", "{trained}", "idle", "idle"], ["idle is there more than once"]),
    ],
    ids=lambda value: " ".join(value)[:60],
)  # fmt: skip
def test_options(trained: Path, place: Path, arguments: list[str], parts: list[str]) -> None:
    (place / "text").write_text("a text, and no weights")
    with unchanged(place):
        refused(2, parts, command(*(word.format(trained=trained) for word in arguments)))
