"""The NVIDIA card through the real binding and a library of C that has no card: every way in which NVML says no."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pynvml
import pytest
from guarding import bench, gone, until
from hardware_fakes import FakeClock
from nvml_library import AS_IT_WAS, COMPILER, Boards, compiled, installed
from test_linux_nvml import WIRING as NARROW

from hardware import guardian as module
from hardware.guardian import PAIR, PROPOSAL
from hardware.interface import AmbiguousDeviceError, Channel, Command, Limit, Source, Status, Wiring
from hardware.journal import FOLDER, Journal
from hardware.linux import nvml
from hardware.linux.adapter import LinuxHardware
from hardware.linux.guarded import GuardedHands, describe
from hardware.linux.hands import Asked
from hardware.linux.sysfs import Root
from hardware.restore import replay

if COMPILER is None:
    if os.environ.get("CI") == "true":
        pytest.exit("NVML WAS NOT TESTED: there is no C compiler", returncode=1)
    pytest.skip("there is no C compiler: NVML is not tried", allow_module_level=True)

SENSORS = ("temp", "busy", "clock", "power", "fan")
WIRING = Wiring(NARROW.sensors, (
    Limit("cap", 0, 10**9, 120_000_000, (Source("nvml", "power_limit", multiply=1_000),)),
    Limit("clock_limit", 300_000, 2_000_000, 600_000, (Source("nvml", "clock_limit", multiply=1_000),)),
    Limit("fan_percent", 30, 100, 100, (Source("nvml", "fan"),)),
))  # fmt: skip
READERS = {
    "temp": "nvmlDeviceGetTemperature", "busy": "nvmlDeviceGetUtilizationRates", "clock": "nvmlDeviceGetClockInfo",
    "power": "nvmlDeviceGetPowerUsage", "fan": "nvmlDeviceGetTargetFanSpeed",
}  # fmt: skip
SETTERS = {
    "power_limit": "nvmlDeviceSetPowerManagementLimit", "clock_limit": "nvmlDeviceSetGpuLockedClocks",
    "fan": "nvmlDeviceSetFanSpeed_v2",
}  # fmt: skip
ALONE = {
    pynvml.NVML_ERROR_NOT_SUPPORTED: Status.ABSENT, pynvml.NVML_ERROR_FUNCTION_NOT_FOUND: Status.ABSENT,
    pynvml.NVML_ERROR_NOT_FOUND: Status.ABSENT, pynvml.NVML_ERROR_NO_PERMISSION: Status.DENIED,
    pynvml.NVML_ERROR_TIMEOUT: Status.UNREADABLE, pynvml.NVML_ERROR_NO_DATA: Status.UNREADABLE,
    pynvml.NVML_ERROR_CORRUPTED_INFOROM: Status.UNREADABLE, pynvml.NVML_ERROR_MEMORY: Status.UNREADABLE,
    pynvml.NVML_ERROR_UNKNOWN: Status.UNREADABLE, 4_711: Status.UNREADABLE,
}  # fmt: skip
"""What is said of one thing, and what it makes of that one; all others stay."""
LOST = (
    pynvml.NVML_ERROR_UNINITIALIZED, pynvml.NVML_ERROR_DRIVER_NOT_LOADED, pynvml.NVML_ERROR_GPU_IS_LOST,
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH,
)  # fmt: skip
"""What is said of the card, or of the driver."""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("nvml"))


@pytest.fixture(scope="module")
def old_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("nvml-old"), "-DOLD")


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The machine has a card and nothing else, and the tests' own process keeps its priority."""
    monkeypatch.setattr(nvml, "_shared", {})
    monkeypatch.setattr(module, "privileged", list)
    real = Root.absolute
    monkeypatch.setattr(Root, "absolute", lambda self, relative: (
        real(self, relative) if self.path != "/" else real(self, f"{tmp_path}/{relative}"[1:])))  # fmt: skip


@pytest.fixture
def boards(monkeypatch: pytest.MonkeyPatch, library: Path, tmp_path: Path) -> Boards:
    return installed(monkeypatch, library, tmp_path / "boards")


def machine() -> LinuxHardware:
    return LinuxHardware(Path("/"), WIRING, FakeClock())


# --- reading ----------------------------------------------------------------------------------------------------------


def test_the_binding_shows_what_the_library_says(boards: Boards) -> None:
    hardware = machine()
    assert hardware.read().values == (61_000, 370_000, 1_500_000, 151_250_000, 30)
    assert hardware.missing == {}
    hardware.close()


@pytest.mark.parametrize("code", ALONE)
def test_what_one_function_refuses_is_missing_alone(boards: Boards, code: int) -> None:
    hardware = machine()
    for place, function in enumerate(READERS.values()):
        boards.fail({function: code})
        statuses = hardware.read().statuses
        expected = [Status.OK] * len(SENSORS)
        expected[place] = ALONE[code]
        assert list(statuses) == expected, function
        assert boards.hits() >= 1
    boards.fail({})
    assert hardware.read().statuses == (Status.OK,) * len(SENSORS)


@pytest.mark.parametrize("code", LOST)
@pytest.mark.parametrize("function", ["nvmlDeviceGetTemperature", "nvmlDevice*", "nvml*"])
def test_a_card_that_is_lost_shows_nothing_and_is_found_again(boards: Boards, code: int, function: str) -> None:
    hardware = machine()
    hardware.read()
    boards.board.temperature = 90
    boards.fail({function: code})
    for _read in range(3 * nvml.RETRY_READS):
        # What it showed before is never shown again.
        assert hardware.read().values[0] is None
    boards.fail({})
    readings = [hardware.read() for _read in range(nvml.RETRY_READS + 1)]
    assert readings[-1].values == (90_000, 370_000, 1_500_000, 151_250_000, 30)
    assert {reading.values[0] for reading in readings} <= {None, 90_000}


def test_a_library_of_another_driver_is_said_and_tried_again(boards: Boards) -> None:
    boards.fail({"nvmlInitWithFlags": pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH})
    hardware = machine()
    assert hardware.read().statuses == (Status.ABSENT,) * len(SENSORS)
    assert "mismatch" in hardware.missing["power"]
    boards.fail({})
    for _read in range(nvml.RETRY_READS):
        readings = hardware.read()
    assert readings.values[0] == 61_000


def test_an_old_library_lacks_fans_and_locked_clocks_and_shows_the_rest(
    monkeypatch: pytest.MonkeyPatch, old_library: Path, tmp_path: Path
) -> None:
    installed(monkeypatch, old_library, tmp_path / "boards")
    hardware = machine()
    assert hardware.read().values == (61_000, 370_000, 1_500_000, 151_250_000, None)
    assert hardware.read().statuses[-1] is Status.ABSENT
    assert set(hardware.missing) == {"fan", "fan_percent"}


def test_no_library_and_one_that_is_none_are_no_card(
    monkeypatch: pytest.MonkeyPatch, boards: Boards, tmp_path: Path
) -> None:
    for content in (None, b"", b"\x7fELF, but no more than that"):
        folder = tmp_path / str(content)[:8]
        folder.mkdir()
        if content is not None:
            (folder / "libnvidia-ml.so.1").write_bytes(content)
        installed(monkeypatch, folder / "libnvidia-ml.so.1", tmp_path / "boards")
        hardware = machine()
        assert hardware.read().statuses == (Status.ABSENT,) * len(SENSORS)
        assert hardware.apply(Command({"cap": 200_000_000})).values == {"cap": 200_000_000}
        hardware.close()


def test_values_that_cannot_be_are_shown_as_they_are_and_never_as_small_ones(boards: Boards) -> None:
    """NVML's numbers have 32 bits without a sign. What may be believed is judged above the seam; 0 would be cold."""
    hardware = machine()
    for name in ("temperature", "busy", "clock", "milliwatts"):
        setattr(boards.board, name, 2**32 - 1)
    readings = hardware.read()
    most = 2**32 - 1
    assert readings.values[:4] == (most * 1_000, most * 10_000, most * 1_000, most * 1_000)


def named(*cards: str) -> Wiring:
    sensors = tuple(Channel(each.name, sources=tuple(replace(source, names=cards) for source in each.sources
                                                     if source.kind == "nvml")) for each in WIRING.sensors)  # fmt: skip
    return Wiring(sensors, ())


def lost_for_a_moment(boards: Boards, hardware: LinuxHardware) -> None:
    boards.fail({"nvmlDeviceGetTemperature": pynvml.NVML_ERROR_GPU_IS_LOST})
    assert hardware.read().values[0] is None
    boards.fail({})
    for _read in range(nvml.RETRY_READS):
        hardware.read()


def test_of_two_cards_the_named_one_is_found_again_whatever_becomes_of_the_other(boards: Boards) -> None:
    boards.machine.count = 2
    first, second = boards.machine.boards
    second.temperature = 44
    for name in (second.uuid.decode(), "0000:02:00.0"):
        hardware = LinuxHardware(Path("/"), named(name), FakeClock())
        assert hardware.read().values[0] == 44_000
        # They change their numbers.
        first.uuid, second.uuid = second.uuid, first.uuid
        first.temperature, second.temperature = 45, 62
        lost_for_a_moment(boards, hardware)
        assert hardware.read().values[0] == 45_000
        second.lost = 1
        lost_for_a_moment(boards, hardware)
        assert hardware.read().values[0] == 45_000
        # Where ours is lost the other one is not taken for it.
        first.lost, second.lost = 1, 0
        for _read in range(2 * nvml.RETRY_READS):
            assert hardware.read().values[0] is None
        first.lost, (first.uuid, second.uuid) = 0, (second.uuid, first.uuid)
        first.temperature, second.temperature = 61, 44
        hardware.close()


@pytest.mark.parametrize("lost", [False, True])
def test_of_two_cards_without_a_name_none_is_taken(boards: Boards, lost: bool) -> None:
    boards.machine.count = 2
    boards.machine.boards[1].lost = lost
    if lost:
        assert LinuxHardware(Path("/"), named(), FakeClock()).read().statuses[0] is Status.ABSENT
    else:
        with pytest.raises(AmbiguousDeviceError, match="GPU-00000000-0000-0000-0000-000000000001"):
            LinuxHardware(Path("/"), named(), FakeClock())


# --- writing ----------------------------------------------------------------------------------------------------------


BOUNDS = {"power_limit": (100_000, 250_000, 120_000), "clock_limit": (300, 2_000, 600), "fan": (30, 100, 100)}
MIDDLE = (150_000, 1_600, 70)
COOLED = (120_000, 600, (1, 1), (100, 100))


def asked() -> dict[str, Asked]:
    gpu = nvml.Gpu(pynvml)
    gpu.refresh()
    found = {}
    for (name, (minimum, maximum, safe)), raw in zip(BOUNDS.items(), MIDDLE, strict=True):
        output = nvml.find_output(gpu, name)
        assert not isinstance(output, str), output
        found[name] = Asked(output, minimum, maximum, safe, raw)
    return found


def described() -> list[dict[str, Any]]:
    table = [{"name": name, "minimum": each.minimum, "maximum": each.maximum, "safe": each.safe,
              "output": describe(each.output)} for name, each in asked().items()]  # fmt: skip
    copied: list[dict[str, Any]] = json.loads(json.dumps(table))
    return copied


@pytest.fixture
def guarded(boards: Boards, tmp_path: Path) -> Iterator[Any]:
    """A guardian in this process that has taken all three, and has done nothing yet."""
    with bench(tmp_path, outputs=described()) as made:
        assert made.said[0]["refused"] == {}
        assert boards.set() == AS_IT_WAS
        yield made


def turns(guarded: Any, count: int, values: tuple[int, ...] | None = MIDDLE) -> None:
    for _turn in range(count):
        guarded.now_ns += 100_000_000
        if values is not None:
            guarded.tick += 1
            pairs = b"".join(PAIR.pack(place, raw) for place, raw in enumerate(values))
            guarded.mine.send(PROPOSAL.pack(b"P", len(values), guarded.tick) + pairs)
        guarded.guardian.step()
    guarded.hear()


def test_all_three_are_set_and_the_drivers_own_policy_comes_back(boards: Boards, guarded: Any) -> None:
    turns(guarded, 60)
    assert boards.set() == (150_000, 1_600, (1, 1), (70, 70))
    assert guarded.said[-1]["state"] == "NORMAL"
    assert guarded.guardian.end() == 0
    assert boards.set() == AS_IT_WAS


@pytest.mark.parametrize("code", [*ALONE, *LOST, pynvml.NVML_ERROR_INVALID_ARGUMENT])
@pytest.mark.parametrize("name", SETTERS)
def test_a_setting_that_fails_is_said_and_tried_again_and_all_is_given_back(
    boards: Boards, guarded: Any, name: str, code: int
) -> None:
    turns(guarded, 3)
    boards.fail({SETTERS[name]: code})
    turns(guarded, 4, (160_000, 1_500, 60))
    assert boards.hits() >= 1
    assert name in guarded.said[-1]["failed"]
    boards.fail({})
    turns(guarded, 80, (160_000, 1_500, 60))
    assert boards.set() == (160_000, 1_500, (1, 1), (60, 60))
    assert guarded.said[-1]["failed"] == {}
    assert guarded.guardian.end() == 0
    assert boards.set() == AS_IT_WAS


@pytest.mark.parametrize("code", [*LOST, pynvml.NVML_ERROR_INVALID_ARGUMENT])
def test_a_card_that_was_lost_for_a_moment_is_given_back_at_once(boards: Boards, guarded: Any, code: int) -> None:
    """The controller ends right after a call has failed, and the card is there again."""
    turns(guarded, 3)
    boards.fail({"nvmlDeviceSet*": code})
    turns(guarded, 1, (160_000, 1_500, 60))
    boards.fail({})
    assert guarded.guardian.end() == 0
    assert boards.set() == AS_IT_WAS


@pytest.mark.parametrize("code", [pynvml.NVML_ERROR_NO_PERMISSION, pynvml.NVML_ERROR_NOT_SUPPORTED])
@pytest.mark.parametrize("name", SETTERS)
def test_what_may_not_be_set_is_refused_or_said_and_the_others_are_taken(
    boards: Boards, tmp_path: Path, name: str, code: int
) -> None:
    table = described()
    boards.fail({SETTERS[name]: code})
    with bench(tmp_path, outputs=table) as guarded:
        turns(guarded, 20)
        told = {**guarded.said[0]["refused"], **guarded.said[-1]["failed"]}
        assert set(told) == {name}
        assert guarded.guardian.end() == 0
    assert boards.set() == AS_IT_WAS


@pytest.mark.parametrize(
    ("function", "left", "kept"),
    [("nvmlDeviceSetPowerManagementLimit", (150_000, 0, (0, 0), (30, 30)), "power_limit"),
     ("nvmlDeviceResetGpuLockedClocks", (220_000, 600, (0, 0), (30, 30)), "clock_limit"),
     ("nvmlDeviceSetDefaultFanSpeed_v2", (220_000, 0, (1, 1), (100, 100)), "fan")],
)  # fmt: skip
@pytest.mark.parametrize("code", [pynvml.NVML_ERROR_NO_PERMISSION, pynvml.NVML_ERROR_UNKNOWN])
def test_what_cannot_be_given_back_is_cooled_kept_and_given_back_later(
    boards: Boards, guarded: Any, tmp_path: Path, function: str, left: tuple[Any, ...], kept: str, code: int
) -> None:
    turns(guarded, 3)
    boards.fail({function: code})
    assert guarded.guardian.end() == 1
    assert boards.set() == left
    assert [name for name, _why in guarded.hear()["unrestored"]] == [kept]
    boards.fail({})
    journal = Journal(str(tmp_path / FOLDER))
    assert [entry["name"] for entry in (journal.read() or ([], ""))[0]] == [kept]
    assert replay(Root(tmp_path), journal)["unrestored"] == []
    assert boards.set() == AS_IT_WAS


def test_a_board_with_limits_that_cannot_be_is_refused_unwritten(boards: Boards, tmp_path: Path) -> None:
    for lowest, highest in ((300_000, 100_000), (0, 0), (2**32 - 1, 2**32 - 1)):
        boards.board.lowest_limit, boards.board.highest_limit = lowest, highest
        with bench(tmp_path, outputs=described()) as guarded:
            assert set(guarded.said[0]["refused"]) == {"power_limit"}
            turns(guarded, 3)
            assert guarded.guardian.end() == 0
        assert boards.set() == AS_IT_WAS


# --- processes --------------------------------------------------------------------------------------------------------

CONTROLLER = """
import sys, time
from pathlib import Path
sys.path[:0] = [{repository!r}, {tests!r}]
from test_nvml_binding import asked
from hardware.linux.guarded import GuardedHands, describe
outputs = asked()
hands = GuardedHands(Path({root!r}))
assert hands.begin(outputs, tuple(outputs)) == {{}}
print(hands.pid, flush=True)
while True:
    hands.put(outputs)
    time.sleep(0.05)
"""


def test_a_killed_controller_and_a_killed_guardian_leave_the_drivers_own_policy(boards: Boards, tmp_path: Path) -> None:
    tests = Path(__file__).parent
    words = CONTROLLER.format(repository=str(tests.parent), tests=str(tests), root=str(tmp_path))
    with subprocess.Popen([sys.executable, "-c", words], stdout=subprocess.PIPE, text=True) as controller:
        try:
            assert controller.stdout is not None
            guardian = int(controller.stdout.readline())
            until(lambda: boards.set() == (150_000, 1_600, (1, 1), (70, 70)))
        finally:
            controller.kill()
        until(lambda: boards.set() == AS_IT_WAS)
        until(lambda: gone(guardian))
    outputs = asked()
    hands = GuardedHands(tmp_path)
    assert hands.begin(outputs, tuple(outputs)) == {}
    try:
        until(lambda: hands.put(outputs) == {} and boards.set()[2] == (1, 1))
        assert hands.pid is not None
        os.kill(hands.pid, signal.SIGKILL)
        until(lambda: gone(hands.pid or 0))
        assert boards.set()[2] == (1, 1)
        hands.put(outputs)
        until(lambda: boards.set() == AS_IT_WAS)
    finally:
        assert hands.close() == ()
    assert boards.set() == AS_IT_WAS
