"""docs/reference/cli.md says what the command line does."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm_backend.cli.main import build_app
from llm_backend.cli.reference import render
from tests.unit.cli.conftest import Command

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "cli.md"


def test_the_page_is_what_the_program_says() -> None:
    assert PAGE.read_text() == render(), (
        "write it anew: python -m llm_backend.cli.reference > docs/reference/cli.md"
    )


def test_every_command_has_its_section() -> None:
    names = [c.name or c.callback.__name__ for c in build_app().registered_commands if c.callback]

    for name in (*names, "config check", "cache clear"):
        assert f"## llm-backend {name}\n" in render()


@pytest.mark.parametrize("name", ["start", "stop", "status", "switch", "logs"])
def test_help_is_the_same_at_the_prompt(
    command: Command, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("COLUMNS", "90")

    shown = command(name, "--help").out

    assert shown.splitlines()[0] in render()
