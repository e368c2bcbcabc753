"""`twin fingerprint`, and the fingerprint that `twin run` writes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from commands import answer, command, refused

from twin.fingerprint.run import FIELDS
from twin.record.rundir import FINGERPRINT, MANIFEST
from twin.record.tables import read_table

RUN = ("run", "gaming", "--duration", "14", "--set", "heartbeat.t0_ns=1000000")
"""Some 11,000 ticks."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A run that kept every tick."""
    path = tmp_path_factory.mktemp("whole") / "run"
    return path, answer(*RUN, "--out", path)


@pytest.fixture(scope="module")
def thin(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The same run, of which some ticks were kept."""
    path = tmp_path_factory.mktemp("thin") / "run"
    return path, answer(*RUN, "--ticks", "every:10", "--out", path)


def changed(run: Path, place: Path, **figures: Any) -> Path:
    """A copy of a run with other figures in its fingerprint."""
    shutil.copytree(run, place)
    stored = json.loads((place / FINGERPRINT).read_text()) | figures
    stored = {name: value for name, value in stored.items() if value != "gone"}
    (place / FINGERPRINT).write_text(json.dumps(stored))
    manifest = json.loads((place / MANIFEST).read_text())
    manifest["files"][FINGERPRINT]["bytes"] = (place / FINGERPRINT).stat().st_size
    (place / MANIFEST).write_text(json.dumps(manifest))
    return place


def test_a_run_writes_its_fingerprint(whole) -> None:
    path, result = whole
    stored = json.loads((path / FINGERPRINT).read_text())
    assert stored == result["fingerprint"]
    assert list(stored)[: len(FIELDS) + 1] == ["schema", *FIELDS]
    assert stored["schema"] == "fingerprint/1"
    assert stored["ticks"] == result["ticks"] > 10_000
    assert stored["load_to_heartbeat_corr"] > 0.8
    assert {name for name in FIELDS if (stored[name] is None) != (name in stored["reasons"])} == set()


def test_what_is_kept_of_the_ticks_changes_no_figure(whole, thin) -> None:
    assert thin[1]["fingerprint"] == whole[1]["fingerprint"]
    assert thin[1]["run_digest"] == whole[1]["run_digest"]


def test_the_ticks_say_the_same_again(whole) -> None:
    path, result = whole
    found = answer("fingerprint", path)
    assert list(found) == ["run_dir", "equal", "differing", "fingerprint"]
    assert found["equal"] is True
    assert found["differing"] == []
    assert found["fingerprint"] == result["fingerprint"]
    said = command("fingerprint", path)
    assert said.status == 0
    assert "equal to this one" in said.out
    assert "overall_stability_score" in said.out
    assert "window_width" in said.out
    assert command("fingerprint", path, "--quiet").out == ""


def test_a_fingerprint_that_was_changed_is_found_out(whole, tmp_path) -> None:
    run = changed(whole[0], tmp_path / "run", converged=True, coupling_score=12.5, ticks=4, made_up=3, cycles=77)
    found = answer("fingerprint", run, status=1)
    # What the machine told cannot be computed again from ticks, and is taken as it is.
    assert found["differing"] == ["converged", "coupling_score", "ticks"]
    assert found["equal"] is False
    assert found["fingerprint"]["made_up"] == 3
    said = command("fingerprint", run)
    assert said.status == 1
    assert "DIFFERENT in converged, coupling_score, ticks" in said.out
    assert answer("fingerprint", changed(whole[0], tmp_path / "b", converged="gone"), status=1)["differing"] == [
        "converged"
    ]


def test_a_fingerprint_of_an_earlier_version_is_completed(whole, tmp_path) -> None:
    gone = dict.fromkeys((name for name in FIELDS if name not in ("energy_joules", "fps_mean")), "gone")
    run = changed(whole[0], tmp_path / "run", **gone, schema="fingerprint/0")
    found = answer("fingerprint", run)
    assert found["equal"] is None
    assert found["fingerprint"]["overall_stability_score"] == whole[1]["fingerprint"]["overall_stability_score"]
    assert "an earlier version" in command("fingerprint", run).out


def test_a_run_that_kept_some_ticks_says_how_to_get_the_others(thin, whole, tmp_path) -> None:
    said = command("fingerprint", thin[0])
    refused(2, ["kept every:10 of its ticks", f"twin replay {thin[0]} --out DIR", "--ticks DIR"], said)
    answer("replay", thin[0], "--out", tmp_path / "again")
    found = answer("fingerprint", thin[0], "--ticks", tmp_path / "again")
    assert found["equal"] is True
    other = tmp_path / "other"
    answer(*RUN, "--seed", "2", "--out", other)
    refused(2, ["the ticks of another run"], command("fingerprint", thin[0], "--ticks", other))


def test_a_run_with_more_ticks_than_are_kept_knows_what_the_machine_did(tmp_path, monkeypatch) -> None:
    for module in ("run", "fingerprint"):
        monkeypatch.setattr(f"twin.cli.{module}.MOST_TICKS", 5_000)
    figures = answer(*RUN, "--out", tmp_path / "run")["fingerprint"]
    assert figures["overall_stability_score"] is None
    assert "the run has more than" in figures["reasons"]["converged"]
    assert figures["energy_joules"] > 0
    assert answer("fingerprint", tmp_path / "run")["equal"] is True


def test_what_is_no_run(tmp_path, whole) -> None:
    refused(2, ["is not a directory"], command("fingerprint", tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    refused(2, ["is not a run directory"], command("fingerprint", tmp_path / "empty"))
    broken = changed(whole[0], tmp_path / "broken")
    (broken / "ticks.parquet").write_bytes(b"PAR1")
    refused(2, ["ticks.parquet"], command("fingerprint", broken))
    (broken / "ticks.parquet").unlink()
    refused(3, ["ticks.parquet"], command("fingerprint", broken))


def test_a_short_run_has_reasons(tmp_path) -> None:
    result = answer("run", "idle", "--duration", "1", "--set", "heartbeat.t0_ns=100000000", "--out", tmp_path / "run")
    figures = result["fingerprint"]
    assert figures["converged"] is None
    assert "10 blocks of 1,000 are needed" in figures["reasons"]["converged"]
    assert answer("fingerprint", tmp_path / "run")["equal"] is True
    assert "not known: the run has" in command("fingerprint", tmp_path / "run").out
    assert read_table(tmp_path / "run" / "ticks.parquet").num_rows == figures["ticks"]
