"""Keeps answers in Redis. Whatever Redis does, no request fails for it, or waits for long."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

import structlog
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from llm_backend.gateway.breaker import Breaker
from llm_backend.gateway.stored import StoredAnswer, pack, unpack

log = structlog.get_logger(__name__)

Operation = Callable[[], Awaitable[Any]]

PREFIX: Final = "llm-cache:"
READ_S: Final = 0.05
"""Longest that a request waits for Redis."""

WRITE_S: Final = 1.0
"""Longest that a write takes; nobody waits for it."""

WRITES: Final = 64
"""Writes under way at once; more are dropped, answers come again."""

LARGEST: Final = 8 * 1024 * 1024
FAILURES: Final = 3
RETRY_S: Final = 5.0
SCAN_S: Final = 30.0


class RedisStore:
    """A store in Redis, read within 50 ms or not at all.

    Args:
        url: Address of the server.
        ttl_s: Seconds after which an answer is forgotten.
        clock: Monotonic seconds.

    Attributes:
        errors: Operations that failed.
        rejected: Values that were not what was put there.
    """

    def __init__(self, url: str, ttl_s: float, clock: Callable[[], float]) -> None:
        # redis-py's own retries would cost seconds a request when the server is gone.
        self._redis = Redis.from_url(
            url,
            socket_timeout=WRITE_S,
            socket_connect_timeout=READ_S,
            retry=Retry(NoBackoff(), 0),
            max_connections=2 * WRITES,
        )
        self._ttl_s = max(1, int(ttl_s))
        self._breaker = Breaker(FAILURES, RETRY_S, clock)
        self._writes: set[asyncio.Task[None]] = set()
        self.errors = 0
        self.rejected = 0

    @property
    def well(self) -> bool:
        """Whether Redis answered lately."""
        return not self._breaker.is_open

    async def get(self, key: bytes, model: str) -> StoredAnswer | None:
        """Return the answer that is kept for a key; None too where Redis does not say in time."""
        if not self._breaker.lets_through():
            return None
        name = _name(key, model)
        packed = await self._tried(lambda: self._redis.get(name), READ_S)
        if packed is None:
            return None
        answer = unpack(key, packed) if isinstance(packed, bytes) else None
        if answer is None or answer.model != model:
            self.rejected += 1
            log.warning("cache_value_rejected", model=model)
            self._in_background(lambda: self._redis.unlink(name))
            return None
        return answer

    def put(self, key: bytes, answer: StoredAnswer) -> None:
        """Keep an answer, in the background."""
        if len(answer.body) > LARGEST or not self._breaker.lets_through():
            return
        name, value = _name(key, answer.model), pack(key, answer)
        self._in_background(lambda: self._redis.set(name, value, ex=self._ttl_s))

    async def clear(self, model: str | None = None) -> int:
        """Forget all answers, or those of one model; return how many there were.

        Raises:
            RedisError: Redis does not answer; what was asked for was not done.
            TimeoutError: the same.
        """
        pattern = f"{PREFIX}{_escaped(model)}:*" if model else f"{PREFIX}*"
        cleared = 0
        async with asyncio.timeout(SCAN_S):
            async for name in self._redis.scan_iter(pattern, count=1000):
                cleared += await self._redis.unlink(name)
        return cleared

    async def close(self) -> None:
        """Let writes end, then close the connections."""
        if self._writes:
            await asyncio.wait(self._writes, timeout=WRITE_S)
        for write in self._writes:
            write.cancel()
        await self._redis.aclose()

    def _in_background(self, operation: Operation) -> None:
        if len(self._writes) >= WRITES:
            return
        task = asyncio.create_task(self._write(operation))
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)

    async def _write(self, operation: Operation) -> None:
        await self._tried(operation, WRITE_S)

    async def _tried(self, operation: Operation, limit_s: float) -> Any:
        try:
            async with asyncio.timeout(limit_s):
                value = await operation()
        except (RedisError, OSError, TimeoutError) as error:
            self.errors += 1
            was_well = self.well
            self._breaker.failed()
            if was_well and not self.well:
                log.warning("cache_off", error=type(error).__name__, retry_every_s=RETRY_S)
            return None
        if not self.well:
            log.info("cache_on")
        self._breaker.succeeded()
        return value


def _name(key: bytes, model: str) -> str:
    return f"{PREFIX}{model}:{key.hex()}"


def _escaped(text: str) -> str:
    """Take the meaning of pattern characters away."""
    return "".join(f"\\{c}" if c in "*?[]^-\\" else c for c in text)
