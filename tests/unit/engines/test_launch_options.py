"""Launch options that an operator gives: what each engine takes of them, and what it says else."""

from __future__ import annotations

from typing import Any

import pytest

from llm_backend.config.catalog import ModelSpec, RuntimeKind, VllmEngine
from llm_backend.engines.launch_options import (
    CATALOG,
    DROPPED,
    QUANTIZATIONS,
    LaunchOptions,
    altered,
)
from llm_backend.errors import Conflict, InvalidRequest, NotSupported

CONTAINER = {"kind": "vllm", "container": "llm-a", "config_file": "config/engines/a.yaml"}


def spec(engine: dict[str, Any], devices: tuple[str, ...] = ("gpu0",), **fields: Any) -> ModelSpec:
    entry = {"id": "a", "capabilities": ["chat"], "devices": devices, "engine": engine}
    return ModelSpec.model_validate({**entry, "runtimes": ["process"], **fields})


def options_of(given: LaunchOptions, **engine: Any) -> dict[str, Any]:
    changed = altered(spec({"kind": "vllm", **engine}), given, RuntimeKind.PROCESS)
    assert isinstance(changed.engine, VllmEngine)
    return dict(changed.engine.options)


def test_nothing_given_leaves_the_entry_as_it_is() -> None:
    entry = spec(CONTAINER)
    assert altered(entry, CATALOG, RuntimeKind.DOCKER) is entry
    assert not CATALOG
    assert CATALOG.given == {}


def test_vllm_gets_them_over_its_own() -> None:
    given = LaunchOptions(2048, 0.5, "gptq", 1)
    assert given.given == {
        "max_model_len": 2048,
        "gpu_memory_utilization": 0.5,
        "quantization": "gptq",
        "tensor_parallel_size": 1,
    }
    assert options_of(given, options={"max-model-len": 4096, "dtype": "half"}) == {
        "max-model-len": 2048,
        "dtype": "half",
        "gpu-memory-utilization": 0.5,
        "quantization": "gptq",
        "tensor-parallel-size": 1,
    }
    assert options_of(LaunchOptions(quantization="awq")) == {"quantization": "awq"}


def test_the_entry_of_the_catalog_stays() -> None:
    entry = spec({"kind": "vllm", "options": {"max-model-len": 4096}})
    altered(entry, LaunchOptions(128), RuntimeKind.PROCESS)
    assert isinstance(entry.engine, VllmEngine)
    assert entry.engine.options == {"max-model-len": 4096}


def test_llama_cpp_takes_a_length() -> None:
    entry = spec({"kind": "llama.cpp", "context": 4096})
    changed = altered(entry, LaunchOptions(512), RuntimeKind.PROCESS)
    assert changed.engine.model_dump()["context"] == 512


@pytest.mark.parametrize(
    ("given", "param", "says"),
    [
        (LaunchOptions(gpu_memory_utilization=0.5), "gpu_memory_utilization", "takes max_model_"),
        (LaunchOptions(512, tensor_parallel_size=1), "tensor_parallel_size", "takes max_model_len"),
        (LaunchOptions(quantization="awq"), "quantization", "file of its weights"),
    ],
)
def test_llama_cpp_takes_nothing_else(given: LaunchOptions, param: str, says: str) -> None:
    with pytest.raises(NotSupported, match=says) as raised:
        altered(spec({"kind": "llama.cpp"}), given, RuntimeKind.PROCESS)
    assert raised.value.param == param


def test_a_container_has_been_made_with_its_options() -> None:
    with pytest.raises(Conflict) as raised:
        altered(spec(CONTAINER, runtimes=["docker"]), LaunchOptions(512), RuntimeKind.DOCKER)
    assert "config/engines/a.yaml" in raised.value.text
    assert "llm-backend start --setup compose" in raised.value.text
    bare = spec({"kind": "vllm", "container": "llm-a"}, runtimes=["docker"])
    with pytest.raises(Conflict, match=r"Edit config/engines/a\.yaml"):
        altered(bare, LaunchOptions(512), RuntimeKind.DOCKER)


@pytest.mark.parametrize(
    "engine",
    [
        {"kind": "command", "argv": ["server"]},
        {"kind": "external", "base_url": "http://host:8000"},
    ],
)
def test_other_engines_are_launched_as_the_catalog_says(engine: dict[str, Any]) -> None:
    with pytest.raises(NotSupported, match=r"models\.a\.engine") as raised:
        altered(spec(engine), LaunchOptions(512), RuntimeKind.PROCESS)
    assert raised.value.param == "max_model_len"


@pytest.mark.parametrize("name", [*DROPPED, "SqueezeLLM"])
def test_a_quantisation_that_vllm_has_dropped_names_another(name: str) -> None:
    with pytest.raises(InvalidRequest, match="vLLM has dropped the quantisation") as raised:
        options_of(LaunchOptions(quantization=name))
    instead = DROPPED[name.lower()].split(" or ")
    assert set(instead) <= set(QUANTIZATIONS)
    assert all(each in raised.value.text for each in instead)
    assert raised.value.param == "quantization"


def test_one_that_never_was_names_those_that_are() -> None:
    with pytest.raises(InvalidRequest, match=r"knows no quantisation 'q4'.*It knows: awq,"):
        options_of(LaunchOptions(quantization="q4"))


@pytest.mark.parametrize("name", QUANTIZATIONS)
def test_those_that_are_pass(name: str) -> None:
    assert options_of(LaunchOptions(quantization=name)) == {"quantization": name}


def test_a_model_is_spread_over_no_more_devices_than_it_has() -> None:
    two = spec({"kind": "vllm"}, ("gpu0", "gpu1"))
    altered(two, LaunchOptions(tensor_parallel_size=2), RuntimeKind.PROCESS)
    with pytest.raises(InvalidRequest, match=r"is 3, and a has 2 \(gpu0, gpu1\)") as raised:
        altered(two, LaunchOptions(tensor_parallel_size=3), RuntimeKind.PROCESS)
    assert raised.value.param == "tensor_parallel_size"
