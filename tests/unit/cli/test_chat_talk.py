"""A chat at a terminal: Ctrl-C ends what is being done, not the chat."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from llm_backend.cli import chat_talk as module
from llm_backend.cli.chat_talk import Chat
from llm_backend.cli.conversation import Conversation
from llm_backend.cli.door import Door
from llm_backend.cli.project import Project
from llm_backend.cli.terminal import Terminal
from tests.unit.cli.stand_in import StandIn, streamed

pytestmark = pytest.mark.feature("chat at the terminal")


class Person(Terminal):
    """A terminal with somebody at it."""

    interactive = True


class Script:
    """What somebody types: texts, and interruptions."""

    def __init__(self, *typed: str | type[BaseException]) -> None:
        self._typed: Iterator[str | type[BaseException]] = iter(typed)

    def read(self) -> str:
        what = next(self._typed, EOFError)
        if isinstance(what, str):
            return what
        raise what


@pytest.fixture
def talk(project: Project, gateway: StandIn, monkeypatch: pytest.MonkeyPatch) -> Chat:
    gateway.answers["POST", "/v1/chat/completions"] = (200, streamed("Four."))
    gateway.answers["GET", "/v1/models"] = (200, {"data": [{"id": "tiny"}, {"id": "other"}]})
    monkeypatch.setattr(module, "TypedLines", lambda *_: Script())
    return Chat(Person(), Door(project), None, Conversation())


def test_ctrl_c_at_the_prompt_goes_on(talk: Chat, capsys: pytest.CaptureFixture[str]) -> None:
    talk._lines = Script(KeyboardInterrupt, "Two and two?")

    assert talk.run() == 0
    out, err = capsys.readouterr()
    assert "Four." in out
    assert "Stopped. To end the chat: exit, or Ctrl-D.\n" in err
    assert [turn.text for turn in talk.conversation.turns] == ["Two and two?", "Four."]


def test_the_models_of_the_gateway_can_be_completed(talk: Chat) -> None:
    talk.run()

    assert talk._models == ["tiny", "other"]


def test_models_that_nobody_tells_are_none(talk: Chat, gateway: StandIn) -> None:
    gateway.refuse("GET", "/v1/models", 500, "internal_error", "No.")

    assert talk.models() == []
