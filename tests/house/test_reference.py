"""The reference pages say what the code says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from llm_backend import errors
from llm_backend.gateway.endpoints import ENDPOINTS
from llm_backend.gateway.routes import console, control, device, health, openai
from tests.house.project import Project


def rows(project: Project, page: str, columns: int) -> list[tuple[str, ...]]:
    """Return the body of the tables of a reference page that have this many columns."""
    text = project.text(project.root / "docs" / "reference" / page)
    lines = (line for line in text.splitlines() if line.startswith("| ") and "`" in line)
    cells = (re.split(r"(?<!\\) \| ", line.strip("| ")) for line in lines)
    return [tuple(cell.strip() for cell in row) for row in cells if len(row) == columns]


def leaves(base: type[errors.LLMBackendError]) -> Iterator[type[Any]]:
    for child in base.__subclasses__():
        yield child
        yield from leaves(child)


def first_line(error: type[Any]) -> str:
    assert error.__doc__ is not None
    return error.__doc__.splitlines()[0]


def test_every_http_error_is_in_the_table(project: Project) -> None:
    bases = (errors.RequestError, errors.ServiceError)
    tree = {
        (str(error.status), f"`{error.code}`", f"`{error.type}`", first_line(error))
        for base in bases
        for error in leaves(base)
    }

    assert set(rows(project, "errors.md", columns=4)) == tree


def test_every_exit_code_is_in_the_table(project: Project) -> None:
    tree = {
        (str(error.exit_code), f"`{error.code}`", first_line(error))
        for error in leaves(errors.SetupError)
    }

    assert set(rows(project, "errors.md", columns=3)) == tree


def test_every_inference_route_is_in_the_table(project: Project) -> None:
    table = {
        (f"`POST {path}`", f"`{endpoint.capability}`", "yes" if endpoint.may_switch else "no")
        for path, endpoint in ENDPOINTS.items()
    }

    assert set(rows(project, "http-api.md", columns=3)) == table


def test_every_other_route_is_in_the_table(project: Project) -> None:
    page = project.text(project.root / "docs" / "reference" / "http-api.md")
    routes = {
        f"{method} {route.path.replace(':path', '')}"
        for module in (console, control, device, health, openai)
        for route in module.router.routes
        for method in route.methods - {"HEAD"}
    }

    inference = {f"POST {path}" for path in ENDPOINTS}

    assert set(re.findall(r"`((?:GET|POST|DELETE) /[^`]*)`", page)) == routes | inference
