"""The command that adds packages names this environment; tests/integration/test_install.py types it."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from llm_backend.engines.installing import apt_command, install_command
from llm_backend.engines.llamacpp import DEMO_WEIGHTS

ROOT = Path(__file__).parents[3]


def test_without_pip_it_is_uv_that_adds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.delitem(sys.modules, "pip", raising=False)

    assert install_command("a", "b==1") == f"uv pip install --python {sys.prefix} a b==1"
    assert install_command("a", alone=True).endswith(" --no-deps a")


def test_with_pip_it_is_that_of_this_interpreter(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "pip").mkdir()
    (tmp_path / "pip/__init__.py").touch()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "pip", raising=False)

    assert install_command("a") == f"{sys.executable} -m pip install a"


@pytest.mark.parametrize(
    ("user", "command"),
    [(0, "apt-get install -y libgomp1"), (1000, "sudo apt-get install -y libgomp1")],
)
def test_root_needs_no_sudo(monkeypatch: pytest.MonkeyPatch, user: int, command: str) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: user)

    assert apt_command("libgomp1") == command


def test_the_weights_that_it_names_are_those_of_the_lock() -> None:
    wanted = (ROOT / "requirements/local.in").read_text()

    assert re.search(f"^{re.escape(DEMO_WEIGHTS)}$", wanted, re.MULTILINE)
