"""What may be written where the API wants a list of messages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from llm_backend.errors import InvalidRequest
from llm_backend.wire import JSONObject

Messages = str | Iterable[Mapping[str, Any]]
"""A text, which becomes one message of the user, or messages as the API has them."""


def as_list(messages: Messages) -> list[JSONObject]:
    """Return messages as the API wants them.

    Example:
        >>> as_list("Hello!")
        [{'role': 'user', 'content': 'Hello!'}]

    Raises:
        InvalidRequest: they are neither.
    """
    if isinstance(messages, str):
        return [{"role": "user", "content": messages}]
    if isinstance(messages, Mapping) or not isinstance(messages, Iterable):
        raise _refusal(messages)
    listed = list(messages)
    for message in listed:
        if not isinstance(message, Mapping):
            raise _refusal(message)
    return [dict(message) for message in listed]


def _refusal(value: object) -> InvalidRequest:
    return InvalidRequest(
        f"messages must be a text or a list of messages, not {value!r:.80}.",
        hint='An example: [{"role": "user", "content": "Hello!"}]',
        param="messages",
    )
