"""Streams that end well, badly, early or never."""

from __future__ import annotations

import asyncio
import gc
import json

import pytest

from llm_backend import (
    ConnectionFailed,
    EngineBroke,
    EngineGone,
    EngineStartFailed,
    LLMBackendError,
    LLMClient,
)
from llm_backend.client import ChatStream, HTTPAnswer

from .server import Reply, Server, chunk, completion, events, reply

pytestmark = pytest.mark.anyio

CHAT = "POST /v1/chat/completions"
DONE = "data: [DONE]"


async def read(stream: ChatStream) -> list[str]:
    return [chunk.text async for chunk in stream]


async def failing(stream: ChatStream, kind: type[LLMBackendError]) -> tuple[str, LLMBackendError]:
    text = ""
    try:
        async for part in stream:
            text += part.text
    except LLMBackendError as error:
        assert type(error) is kind  # noqa: PT017  # pytest.raises takes one statement
        return text, error
    pytest.fail(f"the stream ended well after {text!r}")


async def test_chunks_come_with_their_text_and_as_json(server: Server, client: LLMClient) -> None:
    chunks = [chunk async for chunk in client.stream("Hi", model="tiny", seed=1)]
    assert "".join(chunk.text for chunk in chunks) == "Two and two make four."
    assert chunks[0]["choices"][0]["delta"]["content"] == chunks[0].choices[0].delta.content
    assert server.seen[0].json() == {
        "model": "tiny",
        "messages": [{"role": "user", "content": "Hi"}],
        "seed": 1,
        "stream": True,
    }


async def test_the_last_chunk_may_have_usage_and_no_choices(
    server: Server, client: LLMClient
) -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}
    last = f"data: {json.dumps({'choices': [], 'usage': usage})}"
    server.script(CHAT, events(chunk("Hi"), last, DONE))
    chunks = [chunk async for chunk in client.stream("Hi")]
    assert [chunk.text for chunk in chunks] == ["Hi", ""]
    assert chunks[1].usage is not None
    assert chunks[1].usage.total_tokens == 4


async def test_only_the_first_of_several_answers_is_the_text(
    server: Server, client: LLMClient
) -> None:
    choices = [{"index": i, "delta": {"content": str(i)}} for i in (1, 0)]
    server.script(CHAT, events(f"data: {json.dumps({'choices': choices})}", DONE))
    assert await read(client.stream("Hi", n=2)) == ["0"]


async def test_what_a_request_waits_for_is_told_until_it_begins(
    server: Server, client: LLMClient
) -> None:
    waiting = [": loading tiny, about 2 s left", ":", ": loading tiny, about 1 s left"]
    server.script(CHAT, events(*waiting, chunk("Hi"), ": queue=0.1 load=2.0", DONE))
    told: list[str] = []
    assert await read(client.stream("Hi", on_wait=told.append)) == ["Hi"]
    assert told == ["loading tiny, about 2 s left", "loading tiny, about 1 s left"]
    assert "on_wait" not in server.seen[0].json()


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (events(chunk("Hi"), after="cut"), "broke off: peer closed connection"),
        (events(chunk("Hi")), r"ended without \[DONE\]"),
        (events(chunk("Hi"), ": data: [DONE]"), r"ended without \[DONE\]"),
        (events(chunk("Hi"), b"data: [DONE"), "not valid JSON"),
    ],
)
async def test_a_stream_that_breaks_never_ends_well(
    server: Server, client: LLMClient, answer: Reply, reason: str
) -> None:
    server.script(CHAT, answer)
    stream = client.stream("Hi")
    with pytest.raises(LLMBackendError, match=reason) as caught:
        await read(stream)
    assert isinstance(caught.value, ConnectionFailed | EngineBroke)
    assert isinstance(caught.value.__cause__, HTTPAnswer)
    assert len(server.seen) == 1
    with pytest.raises(ConnectionFailed, match="broke off before its end"):
        await read(stream)


async def test_what_came_before_the_break_was_yielded(server: Server, client: LLMClient) -> None:
    server.script(CHAT, events(chunk("Hi"), after="cut"))
    text, error = await failing(client.stream("Hi"), ConnectionFailed)
    assert text == "Hi"
    assert "not the whole answer" in str(error)


@pytest.mark.parametrize("name", ["", "event: error\n"])
@pytest.mark.parametrize("begun", [True, False])
async def test_an_error_event_is_raised_as_itself_and_not_repeated(
    server: Server, client: LLMClient, name: str, begun: bool
) -> None:
    error = {"message": "The engine left.", "type": "api_error", "param": None}
    line = f"{name}data: {json.dumps({'error': {**error, 'code': 'engine_gone'}})}"
    server.script(CHAT, events(*[chunk("Hi")] * begun, line, DONE))
    text, raised = await failing(client.stream("Hi"), EngineGone)
    assert text == "Hi" * begun
    assert str(raised) == "The engine left."
    assert len(server.seen) == 1


async def test_a_failed_load_is_raised_after_its_comments(
    server: Server, client: LLMClient
) -> None:
    line = json.dumps({"error": {"message": "CUDA", "code": "engine_start_failed"}})
    server.script(CHAT, events(": loading tiny", f"data: {line}"))
    told: list[str] = []
    await failing(client.stream("Hi", on_wait=told.append), EngineStartFailed)
    assert told == ["loading tiny"]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (events("data: {oops"), "not valid JSON"),
        (events("data: [1]"), "JSON array"),
        (events('data: {"choices": 5}'), "choices must be a list, not 5"),
        (events('data: {"error": "plain"}'), "plain"),
        (events('data: {"error": {"code": "odd"}}'), "reported the error {'code': 'odd'}."),
        (reply(completion("Hi")), "its content type is application/json"),
        (Reply(200), "its content type is nothing"),
    ],
)
async def test_what_is_no_stream_is_named(
    server: Server, client: LLMClient, answer: Reply, reason: str
) -> None:
    server.script(CHAT, answer)
    _, error = await failing(client.stream("Hi"), EngineBroke)
    assert reason in str(error)


async def test_what_is_no_stream_is_not_waited_for(server: Server, client: LLMClient) -> None:
    server.script(CHAT, Reply(200, after="silence"))
    async with client:
        await failing(client.stream("Hi"), EngineBroke)
        assert await asyncio.to_thread(server.left.wait, 10)


async def test_silence_has_an_end(server: Server) -> None:
    server.script(CHAT, events(chunk("Hi"), after="silence"))
    client = LLMClient(server.url, timeout_s=0.3)
    async with asyncio.timeout(10):
        text, error = await failing(client.stream("Hi"), ConnectionFailed)
    assert text == "Hi"
    assert "nothing came for 0.3 s" in str(error)
    assert await asyncio.to_thread(server.left.wait, 10)


async def test_a_slow_reader_is_no_silence(client: LLMClient, server: Server) -> None:
    client = LLMClient(server.url, timeout_s=0.5)
    texts = []
    async for part in client.stream("Hi"):
        texts.append(part.text)
        await asyncio.sleep(0.2)
    assert "".join(texts) == "Two and two make four."


@pytest.mark.parametrize("held", [False, True])
async def test_leaving_early_hangs_up(server: Server, client: LLMClient, held: bool) -> None:
    server.script(CHAT, events(chunk("Hi"), after="silence"))
    if held:
        await client._transport.hold()
    async with client.stream("Hi") as stream:
        async for _ in stream:
            break
    assert await asyncio.to_thread(server.left.wait, 10)
    assert await client.generate("Hi") == "Two and two make four."
    await client.close()


async def test_a_break_alone_hangs_up_too(server: Server, client: LLMClient) -> None:
    server.script(CHAT, events(chunk("Hi"), after="silence"))
    async for _ in client.stream("Hi"):
        break
    gc.collect()
    assert await asyncio.to_thread(server.left.wait, 10)


def test_a_stream_left_open_by_its_loop_is_closed(server: Server) -> None:
    server.script(CHAT, events(chunk("Hi"), after="silence"))
    client = LLMClient(server.url)

    async def leave() -> ChatStream:
        stream = client.stream("Hi")
        await anext(stream)
        return stream

    stream = asyncio.run(leave())
    assert server.left.wait(10)
    del stream
    gc.collect()


async def test_cancelling_the_reader_hangs_up(server: Server, client: LLMClient) -> None:
    server.script(CHAT, events(chunk("Hi"), after="silence"))
    begun = asyncio.Event()

    async def listen() -> None:
        async for _ in client.stream("Hi"):
            begun.set()

    task = asyncio.create_task(listen())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(server.left.wait, 10)


async def test_nothing_is_sent_before_the_first_chunk_is_asked_for(
    server: Server, client: LLMClient
) -> None:
    async with client.stream("Hi"):
        pass
    client.stream("Hi")
    assert server.connections == 0


async def test_what_follows_done_is_read_so_that_the_connection_lives(
    server: Server, client: LLMClient
) -> None:
    server.script(CHAT, events(chunk("Hi"), DONE, ": load=2.0"))
    async with client:
        assert await read(client.stream("Hi")) == ["Hi"]
        assert await read(client.stream("Hi")) != []
    assert server.connections == 1


async def test_done_is_the_end_even_if_the_server_does_not_think_so(
    server: Server, client: LLMClient
) -> None:
    server.script(CHAT, events(chunk("Hi"), DONE, after="silence"))
    async with asyncio.timeout(10):
        assert await read(client.stream("Hi")) == ["Hi"]
    assert await asyncio.to_thread(server.left.wait, 10)


async def test_closing_the_client_breaks_its_stream(server: Server, client: LLMClient) -> None:
    server.script(CHAT, events(chunk("Hi"), after="silence"))
    async with client:
        stream = client.stream("Hi")
        await anext(stream)
        await client.close()
        _, error = await failing(stream, ConnectionFailed)
    assert "broke off" in str(error)


async def test_several_streams_at_once(client: LLMClient) -> None:
    async with client:
        texts = await asyncio.gather(*(read(client.stream(f"Q{i}")) for i in range(10)))
    assert {"".join(parts) for parts in texts} == {"Two and two make four."}


async def test_after_a_wait_that_was_called_off_a_stream_does_not_look_complete(
    server: Server, client: LLMClient
) -> None:
    server.script(CHAT, events(chunk("A"), after="silence"))
    stream = client.stream("Hi")
    await anext(stream)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(anext(stream), 0.1)
    with pytest.raises(ConnectionFailed, match="not the whole answer"):
        await anext(stream)
    await stream.close()
    assert [chunk async for chunk in stream] == [], "who closed it knows"


async def test_a_client_that_is_left_breaks_off_what_nobody_reads(
    server: Server, client: LLMClient
) -> None:
    server.script(CHAT, events(chunk("A"), after="silence"))
    async with client:
        stream, other = client.stream("Hi"), client.stream("Hi")
        async with client:
            await anext(stream)
        assert not server.left.is_set(), "somebody else holds the client still"
    assert await asyncio.to_thread(server.left.wait, 10)
    with pytest.raises(ConnectionFailed, match="broke off before its end"):
        await anext(stream)
    assert "".join(await read(other)) == "Two and two make four.", "it had not begun"
