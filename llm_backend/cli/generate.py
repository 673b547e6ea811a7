"""`llm-backend generate`: one question, its answer on standard output."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from llm_backend.cli.asking import Answer, Waiting, ask, for_output
from llm_backend.cli.door import Door, door
from llm_backend.cli.options import AsJson, AskedModel, MaxTokens, System, Temperature
from llm_backend.cli.project import open_project
from llm_backend.cli.terminal import Terminal, json_text
from llm_backend.client import ChatCompletion, structured
from llm_backend.client.images import image_message
from llm_backend.client.schema import Shape, shape_of
from llm_backend.errors import InvalidJSON, InvalidRequest
from llm_backend.wire import JSONObject, decode_object

STDIN = "-"


def generate(  # noqa: PLR0913, PLR0917  # an argument for each option
    prompt: Annotated[
        str | None,
        typer.Argument(metavar="TEXT", help="What to ask; - or nothing reads standard input."),
    ] = None,
    model: AskedModel = None,
    stream: Annotated[
        bool, typer.Option("--stream", help="Print the answer as it is written.")
    ] = False,
    image: Annotated[
        list[str] | None,
        typer.Option(metavar="PATH|URL", help="A picture to ask about; may be given again."),
    ] = None,
    schema: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A JSON schema; the answer is JSON that follows it."),
    ] = None,
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
    system: System = None,
    as_json: AsJson = False,
) -> None:
    """Ask a model one question.

    Only the answer goes to standard output. Where no gateway runs, one is started with the
    model's engine for this question, and ended after it.
    """
    if stream and schema is not None:
        raise typer.BadParameter("--stream and --schema: an answer is checked as a whole.")
    terminal = Terminal(as_json=as_json)
    given = {"model": model, "max_tokens": max_tokens, "temperature": temperature}
    # Made first: what is wrong with it starts no engine.
    request = Request(
        messages=_messages(_text(prompt), system, image or ()),
        params={name: value for name, value in given.items() if value is not None},
        shape=None if schema is None else shape_of(_schema(schema)),
    )
    with door(terminal, open_project(), model) as way:
        answer, value = _ask(terminal, way, request, stream=stream and not as_json)
    _show(terminal, answer, value, shown=stream)


@dataclass(frozen=True, slots=True)
class Request:
    """One question.

    Attributes:
        messages: As the API has them.
        params: Other fields of the request.
        shape: What the answer is to look like; None for a text.
    """

    messages: list[JSONObject]
    params: JSONObject
    shape: Shape[Any] | None


def _text(prompt: str | None) -> str:
    if prompt is None and sys.stdin.isatty():
        prompt = ""
    if prompt is not None and prompt != STDIN:
        if not prompt.strip():
            raise typer.BadParameter("nothing is asked; type a text, or pipe one in.")
        return prompt
    text = sys.stdin.read()
    if not text.strip():
        raise InvalidRequest(
            "Standard input is empty: nothing is asked.",
            hint='An example: llm-backend generate "Name a prime."',
        )
    return text


def _messages(text: str, system: str | None, images: Sequence[str]) -> list[JSONObject]:
    told = [{"role": "system", "content": system}] if system else []
    question = image_message(text, images) if images else {"role": "user", "content": text}
    return [*told, question]


def _schema(path: Path) -> JSONObject:
    try:
        return decode_object(path.read_bytes())
    except OSError as error:
        raise InvalidRequest(f"The schema {path} cannot be read: {error.strerror}.") from None
    except InvalidJSON as error:
        raise InvalidRequest(f"The schema {path} is no JSON object: {error.message}") from None


def _ask(terminal: Terminal, way: Door, request: Request, *, stream: bool) -> tuple[Answer, Any]:
    """Return the answer, and the value that it stands for where it is to have a shape."""
    answer = Answer()
    with Waiting(terminal, str(request.params.get("model", "gateway"))) as waiting:

        def show(piece: str) -> None:
            if stream:
                waiting.over()
                print(for_output(piece), end="", flush=True)

        try:
            value = asyncio.run(_answered(way, request, answer, show, waiting.say))
        finally:
            if stream and answer.text:
                print(flush=True)
    return answer, value


async def _answered(
    way: Door,
    request: Request,
    answer: Answer,
    on_text: Callable[[str], None],
    on_wait: Callable[[str], None],
) -> Any:
    client = way.client()

    async def chat(messages: list[JSONObject], fields: JSONObject) -> ChatCompletion:
        answer.restart()
        await ask(client, messages, answer, on_text, on_wait, **fields)
        return answer.completion

    if request.shape is None:
        return await chat(request.messages, request.params)
    params = {"temperature": 0, **request.params}
    return await structured.ask(chat, request.messages, request.shape, params)


def _show(terminal: Terminal, answer: Answer, value: Any, *, shown: bool) -> None:
    typed = not isinstance(value, ChatCompletion)
    if terminal.as_json:
        terminal.result(_as_json_object(answer) | ({"value": value} if typed else {}))
    elif typed:
        print(json_text(value))
    elif not shown:
        print(for_output(answer.text))
    for line in _notes(answer):
        terminal.note(line)


def _as_json_object(answer: Answer) -> JSONObject:
    about = {"text": answer.text, "model": answer.model}
    return {**about, "finish_reason": answer.finish_reason, "usage": answer.usage}


def _notes(answer: Answer) -> Iterator[str]:
    if answer.finish_reason == "length":
        yield "The answer was cut off. For a longer one: --max-tokens"
    if not answer.text:
        yield f"{answer.model} answered nothing."
