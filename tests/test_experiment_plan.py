"""Plans: what they say, in which order their runs are done, and everything that can be wrong with them at once."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from light_jobs import light_plan, perform, straight

from twin.experiment.conduct import jobs_of
from twin.experiment.jobs import Job, Outcome, code_version, job_key, numbered
from twin.experiment.plan import KICK_KINDS, Plan, PlanError, load_plan, parse_plan, settings_of, shipped_plans
from twin.fingerprint.configuration import KINDS
from twin.loader import file_digest, shipped

SMALL = 'scenario = "study"\nconfigurations = ["1_0_1_1_1_0", "0_0_0_0_0_0"]\n'


def problems(text: str, *overrides: str, source: Path = Path("plan.toml")) -> list[str]:
    with pytest.raises(PlanError) as caught:
        parse_plan(text, source, overrides)
    return list(caught.value.problems)


# --- what is right ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "count", "runs", "ticks", "kicked"),
    [("demo", 8, 160, 30_000, 16), ("phase2", 5, 750, 100_000, 10), ("screening", 64, 3_200, 20_000, 64)],
)
def test_shipped_plans(name: str, count: int, runs: int, ticks: int, kicked: int) -> None:
    plan = load_plan(name)
    assert plan.name == name
    assert (len(plan.candidates), plan.runs, plan.file.ticks, plan.kicked_jobs) == (count, runs, ticks, kicked)
    assert set(shipped_plans()) == {"demo", "phase2", "screening"}
    for candidate in plan.candidates:
        assert candidate.scenario.ticks == ticks
        assert candidate.scenario.recording.ticks == plan.file.keep
        if "_" in candidate.name and candidate.name[0] in "01":
            assert settings_of(candidate)["config"] == candidate.name
    small = load_plan(name, ["runs=3", "ticks=10000", "kicks.seeds=0", "set.heartbeat.words=64"])
    assert (small.file.runs, small.file.ticks, small.kicked_jobs) == (3, 10_000, 0)
    assert {each.scenario.heartbeat.words for each in small.candidates} == {64}


def test_settings_of_a_configuration_go_before_those_of_the_plan(tmp_path: Path) -> None:
    text = (
        'scenario = "study"\nset = { "heartbeat.words" = 64, "heartbeat.t0_ns" = 2_000_000 }\n'
        'configurations = [{ name = "a", set = { "heartbeat.words" = 32 } }, { name = "b", config = "0_0_0_0_0_1" }]\n'
    )
    plan = parse_plan(text, tmp_path / "mine.toml")
    assert plan.name == "mine"
    a, b = (each.scenario.heartbeat for each in plan.candidates)
    assert (a.words, a.t0_ns, a.config) == (32, 2_000_000, "1_0_1_1_1_0")
    assert (b.words, b.t0_ns, b.config) == (64, 2_000_000, "0_0_0_0_0_1")


def test_kinds_of_kicks_are_those_of_the_fingerprint() -> None:
    assert KICK_KINDS == KINDS


@given(runs=st.integers(1, 40), shuffle=st.integers(0, 1 << 62), count=st.integers(1, 9))
@settings(max_examples=40)
def test_the_order_is_a_permutation_and_interleaved(runs: int, shuffle: int, count: int) -> None:
    whole = _small()
    names = [replace(whole.candidates[0], name=str(number)) for number in range(count)]
    plan = replace(whole, file=replace(whole.file, runs=runs, shuffle_seed=shuffle), candidates=tuple(names))
    order = plan.order()
    assert sorted(order) == list(range(runs * count))
    assert order == plan.order()
    for row in range(runs):
        # Whenever a row is done, every configuration has had as many runs, of the same seeds.
        done = Counter(numbered(names, number)[0].name for number in order[: (row + 1) * count])
        assert set(done.values()) == {row + 1}
        assert len({numbered(names, number)[1] for number in order[row * count : (row + 1) * count]}) == 1


def _small(known: list[Plan] = []) -> Plan:  # noqa: B006
    if not known:
        known.append(parse_plan(SMALL, Path("small.toml")))
    return known[0]


def test_another_shuffle_is_another_order_and_the_same_results(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    first, second = light_plan(tmp_path), light_plan(tmp_path / "other", shuffle_seed=2)
    assert first.order() != second.order()
    assert first.canonical() == second.canonical()
    one, two = straight(first, tmp_path / "a"), straight(second, tmp_path / "b")
    assert one.experiment_digest == two.experiment_digest
    # And a directory of the one is gone on with by the other.
    assert straight(second, tmp_path / "a").done_runs == 0


def test_jobs_have_the_seeds_and_keys_of_the_plan(tmp_path: Path) -> None:
    plan = light_plan(tmp_path, runs=4, kicked=2, first_seed=100)
    code = code_version()
    jobs = list(jobs_of(plan, code, {}))
    assert len({job.key for job in jobs}) == len(jobs) == 18
    runs, kicked = jobs[:12], jobs[12:]
    assert [job.number for job in runs] == plan.order()
    assert [job.number for job in kicked] == list(range(12, 18))
    assert all(job.kicks is None for job in runs)
    for job in runs:
        candidate, behind = numbered(plan.candidates, job.number)
        assert (job.candidate, job.scenario.seed) == (candidate.name, 100 + behind)
        assert job.scenario == replace(candidate.scenario, seed=job.scenario.seed)
        assert job.key == job_key(plan, candidate, job.scenario.seed, code, None)
    assert Counter((job.candidate, job.scenario.seed) for job in kicked) == Counter(
        {(each.name, seed): 1 for each in plan.candidates for seed in (100, 101)}
    )
    # Other code, another key; what is done is left out.
    assert {job.key for job in jobs_of(plan, "other", {})}.isdisjoint(job.key for job in jobs)
    assert not list(jobs_of(plan, code, {job.number: job.key for job in jobs}))


def test_what_a_result_depends_on_and_what_not() -> None:
    base = parse_plan(SMALL, Path("small.toml"))
    same = ['description="other"', "shuffle_seed=9", "name=other"]
    others = ["runs=7", "ticks=77", "first_seed=5", "keep=none", "kicks.seeds=1", "kicks.settle_ticks=2000",
              "set.heartbeat.words=99", 'configurations=["0_0_0_0_0_0", "1_0_1_1_1_0"]']  # fmt: skip
    for item in same:
        assert parse_plan(SMALL, Path("small.toml"), [item]).canonical() == base.canonical(), item
    for item in others:
        assert parse_plan(SMALL, Path("small.toml"), [item]).canonical() != base.canonical(), item


# --- scenarios --------------------------------------------------------------------------------------------------------


def test_a_scenario_and_its_trace_beside_the_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "there"
    place.mkdir()
    shutil.copyfile(shipped()["recorded"], place / "mine.toml")
    traces = shipped()["recorded"].parent / "traces"
    shutil.copytree(traces, place / "traces")
    (place / "plan.toml").write_text(SMALL.replace("study", "mine.toml"))
    monkeypatch.chdir(tmp_path)
    plan = load_plan("there/plan.toml", ["ticks=300", "runs=1", "kicks.seeds=1", 'kicks.kinds=["window_reset"]',
                                         "kicks.settle_ticks=1000", "kicks.watch_ticks=1000"])  # fmt: skip
    candidate = plan.candidates[0]
    assert candidate.trace_file == Path("there/traces/build_load.csv")
    assert candidate.inputs == (file_digest(traces / "build_load.csv"), "")
    from twin.cli.simulate import perform as real
    from twin.cli.simulate import warm

    warm(candidate)
    jobs = list(jobs_of(plan, code_version(), {}))
    outcome = real(jobs[0])
    assert outcome.ticks == 300
    assert outcome.kept_ticks
    # The kicked run is under a steady load, without the recording.
    kicked = real(next(job for job in jobs if job.kicks is not None))
    assert kicked.ticks == 2_000
    assert [each.kind for each in kicked.kicked()[0]] == ["window_reset"] * len(kicked.kicked()[0])


def test_each_configuration_has_its_own_trace(tmp_path: Path) -> None:
    folder = shipped()["recorded"].parent
    shutil.copyfile(folder / "recorded.toml", tmp_path / "recorded.toml")
    source = (folder / "traces" / "build_load.csv").read_text().splitlines()
    (tmp_path / "a.csv").write_text("\n".join(source[:400]) + "\n")
    (tmp_path / "b.csv").write_text("\n".join([source[0], *source[401:]]) + "\n")
    text = 'scenario = "recorded.toml"\nset = { "workload.trace.file" = "a.csv" }\nruns = 1\nticks = 200\n'
    text += 'configurations = [{ name = "a" }, { name = "b", set = { "workload.trace.file" = "b.csv" } }]\n'
    plan = parse_plan(text, tmp_path / "plan.toml")
    assert [each.trace_file.name for each in plan.candidates if each.trace_file] == ["a.csv", "b.csv"]
    assert plan.candidates[0].inputs != plan.candidates[1].inputs
    assert {job.candidate: job.trace_file for job in jobs_of(plan, "", {})} == {
        each.name: each.trace_file for each in plan.candidates
    }


# --- what is wrong ----------------------------------------------------------------------------------------------------


def test_everything_that_is_wrong_is_said_at_once() -> None:
    text = """
    scenario = "study"
    runz = 3
    ticks = 0
    keep = "some"
    configurations = [
        "1_0_1_1_1_0", "1_0_1", { name = "bad", set = { "heartbeat.wordz" = 5, "control.period_ms" = 0 } },
    ]
    [kicks]
    kinds = ["heat_burst", "push"]
    """
    found = problems(text, "nothing", "first_seed=-1")
    said = "\n".join(found)
    for part in (
        "'nothing': write key=value", "runz: unknown key; did you mean runs?", "ticks = 0", "first_seed = -1",
        "keep = 'some': allowed are all, every:N", "configurations[1] (1_0_1): heartbeat.config",
        "configurations[2] (bad): heartbeat.wordz", "control.period_ms = 0", 'kicks.kinds[1] = "push"',
        "heat_burst, load_pulse, window_reset, hot_ambient",
    ):  # fmt: skip
        assert part in said, (part, said)
    assert len(found) == len(set(found)) == 9
    assert "(from the command line)" not in said


@pytest.mark.parametrize(
    ("text", "overrides", "parts"),
    [
        ("", (), ["scenario: is required", "configurations: is required"]),
        ("scenario = 5\n", (), ["scenario = 5", "configurations: is required"]),
        ('scenario = "studie"\nconfigurations = "all"\n', (), ["scenario = 'studie'", "did you mean study?"]),
        (SMALL, ("configurations=some",), ["heartbeat.config = 'some'"]),
        (SMALL, ("configurations=[]",), ["configurations = []"]),
        (SMALL, ("configurations=[5]",), ["configurations[0]"]),
        (SMALL, ('configurations=["0_0_0_0_0_0", "0_0_0_0_0_0"]',), ["0_0_0_0_0_0 named more than once"]),
        (SMALL, ("runs=0", "runs.x=1"), ["runs = 0", "runs is no table"]),
        (SMALL, ("=3",), ["write key=value"]),
        (SMALL, ("kicks.=3",), ["write key=value"]),
        (SMALL, ("kicks=3",), ["kicks = 3"]),
        (SMALL, ("kicks.sides=3",), ["kicks.sides: unknown key"]),
        (SMALL, ("kicks.strengths_sigmas=[1.0, 4.0, 2.0]",), ["must rise from entry to entry"]),
        (SMALL, ("kicks.strengths_sigmas=[0.0]",), ["kicks.strengths_sigmas[0] = 0.0"]),
        (SMALL, ("kicks.strengths_sigmas=[inf]",), ["kicks.strengths_sigmas[0]"]),
        (SMALL, ("kicks.strengths_sigmas=[nan]",), ["kicks.strengths_sigmas[0]"]),
        (SMALL, ("kicks.watch_ticks=999",), ["kicks.watch_ticks = 999"]),
        (SMALL, ("keep=every:0",), ["keep = 'every:0'"]),
        (SMALL, ("first_seed=1979-05-27",), ["first_seed = 1979-05-27: is a date"]),
        (SMALL, ("set.heartbeat.words=none",), ["heartbeat.words", "configurations[0]"]),
        (SMALL, ("set.heartbeat.words=nan",), ["heartbeat.words"]),
        (SMALL, ("set.seed=4", "set.ticks=5", "set.duration_ms=5", "set.recording.ticks=all"),
         ["set: seed is the plan's", "its key first_seed", "set: ticks", "set: duration_ms", "its key keep"]),
        (SMALL, ("runs=10000000",), ["more than 10000000 runs"]),
        (SMALL, ("set.workload.trace.file=gone.csv",), ["gone.csv"]),
        ("scenario = \n", (), ["TOML syntax"]),
    ],
)  # fmt: skip
def test_what_can_be_wrong(text: str, overrides: tuple[str, ...], parts: list[str]) -> None:
    said = "\n".join(problems(text, *overrides))
    assert all(part in said for part in parts), said
    assert "Traceback" not in said


def test_a_plan_that_is_not_there(tmp_path: Path) -> None:
    for name, part in (("demmo", "did you mean demo?"), (str(tmp_path), "cannot be read"), ("x.toml", "neither")):
        with pytest.raises(PlanError, match=part.replace("?", r"\?")):
            load_plan(name)
    (tmp_path / "latin.toml").write_bytes(b'name = "\xe9"\n')
    with pytest.raises(PlanError, match="not UTF-8"):
        load_plan(str(tmp_path / "latin.toml"))


def test_a_problem_of_all_configurations_is_said_once() -> None:
    found = problems(SMALL.replace('["1_0_1_1_1_0", "0_0_0_0_0_0"]', '"all"'), "set.heartbeat.words=0")
    assert len(found) == 1


def test_results_survive_json(tmp_path: Path) -> None:
    job = next(iter(jobs_of(light_plan(tmp_path), "", {})))
    assert isinstance(job, Job)
    outcome: Outcome = perform(job)
    assert json.loads(json.dumps(outcome.result)) == outcome.result
