"""Streams as typed events."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llm_backend import ConnectionFailed, LLMClient, StructuredOutputInvalid
from llm_backend.client import (
    DoneEvent,
    ReasoningEvent,
    StreamEvent,
    TextEvent,
    ToolCall,
    ToolCallEvent,
    UsageEvent,
    WaitEvent,
)

from .server import Reply, Server, chunk, events

CHAT = "POST /v1/chat/completions"
DONE = "data: [DONE]"

pytestmark = [pytest.mark.anyio, pytest.mark.feature("stream as typed events")]


def delta(finish: str | None = None, **fields: Any) -> str:
    """Return the line of a chunk with this delta."""
    choice = {"index": 0, "delta": fields, "finish_reason": finish}
    return f"data: {json.dumps({'choices': [choice]})}"


def call(index: int, arguments: str, name: str | None = None, id: str | None = None) -> str:  # noqa: A002  # as the API has it
    function = {"arguments": arguments} | ({"name": name} if name else {})
    part = {"index": index, "function": function} | ({"id": id} if id else {})
    return delta(tool_calls=[part])


async def all_of(server: Server, client: LLMClient, answer: Reply) -> list[StreamEvent]:
    server.script(CHAT, answer)
    return [event async for event in client.events("Hi", "tiny", tools=[])]


async def test_waits_thoughts_text_usage_and_the_end(server: Server, client: LLMClient) -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    got = await all_of(
        server,
        client,
        events(
            ": loading tiny, about 4 s left",
            delta(role="assistant", content=None),
            delta(reasoning_content="Hm"),
            delta(reasoning="m."),
            ": too late to be told",
            delta(content="Да"),
            delta(content="."),
            delta("stop"),
            f"data: {json.dumps({'choices': [], 'usage': usage})}",
            DONE,
        ),
    )

    *begun, done = got
    assert [type(event) for event in begun] == [
        WaitEvent,
        *[ReasoningEvent] * 2,
        *[TextEvent] * 2,
        UsageEvent,
    ]
    assert begun[:5] == [
        WaitEvent("loading tiny, about 4 s left"),
        ReasoningEvent("Hm"),
        ReasoningEvent("m."),
        TextEvent("Да"),
        TextEvent("."),
    ]
    assert isinstance(begun[5], UsageEvent)
    assert begun[5].usage.total_tokens == 5
    assert isinstance(done, DoneEvent)
    assert (done.finish_reason, done.message.content) == ("stop", "Да.")
    assert done.message.reasoning == "Hmm."
    assert server.seen[0].json()["stream_options"] == {"include_usage": True}


@pytest.mark.feature("tool calls")
async def test_tool_calls_are_put_together(server: Server, client: LLMClient) -> None:
    got = await all_of(
        server,
        client,
        events(
            call(0, "", "weather", "call-1"),
            call(0, '{"city": "Пс'),
            call(1, '{"zone"', "clock", "call-2"),
            call(0, 'ков"}'),
            call(1, ': "UTC"}'),
            delta("tool_calls"),
            DONE,
        ),
    )

    first, second, done = got
    assert isinstance(first, ToolCallEvent)
    assert isinstance(second, ToolCallEvent)
    assert (first.call.id, first.call.name) == ("call-1", "weather")
    assert first.call.arguments == {"city": "Псков"}
    assert (second.call.name, second.call.arguments) == ("clock", {"zone": "UTC"})
    assert second.call.result("12:00") == {
        "role": "tool",
        "tool_call_id": "call-2",
        "content": "12:00",
    }
    assert isinstance(done, DoneEvent)
    assert done.message.to_dict() == {
        "role": "assistant",
        "content": None,
        "tool_calls": [first.call.to_dict(), second.call.to_dict()],
    }


@pytest.mark.feature("tool calls")
async def test_whole_calls_that_are_all_numbered_alike_are_told_apart(
    server: Server, client: LLMClient
) -> None:
    first, second, _ = await all_of(
        server,
        client,
        events(call(0, "{}", "a", "1"), call(0, "{}", "b", "2"), delta("tool_calls"), DONE),
    )
    assert isinstance(first, ToolCallEvent)
    assert isinstance(second, ToolCallEvent)
    assert (first.call.name, second.call.name) == ("a", "b")


@pytest.mark.feature("tool calls")
@pytest.mark.parametrize("arguments", ['{"city": "Пс', "[1]", "nothing"])
def test_arguments_that_are_no_object_say_so(arguments: str) -> None:
    broken = ToolCall({"function": {"name": "weather", "arguments": arguments}})
    with pytest.raises(StructuredOutputInvalid, match="arguments of 'weather'") as raised:
        _ = broken.arguments
    assert raised.value.answer == arguments


@pytest.mark.feature("tool calls")
def test_no_arguments_are_an_empty_object() -> None:
    assert ToolCall({"function": {"name": "now"}}).arguments == {}


async def test_other_choices_are_left_out(server: Server, client: LLMClient) -> None:
    other = {"choices": [{"index": 1, "delta": {"content": "B"}, "finish_reason": "stop"}]}
    got = await all_of(server, client, events(chunk("A"), f"data: {json.dumps(other)}", DONE))
    assert got[0] == TextEvent("A")
    assert isinstance(got[1], DoneEvent)
    assert got[1].message.content == "A"


async def test_a_broken_stream_has_no_last_event(server: Server, client: LLMClient) -> None:
    server.script(CHAT, events(chunk("A")))
    stream = client.events("Hi")
    assert await anext(stream) == TextEvent("A")
    with pytest.raises(ConnectionFailed, match=r"without \[DONE\]"):
        await anext(stream)


async def test_it_can_be_left(server: Server, client: LLMClient) -> None:
    server.script(CHAT, events(chunk("A"), after="silence"))
    async with client.events("Hi") as stream:
        await anext(stream)
    assert server.left.wait(10)
