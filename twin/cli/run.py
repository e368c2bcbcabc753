"""`twin run`: a scenario on a simulated or a real machine, recorded."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from hardware.interface import Hardware
from twin import __version__
from twin.cli import DONE, FAILED, INTERRUPTED, InputError, output
from twin.cli.backends import Access, Backend, opened, simulated
from twin.cli.crystal import crystal_core
from twin.cli.page import Page, Watchers, about_run, check_page, fed, paced, page_for
from twin.control.choose import make_controller, own_sources
from twin.control.view import Controller
from twin.fingerprint.run import MOST_TICKS, run_fingerprint
from twin.fingerprint.run import warm_up as warm_up_fingerprint
from twin.loader import ScenarioError, canonical, checkpoint_path, find, input_digests, load, to_toml, trace_path
from twin.loop import Loop
from twin.machines import load_machine
from twin.record import rundir
from twin.record.digest import run_digest
from twin.record.files import RecordInputError, make_folder, write_atomic, write_json
from twin.record.logs import logging_to
from twin.record.recorder import Nowhere, Recorded, RunRecorder
from twin.record.seamformat import SeamHeader
from twin.scenario import Scenario
from twin.service import announced
from twin.world.trace import TraceTable, load_trace

RUN_SCHEMA = "run/1"
log = logging.getLogger("twin")


def main(options: argparse.Namespace) -> int:
    """Run, record, and say what happened."""
    _check_options(options)
    source = find(options.scenario)
    scenario = _load(options)
    trace_file, weights = trace_path(scenario, source), checkpoint_path(scenario, source)
    trace = None if trace_file is None or scenario.workload.trace is None else _load_trace(trace_file, scenario)
    root = None if options.root is None else Path(options.root)
    inputs = input_digests(scenario, source)
    warm_up(scenario, trace)
    access = Access(options.act, options.shadow, _budget(options))
    with page_for(options) as page, opened(options.backend, scenario, root, trace, access) as backend:
        controller = make_controller(scenario, backend.hardware.limits, weights)
        key = _key(scenario, inputs, options.backend)
        with _directory(options, scenario, key) as directory:
            if trace_file is not None:
                shutil.copyfile(trace_file, directory.path / kept_trace_name(trace_file))
                scenario = with_trace_file(scenario, kept_trace_name(trace_file))
            if weights is not None:
                shutil.copyfile(weights, directory.path / rundir.WEIGHTS)
                scenario = replace(scenario, learn=replace(scenario.learn, checkpoint=rundir.WEIGHTS))
            write_atomic(directory.file(rundir.SCENARIO), to_toml(scenario).encode())
            result = _record(options, scenario, backend, controller, directory, trace, inputs, page)
    _report(options, result)
    # A machine that is not as it was is worse than a run that was stopped.
    return FAILED if result["unrestored"] else INTERRUPTED if result.pop("stopped") else DONE


def _load(options: argparse.Namespace) -> Scenario:
    """The scenario, on the machine that was named, if one was."""
    if options.machine is None:
        return load(options.scenario, _overrides(options))
    machine = load_machine(options.machine).table
    try:
        return load(options.scenario, _overrides(options), machine)
    except ScenarioError as error:
        # Whatever names a part of the scenario's own machine may be wrong on another one.
        raise ScenarioError(f"{error.where} on the machine {options.machine}", error.problems) from None


def _check_options(options: argparse.Namespace) -> None:
    wrong = check_page(options)
    if options.backend != "linux":
        wrong += [f"--{name} goes with --backend linux" for name in ("act", "shadow", "load") if getattr(options, name)]
    if options.backend == "simulated" and options.root is not None:
        wrong.append("--root goes with --backend linux or lockstep")
    if options.backend == "linux" and options.root is not None and not Path(options.root).is_dir():
        wrong.append(f"--root {options.root}: is not a folder; name one that holds sys and proc")
    if options.backend == "lockstep" and options.root is not None and Path(options.root).is_file():
        wrong.append(f"--root {options.root}: is a file; name a folder for the tree")
    if options.go_live_within is not None and not (options.act and options.shadow):
        wrong.append("--go-live-within goes with --shadow --act: it says when to act")
    if options.act and options.shadow and options.go_live_within is None:
        wrong.append("--shadow --act: in shadow nothing is acted on until --go-live-within C:SECONDS is kept; name it")
    if wrong:
        raise InputError("; ".join(wrong))
    if options.load:
        from twin.cli.player import check_port

        check_port(Path(options.root or "/"))


def _budget(options: argparse.Namespace) -> tuple[int, float] | None:
    """How far the twin may part (millicelsius), and for how long it must not have (s)."""
    if options.go_live_within is None:
        return None
    celsius, seconds = options.go_live_within
    return round(celsius * 1_000), seconds


def _overrides(options: argparse.Namespace) -> list[str]:
    named = {
        "seed": options.seed,
        "duration_ms": None if options.duration is None else round(options.duration * 1_000),
        "heartbeat.config": _quoted(options.config),
        "heartbeat.law": _quoted(options.law),
        "recording.ticks": _quoted(options.ticks),
        "pool.shared": None if options.crystal is None else str(options.crystal).lower(),
        "learn.enabled": None if options.neural is None else str(options.neural).lower(),
    }
    return [*options.set, *(f"{key}={value}" for key, value in named.items() if value is not None)]


def _quoted(text: str | None) -> str | None:
    """A text as TOML has it, where JSON and TOML agree."""
    return None if text is None else json.dumps(text, ensure_ascii=False)


def _load_trace(path: Path, scenario: Scenario) -> TraceTable:
    assert scenario.workload.trace is not None
    if not path.is_file():
        raise InputError(f"{path}: the trace of the scenario is not there, or no file; workload.trace.file names it")
    return load_trace(path, scenario.workload.trace)


def kept_trace_name(trace_file: Path) -> str:
    """What the copy of a trace is called in the run directory."""
    return rundir.TRACE_GZ if trace_file.suffix == ".gz" else rundir.TRACE


def with_trace_file(scenario: Scenario, name: str) -> Scenario:
    """The same scenario with its trace in the file `name`."""
    assert scenario.workload.trace is not None
    trace = replace(scenario.workload.trace, file=name)
    return replace(scenario, workload=replace(scenario.workload, trace=trace))


def warm_up(scenario: Scenario, trace: TraceTable | None) -> None:
    """Run a moment of the scenario without recording: every kernel is compiled and imported before time matters."""
    import pyarrow.parquet  # noqa: F401

    moment = replace(
        scenario,
        duration_ms=3 * scenario.control.period_ms,
        control=replace(scenario.control, controller="rules-pid"),
        learn=replace(scenario.learn, reward="standard"),
    )
    backend = simulated(moment, trace)
    controller = make_controller(moment, backend.hardware.limits)
    Loop(backend.env, backend.hardware, moment, controller, Nowhere()).run()
    warm_up_fingerprint()


def _key(scenario: Scenario, inputs: tuple[str, str], backend: str) -> str:
    # A run on a real machine is like no other; a simulated one gives the same bytes again.
    source = f"linux {time.time_ns()} {os.getpid()}" if backend == "linux" else backend
    heart = scenario.heartbeat
    return rundir.run_key(
        __version__,
        canonical(scenario, *inputs) + scenario.recording.ticks.encode() + own_sources(scenario),
        scenario.seed,
        heart.config,
        heart.law,
        source,
    )


def _directory(options: argparse.Namespace, scenario: Scenario, key: str) -> rundir.RunDirectory:
    if options.out is not None:
        return rundir.RunDirectory.create(Path(options.out), key)
    # A scenario may be called anything; its folder stays inside runs/.
    safe = re.sub(r"[^A-Za-z0-9_-]+", "_", scenario.name)
    name = f"{safe}-{scenario.seed}" + ("" if options.backend == "simulated" else f"-{options.backend}")
    folder = make_folder(Path("runs"))
    for number in range(1, 1_000_000):
        try:
            return rundir.RunDirectory.create(folder / (name if number == 1 else f"{name}-{number}"), key)
        except RecordInputError:
            continue
    raise InputError(f"runs/{name}-*: there are too many; name another directory (--out)")


def _record(
    options: argparse.Namespace,
    scenario: Scenario,
    backend: Backend,
    controller: Controller,
    directory: rundir.RunDirectory,
    trace: TraceTable | None,
    inputs: tuple[str, str],
    page: Page | None,
) -> dict[str, Any]:
    hardware = backend.hardware
    with (
        logging_to(directory.file(rundir.RUN_LOG)),
        crystal_core(scenario, hardware.limits, directory.path) as core,
        fed(page, about_run(options, scenario, hardware, directory.path), controller, directory) as feed,
    ):
        recorder = RunRecorder(
            directory.path, scenario, hardware.sensors, hardware.limits, seam_header(scenario, hardware), MOST_TICKS
        )
        log.info("%s, seed %d, loops %s, %s law, on the %s machine, for %g s", scenario.name, scenario.seed,
                 scenario.heartbeat.config, scenario.heartbeat.law, options.backend,
                 scenario.duration_ms / 1_000)  # fmt: skip
        acted = backend.acted
        if acted is not None:
            acted.begun()
        began = time.perf_counter()
        try:
            with announced(recorder, scenario.control.period_ms) as told:
                words = None if core is None else core.crystal
                watchers = Watchers([each for each in (core, feed, paced(options), acted) if each is not None])
                loop = Loop(backend.env, hardware, scenario, controller, told, words, watchers or None)
                ended = _run(options, scenario, backend, trace, loop)
            recorded = recorder.close(ended=True)
        except BaseException as error:
            log.info("cut short: %s: %s", type(error).__name__, error)
            recorder.abandon()
            raise
        finally:
            if acted is not None:
                acted.conclude()
        missed = {"missed_ticks": loop.heart.missed, "missed_cycles": loop.missed_cycles}
        figures = run_fingerprint(recorded.captured, scenario.heartbeat.words, {**missed, **recorded.figures})
        wall_seconds = time.perf_counter() - began
        digests = run_digests(scenario, inputs, recorded)
        seconds = float(backend.env.now) / 1e9
        write_json(directory.file(rundir.FINGERPRINT), figures)
        crystal = None if core is None else core.words()
        facts = {
            "run_dir": str(directory.path),
            "scenario": scenario.name,
            "seed": scenario.seed,
            "config": scenario.heartbeat.config,
            "law": scenario.heartbeat.law,
            "backend": options.backend,
        }
        directory.write_manifest(
            versions(),
            digests,
            {"ticks": recorded.ticks, "control": recorded.control},
            {**{key: value for key, value in facts.items() if key != "run_dir"}, "stopped": int(not ended)},
        )
        for name in recorded.missing:
            log.info("%s never had a value: %s", name, backend.missing.get(name, "the machine has none"))
        log.info("%s after %g s, run digest %s", "ended" if ended else "stopped", seconds, digests["run_digest"])
        if feed is not None:
            feed.state = "ended" if ended else "stopped"
    return {
        **facts,
        "ticks": recorded.ticks.rows,
        "simulated_seconds": seconds,
        "wall_seconds": wall_seconds,
        "ticks_per_second": recorded.ticks.rows / wall_seconds,
        **digests,
        "missing": recorded.missing,
        "fingerprint": figures,
        "unrestored": [] if acted is None else [{"output": name, "why": why} for name, why in acted.unrestored],
        "guardian": None if acted is None else acted.figures,
        "stopped": not ended,
        "crystal": crystal,
        "acted": [] if acted is None else acted.rows(),
    }


def _run(
    options: argparse.Namespace, scenario: Scenario, backend: Backend, trace: TraceTable | None, loop: Loop
) -> bool:
    with contextlib.ExitStack() as stack:
        progress = stack.enter_context(output.Progress(options, scenario.name, scenario.duration_ms // 1_000))
        progress.watch(backend.env)
        stack.enter_context(stopping_cleanly(loop.stop))
        if options.load:
            from twin.cli.player import playing

            stack.enter_context(playing(scenario, trace, Path(options.root or "/")))
        return loop.run()


@contextlib.contextmanager
def stopping_cleanly(stop: Callable[[], None]) -> Iterator[None]:
    """The first interrupt calls `stop`, which ends a run before its next cycle; a second one ends the program."""
    before: dict[signal.Signals, Any] = {}

    def on_signal(number: int, _: object) -> None:
        stop()
        signal.signal(number, before[signal.Signals(number)])

    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        before[each] = signal.signal(each, on_signal)
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def seam_header(scenario: Scenario, hardware: Hardware) -> SeamHeader:
    """What a log has to say about the run it belongs to."""
    return SeamHeader(
        __version__,
        to_toml(scenario),
        scenario.seed,
        scenario.heartbeat.config,
        scenario.heartbeat.law,
        hardware.sensors,
        tuple(hardware.limits.values()),
    )


def run_digests(scenario: Scenario, inputs: tuple[str, str], recorded: Recorded) -> dict[str, str]:
    """The three digests of a run, whose trace and checkpoint have the digests `inputs`."""
    heart = scenario.heartbeat
    tick, control = recorded.ticks.digest, recorded.control.digest
    whole = run_digest(RUN_SCHEMA, canonical(scenario, *inputs), scenario.seed, heart.config, heart.law, tick, control)
    return {"tick_digest": tick, "control_digest": control, "run_digest": whole}


def versions() -> dict[str, str]:
    """What made a run: this package, Python, and the packages that compute or write."""
    from importlib.metadata import version

    from twin.kernels import MODE

    names = ("numpy", "simpy", "pyarrow", *(["numba"] if MODE == "numba" else []))
    python = ".".join(str(part) for part in sys.version_info[:3])
    return {"pulsetwin": __version__, "python": python, "kernels": MODE} | {name: version(name) for name in names}


def _report(options: argparse.Namespace, result: dict[str, Any]) -> None:
    if options.json:
        output.print_json({key: value for key, value in result.items() if key not in ("stopped", "crystal", "acted")})
        return
    if options.quiet:
        return
    figures = result["fingerprint"]
    rows = [
        ("scenario", f"{result['scenario']}, seed {result['seed']}, on the {result['backend']} machine"),
        ("heartbeat", f"{result['ticks']:,} ticks, {figures['word_executions']:,} words, "
                      f"{figures['missed_ticks']:,} deadlines missed; loops {result['config']}, {result['law']} law"),
        ("control", f"{figures['cycles']:,} cycles; held back in {_percent(figures['throttle_ratio'])}, "
                    f"cooled for safety in {_percent(figures['failsafe_ratio'])}"),
        ("hottest", _figure(figures, "max_temp_millicelsius", 1_000, "\u00b0C")),
        ("over a limit", _figure(figures, "time_over_limit_ns", 10**9, "s")),
        ("energy", _figure(figures, "energy_joules", 1, "J")),
        ("frames", _frames(figures)),
        ("stability", _stability(figures)),
        ("took", f"{result['wall_seconds']:.2f} s for {result['simulated_seconds']:g} s "
                 f"({result['ticks_per_second']:,.0f} ticks a second)"),
    ]  # fmt: skip
    if result["crystal"]:
        rows.insert(-1, ("Crystal Core", result["crystal"]))
    if result["missing"]:
        rows.append(("missing", ", ".join(result["missing"])))
    rows += result["acted"]
    rows += [(name.replace("_", " "), result[name]) for name in ("tick_digest", "control_digest", "run_digest")]
    rows.append(("recorded in", result["run_dir"]))
    if result["stopped"]:
        rows.append(("stopped", "before its end; what is above was saved"))
    output.print_table("What happened", ("", ""), rows)


def _figure(figures: dict[str, Any], name: str, divide: float, unit: str) -> str:
    value = figures[name]
    return f"not known: {figures['reasons'][name]}" if value is None else f"{value / divide:,.1f} {unit}"


def _frames(figures: dict[str, Any]) -> str:
    if figures["fps_mean"] is None or figures["latency_p99_us"] is None:
        return f"none: {figures['reasons'].get('fps_mean') or figures['reasons']['latency_p99_us']}"
    return f"{figures['fps_mean']:.1f} a second, 99 % within {figures['latency_p99_us'] / 1_000:.1f} ms"


def _stability(figures: dict[str, Any]) -> str:
    score, start = figures["overall_stability_score"], figures["convergence_time_ticks"]
    if score is None:
        return f"not known: {figures['reasons']['overall_stability_score']}"
    return f"{score:.1f} of 100, " + ("never steady" if start is None else f"steady from tick {start:,} on")


def _percent(share: float | None) -> str:
    return "no cycle" if share is None else f"{100 * share:.1f} % of them"
