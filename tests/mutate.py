"""Small mutations of a source file: what a test suite has to notice, one change at a time."""

from __future__ import annotations

import ast
import copy
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent

_COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
_ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.FloorDiv: ast.Mult,
    ast.LShift: ast.RShift,
}
_NAMES = {"min": "max", "max": "min", "any": "all", "all": "any"}
_DELETED = (ast.Assign, ast.AugAssign, ast.Expr, ast.If, ast.For)


def mutants(source: str) -> Iterator[tuple[str, str]]:
    """Every mutant of `source`: what was done (`line: before -> after`), and the whole mutated source.

    Comparisons, arithmetic, integers (one more, one less), and/or, not, min/max, any/all, what is returned, conditions
    (always, never), and statements (left out). Docstrings, annotations, decorators and imports stay as they are.
    """
    tree = ast.parse(source)
    for place, node in enumerate(ast.walk(tree)):
        for number in range(len(list(_changes(copy.deepcopy(node))))):
            changed = copy.deepcopy(tree)
            target = list(ast.walk(changed))[place]
            before = _words(node)
            list(_changes(target, number))
            yield f"{getattr(node, 'lineno', 0)}: {before} -> {_words(target)}", ast.unparse(changed)


def copied(folder: Path) -> Path:
    """The packages in a folder of their own, so that a mutant is never seen by anybody else."""
    for package in ("twin", "hardware", "scenarios"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def passes(folder: Path, path: Path, source: str, tests: Sequence[str], *options: str) -> bool:
    """Whether the tests pass on the copy in `folder` with this source at `path`, which is put back.

    Interpreted: compiling takes longer than all of them. A mutant that never ends does not pass.
    """
    (folder / path).write_text(source, encoding="utf-8")
    try:
        done = subprocess.run(
            [
                sys.executable, "-B", "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist",
                "-c", ROOT / "pyproject.toml", *options, *(ROOT / test for test in tests),
            ],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(folder), "TWIN_KERNELS": "python", "HYPOTHESIS_PROFILE": "ci"},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return False
    finally:
        shutil.copyfile(ROOT / path, folder / path)
    # A mutant may end the tests' own process.
    assert done.returncode in (0, 1, 2) or done.returncode < 0, done.stdout + done.stderr
    return done.returncode == 0


def _words(node: ast.AST) -> str:
    return " ".join(ast.unparse(node).split())[:90]


def _changes(node: ast.AST, wanted: int = -1) -> Iterator[None]:
    """The changes that `node` allows, in a fixed order; number `wanted` is made in place."""
    for number, change in enumerate(_possible(node)):
        if number == wanted:
            change()
        yield


def _possible(node: ast.AST) -> Iterator[Callable[[], None]]:
    """Functions that each change `node` in one way."""

    def setter(name: str, value: object, of: object = node) -> Callable[[], None]:
        return lambda: setattr(of, name, value)

    if isinstance(node, ast.Compare):
        for i, operator in enumerate(node.ops):
            for other in _COMPARISONS.get(type(operator), ()):
                yield setter("ops", [*node.ops[:i], other(), *node.ops[i + 1 :]])
    elif isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
        yield setter("op", _ARITHMETIC[type(node.op)]())
    elif isinstance(node, ast.BoolOp):
        yield setter("op", ast.Or() if isinstance(node.op, ast.And) else ast.And())
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield setter("operand", ast.UnaryOp(ast.Not(), node.operand))
    elif isinstance(node, ast.Constant) and type(node.value) is int:
        yield setter("value", node.value + 1)
        yield setter("value", node.value - 1)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _NAMES:
        yield setter("id", _NAMES[node.func.id], node.func)
    elif isinstance(node, ast.Return) and node.value is not None:
        yield setter("value", ast.Constant(None))
    if isinstance(node, ast.If | ast.IfExp):
        yield setter("test", ast.Constant(True))
        yield setter("test", ast.Constant(False))
    if isinstance(node, ast.comprehension):
        for i in range(len(node.ifs)):
            yield setter("ifs", [*node.ifs[:i], *node.ifs[i + 1 :]])
    body = getattr(node, "body", None)
    if isinstance(body, list) and not isinstance(node, ast.Module | ast.ClassDef):
        for i, statement in enumerate(body):
            if isinstance(statement, _DELETED) and not _is_text(statement):
                yield setter("body", [*body[:i], ast.Pass(), *body[i + 1 :]])


def _is_text(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
