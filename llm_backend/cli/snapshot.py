"""What a running gateway tells of itself at one moment, and what two moments say of its pace."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

import httpx2

from llm_backend.cli.control import answer
from llm_backend.wire import JSONObject

_REQUESTS: Final = "llm_requests_total"
_TOKENS: Final = "llm_tokens_total"
_SAMPLE: Final = re.compile(
    rf'^({_REQUESTS}|{_TOKENS})\{{(?:.*,)?model="([^"]*)"(?:,.*)?\}} (\S+)$', re.MULTILINE
)
_GENERATED: Final = 'direction="out"'


@dataclass(frozen=True, slots=True)
class Counts:
    """What a model has done since the gateway began."""

    requests: float = 0.0
    tokens: float = 0.0


@dataclass(frozen=True, slots=True)
class Rate:
    """What a model does in a second: requests that end, tokens that it generates."""

    requests: float = 0.0
    tokens: float = 0.0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One moment.

    Attributes:
        status: `GET /status`.
        health: `GET /health`.
        history: `GET /api/v1/history`.
        counts: By model.
        at: When, on the monotonic clock.
    """

    status: JSONObject
    health: JSONObject
    history: JSONObject
    counts: Mapping[str, Counts]
    at: float = field(default_factory=time.monotonic)


async def take(http: httpx2.AsyncClient) -> Snapshot:
    """Ask a gateway for everything.

    Raises:
        httpx2.HTTPError: it does not answer.
        LLMBackendError: it answers with an error, or something else answers.
    """
    status = answer(await http.get("/status"))
    health = answer(await http.get("/health"))
    history = answer(await http.get("/api/v1/history"))
    metrics = await http.get("/metrics")
    return Snapshot(status, health, history, counts_of(metrics.text))


def counts_of(metrics: str) -> dict[str, Counts]:
    """Return the counts of each model out of `GET /metrics`."""
    requests: Counter[str] = Counter()
    tokens: Counter[str] = Counter()
    for sample in _SAMPLE.finditer(metrics):
        series, model, value = sample.groups()
        if series == _REQUESTS:
            requests[model] += float(value)  # type: ignore[assignment]  # a Counter counts in floats, too
        elif _GENERATED in sample[0]:
            tokens[model] += float(value)  # type: ignore[assignment]  # the same
    return {m: Counts(requests[m], tokens[m]) for m in requests.keys() | tokens.keys()}


def rates(snapshots: Iterable[Snapshot]) -> dict[str, Rate]:
    """Return what happened in a second between the first and the last of these moments."""
    moments = list(snapshots)
    if len(moments) < 2:
        return {}
    first, last = moments[0], moments[-1]
    seconds = last.at - first.at
    return {
        model: Rate(
            max(0.0, now.requests - before.requests) / seconds,
            max(0.0, now.tokens - before.tokens) / seconds,
        )
        for model, now in last.counts.items()
        if (before := first.counts.get(model)) is not None and seconds > 0
    }
