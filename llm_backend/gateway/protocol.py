"""uvicorn's HTTP protocol, with bounds on what a client may do before its request is complete.

uvicorn itself waits for ever for the end of a request's head, keeps headers of any size, takes the
trailers of a body for headers, and loses sight of a client that has sent its next request already.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
from collections.abc import Callable
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from llm_backend.errors import HeadersTooLarge, InvalidRequest, LLMBackendError, RequestTooSlow
from llm_backend.gateway.exchange import CONNECTION
from llm_backend.wire import encode, error_object

_OFFER = re.compile(rb"(\r\n)upgrade(?=:)", re.IGNORECASE)

PIPELINED = 16
"""Requests that a client may send before the answer to the first."""

PHRASES = {400: "Bad Request", 408: "Request Timeout", 431: "Request Header Fields Too Large"}


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
    _seen = 0
    _in_head = True
    _is_refused = False
    _clock: asyncio.TimerHandle | None = None
    _reader_clock: asyncio.TimerHandle | None = None
    _served: RequestResponseCycle | None = None

    # For the event loop.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn declares it
        """Start the clock for the first head."""
        super().connection_made(transport)
        self._expect("head", self.head_s)
        sock = transport.get_extra_info("socket")
        # For the end of an answer that fits into the buffer: `pause_writing` never hears of it.
        with contextlib.suppress(AttributeError, OSError):
            after = int(self.reader_s * 1000)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, after)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clocks, and tell whoever works for this connection."""
        self._stop_clock()
        self.resume_writing()
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
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
        if self._in_head:
            # The parser skips the body of whoever offers another protocol, as Java's client does.
            data = _OFFER.sub(rb"\1ignored", data)
        if self._clock is None:  # even an empty line ends the rest between two requests
            self._expect("head", self.head_s)
        super().data_received(data)
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
        if self._clock is None:
            self._expect("head", self.head_s)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header. Trailers are dropped: nobody would check or count them any more."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Go on to the clock for the body."""
        super().on_headers_complete()
        self._in_head, self._seen = False, 0
        self._stop_clock()
        self._expect("body", self.body_s)
        if self.parser.should_upgrade():  # CONNECT, or an offer that came in two pieces
            # The parser takes whatever follows for another protocol, which nobody speaks here.
            self.cycle.keep_alive = False
        if 0 < len(self.pipeline) <= PIPELINED:
            self.flow.resume_reading()  # who does not read does not see a client leave

    def on_body(self, body: bytes) -> None:
        """Hand a piece on."""
        self._seen = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Stop the clock; what comes next belongs to a head again."""
        self._stop_clock()
        self._in_head, self._seen = True, 0
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP, in the API's own form."""
        self._refuse(InvalidRequest(msg))

    # Within.

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._served = cycle
        super()._start_asgi_task(cycle, app)

    def _expect(self, what: str, seconds: float) -> None:
        error = RequestTooSlow(f"The {what} of the request did not come within {seconds:g} s.")
        self._clock = self.loop.call_later(seconds, self._refuse, error)

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

    def _say(self, error: LLMBackendError) -> None:
        body = encode(error_object(error))
        head = (
            f"HTTP/1.1 {error.status} {PHRASES[error.status]}\r\n"
            "content-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)


def bounded_protocol(head_bytes: int, head_s: float, body_s: float) -> type[BoundedProtocol]:
    """Return the protocol with these bounds."""
    bounds = {"head_bytes": head_bytes, "head_s": head_s, "body_s": body_s}
    return type("Protocol", (BoundedProtocol,), bounds)
