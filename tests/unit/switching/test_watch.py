"""A hung engine is told from a busy one and from an idle one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from llm_backend.engines.base import EngineKind
from llm_backend.runtimes.base import Engine, Exit
from llm_backend.switching.probe import EngineProbe
from llm_backend.switching.watch import WatchRules, manner_of, until_hung
from tests.unit.switching.loopback import PATIENCE_S, EngineServer

pytestmark = pytest.mark.anyio

KIND = EngineKind("vllm", progress_metric="tokens_total")
RULES = WatchRules(stall_s=0.06, probe_s=0.2)


class Bench:
    """An engine that is watched, and how often it was asked for a token."""

    def __init__(self) -> None:
        self.server = EngineServer()
        self.probe = EngineProbe()
        self.busy = True
        self.work = iter(range(10**6))
        self.engine = Engine("i", "a", "127.0.0.1", 0, "a", "f", "cpu", "1")

    def progress(self, tokens: int) -> None:
        self.server.answers["/metrics"] = (200, f"tokens_total {tokens}\n")

    @property
    def tokens_asked(self) -> int:
        return self.server.asked.count("/v1/completions")

    def watch(self, kind: EngineKind = KIND) -> asyncio.Task[str]:
        work = until_hung(self.engine, kind, self.probe, lambda: self.busy, RULES)
        return asyncio.create_task(work)

    async def asked(self, path: str, times: int) -> None:
        """Wait until the engine was asked for something so often."""
        async with asyncio.timeout(PATIENCE_S):
            while self.server.asked.count(path) < times:  # noqa: ASYNC110 # it has no event
                await asyncio.sleep(0.01)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    bench.engine = replace(bench.engine, port=await bench.server.open())
    yield bench
    await bench.probe.close()
    await bench.server.close()


async def ended(task: asyncio.Task[str]) -> None:
    task.cancel()
    await asyncio.wait({task})


async def test_no_progress_and_no_token_is_a_hang(bench: Bench) -> None:
    bench.progress(5)
    bench.server.silent.add("/v1/completions")
    async with asyncio.timeout(PATIENCE_S):
        assert await bench.watch() == "no answer within 0.2 s"
    assert bench.tokens_asked == 1


async def test_a_token_is_enough(bench: Bench) -> None:
    bench.progress(5)
    task = bench.watch()
    await bench.asked("/v1/completions", 3)
    assert not task.done()
    await ended(task)


async def test_progress_is_enough(bench: Bench) -> None:
    bench.server.silent.add("/v1/completions")
    task = bench.watch()
    for asked in range(1, 20):
        bench.progress(asked)
        await bench.asked("/metrics", asked)
    assert bench.tokens_asked == 0
    await ended(task)


async def test_an_idle_engine_is_left_alone(bench: Bench) -> None:
    bench.busy = False
    task = bench.watch()
    await asyncio.wait({task}, timeout=5 * RULES.stall_s)
    assert bench.server.asked == []
    await ended(task)


async def test_an_engine_without_a_counter_is_asked_as_often(bench: Bench) -> None:
    task = bench.watch(replace(KIND, progress_metric=None))
    await bench.asked("/v1/completions", 2)
    assert "/metrics" not in bench.server.asked
    await ended(task)


@pytest.mark.parametrize(
    ("reason", "line", "manner"),
    [
        ("exited with status 1", "ValueError: no such option", "exited"),
        ("killed by SIGKILL (out of memory?)", "INFO: ready", "exited"),
        ("killed by SIGKILL: out of memory", "INFO: ready", "oom"),
        ("exited with status 1", "torch.OutOfMemoryError: CUDA out of memory. Tried", "oom"),
        ("exited with status 1", "ggml_backend_cuda_buffer: cudaMalloc failed", "oom"),
    ],
)
def test_how_an_engine_ended(reason: str, line: str, manner: str) -> None:
    assert manner_of(Exit(1, reason), ["INFO: starting", line]) == manner
