"""Every small change of the shield's source is noticed by the shield's own tests (nightly: it takes minutes)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from mutate import mutants
from profiles import NIGHTLY

ROOT = Path(__file__).parent.parent
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
def copy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The packages in a folder of their own, so that a mutant is never seen by anybody else."""
    folder = tmp_path_factory.mktemp("mutant")
    for package in ("twin", "hardware", "scenarios"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    yield folder
    shutil.rmtree(folder)


def passes(copy: Path, source: str) -> bool:
    """Whether the shield's tests pass with this source. Interpreted: compiling takes longer than all of them."""
    (copy / SHIELD).write_text(source, encoding="utf-8")
    done = subprocess.run(
        [
            sys.executable, "-B", "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist",
            "-c", ROOT / "pyproject.toml", *(ROOT / test for test in TESTS),
        ],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": str(copy), "TWIN_KERNELS": "python", "HYPOTHESIS_PROFILE": "ci"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )  # fmt: skip
    assert done.returncode in (0, 1, 2), done.stdout + done.stderr
    return done.returncode == 0


@nightly
def test_the_source_as_it_is_passes_and_a_broken_one_does_not(copy: Path) -> None:
    source = (ROOT / SHIELD).read_text(encoding="utf-8")
    assert passes(copy, source)
    assert not passes(copy, source.replace("min(high, max(low, asked))", "asked"))


UNEQUAL = [pytest.param(*each, id=each[0]) for each in all_mutants() if NIGHTLY and not equivalent(each[0])]


@nightly
@pytest.mark.parametrize(("what", "source"), UNEQUAL)
def test_no_mutant_survives(copy: Path, what: str, source: str) -> None:
    assert not passes(copy, source), f"nobody notices {what}"
