"""`twin train`: let the optimizer learn in simulation, over scenarios and seeds, into a checkpoint.

Training goes episode by episode: every scenario under the first seed, then under the next. After each one everything
that was learned, and every counter that decides what comes next, is in the checkpoint. So a training that was
interrupted at any point goes on from the last whole episode and ends with the same weights.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

from hardware.interface import Limit
from twin import __version__
from twin.cli import DONE, InputError, output
from twin.cli.episode import Case, cases_of, check_seeds, play
from twin.control.choose import make_controller, own_sources
from twin.control.view import Controller
from twin.learn.checkpoint import Checkpoint, CheckpointError, kept, latest_good, save
from twin.learn.optimizer import Optimizer
from twin.loader import canonical
from twin.scenario import Learn, Scenario
from twin.wiring import wiring


def main(options: argparse.Namespace) -> int:
    """Train, or go on training, and say what the episodes earned."""
    check_seeds(options)
    cases = cases_of(options.scenario, options.set)
    for case in cases:
        if case.scenario.learn.checkpoint:
            raise InputError(
                f"learn.checkpoint = {case.scenario.learn.checkpoint!r}: training begins with weights drawn from the "
                "seed; leave it out (--set learn.checkpoint=)"
            )
    plan = _Plan(cases, options.first_seed, options.seeds)
    out = Path(options.out)
    with _alone(out):
        return _train(options, plan, out)


@contextlib.contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Hold `out` for this process, by a lock on a file beside it that is there only meanwhile.

    Raises `InputError` when another training holds it.
    """
    if not out.name or out.is_dir():
        raise InputError(f"{out}: is a folder; name a file in it (--out)")
    place = out.with_name(f".{out.name}.lock")
    try:
        lock = os.open(place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError:
        # Where nothing can be made, saving says why.
        yield
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Who held it before may have removed it just now.
        if not place.exists() or place.stat().st_ino != os.fstat(lock).st_ino:
            raise BlockingIOError
    except OSError as error:
        os.close(lock)
        raise InputError(f"{out}: is being written by another training; name another file (--out)") from error
    try:
        yield
    finally:
        place.unlink(missing_ok=True)
        os.close(lock)


def _train(options: argparse.Namespace, plan: _Plan, out: Path) -> int:
    state = _begun(out, plan)
    rewards: list[float] = []
    with output.Progress(options, "training", plan.episodes, "episodes") as progress:
        for number in range(0 if state is None else int(state.facts["episodes"]), plan.episodes):
            state, reward = _episode(plan, number, state, out)
            rewards.append(reward)
            progress.reached(number + 1)
    assert state is not None
    result = {
        "checkpoint": str(out),
        "digest": state.digest,
        "episodes": plan.episodes,
        "cycles": int(state.facts["cycles"]),
        "scenarios": [case.scenario.name for case in plan.cases],
        "seeds": [plan.first_seed, plan.first_seed + plan.seeds - 1],
        "mean_rewards": rewards,
    }
    _report(options, result)
    return DONE


class _Plan:
    """Which episodes there are, in order, and how the learner is set for them."""

    def __init__(self, cases: list[Case], first_seed: int, seeds: int) -> None:
        self.cases = cases
        self.first_seed = first_seed
        self.seeds = seeds
        self.episodes = len(cases) * seeds
        cycles = sum(case.scenario.duration_ms // case.scenario.control.period_ms for case in cases) * seeds
        self._cycles = max(1, cycles * 3 // 4)
        self.digest = blake2b(digest_size=32)
        for case in cases:
            self.digest.update(canonical(case.scenario, case.trace_digest))
        self.digest.update(f"{first_seed} {seeds} {__version__}".encode())
        for number in range(len(cases)):
            # Made once before anything is played, so that modules of one's own are imported and can be told apart.
            _, scenario = self.case(number)
            make_controller(scenario, {limit.name: limit for limit in wiring(scenario.machine).outputs})
            self.digest.update(own_sources(scenario))

    def case(self, number: int) -> tuple[Case, Scenario]:
        """Episode `number`, and its scenario with the seed and a learner that is free to try things out."""
        case = self.cases[number % len(self.cases)]
        scenario = case.scenario
        return case, replace(
            scenario, seed=self.first_seed + number // len(self.cases), learn=self._learn(scenario.learn)
        )

    def _learn(self, learn: Learn) -> Learn:
        """Full authority and no comparing, exploration and steps that fall over three quarters of the training."""
        plain = Learn()
        return replace(
            learn,
            enabled=True,
            learning=True,
            quantised=False,
            authority_percent=100,
            authority_most_percent=100,
            compare_every_blocks=0,
            epsilon_start=0.5 if learn.epsilon_start == plain.epsilon_start else learn.epsilon_start,
            epsilon_end=0.02 if learn.epsilon_end == plain.epsilon_end else learn.epsilon_end,
            epsilon_cycles=self._cycles,
            rate_cycles=self._cycles,
            # Nobody waits for a cycle here: a whole batch in each.
            train_every_cycles=1,
        )


def _begun(out: Path, plan: _Plan) -> Checkpoint | None:
    """What an earlier call of the same training left; None when there is nothing. Raises `InputError` for another's."""
    if out.is_dir():
        raise InputError(f"{out}: is a folder; name a file in it (--out)")
    # Killed between two renames, the newest is not there, and those before it are.
    if not any(os.path.lexists(path) for path in kept(out)):
        if not out.parent.is_dir():
            raise InputError(f"{out}: there is no folder {out.parent}; make it first, or name another file")
        return None
    state = latest_good(out)
    if state.facts.get("plan") != plan.digest.hexdigest():
        raise InputError(
            f"{out}: is the checkpoint of another training (other scenarios, seeds or settings), or a controller, a "
            "reward or pulsetwin has changed since; name another file with --out, or remove this one"
        )
    episodes, cycles = state.facts.get("episodes"), state.facts.get("cycles")
    if type(episodes) is not int or type(cycles) is not int or not 1 <= episodes <= plan.episodes or cycles < 0:
        raise CheckpointError(
            state.path,
            f"says {episodes} of {plan.episodes} episodes and {cycles} cycles; take it from a copy, or train anew",
        )
    return state


def _episode(plan: _Plan, number: int, state: Checkpoint | None, out: Path) -> tuple[Checkpoint, float]:
    case, scenario = plan.case(number)
    made: list[Optimizer] = []

    def make(scenario: Scenario, limits: Mapping[str, Limit]) -> Controller:
        controller = make_controller(scenario, limits)
        assert isinstance(controller, Optimizer)
        if state is not None:
            controller.brain.restore(state.arrays)
        made.append(controller)
        return controller

    episode = play(scenario, make, case.trace)
    facts: dict[str, str | int] = {
        "plan": plan.digest.hexdigest(),
        "episodes": number + 1,
        "cycles": episode.cycles + (0 if state is None else int(state.facts["cycles"])),
        "scenarios": " ".join(case.scenario.name for case in plan.cases),
        "first_seed": plan.first_seed,
        "seeds": plan.seeds,
    }
    arrays = made[0].brain.arrays()
    return Checkpoint(out, arrays, facts, save(out, arrays, facts)), episode.mean_reward


def _report(options: argparse.Namespace, result: dict[str, Any]) -> None:
    if options.json:
        output.print_json(result)
        return
    if options.quiet:
        return
    rewards = result["mean_rewards"]
    rows = [
        ("trained on", f"{', '.join(result['scenarios'])}, seeds {result['seeds'][0]} to {result['seeds'][1]}"),
        ("episodes", f"{result['episodes']:,} in all, {len(rewards):,} of them now; {result['cycles']:,} cycles"),
        (
            "reward a cycle",
            f"{rewards[0]:.3f} in the first of these, {rewards[-1]:.3f} in the last"
            if rewards
            else "it was finished before; nothing has changed",
        ),
        ("checkpoint", f"{result['checkpoint']}, {result['digest']}"),
    ]
    output.print_table("Training", ("", ""), rows)
