"""Engines that misbehave on purpose: each failure is the right error, and nothing is left behind."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import AsyncIterator

import pytest

from llm_backend.errors import (
    EngineBroke,
    EngineGone,
    EngineTimeout,
    LLMBackendError,
    ShuttingDown,
)
from llm_backend.gateway.response import BUFFER_LIMIT
from llm_backend.gateway.upstream import Upstream
from tests.fault_server import ANSWER
from tests.unit.gateway.rig import LIMIT, LOOPS, PATIENCE_S, Rig

pytestmark = [pytest.mark.anyio, pytest.mark.feature("engines that misbehave")]


@pytest.fixture(scope="module", params=LOOPS.values(), ids=list(LOOPS))
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with Rig.up() as rig:
        yield rig


# What goes wrong before the headers.


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/bad-status", "Invalid status"),
        ("/odd-status", "status 999"),
        ("/not-http", "not valid HTTP"),
        ("/upgrade", "status 101"),
        ("/gzip", "Content-Encoding: gzip"),
        ("/gzip-transfer", "Transfer-Encoding: gzip"),
        ("/two-framings", "not valid HTTP"),
        ("/big-header", "and no body"),
        ("/bigger-header", "bytes"),
        ("/many-headers", "1002 headers"),
        ("/endless-header", "and no body"),
        ("/endless-interim", "and no body"),
    ],
)
async def test_what_is_no_proper_answer_is_refused(rig: Rig, path: str, message: str) -> None:
    async with rig.none_left():
        with pytest.raises(EngineBroke, match=message):
            await rig.ask(path)


@pytest.mark.parametrize("path", ["/cut-head", "/no-answer", "/reset-first"])
async def test_an_engine_that_leaves_without_an_answer_is_gone(rig: Rig, path: str) -> None:
    async with rig.none_left():
        with pytest.raises(EngineGone):
            await rig.ask(path)


@pytest.mark.parametrize("path", ["/silent", "/slow-head", "/never-read?ms=1000"])
async def test_headers_have_a_deadline(rig: Rig, path: str) -> None:
    with pytest.raises(EngineTimeout, match=r"within 0\.2 s"):
        await rig.ask(path, b"x" * 20_000_000, headers_timeout_s=0.2)

    assert rig.upstream.in_use == 0


async def test_an_answer_before_the_body_was_read_ends_the_sending(rig: Rig) -> None:
    async with rig.none_left():
        with await rig.ask("/early-answer", b"x" * 50_000_000) as response:
            assert response.status == 413
            assert await response.read(LIMIT) == b'{"error":"too large"}'


async def test_a_closed_port_is_an_engine_that_is_gone(rig: Rig) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        rig.server.port = unused.getsockname()[1]
        with pytest.raises(EngineGone, match="takes no connection"):
            await rig.ask("/ok")

    assert rig.upstream.open == 0


async def test_a_connection_has_a_deadline() -> None:
    async with Rig.up(Upstream(connect_timeout_s=0.1)) as rig:
        with socket.socket() as full:
            full.bind(("127.0.0.1", 0))
            full.listen(0)
            rig.server.port = full.getsockname()[1]
            message = r"no connection within 0\.1 s"
            with (
                socket.create_connection(full.getsockname()),
                pytest.raises(EngineTimeout, match=message),
            ):
                await rig.ask("/ok")

        assert rig.upstream.open == 0


# What goes wrong amid the body.


@pytest.mark.parametrize(
    ("path", "error", "message"),
    [
        ("/cut-chunk", EngineGone, "amid its answer"),
        ("/cut-length", EngineGone, "amid its answer"),
        ("/no-end", EngineGone, "amid its answer"),
        ("/reset-midway", EngineGone, "amid its answer"),
        ("/bad-chunk", EngineBroke, "chunk size"),
        ("/endless-trailer", EngineBroke, "and no body"),
        ("/endless-extension", EngineBroke, "and no body"),
        ("/endless-body", EngineBroke, "longer than 1048576 bytes"),
    ],
)
async def test_a_broken_body_is_an_error(
    rig: Rig,
    path: str,
    error: type[LLMBackendError],
    message: str,
) -> None:
    async with rig.none_left():
        with await rig.ask(path) as response, pytest.raises(error, match=message):
            await response.read(LIMIT)


async def test_what_came_before_the_break_is_handed_on(rig: Rig) -> None:
    whole = b"data: 1\n\ndata: 2"
    got = b""
    with await rig.ask("/cut-chunk") as response:
        while got != whole:
            got += await anext(response)
        with pytest.raises(EngineGone):
            await anext(response)


async def test_silence_amid_a_stream_has_a_deadline(rig: Rig) -> None:
    async with rig.none_left():
        response = await rig.ask("/silent-midway", idle_timeout_s=0.2)
        with response, pytest.raises(EngineTimeout, match=r"silent for 0\.2 s"):
            await response.read(LIMIT)


async def test_a_slow_stream_meets_no_deadline(rig: Rig) -> None:
    path = "/slow-stream?events=10&ms=100"

    with await rig.ask(path, idle_timeout_s=0.8) as response:
        assert (await response.read(LIMIT)).endswith(b"data: [DONE]\n\n")


async def test_a_reader_that_is_slow_is_not_an_engine_that_is_silent(rig: Rig) -> None:
    with await rig.ask("/endless-body", idle_timeout_s=0.2) as response:
        await asyncio.sleep(0.5)

        for _ in range(100):
            # One read of the socket may come on top.
            assert 0 < len(await anext(response)) <= 2 * BUFFER_LIMIT


# Ends from outside.


async def test_an_abort_raises_in_the_reader_and_tells_the_engine(rig: Rig) -> None:
    async with rig.none_left():
        with await rig.ask("/silent-midway") as response:
            await anext(response)
            asyncio.get_running_loop().call_soon(response.abort, ShuttingDown("lease revoked"))
            with pytest.raises(ShuttingDown, match="lease revoked"):
                await anext(response)


async def test_an_abort_drops_what_was_not_read(rig: Rig) -> None:
    response = await rig.ask("/ok")

    response.abort()

    with pytest.raises(EngineGone, match="was ended"):
        await response.read(LIMIT)


async def test_closing_early_tells_the_engine(rig: Rig) -> None:
    async with rig.none_left():
        with await rig.ask("/endless-body") as response:
            await anext(response)

    with pytest.raises(EngineGone, match="closed before its end"):
        async for _ in response:
            pass


async def test_cancelling_a_request_tells_the_engine(rig: Rig) -> None:
    async with rig.none_left():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await rig.get("/silent")
    assert rig.server.requests["silent"] == 1


async def test_closing_all_ends_what_is_read(rig: Rig) -> None:
    tasks = [asyncio.create_task(rig.get(path)) for path in ("/silent", "/silent-midway")]
    await rig.server.asked(2)

    await rig.upstream.close()

    for task in tasks:
        with pytest.raises(ShuttingDown):
            await task
    with pytest.raises(ShuttingDown):
        await rig.get("/ok")


STORM = (
    "/ok",
    "/stream?events=20",
    "/silent",
    "/silent-midway",
    "/slow-head",
    "/slow-stream",
    "/endless-body",
    "/stale",
    "/reset-midway",
    "/closes-idle",
    "/never-read?ms=100",
    "/garbage-after",
)


async def test_a_storm_of_cancellations_leaves_nothing_behind(rig: Rig) -> None:
    chance = random.Random(7)  # noqa: S311  # chance, not secrets

    async def cancelled_somewhere() -> None:
        body = b"x" * chance.choice((2, 2, 300_000))
        task = asyncio.create_task(rig.get(chance.choice(STORM), body))
        await asyncio.sleep(chance.choice((0, 0.001, 0.05)) * chance.random())
        task.cancel()
        if chance.random() < 0.5:
            for _ in range(chance.randrange(3)):
                await asyncio.sleep(0)
            task.cancel()
        await asyncio.wait([task], timeout=PATIENCE_S)
        assert task.done()
        if not task.cancelled() and (error := task.exception()):
            assert isinstance(error, LLMBackendError)

    for _ in range(10):
        async with asyncio.TaskGroup() as tasks:
            for _ in range(50):
                tasks.create_task(cancelled_somewhere())

    assert rig.upstream.in_use == 0
    for _ in range(50):
        assert await rig.get("/ok") == ANSWER
