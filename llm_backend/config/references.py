"""Names of a catalog that point at something: devices, models, aliases.

They are looked up in the plain data, so that a file with other faults gets these reported too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from llm_backend.config.base import Loc

Fault = tuple[Loc, str]


def dangling(data: Mapping[str, Any]) -> Iterator[Fault]:
    """Yield what names nothing, or is named twice, in a catalog that may have other faults."""
    devices, models = _mapping(data.get("devices")), _mapping(data.get("models"))
    for model, entry in models.items():
        for index, device in enumerate(_names(_mapping(entry).get("devices"))):
            if device not in devices:
                yield ("models", model, "devices", index), no_such("device", device, devices)
    yield from _repeated(models)
    default = data.get("default")
    for index, model in enumerate(_names(default)):
        if model not in models:
            loc = ("default",) if isinstance(default, str) else ("default", index)
            yield loc, no_such("model", model, models)


def _repeated(models: Mapping[str, Any]) -> Iterator[Fault]:
    owners = {model: model for model in models}
    for model, entry in models.items():
        for index, alias in enumerate(_names(_mapping(entry).get("aliases"))):
            owner = owners.setdefault(alias, model)
            if alias in models or owner != model:
                yield ("models", model, "aliases", index), f"{alias!r} is a name of {owner!r} too"


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _names(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list | tuple):
        return []
    return [name for name in value if isinstance(name, str)]


def no_such(what: str, name: str, known: Mapping[str, Any]) -> str:
    """Say that nothing has this name, and which names there are."""
    return f"no {what} is called {name!r}; {suggestion(name, known)}"


def suggestion(name: str, known: Mapping[str, Any]) -> str:
    """Name the nearest of the known names; all of them where none is near."""
    near = get_close_matches(name, known, n=1)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"there is {', '.join(sorted(known)) or 'none'}"
