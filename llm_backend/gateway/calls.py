"""A request, understood: which model, within which bounds, and what the engine is to be told."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from llm_backend.config.catalog import GenerationDefaults, ModelSpec
from llm_backend.config.settings import LimitSettings
from llm_backend.engines.answers import unquoted
from llm_backend.errors import InvalidRequest, PromptTooLong
from llm_backend.gateway.endpoints import Endpoint
from llm_backend.gateway.record import Record
from llm_backend.wire import JSONObject, encode, requested_model, wants_stream

MEDIA: Final = frozenset(
    {
        "url",
        "data",
        "image",
        "images",
        "image_url",
        "file_data",
        "video_url",
        "audio_url",
        "file_url",
    }
)
"""Fields that hold media or their address, not text for the model to read."""

PRIORITY: Final = b"x-llm-priority"
"""The header that names the class of a request."""

_CHOICES: Final = frozenset({"n", "best_of"})

RESERVED: Final = frozenset(
    {
        "chat_template",
        "continue_final_message",
        "conversation",
        "max_length",
        "messages",
        "padding",
        "return_assistant_tokens_mask",
        "return_dict",
        "return_tensors",
        "tokenize",
        "tokenizer_kwargs",
        "truncation",
    }
)
"""Arguments of the template function itself, which `chat_template_kwargs` must not replace."""


@dataclass(slots=True)
class Call:
    """One request.

    Attributes:
        endpoint: The route that it came on.
        spec: The model that it gets.
        body: Its body, with defaults filled in.
        raw: The bytes for the engine: as the client sent them, unless a field had to change.
        stream: Whether it asks for a stream.
        record: What is remembered of it.
        fingerprint: Of the engine whose kept answers it may have; empty where it may have none.
    """

    endpoint: Endpoint
    spec: ModelSpec
    body: JSONObject
    raw: bytes
    stream: bool
    record: Record
    fingerprint: str = ""

    def without_words(self, message: str) -> str:
        """Return what an engine says of the request, without the client's words in it."""
        return unquoted(message, "\n".join(_texts(self.body)))


def understand(
    endpoint: Endpoint, spec: ModelSpec, body: JSONObject, raw: bytes, record: Record
) -> Call:
    """Fill in what the catalog says; change the bytes only where a field must change.

    Raises:
        InvalidRequest: `stream` or `model` is of a wrong type.
    """
    record.stream = endpoint.stream is not None and wants_stream(body)
    changes = missing_defaults(spec.defaults, body) if endpoint.generates else {}
    named, is_elsewhere = requested_model(body), spec.engine.kind == "external"
    # Of several models elsewhere, a request without a name would get any.
    if named != spec.served_name and (named is not None or is_elsewhere):
        changes["model"] = spec.served_name
    if changes:
        body = {**body, **changes}
        raw = encode(body)
    return Call(endpoint, spec, body, raw, record.stream, record)


def missing_defaults(defaults: GenerationDefaults, body: JSONObject) -> JSONObject:
    """Return the catalog's defaults for the fields that a request does not have."""
    values = defaults.given
    if not values:
        return {}
    return {
        field: value
        for field, value in values.items()
        if field not in body and not (field == "max_tokens" and "max_completion_tokens" in body)
    }


def wants_batch(headers: Mapping[bytes, bytes]) -> bool:
    """Return whether a request may wait until its model is awake anyway, or the device idle.

    Raises:
        InvalidRequest: the header names no class.
    """
    priority = headers.get(PRIORITY, b"interactive").strip().lower()
    if priority not in {b"batch", b"interactive"}:
        raise InvalidRequest(
            f"{PRIORITY.decode()} is {priority.decode('latin-1')!r:.40}; "
            "it must be batch or interactive.",
        )
    return priority == b"batch"


class Bounds:
    """Checks that a request does not ask for more than one request may.

    Engines have died of each of these.
    """

    def __init__(self, limits: LimitSettings) -> None:
        self._limits = limits
        self._lists = {
            "messages": (limits.messages, "messages"),
            "input": (limits.messages, "messages"),
            "prompt": (limits.messages, "messages"),
            "documents": (limits.messages, "messages"),
            "stop": (limits.stop_words, "stop_words"),
            "stop_sequences": (limits.stop_words, "stop_words"),
            "bad_words": (limits.stop_words, "stop_words"),
        }

    def check(self, body: JSONObject, size: int) -> None:
        """Check the fields of a body of `size` bytes.

        Raises:
            InvalidRequest: a field asks for too much; says which and how much is allowed.
            PromptTooLong: the text is too long.
        """
        for field, value in body.items():
            if field in self._lists and isinstance(value, list) and value:
                self._check_list(field, value)
        if not _CHOICES.isdisjoint(body):
            for field in _CHOICES:
                self._check_choices(field, body.get(field))
        if "chat_template" in body or "chat_template_kwargs" in body:
            _check_template(body)
        if size > self._limits.prompt_chars:
            self._check_length(body)

    def _check_list(self, field: str, value: list[Any]) -> None:
        limit, name = self._lists[field]
        # A list of numbers is one prompt, in tokens: the engine compares it with its context.
        is_tokens = field in {"input", "prompt"} and isinstance(value[0], int)
        if len(value) > limit and not is_tokens:
            raise _too_much(f"{field} has {len(value)} entries; at most {limit}.", field, name)

    def _check_choices(self, field: str, value: Any) -> None:
        if value is None:
            return
        limit = self._limits.choices
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= limit:
            raise _too_much(f"{field} is {value!r:.40}; it must be 1 to {limit}.", field, "choices")

    def _check_length(self, body: JSONObject) -> None:
        # Counting costs a walk through the body: only where the characters could be too many.
        limit, characters = self._limits.prompt_chars, sum(map(len, _texts(body)))
        if characters > limit:
            raise PromptTooLong(
                f"The prompt has {characters} characters; at most {limit}.",
                hint="limits.prompt_chars in config/gateway.yaml sets this limit.",
                param="messages" if "messages" in body else "prompt",
            )


def _too_much(text: str, field: str, setting: str) -> InvalidRequest:
    hint = f"limits.{setting} in config/gateway.yaml sets this limit."
    return InvalidRequest(text, hint=hint, param=field)


def _check_template(body: JSONObject) -> None:
    if body.get("chat_template") is not None:
        raise InvalidRequest(
            "chat_template is not taken: a template is a program that would run in the engine.",
            param="chat_template",
        )
    arguments = body.get("chat_template_kwargs")
    if isinstance(arguments, dict) and (reserved := RESERVED & arguments.keys()):
        raise InvalidRequest(
            f"chat_template_kwargs must not have {', '.join(sorted(reserved))}.",
            param="chat_template_kwargs",
        )


def _texts(value: object) -> Iterator[str]:
    """Yield all strings in a JSON value, media and their addresses excepted."""
    todo = [value]
    while todo:
        item = todo.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, dict):
            todo.extend(v for k, v in item.items() if not (k in MEDIA and _is_media(k, v)))
        elif isinstance(item, list):
            todo.extend(item)


def _is_media(field: str, value: object) -> bool:
    if field == "images" and isinstance(value, list):
        return all(isinstance(each, str) for each in value)
    return isinstance(value, str)


class Salt:
    """Keeps the prefix caches of engines apart by key: a shared one tells by its speed.

    Args:
        secret: Known to this gateway alone.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def apply(self, call: Call) -> None:
        """Salt a request to an engine that knows salts; the client's own is mixed in."""
        if call.spec.engine.kind != "vllm":
            return
        own = call.body.get("cache_salt")
        text = f"{call.record.key}\0{own if isinstance(own, str) else ''}".encode()
        salt = hmac.new(self._secret, text, hashlib.sha256).hexdigest()
        call.body = {**call.body, "cache_salt": salt}
        call.raw = encode(call.body)
