"""The machines that ship: what their files say, that any scenario runs on them, and that they are what made them."""

from __future__ import annotations

from pathlib import Path

import pytest
from calibration import TRACES
from commands import answer
from profiles import NIGHTLY
from ship_machines import MACHINES, SHIPPED, made

from twin.calibrate.reader import read_recordings
from twin.calibrate.roles import Choice
from twin.calibrate.validation import judge
from twin.machines import load_machine, shipped_machines


def test_every_machine_has_a_command_and_every_command_a_machine() -> None:
    assert set(shipped_machines()) == set(SHIPPED)
    assert {path.name for path in MACHINES.iterdir()} == {f"{name}.toml" for name in SHIPPED}


@pytest.mark.parametrize("name", SHIPPED)
def test_a_machine_says_where_it_comes_from_and_how_far_it_is_off(name: str) -> None:
    origin = load_machine(name).file.origin
    shipped = SHIPPED[name]
    assert (origin.source, origin.licence) == (shipped.source, shipped.licence)
    assert origin.command.startswith(f"twin calibrate {' '.join(shipped.recordings)} --kind {shipped.kind}")
    assert origin.command.endswith(f"--out {name}.toml")
    assert origin.unseen is not None
    assert origin.unseen.samples >= 400
    assert origin.parameters


@pytest.mark.parametrize("name", SHIPPED)
def test_gaming_runs_on_it(name: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    result = answer("run", "gaming", "--machine", name, "--duration", "3", "--out", run)
    assert result["fingerprint"]["cycles"] == 30
    assert result["fingerprint"]["max_temp_millicelsius"] is not None
    assert answer("replay", run)["equal"] is True


@pytest.mark.parametrize("name", [name for name in SHIPPED if name != "laptop_victus_15"])
def test_it_is_as_far_off_as_its_file_says(name: str) -> None:
    shipped = SHIPPED[name]
    path = TRACES / shipped.folder / shipped.recordings[0]
    if not path.exists():
        pytest.skip(f"{path} is not here")
    file = load_machine(name).file
    measured = read_recordings([path], Choice(kind=shipped.kind, device=0 if shipped.kind == "gpu" else None))[0]
    found = judge(file.machine, file.origin, measured, from_share=0.6).errors
    assert file.origin.unseen is not None
    assert found.rmse_celsius == pytest.approx(file.origin.unseen.rmse_celsius, rel=1e-3)
    assert found.max_error_celsius == pytest.approx(file.origin.unseen.max_error_celsius, rel=1e-3)


@pytest.mark.skipif(not NIGHTLY, reason="fits take half a minute; make test-nightly makes them")
@pytest.mark.parametrize("name", SHIPPED)
def test_the_command_makes_the_file(name: str, tmp_path: Path) -> None:
    if not (TRACES / SHIPPED[name].folder).exists():
        pytest.skip(f"{TRACES} is not here")
    new = load_machine(str(made(name, tmp_path))).file
    old = load_machine(name).file
    # Another processor rounds the last bits of a fit otherwise, which six digits mostly hide.
    assert new.machine.nodes[0].capacity_joules_per_kelvin == pytest.approx(
        old.machine.nodes[0].capacity_joules_per_kelvin, rel=1e-2
    )
    assert (new.origin.unseen is None) == (old.origin.unseen is None)
    assert new.origin.unseen is not None
    assert old.origin.unseen is not None
    assert new.origin.unseen.rmse_celsius == pytest.approx(old.origin.unseen.rmse_celsius, rel=1e-2)
    assert (new.origin.command, new.origin.driven) == (old.origin.command, old.origin.driven)
