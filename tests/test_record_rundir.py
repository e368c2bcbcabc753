"""Run directories: who may write there, and what counts as complete."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest
from record_samples import write_control, write_log, write_ticks

from twin.record.files import RecordError, RecordInputError, replacing, write_json
from twin.record.rundir import COMPLETE, RunDirectory, run_key

KEY = run_key("0.1.0", b"{}", 0, "1_0_1_0_0_0", "adaptive", "simulated")
OTHER = run_key("0.1.0", b"{}", 1, "1_0_1_0_0_0", "adaptive", "simulated")


def complete(path: Path, key: str = KEY) -> RunDirectory:
    """A run that ended well."""
    run = RunDirectory.create(path, key)
    run.file("scenario.toml").write_text("[heartbeat]\nwords = 1024\n")
    write_log(run.file("seam.log"))
    tables = {
        "ticks": write_ticks(run.file("ticks.parquet"), 100), "control": write_control(run.file("control.parquet"), 5)
    }  # fmt: skip
    write_json(run.file("fingerprint.json"), {})
    run.file("run.log").write_text("x")
    run.write_manifest({"pulsetwin": "0.1.0"}, {"run_digest": "00"}, tables, {"backend": "simulated"})
    run.close()
    return run


def test_a_complete_run(tmp_path: Path) -> None:
    complete(tmp_path / "deep" / "run")
    run = RunDirectory.open(tmp_path / "deep" / "run")
    assert run.manifest is not None
    assert run.manifest["key"] == KEY
    assert run.manifest["backend"] == "simulated"
    assert run.manifest["versions"] == {"pulsetwin": "0.1.0"}
    assert run.manifest["tables"]["ticks"]["rows"] == 100
    for name, said in run.manifest["files"].items():
        assert run.file(name).stat().st_size == said["bytes"]
    assert {each.name for each in run.path.iterdir()} == {*COMPLETE, "run.log"}
    with pytest.raises(ValueError, match="opened for reading"):
        run.write_manifest({}, {}, {})
    with pytest.raises(ValueError, match="not a file of a run"):
        run.file("passwords.txt")


def test_the_key_depends_on_each_part() -> None:
    parts = ("0.1.0", b"{}", 0, "c", "l", "s")
    keys = {run_key(*parts)}
    for changed in (
        ("0.2.0", *parts[1:]),
        ("0.1.0", b"[]", *parts[2:]),
        (*parts[:5], "t"),
        (*parts[:3], "cl", "", "s"),
    ):
        keys.add(run_key(*changed))  # type: ignore[arg-type]
    assert len(keys) == 5


def test_the_same_run_may_take_the_place_of_a_complete_one(tmp_path: Path) -> None:
    complete(tmp_path)
    (tmp_path / "export").mkdir()
    with RunDirectory.create(tmp_path, KEY) as run:
        assert [each.name for each in tmp_path.iterdir()] == ["export"]
        assert run.manifest is None


def test_a_different_run_may_not(tmp_path: Path) -> None:
    complete(tmp_path)
    before = {each.name: each.read_bytes() for each in tmp_path.iterdir()}
    with pytest.raises(RecordInputError) as caught:
        RunDirectory.create(tmp_path, OTHER)
    assert KEY in str(caught.value)
    assert OTHER in str(caught.value)
    assert before == {each.name: each.read_bytes() for each in tmp_path.iterdir()}


def test_foreign_and_unfinished_directories_stay(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(RecordInputError, match=r"has 'thesis.tex'"):
        RunDirectory.create(tmp_path, KEY)
    (tmp_path / "thesis.tex").unlink()
    (tmp_path / "scenario.toml").write_text("precious")
    with pytest.raises(RecordInputError, match="unfinished run"):
        RunDirectory.create(tmp_path, KEY)
    assert (tmp_path / "scenario.toml").read_text() == "precious"
    with pytest.raises(RecordInputError, match="is a file"):
        RunDirectory.create(tmp_path / "scenario.toml", KEY)
    with pytest.raises(RecordError, match="a part of it is a file"):
        RunDirectory.create(tmp_path / "scenario.toml" / "run", KEY)


def test_two_writers_at_once(tmp_path: Path) -> None:
    with RunDirectory.create(tmp_path, KEY), pytest.raises(RecordInputError, match="written by another run"):
        RunDirectory.create(tmp_path, KEY)
    RunDirectory.create(tmp_path, KEY).close()


def test_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(RecordInputError, match="not a directory"):
        RunDirectory.open(tmp_path / "nowhere")
    with pytest.raises(RecordInputError, match=r"neither manifest\.json nor seam\.log"):
        RunDirectory.open(tmp_path)


def test_missing_and_wrong_files(tmp_path: Path) -> None:
    complete(tmp_path)
    ticks = (tmp_path / "ticks.parquet").read_bytes()
    (tmp_path / "ticks.parquet").write_bytes(ticks[:-1])
    with pytest.raises(RecordError, match=f"has {len(ticks) - 1} bytes, and the manifest says {len(ticks)}"):
        RunDirectory.open(tmp_path)
    (tmp_path / "ticks.parquet").unlink()
    with pytest.raises(RecordInputError, match=r"has no ticks.parquet; run it again") as caught:
        RunDirectory.open(tmp_path)
    assert caught.value.errno == errno.ENOENT
    assert RunDirectory.open(tmp_path, ("seam.log",)).manifest is not None
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(RecordInputError, match=r"no ticks.parquet, manifest.json; the run was cut short"):
        RunDirectory.open(tmp_path)
    assert RunDirectory.open(tmp_path, ("seam.log",)).manifest is None


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"[" * 100_000, b'{"schema": "run/9"}', b'{"schema": "run/1"}'])
def test_damaged_manifests(tmp_path: Path, content: bytes) -> None:
    complete(tmp_path)
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(RecordError):
        RunDirectory.open(tmp_path)


def test_json_has_no_nan(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"a": float("nan")})
    assert json.loads(path.read_text()) == {"a": 1}


def test_a_file_is_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("old")
    with pytest.raises(KeyError), replacing(path) as file:  # noqa: PT012
        file.write(b"half")
        raise KeyError("stop")
    assert path.read_text() == "old"
    with replacing(path) as file:
        file.write(b"new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert [each.name for each in tmp_path.iterdir()] == ["x"]
    with (
        pytest.raises(RecordError, match="writing failed: No such file or directory"),
        replacing(tmp_path / "no" / "x"),
    ):
        pass
