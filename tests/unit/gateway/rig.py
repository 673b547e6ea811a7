"""The upstream client and a server that misbehaves, put together for the tests of both."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Self

from llm_backend.gateway.response import Response
from llm_backend.gateway.upstream import Upstream, request_head
from tests.fault_server import FaultServer

LIMIT = 1024 * 1024
PATIENCE_S = 20
LOOPS = {
    "uvloop": ("asyncio", {"use_uvloop": True}),
    "asyncio": ("asyncio", {"use_uvloop": False}),
}


@dataclass(frozen=True)
class Rig:
    """A client, a server, and ways to make them talk."""

    upstream: Upstream
    server: FaultServer

    @classmethod
    @asynccontextmanager
    async def up(
        cls, upstream: Upstream | None = None, tls: ssl.SSLContext | None = None
    ) -> AsyncIterator[Self]:
        """Run both; expect that in the end no connection is left, on either side."""
        async with FaultServer(tls=tls) as server:
            rig = cls(upstream or Upstream(), server)
            yield rig
            assert rig.upstream.in_use == 0
            await rig.upstream.close()
            assert rig.upstream.open == rig.upstream.idle == 0
            await rig.quiet()

    async def quiet(self) -> None:
        """Wait until the server has no connection open."""
        async with asyncio.timeout(PATIENCE_S):
            await self.server.quiet()

    async def ask(
        self,
        path: str,
        body: bytes = b"{}",
        *,
        headers_timeout_s: float = PATIENCE_S,
        idle_timeout_s: float = PATIENCE_S,
        tls: bool = False,
    ) -> Response:
        host, port = self.server.host, self.server.port
        return await self.upstream.send(
            host,
            port,
            request_head("POST", path, f"{host}:{port}", len(body)),
            body,
            headers_timeout_s=headers_timeout_s,
            idle_timeout_s=idle_timeout_s,
            tls=tls,
        )

    async def get(self, path: str, body: bytes = b"{}") -> bytes:
        with await self.ask(path, body) as response:
            return await response.read(LIMIT)

    @asynccontextmanager
    async def none_left(self) -> AsyncIterator[None]:
        """Expect that afterwards no connection is open, idle ones included."""
        yield
        assert self.upstream.in_use == self.upstream.idle == 0
        await self.quiet()
