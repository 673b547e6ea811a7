"""Clients that leave at any moment, thousands of them: what they held is given back, all of it.

The gateway runs on the event loop of the tests, so that everything in it can be counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import CoroutineType
from typing import Any

import orjson
import pytest

from llm_backend.config import load_catalog, load_settings
from llm_backend.gateway.edge import Edge
from llm_backend.gateway.protocol import bounded_protocol
from llm_backend.server import GatewayServer, _parts
from tests.harness import PATIENCE_S, GatewayHome, fake_model, gateway_home
from tests.integration.gateways import CHAT, MESSAGES, key_of, key_setting, post_bytes
from tests.unit.gateway.pictures import chat_body
from tests.unit.gateway.rig import LOOPS

pytestmark = [pytest.mark.engine, pytest.mark.anyio, pytest.mark.feature("clients that leave")]

DEPARTURES, AT_ONCE = 10_000, 100
PROMISED_S, ROOM_S = 1.0, 2.0
KEY = f"authorization: Bearer {key_of('alice')}"


@dataclass
class Inside:
    """A gateway on this event loop, and what is going on in it."""

    edge: Edge
    server: GatewayServer
    home: GatewayHome
    port: int
    tasks_at_rest: Counter[str] = field(default_factory=Counter)

    @property
    def stages(self) -> Any:
        return self.edge.app._pipeline._stages

    def counts(self) -> dict[str, object]:
        """Everything that a request holds."""
        entries = self.edge.switcher.entries.values()
        quotas = self.stages.quotas._allowances.values()
        return {
            "leases": sum(entry.leases for entry in entries),
            "waiting": sum(len(entry.waiting) for entry in entries),
            "sockets": self.stages.relay.upstream.open - self.stages.relay.upstream.idle,
            "flights": len(self.stages.flights),
            "quota": sum(allowance.running for allowance in quotas),
            "requests": len(self.server.server_state.tasks),
            "connections": len(self.server.server_state.connections),
            "tasks": tasks() - self.tasks_at_rest,
        }

    async def until(self, check: Callable[[], object], within_s: float = PATIENCE_S) -> None:
        async with asyncio.timeout(within_s):
            while not check():  # noqa: ASYNC110  # counts tell nobody
                await asyncio.sleep(0.005)

    async def at_rest(self, within_s: float = PATIENCE_S) -> None:
        with contextlib.suppress(TimeoutError):
            await self.until(lambda: not any(self.counts().values()), within_s)
        assert {name: count for name, count in self.counts().items() if count} == {}

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        async with asyncio.timeout(PATIENCE_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            yield Client(reader, writer)
        finally:
            writer.transport.abort()

    def task_of(self, client: Client) -> asyncio.Task[None] | None:
        """Return the task that works for a client now."""
        name = client.writer.get_extra_info("sockname")
        for task in self.server.server_state.tasks:
            frame = coroutine_of(task).cr_frame
            if frame is not None and frame.f_locals["self"].scope["client"] == name:
                return task
        return None

    def journal(self, event: str) -> int:
        """How often the engine wrote down that this happened to a request for an answer."""
        lines = self.home.journal("fake")
        return sum(line["event"] == event and line.get("path") == CHAT for line in lines)

    def engine_at_rest(self) -> bool:
        """Whether the engine is done with all that it was asked for, or knows who left."""
        return self.journal("request") == self.journal("done") + self.journal("gone")


def tasks() -> Counter[str]:
    """What runs now, by the names of the functions."""
    return Counter(coroutine_of(task).__qualname__ for task in asyncio.all_tasks())


def coroutine_of(task: asyncio.Task[Any]) -> CoroutineType[Any, Any, Any]:
    coroutine = task.get_coro()
    assert isinstance(coroutine, CoroutineType)
    return coroutine


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def status(self) -> int:
        async with asyncio.timeout(PATIENCE_S):
            return int((await self.reader.readuntil(b"\r\n\r\n")).split(b" ")[1])

    async def whole(self) -> bytes:
        async with asyncio.timeout(PATIENCE_S):
            return await self.reader.read()


class Server(GatewayServer):
    """A server that leaves the signals to those who run the tests: SIGTERM ends them, not it."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def running(home: GatewayHome) -> AsyncIterator[Inside]:
    settings = load_settings(home.root, {}, {})
    async with _parts(settings, load_catalog(settings.catalog)) as edge:
        await edge.switcher.open()
        await edge.switcher.switch("fake")
        listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        server = Server(edge, bounded_protocol(32 * 1024, 10, 10))
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        inside = Inside(edge, server, home, listener.getsockname()[1])
        await inside.until(lambda: server.started)
        await inside.until(lambda: tasks()["until_hung"])
        inside.tasks_at_rest = tasks()
        try:
            yield inside
        finally:
            server.should_exit = True
            await serving
        await edge.switcher.unload(["fake"])


@pytest.fixture(scope="module")
def anyio_backend() -> object:
    """The event loop that the product runs on."""
    return LOOPS["uvloop"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayHome]:
    root = tmp_path_factory.mktemp("gateway")
    with gateway_home(root) as home:
        flags = ("--tokens", "1000", "--token-delay-s", "0.01")
        home.configure(
            {"fake": fake_model(root, "fake", *flags, concurrency=40)},
            keys=[{**key_setting("alice", "infer"), "concurrency": 100_000}],
            images={"allowed_hosts": ["127.0.0.1:1"], "fetch_s": 30},
            limits={"queue": 10_000},
        )
        yield home


@pytest.fixture
async def gateway(home: GatewayHome) -> AsyncIterator[Inside]:
    async with running(home) as inside:
        yield inside
        await inside.at_rest()


def asked(path: str = CHAT, **fields: Any) -> bytes:
    body = orjson.dumps({"model": "fake", "messages": MESSAGES, **fields})
    return post_bytes(path, body, "host: localhost", "content-type: application/json", KEY)


def kept_alive(path: str = CHAT, **fields: Any) -> bytes:
    return asked(path, **fields).replace(b"connection: close\r\n", b"")


LONG: dict[str, Any] = {"max_tokens": 1000}


# One at a time, at each place on a request's way


@pytest.mark.parametrize("cut", [1, 40, 150, -1])
async def test_amid_head_or_body(gateway: Inside, cut: int) -> None:
    async with gateway.client() as client:
        client.writer.write(asked()[:cut])
        await gateway.until(lambda: gateway.counts()["connections"])


async def test_between_body_and_lease(gateway: Inside) -> None:
    """The body is whole, and the client gone, before the request looks for a lease."""
    before = gateway.journal("request")
    for reset in (False, True):
        async with gateway.client() as client:
            client.writer.write(asked(**LONG))
            client.writer.transport.abort() if reset else client.writer.write_eof()
    await gateway.at_rest(PROMISED_S + ROOM_S)
    await gateway.until(gateway.engine_at_rest)
    assert gateway.journal("request") - before <= 2


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("behind", ["nothing", "half a request", "a request"])
async def test_amid_the_answer(gateway: Inside, stream: bool, behind: str) -> None:
    asked, gone = gateway.journal("request"), gateway.journal("gone")
    further = {"nothing": b"", "half a request": b"POST"}
    async with gateway.client() as client:
        request = kept_alive(stream=stream, **LONG)
        client.writer.write(request + further.get(behind, request))
        await gateway.until(lambda: gateway.journal("request") == asked + 1)
        if stream:
            assert await client.status() == 200
    await gateway.at_rest(PROMISED_S + ROOM_S)
    await gateway.until(lambda: gateway.journal("gone") == gone + 1, PROMISED_S + ROOM_S)


async def test_in_line_for_an_equal_request(gateway: Inside) -> None:
    """Whoever leads leaves, the next one leads; whoever follows leaves, nobody minds."""
    equal = asked(temperature=0, seed=1, max_tokens=100)
    began = gateway.journal("request")
    async with gateway.client() as last, gateway.client() as another:
        async with gateway.client() as leader, gateway.client() as follower:
            leader.writer.write(equal)
            await gateway.until(lambda: gateway.journal("request") == began + 1)
            for client in (follower, last, another):
                client.writer.write(equal)
            await gateway.until(lambda: gateway.counts()["requests"] == 4)
            follower.writer.transport.abort()
            await gateway.until(lambda: gateway.counts()["requests"] == 3)
            leader.writer.transport.abort()
        assert [await client.status() for client in (last, another)] == [200, 200]
    await gateway.at_rest()
    await gateway.until(gateway.engine_at_rest)
    assert gateway.journal("request") - began == 2


async def test_while_a_picture_is_fetched(gateway: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    fetching, ended = asyncio.Event(), asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        fetching.set()
        await reader.readuntil(b"\r\n\r\n")
        await reader.read()
        ended.set()
        writer.close()

    async with await asyncio.start_server(silent, "127.0.0.1", 0) as host:
        here = f"127.0.0.1:{host.sockets[0].getsockname()[1]}"
        fetcher = gateway.stages.images._fetch
        monkeypatch.setattr(fetcher, "_allowed", frozenset({here}))
        async with gateway.client() as client:
            client.writer.write(asked(**chat_body(f"http://{here}/x.png")))
            await fetching.wait()
        async with asyncio.timeout(PROMISED_S + ROOM_S):
            await ended.wait()
        await gateway.at_rest()


async def test_behind_the_last_byte(gateway: Inside) -> None:
    for _ in range(20):
        async with gateway.client() as client:
            client.writer.write(asked(max_tokens=1))
            assert b'"choices"' in await client.whole()
    await gateway.at_rest()


async def test_a_connection_serves_the_next_request_behind_an_answer(gateway: Inside) -> None:
    gone = gateway.journal("gone")
    async with gateway.client() as client:
        for _ in range(3):
            client.writer.write(kept_alive(max_tokens=1, stream=True))
            assert await client.status() == 200
            async with asyncio.timeout(PATIENCE_S):
                await client.reader.readuntil(b"0\r\n\r\n")
        client.writer.write(kept_alive(stream=True, **LONG))
        assert await client.status() == 200
    await gateway.at_rest(PROMISED_S + ROOM_S)
    await gateway.until(lambda: gateway.journal("gone") == gone + 1)


async def test_while_the_gateway_stops(home: GatewayHome) -> None:
    async with running(home) as inside:
        async with inside.client() as leaves, inside.client() as stays:
            for client, tokens in ((leaves, 1000), (stays, 100)):
                client.writer.write(asked(stream=True, max_tokens=tokens))
                assert await client.status() == 200
            inside.server.should_exit = True
            leaves.writer.transport.abort()
            assert b"[DONE]" in await stays.whole()
        await inside.at_rest(PROMISED_S + ROOM_S)


# All at once


async def depart(gateway: Inside, number: int) -> None:
    """Ask for something and leave at some moment; of some, end the request from inside too."""
    chance = random.Random(number)  # noqa: S311  # chance, not secrets
    same: dict[str, Any] = {"temperature": 0, "seed": number % 50} if number % 3 == 0 else {}
    request = kept_alive(stream=number % 2 == 0, max_tokens=chance.randrange(1, 40), **same)
    async with gateway.client() as client:
        client.writer.write(request * chance.choice((1, 1, 1, 2)))
        moment = chance.random()
        if moment < 0.3:
            assert await client.status() == 200
        else:
            await asyncio.sleep(chance.choice((0, 0.001, 0.01, 0.1)) * moment)
        if number % 10 == 0:
            task = gateway.task_of(client)
            client.writer.transport.abort()
            for _ in range(chance.randrange(4)):
                await asyncio.sleep(0)
            if task is not None:
                task.cancel()


@pytest.mark.slow
async def test_ten_thousand_of_them(gateway: Inside) -> None:
    numbers = iter(range(DEPARTURES))

    async def some() -> None:
        for number in numbers:
            await depart(gateway, number)

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(some())
    await gateway.at_rest()
    await gateway.until(gateway.engine_at_rest)

    for number in range(50):
        async with gateway.client() as client:
            client.writer.write(asked(max_tokens=1, user=str(number)))
            assert await client.status() == 200
