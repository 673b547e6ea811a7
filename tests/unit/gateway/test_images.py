"""Pictures of every kind, in every place: what is none, or too large, never gets to an engine."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from llm_backend.config.catalog import Capability
from llm_backend.config.settings import ImageSettings
from llm_backend.errors import BodyTooLarge, InvalidRequest
from llm_backend.gateway.images import Images, places_of
from tests.unit.gateway.pictures import (
    BAD_INLINE,
    GOOD,
    TOO_LARGE,
    chat_body,
    data_url,
    gif,
    jpeg,
    png,
    webp,
)

pytestmark = pytest.mark.anyio

URL = "https://pictures.example/x.png"


class Host:
    """Where pictures come from; remembers what was asked for."""

    def __init__(self, media_type: str = "image/png", content: bytes = b"") -> None:
        self.answer = media_type, content or png()
        self.asked: list[str] = []

    async def __call__(self, url: str) -> tuple[str, bytes]:
        self.asked.append(url)
        return self.answer


async def prepare(body: dict[str, Any], host: Host | None = None, **settings: Any) -> bool:
    images = Images(ImageSettings(**settings), host or Host())
    return await images.prepare(await images.find(body, len(str(body)), is_chat=True))


@pytest.mark.parametrize("name", list(BAD_INLINE))
async def test_what_is_no_picture_is_refused(name: str) -> None:
    host = Host()
    with pytest.raises(InvalidRequest):
        await prepare(chat_body(BAD_INLINE[name]), host)
    assert host.asked == []


@pytest.mark.parametrize("name", list(TOO_LARGE))
async def test_a_large_picture_is_refused_by_its_head(name: str) -> None:
    with pytest.raises(BodyTooLarge, match="at most 64 million"):
        await prepare(chat_body(TOO_LARGE[name]))


@pytest.mark.parametrize("name", list(GOOD))
async def test_a_good_one_passes_as_it_is(name: str) -> None:
    body = chat_body(GOOD[name])
    assert await prepare(body) is False
    assert body == chat_body(GOOD[name])


async def test_bytes_are_limited_before_they_are_decoded() -> None:
    with pytest.raises(BodyTooLarge, match="over 1 MiB"):
        await prepare(chat_body(data_url(b"x" * 1_100_000)), mib=1)


async def test_the_number_is_limited() -> None:
    ten = [GOOD["PNG"]] * 10
    assert await prepare(chat_body(*ten), count=10) is False
    with pytest.raises(InvalidRequest, match="10 images; at most 9"):
        await prepare(chat_body(*ten), count=9)


@pytest.mark.parametrize("bad", [BAD_INLINE["SVG as PNG"], TOO_LARGE["100 megapixels"], "ftp://x/"])
async def test_of_several_the_bad_one_is_named(bad: str) -> None:
    good = GOOD["PNG"]
    with pytest.raises((InvalidRequest, BodyTooLarge), match=r"^Part 3 of 4: A"):
        await prepare(chat_body(good, good, bad, good))
    with pytest.raises((InvalidRequest, BodyTooLarge), match=r"^A"):
        await prepare(chat_body(bad))


async def test_broken_pictures_of_any_kind_end_in_an_error_of_ours() -> None:
    chance = random.Random(3)  # noqa: S311  # chance, not secrets
    for _ in range(2000):
        make: Callable[[], bytes] = chance.choice([png, jpeg, gif, webp])
        content = bytearray(make())
        for _ in range(chance.randrange(1, 6)):
            content[chance.randrange(3, len(content))] = chance.randrange(256)
        kind = f"image/{make.__name__}"
        cut = bytes(content[: chance.randrange(3, len(content) + 1)])
        try:
            await prepare(chat_body(data_url(cut, kind)))
        except (InvalidRequest, BodyTooLarge):
            continue


# Places


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image", "source": {"type": "url"}},
        {"type": ["image"], "image_url": {"url": "no URL"}},
        {"type": {"image": 1}, "image_url": 5},
    ],
)
async def test_parts_of_wrong_types_are_refused(part: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        await prepare({"messages": [{"role": "user", "content": [part]}]})


IMAGE = {"type": "image_url", "image_url": {"url": URL}}
SOURCE = {"type": "image", "source": {"type": "url", "url": URL}}
PLACES: dict[str, dict[str, Any]] = {
    "chat": {"messages": [{"content": [IMAGE]}]},
    "chat, short": {"messages": [{"content": [{"image_url": URL}]}]},
    "messages": {"messages": [{"content": [SOURCE]}]},
    "a tool's result": {"messages": [{"content": [{"type": "tool_result", "content": [SOURCE]}]}]},
    "a document of parts": {
        "messages": [
            {"content": [{"type": "document", "source": {"type": "content", "content": [SOURCE]}}]}
        ]
    },
    "responses": {"input": [{"content": [{"type": "input_image", "image_url": URL}]}]},
    "responses, bare": {"input": [{"type": "input_image", "image_url": URL}]},
    "output of a function": {
        "input": [{"type": "function_call_output", "output": [{"image_url": URL}]}]
    },
    "output of a screen": {"input": [{"output": {"image_url": URL}}]},
    "video": {"messages": [{"content": [{"video_url": {"url": URL}}]}]},
    "sound": {"messages": [{"content": [{"audio_url": {"url": URL}}]}]},
    "a file": {"input": [{"content": [{"type": "input_file", "file_url": URL}]}]},
    "rerank, documents": {"documents": {"content": [IMAGE]}},
    "rerank, list": {"documents": [{"content": [IMAGE]}]},
    "rerank, query": {"query": {"content": [IMAGE]}},
    "score": {"data_1": {"content": [IMAGE]}},
    "score, list": {"text_2": [{"content": [IMAGE]}]},
    "system": {"system": [SOURCE]},
}


@pytest.mark.parametrize("name", list(PLACES))
async def test_a_url_is_found_wherever_an_engine_would_look(name: str) -> None:
    host, body = Host(), PLACES[name]
    (place,) = places_of(body)
    found = place.holder[place.key]
    try:
        assert found == URL
        assert await prepare(body, host) is True
        assert host.asked == [URL]
        assert place.holder[place.key] == GOOD["PNG"]
    finally:
        place.holder[place.key] = found


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"messages": "text"},
        {"messages": [5, None, {"content": None}, {"content": "http://x"}]},
        {"messages": [{"content": [{"type": "text", "text": URL}]}]},
        {"messages": [{"content": [{"type": "tool_use", "input": {"image_url": "cat.png"}}]}]},
        {"tools": [{"parameters": {"properties": {"image_url": {"type": "string"}}}}]},
        {"documents": [{"title": "a", "source": "wiki"}], "query": "q"},
        {"input": list(range(100))},
        {"messages": [{"content": [{"image_url": None, "type": "text"}]}]},
    ],
)
async def test_what_only_looks_like_one_is_left_alone(body: dict[str, Any]) -> None:
    assert list(places_of(body)) == []
    assert await prepare(body) is False


async def test_no_nesting_is_too_deep() -> None:
    body: dict[str, Any] = {"messages": []}
    holder = body
    for _ in range(100_000):
        holder["content"] = {}
        holder = holder["content"]
    holder["image_url"] = URL
    assert len(list(places_of({"messages": body}))) == 1
    while body:  # take it apart by hand: the interpreter would recurse
        body = body.pop("content", {})


async def test_bytes_beside_their_type_are_checked_too() -> None:
    source = {"type": "base64", "media_type": "image/jpeg", "data": GOOD["PNG"].split(",")[1]}
    body = {"messages": [{"content": [{"type": "image", "source": source}]}]}
    with pytest.raises(InvalidRequest, match="declared as 'image/jpeg' is image/png"):
        await prepare(body)
    source["media_type"] = "image/png"
    assert await prepare(body) is False


async def test_what_a_host_sends_is_checked_like_all_else() -> None:
    for host in (
        Host("text/html"),
        Host(content=b"<html>"),
        Host("image/jpeg"),
        Host(content=png(1, 1)),
    ):
        with pytest.raises(InvalidRequest):
            await prepare(chat_body(URL), host)
    with pytest.raises(BodyTooLarge):
        await prepare(chat_body(URL), Host(content=png(9000, 9000)))


# What a model must be able to do


@pytest.mark.parametrize(
    ("name", "needs"),
    [
        ("chat", {Capability.VISION}),
        ("chat, short", {Capability.VISION}),
        ("messages", {Capability.VISION}),
        ("responses", {Capability.VISION}),
        ("video", {Capability.VIDEO}),
        ("sound", set()),
        ("a file", set()),
    ],
)
async def test_what_a_model_must_be_able_to_do(name: str, needs: set[Capability]) -> None:
    images = Images(ImageSettings(), Host())
    media = await images.find(PLACES[name], 100, is_chat=True)
    assert media.needs == needs


async def test_fields_of_a_message_are_parts_in_a_chat_alone() -> None:
    def body() -> dict[str, Any]:
        return {"messages": [{"role": "user", "content": "?", "images": [GOOD["PNG"]]}]}

    chat, other = body(), body()
    images = Images(ImageSettings(), Host())
    assert await images.prepare(await images.find(chat, 100, is_chat=True)) is True
    assert chat == chat_body(GOOD["PNG"])
    assert await images.prepare(await images.find(other, 100, is_chat=False)) is False
    assert other == body()
