"""Questions to an engine: no answer in time is a "no", whatever else is wrong with it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from llm_backend.engines.base import EngineKind
from llm_backend.runtimes.base import Engine
from llm_backend.switching import probe as probe_module
from llm_backend.switching.probe import EngineProbe, read_counter
from tests.unit.switching.loopback import EngineServer

pytestmark = pytest.mark.anyio

KIND = EngineKind("vllm", progress_metric="vllm:tokens_total")


@pytest.fixture
async def probe() -> AsyncIterator[EngineProbe]:
    probe = EngineProbe()
    yield probe
    await probe.close()


@pytest.fixture
async def server() -> AsyncIterator[EngineServer]:
    server = EngineServer()
    yield server
    await server.close()


@pytest.fixture
async def engine(server: EngineServer) -> Engine:
    return Engine("i", "a", "127.0.0.1", await server.open(), "served-a", "f", "cpu", "1")


@pytest.fixture
def nobody(engine: Engine) -> Engine:
    return replace(engine, port=9)


@pytest.mark.parametrize(("status", "ready"), [(200, True), (503, False), (404, False)])
async def test_ready(
    probe: EngineProbe, server: EngineServer, engine: Engine, status: int, ready: bool
) -> None:
    server.answers["/health"] = (status, "")
    assert await probe.ready(engine, KIND) is ready


async def test_nobody_and_silence_are_not_ready(
    server: EngineServer, engine: Engine, nobody: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe_module, "READY_TIMEOUT_S", 0.05)
    hasty = EngineProbe()
    server.silent.add("/health")
    assert not await hasty.ready(engine, KIND)
    assert not await hasty.ready(nobody, KIND)
    await hasty.close()


async def test_one_token(probe: EngineProbe, server: EngineServer, engine: Engine) -> None:
    assert await probe.answers(engine, KIND, 20) is None
    assert server.asked == ["/v1/completions"]
    server.answers["/v1/completions"] = (500, "")
    assert await probe.answers(engine, KIND, 20) == "HTTP status 500"
    server.silent.add("/v1/completions")
    assert await probe.answers(engine, KIND, 0.05) == "no answer within 0.05 s"


async def test_no_token_from_nobody(probe: EngineProbe, nobody: Engine) -> None:
    assert await probe.answers(nobody, KIND, 20) == "the connection failed (ConnectError)"


async def test_an_engine_that_cannot_be_asked_for_a_token(
    probe: EngineProbe, server: EngineServer, engine: Engine
) -> None:
    assert await probe.answers(engine, replace(KIND, probe_path=None), 0) is None
    assert server.asked == []


async def test_the_work_done(
    probe: EngineProbe, server: EngineServer, engine: Engine, nobody: Engine
) -> None:
    server.answers["/metrics"] = (200, 'vllm:tokens_total{engine="0"} 41.0\n')
    assert await probe.work_done(engine, KIND) == 41
    assert await probe.work_done(engine, replace(KIND, progress_metric=None)) is None
    assert await probe.work_done(nobody, KIND) is None
    server.answers["/metrics"] = (404, "nothing here")
    assert await probe.work_done(engine, KIND) is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("# HELP a_total What it is\n# TYPE a_total counter\n", None),
        ("a_total 3\n", 3),
        ('a_total{x="1"} 3.0\na_total{x="2"} 4e1\n', 43),
        ("a_total_created 17\nba_total 5\n", None),
        ("a_total nonsense\n", None),
        ("a_total \n", None),
    ],
)
def test_counters(text: str, value: float | None) -> None:
    assert read_counter(text, "a_total") == value
