"""Which controller a scenario names: one of ours, or `module:factory` for one of yours."""

from __future__ import annotations

import importlib
from collections.abc import Mapping

from hardware.interface import Limit
from twin.control.rules import RulesPid, Steady
from twin.control.view import Controller
from twin.scenario import Scenario


class ControllerError(ValueError):
    """The controller that a scenario names cannot be had."""


def make_controller(scenario: Scenario, limits: Mapping[str, Limit]) -> Controller:
    """A fresh controller. `module:factory` is imported and called as `factory(scenario, limits)`."""
    name = scenario.control.controller
    if name == "rules-pid":
        return RulesPid(scenario, limits)
    if name == "steady":
        return Steady(scenario, limits)
    module_name, _, factory_name = name.partition(":")
    try:
        factory = getattr(importlib.import_module(module_name), factory_name)
    except (ImportError, AttributeError) as error:
        raise ControllerError(
            f"control.controller = {name!r}: {error}; name an importable module and a factory in it, as module:factory"
        ) from error
    controller: Controller = factory(scenario, limits)
    if not callable(getattr(controller, "decide", None)):
        raise ControllerError(f"control.controller = {name!r}: what it made has no method decide(view)")
    return controller
