"""uvicorn's HTTP protocol, with bounds on what a client may do before its request is complete.

uvicorn itself waits for ever for the end of a request's head, keeps headers of any size, takes the
trailers of a body for headers, and loses sight of a client that has sent its next request already.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import socket
import urllib.parse
from collections.abc import Callable
from typing import Any, ClassVar

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from llm_backend.errors import HeadersTooLarge, InvalidRequest, LLMBackendError, RequestTooSlow
from llm_backend.gateway.deadline import Deadline
from llm_backend.gateway.exchange import CONNECTION, Headers
from llm_backend.wire import encode, error_object

_OFFER = re.compile(rb"(\r\n)upgrade(?=:)", re.IGNORECASE)

_PLAIN_TARGET = re.compile(rb"(/[A-Za-z0-9_-]+)+")
"""A target that is a path and nothing else; no other reading of it is possible."""

PIPELINED = 16
"""Requests that a client may send before the answer to the first."""

PHRASES = {400: "Bad Request", 408: "Request Timeout", 431: "Request Header Fields Too Large"}


class Cycle(RequestResponseCycle):
    """One request and its answer: uvicorn's, with what is the same for all kept in the class."""

    logger = logging.getLogger("uvicorn.error")
    access_log = False
    disconnected = False
    more_body = True
    response_started = False
    response_complete = False
    chunked_encoding = None
    expected_content_length = 0

    def __init__(self, protocol: BoundedProtocol, *, keep_alive: bool) -> None:
        self.scope = protocol.scope
        self.transport = protocol.transport
        self.flow = protocol.flow
        self.default_headers = protocol.server_state.default_headers
        self.message_event = asyncio.Event()
        self.on_response = protocol.on_response_complete
        self.keep_alive = keep_alive
        self.waiting_for_100_continue = protocol.expect_100_continue
        self.body = bytearray()


class BoundedProtocol(HttpToolsProtocol):
    """One client connection.

    Attributes:
        head_bytes: Bytes that request line and headers may have.
        head_s: Seconds from connecting, or from its first byte, until a head is complete.
        body_s: Seconds from there until the body is complete.
        reader_s: Seconds that a client may leave what was sent to it unread.
        is_lost: Whether the connection has ended.
        on_lost: Called, if set, when it ends: whoever works for it can stop.
    """

    head_bytes: ClassVar[int] = 32 * 1024
    head_s: ClassVar[float] = 10.0
    body_s: ClassVar[float] = 30.0
    reader_s: ClassVar[float] = 120.0

    is_lost = False
    on_lost: Callable[[], None] | None = None
    _rest: Deadline
    _seen = 0
    _in_head = True
    _between = False
    _is_refused = False
    _clock: asyncio.TimerHandle | None = None
    _reader_clock: asyncio.TimerHandle | None = None
    _served: RequestResponseCycle | None = None

    # For the event loop.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn declares it
        """Start the clock for the first head."""
        super().connection_made(transport)
        self._rest = Deadline(self.loop, self.timeout_keep_alive_handler)
        self._expect("head", self.head_s)
        sock = transport.get_extra_info("socket")
        # For the end of an answer that fits into the buffer: `pause_writing` never hears of it.
        with contextlib.suppress(AttributeError, OSError):
            after = int(self.reader_s * 1000)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, after)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clocks, and tell whoever works for this connection."""
        self._stop_clock()
        self._rest.cancel()
        self.resume_writing()
        super().connection_lost(exc)
        self.is_lost = True
        # uvicorn tells the request that came last, which may still be in line behind this one.
        if self._served is not None and not self._served.response_complete:
            self._served.disconnected = True
            self._served.message_event.set()
        if self.on_lost is not None:
            self.on_lost()

    def data_received(self, data: bytes) -> None:
        """Count what is no part of a body: nobody waits for it, and the parser keeps it."""
        if self._is_refused:
            return
        self._seen += len(data)
        if self._in_head and (b"pgrade" in data or b"PGRADE" in data):
            # The parser skips the body of whoever offers another protocol, as Java's client does.
            data = _OFFER.sub(rb"\1ignored", data)
        self._between = False  # even an empty line ends the rest between two requests
        self._rest.clear()
        super().data_received(data)
        if self._clock is None and not self._between:
            self._expect(*(("head", self.head_s) if self._in_head else ("body", self.body_s)))
        if self._seen > self.head_bytes:
            self._refuse(HeadersTooLarge(f"The headers are over {self.head_bytes} bytes."))

    def pause_writing(self) -> None:
        """Start the clock of a client that does not read."""
        super().pause_writing()
        self._reader_clock = self.loop.call_later(self.reader_s, self.transport.abort)

    def resume_writing(self) -> None:
        """Stop it."""
        if self._reader_clock is not None:
            self._reader_clock.cancel()
            self._reader_clock = None
        super().resume_writing()

    # For the parser.

    def on_message_begin(self) -> None:
        """Put the connection where the application finds it."""
        super().on_message_begin()
        self.scope["extensions"] = {CONNECTION: self}  # type: ignore[dict-item]  # ours, not ASGI's
        self._between = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header. Trailers are dropped: nobody would check or count them any more."""
        if self._in_head:
            name = name.lower()
            self.headers.append((name, value))
            if name == b"expect" and value.lower() == b"100-continue":
                self.expect_100_continue = True

    def on_headers_complete(self) -> None:
        """Stop the clock for the head, and begin with the request or put it in line.

        uvicorn's own would look for WebSockets, a root path and a limit of connections too.
        """
        parser, scope, before = self.parser, self.scope, self.cycle
        version = parser.get_http_version()
        scope["http_version"] = version
        scope["method"] = parser.get_method().decode("ascii")
        self._tell_target()
        keep_alive = version != "1.0" and parser.should_keep_alive()
        self.cycle = Cycle(self, keep_alive=keep_alive)
        if before is None or before.response_complete:
            self._start_asgi_task(self.cycle, self.app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))
        self._in_head, self._seen = False, 0
        self._stop_clock()
        if parser.should_upgrade():  # CONNECT, or an offer that came in two pieces
            # The parser takes whatever follows for another protocol, which nobody speaks here.
            self.cycle.keep_alive = False
        if 0 < len(self.pipeline) <= PIPELINED:
            self.flow.resume_reading()  # who does not read does not see a client leave

    def on_body(self, body: bytes) -> None:
        """Hand a piece on."""
        self._seen = 0
        cycle = self.cycle
        if cycle.response_complete:
            return
        cycle.body += body
        if len(cycle.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        cycle.message_event.set()

    def on_message_complete(self) -> None:
        """Stop the clock; what comes next belongs to a head again."""
        self._stop_clock()
        self._in_head, self._between, self._seen = True, True, 0
        if not self.cycle.response_complete:
            self.cycle.more_body = False
            self.cycle.message_event.set()

    def on_response_complete(self) -> None:
        """Go on with the next request, or let the connection rest.

        uvicorn's own sets a timer behind every answer, and takes it back with the next request.
        """
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        else:
            self._rest.set(self.timeout_keep_alive)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP, in the API's own form."""
        self._refuse(InvalidRequest(msg))

    # For the application.

    def body(self) -> bytes | None:
        """Hand over the body of the request that is served; None where it has to be waited for."""
        cycle = self._served
        if cycle is None or cycle.more_body or cycle.disconnected:
            return None
        body, cycle.body = bytes(cycle.body), bytearray()
        return body

    def answer(self, status: int, headers: Headers, body: bytes) -> bool:
        """Send a whole answer to the request that is served, in one piece.

        It is what uvicorn's `send` does with two messages, at a fraction of its cost.

        Returns:
            False where nothing was sent: the client has not read what came before, has left,
            or wants no body.
        """
        cycle = self._served
        if cycle is None or cycle.response_started or cycle.disconnected or self.flow.write_paused:
            return False
        if cycle.scope["method"] == "HEAD":
            return False
        cycle.response_started = cycle.response_complete = True
        cycle.waiting_for_100_continue = False
        pieces = [STATUS_LINE[status]]
        for name, value in (*cycle.default_headers, *headers):
            pieces += name, b": ", value, b"\r\n"
        pieces.append(b"\r\n" if cycle.keep_alive else b"connection: close\r\n\r\n")
        pieces.append(body)
        self.transport.write(b"".join(pieces))
        cycle.message_event.set()
        if not cycle.keep_alive:
            self.transport.close()
        cycle.on_response()
        return True

    # Within.

    def _tell_target(self) -> None:
        target, scope = self.url, self.scope
        if _PLAIN_TARGET.fullmatch(target):
            scope["path"], scope["raw_path"] = target.decode("ascii"), target
            scope["query_string"] = b""
            return
        parsed = httptools.parse_url(target)
        scope["path"] = urllib.parse.unquote(parsed.path.decode("ascii"))
        scope["raw_path"] = parsed.path
        scope["query_string"] = parsed.query or b""

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._served = cycle
        super()._start_asgi_task(cycle, app)

    def _expect(self, what: str, seconds: float) -> None:
        self._clock = self.loop.call_later(seconds, self._too_slow, what, seconds)

    def _too_slow(self, what: str, seconds: float) -> None:
        text = f"The {what} of the request did not come within {seconds:g} s."
        self._refuse(RequestTooSlow(text))

    def _stop_clock(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None

    def _refuse(self, error: LLMBackendError) -> None:
        """Refuse the request that is being read, and end the connection."""
        if self.transport.is_closing():
            return
        self._is_refused = True
        served = self._served
        if served is not None and not served.response_complete and (self._in_head or self.pipeline):
            # What is read comes after the one that is served. That keeps its answer: words of ours
            # would be taken for it.
            served.keep_alive = False
            return
        if self._in_head or (served is not None and not served.response_started):
            self._say(error)
        self.transport.close()

    @staticmethod
    def refused(code: str) -> None:
        """Take note of a refusal: here nobody does."""

    def _say(self, error: LLMBackendError) -> None:
        self.refused(error.code)
        body = encode(error_object(error))
        head = (
            f"HTTP/1.1 {error.status} {PHRASES[error.status]}\r\n"
            "content-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)


def bounded_protocol(
    head_bytes: int,
    head_s: float,
    body_s: float,
    refused: Callable[[str], None] = BoundedProtocol.refused,
) -> type[BoundedProtocol]:
    """Return the protocol with these bounds; `refused` is told the code of each refusal."""
    bounds = {"head_bytes": head_bytes, "head_s": head_s, "body_s": body_s}
    return type("Protocol", (BoundedProtocol,), {**bounds, "refused": staticmethod(refused)})
