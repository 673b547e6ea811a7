"""Where a container's log is read from."""

from __future__ import annotations

import asyncio
import sys
import time

import pytest

from llm_backend.runtimes import docker_logs
from llm_backend.runtimes.docker_api import DockerApi
from tests.contract.benches import DockerBench

pytestmark = [pytest.mark.anyio, pytest.mark.docker]


@pytest.fixture
def kind_of_bench() -> type[DockerBench]:
    return DockerBench


async def test_what_was_written_before_a_plan_was_known_is_followed(bench: DockerBench) -> None:
    plan = bench.plan("a")
    bench.create("a", (sys.executable, "-c", "import time; print(time.time())"))
    await bench.runtime.wait(await bench.start(plan))  # an earlier run, whose log is old
    api, known = DockerApi(bench.host), False
    lines = docker_logs.follow(api, lambda: bench.name("a") if known else None, 0)
    first = asyncio.create_task(anext(lines))
    await asyncio.sleep(0)  # it has begun
    before = time.time()
    await bench.runtime.wait(await bench.start(plan))
    known = True

    assert float(await asyncio.wait_for(first, 20)) > before
    await lines.aclose()
    api.close()
