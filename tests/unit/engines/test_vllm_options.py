"""The options files of the engines: those of the checkout, and what a wrong one contradicts."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm_backend.config import load_catalog
from llm_backend.config.catalog import ModelSpec, RuntimeKind
from llm_backend.engines.vllm_options import disagreements, read_options
from llm_backend.errors import ConfigError
from tests.harness import REPOSITORY

CATALOG = load_catalog(REPOSITORY / "config" / "models.yaml")


@pytest.fixture
def spec() -> ModelSpec:
    return CATALOG.models["qwen-14b"]


def with_file(spec: ModelSpec, path: Path) -> ModelSpec:
    engine = spec.engine.model_copy(update={"config_file": str(path)})
    return spec.model_copy(update={"engine": engine})


def test_those_of_the_checkout_agree_with_the_catalog() -> None:
    specs = list(CATALOG.runnable(frozenset({RuntimeKind.DOCKER})))

    assert len(specs) == 3
    assert [text for spec in specs for text in disagreements(spec, read_options(spec))] == []


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("model", "Qwen/Other", "model is 'Qwen/Other', and the catalog says 'Qwen/Qwen2.5-14B"),
        (
            "served-model-name",
            None,
            "served-model-name is missing, and the catalog says 'qwen-14b'",
        ),
        ("port", 8000, "port is 8000, and the catalog says 8001"),
        ("max-model-len", 8192, "max-model-len is 8192, and the catalog says 16384"),
        ("host", "127.0.0.1", "host is not 0.0.0.0"),
    ],
)
def test_a_contradiction_is_named(spec: ModelSpec, name: str, value: object, text: str) -> None:
    options = {**read_options(spec), name: value}

    (found,) = disagreements(spec, options)
    assert found.startswith(text)


def test_a_pinned_revision_has_to_be_the_engines_too(spec: ModelSpec) -> None:
    assert spec.weights is not None
    weights = spec.weights.model_copy(update={"revision": "a" * 40})
    pinned = spec.model_copy(update={"weights": weights})

    (found,) = disagreements(pinned, read_options(spec))
    assert found.startswith("revision is missing")
    assert list(disagreements(pinned, {**read_options(spec), "revision": "a" * 40})) == []


@pytest.mark.parametrize("text", ["- a\n", "a: [", "text"])
def test_a_file_that_is_no_mapping_is_refused(spec: ModelSpec, tmp_path: Path, text: str) -> None:
    path = tmp_path / "engine.yaml"
    path.write_text(text)

    with pytest.raises(ConfigError, match=str(path)):
        read_options(with_file(spec, path))


def test_a_file_that_is_missing_is_named(spec: ModelSpec, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no\.yaml: No such file or directory"):
        read_options(with_file(spec, tmp_path / "no.yaml"))


def test_without_a_file_there_is_nothing_to_read() -> None:
    assert read_options(CATALOG.models["smollm2-long"]) == {}
