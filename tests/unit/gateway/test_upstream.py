"""The upstream client: connections kept alive, and what a request says."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from llm_backend.errors import EngineGone, Overloaded
from llm_backend.gateway.upstream import Upstream, request_head
from tests.fault_server import ANSWER
from tests.unit.gateway.rig import LIMIT, LOOPS, Rig

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module", params=LOOPS.values(), ids=list(LOOPS))
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with Rig.up() as rig:
        yield rig


# What goes well.


async def test_an_answer_comes_whole_and_its_connection_is_used_again(rig: Rig) -> None:
    for _ in range(3):
        with await rig.ask("/ok") as response:
            assert response.status == 200
            assert response.content_type == b"application/json"
            assert (b"content-length", b"11") in response.headers
            assert await response.read(LIMIT) == ANSWER

    assert rig.server.accepted == 1
    assert (rig.upstream.open, rig.upstream.in_use, rig.upstream.idle) == (1, 0, 1)


async def test_a_stream_comes_as_it_was_sent(rig: Rig) -> None:
    with await rig.ask("/stream?events=3") as response:
        assert response.content_type == b"text/event-stream"
        pieces = [piece async for piece in response]

    assert b"".join(pieces) == b"data: 0\n\ndata: 1\n\ndata: 2\n\ndata: [DONE]\n\n"
    assert rig.upstream.idle == 1


async def test_each_event_is_handed_on_when_it_comes(rig: Rig) -> None:
    with await rig.ask("/silent-midway") as response:
        assert await anext(response) == b"data: 1\n\n"


async def test_large_bodies_go_both_ways(rig: Rig) -> None:
    body = bytes(range(250)) * 20_000

    with await rig.ask("/ok?size=5000000", body) as response:
        assert await response.read(5_000_000) == b"y" * 5_000_000

    assert rig.server.received == len(body)
    assert rig.upstream.idle == 1


async def test_the_connection_used_last_is_used_next(rig: Rig) -> None:
    async with asyncio.TaskGroup() as tasks:
        for _ in range(3):
            tasks.create_task(rig.get("/slow-stream?events=2"))
    assert rig.upstream.idle == 3

    used = {await rig.get("/which") for _ in range(3)}

    assert len(used) == 1
    assert rig.server.accepted == 3


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/http10", ANSWER),
        ("/says-close", ANSWER),
        ("/hint?max=1", ANSWER),
        ("/garbage-after", ANSWER),
        ("/two-answers", ANSWER),
    ],
)
async def test_some_answers_are_good_and_end_their_connection(
    rig: Rig, path: str, body: bytes
) -> None:
    async with rig.none_left():
        assert await rig.get(path) == body


@pytest.mark.parametrize(
    ("path", "status"),
    [("/redirect", 302), ("/refuse", 400), ("/no-content", 204), ("/interim", 200)],
)
async def test_other_answers_are_returned_as_they_are(rig: Rig, path: str, status: int) -> None:
    with await rig.ask(path) as response:
        assert response.status == status
        assert all(name != b"link" for name, _ in response.headers)
        await response.read(LIMIT)

    assert rig.upstream.idle == 1
    assert rig.server.requests["trap"] == 0


async def test_trailers_are_dropped(rig: Rig) -> None:
    with await rig.ask("/trailers") as response:
        assert await response.read(LIMIT) == b"data: 1\n\n"
        assert [name for name, _ in response.headers] == [b"content-type", b"transfer-encoding"]

    assert rig.upstream.idle == 1


# Idle connections.


@pytest.mark.parametrize("path", ["/stale", "/stale-reset"])
async def test_a_request_on_a_connection_that_the_engine_had_closed_is_sent_again(
    rig: Rig, path: str
) -> None:
    assert await rig.get(path) == ANSWER
    assert await rig.get(path) == ANSWER

    assert rig.server.accepted == 2
    assert rig.upstream.open == 1


async def test_a_request_is_never_sent_a_third_time(rig: Rig) -> None:
    await rig.get("/ok")

    with pytest.raises(EngineGone, match="without an answer"):
        await rig.get("/no-answer")

    assert rig.server.requests["no_answer"] == 2


async def test_a_request_on_a_new_connection_is_sent_once(rig: Rig) -> None:
    with pytest.raises(EngineGone, match="without an answer"):
        await rig.get("/no-answer")

    assert rig.server.requests["no_answer"] == 1


async def test_a_request_whose_answer_has_begun_is_not_sent_again(rig: Rig) -> None:
    await rig.get("/stale-midway")

    with pytest.raises(EngineGone, match="amid its answer"):
        await rig.get("/stale-midway")

    assert rig.server.requests["stale_midway"] == 2


async def test_an_idle_connection_that_the_engine_closes_is_forgotten(rig: Rig) -> None:
    assert await rig.get("/closes-idle") == ANSWER
    await rig.quiet()
    # The news takes its way through the event loop.
    assert await rig.get("/ok") == ANSWER

    assert rig.upstream.open == 1


async def test_an_idle_connection_that_says_something_is_closed(rig: Rig) -> None:
    assert await rig.get("/garbage-later") == ANSWER
    assert rig.upstream.idle == 1
    await rig.quiet()

    assert rig.upstream.idle == 0


async def test_a_connection_that_is_being_closed_gets_no_request(rig: Rig) -> None:
    await rig.get("/ok")
    (idle,) = rig.upstream._all
    idle.close()  # the event loop has yet to say that it is lost

    assert await rig.get("/which") == b"2"


async def test_an_idle_connection_is_closed_before_the_engine_would(rig: Rig) -> None:
    await rig.get("/hint?timeout=1")
    assert rig.upstream.idle == 1

    await rig.quiet()

    assert rig.upstream.idle == 0


async def test_a_connection_takes_no_more_requests_than_the_engine_allows(rig: Rig) -> None:
    for _ in range(5):
        await rig.get("/hint?max=2")

    assert rig.server.accepted == 3


async def test_only_so_many_connections_wait() -> None:
    async with Rig.up(Upstream(max_idle_per_origin=2)) as rig:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(5):
                tasks.create_task(rig.get("/slow-stream?events=2"))

        assert rig.server.accepted == 5
        assert rig.upstream.idle == 2


# Limits on connections.


async def test_more_connections_than_allowed_are_refused() -> None:
    async with Rig.up(Upstream(max_connections=2)) as rig:
        with (
            await rig.ask("/silent-midway"),
            await rig.ask("/silent-midway"),
            pytest.raises(Overloaded, match="2 connections"),
        ):
            await rig.ask("/ok")


async def test_an_idle_connection_to_another_engine_makes_room() -> None:
    upstream = Upstream(max_connections=1)
    async with Rig.up(upstream) as rig, Rig.up(upstream) as other:
        await other.get("/ok")

        assert await rig.get("/ok") == ANSWER

        assert upstream.idle == 1
        await other.quiet()


# TLS.


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file with a certificate for 127.0.0.1 and its key."""
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2"
    names = ["-subj", "/CN=engine", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", "-", "-out", "-"]
    made = subprocess.run([*command.split(), *names, *files], capture_output=True, check=True)
    path.write_bytes(made.stdout)
    return path


@pytest.fixture
async def tls_rig(certificate: Path) -> AsyncIterator[Rig]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    async with Rig.up(tls=context) as rig:
        yield rig


async def test_an_engine_may_speak_tls(
    tls_rig: Rig, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))

    for path in ("/ok", "/stream"):
        with await tls_rig.ask(path, b"x" * 500_000, tls=True) as response:
            assert await response.read(LIMIT)
    with await tls_rig.ask("/silent-midway", tls=True) as response:
        assert await anext(response)

    assert tls_rig.server.accepted == 1


async def test_an_engine_that_is_not_trusted_gets_nothing(tls_rig: Rig) -> None:
    with pytest.raises(EngineGone) as caught:
        await tls_rig.ask("/ok", tls=True)

    assert isinstance(caught.value.__cause__, ssl.SSLCertVerificationError)
    assert tls_rig.server.requests.total() == 0


# The head of a request.


def test_a_head_says_what_the_engine_needs() -> None:
    head = request_head("POST", "/v1/x", "engine:8000", 7, [(b"x-request-id", b"r1")], key="k")

    assert head.decode().split("\r\n") == [
        "POST /v1/x HTTP/1.1",
        "host: engine:8000",
        "accept-encoding: identity",
        "content-type: application/json",
        "content-length: 7",
        "authorization: Bearer k",
        "x-request-id: r1",
        "",
        "",
    ]


def test_a_head_without_body_has_no_length() -> None:
    assert request_head("GET", "/health", "h", None) == (
        b"GET /health HTTP/1.1\r\nhost: h\r\naccept-encoding: identity\r\n\r\n"
    )


@pytest.mark.parametrize(
    "name", [b"Authorization", b"x-api-key", b"Cookie", b"Connection", b"TE", b"Expect", b"Host"]
)
def test_hop_by_hop_headers_and_credentials_stay_here(name: bytes) -> None:
    head = request_head("GET", "/", "h", None, [(name, b"secret")])

    assert b"secret" not in head


@pytest.mark.parametrize("value", [b"a\r\nx: y", b"a\ny", b"a\ry", b"a\0"])
def test_a_value_cannot_end_its_line(value: bytes) -> None:
    with pytest.raises(ValueError, match="line break"):
        request_head("GET", "/", "h", None, [(b"x-id", value)])
