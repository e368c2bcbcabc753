from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from hardware_fakes import FakeClock

from hardware.interface import AmbiguousDeviceError, Applied, Channel, Command, Limit, Source, Status, Wiring
from hardware.linux import nvml
from hardware.linux.adapter import LinuxHardware
from hardware.linux.hands import DirectHands
from hardware.linux.sysfs import Root


class NVMLError(Exception):
    def __init__(self, value: int) -> None:
        super().__init__(f"error {value}")
        self.value = value


class FakeNvml:
    """As much of pynvml as is used; `errors` maps a function's name to what it raises."""

    NVML_TEMPERATURE_GPU = 0
    NVML_CLOCK_GRAPHICS = 0
    NVML_ERROR_UNINITIALIZED = 1
    NVML_ERROR_NOT_SUPPORTED = 3
    NVML_ERROR_NO_PERMISSION = 4
    NVML_ERROR_GPU_IS_LOST = 15
    NVML_ERROR_UNKNOWN = 999

    def __init__(self) -> None:
        self.errors: dict[str, Exception] = {}
        self.limit = 220_000
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> object:
        if name not in self.ANSWERS:
            raise AttributeError(name)

        def call(*arguments: int) -> object:
            self.calls.append(name)
            if name in self.errors:
                raise self.errors[name]
            if name == "nvmlDeviceSetPowerManagementLimit":
                self.limit = arguments[1]
            return self.limit if name == "nvmlDeviceGetPowerManagementLimit" else self.ANSWERS[name]

        return call

    ANSWERS = {  # noqa: RUF012
        "nvmlInit": None,
        "nvmlShutdown": None,
        "nvmlDeviceGetCount": 1,
        "nvmlDeviceGetUUID": "GPU-1",
        "nvmlDeviceGetPciInfo": SimpleNamespace(busId=b"00000000:01:00.0"),
        "nvmlDeviceGetHandleByIndex": 7,
        "nvmlDeviceGetTemperature": 61,
        "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=37),
        "nvmlDeviceGetClockInfo": 1_980,
        "nvmlDeviceGetPowerUsage": 151_250,
        "nvmlDeviceGetPowerManagementLimit": None,
        "nvmlDeviceSetPowerManagementLimit": None,
        "nvmlDeviceGetPowerManagementLimitConstraints": [100_000, 300_000],
    }


WIRING = Wiring(
    (
        Channel("temp", sources=(Source("hwmon", "temp", ("no such chip",)), Source("nvml", "temp", multiply=1_000))),
        Channel("busy", sources=(Source("nvml", "busy", multiply=10_000),)),
        Channel("clock", sources=(Source("nvml", "clock", multiply=1_000),)),
        Channel("power", sources=(Source("nvml", "power", multiply=1_000),)),
        Channel("fan", sources=(Source("nvml", "fan0"),)),
    ),
    (
        Limit("cap", 0, 10**9, 10**8, (Source("nvml", "power_limit", multiply=1_000),)),
        Limit("fan_pwm", 0, 255, 255, (Source("nvml", "fan"),)),
    ),
)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeNvml:
    """The GPU of a machine that has nothing else."""
    module = FakeNvml()
    monkeypatch.setattr(nvml, "load", lambda: module)
    real = Root.absolute
    # The adapter asks NVML only at the real root, whose other devices the test must not see.
    monkeypatch.setattr(Root, "absolute", lambda self, relative: real(self, f"{tmp_path}/{relative}"[1:]))
    return module


def test_the_gpu_is_read_limited_and_given_back(fake: FakeNvml) -> None:
    hardware = LinuxHardware(Path("/"), WIRING, FakeClock(), DirectHands(FakeClock()))
    readings = hardware.read()
    assert readings.values == (61_000, 370_000, 1_980_000, 151_250_000, None)
    assert readings.statuses[4] is Status.ABSENT
    assert hardware.found["power"] == "NVML GPU-1 power"
    assert "NVML GPU-1 fan0: nvmlDeviceGetTargetFanSpeed" in hardware.missing["fan"]
    assert "NVML GPU-1 fan0: nvmlDeviceGetTargetFanSpeed" in hardware.missing["fan_pwm"]
    applied = hardware.apply(Command({"cap": 150_000_999}))
    assert applied == Applied({"cap": 150_000_000})
    assert fake.limit == 150_000
    # The board's own range counts as well.
    assert hardware.apply(Command({"cap": 5})) == Applied({"cap": 100_000_000}, ("cap",))
    hardware.close()
    assert fake.limit == 220_000
    assert fake.calls[-1] == "nvmlShutdown"
    assert hardware.read().statuses == (Status.ABSENT,) * 5
    assert fake.calls[-1] == "nvmlShutdown"


def test_each_metric_is_a_capability_of_its_own(fake: FakeNvml) -> None:
    fake.errors = {
        "nvmlDeviceGetTemperature": NVMLError(FakeNvml.NVML_ERROR_NOT_SUPPORTED),
        "nvmlDeviceGetUtilizationRates": NVMLError(FakeNvml.NVML_ERROR_NO_PERMISSION),
        "nvmlDeviceGetClockInfo": AttributeError("function not found"),
        "nvmlDeviceGetPowerManagementLimitConstraints": NVMLError(FakeNvml.NVML_ERROR_NOT_SUPPORTED),
        "nvmlDeviceSetPowerManagementLimit": NVMLError(FakeNvml.NVML_ERROR_NO_PERMISSION),
    }
    hardware = LinuxHardware(Path("/"), WIRING, FakeClock(), DirectHands(FakeClock()))
    assert hardware.read().statuses == (Status.ABSENT, Status.DENIED, Status.ABSENT, Status.OK, Status.ABSENT)
    assert hardware.apply(Command({"cap": 5})).failed == (("cap", "NVML GPU-1 power_limit: error 4"),)
    fake.errors["nvmlDeviceGetPowerUsage"] = NVMLError(FakeNvml.NVML_ERROR_UNKNOWN)
    assert hardware.read().statuses[3] is Status.UNREADABLE
    fake.errors["nvmlDeviceGetPowerUsage"] = RuntimeError("whatever")
    assert hardware.read().statuses[3] is Status.UNREADABLE
    fake.errors["nvmlDeviceGetPowerManagementLimit"] = NVMLError(FakeNvml.NVML_ERROR_NOT_SUPPORTED)
    assert "error 3" in LinuxHardware(Path("/"), WIRING, FakeClock()).missing["cap"]


def test_a_lost_gpu_is_no_reading_until_it_is_back(fake: FakeNvml) -> None:
    hardware = LinuxHardware(Path("/"), WIRING, FakeClock())
    assert hardware.read().values[0] == 61_000
    lost = NVMLError(FakeNvml.NVML_ERROR_GPU_IS_LOST)
    fake.errors = {"nvmlDeviceGetTemperature": lost, "nvmlInit": lost}
    for _read in range(3 * nvml.RETRY_READS):
        assert hardware.read().values == (None,) * 5
    # At the start, at once, and then every ten reads.
    assert fake.calls.count("nvmlInit") == 4
    fake.errors = {}
    for _read in range(nvml.RETRY_READS):
        readings = hardware.read()
    assert readings.values[:4] == (61_000, 370_000, 1_980_000, 151_250_000)


def test_no_library_no_driver_no_leave(fake: FakeNvml, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake.errors = {"nvmlInit": NVMLError(12), "nvmlShutdown": NVMLError(1)}
    hardware = LinuxHardware(Path("/"), WIRING, FakeClock())
    assert "NVML card: error 12" in hardware.missing["temp"]
    assert hardware.read().statuses == (Status.ABSENT,) * 5
    gpu = nvml.Gpu(fake)
    assert gpu.write("power_limit", 1).status is Status.ABSENT
    fake.errors.pop("nvmlInit")
    gpu.refresh()
    gpu.close()
    assert gpu.read("temp").status is Status.ABSENT
    fake.calls.clear()
    for root, allowed in ((Path("/"), False), (tmp_path, True)):
        hardware = LinuxHardware(root, WIRING, FakeClock(), nvml=allowed)
        assert hardware.missing["busy"] == "NVML is not asked"
    assert fake.calls == []
    monkeypatch.setattr(nvml, "load", lambda: "no NVML: not installed")
    assert LinuxHardware(Path("/"), WIRING, FakeClock()).missing["busy"] == "no NVML: not installed"


class Two:
    """Two cards, whose numbers change."""

    NVML_ERROR_GPU_IS_LOST = 15

    def __init__(self) -> None:
        self.cards = [("GPU-a", b"00000000:01:00.0", 100_000), ("GPU-b", b"00000000:02:00.0", 200_000)]
        self.lost = False

    def nvmlInit(self) -> None:
        pass

    def nvmlDeviceGetCount(self) -> int:
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetUUID(self, handle: int) -> str:
        return self.cards[handle][0]

    def nvmlDeviceGetPciInfo(self, handle: int) -> SimpleNamespace:
        return SimpleNamespace(busId=self.cards[handle][1])

    def nvmlDeviceGetPowerUsage(self, handle: int) -> int:
        if self.lost:
            raise NVMLError(15)
        return self.cards[handle][2]


@pytest.mark.parametrize("named", ["GPU-b", "gpu-B", "0000:02:00.0", "00000000:02:00.0"])
def test_a_card_is_known_by_what_it_is_and_not_by_its_number(named: str) -> None:
    module = Two()
    gpu = nvml.Gpu(module, ("GPU-none", named))
    gpu.refresh()
    assert (gpu.where, gpu.read("power").value) == ("NVML GPU-b", 200_000)
    # The driver goes, and comes back with the cards the other way round.
    module.lost = True
    assert gpu.read("power").value is None
    module.lost = False
    module.cards.reverse()
    for _read in range(nvml.RETRY_READS):
        gpu.refresh()
    assert gpu.read("power").value == 200_000
    module.lost = True
    gpu.read("power")
    module.lost = False
    module.cards = [("GPU-a", b"00000000:01:00.0", 100_000)]
    for _read in range(nvml.RETRY_READS):
        gpu.refresh()
    # Another card never takes its place.
    assert "there is no such card; there are GPU-a at 00000000:01:00.0" in gpu.read("power").detail


def test_one_of_several_cards_has_to_be_named(fake: FakeNvml, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvml, "load", lambda: Two())
    with pytest.raises(
        AmbiguousDeviceError, match=r'GPU-b at 00000000:02:00.0 \(write machine.gpu.nvml_cards = \["GPU-a"'
    ):
        LinuxHardware(Path("/"), WIRING, FakeClock())
    named = replace(WIRING.sensors[3], sources=(Source("nvml", "power", ("GPU-b",), multiply=1_000),))
    hardware = LinuxHardware(Path("/"), Wiring((named,), ()), FakeClock())
    assert hardware.read().values == (200_000_000,)
    nameless = Two()
    monkeypatch.setattr(nameless, "nvmlDeviceGetUUID", None)
    monkeypatch.setattr(nameless, "nvmlDeviceGetPciInfo", None)
    gpu = nvml.Gpu(nameless)
    gpu.refresh()
    assert "tells neither its UUID nor its PCI address" in gpu.read("power").detail


def test_loading_says_how_to_mend_a_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert "pip install nvidia-ml-py" in str(nvml.load())
    module = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", module)
    assert nvml.load() is module
