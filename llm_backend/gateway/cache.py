"""Answers that were given before: what may be kept, under which key, and where.

The key covers everything that shapes an answer: tenant, model, fingerprint of the engine, route and
the whole canonical body. Answers are kept in this process and, behind that, in Redis.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Self

from llm_backend.config.settings import CacheSettings
from llm_backend.gateway.endpoints import Endpoint
from llm_backend.gateway.memory_store import MemoryStore
from llm_backend.gateway.redis_store import RedisStore
from llm_backend.gateway.stored import StoredAnswer
from llm_backend.wire import JSONObject, encode

Policy = Literal["use", "refresh", "bypass"]


@dataclass(frozen=True, slots=True)
class CacheKey:
    """Under which an answer is kept.

    Attributes:
        own: For the form that was asked for.
        whole: For the answer as one JSON object, from which a stream can be told.
    """

    own: bytes
    whole: bytes

    @classmethod
    def of(
        cls, tenant: str, fingerprint: str, endpoint: Endpoint, model: str, body: JSONObject
    ) -> Self:
        """Return the key of a request; `body` must have its defaults filled in.

        Raises:
            InvalidJSON: the body is nested so deeply that it cannot be written down again.
        """
        form = _form(endpoint, body)
        said = {k: v for k, v in body.items() if k not in form} | {"model": model}
        facts = [tenant, fingerprint, endpoint.engine_path, said]
        digest = hashlib.sha256(encode(facts, sort=True))
        whole = digest.digest()
        if "stream_options" not in form:
            return cls(whole, whole)
        digest.update(encode(body.get("stream_options"), sort=True))
        return cls(digest.digest(), whole)


class ResponseCache:
    """Keeps answers in memory, and in Redis where there is one.

    Args:
        settings: Mode, bytes and time to live.
        clock: Monotonic seconds.
        redis: The store behind the memory.

    Attributes:
        memory: The store in this process.
        redis: The store behind it; None where there is none.
    """

    def __init__(
        self,
        settings: CacheSettings,
        clock: Callable[[], float],
        redis: RedisStore | None = None,
    ) -> None:
        self._settings = settings
        self.memory = MemoryStore(settings.memory_mib * 1024 * 1024, settings.ttl_s, clock)
        self.redis = redis

    def policy(self, endpoint: Endpoint, body: JSONObject, cache_control: bytes) -> Policy:
        """Decide what the cache does for a request.

        `Cache-Control: no-cache` asks for a new answer, `no-store` leaves no trace of it.
        """
        control = cache_control.lower()
        if self._settings.mode == "off" or not endpoint.cacheable or b"no-store" in control:
            return "bypass"
        if self._settings.mode == "deterministic" and not is_deterministic(endpoint, body):
            return "bypass"
        return "refresh" if b"no-cache" in control else "use"

    def shares(self, endpoint: Endpoint, body: JSONObject) -> bool:
        """Return whether equal requests may have one answer: not where it is sampled."""
        return is_deterministic(endpoint, body)

    def at_hand(self, key: CacheKey) -> StoredAnswer | None:
        """Return what is kept in memory for a key."""
        return self.memory.get(key.own) or self.memory.get(key.whole)

    async def look_up(self, key: CacheKey, model: str) -> StoredAnswer | None:
        """Return what is kept for a key, here or in Redis."""
        answer = self.at_hand(key)
        if answer is not None or self.redis is None:
            return answer
        found = await self.redis.get(tuple(dict.fromkeys((key.own, key.whole))), model)
        if found is None:
            return None
        self.memory.put(found.key, found.answer, found.left_s)
        return found.answer

    def keep(self, key: CacheKey, answer: StoredAnswer | None) -> None:
        """Keep a whole, successful answer; there is none where it was too long to be kept."""
        if answer is None:
            return
        self.memory.put(key.own, answer)
        if self.redis is not None:
            self.redis.put(key.own, answer)

    async def clear(self, model: str | None = None) -> int:
        """Forget all answers, or those of one model; return how many there were.

        Raises:
            ServiceError: Redis did not forget all of them; the memory did.
        """
        cleared = self.memory.clear(model)
        if self.redis is None:
            return cleared
        return max(cleared, await self.redis.clear(model))

    def describe(self) -> dict[str, Any]:
        """Return its state, as `/health` shows it."""
        redis = self.redis
        return {
            "status": "ok" if redis is None or redis.well else "degraded",
            "backend": "memory" if redis is None else "redis",
            "mode": self._settings.mode,
            "entries": len(self.memory),
            "bytes": self.memory.bytes,
            "redis_errors": redis.errors if redis else None,
            "rejected_values": redis.rejected if redis else None,
        }

    async def close(self) -> None:
        """Let go of Redis."""
        if self.redis is not None:
            await self.redis.close()


def _form(endpoint: Endpoint, body: JSONObject) -> tuple[str, ...]:
    """Return the fields that shape how an answer is told, not what it says."""
    if endpoint.stream is None:
        return ()
    return ("stream", "stream_options") if body.get("stream") is True else ("stream",)


def is_deterministic(endpoint: Endpoint, body: JSONObject) -> bool:
    """Return whether two engines of one fingerprint would answer a request alike."""
    if endpoint.stream is None:
        return True
    return body.get("temperature") == 0 or isinstance(body.get("seed"), int)
