"""Traces that arrive at a real receiver: whose they are, what belongs together, and that no request
pays for a receiver that is dead."""

from __future__ import annotations

import json
import secrets
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.harness import GatewayHome, eventually, fake_model, gateway_home
from tests.integration.gateways import (
    CHAT,
    MESSAGES,
    at_rest,
    client_of,
    fakes,
    log_of,
    recorded,
    recorder,
    shared_gateway,
)
from tests.otlp_receiver import Arrived, Receiver, otlp_receiver

pytestmark = [pytest.mark.engine, pytest.mark.feature("traces")]

SERVER, CLIENT = Span.SPAN_KIND_SERVER, Span.SPAN_KIND_CLIENT


@pytest.fixture(scope="module")
def quick_export() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        patch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
        yield


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with otlp_receiver() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def home(
    tmp_path_factory: pytest.TempPathFactory, receiver: Receiver, quick_export: None
) -> Iterator[GatewayHome]:
    models = {**fakes(a="", b="", ill="--exit-at-start 1"), "recorder": recorder()}
    telemetry = {"otlp_endpoint": receiver.url}
    with shared_gateway(tmp_path_factory, models, telemetry=telemetry) as home:
        yield home


@pytest.fixture
def http(home: GatewayHome) -> Iterator[httpx2.Client]:
    with client_of(home, headers=home.admin) as http:
        yield http
    at_rest(home)


def ask(http: httpx2.Client, model: str, *, headers: Any = None, **fields: Any) -> httpx2.Response:
    body = {"model": model, "messages": MESSAGES, **fields}
    return http.post(CHAT, json=body, headers=headers)


def spans_of(receiver: Receiver, answer: httpx2.Response) -> tuple[Arrived, dict[str, Arrived]]:
    """Return the span of a request, and those of its stages by name, in order."""
    whole, *parts = receiver.trace_of(answer.headers["x-request-id"])
    parts.sort(key=lambda span: span.began)
    assert {part.parent for part in parts} == {whole.ident}
    assert all(whole.began <= part.began <= part.ended <= whole.ended for part in parts)
    return whole, {part.name: part for part in parts}


def test_a_request_is_a_span_with_one_for_each_stage(
    http: httpx2.Client, receiver: Receiver
) -> None:
    ask(http, "a")
    answer = ask(http, "a", temperature=0, stream=False)
    whole, parts = spans_of(receiver, answer)

    assert (whole.name, whole.kind, whole.parent) == (f"POST {CHAT}", SERVER, "")
    assert whole.attributes == {
        "http.request.method": "POST",
        "http.route": CHAT,
        "http.response.status_code": 200,
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "a",
        "gen_ai.request.stream": False,
        "llm_backend.request.id": answer.headers["x-request-id"],
        "llm_backend.key": "admin",
        "llm_backend.cache": "miss",
    }
    assert list(parts) == ["authenticate", "receive", "understand", "cache", "chat a"]
    engine = parts["chat a"]
    usage = answer.json()["usage"]
    assert engine.kind == CLIENT
    assert engine.attributes["gen_ai.provider.name"] == "command"
    assert engine.attributes["gen_ai.request.model"] == "a"
    assert engine.attributes["gen_ai.usage.input_tokens"] == usage["prompt_tokens"]
    assert engine.attributes["gen_ai.usage.output_tokens"] == usage["completion_tokens"]
    assert engine.attributes["server.port"] > 0
    assert receiver.resource["service.name"] == "llm-backend"
    assert receiver.resource["deployment.environment.name"] == "test"


def test_an_answer_from_the_cache_asks_no_engine(http: httpx2.Client, receiver: Receiver) -> None:
    fields = {"temperature": 0, "seed": 17}
    assert ask(http, "a", **fields).headers["x-cache"] == "miss"
    whole, parts = spans_of(receiver, ask(http, "a", **fields))
    assert whole.attributes["llm_backend.cache"] == "hit"
    assert list(parts) == ["authenticate", "receive", "understand", "cache"]


def test_a_client_that_traces_is_the_parent_and_the_engine_a_child(
    http: httpx2.Client, receiver: Receiver
) -> None:
    trace, parent = secrets.token_hex(16), secrets.token_hex(8)
    headers = {"traceparent": f"00-{trace}-{parent}-01", "tracestate": "vendor=1"}
    answer = ask(http, "recorder", headers=headers)
    _, reached = recorded(answer)
    whole, parts = spans_of(receiver, answer)

    assert (whole.trace, whole.parent) == (trace, parent)
    assert reached["traceparent"] == f"00-{trace}-{parts['chat recorder'].ident}-01"
    assert reached["tracestate"] == "vendor=1"


def test_who_wants_no_trace_gets_none(http: httpx2.Client, receiver: Receiver) -> None:
    trace = secrets.token_hex(16)
    headers = {"traceparent": f"00-{trace}-{secrets.token_hex(8)}-00"}
    _, reached = recorded(ask(http, "recorder", headers=headers))
    spans_of(receiver, ask(http, "recorder"))

    assert reached["traceparent"].startswith(f"00-{trace}-")
    assert reached["traceparent"].endswith("-00")
    assert trace not in {span.trace for span in receiver.spans}


@pytest.mark.parametrize("damaged", ["", "00-0-0-01", "x" * 300, "00-" + "g" * 32 + "-1-1"])
def test_a_damaged_parent_is_no_parent(
    http: httpx2.Client, receiver: Receiver, damaged: str
) -> None:
    whole, _ = spans_of(receiver, ask(http, "recorder", headers={"traceparent": damaged}))
    assert whole.parent == ""


def test_a_switch_has_a_trace_to_which_those_link_that_waited(
    home: GatewayHome, http: httpx2.Client, receiver: Receiver
) -> None:
    ask(http, "a")
    answer = ask(http, "b")
    _, parts = spans_of(receiver, answer)
    switch = receiver.named("switch to b")
    stages = {s.name: s for s in receiver.spans if s.trace == switch.trace and s.parent}

    assert parts["wait"].links == ((switch.trace, switch.ident),)
    assert set(stages) >= {"stop", "start", "memory", "launch", "load", "warm_up"}
    assert {stages[name].parent for name in ("stop", "start")} == {switch.ident}
    inner = ("memory", "launch", "load", "warm_up")
    assert {stages[name].parent for name in inner} == {stages["start"].ident}
    assert stages["stop"].attributes["gen_ai.request.model"] == "a"
    assert stages["stop"].ended <= stages["start"].began
    assert (switch.parent, switch.failed) == ("", False)
    ident = switch.attributes.pop("llm_backend.switch")
    told = {"from": "a", "to": "b", "rung": "start", "outcome": "ok"}
    assert switch.attributes == {f"llm_backend.{name}": value for name, value in told.items()}

    lines = [json.loads(line) for line in log_of(home).splitlines()]
    own = [line for line in lines if line.get("switch") == ident]
    assert [x["event"] for x in own if x["event"] in {"switch_begun", "switch_ended"}] == [
        "switch_begun",
        "switch_ended",
    ]
    (request,) = [x for x in own if x["event"] == "request"]
    assert request["request_id"] == answer.headers["x-request-id"]
    done = [(x["model"], x["step"]) for x in own if x["event"] == "switch_step"]
    assert done == [
        ("a", "stop_done"),
        *(("b", f"{step}_done") for step in (*inner, "start")),
    ]


def test_what_fails_says_so(http: httpx2.Client, receiver: Receiver) -> None:
    answer = ask(http, "ill")
    assert answer.status_code == 503
    whole, parts = spans_of(receiver, answer)
    assert (whole.failed, parts["wait"].failed) == (True, True)
    assert whole.attributes["error.type"] == "engine_start_failed"
    assert whole.attributes["http.response.status_code"] == 503
    switch = receiver.named("switch to ill")
    assert switch.failed
    assert switch.attributes["llm_backend.outcome"] == "failed"
    assert parts["wait"].links == ((switch.trace, switch.ident),)

    whole, _ = spans_of(receiver, ask(http, "nobody"))
    assert (whole.failed, whole.attributes["error.type"]) == (False, "model_not_found")


# A receiver that is dead


@pytest.fixture
def deaf(tmp_path: Path) -> Iterator[tuple[GatewayHome, Receiver]]:
    """A gateway whose receiver takes connections and never answers, until it is told to."""
    with (
        otlp_receiver() as receiver,
        gateway_home(tmp_path) as home,
        pytest.MonkeyPatch.context() as patch,
    ):
        receiver.answering.clear()
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        patch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "40")
        patch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "10")
        patch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
        home.configure({"a": fake_model(tmp_path, "a")}, telemetry={"otlp_endpoint": receiver.url})
        home.start()
        yield home, receiver


def test_a_receiver_that_does_not_answer_costs_no_request_anything(
    deaf: tuple[GatewayHome, Receiver],
) -> None:
    home, receiver = deaf
    with client_of(home) as http:
        ask(http, "a")
        began = time.monotonic()
        answers = [ask(http, "a", max_tokens=1).status_code for _ in range(200)]
        took = time.monotonic() - began
    assert answers == [200] * 200
    assert took < 60, "waiting a second for the receiver each time would take longer"
    eventually(lambda: "traces_lost" in home.log.read_text())

    receiver.answering.set()
    eventually(lambda: receiver.spans)
    with client_of(home) as http:
        last = ask(http, "a")
        receiver.trace_of(last.headers["x-request-id"])
        eventually(lambda: "traces_taken" in log_of(home))
    spans = 200 * 5
    assert len(receiver.spans) < spans / 2, "what found no place in the queue is dropped"
    log = home.log.read_text()
    assert log.count('"traces_lost"') == log.count('"traces_taken"') == 1
    assert "Traceback" not in log


def test_it_stops_while_the_receiver_is_dead(deaf: tuple[GatewayHome, Receiver]) -> None:
    home, _ = deaf
    with client_of(home) as http:
        assert ask(http, "a").status_code == 200
    began = time.monotonic()
    assert home.terminate() == 0
    assert time.monotonic() - began < 3 + 10, "three seconds are promised"


def test_a_receiver_that_is_not_there(tmp_path: Path, quick_export: None) -> None:
    with socket.socket() as nobody, gateway_home(tmp_path) as home:
        nobody.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{nobody.getsockname()[1]}/v1/traces/"
        home.configure({"a": fake_model(tmp_path, "a")}, telemetry={"otlp_endpoint": endpoint})
        home.start()
        with client_of(home) as http:
            assert [ask(http, "a").status_code for _ in range(20)] == [200] * 20
        assert home.terminate() == 0
        log = home.log.read_text()
    assert "Traceback" not in log
    assert all(line.startswith("{") for line in log.splitlines()), log
