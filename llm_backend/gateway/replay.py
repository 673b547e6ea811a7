"""A whole answer told again as a stream, for a client that asked for one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from llm_backend.gateway.sse import StreamKind
from llm_backend.wire import JSONObject, encode

DONE = b"data: [DONE]\n\n"


def as_stream(answer: JSONObject, kind: StreamKind, *, usage: bool) -> bytes | None:
    """Return the events that tell an answer; None for one that cannot be told so.

    Args:
        answer: The answer to a request that did not stream.
        kind: Whose events to speak.
        usage: Whether the client wants the token counts in a last chunk.
    """
    if kind == "chat" and answer.get("object") in {"chat.completion", "text_completion"}:
        return b"".join(_chunks(answer, usage=usage))
    if kind == "messages" and answer.get("type") == "message":
        return b"".join(_message_events(answer))
    return None


def _chunks(answer: JSONObject, *, usage: bool) -> Iterator[bytes]:
    is_chat = answer["object"] == "chat.completion"
    common = {k: v for k, v in answer.items() if k not in {"choices", "usage", "timings", "object"}}
    common["object"] = "chat.completion.chunk" if is_chat else "text_completion"
    for choice in answer.get("choices", ()):
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
    delta = {k: v for k, v in choice.get("message", {}).items() if v is not None}
    if isinstance(delta.get("tool_calls"), list):
        calls = enumerate(delta["tool_calls"])
        delta["tool_calls"] = [{"index": place, **call} for place, call in calls]
    yield {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": None}
    yield {**end, "delta": {}, "logprobs": None}


def _message_events(answer: JSONObject) -> Iterator[bytes]:
    usage = answer.get("usage") or {}
    start = {**answer, "content": [], "stop_reason": None, "stop_sequence": None}
    start["usage"] = {**usage, "output_tokens": 0}
    yield _named("message_start", message=start)
    for index, block in enumerate(answer.get("content", ())):
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
