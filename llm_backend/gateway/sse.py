"""Event streams: how they look, how they end, and how to tell that one has not ended well.

A stream is passed on byte for byte. What is watched for is what would make a broken stream look
like a finished one, because clients do not notice by themselves:

- The OpenAI SDKs stop reading at `data: [DONE]`, and take the end of the connection for the end
  of the answer without it as well. They raise `APIError` for an event whose data has an `error`,
  and a bare `JSONDecodeError` for data that was cut. So a broken stream ends in one whole event
  with an `error` object, and no `[DONE]` after it: to older readers that would say "finished".
- The Anthropic SDKs raise for `event: error`, skip `event: ping`, and take the end of the
  connection without `message_stop` for the end of the answer.
- An engine that is stopped ends its streams as if they were finished. vLLM sends
  `finish_reason: "abort"` and then `[DONE]`; on `/v1/messages` it sends `stop_reason: null` and
  then `message_stop`. On `/v1/responses` some models get the status `cancelled`, while others
  get `completed`, and nothing tells: who stops an engine has to abort its answers first.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final, Literal

import orjson

from llm_backend.errors import EngineBroke, LLMBackendError
from llm_backend.wire import Dialect, JSONObject, encode, error_object

StreamKind = Literal["chat", "messages", "responses"]
"""How a stream ends: `[DONE]`, `message_stop`, or `response.completed` and its siblings."""

EVENT_LIMIT: Final = 4 * 1024 * 1024
"""Longest event, in bytes. `response.completed` repeats a whole answer."""

PING: Final = b'event: ping\ndata: {"type": "ping"}\n\n'
"""What Anthropic's API sends while there is nothing to say."""

_BLANK_LINE: Final = re.compile(rb"\n\r?\n")
_LINE_BREAKS: Final = re.compile(r"[\r\n]+")
_FIELDS: Final = (b"data:", b"event:", b"id:", b"retry:", b":")

_SUSPECT: Final = {
    "chat": b'"abort"',
    "messages": b"message_delta",
    "responses": b'"cancelled"',
}
"""What the event of an abort contains, beside others: reason enough to parse it."""

# Tuples: what engines send may not be hashable.
_LAST_TYPES: Final[dict[str, tuple[str, ...]]] = {
    "messages": ("message_stop",),
    "responses": ("response.completed", "response.incomplete", "response.failed"),
}
_GIVEN_UP: Final = ("abort", "error")

_OUTPUT: Final = {
    # A first piece without text only names the role.
    "chat": re.compile(
        rb'"(?:content|reasoning|reasoning_content|refusal|text)":\s*"[^"]|"tool_calls":\s*\[\s*\{'
    ),
    "messages": re.compile(rb"content_block_delta"),
    "responses": re.compile(rb"\.delta\b"),
}
"""What an event with output contains."""

_LAST_PIECES: Final = 4
_LAST_EVENTS: Final = 12
_LARGE_PIECE: Final = 64 * 1024
_SHOWN: Final = 500
_NO_STREAM: Final = "The engine's answer is not an event stream."


class StreamWatch:
    """Watches one stream on its way from engine to client.

    An event that is not complete yet is kept until it is, which costs clients nothing: they
    cannot use a part of one. So whatever has been passed on ends where an event ends, an error
    event can follow at any time, and the event that tells of an abort never gets out.

    Attributes:
        failure: Why the stream must end in an error event; nothing is passed on after that.
        engine_text: What the engine said of it. For the log: it may hold anything.
    """

    __slots__ = (
        "_begun",
        "_first",
        "_held",
        "_kind",
        "_last",
        "_suspect",
        "engine_text",
        "failure",
    )

    def __init__(self, kind: StreamKind) -> None:
        self.failure: EngineBroke | None = None
        self.engine_text: str | None = None
        self._kind = kind
        self._suspect = _SUSPECT[kind]
        self._begun = False
        self._first = b""
        self._held = bytearray()
        self._last: deque[bytes] = deque(maxlen=_LAST_PIECES)

    def feed(self, piece: bytes) -> bytes:
        """Take a piece from the engine; return what the client may have. Look at `failure` then."""
        if self.failure is not None:
            return b""
        if self._held or not piece.endswith((b"\n\n", b"\n\r\n")):
            piece = self._whole_events(piece)
        if not self._begun:
            piece = self._begin(piece)
        if b'"error"' in piece or self._suspect in piece:
            piece = self._inspect(piece)
        if piece:
            if len(piece) > _LARGE_PIECE:
                self._last.clear()
            self._last.append(piece)
        return piece

    def finish(self) -> bytes:
        """Take the end of the engine's stream; return what is left to pass on.

        Without a proper end, `failure` is set. An end that only lacks its blank line gets it.
        """
        if self.failure is not None:
            return b""
        if not self.done:
            self._fail("The engine's stream broke off before its end.")
            return b""
        return self.feed(b"\n\n") if self._held.strip() else bytes(self._held)

    @property
    def done(self) -> bool:
        """Whether the stream has come to a proper end, as its last event says."""
        events = self._last_events()
        if self._kind == "responses" and events[-1:] == [b"[DONE]"]:
            events.pop()
        last = events[-1] if events else b""
        if self._kind == "chat":
            return last == b"[DONE]"
        return _decoded(last).get("type") in _LAST_TYPES[self._kind]

    @property
    def finish_reason(self) -> str | None:
        """Why the model stopped, in the words of the API; None where the engine did not say."""
        return next(filter(None, map(_finish_reason, self._last_payloads())), None)

    @property
    def usage(self) -> JSONObject | None:
        """The engine's token counts, in the fields of the API; None where it sent none."""
        counts = next(filter(None, map(_usage, self._last_payloads())), {})
        # Anthropic's API counts the prompt in its first event, the answer in its last but one.
        return {**_usage(_decoded(data_of(self._first))), **counts} or None

    def _whole_events(self, piece: bytes) -> bytes:
        held = self._held
        since = max(0, len(held) - 2)  # the blank line may have begun in an earlier piece
        held += piece
        end = _end_of_events(held, since)
        if len(held) - end > EVENT_LIMIT:
            self._fail(f"The engine sent an event of more than {EVENT_LIMIT} bytes.")
        elif not self._begun and not end and not _starts_stream(held):
            self._fail(_NO_STREAM)
        whole = bytes(held[:end])
        del held[:end]
        return whole

    def _begin(self, piece: bytes) -> bytes:
        if not piece:
            return b""
        self._begun = True
        if not _starts_stream(piece):
            self._fail(_NO_STREAM)
            return b""
        if self._kind == "messages":
            self._first = _BLANK_LINE.split(piece.lstrip(b"\r\n"), 1)[0]
        return piece

    def _inspect(self, piece: bytes) -> bytes:
        """Return the events before the first that tells of a failure."""
        start = 0
        for blank in _BLANK_LINE.finditer(piece):
            data = data_of(piece[start : blank.start()])
            payload = _decoded(data)
            if payload.get("error") or payload.get("type") == "error":
                self._fail("The engine failed amid its answer.", data)
                return piece[:start]
            if aborted(payload):
                self._fail("The engine gave the answer up before its end.", data)
                return piece[:start]
            start = blank.end()
        return piece

    def _fail(self, message: str, said: bytes = b"") -> None:
        self.failure = EngineBroke(message)
        self.engine_text = said[:_SHOWN].decode(errors="replace") or None

    def _last_events(self) -> list[bytes]:
        text = b"".join((*self._last, self._held))
        return list(filter(None, map(data_of, _BLANK_LINE.split(text)[-_LAST_EVENTS:])))

    def _last_payloads(self) -> Iterator[JSONObject]:
        return map(_decoded, reversed(self._last_events()))


class Opening:
    """The events of a stream until its first output.

    Args:
        kind: Which API it is.
        model: The name that the answer carries.
        ident: Names the answer.
        on_output: Called when the first output is here.

    Attributes:
        over: Whether there has been output.
    """

    __slots__ = ("_about", "_begun", "_on_output", "_output", "over")

    def __init__(
        self, kind: StreamKind, model: str, ident: str, on_output: Callable[[], None]
    ) -> None:
        self.over = False
        self._about = (kind, model, ident)
        self._begun = False
        self._on_output = on_output
        self._output = _OUTPUT[kind]

    def take(self, events: bytes) -> bytes:
        """Take the next events; return them, led by the one that the API begins with."""
        if self._output.search(events):
            self.over = True
            self._on_output()
        if self._begun:
            return events
        self._begun = True
        kind, model, ident = self._about
        return with_start(kind, events, model, ident)


def with_start(kind: StreamKind, events: bytes, model: str, ident: str) -> bytes:
    """Return the first events of a stream, led by the one that its API begins with.

    llama.cpp leaves that out where its first token is a part of a character, as most emoji are,
    and the SDKs raise for what follows.

    Args:
        kind: Which API it is.
        events: What the engine began with.
        model: The name that the answer carries.
        ident: Names the answer.
    """
    told = str(_decoded(data_of(_BLANK_LINE.split(events.lstrip(b"\r\n"), 1)[0])).get("type"))
    about: JSONObject = {"model": model}
    if kind == "messages" and told.startswith("content_block"):
        usage = {"input_tokens": 0, "output_tokens": 0}
        about |= {"id": f"msg_{ident}", "type": "message", "role": "assistant", "content": []}
        about |= {"stop_reason": None, "stop_sequence": None, "usage": usage}
        return _named("message_start", {"message": about}) + events
    if kind == "responses" and told.startswith("response.output_item"):
        about |= {"id": f"resp_{ident}", "object": "response", "status": "in_progress"}
        return _named("response.created", {"response": about}) + events
    return events


def _named(name: str, fields: JSONObject) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), encode({"type": name, **fields}))


def aborted(answer: JSONObject) -> bool:
    """Return whether an engine gave up this answer, or the answer that this event ends.

    Where an engine is stopped, it may end what it was working on as if it were finished.
    """
    if "choices" in answer:
        return any(choice.get("finish_reason") in _GIVEN_UP for choice in _choices(answer))
    if answer.get("type") == "message":
        return answer.get("stop_reason") is None
    if answer.get("type") == "message_delta":
        return _object(answer, "delta").get("stop_reason", "") is None
    response = answer if answer.get("object") == "response" else _object(answer, "response")
    return response.get("status") == "cancelled"


def error_event(error: LLMBackendError, speaks: StreamKind | Dialect) -> bytes:
    """Render an error as the last event of a stream."""
    if speaks in {"messages", "anthropic"}:
        return b"event: error\ndata: %b\n\n" % encode(error_object(error, "anthropic"))
    shown = error_object(error)
    if speaks != "responses":
        return b"data: %b\n\n" % encode(shown)
    # The specification has the fields flat; the SDKs raise for the object within.
    return b"event: error\ndata: %b\n\n" % encode(
        {**shown["error"], "type": "error", "sequence_number": 0, **shown}
    )


def comment(text: str) -> bytes:
    """Render a comment: clients skip it, and know that somebody is there."""
    return f": {_LINE_BREAKS.sub(' ', text)}\n\n".encode()


def _end_of_events(text: bytearray, since: int) -> int:
    return max(
        end + len(blank) if (end := text.rfind(blank, since)) >= 0 else 0
        for blank in (b"\n\n", b"\n\r\n")
    )


def _starts_stream(text: bytes | bytearray) -> bool:
    start = bytes(text[:_SHOWN]).lstrip(b"\r\n")
    return any(start.startswith(field) or field.startswith(start) for field in _FIELDS)


def data_of(event: bytes) -> bytes:
    """Return the data of one event; nothing where it has none, as a comment."""
    lines = (line[5:].removeprefix(b" ") for line in event.splitlines() if line[:5] == b"data:")
    return b"\n".join(lines)


def _decoded(data: bytes) -> JSONObject:
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}


def _object(holder: JSONObject, name: str) -> JSONObject:
    value = holder.get(name)
    return value if isinstance(value, dict) else {}


def _choices(payload: JSONObject) -> list[JSONObject]:
    choices = payload.get("choices")
    return [c for c in choices if isinstance(c, dict)] if isinstance(choices, list) else []


def _finish_reason(payload: JSONObject) -> str | None:
    told = [choice.get("finish_reason") for choice in _choices(payload)]
    told += (
        _object(payload, "delta").get("stop_reason"),
        _object(payload, "response").get("status"),
    )
    return next((reason for reason in told if reason and isinstance(reason, str)), None)


def _usage(payload: JSONObject) -> JSONObject:
    holders = (payload, _object(payload, "response"), _object(payload, "message"))
    return next(filter(None, (_object(holder, "usage") for holder in holders)), {})
