"""What is remembered of a request: one line in the log, one update of the metrics."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from llm_backend.errors import InternalError, LLMBackendError
from llm_backend.gateway.exchange import ClientGone
from llm_backend.telemetry.logs import FrequentLog
from llm_backend.telemetry.metrics import OTHER, Metrics


@dataclass(slots=True)
class Record:
    """The facts of one request; never its text.

    Attributes:
        request_id: As in the headers of the answer.
        route: Path of the endpoint table.
        model: The catalog id; None while it is not known.
        key: Name of the key it came with.
        stream: Whether a stream was asked for.
        cache: `hit`, `miss` or `bypass`.
        waited_s: Seconds in line; None where it never stood in line.
        first_byte_s: From lease to first byte of the engine; None without one.
        prompt_tokens: As the engine counts.
        completion_tokens: As the engine counts.
        began: Monotonic seconds.
    """

    request_id: str
    route: str
    model: str | None = None
    key: str | None = None
    stream: bool = False
    cache: str = "bypass"
    waited_s: float | None = None
    first_byte_s: float | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    began: float = field(default_factory=time.monotonic)

    def note_usage(self, usage: Any) -> None:
        """Take the token counts from what an engine sent as `usage`, of either API."""
        if not isinstance(usage, dict):
            return
        self.prompt_tokens = _count(usage, "prompt_tokens", "input_tokens")
        self.completion_tokens = _count(usage, "completion_tokens", "output_tokens")


def _count(usage: dict[str, Any], *names: str) -> int:
    for name in names:
        value = usage.get(name)
        if isinstance(value, int) and value >= 0:
            return value
    return 0


class Recorder:
    """Writes down how each request ended.

    Args:
        metrics: Where it is counted.
        log: Where it gets a line.
    """

    def __init__(self, metrics: Metrics, log: FrequentLog) -> None:
        self._metrics = metrics
        self._log = log

    def close(self, record: Record, status: int | None, failure: Exception | None) -> None:
        """Write one request down.

        Args:
            record: Its facts.
            status: Of the answer; None where it has none yet.
            failure: What it ended in, as the answer or amid a stream; None where all went well.
        """
        seconds = time.monotonic() - record.began
        self._count(record, _outcome(status, failure), seconds)
        self._log.write(
            "request",
            request_id=record.request_id,
            route=record.route,
            model=record.model,
            key=record.key,
            status=status,
            error=_code(failure),
            stream=record.stream,
            cache=record.cache,
            waited_s=_rounded(record.waited_s),
            first_byte_s=_rounded(record.first_byte_s),
            seconds=_rounded(seconds),
            prompt_tokens=record.prompt_tokens,
            completion_tokens=record.completion_tokens,
        )

    def _count(self, record: Record, outcome: str, seconds: float) -> None:
        metrics, model = self._metrics, record.model
        metrics.requests.add((record.route, model or OTHER, outcome))
        metrics.cache.add((record.cache,))
        if model is None:
            return
        own = (model,)
        metrics.request_seconds.observe(own, seconds)
        if record.waited_s is not None:
            metrics.wait_seconds.observe(own, record.waited_s)
        if record.first_byte_s is not None:
            metrics.first_byte_seconds.observe(own, record.first_byte_s)
        if record.completion_tokens or record.prompt_tokens:
            metrics.tokens.add((model, "in"), record.prompt_tokens)
            metrics.tokens.add((model, "out"), record.completion_tokens)


def _code(failure: Exception | None) -> str | None:
    if failure is None:
        return None
    if isinstance(failure, ClientGone):
        return "client_gone"
    return failure.code if isinstance(failure, LLMBackendError) else InternalError.code


def _outcome(status: int | None, failure: Exception | None) -> str:
    # A stream that broke after its headers was no success, whatever its status said.
    if isinstance(failure, ClientGone):
        return "gone"
    if failure is not None:
        status = failure.status if isinstance(failure, LLMBackendError) else InternalError.status
    return f"{(status or InternalError.status) // 100}xx"


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 4)
