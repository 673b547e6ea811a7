"""`download` against a hub on loopback: progress, refusals, and what is kept."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from llm_backend.cli import download as module
from llm_backend.cli.project import Project
from llm_backend.cli.terminal import Terminal
from llm_backend.testing.hub_server import ModelHub, serving
from tests.unit.cli.conftest import MODELS, Command, write_catalog

SIZE = 3 * 1024 * 1024


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelHub]:
    repository = tmp_path / "hub" / "org" / "name"
    repository.mkdir(parents=True)
    (repository / "w.gguf").write_bytes(os.urandom(SIZE))
    with serving(tmp_path / "hub") as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        yield server


def test_weights_come_with_progress_and_are_verified(command: Command, hub: ModelHub) -> None:
    result = command("download", "absent")

    assert result.code == 0
    assert result.out.startswith("absent: downloaded and verified, /")
    assert Path(result.out.split(", ")[1].strip()).stat().st_size == SIZE
    lines = result.err.splitlines()
    assert lines[0] == "absent: asking the hub"
    assert lines[-1].startswith("absent: w.gguf (100%) 3 MiB of 3 MiB, ")
    assert lines[-1].endswith(" MiB/s, 0 s left")


def test_what_is_here_is_not_fetched_again(command: Command, hub: ModelHub) -> None:
    command("download", "absent")
    asked = len(hub.requests)

    result = command("download", "absent", "--json")

    assert len(hub.requests) == asked
    assert result.json["models"][0]["id"] == "absent"
    assert Path(result.json["models"][0]["path"]).is_file()
    assert command("models", "--json").json["models"][1]["downloaded"] is True


def test_a_hub_that_cannot_be_reached_is_named(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")

    result = command("download", "absent")

    assert result.code == 69
    assert "http://127.0.0.1:1" in result.err


def test_a_model_without_weights_says_so(command: Command) -> None:
    result = command("download", "tiny")

    assert result.code == 1
    assert result.err == "Error: tiny has no weights to download: its server brings them.\n"


def test_weights_of_a_path_cannot_be_fetched(command: Command, root: Path) -> None:
    weights = {"source": "path", "path": "/nowhere/w.gguf"}
    write_catalog(root, {"own": MODELS["tiny"] | {"weights": weights}})

    result = command("download", "own")

    assert result.code == 1
    assert result.err == (
        "Error: The weights of own are not on the hub, and there is nothing at /nowhere/w.gguf.\n"
        "What can run here: llm-backend doctor\n"
    )


def test_without_a_terminal_a_model_has_to_be_named(command: Command) -> None:
    result = command("download")

    assert result.code == 1
    assert result.err == (
        "Error: No model is named, and nobody is there to ask.\n"
        "Type, for example: llm-backend download absent\n"
    )


def test_where_nothing_is_left_it_says_so(command: Command, root: Path) -> None:
    write_catalog(root, {"tiny": MODELS["tiny"]})

    result = command("download")

    assert result.code == 1
    assert "Nothing is left to download for the models that can run here." in result.err


def test_an_interrupted_download_says_how_to_go_on(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: Any) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "bring", interrupted)

    with pytest.raises(KeyboardInterrupt):
        module.fetch(Terminal(), project, project.model("absent"))

    assert capsys.readouterr().err == (
        "What came in is kept. To go on: llm-backend download absent\n"
    )
