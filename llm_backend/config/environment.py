"""Settings in the environment and in `.env`: `LLM_` + section + `__` + key, upper-cased."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

from dotenv.parser import Binding, parse_stream
from dotenv.variables import parse_variables

from llm_backend.config.base import Loc, Origin
from llm_backend.config.problems import Problem, Source
from llm_backend.config.shape import Shape
from llm_backend.config.yaml_file import parse_value, read_text, shown_path

PREFIX: Final = "LLM_"

RESERVED: Final = (
    "LLM_API_KEY",
    "LLM_BASE_URL",
    "LLM_DEVICE",
    "LLM_GID",
    "LLM_MODEL_ID",
    "LLM_QUANTIZATION",
    "LLM_SERVICE_PORT",
    "LLM_UID",
)
"""Names that are no settings and are left alone; some are variables of docker-compose.yml."""

RESERVED_PREFIXES: Final = ("LLM_BACKEND_", "LLM_TEST_")
"""Beginnings of names that are left alone."""


@dataclass(frozen=True, slots=True)
class Variable:
    """One variable, and where it was set."""

    name: str
    text: str
    origin: Origin


def variable(loc: Iterable[str]) -> str:
    """Return the environment variable of a setting: `LLM_SERVER__PORT`."""
    return PREFIX + "__".join(loc).upper()


def from_environment(environ: Mapping[str, str]) -> list[Variable]:
    """Return the variables of the process environment that are meant for this product."""
    return [
        Variable(name, text, Origin("environment", "environment", name))
        for name, text in environ.items()
        if _ours(name)
    ]


def from_dotenv(path: Path, environ: Mapping[str, str]) -> tuple[list[Variable], list[Problem]]:
    """Return the variables of a `.env` file, and the lines that are none.

    `${NAME}` and `${NAME:-default}` in a value are looked up in `environ` and in the lines above.

    Raises:
        ConfigError: the file cannot be read, or is not UTF-8.
    """
    if not path.exists():
        return [], []
    variables: dict[str, Variable] = {}
    problems: list[Problem] = []
    known: dict[str, str | None] = dict(environ)
    for binding in parse_stream(io.StringIO(read_text(path))):
        origin = _dotenv_origin(path, binding)
        if binding.error:
            problems.append(Problem(origin, "this line is not NAME=value"))
        if binding.key is None:
            continue
        text = "".join(atom.resolve(known) for atom in parse_variables(binding.value or ""))
        known[binding.key] = environ.get(binding.key, text)
        if _ours(binding.key):
            problems += _line_problems(binding, origin, variables.get(binding.key))
            variables[binding.key] = Variable(binding.key, text, origin)
    return list(variables.values()), problems


def _dotenv_origin(path: Path, binding: Binding) -> Origin:
    blank = len(binding.original.string) - len(binding.original.string.lstrip())
    line = binding.original.line + binding.original.string.count("\n", 0, blank)
    return Origin(".env", f"{shown_path(path)}:{line}", binding.key or "", line)


def _line_problems(binding: Binding, origin: Origin, earlier: Variable | None) -> Iterator[Problem]:
    if binding.value is None:
        yield Problem(origin, "has no value; write NAME=value")
    if earlier is not None:
        yield Problem(origin, f"given twice; line {earlier.origin.line} has it too")


def _ours(name: str) -> bool:
    return name.startswith(PREFIX) and not (name in RESERVED or name.startswith(RESERVED_PREFIXES))


def as_source(
    variables: Iterable[Variable], shapes: Mapping[Loc, Shape]
) -> tuple[Source, list[Problem]]:
    """Return the values of variables for the settings in `shapes`, and the unknown variables.

    An empty variable counts as not set.
    """
    names = {variable(str(part) for part in loc): loc for loc in shapes}
    data: dict[str, Any] = {}
    origins: dict[Loc, Origin] = {}
    problems: list[Problem] = []
    for given in variables:
        loc = names.get(given.name)
        if loc is None:
            problems.append(Problem(given.origin, _unknown(given.name, names)))
        elif given.text:
            insert(data, loc, _parsed(given.text, shapes[loc]))
            origins[loc] = given.origin
    return Source(data, origins), problems


def _unknown(name: str, names: Iterable[str]) -> str:
    near = get_close_matches(name, names, n=1)
    if near:
        return f"there is no such setting; did you mean {near[0]!r}?"
    return "there is no such setting; docs/reference/configuration.md lists them all"


def _parsed(text: str, shape: Shape) -> Any:
    """Read a text as the setting wants it: lists also with commas, text as it stands."""
    kind = shape.node.get("type")
    if kind == "array" and not text.startswith("["):
        return [part.strip() for part in text.split(",")]
    if kind == "string" and not (shape.nullable and text == "null"):
        return text
    return parse_value(text)


def insert(data: dict[str, Any], loc: Loc, value: Any) -> None:
    """Put a value into nested mappings."""
    *sections, key = (str(part) for part in loc)
    for section in sections:
        data = data.setdefault(section, {})
    data[key] = value
