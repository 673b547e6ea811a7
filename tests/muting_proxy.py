"""A proxy in front of the gateway that swallows its signs of life: comments and pings of streams.

It is the control of every test that shows what the signs are good for.
"""

from __future__ import annotations

import asyncio
import contextlib

from tests.listener import Listener

SIGNS = (b":", b"event: ping")
"""How the pieces of a stream begin that only say that somebody is there."""

HEAD_LIMIT = 64 * 1024


class MutingProxy(Listener):
    """Passes requests on, and answers without the signs.

    Args:
        port: Of the gateway, on 127.0.0.1.

    Attributes:
        swallowed: How many signs it has kept for itself.
    """

    def __init__(self, port: int) -> None:
        super().__init__()
        self._to = port
        self.swallowed = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass on what comes."""
        answers, behind = await asyncio.open_connection("127.0.0.1", self._to, limit=HEAD_LIMIT)
        asking = asyncio.create_task(_pass(reader, behind))
        try:
            with contextlib.suppress(OSError, EOFError, asyncio.CancelledError):
                while True:
                    await self._answer(answers, writer)
        finally:
            asking.cancel()
            behind.transport.abort()
            writer.close()

    async def _answer(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        head = await source.readuntil(b"\r\n\r\n")
        sink.write(head)
        fields = dict(
            line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line
        )
        if b"content-length" in fields:
            sink.write(await source.readexactly(int(fields[b"content-length"])))
        while b"content-length" not in fields:
            size = await source.readuntil(b"\r\n")
            piece = await source.readexactly(int(size, 16) + 2)
            if piece.startswith(SIGNS):
                self.swallowed += 1
                continue
            sink.write(size + piece)
            if piece == b"\r\n":
                break
        await sink.drain()


async def _pass(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while piece := await source.read(HEAD_LIMIT):
            sink.write(piece)
            await sink.drain()
