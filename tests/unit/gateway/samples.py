"""Streams of every kind, good and bad, and what is to be found out about each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from llm_backend.gateway.sse import StreamKind

STREAMS = Path(__file__).parent / "streams"
"""Recorded from llama.cpp's server and vLLM 0.32; the aborted ones are shortened in the middle."""

TOKENS = {"input_tokens": 5, "output_tokens": 6}
CHAT_ABORT = (
    b'data: {"id":"chatcmpl-b3c29d16e7da0243","object":"chat.completion.chunk",'
    b'"created":1795274452,"model":"tiny","choices":[{"index":0,"delta":{"content":""},'
    b'"logprobs":null,"finish_reason":"abort"'
)


def events(*payloads: object) -> bytes:
    """Render payloads as vLLM does: those with a type are named by it, a string is sent as it is."""
    parts = []
    for payload in payloads:
        data = payload.encode() if isinstance(payload, str) else orjson.dumps(payload)
        name = payload.get("type") if isinstance(payload, dict) else None
        parts.append((f"event: {name}\n".encode() if name else b"") + b"data: " + data + b"\n\n")
    return b"".join(parts)


def chunk(finish_reason: str | None = None, content: str = "", **more: object) -> dict[str, Any]:
    choice = {"index": 0, "delta": {"content": content}, "finish_reason": finish_reason}
    return {"object": "chat.completion.chunk", "choices": [choice], **more}


def message_delta(stop_reason: str | None) -> dict[str, Any]:
    delta = {"stop_reason": stop_reason, "stop_sequence": None}
    return {"type": "message_delta", "delta": delta, "usage": TOKENS}


def response(kind: str, status: str) -> dict[str, Any]:
    inner = {"object": "response", "status": status, "error": None, "usage": TOKENS}
    return {"type": f"response.{kind}", "sequence_number": 1, "response": inner}


STOP = {"type": "message_stop"}
USAGE = {"prompt_tokens": 3, "completion_tokens": 2}
FAILURE = {"error": {"message": "secret", "type": "InternalServerError", "code": 500}}
QUOTED = 'the words "abort", "error", "cancelled" and message_delta'


@dataclass(frozen=True)
class Sample:
    """A stream, and what is to be found out about it.

    `passed` is how much of it gets out; None where it is good and all does. `tokens` is what the
    engine counted in the prompt and in the answer.
    """

    kind: StreamKind
    stream: bytes
    passed: int | None = None
    reason: str | None = None
    tokens: tuple[int, int] | None = None


def recorded(kind: StreamKind, name: str, reason: str, *tokens: int) -> Sample:
    """Return what a real engine sent."""
    prompt, answer = tokens
    stream = (STREAMS / f"{name}.sse").read_bytes()
    return Sample(kind, stream, None, reason, (prompt, answer))


def recorded_abort(kind: StreamKind, name: str, event: bytes) -> Sample:
    """Return what a real engine sent that gave the answer up, as the last such event tells."""
    stream = (STREAMS / f"{name}.sse").read_bytes()
    return Sample(kind, stream, stream.rindex(event))


def broken(kind: StreamKind, good: bytes, bad: bytes) -> Sample:
    return Sample(kind, good + bad, len(good))


SAMPLES = {
    "chat": recorded("chat", "llamacpp_chat", "length", 32, 6),
    "completions": recorded("chat", "llamacpp_completions", "length", 2, 6),
    "messages": recorded("messages", "llamacpp_messages", "max_tokens", 1, 6),
    "responses": recorded("responses", "llamacpp_responses", "completed", 32, 6),
    "vLLM chat": recorded("chat", "vllm_chat", "length", 13, 8),
    "vLLM messages": recorded("messages", "vllm_messages", "max_tokens", 13, 8),
    "vLLM responses": recorded("responses", "vllm_responses", "incomplete", 12, 8),
    "vLLM chat aborted": recorded_abort("chat", "vllm_chat_aborted", CHAT_ABORT),
    "vLLM messages aborted": recorded_abort(
        "messages", "vllm_messages_aborted", b"event: message_delta"
    ),
    "chat without usage": Sample("chat", events(chunk("stop"), "[DONE]"), None, "stop"),
    "chat with usage beside": Sample(
        "chat",
        events(chunk(content=QUOTED), chunk("stop", usage=USAGE), "[DONE]"),
        None,
        "stop",
        (3, 2),
    ),
    "chat with comments": Sample(
        "chat", b": hello\n\n" + events(chunk("stop"), "[DONE]") + b": bye\n\n", None, "stop"
    ),
    "chat with null error": Sample(
        "chat", events(chunk("stop", error=None), "[DONE]"), None, "stop"
    ),
    "chat that asks for no blank line": Sample("chat", b"data:[DONE]\n\n"),
    "responses incomplete": Sample(
        "responses",
        events(response("incomplete", "incomplete")),
        None,
        "incomplete",
        (5, 6),
    ),
    "responses failed": Sample(
        "responses", events(response("failed", "failed")), None, "failed", (5, 6)
    ),
    "responses with done": Sample(
        "responses",
        events(response("created", "in_progress"), response("completed", "completed"), "[DONE]"),
        None,
        "completed",
        (5, 6),
    ),
    "chat aborted": broken(
        "chat", events(chunk(content=QUOTED)), events(chunk("abort", usage=USAGE), "[DONE]")
    ),
    "chat ended by an error": broken("chat", events(chunk()), events(chunk("error"), "[DONE]")),
    "chat that failed": broken("chat", events(chunk()), events(FAILURE, "[DONE]")),
    "chat that failed at once": broken("chat", b"", events(FAILURE, "[DONE]")),
    "chat that failed in words": broken("chat", b"", events({"error": "secret"}, "[DONE]")),
    "messages aborted": broken(
        "messages", events({"type": "ping"}), events(message_delta(None), STOP)
    ),
    "messages that failed": broken(
        "messages", events({"type": "ping"}), events({"type": "error", **FAILURE}, STOP)
    ),
    "responses aborted": broken(
        "responses",
        events(response("created", "in_progress")),
        events(response("completed", "cancelled")),
    ),
    "responses that failed": broken(
        "responses",
        events(response("created", "in_progress")),
        events({"type": "error", "message": "secret"}, "[DONE]"),
    ),
    "chat without end": broken("chat", events(chunk(), chunk("stop")), b""),
    "chat cut": broken("chat", events(chunk()), b'data: {"choices":'),
    "chat cut at its end": broken("chat", events(chunk("stop")), b"data: [DON"),
    "chat that goes on": broken("chat", events(chunk("stop"), "[DONE]", chunk()), b""),
    "messages without end": broken("messages", events(message_delta("end_turn")), b""),
    "responses without end": broken("responses", events(response("created", "in_progress")), b""),
    "nothing": broken("chat", b"", b""),
    "JSON": broken("chat", b"", b'{"error": "no stream"}'),
    "HTML": broken("messages", b"", b"<html>\n\n</html>\n\n"),
    "words": broken("responses", b"", b"detail: no stream\n\n"),
}


def with_crlf(sample: Sample) -> Sample:
    passed = sample.passed
    if passed is not None:
        passed = len(sample.stream[:passed].replace(b"\n", b"\r\n"))
    stream = sample.stream.replace(b"\n", b"\r\n")
    return Sample(sample.kind, stream, passed, sample.reason, sample.tokens)


ALL = {**SAMPLES, **{f"{name}, CRLF": with_crlf(sample) for name, sample in SAMPLES.items()}}
