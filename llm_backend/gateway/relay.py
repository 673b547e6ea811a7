"""From lease to last byte: asks the engine and passes its answer on as it comes."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from llm_backend.engines.answers import error_from
from llm_backend.errors import (
    EngineBroke,
    EngineGone,
    EngineTimeout,
    InvalidRequest,
)
from llm_backend.gateway import sse
from llm_backend.gateway.calls import Call
from llm_backend.gateway.exchange import EVENT_STREAM, Exchange
from llm_backend.gateway.response import Response
from llm_backend.gateway.stored import StoredAnswer
from llm_backend.gateway.upstream import Upstream, request_head
from llm_backend.runtimes.base import Engine
from llm_backend.switching.lease import Lease
from llm_backend.wire import JSONObject, decode

JSON = b"application/json"
ANSWER_LIMIT = 64 * 1024 * 1024
"""Longest answer that is not a stream: 2,000 embeddings of 2,000 numbers, and room."""

ERROR_LIMIT = 64 * 1024
LARGE = 1024 * 1024
"""Longer answers are parsed off the event loop."""

KEEP_LIMIT = 8 * 1024 * 1024
"""Longer streams are not kept while they pass."""


@dataclass(frozen=True, slots=True)
class Relay:
    """Passes requests on to engines.

    Attributes:
        upstream: The connections.
        request_s: Longest time for one answer.
        idle_s: Longest silence of an engine.
    """

    upstream: Upstream
    request_s: float
    idle_s: float

    async def run(
        self, exchange: Exchange, call: Call, lease: Lease, engine: Engine, *, keep: bool
    ) -> StoredAnswer | None:
        """Answer a request; return the answer if it is to be kept and can be.

        Raises:
            LLMBackendError: the engine did not answer well, in time, or to the end.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            response = await self._answered(exchange, call, lease, engine)
        except EngineTimeout:
            if loop.time() - began < self.request_s:
                raise
            raise self._too_long(call) from None
        with response:
            call.record.first_byte_s = call.record.since_lease_s()
            if response.ended:  # all of it is here, nothing can cut it any more
                return await self._pass_on(exchange, call, response, keep=keep)
            lease.on_revoke(response.abort)
            deadline = loop.call_at(began + self.request_s, self._end, call, response)
            try:
                return await self._pass_on(exchange, call, response, keep=keep)
            finally:
                deadline.cancel()

    async def _pass_on(
        self, exchange: Exchange, call: Call, response: Response, *, keep: bool
    ) -> StoredAnswer | None:
        if response.status != 200:
            after = dict(response.headers).get(b"retry-after")
            error = error_from(response.status, await response.read(ERROR_LIMIT), after)
            error.message = await asyncio.to_thread(call.without_words, error.message)
            raise error
        kind = call.endpoint.stream if call.stream else None
        if kind and response.content_type == b"text/event-stream":
            return await self._pass_stream(exchange, call, kind, response, keep=keep)
        body = await response.read(ANSWER_LIMIT)
        call.record.engine_s = call.record.since_lease_s()
        answer = _decoded(body) if len(body) <= LARGE else await asyncio.to_thread(_decoded, body)
        if sse.aborted(answer):
            raise EngineGone(f"The engine of {call.spec.id} broke the answer off.")
        call.record.note_usage(answer.get("usage"))
        if exchange.status is not None:
            raise EngineBroke(f"The engine of {call.spec.id} did not stream.")
        await exchange.answer(200, JSON, body)
        return StoredAnswer(call.spec.id, JSON, body) if keep else None

    def _end(self, call: Call, response: Response) -> None:
        response.abort(self._too_long(call))

    def _too_long(self, call: Call) -> EngineTimeout:
        return EngineTimeout(
            f"{call.spec.id} did not finish within {self.request_s:g} s.",
            hint="limits.request_timeout_s in config/gateway.yaml sets this limit.",
        )

    async def _answered(
        self, exchange: Exchange, call: Call, lease: Lease, engine: Engine
    ) -> Response:
        """Ask; where a server ended before it said a word, ask another one if there is one."""
        while True:
            try:
                return await self._ask(exchange, call, engine)
            except EngineGone:
                other = lease.elsewhere()
                if other is None:
                    raise
                engine = other

    def _ask(self, exchange: Exchange, call: Call, engine: Engine) -> Coroutine[Any, Any, Response]:
        head = b"%bcontent-length: %d\r\nx-request-id: %b\r\n%b\r\n" % (
            _head_start(call.endpoint.engine_path, engine.authority, engine.key),
            len(call.raw),
            exchange.request_id.encode(),  # letters, digits, - and _
            exchange.onward,
        )
        return self.upstream.send(
            engine.host,
            engine.port,
            head,
            call.raw,
            headers_timeout_s=self.request_s,
            idle_timeout_s=self.idle_s,
            tls=engine.tls,
        )

    async def _pass_stream(
        self,
        exchange: Exchange,
        call: Call,
        kind: sse.StreamKind,
        response: Response,
        *,
        keep: bool,
    ) -> StoredAnswer | None:
        kept = Kept() if keep else None
        watch, record = sse.StreamWatch(kind), call.record
        opening = sse.Opening(kind, call.spec.id, exchange.request_id, record.note_output)
        if exchange.status is None:
            await exchange.start(200, EVENT_STREAM)
        async for piece in response:
            good = watch.feed(piece)
            if good:
                if not opening.over:
                    good = opening.take(good)
                await exchange.write(good)
                if kept is not None:
                    kept.add(good)
            if watch.failure is not None:
                raise watch.failure
        record.engine_s = record.since_lease_s()
        last = watch.finish()
        if watch.failure is not None:
            raise watch.failure
        await exchange.close(last)
        record.note_usage(watch.usage)
        return kept.answer(call, last) if kept is not None else None


@lru_cache(maxsize=256)
def _head_start(path: str, authority: str, key: str | None) -> bytes:
    """Return the part of a request's head that is the same for all requests to an engine."""
    head = request_head("POST", path, authority, None, key=key)
    return head.removesuffix(b"\r\n") + b"content-type: application/json\r\n"


class Kept:
    """What has passed of a stream, as long as it is not too long to be kept."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._room = KEEP_LIMIT

    def add(self, piece: bytes) -> None:
        """Keep a piece."""
        self._room -= len(piece)
        if self._room >= 0:
            self._pieces.append(piece)
        else:
            self._pieces.clear()

    def answer(self, call: Call, last: bytes) -> StoredAnswer | None:
        """Return the whole stream; None where it was too long."""
        self.add(last)
        if self._room < 0:
            return None
        return StoredAnswer(call.spec.id, EVENT_STREAM, b"".join(self._pieces))


def _decoded(body: bytes) -> JSONObject:
    try:
        answer = decode(body)
    except InvalidRequest:
        answer = None
    if not isinstance(answer, dict):
        raise EngineBroke("The engine's answer is not a JSON object.")
    return answer
