"""Traces: who asked for which model when, and how much; never what. JSON lines, one a request."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from llm_backend.config.base import Flag, ModelId, Number, Strict, Whole
from llm_backend.errors import SetupError

Moment = Annotated[Number, Field(ge=0, allow_inf_nan=False)]
Tokens = Annotated[Whole, Field(ge=0)]


class Arrival(Strict):
    """One request, as a line of a trace tells it."""

    at_s: Moment
    """When it was sent, in seconds on a clock of the trace's own; with `think_s`, not before."""
    model: ModelId
    """The catalog id."""
    key: str = ""
    """Hash of the name of the API key; equal for requests of one key."""
    batch: Flag = False
    """Whether it may wait for as long as it takes."""
    prompt_tokens: Tokens = 0
    """As the engine counts."""
    completion_tokens: Tokens = 0
    """As the engine counts."""
    client: str = ""
    """Who sent it, where that matters for `think_s`."""
    think_s: Moment | None = None
    """It is sent so long after the answer to its client's line before; None: at `at_s`."""
    patience_s: Moment | None = None
    """The client leaves after so many seconds in line; None: never."""


@dataclass(frozen=True, slots=True)
class Trace:
    """Arrivals, in the order of their times; the first one comes at 0.

    Attributes:
        name: Of the file, or of a trace that comes with the product.
        arrivals: The requests.
    """

    name: str
    arrivals: tuple[Arrival, ...]

    @classmethod
    def of(cls, name: str, arrivals: Iterable[Arrival]) -> Trace:
        """Return a trace of arrivals that come in any order, on any clock."""
        ordered = sorted(arrivals, key=lambda a: a.at_s)
        begin = ordered[0].at_s if ordered else 0.0
        moved = (a.model_copy(update={"at_s": round(a.at_s - begin, 3)}) for a in ordered)
        return cls(name, tuple(moved))

    @property
    def models(self) -> list[str]:
        """The models that are asked for, in the order of their first requests."""
        return list(dict.fromkeys(a.model for a in self.arrivals))


def to_line(arrival: Arrival) -> bytes:
    """Return the line of a trace that tells of this request."""
    return arrival.model_dump_json(exclude_defaults=True).encode() + b"\n"


def read_trace(path: Path) -> Trace:
    """Read a trace from a file.

    Raises:
        SetupError: it cannot be read, or a line of it is wrong; names file and line.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise SetupError(f"The trace {path} cannot be read: {error.strerror}.") from None
    arrivals = list(_arrivals(path, lines))
    if not arrivals:
        raise SetupError(
            f"The trace {path} has no requests.",
            hint="switching.record in config/gateway.yaml makes the gateway write one.",
        )
    return Trace.of(path.name, arrivals)


def _arrivals(path: Path, lines: list[bytes]) -> Iterator[Arrival]:
    clients: set[str] = set()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            arrival = Arrival.model_validate_json(line)
        except ValidationError as error:
            raise SetupError(f"{path}:{number}: {first_fault(error)}") from None
        if arrival.think_s is not None and arrival.client not in clients:
            text = f"think_s needs an earlier line of the same client, {arrival.client!r}."
            raise SetupError(f"{path}:{number}: {text}")
        clients.add(arrival.client)
        yield arrival


def first_fault(error: ValidationError) -> str:
    """Return what is wrong first, and where."""
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {first['msg']}." if where else f"{first['msg']}."
