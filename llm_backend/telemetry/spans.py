"""Spans of requests and switches, in the words of OpenTelemetry; imported only where wanted.

A request is a span of the kind `server` with one span for each stage that it passes, one after
the other. A switch is a trace of its own with a span for each stage, and requests that waited
for it link to it. Attributes tell what the log tells: never a prompt, an answer or a key.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

import structlog
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import Span, SpanContext, SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace import Tracer as Maker
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from llm_backend import __version__

CLOSE_S: Final = 3.0
"""How long the last spans may take to be sent when the gateway stops."""

PATH: Final = "/v1/traces"
"""Where OTLP receivers take traces over HTTP."""

KEPT: Final = 64
"""Switches that requests may still link to once they have ended."""

OPERATIONS: Final = {
    "chat": "chat",
    "responses": "chat",
    "messages": "chat",
    "completions": "text_completion",
    "embeddings": "embeddings",
}
"""`gen_ai.operation.name` by what the route needs; other routes have a name of their own."""

_CONTEXT: Final = (b"traceparent", b"tracestate")

log = structlog.get_logger(__name__)


class Told(Protocol):
    """What is told of a request when it is over, as its line in the log has it."""

    request_id: str
    key: str | None
    model: str | None
    status: int | None
    error: str | None
    stream: bool
    cache: str
    switch: str | None
    prompt_tokens: int
    completion_tokens: int


class Tracer:
    """Makes spans, and sends them in a thread of its own.

    At most `OTEL_BSP_MAX_QUEUE_SIZE` spans wait to be sent (2,048); what comes on top is dropped.

    Args:
        endpoint: The OTLP receiver, with or without `/v1/traces`.
    """

    def __init__(self, endpoint: str) -> None:
        # What goes wrong with sending is told by `Delivery`, once and in our own words.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        own = Resource.create({"service.name": "llm-backend", "service.version": __version__})
        self._provider = TracerProvider(
            resource=own.merge(OTELResourceDetector().detect()), shutdown_on_exit=False
        )
        self._provider.add_span_processor(BatchSpanProcessor(Delivery(endpoint)))
        self._maker = self._provider.get_tracer("llm_backend", __version__)
        self._switches: dict[str, SwitchTrace] = {}
        self._ended: OrderedDict[str, SpanContext] = OrderedDict()

    async def close(self) -> None:
        """Send what there is, as far as that takes no longer than `CLOSE_S`."""
        # A thread that does not keep the process alive: a receiver may take for ever.
        sending = threading.Thread(target=self._provider.shutdown, daemon=True)
        sending.start()
        await asyncio.to_thread(sending.join, CLOSE_S)

    def request(self, headers: Mapping[bytes, bytes], route: str, capability: str) -> RequestTrace:
        """Begin the trace of a request, as a part of its client's if the headers name that.

        Args:
            headers: Of the request.
            route: Of the endpoint table.
            capability: What the route needs of a model.
        """
        carrier = {n.decode(): headers[n].decode("latin-1") for n in _CONTEXT if n in headers}
        operation = OPERATIONS.get(capability, capability)
        attributes = {
            "http.request.method": "POST",
            "http.route": route,
            "gen_ai.operation.name": operation,
        }
        span = self._maker.start_span(
            f"POST {route}",
            context=TraceContextTextMapPropagator().extract(carrier),
            kind=SpanKind.SERVER,
            attributes=attributes,
        )
        return RequestTrace(self, self._maker, span, operation)

    def hear(self, kind: str, data: Mapping[str, Any]) -> None:
        """Take a notice of the switcher's feed."""
        ident = data.get("switch")
        if ident is None:
            return
        if kind == "switch" and data["outcome"] is None:
            self._switches[ident] = SwitchTrace(self._maker, data)
        elif ident in self._switches and kind == "step":
            self._switches[ident].step(data["model"], data["step"], data["elapsed_s"])
        elif ident in self._switches and kind == "switch":
            self._ended[ident] = self._switches.pop(ident).end(data)
            if len(self._ended) > KEPT:
                self._ended.popitem(last=False)

    def context_of(self, switch: str) -> SpanContext | None:
        """Return what a span links to that has to do with a switch; None where it is forgotten."""
        under_way = self._switches.get(switch)
        return self._ended.get(switch) if under_way is None else under_way.context


class RequestTrace:
    """The spans of one request: its own, and that of the stage in which it is."""

    __slots__ = ("_engine", "_maker", "_operation", "_parent", "_span", "_stage", "_tracer")

    def __init__(self, tracer: Tracer, maker: Maker, span: Span, operation: str) -> None:
        self._tracer = tracer
        self._maker = maker
        self._span = span
        self._parent = set_span_in_context(span)
        self._operation = operation
        self._stage: Span | None = None
        self._engine: Span | None = None

    def enter(self, stage: str) -> None:
        """Come to the next stage; the one before is over."""
        self._leave()
        self._stage = self._maker.start_span(stage, context=self._parent)

    def waited(self, switch: str | None) -> None:
        """Link the wait that ends now to the switch that it was for."""
        context = None if switch is None else self._tracer.context_of(switch)
        if context is not None and self._stage is not None:
            self._stage.add_link(context, {"llm_backend.switch": switch or ""})

    def ask(self, model: str, provider: str, host: str, port: int) -> bytes:
        """Come to the engine; return the header lines by which it makes its spans a part of ours.

        Args:
            model: The catalog id.
            provider: The kind of engine.
            host: Where it listens.
            port: Its port.
        """
        self._leave()
        attributes: dict[str, str | int] = {
            "gen_ai.operation.name": self._operation,
            "gen_ai.provider.name": provider,
            "gen_ai.request.model": model,
            "server.address": host,
            "server.port": port,
        }
        self._stage = self._engine = self._maker.start_span(
            f"{self._operation} {model}",
            context=self._parent,
            kind=SpanKind.CLIENT,
            attributes=attributes,
        )
        lines: dict[str, str] = {}
        TraceContextTextMapPropagator().inject(lines, set_span_in_context(self._stage))
        return "".join(f"{name}: {value}\r\n" for name, value in lines.items()).encode("latin-1")

    def end(self, told: Told, *, is_failure: bool) -> None:
        """End the trace.

        Args:
            told: What is known of the request now.
            is_failure: Whether it failed through no fault of its client.
        """
        if self._engine is not None:
            self._engine.set_attribute("gen_ai.usage.input_tokens", told.prompt_tokens)
            self._engine.set_attribute("gen_ai.usage.output_tokens", told.completion_tokens)
        for span in filter(None, (self._stage, self._span)):
            if told.error is not None:
                span.set_attribute("error.type", told.error)
            if is_failure:
                span.set_status(Status(StatusCode.ERROR))
        self._span.set_attributes(_attributes(told))
        self._leave()
        self._span.end()

    def _leave(self) -> None:
        if self._stage is not None:
            self._stage.end()
            self._stage = None


def _attributes(told: Told) -> dict[str, str | int | bool]:
    known: dict[str, str | int | bool | None] = {
        "http.response.status_code": told.status,
        "gen_ai.request.model": told.model,
        "gen_ai.request.stream": told.stream,
        "llm_backend.request.id": told.request_id,
        "llm_backend.key": told.key,
        "llm_backend.cache": told.cache,
        "llm_backend.switch": told.switch,
    }
    return {name: value for name, value in known.items() if value is not None}


class SwitchTrace:
    """The spans of one switch.

    Args:
        maker: Makes spans.
        data: Of the notice with which it begins.
    """

    def __init__(self, maker: Maker, data: Mapping[str, Any]) -> None:
        self._maker = maker
        to = data["to"]
        name = f"switch to {to}" if to is not None else "unload"
        self._span = maker.start_span(name, attributes={"llm_backend.switch": data["switch"]})
        self._stages: dict[tuple[str, str], Span] = {}

    @property
    def context(self) -> SpanContext:
        """What others link to."""
        return self._span.get_span_context()

    def step(self, model: str, step: str, elapsed_s: float) -> None:
        """Take a step: a stage begins, or has ended after `elapsed_s` seconds."""
        stage, _, how = step.rpartition("_")
        if how == "done" and (model, stage) not in self._stages:
            self._begin(model, stage, elapsed_s)
        if how in {"done", "failed", "canary"}:
            span = self._stages.pop((model, stage), None)
            if span is not None:
                if how != "done":
                    span.set_status(Status(StatusCode.ERROR))
                span.end()
        elif step not in {"wanted", "launched"}:  # instants
            self._begin(model, step, 0.0)

    def _begin(self, model: str, stage: str, ago_s: float) -> None:
        around = [span for (whose, _), span in self._stages.items() if whose == model]
        self._stages[model, stage] = self._maker.start_span(
            stage,
            context=set_span_in_context(around[-1] if around else self._span),
            attributes={"gen_ai.request.model": model},
            start_time=time.time_ns() - int(ago_s * 1e9),
        )

    def end(self, data: Mapping[str, Any]) -> SpanContext:
        """End the trace with the notice that tells of the end; return what others link to."""
        told = {"from": data["from"], "to": data["to"], "rung": data["rung"]}
        known = {f"llm_backend.{name}": value for name, value in told.items() if value is not None}
        self._span.set_attributes({**known, "llm_backend.outcome": data["outcome"]})
        unfinished = [self._stages.pop(key) for key in reversed(self._stages.copy())]
        for span in [*unfinished, self._span]:
            if data["outcome"] == "failed":
                span.set_status(Status(StatusCode.ERROR))
            span.end()
        return self.context


class Delivery(SpanExporter):
    """Sends spans, and logs when that stops working and when it works again.

    Args:
        endpoint: The OTLP receiver, with or without `/v1/traces`.
    """

    def __init__(self, endpoint: str) -> None:
        self._to = urlsplit(endpoint).netloc
        self._otlp = OTLPSpanExporter(endpoint.rstrip("/").removesuffix(PATH) + PATH)
        self._works = True

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send spans; wait and try again, for as long as `OTEL_EXPORTER_OTLP_TIMEOUT` says."""
        result = self._otlp.export(spans)
        works = result is SpanExportResult.SUCCESS
        if self._works and not works:
            log.warning("traces_lost", receiver=self._to)
        elif works and not self._works:
            log.info("traces_taken", receiver=self._to)
        self._works = works
        return result

    def shutdown(self) -> None:
        """Close the connection."""
        self._otlp.shutdown()  # type: ignore[no-untyped-call]  # it declares no types
