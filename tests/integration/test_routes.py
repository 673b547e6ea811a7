"""Every route of the gateway, over HTTP, in front of engines that are real processes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx2
import orjson
import pytest

from llm_backend.gateway.endpoints import ENDPOINTS
from llm_backend.gateway.text_api import TRANSLATED
from tests.harness import GatewayHome
from tests.integration.gateways import (
    CHAT,
    MESSAGES,
    at_rest,
    client_of,
    error_of,
    fake,
    fakes,
    recorded,
    recorder,
    shared_gateway,
)

pytestmark = [pytest.mark.engine, pytest.mark.feature("control API")]

DEFAULTS = {"temperature": 0.2, "top_p": 0.9, "max_tokens": 5}
BOXED = {
    "runtimes": ["docker"],
    "engine": {"kind": "vllm", "container": "boxed"},
    "capabilities": ["chat"],
    "devices": ["cpu"],
    "port": 8000,
}
LOAD, UNLOAD = "/api/v1/inference/load", "/api/v1/inference/unload"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayHome]:
    models = {
        **fakes(first=""),
        **fake("embedder", capabilities=["embeddings"]),
        "echo": recorder(aliases=["mirror", "org/mirror"]),
        "shaped": recorder(defaults=DEFAULTS),
        "boxed": lambda _: BOXED,
    }
    with shared_gateway(tmp_path_factory, models) as home:
        yield home


@pytest.fixture
def http(home: GatewayHome) -> Iterator[httpx2.Client]:
    with client_of(home) as http:
        yield http
    at_rest(home)


@pytest.fixture
def awake(home: GatewayHome) -> str:
    """The recorder is awake."""
    assert home.load("echo").status_code == 200
    return "echo"


def chat(model: str | None = "echo", **fields: Any) -> dict[str, Any]:
    named = {} if model is None else {"model": model}
    return {**named, "messages": MESSAGES, **fields}


# The inference routes


@pytest.mark.parametrize("path", sorted(ENDPOINTS.keys() - TRANSLATED.keys()))
def test_a_request_reaches_the_engine_as_it_was_sent(
    http: httpx2.Client, awake: str, path: str
) -> None:
    # Key order, white space, numbers and fields that nobody knows: all of it is kept.
    body = b'{ "z": 1.50, "model":"%s",\t"new_field": {"a": ["\xc3\xa9", null]} }' % awake.encode()
    headers = {
        "content-type": "application/json; charset=utf-8",
        "authorization": "Bearer anything",
        "x-api-key": "anything",
        "cookie": "session=1",
        "x-request-id": "id-1",
    }

    response = http.post(path, content=body, headers=headers)

    reached, seen = recorded(response)
    assert reached == body
    assert response.json()["path"] == ENDPOINTS[path].engine_path
    assert seen["x-request-id"] == response.headers["x-request-id"] == "id-1"
    assert not seen.keys() & {"authorization", "x-api-key", "cookie"}


@pytest.mark.parametrize("path", list(ENDPOINTS))
def test_other_methods_are_refused_by_name(http: httpx2.Client, path: str) -> None:
    for method in ("GET", "PUT", "DELETE", "OPTIONS"):
        response = http.request(method, path, headers={"content-type": "application/json"})
        assert response.status_code == 405
        assert response.headers["allow"] == "POST"
        assert f"takes POST, not {method}" in response.text


@pytest.mark.parametrize("name", ["mirror", "org/mirror"])
def test_an_alias_becomes_the_id(http: httpx2.Client, awake: str, name: str) -> None:
    reached, _ = recorded(http.post(CHAT, json=chat(name, seed=7, tools=[])))

    assert orjson.loads(reached) == chat(awake, seed=7, tools=[])


def test_without_a_model_the_awake_one_answers(http: httpx2.Client, awake: str) -> None:
    for unnamed in (chat(None), chat("", n=1), {**chat(None), "model": None}):
        reached, _ = recorded(http.post(CHAT, json=unnamed))
        assert orjson.loads(reached) == unnamed


def test_without_a_model_and_none_awake_the_default_answers(
    home: GatewayHome, http: httpx2.Client
) -> None:
    http.post(UNLOAD, json={}, headers=home.admin)

    answer = http.post(CHAT, json=chat(None))

    assert answer.json()["model"] == "first"
    assert http.get("/status").json()["default"] == "first"


def test_defaults_fill_only_what_a_request_leaves_out(http: httpx2.Client) -> None:
    given = chat("shaped", top_p=None, max_completion_tokens=9)

    reached, _ = recorded(http.post(CHAT, json=given))

    assert orjson.loads(reached) == {**given, "temperature": 0.2}
    bare, _ = recorded(http.post("/v1/completions", json={"model": "shaped", "prompt": "x"}))
    assert orjson.loads(bare) == {"model": "shaped", "prompt": "x", **DEFAULTS}
    full = {"model": "shaped", "prompt": "x", "temperature": 1, "top_p": 1, "max_tokens": 1}
    assert recorded(http.post("/v1/completions", json=full))[0] == orjson.dumps(full)


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/responses", "/v1/messages", "/rerank"])
def test_defaults_are_for_routes_that_know_them(http: httpx2.Client, path: str) -> None:
    given = {"model": "shaped", "input": "x"}

    assert recorded(http.post(path, json=given))[0] == orjson.dumps(given)


def test_a_missing_capability_names_who_has_it(http: httpx2.Client) -> None:
    refused = http.post(CHAT, json=chat("embedder"))
    error = error_of(refused, 400, "unsupported_by_model")
    assert "The model embedder cannot do chat" in error["message"]
    assert "Models that can: first, echo, shaped" in error["message"]
    assert error["param"] == "model"
    rerank = http.post("/v2/rerank", json={"model": "first"})
    assert "Models that can: echo, shaped" in rerank.json()["error"]["message"]


def test_a_model_that_cannot_run_here_is_a_404_that_says_why(http: httpx2.Client) -> None:
    for response in (http.post(CHAT, json=chat("boxed")), http.get("/v1/models/boxed")):
        error = error_of(response, 404, "model_not_found")
        assert "The model boxed cannot run here: its engine is a container" in error["message"]
    assert "boxed" not in [m["id"] for m in http.get("/v1/models").json()["data"]]
    (entry,) = [m for m in http.get("/status").json()["models"] if m["id"] == "boxed"]
    assert entry["available"] is False
    assert "its engine is a container" in entry["unavailable_reason"]


BAD_BODIES = {
    "empty": (b"", "invalid_json"),
    "half": (b'{"model": "echo"', "invalid_json"),
    "NaN": (b'{"model": "echo", "temperature": NaN}', "invalid_json"),
    "bad UTF-8": (b'{"model": "\xff"}', "invalid_json"),
    "lone surrogate": (b'{"model": "\\ud800"}', "invalid_json"),
    "huge integer": (b'{"n": ' + b"9" * 5000 + b"}", "invalid_json"),
    "deep": (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "invalid_json"),
    "deep, and to be written anew": (
        b'{"model": "echo", "temperature": 0, "a": ' + b"[" * 500 + b"]" * 500 + b"}",
        "invalid_json",
    ),
    "list": (b"[]", "invalid_json"),
    "two models": (b'{"model": "echo", "model": "first"}', "invalid_json"),
    "two models, one escaped": (b'{"model": "echo", "mod\\u0065l": "first"}', "invalid_json"),
    "model is a list": (b'{"model": ["echo"]}', "invalid_request"),
    "stream is a text": (b'{"model": "echo", "stream": "yes"}', "invalid_request"),
    "too many messages": (b'{"messages": [' + b"{}," * 2000 + b"{}]}", "invalid_request"),
}


@pytest.mark.parametrize("name", list(BAD_BODIES))
def test_a_bad_body_is_a_400(http: httpx2.Client, name: str) -> None:
    body, code = BAD_BODIES[name]
    response = http.post(CHAT, content=body, headers={"content-type": "application/json"})
    error_of(response, 400, code)
    assert response.headers["x-should-retry"] == "false"


# Looking


def test_the_info_names_what_is_awake(home: GatewayHome, http: httpx2.Client, awake: str) -> None:
    info = http.get("/").json()

    assert (info["name"], info["setup"], info["model"]) == ("llm-backend", "local", awake)
    assert info["quantization"] == "none"
    assert info["device"].startswith("CPU")
    assert {"/v1/models", *ENDPOINTS} == set(info["endpoints"])
    assert http.get(info["docs"]).status_code == 200
    assert set(http.get("/openapi.json").json()["paths"]) >= {LOAD, UNLOAD, "/status", "/events"}


def test_the_health_has_every_part(home: GatewayHome, http: httpx2.Client, awake: str) -> None:
    health = http.get("/health").json()

    assert health["status"] == "ok"
    assert home.process is not None
    assert health["gateway"]["pid"] == home.process.pid
    assert health["gateway"]["uptime_s"] > 0
    assert health["devices"]["cpu"]["free_mib"] < health["devices"]["cpu"]["total_mib"]
    expected = {"state": "awake", "residency": "awake", "inflight": 0, "reason": None}
    assert health["models"][awake] == expected
    assert health["models"]["embedder"]["state"] == "stopped"
    assert "boxed" not in health["models"]
    assert http.get("/health/live").json() == http.get("/health/ready").json() == {"status": "ok"}


def test_the_model_list(http: httpx2.Client, awake: str) -> None:
    for path in ("/v1/models", "/models"):
        listed = http.get(path).json()
        assert listed["object"] == "list"
        entries = {entry["id"]: entry for entry in listed["data"]}
        assert list(entries) == ["first", "embedder", "echo", "shaped"]
        assert entries["embedder"]["capabilities"] == ["embeddings"]
        assert entries[awake]["residency"] == "awake"
        assert entries["first"]["residency"] == "stopped"
    for path in ("/v1/models/echo", "/models/mirror", "/v1/models/org/mirror"):
        assert http.get(path).json() == entries["echo"]
    missing = error_of(http.get("/v1/models/nobody"), 404, "model_not_found")
    assert "There are: first, embedder, echo, shaped." in missing["message"]


def test_the_status_tells_of_every_model(http: httpx2.Client, awake: str) -> None:
    status = http.get("/status").json()

    assert (status["is_loaded"], status["model"], status["mode"]) == (True, awake, "auto")
    assert status["switch"] is None
    assert status["queue"] == {"length": 0, "limit": 512, "by_model": {}, "wait_s": {}}
    assert [m["id"] for m in status["models"]] == ["first", "embedder", "echo", "shaped", "boxed"]
    assert all(m["since_s"] is None or m["since_s"] >= 0 for m in status["models"])


def test_the_metrics_have_every_series_from_the_start(http: httpx2.Client, awake: str) -> None:
    http.post(CHAT, json=chat(awake))
    text = http.get("/metrics").text

    assert 'llm_model_awake{model="echo"} 1.0' in text
    chat_of_echo = 'key="anonymous",model="echo",route="/v1/chat/completions",status="2xx"} '
    assert f'llm_requests_total{{cache="bypass",{chat_of_echo}' in text
    assert 'model="other",route="/rerank",status="5xx"} 0.0' in text
    assert 'llm_model_state_changes_total{model="first",state="failed"} 0.0' in text
    before = text.count("\n")
    for number in range(20):
        http.post(CHAT, json=chat(f"invented-{number}"))
    assert http.get("/metrics").text.count("\n") == before


# Control


def test_load_and_unload(home: GatewayHome, http: httpx2.Client) -> None:
    admin = home.admin
    loaded = http.post(LOAD, json={"model": "mirror"}, headers=admin)
    assert loaded.status_code == 200
    assert {**loaded.json(), "seconds": 0} == {"model": "echo", "state": "awake", "seconds": 0}
    at_once = http.post(LOAD, json={"model": "echo", "wait": False}, headers=admin)
    assert at_once.status_code == 202
    assert at_once.json() == {"model": "echo", "state": "awake", "seconds": 0.0}

    assert http.post(UNLOAD, json={"model": "first"}, headers=admin).json() == {"unloaded": []}
    assert http.post(UNLOAD, json={}, headers=admin).json() == {"unloaded": ["echo"]}

    status = http.get("/status").json()
    assert (status["is_loaded"], status["model"], status["model_path"]) == (False, None, None)


@pytest.mark.parametrize(
    ("path", "body", "status", "code", "says"),
    [
        (LOAD, {}, 400, "invalid_request", "Give either model or model_path."),
        (LOAD, {"model": "echo", "model_path": "x"}, 400, "invalid_request", "Give either"),
        (LOAD, {"model": 5}, 400, "invalid_request", "model: Input should be a valid string"),
        (LOAD, {"modle": "echo"}, 400, "invalid_request", "modle: Extra inputs"),
        (LOAD, {"model": "nobody"}, 404, "model_not_found", "There are: first,"),
        (LOAD, {"model": "boxed"}, 404, "model_not_found", "cannot run here"),
        (
            LOAD,
            {"model": "echo", "max_model_len": 1},
            400,
            "invalid_request",
            "equal to 128, not 1",
        ),
        (LOAD, {"model": "echo", "max_model_len": "9"}, 400, "invalid_request", "valid integer"),
        (LOAD, {"model": "echo", "max_model_len": 512}, 400, "unsupported_by_model", "are fixed"),
        (LOAD, {"model": "echo", "gpu_memory_utilization": 1.5}, 400, "invalid_request", "to 1,"),
        (LOAD, {"model": "echo", "gpu_memory_utilization": 0}, 400, "invalid_request", "than 0,"),
        (LOAD, {"model": "echo", "tensor_parallel_size": 0}, 400, "invalid_request", "to 1,"),
        (LOAD, {"model": "echo", "quantization": ""}, 400, "invalid_request", "at least 1 char"),
        (LOAD, {"model_path": "nowhere.gguf"}, 404, "model_not_found", "nowhere.gguf"),
        (UNLOAD, {"model": "nobody"}, 404, "model_not_found", "There are: first,"),
        (UNLOAD, {"model": ""}, 404, "model_not_found", "''"),
        ("/api/v1/cache/clear", {"model": ""}, 404, "model_not_found", "''"),
    ],
)
def test_wrong_orders_are_refused(
    home: GatewayHome, http: httpx2.Client, path: str, body: Any, status: int, code: str, says: str
) -> None:
    state = home.state("echo")
    error = error_of(http.post(path, json=body, headers=home.admin), status, code)
    assert says in error["message"]
    assert home.state("echo") == state


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, "invalid_json"),
        (b'"\xff"', 400, "invalid_json"),
        (b"", 400, "invalid_request"),
        (b"[]", 400, "invalid_request"),
        (b"[" * 50_000, 400, "invalid_json"),
        (b'{"model": "' + b"x" * 65_536 + b'"}', 413, "body_too_large"),
    ],
)
def test_bad_bodies_of_orders_are_refused(
    home: GatewayHome, http: httpx2.Client, body: bytes, status: int, code: str
) -> None:
    headers = {"content-type": "application/json", **home.admin}
    error_of(http.post(LOAD, content=body, headers=headers), status, code)


def test_what_is_not_there_is_a_404_object(http: httpx2.Client) -> None:
    for path in ("/nothing", "/v1", "/v1/chat", "/../etc/passwd", "/v1/chat/completions/x"):
        error_of(http.get(path), 404, "not_found")
    wrong_method = http.get(LOAD)
    error_of(wrong_method, 405, "method_not_allowed")
    assert wrong_method.headers["allow"] == "POST"
