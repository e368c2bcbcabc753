"""`twin replay`: a recorded run again from its seam log, every digest checked."""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from hardware.replay import RecordedCycle, ReplayHardware
from twin.cli import ANSWER_IS_NO, DONE, InputError, output
from twin.cli.crystal import crystal_core
from twin.cli.run import run_digests
from twin.clock import RecordedLateness, VirtualEnvironment
from twin.control.choose import make_controller
from twin.loader import checkpoint_path, input_digests, parse
from twin.loop import Loop
from twin.record.compare import first_difference
from twin.record.files import make_folder
from twin.record.recorder import Recorded, RunRecorder
from twin.record.rundir import SCENARIO, SEAM_LOG, RunDirectory
from twin.record.seamlog import SeamLog, read_seam_log
from twin.scenario import Recording, Scenario
from twin.timing import Wake


def main(options: argparse.Namespace) -> int:
    """Replay, compare the digests, and name the first difference if there is one."""
    directory = RunDirectory.open(Path(options.run), needs=())
    if not directory.file(SEAM_LOG).is_file():
        raise InputError(f"{directory.path}: has no {SEAM_LOG}, without which a run cannot be replayed; run it again")
    log = read_seam_log(directory.file(SEAM_LOG))
    if directory.manifest is not None and not log.complete:
        raise InputError(
            f"{directory.file(SEAM_LOG)}: the run was complete, but its log is truncated; good up to {log.last_good}; "
            "take the file from a copy, or run again"
        )
    if not log.complete:
        print(f"twin: the run was cut short; replaying up to {log.last_good}", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="twin-replay-") as temporary:
        place = Path(temporary) if options.out is None else make_folder(Path(options.out), empty=True)
        scenario, recorded = replay(directory.path, log, place, options.crystal)
        digests = run_digests(scenario, input_digests(scenario, directory.path / SCENARIO), recorded)
        recorded_digests = {} if directory.manifest is None else directory.manifest["digests"]
        differing = [name for name in recorded_digests if digests.get(name) != recorded_digests[name]]
        difference = first_difference(directory.path, place) if differing else None
    result: dict[str, Any] = {
        "run_dir": str(directory.path),
        "ticks": recorded.ticks.rows,
        "cycles": recorded.control.rows,
        **digests,
        "equal": None if not recorded_digests else not differing,
        "differing": differing,
        "first_difference": None if difference is None else str(difference),
    }
    _report(options, result)
    return ANSWER_IS_NO if differing else DONE


def replay(run: Path, log: SeamLog, place: Path, crystal: bool = False) -> tuple[Scenario, Recorded]:
    """Run the log of the run directory `run` again and write its tables into `place`, with a shared pool if asked.

    The pool is laid out as it was in the recorded run: nobody is asked again.
    """
    scenario = parse(log.header.scenario, str(run / SEAM_LOG))
    pool = replace(scenario.pool, shared=crystal, file="")
    scenario = replace(scenario, recording=Recording(ticks="all"), pool=pool)
    wakes = [Wake(cycle.lateness_ns, cycle.suspended_ns) for cycle in log.cycles]
    cycles = (RecordedCycle(cycle.readings, cycle.command.values, cycle.applied) for cycle in log.cycles)
    limits = {limit.name: limit for limit in log.header.limits}
    hardware = ReplayHardware(log.header.channels, limits, cycles)
    env = VirtualEnvironment(RecordedLateness(log.lateness_ns, wakes))
    controller = make_controller(scenario, hardware.limits, checkpoint_path(scenario, run / SCENARIO))
    with crystal_core(scenario, hardware.limits, place, run) as core:
        recorder = RunRecorder(place, scenario, hardware.sensors, hardware.limits, None)
        try:
            words = None if core is None else core.crystal
            Loop(env, hardware, scenario, controller, recorder, words, core).run()
            return scenario, recorder.close(ended=True)
        except BaseException:
            recorder.abandon()
            raise


def _report(options: argparse.Namespace, result: dict[str, Any]) -> None:
    if options.json:
        output.print_json(result)
        return
    if options.quiet:
        return
    verdict = {None: "nothing recorded to compare with", True: "equal to the recorded run", False: "DIFFERENT"}
    rows = [("replayed", f"{result['ticks']:,} ticks, {result['cycles']:,} control cycles")]
    rows += [
        (name.replace("_", " "), result[name] + (" differs" if name in result["differing"] else ""))
        for name in ("tick_digest", "control_digest", "run_digest")
    ]
    rows.append(("digests", verdict[result["equal"]]))
    if result["first_difference"] is not None:
        rows.append(("first difference", result["first_difference"]))
    output.print_table(f"Replay of {result['run_dir']}", ("", ""), rows)
