"""A client that leaves: the engine stops working for it within a second, its place is free."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import orjson
import pytest

from tests.harness import PATIENCE_S, GatewayHome, eventually
from tests.integration.gateways import (
    CHAT,
    MESSAGES,
    at_rest,
    client_of,
    connected,
    fake,
    fakes,
    post_bytes,
    requests_of,
    shared_gateway,
)

pytestmark = [pytest.mark.engine, pytest.mark.feature("clients that leave")]

PROMISED_S, ROOM_S = 1.0, 1.0


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayHome]:
    models = {
        **fake("slow", "--token-delay-s 0.05 --tokens 400", concurrency=1),
        **fake("many", "--token-delay-s 0.01 --tokens 50", concurrency=64),
        **fakes(late="--load-s 1"),
    }
    with shared_gateway(tmp_path_factory, models) as home:
        yield home


@pytest.fixture
def http(home: GatewayHome) -> Iterator[httpx2.Client]:
    with client_of(home, headers=home.admin) as http:
        http.post("/api/v1/inference/load", json={"model": "slow"}).raise_for_status()
        yield http
    at_rest(home)


def request(model: str = "slow", **fields: Any) -> bytes:
    body = orjson.dumps({"model": model, "messages": MESSAGES, "max_tokens": 400, **fields})
    return post_bytes(CHAT, body, "host: localhost", "content-type: application/json")


def inflight(http: httpx2.Client, model: str = "slow") -> int:
    return int(http.get("/health").json()["models"][model]["inflight"])


def waiting(http: httpx2.Client) -> int:
    return int(http.get("/status").json()["queue"]["length"])


@pytest.mark.parametrize("stream", [True, False])
def test_the_engine_hears_of_it(home: GatewayHome, http: httpx2.Client, stream: bool) -> None:
    gone = home.events("slow").count("gone")
    with connected(home) as connection:
        connection.sendall(request(stream=stream))
        eventually(lambda: inflight(http) == 1)
        if stream:
            assert connection.recv(1)
    left = time.time()

    eventually(lambda: home.events("slow").count("gone") == gone + 1)

    at = [line["at"] for line in home.journal("slow") if line["event"] == "gone"][-1]
    assert at - left < PROMISED_S + ROOM_S
    eventually(lambda: inflight(http) == 0, within_s=PROMISED_S + ROOM_S)


def test_it_hears_of_a_later_request_on_the_same_connection(
    home: GatewayHome, http: httpx2.Client
) -> None:
    gone = home.events("slow").count("gone")
    kept = [b"connection: close", b"connection: keep-alive"]
    first, second = (request(max_tokens=n).replace(*kept) for n in (1, 400))
    with connected(home) as connection:
        connection.sendall(first)
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")
        connection.sendall(second)
        eventually(lambda: inflight(http) == 1)
    eventually(lambda: home.events("slow").count("gone") == gone + 1)
    eventually(lambda: inflight(http) == 0, within_s=PROMISED_S + ROOM_S)


@pytest.mark.parametrize("stream", [True, False])
def test_whoever_leaves_the_line_leaves_no_trace(
    home: GatewayHome, http: httpx2.Client, stream: bool
) -> None:
    asked = home.events("slow").count("request")
    with connected(home) as first:
        first.sendall(request())
        eventually(lambda: inflight(http) == 1)
        with connected(home) as second:
            second.sendall(request(stream=stream))
            eventually(lambda: waiting(http) == 1)
        eventually(lambda: waiting(http) == 0, within_s=PROMISED_S + ROOM_S)
        assert inflight(http) == 1
    eventually(lambda: inflight(http) == 0)
    eventually(lambda: home.events("slow").count("request") > asked)
    assert home.events("slow").count("request") == asked + 1, "the engine never heard of it"


def test_whoever_leaves_while_a_model_loads(home: GatewayHome, http: httpx2.Client) -> None:
    http.post("/api/v1/inference/unload", json={}).raise_for_status()
    with connected(home) as connection:
        connection.sendall(request("late", stream=True))
        assert connection.recv(12) == b"HTTP/1.1 200"
        assert waiting(http) == 1
    eventually(lambda: waiting(http) == 0, within_s=PROMISED_S + ROOM_S)
    eventually(lambda: home.state("late") == "awake")
    generated = [x for x in home.journal("late") if x["event"] == "request" and x["path"] == CHAT]
    assert generated == []


def test_an_operator_who_hangs_up_still_gets_the_switch(
    home: GatewayHome, http: httpx2.Client
) -> None:
    path, body = "/api/v1/inference/load", b'{"model": "late"}'
    admin = [f"{n}: {v}" for n, v in home.admin.items()]
    http.post("/api/v1/inference/unload", json={}).raise_for_status()
    with connected(home) as connection:
        fields = ["host: localhost", "content-type: application/json", *admin]
        connection.sendall(post_bytes(path, body, *fields))
        eventually(lambda: home.state("late") == "starting")
    eventually(lambda: home.state("late") == "awake")


def test_a_storm_of_leaving_clients_costs_no_place(home: GatewayHome) -> None:
    assert home.load("many").status_code == 200

    async def one(number: int) -> None:
        """Leave after a time of its own, before, amid or after the answer."""
        address = httpx2.URL(home.url)
        reader, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(request("many", stream=number % 2 == 0, max_tokens=10))
        async with asyncio.timeout(PATIENCE_S):
            await reader.read(1 if number % 3 else 10**6)
        await asyncio.sleep(number % 7 / 100)
        if number % 5 == 0:
            writer.transport.abort()
        writer.close()

    async def storm() -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(200):
                group.create_task(one(number))

    asyncio.run(storm())
    at_rest(home)
    with client_of(home) as http:
        posts = [http.post(CHAT, json={"model": "many", "messages": MESSAGES}) for _ in range(3)]
    assert [post.status_code for post in posts] == [200, 200, 200]
    assert requests_of(home, model="many", route=CHAT, status="5xx") == 0
    assert requests_of(home, model="many", route=CHAT, status="2xx") >= 3
