"""What the gateway tells while engines come and go: comments in streams, events, status, logs."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import pytest

from tests.harness import GatewayHome, eventually
from tests.integration.gateways import (
    CHAT,
    MESSAGES,
    at_rest,
    client_of,
    error_of,
    fake,
    fakes,
    shared_gateway,
)

pytestmark = [pytest.mark.engine, pytest.mark.feature("time left")]

LOAD, UNLOAD = "/api/v1/inference/load", "/api/v1/inference/unload"
LOAD_S = 2.0
"""Long enough for a client to hear of it first."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayHome]:
    models = {
        **fakes(
            quick="", other="", late=f"--load-s {LOAD_S}", ill="--exit-at-start 1 --load-s 1.2"
        ),
        **fake("long", "--token-delay-s 0.05 --tokens 200", concurrency=1),
    }
    settings = {"limits": {"queue_timeout_s": 20}, "switching": {"drain_timeout_s": 20}}
    with shared_gateway(tmp_path_factory, models, **settings) as home:
        yield home


@pytest.fixture
def http(home: GatewayHome) -> Iterator[httpx2.Client]:
    with client_of(home, headers=home.admin) as http:
        yield http
    at_rest(home)


@contextmanager
def streaming(
    http: httpx2.Client, path: str, model: str, **fields: Any
) -> Iterator[httpx2.Response]:
    body = {"model": model, "messages": MESSAGES, "stream": True, "max_tokens": 3, **fields}
    with http.stream("POST", path, json=body) as response:
        yield response


def events_of(response: httpx2.Response) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield name and data of each server-sent event; comments are left out."""
    name = ""
    for line in response.iter_lines():
        if line.startswith("event: "):
            name = line[7:]
        elif line.startswith("data: "):
            yield name, json.loads(line[6:])


def unload(http: httpx2.Client) -> None:
    assert http.post(UNLOAD, json={}).status_code == 200


# Streams that wait


def test_a_stream_hears_within_a_second_what_it_waits_for(
    home: GatewayHome, http: httpx2.Client
) -> None:
    unload(http)
    asked = time.monotonic()
    with streaming(http, CHAT, "late") as response:
        heard = time.monotonic() - asked
        state = home.state("late")
        lines = list(response.iter_lines())

    assert heard < 1 + 2, "a second is promised; the rest is for a slow machine"
    assert state == "starting"
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert lines[0].startswith(": loading late")
    assert lines[1] == ""
    assert lines[2].startswith("data: {")
    *_, done, timing = [line for line in lines if line]
    assert done == "data: [DONE]"
    assert timing.startswith(": timing: queue;dur=")


def test_it_hears_how_long_once_that_was_measured(http: httpx2.Client) -> None:
    http.post(LOAD, json={"model": "late"})
    unload(http)
    with streaming(http, CHAT, "late") as response:
        first = next(response.iter_lines())
    assert first.startswith(": loading late, about ")
    assert first.endswith(" s left")


def test_anthropic_streams_hear_pings(http: httpx2.Client) -> None:
    unload(http)
    with streaming(http, "/v1/messages", "late") as response:
        names = [name for name, _ in events_of(response)]
    assert names[:2] == ["ping", "message_start"]
    assert names[-1] == "message_stop"


def test_a_stream_that_has_been_told_to_wait_can_only_fail_within(http: httpx2.Client) -> None:
    unload(http)
    with streaming(http, CHAT, "ill") as response:
        told = [line for line in response.iter_lines() if line]
    assert response.status_code == 200
    assert told[0].startswith(": loading ill")
    assert len(told) == 2
    error = json.loads(told[1].removeprefix("data: "))["error"]
    assert error["code"] == "engine_start_failed"

    with streaming(http, "/v1/messages", "ill") as response:
        events = list(events_of(response))
    assert [name for name, _ in events][-1] == "error"
    assert events[-1][1]["error"]["type"] == "overloaded_error"


def test_a_plain_request_that_waits_gets_its_status(http: httpx2.Client) -> None:
    unload(http)
    answer = http.post(CHAT, json={"model": "late", "messages": MESSAGES})
    assert answer.status_code == 200
    assert answer.json()["model"] == "late"


def test_whoever_waits_for_a_place_hears_so(http: httpx2.Client) -> None:
    http.post(LOAD, json={"model": "long"})
    with streaming(http, CHAT, "long", max_tokens=60) as first:
        lines = first.iter_lines()
        next(lines)
        with streaming(http, CHAT, "long") as second:
            told = second.iter_lines()
            assert next(told).startswith(": waiting for long, all places are taken")
            waiting = {m["id"]: m["waiting"] for m in http.get("/status").json()["models"]}
            assert waiting["long"] == 1
        assert [line for line in lines if line][-1] == "data: [DONE]"


# The status


def test_the_status_amid_a_switch(home: GatewayHome, http: httpx2.Client) -> None:
    http.post(LOAD, json={"model": "long"})
    with streaming(http, CHAT, "long", max_tokens=40) as response:
        lines = response.iter_lines()
        next(lines)
        assert http.post(LOAD, json={"model": "late", "wait": False}).json()["state"] == "stopped"
        draining = http.get("/status").json()
        assert (draining["is_loaded"], draining["model"]) == (False, None)
        switch = draining["switch"]
        assert (switch["from"], switch["to"], switch["step"]) == ("long", "late", "draining")
        assert [x for x in lines if x][-1] == "data: [DONE]", "the switch waited for the answer"

    loading = eventually(
        lambda: (s := http.get("/status").json()["switch"]) and s["step"] == "load" and s
    )
    assert (loading["from"], loading["to"]) == (None, "late")
    assert loading["elapsed_s"] >= 0
    eventually(lambda: http.get("/status").json()["model"] == "late")
    assert http.get("/status").json()["switch"] is None


def test_a_request_without_a_model_joins_the_switch(home: GatewayHome, http: httpx2.Client) -> None:
    unload(http)
    http.post(LOAD, json={"model": "late", "wait": False})
    answer = http.post(CHAT, json={"messages": MESSAGES})
    assert answer.json()["model"] == "late", "the default would have made a second switch"


def test_a_later_switch_replaces_an_earlier_one(home: GatewayHome, http: httpx2.Client) -> None:
    unload(http)
    with client_of(home, headers=home.admin) as other, other.stream("GET", "/events") as news:
        notices = events_of(news)
        assert next(notices)[0] == "snapshot"
        http.post(LOAD, json={"model": "late", "wait": False})
        assert http.post(LOAD, json={"model": "quick"}).json()["state"] == "awake"
        states = [
            (d["model"], d["state"]) for k, d in until_awake(notices, "quick") if k == "state"
        ]
    assert states[:3] == [("late", "starting"), ("late", "stopping"), ("late", "stopped")]


# Events


def until_awake(
    notices: Iterator[tuple[str, dict[str, Any]]], model: str
) -> list[tuple[str, dict[str, Any]]]:
    seen = []
    for kind, data in notices:
        seen.append((kind, data))
        if kind == "state" and (data["model"], data["state"]) == (model, "awake"):
            break
    return seen


def test_events_begin_with_the_status_and_tell_each_step(
    home: GatewayHome, http: httpx2.Client
) -> None:
    http.post(LOAD, json={"model": "quick"})
    with client_of(home) as other, other.stream("GET", "/events") as news:
        assert news.headers["content-type"].startswith("text/event-stream")
        notices = events_of(news)
        kind, snapshot = next(notices)
        assert kind == "snapshot"
        assert snapshot["model"] == "quick"
        assert snapshot.keys() == http.get("/status").json().keys()
        http.post(CHAT, json={"model": "other", "messages": MESSAGES})
        seen = until_awake(notices, "other")

    moves = [(d["model"], d["previous"], d["state"]) for k, d in seen if k == "state"]
    assert moves == [
        ("quick", "awake", "stopping"),
        ("quick", "stopping", "stopped"),
        ("other", "stopped", "starting"),
        ("other", "starting", "awake"),
    ]
    steps = [d["step"] for k, d in seen if k == "step" and d["model"] == "other"]
    assert steps == [
        *("wanted", "start", "memory", "memory_done", "launch", "launched", "launch_done"),
        *("load", "load_done", "warm_up", "warm_up_done", "start_done"),
    ]
    assert all(d["elapsed_s"] >= 0 for k, d in seen if k == "step")


def test_a_failure_is_an_event_with_its_reason(home: GatewayHome, http: httpx2.Client) -> None:
    with client_of(home) as other, other.stream("GET", "/events") as news:
        notices = events_of(news)
        next(notices)
        assert http.post(LOAD, json={"model": "ill"}).status_code == 503
        (reason,) = [d["reason"] for k, d in until_failed(notices) if k == "state"]
    assert "exited with status 1 before it was ready" in reason
    assert http.get("/health").json()["status"] == "degraded"
    assert http.get("/health").json()["models"]["ill"]["reason"] == reason


def until_failed(
    notices: Iterator[tuple[str, dict[str, Any]]],
) -> Iterator[tuple[str, dict[str, Any]]]:
    for kind, data in notices:
        if data.get("state") == "failed":
            yield kind, data
            return


# Logs


def test_the_last_lines_of_a_log(http: httpx2.Client) -> None:
    http.post(LOAD, json={"model": "quick"})
    whole = http.get("/logs/quick")
    assert whole.headers["content-type"] == "text/plain; charset=utf-8"
    lines = whole.text.splitlines()
    assert lines[-1] == "INFO:     Application startup complete."
    assert http.get("/logs/quick?lines=2").text.splitlines() == lines[-2:]
    assert http.get("/logs/quick?lines=0").text == ""
    error_of(http.get("/logs/nobody"), 404, "model_not_found")
    wrong = error_of(http.get("/logs/quick?lines=-1"), 400, "invalid_request")
    assert wrong["param"] == "lines"


def test_a_log_can_be_followed(home: GatewayHome, http: httpx2.Client) -> None:
    http.post(LOAD, json={"model": "quick"})
    unload(http)
    with http.stream("GET", "/logs/quick?follow=true&lines=1") as response:
        lines = response.iter_lines()
        assert next(lines)
        http.post(LOAD, json={"model": "quick"})
        assert any("vLLM API server" in line for line in lines)


def test_followers_do_not_hold_up_the_end(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with (
        shared_gateway(tmp_path_factory, fakes(quick="")) as home,
        client_of(home, headers=home.admin) as http,
    ):
        http.post(LOAD, json={"model": "quick"})
        with (
            http.stream("GET", "/logs/quick?follow=true&lines=1") as log,
            http.stream("GET", "/events") as news,
        ):
            lines, notices = log.iter_lines(), events_of(news)
            assert next(lines)
            assert next(notices)[0] == "snapshot"
            asked = time.monotonic()
            assert home.terminate() == 0
            took = time.monotonic() - asked
            assert [data["step"] for _, data in notices] == ["shutting_down"]
        assert took < 10, "requests may take 30 s to end, these do not"
