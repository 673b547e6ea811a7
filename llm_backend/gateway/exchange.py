"""One request and its answer on the raw ASGI interface, without a framework in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.types import Message, Receive, Scope, Send

from llm_backend.errors import BodyTooLarge, LLMBackendError, RequestTooSlow
from llm_backend.gateway.sse import StreamKind, error_event
from llm_backend.wire import Dialect, encode, error_object, retry_after

Headers = list[tuple[bytes, bytes]]
EVENT_STREAM = b"text/event-stream; charset=utf-8"


class ClientGone(Exception):
    """The client closed the connection; there is nobody to answer."""


class Exchange:
    """Reads one request and writes its answer.

    Attributes:
        request_id: Names the request in headers, logs and engines.
        headers: Of the request, by lower-case name; the first of each.
        status: Of the answer; None until its head was sent.
        finished: Whether the last piece of the answer was sent.
        extra: Headers to add to the answer.
        dialect: Whose error shape the route speaks.
        stream: How the stream that was asked for ends; None where none was.
    """

    __slots__ = (
        "_receive",
        "_send",
        "dialect",
        "extra",
        "finished",
        "headers",
        "request_id",
        "status",
        "stream",
    )

    def __init__(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        self.request_id = request_id
        self.headers: dict[bytes, bytes] = dict(reversed(scope["headers"]))
        self.status: int | None = None
        self.finished = False
        self.extra: Headers = [(b"x-request-id", request_id.encode())]
        self.dialect: Dialect = "openai"
        self.stream: StreamKind | None = None
        self._receive = receive
        self._send = send

    async def body(self, limit: int, timeout_s: float) -> bytes:
        """Read the whole body.

        Raises:
            BodyTooLarge: it is longer than `limit` bytes.
            RequestTooSlow: it did not come within `timeout_s` seconds.
            ClientGone: the client left meanwhile.
        """
        first = await self._piece(timeout_s)
        if not first.get("more_body", False):
            return _bounded(first["body"], limit)
        parts = [_bounded(first["body"], limit)]
        size = len(parts[0])
        deadline = asyncio.get_running_loop().time() + timeout_s
        while True:
            message = await self._piece(deadline - asyncio.get_running_loop().time())
            parts.append(_bounded(message["body"], limit - size))
            size += len(parts[-1])
            if not message.get("more_body", False):
                return b"".join(parts)

    async def _piece(self, timeout_s: float) -> Message:
        try:
            async with asyncio.timeout(timeout_s):
                message = await self._receive()
        except TimeoutError:
            raise RequestTooSlow("The body did not arrive in time.") from None
        if message["type"] == "http.disconnect":
            raise ClientGone
        return message

    @asynccontextmanager
    async def client_watched(self) -> AsyncIterator[None]:
        """Break the block off with ClientGone as soon as the client closes the connection."""
        task = asyncio.current_task()
        if task is None:
            raise AssertionError("requests run in tasks")
        gone = False

        async def watch() -> None:
            nonlocal gone
            while (await self._receive())["type"] != "http.disconnect":
                pass
            # After a whole answer the server says "disconnect" too.
            if not self.finished:
                gone = True
                task.cancel()

        watcher = asyncio.create_task(watch())
        try:
            yield
        except asyncio.CancelledError:
            # Only our own cancellation is taken back; one from outside goes on.
            if gone and task.uncancel() == 0:
                raise ClientGone from None
            raise
        finally:
            watcher.cancel()

    async def start(self, status: int, content_type: bytes, length: int | None = None) -> None:
        """Send the head of the answer."""
        headers = [(b"content-type", content_type), *self.extra]
        if length is not None:
            headers.append((b"content-length", b"%d" % length))
        else:
            headers += [(b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]
        self.status = status
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def write(self, piece: bytes) -> None:
        """Send a piece of the body; waits while the client reads slower than we write."""
        await self._send({"type": "http.response.body", "body": piece, "more_body": True})

    async def end(self, piece: bytes = b"") -> None:
        """Send the last piece of the body."""
        self.finished = True
        await self._send({"type": "http.response.body", "body": piece, "more_body": False})

    async def answer(self, status: int, content_type: bytes, body: bytes) -> None:
        """Send a whole answer."""
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


def _bounded(piece: bytes, limit: int) -> bytes:
    if len(piece) > limit:
        raise BodyTooLarge(
            "The body is larger than this gateway takes.", hint="limits.body_mib sets the limit."
        )
    return piece
