"""Every setting with its value and where that came from, as data for `config check`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

from llm_backend.config.base import Origin, dotted
from llm_backend.config.environment import variable
from llm_backend.config.settings import Settings
from llm_backend.config.shape import Shape

_UNITS: Final = {"s": "s", "mib": "MiB", "kib": "KiB", "chars": "characters"}

_PASSWORD: Final = re.compile(r"(?<=://)([^/@]*:)[^/@]*(?=@)")


@dataclass(frozen=True, slots=True)
class Explained:
    """One setting.

    Attributes:
        key: `server.port`.
        variable: Its environment variable, `LLM_SERVER__PORT`.
        value: What holds, as JSON would have it; secrets are left out.
        default: What holds where nothing is set.
        unit: Unit of the value; empty where it has none.
        meaning: What it is, in a sentence.
        allowed: What it may be, in words.
        origin: Where the value was set.
    """

    key: str
    variable: str
    value: Any
    default: Any
    unit: str
    meaning: str
    allowed: str
    origin: Origin


def explain(settings: Settings) -> list[Explained]:
    """Return every setting with its value and origin, in the order of the reference."""
    values, defaults = _plain(settings), _plain(Settings())
    return [_explained(shape, values, defaults, settings) for shape in Shape.of(Settings).leaves()]


def _explained(
    shape: Shape, values: dict[str, Any], defaults: dict[str, Any], settings: Settings
) -> Explained:
    names = [str(part) for part in shape.loc]
    return Explained(
        key=dotted(shape.loc),
        variable=variable(names),
        value=_dig(values, names),
        default=_dig(defaults, names),
        unit=_UNITS.get(names[-1].rpartition("_")[2], ""),
        meaning=" ".join(shape.node.get("description", "").split()),
        allowed=shape.words,
        origin=settings.origin(*names),
    )


def _plain(settings: Settings) -> dict[str, Any]:
    plain = settings.model_dump(mode="json", exclude={"keys": {"__all__": {"sha256"}}})
    cache = plain["cache"]
    if cache["redis_url"]:
        cache["redis_url"] = _PASSWORD.sub(r"\1***", cache["redis_url"])
    return plain


def _dig(values: Any, names: list[str]) -> Any:
    for name in names:
        values = values[name]
    return int(values) if isinstance(values, float) and values.is_integer() else values
