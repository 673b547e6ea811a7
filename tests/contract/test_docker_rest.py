"""What only the docker runtime does with an engine at rest."""

from __future__ import annotations

import asyncio

import pytest

from llm_backend.errors import EngineStartFailed, ServiceError
from tests.contract.benches import DockerBench

pytestmark = [pytest.mark.anyio, pytest.mark.docker]


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """One loop is enough here: nothing below depends on it."""
    return "asyncio"


@pytest.fixture
def kind_of_bench() -> type[DockerBench]:
    return DockerBench


async def test_a_restart_behind_its_back_is_an_exit_and_a_foreign_start(bench: DockerBench) -> None:
    sleeper = await bench.start_ready(bench.plan("a"))
    await bench.runtime.rest(sleeper)
    await asyncio.to_thread(bench.docker.restart, sleeper.handle, 5)
    assert (await asyncio.wait_for(bench.runtime.wait(sleeper), 20)).code == 0
    await bench.until(
        lambda: not bench.docker.inspect_container(sleeper.handle)["State"]["Running"]
    )


async def test_what_cannot_be_written_down_is_not_done(bench: DockerBench) -> None:
    engine = await bench.start_ready(bench.plan("a"))
    blocked = bench.state_dir / "engines/a.docker.tmp"
    blocked.mkdir()
    with pytest.raises(ServiceError, match=r"cannot rest: .*Is a directory"):
        await bench.runtime.rest(engine)
    assert bench.held_locks() == ["engine-cpu.lock"]
    blocked.rmdir()
    await bench.runtime.rest(engine)
    blocked.mkdir()
    with pytest.raises(EngineStartFailed, match=r"cannot be roused: .*Is a directory"):
        await bench.runtime.rouse(engine)
    assert bench.held_locks() == []
