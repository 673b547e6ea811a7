"""What both files have in common: strict values that know where they were set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, StringConstraints

Loc = tuple[str | int, ...]
"""The way to a value: keys of mappings and indexes of lists."""

ModelId = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,95}$"),
    Field(
        json_schema_extra={
            "patternErrorMessage": "a model name: up to 96 letters, digits and . _ : / -"
        }
    ),
]
"""An id or alias of a model: what clients write into `model`."""

Name = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"),
    Field(json_schema_extra={"patternErrorMessage": "a name: up to 64 letters, digits and . _ -"}),
]
"""A name of a device, a group, a key or a container."""

Sha256 = Annotated[
    str,
    StringConstraints(pattern=r"^[0-9a-f]{64}$"),
    Field(json_schema_extra={"patternErrorMessage": "a SHA-256: 64 lower-case hex digits"}),
]
Text = Annotated[str, Field(min_length=1)]
Flag = Annotated[bool, Field(strict=True)]
Whole = Annotated[int, Field(strict=True)]
Number = Annotated[float, Field(strict=True)]
Count = Annotated[Whole, Field(ge=1)]
MiB = Annotated[Whole, Field(ge=0, le=16 * 1024 * 1024)]
Seconds = Annotated[Number, Field(gt=0, le=86_400)]


class Strict(BaseModel):
    """A value of a configuration file: unknown keys are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value was set.

    Attributes:
        kind: Which of the sources.
        where: For people: `config/gateway.yaml:12`, `.env:3`, `environment`, `flag`, `default`.
        name: What the value is called there: `server.port` or `LLM_SERVER__PORT`.
        line: Line of the file; 0 where there is none.
    """

    kind: Literal["flag", "environment", ".env", "file", "default"]
    where: str
    name: str
    line: int = 0

    def inside(self, rest: Loc) -> Origin:
        """Return the origin of a value further in, at the same place."""
        return Origin(self.kind, self.where, dotted(rest, self.name), self.line)


class Located(Strict):
    """The top of a file: it can tell where each of its values was set."""

    _origins: Mapping[Loc, Origin] = PrivateAttr(default_factory=dict)

    def located(self, origins: Mapping[Loc, Origin]) -> Self:
        """Return the same values, which now know their origins."""
        copy = self.model_copy()
        copy._origins = origins  # noqa: SLF001  # our own, on the copy
        return copy

    def origin(self, *loc: str | int) -> Origin:
        """Return where the value was set, or else the nearest mapping or list around it."""
        return nearest_origin(self._origins, loc)


def nearest_origin(origins: Mapping[Loc, Origin], loc: Loc) -> Origin:
    """Return the origin of `loc`, or else that of the innermost value around it."""
    for end in range(len(loc), -1, -1):
        origin = origins.get(loc[:end])
        if origin is not None:
            return origin.inside(loc[end:])
    return Origin("default", "default", dotted(loc))


def dotted(loc: Loc, start: str = "") -> str:
    """Render a way as people write it: `models.qwen-vl.runtimes[1]`."""
    text = start
    for part in loc:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text
