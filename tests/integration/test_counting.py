"""What is counted, on a real gateway: the counters before and after, compared to the last one."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest

from llm_backend.testing.fake_engine import command
from tests.harness import GatewayHome, eventually, fake_model, gateway_home
from tests.integration.counting import (
    Counts,
    answered,
    counted,
    counts,
    down,
    left,
    lent,
    line,
    refused,
    request,
    samples,
    stages,
    states,
    switch,
    up,
)
from tests.integration.gateways import (
    CHAT,
    MESSAGES,
    at_rest,
    client_of,
    connected,
    fake,
    key_of,
    key_setting,
    post_bytes,
    shared_gateway,
)

pytestmark = [pytest.mark.engine, pytest.mark.feature("metrics")]

ALICE = {"authorization": f"Bearer {key_of('alice')}"}
LOAD_S = 0.5
MIB = 1024 * 1024


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayHome]:
    models = {
        **fake("a", f"--load-s {LOAD_S} --tokens 5 --token-delay-s 0.01"),
        **fake("b", f"--load-s {LOAD_S}"),
        **fake("slow", "--tokens 100 --token-delay-s 0.05", concurrency=1),
        **fake("broken", "--exit-at-start 3"),
        **fake("stuck", "--never-ready"),
    }
    keys = [key_setting("alice", "infer")]
    with shared_gateway(tmp_path_factory, models, keys=keys) as home:
        yield home


@pytest.fixture
def http(home: GatewayHome) -> Iterator[httpx2.Client]:
    with client_of(home, headers=ALICE) as http:
        http.post("/api/v1/cache/clear", json={}, headers=home.admin).raise_for_status()
        yield http
    at_rest(home)


def awake(home: GatewayHome, model: str) -> None:
    home.load(model).raise_for_status()
    at_rest(home)


def ask(model: str, **fields: Any) -> dict[str, Any]:
    return {"model": model, "messages": MESSAGES, **fields}


def usage(response: httpx2.Response) -> tuple[int, int]:
    assert response.status_code == 200, response.text
    told = response.json()["usage"]
    return told["prompt_tokens"], told["completion_tokens"]


def test_a_request_an_answer_from_the_cache_and_a_switch_there_and_back(
    home: GatewayHome, http: httpx2.Client
) -> None:
    awake(home, "b")
    tokens = usage(http.post(CHAT, json=ask("b")))
    tokens = (tokens[0], 5)
    kept = ask("a", temperature=0)
    with counted(
        home,
        *(request("a", "2xx", "miss"), lent("a", "switch"), answered("a", tokens)),
        *(down("b"), up("a"), switch("b", "a")),
    ):
        assert usage(http.post(CHAT, json=kept)) == tokens
    with counted(home, request("a", "2xx", "hit")):
        assert http.post(CHAT, json=kept).headers["x-cache"] == "hit"
    assert samples(home)[line("llm_switch_saved_seconds_total", model="a")] == 0
    with counted(home, down("a"), up("b"), switch("a", "b")):
        awake(home, "b")
    with counted(home, request("a", "2xx", "hit")):
        assert http.post(CHAT, json=kept).headers["x-cache"] == "hit"

    now = samples(home)
    assert now[line("llm_switch_saved_seconds_total", model="a")] > LOAD_S
    took = now[line("llm_switch_actual_seconds", model="b")]
    assert took > LOAD_S
    assert 0 < now[line("llm_switch_estimate_seconds", model="b")] < 10 * took


def test_a_stream_has_a_first_token_and_others(home: GatewayHome, http: httpx2.Client) -> None:
    awake(home, "a")
    plain = usage(http.post(CHAT, json=ask("a")))
    body = ask("a", stream=True, stream_options={"include_usage": True})
    times = {
        line(f"llm_time_{name}_seconds_count", model="a"): 1
        for name in ("to_first_token", "per_output_token")
    }
    with counted(home, request("a", "2xx"), lent("a", "none"), answered("a", plain), times):
        assert http.post(CHAT, json=body).text.endswith("data: [DONE]\n\n")
    # An engine that counts no tokens leaves open what each of them took.
    del times[line("llm_time_per_output_token_seconds_count", model="a")]
    overhead = {line("llm_gateway_overhead_seconds_count", model="a"): 1}
    with counted(home, request("a", "2xx"), lent("a", "none"), overhead, times):
        assert http.post(CHAT, json=ask("a", stream=True)).text.endswith("data: [DONE]\n\n")


def test_a_start_that_fails_and_is_tried_again(home: GatewayHome, http: httpx2.Client) -> None:
    awake(home, "b")
    fails = (
        *(request("broken", "5xx"), refused("engine_start_failed")),
        *(states("broken", "starting", "failed"), stages("broken", "memory", "launch")),
        stages("broken", "stop"),
    )
    with counted(home, *fails, down("b"), switch("b", "broken", "failed")):
        assert http.post(CHAT, json=ask("broken")).status_code == 503
    again = {line("llm_engine_restarts_total", model="broken", reason="exited"): 1}
    with counted(home, *fails, switch("none", "broken", "failed"), again):
        assert http.post(CHAT, json=ask("broken")).status_code == 503


def test_an_engine_that_is_killed(home: GatewayHome, http: httpx2.Client) -> None:
    awake(home, "b")
    tokens = usage(http.post(CHAT, json=ask("b")))
    with counted(home, states("b", "failed")):
        for process in home.engine_processes():
            process.kill()
        eventually(lambda: home.state("b") == "failed")
    restart = {line("llm_engine_restarts_total", model="b", reason="exited"): 1}
    with counted(
        home,
        *(request("b", "2xx"), lent("b", "switch"), answered("b", tokens)),
        *(up("b"), switch("none", "b"), restart),
    ):
        assert usage(http.post(CHAT, json=ask("b"))) == tokens


def hang_up(connection: socket.socket) -> None:
    with connection:
        connection.shutdown(socket.SHUT_RDWR)


def begin(home: GatewayHome, **fields: Any) -> socket.socket:
    connection = connected(home)
    body = orjson.dumps(ask(**fields))
    key = f"authorization: {ALICE['authorization']}"
    fields_ = (key, "host: localhost", "content-type: application/json")
    connection.sendall(post_bytes(CHAT, body, *fields_))
    return connection


def inflight(home: GatewayHome, model: str) -> int:
    return int(samples(home)[line("llm_requests_in_flight", model=model)])


def waiting(home: GatewayHome, model: str) -> int:
    return int(samples(home)[line("llm_requests_waiting", model=model)])


def test_clients_that_leave(home: GatewayHome, http: httpx2.Client) -> None:
    awake(home, "slow")
    with counted(
        home,
        *(request("slow", "gone", times=2), lent("slow", "none")),
        *(left("slow", "answering"), left("slow", "waiting")),
        {line("llm_time_to_first_token_seconds_count", model="slow"): 1},
    ):
        first = begin(home, model="slow", stream=True)
        assert b"data:" in until(first, b"data:")
        eventually(lambda: inflight(home, "slow") == 1)
        second = begin(home, model="slow")
        eventually(lambda: waiting(home, "slow") == 1)
        hang_up(second)
        eventually(lambda: waiting(home, "slow") == 0)
        hang_up(first)
        eventually(lambda: inflight(home, "slow") == 0)


def until(connection: socket.socket, text: bytes) -> bytes:
    connection.settimeout(10)
    seen = b""
    while text not in seen and (piece := connection.recv(65536)):
        seen += piece
    return seen


def test_a_request_that_waits_for_a_seat(home: GatewayHome, http: httpx2.Client) -> None:
    awake(home, "slow")
    with ThreadPoolExecutor() as pool:
        one = pool.submit(http.post, CHAT, json=ask("slow", max_tokens=20))
        eventually(lambda: inflight(home, "slow") == 1)
        before = counts(home)
        assert usage(http.post(CHAT, json=ask("slow", max_tokens=1)))[1] == 1
        assert usage(one.result())[1] == 20
    busy = line("llm_queue_wait_seconds_count", model="slow", cause="engine_busy")
    assert counts(home)[busy] == before[busy] + 1


def test_a_drain_is_a_stage(home: GatewayHome, http: httpx2.Client) -> None:
    awake(home, "slow")
    drained = line("llm_switch_stage_duration_seconds_count", model="slow", stage="drain")
    before = samples(home)[drained]
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(http.post, CHAT, json=ask("slow", max_tokens=10))
        eventually(lambda: inflight(home, "slow") == 1)
        home.load("b").raise_for_status()
        assert answer.result().status_code == 200
    assert samples(home)[drained] == before + 1


def test_a_request_that_waits_for_what_a_device_lease_drove_away(
    home: GatewayHome, http: httpx2.Client
) -> None:
    awake(home, "a")
    tokens = usage(http.post(CHAT, json=ask("a")))
    lease = {"ttl_s": 60, "reason": "a game", "wait": False}
    with counted(home, down("a")):
        taken = home.post("/api/v1/device/lease", lease, headers=home.admin).json()
        eventually(lambda: home.state("a") == "stopped")
    assert samples(home)[line("llm_device_leases", device="cpu")] == 1
    with counted(
        home,
        *(request("a", "2xx"), lent("a", "lease"), answered("a", tokens)),
        *(up("a"), switch("none", "a")),
    ):
        http.delete(f"/api/v1/device/lease/{taken['id']}", headers=home.admin).raise_for_status()
        assert usage(http.post(CHAT, json=ask("a"))) == tokens
    assert samples(home)[line("llm_device_leases", device="cpu")] == 0


def test_equal_requests_at_once(home: GatewayHome, http: httpx2.Client) -> None:
    awake(home, "slow")
    body = ask("slow", temperature=0, max_tokens=20)
    joins = line("llm_single_flight_joins_total", model="slow")
    with ThreadPoolExecutor() as pool:
        before = counts(home)
        first = pool.submit(http.post, CHAT, json=body)
        eventually(lambda: inflight(home, "slow") == 1)
        second = pool.submit(http.post, CHAT, json=body)
        answers = [first.result().headers["x-cache"], second.result().headers["x-cache"]]
    assert answers == ["miss", "hit"]
    assert counts(home)[joins] == before[joins] + 1


def test_errors_on_any_route(home: GatewayHome, http: httpx2.Client) -> None:
    def nobody(route: str, key: str) -> Counts:
        labels = {"route": route, "model": "other", "key": key, "status": "4xx"}
        return {line("llm_requests_total", cache="bypass", **labels): 1}

    with counted(home, refused("model_not_found"), nobody(CHAT, "alice")):
        http.post(CHAT, json=ask("invented"))
    with counted(home, refused("invalid_api_key"), nobody(CHAT, "other")):
        http.post(CHAT, json=ask("a"), headers={"authorization": "Bearer invented"})
    unsupported = {line("llm_request_duration_seconds_count", model="a"): 1}
    with counted(home, refused("unsupported_by_model"), nobody("/rerank", "alice"), unsupported):
        http.post("/rerank", json={"model": "a", "query": "a", "documents": ["b"]})
    with counted(home, refused("not_found")):
        http.get("/invented")
    with counted(home, refused("method_not_allowed", 2)):
        http.get(CHAT)
        http.delete("/health")
    with counted(home, refused("insufficient_scope"), refused("invalid_request")):
        http.post("/api/v1/inference/load", json={"model": "a"})
        http.post("/api/v1/inference/load", json={"invented": 1}, headers=home.admin)
    with counted(home, refused("host_not_allowed")):
        http.get("/health", headers={"host": "invented.example"})
    with counted(home, refused("headers_too_large")):
        http.get("/health", headers={"x-long": "x" * 40_000})


def test_the_state_of_things(home: GatewayHome, http: httpx2.Client) -> None:
    awake(home, "a")
    http.post(CHAT, json=ask("a", temperature=0))
    with http.stream("GET", "/events") as events:
        pieces = events.iter_bytes()
        assert next(pieces)
        now = samples(home)
    assert now[line("llm_event_listeners")] == 1
    for model in ("a", "b", "slow", "broken", "stuck"):
        where = "awake" if model == "a" else "stopped"
        of = {
            name: [x for x in now if x.startswith(f"llm_model_{name}{{model={model},") and now[x]]
            for name in ("residency", "state")
        }
        assert of["residency"] == [line("llm_model_residency", model=model, residency=where)]
        assert len(of["state"]) == 1
        assert now[line("llm_model_awake", model=model)] == (model == "a")
        assert now[line("llm_switch_in_progress_seconds", model=model)] == 0
        assert now[line("llm_engine_memory_bytes", model=model, device="cpu")] >= 0
    assert now[line("llm_engines_awake", device="cpu")] == 1
    assert now[line("llm_cache_entries", tier="memory")] == 1
    assert now[line("llm_cache_bytes", tier="memory")] > 0
    assert str(now[line("llm_cache_bytes", tier="redis")]) == "nan"
    assert now[line("llm_cache_breaker_open")] == 0
    memory = {
        kind: now[line("llm_device_memory_bytes", device="cpu", kind=kind)]
        for kind in ("total", "used", "free")
    }
    assert memory["total"] == memory["used"] + memory["free"] > 2**28
    assert sum(value for name, value in now.items() if name.startswith("llm_build_info")) == 1


def test_a_switch_that_is_called_off(home: GatewayHome, http: httpx2.Client) -> None:
    awake(home, "b")
    running = line("llm_switch_in_progress_seconds", model="stuck")
    with counted(
        home,
        *(down("b"), states("stuck", "starting", "stopping", "stopped")),
        *(stages("stuck", "memory", "launch", "stop"), switch("b", "stuck", "cancelled")),
    ):
        home.load("stuck", wait=False)
        eventually(lambda: home.starts("stuck") and samples(home)[running] > 0)
        unload = {"model": "stuck"}
        home.post("/api/v1/inference/unload", unload, headers=home.admin).raise_for_status()
    assert samples(home)[running] == 0


# Models that sleep


def sleeper(*flags: str) -> Any:
    def entry(root: Path, name: str) -> dict[str, Any]:
        model = fake_model(root, name)
        journal = str(root / f"{name}.jsonl")
        argv = command("--served-model-name", name, "--journal", journal, "--sleep-mode", *flags)
        return {
            **model,
            "engine": {**model["engine"], "argv": argv, "sleep_mode": True},
            "residency": "asleep-1",
            "memory_mib": {"awake": 200, "asleep-1": 100, "asleep-2": 0, "host": 50},
        }

    return entry


def test_models_that_sleep(tmp_path: Path) -> None:
    models = {"sound": sleeper(), "damaged": sleeper("--sleep-fault", "corrupt-wake")}
    with gateway_home(tmp_path) as home:
        home.configure({name: entry(tmp_path, name) for name, entry in models.items()})
        home.start()
        awake(home, "sound")
        with counted(
            home,
            *(states("sound", "stopping", "asleep"), stages("sound", "sleep_1")),
            *(up("damaged"), switch("sound", "damaged")),
        ):
            awake(home, "damaged")
        now = samples(home)
        assert now[line("llm_model_residency", model="sound", residency="asleep-1")] == 1
        held = {m: line("llm_engine_memory_bytes", device="cpu", model=m) for m in models}
        assert [now[held[m]] for m in ("sound", "damaged")] == [100 * MIB, 200 * MIB]

        with counted(
            home,
            *(states("damaged", "stopping", "asleep"), stages("damaged", "sleep_1")),
            *(states("sound", "starting", "awake"), stages("sound", "memory", "wake_1")),
            switch("damaged", "sound", rung="asleep-1"),
        ):
            awake(home, "sound")
        # Its wake leaves another model: it is ended, and started anew.
        with counted(
            home,
            *(states("sound", "stopping", "asleep"), stages("sound", "sleep_1")),
            *(up("damaged"), stages("damaged", "memory", "stop"), switch("sound", "damaged")),
            {
                line("llm_engine_restarts_total", model="damaged", reason="canary"): 1,
                line(
                    "llm_sleep_failures_total", model="damaged", step="wake_1", reason="canary"
                ): 1,
            },
        ):
            awake(home, "damaged")
