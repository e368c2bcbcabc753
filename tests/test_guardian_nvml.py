"""The guardian and an NVIDIA card, through a library that is not there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from guarding import bench, hello

from hardware import guardian as module
from hardware.guardian import PAIR, PROPOSAL
from hardware.journal import FOLDER, Journal
from hardware.linux import nvml
from hardware.linux.guarded import describe
from hardware.linux.sysfs import Root
from hardware.restore import replay


class Card:
    """A card with two fans in the driver's hands: as much of pynvml as is used."""

    NVML_TEMPERATURE_GPU = NVML_CLOCK_GRAPHICS = 0
    NVML_ERROR_GPU_IS_LOST = 15

    def __init__(self) -> None:
        self.watts = 220_000
        self.locked: tuple[int, int] | None = None
        self.fans: list[int | None] = [None, None]
        self.clock = 1_500
        self.deaf = False
        handle = 7
        answers: dict[str, Callable[..., Any]] = {
            "Init": lambda: None,
            "Shutdown": lambda: None,
            "DeviceGetCount": lambda: 1,
            "DeviceGetUUID": lambda _h: "GPU-1",
            "DeviceGetHandleByIndex": lambda _index: handle,
            "DeviceGetPowerManagementLimit": lambda _h: self.watts,
            "DeviceGetPowerManagementLimitConstraints": lambda _h: [100_000, 300_000],
            "DeviceSetPowerManagementLimit": lambda _h, raw: setattr(self, "watts", raw),
            "DeviceGetMaxClockInfo": lambda _h, _kind: 2_100,
            "DeviceGetClockInfo": lambda _h, _kind: self.clock,
            "DeviceSetGpuLockedClocks": lambda _h, low, high: setattr(self, "locked", (low, high)),
            "DeviceResetGpuLockedClocks": lambda _h: setattr(self, "locked", None),
            "DeviceGetNumFans": lambda _h: len(self.fans),
            "DeviceGetFanControlPolicy_v2": lambda _h, fan: int(self.fans[fan] is not None),
            "DeviceGetTargetFanSpeed": lambda _h, fan: 30 if self.fans[fan] is None else self.fans[fan],
            "DeviceSetFanSpeed_v2": lambda _h, fan, percent: self.fans.__setitem__(fan, percent),
            "DeviceSetDefaultFanSpeed_v2": lambda _h, fan: self.fans.__setitem__(fan, None),
        }
        for name, answer in answers.items():
            setattr(self, f"nvml{name}", answer)


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Card:
    made = Card()
    monkeypatch.setattr(nvml, "load", lambda: made)
    monkeypatch.setattr(module, "privileged", list)
    return made


def outputs(card: Card) -> list[dict[str, Any]]:
    gpu = nvml.Gpu(card)
    gpu.refresh()
    found = []
    for name, bounds in (("power_limit", (100_000, 250_000, 120_000)), ("clock_limit", (300, 2_000, 600)),
                         ("fan", (30, 100, 100))):  # fmt: skip
        output = nvml.find_output(gpu, name)
        assert not isinstance(output, str)
        minimum, maximum, safe = bounds
        described = describe(output)
        found.append({"name": name, "minimum": minimum, "maximum": maximum, "safe": safe, "output": described})
    return found


def test_power_clocks_and_fans_are_set_and_the_drivers_policy_comes_back(card: Card, tmp_path: Path) -> None:
    table = outputs(card)
    with bench(tmp_path, outputs=table) as guarded:
        assert guarded.said[0]["refused"] == {}
        assert (card.watts, card.locked, card.fans) == (220_000, None, [None, None])
        for tick in range(1, 100):
            guarded.now_ns += 100_000_000
            wanted = ((0, 150_000), (1, 1_600), (2, 70))
            guarded.mine.send(PROPOSAL.pack(b"P", 3, tick) + b"".join(PAIR.pack(*pair) for pair in wanted))
            guarded.guardian.step()
        assert (card.watts, card.locked, card.fans) == (150_000, (0, 1_600), [70, 70])
        assert guarded.hear()["state"] == "NORMAL"
        # NVML does not tell what clock is locked: a clock above it does.
        card.clock = 2_000
        for tick in range(100, 130):
            guarded.now_ns += 100_000_000
            guarded.mine.send(PROPOSAL.pack(b"P", 0, tick))
            guarded.guardian.step()
        guarded.hear()
        assert any("clock_limit" in said.get("failed", {}) for said in guarded.said)
        assert guarded.said[-1]["state"] == "ALARM"
        assert (card.watts, card.locked, card.fans) == (120_000, (0, 600), [100, 100])
        entries = Journal(str(tmp_path / FOLDER)).read()
        guarded.guardian.watch.end("enough")
        assert guarded.guardian.end() == 0
        assert (card.watts, card.locked, card.fans) == (220_000, None, [None, None])
        # Another process, which has locked nothing itself, gives back what the journal says.
        assert entries is not None
        card.watts, card.locked, card.fans = 130_000, (0, 500), [40, 40]
        journal = Journal(str(tmp_path / FOLDER))
        journal.write(entries[0])
        assert replay(Root(tmp_path), journal)["unrestored"] == []
        assert (card.watts, card.locked, card.fans) == (220_000, None, [None, None])


def test_each_fan_is_given_back_as_it_was_and_a_clock_that_was_locked_before_is_not_touched_untold(
    card: Card, tmp_path: Path
) -> None:
    # One fan is the driver's; the other one was set by hand, and nobody looks after it.
    card.fans, card.locked = [None, 30], (0, 900)
    with bench(tmp_path, outputs=outputs(card)) as guarded:
        assert guarded.said[0]["notes"] == {"clock_limit": "unseen", "fan": "manual"}
        assert (card.locked, card.fans) == ((0, 900), [None, 100])
        guarded.guardian.watch.end("enough")
        assert guarded.guardian.end() == 0
        # What was never acted on is as it was, the clock that somebody has locked too.
        assert (card.locked, card.fans) == ((0, 900), [None, 100])
    card.fans = [None, None]
    with bench(tmp_path, outputs=outputs(card)) as guarded:
        for tick in range(1, 100):
            guarded.now_ns += 100_000_000
            guarded.mine.send(PROPOSAL.pack(b"P", 1, tick) + PAIR.pack(2, 50 + tick % 2))
            guarded.guardian.step()
        assert card.fans == [50, 50] or card.fans == [51, 51]
        # One of them does what it likes: the worst counts.
        card.fans[1] = 5
        for tick in range(100, 170):
            guarded.now_ns += 100_000_000
            guarded.mine.send(PROPOSAL.pack(b"P", 0, tick))
            guarded.guardian.step()
        guarded.hear()
        assert any("made it 5 where" in said.get("failed", {}).get("fan", "") for said in guarded.said)
        assert guarded.guardian.end() == 0
    assert (card.locked, card.fans) == ((0, 900), [None, None])


def test_a_card_that_is_lost_is_said_and_does_not_stop_the_end(card: Card, tmp_path: Path) -> None:
    with bench(tmp_path, outputs=outputs(card)) as guarded:
        for name in [name for name in vars(card) if name.startswith("nvmlDevice")]:

            def lost(*_arguments: object) -> None:
                error = RuntimeError("GPU is lost")
                error.value = 15  # type: ignore[attr-defined]
                raise error

            setattr(card, name, lost)
        for tick in range(1, 10):
            guarded.now_ns += 100_000_000
            guarded.mine.send(PROPOSAL.pack(b"P", 1, tick) + PAIR.pack(2, 70))
            guarded.guardian.step()
        assert "GPU is lost" in guarded.hear()["failed"]["fan"]
        assert guarded.guardian.end() == 1


def test_without_a_library_its_outputs_are_refused(card: Card, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = outputs(card)
    monkeypatch.setattr(nvml, "load", lambda: "no NVML: not installed")
    with bench(tmp_path, outputs=table) as guarded:
        assert set(guarded.said[0]["refused"].values()) == {"no NVML: not installed"}
    assert json.dumps(hello(tmp_path))
    gpu = nvml.Gpu(card)
    gpu.refresh()
    assert "cannot be set" in gpu.write("temp", 1).detail
    del card.nvmlDeviceGetPowerManagementLimit  # type: ignore[attr-defined]
    assert "power_limit" in str(nvml.find_output(gpu, "power_limit"))
    assert nvml.find_output(gpu, "leds") == "NVML GPU-1 has no output leds"
