"""Clients that send what they should not: refused, each alone, while good ones are served."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager

import orjson
import psutil
import pytest

from tests.harness import PATIENCE_S, GatewayHome
from tests.integration.bare import Answer, Talk, talk
from tests.integration.gateways import CHAT, at_rest, recorder, shared_gateway
from tests.integration.hostile import (
    BODIES,
    FIELDS,
    FRAMING,
    LINES,
    LOAD,
    json_post,
    wrong_bodies,
)

pytestmark = [pytest.mark.engine, pytest.mark.anyio, pytest.mark.feature("hostile clients")]

HEAD_S, BODY_S, ROOM_S = 2, 2, 8
MIB = 1024 * 1024


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayHome]:
    limits = {"head_s": HEAD_S, "slow_client_s": BODY_S}
    with shared_gateway(tmp_path_factory, {"echo": recorder()}, limits=limits) as home:
        assert home.load("echo").status_code == 200
        yield home
        at_rest(home)
        assert home.state("echo") == "awake"


def good(number: int, *fields: str) -> bytes:
    """A request that nobody else sends."""
    body = orjson.dumps({"model": "echo", "number": number})
    return json_post(body, CHAT, f"x-request-id: good-{number}", *fields)


def is_for(answer: Answer, number: int) -> bool:
    if answer.status != 200 or answer.headers["x-request-id"] != f"good-{number}":
        return False
    seen = orjson.loads(answer.body)["headers"]
    return bool(seen["x-request-id"] == f"good-{number}")


@asynccontextmanager
async def good_traffic(home: GatewayHome) -> AsyncIterator[None]:
    """Send good requests meanwhile, some on one connection; each gets its own answer."""
    over = asyncio.Event()
    numbers = itertools.count(10**6)

    async def one_by_one() -> int:
        async with talk(home) as connection:
            for served in itertools.count():
                number = next(numbers)
                await connection.send(good(number))
                async with asyncio.timeout(PATIENCE_S):
                    assert is_for(await connection.answer(), number)
                if over.is_set():
                    return served
        raise AssertionError

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one_by_one()) for _ in range(2)]
        yield
        over.set()
    assert sum(task.result() for task in tasks) > 0


async def tried(home: GatewayHome, hostile: bytes, number: int) -> str | None:
    """Send something hostile and a good request behind it; return what went wrong.

    Either the connection is ended with at most a refusal, or the good one gets its own answer.
    """
    async with talk(home) as connection:
        await connection.send(hostile + good(number, "connection: close"))
        try:
            answers = await connection.answers(HEAD_S + BODY_S + ROOM_S)
        except TimeoutError:
            return "neither answered nor ended"
    if any(answer.status >= 500 for answer in answers):
        return f"{[answer.status for answer in answers]}"
    if answers and is_for(answers[-1], number):
        answers.pop()
    served = [answer for answer in answers if answer.body.startswith(b'{"path"')]
    if served:
        return f"the engine was asked for {served[0].body[:300]!r}"
    return None if len(answers) <= 2 else f"{len(answers)} answers"


async def failures(home: GatewayHome, requests: Mapping[str, bytes]) -> dict[str, str]:
    """Send each on a connection of its own, a few at a time, beside good traffic."""
    numbers, few = itertools.count(), asyncio.Semaphore(16)

    async def one(request: bytes) -> str | None:
        async with few:
            return await tried(home, request, next(numbers))

    async with good_traffic(home), asyncio.TaskGroup() as group:
        tasks = {name: group.create_task(one(sent)) for name, sent in requests.items()}
    return {name: wrong for name, task in tasks.items() if (wrong := task.result())}


@pytest.mark.parametrize("kind", [FRAMING, LINES, FIELDS], ids=["framing", "lines", "fields"])
async def test_what_is_no_proper_request(home: GatewayHome, kind: dict[str, bytes]) -> None:
    assert await failures(home, kind) == {}


@pytest.mark.parametrize("path", [CHAT, "/v1/messages", "/v1/embeddings", LOAD])
async def test_bodies_that_are_no_json(home: GatewayHome, path: str) -> None:
    admin = [f"{n}: {v}" for n, v in home.admin.items()]
    requests = {name: json_post(body, path, *admin) for name, body in BODIES.items()}

    assert await failures(home, requests) == {}


async def test_bodies_that_are_json_and_wrong(home: GatewayHome) -> None:
    visits = 0

    async def visited(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal visits
        visits += 1
        writer.close()

    async with await asyncio.start_server(visited, "127.0.0.1", 0) as trap:
        port = trap.sockets[0].getsockname()[1]
        requests = {name: json_post(body) for name, body in wrong_bodies(port)}
        assert await failures(home, requests) == {}
    assert visits == 0


async def test_half_heads_are_closed_and_hinder_nobody(home: GatewayHome) -> None:
    async def half_head() -> int:
        async with talk(home) as connection:
            await connection.send(b"POST / HTTP/1.1\r\nhost: loc")
            (answer,) = await connection.answers(HEAD_S + BODY_S + ROOM_S)
            return answer.status

    began = time.monotonic()
    async with good_traffic(home), asyncio.TaskGroup() as group:
        tasks = [group.create_task(half_head()) for _ in range(300)]
    assert {task.result() for task in tasks} == {408}
    assert time.monotonic() - began < HEAD_S + ROOM_S


@pytest.mark.parametrize(
    "start", [b"POST / HTTP/1.1\r\nhost: localhost\r\nx: ", json_post(b"x" * 9)[:-9]]
)
async def test_drops_keep_no_connection_open(home: GatewayHome, start: bytes) -> None:
    """A byte now and then, as slow as it likes, does not move the deadline."""

    async def drip(connection: Talk) -> None:
        await connection.send(start)
        while not connection.writer.is_closing():
            await connection.send(b"x")
            await asyncio.sleep(0.4)

    began = time.monotonic()
    async with talk(home) as connection:
        dripping = asyncio.create_task(drip(connection))
        statuses = [answer.status for answer in await connection.answers(HEAD_S + BODY_S + ROOM_S)]
        dripping.cancel()
    assert statuses in ([408], []), "a reset may overtake the answer"
    assert time.monotonic() - began < max(HEAD_S, BODY_S) + ROOM_S


async def test_requests_sent_at_once_are_answered_in_their_order(home: GatewayHome) -> None:
    async with talk(home) as connection:
        last = good(59, "connection: close")
        await connection.send(b"".join(good(number) for number in range(59)) + last)
        answers = await connection.answers(HEAD_S + BODY_S + ROOM_S)
    assert [is_for(answer, number) for number, answer in enumerate(answers)] == [True] * 60


@pytest.mark.parametrize(
    "hostile", [b"GARBAGE\r\n\r\n", b"GET / HTTP/1.1\r\nx", FRAMING["CL and TE"]]
)
async def test_a_good_request_keeps_its_answer_whatever_follows(
    home: GatewayHome, hostile: bytes
) -> None:
    async with talk(home) as connection:
        await connection.send(good(1) + hostile)
        answers = await connection.answers(HEAD_S + BODY_S + ROOM_S)
    assert is_for(answers[0], 1)
    assert all(answer.status in {400, 408} for answer in answers[1:])


async def test_long_bodies_are_held_once(home: GatewayHome) -> None:
    """Four bodies just over the limit, at once, beside good traffic."""
    assert home.process is not None
    gateway, peak = psutil.Process(home.process.pid), 0
    body = BODIES["33 MiB"]

    async def one() -> None:
        async with talk(home) as connection:
            await connection.send(json_post(body, CHAT, "connection: close"))
            statuses = [
                answer.status for answer in await connection.answers(HEAD_S + BODY_S + ROOM_S)
            ]
            assert statuses in ([413], []), "a reset may overtake the answer"

    before = gateway.memory_info().rss
    async with good_traffic(home), asyncio.TaskGroup() as group:
        tasks = [group.create_task(one()) for _ in range(4)]
        while not all(task.done() for task in tasks):
            peak = max(peak, gateway.memory_info().rss)
            await asyncio.sleep(0.05)
    assert peak - before < 4 * 2.5 * len(body)
