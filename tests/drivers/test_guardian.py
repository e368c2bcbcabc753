"""The guardian on real drivers: whoever is killed, and whenever, no fan is left as a dead controller set it."""

from __future__ import annotations

import random
import signal

import pytest
from drivers.machine import Machine
from drivers.wired import ADT7475, AMC6821, FANS, outputs, powered_on, scenario
from profiles import NIGHTLY

from twin.wiring import wiring

WIRING = wiring(scenario().machine)
REGISTERS = [register for pair in outputs().values() for register in pair]
KILLS, STOPS = (100, 20) if NIGHTLY else (8, 1)


@pytest.mark.parametrize(("number", "times", "allowed_ms"), [(signal.SIGKILL, KILLS, 50), (signal.SIGSTOP, STOPS, 500)])
def test_a_controller_that_is_struck_leaves_no_fan_behind(
    machine: Machine, number: int, times: int, allowed_ms: int
) -> None:
    # Half of the kills come at any moment since the start, where the guardian may not be there yet; the rest while it
    # acts. One that is stopped before it has acted has nothing to lose.
    chance = random.Random(7)
    last_ns = []
    acted = 0
    for turn in range(times):
        acting = turn % 2 == 0 or number == signal.SIGSTOP
        after = chance.random() * (0.3 if acting else 0.8)
        # Chips that were plugged in a moment ago show nothing of before, and nobody still looks whether he was obeyed.
        powered_on(machine)
        seen = machine.call("strike", WIRING, REGISTERS, number, after, acting, allowed_ms * 1_000_000)
        assert seen["unsafe"] == 0, (turn, seen)
        assert seen["given_back"], (turn, seen)
        assert seen["acted"] or not acting, f"{turn}: {seen}"
        acted += seen["acted"]
        last_ns.append(seen["last_ns"])
    print(
        f"\n{times} times {signal.Signals(number).name}, {acted} while it acted: cooled fully or given back after "
        f"{sorted(last_ns)[times // 2] / 1e6:.1f} ms (median), {max(last_ns) / 1e6:.1f} ms (worst), on a processor of "
        f"500 million instructions a second; no unsafe output after {allowed_ms} ms"
    )


def held(machine: Machine) -> dict[str, tuple[int, bool]]:
    """Output -> its duty cycle, and whether it is set by hand."""
    found = machine.call("look", REGISTERS)
    chips = (chip for chip, _index in FANS.values())
    pairs = zip(found[::2], found[1::2], chips, strict=True)
    return {name: (duty, chip.manual(mode)) for name, (duty, mode, chip) in zip(outputs(), pairs, strict=True)}


def test_chips_that_come_back_in_another_order_are_taken_again_and_given_back_as_far_as_drivers_can(
    machine: Machine,
) -> None:
    """One chip is gone, of the other one the driver; both keep their registers, and change their numbers."""
    numbers = machine.call("plugged")
    machine.call("start", WIRING, "guarded")
    machine.call("act", dict.fromkeys(outputs(), 111), 3, REGISTERS)
    assert held(machine) == dict.fromkeys(outputs(), (111, True))
    machine.call("unbind", AMC6821.name, AMC6821.address)
    machine.call("unplug", ADT7475.address)
    applied, _ = machine.call("act", dict.fromkeys(outputs(), 122), 3, REGISTERS)
    assert {name for name, _why in applied.failed} == set(outputs())
    # Nobody can reach them.
    assert held(machine) == dict.fromkeys(outputs(), (111, True))
    machine.call("plug", ADT7475.name, ADT7475.address)
    machine.call("bind", AMC6821.name, AMC6821.address)
    assert machine.call("plugged") != numbers
    applied, _ = machine.call("act", dict.fromkeys(outputs(), 133), 12, REGISTERS)
    assert applied.failed == ()
    assert held(machine) == dict.fromkeys(outputs(), (133, True))
    # What the driver of adt7475 finds in manual mode it cannot make automatic: it does not know by which temperature.
    unrestored = machine.call("close")
    assert {name for name, why in unrestored if why.startswith("EINVAL")} == {"cpu_fan_pwm", "case_fan_pwm"}
    after = held(machine)
    assert not after.pop("gpu_fan_pwm")[1]
    assert after == dict.fromkeys(after, (255, True))
    # It is kept, for whoever tells the driver.
    for index in (1, 2):
        place = f"/sys/class/hwmon/{machine.call('plugged')[ADT7475.address][1]}/pwm{index}_auto_channels_temp"
        assert machine.call("write_file", place, "1") == ""
    assert machine.call("give_back")["unrestored"] == []
    assert {by_hand for _duty, by_hand in held(machine).values()} == {False}


def test_what_a_killed_guardian_leaves_is_given_back_from_its_journal(machine: Machine) -> None:
    seen = machine.call("kill_both", WIRING, REGISTERS)
    assert seen["unsafe"]
    assert seen["found"]
    assert sorted(seen["restored"]) == sorted(outputs())
    assert seen["unrestored"] == []
    assert seen["given_back"]
    print(f"\nrestored from the journal in {seen['nanoseconds'] / 1e6:.1f} ms of that processor")
