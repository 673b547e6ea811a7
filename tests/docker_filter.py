"""A real HAProxy with config/docker-filter.cfg, for tests."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from llm_backend.runtimes.ports import free_port
from tests.harness import REPOSITORY, eventually

CONFIG = REPOSITORY / "config/docker-filter.cfg"


@contextlib.contextmanager
def docker_filter(names: str, docker_socket: Path | str) -> Iterator[tuple[str, int]]:
    """Run the filter for these names; yields its address."""
    host, port = "127.0.0.1", free_port("127.0.0.1")
    program = shutil.which("haproxy")
    if program is None:
        pytest.skip("there is no haproxy: apt-get install --no-install-recommends haproxy")
    environment = {
        **os.environ,
        "ENGINE_CONTAINERS": names,
        "FILTER_ADDRESS": f"{host}:{port}",
        "DOCKER_SOCKET": str(docker_socket),
    }
    with subprocess.Popen([program, "-db", "-f", CONFIG], env=environment) as process:
        try:
            eventually(lambda: _listens(host, port))
            yield host, port
        finally:
            process.kill()


def _listens(host: str, port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=1):
        return True
    return False
