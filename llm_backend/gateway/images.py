"""Pictures in a request: checked before an engine sees them, and never fetched by an engine.

A picture is given inline as a `data:` URL, or by an http(s) URL of a host that the settings allow:
then the gateway fetches it and puts it inline.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Final, TypeVar

import imagesize

from llm_backend.config.catalog import Capability
from llm_backend.config.settings import ImageSettings
from llm_backend.errors import BodyTooLarge, InvalidRequest
from llm_backend.gateway.image_fields import standardise
from llm_backend.gateway.picture import is_cut, media_type_of
from llm_backend.wire import JSONObject

SMALL: Final = 64 * 1024
"""Bodies and pictures of up to so many bytes are looked through on the event loop."""

_ROOTS: Final = (
    "messages",
    "system",
    "input",
    "query",
    "queries",
    "documents",
    "data_1",
    "data_2",
    "text_1",
    "text_2",
)
"""Fields of a body that have parts: of chat, messages, responses, embeddings, rerank and score."""

_HOLDERS: Final = ("content", "output", "source")
"""Fields of a part that have parts again, such as a tool's result."""

T = TypeVar("T")

Fetch = Callable[[str], Awaitable[tuple[str, bytes]]]
"""Fetches a URL that is allowed; returns media type and bytes."""


@dataclass(slots=True)
class Place:
    """Where a request has a URL: `holder[key]`.

    Attributes:
        holder: The object that has it.
        key: Under which key.
        what: The type of the part, for messages.
        media_type: Given beside the bytes, where the value is bare base64.
    """

    holder: dict[str, Any]
    key: str
    what: str
    media_type: str | None = None


@dataclass(frozen=True, slots=True)
class Media:
    """What a body has of pictures, videos and the like.

    Attributes:
        places: Where, in the order in which they come.
        changed: Whether the body was changed to find them.
    """

    places: list[Place]
    changed: bool

    @property
    def needs(self) -> set[Capability]:
        """What a model must be able to do for them."""
        kinds = {place.what for place in self.places}
        needs = {Capability.VISION} if any("image" in kind for kind in kinds) else set()
        return needs | {Capability.VIDEO} if "video_url" in kinds else needs


class Images:
    """Checks and inlines the pictures of requests.

    Args:
        settings: Bounds, and hosts that pictures may come from.
        fetch: Fetches from one of those.
    """

    def __init__(self, settings: ImageSettings, fetch: Fetch) -> None:
        self._settings = settings
        self._fetch = fetch

    async def find(self, body: JSONObject, size: int, *, is_chat: bool) -> Media:
        """Find the media of a body of `size` bytes.

        Args:
            body: What a client sent.
            size: Of it.
            is_chat: Whether its messages are OpenAI's: then their fields `image` and `images`
                become parts.

        Raises:
            InvalidRequest: there are too many, or such a field has no picture.
        """
        changed = is_chat and await _off_loop(size, standardise, body)
        places = await _off_loop(size, list[Place], places_of(body))
        if len(places) > self._settings.count:
            raise InvalidRequest(
                f"{len(places)} images; at most {self._settings.count}.",
                hint="images.count in config/gateway.yaml sets this limit.",
            )
        return Media(places, changed)

    async def prepare(self, media: Media) -> bool:
        """Check everything that was found; put inline what is given by URL.

        Returns:
            Whether the body was changed, now or before.

        Raises:
            InvalidRequest: a picture is not one, or its URL is not allowed; says which and why.
            BodyTooLarge: a picture has too many bytes or pixels.
        """
        changed, count = media.changed, len(media.places)
        for number, place in enumerate(media.places, 1):
            try:
                changed |= await self._prepare(place)
            except (InvalidRequest, BodyTooLarge) as error:
                if count > 1:
                    error.message = f"Part {number} of {count}: {error.message}"
                raise
        return changed

    async def _prepare(self, place: Place) -> bool:
        value = place.holder.get(place.key)
        if not isinstance(value, str):
            raise InvalidRequest(f"The URL of a part of type {place.what} is not a string.")
        if place.media_type is not None:
            await self._check(place, place.media_type, value)
            return False
        scheme, _, rest = value.partition(":")
        if scheme.lower() == "data":
            media_type, data = _data_parts(rest)
            await self._check(place, media_type, data)
            return False
        if scheme.lower() not in {"http", "https"}:
            raise InvalidRequest(
                f"A URL with the scheme {scheme[:20]!r} is not taken.",
                hint="Send the bytes inline: data:image/png;base64,…",
            )
        media_type, content = await self._fetch(value)
        if "image" in place.what:
            await _off_loop(len(content), self._check_picture, media_type, content)
        place.holder[place.key] = f"data:{media_type};base64,{base64.b64encode(content).decode()}"
        return True

    async def _check(self, place: Place, media_type: str, data: str) -> None:
        if len(data) > self._settings.mib * 1024 * 1024 * 4 // 3 + 4:
            raise BodyTooLarge(
                f"An inline part of type {place.what} is over {self._settings.mib} MiB.",
                hint="images.mib in config/gateway.yaml sets this limit.",
            )
        if "image" not in place.what:
            return
        await _off_loop(len(data), self._check_inline, media_type, data)

    def _check_inline(self, media_type: str, data: str) -> None:
        try:
            content = base64.b64decode(data, validate=True)
        except (binascii.Error, ValueError) as error:
            raise InvalidRequest(f"An image is not valid base64: {error}.") from None
        self._check_picture(media_type, content)

    def _check_picture(self, declared: str, content: bytes) -> None:
        actual = media_type_of(content)
        if actual is None:
            raise InvalidRequest(
                f"An image declared as {declared[:40]!r} is none of PNG, JPEG, GIF and WebP."
            )
        if actual != declared.lower().replace("image/jpg", "image/jpeg"):
            raise InvalidRequest(f"An image declared as {declared[:40]!r} is {actual}.")
        width, height = imagesize.get(BytesIO(content))
        if min(width, height) < 0:
            raise InvalidRequest(f"An image declared as {declared[:40]!r} has no readable size.")
        if min(width, height) < self._settings.min_side:
            raise InvalidRequest(
                f"An image has {width}x{height} pixels; "
                f"its sides must have at least {self._settings.min_side}."
            )
        if width * height > self._settings.megapixels * 1_000_000:
            raise BodyTooLarge(
                f"An image has {width}x{height} pixels; "
                f"at most {self._settings.megapixels} million.",
                hint="images.megapixels in config/gateway.yaml sets this limit.",
            )
        if is_cut(content, actual):
            raise InvalidRequest(f"An image of the type {actual} is cut off before its end.")


async def _off_loop(size: int, look: Callable[..., T], *what: object) -> T:
    if size <= SMALL:
        return look(*what)
    return await asyncio.to_thread(look, *what)


def may_hold_media(raw: bytes) -> bool:
    """Return False where a body as it came certainly has no place for media.

    A key can be spelled with escapes, so a body that has any may hold everything.
    """
    return b"_url" in raw or b'"image' in raw or b'"source"' in raw or b"\\u" in raw


def _data_parts(rest: str) -> tuple[str, str]:
    """Split what follows `data:` into media type and base64 text."""
    head, comma, data = rest.partition(",")
    media_type, *parameters = head.split(";")
    if not comma or "base64" not in parameters:
        raise InvalidRequest("An inline part is not of the form data:<type>;base64,<data>.")
    return media_type.strip().lower(), data


def places_of(body: JSONObject) -> Iterator[Place]:
    """Yield every place of a body, of any route, that has media or a URL of it."""
    todo = [body[field] for field in _ROOTS if field in body]
    while todo:
        item = todo.pop()
        if isinstance(item, list):
            todo += reversed(item)
        elif isinstance(item, dict):
            yield from _places_of_part(item)
            todo += (item[key] for key in _HOLDERS if key in item)


def _places_of_part(part: dict[str, Any]) -> Iterator[Place]:
    for key in ("image_url", "video_url", "audio_url", "file_url"):
        value = part.get(key)
        if isinstance(value, dict) and "url" in value:
            yield Place(value, "url", key)
        elif value is not None:
            yield Place(part, key, key)
    source = part.get("source")
    # A tuple: what clients send may not be hashable.
    if part.get("type") in ("image", "document") and isinstance(source, dict):
        if source.get("type") == "url":
            yield Place(source, "url", str(part["type"]))
        elif "data" in source:
            yield Place(source, "data", str(part["type"]), str(source.get("media_type", "")))
