"""Many at once: racing switches, a hundred streams in the way, a herd on a cold model, SIGTERM.

F13, F14, F26, F32 and F34 of the fault table.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.harness import PATIENCE_S, GatewayHome, fake_model, gateway_home

pytestmark = pytest.mark.engine

MESSAGES = [{"role": "user", "content": "Say hi"}]


@pytest.fixture
def home(tmp_path: Path) -> Iterator[GatewayHome]:
    with gateway_home(tmp_path) as home:
        yield home


def test_f13_fifty_racing_switches_the_last_wins(home: GatewayHome) -> None:
    home.configure({m: fake_model(home.root, m, "--load-s", "0.1") for m in ("a", "b", "c")})
    home.start()
    order = [("a", "b", "c")[i % 3] for i in range(50)]

    async def race() -> list[int]:
        async with httpx2.AsyncClient(timeout=PATIENCE_S, headers=home.admin) as http:
            posts = [
                asyncio.create_task(http.post(url, json={"model": model, "wait": False}))
                for model in order[:-1]
            ]
            # All of these have been taken in when the last one is asked for, amid what they began.
            statuses = [r.status_code for r in await asyncio.gather(*posts)]
            last = await http.post(url, json={"model": order[-1]})
            return [*statuses, last.status_code]

    url = home.url + "/api/v1/inference/load"
    assert asyncio.run(race()) == [202] * 49 + [200]
    assert home.state(order[-1]) == "awake"
    assert "status 99" not in home.log.read_text()
    assert len(home.engine_processes()) == 2


def test_f13_fifty_loads_at_once(home: GatewayHome) -> None:
    home.configure({m: fake_model(home.root, m) for m in ("a", "b", "c")})
    home.start()

    async def race() -> Counter[int]:
        async with httpx2.AsyncClient(timeout=PATIENCE_S, headers=home.admin) as http:
            posts = [
                http.post(home.url + "/api/v1/inference/load", json={"model": "abc"[i % 3]})
                for i in range(50)
            ]
            return Counter(r.status_code for r in await asyncio.gather(*posts))

    statuses = asyncio.run(race())
    assert set(statuses) <= {200, 409}
    assert statuses[200] >= 1
    assert sum(home.state(m) == "awake" for m in "abc") == 1
    assert "status 99" not in home.log.read_text()


def test_f14_a_switch_waits_for_a_hundred_streams(home: GatewayHome) -> None:
    slow = ("--token-delay-s", "0.02", "--tokens", "20")
    models = {
        "a": fake_model(home.root, "a", *slow, concurrency=100),
        "b": fake_model(home.root, "b"),
    }
    home.configure(models)
    home.start()
    home.load("a")

    async def all_have_the_engine(http: httpx2.AsyncClient) -> None:
        inflight = 0
        while inflight < 100:
            health = (await http.get(home.url + "/health")).json()
            inflight = health["models"]["a"]["inflight"]

    async def run() -> list[str]:
        limits = httpx2.Limits(max_connections=200)
        async with httpx2.AsyncClient(timeout=PATIENCE_S, limits=limits) as http:
            body = {"model": "a", "stream": True, "messages": MESSAGES, "max_tokens": 20}
            streams = [
                asyncio.create_task(http.post(home.url + "/v1/chat/completions", json=body))
                for _ in range(100)
            ]
            await all_have_the_engine(http)
            other = await http.post(
                home.url + "/v1/chat/completions", json={"model": "b", "messages": MESSAGES}
            )
            assert other.status_code == 200
            return [(await s).text for s in streams]

    texts = asyncio.run(run())
    assert all(text.rstrip().endswith("data: [DONE]") for text in texts)


def test_f26_a_herd_on_a_cold_model(home: GatewayHome) -> None:
    a = fake_model(home.root, "a", "--load-s", "1", concurrency=50)
    home.configure({"a": a}, limits={"queue": 100})
    home.start()

    async def herd() -> Counter[int]:
        limits = httpx2.Limits(max_connections=200)
        async with httpx2.AsyncClient(timeout=PATIENCE_S, limits=limits) as http:
            body = {"model": "a", "messages": MESSAGES}
            posts = [http.post(home.url + "/v1/chat/completions", json=body) for _ in range(150)]
            answers = await asyncio.gather(*posts)
        refused = [a for a in answers if a.status_code == 503]
        assert all(1 <= int(a.headers["retry-after"]) <= 120 for a in refused)
        assert all(a.json()["error"]["code"] == "server_is_overloaded" for a in refused)
        return Counter(a.status_code for a in answers)

    assert asyncio.run(herd()) == {200: 100, 503: 50}
    assert home.starts("a") == 1


def test_f32_sigterm_lets_running_answers_finish(home: GatewayHome) -> None:
    home.configure({"a": fake_model(home.root, "a", "--token-delay-s", "0.1", "--tokens", "15")})
    home.start()
    home.load("a")
    body = {"model": "a", "stream": True, "messages": MESSAGES, "max_tokens": 15}
    url = home.url + "/v1/chat/completions"
    with httpx2.stream("POST", url, json=body, timeout=PATIENCE_S) as response:
        lines = response.iter_lines()
        next(lines)
        assert home.process is not None
        home.process.terminate()
        assert [line for line in lines if line][-1] == "data: [DONE]"
    assert home.process.wait(PATIENCE_S) == 0
    assert len(home.engine_processes()) == 2, "the engine is left running"
    assert not (home.root / "state/gateway.json").exists()


def test_f34_looking_never_switches(home: GatewayHome) -> None:
    home.configure({m: fake_model(home.root, m) for m in "ab"})
    home.start()
    home.load("a")
    paths = ["/", "/health", "/health/live", "/health/ready", "/models", "/v1/models", "/metrics"]
    paths += ["/v1/models/b", "/status", "/docs", "/openapi.json", "/favicon.ico", "/nothing"]
    for path in paths:
        assert home.get(path).status_code in {200, 404}, path
        assert httpx2.head(home.url + path).status_code < 500
    for path in ("/tokenize", "/detokenize", "/v1/messages/count_tokens"):
        response = home.post(path, {"model": "b", "prompt": "x", "messages": MESSAGES})
        assert response.status_code == 409, path
        assert "bash scripts/switch_model.sh b" in response.text
        assert (
            home.post(
                path, {"model": "a", "prompt": "x", "tokens": [1], "messages": MESSAGES}
            ).status_code
            == 200
        )
    assert home.chat("nope").status_code == 404
    assert home.get("/v1/chat/completions").status_code == 405
    assert home.state("a") == "awake"
    assert home.starts("b") == 0
