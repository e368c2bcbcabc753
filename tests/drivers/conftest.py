"""One machine for all tests; where there can be none, they are skipped, and where that is not accepted they fail."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import NoReturn

import pytest
from drivers.kernel import CannotBeHadError, kernel
from drivers.machine import Machine, booted
from drivers.programs import can_stand_in_front
from drivers.wired import powered_on, scenario

from twin.wiring import wiring

Start = tuple[str, Machine] | CannotBeHadError | None
"""The kernel's package and the machine that starts with it, or why it cannot be had."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Other programs come first: while they have their time, the machine starts."""
    items.sort(key=needs_machine)


def needs_machine(item: pytest.Item) -> bool:
    return "booted_machine" in getattr(item, "fixturenames", ())


@pytest.fixture(scope="session", autouse=True)
def starting(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """The machine, as soon as there is anything to do, or why there is none."""
    if not any(map(needs_machine, request.session.items)):
        yield None
        return
    with contextlib.ExitStack() as stack:
        try:
            image = kernel()
            found: Start = image.package, stack.enter_context(booted(image, tmp_path_factory.mktemp("machine")))
        except CannotBeHadError as error:
            found = error
        yield found


@pytest.fixture(scope="session")
def booted_machine(starting: Start) -> Machine:
    if not isinstance(starting, tuple):
        _not_tested("REAL DRIVERS", starting)
    package, machine = starting
    print(f"\n{package}: ", end="")
    machine.up()
    machine.call("assemble", wiring(scenario().machine))
    return machine


@pytest.fixture(scope="session")
def strangers() -> None:
    try:
        can_stand_in_front()
    except CannotBeHadError as error:
        _not_tested("OTHER PROGRAMS", error)


def _not_tested(what: str, error: CannotBeHadError | None) -> NoReturn:
    said = f"{what} WERE NOT TESTED: {error}"
    if os.environ.get("CI") == "true":
        pytest.exit(said, returncode=1)
    pytest.skip(said)


@pytest.fixture
def machine(booted_machine: Machine) -> Machine:
    """The machine with all chips as after power-on, where nobody has acted before."""
    powered_on(booted_machine)
    return booted_machine
