"""Whole and cut pictures, told apart by their own lengths."""

from __future__ import annotations

import struct

import pytest

from llm_backend.gateway.picture import is_cut, media_type_of
from tests.unit.gateway.pictures import gif, jpeg, png, webp

WHOLE = {
    "image/png": png(padding=300),
    "image/jpeg": jpeg(),
    "image/gif": gif(),
    "image/webp": webp(),
}


@pytest.mark.parametrize("kind", list(WHOLE))
def test_the_kind_is_known_by_how_it_begins(kind: str) -> None:
    assert media_type_of(WHOLE[kind]) == kind


@pytest.mark.parametrize("content", [b"", b"\x89PNG", b"RIFF\0\0\0\0WAVE", b"II*\0", b"<svg/>"])
def test_anything_else_is_no_picture(content: bytes) -> None:
    assert media_type_of(content) is None


@pytest.mark.parametrize("kind", list(WHOLE))
def test_a_whole_one_is_not_cut_whatever_follows_it(kind: str) -> None:
    assert not is_cut(WHOLE[kind], kind)
    assert not is_cut(WHOLE[kind] + b"\0trailing", kind)


@pytest.mark.parametrize("kind", ["image/gif", "image/webp", "image/jpeg"])
def test_cut_anywhere_it_is(kind: str) -> None:
    for length in range(13, len(WHOLE[kind]) - 1):
        assert is_cut(WHOLE[kind][:length], kind), length


def test_a_png_that_lacks_nothing_but_its_last_chunk_can_be_read() -> None:
    content = WHOLE["image/png"]
    last = len(content) - 12
    assert not is_cut(content[:last], "image/png")
    for length in {*range(9, last)} - {33}:
        assert is_cut(content[:length], "image/png"), length


def test_an_animation_with_palettes_is_whole() -> None:
    head = b"GIF89a" + struct.pack("<HH", 4, 4) + b"\x81\0\0" + b"\1\2\3" * 4
    loop = b"!\xff\x0bNETSCAPE2.0\3\1\0\0\0"
    frame = b"," + struct.pack("<HHHH", 0, 0, 4, 4) + b"\x80" + b"\1\2\3" * 2 + b"\2\2L\1\0"
    assert not is_cut(head + loop + frame + frame + b";", "image/gif")
    assert is_cut(head + loop + frame + frame[:-4], "image/gif")


def test_a_picture_of_endless_pieces_is_not_looked_through() -> None:
    assert not is_cut(png()[:33] + b"\0" * 12 * 200_000, "image/png")
    assert not is_cut(gif()[:19] + b"!\xff\0" * 200_000, "image/gif")
