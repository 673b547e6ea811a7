"""Small files, small functions."""

from __future__ import annotations

import ast
import statistics

from tests.house.project import Project, no_findings

FILE_LINES = 400
MEDIAN_LINES = 10
P95_LINES = 40


def test_no_file_is_over_400_lines(project: Project) -> None:
    files = project.under("llm_backend", "monitoring", "tests", "bench")
    files += project.under("scripts", suffix=".sh")
    sizes = {project.name(path): project.text(path).count("\n") for path in files}

    no_findings(f"{name}: {lines} lines" for name, lines in sizes.items() if lines > FILE_LINES)


def test_functions_are_short(project: Project) -> None:
    sizes = sorted(
        node.end_lineno - node.lineno + 1
        for path in project.under("llm_backend")
        for node in ast.walk(project.tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )

    assert statistics.median(sizes) <= MEDIAN_LINES
    assert sizes[int(len(sizes) * 0.95)] <= P95_LINES
