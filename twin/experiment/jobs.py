"""What is handed to a process, and what comes back: plain values, so that it does not matter where it is done."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from twin.control.choose import own_sources
from twin.experiment.kicks import Course
from twin.experiment.plan import Candidate, Kicks, Plan
from twin.fingerprint.configuration import KickResult
from twin.loader import canonical
from twin.scenario import Scenario


@dataclass(frozen=True, slots=True)
class Job:
    """One run of a candidate, or (with `kicks`) the kicked runs of one seed. `number` is its place in the plan.

    `code` is the version of the sources that have to do it; empty for any.
    """

    number: int
    key: str
    candidate: str
    scenario: Scenario
    inputs: tuple[str, str]
    trace_file: Path | None = None
    weights_file: Path | None = None
    kicks: Kicks | None = None
    code: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a job came to: digests, the fingerprint (or what the kicks did), and the ticks to keep, as Parquet."""

    number: int
    key: str
    candidate: str
    seed: int
    ticks: int
    tick_digest: str
    control_digest: str
    run_digest: str
    result: dict[str, Any]
    kept_ticks: bytes = b""

    def kicked(self) -> tuple[list[KickResult], list[Course]]:
        """The results of a job with kicks, and their courses."""
        results = [KickResult(**each) for each in self.result["kicks"]]
        courses = [
            Course(**{**each, "ticks": tuple(each["ticks"]), "bands": tuple(each["bands"])})
            for each in self.result["courses"]
        ]
        return results, courses


Perform = Callable[[Job], Outcome]
"""Does a job; a function of a module, so that other processes find it."""


def job_key(plan: Plan, candidate: Candidate, seed: int, code: str, kicks: Kicks | None) -> str:
    """The hash of everything that a job's result depends on: scenario, configuration, seed, code, and the kicks."""
    whole = blake2b(digest_size=16)
    parts = (
        canonical(candidate.scenario, *candidate.inputs),
        candidate.name.encode(),
        str(seed).encode(),
        code.encode(),
        plan.file.keep.encode(),
        b"" if kicks is None else json.dumps(asdict(kicks), sort_keys=True).encode(),
    )
    for part in parts:
        whole.update(len(part).to_bytes(8, "little") + part)
    return whole.hexdigest()


@functools.cache
def package_version() -> str:
    """A hash of the sources of `twin` and `hardware`, as they were when this process first asked."""
    whole = blake2b(digest_size=16)
    hardware = find_spec("hardware")
    assert hardware is not None
    assert hardware.origin is not None
    for folder in (Path(__file__).parents[1], Path(hardware.origin).parent):
        for source in sorted(folder.rglob("*.py")):
            text = source.read_bytes()
            whole.update(str(source.relative_to(folder)).encode() + len(text).to_bytes(8, "little") + text)
    return whole.hexdigest()


def code_version(scenarios: Iterable[Scenario] = ()) -> str:
    """A hash of this package's sources, and of the controllers and rewards of one's own that `scenarios` name and this
    process has imported: results of different code are never mixed.
    """
    whole = blake2b(package_version().encode(), digest_size=16)
    for sources in sorted({own_sources(scenario) for scenario in scenarios}):
        whole.update(len(sources).to_bytes(8, "little") + sources)
    return whole.hexdigest()


def numbered(candidates: Sequence[Candidate], number: int) -> tuple[Candidate, int]:
    """Which candidate run `number` is of, and how many seeds it lies behind the first."""
    return candidates[number % len(candidates)], number // len(candidates)
