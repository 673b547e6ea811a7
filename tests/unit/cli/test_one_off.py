"""A catalog of one model: engine, devices, options and capabilities, out of what is there."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from llm_backend.cli import one_off as module
from llm_backend.cli.one_off import OneOff, one_off
from llm_backend.cli.project import Project, open_project
from llm_backend.cli.terminal import Terminal
from llm_backend.config.catalog import Capability, LlamaCppEngine, ModelSpec, VllmEngine
from llm_backend.engines.launch_options import LaunchOptions
from llm_backend.errors import InvalidRequest, LLMBackendError, SetupError
from tests.unit.cli.conftest import MODELS, write_catalog

pytestmark = pytest.mark.feature("serve a model in no catalog")

VLLM = {
    "runtimes": ["process"],
    "engine": {"kind": "vllm", "python": sys.executable},
    "capabilities": ["chat"],
    "devices": ["cpu"],
}


@pytest.fixture
def big(tmp_path: Path) -> Path:
    """Weights for vLLM."""
    folder = tmp_path / "My model (big)"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"architectures": ["QwenForCausalLM"]}))
    return folder


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Weights for llama.cpp."""
    (tmp_path / "small.gguf").write_bytes(b"GGUF")
    return tmp_path / "small.gguf"


def spec_of(source: Path, device: str = "cpu", **options: Any) -> ModelSpec:
    catalog = one_off(
        Terminal(), open_project(), OneOff(str(source), device, LaunchOptions(**options))
    )
    (spec,) = catalog
    assert catalog.default == (spec.id,)
    assert set(spec.devices) == set(catalog.devices)
    return spec


def test_a_gguf_file_on_the_cpu(root: Path, small: Path) -> None:
    spec = spec_of(small, max_model_len=2048)

    assert isinstance(spec.engine, LlamaCppEngine)
    assert (spec.id, spec.devices, spec.max_model_len) == ("small", ("cpu",), 2048)
    assert (spec.engine.context, spec.engine.gpu_layers) == (2048, 0)
    assert Capability.CHAT in spec.capabilities
    assert Capability.VISION not in spec.capabilities


def test_a_gguf_file_on_a_gpu(root: Path, small: Path) -> None:
    spec = spec_of(small, "cuda:1")

    assert isinstance(spec.engine, LlamaCppEngine)
    assert (spec.devices, spec.engine.gpu_layers) == (("gpu1",), 999)


def test_a_directory_for_vllm_as_the_catalog_runs_it(root: Path, big: Path) -> None:
    write_catalog(root, MODELS | {"other": VLLM})
    spec = spec_of(
        big,
        "cuda",
        tensor_parallel_size=2,
        quantization="awq",
        max_model_len=8192,
        gpu_memory_utilization=0.5,
    )

    assert isinstance(spec.engine, VllmEngine)
    assert spec.engine.python == sys.executable
    assert spec.engine.options == {
        "tensor-parallel-size": 2,
        "quantization": "awq",
        "max-model-len": 8192,
        "gpu-memory-utilization": 0.5,
    }
    assert (spec.id, spec.devices, spec.max_model_len) == ("My-model-big-", ("gpu0", "gpu1"), 8192)


@pytest.mark.parametrize(("word", "option"), [("4bit", "bitsandbytes"), ("8bit", "fp8")])
def test_vllm_is_asked_in_its_own_words(root: Path, big: Path, word: str, option: str) -> None:
    write_catalog(root, MODELS | {"other": VLLM})
    engine = spec_of(big, quantization=word).engine
    plain = spec_of(big, quantization="none").engine

    assert isinstance(engine, VllmEngine)
    assert isinstance(plain, VllmEngine)
    assert engine.options == {"quantization": option}
    assert not plain.options


def test_the_gpu_that_is_named_is_the_one_that_vllm_sees(root: Path, big: Path) -> None:
    write_catalog(root, MODELS | {"other": VLLM})

    assert spec_of(big, "cuda:3").environment == {
        "CUDA_VISIBLE_DEVICES": "3",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    }
    assert not spec_of(big, "cuda").environment


def test_capabilities_are_read_from_the_files(root: Path, big: Path) -> None:
    write_catalog(root, MODELS | {"other": VLLM})
    (big / "config.json").write_text(json.dumps({"vision_config": {}}))
    seeing = spec_of(big)
    (big / "modules.json").touch()
    embedding = spec_of(big)

    assert Capability.VISION in seeing.capabilities
    assert embedding.capabilities == (Capability.EMBEDDINGS, Capability.TOKENIZE)


def test_auto_takes_a_gpu_where_there_is_one(
    root: Path, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_has_gpu", lambda: True)
    assert spec_of(small, "auto").devices == ("gpu0",)
    monkeypatch.setattr(module, "_has_gpu", lambda: False)
    assert spec_of(small, "auto").devices == ("cpu",)


@pytest.mark.parametrize(
    ("device", "options", "message"),
    [
        ("tpu", {}, "There is no device 'tpu'"),
        ("cpu", {"tensor_parallel_size": 2}, "spread over 2 devices on GPUs only"),
        ("cpu", {"quantization": "awq"}, "has no option quantization"),
        ("cuda", {"tensor_parallel_size": 2}, "has no option tensor_parallel_size"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    root: Path, small: Path, device: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(LLMBackendError, match=message):
        spec_of(small, device, **options)


def test_a_quantisation_that_vllm_has_dropped_says_so(root: Path, big: Path) -> None:
    write_catalog(root, MODELS | {"other": VLLM})

    with pytest.raises(InvalidRequest, match="vLLM has dropped"):
        spec_of(big, quantization="squeezellm")


def test_without_vllm_nothing_is_fetched(project: Project, big: Path) -> None:
    with pytest.raises(SetupError, match="cannot run here: vLLM is not installed for "):
        spec_of(big)


def test_a_config_that_cannot_be_read_is_named(root: Path, big: Path) -> None:
    write_catalog(root, MODELS | {"other": VLLM})
    (big / "config.json").write_text("{")

    with pytest.raises(SetupError, match=r"config\.json cannot be read"):
        spec_of(big)
