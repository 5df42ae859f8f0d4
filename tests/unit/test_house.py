"""What the linters cannot hold: functions and modules stay small, and names say something."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "src/poormanray"
MODULES = sorted(SOURCE.rglob("*.py"))
MOST_LINES = 800
MOST_FUNCTION_LINES = 40
EMPTY_NAMES = {"base", "common", "helper", "helpers", "manager", "misc", "util", "utils"}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(module: Path) -> Iterator[Function]:
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, Function):
            yield node


def lines(function: Function) -> int:
    """Count the lines of a function's body; the docstring is free."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_small_and_named(module: Path) -> None:
    total = len(module.read_text().splitlines())
    assert total <= MOST_LINES, f"{module.name} has {total} lines: make two modules of it"
    for function in functions(module):
        count = lines(function)
        assert count <= MOST_FUNCTION_LINES, f"{function.name} has {count} lines: split it"
    assert not EMPTY_NAMES.intersection(module.stem.split("_")), f"{module.stem} says nothing"


TESTS = Path(__file__).resolve().parents[1]


def test_no_test_module_is_imported_by_another() -> None:
    for module in sorted(TESTS.rglob("*.py")):
        for node in ast.walk(ast.parse(module.read_text())):
            named = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            tests = [name for name in named if ".test_" in f".{name}"]
            assert not tests, f"{module.relative_to(TESTS)}: what tests share lies in tests/support"
