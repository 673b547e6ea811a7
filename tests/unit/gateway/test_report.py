"""Which engines Prometheus is told of. The rest of the reports: tests/integration/test_routes.py."""

from __future__ import annotations

from typing import Any

from llm_backend.config.catalog import ModelSpec
from llm_backend.gateway.report import targets
from llm_backend.runtimes.base import Engine


def spec(model: str, **engine: Any) -> ModelSpec:
    entry = {"id": model, "capabilities": ["chat"], "devices": ["gpu0"], "engine": engine}
    kind = "docker" if engine.get("container") else "process"
    return ModelSpec.model_validate({**entry, "runtimes": [kind]})


def engine(model: str, handle: str, host: str, port: int) -> Engine:
    return Engine("1", model, host, port, model, "", "gpu0", handle)


def test_an_engine_in_a_container_is_a_target() -> None:
    model = spec("qwen-14b", kind="vllm", container="llm-qwen-14b")
    running = engine("qwen-14b", "llm-qwen-14b", "llm-qwen-14b", 8001)

    assert targets([(model, running)]) == [
        {"targets": ["llm-qwen-14b:8001"], "labels": {"model": "qwen-14b"}}
    ]


def test_a_process_is_one_for_a_prometheus_on_the_same_machine() -> None:
    vllm = (spec("a", kind="vllm"), engine("a", "4711", "127.0.0.1", 40001))
    counted = spec("b", kind="command", argv=["x"], progress_metric="x_total")
    command = (counted, engine("b", "4712", "127.0.0.1", 40002))

    assert targets([vllm, command]) == [
        {"targets": ["127.0.0.1:40001"], "labels": {"model": "a"}},
        {"targets": ["127.0.0.1:40002"], "labels": {"model": "b"}},
    ]


def test_what_is_not_known_to_export_metrics_is_none() -> None:
    command = (spec("here", kind="command", argv=["x"]), engine("here", "1", "127.0.0.1", 40001))
    elsewhere = spec("there", kind="external", base_url="http://there:8000")

    assert targets([command, (elsewhere, engine("there", "", "there", 8000))]) == []
    assert targets([]) == []
