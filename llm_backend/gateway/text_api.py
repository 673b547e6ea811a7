"""The text API: a prompt in, text out, for programs that want no more of a chat.

It is a translation around the chat endpoint, at the very edge: the request becomes one of chat
before the pipeline sees it, and the answer of the chat becomes `{"text", "usage"}`, or chunks of
`{"text", "finish_reason"}`, as it leaves. Keys, cache, admission and errors are those of the chat.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from llm_backend.errors import EngineBroke, InvalidRequest
from llm_backend.gateway.endpoints import GENERATE_PATH
from llm_backend.gateway.exchange import EVENT_STREAM, Exchange
from llm_backend.gateway.sse import data_of
from llm_backend.wire import JSONObject, decode, decode_object, encode, shown

LARGE: Final = 1024 * 1024
"""Longer bodies are translated off the event loop."""

_BLANK_LINE: Final = re.compile(rb"\n\r?\n")
_ONE_TEXT: Final[Mapping[str, Any]] = MappingProxyType({"n": 1, "tools": [], "functions": []})
"""Fields of a chat whose answers are more than one text, and with which value they are not."""


class TextExchange(Exchange):
    """An exchange that speaks the text API to its client and chat to the pipeline."""

    __slots__ = ("_held", "_is_stream")

    async def body(self, limit: int) -> bytes:
        """Read the whole body and return it as one of chat.

        Raises:
            BodyTooLarge: it is longer than `limit` bytes.
            ClientGone: the client left meanwhile.
            InvalidRequest: it is none of the text API.
        """
        raw = await super().body(limit)
        return await _translated(as_chat, raw)

    async def answer(self, status: int, content_type: bytes, body: bytes) -> None:
        """Send a whole answer; one of chat as text."""
        is_chat = status == 200 and content_type == b"application/json"
        told = await _translated(as_text, body) if is_chat else body
        await super().answer(status, content_type, told)

    async def start(self, status: int, content_type: bytes, length: int | None = None) -> None:
        """Send the head of the answer."""
        self._held, self._is_stream = bytearray(), content_type == EVENT_STREAM
        await super().start(status, content_type, length)

    async def write(self, piece: bytes) -> None:
        """Send what a piece of the chat's stream is in the text API."""
        told = self._told(piece)
        if told:
            await super().write(told)

    async def end(self, piece: bytes = b"") -> None:
        """Send the last piece."""
        await super().end(self._told(piece) if self._is_stream else piece)

    def _told(self, piece: bytes) -> bytes:
        # Answers that are told again come in pieces that end anywhere; a long event has many.
        since = max(0, len(self._held) - 2)  # the blank line may have begun in an earlier piece
        self._held += piece
        if _BLANK_LINE.search(self._held, since) is None:
            return b""
        *events, rest = _BLANK_LINE.split(bytes(self._held))
        self._held = bytearray(rest)
        return b"".join(map(event_as_text, events))


async def _translated(translate: Callable[[bytes], bytes], body: bytes) -> bytes:
    return translate(body) if len(body) <= LARGE else await asyncio.to_thread(translate, body)


TRANSLATED: Final[Mapping[str, type[Exchange]]] = MappingProxyType({GENERATE_PATH: TextExchange})
"""What speaks with the clients of a path, where that is not a plain exchange."""


def as_chat(raw: bytes) -> bytes:
    """Return the body of a chat that asks what a body of the text API asks.

    Raises:
        InvalidRequest: it has not exactly one of `prompt` and `messages`, or a field is wrong.
    """
    body = decode_object(raw)
    _check_one_text(body)
    prompt, images = body.pop("prompt", None), body.pop("images", None)
    messages = body.pop("messages", None)
    if (prompt is None) == (messages is None):
        raise InvalidRequest("Give either prompt or messages.", param="prompt")
    messages = _messages(messages) if prompt is None else [_asked(prompt)]
    if images not in (None, "", []):
        _illustrate(messages, images)
    return encode({**body, "messages": messages})


def _check_one_text(body: JSONObject) -> None:
    for field, harmless in _ONE_TEXT.items():
        value = body.get(field)
        if value is not None and (value != harmless or isinstance(value, bool)):
            raise InvalidRequest(
                f"{GENERATE_PATH} answers with one text: {field} cannot be {shown(value)}.",
                hint="POST /v1/chat/completions takes it.",
                param=field,
            )


def _asked(prompt: Any) -> JSONObject:
    if not isinstance(prompt, str):
        raise InvalidRequest(f"prompt must be a string, not {shown(prompt)}.", param="prompt")
    return {"role": "user", "content": prompt}


def _messages(messages: Any) -> list[Any]:
    if not isinstance(messages, list):
        raise InvalidRequest(
            f"messages must be a list, not {shown(messages)}.",
            hint='A text alone goes into "prompt".',
            param="messages",
        )
    return messages


def _illustrate(messages: list[Any], images: Any) -> None:
    """Give images to the last message of the user, in the field that becomes standard parts."""
    if not isinstance(images, list | str):
        raise InvalidRequest(f"images must be a list, not {shown(images)}.", param="images")
    users = [m for m in messages if isinstance(m, dict) and m.get("role") == "user"]
    if not users:
        raise InvalidRequest("No message is the user's: the images have no place.", param="images")
    own = users[-1].get("images") or []
    listed = [each if isinstance(each, list) else [each] for each in (own, images)]
    users[-1]["images"] = [*listed[0], *listed[1]]


def as_text(body: bytes) -> bytes:
    """Return the answer of a chat in the text API.

    Raises:
        EngineBroke: it has no message.
    """
    answer = decode(body)
    message = _first_choice(answer).get("message")
    if not isinstance(message, dict):
        raise EngineBroke("The engine's answer has no message.")
    return encode({"text": message.get("content") or "", "usage": answer.get("usage")})


def event_as_text(event: bytes) -> bytes:
    """Return one event of a chat's stream in the text API; nothing where it has no text.

    Comments, errors and the mark of the end stay as they are.
    """
    data = data_of(event).strip()
    if not data.startswith(b"{"):
        return event + b"\n\n" if event.strip() else b""
    chunk = _chunk(data)
    if chunk.get("error"):
        return event + b"\n\n"
    choice, usage = _first_choice(chunk), chunk.get("usage")
    delta = choice.get("delta")
    text = (delta.get("content") if isinstance(delta, dict) else None) or ""
    reason = choice.get("finish_reason")
    if not text and reason is None and usage is None:
        return b""
    told = {"text": text, "finish_reason": reason} | ({"usage": usage} if usage else {})
    return b"data: %b\n\n" % encode(told)


def _chunk(data: bytes) -> JSONObject:
    try:
        return decode_object(data)
    except InvalidRequest:
        raise EngineBroke("The engine sent an event that is not valid JSON.") from None


def _first_choice(answer: JSONObject) -> JSONObject:
    choices = answer.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    return first if isinstance(first, dict) else {}
