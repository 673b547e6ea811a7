"""What the tests of the command line share.

root: a project of its own, with a small catalog and its state beside it.
command: runs `llm-backend` in this process on that project.
gateway: a stand-in for the running gateway, found by its run record.
fake_docker: a stand-in for the docker program, alone on the PATH.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from llm_backend.cli.main import run
from llm_backend.cli.project import Project, open_project
from llm_backend.runtimes.ports import free_port
from tests.unit.cli.fake_docker import FakeDocker
from tests.unit.cli.stand_in import StandIn, standing_in

MODELS: dict[str, Any] = {
    "tiny": {
        "aliases": ["t"],
        "purpose": "Trying things out",
        "runtimes": ["process"],
        "engine": {"kind": "command", "argv": ["true"]},
        "capabilities": ["chat"],
        "devices": ["cpu"],
    },
    "absent": {
        "purpose": "Chat, once its weights are here",
        "runtimes": ["process"],
        "engine": {"kind": "command", "argv": ["serve", "{weights}"]},
        "weights": {"source": "hub", "repo": "org/name", "file": "w.gguf", "size_mib": 1229},
        "capabilities": ["chat"],
        "devices": ["cpu"],
    },
    "huge": {
        "purpose": "What no machine has room for",
        "runtimes": ["process"],
        "engine": {"kind": "command", "argv": ["true"]},
        "capabilities": ["chat"],
        "devices": ["cpu"],
        "memory_mib": {"awake": 16_000_000},
    },
    "boxed": {
        "purpose": "Images",
        "runtimes": ["docker"],
        "engine": {"kind": "vllm", "container": "llm-boxed"},
        "capabilities": ["chat"],
        "devices": ["cpu"],
    },
}


@dataclass(frozen=True)
class Result:
    """What a command wrote, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Command:
    """Runs commands in this process."""

    def __init__(self, capture: pytest.CaptureFixture[str]) -> None:
        self._capture = capture

    def __call__(self, *arguments: str) -> Result:
        self._capture.readouterr()
        code = run(list(arguments))
        return Result(code, *self._capture.readouterr())


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith("LLM_")]:
        monkeypatch.delenv(name)
    # Nobody's installed command decides what the messages tell to type.
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "llm-backend").write_text("#!/bin/sh\n")
    (tools / "llm-backend").chmod(0o755)
    monkeypatch.setenv("PATH", str(tools))
    monkeypatch.setenv("LLM_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("LLM_MODELS_DIR", str(tmp_path / "models"))
    monkeypatch.setenv("LLM_SERVER__PORT", "0")
    root = tmp_path / "checkout"
    write_catalog(root)
    monkeypatch.chdir(root)
    return root


def write_catalog(root: Path, models: dict[str, Any] | None = None, **more: Any) -> None:
    """Write the catalog of a project."""
    (root / "config").mkdir(parents=True, exist_ok=True)
    catalog = {"devices": {"cpu": {"kind": "cpu"}}, "models": models or MODELS, **more}
    (root / "config" / "models.yaml").write_text(yaml.safe_dump(catalog, sort_keys=False))


@pytest.fixture
def project(root: Path) -> Project:
    return open_project()


@pytest.fixture
def command(root: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(capsys)


@pytest.fixture
def gateway(project: Project) -> Iterator[StandIn]:
    with standing_in(project.state_dir) as stand_in:
        yield stand_in


@pytest.fixture
def fake_docker(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeDocker:
    """Docker as a stand-in, and ports that are surely free."""
    (project.root / "docker-compose.yml").touch()
    for name in ("GATEWAY", "PROMETHEUS", "GRAFANA", "QWEN_VL", "QWEN_14B", "QWEN_CODER"):
        monkeypatch.setenv(f"{name}_PORT", str(free_port("127.0.0.1")))
    return FakeDocker(tmp_path / "bin")
