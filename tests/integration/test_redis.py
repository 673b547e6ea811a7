"""A gateway whose Redis stops, freezes, forgets, fills up and lies: no request fails for it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from itertools import count
from typing import Any

import httpx2
import pytest

from llm_backend.gateway.redis_store import PREFIX, READ_S
from tests.harness import GatewayHome, eventually
from tests.integration.gateways import CHAT, MESSAGES, at_rest, client_of, fakes, shared_gateway
from tests.redis_server import RedisServer, needs_redis, redis_server

pytestmark = [pytest.mark.engine, needs_redis, pytest.mark.feature("response cache in Redis")]

ROOM_S = 0.9
"""What engine and machine may add to a promised time."""
RECOVERY_S = 10.0
PASSWORD = "hunter2-hunter2"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis"), PASSWORD) as server:
        yield server


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, server: RedisServer) -> Iterator[GatewayHome]:
    cache = {"redis_url": server.url}
    with shared_gateway(tmp_path_factory, fakes(a="", b=""), cache=cache) as home:
        yield home
        assert PASSWORD not in home.log.read_text()


@pytest.fixture
def http(home: GatewayHome, server: RedisServer) -> Iterator[httpx2.Client]:
    server.client.flushall()
    with client_of(home, headers=home.admin) as http:
        http.post("/api/v1/inference/load", json={"model": "a"}).raise_for_status()
        eventually(lambda: new(http) == "miss" and health(http)["status"] == "ok", 30)
        yield http
    assert PASSWORD not in home.get("/health").text
    at_rest(home)


numbers = count()


def ask(number: int, **fields: Any) -> dict[str, Any]:
    return {"model": "a", "messages": MESSAGES, "temperature": 0, "seed": number, **fields}


def cached(http: httpx2.Client, body: dict[str, Any]) -> str:
    began = time.monotonic()
    answer = http.post(CHAT, json=body)
    assert time.monotonic() - began < READ_S + ROOM_S
    assert answer.status_code == 200, answer.text
    return str(answer.headers["x-cache"])


def new(http: httpx2.Client) -> str:
    """Ask what was never asked before: that looks into Redis, and writes to it."""
    return cached(http, ask(next(numbers)))


def health(http: httpx2.Client) -> dict[str, Any]:
    return dict(http.get("/health").json()["cache"])


def names(server: RedisServer) -> list[bytes]:
    return list(server.client.keys(f"{PREFIX}*"))


@contextlib.contextmanager
def restarted(home: GatewayHome) -> Iterator[httpx2.Client]:
    """Have the gateway know nothing but what is in Redis."""
    assert home.terminate() == 0
    home.start()
    with client_of(home, headers=home.admin) as http:
        yield http


def test_redis_outlives_the_gateway(
    home: GatewayHome, http: httpx2.Client, server: RedisServer
) -> None:
    plain, stream = ask(next(numbers)), ask(next(numbers), stream=True)
    told = [http.post(CHAT, json=body).content for body in (plain, stream)]
    eventually(lambda: len(names(server)) >= 2)
    assert home.load("b").status_code == 200

    with restarted(home) as fresh:
        again = [fresh.post(CHAT, json=body) for body in (plain, stream, {**plain, "stream": True})]
        assert [answer.headers["x-cache"] for answer in again] == ["hit"] * 3
        assert [answer.content for answer in again[:2]] == told
        assert again[2].text.endswith("data: [DONE]\n\n")
        assert (home.state("a"), home.state("b")) == ("stopped", "awake"), "a hit switches nothing"


def test_names_tell_nothing(http: httpx2.Client, server: RedisServer) -> None:
    body = ask(next(numbers), messages=[{"role": "user", "content": "canary"}])
    cached(http, body)
    eventually(lambda: names(server))
    assert not [name for name in names(server) if b"canary" in name]


def test_poison_costs_a_call_and_is_gone(
    home: GatewayHome, http: httpx2.Client, server: RedisServer
) -> None:
    bodies = [ask(next(numbers)) for _ in range(4)]
    server.client.flushall()
    told = []
    places: list[bytes] = []
    for body in bodies:
        told.append(http.post(CHAT, json=body).json()["choices"])
        (place,) = eventually(lambda: set(names(server)) - set(places))
        places.append(place)
    values = [server.client.get(place) for place in places]
    server.client.set(places[0], values[1], ex=60)
    server.client.set(places[1], values[1][:-1], ex=60)
    server.client.set(places[2], b"\0garbage", ex=60)
    server.client.delete(places[3])
    server.client.rpush(places[3], "a", "list")

    with restarted(home) as fresh:
        answers = [fresh.post(CHAT, json=body) for body in bodies]
        assert [answer.headers["x-cache"] for answer in answers] == ["miss"] * 4
        assert [answer.json()["choices"] for answer in answers] == told
        shown = health(fresh)
        assert (shown["rejected_values"], shown["redis_errors"]) == (4, 0)
        assert shown["status"] == "ok"
        eventually(lambda: all(server.client.type(place) == b"string" for place in places))


@pytest.mark.parametrize("fault", ["stopped", "frozen", "full"])
def test_no_request_fails(http: httpx2.Client, server: RedisServer, fault: str) -> None:
    begin, end = {
        "stopped": (server.stop, server.start),
        "frozen": (server.freeze, server.thaw),
        "full": (lambda: server.limit(1), lambda: server.limit(0)),
    }[fault]
    begin()
    try:
        eventually(lambda: new(http) == "miss" and health(http)["status"] == "degraded", 10)
        errors = health(http)["redis_errors"]
        counted = http.get("/metrics").text.splitlines()
        assert "llm_cache_breaker_open 1.0" in counted
        operation = "set" if fault == "full" else "get"
        assert f'llm_cache_errors_total{{operation="{operation}"}} 0.0' not in counted
        began = time.monotonic()
        assert [new(http) for _ in range(40)] == ["miss"] * 40
        tries = 2 * (1 + (time.monotonic() - began) / 5)
        assert health(http)["redis_errors"] <= errors + tries + 1, "nobody asks Redis meanwhile"
    finally:
        end()
    came_back = time.monotonic()
    eventually(lambda: new(http) == "miss" and health(http)["status"] == "ok", 2 * RECOVERY_S)
    assert time.monotonic() - came_back < RECOVERY_S + ROOM_S
    eventually(lambda: new(http) and names(server))
    assert "llm_cache_breaker_open 0.0" in http.get("/metrics").text.splitlines()


def test_flushed_is_only_forgotten(http: httpx2.Client, server: RedisServer) -> None:
    for _ in range(10):
        assert new(http) == "miss"
        server.client.flushall()
    assert health(http)["status"] == "ok"


def test_clearing(home: GatewayHome, http: httpx2.Client, server: RedisServer) -> None:
    clear = "/api/v1/cache/clear"
    body = ask(next(numbers))
    cached(http, body)
    eventually(lambda: names(server))
    server.client.set("somebody else's", "x")

    assert http.post(clear, json={"model": "b"}).json() == {"cleared": 0}
    assert cached(http, body) == "hit"
    assert http.post(clear, json={"model": "a"}).json()["cleared"] >= 1
    assert server.client.keys() == [b"somebody else's"]
    assert cached(http, body) == "miss"
    server.freeze()
    try:
        answer = http.post(clear, json={})
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "service_unavailable")
    finally:
        server.thaw()


def test_it_stops_while_redis_is_frozen(home: GatewayHome, server: RedisServer) -> None:
    server.freeze()
    try:
        with client_of(home) as http:
            assert [new(http) for _ in range(5)] == ["miss"] * 5
        began = time.monotonic()
        assert home.terminate() == 0
        assert time.monotonic() - began < 10
    finally:
        server.thaw()
        home.start()
