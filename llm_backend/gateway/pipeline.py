"""A request's way, told in order: authenticate, cache, admit, upstream, stream back, record.

The guard has seen the request before. Each stage is a module of its own that knows no other;
only this one composes them.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from llm_backend.config.catalog import ModelSpec
from llm_backend.errors import (
    EngineBroke,
    EngineGone,
    InternalError,
    LLMBackendError,
    Overloaded,
)
from llm_backend.gateway import sse
from llm_backend.gateway.admission import (
    FIRST_SIGN_S,
    SIGN_EVERY_S,
    Admission,
    Sign,
    waiting_headers,
)
from llm_backend.gateway.auth import Authenticator
from llm_backend.gateway.cache import CacheKey, Policy, ResponseCache
from llm_backend.gateway.calls import Bounds, Call, Salt, understand, wants_batch
from llm_backend.gateway.endpoints import CHAT_PATH, Endpoint
from llm_backend.gateway.exchange import EVENT_STREAM, ClientGone, Exchange
from llm_backend.gateway.flight import Flight, Flights
from llm_backend.gateway.images import Images, may_hold_media
from llm_backend.gateway.quota import Quotas
from llm_backend.gateway.record import Record, Recorder
from llm_backend.gateway.relay import JSON, Relay
from llm_backend.gateway.replay import as_stream
from llm_backend.gateway.stored import StoredAnswer
from llm_backend.runtimes.base import Engine
from llm_backend.switching.lease import Lease, Terms
from llm_backend.switching.switcher import Switcher
from llm_backend.wire import JSONObject, decode_object, encode, requested_model

if TYPE_CHECKING:
    from llm_backend.telemetry.spans import Tracer

LARGE = 1024 * 1024
"""Bodies above this many bytes are parsed and hashed off the event loop."""

CAUSE_S = 1.5
"""How long a broken answer waits to learn why its engine ended."""

REPLAY_PIECE = 64 * 1024


@dataclass(frozen=True, slots=True)
class Stages:
    """The stages that a request passes, in their order."""

    authenticator: Authenticator
    quotas: Quotas
    bounds: Bounds
    images: Images
    salt: Salt | None
    cache: ResponseCache
    flights: Flights
    admission: Admission
    switcher: Switcher
    relay: Relay
    recorder: Recorder
    tracer: Tracer | None = None


_GONE: Final = ClientGone()


class Pipeline:
    """Runs requests on the inference routes.

    Args:
        stages: What they pass.
        body_bytes: Longest body.
    """

    def __init__(self, stages: Stages, body_bytes: int) -> None:
        self._stages = stages
        self._body_bytes = body_bytes

    async def run(self, exchange: Exchange, endpoint: Endpoint) -> None:
        """Serve one request; whatever happens, it is answered and recorded."""
        record = Record(exchange.request_id, endpoint.path)
        failure: Exception | None = _GONE
        tracer = self._stages.tracer
        if tracer is not None:
            exchange.trace = tracer.request(exchange.headers, endpoint.path, endpoint.capability)
            exchange.trace.enter("authenticate")
        try:
            record.key = self._stages.authenticator.authorise(exchange.headers, "infer")
            record.batch = wants_batch(exchange.headers)
            with self._stages.quotas.spending(record.key, exchange.extra):
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
            if exchange.trace is not None:
                exchange.trace.end(record, is_failure=_is_ours(failure))

    async def _serve(self, exchange: Exchange, endpoint: Endpoint, record: Record) -> None:
        trace = exchange.trace
        if trace is not None:
            trace.enter("receive")
        raw = await exchange.body(self._body_bytes)
        record.begin()
        if trace is not None:
            trace.enter("understand")
        with exchange.client_watched():
            call = await self._understood(endpoint, raw, record)
            if call.stream:
                exchange.stream = endpoint.stream
            policy = self._policy(exchange, call)
            if policy == "bypass":
                exchange.extra.append((b"x-cache", b"bypass"))
                await self._ask(exchange, call, keep=False)
            else:
                record.cache = "miss"
                if trace is not None:
                    trace.enter("cache")
                key = await self._key(call)
                await self._answer(exchange, call, key, may_look=policy == "use")

    async def _understood(self, endpoint: Endpoint, raw: bytes, record: Record) -> Call:
        stages = self._stages
        body = decode_object(raw) if len(raw) <= LARGE else await _decoded(raw)
        spec = stages.admission.choose(requested_model(body))
        record.model = spec.id
        stages.admission.check(spec, endpoint)
        if len(raw) <= LARGE:
            stages.bounds.check(body, len(raw))
        else:
            await asyncio.to_thread(stages.bounds.check, body, len(raw))
        if may_hold_media(raw) and await self._media_prepared(endpoint, spec, body, len(raw)):
            raw = encode(body)
        call = understand(endpoint, spec, body, raw, record)
        if stages.salt is not None:
            stages.salt.apply(call)
        return call

    async def _media_prepared(
        self, endpoint: Endpoint, spec: ModelSpec, body: JSONObject, size: int
    ) -> bool:
        """Check pictures and videos, and whether the model takes any; return if they changed."""
        images, fleet = self._stages.images, self._stages.admission.fleet
        media = await images.find(body, size, is_chat=endpoint.engine_path == CHAT_PATH)
        for capability in sorted(media.needs):
            fleet.require(spec, capability)
        return await images.prepare(media)

    # Answers that there are already

    def _policy(self, exchange: Exchange, call: Call) -> Policy:
        control = exchange.headers.get(b"cache-control", b"")
        policy = self._stages.cache.policy(call.endpoint, call.body, control)
        known = policy == "bypass" or self._stages.admission.fingerprint(call.spec.id) is not None
        return policy if known else "bypass"

    async def _key(self, call: Call) -> CacheKey:
        call.fingerprint = self._stages.admission.fingerprint(call.spec.id) or ""
        facts = (call.record.key or "", call.fingerprint, call.endpoint, call.spec.id, call.body)
        if len(call.raw) <= LARGE:
            return CacheKey.of(*facts)
        return await asyncio.to_thread(CacheKey.of, *facts)

    async def _answer(
        self, exchange: Exchange, call: Call, key: CacheKey, *, may_look: bool
    ) -> None:
        """Answer from the cache, from the call of an equal request, or by a call of one's own."""
        cache, flights = self._stages.cache, self._stages.flights
        # Whoever shares the call of a batch request would wait as long as that may.
        alone = call.record.batch
        shares = may_look and not alone and cache.shares(call.endpoint, call.body)
        if not shares:
            answer = await cache.look_up(key, call.spec.id) if may_look else None
            if not await self._replayed(exchange, call, answer):
                cache.keep(key, await self._lead(exchange, call))
            return
        deadline = asyncio.get_running_loop().time() + self._stages.admission.timeout_s
        while not await self._replayed(exchange, call, cache.at_hand(key)):
            flight = flights.find(key.own)
            if flight is None:
                await self._share(exchange, call, key)
                return
            self._stages.recorder.join(call.spec.id)
            await self._wait_for(exchange, call, flight, deadline)
            if await self._replayed(exchange, call, flight.answer):
                return
            if not flight.left:
                # What came is nothing to share; waiting for each other would not change that.
                await self._lead(exchange, call)
                return
            # The leader left: the first to ask again leads.

    async def _share(self, exchange: Exchange, call: Call, key: CacheKey) -> None:
        """Look into Redis, or call the engine, for all equal requests that come meanwhile."""
        cache = self._stages.cache
        with self._stages.flights.leading(key.own) as flight:
            found = await cache.look_up(key, call.spec.id)
            if found is None:
                flight.answer = await self._lead(exchange, call)
                cache.keep(key, flight.answer)
                return
            flight.answer = found
        if not await self._replayed(exchange, call, found):
            cache.keep(key, await self._lead(exchange, call))

    async def _lead(self, exchange: Exchange, call: Call) -> StoredAnswer | None:
        exchange.extra.append((b"x-cache", b"miss"))
        return await self._ask(exchange, call, keep=True)

    async def _wait_for(
        self, exchange: Exchange, call: Call, flight: Flight, deadline: float
    ) -> None:
        loop = asyncio.get_running_loop()
        pause = FIRST_SIGN_S
        if exchange.trace is not None:
            exchange.trace.enter("wait for an equal request")
        while not await flight.over(min(pause, max(0.0, deadline - loop.time()))):
            if loop.time() >= deadline:
                raise Overloaded(
                    "An equal request has not been answered in time.", retry_after_s=30
                )
            if call.stream:
                await self._sign(exchange, call, "waiting for an equal request")
            pause = SIGN_EVERY_S
        if flight.error is not None:
            # Many raise it; each would make its traceback longer.
            raise flight.error.with_traceback(None)

    async def _replayed(self, exchange: Exchange, call: Call, answer: StoredAnswer | None) -> bool:
        """Answer with what was answered before; return whether that was possible."""
        told = None if answer is None else await _told(call, answer)
        if told is None:
            return False
        call.record.hit(self._stages.switcher.way_up_s(call.spec.id))
        exchange.extra.append((b"x-cache", b"hit"))
        if not call.stream:
            await exchange.answer(200, JSON, told)
            return True
        if exchange.status is None:
            await exchange.start(200, EVENT_STREAM)
        for start in range(0, len(told), REPLAY_PIECE):
            await exchange.write(told[start : start + REPLAY_PIECE])
            # Nothing here waits by itself: others have their turn, and a departure is seen.
            await asyncio.sleep(0)
        await exchange.end()
        return True

    # The engine

    async def _ask(self, exchange: Exchange, call: Call, *, keep: bool) -> StoredAnswer | None:
        stages = self._stages
        if not stages.switcher.is_up(call.spec.id):
            await stages.switcher.check(call.spec.id)
        call.record.ask()
        terms = Terms(call.record.key or "", call.record.batch, call.endpoint.may_switch)
        with stages.switcher.lease(call.spec.id, terms) as lease:
            engine = lease.engine
            if engine is None:
                exchange.extra += waiting_headers(lease)
                engine = await self._wait(exchange, call, lease)
                exchange.stages = stages.admission.stages(lease)
            # While it waited the engine may have been started with other options.
            keep = keep and engine.fingerprint == call.fingerprint
            call.record.lend(lease.waited_s, lease.held_up)
            if exchange.trace is not None:
                kind = call.spec.engine.kind
                exchange.onward = exchange.trace.ask(call.spec.id, kind, engine.host, engine.port)
            exchange.asked_at = asyncio.get_running_loop().time()
            try:
                return await stages.relay.run(exchange, call, lease, engine, keep=keep)
            except (EngineGone, EngineBroke) as error:
                raise await self._cause(lease, error) from None

    async def _wait(self, exchange: Exchange, call: Call, lease: Lease) -> Engine:
        stages, trace = self._stages, exchange.trace
        if trace is not None:
            trace.enter("wait")
        try:
            return await stages.admission.wait(lease, self._signer(exchange, call))
        finally:
            call.record.switch = stages.switcher.switch_of(lease)
            if trace is not None:
                trace.waited(call.record.switch)

    @staticmethod
    async def _cause(lease: Lease, error: LLMBackendError) -> LLMBackendError:
        # The engine may be gone: then its end says more than the broken connection.
        return await lease.cause(CAUSE_S) or error

    def _signer(self, exchange: Exchange, call: Call) -> Sign | None:
        if not call.stream:
            return None
        return lambda text: self._sign(exchange, call, text)

    @staticmethod
    async def _sign(exchange: Exchange, call: Call, text: str) -> None:
        """Tell the client of a stream what it waits for."""
        if exchange.status is None:
            await exchange.start(200, EVENT_STREAM)
        anthropic = call.endpoint.dialect == "anthropic"
        await exchange.write(sse.PING if anthropic else sse.comment(text))


def _is_ours(failure: Exception | None) -> bool:
    """Return whether a request failed through no fault of its client."""
    if isinstance(failure, LLMBackendError):
        return failure.status >= InternalError.status
    return failure is not None and failure is not _GONE


async def _told(call: Call, answer: StoredAnswer) -> bytes | None:
    """Return an answer in the form that is asked for; None where it cannot be told so."""
    kind, is_stream = call.endpoint.stream, answer.content_type == EVENT_STREAM
    if is_stream == call.stream:
        return answer.body
    if is_stream or kind is None:
        return None
    options = call.body.get("stream_options")
    usage = isinstance(options, dict) and options.get("include_usage") is True
    if len(answer.body) <= LARGE:
        return as_stream(answer.body, kind, usage=usage)
    return await asyncio.to_thread(as_stream, answer.body, kind, usage=usage)


async def _decoded(raw: bytes) -> JSONObject:
    return await asyncio.to_thread(decode_object, raw)
