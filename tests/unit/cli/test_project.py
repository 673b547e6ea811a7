"""Where a command finds its project, and what it says where it finds none."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm_backend.cli.project import find_root, open_project
from llm_backend.errors import ConfigError, ModelNotFound
from tests.unit.cli.conftest import write_catalog


def test_the_root_is_the_nearest_directory_above_with_a_catalog(root: Path) -> None:
    below = root / "a" / "b"
    below.mkdir(parents=True)

    assert find_root({}, below) == root
    assert find_root({}, root) == root


def test_the_variable_goes_before_the_current_directory(root: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    write_catalog(other)

    assert find_root({"LLM_BACKEND_ROOT": str(other)}, root) == other


def test_elsewhere_it_is_the_checkout_of_the_package(tmp_path: Path) -> None:
    root = find_root({}, tmp_path)

    assert (root / "llm_backend" / "cli" / "project.py").is_file()


def test_a_variable_that_points_nowhere_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        find_root({"LLM_BACKEND_ROOT": str(tmp_path)}, tmp_path)

    assert str(caught.value) == (
        f"LLM_BACKEND_ROOT is '{tmp_path}', and there is no config/models.yaml in it. "
        "Set it to the checkout of llm-backend: the directory that holds config/."
    )


def test_without_any_catalog_it_says_where_it_looked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llm_backend.__file__", str(tmp_path / "site" / "llm_backend" / "x.py"))

    with pytest.raises(ConfigError) as caught:
        find_root({}, tmp_path)

    assert str(caught.value) == (
        f"No config/models.yaml in {tmp_path}, nor in a directory above it. "
        "Go to the checkout of llm-backend, or set LLM_BACKEND_ROOT to its path."
    )


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
