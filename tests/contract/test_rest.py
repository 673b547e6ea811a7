"""What every runtime does with an engine at rest: it runs, and another one of its group may too."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from llm_backend.errors import EngineStartFailed, ServiceError

if TYPE_CHECKING:
    from tests.contract.benches import Bench

pytestmark = [pytest.mark.anyio, pytest.mark.engine]


class TestRest:
    async def test_another_of_the_group_may_start(self, bench: Bench[Any]) -> None:
        sleeper = await bench.start_ready(bench.plan("a"))
        await bench.runtime.rest(sleeper)
        assert bench.held_locks() == []

        awake = await bench.start_ready(bench.plan("b"))

        assert bench.held_locks() == ["engine-cpu.lock"]
        assert await bench.runtime.poll(sleeper) is None
        for engine in (sleeper, awake):
            assert (await bench.get(engine, "/health"))[0] == 200

    async def test_resting_again_changes_nothing(self, bench: Bench[Any]) -> None:
        sleeper = await bench.start_ready(bench.plan("a"))
        for _ in range(2):
            await bench.runtime.rest(sleeper)
        awake = await bench.start(bench.plan("b"))
        await bench.runtime.rest(sleeper)
        with pytest.raises(EngineStartFailed, match="held by the engine of b") as caught:
            await bench.start(bench.plan("c"))
        assert awake.handle in caught.value.text

    async def test_one_of_three_is_roused(self, bench: Bench[Any]) -> None:
        sleepers = []
        for number in range(3):
            sleepers.append(await bench.start_ready(bench.plan(f"m{number}")))
            await bench.runtime.rest(sleepers[-1])
        results = await asyncio.gather(
            *(bench.runtime.rouse(each) for each in sleepers), return_exceptions=True
        )
        assert sorted(type(each).__name__ for each in results) == [
            *["EngineStartFailed"] * 2,
            "NoneType",
        ]

    async def test_rousing_beside_an_awake_engine_is_refused(self, bench: Bench[Any]) -> None:
        sleeper = await bench.start_ready(bench.plan("a"))
        await bench.runtime.rest(sleeper)
        awake = await bench.start_ready(bench.plan("b"))
        with pytest.raises(EngineStartFailed) as caught:
            await bench.runtime.rouse(sleeper)
        message = caught.value.message
        assert message.startswith("The engine of a cannot be roused: ")
        assert "group cpu is held by the engine of b" in message
        assert await bench.runtime.poll(sleeper) is None

        # It rests on: the lock is free as soon as the other one is gone.
        await bench.runtime.stop(awake, 5)
        assert bench.held_locks() == []
        await bench.start(bench.plan("c"))

    async def test_roused_engine_keeps_others_out_again(self, bench: Bench[Any]) -> None:
        first = await bench.start_ready(bench.plan("a"))
        await bench.runtime.rest(first)
        second = await bench.start_ready(bench.plan("b"))
        await bench.runtime.stop(second, 5)
        await bench.runtime.rouse(first)
        with pytest.raises(EngineStartFailed, match="group cpu is held by the engine of a"):
            await bench.start(bench.plan("b"))
        assert (await bench.runtime.stop(first, 5)).code == 0
        await bench.start(bench.plan("b"))

    async def test_two_engines_take_turns(self, bench: Bench[Any]) -> None:
        first = await bench.start_ready(bench.plan("a"))
        await bench.runtime.rest(first)
        second = await bench.start_ready(bench.plan("b"))
        for _ in range(5):
            await bench.runtime.rest(second)
            await bench.runtime.rouse(first)
            with pytest.raises(EngineStartFailed, match="held by the engine of a"):
                await bench.runtime.rouse(second)
            await bench.runtime.rest(first)
            await bench.runtime.rouse(second)
        assert [len(bench.journal(model, "start")) for model in "ab"] == [1, 1]

    async def test_rousing_one_that_does_not_rest_changes_nothing(self, bench: Bench[Any]) -> None:
        engine = await bench.start_ready(bench.plan("a"))
        await bench.runtime.rouse(engine)
        assert bench.held_locks() == ["engine-cpu.lock"]

    async def test_it_is_stopped_beside_an_awake_engine(self, bench: Bench[Any]) -> None:
        sleeper = await bench.start_ready(bench.plan("a"))
        await bench.runtime.rest(sleeper)
        awake = await bench.start_ready(bench.plan("b"))
        assert (await bench.runtime.stop(sleeper, 5)).code == 0
        assert await bench.runtime.poll(awake) is None
        assert bench.held_locks() == ["engine-cpu.lock"]
        assert (await bench.get(awake, "/health"))[0] == 200

    async def test_its_exit_is_seen(self, bench: Bench[Any]) -> None:
        flags = ("--die-after-tokens", "0", "--grandchild-holds-port")
        sleeper = await bench.start_ready(bench.plan("a", *flags))
        await bench.runtime.rest(sleeper)
        awake = await bench.start_ready(bench.plan("b"))
        waiting = asyncio.create_task(bench.runtime.wait(sleeper))
        with pytest.raises(asyncio.IncompleteReadError):
            await bench.post(sleeper, "/v1/completions", {"prompt": "hi"})
        ended = await asyncio.wait_for(waiting, 20)
        assert ended.code == -9
        assert await bench.runtime.poll(sleeper) == ended
        assert bench.bound_ports() == [awake.port]

    @pytest.mark.parametrize("how", ["exited", "stopped"])
    async def test_an_ended_engine_neither_rests_nor_is_roused(
        self, bench: Bench[Any], how: str
    ) -> None:
        if how == "exited":
            engine = await bench.start(bench.plan("a", "--exit-at-start", "3"))
        else:
            engine = await bench.start_ready(bench.plan("a"))
            await bench.runtime.rest(engine)
            await bench.runtime.stop(engine, 5)
        ended = await bench.runtime.wait(engine)
        with pytest.raises(ServiceError, match=f"of a cannot rest: .*{ended.reason}"):
            await bench.runtime.rest(engine)
        with pytest.raises(EngineStartFailed, match=f"of a cannot be roused: .*{ended.reason}"):
            await bench.runtime.rouse(engine)
        assert bench.held_locks() == []

    async def test_one_that_is_being_stopped_is_not_roused(self, bench: Bench[Any]) -> None:
        engine = await bench.start_ready(bench.plan("a", "--ignore-sigterm", stop_s=2))
        await bench.runtime.rest(engine)
        stopping = asyncio.create_task(bench.runtime.stop(engine, 2))
        await bench.event("a", "sigterm")
        with pytest.raises(EngineStartFailed, match="it is being stopped"):
            await bench.runtime.rouse(engine)
        assert (await stopping).code == -9

    async def test_a_cancelled_call_is_done_in_its_turn(self, bench: Bench[Any]) -> None:
        engine = await bench.start_ready(bench.plan("a"))
        for _ in range(5):
            for call in (bench.runtime.rest, bench.runtime.rouse):
                cancelled = asyncio.create_task(call(engine))
                await asyncio.sleep(0)
                cancelled.cancel()
                await asyncio.wait({cancelled})
        await bench.runtime.rest(engine)
        assert bench.held_locks() == []
        await bench.start(bench.plan("b"))


class TestSurvey:
    async def test_engine_that_rests_is_ended_and_the_awake_one_kept(
        self, bench: Bench[Any]
    ) -> None:
        plans = [bench.plan("a"), bench.plan("b")]
        sleeper = await bench.start_ready(plans[0])
        await bench.runtime.rest(sleeper)
        awake = await bench.start_ready(plans[1])
        await bench.runtime.close()
        following = bench.new_runtime()

        assert await following.survey(plans) == [awake]

        assert await following.poll(sleeper) is not None
        assert len(bench.journal("a", "exit")) == 1, "it was not asked to end"
        assert bench.bound_ports() == [awake.port]
        with pytest.raises(EngineStartFailed, match="held by the engine of b"):
            await bench.start(plans[0], following)

    async def test_engine_that_was_roused_is_adopted(self, bench: Bench[Any]) -> None:
        plan = bench.plan("a")
        engine = await bench.start_ready(plan)
        await bench.runtime.rest(engine)
        await bench.runtime.rouse(engine)
        await bench.runtime.close()
        following = bench.new_runtime()
        assert await following.survey([plan]) == [engine]
        await following.rest(engine)
        assert bench.held_locks() == []
