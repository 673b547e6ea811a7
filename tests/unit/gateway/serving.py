"""An application behind the protocol under test, and bare clients of it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import uvicorn
from starlette.types import Receive, Scope, Send

from llm_backend.gateway.exchange import ClientGone, Exchange
from llm_backend.gateway.protocol import BoundedProtocol, bounded_protocol

PATIENCE_S = 20
HEAD_BYTES = 4096
GET = b"GET /%s HTTP/1.1\r\nhost: x\r\n\r\n"
POST = b"POST /body HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n"
CHUNKED = b"POST /body HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"


class App:
    """Answers with the path; `/wait` waits for `go`, `/flood` never ends, `/body` reads it all."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.begun = asyncio.Semaphore(0)
        self.left = asyncio.Semaphore(0)
        self.scopes: list[Scope] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scopes.append(scope)
        exchange = Exchange(scope, receive, send, lambda _: "id")
        self.begun.release()
        try:
            await self._answer(scope["path"].strip("/"), exchange)
        except ClientGone:
            self.left.release()

    async def _answer(self, path: str, exchange: Exchange) -> None:
        body = await exchange.body(10**6) if path in {"body", "hold"} else b""
        with exchange.client_watched():
            if path in {"wait", "hold"}:
                await self.go.wait()
            if path == "flood":
                await exchange.start(200, b"text/plain")
                while True:
                    await exchange.write(b"x" * 65536)
            await exchange.answer(200, b"text/plain", path.encode() + body)


class Client:
    """A bare connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        with suppress(ConnectionError):
            self.writer.write(data)
            await self.writer.drain()

    async def answer(self) -> tuple[int, bytes]:
        async with asyncio.timeout(PATIENCE_S):
            head = await self.reader.readuntil(b"\r\n\r\n")
            length = head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]
            return int(head.split(b" ")[1]), await self.reader.readexactly(int(length))

    async def ended(self) -> bytes:
        """Return what is left until the server hangs up."""
        rest = b""
        async with asyncio.timeout(PATIENCE_S):
            with suppress(ConnectionError):
                while piece := await self.reader.read(65536):
                    rest += piece
        return rest


class Rig:
    def __init__(self, app: App, server: uvicorn.Server, port: int) -> None:
        self.app = app
        self.server = server
        self.port = port

    @asynccontextmanager
    async def client(self, **options: Any) -> AsyncIterator[Client]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, **options)
        try:
            yield Client(reader, writer)
        finally:
            writer.transport.abort()

    async def quiet(self) -> None:
        """Wait until neither connection nor request is left."""
        async with asyncio.timeout(PATIENCE_S):
            state = self.server.server_state
            while state.connections or state.tasks:  # noqa: ASYNC110  # nobody tells
                await asyncio.sleep(0.01)


class Server(uvicorn.Server):
    def install_signal_handlers(self) -> None:
        """Leave signals to pytest."""


@asynccontextmanager
async def served(protocol: type[BoundedProtocol]) -> AsyncIterator[Rig]:
    app = App()
    config = uvicorn.Config(
        app, http=protocol, lifespan="off", log_config=None, access_log=False, ws="none"
    )
    server = Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        running = asyncio.create_task(server.serve(sockets=[listener]))
        while not server.started:  # noqa: ASYNC110  # nobody tells
            await asyncio.sleep(0.005)
        try:
            yield Rig(app, server, listener.getsockname()[1])
        finally:
            server.should_exit = True
            await running


@asynccontextmanager
async def hasty() -> AsyncIterator[Rig]:
    """Serve with half a second for heads and bodies; expect that nothing is left."""
    async with served(bounded_protocol(HEAD_BYTES, head_s=0.5, body_s=0.5)) as rig:
        yield rig
        await rig.quiet()
