"""Where the CPU time of one plain request goes, in our gateway alone.

    python bench/anatomy.py [--calls]

The gateway runs in this process with all its stages, on an event loop of its own. Its two sockets
are replaced by objects that answer at once, so that nothing but Python is measured: what a real
request takes beyond that is the kernel's part, and caches that others have used meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import cProfile
import os
import pstats
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))  # a script finds only what lies beside it

from bench import own, programs  # noqa: E402  # needs the line above
from bench.processes import cores  # noqa: E402  # the same
from bench.scenarios import body  # noqa: E402  # the same
from bench.targets import KEY, MODEL  # noqa: E402  # the same
from llm_backend import server  # noqa: E402  # the same
from llm_backend.config import load_catalog, load_settings  # noqa: E402  # the same
from llm_backend.gateway.protocol import BoundedProtocol, bounded_protocol  # noqa: E402  # the same
from llm_backend.gateway.upstream import Upstream  # noqa: E402  # the same
from llm_backend.runtimes.ports import free_port  # noqa: E402  # the same
from llm_backend.telemetry import logs  # noqa: E402  # the same

BATCHES, REQUESTS = 60, 200

ANSWER = (
    b'{"id":"chatcmpl-0123456789abcdef","object":"chat.completion","created":1760000000,'
    b'"model":"bench","choices":[{"index":0,"message":{"role":"assistant","content":"Done."},'
    b'"logprobs":null,"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":42,"total_tokens":53,"completion_tokens":11}}'
)
ANSWERED = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (
    len(ANSWER),
    ANSWER,
)

STAGES: dict[str, tuple[str, tuple[str, ...]]] = {
    "client's connection: parse, begin a task": ("protocol.py", ("data_received",)),
    "host, headers, media type": ("guard.py", ("check", "of")),
    "key": ("auth.py", ("authorise",)),
    "body, model, bounds": ("pipeline.py", ("_understood",)),
    "cache: looked up or not": ("pipeline.py", ("_policy",)),
    "lease, and its return": ("switcher.py", ("lease", "take_in", "take_back")),
    "engine's connection: ask": ("upstream.py", ("send",)),
    "engine's connection: parse": ("response.py", ("feed",)),
    "answer: check, read tokens, write": ("relay.py", ("_pass_on",)),
    "metrics and log line": ("record.py", ("close",)),
}
"""Functions of a stage, with all that they call."""


class Socket:
    """A transport that leads nowhere."""

    def __init__(self, written: Callable[[bytes], object]) -> None:
        self.write = written

    def get_extra_info(self, _: str, default: object = None) -> object:
        """Know nothing more."""
        return default

    def is_closing(self) -> bool:
        """Stay open."""
        return False

    def get_write_buffer_size(self) -> int:
        """Keep nothing back."""
        return 0

    def pause_reading(self) -> None:
        """Take no notice."""

    resume_reading = close = abort = pause_reading


class Client:
    """Sends the same request again and again, and waits for its answer."""

    def __init__(self, protocol: BoundedProtocol) -> None:
        content = body("short", MODEL, 1)
        self._request = (
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:7000\r\n"
            b"content-type: application/json\r\ncontent-length: %d\r\n"
            b"authorization: Bearer %b\r\n\r\n%b" % (len(content), KEY.encode(), content)
        )
        self._protocol = protocol
        self._answered: asyncio.Future[None] | None = None
        protocol.connection_made(Socket(self._take))  # type: ignore[arg-type]  # all that it needs

    def _take(self, written: bytes) -> None:
        if not written.startswith(b"HTTP/1.1 200 "):
            raise AssertionError(written)
        if self._answered is not None:
            self._answered.set_result(None)

    async def ask(self, times: int) -> None:
        """Have it answered so many times."""
        for _ in range(times):
            self._answered = asyncio.get_running_loop().create_future()
            self._protocol.data_received(self._request)
            await self._answered
            await asyncio.sleep(0)  # the rest of the request's task


@contextlib.asynccontextmanager
async def served(folder: Path, engine: int) -> AsyncIterator[Client]:
    """Run a gateway in this process, cut off from its sockets."""
    root = folder / "gateway"
    own.configure(root, free_port("127.0.0.1"), engine, {})
    settings = load_settings(root, {}, {})
    logs.configure("info", "json")
    async with server._parts(settings, load_catalog(settings.catalog)) as edge:
        await edge.switcher.open()
        await edge.switcher.switch(MODEL)
        server._settle_down()
        http = server.GatewayServer(edge, bounded_protocol(32 * 1024, 10, 30))
        http.config.load()
        protocol = bounded_protocol(32 * 1024, 10, 30)(http.config, http.server_state, {})
        client = Client(protocol)
        await client.ask(1)
        with cut_off(edge.app._pipeline._stages.relay.upstream):
            yield client
        await edge.switcher.unload([MODEL])


@contextlib.contextmanager
def cut_off(upstream: Upstream) -> Iterator[None]:
    """Have the idle connection to the engine answer at once, without a system call."""
    ((connection,),) = upstream._idle.values()
    transport, loop = connection._transport, asyncio.get_running_loop()

    def answer(_: bytes) -> None:
        loop.call_soon(connection.data_received, ANSWERED)

    connection._transport = Socket(answer)  # type: ignore[assignment]  # all that it needs
    try:
        yield
    finally:
        connection._transport = transport


async def measured(client: Client) -> float:
    """Return the CPU time of one request in microseconds: the least of many batches."""
    least = float("inf")
    for _ in range(BATCHES):
        began = time.process_time_ns()
        await client.ask(REQUESTS)
        least = min(least, (time.process_time_ns() - began) / REQUESTS / 1000)
    return least


async def profiled(client: Client) -> pstats.Stats:
    """Profile a few batches."""
    profile = cProfile.Profile()
    profile.enable()
    await client.ask(10 * REQUESTS)
    profile.disable()
    return pstats.Stats(profile)


def share(stats: pstats.Stats, file: str, names: tuple[str, ...]) -> float:
    """Return the part of all time that these functions took, with all that they call.

    Raises:
        LookupError: one of them was never called; it has another name now.
    """
    rows = stats.stats.items()  # type: ignore[attr-defined]  # typeshed leaves it out
    taken: dict[str, float] = {
        name: row[3] for (path, _, name), row in rows if path.endswith(file) and name in names
    }
    if missing := set(names) - taken.keys():
        raise LookupError(f"nobody called {', '.join(sorted(missing))} of {file}")
    total: float = stats.total_tt  # type: ignore[attr-defined]  # the same
    return sum(taken.values()) / total


async def run(console: Console, *, calls: bool) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory(prefix="llm-bench-") as name:
        folder = Path(name)
        with programs.mock(cores()[0], folder / "mock.log") as engine:
            async with served(folder, engine) as client:
                whole = await measured(client)
                stats = await profiled(client)
    table = Table("part", "share", "about, in µs")
    rest = 1.0
    for stage, (file, names) in STAGES.items():
        part = share(stats, f"/{file}", names)
        rest -= part
        table.add_row(stage, f"{part:.0%}", f"{part * whole:.1f}")
    table.add_row("what holds them together", f"{rest:.0%}", f"{rest * whole:.1f}")
    table.add_row("all", "100%", f"{whole:.1f}", style="bold")
    console.print(table)
    console.print("Shares are cProfile's, which makes many small functions dearer than they are.")
    if calls:
        stats.sort_stats("tottime").print_stats(60)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--calls", action="store_true", help="print the dearest functions too")
    arguments = parser.parse_args()
    console = Console()
    # The gateway's log, which costs what it costs, is not what anybody wants to see here.
    log = os.open(os.devnull, os.O_WRONLY)
    os.dup2(log, sys.stderr.fileno())
    with server.uvicorn_runner() as runner:
        runner.run(run(console, calls=arguments.calls))
    return 0


if __name__ == "__main__":
    sys.exit(main())
