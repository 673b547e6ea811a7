"""What is remembered of a request: one line in the log, one update of the metrics."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from llm_backend.errors import InternalError, LLMBackendError
from llm_backend.gateway.exchange import ClientGone
from llm_backend.telemetry.logs import FrequentLog
from llm_backend.telemetry.metrics import Metrics
from llm_backend.telemetry.vocabulary import OTHER

CLIENT_GONE: Final = "client_gone"
"""Stands for the code of an error where the client left."""


@dataclass(slots=True)
class Record:
    """The facts of one request, as its line in the log tells them; never its text.

    Attributes:
        request_id: As in the headers of the answer.
        route: Path of the endpoint table.
        model: The catalog id; None while it is not known.
        key: Name of the key it came with.
        status: Of the answer; None where it had none.
        error: Code of what it ended in; None where all went well.
        stream: Whether a stream was asked for.
        batch: Whether it is of the class `batch`.
        cache: `hit`, `miss` or `bypass`.
        waited_s: Seconds in line; None where it never stood in line.
        wait_cause: What it waited for; None where it never stood in line.
        switch: Id of the switch that it waited for; None where it waited for none.
        first_byte_s: From lease to first byte of the engine; None without one.
        first_token_s: From lease to the first output of a stream; None without one.
        engine_s: From lease to the last byte of the engine; None where there was none.
        seconds: From the last byte of the request to its end.
        prompt_tokens: As the engine counts.
        completion_tokens: As the engine counts.
        timestamp: When it ended.
    """

    request_id: str
    route: str
    model: str | None = None
    key: str | None = None
    status: int | None = None
    error: str | None = None
    stream: bool = False
    batch: bool = False
    cache: str = "bypass"
    waited_s: float | None = None
    wait_cause: str | None = None
    switch: str | None = None
    first_byte_s: float | None = None
    first_token_s: float | None = None
    engine_s: float | None = None
    seconds: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    timestamp: datetime | None = None
    _began: float = field(default_factory=time.monotonic)
    _asked: bool = False
    _lent_at: float = 0.0
    _saved_s: float = 0.0

    @property
    def asked(self) -> bool:
        """Whether it asked for its model's engine: an answer from the cache does not."""
        return self._asked

    def ask(self) -> None:
        """Note that it asks for the engine now."""
        self._asked = True

    @property
    def saved_s(self) -> float:
        """Seconds of a switch that an answer from the cache saved."""
        return self._saved_s

    def hit(self, saved_s: float) -> None:
        """Note that its answer comes from the cache, and the seconds of a switch that saves."""
        self.cache, self._saved_s = "hit", saved_s

    def lend(self, waited_s: float, cause: str) -> None:
        """Note that it has its lease: how long that took, and why."""
        self.waited_s, self.wait_cause = waited_s, cause
        self._lent_at = time.monotonic()

    def since_lease_s(self) -> float:
        """Return the seconds since it has its lease."""
        return round(time.monotonic() - self._lent_at, 6)

    def note_output(self) -> None:
        """Note that a stream has its first output."""
        self.first_token_s = self.since_lease_s()

    def begin(self) -> None:
        """Start the clock anew: the request is here to its last byte."""
        self._began = time.monotonic()

    def end(self, status: int | None, error: str | None) -> None:
        """Stop the clock."""
        self.status, self.error, self.timestamp = status, error, datetime.now(UTC)
        self.seconds = round(time.monotonic() - self._began, 6)

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


Note = Callable[[Record], None]


class Recorder:
    """Writes down how each request ended.

    Args:
        metrics: Where it is counted.
        log: Where it gets a line.
        note: Is told of every request that asked for an engine, where somebody wants to know.
    """

    def __init__(self, metrics: Metrics, log: FrequentLog, note: Note | None = None) -> None:
        self._metrics = metrics
        self._log = log
        self._note = note

    def close(self, record: Record, status: int | None, failure: Exception | None) -> None:
        """Write one request down.

        Args:
            record: Its facts.
            status: Of the answer; None where it has none yet.
            failure: What it ended in, as the answer or amid a stream; None where all went well.
        """
        record.end(status, None if failure is None else _code(failure))
        self._count(record, _outcome(status, failure))
        if record.error is not None and record.error != CLIENT_GONE:
            self._metrics.refuse(record.error)
        self._log.write("request", record)
        if self._note is not None and record.asked:
            self._note(record)

    def join(self, model: str) -> None:
        """Note that a request waits for the engine call of an equal one."""
        self._metrics.joins.add((model,))

    def _count(self, record: Record, outcome: str) -> None:
        metrics, model, key = self._metrics, record.model or OTHER, record.key or OTHER
        try:
            metrics.requests.add((record.route, model, key, outcome, record.cache))
        except KeyError:  # the model does not serve this route
            metrics.requests.add((record.route, OTHER, key, outcome, "bypass"))
        if record.model is None:
            return
        own = (model,)
        metrics.request_seconds.observe(own, record.seconds)
        if record.cache == "hit":
            metrics.saved_seconds.add(own, record.saved_s)
        if outcome == "gone":
            is_answered = record.waited_s is not None or record.cache == "hit"
            metrics.departures.add((model, "answering" if is_answered else "waiting"))
        if record.waited_s is not None:
            metrics.wait_seconds.observe((model, record.wait_cause or "none"), record.waited_s)
            self._count_engine(record, own, key)

    def _count_engine(self, record: Record, own: tuple[str], key: str) -> None:
        metrics, count = self._metrics, record.completion_tokens
        if count or record.prompt_tokens:
            metrics.tokens.add((*own, key, "in"), record.prompt_tokens)
            metrics.tokens.add((*own, key, "out"), count)
        if record.first_token_s is not None:
            metrics.first_token_seconds.observe(own, record.first_token_s)
        if record.engine_s is None:
            return
        spent_s = record.seconds - (record.waited_s or 0.0) - record.engine_s
        metrics.overhead_seconds.observe(own, max(0.0, spent_s))
        if record.first_token_s is not None and count > 1:
            each_s = (record.engine_s - record.first_token_s) / (count - 1)
            metrics.per_token_seconds.observe(own, each_s)


def _code(failure: Exception) -> str:
    if isinstance(failure, ClientGone):
        return CLIENT_GONE
    return failure.code if isinstance(failure, LLMBackendError) else InternalError.code


def _outcome(status: int | None, failure: Exception | None) -> str:
    # A stream that broke after its headers was no success, whatever its status said.
    if failure is not None:
        if isinstance(failure, ClientGone):
            return "gone"
        status = failure.status if isinstance(failure, LLMBackendError) else InternalError.status
    return _OUTCOMES.get((status or InternalError.status) // 100, "5xx")


_OUTCOMES: Final = {2: "2xx", 4: "4xx"}
