"""Where the project is found, and what is said where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm_backend.config.root import MARK, find_root
from llm_backend.errors import ConfigError


def write(root: Path) -> Path:
    (root / MARK).parent.mkdir(parents=True)
    (root / MARK).touch()
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write(tmp_path / "project")


def test_the_root_is_the_nearest_directory_above_with_a_catalog(root: Path) -> None:
    below = root / "a" / "b"
    below.mkdir(parents=True)

    assert find_root({}, below) == root
    assert find_root({}, root) == root


def test_the_variable_goes_before_the_current_directory(root: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    write(other)

    assert find_root({"LLM_BACKEND_ROOT": str(other)}, root) == other


def test_elsewhere_it_is_the_checkout_of_the_package(tmp_path: Path) -> None:
    root = find_root({}, tmp_path)

    assert (root / "llm_backend" / "config" / "root.py").is_file()


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
    package = tmp_path / "site" / "llm_backend"
    monkeypatch.setattr("llm_backend.config.root.__file__", str(package / "config" / "root.py"))

    with pytest.raises(ConfigError) as caught:
        find_root({}, tmp_path)

    assert str(caught.value) == (
        f"No config/models.yaml in {tmp_path}, nor in a directory above it. "
        "Go to the checkout of llm-backend, or set LLM_BACKEND_ROOT to its path."
    )


def test_an_installed_package_brings_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site" / "llm_backend"
    monkeypatch.setattr("llm_backend.config.root.__file__", str(package / "config" / "root.py"))
    shipped = write(tmp_path / "shipped")
    monkeypatch.setattr("llm_backend.config.root._SHIPPED", shipped)

    assert find_root({}, tmp_path) == shipped
