"""The same bits: again, elsewhere, by others, compiled or not, batched or not, in lockstep, live and replayed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from goldens import golden
from hypothesis import given, settings
from hypothesis import strategies as st
from profiles import NIGHTLY
from running import SCENARIOS, Kept, digests, here, shipped_scenario, twin_json

from hardware.linux.application import PORT
from twin.cli.backends import simulated
from twin.control.choose import make_controller
from twin.heart import ticks
from twin.kernels import MODE, Integers
from twin.loop import Loop
from twin.scenario import Fault, Phase, Scenario

ROOT = Path(__file__).parent.parent
SHORT = ("--duration", "3")
INTERPRETED = SCENARIOS if NIGHTLY else [name for name in SCENARIOS if name in ("gaming", "recorded", "sensor_faults")]
"""Scenarios that are run with interpreted kernels, which take seconds each: between them every kernel of a run."""


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, ...]]:
    """Digests of the first seconds of some scenarios."""
    place = tmp_path_factory.mktemp("short")
    return {
        name: digests(twin_json("run", name, *SHORT, "--out", place / name)) for name in ("gaming", "sensor_faults")
    }


# --- goldens, lockstep, replay: every shipped scenario in full --------------------------------------------------------


@pytest.mark.parametrize("name", SCENARIOS)
def test_golden_lockstep_and_replay_are_one(name: str, tmp_path: Path) -> None:
    result = here("run", name, "--out", tmp_path / "simulated")
    expected = golden(name)
    assert {key: result[key] for key in expected if key in result} == {
        key: value for key, value in expected.items() if key in result
    }
    if name == "soak" and not NIGHTLY:
        return  # ten minutes in files, and again from their log, take half a minute
    lockstep = here("run", name, "--backend", "lockstep", "--out", tmp_path / "lockstep")
    assert digests(lockstep) == digests(result)
    assert here("compare", tmp_path / "simulated", tmp_path / "lockstep")["equal"] is True
    replayed = here("replay", tmp_path / "lockstep")
    assert replayed["equal"] is True
    assert digests(replayed) == digests(result)


# --- circumstances that must not matter -------------------------------------------------------------------------------


def test_again_from_elsewhere_under_other_circumstances(short, tmp_path: Path) -> None:
    circumstances: list[dict[str, str]] = [
        {},
        {"PYTHONHASHSEED": "0"},
        {"PYTHONHASHSEED": "4242"},
        {"TZ": "Pacific/Chatham", "LC_ALL": "C", "LANG": "tr_TR.UTF-8"},
        {"HOME": str(tmp_path), "USER": "somebody"},
    ]
    for number, env in enumerate(circumstances):
        place = tmp_path / f"else where {number}"
        place.mkdir()
        assert digests(twin_json("run", "gaming", *SHORT, cwd=place, env=env)) == short["gaming"], env


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("setpriv") is None, reason="changing the user needs root and setpriv"
)
def test_another_user(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    for parent in tmp_path.parents:
        if parent.stat().st_uid == os.geteuid() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o055)
    command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    brief = ("--duration", "1")
    command += [sys.executable, "-B", "-m", "twin", "run", "gaming", *brief, "--json", "--out", str(tmp_path / "run")]
    # Nobody may write where compiled kernels are kept, and would compile them all.
    env = {**os.environ, "HOME": str(tmp_path), "USER": "nobody", "TWIN_KERNELS": "python"}
    env.pop("XDG_CACHE_HOME", None)
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, check=False)
    if "ermission denied" in done.stderr and "python" in done.stderr:
        pytest.skip(f"another user cannot run this Python: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    import json

    assert digests(json.loads(done.stdout)) == digests(here("run", "gaming", *brief, "--out", tmp_path / "mine"))


def test_in_several_processes_at_once(short, tmp_path: Path) -> None:
    def one(number: int) -> tuple[str, ...]:
        return digests(twin_json("run", "sensor_faults", *SHORT, "--out", tmp_path / str(number)))

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(one, range(4))) == {short["sensor_faults"]}


@pytest.mark.skipif(MODE != "numba", reason="kernels are interpreted in this test run anyway")
@pytest.mark.parametrize("name", INTERPRETED)
def test_interpreted_kernels_give_the_bits_of_compiled_ones(name: str, tmp_path: Path) -> None:
    few = ("--duration", "1.5" if NIGHTLY else "1")
    compiled = here("run", name, *few, "--out", tmp_path / "numba")
    interpreted = twin_json("run", name, *few, "--out", tmp_path / "python", env={"TWIN_KERNELS": "python"})
    assert digests(interpreted) == digests(compiled)


def test_a_later_python_gives_the_same_bits(short, tmp_path: Path) -> None:
    python = ROOT / ".venv-later" / "bin" / "python"
    if not (python.parent.parent / ".complete").exists():
        pytest.skip("there is no later Python here (make test builds .venv-later where the machine has one)")
    import json

    for name, expected in short.items():
        command = [str(python), "-m", "twin", "run", name, *SHORT, "--json", "--out", str(tmp_path / name)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert digests(json.loads(done.stdout)) == expected
    version = subprocess.run([str(python), "--version"], capture_output=True, text=True, check=True).stdout
    print(f"{sys.version.split()[0]} and {version.strip()} agree")


def test_what_is_kept_of_the_ticks_does_not_matter(short, tmp_path: Path) -> None:
    for which in ("none", "every:7"):
        result = here("run", "gaming", *SHORT, "--ticks", which, "--out", tmp_path / which.replace(":", ""))
        assert digests(result) == short["gaming"]


def test_seed_zero_is_a_seed(tmp_path: Path) -> None:
    file = tmp_path / "zero.toml"
    text = 'name = "gaming"\nseed = 0\n' + shipped_text("gaming").replace('name = "gaming"\n', "", 1)
    file.write_text(text)
    in_file = here("run", file, *SHORT, "--out", tmp_path / "file")
    option = here("run", "gaming", *SHORT, "--seed", "0", "--out", tmp_path / "option")
    one = here("run", "gaming", *SHORT, "--seed", "1", "--out", tmp_path / "one")
    assert option["seed"] == 0
    assert digests(in_file) == digests(option)
    assert option["tick_digest"] != one["tick_digest"]
    assert option["control_digest"] != one["control_digest"]


def shipped_text(name: str) -> str:
    from twin.loader import shipped

    return shipped()[name].read_text(encoding="utf-8")


# --- one tick at a time -----------------------------------------------------------------------------------------------


class Whole(Kept):
    """Keeps the ticks too."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks: list[Integers] = []

    def ticks(self, captured: Integers) -> None:
        self.blocks.append(captured.copy())


def both_ways(scenario: Scenario) -> tuple[Whole, Whole]:
    found = []
    for batch in (True, False):
        backend = simulated(scenario, batch=batch)
        kept = Whole()
        Loop(backend.env, backend.hardware, scenario, make_controller(scenario, backend.hardware.limits), kept).run()
        found.append(kept)
    return found[0], found[1]


def same(a: Whole, b: Whole) -> None:
    assert np.array_equal(np.concatenate(a.blocks, axis=1), np.concatenate(b.blocks, axis=1))
    assert len(a.cycles) == len(b.cycles)
    for one, other in zip(a.cycles, b.cycles, strict=True):
        assert one == other


@pytest.mark.parametrize("name", [name for name in SCENARIOS if name != "recorded"])
def test_one_tick_at_a_time_is_the_batch(name: str) -> None:
    batched, single = both_ways(replace(shipped_scenario(name), duration_ms=4_000))
    same(batched, single)
    assert sum(block.shape[1] for block in single.blocks) > 1_000


@st.composite
def scenarios(draw: st.DrawFn) -> Scenario:
    phases = draw(st.lists(st.builds(
        Phase,
        duration_ms=st.integers(50, 900),
        cpu_load=st.floats(0, 1),
        gpu_load=st.floats(0, 1),
        frames_per_second=st.sampled_from([0, 30, 144]),
        words_per_second=st.integers(0, 900_000),
    ), min_size=1, max_size=3))  # fmt: skip
    faults = draw(st.lists(st.builds(
        Fault,
        target=st.sampled_from(["cpu", "gpu", "case", "cpu_fan", "cpu_energy_microjoules", "words_offered_per_second"]),
        state=st.sampled_from(["off", "stuck", "garbage", "wrong", "slow", "delayed", "intermittent"]),
        at_ms=st.integers(0, 1_500),
        duration_ms=st.integers(0, 1_000),
    ), max_size=3))  # fmt: skip
    base = shipped_scenario("idle")
    heartbeat = replace(base.heartbeat, t0_ns=draw(st.sampled_from([100_000, 1_000_000, 7_000_000, 300_000_000])))
    control = replace(base.control, period_ms=draw(st.sampled_from([37, 100, 250])))
    return replace(
        base,
        seed=draw(st.integers(0, 2**63 - 1)),
        duration_ms=2_000,
        workload=replace(base.workload, phases=tuple(phases)),
        faults=tuple(faults),
        heartbeat=heartbeat,
        control=control,
    )


@settings(max_examples=20)
@given(scenarios())
def test_one_tick_at_a_time_is_the_batch_for_any_scenario(scenario: Scenario) -> None:
    batched, single = both_ways(scenario)
    same(batched, single)
    elapsed = np.concatenate(batched.blocks, axis=1)[ticks.C_ELAPSED] if batched.blocks else np.zeros(0)
    assert (np.diff(elapsed) > 0).all()


# --- live and recorded machines ---------------------------------------------------------------------------------------


def check_live(tmp_path: Path, *options: object) -> dict[str, Any]:
    # This machine's own files, and an application port that no other run writes to or reads.
    root = tmp_path / "root"
    (root / "run").mkdir(parents=True)
    for name in ("sys", "proc"):
        (root / name).symlink_to(Path("/", name))
    result = twin_json("run", "gaming", "--backend", "linux", "--root", root, "--duration", "4", *options,
                       "--out", tmp_path / "live")  # fmt: skip
    replayed = twin_json("replay", tmp_path / "live")
    assert replayed["equal"] is True
    assert digests(replayed) == digests(result)
    assert replayed["ticks"] == result["ticks"] > 500
    return result


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux")
def test_a_live_run_and_its_replay_are_equal(tmp_path: Path) -> None:
    result = check_live(tmp_path)
    assert "words_offered_per_second" in result["missing"]
    assert "cpu_busy_ticks" not in result["missing"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux")
def test_a_live_run_under_the_scenarios_load_and_its_replay_are_equal(tmp_path: Path) -> None:
    result = check_live(tmp_path, "--load")
    assert "words_offered_per_second" not in result["missing"]
    assert result["fingerprint"]["word_executions"] > 1_000
    assert not (tmp_path / "root" / PORT).exists()


DATA = ROOT.parent / "shared" / "data" / "traces"


@pytest.mark.parametrize(
    ("file", "columns"),
    [
        ("raspberry_pi_3b/pistress_1101000011.csv.gz", {"cpu_load_column": "cpu_load"}),
        ("laptop_precision_5570/normal_use.csv.gz", {"cpu_power_column": "cpu_power_w", "cpu_load_column": "cpu_load"}),
        ("gpu_server_8x700w/recording_a.csv.gz", {"gpu_power_column": "gpu0_power_w", "gpu_load_column": "gpu0_load"}),
    ],
)
def test_a_recorded_machine_drives_the_world_and_replays(file: str, columns: dict[str, str], tmp_path: Path) -> None:
    path = DATA / file
    if not path.exists():
        pytest.skip(f"the recording {file} is not here")
    sets = [f'workload.trace={{file="{path}", ' + ", ".join(f'{key}="{value}"' for key, value in columns.items()) + "}"]
    arguments = [item for text in sets for item in ("--set", text)]
    result = here("run", "recorded", "--duration", "20", *arguments, "--out", tmp_path / "run")
    assert here("replay", tmp_path / "run")["equal"] is True
    assert result["fingerprint"]["energy_joules"] > 100
    assert (tmp_path / "run" / "trace.csv.gz").exists()
