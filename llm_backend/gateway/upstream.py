"""The stage that talks to engines: a pool of connections of our own.

A general HTTP client costs more CPU than everything else that a request needs, so this one does
only what a gateway in front of a few engines has to: HTTP/1.1, one answer at a time on a
connection, nothing followed, decoded or remembered.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterable
from typing import Final

from llm_backend.errors import EngineGone, EngineTimeout, Overloaded, ShuttingDown
from llm_backend.gateway.connection import Connection, Origin
from llm_backend.gateway.response import Response

CLOSE_S: Final = 5.0

_NEVER_FORWARDED: Final = frozenset(
    (
        b"accept-encoding authorization connection content-length content-type cookie expect"
        b" forwarded host keep-alive proxy-authenticate proxy-authorization proxy-connection te"
        b" trailer transfer-encoding upgrade x-api-key"
    ).split()
)
"""Headers that concern one connection, that carry credentials, or that are set here."""


def request_head(
    method: str,
    path: str,
    host: str,
    length: int | None,
    extra: Iterable[tuple[bytes, bytes]] = (),
    *,
    key: str | None = None,
) -> bytes:
    """Return request line and headers.

    Args:
        method: `GET` or `POST`; where the answer to a HEAD ends cannot be told here.
        path: Target, query included.
        host: Value of the Host header.
        length: Bytes of the JSON body; None where there is none.
        extra: More headers. Hop-by-hop ones and credentials among them are left out.
        key: Bearer key that the engine wants.

    Raises:
        ValueError: one of these holds a line break or a NUL.
    """
    fields = [(b"host", host.encode()), (b"accept-encoding", b"identity")]
    if length is not None:
        fields += (b"content-type", b"application/json"), (b"content-length", b"%d" % length)
    if key is not None:
        fields.append((b"authorization", b"Bearer " + key.encode()))
    fields += (field for field in extra if field[0].lower() not in _NEVER_FORWARDED)
    first = f"{method} {path} HTTP/1.1\r\n".encode()
    head = first + b"".join(b"%b: %b\r\n" % field for field in fields) + b"\r\n"
    breaks = len(fields) + 2
    if head.count(b"\n") != breaks or head.count(b"\r") != breaks or b"\0" in head:
        raise ValueError(f"a header of {method} {path!r} holds a line break or a NUL")
    return head


class Upstream:
    """Connections to engines, kept alive between requests.

    The connection used last is used next (last in, first out), so that what is not needed goes
    idle long enough to be closed.

    Args:
        connect_timeout_s: Longest wait for a connection.
        max_idle_per_origin: Connections to one engine that are kept for later.
        max_connections: Open connections to all engines together.
    """

    def __init__(
        self,
        *,
        connect_timeout_s: float = 5.0,
        max_idle_per_origin: int = 64,
        max_connections: int = 1024,
    ) -> None:
        self._connect_timeout_s = connect_timeout_s
        self._max_idle_per_origin = max_idle_per_origin
        self._max_connections = max_connections
        self._all: set[Connection] = set()
        self._used: set[Connection] = set()
        self._idle: dict[Origin, list[Connection]] = {}
        self._closing = False
        self._emptied = asyncio.Event()
        self._tls: ssl.SSLContext | None = None

    @property
    def open(self) -> int:
        """Number of sockets, those being opened and closed included."""
        return len(self._all)

    @property
    def in_use(self) -> int:
        """Number of connections with a request on them, or being made for one."""
        return len(self._used)

    @property
    def idle(self) -> int:
        """Number of connections that wait for a request."""
        return sum(map(len, self._idle.values()))

    async def send(
        self,
        host: str,
        port: int,
        head: bytes,
        body: bytes,
        *,
        headers_timeout_s: float,
        idle_timeout_s: float,
        tls: bool = False,
    ) -> Response:
        """Send a request to an engine; return its answer when the headers are there.

        Await it directly, and close what it returns (`with await upstream.send(...) as response`).
        A request that an idle connection could not carry any more, because the engine had
        closed it, is sent once more on a new one.

        Args:
            host: Where the engine listens.
            port: Its port.
            head: What `request_head` returned.
            body: The body; empty where there is none.
            headers_timeout_s: Longest time from the start until all headers are there.
            idle_timeout_s: Longest silence between two pieces of the body.
            tls: Whether the engine speaks HTTPS.

        Raises:
            EngineGone: there is no connection, or the engine closed it.
            EngineBroke: what the engine sent is not a valid answer.
            EngineTimeout: the engine was silent for too long.
            Overloaded: all connections are in use.
            ShuttingDown: `close` was called.
        """
        if self._closing:
            raise ShuttingDown("The gateway is stopping.")
        origin = Origin(host, port, tls)
        connection = self._rested(origin)
        if connection is not None:
            try:
                return await connection.ask(head, body, headers_timeout_s, idle_timeout_s)
            except EngineGone:
                if not connection.stale:
                    raise
        connection = await self._connect(origin)
        return await connection.ask(head, body, headers_timeout_s, idle_timeout_s)

    async def close(self) -> None:
        """Close all connections; answers that are being read end in `ShuttingDown`."""
        self._closing = True
        for connection in self._all.copy():
            connection.abort(ShuttingDown("The gateway is stopping."))
        async with asyncio.timeout(CLOSE_S):
            while self._all:
                self._emptied.clear()
                await self._emptied.wait()

    def released(self, connection: Connection, *, reusable: bool) -> None:
        """Keep a connection for later, if that may be."""
        self._used.discard(connection)
        if not reusable:
            return
        stack = self._idle.setdefault(connection.origin, [])
        if len(stack) < self._max_idle_per_origin and not self._closing:
            stack.append(connection)
        else:
            connection.close()

    def lost(self, connection: Connection) -> None:
        """Forget a connection whose socket is closed."""
        self._all.discard(connection)
        self._used.discard(connection)
        stack = self._idle.get(connection.origin, [])
        if connection in stack:
            stack.remove(connection)
        if not stack:
            self._idle.pop(connection.origin, None)
        if not self._all:
            self._emptied.set()

    def _rested(self, origin: Origin) -> Connection | None:
        stack = self._idle.get(origin)
        while stack:
            connection = stack.pop()
            if connection.usable:
                self._used.add(connection)
                return connection
            connection.close()
        return None

    async def _connect(self, origin: Origin) -> Connection:
        self._make_room()
        connection = Connection(asyncio.get_running_loop(), origin, self)
        self._all.add(connection)
        self._used.add(connection)
        try:
            await self._dial(connection)
        except BaseException:
            connection.close()
            self.lost(connection)  # the event loop may not tell of one that was never handed out
            raise
        return connection

    def _make_room(self) -> None:
        if len(self._all) < self._max_connections:
            return
        for stack in self._idle.values():
            if stack:
                stack.pop(0).close()
                return
        raise Overloaded(
            f"All {self._max_connections} connections to engines are in use.", retry_after_s=1
        )

    async def _dial(self, connection: Connection) -> None:
        loop = asyncio.get_running_loop()
        host, port, tls = connection.origin
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                context = await self._context() if tls else None
                await loop.create_connection(lambda: connection, host, port, ssl=context)
        except TimeoutError as error:
            within = f"within {self._connect_timeout_s:g} s"
            raise EngineTimeout(f"The engine took no connection {within}.") from error
        except OSError as error:
            raise EngineGone("The engine takes no connection.") from error

    async def _context(self) -> ssl.SSLContext:
        if self._tls is None:  # reads the certificates of this machine
            self._tls = await asyncio.to_thread(ssl.create_default_context)
        return self._tls
