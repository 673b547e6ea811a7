"""What is typed: at a terminal with editing, out of a pipe a line at a time."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from prompt_toolkit.input import PipeInput, create_pipe_input
from prompt_toolkit.output import DummyOutput

from llm_backend.cli.chat_lines import CommandCompleter, PipedLines, TypedLines

pytestmark = pytest.mark.feature("chat at the terminal")

COMPLETER = CommandCompleter(("/model", "/save", "/system"), lambda: ["tiny", "tall", "other"])


@pytest.fixture
def keys() -> Iterator[PipeInput]:
    with create_pipe_input() as keys, create_app_session(input=keys, output=DummyOutput()):
        yield keys


def test_a_pipe_gives_a_message_a_line() -> None:
    lines = PipedLines(io.StringIO("one\ntwo \\\nthree\nlast"))

    assert [lines.read(), lines.read(), lines.read()] == ["one", "two \nthree", "last"]
    with pytest.raises(EOFError):
        lines.read()


def test_a_pipe_that_ends_in_a_backslash_ends_there() -> None:
    lines = PipedLines(io.StringIO("one\\\n"))

    assert lines.read() == "one\n"
    with pytest.raises(EOFError):
        lines.read()


def test_enter_sends_and_a_backslash_before_it_does_not(keys: PipeInput, tmp_path: Path) -> None:
    lines = TypedLines(tmp_path / "state" / "history", COMPLETER)
    keys.send_text("one\\\rtwo\r")

    assert lines.read() == "one\ntwo"
    assert (tmp_path / "state" / "history").stat().st_mode & 0o077 == 0


def test_pasted_text_keeps_its_lines(keys: PipeInput, tmp_path: Path) -> None:
    lines = TypedLines(tmp_path / "history", COMPLETER)
    keys.send_text("\x1b[200~one\ntwo\nthree\x1b[201~\r")

    assert lines.read() == "one\ntwo\nthree"


def test_the_arrow_brings_back_what_was_typed(keys: PipeInput, tmp_path: Path) -> None:
    first = TypedLines(tmp_path / "history", COMPLETER)
    keys.send_text("before\r")
    assert first.read() == "before"
    keys.send_text("\x1b[A\r")

    assert first.read() == "before"


def test_without_a_place_for_it_what_was_typed_is_remembered_as_long_as_it_runs(
    keys: PipeInput, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    lines = TypedLines(tmp_path / "file" / "history", COMPLETER)
    keys.send_text("before\r")
    assert lines.read() == "before"
    keys.send_text("\x1b[A\r")

    assert lines.read() == "before"


def test_a_history_that_cannot_be_written_ends_no_chat(keys: PipeInput, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    lines = TypedLines(tmp_path / "state" / "history", COMPLETER)
    shutil.rmtree(tmp_path / "state")
    keys.send_text("one\r")

    assert lines.read() == "one"


def test_bytes_that_are_no_text_become_question_marks(keys: PipeInput, tmp_path: Path) -> None:
    lines = TypedLines(tmp_path / "history", COMPLETER)
    keys.send_bytes(b"soir\xe9 \xff!\r")

    assert lines.read() == "soir? ?!"
    assert "+soir? ?!" in (tmp_path / "history").read_text()


@pytest.mark.parametrize(("key", "error"), [("\x04", EOFError), ("\x03", KeyboardInterrupt)])
def test_ctrl_d_and_ctrl_c_leave_the_line(
    keys: PipeInput, tmp_path: Path, key: str, error: type[BaseException]
) -> None:
    lines = TypedLines(tmp_path / "history", COMPLETER)
    keys.send_text(key)

    with pytest.raises(error):
        lines.read()


@pytest.mark.parametrize(
    ("text", "completions"),
    [
        ("/s", ["/save", "/system"]),
        ("/model t", ["tiny", "tall"]),
        ("/model ", ["tiny", "tall", "other"]),
        ("/system t", []),
        ("t", []),
        ("/model t\nt", []),
    ],
)
def test_commands_and_models_are_completed(text: str, completions: list[str]) -> None:
    found = COMPLETER.get_completions(Document(text), CompleteEvent())

    assert [completion.text for completion in found] == completions


def test_paths_are_completed(tmp_path: Path) -> None:
    (tmp_path / "chat.md").touch()
    found = COMPLETER.get_completions(Document(f"/save {tmp_path}/ch"), CompleteEvent())

    assert [completion.text for completion in found] == ["at.md"]
