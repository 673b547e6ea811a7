"""What is measured: how many connections or streams, with which bodies, on which targets."""

from __future__ import annotations

import base64
import json
import random
import struct
import zlib
from dataclasses import dataclass
from typing import Any, Literal

BLANKS = "#" * 16
"""What the load generator replaces by a number, so that each request differs."""

BodyKind = Literal["short", "long", "image", "unique", "same", "stream"]
TargetKind = Literal["any", "ours", "redis"]


@dataclass(frozen=True, slots=True)
class Scenario:
    """One kind of load.

    Attributes:
        name: For `--only` and the JSON file.
        title: For tables.
        body: Which body the requests have.
        connections: Connections or streams at once.
        unit: What CPU time is divided by.
        measures: Which targets it is for: any, our gateway, or our gateway with Redis.
        header: A header line that nearly every answer must have: Redis may be too slow at times.
        different: Requests until bodies repeat; 0 where they never do.
    """

    name: str
    title: str
    body: BodyKind
    connections: int
    unit: Literal["request", "chunk"] = "request"
    measures: TargetKind = "any"
    header: str | None = None
    different: int = 0

    def suits(self, kind: TargetKind) -> bool:
        """Return whether it is for targets of a kind."""
        return self.measures == kind or (self.measures == "any" and kind == "ours")


SCENARIOS = (
    Scenario("request-1", "1 connection", "short", 1),
    Scenario("request-64", "64 connections", "short", 64),
    Scenario("body-32k", "32 KB body", "long", 8),
    Scenario("body-4m", "4 MB image", "image", 4),
    Scenario("stream-4", "4 streams", "stream", 4, unit="chunk"),
    Scenario("stream-32", "32 streams", "stream", 32, unit="chunk"),
    Scenario("stream-128", "128 streams", "stream", 128, unit="chunk"),
    Scenario("stream-256", "256 streams", "stream", 256, unit="chunk"),
    Scenario(
        "cache-miss", "miss, 64 connections", "unique", 64, measures="ours", header="x-cache: miss"
    ),
    Scenario(
        "cache-memory",
        "hit in memory, 64 connections",
        "same",
        64,
        measures="ours",
        header="x-cache: hit",
    ),
    # More answers than the layer in memory holds at 1 MiB, asked for in turn: it never has one.
    # With more connections, a slow machine spends the time that Redis is given on other requests.
    Scenario(
        "cache-redis",
        "hit in Redis, 16 connections",
        "unique",
        16,
        measures="redis",
        header="x-cache: hit",
        different=4096,
    ),
)


def body(kind: BodyKind, model: str, events: int) -> bytes:
    """Return the body of a request.

    Args:
        kind: Which one.
        model: The model that it asks for.
        events: Events that the mock engine shall stream.
    """
    fields: dict[str, Any] = {"model": model, "messages": [_message(kind)], "max_tokens": 64}
    if kind in {"unique", "same"}:
        fields["temperature"] = 0
    else:
        fields |= {"temperature": 0.7, "top_p": 0.95}
    if kind == "stream":
        fields |= {"max_tokens": events, "stream": True}
    return json.dumps(fields, separators=(",", ":")).encode()


def _message(kind: BodyKind) -> dict[str, Any]:
    words = "Tell me in a few words what the quick brown fox does to the lazy dog, and why. "
    if kind == "image":
        url = "data:image/png;base64," + base64.b64encode(noise_png(1024, 1000)).decode()
        parts = [
            {"type": "text", "text": words},
            {"type": "image_url", "image_url": {"url": url}},
        ]
        return {"role": "user", "content": parts}
    text = words * 410 if kind == "long" else words * 2 + "Be brief."
    return {"role": "user", "content": f"{BLANKS} {text}" if kind == "unique" else text}


def noise_png(width: int, height: int) -> bytes:
    """Return a valid PNG that cannot be compressed: three bytes a pixel."""
    rows = random.Random(1)  # noqa: S311  # pixels, the same in every run
    data = b"".join(b"\0" + rows.randbytes(3 * width) for _ in range(height))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(data, 0)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_png_part(name, content) for name, content in parts)


def _png_part(name: bytes, content: bytes) -> bytes:
    check = struct.pack(">I", zlib.crc32(name + content))
    return struct.pack(">I", len(content)) + name + content + check
