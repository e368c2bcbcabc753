"""One machine for all tests; where there can be none, they are skipped, and where that is not accepted they fail."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from drivers.kernel import CannotBeHadError, kernel
from drivers.machine import Machine, booted
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
        if os.environ.get("CI") == "true":
            pytest.exit(f"REAL DRIVERS WERE NOT TESTED: {error}", returncode=1)
        pytest.skip(f"REAL DRIVERS WERE NOT TESTED: {error}")


@pytest.fixture
def machine(booted_machine: Machine) -> Machine:
    """The machine with all chips as after power-on."""
    unplug_all(booted_machine)
    plug_in(booted_machine)
    return booted_machine
