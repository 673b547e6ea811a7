"""The committed configuration through the real composition: two real models, one at a time."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx2
import orjson
import pytest
import yaml

from tests.harness import REPOSITORY, GatewayHome, eventually
from tests.integration.gateways import (
    CHAT,
    at_rest,
    client_of,
    connected,
    gateway_of,
    post_bytes,
)

pytestmark = [pytest.mark.engine, pytest.mark.feature("swap on demand")]

LONG, WIDE = "smollm2-long", "smollm2-wide"
QUESTION = [{"role": "user", "content": "What is the capital of France? Answer with one word."}]
FIELDS = {"messages": QUESTION, "max_tokens": 8, "temperature": 0}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayHome]:
    """A gateway on the repository's own two files; only its directories and port are others."""
    root = tmp_path_factory.mktemp("gateway")
    shutil.copytree(REPOSITORY / "config", root / "config")
    settings = yaml.safe_load((root / "config/gateway.yaml").read_text())
    settings |= {"setup": "local", "state_dir": str(root / "state")}
    settings |= {"models_dir": str(root / "models")}
    settings["server"]["port"] = 0
    (root / "config/gateway.yaml").write_text(yaml.safe_dump(settings))
    with gateway_of(root) as home:
        yield home


@pytest.fixture
def http(home: GatewayHome) -> Iterator[httpx2.Client]:
    with client_of(home, headers=home.admin) as http:
        yield http
    at_rest(home)


def ask(http: httpx2.Client, model: str) -> dict[str, Any]:
    answer = http.post(CHAT, json={"model": model, **FIELDS})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def test_what_runs_here_is_offered_and_the_rest_says_why(http: httpx2.Client) -> None:
    models = {model["id"]: model for model in http.get("/status").json()["models"]}

    assert models[LONG]["available"]
    assert models[WIDE]["available"]
    for name in ("qwen-vl", "qwen-14b", "qwen-coder"):
        assert not models[name]["available"]
        assert "its engine is a container" in models[name]["unavailable_reason"]
    refused = http.post(CHAT, json={"model": "qwen-14b", **FIELDS})
    assert refused.status_code == 404
    assert "qwen-14b cannot run here: its engine is a" in refused.json()["error"]["message"]


def test_weights_that_are_not_here_name_the_command_that_fetches_them(
    http: httpx2.Client,
) -> None:
    answer = http.post(CHAT, json={"model": "qwen-small", **FIELDS})
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "engine_start_failed"
    assert "llm-backend download qwen-small" in answer.json()["error"]["message"]


def test_a_load_tells_how_far_it_is(home: GatewayHome, http: httpx2.Client) -> None:
    http.post("/api/v1/inference/unload", json={})
    with client_of(home) as other, other.stream("GET", "/events") as news:
        lines = news.iter_lines()
        next(lines)
        assert http.post("/api/v1/inference/load", json={"model": LONG}).status_code == 200
        told: list[str] = []
        for line in lines:
            if line == "event: progress":
                told.append(json.loads(next(lines).removeprefix("data: "))["text"])
            if '"state":"awake"' in line:
                break
    assert told[:1] == ["loading weights"]


def test_a_request_without_a_model_goes_to_the_default(http: httpx2.Client) -> None:
    http.post("/api/v1/inference/unload", json={})
    answer = http.post(CHAT, json=FIELDS)
    assert answer.json()["model"] == LONG
    assert http.get("/").json()["quantization"] == "q4_1"


def test_asking_for_the_other_swaps(home: GatewayHome, http: httpx2.Client) -> None:
    for model in (LONG, WIDE, LONG):
        answer = ask(http, model)
        assert answer["model"] == model
        assert "Paris" in answer["choices"][0]["message"]["content"]
        awake = [
            m for m, h in http.get("/health").json()["models"].items() if h["state"] == "awake"
        ]
        assert awake == [model]
        assert len(home.engine_processes()) == 2, "one launcher and its engine"
        http.post("/api/v1/cache/clear", json={})


def test_long_has_the_longer_context(http: httpx2.Client) -> None:
    limits = {m["id"]: m["max_model_len"] for m in http.get("/v1/models").json()["data"]}
    assert (limits[LONG], limits[WIDE]) == (8192, 2048)
    words = {"messages": [{"role": "user", "content": "word " * 9000}], "max_tokens": 1}
    for model, limit in ((WIDE, 2048), (LONG, 8192)):
        refused = http.post(CHAT, json={"model": model, **words})
        assert refused.status_code == 400
        error = refused.json()["error"]
        assert error["code"] == "context_length_exceeded"
        assert f"the model takes {limit} tokens" in error["message"]


@pytest.mark.parametrize(("model", "at_once"), [(LONG, 1), (WIDE, 4)])
def test_wide_has_more_at_once(
    home: GatewayHome, http: httpx2.Client, model: str, at_once: int
) -> None:
    http.post("/api/v1/inference/load", json={"model": model}).raise_for_status()
    body = {"model": model, **FIELDS, "temperature": 1, "max_tokens": 1000, "ignore_eos": True}
    request = post_bytes(
        CHAT, orjson.dumps(body), "host: localhost", "content-type: application/json"
    )

    def counts() -> tuple[int, int]:
        (entry,) = [m for m in http.get("/status").json()["models"] if m["id"] == model]
        return entry["inflight"], entry["waiting"]

    with ExitStack() as clients:
        for _ in range(5):
            clients.enter_context(connected(home)).sendall(request)
        eventually(lambda: counts() == (at_once, 5 - at_once))
        eventually(lambda: engine_works_on(home, model) == at_once)


def engine_works_on(home: GatewayHome, model: str) -> int:
    """Return how many requests the engine itself says that it works on."""
    record = json.loads((home.root / f"state/engines/{model}.json").read_bytes())
    text = httpx2.get(f"http://127.0.0.1:{record['port']}/metrics").text
    (line,) = [x for x in text.splitlines() if x.startswith("llamacpp:requests_processing ")]
    return int(float(line.rsplit(" ", 1)[1]))
