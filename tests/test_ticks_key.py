"""A run that ends with a tick: everywhere with the same one, and no other run changed by it."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from running import digests, here, shipped_scenario

from twin.cli.backends import simulated
from twin.cli.run import run_digests
from twin.control.choose import make_controller
from twin.heart import ticks
from twin.loader import ScenarioError, canonical, load
from twin.loop import Loop
from twin.record.memory import MemoryRecorder
from twin.record.recorder import Recorded
from twin.scenario import Scenario


def recorded(scenario: Scenario, batch: bool = True) -> Recorded:
    backend = simulated(scenario, None, batch)
    recorder = MemoryRecorder(scenario, backend.hardware.sensors, backend.hardware.limits)
    Loop(backend.env, backend.hardware, scenario, make_controller(scenario, backend.hardware.limits), recorder).run()
    return recorder.close()


def ended_with(scenario: Scenario, wanted: int) -> Recorded:
    found = recorded(scenario)
    assert found.captured is not None
    assert found.ticks.rows == wanted
    assert found.captured[ticks.C_TICK].tolist() == list(range(wanted))
    return found


@pytest.mark.parametrize("most", [1, 2, 99, 100, 101, 2_500])
@pytest.mark.parametrize("law", ["adaptive", "reference"])
def test_a_run_ends_with_the_tick_that_is_named(most: int, law: str) -> None:
    study = shipped_scenario("study")
    scenario = replace(study, heartbeat=replace(study.heartbeat, law=law), ticks=most)  # type: ignore[arg-type]
    found = ended_with(scenario, most)
    # It is the beginning of the run without an end of its own, with all control cycles up to the last tick.
    longer = recorded(replace(scenario, ticks=None, duration_ms=10_000))
    assert found.captured is not None
    assert longer.captured is not None
    assert np.array_equal(found.captured, longer.captured[:, :most])
    last_ns = int(found.captured[ticks.C_ELAPSED, -1] - found.captured[ticks.C_LATENESS, -1])
    period_ns = scenario.control.period_ms * 1_000_000
    assert found.control.rows in (last_ns // period_ns + 1, -(-last_ns // period_ns))


def test_more_ticks_than_there_is_time_for() -> None:
    brief = replace(shipped_scenario("study"), duration_ms=500)
    without = recorded(brief)
    assert recorded(replace(brief, ticks=1_000_000)).captured is not None
    found = ended_with(replace(brief, ticks=1_000_000), without.ticks.rows)
    assert found.ticks.digest == without.ticks.digest
    assert found.control.digest == without.control.digest


def test_more_ticks_than_the_heart_holds_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    # 100,000 rows wait at most; with fewer, and control cycles so long that they fill, the same comes out.
    study = shipped_scenario("study")
    slow = replace(study, control=replace(study.control, period_ms=1_000), ticks=1_700)
    expected = recorded(slow)
    for rows in (1, 100, 850, 1_700, 1_701):
        monkeypatch.setattr("twin.heart.heartbeat.ROWS", rows)
        assert ended_with(slow, 1_700).ticks.digest == expected.ticks.digest


@given(
    most=st.integers(1, 700),
    seed=st.integers(0, 2**63 - 1),
    t0_ns=st.sampled_from([250_000, 1_000_000, 10_000_000, 100_000_000]),
    adapt=st.booleans(),
    late=st.booleans(),
)
@settings(max_examples=25)
def test_batches_and_single_ticks_end_alike(most: int, seed: int, t0_ns: int, adapt: bool, late: bool) -> None:
    # Without lateness and adaptation, ticks and control cycles fall on the same nanosecond.
    study = shipped_scenario("study")
    heart = replace(study.heartbeat, t0_ns=t0_ns, adapt_interval=adapt, words=64)
    if not late:
        heart = replace(heart, lateness_quantiles_ns=(0,) * 11)
    if t0_ns >= 10_000_000:
        most = most % 60 + 1
    scenario = replace(study, seed=seed, heartbeat=heart, ticks=most)
    together, single = ended_with(scenario, most), recorded(scenario, batch=False)
    assert np.array_equal(together.captured, single.captured)
    assert run_digests(scenario, ("", ""), together) == run_digests(scenario, ("", ""), single)


@pytest.mark.parametrize("most", [1, 750])
def test_run_lockstep_and_replay_end_alike(most: int, tmp_path: Path) -> None:
    key = ("--set", f"ticks={most}")
    result = here("run", "study", *key, "--out", tmp_path / "simulated")
    assert result["ticks"] == most
    lockstep = here("run", "study", *key, "--backend", "lockstep", "--out", tmp_path / "lockstep")
    assert digests(lockstep) == digests(result)
    replayed = here("replay", tmp_path / "lockstep")
    assert replayed["equal"] is True
    assert digests(replayed) == digests(result)
    assert digests(here("replay", tmp_path / "simulated")) == digests(result)


def test_the_key_counts_only_where_it_is_set() -> None:
    idle = shipped_scenario("idle")
    assert "ticks" not in json.loads(canonical(idle))
    assert json.loads(canonical(replace(idle, ticks=7)))["ticks"] == 7
    # All shipped scenarios are without it, so that their goldens are those of before.
    data = asdict(idle)
    del data["ticks"], data["recording"], data["description"], data["pool"]
    for edge in data["machine"]["edges"]:
        del edge["natural_exponent"]
    for fan in data["machine"]["fans"]:
        del fan["cooling_devices"], fan["cooling_states"], fan["nvml"]
    for key in ("limit_clock", "safe_kilohertz", "nvml_cards"):
        del data["machine"]["gpu"][key]
    assert canonical(idle) == json.dumps(data, sort_keys=True, separators=(",", ":")).encode()


@pytest.mark.parametrize("value", ["0", "-1", "1.5", '"many"', "1000000001"])
def test_a_number_of_ticks_that_cannot_be(value: str) -> None:
    with pytest.raises(ScenarioError, match=r"ticks = .*allowed are whole numbers from 1 to 1000000000"):
        load("study", [f"ticks={value}"])
