"""A request's way, told in order: authenticate, cache, admit, upstream, stream back, record.

The guard has seen the request before. Each stage is a module of its own that knows no other;
only this one composes them.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from llm_backend.errors import EngineBroke, EngineGone, LLMBackendError, Overloaded
from llm_backend.gateway import sse
from llm_backend.gateway.admission import SIGN_EVERY_S, Admission, Sign
from llm_backend.gateway.auth import Authenticator
from llm_backend.gateway.cache import CacheKey, Policy, ResponseCache
from llm_backend.gateway.calls import Bounds, Call, Salt, understand
from llm_backend.gateway.endpoints import Endpoint
from llm_backend.gateway.exchange import EVENT_STREAM, ClientGone, Exchange
from llm_backend.gateway.flight import Flight, Flights
from llm_backend.gateway.images import Images
from llm_backend.gateway.quota import Quotas
from llm_backend.gateway.record import Record, Recorder
from llm_backend.gateway.relay import Relay
from llm_backend.gateway.replay import as_stream
from llm_backend.gateway.stored import StoredAnswer
from llm_backend.switching.lease import Lease
from llm_backend.switching.switcher import Switcher
from llm_backend.wire import JSONObject, decode_object, encode, requested_model

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
        failure: Exception | None = ClientGone()
        try:
            record.key = self._stages.authenticator.authorise(exchange.headers, "infer")
            with self._stages.quotas.spending(record.key) as headers:
                exchange.extra += headers
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
        raw = await exchange.body(self._body_bytes)
        record.began = time.monotonic()
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
                key = await self._key(call)
                await self._answer(exchange, call, key, may_look=policy == "use")

    async def _understood(self, endpoint: Endpoint, raw: bytes, record: Record) -> Call:
        stages = self._stages
        body = await _decoded(raw)
        spec = stages.admission.choose(requested_model(body))
        record.model = spec.id
        stages.admission.check(spec, endpoint)
        stages.bounds.check(body, len(raw))
        if await stages.images.prepare(body):
            raw = encode(body)
        call = understand(endpoint, spec, body, raw, record)
        if stages.salt is not None:
            stages.salt.apply(call)
        return call

    # Answers that there are already

    def _policy(self, exchange: Exchange, call: Call) -> Policy:
        control = exchange.headers.get(b"cache-control", b"")
        if self._stages.admission.fingerprint(call.spec.id) is None:
            return "bypass"
        return self._stages.cache.policy(call.endpoint, call.body, control)

    async def _key(self, call: Call) -> CacheKey:
        fingerprint = self._stages.admission.fingerprint(call.spec.id) or ""
        facts = (call.record.key or "", fingerprint, call.endpoint, call.spec.id, call.body)
        if len(call.raw) <= LARGE:
            return CacheKey.of(*facts)
        return await asyncio.to_thread(CacheKey.of, *facts)

    async def _answer(
        self, exchange: Exchange, call: Call, key: CacheKey, *, may_look: bool
    ) -> None:
        """Answer from the cache, from the call of an equal request, or by a call of one's own."""
        cache, flights = self._stages.cache, self._stages.flights
        answer = await cache.look_up(key, call.spec.id) if may_look else None
        shares = may_look and cache.shares(call.endpoint, call.body)
        while answer is None:
            flight = flights.find(key.own) if shares else None
            # Another may have led and landed while we looked into Redis.
            answer = cache.at_hand(key) if shares and flight is None else None
            if flight is not None:
                await self._wait_for(exchange, call, flight)
                # What the leader came to; nothing where it left: then the next one leads.
                answer = flight.answer
            elif answer is None:
                await self._lead(exchange, call, key, shares=shares)
                return
        await self._replay(exchange, call, answer)

    async def _lead(self, exchange: Exchange, call: Call, key: CacheKey, *, shares: bool) -> None:
        exchange.extra.append((b"x-cache", b"miss"))
        if not shares:
            self._keep(key, await self._ask(exchange, call, keep=True))
            return
        with self._stages.flights.leading(key.own) as flight:
            flight.answer = await self._ask(exchange, call, keep=True)
            self._keep(key, flight.answer)

    def _keep(self, key: CacheKey, answer: StoredAnswer | None) -> None:
        if answer is not None:
            self._stages.cache.keep(key, answer)

    async def _wait_for(self, exchange: Exchange, call: Call, flight: Flight) -> None:
        deadline = asyncio.get_running_loop().time() + self._stages.admission.timeout_s
        while not await flight.over(SIGN_EVERY_S):
            if asyncio.get_running_loop().time() > deadline:
                raise Overloaded(
                    "An equal request has not been answered in time.", retry_after_s=30
                )
            if call.stream:
                await self._sign(exchange, call, "waiting for an equal request")
        if flight.error is not None:
            raise flight.error

    async def _replay(self, exchange: Exchange, call: Call, answer: StoredAnswer) -> None:
        call.record.cache = "hit"
        exchange.extra.append((b"x-cache", b"hit"))
        content_type, body = answer.content_type, answer.body
        kind = call.endpoint.stream
        if call.stream and kind is not None and content_type != EVENT_STREAM:
            options = call.body.get("stream_options")
            usage = isinstance(options, dict) and options.get("include_usage") is True
            told = as_stream(await _decoded(body), kind, usage=usage)
            if told is None:
                await self._ask(exchange, call, keep=False)
                return
            content_type, body = EVENT_STREAM, told
        if not call.stream:
            await exchange.answer(200, content_type, body)
            return
        if exchange.status is None:
            await exchange.start(200, content_type)
        for start in range(0, len(body), REPLAY_PIECE):
            await exchange.write(body[start : start + REPLAY_PIECE])
            # Nothing here waits by itself: others have their turn, and a departure is seen.
            await asyncio.sleep(0)
        await exchange.end()

    # The engine

    async def _ask(self, exchange: Exchange, call: Call, *, keep: bool) -> StoredAnswer | None:
        stages = self._stages
        await stages.switcher.check(call.spec.id)
        with stages.switcher.lease(call.spec.id) as lease:
            engine = lease.engine
            if engine is None:
                engine = await stages.admission.wait(lease, self._signer(exchange, call))
            call.record.waited_s = lease.waited_s
            try:
                return await stages.relay.run(exchange, call, lease, engine, keep=keep)
            except (EngineGone, EngineBroke) as error:
                raise await self._cause(lease, error) from None

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


async def _decoded(raw: bytes) -> JSONObject:
    if len(raw) <= LARGE:
        return decode_object(raw)
    return await asyncio.to_thread(decode_object, raw)
