"""Every small change of the guardian's source is noticed by its own tests (nightly: it takes hours)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from mutate import ROOT, copied, mutants, passes
from profiles import NIGHTLY

TESTS = {
    "hardware/watch.py": ("tests/test_guardian_watch.py", "tests/test_guardian_turns.py"),
    "hardware/journal.py": ("tests/test_guardian_journal.py",),
    "hardware/fan.py": ("tests/test_guardian_watch.py", "tests/test_guardian_turns.py"),
    "hardware/restore.py": (
        "tests/test_guardian_journal.py",
        "tests/test_guardian_turns.py",
        "tests/test_guardian_back.py",
    ),
    "hardware/guardian.py": (
        "tests/test_guardian_turns.py",
        "tests/test_guardian_back.py",
        "tests/test_guardian_nvml.py",
    ),
}
"""Each file, and the tests that have to notice; all of them work in one process, with clocks of their own."""

INSTANT = re.compile(r"\d+: (\d{5,}) -> (\d{5,})")
"""A nanosecond more or less, or a byte of megabytes: nobody can tell the difference."""

EQUIVALENT = {
    # What is asked is above 0 there.
    ("return max(asked, self.least, (self._kick or 0) if kicking else 0)", "0 -> 1"),
    # Two kinds of alarm, of which nobody tells one from the other.
    ("LESS = 3", "3 -> 4"),
    ("DEAD = 4", "4 -> 5"),
}
"""The line, and what was changed in it, where nobody can tell the difference."""

nightly = pytest.mark.skipif(not NIGHTLY, reason="takes hours; make test-nightly runs it")


def all_mutants() -> list[tuple[str, str, str]]:
    """The file, what is changed, and the changed source."""
    return [(path, what, source) for path in TESTS for what, source in mutants((ROOT / path).read_text("utf-8"))]


def equivalent(path: str, what: str) -> bool:
    number, _, change = what.partition(": ")
    line = (ROOT / path).read_text("utf-8").splitlines()[int(number) - 1]
    return INSTANT.fullmatch(what) is not None or (line.strip(), change) in EQUIVALENT


def test_what_counts_as_equivalent_is_still_there() -> None:
    lines = {line.strip() for path in TESTS for line in (ROOT / path).read_text("utf-8").splitlines()}
    assert {line for line, _change in EQUIVALENT} <= lines


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copied(tmp_path_factory.mktemp("mutant"))


@nightly
@pytest.mark.parametrize("path", TESTS)
def test_the_source_as_it_is_passes(copy: Path, path: str) -> None:
    assert passes(copy, Path(path), (ROOT / path).read_text("utf-8"), TESTS[path])


UNEQUAL = [each for each in (all_mutants() if NIGHTLY else []) if not equivalent(each[0], each[1])]


@nightly
@pytest.mark.parametrize(("path", "what", "source"), UNEQUAL, ids=[f"{each[0]}:{each[1]}" for each in UNEQUAL])
def test_no_mutant_survives(copy: Path, path: str, what: str, source: str) -> None:
    assert not passes(copy, Path(path), source, TESTS[path]), f"nobody notices {what}"
