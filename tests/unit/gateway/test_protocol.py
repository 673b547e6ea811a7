"""What one connection may do to the server, over real sockets."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest

from llm_backend.gateway.exchange import CONNECTION
from llm_backend.gateway.protocol import PIPELINED, BoundedProtocol, bounded_protocol
from tests.unit.gateway.serving import (
    CHUNKED,
    GET,
    HEAD_BYTES,
    PATIENCE_S,
    POST,
    Rig,
    hasty,
    served,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with hasty() as rig:
        yield rig


def test_the_bounds_are_those_that_are_given() -> None:
    protocol = bounded_protocol(1, 2, 3)
    assert (protocol.head_bytes, protocol.head_s, protocol.body_s) == (1, 2, 3)
    assert BoundedProtocol.head_bytes == 32 * 1024


async def test_refusals_are_told_of() -> None:
    told: list[str] = []
    async with served(bounded_protocol(1000, 0.5, 0.5, told.append)) as rig, rig.client() as client:
        await client.send(b"GET / HTTP/1.1\r\nx: " + b"x" * 2000)
        assert (await client.ended()).startswith(b"HTTP/1.1 431 ")
    assert told == ["headers_too_large"]


# Slow and endless senders


@pytest.mark.parametrize("sent", [b"", b"G", b"\r\n\r\n", b"GET / HTTP/1.1\r\nhost: x\r\n"])
async def test_half_a_head_is_not_waited_for(rig: Rig, sent: bytes) -> None:
    async with rig.client() as client:
        await client.send(sent)
        assert (await client.ended()).startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("sent", [b"\r\n", b"G"])
async def test_nor_is_it_behind_a_request(rig: Rig, sent: bytes) -> None:
    async with rig.client() as client:
        await client.send(GET % b"one")
        assert await client.answer() == (200, b"one")
        await client.send(sent)
        assert (await client.ended()).startswith(b"HTTP/1.1 408 ")


async def test_a_connection_rests_longer_than_a_head_may_take(rig: Rig) -> None:
    async with rig.client() as client:
        for name in (b"one", b"two"):
            await client.send(GET % name)
            assert await client.answer() == (200, name)
            await asyncio.sleep(0.7)


async def test_half_a_body_is_not_waited_for(rig: Rig) -> None:
    async with rig.client() as client:
        await client.send(POST + b"half")
        assert (await client.ended()).startswith(b"HTTP/1.1 408 ")
    async with asyncio.timeout(PATIENCE_S):
        await rig.app.left.acquire()


async def test_no_second_answer_follows_one_that_did_not_need_the_body(rig: Rig) -> None:
    async with rig.client() as client:
        await client.send(POST.replace(b"/body", b"/early") + b"half")
        assert await client.answer() == (200, b"early")
        assert await client.ended() == b""


@pytest.mark.parametrize(
    "start",
    [
        b"GET / HTTP/1.1\r\nx: ",
        b"GET /" + b"a" * 100,
        b"\r\n",
        CHUNKED + b"5;",
        CHUNKED + b"1\r\nx\r\n0\r\nx: ",
        CHUNKED + b"1\r\nx\r\n0\r\n" + b"x: 1\r\n" * 100,
    ],
)
async def test_what_never_ends_is_ended(rig: Rig, start: bytes) -> None:
    filler = b"\r\n" if start == b"\r\n" else b"x: 1\r\n" if start.endswith(b"1\r\n") else b"a"
    async with rig.client() as client:
        await client.send(start)
        await asyncio.sleep(0.05)  # what comes with a body in one piece is not counted
        await client.send(filler * (HEAD_BYTES * 2 // len(filler)))
        assert (await client.ended()).startswith(b"HTTP/1.1 431 ")


async def test_a_long_body_is_no_long_head(rig: Rig) -> None:
    async with rig.client() as client:
        await client.send(CHUNKED)
        for _ in range(HEAD_BYTES // 4):
            await client.send(b"8\r\n12345678\r\n")
        await client.send(b"0\r\n\r\n" + GET % b"next")
        assert (await client.answer())[1] == b"body" + b"12345678" * (HEAD_BYTES // 4)
        assert await client.answer() == (200, b"next")


async def test_trailers_are_dropped(rig: Rig) -> None:
    async with rig.client() as client:
        await client.send(CHUNKED + b"1\r\nx\r\n0\r\nhost: y\r\nx-api-key: z\r\n\r\n")
        assert await client.answer() == (200, b"bodyx")
    names = [name for name, _ in rig.app.scopes[0]["headers"]]
    assert names == [b"host", b"transfer-encoding"]


# Further requests on the same connection


@pytest.mark.parametrize(
    "bad",
    [
        b"\0\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nhost: x\r\n\r\n",
        b"G",
        b"GET / HTTP/1.1\r\nx:" + b"a" * 9000,
    ],
)
async def test_a_bad_request_behind_a_good_one_takes_nothing_from_it(rig: Rig, bad: bytes) -> None:
    async with rig.client() as client:
        await client.send(GET % b"wait")
        await rig.app.begun.acquire()
        await client.send(bad)
        await asyncio.sleep(0.7)
        rig.app.go.set()
        assert await client.answer() == (200, b"wait")
        assert await client.ended() == b""


async def test_requests_sent_at_once_are_answered_in_their_order(rig: Rig) -> None:
    names = [b"%d" % number for number in range(3 * PIPELINED)]
    async with rig.client() as client:
        await client.send(b"".join(GET % name for name in names))
        assert [await client.answer() for _ in names] == [(200, name) for name in names]


async def test_the_words_for_a_bad_request_come_after_the_answers_before(rig: Rig) -> None:
    async with rig.client() as client:
        await client.send(GET % b"one")
        assert await client.answer() == (200, b"one")
        await client.send(b"GET / HTTP/9.9\r\n\r\n")
        assert (await client.ended()).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("behind", [b"", GET % b"next", GET % b"next" * 3, b"GET", POST + b"half"])
async def test_a_departure_is_told_whatever_was_sent_behind(rig: Rig, behind: bytes) -> None:
    async with rig.client() as client:
        await client.send(GET % b"wait" + behind)
        await rig.app.begun.acquire()
    async with asyncio.timeout(PATIENCE_S):
        await rig.app.left.acquire()
    assert len(rig.app.scopes) == 1


@pytest.mark.parametrize("protocol", [b"h2c", b"websocket", b"x"])
async def test_another_protocol_is_not_spoken_and_the_body_is_read(
    rig: Rig, protocol: bytes
) -> None:
    upgrade = b"connection: upgrade, http2-settings\r\nupgrade: " + protocol + b"\r\nhost: x"
    for whole in (GET % b"body", POST + b"x" * 100, CHUNKED + b"1\r\nx\r\n0\r\n\r\n"):
        async with rig.client() as client:
            await client.send(whole.replace(b"host: x", upgrade) + GET % b"next")
            status, body = await client.answer()
            assert status == 200
            assert body.startswith(b"body" if whole.startswith(b"GET") else b"bodyx")
            assert await client.answer() == (200, b"next")


async def test_an_offer_in_two_pieces_ends_the_connection(rig: Rig) -> None:
    async with rig.client() as client:
        await client.send(b"GET /one HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nup")
        await asyncio.sleep(0.05)
        await client.send(b"grade: x\r\n\r\n" + GET % b"next")
        assert await client.answer() == (200, b"one")
        assert await client.ended() == b""


async def test_a_departure_with_a_reset_is_told_too(rig: Rig) -> None:
    raw = socket.create_connection(("127.0.0.1", rig.port))
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    raw.sendall(GET % b"wait")
    await rig.app.begun.acquire()
    raw.close()
    async with asyncio.timeout(PATIENCE_S):
        await rig.app.left.acquire()


async def test_one_that_leaves_between_two_requests_leaves_nothing(rig: Rig) -> None:
    async with rig.client() as client:
        await client.send(GET % b"one")
        await client.answer()
        (protocol,) = rig.server.server_state.connections
    await rig.quiet()
    assert protocol.timeout_keep_alive_task is None
    assert protocol._clock is None


# Slow readers


class Impatient(BoundedProtocol):
    reader_s = 0.5


async def test_who_does_not_read_is_left() -> None:
    async with served(Impatient) as rig, rig.client(limit=1024) as client:
        await client.send(GET % b"flood")
        async with asyncio.timeout(PATIENCE_S):
            await rig.app.left.acquire()
        await rig.quiet()


async def test_who_reads_slowly_is_not() -> None:
    async with served(Impatient) as rig, rig.client() as client:
        await client.send(GET % b"flood")
        for _ in range(20):
            got = 0
            while got < 10**6:
                got += len(await client.reader.read(65536))
            await asyncio.sleep(0.05)
        assert rig.app.left.locked()


async def test_the_application_finds_the_connection(rig: Rig) -> None:
    async with rig.client() as client:
        await client.send(GET % b"one")
        await client.answer()
        (protocol,) = rig.server.server_state.connections
        assert rig.app.scopes[0]["extensions"][CONNECTION] is protocol
