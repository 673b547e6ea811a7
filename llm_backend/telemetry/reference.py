"""The reference of the metrics, out of their definitions: `docs/reference/metrics.md`.

Write it anew with `python -m llm_backend.telemetry.reference > docs/reference/metrics.md`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Final

from llm_backend.telemetry.metrics import Metrics
from llm_backend.telemetry.tally import About
from llm_backend.telemetry.vocabulary import (
    END_REASONS,
    MEMORY_KINDS,
    OUTCOMES,
    PLACES,
    RESIDENCIES,
    STATUSES,
    Vocabulary,
)

HEAD: Final = """\
# Metrics

`GET /metrics` shows all series of the gateway in the text format of Prometheus. This page is made
of their definitions in [metrics.py](../../llm_backend/telemetry/metrics.py).

- All series are there from the start, at 0: a rate sees the first failure, and a missing series is
  a wrong name.
- Values of labels come from the configuration and from lists in the code, or are `other`. Whatever
  clients send, there are never more series.
- Only what can come about has a series: a model serves the routes of its capabilities, answers on
  some routes only are kept in the cache, and only models that may sleep have stages of sleep.
- Seconds and bytes everywhere. A value that nobody knows is `NaN`.
- Counters begin at 0 with each start of the gateway; `rate()` and `increase()` know that.

Engines have metrics of their own, under the names of vLLM; `GET /metrics/engines` tells Prometheus
where.
"""


def _listed(values: Iterable[str]) -> str:
    return ", ".join(f"`{value}`" for value in values)


LABELS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "cache": "`hit`; `miss`: looked up in vain, or asked anew with `no-cache`; `bypass`",
        "cause": "`none`: a seat was free; `switch`: the model was not awake; `engine_busy`: all "
        "its seats were taken; `lease`: another program had had its device",
        "code": "codes of [errors](errors.md), or `other`",
        "device": "devices of the catalog",
        "direction": "`in`: the prompt; `out`: the answer",
        "from": "models of the catalog that can run here, or `none`: no model had to leave",
        "key": "names of the configured keys, `admin`, `anonymous` where no key is needed, or "
        "`other`: no valid key",
        "kind": _listed(MEMORY_KINDS),
        "model": "models of the catalog that can run here; of requests also `other`: no model, or "
        "one that does not serve the route",
        "operation": "`get`, `set`",
        "outcome": _listed(OUTCOMES),
        "reason": f"of restarts {_listed(END_REASONS)}; of sleep `failed`, or `canary`: it woke up "
        "as another model",
        "residency": _listed(RESIDENCIES),
        "route": "[inference routes](http-api.md)",
        "rung": "what the model came up from: `start`, `asleep-1`, `asleep-2`",
        "setup": "`local`, `compose`, `external`",
        "stage": f"of departures {_listed(PLACES)}; of switches `drain`, `stop`, `sleep_1`, "
        "`sleep_2` of the model that leaves, `memory`, `launch`, `load`, `warm_up` (all four: "
        "`start`, or `adopt` for an engine that an earlier gateway left), `wake_1`, `wake_2` of "
        "the one that comes up",
        "state": "[states of an engine](../explanation/switching.md#states-of-an-engine)",
        "status": f"{_listed(STATUSES)}; `gone`: the client left. A stream that breaks off counts "
        "as what it broke off for, whatever its head said",
        "step": "`sleep_1`, `sleep_2`, `wake_1`, `wake_2`",
        "tier": "`memory`, `redis`",
        "to": "models of the catalog that can run here",
        "version": "that of the gateway",
    }
)
"""Where the values of each label come from."""

OPEN_TELEMETRY: Final = (
    (
        "gen_ai.server.request.duration",
        "llm_request_duration_seconds",
        "the same, with the wait for the model, which `llm_queue_wait_seconds` tells by itself",
    ),
    (
        "gen_ai.server.time_to_first_token",
        "llm_time_to_first_token_seconds",
        "the same: from the lease, so without the wait; streams only",
    ),
    (
        "gen_ai.server.time_per_output_token",
        "llm_time_per_output_token_seconds",
        "the same: after the first token; streams whose engine counts tokens only",
    ),
    (
        "gen_ai.client.token.usage",
        "llm_tokens_total",
        "a counter here, a histogram there; `direction` is `gen_ai.token.type` (`in` is `input`)",
    ),
    (
        "gen_ai.client.operation.duration",
        "llm_request_duration_seconds",
        "what a client sees, less the network",
    ),
    (
        "gen_ai.client.operation.time_to_first_chunk",
        "llm_queue_wait_seconds, llm_time_to_first_token_seconds",
        "what a client sees is both, one after the other",
    ),
)
"""What has a name in OpenTelemetry's conventions: its name, ours, and what differs."""

OPEN_TELEMETRY_LABELS: Final = (
    ("gen_ai.request.model", "model", "here always the catalog id, there what the client wrote"),
    ("gen_ai.token.type", "direction", "`input` is `in`, `output` is `out`"),
    ("gen_ai.operation.name", "route", "`chat` is `/v1/chat/completions`, and so on"),
    ("error.type", "status, code", "`code` of `llm_refusals_total` says more"),
)


def render() -> str:
    """Return the whole page."""
    return "\n".join([HEAD, *_series(), *_labels(), *_mapping()])


def _series() -> Iterator[str]:
    yield "## Series\n"
    yield from _table(
        ("series", "type", "unit", "labels", "what it says"),
        ((f"`{x.name}`", x.kind, unit_of(x), _listed(x.labels), x.text) for x in abouts()),
    )
    yield "\nA histogram has `_bucket` (with the label `le`), `_sum` and `_count`.\n"


def _labels() -> Iterator[str]:
    used = sorted({name for about in abouts() for name in about.labels})
    yield "## Labels\n"
    yield from _table(("label", "values"), ((f"`{name}`", LABELS[name]) for name in used))


def _mapping() -> Iterator[str]:
    yield """
## Names of OpenTelemetry

The [conventions for generative AI](https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-metrics/)
are in development. What they name is here under these names:
"""
    yield from _table(
        ("OpenTelemetry", "here", "what differs"),
        ((f"`{name}`", _listed(ours.split(", ")), text) for name, ours, text in OPEN_TELEMETRY),
    )
    yield ""
    yield from _table(
        ("attribute", "label", "what differs"),
        (
            (f"`{name}`", _listed(ours.split(", ")), text)
            for name, ours, text in OPEN_TELEMETRY_LABELS
        ),
    )
    yield """
`gen_ai.client.operation.time_per_output_chunk`, agents, workflows and tools have no counterpart:
the gateway measures no single chunk, and knows nothing of what a client builds on it.
"""


def abouts() -> list[About]:
    """Return what each family of series is, in the order of the page."""
    return [family.about for family in Metrics(Vocabulary()).families]


def unit_of(about: About) -> str:
    """Return the unit of a family, as its name tells."""
    name = about.name.removesuffix("_total")
    return next((unit for unit in ("seconds", "bytes") if name.endswith(f"_{unit}")), "")


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    names = list(head)
    yield f"| {' | '.join(names)} |"
    yield f"|{'---|' * len(names)}"
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"


if __name__ == "__main__":
    sys.stdout.write(render())
