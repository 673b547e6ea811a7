"""Pictures for a message: from a file, from bytes, or by their address."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from llm_backend.errors import BodyTooLarge, InvalidRequest
from llm_backend.wire import JSONObject

Image = str | Path | bytes
"""The path of a file, its bytes, or an address: http, https or data."""

MAX_IMAGE_BYTES: Final = 16 * 1024 * 1024
"""What a gateway takes, unless it is set otherwise (`images.mib`)."""

_MAGIC: Final = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
)
_ADDRESSES: Final = ("http:", "https:", "data:")


def image_part(image: Image, *, max_bytes: int = MAX_IMAGE_BYTES) -> JSONObject:
    """Return the part of a message that shows a picture.

    A file or its bytes go inline, with the type that their content has, whatever the name says.
    An address is passed on as it is: it is the gateway that fetches it, if its settings allow.

    Args:
        image: Path, bytes, or address.
        max_bytes: The largest picture that is sent inline.

    Example:
        >>> part = image_part(b"GIF89a...")
        >>> part["type"], part["image_url"]["url"]
        ('image_url', 'data:image/gif;base64,R0lGODlhLi4u')

    Raises:
        InvalidRequest: there is no such file, or it is none of PNG, JPEG, GIF and WebP.
        BodyTooLarge: it has more than `max_bytes` bytes.
    """
    url = image if isinstance(image, str) and _is_address(image) else _inline(image, max_bytes)
    return {"type": "image_url", "image_url": {"url": url}}


def image_message(text: str, images: Iterable[Image], *, role: str = "user") -> JSONObject:
    """Return a message with a text and pictures.

    Example:
        >>> message = image_message("What is this?", ["https://example.org/cat.png"])
        >>> [part["type"] for part in message["content"]]
        ['text', 'image_url']

    Raises:
        InvalidRequest, BodyTooLarge: as `image_part`; or `images` is one picture, not a list.
    """
    if isinstance(images, str | bytes):  # else each of its letters would be a path
        raise InvalidRequest("images must be a list of pictures, not one picture.", param="image")
    parts = [image_part(image) for image in images]
    return {"role": role, "content": [{"type": "text", "text": text}, *parts]}


def _is_address(text: str) -> bool:
    return text[:8].lower().startswith(_ADDRESSES)


def _inline(image: Image, max_bytes: int) -> str:
    name = f"The image of {len(image)} bytes" if isinstance(image, bytes) else f"{str(image)!r}"
    content = image if isinstance(image, bytes) else _read(image, max_bytes)
    if len(content) > max_bytes:
        raise BodyTooLarge(f"{name} is over {max_bytes} bytes.", hint="Send a smaller picture.")
    media_type = _media_type_of(content)
    if media_type is None:
        raise InvalidRequest(f"{name} is none of PNG, JPEG, GIF and WebP.", param="image")
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def _read(path: str | Path, max_bytes: int) -> bytes:
    try:
        with Path(path).expanduser().open("rb") as file:
            return file.read(max_bytes + 1)
    except (OSError, ValueError, RuntimeError) as error:  # the last one: `~nobody` has no home
        reason = error.strerror if isinstance(error, OSError) else str(error).rstrip(".")
        raise InvalidRequest(
            f"The image {str(path)!r:.200} cannot be read: {reason}.",
            hint="An address starts with http://, https:// or data:.",
            param="image",
        ) from None


def _media_type_of(content: bytes) -> str | None:
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "image/webp"
    return next((kind for magic, kind in _MAGIC if content.startswith(magic)), None)
