"""The directory of an experiment: whatever happens to it, results are there wholly or not at all, and never mixed."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from light_jobs import light_plan, perform, quiet, straight

from twin.experiment import conduct as conducting
from twin.experiment import store as storing
from twin.experiment import tables
from twin.experiment.conduct import CHOICE, conduct, jobs_of
from twin.experiment.engines import HereEngine
from twin.experiment.jobs import Job, Outcome
from twin.experiment.plan import Plan
from twin.experiment.store import MANIFEST, PLAN, ExperimentError, Store
from twin.fingerprint.run import FIELDS
from twin.heart import ticks
from twin.record.files import RecordError
from twin.record.memory import kept_ticks

FACTS = {"plan": "p", "code": "c"}
TESTS = Path(__file__).parent


class StopError(Exception):
    """A process that ends here."""


@pytest.fixture(scope="module")
def blob() -> bytes:
    return kept_ticks(np.zeros((ticks.COLUMNS, 50), dtype=np.int64), 7, "1_0_1_1_1_0", "every:5")


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("straight")
    return straight(light_plan(folder), folder / "out").experiment_digest


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conducting, "SHARD_RUNS", 25)


def outcomes(folder: Path, **changes: Any) -> list[Outcome]:
    return [replace(perform(job), **changes) for job in jobs_of(light_plan(folder, runs=4), "c", {})]


# --- whose directory it is --------------------------------------------------------------------------------------------


def test_what_a_directory_has_in_it(tmp_path: Path, expected: str) -> None:
    plan = light_plan(tmp_path)
    summary = straight(plan, tmp_path / "out")
    assert (summary.runs, summary.done_runs, summary.ticks) == (60, 63, 60 * 20_000)
    assert summary.experiment_digest == expected
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {MANIFEST, PLAN, CHOICE, "lock", *(f"runs-0000{n}.parquet" for n in range(3))}
    assert (tmp_path / "out" / PLAN).read_text() == plan.to_toml()
    rows = [row for path in tables.shards(tmp_path / "out", "runs") for row in pq.read_table(path).to_pylist()]
    assert sorted(row["run_id"] for row in rows) == list(range(60))
    with Store(tmp_path / "out") as store:
        assert sorted(store.done()) == list(range(63))
        by_number = {each.number: each for each in store.outcomes(0, 60)}
    for row in rows:
        outcome = by_number[row["run_id"]]
        assert row["configuration"] == outcome.candidate
        assert row["overall_stability_score"] == outcome.result["overall_stability_score"]
        assert row["run_digest"] == outcome.run_digest
        assert set(FIELDS) < set(row)


def test_results_of_other_things_are_not_mixed(tmp_path: Path) -> None:
    place = tmp_path / "out"
    Store(place, FACTS).close()
    for facts, part in (
        ({**FACTS, "plan": "q"}, "results of another plan"),
        ({**FACTS, "code": "d"}, "results that other code computed"),
        ({"plan": "q", "code": "d"}, "another plan and has results that other code"),
    ):
        with pytest.raises(ExperimentError, match=part):
            Store(place, facts)
    # A refusal lets go of the directory.
    Store(place, FACTS).close()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storing, "SCHEMA", "experiment/2")
        with pytest.raises(ExperimentError, match="wrote another format"):
            Store(place, FACTS)


def test_a_directory_that_is_something_else(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ExperimentError, match="has other things in it"):
        Store(tmp_path, FACTS)
    with pytest.raises(ExperimentError, match="no experiment was done there"):
        Store(tmp_path)
    with pytest.raises(RecordError, match="is a file"):
        Store(tmp_path / "notes.txt", FACTS)
    assert {path.name for path in tmp_path.iterdir()} == {"notes.txt"}


def test_two_processes_at_once(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from twin.experiment.store import Store\n"
    code += "Store(Path(sys.argv[1]), {'plan': 'p', 'code': 'c'}); print('has it', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code, str(tmp_path / "out")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "has it\n"
        with pytest.raises(ExperimentError, match="another process is doing this experiment"):
            Store(tmp_path / "out", FACTS)
        # Looking is allowed meanwhile.
        with Store(tmp_path / "out") as reader:
            assert reader.fact("plan") == "p"
            assert reader.done() == {}
        other.kill()
        other.wait()
    Store(tmp_path / "out", FACTS).close()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_finished_experiment_can_be_read_where_nothing_may_be_written(tmp_path: Path) -> None:
    straight(light_plan(tmp_path, runs=2), tmp_path / "out")
    with mounted(tmp_path / "read", "4m") as place:
        shutil.copytree(tmp_path / "out", place / "out")
        if subprocess.run(["mount", "-o", "remount,ro", str(place)], check=False).returncode != 0:
            pytest.skip("mounting is not allowed here")
        with Store(place / "out") as store:
            assert len(store.done()) == 9
            assert store.fact("experiment_digest") is not None
        with pytest.raises(RecordError, match=r"Read-only|readonly"):
            Store(place / "out", FACTS)


# --- adding -----------------------------------------------------------------------------------------------------------


def test_what_is_there_stays_as_it_is(tmp_path: Path, blob: bytes) -> None:
    found = outcomes(tmp_path, kept_ticks=blob)
    with Store(tmp_path / "out", FACTS) as store:
        store.add(found)
        store.add(found)
        store.add([replace(found[0], kept_ticks=b""), *found[3:5]])
        assert store.done() == {each.number: each.key for each in found}
        assert sorted(each.number for each in store.outcomes(0, 100)) == sorted(each.number for each in found)
        by_number = {each.number: each for each in store.outcomes(0, 100)}
        assert all(by_number[each.number] == replace(each, kept_ticks=b"") for each in found)


def test_a_job_that_comes_to_something_else_is_refused(tmp_path: Path) -> None:
    found = outcomes(tmp_path)
    with Store(tmp_path / "out", FACTS) as store:
        store.add(found[:4])
        for wrong in (replace(found[2], run_digest="0" * 64), replace(found[2], result={"converged": False})):
            with pytest.raises(RecordError, match=f"job {wrong.number} .* came to different results"):
                store.add([found[5], wrong])
            # All or none.
            assert set(store.done()) == {each.number for each in found[:4]}


def test_a_result_that_is_no_json_is_not_taken(tmp_path: Path) -> None:
    found = outcomes(tmp_path)
    with Store(tmp_path / "out", FACTS) as store:
        with pytest.raises(ValueError, match=r"JSON|nan"):
            store.add([found[0], replace(found[1], result={"score": float("nan")})])
        assert store.done() == {}


def test_a_directory_of_another_key_is_not_gone_on_with(tmp_path: Path) -> None:
    plan = light_plan(tmp_path, runs=2)
    straight(plan, tmp_path / "out")
    with sqlite3.connect(tmp_path / "out" / MANIFEST) as base:
        base.execute("UPDATE outcomes SET key = 'x' WHERE number = 3")
    base.close()
    with pytest.raises(ExperimentError, match="job 3 of the directory is of something else"):
        straight(plan, tmp_path / "out")


# --- damage -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content", [b"not a database, but long enough to be one" * 100, b"SQLite format 3\x00" + b"\xff" * 5_000]
)
def test_a_manifest_that_is_none(tmp_path: Path, content: bytes) -> None:
    place = tmp_path / "out"
    place.mkdir()
    (place / MANIFEST).write_bytes(content)
    for facts in (FACTS, None):
        with pytest.raises(RecordError, match=MANIFEST):
            Store(place, facts)
    assert (place / MANIFEST).read_bytes() == content


def test_a_damaged_manifest_is_told(tmp_path: Path) -> None:
    plan = light_plan(tmp_path)
    straight(plan, tmp_path / "out")
    path = tmp_path / "out" / MANIFEST
    whole = path.read_bytes()
    told = 0
    for start in range(4_096, len(whole) - 4_096, 8_192):
        path.write_bytes(whole[:start] + b"\xff" * 4_096 + whole[start + 4_096 :])
        try:
            # Free pages and padding may be damaged without harm.
            straight(plan, tmp_path / "out")
        except (RecordError, ValueError):
            told += 1
        for beside in (tmp_path / "out").glob(f"{MANIFEST}-*"):
            beside.unlink()
    assert told > 0
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RecordError, match=r"saved|malformed"):
        straight(plan, tmp_path / "out")


# --- interruptions ----------------------------------------------------------------------------------------------------


def stopping(real: Callable[..., Any], at_call: int, after: bool) -> Callable[..., Any]:
    """`real`, but at call number `at_call` the process ends, before or after it has done its work."""
    calls = 0

    def step(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == at_call and not after:
            raise StopError
        result = real(*arguments)
        if calls == at_call:
            raise StopError
        return result

    return step


def test_writing_a_shard_can_be_interrupted_anywhere(
    tmp_path: Path, blob: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that ends at any step of a shard leaves a directory that is gone on with, and the ticks are there."""

    def with_ticks(job: Job) -> Outcome:
        return replace(perform(job), kept_ticks=blob)

    monkeypatch.setattr(conducting, "SHARD_RUNS", 5)
    plan = light_plan(tmp_path, runs=4)
    expected = straight(plan, tmp_path / "straight").experiment_digest
    steps = [
        (tables, "write_runs"), (tables, "write_ticks"), (storing.files, "commit"), (storing.files, "sync_directory"),
        (Store, "write_shard"), (Store, "_ticks"), (conducting, "finish"), (conducting, "write_json"),
    ]  # fmt: skip
    for number, (where, name) in enumerate(steps):
        for after in (False, True):
            place = tmp_path / f"{number}{after}"
            # The last steps come once, the others once a shard at least.
            stop = stopping(getattr(where, name), 1 if name in ("finish", "write_json") else 2, after)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(where, name, stop)
                with pytest.raises(StopError):
                    conduct(plan, place, HereEngine(), with_ticks, quiet)
            assert conduct(plan, place, HereEngine(), with_ticks, quiet).experiment_digest == expected
            with Store(place) as store:
                assert store.shards() == {0, 1, 2}
            assert not list(place.glob("*.partial")), name
            runs = [row["run_id"] for path in tables.shards(place, "runs") for row in pq.read_table(path).to_pylist()]
            assert sorted(runs) == list(range(12))
            assert sum(pq.read_metadata(path).num_row_groups for path in tables.shards(place, "ticks")) == 12
            # Nothing waits twice: the ticks are in the shards, and no longer in the manifest.
            base = sqlite3.connect(place / MANIFEST)
            assert base.execute(
                "SELECT count(*) FROM outcomes WHERE kept_ticks IS NOT NULL AND number < 12"
            ).fetchone() == (0,)
            base.close()


def test_a_process_that_ends_while_it_opens_a_directory(tmp_path: Path, expected: str) -> None:
    plan = light_plan(tmp_path)
    for number, (where, name) in enumerate([(storing.files, "write_atomic"), (Store, "_commit"), (Store, "_opened")]):
        place = tmp_path / str(number)

        def step(*arguments: Any) -> None:
            raise StopError

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(where, name, step)
            with pytest.raises(StopError):
                straight(plan, place)
        assert straight(plan, place).experiment_digest == expected
        assert (place / PLAN).is_file()


def test_a_failed_commit_is_not_counted_twice(tmp_path: Path, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # A full disk at the writing of the first shard: the outcomes are in, the shard is not.
    monkeypatch.setattr(conducting, "COMMIT_SECONDS", 0.0)
    plan = light_plan(tmp_path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "write_runs", full)
        with pytest.raises(RecordError, match="No space left"):
            straight(plan, tmp_path / "out")
    assert straight(plan, tmp_path / "out").experiment_digest == expected


@contextmanager
def mounted(place: Path, size: str) -> Iterator[Path]:
    """A file system of its own, so small."""
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting is not allowed here")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
@pytest.mark.parametrize("size_kib", [64, 200, 360, 520, 700])
def test_a_full_disk(tmp_path: Path, size_kib: int, blob: bytes, expected: str) -> None:
    def with_ticks(job: Job) -> Outcome:
        # Something that does not get smaller: a shard of ticks, twice on the disk for a moment.
        return replace(perform(job), kept_ticks=blob)

    plan: Plan = light_plan(tmp_path)
    with mounted(tmp_path / "small", f"{size_kib}k") as place, pytest.MonkeyPatch.context() as patch:
        patch.setattr(conducting, "COMMIT_SECONDS", 0.0)
        said = ""
        try:
            conduct(plan, place / "out", HereEngine(), with_ticks, quiet)
        except RecordError as error:
            said = str(error)
        assert not said or ("free" in said and ("takes no more" in said or "No space left" in said)), said
        before = 0
        if (place / "out" / MANIFEST).exists():
            try:
                with Store(place / "out") as store:
                    before = len(store.done())
            except RecordError:
                assert said
        assert subprocess.run(["mount", "-o", "remount,size=8m", str(place)], check=False).returncode == 0
        summary = conduct(plan, place / "out", HereEngine(), with_ticks, quiet)
        assert summary.experiment_digest == expected
        assert summary.done_runs == 63 - before
        print(f"{size_kib} KiB: {'full' if said else 'enough'}, {before} of 63 jobs were saved")


def test_room_is_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ticks that wait in the manifest leave no hole there once they are in their shard."""
    noise = os.urandom(40_000)

    def noisy(job: Job) -> Outcome:
        return replace(perform(job), kept_ticks=noise)

    def write(place: Any, first: bytes, others: Any) -> None:
        assert all(len(each) == len(noise) for each in (first, *others))

    monkeypatch.setattr(tables, "write_ticks", write)
    plan = light_plan(tmp_path)
    conduct(plan, tmp_path / "out", HereEngine(), noisy, quiet)
    # 60 runs have 2.4 MB of ticks; the three kicked jobs keep theirs, as no shard takes them.
    assert (tmp_path / "out" / MANIFEST).stat().st_size < 600_000
