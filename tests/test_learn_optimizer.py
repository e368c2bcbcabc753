"""The optimizer in a run: the same bits everywhere, credit for what was executed, and nothing that it can spoil."""

from __future__ import annotations

import csv
import functools
import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from running import Kept, digests, here, quick, run, shipped_scenario, twin_json
from test_learn_recordings import TRACES, all_series

from twin.cli.backends import simulated
from twin.control.rules import RulesPid
from twin.kernels import MODE, Stream
from twin.learn import forecast, replay
from twin.learn.actions import Proposals
from twin.learn.brain import Brain, Thought
from twin.learn.features import FEATURES
from twin.learn.forecast import Predictor
from twin.learn.network import SIZES, inputs_at
from twin.learn.optimizer import Optimizer, _checked
from twin.learn.quantised import Quantised
from twin.scenario import ACTIONS, Learn, Scenario

BEAT = ("--set", "heartbeat.t0_ns=100000000")
FULL = ("--neural", "--set", "learn.authority_percent=100", *BEAT)
TRAINED_ON = ("burst", "gaming", "hot_ambient")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trained") / "weights"
    here("train", *TRAINED_ON, "--seeds", 1, "--out", path)
    return path


def learning(name: str, cycles: int, **changes: Any) -> Scenario:
    """A scenario whose learner has full authority at once and is never compared."""
    learn = Learn(**{"enabled": True, "authority_percent": 100, "compare_every_blocks": 0, **changes})
    scenario = shipped_scenario(name)
    return replace(quick(scenario, learn=learn), duration_ms=cycles * scenario.control.period_ms)


@functools.cache
def limits() -> Any:
    return simulated(quick(shipped_scenario("sensor_faults")), None).hardware.limits


# --- the same bits ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sensor_faults", "burst"])
def test_learning_is_the_same_simulated_in_lockstep_and_replayed(name: str, tmp_path: Path) -> None:
    few = ("--duration", "15", *FULL)
    result = here("run", name, *few, "--out", tmp_path / "simulated")
    lockstep = here("run", name, *few, "--backend", "lockstep", "--out", tmp_path / "lockstep")
    assert digests(lockstep) == digests(result)
    for place in ("simulated", "lockstep"):
        replayed = here("replay", tmp_path / place)
        assert replayed["equal"] is True
        assert digests(replayed) == digests(result)
    # Something was learned and done, or the equality would be that of the baseline.
    rows = table(tmp_path / "simulated")
    assert len({row["weights"] for row in rows}) > 50
    assert {row["executed"] for row in rows} > {"noop", "throttle"}


@pytest.mark.skipif(MODE != "numba", reason="kernels are interpreted in this test run anyway")
def test_learning_is_the_same_compiled_and_interpreted(tmp_path: Path) -> None:
    few = ("sensor_faults", "--duration", "1.5", *FULL)
    compiled = here("run", *few, "--out", tmp_path / "numba")
    interpreted = twin_json("run", *few, "--out", tmp_path / "python", env={"TWIN_KERNELS": "python"})
    assert digests(interpreted) == digests(compiled)


def test_a_run_from_a_checkpoint_is_its_content_and_needs_the_file_no_more(trained: Path, tmp_path: Path) -> None:
    other = tmp_path / "other weights"
    here("train", "idle", "--seeds", 1, "--set", "duration_ms=5000", "--out", other)
    copy = tmp_path / "copy"
    copy.write_bytes(trained.read_bytes())
    few = ("run", "sensor_faults", "--duration", "5", *FULL)
    results = [
        here(*few, "--set", f"learn.checkpoint={path}", "--out", tmp_path / f"run{number}")
        for number, path in enumerate((trained, copy, other))
    ]
    assert digests(results[0]) == digests(results[1])
    assert results[2]["run_digest"] != results[0]["run_digest"]
    assert table(tmp_path / "run0")[0]["weights"] != table(tmp_path / "run2")[0]["weights"]
    copy.unlink()
    replayed = here("replay", tmp_path / "run1")
    assert replayed["equal"] is True
    assert (tmp_path / "run1" / "weights.checkpoint").read_bytes() == trained.read_bytes()
    # The run directory's weights are part of what is replayed: with others it is another run.
    (tmp_path / "run1" / "weights.checkpoint").write_bytes(other.read_bytes())
    assert here("replay", tmp_path / "run1")["equal"] is False


# --- what is told -----------------------------------------------------------------------------------------------------


def table(place: Path) -> list[dict[str, str]]:
    out = place.with_name(f"{place.name}-csv")
    here("export", place, "--format", "csv", "--out", out)
    with (out / "control.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_table_tells_the_cycles_story(trained: Path, tmp_path: Path) -> None:
    few = ("run", "sensor_faults", "--duration", "15", *FULL, "--set", f"learn.checkpoint={trained}")
    here(*few, "--out", tmp_path / "on")
    here(*few, "--set", "learn.learning=false", "--out", tmp_path / "off")
    rows, frozen = table(tmp_path / "on"), table(tmp_path / "off")
    for row in rows:
        assert row["proposed"] in ACTIONS
        assert row["executed"] in ACTIONS
        assert row["authority_percent"] in {"0", "10", "50", "100"}
        assert -1_000_000 <= int(row["reward_micro"] or 0) <= 1_000_000
        assert int(row["anomaly_micro"]) >= 0
        assert len(row["weights"]) == 64
        assert (row["source"] == "neural") == (not row["learner_note"] and row["proposed"] != "noop"), row
    assert [row["reward_micro"] == "" for row in rows] == [True] + [False] * (len(rows) - 1)
    assert sum(row["cpu_forecast_millicelsius"] != "" for row in rows) > len(rows) // 2
    assert len({row["learner_note"] for row in rows}) > 1
    # The policy takes a step every fourth cycle; while readings are missing nothing else learns either.
    assert len({row["weights"] for row in rows}) > len(rows) // 4
    assert len({row["weights"] for row in frozen}) == 1
    # The digest is of the weights as a cycle leaves them: the first one has learned already.
    assert frozen[0]["weights"] != rows[0]["weights"] != rows[-1]["weights"]


# --- shadow and credit ------------------------------------------------------------------------------------------------


def commands(kept: Kept) -> list[tuple[Any, ...]]:
    return [(c.decision.action, c.decision.source, c.decision.reason, c.decision.command, c.verdict, c.applied.values)
            for c in kept.cycles]  # fmt: skip


@functools.cache
def baseline(name: str, cycles: int) -> list[tuple[Any, ...]]:
    scenario = replace(learning(name, cycles), learn=Learn())
    return commands(run(scenario))


@pytest.mark.parametrize("name", ["sensor_faults", "hot_ambient"])
def test_in_shadow_the_baseline_decides_bit_for_bit(name: str) -> None:
    scenario = learning(name, 300, authority_percent=0, authority_most_percent=0)
    kept = run(scenario)
    assert commands(kept) == baseline(name, 300)
    told = [cycle.learned for cycle in kept.cycles]
    assert all(one is not None and one.executed == "noop" and one.authority_percent == 0 for one in told)
    assert len({one.proposed for one in told if one}) > 1


def test_what_is_credited_is_what_was_executed() -> None:
    """The shield changes commands here, the look ahead refuses some, the baseline has turns, and sensors fail."""
    scenario = learning("sensor_faults", 600, compare_every_blocks=4, epsilon_start=0.5, epsilon_end=0.5)
    optimizer = Optimizer(scenario, limits(), RulesPid(scenario, limits()))
    kept = run(scenario, optimizer)
    expected, why = [], set()
    for cycle in kept.cycles:
        told = cycle.learned
        assert told is not None
        held_back = bool(cycle.verdict.changed or cycle.verdict.failsafe)
        if cycle.decision.source != "neural":
            expected.append("noop")
            why.add(told.note)
        else:
            # With proposals that are bounded and looked ahead of, the shield has nothing to change.
            assert not held_back
            expected.append(told.proposed)
        assert told.executed == expected[-1], (cycle.number, told)
    assert {"the baseline's turn, to compare", "the shield cools fully"} <= why
    rows = optimizer.brain._policy.rows[: len(kept.cycles) - 1]
    assert [ACTIONS[int(row[2 * len(FEATURES)])] for row in rows] == expected[:-1]
    rewards = [cycle.learned.reward_micro for cycle in kept.cycles[1:] if cycle.learned]
    assert [round(float(row[2 * len(FEATURES) + 1]) * 1e6) for row in rows] == rewards


def test_what_the_shield_changed_is_credited_as_the_nearest_action() -> None:
    scenario = learning("gaming", 1)
    optimizer = Optimizer(scenario, limits(), RulesPid(scenario, limits()))
    view = run(scenario).cycles[0].view
    boost = ACTIONS.index("boost")
    optimizer.brain.think = lambda *_: Thought(boost, "", "", 0)  # type: ignore[method-assign]
    decision = optimizer.decide(view)
    assert (decision.action, decision.source) == ("boost", "neural")
    base = RulesPid(scenario, limits()).decide(view).command
    cautious = Proposals(scenario, limits()).command("conservative", base, 100)
    assert optimizer.executed(decision.command, False).executed == "boost"
    optimizer.decide(view)
    assert optimizer.executed(cautious, True).executed == "conservative"
    optimizer.decide(view)
    assert optimizer.executed(base, True).executed == "noop"


def test_a_baseline_that_raises_is_credited_with_nothing() -> None:
    scenario = learning("gaming", 40)

    class Failing(RulesPid):
        def decide(self, view: Any) -> Any:
            if view.cycle == 20:
                raise ZeroDivisionError
            return super().decide(view)

    optimizer = Optimizer(scenario, limits(), Failing(scenario, limits()))
    kept = run(scenario, optimizer)
    failed = kept.cycles[20]
    assert failed.decision.source == "failsafe"
    assert failed.learned is not None
    assert (failed.learned.proposed, failed.learned.executed) == ("noop", "noop")
    # The choices of cycle 19 and 20 have no outcome that is theirs.
    assert optimizer.brain._policy.counters[replay.STORED] == len(kept.cycles) - 1 - 2


# --- what goes wrong --------------------------------------------------------------------------------------------------


class Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())


@pytest.fixture
def lines() -> Iterator[Lines]:
    handler = Lines()
    logger = logging.getLogger("twin")
    before, logger.handlers[:] = logger.handlers[:], [handler]
    yield handler
    logger.handlers[:] = before


class Trouble(BaseException):
    """Nobody expects it."""


def fail(*_: object) -> Any:
    raise Trouble


WHERE: dict[str, Callable[[Optimizer], tuple[object, str]]] = {
    "think": lambda o: (o.brain, "think"),
    "propose": lambda o: (o._proposals, "command"),
    "look ahead": lambda o: (o._foresight, "keeps_limits"),
    "reward": lambda o: (o, "_reward"),
    "commanded": lambda o: (o.brain, "commanded"),
    "digest": lambda o: (o.brain, "digest"),
}


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("since", [0, 40])
def test_whatever_raises_the_baselines_command_stands(lines: Lines, where: str, since: int) -> None:
    scenario = learning("hot_ambient", 120, evidence_cycles=10_000, epsilon_start=1.0, epsilon_end=1.0)
    optimizer = Optimizer(scenario, limits(), RulesPid(scenario, limits()))
    place, name = WHERE[where](optimizer)
    inner = optimizer.baseline.decide

    def decide(view: Any) -> Any:
        if view.cycle == since:
            setattr(place, name, fail)
        return inner(view)

    optimizer.baseline.decide = decide  # type: ignore[method-assign]
    kept = run(scenario, optimizer)
    assert len(kept.cycles) == 120
    assert len(lines.said) == 1
    assert "the learner raised Trouble; the baseline decides" in lines.said[0]
    # Exploring at random, it acts within a few cycles, and then the proposal or the look ahead is asked.
    later = [cycle for cycle in kept.cycles if cycle.number > since + 20]
    assert {cycle.decision.source for cycle in later} <= {"rules", "pid"}
    assert {cycle.learned.authority_percent for cycle in later if cycle.learned} == {0}
    assert all(cycle.learned is not None for cycle in kept.cycles)
    if since == 0 and where in ("think", "propose", "look ahead"):
        assert commands(kept) == baseline("hot_ambient", 120)
    if since == 40:
        assert "neural" in {cycle.decision.source for cycle in kept.cycles[:40]}


THOUGHTS: list[Any] = [
    None, 3, "noop", (), math.nan, np.zeros(5), object(),
    Thought(99, "", "", 0), Thought(-1, "", "", 0), Thought(len(ACTIONS), "", "", 0), Thought(10**400, "", "", 0),
    Thought("boost", "", "", 0),  # type: ignore[arg-type]
    Thought(None, "", "", 0),  # type: ignore[arg-type]
    Thought(True, "", "", 0), Thought(math.nan, "", "", 0),  # type: ignore[arg-type]
    Thought(np.int64(2), "", "", 0),  # type: ignore[arg-type]
    Thought(1, None, "", 0), Thought(1, "", 7, 0), Thought(1, b"x", "", 0),  # type: ignore[arg-type]
    Thought(1, "\ud800", "", 0), Thought(1, "", "\ud800", 0),
    Thought(1, "", "", -1), Thought(1, "", "", 10**30), Thought(1, "", "", math.nan),  # type: ignore[arg-type]
    Thought(1, "", "", None),  # type: ignore[arg-type]
]  # fmt: skip


@pytest.mark.parametrize("thought", THOUGHTS, ids=range(len(THOUGHTS)))
def test_absurd_thoughts_cannot_hurt(lines: Lines, thought: Any) -> None:
    scenario = learning("hot_ambient", 20, evidence_cycles=3)
    optimizer = Optimizer(scenario, limits(), RulesPid(scenario, limits()))
    optimizer.brain.think = lambda *_: thought  # type: ignore[method-assign]
    kept = run(scenario, optimizer)
    assert commands(kept) == baseline("hot_ambient", 20)
    assert [cycle.learned.authority_percent for cycle in kept.cycles if cycle.learned] == [100] + [0] * 19
    assert all(cycle.learned.note == "the learner raised ValueError" for cycle in kept.cycles if cycle.learned)
    assert len(lines.said) == 1


@given(
    st.one_of(st.none(), st.integers(-3, 7), st.floats(), st.text(max_size=3), st.booleans()),
    st.one_of(st.none(), st.text(max_size=5), st.binary(max_size=2)),
    st.one_of(st.none(), st.integers(), st.floats(), st.integers(0, 10**12)),
)
def test_a_thought_is_one_or_refused(action: Any, words: Any, anomaly: Any) -> None:
    thought = Thought(action, words, "", anomaly)
    right = (
        type(action) is int and 0 <= action < 5 and type(words) is str and words.isascii()
        and type(anomaly) is int and 0 <= anomaly <= 10**12
    )  # fmt: skip
    try:
        assert _checked(thought) is thought
        assert right
    except ValueError:
        assert not right


@pytest.mark.parametrize("told", [(), (1, 2), (1, None, math.nan), (1, 2, 10**30), None, [1, 2, 3], ("1", 2, 3)])
def test_an_absurd_forecast_cannot_hurt_the_record(lines: Lines, tmp_path: Path, told: Any, monkeypatch) -> None:
    monkeypatch.setattr(Brain, "forecast_millicelsius", property(lambda _: told))
    result = here("run", "idle", "--duration", "1", *FULL, "--out", tmp_path / "run")
    assert result["fingerprint"]["cycles"] == 10
    rows = table(tmp_path / "run")
    assert {row["cpu_forecast_millicelsius"] for row in rows} == {""}
    assert {row["authority_percent"] for row in rows[1:]} == {"0"}


@settings(max_examples=10)
@given(st.integers(0, 2**31), st.sampled_from([math.nan, math.inf, -1e300]))
def test_weights_that_are_no_numbers_never_command(seed: int, value: float) -> None:
    scenario = learning("hot_ambient", 30, evidence_cycles=10_000, authority_percent=100)
    optimizer = Optimizer(scenario, limits(), RulesPid(scenario, limits()))
    # All of it, the last good copy as well, so that there is nothing to go back to.
    optimizer.brain._policy.online[:] = value
    optimizer.brain._policy.target[seed % len(optimizer.brain._policy.target)] = value
    kept = run(scenario, optimizer)
    assert commands(kept) == baseline("hot_ambient", 30)
    assert {cycle.learned.authority_percent for cycle in kept.cycles[1:] if cycle.learned} == {0}


# --- eight bits -------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not TRACES.is_dir(), reason="the recordings are not beside the repository, in ../shared/data")
@pytest.mark.skipif(MODE != "numba", reason="kernels are not compiled here, and interpreted they take too long")
@pytest.mark.parametrize("loads", [0, 1], ids=["temperatures 10-16-8-5", "loads 25-16-8-5"])
def test_a_forecast_in_eight_bits_is_within_a_tenth_of_a_degree(loads: int) -> None:
    """Trained online on the first 60 % of a recording, calibrated with it, and judged on the rest."""
    worst: dict[str, float] = {}
    for series in all_series():
        predictor = Predictor(1, loads, Stream(1, "learn.forecast"))
        shape, net, memory = predictor._shape, predictor._nets[0], predictor._memory[0]
        first, width = int(inputs_at(shape)), int(shape[SIZES])
        split = len(series.temperatures) * 6 // 10
        inputs = []
        for number, (temperature, load) in enumerate(zip(series.temperatures, series.loads, strict=True)):
            predictor.freeze(number >= split)
            predictor.see(np.array([temperature]), np.full(loads, load))
            predictor.conditional(np.full((max(loads, 1), 5), load))
            inputs.append(net[first : first + width].copy())
        # What the network corrects is this times its output, and without loads the gate lets a part of it through.
        scale = max(float(np.sqrt(memory[forecast.ERROR])), forecast.SMALLEST)
        small = Quantised.of(shape, net, np.array(inputs[:split]))
        passed = max(forecast.blind_gate(memory, h) for h in range(forecast.AHEAD)) if loads == 0 else 1.0
        report = small.report(np.array(inputs[split:]))
        worst[series.group] = max(worst.get(series.group, 0.0), report.error_max * scale * passed)
        assert report.error_mean * scale * passed < 0.03, series.name
    for group, kelvin in worst.items():
        print(f"{group}: eight bits move a forecast by up to {kelvin:.4f} K")
    assert max(worst.values()) < 0.1


# --- what is told to people -------------------------------------------------------------------------------------------


class Asked(Optimizer):
    """Tells what it thinks after each cycle, and keeps it."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.thoughts: list[dict[str, dict[str, float | None]]] = []

    def executed(self, values: Any, held_back: bool) -> Any:
        told = super().executed(values, held_back)
        self.thoughts.append(self.insight())
        return told


@pytest.mark.parametrize("settings", [{}, {"quantised": True, "learning": False}])
def test_asking_what_it_thinks_changes_nothing(settings: dict[str, Any]) -> None:
    scenario = learning("sensor_faults", 200, **settings)
    asked, left_alone = (kind(scenario, limits(), RulesPid(scenario, limits())) for kind in (Asked, Optimizer))
    assert commands(run(scenario, asked)) == commands(run(scenario, left_alone))
    assert asked.brain.digest() == left_alone.brain.digest()
    ours, theirs = asked.brain.arrays(), left_alone.brain.arrays()
    assert all(np.array_equal(array, theirs[name]) for name, array in ours.items())
    assert len(asked.thoughts) == 200


def test_what_it_thinks_is_what_it_goes_by() -> None:
    scenario = learning("gaming", 120, epsilon_start=0.0, epsilon_end=0.0)
    optimizer = Asked(scenario, limits(), RulesPid(scenario, limits()))
    kept = run(scenario, optimizer)
    for cycle, thought in zip(kept.cycles, optimizer.thoughts, strict=True):
        values = thought["q_values"]
        assert list(values) == list(ACTIONS)
        assert cycle.learned is not None
        # In the cycle in which a step of learning comes first, the choice is made with what was learned.
        assert values[cycle.learned.proposed] == max(value for value in values.values() if value is not None)
        assert set(thought["losses"]) == {"policy", "eye", "forecast"}
    first, last = optimizer.thoughts[0]["losses"], optimizer.thoughts[-1]["losses"]
    assert first["policy"] is None
    assert last["policy"] is not None
    assert last["policy"] >= 0.0
    assert all(value is not None and value >= 0.0 for value in (last["eye"], last["forecast"]))
