"""The code that has to be right for a machine to be safe: how much it is, and that its tests reach all of it."""

from __future__ import annotations

import ast
import io
import os
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest
from profiles import NIGHTLY

ROOT = Path(__file__).parent.parent
CORE = (
    "hardware/guardian.py", "hardware/watch.py", "hardware/restore.py", "hardware/journal.py",
    "hardware/linux/output.py", "hardware/linux/sysfs.py", "twin/control/shield.py",
)  # fmt: skip
"""The guardian with all that it decides and restores, the journal, the parsers, and the shield."""
BESIDE = (
    "hardware/fan.py",
    "hardware/beats.py",
    "hardware/death.py",
    "hardware/programs.py",
    "hardware/bounded.py",
    "hardware/told.py",
    "hardware/messages.py",
    "hardware/by_hand.py",
)
"""What it takes along and need not trust: it can only make a fan faster, a report wrong, an end come early, nothing be
acted on, or a file that hangs hold up the others."""
TESTS = (
    "turns", "back", "watch", "journal", "nvml",
)  # fmt: skip
OTHER_TESTS = ("linux_sysfs", "linux_discovery", "shield")


def lines_of_code(path: Path) -> int:
    """Lines that hold something else than comments, docstrings or nothing."""
    text = path.read_text(encoding="utf-8")
    said: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            said |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    empty = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in empty:
            lines |= set(range(token.start[0], token.end[0] + 1))
    return len(lines - said)


def test_the_trusted_core_is_small() -> None:
    assert sum(lines_of_code(ROOT / path) for path in CORE) <= 1_200
    assert len((ROOT / CORE[0]).read_text(encoding="utf-8").splitlines()) <= 600


def test_the_trusted_core_has_no_threads_and_no_other_packages() -> None:
    for path in (*CORE[:-1], *BESIDE):
        for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert name.partition(".")[0] in {*sys.stdlib_module_names, "hardware"}, path
                assert name not in {"threading", "multiprocessing", "asyncio", "pickle", "subprocess"}, path


@pytest.mark.skipif(not NIGHTLY, reason="takes a minute; make test-nightly runs it")
def test_every_branch_of_the_trusted_core_is_reached(tmp_path: Path) -> None:
    tests = [f"tests/test_guardian_{name}.py" for name in TESTS] + [f"tests/test_{name}.py" for name in OTHER_TESTS]
    data = f"--data-file={tmp_path / 'coverage'}"
    environment = {**os.environ, "TWIN_KERNELS": "python", "HYPOTHESIS_PROFILE": "ci"}
    run = [sys.executable, "-m", "coverage", "run", data, "-m", "pytest", "-q", "-p", "no:cacheprovider",
           "-p", "no:xdist", *tests]  # fmt: skip
    done = subprocess.run(run, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    words = [
        sys.executable,
        "-m",
        "coverage",
        "report",
        data,
        "-m",
        "--fail-under=100",
        f"--include={','.join((*CORE, *BESIDE))}",
    ]
    report = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    print(report.stdout)
    assert report.returncode == 0, report.stdout
