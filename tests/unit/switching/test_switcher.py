"""The owner of all engines: leases, switches, restarts and the end, on engines in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import pytest

from llm_backend.errors import (
    EngineGone,
    EngineStartFailed,
    InternalError,
    LLMBackendError,
    ShuttingDown,
    SwitchSuperseded,
)
from llm_backend.runtimes.base import Engine
from llm_backend.switching.feed import Notice
from llm_backend.switching.history import WantedFile
from llm_backend.switching.states import State
from llm_backend.switching.switcher import Switcher
from tests.unit.switching.loopback import PATIENCE_S, Loopback, plan, switcher

pytestmark = pytest.mark.anyio


async def until(switcher: Switcher, model: str, state: State) -> None:
    """Wait until a model is in a state."""
    with switcher.feed.subscribed() as news:
        async with asyncio.timeout(PATIENCE_S):
            while switcher.entries[model].state is not state:
                await news.next(PATIENCE_S)


async def granted(switcher: Switcher, model: str) -> Engine:
    with switcher.lease(model) as lease:
        return await lease.granted(PATIENCE_S)


async def refusal(waiting: Awaitable[Any]) -> type[LLMBackendError]:
    with pytest.raises(LLMBackendError) as raised:
        await waiting
    return type(raised.value)


async def test_a_lease_on_an_awake_model_is_granted_at_once(tmp_path: Path) -> None:
    runtime = Loopback()
    async with switcher(tmp_path, runtime, "a") as owner:
        await owner.switch("a")
        with owner.lease("a") as one, owner.lease("a") as two:
            assert one.engine is two.engine is owner.keeper("a").engine
            assert owner.entries["a"].leases == 2
            with owner.lease("a") as three:
                assert three.engine is None, "there are two places"
                assert owner.queue_length == 1
            assert owner.queue_length == 0
        assert owner.entries["a"].leases == 0


async def test_whoever_waits_knows_its_place_from_the_beginning(tmp_path: Path) -> None:
    async with switcher(tmp_path, Loopback(), "a") as owner:
        await owner.switch("a")
        with owner.lease("a") as one, owner.lease("a"), owner.lease("a"), owner.lease("a") as last:
            assert one.outlook is None, "it was granted at once"
            assert last.outlook is not None
            assert last.outlook.place == 2
            assert owner.outlook(last).place == 2
            assert owner.forecast().awake_s("a") == 0.0


async def test_a_drain_is_timed_and_remembered_like_every_stage(tmp_path: Path) -> None:
    async with switcher(tmp_path, Loopback(), "a", "b") as owner:
        await owner.switch("a")
        with owner.feed.subscribed() as news:
            with owner.lease("a"):
                switching = asyncio.create_task(owner.switch("b"))
                await until(owner, "a", State.DRAINING)
            await switching
        [seconds] = owner.durations("a")["drain"]
        assert seconds >= 0
        steps = []
        while (notice := await news.next(0)) is not None:
            steps.append(notice.data.get("step"))
        assert steps.index("drain_done") < steps.index("stop_done")


async def test_the_first_request_loads_and_all_join(tmp_path: Path) -> None:
    runtime = Loopback()
    async with switcher(tmp_path, runtime, "a") as owner:
        engines = await asyncio.gather(*(granted(owner, "a") for _ in range(10)))
        assert len({engine.instance for engine in engines}) == 1
        assert runtime.starts == ["a"]
        assert owner.entries["a"].leases == 0


async def test_a_switch_waits_for_the_leases(tmp_path: Path) -> None:
    runtime = Loopback()
    async with switcher(tmp_path, runtime, "a", "b") as owner:
        await owner.switch("a")
        with owner.lease("a") as lease:
            other = asyncio.create_task(granted(owner, "b"))
            await until(owner, "a", State.DRAINING)
            assert lease.error is None
            assert runtime.starts == ["a"]
        assert (await other).model == "b"
        assert owner.awake() == ["b"]
        assert owner.keeper("a").engine is None


async def test_past_its_deadline_a_drain_takes_the_engine_away(tmp_path: Path) -> None:
    runtime = Loopback()
    async with switcher(tmp_path, runtime, "a", "b", drain_s=0.05) as owner:
        await owner.switch("a")
        told: list[LLMBackendError] = []
        with owner.lease("a") as lease:
            lease.on_revoke(told.append)
            await owner.switch("b")
            assert [type(error) for error in told] == [EngineGone]
        assert owner.entries["a"].leases == 0
        assert owner.awake() == ["b"]


async def test_a_later_switch_replaces_an_earlier_one(tmp_path: Path) -> None:
    runtime = Loopback()
    async with switcher(tmp_path, runtime, "a", "b") as owner:
        runtime.prepare("a").answers["/health"] = (503, "")
        first = asyncio.create_task(owner.switch("a"))
        await until(owner, "a", State.STARTING)
        await owner.switch("b")
        assert await refusal(first) is SwitchSuperseded
        assert owner.awake() == ["b"]


async def test_an_operator_who_hangs_up_gets_the_switch_all_the_same(tmp_path: Path) -> None:
    runtime = Loopback()
    async with switcher(tmp_path, runtime, "a") as owner:
        task = asyncio.create_task(owner.switch("a"))
        await until(owner, "a", State.STARTING)
        task.cancel()
        await until(owner, "a", State.AWAKE)


async def test_unloading(tmp_path: Path) -> None:
    runtime = Loopback()
    async with switcher(tmp_path, runtime, "a", "b") as owner:
        await owner.switch("a")
        assert await owner.unload(["a", "b"]) == ["a"]
        assert await owner.unload(["a", "b"]) == []
        assert runtime.servers == {}
        assert WantedFile(tmp_path / "wanted.json").load() == {}


async def test_a_failure_is_told_to_everybody_who_waits(tmp_path: Path) -> None:
    runtime = Loopback()
    runtime.fails["a"] = "no such file"
    async with switcher(tmp_path, runtime, "a") as owner:
        waiting = [asyncio.create_task(granted(owner, "a")) for _ in range(3)]
        assert [await refusal(task) for task in waiting] == [EngineStartFailed] * 3
        assert owner.entries["a"].state is State.FAILED
        assert (await granted(owner, "a")).model == "a", "the next one tries again"


async def test_an_engine_that_ends_is_taken_from_its_leases(tmp_path: Path) -> None:
    runtime = Loopback()
    async with switcher(tmp_path, runtime, "a") as owner:
        await owner.switch("a")
        with owner.lease("a") as lease:
            assert lease.engine is not None
            await runtime.end(lease.engine, "killed by SIGKILL", -9)
            cause = await lease.cause(PATIENCE_S)
            assert "killed by SIGKILL" in str(cause)
        assert owner.entries["a"].leases == 0
        assert (await granted(owner, "a")).instance != lease.engine.instance


async def test_an_engine_that_cannot_be_watched_is_ended(tmp_path: Path) -> None:
    runtime = Loopback()
    wait = runtime.wait

    async def defect(_: Engine) -> Any:
        runtime.wait = wait  # type: ignore[method-assign]  # once
        raise ZeroDivisionError

    def spoil(notice: Notice) -> None:
        if notice.data.get("step") == "start_done":
            runtime.wait = defect  # type: ignore[method-assign]  # a driver with a defect

    async with switcher(tmp_path, runtime, "a") as owner:
        with owner.feed.listening(spoil), owner.lease("a") as lease:
            first = await lease.granted(PATIENCE_S)
            assert isinstance(await lease.cause(PATIENCE_S), InternalError)
        assert (await granted(owner, "a")) is not first


# Restarts


async def left_by(runtime: Loopback, model: str) -> Engine:
    engine = await runtime.run(plan(model))
    runtime.left.append(engine)
    return engine


async def test_a_healthy_engine_that_is_wanted_is_adopted(tmp_path: Path) -> None:
    runtime = Loopback()
    engine = await left_by(runtime, "a")
    WantedFile(tmp_path / "wanted.json").save({"cpu": "a"})
    async with switcher(tmp_path, runtime, "a", "b") as owner:
        with owner.lease("a") as lease:
            assert lease.engine is engine
        assert runtime.starts == []


async def test_one_that_still_loads_is_waited_for(tmp_path: Path) -> None:
    runtime = Loopback()
    server = runtime.prepare("a")
    server.answers["/health"] = (503, "")
    await left_by(runtime, "a")
    WantedFile(tmp_path / "wanted.json").save({"cpu": "a"})
    async with switcher(tmp_path, runtime, "a", "b") as owner:
        assert owner.entries["a"].state is State.STARTING
        server.answers["/health"] = (200, "")
        await granted(owner, "a")
        assert runtime.starts == []


async def test_one_that_is_not_wanted_is_ended_before_anybody_is_served(tmp_path: Path) -> None:
    runtime = Loopback()
    await left_by(runtime, "a")
    WantedFile(tmp_path / "wanted.json").save({"cpu": "b"})
    async with switcher(tmp_path, runtime, "a", "b") as owner:
        assert "a" not in runtime.servers
        await until(owner, "b", State.AWAKE)
        assert runtime.starts == ["b"]


async def test_what_was_wanted_is_reached_and_else_what_is_to_be_preloaded(tmp_path: Path) -> None:
    async with switcher(tmp_path, Loopback(), "a", "b", preload="a") as owner:
        await until(owner, "a", State.AWAKE)
        await owner.switch("b")
    async with switcher(tmp_path, Loopback(), "a", "b", preload="a") as owner:
        await until(owner, "b", State.AWAKE)


async def test_a_model_that_is_gone_from_the_catalog_is_no_longer_wanted(tmp_path: Path) -> None:
    WantedFile(tmp_path / "wanted.json").save({"cpu": "gone"})
    async with switcher(tmp_path, Loopback(), "a") as owner:
        assert owner.entries["a"].state is State.STOPPED


async def test_nor_does_it_stand_in_the_way_of_what_is_to_be_preloaded(tmp_path: Path) -> None:
    WantedFile(tmp_path / "wanted.json").save({"cpu": "gone"})
    async with switcher(tmp_path, Loopback(), "a", preload="a") as owner:
        await until(owner, "a", State.AWAKE)


# The end


async def test_whoever_waits_or_comes_is_refused_and_engines_go_on(tmp_path: Path) -> None:
    runtime = Loopback()
    async with switcher(tmp_path, runtime, "a", "b") as owner:
        await owner.switch("a")
        with owner.lease("a") as lease:
            waiting = asyncio.create_task(granted(owner, "b"))
            operator = asyncio.create_task(owner.switch("b"))
            await until(owner, "a", State.DRAINING)

            owner.refuse_newcomers()

            assert lease.error is None, "requests that have their engine go on"
            assert await refusal(waiting) is ShuttingDown
            assert await refusal(operator) is ShuttingDown
            for late in (granted(owner, "a"), owner.switch("a"), owner.unload(["a"])):
                assert await refusal(late) is ShuttingDown
            with pytest.raises(ShuttingDown):
                owner.begin_switch("b")
        for _ in range(20):  # whatever the end of the last lease set going has its turn
            await asyncio.sleep(0)
        assert list(runtime.servers) == ["a"], "the engine is left to the next gateway"
        await owner.close()
        assert owner.entries["a"].leases == 0
        assert WantedFile(tmp_path / "wanted.json").load() == {"cpu": "b"}


async def test_a_start_under_way_is_let_go(tmp_path: Path) -> None:
    runtime = Loopback()
    runtime.prepare("a").answers["/health"] = (503, "")
    async with switcher(tmp_path, runtime, "a") as owner:
        owner.begin_switch("a")
        await until(owner, "a", State.STARTING)
        async with asyncio.timeout(PATIENCE_S):
            await owner.close()
    assert WantedFile(tmp_path / "wanted.json").load() == {"cpu": "a"}


async def test_two_hundred_leases_in_any_order_leave_nothing(tmp_path: Path) -> None:
    runtime = Loopback()

    async def one(owner: Switcher, number: int) -> None:
        with owner.lease("ab"[number % 2]) as lease:
            if await lease.settled(number % 5 / 100):
                assert lease.engine is not None
                await asyncio.sleep(number % 3 / 1000)

    async with switcher(tmp_path, runtime, "a", "b") as owner:
        tasks = [asyncio.create_task(one(owner, number)) for number in range(200)]
        for task in tasks[::7]:
            task.cancel()
        await asyncio.wait(tasks)
        assert [t.exception() for t in tasks if not t.cancelled()] == [None] * (
            200 - len(tasks[::7])
        )
        assert owner.queue_length == 0
        assert [entry.leases for entry in owner.entries.values()] == [0, 0]
