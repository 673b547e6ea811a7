"""The text API, said in the words of a chat and back."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import orjson
import pytest

from llm_backend.errors import EngineBroke, InvalidRequest
from llm_backend.gateway.exchange import CONNECTION, EVENT_STREAM
from llm_backend.gateway.text_api import LARGE, TextExchange, as_chat, as_text, event_as_text
from tests.unit.gateway.test_exchange import Client

URL = "https://pictures.example/x.png"
ASKED = {"role": "user", "content": "Say hi"}


@pytest.mark.parametrize(
    ("body", "chat"),
    [
        ({"prompt": "Say hi"}, {"messages": [ASKED]}),
        (
            {"prompt": "Say hi", "model": "a", "temperature": 0, "stream": True, "new": {"x": 1}},
            {"messages": [ASKED], "model": "a", "temperature": 0, "stream": True, "new": {"x": 1}},
        ),
        ({"prompt": "Say hi", "images": [URL]}, {"messages": [{**ASKED, "images": [URL]}]}),
        ({"prompt": "Say hi", "images": URL}, {"messages": [{**ASKED, "images": [URL]}]}),
        ({"prompt": "Say hi", "images": []}, {"messages": [ASKED]}),
        ({"messages": [ASKED]}, {"messages": [ASKED]}),
        ({"messages": []}, {"messages": []}),
        (
            {"messages": [ASKED, {"role": "assistant", "content": "Hi"}], "images": [URL]},
            {"messages": [{**ASKED, "images": [URL]}, {"role": "assistant", "content": "Hi"}]},
        ),
        (
            {"messages": [ASKED, {**ASKED, "images": ["b"]}], "images": ["c"]},
            {"messages": [ASKED, {**ASKED, "images": ["b", "c"]}]},
        ),
        ({"prompt": "Say hi", "n": 1, "tools": []}, {"n": 1, "tools": [], "messages": [ASKED]}),
    ],
)
def test_a_request_is_one_of_chat(body: dict[str, Any], chat: dict[str, Any]) -> None:
    assert orjson.loads(as_chat(orjson.dumps(body))) == chat


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "prompt"),
        ({"prompt": "a", "messages": [ASKED]}, "prompt"),
        ({"prompt": ["a", "b"]}, "prompt"),
        ({"prompt": 5}, "prompt"),
        ({"messages": "Say hi"}, "messages"),
        ({"prompt": "a", "n": 2}, "n"),
        ({"prompt": "a", "n": True}, "n"),
        ({"prompt": "a", "tools": [{}]}, "tools"),
        ({"prompt": "a", "tools": 1}, "tools"),
        ({"prompt": "a", "functions": False}, "functions"),
        ({"prompt": "a", "images": 0}, "images"),
        ({"prompt": "a", "images": {}}, "images"),
        ({"prompt": "a", "images": {"url": URL}}, "images"),
        ({"messages": [{"role": "system", "content": "x"}], "images": [URL]}, "images"),
    ],
)
def test_what_is_wrong_is_told_by_its_field(body: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        as_chat(orjson.dumps(body))
    assert raised.value.param == param


USAGE = {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}


@pytest.mark.parametrize(
    ("message", "text"),
    [({"content": "Hi"}, "Hi"), ({"content": None}, ""), ({"reasoning": "hm"}, "")],
)
def test_an_answer_is_its_text(message: dict[str, Any], text: str) -> None:
    answer = {"id": "1", "choices": [{"index": 0, "message": message}], "usage": USAGE}
    assert orjson.loads(as_text(orjson.dumps(answer))) == {"text": text, "usage": USAGE}


@pytest.mark.parametrize("answer", [{}, {"choices": []}, {"choices": [{"text": "Hi"}]}])
def test_an_answer_without_a_message_is_none(answer: dict[str, Any]) -> None:
    with pytest.raises(EngineBroke, match="no message"):
        as_text(orjson.dumps(answer))


def chunk(delta: Any, reason: str | None = None, **fields: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    return b"data: " + orjson.dumps({"id": "1", "choices": [choice], **fields})


@pytest.mark.parametrize(
    ("event", "told"),
    [
        (chunk({"role": "assistant", "content": ""}), None),
        (chunk({"content": "Hi"}), {"text": "Hi", "finish_reason": None}),
        (chunk({}, "length"), {"text": "", "finish_reason": "length"}),
        (chunk({"content": "!"}, "stop"), {"text": "!", "finish_reason": "stop"}),
        (
            b"data: " + orjson.dumps({"choices": [], "usage": USAGE}),
            {"text": "", "finish_reason": None, "usage": USAGE},
        ),
        (chunk(None), None),
        (b": a sign\nid: 7\n" + chunk({"content": "Hi"}), {"text": "Hi", "finish_reason": None}),
        (b"event: message\r\n" + chunk({}, "stop") + b"\r", {"text": "", "finish_reason": "stop"}),
        (
            b'data: {"choices": [{"delta":\ndata: {"content": "Hi"}}]}',
            {"text": "Hi", "finish_reason": None},
        ),
    ],
)
def test_an_event_is_its_text(event: bytes, told: dict[str, Any] | None) -> None:
    assert event_as_text(event) == (b"" if told is None else b"data: %b\n\n" % orjson.dumps(told))


@pytest.mark.parametrize(
    "event", [b"data: [DONE]", b": loading a", b'data: {"error": {"message": "gone"}}']
)
def test_signs_errors_and_the_end_stay_as_they_are(event: bytes) -> None:
    assert event_as_text(event) == event + b"\n\n"


def test_what_is_no_event_says_that_the_engine_broke() -> None:
    assert event_as_text(b"\r\n") == b""
    with pytest.raises(EngineBroke, match="not valid JSON"):
        event_as_text(b'data: {"choices": [')


def exchange_of(client: Client) -> TextExchange:
    """The same request, on the text API."""
    scope = {"headers": [], "extensions": {CONNECTION: client}}
    return TextExchange(scope, client.receive, client.send, lambda _: "id-1")


@pytest.mark.anyio
@pytest.mark.parametrize("size", [1, 7, 10_000])
async def test_a_stream_may_come_in_pieces_of_any_size(size: int) -> None:
    client = Client()
    exchange = exchange_of(client)
    events = [b": a sign", chunk({"content": "Hi"}), chunk({}, "stop"), b"data: [DONE]"]
    stream = b"".join(event + b"\r\n\r\n" for event in events)
    await exchange.start(200, EVENT_STREAM)
    for start in range(0, len(stream), size):
        await exchange.write(stream[start : start + size])
    await exchange.end()
    told = [orjson.loads(line[6:]) for line in client.text.split(b"\n") if b"{" in line]
    assert told == [
        {"text": "Hi", "finish_reason": None},
        {"text": "", "finish_reason": "stop"},
    ]
    assert client.text.startswith(b": a sign")
    assert client.text.rstrip().endswith(b"data: [DONE]")


@pytest.mark.anyio
async def test_a_long_event_in_many_pieces_costs_no_more_than_its_length() -> None:
    client = Client()
    exchange = exchange_of(client)
    stream = chunk({"content": "x" * 32 * LARGE}) + b"\n\n"
    await exchange.start(200, EVENT_STREAM)
    began = time.perf_counter()
    for start in range(0, len(stream), 64 * 1024):
        await exchange.write(stream[start : start + 64 * 1024])
    assert time.perf_counter() - began < 5, "looked through anew with each piece it takes 12 s"
    assert len(client.text) > 32 * LARGE


@pytest.mark.anyio
async def test_a_long_answer_keeps_nobody_waiting() -> None:
    client = Client()
    client.at_once = []
    message = {"choices": [{"message": {"content": "x" * LARGE}}]}
    answering = asyncio.create_task(
        exchange_of(client).answer(200, b"application/json", orjson.dumps(message))
    )
    await asyncio.sleep(0)
    assert client.at_once == [], "it is translated elsewhere meanwhile"
    await answering
    ((status, _, body),) = client.at_once
    assert status == 200
    assert orjson.loads(body)["text"] == "x" * LARGE
