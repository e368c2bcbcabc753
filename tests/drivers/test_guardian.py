"""The guardian on real drivers: whoever is killed, and whenever, no fan is left as a dead controller set it."""

from __future__ import annotations

import random
import signal

import pytest
from drivers.machine import Machine
from drivers.wired import outputs, powered_on, scenario
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
        after = chance.random() * (0.3 if acting else 2.0)
        # Chips that were plugged in a moment ago show nothing of before: see test_drivers.py for others.
        powered_on(machine)
        seen = machine.call("strike", WIRING, REGISTERS, number, after, acting, allowed_ms * 1_000_000)
        assert seen["unsafe"] == 0, (turn, seen)
        assert seen["given_back"], (turn, seen)
        assert seen["acted"] or not acting
        acted += seen["acted"]
        last_ns.append(seen["last_ns"])
    print(
        f"\n{times} times {signal.Signals(number).name}, {acted} while it acted: cooled fully or given back after "
        f"{sorted(last_ns)[times // 2] / 1e6:.1f} ms (median), {max(last_ns) / 1e6:.1f} ms (worst), on a processor of "
        f"500 million instructions a second; no unsafe output after {allowed_ms} ms"
    )


def test_what_a_killed_guardian_leaves_is_given_back_from_its_journal(machine: Machine) -> None:
    seen = machine.call("kill_both", WIRING, REGISTERS)
    assert seen["unsafe"]
    assert seen["found"]
    assert sorted(seen["restored"]) == sorted(outputs())
    assert seen["unrestored"] == []
    assert seen["given_back"]
    print(f"\nrestored from the journal in {seen['nanoseconds'] / 1e6:.1f} ms of that processor")
