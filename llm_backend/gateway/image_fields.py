"""The fields `image` and `images` of a message, which no API has and many programs send.

They become standard parts before anything else looks at the body. A value is a URL, a `data:`
URL, bare base64, or a link to a picture as Markdown writes it.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from typing import Any, Final

from llm_backend.errors import InvalidRequest
from llm_backend.gateway.picture import media_type_of
from llm_backend.wire import JSONObject, shown

FIELDS: Final = ("image", "images")

_MARKDOWN: Final = re.compile(r'!\[[^\]]*\]\(\s*<?([^\s<>()]+)>?(?:\s+"[^"]*")?\s*\)')
_SCHEME: Final = re.compile(r"\s*[A-Za-z][A-Za-z0-9+.-]{0,30}:")
_HEAD: Final = 32
"""Characters of base64 that hold what a kind of picture begins with."""


def standardise(body: JSONObject) -> bool:
    """Turn these fields of every message into parts; return whether there were any.

    Raises:
        InvalidRequest: a value is no picture's; says in which field.
    """
    messages = body.get("messages")
    changed = False
    for place, message in enumerate(messages if isinstance(messages, list) else ()):
        if isinstance(message, dict) and not message.keys().isdisjoint(FIELDS):
            _standardise(message, f"messages[{place}]")
            changed = True
    return changed


def _standardise(message: dict[str, Any], where: str) -> None:
    urls = [url for field in FIELDS for url in _urls(message.pop(field, None), f"{where}.{field}")]
    if urls:
        parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
        message["content"] = [*_parts(message.get("content"), where), *parts]


def _parts(content: Any, where: str) -> list[Any]:
    if content is None or content == "":
        return []
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if isinstance(content, list):
        return content
    raise InvalidRequest(
        f"{where}.content is neither text nor a list of parts: {shown(content)}.",
        param=f"{where}.content",
    )


def _urls(value: Any, where: str) -> Iterator[str]:
    if value is None:
        return
    if not isinstance(value, list):
        yield _url(value, where)
        return
    for place, each in enumerate(value):
        yield _url(each, f"{where}[{place}]")


def _url(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise InvalidRequest(f"{where} must be a string, not {shown(value)}.", param=where)
    text = value.strip()
    if text.startswith("!["):
        link = _MARKDOWN.fullmatch(text)
        if link is None:
            raise InvalidRequest(
                f"{where} is no link to a picture: {shown(text[:100])}.",
                hint="Write it as ![what it shows](https://host/picture.png).",
                param=where,
            )
        text = link[1]
    return text if _SCHEME.match(text) else _from_base64(text, where)


def _from_base64(text: str, where: str) -> str:
    try:
        media_type = media_type_of(base64.b64decode(text[:_HEAD], validate=True))
    except (binascii.Error, ValueError):
        media_type = None
    if media_type is None:
        raise InvalidRequest(
            f"{where} is neither a URL nor the base64 of a picture: {shown(text[:100])}.",
            hint="Send a PNG, JPEG, GIF or WebP inline: data:image/png;base64,…",
            param=where,
        )
    return f"data:{media_type};base64,{text}"
