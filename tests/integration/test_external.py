"""Servers that others run: a second gateway of ours, llama.cpp's server, and servers of one kind.

All are real processes; the gateway in front starts none of them.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx2
import pytest

from llm_backend.config.weights import WheelWeights
from llm_backend.engines import llamacpp_serve
from llm_backend.runtimes.ports import free_port
from llm_backend.testing import fake_engine
from llm_backend.weights.store import Store
from tests.harness import ALL, PATIENCE_S, GatewayHome, eventually, fake_model, gateway_home
from tests.integration.gateways import CHAT, MESSAGES, key_of, key_setting
from tests.integration.test_engines import SMOLLM2

pytestmark = [pytest.mark.engine, pytest.mark.feature("servers that others run")]


def elsewhere(base_url: str, **engine: Any) -> dict[str, Any]:
    """The entry of a model on a server that somebody else runs, asked often."""
    return {
        "runtimes": ["external"],
        "engine": {"kind": "external", "base_url": base_url, "health_interval_s": 0.2, **engine},
        "capabilities": ALL,
    }


def secret(path: Path, key: str) -> str:
    path.write_text(key + "\n")
    path.chmod(0o600)
    return str(path)


@contextlib.contextmanager
def server(
    argv: Sequence[str], port: int, host: str = "127.0.0.1"
) -> Iterator[subprocess.Popen[bytes]]:
    """A server that is not ours; it is up when this returns."""
    command = [word.replace("{port}", str(port)) for word in argv]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        eventually(lambda: _answers(f"{host}:{port}"))
        yield process
    finally:
        process.kill()
        process.wait(PATIENCE_S)


def _answers(authority: str) -> bool:
    with contextlib.suppress(httpx2.HTTPError):
        return httpx2.get(f"http://{authority}/health", trust_env=False).status_code == 200
    return False


class Replica:
    """A fake engine that somebody else runs."""

    def __init__(self, root: Path, name: str, *flags: str) -> None:
        self.port = free_port("127.0.0.1")
        self.url = f"http://127.0.0.1:{self.port}"
        self._journal = root / f"{name}.jsonl"
        self.argv = fake_engine.command(
            "--served-model-name", "Org/Model", "--journal", str(self._journal), *flags
        )

    @property
    def requests(self) -> int:
        """How many requests for text have reached it."""
        notes = map(json.loads, self._journal.read_text().splitlines())
        return sum(note.get("model") == "Org/Model" for note in notes if note["event"] == "request")


class Hops:
    """A gateway in front of another one."""

    def __init__(self, near: GatewayHome, far: GatewayHome) -> None:
        self.near = near
        self.far = far


@pytest.fixture(scope="module")
def hops(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hops]:
    """Two gateways that stay; tests that end one have their own."""
    with two_gateways(tmp_path_factory.mktemp("hops")) as shared:
        yield shared


@contextlib.contextmanager
def two_gateways(root: Path) -> Iterator[Hops]:
    """The far gateway has models that exclude each other; the near one knows them all."""
    (root / "far").mkdir()
    (root / "near").mkdir()
    with gateway_home(root / "far") as far, gateway_home(root / "near") as near:
        models = {
            "big": fake_model(far.root, "big", "--token-delay-s", "0.02"),
            "small": fake_model(far.root, "small"),
            "mortal": fake_model(far.root, "mortal", "--die-after-tokens", "3"),
        }
        keys = [key_setting("near", "infer"), {**key_setting("once", "infer")}]
        keys[1]["requests_per_minute"] = 1
        port = free_port("127.0.0.1")
        far.configure(models, keys=keys, server={"port": port})
        far.start()
        key, once = (secret(root / f"{name}.key", key_of(name)) for name in ("near", "once"))
        near.configure(
            {
                "remote-big": elsewhere(far.url, served_name="big", key_file=key),
                "remote-small": elsewhere(far.url, served_name="small", key_file=key),
                "remote-mortal": elsewhere(far.url, served_name="mortal", key_file=key),
                "rationed": elsewhere(far.url, served_name="small", key_file=once),
                "local": fake_model(near.root, "local"),
            }
        )
        near.start()
        yield Hops(near, far)


def test_answers_and_streams_come_over_two_hops(hops: Hops) -> None:
    whole = hops.near.chat("remote-small", max_tokens=3)
    assert whole.status_code == 200, whole.text
    assert whole.json()["usage"]["completion_tokens"] == 3

    streamed = hops.near.chat("remote-big", stream=True, max_tokens=3)
    assert streamed.headers["content-type"].startswith("text/event-stream")
    assert "data: [DONE]" in streamed.text
    assert "error" not in streamed.text
    # What the far gateway says while it switches from one model to the other is heard here.
    assert streamed.text.startswith(": waiting for big")
    assert hops.far.starts("small") == 1


def test_models_elsewhere_and_a_local_one_are_awake_together(hops: Hops) -> None:
    for model in ("remote-small", "remote-big", "local"):
        assert hops.near.chat(model).status_code == 200
    states = hops.near.get("/health").json()["models"]
    awake = {name for name, model in states.items() if model["state"] == "awake"}
    assert awake >= {"remote-small", "remote-big", "local"}
    assert hops.near.starts("local") == 1


def test_a_client_that_leaves_is_gone_from_the_far_engine_too(hops: Hops) -> None:
    body = {"model": "remote-big", "messages": MESSAGES, "stream": True, "max_tokens": 2000}
    with (
        httpx2.Client(base_url=hops.near.url, timeout=PATIENCE_S, trust_env=False) as client,
        client.stream("POST", CHAT, json=body) as response,
    ):
        assert "data:" in next(response.iter_text())
    eventually(lambda: "gone" in hops.far.events("big"))


def test_retry_after_of_the_far_gateway_is_passed_on(hops: Hops) -> None:
    assert hops.near.chat("rationed").status_code == 200
    refused = hops.near.chat("rationed")
    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "server_is_overloaded"
    assert 1 < int(refused.headers["retry-after"]) <= 60


def test_a_stream_that_breaks_far_away_ends_in_an_error(hops: Hops) -> None:
    answer = hops.near.chat("remote-mortal", stream=True, max_tokens=8)
    last = answer.text.rstrip().rpartition("data: ")[2]
    assert "error" in json.loads(last), answer.text
    assert "[DONE]" not in answer.text


def test_a_far_gateway_that_ends_is_told_and_comes_back(tmp_path: Path) -> None:
    with two_gateways(tmp_path) as hops:
        near, far_url = hops.near, hops.far.url
        assert near.chat("remote-small").status_code == 200
        hops.far.terminate()
        eventually(lambda: near.state("remote-small") == "failed")
        reason = near.get("/health").json()["models"]["remote-small"]["reason"]
        assert f"cannot be reached ({far_url}: the connection failed" in reason
        refused = near.chat("remote-small")
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] in {"engine_gone", "engine_start_failed"}

        hops.far.start()
        eventually(lambda: near.chat("remote-small").status_code == 200, every_s=0.5)

        near.terminate()
        near.start()
        assert near.state("remote-small") == "awake"


def test_the_external_set_up_starts_no_engine(tmp_path: Path) -> None:
    replica = Replica(tmp_path, "replica")
    with server(replica.argv, replica.port), gateway_home(tmp_path) as home:
        models = {
            "far": elsewhere(replica.url, served_name="Org/Model"),
            "here": fake_model(tmp_path, "here"),
        }
        home.configure(models, setup="external")
        home.start()
        assert home.chat("far").status_code == 200
        assert home.chat().status_code == 200
        refused = home.chat("here")
        assert refused.status_code == 404
        message = refused.json()["error"]["message"]
        assert "its engine is a process, and this set-up runs servers elsewhere only" in message
        assert home.get("/").json()["setup"] == "external"
        assert home.engine_processes() == []


@pytest.mark.feature("replicas")
def test_requests_are_spread_and_none_is_lost_when_a_replica_dies(tmp_path: Path) -> None:
    one, two = (Replica(tmp_path, name) for name in ("one", "two"))
    with (
        server(one.argv, one.port) as first,
        server(two.argv, two.port),
        gateway_home(tmp_path) as home,
    ):
        model = elsewhere(one.url, replicas=[{"base_url": two.url}], served_name="Org/Model")
        home.configure({"far": model})
        home.start()
        for number in range(6):
            assert home.chat("far", seed=number).status_code == 200
        assert (one.requests, two.requests) == (3, 3)
        first.kill()
        first.wait(PATIENCE_S)
        for number in range(6, 12):
            answer = home.chat("far", seed=number)
            assert answer.status_code == 200, answer.text
        assert two.requests == 9
        assert home.state("far") == "awake"


def test_a_server_at_an_ipv6_address_is_used(tmp_path: Path) -> None:
    replica = Replica(tmp_path, "replica", "--host", "::1")
    with server(replica.argv, replica.port, "[::1]"), gateway_home(tmp_path) as home:
        url = f"http://[::1]:{replica.port}"
        home.configure({"far": elsewhere(url, served_name="Org/Model")})
        home.start()
        answer = home.chat("far")
        assert answer.status_code == 200, answer.text


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    key = Path(secret(tmp_path / "key", "word"))
    key.chmod(0o640)
    with gateway_home(tmp_path) as home:
        home.configure({"far": elsewhere("http://127.0.0.1:9", key_file=str(key))})
        home.start()
        refused = home.chat("far")
    assert refused.status_code == 503
    assert f"chmod 600 {key}" in refused.json()["error"]["message"]


def test_nobody_there_is_told_soon(tmp_path: Path) -> None:
    port = free_port("127.0.0.1")
    with gateway_home(tmp_path) as home:
        home.configure({"far": elsewhere(f"http://127.0.0.1:{port}")})
        home.start()
        began = time.monotonic()
        refused = home.chat("far")
        assert time.monotonic() - began < 15
    message = refused.json()["error"]["message"]
    assert f"The engine of far cannot be reached (http://127.0.0.1:{port}: " in message


def test_llama_cpp_s_own_server_is_used_as_it_is(tmp_path: Path) -> None:
    weights = _smollm2()
    port = free_port("127.0.0.1")
    argv = (sys.executable, "-P", llamacpp_serve.__file__, "--model", str(weights))
    argv += ("--alias", "smol", "--port", "{port}", "--context", "512")
    with server(argv, port), gateway_home(tmp_path) as home:
        home.configure({"stranger": elsewhere(f"http://127.0.0.1:{port}", served_name="smol")})
        home.start()
        answer = home.chat("stranger", max_tokens=4)
        assert answer.status_code == 200, answer.text
        assert answer.json()["choices"][0]["message"]["content"]
        streamed = home.chat("stranger", max_tokens=4, stream=True)
        assert streamed.text.rstrip().endswith("data: [DONE]")
        too_long = home.chat("stranger", messages=[{"role": "user", "content": "word " * 2000}])
        assert too_long.json()["error"]["code"] == "context_length_exceeded"


def _smollm2() -> Path:
    found = Store(Path(os.devnull)).locate(WheelWeights.model_validate(SMOLLM2))
    assert found is not None
    return found
