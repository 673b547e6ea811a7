"""What every runtime answers in every state, as `runtimes/base.py` promises it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import pytest

from llm_backend.errors import EngineStartFailed
from llm_backend.runtimes.base import Engine

if TYPE_CHECKING:
    from tests.contract.benches import Bench

pytestmark = [pytest.mark.anyio, pytest.mark.engine]


class TestStart:
    async def test_engine_serves_its_model_until_it_is_stopped(self, bench: Bench[Any]) -> None:
        plan = bench.plan("a", "--load-s", "0.1")
        engine = await bench.start_ready(plan)
        assert await bench.runtime.poll(engine) is None
        status, models = await bench.get(engine, "/v1/models")
        assert (status, models["data"][0]["id"]) == (200, "served-a")
        assert (engine.model, engine.group, engine.fingerprint) == ("a", "cpu", "1")

        ended = await bench.runtime.stop(engine, 5)

        assert ended.code == 0
        assert ended.reason == "exited with status 0"
        assert await bench.runtime.poll(engine) == ended
        with pytest.raises(ConnectionRefusedError):
            await bench.get(engine, "/health")

    async def test_running_engine_is_not_started_twice(self, any_bench: Bench[Any]) -> None:
        plan = any_bench.plan("a")
        engine = await any_bench.start_ready(plan)
        with pytest.raises(EngineStartFailed, match="engine of a still runs"):
            await any_bench.start(plan)
        assert (await any_bench.get(engine, "/health"))[0] == 200

    async def test_ended_engine_is_started_anew(self, bench: Bench[Any]) -> None:
        first = await bench.start_ready(bench.plan("a"))
        await bench.runtime.stop(first, 5)
        second = await bench.start(bench.plan("a"))
        await bench.event("a", "ready", 2)
        assert second.instance != first.instance
        assert (await bench.get(second, "/health"))[0] == 200

    async def test_cancelled_start_leaves_nothing(self, bench: Bench[Any]) -> None:
        for _ in range(20):
            starting = asyncio.create_task(bench.start(bench.plan("a")))
            await bench.until(bench.processes)
            starting.cancel()
            await asyncio.wait({starting})
            if starting.cancelled():
                break
            await bench.runtime.stop(starting.result(), 5)  # it was quicker than we
        assert starting.cancelled()
        assert bench.processes() == []
        await bench.start(bench.plan("a"))


class TestExclusivity:
    async def test_second_engine_of_a_group_is_refused(self, bench: Bench[Any]) -> None:
        first = await bench.start_ready(bench.plan("a"))
        with pytest.raises(EngineStartFailed) as caught:
            await bench.start(bench.plan("b"))
        assert "group cpu is held by the engine of a" in caught.value.text
        assert first.handle in caught.value.text
        assert bench.journal("b", "start") == []
        assert (await bench.get(first, "/health"))[0] == 200

        await bench.runtime.stop(first, 5)
        second = await bench.start_ready(bench.plan("b"))
        assert (await bench.get(second, "/health"))[0] == 200

    async def test_twenty_racing_starts_bring_up_exactly_one(self, bench: Bench[Any]) -> None:
        results = await asyncio.gather(
            *(bench.start(bench.plan(f"m{number}")) for number in range(20)),
            return_exceptions=True,
        )
        started = [result for result in results if isinstance(result, Engine)]
        refused = [result for result in results if isinstance(result, EngineStartFailed)]
        assert (len(started), len(refused)) == (1, 19)
        await bench.event(started[0].model, "ready")
        assert sum(len(bench.journal(f"m{number}", "start")) for number in range(20)) == 1

    async def test_engines_of_two_groups_run_together(self, any_bench: Bench[Any]) -> None:
        first = await any_bench.start_ready(any_bench.plan("a", group="gpu0"))
        second = await any_bench.start_ready(any_bench.plan("b", group="gpu1"))
        assert (await any_bench.get(first, "/health"))[0] == 200
        assert (await any_bench.get(second, "/health"))[0] == 200


class TestExit:
    async def test_exit_at_start_is_told_with_its_reason(self, bench: Bench[Any]) -> None:
        engine = await bench.start(bench.plan("a", "--exit-at-start", "3"))
        ended = await asyncio.wait_for(bench.runtime.wait(engine), 20)
        assert ended.code == 3
        assert ended.reason == "exited with status 3"
        tail = await bench.runtime.log_tail("a", 2)
        assert tail[0].startswith("ValueError: Free memory on device cuda:0")

    async def test_engine_that_is_killed_tells_the_signal(self, bench: Bench[Any]) -> None:
        engine = await bench.start_ready(bench.plan("a", "--die-after-tokens", "2"))
        with pytest.raises(asyncio.IncompleteReadError):
            await bench.post(engine, "/v1/completions", {"prompt": "hi"})
        ended = await asyncio.wait_for(bench.runtime.wait(engine), 20)
        assert ended.code == -9
        assert ended.reason == "killed by SIGKILL (out of memory?)"
        assert await bench.runtime.poll(engine) == ended

    async def test_stop_of_an_ended_engine_returns_its_exit(self, any_bench: Bench[Any]) -> None:
        engine = await any_bench.start(any_bench.plan("a", "--exit-at-start", "3"))
        ended = await any_bench.runtime.wait(engine)
        assert await any_bench.runtime.stop(engine, 5) == ended

    async def test_exit_outlives_the_runtime_that_saw_it(self, bench: Bench[Any]) -> None:
        engine = await bench.start(bench.plan("a", "--exit-at-start", "3"))
        ended = await bench.runtime.wait(engine)
        assert await bench.new_runtime().poll(engine) == ended

    @pytest.mark.parametrize("how", ["stop", "crash"])
    async def test_grandchild_does_not_outlive_its_engine(
        self, bench: Bench[Any], how: str
    ) -> None:
        flags = ("--grandchild-holds-port", "--die-after-tokens", "0")
        engine = await bench.start_ready(bench.plan("a", *flags))
        daemon = (await bench.event("a", "grandchild"))["pid"]
        assert daemon in {process.pid for process in bench.processes()}
        if how == "stop":
            await bench.runtime.stop(engine, 5)
        else:
            with pytest.raises(asyncio.IncompleteReadError):
                await bench.post(engine, "/v1/completions", {"prompt": "hi"})
            await bench.runtime.wait(engine)
        assert bench.processes() == []
        assert bench.bound_ports() == []


class TestStop:
    async def test_engine_that_ignores_sigterm_is_killed(self, bench: Bench[Any]) -> None:
        engine = await bench.start_ready(bench.plan("a", "--ignore-sigterm", stop_s=0.5))
        began = time.monotonic()
        ended = await bench.runtime.stop(engine, 0.5)
        assert time.monotonic() - began < 5
        assert ended.code == -9
        assert "did not end in time after SIGTERM" in ended.reason
        assert len(bench.journal("a", "sigterm")) == 1

    async def test_shorter_grace_than_planned_counts(self, bench: Bench[Any]) -> None:
        engine = await bench.start_ready(bench.plan("a", "--ignore-sigterm", stop_s=600))
        ended = await asyncio.wait_for(bench.runtime.stop(engine, 0.2), 20)
        assert ended.code == -9

    async def test_cancelled_stop_goes_on_and_is_joined(self, bench: Bench[Any]) -> None:
        plan = bench.plan("a", "--ignore-sigterm", stop_s=2)
        engine = await bench.start_ready(plan)
        stopping = asyncio.create_task(bench.runtime.stop(engine, 2))
        await bench.event("a", "sigterm")
        stopping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stopping

        assert await bench.runtime.poll(engine) is None
        with pytest.raises(EngineStartFailed, match="still runs, or is being started or stopped"):
            await bench.start(plan)
        joined = await asyncio.gather(*(bench.runtime.stop(engine, 2) for _ in range(3)))

        assert {ended.code for ended in joined} == {-9}
        assert len(bench.journal("a", "sigterm")) == 1
        assert bench.processes() == []

    async def test_cancelled_wait_leaves_the_engine_alone(self, any_bench: Bench[Any]) -> None:
        engine = await any_bench.start_ready(any_bench.plan("a"))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(any_bench.runtime.wait(engine), 0.05)
        assert await any_bench.runtime.poll(engine) is None
        assert (await any_bench.runtime.stop(engine, 5)).code in {0, None}


class TestSurvey:
    async def test_engine_outlives_its_runtime_and_is_adopted(self, bench: Bench[Any]) -> None:
        plan = bench.plan("a", key="secret")
        engine = await bench.start_ready(plan)
        await bench.runtime.close()
        following = bench.new_runtime()

        assert await following.survey([bench.plan("b"), plan]) == [engine]

        assert len(bench.journal("a", "start")) == 1
        assert await following.poll(engine) is None
        with pytest.raises(EngineStartFailed, match="still runs"):
            await bench.start(plan, following)
        assert (await following.stop(engine, 5)).code == 0

    async def test_exit_of_an_adopted_engine_is_learnt(self, bench: Bench[Any]) -> None:
        plan = bench.plan("a", "--die-after-tokens", "0")
        await bench.start_ready(plan)
        await bench.runtime.close()
        following = bench.new_runtime()
        (engine,) = await following.survey([plan])
        waiting = asyncio.create_task(following.wait(engine))
        with pytest.raises(asyncio.IncompleteReadError):
            await bench.post(engine, "/v1/completions", {"prompt": "hi"})
        assert (await asyncio.wait_for(waiting, 20)).code == -9

    @pytest.mark.parametrize(
        "changed",
        [{"fingerprint": "2"}, {"group": "gpu"}, {"port": 1}, {"served_name": "other"}],
        ids=lambda changed: next(iter(changed)),
    )
    async def test_engine_of_another_plan_is_ended(
        self, bench: Bench[Any], changed: dict[str, object]
    ) -> None:
        await bench.start_ready(bench.plan("a"))
        await bench.runtime.close()
        assert await bench.new_runtime().survey([bench.plan("a", **changed)]) == []
        assert bench.processes() == []
        assert len(bench.journal("a", "exit")) == 1, "it was not asked to end"

    async def test_engine_of_a_forgotten_model_is_ended(self, bench: Bench[Any]) -> None:
        await bench.start_ready(bench.plan("a"))
        await bench.runtime.close()
        assert await bench.new_runtime().survey([bench.plan("b")]) == []
        assert bench.processes() == []

    async def test_engine_in_the_middle_of_a_stop_is_not_adopted(self, bench: Bench[Any]) -> None:
        plan = bench.plan("a", "--ignore-sigterm", stop_s=1)
        engine = await bench.start_ready(plan)
        stopping = asyncio.create_task(bench.runtime.stop(engine, 1))
        await bench.event("a", "sigterm")
        stopping.cancel()
        await bench.runtime.close()
        assert await bench.new_runtime().survey([plan]) == []
        assert bench.processes() == []

    async def test_nothing_to_find(self, any_bench: Bench[Any]) -> None:
        assert await any_bench.runtime.survey([any_bench.plan("a")]) == []


class TestLogs:
    async def test_tail_of_a_model_that_never_ran_is_empty(self, any_bench: Bench[Any]) -> None:
        assert await any_bench.runtime.log_tail("a", 10) == []

    async def test_tail_is_that_of_the_last_start(self, bench: Bench[Any]) -> None:
        first = await bench.start(bench.plan("a", "--exit-at-start", "3"))
        await bench.runtime.wait(first)
        second = await bench.start_ready(bench.plan("a"))
        tail = await bench.runtime.log_tail("a", 50)
        await bench.runtime.stop(second, 5)
        assert tail[-1] == "INFO:     Application startup complete."
        assert not any("ValueError" in line for line in tail)

    async def test_follow_goes_on_through_a_new_start(self, bench: Bench[Any]) -> None:
        plan = bench.plan("org/a:1")
        first = await bench.start_ready(plan)
        lines = bench.runtime.follow_log("org/a:1", 1)
        assert await anext(lines) == "INFO:     Application startup complete."
        await bench.runtime.stop(first, 5)
        await bench.start(plan)
        seen = await asyncio.wait_for(_until_line(lines, "startup complete"), 20)
        assert any("checkpoint shards:  50%" in line for line in seen)
        await lines.aclose()

    async def test_follow_may_begin_before_the_first_start(self, bench: Bench[Any]) -> None:
        lines = bench.runtime.follow_log("a")
        first = asyncio.create_task(anext(lines))
        await asyncio.sleep(0)
        await bench.start(bench.plan("a"))
        assert "listening on" in await asyncio.wait_for(first, 20)
        await lines.aclose()


async def _until_line(lines: AsyncIterator[str], end: str) -> list[str]:
    seen = []
    async for line in lines:
        seen.append(line)
        if end in line:
            break
    return seen


async def test_plan_that_cannot_be_run_is_refused(bench: Bench[Any]) -> None:
    with pytest.raises(EngineStartFailed) as caught:
        await bench.start(bench.plan("a", argv=("/no/such/engine",)))
    message = caught.value.message
    assert message.startswith("The engine of a could not be started: ")
    assert "/no/such/engine" in message
    assert "cannot be run" in message
    assert "no such file or directory" in message.lower()
    assert "llm-backend config check" in str(caught.value)
    assert bench.processes() == []
    await bench.start_ready(bench.plan("a"))
