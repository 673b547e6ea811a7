"""Fixtures of the client's tests.

server: a running server, as in `server.py`.
client: a client of it that waits for nothing between tries.
waits: how long that client would have waited, in seconds.
refused: an address of this machine where nothing listens.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from llm_backend import LLMClient

from .server import Server


@pytest.fixture
def server() -> Iterator[Server]:
    with Server().running() as server:
        yield server


@pytest.fixture
def waits() -> list[float]:
    return []


@pytest.fixture
def client(server: Server, waits: list[float]) -> LLMClient:
    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    return LLMClient(server.url, timeout_s=20, sleep=sleep)


@pytest.fixture
def refused() -> Iterator[str]:
    # Bound and not listening: nobody else can take the port.
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}"


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LLM_BASE_URL", "LLM_API_KEY"):
        monkeypatch.delenv(name, raising=False)
