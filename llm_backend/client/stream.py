"""An answer that comes in chunks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, suppress
from types import TracebackType
from typing import Final, Generic, Self, TypeVar

import httpx2

from llm_backend.client.failures import broken, malformed, parse, reason_of
from llm_backend.client.results import ChatChunk
from llm_backend.client.sse import Comment, Event, EventDecoder
from llm_backend.errors import ConnectionFailed, LLMBackendError

Item = TypeVar("Item")

OnWait = Callable[[str], None]
"""Told, in a line for people, what a request waits for."""

_DONE: Final = b"[DONE]"
_DRAIN_S: Final = 1.0


Part = Comment | ChatChunk
"""A chunk, or a comment before the first one: what the request waits for."""


class Stream(Generic[Item]):
    """Items of one answer, as they come.

    The request is sent when the first one is asked for. Iterate to the end, or use it as an
    async context manager, which closes the connection when left early; the engine then stops.
    One that did not come to its end raises whenever it is asked for more: it never looks complete.
    """

    def __init__(self, items: AsyncGenerator[Item, None]) -> None:
        self._items = items
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_awaited = self._is_over = self._is_broken = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Item:
        if self._is_over:
            raise StopAsyncIteration
        loop = asyncio.get_running_loop()
        # A loop that ends closes its generators, and a closed one looks like one at its end.
        if self._is_broken or self._loop not in {None, loop}:
            raise ConnectionFailed(
                "The stream broke off before its end.",
                hint="What came before is not the whole answer.",
            )
        self._loop = loop
        self._is_awaited = True
        try:
            return await anext(self._items)
        except StopAsyncIteration:
            self._is_over = True
            raise
        except BaseException:
            self._is_broken = True
            raise
        finally:
            self._is_awaited = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection, wherever the answer is."""
        self._is_over = True
        await self._items.aclose()

    async def break_off(self) -> None:
        """Close the connection of this event loop that nobody reads from; who goes on is told."""
        if self._loop is asyncio.get_running_loop() and not self._is_awaited:
            self._is_broken = True
            await self._items.aclose()


class ChatStream(Stream[ChatChunk]):
    """The chunks of one answer, as they come; see `Stream`.

    Example:
        async with client.stream("Count to a thousand.") as chunks:
            async for chunk in chunks:
                if "7" in chunk.text:
                    break
    """


async def read_chunks(
    parts: AsyncGenerator[Part, None], on_wait: OnWait | None
) -> AsyncGenerator[ChatChunk, None]:
    """Yield the chunks among the parts of a stream; what it waits for goes to `on_wait`."""
    async with aclosing(parts):
        async for part in parts:
            if isinstance(part, ChatChunk):
                yield part
            elif on_wait is not None:
                on_wait(part.text)


async def read_parts(
    answer: AbstractAsyncContextManager[httpx2.Response], silence_s: float
) -> AsyncGenerator[Part, None]:
    """Yield the chunks of a chat stream, and the comments before the first one.

    Raises:
        LLMBackendError: what an error event says.
        ConnectionFailed: the stream broke, ended without [DONE] or was silent for `silence_s`.
        EngineBroke: the answer is not a chat stream.
    """
    async with answer as response, aclosing(_read_events(response, silence_s)) as events:
        started = False
        async for event in events:
            if isinstance(event, Comment):
                if event.text and not started:
                    yield event
            elif event.data == _DONE:
                await _drain(events)
                return
            else:
                started = True
                yield parse(ChatChunk, event.data, response)
        raise broken(response, "it ended without [DONE]")


async def _drain(events: AsyncGenerator[Event | Comment, None]) -> None:
    # A connection that is closed with its last bytes unread looks like a client that left.
    with suppress(TimeoutError, LLMBackendError):
        async with asyncio.timeout(_DRAIN_S):
            async for _ in events:
                pass


async def _read_events(
    response: httpx2.Response, silence_s: float
) -> AsyncGenerator[Event | Comment, None]:
    kind = response.headers.get("content-type", "nothing")
    if not kind.startswith("text/event-stream"):
        raise malformed(response, "a stream", f"its content type is {kind}.")
    decoder = EventDecoder()
    async with aclosing(response.aiter_bytes()) as parts:
        while (part := await _next_part(parts, response, silence_s)) is not None:
            for event in decoder.feed(part):
                yield event


async def _next_part(
    parts: AsyncGenerator[bytes, None], response: httpx2.Response, silence_s: float
) -> bytes | None:
    try:
        async with asyncio.timeout(silence_s):
            return await anext(parts, None)
    except TimeoutError:
        reason = f"nothing came for {silence_s:g} s"
    except httpx2.RequestError as error:
        reason = reason_of(error)
    raise broken(response, reason)
