"""A receiver of traces as OTLP over HTTP, for tests: it keeps what arrives."""

from __future__ import annotations

import contextlib
import gzip
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from tests.harness import eventually


@dataclass(frozen=True)
class Arrived:
    """A span, in plain values; ids in hexadecimal, times in nanoseconds since 1970."""

    name: str
    trace: str
    ident: str
    parent: str
    kind: int
    began: int
    ended: int
    failed: bool
    attributes: dict[str, Any]
    links: tuple[tuple[str, str], ...]


@dataclass
class Receiver:
    """What has arrived.

    Attributes:
        url: As `telemetry.otlp_endpoint` has it.
        resource: The attributes of who sent.
        raw: All bodies, one after the other.
    """

    url: str
    spans: list[Arrived] = field(default_factory=list)
    resource: dict[str, Any] = field(default_factory=dict)
    raw: bytearray = field(default_factory=bytearray)
    answering: threading.Event = field(default_factory=threading.Event)

    def take(self, path: str, body: bytes) -> None:
        assert path == "/v1/traces"
        self.raw += body
        message = ExportTraceServiceRequest.FromString(body)
        for group in message.resource_spans:
            self.resource = _plain(group.resource.attributes)
            for scope in group.scope_spans:
                self.spans.extend(_arrived(span) for span in scope.spans)

    def trace_of(self, request_id: str) -> list[Arrived]:
        """Return all spans of a request's trace, once its own span has arrived."""

        def own() -> list[Arrived]:
            key = "llm_backend.request.id"
            return [s for s in list(self.spans) if s.attributes.get(key) == request_id]

        (whole,) = eventually(own)
        spans = [s for s in list(self.spans) if s.trace == whole.trace]
        return [whole, *(s for s in spans if s.ident != whole.ident)]

    def named(self, name: str) -> Arrived:
        """Return the last span of this name, once it has arrived."""
        found = eventually(lambda: [s for s in list(self.spans) if s.name == name])
        return found[-1]  # type: ignore[no-any-return]  # of whatever there is


def _arrived(span: Any) -> Arrived:
    return Arrived(
        name=span.name,
        trace=span.trace_id.hex(),
        ident=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        kind=span.kind,
        began=span.start_time_unix_nano,
        ended=span.end_time_unix_nano,
        failed=span.status.code == Status.STATUS_CODE_ERROR,
        attributes=_plain(span.attributes),
        links=tuple((link.trace_id.hex(), link.span_id.hex()) for link in span.links),
    )


def _plain(attributes: Any) -> dict[str, Any]:
    return {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in attributes}


@contextlib.contextmanager
def otlp_receiver() -> Iterator[Receiver]:
    """Run one; it holds its answers back while `answering` is clear."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            receiver.answering.wait()
            receiver.take(self.path, body)
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 # the base names it so
            """Keep the output empty."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    receiver = Receiver(f"http://127.0.0.1:{server.server_port}")
    receiver.answering.set()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        receiver.answering.set()
        server.shutdown()
        server.server_close()
        thread.join()
