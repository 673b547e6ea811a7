"""What is written where, and that it can be typed as it stands."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from llm_backend.cli.terminal import Terminal, duration, mib, program_name, typeable, yes_no
from llm_backend.errors import DownloadError, EngineStartFailed

Capture = pytest.CaptureFixture[str]


def test_results_and_notes_go_apart(root: Path, capsys: Capture) -> None:
    terminal = Terminal()

    terminal.say("the result")
    terminal.note("what is being done")

    assert capsys.readouterr() == ("the result\n", "what is being done\n")


def test_with_json_nothing_but_the_object_is_on_standard_output(
    root: Path, capsys: Capture
) -> None:
    terminal = Terminal(as_json=True)

    terminal.say("for people")
    terminal.result({"name": "größe", "path": Path("/x")})

    assert json.loads(capsys.readouterr().out) == {"name": "größe", "path": "/x"}
    assert not terminal.interactive


def test_an_error_is_said_in_three_parts(root: Path, capsys: Capture) -> None:
    error = EngineStartFailed("It broke.", hint="Mend it.", log_tail=["line 1", "[red]line 2"])

    Terminal().error(error)

    assert capsys.readouterr().err == (
        "Error: It broke.\nMend it.\nLast log lines:\n  line 1\n  [red]line 2\n"
    )


def test_nothing_that_is_said_commands_a_terminal(root: Path, capsys: Capture) -> None:
    evil = "a\x1b]0;title\x07\x9b2Jb\r\tc"
    terminal = Terminal()
    terminal.error(EngineStartFailed(evil, hint=evil, log_tail=[evil]))
    terminal.say(evil)
    terminal.table(["X"], [[evil]])
    Terminal(as_json=True).result({"text": evil + "\ud800"})
    out, err = capsys.readouterr()

    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800]", out + err)
    assert json.loads(out[out.index("{") :]) == {"text": evil + "\ud800"}


def test_an_error_as_json_has_what_a_program_needs(root: Path, capsys: Capture) -> None:
    Terminal(as_json=True).error(DownloadError("It broke.", hint="Mend it."))

    assert json.loads(capsys.readouterr().out)["error"] == {
        "message": "It broke.",
        "code": "download_error",
        "hint": "Mend it.",
        "log_tail": [],
    }


def test_long_lines_are_not_folded_where_they_go_to_a_program(root: Path, capsys: Capture) -> None:
    terminal, text = Terminal(), "word " * 200

    terminal.say(text)
    terminal.table(("NAME", "TEXT"), [("a", "x" * 100), ("b", "y")])

    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == text
    assert lines[2].split() == ["a", "x" * 100]


def test_a_table_fits_a_narrow_terminal(
    root: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")

    purpose = "a purpose that takes more than forty columns"

    Terminal().table(("MODEL", "FOR"), [("tiny", purpose)])

    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 40
    assert " ".join(line[7:] for line in lines[1:]) == purpose


def test_progress_without_a_terminal_is_a_line_a_step(root: Path, capsys: Capture) -> None:
    with Terminal().progress("tiny") as report:
        report("loading")
        report("loading")
        for percent in range(0, 100, 5):
            report("weights", percent / 100, f"{percent} MiB")

    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "tiny: loading"
    assert lines[1] == "tiny: weights (0%) 0 MiB"
    assert lines[-1] == "tiny: weights (90%) 90 MiB"
    assert len(lines) == 11


@pytest.mark.parametrize(("no_color", "red"), [("1", False), ("", True)])
def test_no_color_is_respected(
    root: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, no_color: str, red: bool
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", no_color)

    Terminal().error(DownloadError("It broke."))

    assert ("31m" in capsys.readouterr().err) == red


def test_an_installed_command_is_called_by_its_name(root: Path) -> None:
    assert program_name() == "llm-backend"
    assert typeable("Type: llm-backend start") == "Type: llm-backend start"


def test_a_command_that_is_not_on_the_path_is_spelled_out(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / ".venv" / "bin").mkdir(parents=True)
    (root / ".venv" / "bin" / "llm-backend").touch()
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(sys, "executable", str(root / ".venv" / "bin" / "python"))

    assert typeable("Run `llm-backend start` now") == "Run `.venv/bin/llm-backend start` now"
    monkeypatch.chdir(root / ".venv" / "bin")
    assert program_name() == f"{root}/.venv/bin/llm-backend"


def test_without_any_script_the_module_is_run(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(sys, "executable", str(root / "python3"))

    assert typeable("llm-backend stop") == f"{root}/python3 -m llm_backend stop"


@pytest.mark.parametrize(
    "text", ["llm-backend 0.1.0", "~/.local/state/llm-backend", "the-llm-backend start"]
)
def test_what_is_no_command_stays(root: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("PATH", "/nowhere")

    assert typeable(text) == text


def test_figures_are_shown_as_people_write_them() -> None:
    assert [mib(0), mib(94), mib(1024), mib(9513)] == ["0 MiB", "94 MiB", "1.0 GiB", "9.3 GiB"]
    assert [duration(s) for s in (0.4, 99, 130, 5_999, 12_000)] == [
        "0 s",
        "99 s",
        "2 min",
        "1 h 40 min",
        "3 h 20 min",
    ]
    assert [yes_no(True), yes_no(False)] == ["yes", "no"]
