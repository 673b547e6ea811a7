"""An answer as it comes, and what is shown until it does."""

from __future__ import annotations

import asyncio
import sys

import pytest

from llm_backend.cli.asking import Answer, Waiting, ask, for_output
from llm_backend.cli.terminal import Terminal
from llm_backend.client import LLMClient
from llm_backend.errors import ConnectionFailed
from tests.unit.cli.stand_in import StandIn, streamed

CHAT = ("POST", "/v1/chat/completions")


def asked(gateway: StandIn, answer: Answer, **params: object) -> list[str]:
    told: list[str] = []
    client = LLMClient(gateway.url)
    asyncio.run(ask(client, "Hi", answer, told.append, told.append, **params))
    return told


def test_an_answer_grows_piece_by_piece(gateway: StandIn) -> None:
    gateway.answers[CHAT] = (200, streamed("Fo", "ur", wait="loading tiny"))
    answer = Answer()

    assert asked(gateway, answer, model="t") == ["loading tiny", "Fo", "ur"]
    assert (answer.text, answer.model, answer.finish_reason) == ("Four", "tiny", "stop")
    assert answer.usage == {"prompt_tokens": 3, "completion_tokens": 2}
    assert answer.completion.text == "Four"
    answer.restart()
    assert answer == Answer(model="tiny")


def test_of_a_stream_that_breaks_what_came_is_kept(gateway: StandIn) -> None:
    gateway.answers[CHAT] = (200, streamed("Fo", "ur").removesuffix(b"data: [DONE]\n\n"))
    answer = Answer()

    with pytest.raises(ConnectionFailed, match="ended without"):
        asked(gateway, answer)
    assert answer.text == "Four"


def test_what_a_model_writes_is_no_command_to_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "\x1b]0;title\x07a\x1b[31mb\x9bc\r\nd\te"
    assert for_output(text) == text
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)

    assert for_output(text) == "]0;titlea[31mbc\nd\te"


def test_waiting_is_shown_until_it_is_over(capsys: pytest.CaptureFixture[str]) -> None:
    with Waiting(Terminal(), "tiny") as waiting:
        waiting.over()
        waiting.say("one")
        waiting.say("one")
        waiting.over()
        waiting.say("two")

    assert capsys.readouterr().err == "tiny: one\ntiny: two\n"
