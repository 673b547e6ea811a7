"""The answer to one request: parsed as it comes, read as the client takes it.

Engines are not trusted to speak properly. Whatever one sends, a bounded amount is kept, and the
reader gets an answer or one of `EngineGone` (the engine closed the connection), `EngineBroke`
(what it sent is not the answer that was asked for) and `EngineTimeout` (it was silent).

Whatever releases a resource here is synchronous, so that no second cancellation can cut it short.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Final, Protocol, Self

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from llm_backend.errors import EngineBroke, EngineGone

HEAD_LIMIT: Final = 64 * 1024
"""Bytes of status line and headers; also the bytes that may come between two bytes of body."""

HEADER_COUNT_LIMIT: Final = 128

BUFFER_LIMIT: Final = 256 * 1024
"""Bytes of body that wait for the reader before the engine has to wait too."""


class Wire(Protocol):
    """What an answer needs of the connection that it comes from."""

    def pause_reading(self) -> None:
        """Let the engine wait."""
        ...

    def resume_reading(self) -> None:
        """Take more of the answer; no effect where reading is not paused."""
        ...

    def release(self, *, reusable: bool) -> None:
        """Have the connection back: for the next request, or to be closed at once."""
        ...


class Response:
    """The answer of an engine.

    The connection goes back to its pool as soon as the whole answer has arrived. Until then it
    belongs to this object, so `close` it on every way out, best by `with`: an engine stops
    generating when, and only when, the connection of a request is closed.

    One task reads; it sleeps on `wakeup()` and looks at the state again when it wakes.

    Attributes:
        status: Status code; 0 until the headers are complete.
        headers: Name and value of each header, names in lower case.
        hint: Value of the `Keep-Alive` header.
        heard: Whether any byte of an answer came.
        ended: Whether nothing more will come: the answer is whole, or has failed.
    """

    __slots__ = (
        "_complete",
        "_failure",
        "_framed",
        "_keep_alive",
        "_overhead",
        "_parser",
        "_pieces",
        "_size",
        "_waiter",
        "_wire",
        "ended",
        "headers",
        "heard",
        "hint",
        "status",
    )

    def __init__(self, wire: Wire) -> None:
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.hint = b""
        self.heard = False
        self.ended = False
        self._wire: Wire | None = wire
        self._parser: HttpResponseParser | None = HttpResponseParser(self)
        self._pieces: list[bytes] = []
        self._size = 0
        self._overhead = 0
        self._framed = False
        self._keep_alive = False
        self._complete = False
        self._failure: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None

    # For the reader.

    @property
    def content_type(self) -> bytes:
        """Media type of the body in lower case, without parameters; empty where none is given."""
        for name, value in self.headers:
            if name == b"content-type":
                return value.partition(b";")[0].strip().lower()
        return b""

    async def read(self, limit: int) -> bytes:
        """Return the whole body.

        Raises:
            EngineBroke: it is longer than `limit` bytes, or malformed.
            EngineGone: the engine closed the connection before its end.
            EngineTimeout: the engine was silent for too long.
        """
        if self._complete and len(self._pieces) == 1 and self._size <= limit:
            return self._take()
        pieces = []
        size = 0
        async for piece in self:
            pieces.append(piece)
            size += len(piece)
            if size > limit:
                self.close()
                raise EngineBroke(f"The engine's answer is longer than {limit} bytes.")
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        """Return all that has arrived since the last call, as one piece."""
        while not self._pieces:
            if self._failure is not None:
                raise self._failure
            if self._complete:
                raise StopAsyncIteration
            await self.wakeup()
        return self._take()

    def abort(self, error: Exception | None = None) -> None:
        """End it from outside: the socket is closed and the reader raises `error` at once."""
        self._pieces.clear()
        self.fail(error or EngineGone("The request was ended while the engine worked on it."))

    def close(self) -> None:
        """Be done with it; where the engine is not, its connection is closed at once."""
        if self._wire is not None:
            self.fail(EngineGone("The answer was closed before its end."))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _take(self) -> bytes:
        pieces = self._pieces
        piece = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        if self._size > BUFFER_LIMIT and self._wire is not None:
            self._wire.resume_reading()
        self._size = 0
        return piece

    # For the connection.

    async def head(self) -> None:
        """Wait for the headers."""
        while not self.status:
            if self._failure is not None:
                raise self._failure
            await self.wakeup()

    def wakeup(self) -> asyncio.Future[None]:
        """Return what the one reader awaits until something has happened."""
        self._waiter = asyncio.get_running_loop().create_future()
        return self._waiter

    def wake(self) -> None:
        """Have the reader look at the state again."""
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def feed(self, data: bytes) -> None:
        """Take bytes from the connection."""
        self.heard = True
        self._overhead += len(data)
        parser = self._parser
        assert parser is not None  # noqa: S101  # the connection feeds no ended answer
        try:
            parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            self._malformed(error)
        else:
            if self._complete:
                self._release(reusable=self._keep_alive)
            elif self._overhead > HEAD_LIMIT:
                self.fail(EngineBroke(f"The engine sent {self._overhead} bytes and no body."))
            elif self._size > BUFFER_LIMIT and self._wire is not None:
                self._wire.pause_reading()
        if self.status:
            self.wake()

    def lost(self, cause: Exception | None) -> None:
        """Take the end of the connection: the end of the answer, if it says so itself."""
        if self.status and not self._framed and cause is None:
            self._complete = True
            self._release(reusable=False)
            self.wake()
            return
        when = "amid its answer" if self.heard else "without an answer"
        gone = EngineGone(f"The engine closed the connection {when}.")
        gone.__cause__ = cause
        self.fail(gone)

    def fail(self, error: Exception) -> None:
        """Close the connection; the reader raises `error` after what has arrived."""
        self._failure = error
        self._release(reusable=False)
        self.wake()

    def _malformed(self, error: Exception) -> None:
        if self._complete:  # the answer is good; what follows it makes the connection useless
            self._release(reusable=False)
            return
        refusal = error.__context__
        if isinstance(refusal, EngineBroke):
            self.fail(refusal)
            return
        broke = EngineBroke(f"The engine's answer is not valid HTTP: {error}.")
        broke.__cause__ = error
        self.fail(broke)

    def _release(self, *, reusable: bool) -> None:
        wire, self._wire = self._wire, None
        self._parser = None  # it holds methods of this object, a cycle
        self.ended = True
        if wire is not None:
            wire.release(reusable=reusable)

    # For the parser.

    def on_message_begin(self) -> None:
        """Refuse a second answer to one request."""
        if self._complete:
            raise EngineBroke("The engine answered one request twice.")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header. Trailers, which come when the status is known, are dropped."""
        if not self.status:
            self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Check the headers; forget those of an interim answer."""
        assert self._parser is not None  # noqa: S101  # it is the caller
        status = self._parser.get_status_code()
        if 100 <= status <= 199 and status != 101:
            self.headers.clear()
            return
        if not 200 <= status <= 599:
            raise EngineBroke(f"The engine answered with the status {status}.")
        self._check_size()
        self._check_fields(dict(self.headers))
        self.status = status

    def on_body(self, body: bytes) -> None:
        """Keep a part of the body."""
        self._overhead = 0
        self._size += len(body)
        self._pieces.append(body)

    def on_message_complete(self) -> None:
        """Note the end of the answer."""
        if self.status and self._parser is not None:
            self._complete = True
            self._keep_alive = self._parser.should_keep_alive()

    def _check_size(self) -> None:
        if len(self.headers) > HEADER_COUNT_LIMIT:
            raise EngineBroke(f"The engine sent {len(self.headers)} headers.")
        if self._overhead > HEAD_LIMIT:  # counts a part of the body too
            size = sum(len(name) + len(value) for name, value in self.headers)
            if size > HEAD_LIMIT:
                raise EngineBroke(f"The engine sent {size} bytes of headers.")

    def _check_fields(self, fields: dict[bytes, bytes]) -> None:
        transfer = fields.get(b"transfer-encoding")
        if transfer is not None and transfer.lower() != b"chunked":
            raise EngineBroke(f"The engine sent Transfer-Encoding: {_shown(transfer)}.")
        coding = fields.get(b"content-encoding")
        if coding is not None and coding.lower() != b"identity":
            raise EngineBroke(f"The engine sent Content-Encoding: {_shown(coding)}, unasked.")
        self._framed = transfer is not None or b"content-length" in fields
        self.hint = fields.get(b"keep-alive", b"")


def _shown(value: bytes) -> str:
    return value[:40].decode("latin-1")
