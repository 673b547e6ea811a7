"""The fake engine's side of HTTP/1.1: as much of it as HTTP clients need, and a way to break it."""

from __future__ import annotations

import asyncio
import json
from http import HTTPStatus
from urllib.parse import parse_qs

from llm_backend.testing.fake_answers import JSONObject


class Exchange:
    """One request on a connection, and the way to answer it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.method = self.path = ""
        self.query: dict[str, list[str]] = {}
        self.headers: dict[str, str] = {}
        self.body: JSONObject = {}

    async def read(self) -> bool:
        """Read the next request; return whether there was one."""
        try:
            head = await self._reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            return False
        first, *lines = head.decode("latin-1").rstrip().split("\r\n")
        self.method, target, _ = first.split(" ")
        self.path, _, query = target.partition("?")
        self.query = parse_qs(query)
        pairs = (line.partition(":") for line in lines)
        self.headers = {name.lower(): value.strip() for name, _, value in pairs}
        length = int(self.headers.get("content-length", 0))
        self.body = json.loads(await self._reader.readexactly(length)) if length else {}
        return True

    async def answer(self, status: int, content: bytes, kind: str = "application/json") -> None:
        """Send a whole answer."""
        head = self._head(status, kind) + f"content-length: {len(content)}\r\n\r\n"
        self._writer.write(head.encode() + content)
        await self._writer.drain()

    async def answer_json(self, value: object, status: int = 200) -> None:
        """Send a JSON value."""
        await self.answer(status, json.dumps(value).encode())

    async def refuse(self, status: int, message: str) -> None:
        """Send an error as vLLM words it."""
        kind = HTTPStatus(status).phrase.replace(" ", "").removesuffix("Error") + "Error"
        error = {"message": message, "type": kind, "param": None, "code": status}
        await self.answer_json({"error": error}, status)

    def begin_stream(self) -> None:
        """Send the head of a stream of events."""
        head = self._head(200, "text/event-stream; charset=utf-8")
        self._writer.write(head.encode() + b"transfer-encoding: chunked\r\n\r\n")

    async def send(self, data: bytes) -> None:
        """Send a piece of the stream; nothing ends it."""
        self._writer.write(b"%x\r\n%s\r\n" % (len(data), data))
        await self._writer.drain()

    def cut(self) -> None:
        """Drop the connection."""
        self._writer.transport.abort()

    def check_client(self) -> None:
        """Raise ConnectionResetError where the client has left."""
        if self._reader.at_eof():
            raise ConnectionResetError

    async def until_gone(self) -> None:
        """Wait until the client leaves."""
        await self._reader.read()
        raise ConnectionResetError

    def _head(self, status: int, kind: str) -> str:
        head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: {kind}\r\n"
        if ident := self.headers.get("x-request-id"):
            head += f"x-request-id: {ident}\r\n"
        return head
