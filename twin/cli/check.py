"""`twin check`: the conformance suite against a backend."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from hardware.check import Check, check_hardware
from hardware.replay import RecordingHardware, ReplayHardware
from twin.cli import ANSWER_IS_NO, DONE, InputError, output
from twin.cli.backends import linux, lockstep, simulated
from twin.loader import load
from twin.scenario import Scenario


def main(options: argparse.Namespace) -> int:
    """Check, and list every rule with what was found."""
    if options.root is not None and options.backend != "linux":
        raise InputError("--root goes with the linux backend")
    scenario = load("idle", ["duration_ms=5000"])
    with tempfile.TemporaryDirectory(prefix="twin-check-") as folder:
        checks = _checks(options, scenario, Path(folder))
    passed = all(check.passed for check in checks)
    if options.json:
        found = [{"name": check.name, "passed": check.passed, "detail": check.detail} for check in checks]
        output.print_json({"backend": options.backend, "passed": passed, "checks": found})
    else:
        rows = [("yes" if check.passed else "NO", check.name, check.detail) for check in checks]
        output.print_table(f"Conformance of the {options.backend} backend", ("kept", "rule", "found"), rows)
    return DONE if passed else ANSWER_IS_NO


def _checks(options: argparse.Namespace, scenario: Scenario, folder: Path) -> list[Check]:
    if options.backend == "simulated":
        return check_hardware(lambda: simulated(scenario).hardware)
    if options.backend == "lockstep":
        return check_hardware(lambda: lockstep(scenario, folder).hardware)
    if options.backend == "linux":
        return check_hardware(lambda: linux(scenario, Path(options.root or "/")).hardware)
    # A recording of the suite itself, so that the replay is asked what it can answer.
    recording = RecordingHardware(simulated(scenario).hardware)
    check_hardware(lambda: recording)
    return check_hardware(lambda: ReplayHardware(recording.sensors, recording.limits, recording.cycles))
