"""`chat` without a terminal: a message a line, answers as they come, and it goes on."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from llm_backend.cli.project import Project
from tests.unit.cli.conftest import Command, Result
from tests.unit.cli.stand_in import StandIn, streamed, write_record

CHAT = ("POST", "/v1/chat/completions")
GIF = b"GIF89a\x01\x00\x01\x00"

pytestmark = pytest.mark.feature("chat at the terminal")


class Typist:
    """Pipes lines into the chat."""

    def __init__(self, command: Command, patch: pytest.MonkeyPatch) -> None:
        self._command = command
        self._patch = patch

    def __call__(self, *lines: str, options: tuple[str, ...] = ()) -> Result:
        self._patch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        return self._command("chat", *options)


@pytest.fixture
def chat(command: Command, gateway: StandIn, monkeypatch: pytest.MonkeyPatch) -> Typist:
    gateway.answers[CHAT] = (200, streamed("Fo", "ur."))
    return Typist(command, monkeypatch)


def asked(gateway: StandIn) -> list[Any]:
    return [x.body for x in gateway.received if x.path == "/v1/chat/completions"]


def test_what_was_said_is_part_of_the_next_question(chat: Typist, gateway: StandIn) -> None:
    result = chat("Two and two?", "Sure?", options=("--system", "Be brief.", "--max-tokens", "9"))

    assert (result.code, result.out, result.err) == (0, "Four.\nFour.\n", "")
    first, second = asked(gateway)
    assert first["max_tokens"] == 9
    assert [m["role"] for m in second["messages"]] == ["system", "user", "assistant", "user"]
    assert second["messages"][2]["content"] == "Four."


def test_it_stays_with_the_model_that_answered_first(chat: Typist, gateway: StandIn) -> None:
    chat("Hi", "Hi again")

    assert [body.get("model") for body in asked(gateway)] == [None, "tiny"]


def test_a_backslash_goes_on_in_the_next_line(chat: Typist, gateway: StandIn) -> None:
    chat("One\\", "two", "", "exit", "never asked")

    assert [body["messages"][-1]["content"] for body in asked(gateway)] == ["One\ntwo"]


def test_a_refused_request_is_explained_and_the_chat_goes_on(
    chat: Typist, gateway: StandIn, tmp_path: Path
) -> None:
    gateway.refuse(*CHAT, 400, "context_length_exceeded", "That is too long.")
    saved = tmp_path / "chat.json"
    result = chat("Long?", "/system Be brief.", "Short?", f"/save {saved}")

    assert result.code == 1
    assert result.out == ""
    assert result.err.count("Error: That is too long.\n") == 2
    assert [body["messages"][-1]["content"] for body in asked(gateway)] == ["Long?", "Short?"]
    messages = json.loads(saved.read_text())["messages"]
    assert [m["content"] for m in messages] == ["Be brief.", "Short?"]


def test_a_lost_gateway_is_explained(chat: Typist, project: Project) -> None:
    write_record(project.state_dir, url="http://127.0.0.1:1")
    result = chat("Is anybody there?")

    assert result.code == 1
    assert "Error: Nothing answers at http://127.0.0.1:1: " in result.err


def test_a_model_is_changed_by_command(chat: Typist, gateway: StandIn) -> None:
    result = chat("/model t", "Hi")

    assert result.err.endswith("tiny answers from now on.\n")
    loads = [x.body for x in gateway.received if x.path == "/api/v1/inference/load"]
    assert loads == [{"model": "tiny"}]
    assert [body["model"] for body in asked(gateway)] == ["tiny"]


def test_a_model_that_cannot_be_loaded_leaves_the_one_before(
    chat: Typist, gateway: StandIn
) -> None:
    gateway.refuse("POST", "/api/v1/inference/load", 404, "model_not_found", "There is no x.")
    result = chat("/model x", "Hi", options=("--model", "tiny"))

    assert "Error: There is no x.\n" in result.err
    assert [body["model"] for body in asked(gateway)] == ["tiny"]


def test_elsewhere_the_next_message_brings_the_model(
    chat: Typist, gateway: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLM_BASE_URL", gateway.url)
    result = chat("/model other", "Hi")

    assert result.err == "other is asked from now on.\n"
    assert [body["model"] for body in asked(gateway)] == ["other"]


def test_a_picture_goes_with_the_next_message(
    chat: Typist, gateway: StandIn, tmp_path: Path
) -> None:
    (tmp_path / "cat.gif").write_bytes(GIF)
    chat(f"/image {tmp_path / 'cat.gif'}", "What is it?", "Sure?")

    first, second = asked(gateway)
    assert [part["type"] for part in first["messages"][0]["content"]] == ["text", "image_url"]
    assert second["messages"][-1]["content"] == "Sure?"


def test_to_retry_asks_the_same_again(chat: Typist, gateway: StandIn) -> None:
    chat("Hi", "/retry")

    assert asked(gateway)[0]["messages"] == asked(gateway)[1]["messages"]


def test_an_answer_that_was_cut_off_says_so(chat: Typist, gateway: StandIn) -> None:
    gateway.answers[CHAT] = (200, streamed("One", reason="length"))

    assert chat("Count").err == "The answer was cut off: it is as long as allowed.\n"
