"""One request and its answer on the raw ASGI interface, without a framework in between."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from starlette.types import Message, Receive, Scope, Send

from llm_backend.errors import BodyTooLarge, LLMBackendError
from llm_backend.gateway.sse import StreamKind, comment, error_event
from llm_backend.wire import Dialect, encode, error_object, retry_after

if TYPE_CHECKING:
    from llm_backend.telemetry.spans import RequestTrace

CONNECTION = "llm_backend.connection"
"""Under which the extensions of a scope have the connection that the request came on."""

Headers = list[tuple[bytes, bytes]]
Fields = Mapping[bytes, bytes]
EVENT_STREAM = b"text/event-stream; charset=utf-8"


class ClientGone(Exception):
    """The client closed the connection; there is nobody to answer."""


class Connection(Protocol):
    """The connection that a request came on.

    Attributes:
        is_lost: Whether it has ended.
        on_lost: Called, if set, when it ends.
    """

    is_lost: bool
    on_lost: Callable[[], None] | None

    def body(self) -> bytes | None:
        """Return the whole body; None where it has to be waited for."""
        ...

    def answer(self, status: int, headers: Headers, body: bytes) -> bool:
        """Send a whole answer at once; return False where that cannot be done now."""
        ...


class Exchange:
    """Reads one request and writes its answer.

    Args:
        scope: Of the request.
        receive: Reads its body.
        send: Writes its answer.
        identify: Returns the name of a request with these headers.

    Attributes:
        request_id: Names the request in headers, logs and engines.
        headers: Of the request, by lower-case name; the first of each.
        status: Of the answer; None until its head was sent.
        finished: Whether the last piece of the answer was sent.
        extra: Headers to add to the answer.
        dialect: Whose error shape the route speaks.
        stream: How the stream that was asked for ends; None where none was.
        asked_at: When the engine was asked, on the event loop's clock; None where it was not.
        stages: Seconds that went by before that, by what they were for.
        trace: Makes its spans; None where nobody wants them.
        onward: Header lines for the engine.
    """

    __slots__ = (
        "_connection",
        "_is_client_gone",
        "_receive",
        "_send",
        "_task",
        "asked_at",
        "dialect",
        "extra",
        "finished",
        "headers",
        "onward",
        "request_id",
        "stages",
        "status",
        "stream",
        "trace",
    )

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, identify: Callable[[Fields], str]
    ) -> None:
        self.headers: dict[bytes, bytes] = dict(reversed(scope["headers"]))
        self.request_id = identify(self.headers)
        self.status: int | None = None
        self.finished = False
        self.extra: Headers = [(b"x-request-id", self.request_id.encode())]
        self.dialect: Dialect = "openai"
        self.stream: StreamKind | None = None
        self.asked_at: float | None = None
        self.stages: dict[str, float] = {}
        self.trace: RequestTrace | None = None
        self.onward = b""
        self._connection: Connection = scope["extensions"][CONNECTION]
        self._receive = receive
        self._send = send

    async def body(self, limit: int) -> bytes:
        """Read the whole body; the connection itself limits how long that takes.

        Raises:
            BodyTooLarge: it is longer than `limit` bytes.
            ClientGone: the client left meanwhile.
        """
        whole = self._connection.body()
        if whole is not None:
            return _within(limit, whole)
        first = await self._piece(limit)
        if not first.get("more_body", False):
            return bytes(first["body"])
        parts = [first["body"]]
        size = len(parts[0])
        while True:
            message = await self._piece(limit - size)
            parts.append(message["body"])
            size += len(parts[-1])
            if not message.get("more_body", False):
                return b"".join(parts)

    async def _piece(self, room: int) -> Message:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        _within(room, message["body"])
        return message

    def client_watched(self) -> Self:
        """Break a `with` block off with ClientGone as soon as the client closes the connection."""
        return self

    def __enter__(self) -> Self:
        task = asyncio.current_task()
        if task is None:
            raise AssertionError("requests run in tasks")
        if self._connection.is_lost:
            raise ClientGone
        self._task, self._is_client_gone = task, False
        self._connection.on_lost = self._lost
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._connection.on_lost == self._lost:  # else the next request's
            self._connection.on_lost = None
        # Only our own cancellation is taken back; one from outside goes on.
        if kind is asyncio.CancelledError and self._is_client_gone and self._task.uncancel() == 0:
            raise ClientGone from None

    def _lost(self) -> None:
        # Behind a whole answer the end of the connection is nobody's loss.
        if not self.finished:
            self._is_client_gone = True
            self._task.cancel()

    async def start(self, status: int, content_type: bytes, length: int | None = None) -> None:
        """Send the head of the answer."""
        headers = self._head(content_type, length)
        self.status = status
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    def _head(self, content_type: bytes, length: int | None) -> Headers:
        headers = [(b"content-type", content_type), *self.extra]
        if length is not None:
            headers.append((b"content-length", b"%d" % length))
            if self.asked_at is not None:
                headers.append((b"server-timing", self._timing(self.asked_at)))
        else:
            headers += [(b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]
        return headers

    def _timing(self, asked_at: float) -> bytes:
        engine = b"engine;dur=%.1f" % (1000 * (asyncio.get_running_loop().time() - asked_at))
        if not self.stages:
            return engine
        waited = (f"{name};dur={1000 * s:.1f}, " for name, s in self.stages.items())
        return "".join(waited).encode() + engine

    async def write(self, piece: bytes) -> None:
        """Send a piece of the body; waits while the client reads slower than we write."""
        await self._send({"type": "http.response.body", "body": piece, "more_body": True})

    async def close(self, piece: bytes) -> None:
        """Send the last piece of a stream; to who had to wait, also what the time went by with."""
        if self.asked_at is not None and self.stages:
            piece += comment(f"timing: {self._timing(self.asked_at).decode()}")
        await self.end(piece)

    async def end(self, piece: bytes = b"") -> None:
        """Send the last piece of the body."""
        self.finished = True
        await self._send({"type": "http.response.body", "body": piece, "more_body": False})

    async def answer(self, status: int, content_type: bytes, body: bytes) -> None:
        """Send a whole answer."""
        headers = self._head(content_type, len(body))
        if self._connection.answer(status, headers, body):
            self.status, self.finished = status, True
            return
        await self.start(status, content_type, len(body))
        await self.end(body)

    def tagging(self, send: Send) -> Send:
        """Return a `send` for another application that adds the request id."""

        async def tagged(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.status = message["status"]
                message["headers"] = [*message.get("headers", ()), *self.extra]
            elif not message.get("more_body", False):
                self.finished = True
            await send(message)

        return tagged

    async def fail(self, error: LLMBackendError) -> None:
        """Send an error: as the answer or, where a stream has begun, as its last event.

        Raises:
            LLMBackendError: the error, where an answer of another kind has begun. The server
                breaks the connection off then, so that it does not look like a whole answer.
        """
        if self.finished:
            return
        if self.status is not None:
            if self.stream is None:
                raise error
            await self.end(error_event(error, self.stream))
            return
        after = retry_after(error)
        if after is not None:
            self.extra.append((b"retry-after", after.encode()))
        self.extra.append((b"x-should-retry", b"true" if error.should_retry else b"false"))
        body = encode(error_object(error, self.dialect))
        await self.answer(error.status, b"application/json", body)


def _within(room: int, body: bytes) -> bytes:
    if len(body) > room:
        raise BodyTooLarge(
            "The body is larger than this gateway takes.",
            hint="limits.body_mib sets the limit.",
        )
    return body
