"""`generate`: what is asked, what is printed, and every refusal, with a gateway that runs."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.cli.conftest import Command
from tests.unit.cli.stand_in import KEY, StandIn, streamed

CHAT = ("POST", "/v1/chat/completions")
GIF = b"GIF89a\x01\x00\x01\x00"
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}

pytestmark = pytest.mark.feature("generate at the terminal")


class Piped(io.StringIO):
    """Standard input; at a terminal where there is somebody."""

    def __init__(self, text: str, *, somebody: bool = False) -> None:
        super().__init__(text)
        self.isatty = lambda: somebody  # type: ignore[method-assign]  # a program sees nothing else


@pytest.fixture(autouse=True)
def _answer(gateway: StandIn) -> None:
    gateway.answers[CHAT] = (200, streamed("Fo", "ur."))


def body_of(gateway: StandIn, number: int = -1) -> Any:
    return gateway.received[number].body


def test_only_the_answer_goes_to_standard_output(command: Command, gateway: StandIn) -> None:
    result = command("generate", "What is two and two?")

    assert (result.code, result.out, result.err) == (0, "Four.\n", "")
    assert gateway.received[-1].key == KEY
    assert body_of(gateway) == {
        "messages": [{"role": "user", "content": "What is two and two?"}],
        "stream_options": {"include_usage": True},
        "stream": True,
    }


def test_every_option_is_in_the_request(command: Command, gateway: StandIn) -> None:
    options = ("--model", "t", "--max-tokens", "5", "--temperature", "0.5", "--system", "Be brief.")
    result = command("generate", "Hi", "--stream", *options)

    assert (result.code, result.out) == (0, "Four.\n")
    assert body_of(gateway).items() >= {"model": "t", "max_tokens": 5, "temperature": 0.5}.items()
    assert body_of(gateway)["messages"][0] == {"role": "system", "content": "Be brief."}


def test_pictures_go_inline_and_urls_as_they_are(
    command: Command, gateway: StandIn, tmp_path: Path
) -> None:
    (tmp_path / "cat").write_bytes(GIF)
    pictures = ("--image", str(tmp_path / "cat"), "--image", "https://example.org/dog.png")
    result = command("generate", "What is it?", *pictures)

    assert result.code == 0
    text, cat, dog = body_of(gateway)["messages"][0]["content"]
    assert text == {"type": "text", "text": "What is it?"}
    assert cat["image_url"]["url"].startswith("data:image/gif;base64,")
    assert dog["image_url"]["url"] == "https://example.org/dog.png"


def test_data_commands_no_terminal_either(
    command: Command, gateway: StandIn, tmp_path: Path
) -> None:
    (tmp_path / "schema.json").write_text(json.dumps(SCHEMA))
    gateway.answers[CHAT] = (200, streamed('{"city": "\x9b31mParis"}'))
    result = command("generate", "Where?", "--schema", str(tmp_path / "schema.json"))

    assert result.code == 0, result.err
    assert result.out == '{\n  "city": "\\u009b31mParis"\n}\n'


def test_programs_get_one_object(command: Command) -> None:
    result = command("generate", "Hi", "--json", "--stream")

    assert result.json == {
        "text": "Four.",
        "model": "tiny",
        "finish_reason": "stop",
        "usage": {"prompt_tokens": 3, "completion_tokens": 2},
    }


@pytest.mark.parametrize("argument", [(), ("-",)])
def test_what_is_piped_in_is_asked(
    command: Command, gateway: StandIn, monkeypatch: pytest.MonkeyPatch, argument: tuple[str, ...]
) -> None:
    monkeypatch.setattr("sys.stdin", Piped("A long\nletter\n"))

    assert command("generate", *argument).code == 0
    assert body_of(gateway)["messages"][0]["content"] == "A long\nletter\n"


def test_nothing_to_ask_asks_nothing(
    command: Command, gateway: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", Piped(" \n"))
    empty = command("generate")
    monkeypatch.setattr("sys.stdin", Piped("", somebody=True))
    silent, blank = command("generate"), command("generate", " ")

    assert (empty.code, silent.code, blank.code) == (1, 2, 2)
    assert empty.err.startswith("Error: Standard input is empty: nothing is asked.\nAn example: ")
    for refused in (silent, blank):
        assert "nothing is asked; type a text, or pipe one in." in refused.err
    assert not gateway.received


@pytest.mark.feature("structured output")
def test_with_a_schema_the_answer_is_checked_and_mended_once(
    command: Command, gateway: StandIn, tmp_path: Path
) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text(json.dumps(SCHEMA))
    gateway.answers[CHAT] = (200, streamed('{"city": ', '"Köln"}'))
    good = command("generate", "Where?", "--schema", str(schema))
    asked = body_of(gateway)
    gateway.answers[CHAT] = (200, streamed('{"town": "Köln"}'))
    before = len(gateway.received)
    bad = command("generate", "Where?", "--schema", str(schema))

    assert (good.code, json.loads(good.out)) == (0, {"city": "Köln"})
    assert "Köln" in good.out
    assert asked["response_format"]["json_schema"]["schema"] == SCHEMA
    assert asked["temperature"] == 0
    assert bad.code == 1
    assert "Error: The answer does not match the schema: " in bad.err
    assert len(gateway.received) - before == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--image", "absent.png"), "Error: The image 'absent.png' cannot be read: "),
        (("--schema", "absent.json"), "Error: The schema absent.json cannot be read: "),
        (("--schema", "config/models.yaml"), "Error: The schema config/models.yaml is no JSON"),
    ],
)
def test_what_cannot_be_asked_never_reaches_the_gateway(
    command: Command, gateway: StandIn, arguments: tuple[str, ...], message: str
) -> None:
    result = command("generate", "Hi", *arguments)

    assert result.code == 1
    assert message in result.err
    assert not gateway.received


def test_an_answer_with_a_schema_does_not_stream(command: Command) -> None:
    assert command("generate", "Hi", "--schema", "x.json", "--stream").code == 2


def test_an_answer_that_was_cut_off_says_so(command: Command, gateway: StandIn) -> None:
    gateway.answers[CHAT] = (200, streamed("One", reason="length"))
    result = command("generate", "Count.", "--max-tokens", "1")
    gateway.answers[CHAT] = (200, streamed())
    silent = command("generate", "Count.")

    assert (result.code, result.out) == (0, "One\n")
    assert result.err == "The answer was cut off. For a longer one: --max-tokens\n"
    assert silent.err == "tiny answered nothing.\n"


def test_what_a_request_waits_for_goes_to_standard_error(
    command: Command, gateway: StandIn
) -> None:
    gateway.answers[CHAT] = (200, streamed("Hi", wait="loading tiny, about 12 s left"))
    result = command("generate", "Hi", "--model", "tiny", "--stream")

    assert (result.out, result.err) == ("Hi\n", "tiny: loading tiny, about 12 s left\n")


def test_a_refusal_is_told_in_the_gateways_words(command: Command, gateway: StandIn) -> None:
    gateway.refuse(*CHAT, 404, "model_not_found", "The model 'x' does not exist.")
    result = command("generate", "Hi", "--model", "x")

    assert (result.code, result.out) == (1, "")
    assert result.err == "Error: The model 'x' does not exist.\n"


def test_the_gateway_may_be_elsewhere(
    command: Command, gateway: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLM_BASE_URL", "http://127.0.0.1:1")
    lost = command("generate", "Hi")
    monkeypatch.setenv("LLM_BASE_URL", gateway.url)
    monkeypatch.setenv("LLM_API_KEY", "llmb-mine")
    found = command("generate", "Hi")

    assert lost.code == 69
    assert lost.err.startswith("Error: Nothing answers at http://127.0.0.1:1: ")
    assert found.code == 0
    assert gateway.received[-1].key == "llmb-mine"
