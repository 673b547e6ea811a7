"""What the contract suite runs on: a bench for each runtime.

anyio_backend: every test runs on asyncio's own loop and on uvloop.
engine_of_docker: a Docker engine answers; without one the tests are skipped, which fails in CI.
kind_of_bench: which runtime, of those that start and end engines; a module for one of them
    overrides it.
any_bench: the same as `bench`, for what runtimes promise that only watch engines of others too.
bench: one runtime over an empty state, whose engines are fake engines. It is closed after the
    test, which fails if a process, a held lock or a bound port is left.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.contract.benches import Bench, DockerBench, ExternalBench, ProcessBench


@pytest.fixture(
    scope="session",
    params=[
        pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
        pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
    ],
)
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return request.param


def _descriptors() -> int:
    # uvloop keeps one to /dev/null after its first connection.
    links = [link.readlink() for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    return sum(link != Path(os.devnull) for link in links)


OWNERS = [
    pytest.param(ProcessBench, id="process"),
    pytest.param(DockerBench, id="docker", marks=pytest.mark.docker),
]
"""Those that start and end engines."""
RUNTIMES = [*OWNERS, pytest.param(ExternalBench, id="external")]


@pytest.fixture(scope="session")
def engine_of_docker() -> None:
    program = shutil.which("docker")
    if (
        program is None
        or subprocess.run([program, "version"], check=False, capture_output=True).returncode
    ):
        pytest.skip("no Docker engine answers: bash tests/e2e/ground/engine.sh (root)")


@pytest.fixture(params=OWNERS)
def kind_of_bench(request: pytest.FixtureRequest) -> type[Bench[Any]]:
    kind: type[Bench[Any]] = request.param
    return kind


@pytest.fixture(params=RUNTIMES)
async def any_bench(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Bench[Any]]:
    async for bench in _open(request.param, tmp_path, request):
        yield bench


@pytest.fixture
async def bench(
    kind_of_bench: type[Bench[Any]], tmp_path: Path, request: pytest.FixtureRequest
) -> AsyncIterator[Bench[Any]]:
    async for bench in _open(kind_of_bench, tmp_path, request):
        yield bench


async def _open(
    kind: type[Bench[Any]], folder: Path, request: pytest.FixtureRequest
) -> AsyncIterator[Bench[Any]]:
    if kind is DockerBench:
        request.getfixturevalue("engine_of_docker")
    descriptors = _descriptors()
    bench = kind(folder)
    try:
        yield bench
    finally:
        await bench.close()
    assert _descriptors() <= descriptors, "a descriptor was left open"
