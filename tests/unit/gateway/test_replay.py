"""Whole answers told as streams. The SDKs read them in tests/integration/test_cache.py."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_backend.gateway.replay import as_stream
from llm_backend.gateway.sse import StreamKind, StreamWatch

CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
CHAT: dict[str, Any] = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "a",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hi", "tool_calls": None},
            "logprobs": None,
            "finish_reason": "stop",
        },
        {
            "index": 1,
            "message": {"role": "assistant", "content": None, "tool_calls": [CALL]},
            "logprobs": None,
            "finish_reason": "tool_calls",
        },
    ],
    "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
    "timings": {"ms": 1},
}
TEXT = {
    **CHAT,
    "object": "text_completion",
    "choices": [
        {"index": 0, "text": "Hi", "logprobs": {"tokens": ["Hi"]}, "finish_reason": "stop"}
    ],
}
MESSAGE: dict[str, Any] = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "a",
    "content": [
        {"type": "thinking", "thinking": "Hm", "signature": "s"},
        {"type": "text", "text": "Hi"},
        {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}},
        {"type": "other", "x": 1},
    ],
    "stop_reason": "tool_use",
    "stop_sequence": None,
    "usage": {"input_tokens": 3, "output_tokens": 2},
}


def told(answer: object, kind: StreamKind = "chat", *, usage: bool = False) -> list[Any]:
    """Return the payloads of the events; the stream must be one that has come to a proper end."""
    stream = as_stream(orjson.dumps(answer), kind, usage=usage)
    assert stream is not None
    watch = StreamWatch(kind)
    assert watch.feed(stream) == stream
    assert watch.finish() == b""
    assert watch.failure is None
    assert watch.done
    events = stream.decode().removesuffix("data: [DONE]\n\n").split("\n\n")
    return [orjson.loads(e.rpartition("data: ")[2]) for e in events if e]


def test_chat() -> None:
    chunks = told(CHAT)

    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert {(c["id"], c["model"], c["created"]) for c in chunks} == {("chatcmpl-1", "a", 1)}
    assert not any("usage" in c or "timings" in c for c in chunks)
    choices = [chunk["choices"][0] for chunk in chunks]
    assert [c["index"] for c in choices] == [0, 0, 1, 1]
    assert choices[0]["delta"] == {"role": "assistant", "content": "Hi"}
    assert choices[2]["delta"] == {"role": "assistant", "tool_calls": [{"index": 0, **CALL}]}
    ends = [c["finish_reason"] for c in choices]
    assert ends == [None, "stop", None, "tool_calls"]


def test_the_token_counts_come_last_and_only_when_wanted() -> None:
    last = told(CHAT, usage=True)[-1]
    assert (last["choices"], last["usage"]) == ([], CHAT["usage"])
    assert told({**CHAT, "usage": None}, usage=True) == told(CHAT)


def test_completions() -> None:
    first, last = told(TEXT)
    assert first["object"] == "text_completion"
    assert first["choices"][0]["text"] == "Hi"
    assert first["choices"][0]["logprobs"] == {"tokens": ["Hi"]}
    assert (last["choices"][0]["text"], last["choices"][0]["finish_reason"]) == ("", "stop")


def test_messages() -> None:
    events = told(MESSAGE, "messages")

    block = ["content_block_start", "content_block_delta", "content_block_stop"]
    assert [e["type"] for e in events] == [
        "message_start",
        *block * 3,
        *block[::2],
        "message_delta",
        "message_stop",
    ]
    assert events[0]["message"]["content"] == []
    assert events[0]["message"]["usage"] == {"input_tokens": 3, "output_tokens": 0}
    starts = [e["content_block"] for e in events if e["type"] == block[0]]
    assert starts[0] == {"type": "thinking", "thinking": "", "signature": "s"}
    deltas = [e["delta"] for e in events if e["type"] == block[1]]
    assert deltas == [
        {"type": "thinking_delta", "thinking": "Hm"},
        {"type": "text_delta", "text": "Hi"},
        {"type": "input_json_delta", "partial_json": '{"a":1}'},
    ]
    assert events[-2]["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}
    assert events[-2]["usage"] == {"output_tokens": 2}


def test_a_message_may_be_empty() -> None:
    assert len(told({**MESSAGE, "content": [], "usage": None}, "messages")) == 3


def test_what_cannot_be_told() -> None:
    assert as_stream(orjson.dumps(CHAT), "messages", usage=False) is None
    assert as_stream(orjson.dumps(MESSAGE), "chat", usage=False) is None
    assert as_stream(orjson.dumps(CHAT), "responses", usage=False) is None
    assert as_stream(b"{", "chat", usage=False) is None
    for choices in (None, [], {}, [None], "x"):
        assert as_stream(orjson.dumps({**CHAT, "choices": choices}), "chat", usage=False) is None
    odd = orjson.dumps({**MESSAGE, "content": ["x"]})
    assert as_stream(odd, "messages", usage=False) is None


values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text("abc", max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc"), inner, max_size=3),
    max_leaves=5,
)


@pytest.mark.parametrize(
    ("answer", "kind"), [(CHAT, "chat"), (TEXT, "chat"), (MESSAGE, "messages")]
)
@given(st.data())
def test_whatever_an_engine_says_it_is_told_or_not(
    answer: dict[str, Any], kind: StreamKind, data: st.DataObject
) -> None:
    changed = orjson.loads(orjson.dumps(answer))
    holders = [changed, *changed.get("choices", ()), *changed.get("content", ())]
    holders += [choice["message"] for choice in changed.get("choices", ()) if "message" in choice]
    holder = data.draw(st.sampled_from(holders))
    holder[data.draw(st.sampled_from(sorted(holder)))] = data.draw(values)

    stream = as_stream(orjson.dumps(changed), kind, usage=True)

    assert stream is None or stream.endswith(b"\n\n")
