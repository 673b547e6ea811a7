"""uvicorn's HTTP protocol, with bounds on what a client may do before its request is complete.

uvicorn itself waits for ever for the end of a request's head, and keeps headers of any size.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from llm_backend.errors import HeadersTooLarge, InvalidRequest, LLMBackendError, RequestTooSlow
from llm_backend.wire import encode, error_object

READER_S = 120
"""How long a client may leave what was sent to it unread before the connection ends."""

PHRASES = {400: "Bad Request", 408: "Request Timeout", 431: "Request Header Fields Too Large"}


class BoundedProtocol(HttpToolsProtocol):
    """One client connection.

    Attributes:
        head_bytes: Bytes that request line and headers may have.
        head_s: Seconds from connecting, or from its first byte, until a head is complete.
    """

    head_bytes: ClassVar[int] = 32 * 1024
    head_s: ClassVar[float] = 10.0

    _seen = 0
    _in_head = True
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn declares it
        """Start the clock for the first head."""
        super().connection_made(transport)
        self._head_timer = self.loop.call_later(self.head_s, self._too_slow)
        sock = transport.get_extra_info("socket")
        # The kernel ends the connection of a client that does not read, without a timer of ours.
        with contextlib.suppress(AttributeError, OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, READER_S * 1000)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        self._stop_clock()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count what belongs to a head."""
        if self._in_head:
            self._seen += len(data)
        super().data_received(data)
        if self._in_head and self._seen > self.head_bytes and not self.transport.is_closing():
            self._refuse(HeadersTooLarge(f"The headers are over {self.head_bytes} bytes."))

    def on_message_begin(self) -> None:
        """Start the clock for a further request on this connection."""
        super().on_message_begin()
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(self.head_s, self._too_slow)

    def on_headers_complete(self) -> None:
        """Stop the clock, and the count."""
        self._stop_clock()
        self._in_head = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """What comes next belongs to a head again."""
        self._in_head, self._seen = True, 0
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP, in the API's own form."""
        self._refuse(InvalidRequest(msg))

    def _stop_clock(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _too_slow(self) -> None:
        self._head_timer = None
        self._refuse(RequestTooSlow(f"No whole request head came within {self.head_s:g} s."))

    def _refuse(self, error: LLMBackendError) -> None:
        if self.transport.is_closing():
            return
        # While an answer is being written, words in between would become a part of it.
        if self.cycle is None or self.cycle.response_complete:
            body = encode(error_object(error))
            head = (
                f"HTTP/1.1 {error.status} {PHRASES[error.status]}\r\n"
                "content-type: application/json\r\n"
                f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
            )
            self.transport.write(head.encode() + body)
        self.transport.close()


def bounded_protocol(head_bytes: int, head_s: float) -> type[BoundedProtocol]:
    """Return the protocol with these bounds."""
    return type("Protocol", (BoundedProtocol,), {"head_bytes": head_bytes, "head_s": head_s})
