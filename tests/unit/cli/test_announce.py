"""The last thing that a start says works as it stands."""

from __future__ import annotations

import json
import shlex
from typing import Any

import pytest

from llm_backend.cli.announce import announce, as_json_object, curl
from llm_backend.cli.control import read_record
from llm_backend.cli.project import Project
from llm_backend.cli.terminal import Terminal
from llm_backend.config.catalog import ModelSpec
from tests.unit.cli.conftest import MODELS
from tests.unit.cli.stand_in import write_record


def arguments(lines: list[str]) -> list[str]:
    """Return the command as a shell would run it."""
    return shlex.split("\n".join(lines).replace("\\\n", " "))


@pytest.mark.parametrize(
    ("capability", "path", "field"),
    [
        ("chat", "/v1/chat/completions", "messages"),
        ("completions", "/v1/completions", "prompt"),
        ("embeddings", "/v1/embeddings", "input"),
    ],
)
def test_the_request_is_one_that_the_model_can_do(capability: str, path: str, field: str) -> None:
    spec = ModelSpec.model_validate({**MODELS["tiny"], "id": "a", "capabilities": [capability]})

    command = arguments(curl("http://x:1", spec, with_key=False))

    body: dict[str, Any] = json.loads(command[command.index("-d") + 1])
    assert command[:2] == ["curl", f"http://x:1{path}"]
    assert body["model"] == "a"
    assert field in body


def test_without_a_model_whichever_is_awake_is_asked() -> None:
    command = arguments(curl("http://x:1", None, with_key=False))

    assert list(json.loads(command[-1])) == ["messages"]


def test_a_model_that_only_reranks_gets_the_list_of_models() -> None:
    spec = ModelSpec.model_validate({**MODELS["tiny"], "id": "a", "capabilities": ["rerank"]})

    assert curl("http://x:1", spec, with_key=False) == ["curl http://x:1/v1/models"]


def test_where_keys_are_configured_the_request_has_one() -> None:
    lines = curl("http://x:1", None, with_key=True)

    assert "Authorization: Bearer $LLM_API_KEY" in " ".join(lines)


def test_the_places_are_those_of_the_record(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    write_record(project.state_dir, url="http://127.0.0.1:7001", log="/var/log/gateway.log")
    record = read_record(project.state_dir)
    assert record is not None

    announce(Terminal(), project, record, project.model("tiny"))

    lines = capsys.readouterr().out.splitlines()
    assert lines[1:7] == [
        "  API      http://127.0.0.1:7001/v1",
        "  Console  http://127.0.0.1:7001/console",
        "  Docs     http://127.0.0.1:7001/docs",
        "  Health   http://127.0.0.1:7001/health",
        "  Metrics  http://127.0.0.1:7001/metrics",
        "  Log      /var/log/gateway.log",
    ]
    assert lines[-1] == "Stop it: llm-backend stop"


def test_programs_get_the_same(project: Project) -> None:
    write_record(project.state_dir, url="http://127.0.0.1:7001", log="")
    record = read_record(project.state_dir)
    assert record is not None

    assert as_json_object(record, "tiny", already=True) == {
        "running": True,
        "already": True,
        "pid": record.pid,
        "url": "http://127.0.0.1:7001",
        "setup": "local",
        "model": "tiny",
        "log": "",
    }
