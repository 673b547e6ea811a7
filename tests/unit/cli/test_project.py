"""What a command finds in its project."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm_backend.cli.project import open_project
from llm_backend.errors import ModelNotFound


def test_flags_go_before_the_environment(root: Path) -> None:
    project = open_project({"server.port": 7123, "setup": None}, {"LLM_SERVER__PORT": "7001"})

    assert project.settings.server.port == 7123
    assert project.settings.setup == "auto"


def test_files_lie_in_the_state_directory(root: Path, tmp_path: Path) -> None:
    project = open_project()

    assert project.gateway_log == tmp_path / "state" / "logs" / "gateway.log"
    assert project.engine_log("org/a:b") == tmp_path / "state" / "logs" / "org_a_b.log"
    assert project.lock_dir == tmp_path / "state" / "locks"
    assert project.models_dir == tmp_path / "models"


def test_a_model_is_found_by_its_alias(root: Path) -> None:
    assert open_project().model("t").id == "tiny"


def test_an_unknown_model_is_answered_with_those_there_are(root: Path) -> None:
    with pytest.raises(ModelNotFound) as caught:
        open_project().model("tinny")

    assert str(caught.value) == (
        "The catalog has no model 'tinny'; it has tiny, absent, huge, boxed. "
        "See them: llm-backend models"
    )
