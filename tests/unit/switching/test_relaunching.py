"""Engines that are started with other launch options, and what holds how long."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from llm_backend.engines.base import LaunchPlan
from llm_backend.engines.launch_options import CATALOG, LaunchOptions
from llm_backend.errors import InvalidRequest, LLMBackendError, SwitchSuperseded
from llm_backend.switching.feed import Notice, Subscription
from llm_backend.switching.states import State
from llm_backend.switching.switcher import Switcher
from tests.unit.switching.loopback import PATIENCE_S, Loopback, launch, plan, switcher

pytestmark = pytest.mark.anyio

SHORT, LONG, BAD = LaunchOptions(128), LaunchOptions(4096), LaunchOptions(quantization="none such")


@asynccontextmanager
async def owner(folder: Path, runtime: Loopback, *models: str) -> AsyncIterator[Switcher]:
    """A switcher whose plans tell their options in their fingerprints."""

    def planned(model: str, options: LaunchOptions) -> LaunchPlan:
        if options == BAD:
            raise InvalidRequest("There is no such quantisation.")
        return replace(plan(model), fingerprint=f"{model} {options.max_model_len}")

    launches = [replace(launch(runtime, model), plan=partial(planned, model)) for model in models]
    async with switcher(folder, runtime, launches=launches) as made:
        yield made


def fingerprint(owner: Switcher, model: str = "a") -> str | None:
    return owner.keeper(model).fingerprint


async def failure(owner: Switcher, options: LaunchOptions) -> type[LLMBackendError]:
    with pytest.raises(LLMBackendError) as raised:
        await owner.relaunching.switch("a", options)
    return type(raised.value)


async def test_options_hold_until_the_engine_stops(tmp_path: Path) -> None:
    runtime = Loopback()
    async with owner(tmp_path, runtime, "a", "b") as owned:
        await owned.relaunching.switch("a", SHORT)
        assert fingerprint(owned) == "a 128"
        assert owned.keeper("a").options == SHORT

        await owned.switch("a")
        await owned.relaunching.switch("a", SHORT)
        assert runtime.starts == ["a"], "it runs like that already"

        await owned.switch("b")
        assert owned.keeper("a").options == CATALOG
        await owned.switch("a")
        assert fingerprint(owned) == "a None"
        assert runtime.starts == ["a", "b", "a"]


async def test_an_engine_with_others_is_drained_and_started_anew(tmp_path: Path) -> None:
    runtime = Loopback()
    async with owner(tmp_path, runtime, "a") as owned:
        await owned.switch("a")
        with owned.lease("a") as lease:
            assert lease.engine is not None
            loading = asyncio.create_task(owned.relaunching.switch("a", SHORT))
            await until(owned, State.DRAINING)
            waiting = asyncio.create_task(granted_fingerprint(owned))
            assert fingerprint(owned) == "a None", "the old one is what still answers"
        await loading
        assert await waiting == "a 128"
        await owned.relaunching.switch("a", LONG)
        assert fingerprint(owned) == "a 4096"
        assert runtime.starts == ["a", "a", "a"]


async def next_of(news: Subscription) -> Notice:
    notice = await news.next(PATIENCE_S)
    assert notice is not None
    return notice


async def until(owned: Switcher, state: State) -> None:
    """Wait until the model `a` is in a state."""
    with owned.feed.subscribed() as news:
        while owned.entries["a"].state is not state:
            await next_of(news)


async def granted_fingerprint(owned: Switcher) -> str:
    with owned.lease("a") as lease:
        return (await lease.granted(PATIENCE_S)).fingerprint


async def test_a_check_ends_nothing_and_remembers_nothing(tmp_path: Path) -> None:
    runtime = Loopback()
    async with owner(tmp_path, runtime, "a") as owned:
        await owned.switch("a")
        with pytest.raises(InvalidRequest):
            await owned.relaunching.check("a", BAD)
        await owned.relaunching.check("a", SHORT)
        assert owned.awake() == ["a"]
        assert fingerprint(owned) == "a None"


async def test_a_start_that_fails_takes_its_options_along(tmp_path: Path) -> None:
    runtime = Loopback()
    async with owner(tmp_path, runtime, "a") as owned:
        assert await failure(owned, BAD) is InvalidRequest
        assert owned.keeper("a").options == owned.keeper("a").due == CATALOG
        await owned.switch("a")
        assert fingerprint(owned) == "a None"


async def test_a_later_switch_replaces_it(tmp_path: Path) -> None:
    runtime = Loopback()
    async with owner(tmp_path, runtime, "a", "b") as owned:
        runtime.prepare("a").answers["/health"] = (503, "")
        with owned.feed.subscribed() as news:
            owned.relaunching.begin("a", SHORT)
            while (await next_of(news)).data.get("step") != "launched":
                continue
        assert owned.keeper("a").options == SHORT
        await owned.switch("b")
        await owned.switch("a")
        assert fingerprint(owned) == "a None"


async def test_of_two_loads_at_once_the_one_that_did_not_come_is_told(tmp_path: Path) -> None:
    runtime = Loopback()
    async with owner(tmp_path, runtime, "a") as owned:
        loads = [owned.relaunching.switch("a", options) for options in (SHORT, LONG)]
        ended = await asyncio.gather(*loads, return_exceptions=True)
        lost = [type(end) for end in ended if end is not None]
        assert lost == [SwitchSuperseded]
        won = (SHORT, LONG)[ended.index(None)]
        assert owned.keeper("a").options == won


async def test_two_equal_loads_at_once_are_one(tmp_path: Path) -> None:
    runtime = Loopback()
    async with owner(tmp_path, runtime, "a") as owned:
        first = asyncio.create_task(owned.relaunching.switch("a", SHORT))
        await until(owned, State.STARTING)
        await owned.relaunching.switch("a", SHORT)
        await first
        assert runtime.starts == ["a"]
        assert owned.keeper("a").options == SHORT


async def test_one_that_leaves_with_these_options_comes_back_with_them(tmp_path: Path) -> None:
    runtime = Loopback()
    async with owner(tmp_path, runtime, "a", "b") as owned:
        await owned.relaunching.switch("a", SHORT)
        runtime.slow = asyncio.Event()
        leaving = asyncio.create_task(owned.switch("b"))
        await until(owned, State.STOPPING)
        loading = asyncio.create_task(owned.relaunching.switch("a", SHORT))
        await asyncio.sleep(0)
        runtime.slow.set()
        await loading
        with pytest.raises(SwitchSuperseded):
            await leaving
        assert fingerprint(owned) == "a 128"
        assert owned.keeper("a").options == SHORT


async def test_one_that_nobody_waits_for_comes_all_the_same(tmp_path: Path) -> None:
    runtime = Loopback()
    async with owner(tmp_path, runtime, "a") as owned:
        owned.relaunching.begin("a", SHORT)
        await until(owned, State.AWAKE)
        assert owned.keeper("a").options == SHORT

        owned.relaunching.begin("a", BAD)
        await until(owned, State.FAILED)
        assert isinstance(owned.entries["a"].error, InvalidRequest)
        assert owned.keeper("a").options == CATALOG
