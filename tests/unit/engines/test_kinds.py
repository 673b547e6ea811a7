"""The right launch plan and the right kind for each entry of the catalog."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llm_backend.config.catalog import ModelSpec, RuntimeKind
from llm_backend.engines import kind_of, plan_for
from llm_backend.weights.store import Store

ENGINES: dict[str, dict[str, Any]] = {
    "vllm": {"kind": "vllm", "container": "box"},
    "command": {
        "kind": "command",
        "argv": ["serve"],
        "ready_path": "/ready",
        "progress_metric": "m",
    },
    "external": {"kind": "external", "base_url": "http://host:9", "ready_path": "/v1/models"},
    "llama.cpp": {"kind": "llama.cpp"},
}


def spec(kind: str, *runtimes: str) -> ModelSpec:
    return ModelSpec.model_validate(
        {
            "id": "m",
            "runtimes": runtimes or ["process"],
            "capabilities": ["chat"],
            "devices": ["b", "a"],
            "timeouts": {"stop_s": 7},
            "engine": ENGINES[kind],
        }
    )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


@pytest.mark.parametrize("kind", ["vllm", "command", "external"])
def test_every_plan_carries_what_any_runtime_needs(kind: str, store: Store) -> None:
    plan = plan_for(spec(kind), store)

    assert (plan.model, plan.group, plan.served_name, plan.stop_s) == ("m", "a+b", "m", 7)
    assert len(plan.fingerprint) == 64


def test_vllm_follows_the_runtime_that_is_asked_for(store: Store) -> None:
    both = spec("vllm", "docker", "process")

    assert plan_for(both, store).container == "box"
    assert plan_for(both, store).argv == ()
    assert plan_for(both, store, RuntimeKind.PROCESS).container is None
    assert plan_for(both, store, RuntimeKind.PROCESS).argv != ()


@pytest.mark.parametrize(
    ("kind", "ready_path", "metric"),
    [
        ("vllm", "/health", "vllm:iteration_tokens_total_count"),
        ("llama.cpp", "/health", "llamacpp:n_decode_total"),
        ("command", "/ready", "m"),
        ("external", "/v1/models", None),
    ],
)
def test_every_kind_says_how_it_is_watched(kind: str, ready_path: str, metric: str | None) -> None:
    found = kind_of(spec(kind))

    assert (found.name, found.ready_path, found.progress_metric) == (kind, ready_path, metric)
    if kind == "external":  # a token would cost somebody else's money
        assert found.probe_path is None
    else:
        # The one is known to have plain completions; of the other, the catalog says that it chats.
        chats = "/v1/chat/completions" if kind == "command" else "/v1/completions"
        assert found.probe_path == chats
        assert found.probe_body["max_tokens"] == 1
