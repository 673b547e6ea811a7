"""Names that clients make up: 20,000 models, keys and paths leave no series and no memory."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import orjson
import psutil
import pytest

from llm_backend.gateway.endpoints import ENDPOINTS
from tests.harness import GatewayHome
from tests.integration.bare import talk
from tests.integration.gateways import (
    CHAT,
    MESSAGES,
    at_rest,
    fakes,
    key_of,
    key_setting,
    log_of,
    shared_gateway,
)

pytestmark = [pytest.mark.engine, pytest.mark.anyio]

FIRST, ALL = 2_000, 20_000
AT_ONCE, PIPELINED = 4, 16
MIB = 1024 * 1024
GROWTH_MIB = 3
LINE_BYTES = 512
"""Longest line of the log, however long the names in a request are."""

ROUTES = [*ENDPOINTS]
KNOWN = f"authorization: Bearer {key_of('alice')}"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayHome]:
    keys = [key_setting("alice", "infer")]
    with shared_gateway(tmp_path_factory, fakes(fake=""), keys=keys) as home:
        assert home.load("fake").status_code == 200
        yield home
        at_rest(home)


def invented(number: int) -> str:
    """A name that there was never before; some are long."""
    return f"invented-{number}" + "x" * (number % 50 * 20)


def request(method: str, path: str, *fields: str, body: object = None) -> bytes:
    content = b"" if body is None else orjson.dumps(body)
    fixed = ["host: localhost", "content-type: application/json", f"content-length: {len(content)}"]
    return "\r\n".join([f"{method} {path} HTTP/1.1", *fixed, *fields, "", ""]).encode() + content


def model(number: int) -> tuple[bytes, int]:
    """An invented model, on all inference routes in turn, and where models are looked at."""
    name = invented(number)
    if number % 10 == 0:
        return request("GET", f"/v1/models/{name}", KNOWN), 404
    body = {"model": name, "messages": MESSAGES, "stream": number % 2 == 0}
    return request("POST", ROUTES[number % len(ROUTES)], KNOWN, body=body), 404


def key(number: int) -> tuple[bytes, int]:
    """An invented key in either header, on an inference route and on a control route."""
    field = ("authorization: Bearer ", "x-api-key: ")[number % 2] + invented(number)
    if number % 8 < 2:
        return request("POST", "/api/v1/inference/load", field, body={"model": "fake"}), 401
    return request("POST", CHAT, field, body={"model": "fake", "messages": MESSAGES}), 401


def path(number: int) -> tuple[bytes, int]:
    """An invented path, or a known one with an invented query."""
    name = invented(number)
    if number % 5 == 0:
        return request("GET", f"/health/live?{name}={number}"), 200
    if number % 5 == 1:
        return request("POST", f"{CHAT}/{name}", KNOWN, body={"model": "fake"}), 404
    return request("GET", f"/{name}", f"x-request-id: {name[:64]}"), 404


@asynccontextmanager
async def good_traffic(home: GatewayHome) -> AsyncIterator[None]:
    """Ask for good answers meanwhile, on one connection, until the block is over."""
    over = asyncio.Event()

    async def ask() -> int:
        async with talk(home) as connection:
            for number in itertools.count():
                body = {"model": "fake", "messages": MESSAGES, "user": str(number)}
                await connection.send(request("POST", CHAT, KNOWN, body=body))
                answer = await connection.answer()
                assert answer.status == 200
                assert orjson.loads(answer.body)["model"] == "fake"
                if over.is_set():
                    return number
        raise AssertionError

    async with asyncio.TaskGroup() as group:
        asking = group.create_task(ask())
        yield
        over.set()
    assert asking.result() > 10


Kind = Callable[[int], tuple[bytes, int]]


async def send(home: GatewayHome, kind: Kind, numbers: range) -> None:
    """Send the requests of these numbers, some at once; each is answered as it should be."""

    async def some(numbers: range) -> None:
        async with talk(home) as connection:
            for start in range(0, len(numbers), PIPELINED):
                batch = [kind(number) for number in numbers[start : start + PIPELINED]]
                await connection.send(b"".join(data for data, _ in batch))
                answers = [await connection.answer() for _ in batch]
                assert [answer.status for answer in answers] == [status for _, status in batch]

    async with asyncio.TaskGroup() as group:
        for first in range(AT_ONCE):
            group.create_task(some(numbers[first::AT_ONCE]))


def series(home: GatewayHome) -> set[str]:
    """The names and labels of all time series."""
    lines = home.get("/metrics").text.splitlines()
    return {line.rpartition(" ")[0] for line in lines if not line.startswith("#")}


@pytest.mark.slow
@pytest.mark.parametrize("kind", [model, key, path])
async def test_they_leave_nothing(home: GatewayHome, kind: Kind) -> None:
    assert home.process is not None
    gateway = psutil.Process(home.process.pid)
    written = len(log_of(home).splitlines())
    async with good_traffic(home):
        await send(home, kind, range(FIRST))
        known, before = series(home), gateway.memory_info().rss
        await send(home, kind, range(FIRST, ALL))
        grown = gateway.memory_info().rss - before

    assert series(home) == known
    assert grown < GROWTH_MIB * MIB
    lines = log_of(home).splitlines()[written:]
    assert len([line for line in lines if orjson.loads(line).get("error")]) <= ALL
    assert max(map(len, lines)) < LINE_BYTES
    assert not any("invented" in line for line in lines)
