"""The response cache as clients see it: x-cache, Cache-Control, clearing, whose answers are whose."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from tests.harness import GatewayHome
from tests.integration.gateways import (
    CHAT,
    MESSAGES,
    at_rest,
    client_of,
    fakes,
    key_of,
    key_setting,
    shared_gateway,
)

pytestmark = pytest.mark.engine

ALICE = {"authorization": f"Bearer {key_of('alice')}"}
BOB = {"authorization": f"Bearer {key_of('bob')}"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayHome]:
    keys = [key_setting("alice", "infer"), key_setting("bob", "infer")]
    models = fakes(a="", b="", cut="--cut-stream", abort="--abort-finish")
    with shared_gateway(tmp_path_factory, models, keys=keys) as home:
        yield home


@pytest.fixture
def http(home: GatewayHome) -> Iterator[httpx2.Client]:
    with client_of(home, headers=ALICE) as http:
        http.post("/api/v1/cache/clear", json={}, headers=home.admin).raise_for_status()
        yield http
    at_rest(home)


def ask(http: httpx2.Client, model: str = "a", **fields: Any) -> dict[str, Any]:
    return {"model": model, "messages": MESSAGES, "temperature": 0, **fields}


def cached(http: httpx2.Client, body: dict[str, Any], path: str = CHAT, **headers: str) -> str:
    return str(http.post(path, json=body, headers=headers).headers["x-cache"])


def asked(home: GatewayHome, model: str, path: str = CHAT) -> int:
    return sum(x["event"] == "request" and x["path"] == path for x in home.journal(model))


def test_the_second_answer_is_the_first(home: GatewayHome, http: httpx2.Client) -> None:
    before = asked(home, "a")
    first, second = (http.post(CHAT, json=ask(http)) for _ in range(2))

    assert [r.headers["x-cache"] for r in (first, second)] == ["miss", "hit"]
    assert second.content == first.content
    assert second.headers["content-type"] == first.headers["content-type"]
    assert asked(home, "a") == before + 1


def test_a_stream_is_replayed_as_a_stream(home: GatewayHome, http: httpx2.Client) -> None:
    streams = [http.post(CHAT, json=ask(http, stream=True)) for _ in range(2)]

    assert [r.headers["x-cache"] for r in streams] == ["miss", "hit"]
    assert streams[0].content == streams[1].content
    assert streams[1].headers["content-type"] == "text/event-stream; charset=utf-8"
    assert streams[1].text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize(
    ("fields", "result"),
    [
        ({"temperature": 0}, "hit"),
        ({"temperature": 1, "seed": 7}, "hit"),
        ({"temperature": 1}, "bypass"),
        ({"temperature": None}, "bypass"),
        ({"temperature": 0.0001}, "bypass"),
    ],
)
def test_what_is_sampled_is_not_kept(
    http: httpx2.Client, fields: dict[str, Any], result: str
) -> None:
    cached(http, ask(http, **fields))
    assert cached(http, ask(http, **fields)) == result


def test_every_field_counts(http: httpx2.Client) -> None:
    bodies = [
        ask(http),
        ask(http, max_tokens=3),
        ask(http, messages=[*MESSAGES, *MESSAGES]),
        ask(http, unknown={"a": 1}),
        ask(http, unknown={"a": True}),
        ask(http, unknown={"a": "1"}),
        ask(http, model="b"),
    ]
    assert [cached(http, body) for body in bodies] == ["miss"] * len(bodies)
    assert cached(http, dict(reversed(ask(http).items()))) == "hit", "the order does not"


def test_cache_control(home: GatewayHome, http: httpx2.Client) -> None:
    headers = {"no-store": "bypass", "no-cache": "miss", "max-age=0": "hit", "": "hit"}
    cached(http, ask(http))
    seen = {name: cached(http, ask(http), **{"cache-control": name}) for name in headers}
    assert seen == headers

    body = ask(http, max_tokens=2)
    assert cached(http, body, **{"cache-control": "no-store"}) == "bypass"
    assert cached(http, body) == "miss", "no-store leaves nothing"
    before = asked(home, "a")
    assert cached(http, body, **{"cache-control": "no-cache"}) == "miss"
    assert asked(home, "a") == before + 1, "no-cache asks again"


def test_what_is_no_answer_is_not_kept(home: GatewayHome, http: httpx2.Client) -> None:
    for model, stream in (("cut", True), ("abort", False)):
        assert cached(http, ask(http, model=model, stream=stream)) == "miss"
    assert http.get("/health").json()["cache"]["entries"] == 0


def test_a_hit_never_switches(home: GatewayHome, http: httpx2.Client) -> None:
    cached(http, ask(http, model="a"))
    assert home.load("b").status_code == 200

    assert cached(http, ask(http, model="a")) == "hit"

    assert (home.state("a"), home.state("b")) == ("stopped", "awake")


def test_nobody_gets_the_answers_of_another_key(http: httpx2.Client) -> None:
    assert [cached(http, ask(http), **who) for who in (ALICE, BOB, BOB)] == ["miss", "miss", "hit"]


def test_answers_can_be_forgotten(home: GatewayHome, http: httpx2.Client) -> None:
    for model in ("a", "b"):
        cached(http, ask(http, model=model))
    clear = "/api/v1/cache/clear"

    assert http.post(clear, json={"model": "a"}, headers=home.admin).json() == {"cleared": 1}
    assert cached(http, ask(http, model="b")) == "hit"
    assert cached(http, ask(http, model="a")) == "miss"
    assert http.post(clear, json={}, headers=home.admin).json() == {"cleared": 2}
    assert http.get("/health").json()["cache"]["entries"] == 0


@pytest.mark.parametrize("path", ["/v1/embeddings", "/tokenize"])
def test_what_has_one_answer_is_kept(home: GatewayHome, http: httpx2.Client, path: str) -> None:
    home.load("a")
    body = {"model": "a", "input": "x", "prompt": "x"}
    assert [cached(http, body, path) for _ in range(2)] == ["miss", "hit"]


def test_responses_are_more_than_their_body(http: httpx2.Client) -> None:
    body = {"model": "a", "input": "x", "temperature": 0}
    assert [cached(http, body, "/v1/responses") for _ in range(2)] == ["bypass", "bypass"]
