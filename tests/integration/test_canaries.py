"""Strings that nobody may ever read again, planted wherever clients and engines write, are looked
for wherever the gateway writes.

Each place has a string of its own, so that what is found names the place that leaked. An error
may repeat the one value that it is about, such as a model's name; never a prompt, never a key.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import secrets
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests import echo_engine
from tests.harness import ALL, GatewayHome, eventually, fake_model, gateway_home
from tests.integration.gateways import CHAT, at_rest, client_of, log_of
from tests.otlp_receiver import Receiver, otlp_receiver
from tests.redis_server import RedisServer, needs_redis, redis_server
from tests.unit.gateway.pictures import png

pytestmark = [pytest.mark.engine, needs_redis, pytest.mark.feature("nothing private is written")]

PLACES = (
    *("system", "prompt", "older_answer", "prefill", "tool", "user", "stop", "fault", "late"),
    *("anthropic", "anthropic_system", "embedding", "completion", "broken_json", "wrong_type"),
    *("good_key", "bad_key", "basic_key", "x_api_key", "header", "cookie", "agent", "request_id"),
    *("path", "log_path", "model_path", "query", "model", "loaded_model", "priority", "session"),
    *("picture", "picture_address"),
)
ERRORS_MAY_TELL = {"path", "log_path", "model_path", "model", "loaded_model", "priority"}
"""What an error is about: it repeats the value that is wrong."""


def _canaries() -> dict[str, str]:
    return {place: f"canary-{place.replace('_', '-')}-{secrets.token_hex(6)}" for place in PLACES}


@dataclass
class Mine:
    """One gateway and all that can be read of it.

    Attributes:
        canaries: What was planted, by place.
        errors: Bodies of answers that were errors.
        news: What `/events` told.
    """

    home: GatewayHome
    redis: RedisServer
    receiver: Receiver
    canaries: dict[str, str]
    errors: list[str] = field(default_factory=list)
    news: list[str] = field(default_factory=list)

    def traces(self, text: bytes | str) -> list[str]:
        """Return the places whose canaries are in a text, in any spelling."""
        raw = text.encode() if isinstance(text, str) else text
        return [p for p, canary in self.canaries.items() if any(s in raw for s in spelled(canary))]

    def post(self, http: httpx2.Client, path: str, body: Any, **options: Any) -> httpx2.Response:
        answer = http.post(
            path, **({"content": body} if isinstance(body, str) else {"json": body}), **options
        )
        if answer.status_code != 200 or '"error"' in answer.text[:40]:
            self.errors.append(answer.text)
        return answer

    def get(self, http: httpx2.Client, path: str, **options: Any) -> httpx2.Response:
        answer = http.get(path, **options)
        if answer.status_code != 200:
            self.errors.append(answer.text)
        return answer


def spelled(canary: str) -> list[bytes]:
    """Return a text as it is, in hexadecimal, in base64 at each offset, and as its digest."""
    raw = canary.encode()
    shifted = [base64.b64encode(b"\0" * by + raw)[4:-4] for by in range(3)]
    digest = hashlib.sha256(raw).hexdigest()
    return [raw, canary.upper().encode(), raw.hex().encode(), *shifted, digest.encode()]


def echo(root: Path) -> dict[str, Any]:
    model = fake_model(root, "echo")
    argv = [*model["engine"]["argv"][:6], sys.executable, echo_engine.__file__, "{port}"]
    able = [*ALL, "vision", "tools"]
    return {**model, "capabilities": able, "engine": {"kind": "command", "argv": argv}}


@pytest.fixture(scope="module", params=["json", "text"])
def mine(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mine]:
    """A gateway through which everything has gone that clients can send."""
    root, canaries = tmp_path_factory.mktemp("mine"), _canaries()
    digest = hashlib.sha256(canaries["good_key"].encode()).hexdigest()
    with (
        redis_server(root) as redis,
        otlp_receiver() as receiver,
        pytest.MonkeyPatch.context() as patch,
        gateway_home(root) as home,
    ):
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        home.configure(
            {"echo": echo(root), "other": fake_model(root, "other")},
            logs={"level": "debug", "format": request.param},
            cache={"mode": "all", "redis_url": redis.url},
            switching={"record": "traces/arrivals.jsonl"},
            telemetry={"otlp_endpoint": receiver.url},
            keys=[{"name": "alice", "sha256": digest, "scopes": ["infer"]}],
        )
        home.start()
        mine = Mine(home, redis, receiver, canaries)
        with listening(mine), client_of(home, headers=auth(canaries["good_key"])) as http:
            plant(mine, http)
        yield mine


def auth(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


@contextlib.contextmanager
def listening(mine: Mine) -> Iterator[None]:
    """Take down all that `/events` tells while the block runs."""
    begun = threading.Event()

    def listen() -> None:
        with (
            contextlib.suppress(httpx2.HTTPError),
            client_of(mine.home, headers=mine.home.admin) as http,
            http.stream("GET", "/events") as response,
        ):
            for line in response.iter_lines():
                mine.news.append(line)
                begun.set()

    threading.Thread(target=listen, daemon=True).start()
    assert begun.wait(30)
    yield
    eventually(lambda: any('"other"' in x and '"awake"' in x for x in mine.news))


def conversation(canaries: dict[str, str], **fields: Any) -> dict[str, Any]:
    image = png()
    comment = base64.b64encode(image + canaries["picture"].encode()).decode()
    picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{comment}"}}
    function = {"name": canaries["tool"], "parameters": {"description": canaries["tool"]}}
    return {
        "model": "echo",
        "messages": [
            {"role": "system", "content": canaries["system"]},
            {"role": "assistant", "content": canaries["older_answer"]},
            {"role": "user", "content": [{"type": "text", "text": canaries["prompt"]}, picture]},
            {"role": "assistant", "content": canaries["prefill"]},
        ],
        "tools": [{"type": "function", "function": function}],
        "user": canaries["user"],
        "stop": [canaries["stop"]],
        **fields,
    }


def plant(mine: Mine, http: httpx2.Client) -> None:
    """Send everything that a client can send, and have the engine say all of it again."""
    told = mine.canaries
    chat = conversation(told)
    for fields in ({}, {}, {"stream": True}, {"temperature": 0}, {"seed": 1, "stream": True}):
        answer = mine.post(http, CHAT, {**chat, **fields})
        assert answer.status_code == 200, answer.text
        assert told["prompt"] in answer.text, "the engine says again what it was asked"
    for fault in ("status", "garbage", "abort", "cut"):
        for stream in (False, True):
            more = {"fault": fault, "metadata": {"x": told["fault"]}, "stream": stream}
            mine.post(http, CHAT, conversation(told, **more))
    anthropic = {
        "model": "echo",
        "max_tokens": 5,
        "system": told["anthropic_system"],
        "messages": [{"role": "user", "content": told["anthropic"]}],
    }
    assert mine.post(http, "/v1/messages", anthropic).status_code == 200
    mine.post(http, "/v1/messages", {**anthropic, "fault": "status"})
    mine.post(http, "/v1/embeddings", {"model": "echo", "input": [told["embedding"]]})
    mine.post(http, "/v1/completions", {"model": "echo", "prompt": told["completion"]})
    mine.post(http, "/v1/responses", {"model": "echo", "input": told["completion"]})
    plant_refusals(mine, http)
    plant_in_heads(mine, http)
    other = {"model": "other", "messages": [{"role": "user", "content": told["late"]}]}
    assert mine.post(http, CHAT, other).status_code == 200


def plant_refusals(mine: Mine, http: httpx2.Client) -> None:
    """Send prompts in requests that are refused before they reach the engine."""
    told = mine.canaries
    json_type = {"content-type": "application/json"}
    broken = json.dumps({"messages": [{"content": told["broken_json"]}]})[:-3]
    refused = [
        mine.post(http, CHAT, broken, headers=json_type),
        mine.post(http, CHAT, conversation(told, n=99)),
        mine.post(http, CHAT, conversation(told, stream=1)),
        mine.post(http, CHAT, conversation(told, chat_template="x")),
        mine.post(http, CHAT, conversation(told, model=told["model"])),
        mine.post(http, CHAT, conversation(told), headers={"x-llm-priority": told["priority"]}),
        mine.post(http, CHAT, {"model": "echo", "messages": told["wrong_type"], "n": 99}),
        mine.post(http, "/v1/rerank", {"model": "echo", "query": told["prompt"]}),
        mine.post(http, CHAT, {**conversation(told), "messages": [remote(told)]}),
        mine.post(http, "/api/v1/inference/load", {"model": told["loaded_model"]}),
    ]
    assert {answer.status_code // 100 for answer in refused} == {4}
    load = "/api/v1/inference/load"
    unknown = mine.post(http, load, {"model": told["loaded_model"]}, headers=mine.home.admin)
    assert unknown.status_code == 404


def remote(told: dict[str, str]) -> dict[str, Any]:
    url = f"http://localhost/{told['picture_address']}.png?{told['session']}"
    return {"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}


def plant_in_heads(mine: Mine, http: httpx2.Client) -> None:
    """Send keys, headers, paths and query strings."""
    told = mine.canaries
    headers = {
        "x-custom": told["header"],
        "cookie": f"session={told['cookie']}",
        "user-agent": told["agent"],
        "x-request-id": f"{told['request_id']} is no id",
    }
    chat = conversation(told)
    assert mine.post(http, f"{CHAT}?api_key={told['query']}", chat, headers=headers).is_success
    heads: list[dict[str, str]] = [
        auth(told["bad_key"]),
        {"authorization": f"Basic {told['basic_key']}"},
        {"x-api-key": told["x_api_key"]},
        {"x-api-key": told["x_api_key"], **auth(told["bad_key"])},
    ]
    for head in heads:
        with client_of(mine.home) as stranger:
            assert mine.post(stranger, CHAT, chat, headers=head).status_code in {400, 401}
            assert mine.get(stranger, "/status", headers=head).status_code in {400, 401}
    for path in (
        f"/{told['path']}/x?{told['query']}",
        f"/v1/{told['path']}",
        f"/v1/models/{told['model_path']}",
        f"/console/{told['path']}",
    ):
        assert mine.get(http, path).status_code == 404
    assert mine.get(http, f"/logs/{told['log_path']}", headers=mine.home.admin).status_code == 404
    mine.get(http, f"/status?{told['query']}")
    mine.get(http, f"/events/{told['path']}?{told['query']}")


def found(mine: Mine, text: bytes | str) -> list[str]:
    assert text, "there is nothing to look through"
    return mine.traces(text)


def test_not_in_the_log(mine: Mine) -> None:
    with client_of(mine.home, headers=auth(mine.canaries["good_key"])) as http:
        mine.post(http, CHAT, {"model": "other", "messages": []})
    log = log_of(mine.home)
    assert log.count("request") > 30
    assert "switch_step" in log
    assert found(mine, log) == []
    assert (mine.home.root / "state/admin.key").read_text().strip() not in log


@pytest.mark.parametrize(
    "path", ["/metrics", "/status", "/health", "/v1/models", "/api/v1/history", "/"]
)
def test_not_in_what_the_gateway_shows(mine: Mine, path: str) -> None:
    text = mine.home.get(path, headers=mine.home.admin).raise_for_status().text
    assert found(mine, text) == []


def test_not_in_the_events(mine: Mine) -> None:
    assert found(mine, "\n".join(mine.news)) == []


def test_not_in_the_traces(mine: Mine) -> None:
    mine.receiver.named("switch to other")
    mine.receiver.named("chat other")
    assert len(mine.receiver.spans) > 100
    assert found(mine, bytes(mine.receiver.raw)) == []


def test_not_in_the_names_that_redis_has(mine: Mine) -> None:
    names = eventually(mine.redis.client.keys)
    assert found(mine, b"\n".join(names)) == []
    values = "".join(str(mine.redis.client.get(name)) for name in names)
    assert "prompt" in mine.traces(values), "answers are what is kept there"
    assert not {"good_key", "header", "cookie"} & set(mine.traces(values))


def test_not_in_the_files(mine: Mine) -> None:
    at_rest(mine.home)
    recording = mine.home.root / "state/traces/arrivals.jsonl"
    eventually(lambda: recording.read_bytes().count(b"\n") > 10)
    files = [path for path in (mine.home.root / "state").rglob("*") if path.is_file()]
    assert {"history.json", "wanted.json", "gateway.json"} <= {path.name for path in files}
    leaks = {path.name: found(mine, path.name.encode() + path.read_bytes()) for path in files}
    assert {name: places for name, places in leaks.items() if places} == {}


def test_not_in_errors_but_for_what_they_are_about(mine: Mine) -> None:
    assert len(mine.errors) > 30
    leaks = [(set(mine.traces(error)), error) for error in mine.errors]
    assert [leak for leak in leaks if leak[0] - ERRORS_MAY_TELL] == []
    assert all(len(places) <= 1 for places, _ in leaks)
    assert {"model", "path"} <= {place for places, _ in leaks for place in places}


def test_what_is_looked_for_would_be_found(mine: Mine) -> None:
    for place, canary in mine.canaries.items():
        assert place in mine.traces(json.dumps({"x": [f"<{canary}>"]}))
        assert place in mine.traces(base64.b64encode(f"a picture of {canary}, here".encode()))
        assert place in mine.traces(hashlib.sha256(canary.encode()).hexdigest())
