"""An answer, fed byte by byte."""

from __future__ import annotations

import asyncio
import gc
from dataclasses import dataclass, field

import pytest

from llm_backend.errors import EngineBroke, EngineGone, EngineTimeout
from llm_backend.gateway.response import BUFFER_LIMIT, HEAD_LIMIT, Response

pytestmark = pytest.mark.anyio

LIMIT = 1024 * 1024
PLAIN = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: 11\r\n"
    b'Keep-Alive: timeout=5, max=100\r\n\r\n{"ok":true}'
)
CHUNKED = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"9\r\ndata: 1\n\n\r\n9;a=b\r\ndata: 2\n\n\r\n0\r\nX-Late: 1\r\n\r\n"
)
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + PLAIN
OLD = b"HTTP/1.0 200 OK\r\nServer: old\r\n\r\nall that comes"
EMPTY = b"HTTP/1.1 204 No Content\r\n\r\n"


@dataclass
class Line:
    """A wire that writes down what is asked of it."""

    said: list[str] = field(default_factory=list)

    def pause_reading(self) -> None:
        self.said.append("pause")

    def resume_reading(self) -> None:
        self.said.append("resume")

    def release(self, *, reusable: bool) -> None:
        self.said.append("keep" if reusable else "close")


@dataclass(frozen=True)
class Verdict:
    """All that a reader learns from an answer."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes | None
    said: tuple[str, ...]


async def judged(*pieces: bytes) -> Verdict:
    line = Line()
    response = Response(line)
    for piece in pieces:
        if not response.ended:
            response.feed(piece)
    if not response.ended:
        response.lost(None)
    try:
        body = await response.read(LIMIT)
    except (EngineBroke, EngineGone):
        body = None
    return Verdict(response.status, tuple(response.headers), body, tuple(line.said))


@pytest.mark.parametrize(
    ("answer", "body", "said"),
    [
        (PLAIN, b'{"ok":true}', "keep"),
        (CHUNKED, b"data: 1\n\ndata: 2\n\n", "keep"),
        (INTERIM, b'{"ok":true}', "keep"),
        (OLD, b"all that comes", "close"),
        (EMPTY, b"", "keep"),
        (PLAIN[:-1], None, "close"),
        (CHUNKED[:-2], None, "close"),
        (CHUNKED.replace(b"9;a", b"z;a"), None, "close"),
        (PLAIN.replace(b"200", b"700"), None, "close"),
    ],
)
async def test_where_an_answer_is_cut_into_pieces_changes_nothing(
    answer: bytes, body: bytes | None, said: str
) -> None:
    whole = await judged(answer)

    assert whole.body == body
    assert whole.said == (said,)
    for cut in range(1, len(answer)):
        assert await judged(answer[:cut], answer[cut:]) == whole
    assert await judged(*(answer[i : i + 1] for i in range(len(answer)))) == whole


async def test_all_that_has_arrived_is_one_piece() -> None:
    response = Response(Line())
    end_of_first = CHUNKED.index(b"9;a=b")
    response.feed(CHUNKED[:end_of_first])

    assert await anext(response) == b"data: 1\n\n"

    response = Response(Line())
    response.feed(CHUNKED[:end_of_first])
    response.feed(CHUNKED[end_of_first:])

    assert [piece async for piece in response] == [b"data: 1\n\ndata: 2\n\n"]


async def test_a_reader_waits_for_what_comes() -> None:
    response = Response(Line())
    response.feed(CHUNKED[: CHUNKED.index(b"\r\n\r\n") + 4])
    reader = asyncio.create_task(response.read(LIMIT))

    for byte in CHUNKED[CHUNKED.index(b"\r\n\r\n") + 4 :]:
        await asyncio.sleep(0)
        assert not reader.done()
        response.feed(bytes([byte]))

    assert await reader == b"data: 1\n\ndata: 2\n\n"


async def test_a_cancelled_reader_leaves_the_answer_readable() -> None:
    response = Response(Line())
    response.feed(PLAIN[:-11])
    reader = asyncio.create_task(response.read(LIMIT))
    await asyncio.sleep(0)
    reader.cancel()
    await asyncio.wait([reader])

    response.feed(PLAIN[-11:])

    assert await response.read(LIMIT) == b'{"ok":true}'


async def test_the_engine_waits_for_a_slow_reader() -> None:
    line = Line()
    response = Response(line)
    response.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
    response.feed(b"x" * BUFFER_LIMIT)
    assert line.said == []

    response.feed(b"x")
    assert line.said == ["pause"]

    assert len(await anext(response)) == BUFFER_LIMIT + 1
    assert line.said == ["pause", "resume"]


async def test_a_failure_follows_what_has_arrived() -> None:
    response = Response(Line())
    response.feed(PLAIN[:-1])
    response.fail(EngineTimeout("silent"))

    assert await anext(response) == b'{"ok":true'
    for _ in range(2):
        with pytest.raises(EngineTimeout, match="silent"):
            await anext(response)


async def test_an_abort_comes_before_what_has_arrived() -> None:
    line = Line()
    response = Response(line)
    response.feed(PLAIN)

    response.abort(EngineTimeout("enough"))

    with pytest.raises(EngineTimeout, match="enough"):
        await anext(response)
    assert line.said == ["keep"]


async def test_closing_gives_an_unfinished_connection_up_once() -> None:
    line = Line()
    with Response(line) as response:
        response.feed(PLAIN[:-1])
    response.close()

    assert line.said == ["close"]


async def test_a_cut_connection_does_not_end_a_body_without_length() -> None:
    response = Response(Line())
    response.feed(OLD)

    response.lost(ConnectionResetError())

    with pytest.raises(EngineGone, match="amid its answer") as caught:
        await response.read(LIMIT)
    assert isinstance(caught.value.__cause__, ConnectionResetError)


async def test_an_answer_needs_no_garbage_collector() -> None:
    gc.collect()
    for _ in range(100):
        Response(Line()).feed(PLAIN)

    assert gc.collect() < 100


@pytest.mark.parametrize("size", [10, 11])
async def test_a_body_may_be_as_long_as_the_limit(size: int) -> None:
    response = Response(Line())
    response.feed(PLAIN)

    if size == 11:
        assert await response.read(size) == b'{"ok":true}'
    else:
        with pytest.raises(EngineBroke, match="longer than 10 bytes"):
            await response.read(size)


async def test_headers_may_be_as_long_as_the_limit() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nX: " % HEAD_LIMIT
    rest = b"\r\n\r\n" + b"y" * HEAD_LIMIT
    good, bad = Response(Line()), Response(Line())

    good.feed(head + b"x" * (HEAD_LIMIT - 30) + rest)
    bad.feed(head + b"x" * HEAD_LIMIT + rest)

    assert len(await good.read(HEAD_LIMIT)) == HEAD_LIMIT
    with pytest.raises(EngineBroke, match="bytes of headers"):
        await bad.head()


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (b"Content-Type: Text/Event-Stream; charset=utf-8\r\n", b"text/event-stream"),
        (b"content-type:application/json\r\n", b"application/json"),
        (b"", b""),
    ],
)
async def test_the_content_type_is_the_bare_type(header: bytes, expected: bytes) -> None:
    response = Response(Line())

    response.feed(b"HTTP/1.1 200 OK\r\n" + header + b"Content-Length: 0\r\n\r\n")

    assert response.content_type == expected
