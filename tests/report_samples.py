"""Experiments that nobody ran, for tests of reports: made-up runs in a real directory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from twin.experiment.conduct import finish
from twin.experiment.jobs import Outcome
from twin.experiment.kicks import Course
from twin.experiment.plan import Plan, parse_plan
from twin.experiment.store import SHARD_RUNS, Store
from twin.fingerprint.configuration import KickResult
from twin.fingerprint.run import FIELDS, METRICS
from twin.heart import ticks as heart
from twin.kernels import Integers
from twin.record.memory import kept_ticks

FIVE = ("1_0_1_1_1_0", "1_0_1_1_1_1", "1_1_0_1_1_1", "1_0_1_0_1_0", "0_1_1_0_1_1")
Edit = Callable[[int, int, dict[str, Any]], None]
"""Changes the result of configuration `place` under `seed`."""


def sample_plan(names: Sequence[str], runs: int, ticks: int, keep: str, seeds: int) -> Plan:
    entries = ", ".join(f'{{ name = "{name}", config = "1_0_1_1_1_0" }}' for name in names)
    text = (
        f'name = "sample"\nscenario = "study"\nruns = {runs}\nticks = {ticks}\nkeep = "{keep}"\n'
        f"configurations = [{entries}]\n[kicks]\nseeds = {seeds}\n"
    )
    return parse_plan(text, Path("sample.toml"))


def fingerprint(place: int, seed: int) -> dict[str, Any]:
    """A made-up fingerprint: configurations differ by their place, runs by their seed."""
    chance = np.random.default_rng(1_000 * place + seed)
    wave = chance.normal(size=len(FIELDS)).tolist()
    found: dict[str, Any] = {name: 10.0 + place + 0.3 * value for name, value in zip(FIELDS, wave, strict=True)}
    for name in ("converged", "jitter_is_white", "jitter_is_normal"):
        found[name] = bool(chance.random() > 0.1)
    size = len(METRICS)
    mixed = chance.normal(size=(40, size)) + place * chance.normal(size=(40, 1))
    found["metric_correlation_matrix"] = np.round(np.corrcoef(mixed.T), 6).tolist()
    for name in ("jitter_score", "convergence_score", "coupling_score", "overall_stability_score"):
        found[name] = float(np.clip(95.0 - 6.0 * place + chance.normal(), 0.0, 100.0))
    found |= {
        "convergence_time_ticks": int(2_000 + 300 * place + chance.integers(200)),
        "load_to_heartbeat_corr": float(np.clip(0.9 - 0.08 * place + 0.01 * chance.normal(), -1.0, 1.0)),
        "avg_jitter_ns_steady": float(28_000 + 900 * chance.normal()),
        "fps_mean": None,
        "schema": "fingerprint/1",
        "reasons": {"fps_mean": "no frame rate was ever read"},
    }
    return found


def captured(place: int, seed: int, count: int) -> Integers:
    """Made-up ticks whose interval follows the load, shape (COLUMNS, count)."""
    chance = np.random.default_rng(77 + 1_000 * place + seed)
    at = np.arange(count)
    load = np.where((at + 131 * seed) // max(1, count // 9) % 2 == 0, 200_000, 700_000)
    late = chance.normal(scale=25_000, size=count)
    passed = 1_000_000 + (load - 200_000) * (1.0 + 0.2 * place) + late
    found = np.zeros((heart.COLUMNS, count), dtype=np.int64)
    found[heart.C_TICK] = at
    found[heart.C_ASKED] = 1_000_000
    found[heart.C_PASSED] = passed
    found[heart.C_ELAPSED] = np.cumsum(found[heart.C_PASSED])
    found[heart.C_LATENESS] = np.abs(late)
    found[heart.C_LOAD] = load
    found[heart.C_WORDS] = 150
    found[heart.C_CACHE_HITS] = 140 - 130 * np.exp(-at / (0.1 * count))
    found[heart.C_BUCKET_HITS] = 150 - found[heart.C_CACHE_HITS]
    found[heart.C_HOT] = 80
    found[heart.C_TOTAL] = 10**9 * (1 - np.exp(-at / (0.2 * count)))
    found[heart.C_SLOPE] = 6
    found[heart.C_WINDOW] = np.where(at < count // 20, 4_096, 256)
    return found


def kicked(place: int, seed: int) -> dict[str, Any]:
    kicks, courses = [], []
    points = tuple(range(0, 6_000, 60))
    for kind in ("heat_burst", "load_pulse", "window_reset", "hot_ambient"):
        for strength in (1.0, 4.0, 16.0, 64.0):
            returned = strength < 64.0 or place % 2 == 0
            kicks.append(asdict(KickResult(kind, seed, strength, returned, 400 + 10 * place if returned else None)))
            bands = tuple(round(float(strength * np.exp(-tick / 800) + (0 if returned else 1.5)), 4) for tick in points)
            courses.append(asdict(Course(kind, seed, strength, points, bands)))
    return {"kicks": kicks, "courses": courses, "watched": list(METRICS)}


def nothing_changed(place: int, seed: int, result: dict[str, Any]) -> None:
    pass


def made(
    folder: Path,
    names: Sequence[str] = FIVE,
    runs: int = 4,
    ticks: int = 2_000,
    keep: str = "every:10",
    kick_seeds: int = 1,
    edit: Edit = nothing_changed,
    finished: bool = True,
) -> Path:
    """A whole experiment in `folder`, as `twin experiment` would leave it."""
    plan = sample_plan(names, runs, ticks, keep, kick_seeds)
    count = len(names)
    text = f'name = "sample"\nscenario = "study"\nconfigurations = {list(names)}\n'.replace("'", '"')
    with Store(folder, {"plan": "sample", "code": "sample"}, text) as store:
        order = plan.order()
        for start in range(0, len(order), SHARD_RUNS):
            members = order[start : start + SHARD_RUNS]
            for number in members:
                place, seed = number % count, 1 + number // count
                result = fingerprint(place, seed)
                edit(place, seed, result)
                kept = kept_ticks(captured(place, seed, ticks), number, "1_0_1_1_1_0", keep)
                store.add([_outcome(number, names[place], seed, ticks, result, kept)])
            store.write_shard(start // SHARD_RUNS, members)
        for number in range(plan.kicked_jobs):
            place, seed = number % count, 1 + number // count
            store.add([_outcome(plan.runs + number, names[place], seed, 10_000, kicked(place, seed), b"")])
        if finished:
            finish(plan, store)
    return folder


def smallest(folder: Path, **changes: Any) -> Path:
    """The experiment whose report takes the least time."""
    return made(folder, **{"names": ("only",), "runs": 1, "kick_seeds": 0, "keep": "none"} | changes)


def _outcome(number: int, name: str, seed: int, ticks: int, result: dict[str, Any], kept: bytes) -> Outcome:
    digest = f"{number:064x}"
    return Outcome(number, f"key-{number}", name, seed, ticks, digest, digest, digest, result, kept)
