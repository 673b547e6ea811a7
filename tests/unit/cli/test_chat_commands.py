"""The commands of a chat."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from llm_backend.cli.chat_commands import COMMANDS, Ended, obey
from llm_backend.cli.conversation import Conversation
from llm_backend.cli.terminal import Terminal
from llm_backend.errors import InvalidRequest

pytestmark = pytest.mark.feature("chat at the terminal")


@dataclass
class Talk:
    """A chat that remembers what is wanted of it."""

    terminal: Terminal = field(default_factory=Terminal)
    conversation: Conversation = field(default_factory=Conversation)
    model: str | None = "tiny"
    answers: int = 0

    def answer(self) -> None:
        self.answers += 1

    def change_model(self, name: str) -> None:
        self.model = name

    def models(self) -> list[str]:
        return ["tiny", "other"]


@pytest.mark.parametrize("line", ["exit", "quit", "/exit", "/quit"])
def test_words_that_end_it(line: str) -> None:
    with pytest.raises(Ended):
        obey(Talk(), line)


@pytest.mark.parametrize("line", ["Hello", "exit now, please", "/etc/passwd, what is it?", "1/2"])
def test_everything_else_is_a_message(line: str) -> None:
    assert not obey(Talk(), line)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/models", "There is no command '/models'."),
        ("/image", "No picture is named."),
        ("/image absent.png", "The image 'absent.png' cannot be read"),
        ("/save", "No file is named."),
        ("/save no/such/folder/chat.md", "cannot be written: No such file"),
        ("/save ~nobody-here/chat.md", "cannot be written: Could not determine home"),
        ("/save chat\0.md", "cannot be written: embedded null byte"),
        ("/image ~nobody-here/cat.png", "cannot be read"),
        ("/retry", "Nothing has been asked yet."),
    ],
)
def test_a_command_that_makes_no_sense_says_why(line: str, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        obey(Talk(), line)


def test_models_are_listed_and_changed(capsys: pytest.CaptureFixture[str]) -> None:
    talk = Talk()
    assert obey(talk, "/model")
    assert capsys.readouterr().err == "* tiny\n  other\n"
    assert obey(talk, "/model  other")
    assert talk.model == "other"


def test_the_system_message_is_set_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    talk = Talk()
    for line in ("/system", "/system Be brief.", "/system"):
        assert obey(talk, line)

    assert capsys.readouterr().err == "The model is told nothing before.\nBe brief.\n"


def test_a_chat_is_saved_once(tmp_path: Path) -> None:
    talk, path = Talk(), tmp_path / "chat.md"
    talk.conversation.ask("One?")
    assert obey(talk, f"/save {path}")

    assert path.read_text() == "## You\n\nOne?\n"
    with pytest.raises(InvalidRequest, match="is there already"):
        obey(talk, f"/save {path}")


def test_to_retry_asks_and_to_clear_forgets() -> None:
    talk = Talk()
    talk.conversation.ask("One?")
    assert obey(talk, "/retry")
    assert talk.answers == 1
    assert obey(talk, "/clear")
    assert not talk.conversation.messages


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    obey(Talk(), "/help")
    shown = capsys.readouterr().err

    for name, command in COMMANDS.items():
        assert f"{name:<8} {command.__doc__}\n" in shown
