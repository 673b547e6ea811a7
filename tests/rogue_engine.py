"""An engine that misbehaves as it is asked to: `python tests/rogue_engine.py PORT`.

The field `fault` of a request names one of the paths of `fault_server.py`, or one of those here.
Requests without it are answered properly, so that it can be started and warmed up.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.fault_server import KIB, STREAM_HEAD, Call, FaultServer, answer, chunk

TRACEBACK = """Traceback (most recent call last):
  File "/opt/engine/lib/python3.12/site-packages/engine/core.py", line 7, in step
RuntimeError: <Tensor object at 0x7f3b5c0d8a90> in /opt/engine/secret.bin"""
DELTA = (
    b'data: {"object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
)


class RogueEngine(FaultServer):
    """The engine; what it adds to the faults of the server is what only its clients tell apart."""

    async def healthy(self, call: Call) -> None:
        await call.send(answer(b'{"object":"chat.completion","choices":[]}'))

    async def leak(self, call: Call) -> None:
        """Fail with an error that tells too much; `?status=N` with another status."""
        status = b"%d Failed" % call.number("status", 500)
        body = json.dumps({"error": {"message": TRACEBACK, "type": "x", "code": 1}}).encode()
        await call.send(answer(body, status=status))

    async def leak_400(self, call: Call) -> None:
        call.query["status"] = ["400"]
        await self.leak(call)

    async def leak_in_stream(self, call: Call) -> None:
        error = json.dumps({"error": {"message": TRACEBACK}}).encode()
        await call.send(STREAM_HEAD + chunk(DELTA) + chunk(b"data: " + error + b"\n\n"))
        await call.send(chunk(b"data: [DONE]\n\n") + chunk(b""))

    async def bomb(self, call: Call) -> None:
        """Send 64 MiB of zeros, packed."""
        packed = gzip.compress(bytes(64 * KIB * KIB))
        await call.send(answer(packed, b"Content-Encoding: gzip"))

    async def half_event(self, call: Call) -> None:
        await call.send(STREAM_HEAD + chunk(DELTA) + chunk(b'data: {"choices":') + chunk(b""))

    async def no_stream(self, call: Call) -> None:
        """Send what is no event stream, as one."""
        await call.send(STREAM_HEAD + chunk(b"<html>\n\n</html>\n\n") + chunk(b""))

    async def no_done(self, call: Call) -> None:
        await call.send(STREAM_HEAD + chunk(DELTA) + chunk(b""))

    async def endless_event(self, call: Call) -> None:
        await call.send(STREAM_HEAD + chunk(DELTA) + chunk(b"data: "))
        while True:
            await call.send(chunk(b"x" * 16 * KIB))

    async def endless_comments(self, call: Call) -> None:
        await call.send(STREAM_HEAD + chunk(DELTA))
        while True:
            await call.send(chunk(b": \n\n" * 4 * KIB))
            await asyncio.sleep(0.001)

    async def page(self, call: Call) -> None:
        """Answer 200 with what is no JSON."""
        await call.send(answer(b"<html>"))

    async def _converse(self, call: Call) -> None:
        while await call.receive_head():
            body = json.loads(await call.reader.readexactly(call.length) or b"{}")
            call.name = body.get("fault", "healthy")
            behave: Callable[[Call], Awaitable[None]] = getattr(self, call.name)
            await behave(call)
            call.first_on_connection = False


async def main(port: int) -> None:
    async with RogueEngine(port):
        await asyncio.Event().wait()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(main(int(sys.argv[1])))
