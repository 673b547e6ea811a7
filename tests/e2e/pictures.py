"""An image for a request: a PNG as a data URL."""

from __future__ import annotations

import base64
import struct
import zlib
from typing import Any


def png(width: int, height: int) -> bytes:
    """Return an image whose colour runs from one edge to the other."""
    rows = (bytes((x % 256, y % 256, 128)) for y in range(height) for x in range(width))
    line = 3 * width
    pixels = b"".join(rows)
    raw = b"".join(b"\0" + pixels[at : at + line] for at in range(0, len(pixels), line))
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(raw)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def with_image(text: str, width: int = 112, height: int = 84) -> list[dict[str, Any]]:
    """Return the content of a message: a text and an image."""
    url = "data:image/png;base64," + base64.b64encode(png(width, height)).decode()
    return [{"type": "text", "text": text}, {"type": "image_url", "image_url": {"url": url}}]
