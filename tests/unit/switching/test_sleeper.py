"""Putting an engine to sleep and waking it: what it says is not believed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from llm_backend.engines.base import EngineKind
from llm_backend.gpu.base import GpuSnapshot
from llm_backend.runtimes.base import Engine
from llm_backend.switching.memory import MemoryGate
from llm_backend.switching.probe import EngineProbe
from llm_backend.switching.sleeper import CanaryMismatch, Sleeper, SleepFailed
from tests.unit.switching.loopback import PATIENCE_S, EngineServer, Loopback, plan, spec

pytestmark = pytest.mark.anyio

KIND = EngineKind("vllm", sleeps=True)
RECITAL = json.dumps({"choices": [{"text": "five, six, seven"}]})
DAMAGED = json.dumps({"choices": [{"text": "\ufffd\ufffd\ufffd"}]})


class Card:
    """A device whose memory the tests set."""

    def __init__(self) -> None:
        self.free = 9_000
        self.readings = 0

    def read(self, device: str) -> GpuSnapshot | None:
        self.readings += 1
        return GpuSnapshot(device, "a card", 10_000, self.free)


class Server(EngineServer):
    """Gives memory back when it is told to sleep."""

    def __init__(self, card: Card) -> None:
        super().__init__()
        self.gives_back = 0
        self._card = card

    def answer(self, path: str) -> tuple[int, str]:
        if path.startswith("/sleep"):
            self._card.free += self.gives_back
        return super().answer(path)


class Bench:
    def __init__(self, **fields: Any) -> None:
        self.runtime, self.probe, self.card = Loopback(), EngineProbe(), Card()
        timeouts = {"sleep_s": 1, "wake_s": 1, **fields.pop("timeouts", {})}
        fields = {
            "residency": "auto",
            "memory_mib": {"awake": 7_000, "asleep-1": 400, "asleep-2": 400},
            **fields,
        }
        self.sleeper = Sleeper(
            spec("a", timeouts=timeouts, **fields),
            KIND,
            self.runtime,
            self.probe,
            MemoryGate(self.card),
        )

    async def up(self, server: Server | None = None) -> Engine:
        """Start an engine that generates; what it takes of the card is taken."""
        await self.sleeper.note_free()
        self.server = server or Server(self.card)
        self.runtime.prepared["a"] = self.server
        self.server.answers["/v1/completions"] = (200, RECITAL)
        self.card.free -= 7_000
        self.engine = await self.runtime.start(plan("a"))
        await self.sleeper.learn(self.engine)
        return self.engine

    def sleeps(self, level: int = 1) -> None:
        """Have it say that it sleeps, and give its memory back."""
        self.server.answers[f"/sleep?level={level}&mode=abort"] = (200, "{}")
        self.server.answers["/is_sleeping"] = (200, '{"is_sleeping": true}')
        self.server.gives_back = 6_500

    def wakes(self) -> None:
        for path in ("/wake_up", "/wake_up?tags=weights", "/wake_up?tags=kv_cache"):
            self.server.answers[path] = (200, "{}")
        self.server.answers |= dict.fromkeys(("/collective_rpc", "/reset_prefix_cache"), (200, ""))
        self.server.answers["/is_sleeping"] = (200, '{"is_sleeping": false}')


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    async with asyncio.timeout(PATIENCE_S):
        await bench.up()
        yield bench
        await bench.probe.close()
        await bench.runtime.close()


async def test_asleep_and_awake_again(bench: Bench) -> None:
    bench.sleeps()
    await bench.sleeper.put_to_sleep(bench.engine, 1)
    assert bench.runtime.resting == {"a"}

    bench.wakes()
    bench.server.asked.clear()
    await bench.sleeper.wake(bench.engine, 1)

    assert bench.runtime.resting == set()
    assert bench.server.asked == [
        *("/wake_up", "/reset_prefix_cache", "/is_sleeping"),
        *("/v1/completions", "/v1/completions"),
    ]


async def test_the_weights_that_were_dropped_are_loaded_before_the_cache(bench: Bench) -> None:
    bench.sleeps(2)
    await bench.sleeper.put_to_sleep(bench.engine, 2)

    bench.wakes()
    bench.server.asked.clear()
    await bench.sleeper.wake(bench.engine, 2)

    assert bench.server.asked[:4] == [
        *("/wake_up?tags=weights", "/collective_rpc"),
        *("/wake_up?tags=kv_cache", "/reset_prefix_cache"),
    ]


async def test_one_that_says_it_sleeps_and_does_not(bench: Bench) -> None:
    bench.sleeps()
    bench.server.answers["/is_sleeping"] = (200, '{"is_sleeping": false}')
    with pytest.raises(SleepFailed, match="said that it sleeps, and is awake"):
        await bench.sleeper.put_to_sleep(bench.engine, 1)
    assert bench.runtime.resting == set()


async def test_one_that_keeps_its_memory(bench: Bench) -> None:
    bench.sleeps()
    bench.server.gives_back = 6_300
    with pytest.raises(SleepFailed, match="was not asleep after 1 s"):
        await bench.sleeper.put_to_sleep(bench.engine, 1)
    assert bench.runtime.resting == set()


@pytest.mark.parametrize("answer", [(500, ""), (404, "")])
async def test_one_that_refuses(bench: Bench, answer: tuple[int, str]) -> None:
    bench.sleeps()
    bench.server.answers["/sleep?level=1&mode=abort"] = answer
    with pytest.raises(SleepFailed, match=f"/sleep answered HTTP status {answer[0]}"):
        await bench.sleeper.put_to_sleep(bench.engine, 1)


async def test_one_that_hangs_in_sleep(bench: Bench) -> None:
    bench.server.silent.add("/sleep?level=1&mode=abort")
    with pytest.raises(SleepFailed, match="was not asleep after 1 s"):
        await bench.sleeper.put_to_sleep(bench.engine, 1)


@pytest.mark.parametrize("text", ["", "[]", "{}", "not JSON"])
async def test_one_that_does_not_say_whether_it_sleeps(bench: Bench, text: str) -> None:
    bench.sleeps()
    bench.server.answers["/is_sleeping"] = (200, text)
    with pytest.raises(SleepFailed, match="does not say whether it sleeps"):
        await bench.sleeper.put_to_sleep(bench.engine, 1)


async def test_one_that_hangs_in_waking(bench: Bench) -> None:
    bench.server.silent.add("/wake_up")
    with pytest.raises(SleepFailed, match="was not awake after 1 s"):
        await bench.sleeper.wake(bench.engine, 1)


async def test_one_that_is_gone(bench: Bench) -> None:
    await bench.runtime.end(bench.engine, "exited with status 1", 1)
    with pytest.raises(SleepFailed, match="/wake_up failed"):
        await bench.sleeper.wake(bench.engine, 1)


async def test_one_that_sleeps_on(bench: Bench) -> None:
    bench.wakes()
    bench.server.answers["/is_sleeping"] = (200, '{"is_sleeping": true}')
    with pytest.raises(SleepFailed, match="said that it woke up, and sleeps"):
        await bench.sleeper.wake(bench.engine, 1)


async def test_one_that_generates_nothing(bench: Bench) -> None:
    bench.wakes()
    bench.server.answers["/v1/completions"] = (500, "")
    with pytest.raises(SleepFailed, match="asked for one token: HTTP status 500"):
        await bench.sleeper.wake(bench.engine, 1)


async def test_one_whose_weights_were_damaged(bench: Bench) -> None:
    bench.wakes()
    bench.server.answers["/v1/completions"] = (200, DAMAGED)
    with pytest.raises(CanaryMismatch, match="and recited 'five, six, seven' before"):
        await bench.sleeper.wake(bench.engine, 1)


async def test_one_that_recites_no_more(bench: Bench) -> None:
    bench.wakes()
    bench.server.answers["/v1/completions"] = (200, "{}")
    with pytest.raises(CanaryMismatch, match="it recites ''"):
        await bench.sleeper.wake(bench.engine, 1)


async def test_a_place_that_another_engine_has(bench: Bench) -> None:
    bench.wakes()
    bench.runtime.fails["a"] = "the lock of group cpu is held by the engine of b"
    with pytest.raises(SleepFailed, match="held by the engine of b"):
        await bench.sleeper.wake(bench.engine, 1)
    assert "/wake_up" not in bench.server.asked


async def test_an_engine_is_learned_once(bench: Bench) -> None:
    asked = bench.server.asked.count("/v1/completions")
    await bench.sleeper.learn(bench.engine)
    assert bench.server.asked.count("/v1/completions") == asked == 2


async def test_one_that_never_sleeps_is_not_bothered() -> None:
    bench = Bench(residency="stop")
    await bench.up()
    assert not bench.sleeper.may_sleep
    assert bench.server.asked == []
    await bench.probe.close()
    await bench.runtime.close()


class Unsteady(Server):
    """Recites differently each time."""

    def __init__(self, card: Card) -> None:
        super().__init__(card)
        self.count = 0

    def answer(self, path: str) -> tuple[int, str]:
        self.count += 1
        text = json.dumps({"choices": [{"text": str(self.count)}]})
        return (200, text) if path == "/v1/completions" else super().answer(path)


async def test_one_that_cannot_be_known_again_is_believed() -> None:
    bench = Bench()
    await bench.up(Unsteady(bench.card))
    bench.wakes()
    await bench.sleeper.wake(bench.engine, 1)
    await bench.probe.close()
    await bench.runtime.close()


async def test_what_others_take_meanwhile_makes_no_difference(bench: Bench) -> None:
    bench.card.free -= 1_500
    bench.sleeps()
    await bench.sleeper.put_to_sleep(bench.engine, 1)


async def test_memory_that_comes_back_late_is_waited_for(bench: Bench) -> None:
    bench.sleeps()
    bench.server.gives_back = 0
    readings = bench.card.readings
    task = asyncio.create_task(bench.sleeper.put_to_sleep(bench.engine, 1))
    while bench.card.readings < readings + 3:  # noqa: ASYNC110  # a card tells nobody
        await asyncio.sleep(0.01)
    bench.card.free += 6_500
    await task
