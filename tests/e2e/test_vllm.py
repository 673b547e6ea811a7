"""Real vLLM in the engines' containers, its CPU build, with tiny random models."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.events import EventLog
from tests.e2e.pictures import with_image
from tests.e2e.stack import GROUND, START_S, Stack, new_stack, put_weights
from tests.harness import REPOSITORY

PACKAGES = REPOSITORY / ".venv-vllm" / "lib" / "python3.11" / "site-packages"
PYTHON = REPOSITORY / ".venv-vllm" / "bin" / "python"
MAKERS = {"qwen-14b": "make_tiny_qwen2.py", "qwen-vl": "make_tiny_qwen25_vl.py"}

pytestmark = [
    pytest.mark.docker,
    pytest.mark.slow,
    pytest.mark.skipif(not PACKAGES.exists(), reason=f"there is no {PACKAGES}: make vllm-cpu"),
    pytest.mark.feature("vLLM"),
]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folder with the tiny model that stands in for each model."""
    folders = {}
    for model, program in MAKERS.items():
        folders[model] = tmp_path_factory.mktemp(model)
        command = [PYTHON, REPOSITORY / "tests" / "models" / program, folders[model]]
        subprocess.run(command, check=True, capture_output=True, timeout=START_S)
    return folders


@pytest.fixture(scope="module")
def vllm_stack(
    images: None, weights: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    subprocess.run(["bash", GROUND / "images.sh", "--vllm"], check=True, capture_output=True)
    with new_stack(tmp_path_factory.mktemp("vllm")) as stack:
        put_weights(stack.models_dir, stack.root / "config" / "models.yaml", weights)
        override = Path(__file__).parent / "compose.vllm.yaml"
        stack.environment["COMPOSE_FILE"] += f"{os.pathsep}{override}"
        stack.environment["VLLM_IMAGE"] = "standin/vllm-cpu:ground"
        stack.environment["VLLM_PACKAGES"] = str(PACKAGES)
        yield stack


def test_a_text_model(vllm_stack: Stack) -> None:
    options = ("--setup", "compose", "--model", "qwen-14b", "--yes", "--detach")
    vllm_stack.script("start_all", *options)
    answer = vllm_stack.chat("qwen-14b")
    assert answer.status_code == 200, answer.text
    assert answer.json()["usage"]["completion_tokens"] > 0


def test_then_by_request_a_model_that_sees(vllm_stack: Stack, event_log: EventLog) -> None:
    seen = vllm_stack.chat("qwen-vl", with_image("hello"), within_s=START_S)
    assert seen.status_code == 200, seen.text
    blind = vllm_stack.chat("qwen-vl", "hello")
    # 112 x 84 pixels are 12 tokens.
    tokens = [each.json()["usage"]["prompt_tokens"] for each in (seen, blind)]
    assert tokens[0] - tokens[1] >= 12

    log = vllm_stack.script("logs", "qwen-vl", "--lines", "1000").stdout
    assert "Using backend AttentionBackendEnum.TORCH_SDPA for vit attention" in log
    vllm_stack.script("stop_all")
    assert vllm_stack.containers() == []
    assert event_log.most_at_once() == 1
    ended = {event.name: event.exit_code for event in event_log.events if event.action == "die"}
    assert ended == {"llm-qwen-14b": 0, "llm-qwen-vl": 0}
