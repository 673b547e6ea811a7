"""Tests run real parts: mocks are the exception."""

from __future__ import annotations

import ast
import re

from tests.house.project import Project

MOCKS_PER_100_TESTS = 5
MOCK = re.compile(r"\b(?:Magic|Async)?Mock\(|\bpatch(?:\.\w+)?\(|\bcreate_autospec\(")


def test_at_most_five_mocks_in_a_hundred_tests(project: Project) -> None:
    files = [path for path in project.under("tests") if path.name != "test_mocks.py"]
    mocks = sum(len(MOCK.findall(project.text(path))) for path in files)
    tests = sum(
        isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
        for path in files
        for node in ast.walk(project.tree(path))
    )

    assert tests
    assert mocks * 100 <= MOCKS_PER_100_TESTS * tests
