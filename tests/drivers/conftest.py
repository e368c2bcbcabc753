"""One machine for all tests; where there can be none, they are skipped, and where that is not accepted they fail."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NoReturn

import pytest
from drivers.kernel import CannotBeHadError, kernel
from drivers.machine import Machine, booted
from drivers.programs import can_stand_in_front
from drivers.wired import plug_in, scenario, unplug_all

from twin.wiring import wiring


@pytest.fixture(scope="session")
def booted_machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    try:
        image = kernel()
        with booted(image, tmp_path_factory.mktemp("machine")) as machine:
            print(f"\n{image.package}: up in {machine.boot_seconds:.1f} s ({machine.guest_boot_seconds:.1f} s inside)")
            machine.call("assemble", wiring(scenario().machine))
            yield machine
    except CannotBeHadError as error:
        _not_tested("REAL DRIVERS", error)


@pytest.fixture(scope="session")
def strangers() -> None:
    try:
        can_stand_in_front()
    except CannotBeHadError as error:
        _not_tested("OTHER PROGRAMS", error)


def _not_tested(what: str, error: CannotBeHadError) -> NoReturn:
    said = f"{what} WERE NOT TESTED: {error}"
    if os.environ.get("CI") == "true":
        pytest.exit(said, returncode=1)
    pytest.skip(said)


@pytest.fixture
def machine(booted_machine: Machine) -> Machine:
    """The machine with all chips as after power-on."""
    unplug_all(booted_machine)
    plug_in(booted_machine)
    return booted_machine
