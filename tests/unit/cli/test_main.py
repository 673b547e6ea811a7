"""Errors become sentences and exit codes, at one place; a defect is told apart."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from llm_backend.cli import main
from llm_backend.errors import (
    AlreadyRunning,
    ConfigError,
    ConnectionFailed,
    DownloadError,
    EngineStartFailed,
    LLMBackendError,
    SetupError,
)
from tests.unit.cli.conftest import Command


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (SetupError("x"), 1),
        (EngineStartFailed("x"), 1),
        (ConnectionFailed("x"), 69),
        (DownloadError("x"), 69),
        (AlreadyRunning("x"), 75),
        (ConfigError("x"), 78),
    ],
)
def test_each_error_has_its_exit_code(error: LLMBackendError, code: int) -> None:
    assert main.exit_code(error) == code
    assert code in main.EXIT_CODES


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["strt"], "No such command 'strt'. Did you mean 'start'"),
        (["start", "--modle", "x"], "No such option: --modle"),
        (["start", "--setup", "k8s"], "'k8s' is not one of 'local', 'compose'"),
        (["logs", "-n", "many"], "Invalid value for '--lines' / '-n'"),
        (["stop", "--patience", "-1"], "Invalid value for '--patience'"),
        (["cache"], "clear"),
    ],
)
def test_wrong_use_is_explained(command: Command, arguments: list[str], text: str) -> None:
    result = command(*arguments)

    assert result.code == 2
    assert text in result.err


def test_the_version_is_printed(command: Command) -> None:
    assert re.fullmatch(r"llm-backend \d+\.\d+\.\d+\n", command("--version").out)


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Break a command as a defect would, and return where its log goes."""

    def broken_project() -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("llm_backend.cli.models.open_project", broken_project)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def test_a_defect_is_a_short_message_and_a_log(command: Command, broken: Path) -> None:
    result = command("models")

    (log,) = broken.glob("llm-backend-defect-*.log")
    assert result.code == 70
    assert result.err == (
        "Error: A defect of llm-backend: ZeroDivisionError: division by zero\n"
        f"Its log: {log}. To see it at once, put --debug before the command. Please report it.\n"
    )
    assert "Traceback" in log.read_text()


def test_debug_shows_the_traceback(command: Command, broken: Path) -> None:
    result = command("--debug", "models")

    assert result.code == 70
    assert result.err.startswith("Traceback (most recent call last):\n")


def test_with_json_a_defect_is_json_too(command: Command, broken: Path) -> None:
    result = command("models", "--json")

    assert result.json["error"]["message"].startswith("A defect of llm-backend: ZeroDivision")


def test_an_interrupted_command_ends_with_130(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("llm_backend.cli.models.open_project", interrupted)

    assert command("models").code == 130
