"""The life of one engine: up, watched, down; and every way in which that goes wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from llm_backend.errors import EngineStartFailed
from llm_backend.switching.events import Broke, Hung
from llm_backend.switching.feed import Notice
from llm_backend.switching.keeper import EngineKeeper, Tools
from llm_backend.switching.watch import WatchRules
from tests.unit.switching.loopback import PATIENCE_S, Loopback, launch, tools

pytestmark = pytest.mark.anyio


class Bench:
    """A keeper, its runtime, and what it told."""

    def __init__(self, shared: Tools, **fields: Any) -> None:
        self.runtime = Loopback()
        self.tools = shared
        self.told: list[Notice] = []
        self.keeper = EngineKeeper(launch(self.runtime, "a", **fields), shared)

    @property
    def steps(self) -> list[str]:
        return [notice.data["step"] for notice in self.told if notice.kind == "step"]


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with tools(tmp_path, WatchRules(0.06, 0.1)) as shared, asyncio.timeout(PATIENCE_S):
        bench = Bench(shared, timeouts={"start_s": 1})
        with shared.feed.listening(bench.told.append):
            yield bench
        await bench.runtime.close()


async def test_up_and_down(bench: Bench) -> None:
    await bench.keeper.bring_up()
    assert bench.keeper.engine is not None
    assert bench.keeper.fingerprint == "f-a"
    assert bench.steps == [
        *("start", "memory", "memory_done", "launch", "launched", "launch_done"),
        *("load", "load_done", "warm_up", "warm_up_done", "start_done"),
    ]
    assert [n.data["text"] for n in bench.told if n.kind == "progress"] == ["loading weights"]
    assert bench.keeper.step is None

    await bench.keeper.bring_down()

    assert bench.keeper.engine is None
    assert bench.runtime.servers == {}
    assert set(bench.tools.history.durations["a"]) >= {"start", "load", "stop"}


async def test_a_start_that_fails(bench: Bench) -> None:
    bench.runtime.fails["a"] = "no such file"
    with pytest.raises(EngineStartFailed, match="no such file"):
        await bench.keeper.bring_up()
    assert bench.keeper.engine is None
    assert "start" not in bench.tools.history.durations.get("a", {})


async def test_a_start_that_fails_by_a_defect_of_the_driver(bench: Bench) -> None:
    async def start(_: Any) -> Any:
        raise ZeroDivisionError("secret")

    bench.runtime.start = start  # type: ignore[method-assign]  # a driver with a defect
    with pytest.raises(EngineStartFailed) as raised:
        await bench.keeper.bring_up()
    assert "ZeroDivisionError" in str(raised.value)
    assert "secret" not in str(raised.value)


async def test_an_engine_that_is_never_ready(bench: Bench) -> None:
    bench.runtime.prepare("a").answers["/health"] = (503, "")
    with pytest.raises(EngineStartFailed, match="was not ready 1 s after its launch") as raised:
        await bench.keeper.bring_up()
    assert raised.value.log_tail == ("the last words of a",)
    assert bench.runtime.servers == {}


async def test_an_engine_that_ends_before_it_is_ready(bench: Bench) -> None:
    bench.runtime.prepare("a").answers["/health"] = (503, "")
    task = asyncio.create_task(bench.keeper.bring_up())
    while bench.keeper.engine is None:  # noqa: ASYNC110 # it has no event
        await asyncio.sleep(0)
    await bench.runtime.end(bench.keeper.engine, "exited with status 1", 1)
    with pytest.raises(EngineStartFailed, match="exited with status 1 before it was ready"):
        await task
    assert bench.keeper.engine is None
    assert bench.steps.count("exited") == 1


async def test_an_engine_that_dies_of_its_first_request(bench: Bench) -> None:
    bench.runtime.prepare("a").answers["/v1/completions"] = (500, "")
    with pytest.raises(EngineStartFailed, match="asked for one token: HTTP status 500"):
        await bench.keeper.bring_up()
    assert bench.runtime.servers == {}


async def test_a_start_that_is_called_off_leaves_nothing(bench: Bench) -> None:
    bench.runtime.slow = asyncio.Event()
    task = asyncio.create_task(bench.keeper.bring_up())
    while not bench.runtime.starts:  # noqa: ASYNC110 # it has no event
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task})
    assert bench.runtime.servers == {}, "the driver is still at it"

    down = asyncio.create_task(bench.keeper.bring_down())
    await asyncio.sleep(0)
    bench.runtime.slow.set()
    await down

    assert bench.runtime.servers == {}, "what came of it was ended"


async def test_a_stop_is_repeated_until_the_end_is_proven(bench: Bench) -> None:
    await bench.keeper.bring_up()
    bench.runtime.stop_fails = 1
    await bench.keeper.bring_down()
    assert bench.runtime.servers == {}


async def test_bringing_down_what_is_not_up(bench: Bench) -> None:
    await bench.keeper.bring_down()
    assert bench.steps == ["stop", "stop_done"]


async def test_an_engine_that_ends_by_itself(bench: Bench) -> None:
    await bench.keeper.bring_up()
    assert bench.keeper.engine is not None
    watching = asyncio.create_task(bench.keeper.watch(lambda: True))
    await asyncio.sleep(0)
    await bench.runtime.end(bench.keeper.engine, "killed by SIGKILL", -9)
    told = await watching
    assert isinstance(told, Broke)
    assert "killed by SIGKILL while it was awake" in str(told.error)
    assert told.error.log_tail == ("the last words of a",)
    assert bench.steps[-1] == "exited"
    # Until the switcher has applied it, leases on this engine may still be granted.
    assert bench.keeper.engine is not None


async def test_an_engine_that_hangs(bench: Bench) -> None:
    await bench.keeper.bring_up()
    bench.runtime.servers["a"].silent.add("/v1/completions")
    told = await bench.keeper.watch(lambda: True)
    assert isinstance(told, Hung)
    assert "hung: asked for one token, no answer within 0.1 s" in str(told.error)
    assert bench.steps[-1] == "hung"
    assert bench.keeper.engine is not None, "it is still to be ended"
