"""The text API, said in the words of a chat and back."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from llm_backend.errors import EngineBroke, InvalidRequest
from llm_backend.gateway.text_api import as_chat, as_text, event_as_text

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
        ({"prompt": "a", "tools": [{}]}, "tools"),
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
