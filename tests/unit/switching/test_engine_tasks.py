"""Models that leave the device asleep, over the whole of switcher, keeper and sleeper."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from llm_backend.engines.base import EngineKind
from llm_backend.switching.feed import Notice
from llm_backend.switching.states import State
from llm_backend.switching.switcher import Switcher
from tests.unit.switching.loopback import PATIENCE_S, EngineServer, Loopback, launch, switcher

pytestmark = pytest.mark.anyio

KIND = EngineKind("vllm", sleeps=True)


class Sleepy(EngineServer):
    """Sleeps and wakes like vLLM.

    Attributes:
        damaged: Whether its weights are lost by the next wake.
        deaf: Whether it says that it does what it does not do.
    """

    def __init__(self) -> None:
        super().__init__()
        self.asleep = False
        self.text = "five"
        self.damaged = False
        self.deaf = False
        self.asked_asleep: list[str] = []

    def answer(self, path: str) -> tuple[int, str]:
        route = path.partition("?")[0]
        if route in {"/sleep", "/wake_up"} and not self.deaf:
            self.asleep = route == "/sleep"
            self.text = "\ufffd" if self.damaged and not self.asleep else self.text
        if route == "/is_sleeping":
            return 200, json.dumps({"is_sleeping": self.asleep})
        if route == "/v1/completions":
            if self.asleep:
                self.asked_asleep.append(path)
            return 200, json.dumps({"choices": [{"text": self.text}]})
        return 200, "{}"


class House:
    """A switcher over the models a, b and c, and what it told."""

    def __init__(self, runtime: Loopback, switcher: Switcher) -> None:
        self.runtime = runtime
        self.switcher = switcher
        self.told: list[Notice] = []

    async def ask(self, model: str) -> str:
        """Use a model once; return which start of its engine served it."""
        if model not in self.runtime.servers:
            self.runtime.prepared[model] = Sleepy()
        with self.switcher.lease(model) as lease:
            engine = lease.engine or await lease.granted(PATIENCE_S)
            server = self.server(model)
            assert not server.asleep
            assert model not in self.runtime.resting
            return engine.instance

    def server(self, model: str) -> Sleepy:
        server = self.runtime.servers[model]
        assert isinstance(server, Sleepy)
        return server

    def states(self) -> dict[str, State]:
        return {model: entry.state for model, entry in self.switcher.entries.items()}

    def steps(self) -> list[str]:
        return [notice.data["step"] for notice in self.told if notice.kind == "step"]

    async def until(self, model: str, state: State) -> None:
        with self.switcher.feed.subscribed() as news:
            while self.switcher.entries[model].state is not state:
                assert await news.next(PATIENCE_S) is not None


@asynccontextmanager
async def house(
    folder: Path, runtime: Loopback | None = None, residency: str = "asleep-1"
) -> AsyncIterator[House]:
    """Three models that sleep; engines that still run afterwards are left."""
    runtime = runtime or Loopback()
    launches = [replace(launch(runtime, m, residency=residency), kind=KIND) for m in "abc"]
    async with (
        asyncio.timeout(PATIENCE_S),
        switcher(folder, runtime, launches=launches, policy="fifo") as made,
    ):
        house = House(runtime, made)
        with made.feed.listening(house.told.append):
            yield house


@pytest.fixture
async def three(tmp_path: Path) -> AsyncIterator[House]:
    async with house(tmp_path) as made:
        yield made
        asked = [s.asked_asleep for s in made.runtime.servers.values() if isinstance(s, Sleepy)]
        assert not any(asked), "no request reaches an engine that sleeps"


async def test_a_model_comes_back_without_a_start(three: House) -> None:
    first = await three.ask("a")
    await three.ask("b")
    assert three.states() == {"a": State.ASLEEP, "b": State.AWAKE, "c": State.STOPPED}

    assert await three.ask("a") == first
    assert three.runtime.starts == ["a", "b"]
    assert three.states()["b"] is State.ASLEEP


async def test_many_sleep_and_one_is_awake(three: House) -> None:
    for model in "abcabcabc":
        await three.ask(model)
        awake = [m for m, state in three.states().items() if state is State.AWAKE]
        assert awake == [model]
    assert three.runtime.starts == ["a", "b", "c"]


async def test_damaged_weights_are_noticed_and_loaded_anew(three: House) -> None:
    first = await three.ask("a")
    await three.ask("b")
    three.server("a").damaged = True
    three.runtime.prepared["a"] = Sleepy()

    assert await three.ask("a") != first
    assert "wake_1_canary" in three.steps()
    assert three.server("a").text == "five"


async def test_a_rung_that_failed_is_left_alone_for_a_while(three: House) -> None:
    await three.ask("a")
    await three.ask("b")
    three.server("a").damaged = True
    three.runtime.prepared["a"] = Sleepy()
    await three.ask("a")

    await three.ask("b")

    assert three.states()["a"] is State.STOPPED


async def test_one_that_does_not_fall_asleep_is_stopped(three: House) -> None:
    await three.ask("a")
    three.server("a").deaf = True

    await three.ask("b")

    assert three.states()["a"] is State.STOPPED
    assert "sleep_1_failed" in three.steps()
    assert "a" not in three.runtime.servers


async def test_one_that_dies_in_its_sleep_is_started_by_the_next_request(three: House) -> None:
    first = await three.ask("a")
    await three.ask("b")
    engine = three.switcher.keeper("a").engine
    assert engine is not None

    await three.runtime.end(engine, "killed by SIGKILL", -9)
    await three.until("a", State.FAILED)

    assert await three.ask("a") != first


async def test_one_that_sleeps_can_be_unloaded(three: House) -> None:
    await three.ask("a")
    await three.ask("b")

    assert await three.switcher.unload(["a"]) == ["a"]

    assert three.states()["a"] is State.STOPPED
    assert three.runtime.resting == set()


async def test_an_unload_of_the_awake_model_gives_everything_back(three: House) -> None:
    await three.ask("a")
    await three.switcher.unload(["a"])
    assert three.runtime.servers == {}


class Lasting(Loopback):
    """Its engines outlive the first gateway that lets go of it."""

    async def close(self) -> None:
        if self.left:
            await super().close()


async def test_who_sleeps_when_a_gateway_goes_is_ended_by_the_next(tmp_path: Path) -> None:
    runtime = Lasting()
    async with house(tmp_path, runtime) as before:
        await before.ask("a")
        await before.ask("b")
        engines = [before.switcher.keeper(model).engine for model in "ab"]
    runtime.left = [engine for engine in engines if engine is not None]

    async with house(tmp_path, runtime) as after:
        assert after.states()["a"] is State.STOPPED
        assert after.states()["b"] is State.AWAKE
        assert runtime.servers.keys() == {"b"}


async def test_the_rung_that_proved_quickest_is_taken(tmp_path: Path) -> None:
    async with house(tmp_path, residency="auto") as made:
        levels = []
        for model in "abababab":
            await made.ask(model)
            levels += [e.rung for e in made.switcher.entries.values() if e.state is State.ASLEEP]
        assert set(levels[:4]) == {1, 2}, "each is tried"
        assert made.runtime.starts == ["a", "b"]
