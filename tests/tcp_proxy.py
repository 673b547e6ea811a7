"""A TCP proxy in front of a server, which does to its answers what networks and bad luck do."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Literal

from tests.listener import Listener

Connect = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]
Fault = Literal["none", "freeze", "truncate", "garble"]

PIECE = 64 * 1024


class TcpProxy(Listener):
    """Passes bytes on, as its attributes say.

    Attributes:
        delay_s: An answer is late by up to so many seconds.
        fault: What happens to answers besides.
        connections: How many are open.
    """

    def __init__(self, connect: Connect) -> None:
        super().__init__()
        self._connect = connect
        self._random = random.Random(1)  # noqa: S311  # the same each time, and no secret
        self.delay_s = 0.0
        self.fault: Fault = "none"
        self.connections = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass on what comes."""
        self.connections += 1
        behind: asyncio.StreamWriter | None = None
        try:
            answers, behind = await self._connect()
            asking = asyncio.create_task(self._pass(reader, behind))
            answering = asyncio.create_task(self._pass(answers, writer, spoil=True))
            pair = {asking, answering}
            try:
                await asyncio.wait(pair, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for each in pair:
                    each.cancel()
                await asyncio.wait(pair)
        except (OSError, asyncio.CancelledError):
            pass  # the end of a connection is all that either side gets to know
        finally:
            self.connections -= 1
            for end in (writer, behind):
                if end is not None:
                    end.transport.abort()

    async def _pass(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, spoil: bool = False
    ) -> None:
        try:
            while piece := await source.read(PIECE):
                if spoil:
                    piece = await self._spoiled(piece)
                sink.write(piece)
                await sink.drain()
                if spoil and self.fault == "truncate":
                    return
        except OSError:
            return

    async def _spoiled(self, piece: bytes) -> bytes:
        if self.delay_s:
            await asyncio.sleep(self._random.random() * self.delay_s)
        if self.fault == "freeze":
            await asyncio.Event().wait()
        if self.fault == "truncate":
            return piece[: len(piece) // 2]
        if self.fault == "garble":
            return bytes(byte ^ 0x55 for byte in piece)
        return piece
