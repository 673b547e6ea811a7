"""A real redis-server on a socket file of its own, for tests."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.harness import eventually

BINARY = shutil.which("redis-server")
needs_redis = pytest.mark.skipif(
    BINARY is None, reason="redis-server is missing: sudo apt-get install -y redis-server"
)


class RedisServer:
    """The server, and what can happen to it.

    Attributes:
        url: As the gateway's settings have it.
    """

    def __init__(self, root: Path, password: str = "") -> None:
        self._root = root
        self._options = ("--requirepass", password) if password else ()
        self._process: subprocess.Popen[bytes] | None = None
        self.path = root / "redis.sock"
        self.url = f"unix://{f':{password}@' if password else ''}{self.path}"
        self.client = redis.Redis.from_url(self.url)

    def start(self) -> None:
        assert BINARY is not None
        server = ("--port", "0", "--unixsocket", str(self.path), "--dir", str(self._root))
        lasting = ("--save", "", "--appendonly", "no")
        with (self._root / "redis.log").open("ab") as log:
            self._process = subprocess.Popen(
                [BINARY, *server, *lasting, *self._options], stdout=log
            )
        eventually(self._answers)

    def _answers(self) -> bool:
        with contextlib.suppress(redis.RedisError):
            return bool(self.client.ping())
        return False

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        self.client.connection_pool.disconnect()

    def freeze(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def limit(self, size: int) -> None:
        """Take no writes beyond so many bytes of memory; 0 is no limit."""
        self.client.config_set("maxmemory-policy", "noeviction")
        self.client.config_set("maxmemory", size)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_unix_connection(str(self.path))


@contextlib.contextmanager
def redis_server(root: Path, password: str = "") -> Iterator[RedisServer]:
    """Run one; it is gone afterwards, whatever happened to it."""
    server = RedisServer(root, password)
    server.start()
    try:
        yield server
    finally:
        server.stop()
        server.client.close()
