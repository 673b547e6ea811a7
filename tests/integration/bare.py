"""Bare connections to a gateway, for tests that write their own bytes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import httpx2

from tests.harness import PATIENCE_S, GatewayHome


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


class Talk:
    """One bare connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        with suppress(ConnectionError):
            self.writer.write(data)
            await self.writer.drain()

    async def answer(self) -> Answer:
        async with asyncio.timeout(PATIENCE_S):
            head = await self.reader.readuntil(b"\r\n\r\n")
            first, *lines = head.decode("latin-1").rstrip().split("\r\n")
            headers = {n.lower(): v for n, v in (line.split(": ", 1) for line in lines)}
            length = int(headers.get("content-length", 0))
            body = await self.reader.readexactly(length)
        return Answer(int(first.split(" ")[1]), headers, body)

    async def answers(self, within_s: float) -> list[Answer]:
        """Return all until the gateway hangs up."""
        found: list[Answer] = []
        async with asyncio.timeout(within_s):
            with suppress(asyncio.IncompleteReadError, ConnectionError):
                while True:
                    found.append(await self.answer())
        return found


@asynccontextmanager
async def talk(home: GatewayHome) -> AsyncIterator[Talk]:
    address = httpx2.URL(home.url)
    reader, writer = await asyncio.open_connection(address.host, address.port)
    try:
        yield Talk(reader, writer)
    finally:
        writer.transport.abort()
