"""A whole answer told again as a stream, for a client that asked for one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from llm_backend.gateway.sse import StreamKind
from llm_backend.wire import JSONObject, encode

DONE = b"data: [DONE]\n\n"


def as_stream(body: bytes, kind: StreamKind, *, usage: bool) -> bytes | None:
    """Return the events that tell an answer; None for one that cannot be told so.

    Args:
        body: The answer to a request that did not stream.
        kind: Whose events to speak.
        usage: Whether the client wants the token counts in a last chunk.
    """
    answer = _object(body)
    if kind == "chat" and answer.get("object") in ("chat.completion", "text_completion"):
        choices = _objects(answer.get("choices"))
        return b"".join(_chunks(answer, choices, usage=usage)) if choices else None
    if kind == "messages" and answer.get("type") == "message":
        blocks = _objects(answer.get("content"))
        return None if blocks is None else b"".join(_message_events(answer, blocks))
    return None


def _object(body: bytes) -> JSONObject:
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}


def _objects(value: object) -> list[JSONObject] | None:
    """Return a list of objects; None for anything else."""
    is_one = isinstance(value, list) and all(isinstance(each, dict) for each in value)
    return value if is_one else None  # type: ignore[return-value]  # mypy does not see through all()


def _chunks(answer: JSONObject, choices: list[JSONObject], *, usage: bool) -> Iterator[bytes]:
    is_chat = answer["object"] == "chat.completion"
    common = {k: v for k, v in answer.items() if k not in {"choices", "usage", "timings", "object"}}
    common["object"] = "chat.completion.chunk" if is_chat else "text_completion"
    for choice in choices:
        for part in _parts(choice, is_chat=is_chat):
            yield _event({**common, "choices": [part]})
    if usage and answer.get("usage") is not None:
        yield _event({**common, "choices": [], "usage": answer["usage"]})
    yield DONE


def _parts(choice: JSONObject, *, is_chat: bool) -> Iterator[JSONObject]:
    index, logprobs = choice.get("index", 0), choice.get("logprobs")
    end = {"index": index, "finish_reason": choice.get("finish_reason")}
    if not is_chat:
        yield {
            "index": index,
            "text": choice.get("text", ""),
            "logprobs": logprobs,
            "finish_reason": None,
        }
        yield {**end, "text": "", "logprobs": None}
        return
    message = choice.get("message")
    said = message.items() if isinstance(message, dict) else ()
    delta = {k: v for k, v in said if v is not None}
    if calls := _objects(delta.get("tool_calls")):
        delta["tool_calls"] = [{"index": place, **call} for place, call in enumerate(calls)]
    yield {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": None}
    yield {**end, "delta": {}, "logprobs": None}


def _message_events(answer: JSONObject, blocks: list[JSONObject]) -> Iterator[bytes]:
    usage = answer.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    start = {**answer, "content": [], "stop_reason": None, "stop_sequence": None}
    start["usage"] = {**usage, "output_tokens": 0}
    yield _named("message_start", message=start)
    for index, block in enumerate(blocks):
        empty, delta = _opened(block)
        yield _named("content_block_start", index=index, content_block=empty)
        if delta is not None:
            yield _named("content_block_delta", index=index, delta=delta)
        yield _named("content_block_stop", index=index)
    stop = {k: answer.get(k) for k in ("stop_reason", "stop_sequence")}
    yield _named(
        "message_delta", delta=stop, usage={"output_tokens": usage.get("output_tokens", 0)}
    )
    yield _named("message_stop")


def _opened(block: JSONObject) -> tuple[JSONObject, JSONObject | None]:
    """Return how a block of content begins, and the one delta that completes it."""
    if block.get("type") == "text":
        return {**block, "text": ""}, {"type": "text_delta", "text": block.get("text", "")}
    if block.get("type") == "thinking":
        text = block.get("thinking", "")
        return {**block, "thinking": ""}, {"type": "thinking_delta", "thinking": text}
    if block.get("type") == "tool_use":
        text = encode(block.get("input", {})).decode()
        return {**block, "input": {}}, {"type": "input_json_delta", "partial_json": text}
    return block, None


def _event(payload: JSONObject) -> bytes:
    return b"data: %b\n\n" % encode(payload)


def _named(name: str, **payload: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), encode({"type": name, **payload}))
