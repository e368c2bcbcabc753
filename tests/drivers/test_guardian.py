"""The guardian on real drivers: whoever is killed, and whenever, no fan is left as a dead controller set it."""

from __future__ import annotations

import random

import pytest
from drivers.guest import HAVE_GUARDIAN
from drivers.machine import Machine
from drivers.programs import nightly
from drivers.wired import outputs, scenario

from twin.wiring import wiring

pytestmark = pytest.mark.skipif(not HAVE_GUARDIAN, reason="there is no guardian yet")

WIRING = wiring(scenario().machine)
REGISTERS = [register for pair in outputs().values() for register in pair]
KILLS = 100 if nightly() else 8


def test_a_controller_that_is_killed_leaves_no_fan_behind(machine: Machine) -> None:
    # Half of the moments lie anywhere since the start, where the guardian may not be there yet, half while it acts.
    chance = random.Random(7)
    last_ns = []
    acted = 0
    for kill in range(KILLS):
        acting = kill % 2 == 0
        seen = machine.call("kill_controller", WIRING, REGISTERS, chance.random() * (0.3 if acting else 2.0), acting)
        assert seen["unsafe"] == 0, (kill, seen)
        assert seen["given_back"], (kill, seen)
        assert seen["acted"] or not acting
        acted += seen["acted"]
        last_ns.append(seen["last_ns"])
    print(
        f"\n{KILLS} kills, {acted} while it acted: given back after {sorted(last_ns)[KILLS // 2] / 1e6:.1f} ms "
        f"(median), {max(last_ns) / 1e6:.1f} ms (worst), on a processor of 500 million "
        "instructions a second; no unsafe output after 50 ms"
    )


def test_what_a_killed_guardian_leaves_is_given_back_from_its_journal(machine: Machine) -> None:
    seen = machine.call("kill_both", WIRING, REGISTERS)
    assert seen["unsafe"]
    assert seen["found"]
    assert sorted(seen["restored"]) == sorted(outputs())
    assert seen["unrestored"] == []
    assert seen["given_back"]
    print(f"\nrestored from the journal in {seen['nanoseconds'] / 1e6:.1f} ms of that processor")
