"""Every small change of the shield's source is noticed by the shield's own tests (nightly: it takes minutes)."""

from __future__ import annotations

from pathlib import Path

import pytest
from mutate import ROOT, copied, mutants, passes
from profiles import NIGHTLY

SHIELD = Path("twin", "control", "shield.py")
TESTS = ("tests/test_shield_exhaustive.py", "tests/test_shield.py")
EQUIVALENT = (
    # At the limits the clamp returns what it is given; inside them it is left out for speed alone.
    ("if not limit.minimum <= value <= limit.maximum", "-> if True"),
    ("limit.minimum <= value <= limit.maximum", "-> limit.minimum < value <= limit.maximum"),
    ("limit.minimum <= value <= limit.maximum", "-> limit.minimum <= value < limit.maximum"),
    # Nothing has changed where the answer is the command: the list of changes need not be made to be empty.
    ("() if not strange and command == values", "-> () if False"),
)
"""What was changed, and into what, where nobody can tell the difference."""

nightly = pytest.mark.skipif(not NIGHTLY, reason="takes minutes; make test-nightly runs it")


def equivalent(what: str) -> bool:
    return any(what.split(": ", 1)[1].startswith(before) and after in what for before, after in EQUIVALENT)


def all_mutants() -> list[tuple[str, str]]:
    return list(mutants((ROOT / SHIELD).read_text(encoding="utf-8")))


def test_what_counts_as_equivalent_is_still_there() -> None:
    assert sum(equivalent(what) for what, _ in all_mutants()) == len(EQUIVALENT)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copied(tmp_path_factory.mktemp("mutant"))


@nightly
def test_the_source_as_it_is_passes_and_a_broken_one_does_not(copy: Path) -> None:
    source = (ROOT / SHIELD).read_text(encoding="utf-8")
    assert passes(copy, SHIELD, source, TESTS)
    assert not passes(copy, SHIELD, source.replace("min(high, max(low, asked))", "asked"), TESTS)


UNEQUAL = [pytest.param(*each, id=each[0]) for each in (all_mutants() if NIGHTLY else []) if not equivalent(each[0])]


@nightly
@pytest.mark.parametrize(("what", "source"), UNEQUAL)
def test_no_mutant_survives(copy: Path, what: str, source: str) -> None:
    assert not passes(copy, SHIELD, source, TESTS), f"nobody notices {what}"
