"""The fields `image` and `images` of a message become standard parts."""

from __future__ import annotations

from typing import Any

import pytest

from llm_backend.errors import InvalidRequest
from llm_backend.gateway.image_fields import standardise
from tests.unit.gateway.pictures import GOOD, PNG64

URL = "https://pictures.example/x.png"
TEXT = {"type": "text", "text": "What is this?"}
PLAIN = "data:image/png;base64," + PNG64


def part(url: str = URL) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


@pytest.mark.parametrize(
    ("fields", "content"),
    [
        ({"image": URL}, [TEXT, part()]),
        ({"image": f"  {URL}\n"}, [TEXT, part()]),
        ({"image": PLAIN}, [TEXT, part(PLAIN)]),
        ({"image": PNG64}, [TEXT, part(PLAIN)]),
        ({"image": f"![a cat]({URL})"}, [TEXT, part()]),
        ({"image": f'![]( <{URL}> "A title" )'}, [TEXT, part()]),
        ({"image": f"![inline]({PLAIN})"}, [TEXT, part(PLAIN)]),
        ({"images": [URL, PNG64, f"![x]({URL})"]}, [TEXT, part(), part(PLAIN), part()]),
        ({"images": URL}, [TEXT, part()]),
        ({"image": PLAIN, "images": [URL]}, [TEXT, part(PLAIN), part()]),
        ({"image": None, "images": []}, TEXT["text"]),
        ({"image": "file:///etc/passwd"}, [TEXT, part("file:///etc/passwd")]),
    ],
)
def test_a_field_becomes_parts(fields: dict[str, Any], content: Any) -> None:
    body = {"messages": [{"role": "user", "content": TEXT["text"], **fields}]}
    assert standardise(body) is True
    assert body == {"messages": [{"role": "user", "content": content}]}


@pytest.mark.parametrize(
    ("content", "parts"),
    [([TEXT], [TEXT, part()]), ("", [part()]), (None, [part()]), ([], [part()])],
)
def test_whatever_the_message_had_stays(content: Any, parts: list[Any]) -> None:
    message = {"role": "user", "content": content, "image": URL}
    standardise({"messages": [message]})
    assert message == {"role": "user", "content": parts}


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"messages": "image"},
        {"messages": [5, None, "image"]},
        {"image": URL, "messages": [{"role": "user", "content": f"![a]({URL})"}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "image": URL}]}]},
    ],
)
def test_nothing_else_is_touched(body: dict[str, Any]) -> None:
    before = repr(body)
    assert standardise(body) is False
    assert repr(body) == before


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (5, "must be a string, not 5"),
        ({"url": URL}, "must be a string"),
        ("", "neither a URL nor the base64 of a picture"),
        ("cat.png", "neither a URL nor"),
        ("/etc/passwd", "neither a URL nor"),
        ("//127.0.0.1/x.png", "neither a URL nor"),
        ("aGVsbG8gd29ybGQ=", "neither a URL nor"),
        ("![not closed](" + URL, "no link to a picture"),
        ("![no address]()", "no link to a picture"),
        ("x" * 10_000, "neither a URL nor"),
    ],
)
def test_what_is_no_picture_is_refused_by_its_place(value: Any, says: str) -> None:
    body = {"messages": [{}, {"images": [GOOD["PNG"], value]}]}
    with pytest.raises(InvalidRequest, match=says) as raised:
        standardise(body)
    assert raised.value.param == "messages[1].images[1]"
    assert len(raised.value.message) < 300


def test_a_message_whose_content_is_neither_text_nor_parts() -> None:
    with pytest.raises(InvalidRequest, match="neither text nor a list of parts"):
        standardise({"messages": [{"content": {"text": "?"}, "image": URL}]})
