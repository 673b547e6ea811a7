"""What is sent beside the body; the rest of asking is in the tests of the client."""

from __future__ import annotations

import pytest

from llm_backend import LLMClient

from .server import Server

pytestmark = pytest.mark.anyio


async def test_headers_of_the_caller_go_beside_the_clients_own(server: Server) -> None:
    client, extra = LLMClient(server.url, "my-key"), {"x-request-id": "mine"}

    await client.chat("Hi", extra_headers=extra)
    await client.generate("Hi", extra_headers=extra)
    async for _ in client.stream("Hi", extra_headers=extra):
        pass
    async for _ in client.events("Hi", extra_headers=extra):
        pass

    for seen in server.seen:
        assert seen.headers["x-request-id"] == "mine"
        assert seen.headers["authorization"] == "Bearer my-key"
        assert seen.headers["content-type"] == "application/json"
        assert "extra_headers" not in seen.json()
    assert len(server.seen) == 4


@pytest.mark.feature("tool calls")
async def test_tools_are_passed_on_as_they_are(server: Server, client: LLMClient) -> None:
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {}}}]
    answer = await client.chat("Hi", tools=tools, tool_choice="auto")
    assert server.seen[0].json()["tools"] == tools
    assert answer.tool_calls == ()
