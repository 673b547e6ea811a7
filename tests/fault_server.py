"""An HTTP server that misbehaves on purpose, each path in its own way.

`python tests/fault_server.py [PORT]` runs it on loopback until it is interrupted and prints its
address first. Tests run `FaultServer` on their own event loop and ask it what it saw.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs, urlsplit

KIB = 1024
ANSWER = b'{"ok":true}'
PIECE = b"x" * 16 * KIB
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
)


class Hangup(Exception):
    """Close the connection now."""


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def answer(body: bytes = ANSWER, *headers: bytes, status: bytes = b"200 OK") -> bytes:
    fields = (b"Content-Type: application/json", b"Content-Length: %d" % len(body), *headers)
    return b"HTTP/1.1 " + status + b"\r\n" + b"".join(f + b"\r\n" for f in fields) + b"\r\n" + body


class Call:
    """One request, and the way back."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: int
    ) -> None:
        self.reader = reader
        self.writer = writer
        self.connection = connection
        self.first_on_connection = True
        self.name = ""
        self.query: dict[str, list[str]] = {}
        self.length = 0

    async def receive_head(self) -> bool:
        try:
            head = await self.reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return False
        line, *fields = head.decode("latin-1").split("\r\n")
        target = urlsplit(line.split(" ")[1])
        self.name = target.path.strip("/").replace("-", "_")
        self.query = parse_qs(target.query)
        lengths = [f.split(":")[1] for f in fields if f.lower().startswith("content-length:")]
        self.length = int(lengths[0]) if lengths else 0
        return True

    def number(self, name: str, default: int) -> int:
        return int(self.query.get(name, [str(default)])[0])

    async def send(self, data: bytes) -> None:
        if self.writer.transport.is_closing():
            raise Hangup
        self.writer.write(data)
        await self.writer.drain()

    async def silence(self) -> None:
        """Say nothing until the client has closed the connection."""
        while await self.reader.read(64 * KIB):
            pass
        raise Hangup

    def reset(self) -> None:
        """Close with RST instead of FIN."""
        if not self.writer.transport.is_closing():
            raw: socket.socket = self.writer.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.writer.transport.abort()
        raise Hangup


class Faults:
    """What the paths do: `/cut-chunk` is `cut_chunk`. Those that return keep the connection."""

    async def ok(self, call: Call) -> None:
        """Answer properly; `?size=N` bytes."""
        await call.send(answer(b"y" * call.number("size", 0) or ANSWER))

    async def which(self, call: Call) -> None:
        """Answer which connection it is, counted from 1."""
        await call.send(answer(b"%d" % call.connection))

    async def stream(self, call: Call) -> None:
        """Stream `?events=N` events properly."""
        await call.send(STREAM_HEAD)
        for number in range(call.number("events", 3)):
            await call.send(chunk(b"data: %d\n\n" % number))
            await asyncio.sleep(0)
        await call.send(chunk(b"data: [DONE]\n\n") + chunk(b""))

    async def trailers(self, call: Call) -> None:
        await call.send(STREAM_HEAD + chunk(b"data: 1\n\n") + b"0\r\nX-Late: 1\r\n\r\n")

    async def hint(self, call: Call) -> None:
        """Allow the connection `?max=N` requests and `?timeout=S` seconds."""
        hint = b"timeout=%d, max=%d" % (call.number("timeout", 5), call.number("max", 100))
        await call.send(answer(ANSWER, b"Keep-Alive: " + hint))

    async def stale(self, call: Call) -> None:
        """Keep the connection alive, then close it when the next request comes."""
        if not call.first_on_connection:
            raise Hangup
        await call.send(answer())

    async def stale_reset(self, call: Call) -> None:
        if not call.first_on_connection:
            call.reset()
        await call.send(answer())

    async def stale_midway(self, call: Call) -> None:
        """Close the connection amid the second answer."""
        if not call.first_on_connection:
            await call.send(b"HTTP/1.1 200 OK\r\nContent-")
            raise Hangup
        await call.send(answer())

    async def closes_idle(self, call: Call) -> None:
        """Promise keep-alive and close the connection after the answer."""
        await call.send(answer())
        raise Hangup

    async def says_close(self, call: Call) -> None:
        await call.send(answer(ANSWER, b"Connection: close"))
        raise Hangup

    async def http10(self, call: Call) -> None:
        """Answer in HTTP/1.0 without a length: the end of the connection is the end."""
        await call.send(b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n" + ANSWER)
        raise Hangup

    async def interim(self, call: Call) -> None:
        """Answer 100 and 103 first."""
        await call.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        await call.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
        await call.send(answer())

    async def endless_interim(self, call: Call) -> None:
        while True:
            await call.send(b"HTTP/1.1 102 Processing\r\n\r\n" * 100)

    async def redirect(self, call: Call) -> None:
        """Redirect to `/trap`, which does not exist."""
        await call.send(answer(b"", b"Location: /trap", status=b"302 Found"))

    async def no_content(self, call: Call) -> None:
        await call.send(b"HTTP/1.1 204 No Content\r\n\r\n")

    async def refuse(self, call: Call) -> None:
        """Answer 400."""
        await call.send(answer(b'{"error":"no"}', status=b"400 Bad Request"))

    async def gzip(self, call: Call) -> None:
        await call.send(answer(b"\x1f\x8b\x08\x00", b"Content-Encoding: gzip"))

    async def gzip_transfer(self, call: Call) -> None:
        await call.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n\x1f\x8b")

    async def two_framings(self, call: Call) -> None:
        await call.send(answer(ANSWER, b"Transfer-Encoding: chunked"))

    async def upgrade(self, call: Call) -> None:
        head = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"
        await call.send(head + b"anything")

    async def bad_status(self, call: Call) -> None:
        await call.send(b"HTTP/1.1 two hundred\r\n\r\n")

    async def odd_status(self, call: Call) -> None:
        await call.send(answer(status=b"999 Odd"))

    async def not_http(self, call: Call) -> None:
        await call.send(b"SSH-2.0-OpenSSH_9.2\r\n")

    async def bad_chunk(self, call: Call) -> None:
        await call.send(STREAM_HEAD + chunk(b"data: 1\n\n"))
        await call.send(b"zz\r\n")

    async def cut_chunk(self, call: Call) -> None:
        await call.send(STREAM_HEAD + chunk(b"data: 1\n\n") + b"20\r\ndata: 2")
        raise Hangup

    async def no_end(self, call: Call) -> None:
        """Leave out the last chunk."""
        await call.send(STREAM_HEAD + chunk(b"data: 1\n\n"))
        raise Hangup

    async def cut_length(self, call: Call) -> None:
        await call.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + b"z" * 99)
        raise Hangup

    async def cut_head(self, call: Call) -> None:
        await call.send(b"HTTP/1.1 200 OK\r\nContent-Type: appl")
        raise Hangup

    async def no_answer(self, call: Call) -> None:
        await call.send(b"")
        raise Hangup

    async def reset_first(self, call: Call) -> None:
        call.reset()

    async def reset_midway(self, call: Call) -> None:
        await call.send(STREAM_HEAD + chunk(b"data: 1\n\n"))
        await asyncio.sleep(0.05)  # a reset overtakes data that has not been read yet
        call.reset()

    async def silent(self, call: Call) -> None:
        await call.silence()

    async def silent_midway(self, call: Call) -> None:
        await call.send(STREAM_HEAD + chunk(b"data: 1\n\n"))
        await call.silence()

    async def slow_head(self, call: Call) -> None:
        """Send a header every 10 ms, for ever."""
        await call.send(b"HTTP/1.1 200 OK\r\n")
        while True:
            await call.send(b"X-Slow: 1\r\n")
            await asyncio.sleep(0.01)

    async def slow_stream(self, call: Call) -> None:
        """Send `?events=N` events, one every `?ms=N`."""
        await call.send(STREAM_HEAD)
        for number in range(call.number("events", 10)):
            await asyncio.sleep(call.number("ms", 20) / 1000)
            await call.send(chunk(b"data: %d\n\n" % number))
        await call.send(chunk(b"data: [DONE]\n\n") + chunk(b""))

    async def big_header(self, call: Call) -> None:
        await call.send(answer(ANSWER, b"X-Big: " + b"h" * 5 * KIB * KIB))

    async def bigger_header(self, call: Call) -> None:
        """Send a header just over the limit, whole and in one piece."""
        await call.send(answer(ANSWER, b"X-Big: " + b"h" * 66 * KIB))

    async def many_headers(self, call: Call) -> None:
        await call.send(answer(ANSWER, *(b"X-%d: 1" % number for number in range(1000))))

    async def endless_header(self, call: Call) -> None:
        await call.send(b"HTTP/1.1 200 OK\r\nX-Endless: ")
        while True:
            await call.send(PIECE)

    async def endless_trailer(self, call: Call) -> None:
        await call.send(STREAM_HEAD + chunk(b"data: 1\n\n") + b"0\r\nX-Endless: ")
        while True:
            await call.send(PIECE)

    async def endless_extension(self, call: Call) -> None:
        await call.send(STREAM_HEAD + b"5;a=")
        while True:
            await call.send(PIECE)

    async def endless_body(self, call: Call) -> None:
        await call.send(STREAM_HEAD)
        while True:
            await call.send(chunk(PIECE))

    async def garbage_after(self, call: Call) -> None:
        """Send something after the whole answer, in the same piece."""
        await call.send(answer() + b"HTTP/9 garbage")

    async def garbage_later(self, call: Call) -> None:
        """Send something after the whole answer, some time later."""
        await call.send(answer())
        await asyncio.sleep(0.02)
        await call.send(b"garbage")
        await call.silence()

    async def two_answers(self, call: Call) -> None:
        await call.send(answer() + answer(b"for somebody else"))

    async def early_answer(self, call: Call) -> None:
        """Answer without having read the body (see `UNREAD`)."""
        await call.send(answer(b'{"error":"too large"}', status=b"413 Content Too Large"))
        await call.silence()

    async def never_read(self, call: Call) -> None:
        """Leave the body unread, say nothing, and hang up after `?ms=N`."""
        await asyncio.sleep(call.number("ms", 3_600_000) / 1000)
        raise Hangup


UNREAD = frozenset({"early_answer", "never_read"})


class FaultServer(Faults):
    """The server.

    `requests` counts paths, `accepted` connections, `received` bytes of bodies.
    """

    def __init__(self, port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        self.host = "127.0.0.1"
        self.port = port
        self.requests: Counter[str] = Counter()
        self.accepted = 0
        self.received = 0
        self._tls = tls
        self._calls: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(
            self._accept, self.host, self.port, backlog=1024, ssl=self._tls
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._calls:
            task.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)

    @property
    def connections(self) -> int:
        """Connections that are open now."""
        return len(self._calls)

    async def quiet(self) -> None:
        """Wait until no connection is open."""
        while self._calls:
            await self._change()

    async def asked(self, times: int) -> None:
        """Wait until so many requests have come."""
        while self.requests.total() < times:
            await self._change()

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        task = asyncio.create_task(self._serve(Call(reader, writer, self.accepted)))
        self._calls.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._calls.discard(task)
        self._changed.set()

    async def _serve(self, call: Call) -> None:
        try:
            with suppress(OSError, Hangup, asyncio.IncompleteReadError):
                await self._converse(call)
        finally:
            call.writer.close()

    async def _converse(self, call: Call) -> None:
        while await call.receive_head():
            self.requests[call.name] += 1
            self._changed.set()
            if call.name not in UNREAD:
                self.received += len(await call.reader.readexactly(call.length))
            behave: Callable[[Call], Awaitable[None]] = getattr(self, call.name)
            await behave(call)
            call.first_on_connection = False


async def main(port: int) -> None:
    async with FaultServer(port) as server:
        print(f"http://{server.host}:{server.port}", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 0))
