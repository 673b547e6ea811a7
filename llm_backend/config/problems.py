"""What is wrong with a file or variable, said so that a person can mend it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from llm_backend.config.base import Loc, Origin, nearest_origin
from llm_backend.config.shape import Shape, one_of
from llm_backend.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        origin: Where it is.
        text: What is wrong, and what is allowed.
        level: With an `error` the gateway does not start; a `warning` is worth a look.
    """

    origin: Origin
    text: str
    level: Literal["error", "warning"] = "error"

    def __str__(self) -> str:
        parts = (self.origin.where, self.origin.name, self.text)
        return ": ".join(part for part in parts if part)


@dataclass(frozen=True, slots=True)
class Source:
    """Values from one place, not checked yet, and where each of them stands.

    Attributes:
        data: Nested as in the file.
        origins: By way; the origin of a value without an entry is that of the nearest around it.
    """

    data: Mapping[str, Any]
    origins: Mapping[Loc, Origin]

    def origin(self, loc: Loc) -> Origin:
        """Return where the value stands, or should stand."""
        return nearest_origin(self.origins, loc)


def refuse(problems: Iterable[Problem]) -> None:
    """Raise if any of the problems is an error.

    Raises:
        ConfigError: says all the errors, a line each.
    """
    errors = [str(problem) for problem in problems if problem.level == "error"]
    if errors:
        raise ConfigError("\n".join(dict.fromkeys(errors)))


def faults(model: type[BaseModel], source: Source) -> list[Problem]:
    """Return all that is wrong with the values of a source."""
    try:
        model.model_validate(source.data)
    except ValidationError as error:
        return list(_problems(Shape.of(model), source, error.errors(include_url=False)))
    return []


def _problems(top: Shape, source: Source, details: Iterable[ErrorDetails]) -> Iterator[Problem]:
    for detail in details:
        shape = top.follow(detail["loc"])
        match detail["type"]:
            case "dangling":
                continue  # the loader looks up names itself: also where other faults are
            case _ if detail["loc"][-1:] == ("[key]",):
                words = top.follow(detail["loc"][:-2]).key_words
                yield Problem(source.origin(shape.loc), f"the key is not {words}")
            case "extra_forbidden":
                loc = (*shape.loc, detail["loc"][-1])
                yield Problem(source.origin(loc), _unknown_key(shape, str(loc[-1])))
            case "missing":
                yield Problem(source.origin(shape.loc[:-1]), f"{shape.loc[-1]!r} is missing")
            case "union_tag_not_found":
                kinds = one_of(list(shape.kinds))
                yield Problem(source.origin(shape.loc), f"{shape.tag!r} is missing: {kinds}")
            case "union_tag_invalid":
                yield Problem(source.origin((*shape.loc, shape.tag)), _bad_tag(shape, detail))
            case _:
                yield Problem(source.origin(shape.loc), _bad_value(shape, detail))


def _unknown_key(shape: Shape, key: str) -> str:
    deeper = [
        f"{name}.{inner}"
        for name in shape.keys
        for inner in shape.follow((name,)).keys
        if inner == key
    ]
    near = deeper or get_close_matches(key, shape.keys, n=1)
    if near:
        return f"unknown key; did you mean {near[0]!r}?"
    return f"unknown key; allowed here: {', '.join(shape.keys)}"


def _bad_tag(shape: Shape, detail: ErrorDetails) -> str:
    kinds, tag = list(shape.kinds), detail["input"][shape.tag]
    if isinstance(tag, str):
        return _not_among(tag, kinds, one_of(kinds))
    return f"{shown(tag)} is not {one_of(kinds)}"


def _bad_value(shape: Shape, detail: ErrorDetails) -> str:
    value = detail["input"]
    if shape.secret:
        return f"the value (not shown) is not {shape.words}"
    if shape.choices and isinstance(value, str):
        return _not_among(value, shape.choices, shape.words)
    if shape.node.get("type") == "array" and isinstance(value, str):
        return f"{shown(value)} is not {shape.words}; write [{value}]"
    return f"{shown(value)} is not {shape.words}"


def _not_among(value: str, choices: list[str], words: str) -> str:
    near = get_close_matches(value, choices, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"{shown(value)} is not {words}{hint}"


def shown(value: object) -> str:
    """Render a value as a YAML file spells it, shortened."""
    if isinstance(value, Mapping | list | tuple):
        kind = "mapping" if isinstance(value, Mapping) else "list"
        return f"a {kind}" if value else f"an empty {kind}"
    text = repr(value) if isinstance(value, str) else json.dumps(value, default=repr)
    return text if len(text) <= 60 else text[:60] + "…"
