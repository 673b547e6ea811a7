"""A connection's deadlines and rests, on a clock that the tests move."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from llm_backend.errors import EngineGone, EngineTimeout
from llm_backend.gateway.connection import SLICE, Connection, Origin
from llm_backend.gateway.response import Response
from tests.unit.gateway.clock import Clock

pytestmark = pytest.mark.anyio

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n"


class Socket(asyncio.Transport):
    """The other end of nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.unsent = 0
        self.aborted = False
        self.reading = True

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def abort(self) -> None:
        self.aborted = True


class Owner:
    """A pool that writes down what comes back."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def released(self, connection: Connection, *, reusable: bool) -> None:
        assert connection.closed is not reusable
        self.said.append("rests" if reusable else "closed")

    def lost(self, connection: Connection) -> None:
        assert connection.closed
        self.said.append("lost")


class Bench:
    """A connection with everything around it."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.socket = Socket()
        self.owner = Owner()
        self.connection = Connection(self.clock.loop, Origin("engine", 1, tls=False), self.owner)
        self.connection.connection_made(self.socket)

    async def ask(self, body: bytes = b"") -> asyncio.Task[Response]:
        """Send a request whose headers have 10 s and whose silences have 2 s."""
        task = asyncio.create_task(self.connection.ask(b"head", body, 10, 2))
        await asyncio.sleep(0)
        return task

    async def served(self, head: bytes = OK) -> None:
        """Have one request answered."""
        task = await self.ask()
        self.connection.data_received(head + b"\r\n")
        await task


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.connection.connection_lost(None)
    assert bench.clock.timers == []


async def test_head_and_small_body_are_one_write(bench: Bench) -> None:
    task = await bench.ask(b"body")
    bench.connection.data_received(OK + b"\r\n")

    assert (await task).status == 200
    assert bench.socket.written == [b"headbody"]
    assert bench.owner.said == ["rests"]


async def test_a_large_body_goes_as_fast_as_the_engine_reads(bench: Bench) -> None:
    body = b"x" * (2 * SLICE + 1)
    bench.connection.pause_writing()
    task = await bench.ask(body)
    assert bench.socket.written == [b"head"]

    bench.connection.resume_writing()
    await asyncio.sleep(0)
    assert b"".join(bench.socket.written) == b"head" + body

    bench.connection.data_received(OK + b"\r\n")
    await task
    assert bench.owner.said == ["rests"]


async def test_an_early_answer_ends_the_sending_and_the_connection(bench: Bench) -> None:
    bench.connection.pause_writing()
    task = await bench.ask(b"x" * (2 * SLICE))
    bench.connection.data_received(OK + b"\r\n")

    assert (await task).status == 200
    assert bench.socket.written == [b"head"]
    assert bench.owner.said == ["closed"]


@pytest.mark.parametrize("unsent", [0, 1])
async def test_a_connection_rests_only_when_the_request_is_out(bench: Bench, unsent: int) -> None:
    bench.socket.unsent = unsent

    await bench.served()

    assert bench.owner.said == ["closed" if unsent else "rests"]
    assert bench.socket.aborted == bool(unsent)


@pytest.mark.parametrize(
    ("header", "rest_s"),
    [
        (b"", 4),
        (b"Keep-Alive: timeout=10\r\n", 8),
        (b"Keep-Alive: max=7, timeout=20\r\n", 16),
        (b"Keep-Alive: timeout=86400\r\n", 60),
        (b"Keep-Alive: nonsense\r\n", 4),
    ],
)
async def test_a_connection_rests_for_less_than_the_engine_allows(
    bench: Bench, header: bytes, rest_s: float
) -> None:
    await bench.served(OK + header)

    bench.clock.advance(rest_s - 0.1)
    assert bench.connection.usable
    bench.clock.advance(0.2)
    assert not bench.connection.usable
    assert bench.socket.aborted


async def test_a_rest_that_is_over_counts_even_if_the_loop_is_late(bench: Bench) -> None:
    await bench.served()

    bench.clock.now += 5

    assert not bench.connection.usable


async def test_no_timeout_means_no_rest(bench: Bench) -> None:
    await bench.served(OK + b"Keep-Alive: timeout=0\r\n")

    assert not bench.connection.usable


@pytest.mark.parametrize("said", [b"HTTP/1.1 408 Request Timeout\r\n\r\n", b"\0"])
async def test_what_comes_at_rest_ends_the_connection(bench: Bench, said: bytes) -> None:
    await bench.served()

    bench.connection.data_received(said)

    assert bench.socket.aborted
    assert not bench.connection.usable


async def test_the_engines_maximum_of_requests_is_kept(bench: Bench) -> None:
    for _ in range(3):
        await bench.served(OK + b"Keep-Alive: max=3\r\n")

    assert bench.owner.said == ["rests", "rests", "closed"]


@pytest.mark.parametrize(("requests", "after_s", "stale"), [(2, 0.5, 1), (2, 1.5, 0), (1, 0.5, 0)])
async def test_stale_is_what_was_closed_at_rest(
    bench: Bench, requests: int, after_s: float, stale: int
) -> None:
    for _ in range(requests - 1):
        await bench.served()
    task = await bench.ask()
    bench.clock.advance(after_s)
    bench.connection.connection_lost(None)

    with pytest.raises(EngineGone, match="without an answer"):
        await task
    assert bench.connection.stale == bool(stale)


async def test_a_connection_that_answered_in_part_is_not_stale(bench: Bench) -> None:
    await bench.served()
    task = await bench.ask()
    bench.connection.data_received(b"HTTP")
    bench.connection.eof_received()

    with pytest.raises(EngineGone):
        await task
    assert not bench.connection.stale


async def test_slow_headers_do_not_move_their_deadline(bench: Bench) -> None:
    task = await bench.ask()
    for _ in range(9):
        bench.clock.advance(1)
        bench.connection.data_received(
            b"HTTP/1.1 200 OK\r\n" if bench.clock.now == 1 else b"a: b\r\n"
        )
    bench.clock.advance(1)

    with pytest.raises(EngineTimeout, match="within 10 s"):
        await task
    assert bench.socket.aborted


async def test_each_piece_moves_the_deadline_of_the_next(bench: Bench) -> None:
    task = await bench.ask()
    bench.connection.data_received(b"HTTP/1.1 200 OK\r\n\r\n")
    response = await task
    for _ in range(9):
        bench.clock.advance(1.9)
        bench.connection.data_received(b"x")
    bench.clock.advance(2)

    assert await anext(response) == b"x" * 9
    with pytest.raises(EngineTimeout, match="silent for 2 s"):
        await anext(response)


async def test_there_is_no_deadline_while_the_reader_is_slow(bench: Bench) -> None:
    task = await bench.ask()
    bench.connection.data_received(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 300_000)
    response = await task
    assert not bench.socket.reading

    bench.clock.advance(1000)
    assert len(await anext(response)) == 300_000
    assert bench.socket.reading

    bench.clock.advance(2)
    with pytest.raises(EngineTimeout):
        await anext(response)


async def test_a_connection_that_was_given_up_while_it_was_made_is_closed(bench: Bench) -> None:
    late = Connection(bench.clock.loop, Origin("engine", 1, tls=False), bench.owner)
    late.close()

    late.connection_made(bench.socket)

    assert bench.socket.aborted
    with pytest.raises(EngineGone):
        await late.ask(b"head", b"", 10, 2)
