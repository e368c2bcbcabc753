"""Rules of the house that no linter knows."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ABOVE_THE_SEAM = (
    "twin/control", "twin/fingerprint", "twin/heart", "twin/learn", "twin/pool", "twin/world", "twin/kernels.py",
    "twin/loop.py", "twin/telemetry.py",
)  # fmt: skip
FORBIDDEN_MODULES = {"time", "datetime", "random", "secrets", "uuid", "math", "statistics"}


def sources(*places: str) -> list[Path]:
    found: list[Path] = []
    for place in places:
        path = ROOT / place
        found += sorted(path.rglob("*.py")) if path.is_dir() else [path]
    assert found
    return found


def imported(tree: ast.AST) -> set[str]:
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.partition(".")[0])
    return names


@pytest.mark.parametrize("path", sources(*ABOVE_THE_SEAM), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_clock_no_chance_no_libm(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert not imported(tree) & FORBIDDEN_MODULES
    for node in ast.walk(tree):
        # np.random, np.exp, np.dot and their like; arrays and integer types are what kernels may use of NumPy.
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "np":
            assert node.attr not in {"random", "exp", "log", "tanh", "dot", "power", "matmul", "linalg", "sum", "mean"}
        assert not (isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "hash"


@pytest.mark.parametrize("path", sources("hardware", "twin/clock.py"), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_clock_that_steps(path: Path) -> None:
    """The wall clock may be set at any time, by anybody; what is measured with it below the seam would jump."""
    tree = ast.parse(path.read_text())
    assert "datetime" not in imported(tree)
    stepping = {"time", "time_ns", "localtime", "gmtime", "ctime", "strftime", "CLOCK_REALTIME", "CLOCK_TAI"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "time":
            assert node.attr not in stepping, node.lineno
        if isinstance(node, ast.ImportFrom):
            assert node.module != "time", node.lineno


@pytest.mark.parametrize(
    "path",
    sources("twin/control", "twin/fingerprint", "twin/heart", "twin/learn", "twin/pool", "twin/loop.py"),
    ids=lambda path: path.name,
)
def test_nobody_above_the_seam_asks_where_it_runs(path: Path) -> None:
    text = path.read_text()
    for question in ("is_simulat", "if simulated", "if replay", "isinstance(hardware", "isinstance(self.hardware",
                     "isinstance(env", "isinstance(self.env"):  # fmt: skip
        assert question not in text


@pytest.mark.parametrize("path", sources("twin", "hardware"), ids=lambda path: str(path.relative_to(ROOT)))
def test_files_are_small_and_finished(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 500
    for mark in ("TODO", "FIXME", "XXX", "NotImplementedError", "fastmath=True"):
        assert mark not in text
    tree = ast.parse(text)
    assert ast.get_docstring(tree) is not None or not text.strip()


@pytest.mark.parametrize("path", sources("twin", "hardware"), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_compiled_kernel_is_made_by_the_switch(path: Path) -> None:
    if path.name != "kernels.py":
        assert "njit" not in path.read_text()


def test_public_things_have_docstrings() -> None:
    missing = []
    for path in sources("twin", "hardware"):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                methods = [n for n in node.body if isinstance(n, ast.FunctionDef) and not n.name.startswith("_")]
                missing += [f"{path.name}:{n.name}" for n in [node, *methods] if ast.get_docstring(n) is None]
        missing += [
            f"{path.name}:{node.name}"
            for node in tree.body
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_") and ast.get_docstring(node) is None
        ]
    assert not missing


def test_import_contracts_hold() -> None:
    result = subprocess.run(
        [Path(sys.executable).parent / "lint-imports"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout
