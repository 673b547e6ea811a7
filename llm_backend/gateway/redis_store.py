"""Keeps answers in Redis. Whatever Redis does, no request fails for it, or waits for long."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from llm_backend.errors import ServiceError
from llm_backend.gateway.breaker import Breaker
from llm_backend.gateway.stored import StoredAnswer, pack, unpack

log = structlog.get_logger(__name__)

Operation = Callable[[], Awaitable[Any]]

PREFIX: Final = "llm-cache:"
READ_S: Final = 0.05
"""Longest that a request waits for Redis."""

TURN_S: Final = 0.02
"""The part of that which it may wait in line; too long a line is no fault of Redis."""

WRITE_S: Final = 1.0
"""Longest that a write takes; nobody waits for it."""

AT_ONCE: Final = 8
"""Reads, and writes, under way at once: each needs a connection."""

PENDING: Final = 64
"""Writes that wait or are under way; more are dropped, answers come again."""

LARGEST: Final = 1024 * 1024
"""Bytes of an answer; more may not come through a network in the time of a read."""

FAILURES: Final = 3
RETRY_S: Final = 5.0
SCAN_S: Final = 30.0
PAGE: Final = 1000


@dataclass(frozen=True, slots=True)
class Found:
    """What Redis had for a request.

    Attributes:
        key: Under which it is kept.
        answer: The answer.
        left_s: Seconds until it is forgotten.
    """

    key: bytes
    answer: StoredAnswer
    left_s: float


class Lane:
    """Operations of one kind: how many at once, and whether they are tried at all.

    A full Redis takes no writes and answers reads: the one must not stop the other.
    """

    def __init__(self, name: str, clock: Callable[[], float]) -> None:
        self.name = name
        self.turns = asyncio.Semaphore(AT_ONCE)
        self.breaker = Breaker(FAILURES, RETRY_S, clock)
        self.errors = 0

    async def attempt(self, operation: Operation, limit_s: float) -> Any:
        """Return what an operation returns; None where it fails or is not tried."""
        if not self.breaker.lets_through():
            return None
        try:
            async with asyncio.timeout(limit_s):
                value = await operation()
        except Exception as error:  # noqa: BLE001  # parsers fail in many ways on what is no Redis
            self._failed(error)
            return None
        if self.breaker.is_open:
            log.info("cache_on", operations=self.name)
        self.breaker.succeeded()
        return value

    def _failed(self, error: Exception) -> None:
        self.errors += 1
        was_open = self.breaker.is_open
        self.breaker.failed()
        if self.breaker.is_open and not was_open:
            # Its name alone: what an error says may hold anything.
            reason = type(error).__name__
            log.warning("cache_off", operations=self.name, error=reason, retry_every_s=RETRY_S)


class Abrupt:
    """A connection that ends at once.

    What a frozen server has not taken would else stay in memory, and the socket open with it.
    """

    _writer: asyncio.StreamWriter | None

    async def disconnect(self, *args: Any, **options: Any) -> None:
        """Close the socket; what was not sent is dropped."""
        if self._writer is not None:
            self._writer.transport.abort()
        await super().disconnect(*args, **options)  # type: ignore[misc]  # of redis-py's connection


class RedisStore:
    """A store in Redis, read within 50 ms or not at all.

    Args:
        url: Address of the server.
        ttl_s: Seconds after which an answer is forgotten.
        clock: Monotonic seconds.

    Attributes:
        rejected: Values that were not what was put there.
    """

    def __init__(self, url: str, ttl_s: float, clock: Callable[[], float]) -> None:
        # redis-py's own retries would cost seconds a request when the server is gone. A read
        # may not have the time to connect; then a write connects for it. Telling the name of
        # the driver would be one more command, which an account may lack the right to.
        self._redis = Redis.from_url(
            url,
            protocol=2,
            driver_info=None,
            socket_timeout=WRITE_S,
            socket_connect_timeout=WRITE_S,
            retry=Retry(NoBackoff(), 0),
        )
        pool = self._redis.connection_pool
        pool.connection_class = type("AbruptConnection", (Abrupt, pool.connection_class), {})
        self._ttl_s = max(1, int(ttl_s))
        self._reads = Lane("reads", clock)
        self._writes = Lane("writes", clock)
        self._pending: set[asyncio.Task[None]] = set()
        self.rejected = 0

    @property
    def well(self) -> bool:
        """Whether Redis did lately what it was asked for."""
        return not (self._reads.breaker.is_open or self._writes.breaker.is_open)

    @property
    def read_errors(self) -> int:
        """Reads that failed."""
        return self._reads.errors

    @property
    def write_errors(self) -> int:
        """Writes that failed."""
        return self._writes.errors

    @property
    def errors(self) -> int:
        """Operations that failed."""
        return self.read_errors + self.write_errors

    async def get(self, keys: Sequence[bytes], model: str) -> Found | None:
        """Return what is kept under the first of these keys that has something.

        None too where Redis does not say in time.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + READ_S
        try:
            async with asyncio.timeout(TURN_S):
                await self._reads.turns.acquire()
        except TimeoutError:
            return None
        try:
            left_s = deadline - loop.time()
            found: Found | None = await self._reads.attempt(lambda: self._read(keys, model), left_s)
        finally:
            self._reads.turns.release()
        return found

    async def _read(self, keys: Sequence[bytes], model: str) -> Found | None:
        for key in keys:
            name = _name(key, model)
            packed = await self._value(name)
            if not packed:
                continue
            answer = unpack(key, packed)
            left_ms = await self._redis.pttl(name) if answer is not None else 0
            if answer is not None and answer.model == model and left_ms > 0:
                return Found(key, answer, min(self._ttl_s, left_ms / 1000))
            self._reject(name, model)
        return None

    async def _value(self, name: str) -> bytes:
        """Return a value, or enough of one that is too long to see that it is no answer."""
        try:
            value = await self._redis.getrange(name, 0, 2 * LARGEST)
        except ResponseError as error:
            if not str(error).startswith("WRONGTYPE"):
                raise
            return str(error).encode()
        return value if isinstance(value, bytes) else str(value).encode()

    def _reject(self, name: str, model: str) -> None:
        self.rejected += 1
        log.warning("cache_value_rejected", model=model)
        self._in_background(lambda: self._redis.unlink(name))

    def put(self, key: bytes, answer: StoredAnswer) -> None:
        """Keep an answer, in the background."""
        if len(answer.body) > LARGEST:
            return
        name = _name(key, answer.model)
        self._in_background(lambda: self._redis.set(name, pack(key, answer), ex=self._ttl_s))

    async def clear(self, model: str | None = None) -> int:
        """Forget all answers, or those of one model; return how many there were.

        Raises:
            ServiceError: Redis does not answer, or forbids it; not all are forgotten.
        """
        # Exactly as long as a key: `a` must not be taken for the beginning of the model `a:b`.
        pattern = f"{PREFIX}{_escaped(model)}:{'?' * 64}" if model else f"{PREFIX}*"
        await self._settle()
        try:
            async with asyncio.timeout(SCAN_S):
                return await self._unlink_all(pattern)
        except (RedisError, OSError, TimeoutError) as error:
            raise ServiceError(
                f"Redis did not forget all answers ({type(error).__name__}).",
                hint="Those in the gateway's memory are gone. Try again once Redis answers.",
            ) from error

    async def _unlink_all(self, pattern: str) -> int:
        cleared = cursor = 0
        while True:
            cursor, names = await self._redis.scan(cursor, pattern, count=PAGE)
            if names:
                cleared += await self._redis.unlink(*names)
            if cursor == 0:
                return cleared

    async def close(self) -> None:
        """Let writes end, then close the connections; takes at most three seconds."""
        await self._settle()
        pending = set(self._pending)
        for task in pending:
            task.cancel()
        if pending:
            await asyncio.wait(pending, timeout=WRITE_S)
        with contextlib.suppress(RedisError, OSError, TimeoutError):
            async with asyncio.timeout(WRITE_S):
                await self._redis.aclose()

    async def _settle(self) -> None:
        """Wait for the writes that are under way."""
        if self._pending:
            await asyncio.wait(set(self._pending), timeout=WRITE_S)

    def _in_background(self, operation: Operation) -> None:
        if len(self._pending) >= PENDING:
            return
        task = asyncio.create_task(self._write(operation))
        self._pending.add(task)
        task.add_done_callback(self._pending.discard)

    async def _write(self, operation: Operation) -> None:
        async with self._writes.turns:
            await self._writes.attempt(operation, WRITE_S)


def _name(key: bytes, model: str) -> str:
    return f"{PREFIX}{model}:{key.hex()}"


def _escaped(text: str) -> str:
    """Take the meaning of pattern characters away."""
    return "".join(f"\\{c}" if c in "*?[]^-\\" else c for c in text)
