"""`twin serve`: the simulated machine as a tree of files that lives in wall time, for other programs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

from simpy import Event

from hardware.live import LiveTree
from twin.cli import DONE, InputError, output
from twin.cli.backends import world_in
from twin.cli.episode import Case
from twin.cli.run import stopping_cleanly
from twin.clock import Order, TwinEnvironment, VirtualEnvironment, WallEnvironment
from twin.timing import MILLISECOND_NS, SECOND_NS
from twin.wiring import wiring

PERIOD_NS = 50 * MILLISECOND_NS
"""How often files and world are brought together."""


class _Keeper:
    """Brings the tree and the world together until `end_ns` (None: for ever), or until it is stopped."""

    def __init__(self, env: TwinEnvironment, tree: LiveTree, end_ns: int | None) -> None:
        self._env = env
        self._tree = tree
        self._end_ns = end_ns
        self._stopped = False

    def stop(self) -> None:
        """End before the next time."""
        self._stopped = True

    def keep(self) -> Generator[Event, None, None]:
        """The process."""
        while not self._stopped and (self._end_ns is None or int(self._env.now) < self._end_ns):
            self._tree.take()
            self._tree.show()
            yield self._env.after(PERIOD_NS, Order.CONTROL)


def main(options: argparse.Namespace) -> int:
    """Serve until the time is over or somebody interrupts, and say what became of the machine."""
    seed = [] if options.seed is None else [f"seed={options.seed}"]
    case = Case.of(options.scenario, [*options.set, *seed])
    scenario, channels, root = case.scenario, wiring(case.scenario.machine), Path(options.root)
    if root.exists() and not root.is_dir():
        raise InputError(f"--root {root}: is a file; name a folder for the tree alone")
    _warm_up(case)
    env = WallEnvironment()
    world = world_in(env, scenario, case.trace)
    firmware = {limit.name: world.commanded(limit.name) for limit in channels.outputs}
    try:
        tree = LiveTree(world, channels, root, firmware)
    except ValueError as error:
        raise InputError(f"--root: {error}") from error
    with tree:
        keeper = _Keeper(env, tree, None if options.duration is None else round(options.duration * SECOND_NS))
        if not options.quiet:
            print(f"{scenario.name} lives in {root}; Ctrl-C ends it and takes the tree away", file=sys.stderr)
        with stopping_cleanly(keeper.stop):
            env.run(until=env.process(keeper.keep()))
    hottest = world.maxima_celsius
    _report(
        options,
        {
            "root": str(root),
            "scenario": scenario.name,
            "seed": scenario.seed,
            "seconds": int(env.now) / SECOND_NS,
            "changes": tree.changes,
            "in_force": tree.in_force,
            "hottest_celsius": {node: round(celsius, 3) for node, celsius in hottest.items()},
            "over_limit": [
                sensor.name for sensor in scenario.machine.sensors if hottest[sensor.node] > sensor.limit_celsius
            ],
        },
    )
    return DONE


def _warm_up(case: Case) -> None:
    """Let the world live for a moment elsewhere: what is compiled later would make it late."""
    env = VirtualEnvironment()
    world = world_in(env, case.scenario, case.trace)
    env.run(until=SECOND_NS)
    world.sense()


def _report(options: argparse.Namespace, result: dict[str, Any]) -> None:
    if options.json:
        output.print_json(result)
    elif not options.quiet:
        rows = [
            ("served", f"{result['seconds']:g} s; other programs changed an output {result['changes']:,} times"),
            ("outputs", ", ".join(f"{name} {value:,}" for name, value in result["in_force"].items())),
            ("hottest", ", ".join(f"{node} {value:.1f} °C" for node, value in result["hottest_celsius"].items())),
            ("over a limit", ", ".join(result["over_limit"]) or "nothing"),
        ]
        output.print_table(f"{result['scenario']} in {result['root']}", ("", ""), rows)
