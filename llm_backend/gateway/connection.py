"""One HTTP/1.1 connection to an engine: the socket, its deadline, and when it may be used again."""

from __future__ import annotations

import asyncio
import math
import re
from typing import Final, NamedTuple, Protocol, cast

from llm_backend.errors import EngineGone, EngineTimeout
from llm_backend.gateway.deadline import Deadline
from llm_backend.gateway.response import Response

SLICE: Final = 256 * 1024
"""A larger request body is written in slices of this many bytes, as fast as the engine reads."""

DEFAULT_HINT: Final = b"timeout=5"
"""What uvicorn, and so vLLM, does without saying so: it closes a connection idle for 5 s."""

LONGEST_IDLE_S: Final = 60.0

STALE_S: Final = 1.0
"""An engine that has closed an idle connection shows that within a round trip."""

_HINT: Final = re.compile(rb"(timeout|max)\s*=\s*(\d{1,9})", re.IGNORECASE)


class Origin(NamedTuple):
    """Where an engine listens."""

    host: str
    port: int
    tls: bool


class Pool(Protocol):
    """The owner of a connection."""

    def released(self, connection: Connection, *, reusable: bool) -> None:
        """Take back a connection that has nothing to do; it is closed unless reusable."""
        ...

    def lost(self, connection: Connection) -> None:
        """Forget a connection whose socket is closed."""
        ...


class Connection(asyncio.Protocol):
    """A connection: asks, hands the answer on, rests, and asks again.

    It rests for at most four fifths of what the engine's `Keep-Alive` header allows, because the
    engine's clock started before ours, and for no more requests than that header allows.

    Attributes:
        origin: The engine at its other end.
        closed: Whether it is of no more use.
        stale: Whether the engine had closed the connection before it got the last request. Such
            a request may be sent again, for no engine has worked on it. The signs: the connection
            had been at rest, and it was closed right after the request was written and before
            any byte of an answer. An engine that took the request and then died has been silent
            for longer, or is not there for a second attempt.
    """

    __slots__ = (
        "_asked_at",
        "_connected",
        "_deadline",
        "_headers_timeout_s",
        "_hint",
        "_idle_timeout_s",
        "_loop",
        "_pool",
        "_reading",
        "_requests",
        "_requests_limit",
        "_response",
        "_rest_s",
        "_sent",
        "_transport",
        "_writable",
        "closed",
        "origin",
        "stale",
    )

    _transport: asyncio.Transport

    def __init__(self, loop: asyncio.AbstractEventLoop, origin: Origin, pool: Pool) -> None:
        self.origin = origin
        self._connected = False
        self.closed = False
        self.stale = False
        self._loop = loop
        self._pool = pool
        self._deadline = Deadline(loop, self._expired)
        self._response: Response | None = None
        self._reading = True
        self._writable = True
        self._sent = False
        self._requests = 0
        self._asked_at = 0.0
        self._headers_timeout_s = 0.0
        self._idle_timeout_s = 0.0
        self._heed(DEFAULT_HINT)

    # For the pool.

    @property
    def usable(self) -> bool:
        """Whether a resting connection may take a request."""
        return not self.closed and not self._deadline.passed

    async def ask(
        self, head: bytes, body: bytes, headers_timeout_s: float, idle_timeout_s: float
    ) -> Response:
        """Send a request; return its answer when the headers are there."""
        if self.closed:
            raise EngineGone("The engine closed the connection without an answer.")
        self._requests += 1
        self._asked_at = self._loop.time()
        self._headers_timeout_s = headers_timeout_s
        self._idle_timeout_s = idle_timeout_s
        self._deadline.set(headers_timeout_s)
        self._response = response = Response(self)
        try:
            if len(body) <= SLICE:
                self._transport.write(head + body)
                self._sent = True
            else:
                await self._write(response, head, body)
            await response.head()
        except BaseException:
            response.close()
            self.stale = not response.heard and self._closed_at_rest()
            raise
        return response

    def abort(self, error: Exception) -> None:
        """Close the socket at once; whoever reads an answer from it raises `error`."""
        if self._response is not None:
            self._response.abort(error)
        self.close()

    def close(self) -> None:
        """Close the socket at once."""
        self.closed = True
        if self._connected:
            self._transport.abort()

    # For the answer.

    def pause_reading(self) -> None:
        """Let the engine wait; the silence that follows is ours."""
        if self._reading:
            self._reading = False
            self._transport.pause_reading()
            self._deadline.clear()

    def resume_reading(self) -> None:
        """Take more of the answer."""
        if not self._reading:
            self._reading = True
            self._transport.resume_reading()
            self._deadline.set(self._idle_timeout_s)

    def release(self, *, reusable: bool) -> None:
        """End the exchange: rest, or close."""
        response, self._response = self._response, None
        if response is not None and response.hint != self._hint:
            self._heed(response.hint)
        reusable = (
            reusable
            and not self.closed
            and self._sent
            and self._requests < self._requests_limit
            and not self._transport.get_write_buffer_size()
        )
        if reusable:
            self._deadline.set(self._rest_s)
        else:
            self.close()
        self._pool.released(self, reusable=reusable)

    # For the event loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the socket; close it where the caller has left meanwhile."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=SLICE)
        self._connected = True
        if self.closed:
            self.close()

    def data_received(self, data: bytes) -> None:
        """Hand data to the answer; what nobody asked for makes the connection useless."""
        response = self._response
        if response is None:
            self.close()
            return
        response.feed(data)
        if response.status and self._reading and not response.ended:
            self._deadline.set(self._idle_timeout_s)

    def eof_received(self) -> None:
        """Tell the answer; the socket is closed by the event loop."""
        self._ended(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """Give everything back."""
        self._ended(exc)
        self._deadline.cancel()
        self._pool.lost(self)

    def pause_writing(self) -> None:
        """Wait with the rest of a large body."""
        self._writable = False

    def resume_writing(self) -> None:
        """Go on with it."""
        self._writable = True
        if self._response is not None:
            self._response.wake()

    async def _write(self, response: Response, head: bytes, body: bytes) -> None:
        self._sent = False
        self._transport.write(head)
        view = memoryview(body)
        for start in range(0, len(body), SLICE):
            while not self._writable and not response.status and not response.ended:
                await response.wakeup()
            if response.status or response.ended:
                return  # an engine that answers early has no use for the rest
            self._transport.write(view[start : start + SLICE])
        self._sent = True

    def _closed_at_rest(self) -> bool:
        return self._requests > 1 and self._loop.time() - self._asked_at < STALE_S

    def _heed(self, hint: bytes) -> None:
        said = {name.lower(): int(number) for name, number in _HINT.findall(hint or DEFAULT_HINT)}
        self._hint = hint
        self._requests_limit = said.get(b"max", math.inf)
        self._rest_s = min(0.8 * said.get(b"timeout", 5), LONGEST_IDLE_S)

    def _ended(self, cause: Exception | None) -> None:
        self.closed = True
        if self._response is not None:
            self._response.lost(cause)

    def _expired(self) -> None:
        response = self._response
        if response is None:
            self.close()
        elif response.status:
            silence = f"was silent for {self._idle_timeout_s:g} s amid its answer"
            response.fail(EngineTimeout(f"The engine {silence}."))
        else:
            silence = f"did not answer within {self._headers_timeout_s:g} s"
            response.fail(EngineTimeout(f"The engine {silence}."))
