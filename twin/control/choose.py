"""Which controller a scenario names: one of ours, or `module:factory` for one of yours."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Mapping
from pathlib import Path

from hardware.interface import Limit
from twin.control.rules import RulesPid, Steady
from twin.control.view import Controller
from twin.scenario import Scenario

_ANYTHING = (Exception, SystemExit)
"""What code that is not ours may raise."""


class ControllerError(ValueError):
    """The controller that a scenario names cannot be had."""


def make_controller(scenario: Scenario, limits: Mapping[str, Limit], checkpoint: Path | None = None) -> Controller:
    """A fresh controller: the one that the scenario names, inside the optimizer if that is switched on.

    `checkpoint` is the file of the weights that the optimizer begins with (None: drawn from the seed). Raises
    `ControllerError`, and with the optimizer `RewardError` and `CheckpointError`.
    """
    baseline = _baseline(scenario, limits)
    if not scenario.learn.enabled:
        return baseline
    # Imported here, because most runs need none of it.
    from twin.learn.optimizer import Optimizer

    return Optimizer(scenario, limits, baseline, checkpoint)


def _baseline(scenario: Scenario, limits: Mapping[str, Limit]) -> Controller:
    """The controller that the scenario names. `module:factory` is imported and called as `factory(scenario, limits)`.

    Raises `ControllerError` when that does not work.
    """
    name = scenario.control.controller
    if name == "rules-pid":
        return RulesPid(scenario, limits)
    if name == "steady":
        return Steady(scenario, limits)
    module_name, _, factory_name = name.partition(":")
    try:
        factory = getattr(importlib.import_module(module_name), factory_name)
    except _ANYTHING as error:
        raise ControllerError(
            f"control.controller = {name!r}: {_words(error)}; name a module that imports and a factory in it, as "
            "module:factory"
        ) from error
    try:
        controller: Controller = factory(scenario, limits)
    except _ANYTHING as error:
        raise ControllerError(
            f"control.controller = {name!r}: {_words(error)}, when called as {factory_name}(scenario, limits); it must "
            "return a controller (--debug shows where)"
        ) from error
    if not callable(getattr(controller, "decide", None)):
        raise ControllerError(
            f"control.controller = {name!r}: it made {type(controller).__name__}, which has no method decide(view)"
        )
    return controller


def own_sources(scenario: Scenario) -> bytes:
    """The sources of the modules that a controller and a reward of one's own come from; empty for ours.

    They tell runs apart: after a change in a controller the same scenario gives another run.
    """
    names = [scenario.control.controller, *([scenario.learn.reward] if scenario.learn.enabled else [])]
    found = b""
    for name in names:
        module_name, colon, _ = name.partition(":")
        file = getattr(sys.modules.get(module_name), "__file__", None)
        if colon and file is not None:
            with contextlib.suppress(OSError):
                found += Path(file).read_bytes()
    return found


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
