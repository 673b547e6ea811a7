"""Every public name says what it is."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tests.house.project import Project, no_findings

Documented = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def undocumented(node: ast.Module | ast.ClassDef, owner: str) -> Iterator[str]:
    """Yield the public classes, functions and methods below `node` that lack a docstring."""
    for child in node.body:
        if not isinstance(child, Documented) or child.name.startswith("_"):
            continue
        if ast.get_docstring(child) is None and not inherits_its_docstring(child):
            yield f"{owner}:{child.lineno} {child.name}"
        if isinstance(child, ast.ClassDef):
            yield from undocumented(child, owner)


def inherits_its_docstring(node: Documented) -> bool:
    """Return whether the name takes its meaning from elsewhere: an override, overload or setter."""
    marks = {ast.unparse(mark).rpartition(".")[2] for mark in node.decorator_list}
    return bool(marks & {"override", "overload", "setter"})


def test_every_public_name_has_a_docstring(project: Project) -> None:
    missing = [
        name
        for path in project.under("llm_backend")
        for name in undocumented(project.tree(path), project.name(path))
    ]

    no_findings(missing)


def test_every_module_has_a_docstring(project: Project) -> None:
    missing = [
        project.name(path)
        for path in project.under("llm_backend")
        if path.stat().st_size and ast.get_docstring(project.tree(path)) is None
    ]

    no_findings(missing)
