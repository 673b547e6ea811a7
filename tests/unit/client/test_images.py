"""Pictures from files, bytes and addresses."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

from llm_backend import BodyTooLarge, InvalidRequest
from llm_backend.client import image_message, image_part

pytestmark = pytest.mark.feature("images from path, bytes, URL")

PNG = b"\x89PNG\r\n\x1a\n" + b"rest"


def url(part: dict[str, dict[str, str]]) -> str:
    return part["image_url"]["url"]


@pytest.mark.parametrize(
    ("content", "media_type"),
    [
        (PNG, "image/png"),
        (b"\xff\xd8\xff\xe0", "image/jpeg"),
        (b"GIF87a", "image/gif"),
        (b"RIFF\x00\x00\x00\x00WEBPVP8 ", "image/webp"),
    ],
)
def test_the_content_says_the_type(content: bytes, media_type: str, tmp_path: Path) -> None:
    path = tmp_path / "picture.bmp"
    path.write_bytes(content)
    inline = f"data:{media_type};base64,{base64.b64encode(content).decode()}"

    assert url(image_part(content)) == inline
    assert url(image_part(path)) == inline
    assert url(image_part(str(path))) == inline


@pytest.mark.parametrize(
    "address", ["https://example.org/a.png", "HTTP://example.org/a", "data:image/png;base64,AA=="]
)
def test_an_address_is_passed_on(address: str) -> None:
    assert url(image_part(address)) == address


@pytest.mark.parametrize("content", [b"", b"<svg/>", b"RIFF....WAVE", b"BM"])
def test_what_is_no_picture_is_refused(content: bytes) -> None:
    with pytest.raises(InvalidRequest, match="none of PNG, JPEG, GIF and WebP"):
        image_part(content)


@pytest.mark.parametrize("name", ["missing.png", "", "a\0b"])
def test_what_cannot_be_read_says_why(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidRequest, match="cannot be read") as raised:
        image_part(tmp_path / name)
    assert "https://" in str(raised.value)


def test_the_size_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    path.write_bytes(PNG)
    assert image_part(path, max_bytes=len(PNG))
    for image in (path, PNG):
        with pytest.raises(BodyTooLarge, match=f"over {len(PNG) - 1} bytes"):
            image_part(image, max_bytes=len(PNG) - 1)


def test_a_message_has_the_text_and_the_pictures_in_their_order() -> None:
    message = image_message("Which is older?", [PNG, "https://example.org/b.png"])

    assert message["role"] == "user"
    text, first, second = message["content"]
    assert text == {"type": "text", "text": "Which is older?"}
    assert url(first).startswith("data:image/png")
    assert url(second) == "https://example.org/b.png"


def test_the_home_of_nobody_is_no_place() -> None:
    with pytest.raises(InvalidRequest, match=r"'~no-such-user/a\.png' cannot be read"):
        image_part("~no-such-user/a.png")


def test_an_address_of_another_kind_is_shown_as_it_is() -> None:
    with pytest.raises(InvalidRequest, match=r"'ftp://example\.org/a\.png'"):
        image_part("ftp://example.org/a.png")


@pytest.mark.parametrize("image", ["cat.png", PNG])
def test_one_picture_is_no_list(image: Any) -> None:
    with pytest.raises(InvalidRequest, match="images must be a list"):
        image_message("What is this?", image)
