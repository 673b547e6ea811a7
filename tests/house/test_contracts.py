"""The import contracts hold, and each kind of violation is caught by the one that is meant to."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.house.project import Project

LINT = Path(sys.executable).with_name("lint-imports")


@pytest.fixture
def copy(project: Project, tmp_path: Path) -> Path:
    """Return a copy of the package and its contracts that a test may break."""
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(project.root / "llm_backend", tmp_path / "llm_backend", ignore=ignore)
    shutil.copy(project.root / "pyproject.toml", tmp_path)
    return tmp_path


def lint(tree: Path) -> subprocess.CompletedProcess[str]:
    command = [str(LINT), "--no-cache", "--no-logo"]
    return subprocess.run(
        command, cwd=tree, capture_output=True, text=True, timeout=60, check=False
    )


def broken(tree: Path) -> list[str]:
    """Return the names of the contracts that this tree breaks."""
    result = lint(tree)
    assert result.returncode == 1, result.stdout + result.stderr
    return re.findall(r"^(.+) BROKEN(?: \(.*\))?$", result.stdout, re.MULTILINE)


def plant(tree: Path, module: str, line: str) -> None:
    file = tree / "llm_backend" / module
    with file.open("a", encoding="utf-8") as out:
        out.write(f"\n{line}\n")


def test_the_tree_keeps_every_contract(copy: Path) -> None:
    result = lint(copy)

    assert result.returncode == 0, result.stdout


def test_a_clock_in_the_scheduler_is_caught(copy: Path) -> None:
    plant(copy, "switching/scheduler.py", "import time")

    assert "The scheduler does no I/O, reads no clock and starts no task" in broken(copy)


def test_a_stage_that_knows_another_stage_is_caught(copy: Path) -> None:
    plant(copy, "gateway/auth.py", "from llm_backend.gateway import guard")

    assert "Only pipeline.py composes the stages; a stage knows no other stage" in broken(copy)


def test_a_concrete_driver_outside_the_composition_root_is_caught(copy: Path) -> None:
    plant(copy, "switching/switcher.py", "from llm_backend.runtimes import process")

    assert "Only core.py (and tests) name a concrete driver" in broken(copy)


def test_a_client_that_reads_the_settings_is_caught(copy: Path) -> None:
    plant(copy, "client/__init__.py", "from llm_backend.config import settings")

    assert "The client package can be lifted out whole" in broken(copy)


@pytest.mark.parametrize("module", ["utils.py", "gateway/helpers.py", "switching/misc.py"])
def test_a_module_that_no_layer_lists_is_caught(copy: Path, module: str) -> None:
    plant(copy, module, '"""A drawer for odds and ends."""')

    result = lint(copy)

    assert result.returncode != 0
    assert Path(module).stem in result.stdout
