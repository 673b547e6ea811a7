"""Connections, redirects, proxies: what goes over the wire and what stays open."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from llm_backend import ConnectionFailed, InvalidRequest, LLMClient

from .server import Reply, Server, reply

pytestmark = pytest.mark.anyio

CHAT = "POST /v1/chat/completions"
MOVED = 308


async def test_alone_each_call_has_its_own_connection_and_leaves_none(
    server: Server, client: LLMClient
) -> None:
    await client.generate("Hi")
    await client.models()
    assert server.connections == 2
    assert server.seen[0].headers["connection"] == "keep-alive"
    gc.collect()  # An open connection would be a ResourceWarning, which is an error here.


async def test_inside_async_with_connections_are_used_again(
    server: Server, client: LLMClient
) -> None:
    async with client:
        await client.generate("Hi")
        await client.models()
        async with client:
            await client.health_check()
        await client.models()
    assert server.connections == 1
    await client.models()
    assert server.connections == 2


async def test_close_may_come_at_any_time_and_ends_nothing_for_good(
    server: Server, client: LLMClient
) -> None:
    await client.close()
    async with client:
        await client.models()
        await client.close()
        await client.models()
    await client.close()
    assert server.connections == 2


async def test_a_call_that_times_out_spoils_no_connection(server: Server) -> None:
    server.script(CHAT, Reply(200, after="silence"))
    client = LLMClient(server.url, timeout_s=0.3)
    async with client:
        with pytest.raises(ConnectionFailed):
            await client.chat("Hi")
        assert await client.generate("Hi") == "Two and two make four."


async def test_redirects_are_not_followed_and_the_key_stays_here(server: Server) -> None:
    with Server().running() as trap:
        target = f"{trap.url}/v1/chat/completions"
        server.script(CHAT, reply({}, MOVED, location=target))
        with pytest.raises(ConnectionFailed, match="Set base_url") as caught:
            await LLMClient(server.url, "secret").chat("Hi")
        assert target in str(caught.value)
        assert trap.connections == 0
    assert len(server.seen) == 1


async def test_a_proxy_of_the_environment_is_not_for_this_machine(
    server: Server, refused: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", refused)
    monkeypatch.setenv("http_proxy", refused)
    assert await LLMClient(server.url).generate("Hi") == "Two and two make four."


async def test_a_proxy_of_the_environment_is_for_other_machines(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", server.url)
    monkeypatch.setenv("http_proxy", server.url)
    server.script("GET http://gpu.example/v1/models", reply({"data": [{"id": "far"}]}))
    assert [model.id for model in await LLMClient("http://gpu.example").models()] == ["far"]


@pytest.mark.parametrize(("key", "sent"), [("k1", "Bearer k1"), (" k1\n", "Bearer k1"), ("", None)])
async def test_the_key_goes_along_as_a_bearer(server: Server, key: str, sent: str | None) -> None:
    await LLMClient(server.url, key).models()
    assert server.seen[0].headers.get("authorization") == sent


async def test_a_prefix_of_the_address_is_kept(server: Server) -> None:
    server.script("GET /llm/v1/models", reply({"data": []}))
    assert await LLMClient(f"{server.url}/llm/v1").models() == []


def test_nothing_is_left_behind_by_a_loop_that_ends_in_the_middle(server: Server) -> None:
    server.script(CHAT, Reply(200, after="silence"))
    client = LLMClient(server.url)

    async def leave() -> None:
        call = asyncio.create_task(client.chat("Hi"))
        assert await asyncio.to_thread(server.arrived.wait, 10)
        assert not call.done()

    asyncio.run(leave())
    gc.collect()
    assert server.left.wait(10)
    assert asyncio.run(client.generate("Hi")) == "Two and two make four."


@pytest.mark.parametrize("value", ["Ж", 5])
async def test_a_header_that_cannot_be_sent_is_refused(client: LLMClient, value: Any) -> None:
    with pytest.raises(InvalidRequest, match="extra_headers must be ASCII"):
        await client.generate("Hi", extra_headers={"x-tag": value})


async def test_a_header_with_a_line_break_is_refused(client: LLMClient, server: Server) -> None:
    with pytest.raises(InvalidRequest, match="x-tag has a line break or a zero byte"):
        await client.generate("Hi", extra_headers={"x-tag": "a\r\nx-other: b"})
    assert not server.connections
