"""uvicorn's HTTP protocol, with bounds on what a client may do before its request is complete.

uvicorn itself waits for ever for the end of a request's head, and keeps headers of any size.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from llm_backend.errors import HeadersTooLarge, InvalidRequest, LLMBackendError, RequestTooSlow
from llm_backend.gateway.exchange import CONNECTION
from llm_backend.wire import encode, error_object

READER_S = 120
"""How long a client may leave what was sent to it unread before the connection ends."""

PHRASES = {400: "Bad Request", 408: "Request Timeout", 431: "Request Header Fields Too Large"}


class BoundedProtocol(HttpToolsProtocol):
    """One client connection.

    Attributes:
        head_bytes: Bytes that request line and headers may have.
        head_s: Seconds from connecting, or from its first byte, until a head is complete.
        body_s: Seconds from there until the body is complete.
        is_lost: Whether the connection has ended.
        on_lost: Called, if set, when it ends: whoever works for it can stop.
    """

    head_bytes: ClassVar[int] = 32 * 1024
    head_s: ClassVar[float] = 10.0
    body_s: ClassVar[float] = 30.0

    is_lost = False
    on_lost: Callable[[], None] | None = None
    _seen = 0
    _in_head = True
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn declares it
        """Start the clock for the first head."""
        super().connection_made(transport)
        self._expect("head", self.head_s)
        sock = transport.get_extra_info("socket")
        # The kernel ends the connection of a client that does not read, without a timer of ours.
        with contextlib.suppress(AttributeError, OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, READER_S * 1000)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock, and tell whoever works for this connection."""
        self._stop_clock()
        super().connection_lost(exc)
        self.is_lost = True
        if self.on_lost is not None:
            self.on_lost()

    def data_received(self, data: bytes) -> None:
        """Count what belongs to a head."""
        if self._in_head:
            self._seen += len(data)
        super().data_received(data)
        if self._in_head and self._seen > self.head_bytes:
            self._refuse(HeadersTooLarge(f"The headers are over {self.head_bytes} bytes."))

    def on_message_begin(self) -> None:
        """Start the clock for a further request on this connection."""
        super().on_message_begin()
        self.scope["extensions"] = {CONNECTION: self}  # type: ignore[dict-item]  # ours, not ASGI's
        if self._timer is None:
            self._expect("head", self.head_s)

    def on_headers_complete(self) -> None:
        """Go on to the clock for the body."""
        self._in_head = False
        self._stop_clock()
        self._expect("body", self.body_s)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Stop the clock; what comes next belongs to a head again."""
        self._stop_clock()
        self._in_head, self._seen = True, 0
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP, in the API's own form."""
        self._refuse(InvalidRequest(msg))

    def _expect(self, what: str, seconds: float) -> None:
        error = RequestTooSlow(f"The {what} of the request did not come within {seconds:g} s.")
        self._timer = self.loop.call_later(seconds, self._refuse, error)

    def _stop_clock(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refuse(self, error: LLMBackendError) -> None:
        if self.transport.is_closing():
            return
        # While an answer is being written, words in between would become a part of it.
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            body = encode(error_object(error))
            head = (
                f"HTTP/1.1 {error.status} {PHRASES[error.status]}\r\n"
                "content-type: application/json\r\n"
                f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
            )
            self.transport.write(head.encode() + body)
        self.transport.close()


def bounded_protocol(head_bytes: int, head_s: float, body_s: float) -> type[BoundedProtocol]:
    """Return the protocol with these bounds."""
    bounds = {"head_bytes": head_bytes, "head_s": head_s, "body_s": body_s}
    return type("Protocol", (BoundedProtocol,), bounds)
