"""Fetching pictures: from whom it is allowed, and nobody else is even connected to."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from typing import Any

import pytest

from llm_backend.errors import InvalidRequest
from llm_backend.gateway.fetch import Fetcher
from tests.unit.gateway.pictures import addresses, png

pytestmark = pytest.mark.anyio

TYPED = b"HTTP/1.1 200 OK\r\ncontent-type: image/png\r\n"
ANSWERS = {
    "/good.png": TYPED + b"content-length: %d\r\n\r\n" % len(png()) + png(),
    "/moved.png": b"HTTP/1.1 302 Found\r\nlocation: /good.png\r\ncontent-length: 0\r\n\r\n",
    "/gone.png": b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n",
    "/long.png": TYPED + b"\r\n" + b"x" * 3000,
    "/cut.png": TYPED + b"content-length: 500\r\n\r\nx",
    "/broken.png": b"SSH-2.0\r\n\r\n",
}


class Trap:
    """A server on this machine that counts who comes; `/silent.png` is never answered."""

    def __init__(self) -> None:
        self.visits = 0
        self.heads: list[bytes] = []
        self.port = 0

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.visits += 1
        with closing(writer):
            self.heads.append(await reader.readuntil(b"\r\n\r\n"))
            path = self.heads[-1].split(b" ")[1].decode().partition("?")[0]
            if path == "/silent.png":
                await reader.read()
            writer.write(ANSWERS.get(path, b""))


@asynccontextmanager
async def trap() -> AsyncIterator[Trap]:
    trap = Trap()
    listener = socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    trap.port = listener.getsockname()[1]
    async with await asyncio.start_server(trap.answer, sock=listener):
        yield trap


@asynccontextmanager
async def fetcher(*allowed: str, timeout_s: float = 10) -> AsyncIterator[Fetcher]:
    fetcher = Fetcher(allowed, limit=2000, timeout_s=timeout_s)
    try:
        yield fetcher
    finally:
        await fetcher.close()


@pytest.mark.parametrize("name", list(addresses(1)))
@pytest.mark.parametrize("allowed", [[], ["pictures.example"], ["localhost", "127.0.0.1"]])
async def test_nobody_is_connected_to(name: str, allowed: list[str]) -> None:
    async with trap() as trapped, fetcher(*allowed) as fetch:
        with pytest.raises(InvalidRequest):
            await fetch(addresses(trapped.port)[name])
        assert trapped.visits == 0


async def test_an_address_with_its_port_is_connected_to_where_it_is_allowed() -> None:
    async with trap() as trapped:
        here = f"127.0.0.1:{trapped.port}"
        async with fetcher(here) as fetch:
            assert await fetch(f"http://{here}/good.png?a=1#b") == ("image/png", png())
    (head,) = trapped.heads
    assert head.startswith(b"GET /good.png?a=1 HTTP/1.1\r\n")
    assert f"host: {here}".encode() in head.lower()
    assert b"accept-encoding: identity" in head.lower()
    for secret in (b"authorization", b"cookie", b"x-api-key"):
        assert secret not in head.lower()


async def test_an_address_of_ipv6_is_written_as_in_a_url() -> None:
    async with trap() as trapped, fetcher(f"[::1]:{trapped.port}") as fetch:
        assert await fetch(f"http://[::1]:{trapped.port}/good.png") == ("image/png", png())


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
async def test_an_address_is_refused_with_what_would_allow_it(host: str) -> None:
    async with fetcher(host) as fetch:
        with pytest.raises(InvalidRequest, match="are not fetched from") as refused:
            await fetch(f"http://{host}:1/x.png")
    assert repr(f"{host}:1") in refused.value.message


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/moved.png", "answered 302"),
        ("/gone.png", "answered 404"),
        ("/long.png", "over 2000 bytes"),
        ("/cut.png", "could not be fetched"),
        ("/broken.png", "could not be fetched"),
        ("/none.png", "could not be fetched"),
        ("/silent.png", "could not be fetched: TimeoutError"),
        ("/\0", "could not be fetched"),
        ("/" + "x" * 70_000, "could not be fetched"),
    ],
)
async def test_what_does_not_work_is_the_client_s_to_mend(path: str, says: str) -> None:
    async with trap() as trapped:
        here = f"127.0.0.1:{trapped.port}"
        async with fetcher(here, timeout_s=0.5) as fetch:
            with pytest.raises(InvalidRequest, match=says):
                await fetch(f"http://{here}{path}")
    assert trapped.visits <= 1, "a redirect is not followed"


@pytest.mark.parametrize(
    "found",
    [
        ["127.0.0.1"],
        ["::1"],
        ["::ffff:127.0.0.1"],
        ["10.0.0.1"],
        ["169.254.169.254"],
        ["224.0.0.1"],
        ["8.8.8.8", "127.0.0.1"],
        [],
    ],
)
async def test_a_name_that_leads_to_a_private_address_is_not_followed(
    monkeypatch: pytest.MonkeyPatch, found: list[str]
) -> None:
    async def resolved(*_: Any, **__: Any) -> list[Any]:
        return [(0, 0, 0, "", (address, 0)) for address in found]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolved)
    async with trap() as trapped, fetcher("pictures.example") as fetch:
        with pytest.raises(InvalidRequest, match="not public"):
            await fetch(f"http://pictures.example:{trapped.port}/good.png")
        assert trapped.visits == 0


async def test_a_name_that_is_not_there() -> None:
    async with fetcher("nowhere.invalid") as fetch:
        with pytest.raises(InvalidRequest, match="could not be fetched"):
            await fetch("http://nowhere.invalid/x.png")
