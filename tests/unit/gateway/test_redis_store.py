"""The store against a real Redis that stops, freezes, fills up, and tells nonsense."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import psutil
import pytest
import redis
import structlog.testing

from llm_backend.errors import ServiceError
from llm_backend.gateway.redis_store import LARGEST, PREFIX, READ_S, RETRY_S, RedisStore
from llm_backend.gateway.stored import StoredAnswer, pack
from tests.harness import REPOSITORY
from tests.redis_server import RedisServer, needs_redis, redis_server
from tests.tcp_proxy import Fault, TcpProxy

pytestmark = [pytest.mark.anyio, needs_redis]

JSON = b"application/json"
TTL_S = 60
ROOM_S = 0.7
"""What a busy machine may add to a promised time."""
PATIENCE_S = 20
KEYS = [bytes([n]) * 32 for n in range(40)]
KEY = KEYS[0]


class Clock:
    """Real time, and what is added to it: nobody waits for a breaker."""

    ahead = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(autouse=True)
def empty(server: RedisServer) -> None:
    server.client.flushall()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@asynccontextmanager
async def opened(
    url: str, clock: Clock | None = None, ttl_s: float = TTL_S
) -> AsyncIterator[RedisStore]:
    """A store that leaves no task and no connection."""
    before = asyncio.all_tasks()
    store = RedisStore(url, ttl_s, clock or Clock())
    try:
        yield store
    finally:
        began = time.monotonic()
        await store.close()
        assert time.monotonic() - began < 3 + ROOM_S
        left = {str(t.get_coro()) for t in asyncio.all_tasks() - before}
        assert not {name for name in left if RedisStore.__name__ in name}


@asynccontextmanager
async def behind_proxy(
    server: RedisServer, clock: Clock
) -> AsyncIterator[tuple[TcpProxy, RedisStore]]:
    async with (
        TcpProxy(server.connect) as proxy,
        opened(f"redis://127.0.0.1:{proxy.port}", clock) as store,
    ):
        yield proxy, store


@pytest.fixture
async def store(server: RedisServer, clock: Clock) -> AsyncIterator[RedisStore]:
    async with opened(server.url, clock) as store:
        yield store


def answer(text: str = "{}", model: str = "a") -> StoredAnswer:
    return StoredAnswer(model, JSON, text.encode())


async def keep(store: RedisStore, key: bytes, kept: StoredAnswer) -> None:
    store.put(key, kept)
    await store._settle()


async def look(store: RedisStore, *keys: bytes, model: str = "a") -> StoredAnswer | None:
    """Read; it must not take longer than promised."""
    began = time.monotonic()
    found = await store.get(keys, model)
    assert time.monotonic() - began < READ_S + ROOM_S
    return found.answer if found else None


async def recovered(store: RedisStore, clock: Clock) -> None:
    """Expect that the next look-up after a while closes the breaker."""
    assert not store.well
    clock.ahead += RETRY_S
    async with asyncio.timeout(PATIENCE_S):
        while not store.well:
            store.put(KEYS[-1], answer())  # it has the time to connect on a slow machine
            await store._settle()
            await store.get([KEYS[-1]], "a")
            clock.ahead += RETRY_S


def name(key: bytes, model: str = "a") -> str:
    return f"{PREFIX}{model}:{key.hex()}"


async def test_what_is_kept_is_found(store: RedisStore) -> None:
    await keep(store, KEYS[1], answer("one"))

    assert await look(store, KEYS[1]) == answer("one")
    assert await look(store, KEYS[2], KEYS[1]) == answer("one")
    assert await look(store, KEYS[2]) is None
    assert await look(store, KEYS[1], model="b") is None
    assert (store.errors, store.rejected) == (0, 0)


async def test_it_forgets_in_time(server: RedisServer, store: RedisStore) -> None:
    await keep(store, KEY, answer())
    assert 0 < server.client.ttl(name(KEY)) <= TTL_S
    server.client.pexpire(name(KEY), 30_000)
    found = await store.get([KEY], "a")
    assert found is not None
    assert 0 < found.left_s <= 30
    server.client.pexpire(name(KEY), 1)
    await asyncio.sleep(0.01)
    assert await look(store, KEY) is None
    assert store.rejected == 0


async def test_an_answer_too_large_is_not_kept(server: RedisServer, store: RedisStore) -> None:
    await keep(store, KEY, answer("x" * (LARGEST + 1)))
    assert server.client.dbsize() == 0
    await keep(store, KEY, answer("x" * LARGEST))
    assert server.client.dbsize() == 1


POISON = {
    "another key": pack(KEYS[1], answer()),
    "another model": pack(KEY, answer(model="b")),
    "a cut": pack(KEY, answer("x" * 100))[:-1],
    "an early cut": pack(KEY, answer())[:20],
    "garbage": b"\x00\xff{}\n",
    "something huge": b"x" * (4 * LARGEST),
    "an answer with more behind it": pack(KEY, answer()) + b"x",
}


@pytest.mark.parametrize("poison", POISON.values(), ids=POISON)
async def test_poison_is_rejected_counted_and_deleted(
    server: RedisServer, store: RedisStore, poison: bytes
) -> None:
    server.client.set(name(KEY), poison, ex=TTL_S)

    assert await look(store, KEY) is None

    assert store.rejected == 1
    await store._settle()
    assert server.client.exists(name(KEY)) == 0
    await keep(store, KEY, answer("good"))
    assert await look(store, KEY) == answer("good")


@pytest.mark.parametrize("put", [["RPUSH", "x"], ["HSET", "x", "y"], ["SADD", "x"]])
async def test_another_type_is_poison_too(
    server: RedisServer, store: RedisStore, put: list[str]
) -> None:
    for key in KEYS[:5]:
        server.client.execute_command(put[0], name(key), *put[1:])

    assert [await look(store, key) for key in KEYS[:5]] == [None] * 5

    assert (store.rejected, store.errors, store.well) == (5, 0, True)
    await store._settle()
    assert server.client.dbsize() == 0


async def test_what_would_never_be_forgotten_is_not_ours(
    server: RedisServer, store: RedisStore
) -> None:
    server.client.set(name(KEY), pack(KEY, answer()))
    assert await look(store, KEY) is None
    assert store.rejected == 1


async def test_clearing(server: RedisServer, store: RedisStore) -> None:
    models = ["a", "a:b", "a*", "ab", "[a]", "a\\", "a?"]
    for model in models:
        for key in KEYS[:3]:
            store.put(key, answer(model=model))
    await store._settle()
    server.client.set("somebody else's", "x")

    for model in models:
        assert await store.clear(model) == 3, model
        assert await look(store, KEY, model=model) is None
    for key in KEYS:
        store.put(key, answer())
    assert await store.clear() == len(KEYS), "those under way count"
    assert server.client.keys() == [b"somebody else's"]


async def test_clearing_thousands(server: RedisServer, store: RedisStore) -> None:
    with server.client.pipeline(transaction=False) as pipe:
        for number in range(5000):
            pipe.set(name(number.to_bytes(32, "big")), "x")
        pipe.execute()
    assert await store.clear("a") == 5000


async def test_a_stopped_redis(server: RedisServer, store: RedisStore, clock: Clock) -> None:
    await keep(store, KEY, answer())
    assert await look(store, KEY)
    server.stop()
    try:
        with structlog.testing.capture_logs() as logs:
            assert [await look(store, key) for key in KEYS] == [None] * len(KEYS)
            for key in KEYS:
                await keep(store, key, answer())
            with pytest.raises(ServiceError, match="Redis did not forget"):
                await store.clear()
        # Three reads and three writes, then nobody is let through.
        assert (store.errors, store.read_errors, store.write_errors) == (6, 3, 3)
        assert [line["event"] for line in logs] == ["cache_off"] * 2
    finally:
        server.start()
    await recovered(store, clock)
    await keep(store, KEY, answer("new"))
    assert await look(store, KEY) == answer("new")


async def test_a_frozen_redis(server: RedisServer, store: RedisStore, clock: Clock) -> None:
    await keep(store, KEY, answer())
    server.freeze()
    try:
        assert [await look(store, KEY) for _ in range(3)] == [None] * 3
        assert (store.errors, store.well) == (3, False)
        began = time.monotonic()
        assert [await store.get([KEY], "a") for _ in range(1000)] == [None] * 1000
        assert time.monotonic() - began < 0.5 + ROOM_S
        assert store.errors == 3
    finally:
        server.thaw()
    await recovered(store, clock)
    assert await look(store, KEY) == answer()


async def test_nothing_is_left_of_what_a_frozen_redis_did_not_take(server: RedisServer) -> None:
    this = psutil.Process()
    server.freeze()
    try:
        before = this.num_fds()
        async with opened(server.url) as store:
            for key in KEYS:
                store.put(key, answer("x" * 1_000_000))
            reads = [asyncio.create_task(store.get([key], "a")) for key in KEYS]
            assert await asyncio.gather(*reads) == [None] * len(KEYS)
            async with asyncio.timeout(PATIENCE_S):
                while store._pending:
                    await store._settle()
            await asyncio.sleep(0.01)  # the loop closes sockets a moment later
            assert this.num_fds() == before, "before it is closed"
            for key in KEYS:
                store.put(key, answer())
    finally:
        server.thaw()


async def test_a_full_redis(server: RedisServer, store: RedisStore, clock: Clock) -> None:
    await keep(store, KEY, answer())
    server.limit(1)
    try:
        for key in KEYS:
            await keep(store, key, answer())
            assert await look(store, KEY) == answer(), "it still answers"
        assert (store.errors, store.well) == (3, False)
    finally:
        server.limit(0)
    await recovered(store, clock)


async def test_a_flushed_redis(server: RedisServer, store: RedisStore) -> None:
    await keep(store, KEY, answer())
    server.client.flushall()
    assert await look(store, KEY) is None
    assert (store.errors, store.rejected, store.well) == (0, 0, True)


@pytest.mark.parametrize("fault", ["freeze", "truncate", "garble"])
async def test_a_broken_line(server: RedisServer, clock: Clock, fault: Fault) -> None:
    async with behind_proxy(server, clock) as (proxy, store):
        await keep(store, KEY, answer())
        assert await look(store, KEY) == answer()
        proxy.fault = fault
        assert [await look(store, KEY) for _ in range(6)] == [None] * 6
        assert (store.errors, store.well) == (3, False)
        proxy.fault = "none"
        await recovered(store, clock)
        assert await look(store, KEY) == answer()


async def test_more_readers_than_turns(server: RedisServer, store: RedisStore) -> None:
    for key in KEYS:
        await keep(store, key, answer(key.hex()))
    reads = [store.get([key], "a") for _ in range(50) for key in KEYS]
    found = await asyncio.gather(*reads)

    assert [f.answer for f in found if f] == [answer(f.key.hex()) for f in found if f]
    assert any(found)
    assert server.client.info("clients")["connected_clients"] <= 20


@pytest.mark.slow
async def test_no_reader_gets_what_another_asked_for(server: RedisServer, clock: Clock) -> None:
    """20,000 reads, half of them cancelled, behind a proxy that delays answers."""
    async with behind_proxy(server, clock) as (proxy, store):
        for key in KEYS:
            await keep(store, key, answer(key.hex()))
        proxy.delay_s = 0.004
        right = cancelled = 0

        async def read(number: int) -> None:
            nonlocal right
            key = KEYS[number % len(KEYS)]
            clock.ahead += RETRY_S  # every one is let through
            found = await store.get([key], "a")
            if found is not None:
                assert (found.key, found.answer) == (key, answer(key.hex()))
                right += 1

        async def half_cancelled(first: int) -> None:
            nonlocal cancelled
            for number in range(first, 20_000, 16):
                task = asyncio.create_task(read(number))
                if number // 16 % 2:
                    await asyncio.sleep(0.0005 * (number % 7))
                    cancelled += task.cancel()
                done, _ = await asyncio.wait({task})
                assert task.cancelled() or task.exception() is None, done

        await asyncio.gather(*(half_cancelled(n) for n in range(16)))

        assert store.rejected == 0, "no value came to another key's reader"
        assert right > 1000
        assert cancelled > 5000
        pool = store._redis.connection_pool
        assert len(pool._in_use_connections) == 0
        assert proxy.connections <= 2 * 8 + 8


async def test_the_documented_rights_are_enough(server: RedisServer) -> None:
    page = (REPOSITORY / "docs/explanation/cache.md").read_text()
    (line,) = re.findall(r"^user gateway (.+)$", page, re.MULTILINE)
    server.client.execute_command("ACL SETUSER", "gateway", *line.split())
    server.client.acl_log_reset()
    async with opened(f"unix://gateway:PASSWORD@{server.path}?db=1") as store:
        await keep(store, KEY, answer())
        assert await look(store, KEY) == answer()
        with redis.Redis(unix_socket_path=str(server.path), db=1) as other:
            other.set(name(KEY), "poison", ex=TTL_S)
        assert await look(store, KEY) is None
        await keep(store, KEY, answer())
        assert await store.clear("a") == 1
        assert (store.errors, store.rejected) == (0, 1)
    assert server.client.acl_log() == []


async def test_a_password_is_in_no_log(server: RedisServer) -> None:
    with structlog.testing.capture_logs() as logs:
        async with opened(f"unix://:hunter2@{server.path}") as store:
            for key in KEYS:
                await keep(store, key, answer())
                await look(store, key)
            with pytest.raises(ServiceError) as raised:
                await store.clear()
    assert logs
    assert "hunter2" not in f"{logs} {raised.value.text}"
