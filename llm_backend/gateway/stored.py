"""An answer that is kept, and its form as bytes in a store that others may write to."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

import orjson

FORMAT: Final = 1


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """A whole, successful answer of an engine.

    Attributes:
        model: The catalog id.
        content_type: As clients get it.
        body: All of it; of a stream, its events as they came.
    """

    model: str
    content_type: bytes
    body: bytes


def pack(key: bytes, answer: StoredAnswer) -> bytes:
    """Return the bytes of an answer. They name their key, and prove that they are whole."""
    head = _head(key, answer.model, answer.content_type.decode("latin-1"), answer.body)
    return orjson.dumps(head) + b"\n" + answer.body


def unpack(key: bytes, packed: bytes) -> StoredAnswer | None:
    """Return the answer for a key; None where the bytes are damaged, or those of another key."""
    line, newline, body = packed.partition(b"\n")
    try:
        head = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    if not newline or not isinstance(head, dict):
        return None
    model, content_type = head.get("model"), head.get("type")
    if not isinstance(model, str) or not isinstance(content_type, str):
        return None
    if not content_type.isascii() or not content_type.isprintable():
        return None
    if head != _head(key, model, content_type, body):
        return None
    return StoredAnswer(model, content_type.encode(), body)


def _head(key: bytes, model: str, content_type: str, body: bytes) -> dict[str, str | int]:
    head: dict[str, str | int] = {
        "format": FORMAT,
        "key": key.hex(),
        "model": model,
        "type": content_type,
    }
    digest = hashlib.sha256(orjson.dumps(head))
    digest.update(body)
    return {**head, "sha256": digest.hexdigest()}
