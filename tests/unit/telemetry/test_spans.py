"""Spans of requests and switches, as they arrive at a receiver."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from llm_backend.telemetry.spans import KEPT, Tracer
from tests.otlp_receiver import Arrived, Receiver, otlp_receiver

pytestmark = pytest.mark.anyio

ROUTE = "/v1/chat/completions"


@dataclass
class Facts:
    request_id: str = "r1"
    key: str | None = "alice"
    model: str | None = "a"
    status: int | None = 200
    error: str | None = None
    stream: bool = True
    cache: str = "bypass"
    switch: str | None = None
    prompt_tokens: int = 3
    completion_tokens: int = 5


@dataclass
class Bench:
    tracer: Tracer
    receiver: Receiver

    async def spans(self) -> dict[str, Arrived]:
        await self.tracer.close()
        return {span.name: span for span in self.receiver.spans}

    def switch(self, ident: str, outcome: str | None, **more: Any) -> None:
        told = {"switch": ident, "from": None, "to": "b", "rung": "start", "outcome": outcome}
        self.tracer.hear("switch", {**told, **more})

    def step(self, ident: str | None, step: str, elapsed_s: float = 0.0, model: str = "b") -> None:
        told: Mapping[str, Any] = {"switch": ident, "model": model, "step": step}
        self.tracer.hear("step", {**told, "elapsed_s": elapsed_s})


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    with otlp_receiver() as receiver:
        tracer = Tracer(f"{receiver.url}/v1/traces")
        yield Bench(tracer, receiver)
        await tracer.close()


async def test_stages_follow_each_other(bench: Bench) -> None:
    trace = bench.tracer.request({}, ROUTE, "chat")
    trace.enter("authenticate")
    trace.enter("receive")
    lines = trace.ask("a", "vllm", "127.0.0.1", 8000)
    trace.end(Facts(), is_failure=False)
    spans = await bench.spans()

    assert list(spans) == ["authenticate", "receive", "chat a", f"POST {ROUTE}"]
    engine = spans["chat a"]
    parent = f"traceparent: 00-{engine.trace}-{engine.ident}-"
    assert re.fullmatch(f"{parent}0[13]\r\n".encode(), lines), "sampled; 2 is for chance"
    assert engine.attributes["gen_ai.usage.output_tokens"] == 5
    assert not any(span.failed for span in spans.values())


async def test_the_stage_in_which_it_failed_is_marked(bench: Bench) -> None:
    trace = bench.tracer.request({}, ROUTE, "chat")
    trace.enter("authenticate")
    trace.enter("wait")
    trace.end(Facts(status=None, model=None, error="engine_gone"), is_failure=True)
    spans = await bench.spans()

    assert [name for name, span in spans.items() if span.failed] == ["wait", f"POST {ROUTE}"]
    assert spans["wait"].attributes == {"error.type": "engine_gone"}
    assert "gen_ai.request.model" not in spans[f"POST {ROUTE}"].attributes


async def test_a_route_without_an_operation_has_its_own_name(bench: Bench) -> None:
    bench.tracer.request({}, "/v1/rerank", "rerank").end(Facts(), is_failure=False)
    span = (await bench.spans())["POST /v1/rerank"]
    assert span.attributes["gen_ai.operation.name"] == "rerank"


async def test_headers_that_are_no_latin_text_do_no_harm(bench: Bench) -> None:
    headers = {b"traceparent": b"\xff\xfe", b"tracestate": b"\x80=1"}
    lines = bench.tracer.request(headers, ROUTE, "chat").ask("a", "vllm", "h", 1)
    assert lines.count(b"\r\n") == 1


async def test_a_stage_of_a_switch_holds_those_within_it(bench: Bench) -> None:
    bench.switch("s", None)
    bench.step("s", "wanted")
    bench.step("s", "drain_done", 2.0, model="a")
    bench.step("s", "start")
    bench.step("s", "memory")
    bench.step("s", "memory_done", 0.1)
    bench.step("s", "start_done", 0.2)
    bench.switch("s", "ok", **{"from": "a"})
    spans = await bench.spans()

    assert list(spans) == ["drain", "memory", "start", "switch to b"]
    whole = spans["switch to b"]
    assert spans["memory"].parent == spans["start"].ident
    assert spans["start"].parent == spans["drain"].parent == whole.ident
    drained_s = (spans["drain"].ended - spans["drain"].began) / 1e9
    assert drained_s == pytest.approx(2.0, abs=0.5)
    assert whole.attributes["llm_backend.from"] == "a"


async def test_a_rung_that_failed_and_a_stage_that_never_ended(bench: Bench) -> None:
    bench.switch("s", None, rung="asleep-1")
    bench.step("s", "wake_1")
    bench.step("s", "wake_1_failed")
    bench.step("s", "load")
    bench.switch("s", "failed")
    spans = await bench.spans()
    assert {name: span.failed for name, span in spans.items()} == {
        "wake_1": True,
        "load": True,
        "switch to b": True,
    }


async def test_what_belongs_to_no_switch_makes_no_span(bench: Bench) -> None:
    bench.step(None, "load")
    bench.step("unknown", "load")
    bench.tracer.hear("step", {"step": "shutting_down", "elapsed_s": 0.0})
    bench.switch("s", None, to=None)
    bench.switch("s", "ok", to=None)
    assert list(await bench.spans()) == ["unload"]


async def test_requests_link_to_switches_that_are_not_long_over(bench: Bench) -> None:
    trace = bench.tracer.request({}, ROUTE, "chat")
    trace.enter("wait")
    bench.switch("now", None)
    trace.waited("now")
    trace.end(Facts(), is_failure=False)
    for number in range(KEPT + 1):
        bench.switch(str(number), None)
        bench.switch(str(number), "ok")
    assert bench.tracer.context_of("0") is None
    assert bench.tracer.context_of(str(KEPT)) is not None
    bench.switch("now", "ok")
    (link,) = (await bench.spans())["wait"].links
    assert link[0] in {span.trace for span in bench.receiver.spans if span.name == "switch to b"}
