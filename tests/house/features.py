"""Which tests show which feature, read from their markers; and the page that says it.

`make features` writes docs/reference/features.md anew.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from tests.house.project import Project

LIST: Final = Path(__file__).with_name("features.yaml")
PAGE: Final = Path("docs/reference/features.md")
BY_HAND: Final = {"gpu": "`make gpu`, on a CUDA device"}
"""Markers of tiers that CI does not run, and how people run them."""

HEAD: Final = """\
# Features

What the product does, and the tests that show it. This page is generated (`make features`) from
`tests/house/features.yaml` and the markers of the tests; a feature without a test that CI runs fails the
build, and so does a test that is skipped there.
"""


@dataclass(frozen=True)
class Shown:
    """A test, or a whole file or class of tests, that shows a feature."""

    feature: str
    file: str
    name: str
    """Of the test or class; empty for a whole file."""
    marks: frozenset[str]
    """Every marker of it, those of its class and file included."""

    @property
    def by_hand(self) -> str:
        """How it is run where CI does not run it, else empty."""
        return next((how for mark, how in BY_HAND.items() if mark in self.marks), "")


def areas() -> dict[str, dict[str, str]]:
    """Return what there must be: by area, each feature and what it is."""
    found: dict[str, dict[str, str]] = yaml.safe_load(LIST.read_text("utf-8"))
    return found


def shown(project: Project) -> list[Shown]:
    """Return every marker of a feature in the tests."""
    return [found for path in project.under("tests") for found in _in_file(project, path)]


def render(project: Project) -> str:
    """Return the whole page."""
    tests = shown(project)
    lines = [HEAD]
    for area, features in areas().items():
        lines += [f"## {area}\n", "| feature | what it is | shown by |", "|---|---|---|"]
        lines += [_row(name, what, tests) for name, what in features.items()]
        lines.append("")
    return "\n".join(lines)


def _row(name: str, what: str, tests: list[Shown]) -> str:
    files: dict[str, list[Shown]] = {}
    for test in tests:
        if test.feature == name:
            files.setdefault(test.file, []).append(test)
    return f"| {name} | {what} | {'<br>'.join(map(_cell, files.values()))} |"


def _cell(tests: list[Shown]) -> str:
    first = tests[0]
    link = f"[{first.file.removeprefix('tests/')}](../../{first.file})"
    names = [] if any(not test.name for test in tests) else [f"`{test.name}`" for test in tests]
    hand = [f"({first.by_hand})"] if first.by_hand else []
    return (
        " ".join([link + ":" if names else link, ", ".join(names), *hand])
        .strip()
        .replace("  ", " ")
    )


def _in_file(project: Project, path: Path) -> Iterator[Shown]:
    if "feature(" not in project.text(path):
        return
    tree, file = project.tree(path), project.name(path)
    of_file = [
        mark
        for node in tree.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "pytestmark"
        for mark in _marks(_items(node.value))
    ]
    yield from _shown(of_file, file, "", of_file)
    yield from _in_body(tree.body, file, of_file)


def _in_body(body: list[ast.stmt], file: str, outer: list[ast.expr]) -> Iterator[Shown]:
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            own = _marks(node.decorator_list)
            yield from _shown(own, file, node.name, [*outer, *own])
            if isinstance(node, ast.ClassDef):
                yield from _in_body(node.body, file, [*outer, *own])


def _shown(own: list[ast.expr], file: str, name: str, every: list[ast.expr]) -> Iterator[Shown]:
    marks = frozenset(filter(None, map(_name, every)))
    for mark in own:
        if isinstance(mark, ast.Call) and _name(mark) == "feature":
            yield Shown(ast.literal_eval(mark.args[0]), file, name, marks)


def _items(value: ast.expr) -> list[ast.expr]:
    return value.elts if isinstance(value, ast.List) else [value]


def _marks(nodes: list[ast.expr]) -> list[ast.expr]:
    return [node for node in nodes if _name(node)]


def _name(node: Any) -> str:
    """Return NAME of `pytest.mark.NAME` or `pytest.mark.NAME(...)`, else nothing."""
    node = node.func if isinstance(node, ast.Call) else node
    text = ast.unparse(node)
    return text.removeprefix("pytest.mark.") if text.startswith("pytest.mark.") else ""


if __name__ == "__main__":
    here = Project(Path(__file__).resolve().parents[2])
    (here.root / PAGE).write_text(render(here), encoding="utf-8")
