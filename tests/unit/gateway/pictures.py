"""Pictures as bytes, made by hand: heads that say what the tests want them to say."""

from __future__ import annotations

import base64
import struct
import zlib
from typing import Any


def png(width: int = 4, height: int = 4, padding: int = 0) -> bytes:
    """A PNG; valid where its size is 4x4, elsewhere only its head is."""
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(b"\0\0\0\0\0" * 4)
    chunks = (b"IHDR", head), (b"IDAT", rows + b"\0" * padding), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


def jpeg(width: int = 4, height: int = 4) -> bytes:
    app = b"\xff\xe0\x00\x10JFIF\0\1\1\0\0\1\0\1\0\0"
    frame = b"\xff\xc0\x00\x0b\x08" + struct.pack(">HH", height, width) + b"\1\1\x11\0"
    return b"\xff\xd8" + app + frame + b"\xff\xd9"


def gif(width: int = 4, height: int = 4) -> bytes:
    frame = b"," + struct.pack("<HHHH", 0, 0, width, height) + b"\0\2\2L\1\0"
    return (
        b"GIF89a" + struct.pack("<HH", width, height) + b"\x80\0\0" + b"\0\xff" * 3 + frame + b";"
    )


def webp(width: int = 4, height: int = 4) -> bytes:
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + size


def data_url(content: bytes, media_type: str = "image/png") -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def chat_body(*urls: Any) -> dict[str, Any]:
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return {"messages": [{"role": "user", "content": [{"type": "text", "text": "?"}, *parts]}]}


SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'
PNG64 = base64.b64encode(png()).decode()

BAD_INLINE: dict[str, Any] = {
    "no base64": "data:image/png;base64,!!!!",
    "base64 with a break": "data:image/png;base64," + PNG64[:8] + "\n" + PNG64[8:],
    "base64 of the web": "data:image/png;base64," + PNG64.replace("/", "_").replace("+", "-") + "_",
    "half a group": "data:image/png;base64,iVBOR",
    "letters of another script": "data:image/png;base64,\u0438\u0438\u0438\u0438",
    "empty": "data:image/png;base64,",
    "no comma": "data:image/png;base64",
    "no encoding": "data:image/png," + PNG64,
    "another encoding": "data:image/png;hex,89504e47",
    "nothing": "data:",
    "no type": "data:;base64," + PNG64,
    "another type": data_url(png(), "image/jpeg"),
    "text": data_url(b"hello", "text/plain"),
    "text as a picture": data_url(b"hello"),
    "SVG": data_url(SVG, "image/svg+xml"),
    "SVG as PNG": data_url(SVG),
    "TIFF": data_url(b"II*\0\x08\0\0\0", "image/tiff"),
    "a page": data_url(b"<html>", "text/html"),
    "one pixel": data_url(png(1, 1)),
    "one column": data_url(png(1, 100)),
    "one row": data_url(gif(100, 1), "image/gif"),
    "no pixel": data_url(png(0, 0)),
    "head cut off": data_url(png()[:12]),
    "magic alone": data_url(b"\xff\xd8\xff", "image/jpeg"),
    "PNG cut in its pixels": data_url(png()[:50]),
    "JPEG cut before its end": data_url(jpeg()[:-2], "image/jpeg"),
    "GIF cut in its pixels": data_url(gif()[:-3], "image/gif"),
    "GIF without its end": data_url(gif()[:-1], "image/gif"),
    "WebP cut in its head": data_url(webp()[:-1], "image/webp"),
    "JPEG of zeros": data_url(b"\xff\xd8\xff" + b"\0" * 30_000, "image/jpeg"),
    "JPEG of fill bytes": data_url(b"\xff\xd8\xff" + b"\xff" * 30_000, "image/jpeg"),
    "WebP without a frame": data_url(b"RIFF\0\0\0\0WEBP", "image/webp"),
    "a number": 5,
    "null": None,
    "a list": [data_url(png())],
}
TOO_LARGE: dict[str, str] = {
    "100 megapixels": data_url(png(10_000, 10_000)),
    "65,535 by 65,535": data_url(jpeg(65_535, 65_535), "image/jpeg"),
    "GIF of 900 megapixels": data_url(gif(30_000, 30_000), "image/gif"),
    "WebP of 268 megapixels": data_url(webp(16_384, 16_384), "image/webp"),
    "PNG of the largest size": data_url(png(2**31 - 1, 2**31 - 1)),
}
GOOD: dict[str, str] = {
    "PNG": data_url(png()),
    "JPEG": data_url(jpeg(), "image/jpeg"),
    "JPEG by its short name": data_url(jpeg(), "image/jpg"),
    "GIF": data_url(gif(), "image/gif"),
    "WebP": data_url(webp(), "image/webp"),
    "loud": data_url(png(), "IMAGE/PNG").replace("data:", "DATA:"),
    "8,000 by 8,000": data_url(png(8000, 8000)),
    "large": data_url(png(padding=200_000)),
    "longer than a prompt may be": data_url(png(padding=900_000)),
}


def addresses(port: int) -> dict[str, str]:
    """URLs that all mean this machine, or one that nobody outside shall reach."""
    hosts = {
        "loopback": "127.0.0.1",
        "its name": "localhost",
        "its name with a dot": "localhost.",
        "decimal": "2130706433",
        "octal": "0177.0.0.1",
        "hexadecimal": "0x7f000001",
        "short": "127.1",
        "any": "0.0.0.0",
        "zero": "0",
        "IPv6": "[::1]",
        "mapped": "[::ffff:127.0.0.1]",
        "mapped in hexadecimal": "[::ffff:7f00:1]",
        "any of IPv6": "[::]",
        "link-local": "169.254.169.254",
        "link-local decimal": "2852039166",
        "link-local of IPv6": "[fe80::1]",
        "private": "10.0.0.1",
        "user": "pictures.example@127.0.0.1",
        "user and key": "pictures.example:443@127.0.0.1",
        "empty user": "@127.0.0.1",
        "backslash": "pictures.example\\@127.0.0.1",
        "full-width": "\uff11\uff12\uff17.0.0.1",
        "encoded": "%31%32%37.0.0.1",
        "suffix": "127.0.0.1.pictures.example",
        "fragment": "127.0.0.1#pictures.example",
        "query": "127.0.0.1?pictures.example",
        "broken": "[::1",
    }
    urls = {name: f"http://{host}:{port}/x.png" for name, host in hosts.items()}
    return urls | {
        "https": f"https://127.0.0.1:{port}/x.png",
        "loud": f"HTTP://127.0.0.1:{port}/x.png",
        "leading space": f" http://127.0.0.1:{port}/x.png",
        "tab within": f"ht\ttp://127.0.0.1:{port}/x.png",
        "no slashes": f"http:127.0.0.1:{port}/x.png",
        "no scheme": f"//127.0.0.1:{port}/x.png",
        "file": "file:///etc/passwd",
        "file with a host": "file://localhost/etc/passwd",
        "ftp": f"ftp://127.0.0.1:{port}/x.png",
        "gopher": f"gopher://127.0.0.1:{port}/_x",
        "script": "javascript:alert(1)",
        "path": "/etc/passwd",
        "no host": "http:///x.png",
        "port beyond": "http://127.0.0.1:99999/x.png",
        "port of letters": "http://127.0.0.1:http/x.png",
        "NUL": f"http://127.0.0.1:{port}/\0",
    }
