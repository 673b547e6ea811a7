"""A request's way, told in order: authenticate, cache, admit, upstream, stream back, record.

The guard has seen the request before. Each stage is a module of its own that knows no other;
only this one composes them.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Self

from llm_backend.config.catalog import GenerationDefaults, ModelSpec
from llm_backend.config.settings import LimitSettings
from llm_backend.engines.answers import error_from
from llm_backend.errors import (
    EngineBroke,
    EngineGone,
    EngineTimeout,
    InvalidRequest,
    LLMBackendError,
    PromptTooLong,
)
from llm_backend.gateway import sse
from llm_backend.gateway.admission import Admission
from llm_backend.gateway.auth import Authenticator
from llm_backend.gateway.cache import ResponseCache
from llm_backend.gateway.endpoints import Endpoint
from llm_backend.gateway.exchange import EVENT_STREAM, ClientGone, Exchange
from llm_backend.gateway.record import Record, Recorder
from llm_backend.gateway.response import Response
from llm_backend.gateway.upstream import Upstream, request_head
from llm_backend.runtimes.base import Engine
from llm_backend.switching.lease import Lease
from llm_backend.switching.switcher import Switcher
from llm_backend.wire import (
    JSONObject,
    decode_object,
    encode,
    requested_model,
    wants_stream,
)

ANSWER_LIMIT = 256 * 1024 * 1024
ERROR_LIMIT = 64 * 1024
LARGE_BODY = 1024 * 1024
"""Bodies above this many bytes are parsed off the event loop."""

MEDIA = frozenset({"data", "file_data", "image_url", "url"})
"""Fields whose strings are images, sound or files, in the bodies of either API."""

CAUSE_S = 1.5
"""How long a broken answer waits to learn why its engine ended."""


@dataclass(frozen=True, slots=True)
class Stages:
    """The stages that a request passes."""

    authenticator: Authenticator
    admission: Admission
    cache: ResponseCache
    upstream: Upstream
    recorder: Recorder
    switcher: Switcher


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on one request."""

    body_bytes: int
    body_s: float
    prompt_chars: int
    messages: int
    request_s: float
    idle_s: float

    @classmethod
    def of(cls, settings: LimitSettings) -> Self:
        """Take them from the settings."""
        return cls(
            body_bytes=settings.body_mib * 1024 * 1024,
            body_s=settings.slow_client_s,
            prompt_chars=settings.prompt_chars,
            messages=settings.messages,
            request_s=settings.request_timeout_s,
            idle_s=settings.idle_timeout_s,
        )


@dataclass(slots=True)
class Call:
    """A request, understood.

    Attributes:
        endpoint: The route that it came on.
        spec: The model that it gets.
        body: Its body, with defaults filled in.
        raw: The bytes for the engine: as the client sent them, unless a field had to change.
        stream: Whether it asks for a stream.
        cache_key: Under which its answer may be kept; None where it may not.
        record: What is remembered of it.
    """

    endpoint: Endpoint
    spec: ModelSpec
    body: JSONObject
    raw: bytes
    stream: bool
    cache_key: bytes | None
    record: Record


class Pipeline:
    """Runs requests on the inference routes.

    Attributes:
        limits: Bounds on each of them.
    """

    def __init__(self, stages: Stages, limits: Limits) -> None:
        self.limits = limits
        self._stages = stages

    async def run(self, exchange: Exchange, endpoint: Endpoint) -> None:
        """Serve one request; whatever happens, it is answered and recorded."""
        record = Record(exchange.request_id, endpoint.path)
        failure: Exception | None = ClientGone()
        try:
            await self._serve(exchange, endpoint, record)
            failure = None
        except ClientGone:
            pass
        except LLMBackendError as error:
            failure = error
            await exchange.fail(error)
        except Exception as error:
            failure = error
            raise
        finally:
            self._stages.recorder.close(record, exchange.status, failure)

    async def _serve(self, exchange: Exchange, endpoint: Endpoint, record: Record) -> None:
        record.key = self._stages.authenticator.authorise(exchange.headers, "infer")
        raw = await exchange.body(self.limits.body_bytes, self.limits.body_s)
        record.began = time.monotonic()
        body = await _decoded(raw)
        call = self._understood(exchange, endpoint, raw, body, record)
        if call.stream:
            exchange.stream = endpoint.stream
        if await self._from_cache(exchange, call):
            return
        async with exchange.client_watched():
            with self._stages.switcher.lease(call.spec.id) as lease:
                engine = lease.engine or await self._admitted(exchange, call, lease)
                record.waited_s = lease.waited_s
                try:
                    async with self._deadline(call):
                        await self._relay(exchange, call, lease, engine)
                except (EngineGone, EngineBroke) as error:
                    # The engine may be gone: then its end says more than the broken connection.
                    raise await lease.cause(CAUSE_S) or error from None

    # Understanding

    def _understood(
        self, exchange: Exchange, endpoint: Endpoint, raw: bytes, body: JSONObject, record: Record
    ) -> Call:
        name = requested_model(body)
        spec = self._stages.admission.choose(name)
        record.model = spec.id
        self._stages.admission.check(spec, endpoint)
        record.stream = stream = endpoint.stream is not None and wants_stream(body)
        self._check_size(body, raw)
        changes = _defaults(spec.defaults, body) if endpoint.generates else {}
        if name is not None and name != spec.id:
            changes["model"] = spec.id
        if changes:
            body = {**body, **changes}
            raw = encode(body)
        key = self._cache_key(exchange, endpoint, spec, body, record)
        return Call(endpoint, spec, body, raw, stream, key, record)

    def _check_size(self, body: JSONObject, raw: bytes) -> None:
        messages = body.get("messages")
        if isinstance(messages, list) and len(messages) > self.limits.messages:
            raise InvalidRequest(
                f"{len(messages)} messages; at most {self.limits.messages}.",
                hint="limits.messages in config/gateway.yaml sets this limit.",
                param="messages",
            )
        # Counting characters costs a walk through the body: only where they could be too many.
        if len(raw) > self.limits.prompt_chars:
            characters = _text_length(body)
            if characters > self.limits.prompt_chars:
                raise PromptTooLong(
                    f"The prompt has {characters} characters; at most {self.limits.prompt_chars}.",
                    hint="limits.prompt_chars in config/gateway.yaml sets this limit.",
                    param="messages" if messages is not None else "prompt",
                )

    # The cache

    def _cache_key(
        self,
        exchange: Exchange,
        endpoint: Endpoint,
        spec: ModelSpec,
        body: JSONObject,
        record: Record,
    ) -> bytes | None:
        control = exchange.headers.get(b"cache-control", b"")
        policy = self._stages.cache.policy(endpoint, body, control)
        exchange.extra.append((b"x-cache", b"bypass"))
        if policy == "bypass":
            return None
        fingerprint = self._stages.admission.fingerprint(spec.id)
        if fingerprint is None:
            return None
        record.cache = "miss"
        exchange.extra[-1] = (b"x-cache", b"miss")
        key = self._stages.cache.key(record.key or "", fingerprint, endpoint, spec.id, body)
        if policy == "use":
            record.cache = "hit"
        return key

    async def _from_cache(self, exchange: Exchange, call: Call) -> bool:
        """Answer from the cache, if that may be and it has the answer."""
        if call.cache_key is None or call.record.cache != "hit":
            return False
        answer = self._stages.cache.get(call.cache_key)
        if answer is None:
            call.record.cache = "miss"
            return False
        exchange.extra[-1] = (b"x-cache", b"hit")
        await exchange.answer(200, answer.content_type, answer.body)
        return True

    # The engine

    async def _admitted(self, exchange: Exchange, call: Call, lease: Lease) -> Engine:
        async def sign(text: str) -> None:
            if exchange.status is None:
                await exchange.start(200, EVENT_STREAM)
            anthropic = call.endpoint.dialect == "anthropic"
            await exchange.write(sse.PING if anthropic else sse.comment(text))

        return await self._stages.admission.wait(lease, sign if call.stream else None)

    @contextlib.asynccontextmanager
    async def _deadline(self, call: Call) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self.limits.request_s):
                yield
        except TimeoutError:
            raise EngineTimeout(
                f"{call.spec.id} did not finish within {self.limits.request_s:g} s.",
                hint="limits.request_timeout_s in config/gateway.yaml sets this limit.",
            ) from None

    async def _relay(self, exchange: Exchange, call: Call, lease: Lease, engine: Engine) -> None:
        leased = time.monotonic()
        with await self._asked(exchange, call, engine) as response:
            call.record.first_byte_s = time.monotonic() - leased
            lease.on_revoke(response.abort)
            await self._pass_on(exchange, call, response)

    async def _asked(self, exchange: Exchange, call: Call, engine: Engine) -> Response:
        head = request_head(
            "POST",
            call.endpoint.path,
            f"{engine.host}:{engine.port}",
            len(call.raw),
            [(b"x-request-id", exchange.request_id.encode())],
            key=engine.key,
        )
        return await self._stages.upstream.send(
            engine.host,
            engine.port,
            head,
            call.raw,
            headers_timeout_s=self.limits.request_s,
            idle_timeout_s=self.limits.idle_s,
            tls=engine.tls,
        )

    async def _pass_on(self, exchange: Exchange, call: Call, response: Response) -> None:
        if response.status != 200:
            raise error_from(response.status, await response.read(ERROR_LIMIT))
        if call.stream and call.endpoint.stream and response.content_type == b"text/event-stream":
            await self._pass_stream(exchange, call, call.endpoint.stream, response)
        else:
            await self._pass_whole(exchange, call, response)

    async def _pass_whole(self, exchange: Exchange, call: Call, response: Response) -> None:
        body = await response.read(ANSWER_LIMIT)
        answer = await _decoded_answer(body)
        if sse.aborted(answer):
            raise EngineGone(f"The engine of {call.spec.id} broke the answer off.")
        call.record.note_usage(answer.get("usage"))
        if exchange.status is not None:
            raise EngineBroke(f"The engine of {call.spec.id} did not stream.")
        await exchange.answer(200, b"application/json", body)
        self._keep(call, b"application/json", body)

    async def _pass_stream(
        self, exchange: Exchange, call: Call, kind: sse.StreamKind, response: Response
    ) -> None:
        watch, begun = sse.StreamWatch(kind), False
        kept: list[bytes] | None = None if call.cache_key is None else []
        if exchange.status is None:
            await exchange.start(200, EVENT_STREAM)
        async for piece in response:
            good = watch.feed(piece)
            if good and not begun:
                good = sse.with_start(kind, good, call.spec.id, exchange.request_id)
                begun = True
            if good:
                await exchange.write(good)
                if kept is not None:
                    kept.append(good)
            if watch.failure is not None:
                raise watch.failure
        last = watch.finish()
        if watch.failure is not None:
            raise watch.failure
        await exchange.end(last)
        call.record.note_usage(watch.usage)
        if kept is not None:
            self._keep(call, EVENT_STREAM, b"".join([*kept, last]))

    def _keep(self, call: Call, content_type: bytes, body: bytes) -> None:
        if call.cache_key is not None:
            self._stages.cache.put(call.cache_key, call.spec.id, content_type, body)


async def _decoded(raw: bytes) -> JSONObject:
    if len(raw) <= LARGE_BODY:
        return decode_object(raw)
    return await asyncio.to_thread(decode_object, raw)


async def _decoded_answer(body: bytes) -> JSONObject:
    try:
        return await _decoded(body)
    except InvalidRequest:
        raise EngineBroke("The engine's answer is not a JSON object.") from None


def _defaults(defaults: GenerationDefaults, body: JSONObject) -> JSONObject:
    """Return the catalog's defaults for the fields that a request does not have."""
    values = defaults.model_dump(exclude_none=True)
    if "max_completion_tokens" in body:
        values.pop("max_tokens", None)
    return {field: value for field, value in values.items() if field not in body}


def _text_length(value: object) -> int:
    """Count the characters of all strings in a JSON value, media and their addresses excepted."""
    total, todo = 0, [value]
    while todo:
        item = todo.pop()
        if isinstance(item, str):
            total += len(item)
        elif isinstance(item, dict):
            todo.extend(v for k, v in item.items() if not (k in MEDIA and isinstance(v, str)))
        elif isinstance(item, list):
            todo.extend(item)
    return total
