"""What may be written where the API wants a list of messages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from llm_backend.wire import JSONObject

Messages = str | Iterable[Mapping[str, Any]]
"""A text, which becomes one message of the user, or messages as the API has them."""


def as_list(messages: Messages) -> list[JSONObject]:
    """Return messages as the API wants them.

    Example:
        >>> as_list("Hello!")
        [{'role': 'user', 'content': 'Hello!'}]
    """
    if isinstance(messages, str):
        return [{"role": "user", "content": messages}]
    return [dict(message) for message in messages]
