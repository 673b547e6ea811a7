"""Whatever the gateway logs as a warning or an error is explained on its page."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from tests.house.project import Project, no_findings

ALARMING = frozenset({"warning", "warn", "error", "exception", "critical", "fatal"})
PAGE = "docs/howto/log-messages.md"
PARTS = ("gateway", "replay", "runtimes", "switching", "telemetry", "server.py")
"""What runs in the gateway; the command line speaks to people directly."""


def is_alarming(node: ast.AST) -> bool:
    """Return whether an expression is, or may be, a way to log an alarm."""
    return any(
        isinstance(part, ast.Attribute)
        and part.attr in ALARMING
        and isinstance(part.value, ast.Name | ast.Attribute)
        and ast.unparse(part.value).rpartition(".")[2].strip("_") in {"log", "logger"}
        for part in ast.walk(node)
    )


def events_of(tree: ast.AST) -> Iterator[ast.expr]:
    """Yield the first argument of each call that logs an alarm, also by another name."""
    aliases = {
        ast.unparse(target)
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and is_alarming(node.value)
        for target in node.targets
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and (
            is_alarming(node.func) or ast.unparse(node.func) in aliases
        ):
            yield node.args[0]


def logged(project: Project) -> dict[str, str]:
    """Return the alarming events, and where each is logged."""
    found: dict[str, str] = {}
    for path in project.under("llm_backend"):
        name = project.name(path)
        if name.removeprefix("llm_backend/").partition("/")[0] not in PARTS:
            continue
        for event in events_of(project.tree(path)):
            assert isinstance(event, ast.Constant), f"{name}:{event.lineno}: an event is a name"
            found[str(event.value)] = f"{name}:{event.lineno}"
    return found


def explained(project: Project) -> set[str]:
    """Return the events in the table of the page."""
    page = project.text(project.root / PAGE).split("## The alarming ones")[1]
    firsts = re.findall(r"^\| (`.+?) \|", page, re.MULTILINE)
    return {name for first in firsts for name in re.findall(r"`(\w+_\w+)`", first)}


def test_every_alarming_event_is_explained(project: Project) -> None:
    page = explained(project)
    no_findings(
        f"{where}: {event}" for event, where in logged(project).items() if event not in page
    )


def test_every_event_that_is_explained_is_logged(project: Project) -> None:
    no_findings(explained(project) - logged(project).keys())


def test_what_is_looked_for_is_found() -> None:
    code = """
def f(self):
    log.info("quiet")
    self._log.warning("w")
    logger.exception("x")
    write = log.error if a else log.info
    write("alias", b=1)
    terminal.error("not a log")
"""
    assert [ast.unparse(event) for event in events_of(ast.parse(code))] == ["'w'", "'x'", "'alias'"]
