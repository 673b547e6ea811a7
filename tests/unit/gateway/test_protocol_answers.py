"""Answers that are sent in one piece, over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from llm_backend.gateway.protocol import PIPELINED, bounded_protocol
from tests.unit.gateway.serving import (
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


async def test_half_a_head_in_one_piece_with_a_request_is_not_waited_for(rig: Rig) -> None:
    async with rig.client() as client:
        await client.send(GET % b"one" + b"GET /two HT")
        assert await client.answer() == (200, b"one")
        assert (await client.ended()).startswith(b"HTTP/1.1 408 ")


async def test_head_has_no_body(rig: Rig) -> None:
    async with rig.client() as client:
        await client.send(b"HEAD /one HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        told = await client.ended()
    assert b"content-length: 3\r\n" in told
    assert told.endswith(b"\r\n\r\n")


async def test_a_body_is_asked_for_first_and_then_answered(rig: Rig) -> None:
    async with rig.client() as client:
        head = POST.replace(b"content-length: 100", b"content-length: 4\r\nexpect: 100-continue")
        await client.send(head)
        async with asyncio.timeout(PATIENCE_S):
            assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send(b"text")
        assert await client.answer() == (200, b"bodytext")


async def test_older_clients_are_hung_up_on(rig: Rig) -> None:
    async with rig.client() as client:
        await client.send(b"GET /one HTTP/1.0\r\nhost: x\r\n\r\n")
        told = await client.ended()
    assert told.endswith(b"\r\nconnection: close\r\n\r\none")


async def test_answers_wait_for_whoever_does_not_read_the_ones_before() -> None:
    """Else each request that is sent without reading would cost another answer of memory."""
    size, count = 900_000, PIPELINED
    head = POST.replace(b"content-length: 100", b"content-length: %d" % size)
    async with served(bounded_protocol(HEAD_BYTES, 5, 5)) as rig, rig.client() as client:
        sending = asyncio.create_task(client.send((head + b"x" * size) * count))
        async with asyncio.timeout(PATIENCE_S):
            while not (found := rig.server.server_state.connections):  # noqa: ASYNC110  # nobody tells
                await asyncio.sleep(0.005)
            (connection,) = found
            while not connection.flow.write_paused:  # noqa: ASYNC110  # nobody tells
                await asyncio.sleep(0.005)
        for _ in range(1000):
            await asyncio.sleep(0)
            assert connection.transport.get_write_buffer_size() < 2 * size
        for _ in range(count):
            status, text = await client.answer()
            assert (status, len(text)) == (200, len(b"body") + size)
        await sending


async def test_a_body_is_held_once_while_its_answer_is_awaited(rig: Rig) -> None:
    async with rig.client() as client:
        await client.send(POST.replace(b"/body", b"/hold") + b"x" * 100)
        async with asyncio.timeout(PATIENCE_S):
            await rig.app.begun.acquire()
        (connection,) = rig.server.server_state.connections
        assert len(connection.cycle.body) == 0
        rig.app.go.set()
        assert await client.answer() == (200, b"hold" + b"x" * 100)
