"""The protocol of sleep against a real vLLM in developer mode.

On the CPU vLLM goes through all the motions and keeps its memory, so this is about the protocol;
tests/gpu is about the memory.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from llm_backend.config.catalog import ModelSpec
from llm_backend.engines import kind_of, plan_for
from llm_backend.gpu.system import Probes
from llm_backend.runtimes.base import Engine
from llm_backend.runtimes.process import ProcessRuntime
from llm_backend.switching.feed import Feed, Notice
from llm_backend.switching.history import DoubtFile, History
from llm_backend.switching.keeper import EngineKeeper, Launch, Tools
from llm_backend.switching.memory import MemoryGate
from llm_backend.switching.probe import EngineProbe
from llm_backend.switching.watch import WatchRules
from llm_backend.weights.store import Store
from tests.integration.test_vllm_engine import model  # noqa: F401  # a fixture
from tests.integration.test_vllm_engine import pytestmark as WHEN  # noqa: N812  # when to run

START_S = 300


async def test_real_vllm_sleeps_and_wakes_at_both_levels(
    model: ModelSpec,  # noqa: F811  # the fixture
    tmp_path: Path,
) -> None:
    options = {**model.engine.options, "enable-sleep-mode": False}  # type: ignore[union-attr]  # it is vLLM
    engine = model.engine.model_copy(update={"options": options})
    spec = model.model_copy(update={"engine": engine, "residency": "auto"})
    runtime, probe = ProcessRuntime(tmp_path / "state", tmp_path / "locks"), EngineProbe()
    history, doubts = History(tmp_path / "history.json"), DoubtFile(tmp_path / "asleep.json")
    tools = Tools(MemoryGate(Probes([])), probe, Feed(), history, WatchRules(), doubts)
    store = Store(tmp_path)
    keeper = EngineKeeper(
        Launch(spec, kind_of(spec), runtime, lambda _: plan_for(spec, store)), tools
    )
    told: list[Notice] = []
    try:
        with tools.feed.listening(told.append):
            async with asyncio.timeout(START_S):
                await keeper.bring_up()
                first = running(keeper)
                for level in (1, 2, 1):
                    assert await keeper.put_to_sleep(level), told[-3:]
                    assert await probe.is_asleep(first)
                    assert await probe.ready(first, keeper.launch.kind), "its health says nothing"
                    assert await keeper.bring_up() is False, told[-3:]
                    assert running(keeper) == first
                    assert await probe.answers(first, keeper.launch.kind, 30) is None
    finally:
        await keeper.bring_down()
        await probe.close()
        await runtime.close()
    assert history.durations["tiny"].keys() >= {"sleep_1", "wake_1", "sleep_2", "wake_2"}


def running(keeper: EngineKeeper) -> Engine:
    assert keeper.engine is not None
    return keeper.engine


pytestmark = [*WHEN, pytest.mark.anyio]
