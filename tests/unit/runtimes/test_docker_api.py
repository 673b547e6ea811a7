"""Docker's API where Docker does not answer, or answers nonsense; tests/contract has the rest."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from llm_backend.errors import ServiceError
from llm_backend.runtimes.docker_api import DockerApi, LogEntry, Refused
from llm_backend.runtimes.ports import free_port

pytestmark = pytest.mark.anyio


@contextlib.asynccontextmanager
async def serving(folder: Path, *answers: bytes) -> AsyncIterator[DockerApi]:
    """Docker's API at a socket that gives these answers, the last one for ever."""
    left = list(answers)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(left.pop(0) if len(left) > 1 else left[0])
                await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(answer, folder / "docker.sock")
    api = DockerApi(f"unix://{folder}/docker.sock")
    try:
        yield api
    finally:
        await asyncio.to_thread(api.close)
        server.close()


def http(status: str, body: bytes) -> bytes:
    head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


VERSION = http("200 OK", b'{"ApiVersion": "1.47"}')


async def test_docker_that_is_not_there_is_told_with_its_address() -> None:
    host = f"tcp://127.0.0.1:{free_port('127.0.0.1')}"
    api = DockerApi(host)
    try:
        with pytest.raises(ServiceError) as caught:
            await api.inspect("llm-a")
        with pytest.raises(ServiceError):
            async with api.events():
                pytest.fail("there is nothing to read")
    finally:
        api.close()
    assert f"Docker does not answer at {host}: " in caught.value.message
    assert "docker version" in caught.value.text


async def test_a_refusal_says_what_docker_says(tmp_path: Path) -> None:
    refusal = http("409 Conflict", b'{"message": "it is paused"}')
    async with serving(tmp_path, VERSION, refusal) as api:
        with pytest.raises(Refused) as caught:
            await api.start("llm-a")
    assert (caught.value.status, caught.value.text) == (409, "it is paused")


async def test_no_such_container_is_none(tmp_path: Path) -> None:
    missing = http("404 Not Found", b'{"message": "No such container: llm-a"}')
    async with serving(tmp_path, VERSION, missing) as api:
        assert await api.inspect("llm-a") is None


async def test_a_call_after_the_end_is_refused(tmp_path: Path) -> None:
    async with serving(tmp_path, VERSION) as api:
        pass
    with pytest.raises(ServiceError, match="this runtime is closed"):
        await api.inspect("llm-a")


async def test_events_end_where_docker_ends(tmp_path: Path) -> None:
    line = (
        b'{"Action": "die", "timeNano": 1500000000, "Actor": '
        b'{"ID": "abc", "Attributes": {"name": "llm-a", "exitCode": "3"}}}\n'
    )
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    stream = head + b"%x\r\n%s\r\n0\r\n\r\n" % (len(line), line)
    async with (
        serving(tmp_path, VERSION, http("200 OK", b"OK"), stream) as api,
        api.events() as events,
    ):
        seen = [(each.action, each.name, each.code, each.at) async for each in events]
    assert seen == [("die", "llm-a", 3, 1.5)]


def test_a_progress_bar_is_several_lines() -> None:
    entry = LogEntry.parse(b"2026-11-21T17:29:30.123456789Z 10%\r\x1b[A50%\r\n \n")
    assert entry.at == "2026-11-21T17:29:30.123456789Z"
    assert entry.lines == ("10%", "\x1b[A50%")


def test_bytes_that_are_no_text_are_no_error() -> None:
    assert LogEntry.parse(b"2026-11-21T17:29:30Z \xff").lines == ("\N{REPLACEMENT CHARACTER}",)
