"""Which controller a scenario names: one of ours, or `module:factory` for one of yours."""

from __future__ import annotations

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


def make_controller(scenario: Scenario, limits: Mapping[str, Limit]) -> Controller:
    """A fresh controller. `module:factory` is imported and called as `factory(scenario, limits)`.

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


def controller_source(controller: Controller) -> bytes:
    """The source of the module that a controller of one's own comes from; empty for ours, or where there is none.

    It tells runs apart: after a change in a controller the same scenario gives another run.
    """
    module = sys.modules.get(type(controller).__module__)
    file = getattr(module, "__file__", None)
    if file is None or type(controller).__module__.startswith("twin."):
        return b""
    try:
        return Path(file).read_bytes()
    except OSError:
        return b""


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
