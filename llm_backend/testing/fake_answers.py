"""The answers of the fake engine: one class for each API that generates text.

A class knows how its API spells a whole answer and the frames of a streamed one; it is given
tokens and knows nothing of connections.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Literal

Finish = Literal["stop", "length", "abort"]
JSONObject = dict[str, Any]


def frame(value: JSONObject, event: str = "") -> bytes:
    """Return one event of a stream."""
    name = f"event: {event}\n" if event else ""
    return f"{name}data: {json.dumps(value)}\n\n".encode()


@dataclass(slots=True)
class Answer:
    """What is generated for one request.

    Attributes:
        model: The name of the model.
        ident: The request's number or id; part of the answer's id.
        prompt_tokens: Length of the prompt.
        with_usage: Whether the stream ends with the usage (OpenAI's `include_usage`).
        tokens: Generated so far.
        finish: Why it ended.
    """

    path: ClassVar[str]
    prefix: ClassVar[str]

    model: str
    ident: str
    prompt_tokens: int
    with_usage: bool
    tokens: int = 0
    finish: Finish = "stop"

    @property
    def id(self) -> str:
        """The id that the answer carries."""
        return f"{self.prefix}-{self.ident}"

    def begin(self) -> Iterator[bytes]:
        """Yield the frames before the first token."""
        yield from ()

    def token(self, text: str) -> Iterator[bytes]:
        """Yield the frames of one token."""
        raise NotImplementedError

    def end(self, text: str) -> Iterator[bytes]:
        """Yield the frames after the last token of `text`."""
        raise NotImplementedError

    def whole(self, text: str) -> JSONObject:
        """Return the answer to a request that is not streamed."""
        raise NotImplementedError


class _OpenAIAnswer(Answer):
    """What chat and plain completions share."""

    kind: ClassVar[str]
    chunk_kind: ClassVar[str]

    def _head(self, kind: str) -> JSONObject:
        created = int(time.time())
        return {"id": self.id, "object": kind, "created": created, "model": self.model}

    def _usage(self) -> JSONObject:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.tokens,
            "total_tokens": self.prompt_tokens + self.tokens,
        }

    def _chunk(self, finish: Finish | None = None, **delta: object) -> bytes:
        choice = {"index": 0, **delta, "logprobs": None, "finish_reason": finish}
        return frame({**self._head(self.chunk_kind), "choices": [choice]})

    def _end(self) -> Iterator[bytes]:
        if self.with_usage:
            yield frame({**self._head(self.chunk_kind), "choices": [], "usage": self._usage()})
        yield b"data: [DONE]\n\n"

    def _whole(self, **content: object) -> JSONObject:
        choice = {"index": 0, **content, "logprobs": None, "finish_reason": self.finish}
        return {**self._head(self.kind), "choices": [choice], "usage": self._usage()}


class ChatAnswer(_OpenAIAnswer):
    """`/v1/chat/completions`."""

    path = "/v1/chat/completions"
    prefix = "chatcmpl"
    kind = "chat.completion"
    chunk_kind = "chat.completion.chunk"

    def begin(self) -> Iterator[bytes]:
        """Yield the chunk with the role."""
        yield self._chunk(delta={"role": "assistant", "content": ""})

    def token(self, text: str) -> Iterator[bytes]:
        """Yield a chunk."""
        yield self._chunk(delta={"content": text})

    def end(self, text: str) -> Iterator[bytes]:  # noqa: ARG002 - the chunks hold it already
        """Yield the last chunk, the usage and the end mark."""
        yield self._chunk(self.finish, delta={})
        yield from self._end()

    def whole(self, text: str) -> JSONObject:
        """Return a chat completion."""
        return self._whole(message={"role": "assistant", "content": text})


class CompletionAnswer(_OpenAIAnswer):
    """`/v1/completions`."""

    path = "/v1/completions"
    prefix = "cmpl"
    kind = chunk_kind = "text_completion"

    def token(self, text: str) -> Iterator[bytes]:
        """Yield a chunk."""
        yield self._chunk(text=text)

    def end(self, text: str) -> Iterator[bytes]:  # noqa: ARG002 - the chunks hold it already
        """Yield the last chunk, the usage and the end mark."""
        yield self._chunk(self.finish, text="")
        yield from self._end()

    def whole(self, text: str) -> JSONObject:
        """Return a text completion."""
        return self._whole(text=text)


class MessageAnswer(Answer):
    """Anthropic's `/v1/messages`."""

    path = "/v1/messages"
    prefix = "msg"

    def _message(self, content: list[JSONObject], reason: str | None) -> JSONObject:
        usage = {"input_tokens": self.prompt_tokens, "output_tokens": self.tokens}
        return {
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": content,
            "stop_reason": reason,
            "stop_sequence": None,
            "usage": usage,
        }

    @property
    def _reason(self) -> str:
        return {"stop": "end_turn", "length": "max_tokens", "abort": "abort"}[self.finish]

    def begin(self) -> Iterator[bytes]:
        """Yield the start of the message and of its only block."""
        yield _event("message_start", message=self._message([], None))
        block = {"type": "text", "text": ""}
        yield _event("content_block_start", index=0, content_block=block)

    def token(self, text: str) -> Iterator[bytes]:
        """Yield a delta."""
        delta = {"type": "text_delta", "text": text}
        yield _event("content_block_delta", index=0, delta=delta)

    def end(self, text: str) -> Iterator[bytes]:  # noqa: ARG002 - the deltas hold it already
        """Yield the ends of the block and of the message."""
        yield _event("content_block_stop", index=0)
        delta = {"stop_reason": self._reason, "stop_sequence": None}
        usage = {"input_tokens": self.prompt_tokens, "output_tokens": self.tokens}
        yield _event("message_delta", delta=delta, usage=usage)
        yield _event("message_stop")

    def whole(self, text: str) -> JSONObject:
        """Return a message."""
        return self._message([{"type": "text", "text": text}], self._reason)


class ResponseAnswer(Answer):
    """`/v1/responses`."""

    path = "/v1/responses"
    prefix = "resp"

    def _response(self, status: str, output: list[JSONObject]) -> JSONObject:
        usage = {
            "input_tokens": self.prompt_tokens,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": self.tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": self.prompt_tokens + self.tokens,
        }
        return {
            "id": self.id,
            "object": "response",
            "created_at": int(time.time()),
            "model": self.model,
            "status": status,
            "output": output,
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
            "usage": usage if output else None,
        }

    @property
    def _status(self) -> str:
        return {"stop": "completed", "length": "incomplete", "abort": "failed"}[self.finish]

    def _item(self, status: str, content: list[JSONObject]) -> JSONObject:
        item = {"id": f"msg-{self.ident}", "type": "message", "role": "assistant"}
        return {**item, "status": status, "content": content}

    def _place(self) -> JSONObject:
        return {"item_id": f"msg-{self.ident}", "output_index": 0, "content_index": 0}

    def begin(self) -> Iterator[bytes]:
        """Yield the start of the response, of its item and of the item's text."""
        yield _event("response.created", response=self._response("in_progress", []))
        item = self._item("in_progress", [])
        yield _event("response.output_item.added", output_index=0, item=item)
        yield _event("response.content_part.added", **self._place(), part=_text_part(""))

    def token(self, text: str) -> Iterator[bytes]:
        """Yield a delta."""
        yield _event("response.output_text.delta", **self._place(), delta=text, logprobs=[])

    def end(self, text: str) -> Iterator[bytes]:
        """Yield the ends of text, item and response."""
        part = _text_part(text)
        item = self._item(self._status, [part])
        yield _event("response.output_text.done", **self._place(), text=text, logprobs=[])
        yield _event("response.content_part.done", **self._place(), part=part)
        yield _event("response.output_item.done", output_index=0, item=item)
        yield _event(f"response.{self._status}", response=self._response(self._status, [item]))

    def whole(self, text: str) -> JSONObject:
        """Return a response."""
        return self._response(self._status, [self._item(self._status, [_text_part(text)])])


def _text_part(text: str) -> JSONObject:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _event(name: str, **fields: object) -> bytes:
    return frame({"type": name, **fields}, name)


ANSWERS: Final[Mapping[str, type[Answer]]] = {
    kind.path: kind for kind in (ChatAnswer, CompletionAnswer, MessageAnswer, ResponseAnswer)
}
