"""The reference pages say what the code says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, get_type_hints

from fastapi.routing import APIRoute

import llm_backend
from llm_backend import errors
from llm_backend.gateway import routes
from llm_backend.gateway.endpoints import ENDPOINTS
from llm_backend.gateway.routes import control, device
from llm_backend.gateway.services import AdminKey, InferKey
from llm_backend.replay.profile import Costs, Profile
from llm_backend.replay.trace import Arrival
from tests.house.project import Project, no_findings


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
        (
            str(error.status),
            f"`{error.code}`",
            f"`{error.type}`",
            f"`{error.__name__}`",
            first_line(error),
        )
        for base in bases
        for error in leaves(base)
    }

    assert set(rows(project, "errors.md", columns=5)) == tree


def test_every_exit_code_is_in_the_table(project: Project) -> None:
    tree = {
        (str(error.exit_code), f"`{error.code}`", f"`{error.__name__}`", first_line(error))
        for error in leaves(errors.SetupError)
    }

    assert set(rows(project, "errors.md", columns=4)) == tree


def test_every_error_of_the_client_is_in_the_table(project: Project) -> None:
    bases = {errors.RequestError, errors.ServiceError, errors.SetupError}
    own = set(errors.LLMBackendError.__subclasses__()) - bases
    tree = {(f"`{error.code}`", f"`{error.__name__}`", first_line(error)) for error in own}

    assert set(rows(project, "errors.md", columns=3)) == tree


def test_every_error_is_to_be_had_from_the_package() -> None:
    tree = {error.__name__ for error in leaves(errors.LLMBackendError)}

    no_findings(tree - set(llm_backend.__all__))


def test_every_inference_route_is_in_the_table(project: Project) -> None:
    table = {
        (f"`POST {path}`", f"`{endpoint.capability}`", "yes" if endpoint.may_switch else "no")
        for path, endpoint in ENDPOINTS.items()
    }

    assert set(rows(project, "http-api.md", columns=3)) == table


def other_routes() -> Iterator[tuple[str, APIRoute]]:
    """Yield every route that is none of inference, by its name in the tables."""
    for found in iter_modules(routes.__path__, f"{routes.__name__}."):
        for route in import_module(found.name).router.routes:
            for method in route.methods - {"HEAD"}:
                yield f"{method} {route.path.replace(':path', '')}", route


def test_every_other_route_is_in_the_table(project: Project) -> None:
    page = project.text(project.root / "docs" / "reference" / "http-api.md")
    others = {name for name, _ in other_routes()}
    inference = {f"POST {path}" for path in ENDPOINTS}

    assert set(re.findall(r"`((?:GET|POST|PUT|PATCH|DELETE) /[^`]*)`", page)) == others | inference


def fields_told(project: Project, page: str, heading: str) -> set[str]:
    """Return what the first column of the tables under a heading names."""
    text = project.text(project.root / "docs" / "reference" / page)
    section = text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    firsts = re.findall(r"^\| (`[^|]*) \|", section, re.MULTILINE)
    return {name for first in firsts for name in re.findall(r"`([^`]*)`", first)}


def test_the_fields_of_control_requests_are_in_the_tables(project: Project) -> None:
    options = control.LoadRequest.model_fields.keys() - {"model", "model_path", "wait"}

    assert fields_told(project, "http-api.md", "Launch options") == options
    assert fields_told(project, "http-api.md", "Device leases") == set(
        device.LeaseRequest.model_fields
    )


def test_the_fields_of_traces_and_profiles_are_in_the_tables(project: Project) -> None:
    costs = {f"models.ID.{name}" for name in Costs.model_fields}

    assert fields_told(project, "replay.md", "A trace") == set(Arrival.model_fields)
    assert fields_told(project, "replay.md", "A profile") == costs | (
        Profile.model_fields.keys() - {"models"}
    )


def asks_for(route: APIRoute, key: object) -> bool:
    """Return whether a route wants this key."""
    return key in get_type_hints(route.endpoint, include_extras=True).values()


def test_the_pages_say_which_key_a_route_needs(project: Project) -> None:
    docs = project.root / "docs"
    lines = re.findall(
        r"^\| (`[A-Z]+ /[^|]*) \| (admin\.)?",
        project.text(docs / "reference" / "http-api.md"),
        re.MULTILINE,
    )
    marked = {name for names, admin in lines if admin for name in re.findall(r"`([^`]*)`", names)}
    (open_ones,) = re.findall(
        r"^Without any key[^`]*(.*?)\n\n",
        project.text(docs / "explanation" / "security.md"),
        re.MULTILINE | re.DOTALL,
    )
    told = {f"GET {path}" for path in re.findall(r"`(/[^`]*)`", open_ones)}

    assert marked == {name for name, route in other_routes() if asks_for(route, AdminKey)}
    assert told - {"GET /docs", "GET /openapi.json"} == {
        name
        for name, route in other_routes()
        if not asks_for(route, AdminKey) and not asks_for(route, InferKey)
    }
