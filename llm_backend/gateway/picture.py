"""What the first bytes of a picture say, and whether its last ones are there.

Nothing is decoded. What a decoder would find within the pixels is for the engine to find; what is
found here costs no memory, whatever size a head claims.
"""

from __future__ import annotations

import struct
from typing import Final

_MAGIC: Final = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
)

_LOOKED_AT: Final = 100_000
"""Pieces of a picture that are looked at; one that has more is taken for whole."""

_JPEG_END: Final = b"\xff\xd9"
_GIF_HEAD: Final = 13
_GIF_IMAGE, _GIF_EXTENSION = 0x2C, 0x21


def media_type_of(content: bytes) -> str | None:
    """Return what kind of picture the bytes begin like; None for any other."""
    for magic, media_type in _MAGIC:
        if content.startswith(magic):
            return media_type
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "image/webp"
    return None


def is_cut(content: bytes, media_type: str) -> bool:
    """Return whether a picture ends before its own lengths say that it does."""
    if media_type == "image/png":
        return _png_is_cut(content)
    if media_type == "image/gif":
        return _gif_is_cut(content)
    if media_type == "image/webp":
        return len(content) < 8 + int.from_bytes(content[4:8], "little")
    return _JPEG_END not in content


def _png_is_cut(content: bytes) -> bool:
    place = 8
    for _ in range(_LOOKED_AT):
        if place + 8 > len(content):
            return place != len(content)
        length, name = struct.unpack_from(">I4s", content, place)
        if name == b"IEND":
            return False
        place += 12 + length
        if place > len(content):
            return True
    return False


def _gif_is_cut(content: bytes) -> bool:
    place: int | None = _GIF_HEAD + _palette(content, 10)
    for _ in range(_LOOKED_AT):
        if place is None or place >= len(content):
            return True
        kind = content[place]
        if kind == _GIF_EXTENSION:
            place = _behind_blocks(content, place + 2)
        elif kind == _GIF_IMAGE:
            place = _behind_blocks(content, place + 11 + _palette(content, place + 9))
        else:  # its end, or what a decoder does not read
            return False
    return False


def _palette(content: bytes, place: int) -> int:
    """Return the bytes of the palette that the flags at `place` announce."""
    flags = content[place] if place < len(content) else 0
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _behind_blocks(content: bytes, place: int) -> int | None:
    """Return what follows a row of blocks, the last of them empty; None where that is missing."""
    for _ in range(_LOOKED_AT):
        if place >= len(content):
            return None
        length = content[place]
        place += 1 + length
        if not length:
            break
    return place
