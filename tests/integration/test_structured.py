"""Structured output through a real gateway: 50 Russian letters, and engines that write it wrong.

The letters go to a real engine, llama.cpp with SmolLM2-135M. Whether what it finds in them is
right is not measured here: a model of this size understands no Russian. That all of it has its
shape and its types is.
"""

from __future__ import annotations

import datetime as dt
import itertools
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
import yaml
from pydantic import BaseModel, Field, WithJsonSchema

from llm_backend import LLMClient, LLMClientSync, StructuredOutputInvalid
from llm_backend.client import DoneEvent, ToolCallEvent
from tests.harness import REPOSITORY, GatewayHome
from tests.integration import drafting_engine
from tests.integration.gateways import at_rest, key_of, key_setting, shared_gateway

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.engine,
    pytest.mark.feature("structured output"),
]

WIDE, DRAFTER = "smollm2-wide", "drafter"
LETTERS = 50


HOUR = {"type": "string", "pattern": "^([01][0-9]|2[0-3]):[0-5][0-9]$"}


class Slots(BaseModel):
    # A description would be told to the model fifty times.
    name: str = Field(max_length=12)
    symptoms: str = Field(max_length=8)
    phone: str | None = Field(pattern=r"^\+7[0-9]{10}$")
    date: dt.date | None
    time: Annotated[dt.time, WithJsonSchema(HOUR)] | None


class Draft(BaseModel):
    """What the drafting engine writes when it is right."""

    name: str
    symptoms: str
    phone: str | None


def letters() -> list[str]:
    names = ("Анна Ёлкина", "Пётр Щукин", "Юлия Цой", "Игорь Жуков", "Эльвира Хан")
    symptoms = ("кашель и жар", "болит горло", "ломит спину", "сыпь на руке", "кружится голова")
    parts = itertools.product(names, symptoms, ("в среду", "завтра"))
    return [
        f"{name}: {symptom}, хочу на приём {day} в {9 + n % 9}:30. Тел. +7912{1000000 + n}"
        for n, (name, symptom, day) in enumerate(parts)
    ]


def smollm2(_: Path) -> dict[str, Any]:
    """The entry of the repository's catalog, with less memory for its context."""
    catalog = yaml.safe_load((REPOSITORY / "config/models.yaml").read_text())
    found: dict[str, Any] = catalog["models"][WIDE]
    found["engine"]["context"] = found["max_model_len"] = 1024
    # Two threads wait for each other at every layer: on a busy machine that takes ten times as long.
    found["engine"]["threads"] = 1
    return found


def drafter(_: Path) -> dict[str, Any]:
    return {
        "runtimes": ["process"],
        "engine": {
            "kind": "command",
            "argv": [sys.executable, drafting_engine.__file__, "{port}"],
        },
        "capabilities": ["chat", "tools"],
        "devices": ["cpu"],
        "timeouts": {"start_s": 30, "stop_s": 5},
    }


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayHome]:
    models = {WIDE: smollm2, DRAFTER: drafter}
    keys = [key_setting("alice", "infer")]
    # A machine that is busy with other tests makes an engine slow, which is not hung.
    patience = {"stall_s": 60, "probe_s": 120}
    with shared_gateway(tmp_path_factory, models, keys=keys, switching=patience) as home:
        yield home


@pytest.fixture
async def client(home: GatewayHome) -> AsyncIterator[LLMClient]:
    async with LLMClient(home.url, key_of("alice"), max_retries=0) as client:
        yield client
    at_rest(home)


@pytest.mark.slow
@pytest.mark.feature("batch helper")
async def test_50_of_50_letters_give_typed_slots(client: LLMClient) -> None:
    asked, told = letters(), list[int]()
    assert len(set(asked)) == LETTERS

    outcomes = await client.batch(
        asked,
        WIDE,
        schema=Slots,
        concurrency=4,
        low_priority=True,
        on_progress=lambda done, _: told.append(done),
        max_tokens=200,
    )

    slots = [outcome.get() for outcome in outcomes]
    assert len(slots) == LETTERS
    assert all(type(found) is Slots for found in slots)
    for found in slots:  # a model class checks once; that it says so again is the proof
        assert Slots.model_validate_json(found.model_dump_json()) == found
        assert isinstance(found.date, dt.date | None)
        assert isinstance(found.time, dt.time | None)
    assert told == list(range(1, LETTERS + 1))


async def test_a_json_schema_of_a_real_engine(client: LLMClient) -> None:
    schema = {
        "type": "object",
        "properties": {
            "city": {"enum": ["Псков", "Орёл"]},
            "note": {"type": "string", "maxLength": 8},
        },
        "required": ["city"],
        "additionalProperties": False,
    }
    answer = await client.generate_structured("Живу в Пскове", WIDE, schema=schema, max_tokens=200)
    assert answer["city"] in {"Псков", "Орёл"}
    assert "note" in answer


async def test_without_a_schema_it_is_any_object(client: LLMClient) -> None:
    assert await client.generate_structured("broken", DRAFTER) == drafting_engine.GOOD


async def test_a_real_engine_that_is_cut_off_says_so(client: LLMClient) -> None:
    schema = {"type": "string", "minLength": 40, "maxLength": 60}
    with pytest.raises(StructuredOutputInvalid, match=r"cut off after .* by max_tokens 8"):
        await client.generate_structured("Tell me a story.", WIDE, schema=schema, max_tokens=2)


@pytest.mark.parametrize("word", ["fine", "broken", "wrong", "long"])
async def test_what_goes_wrong_once_is_mended(client: LLMClient, word: str) -> None:
    draft = await client.generate_structured(word, DRAFTER, schema=Draft, max_tokens=16)
    assert draft == Draft(name="Анна Ёлкина", symptoms="кашель 🤧", phone=None)


async def test_what_stays_wrong_is_an_error_with_the_answer(client: LLMClient) -> None:
    with pytest.raises(StructuredOutputInvalid, match="not valid JSON") as raised:
        await client.generate_structured("hopeless", DRAFTER, schema=Draft)
    assert raised.value.answer.startswith('{"name"')


@pytest.mark.feature("tool calls")
async def test_tool_calls_whole_and_streamed(client: LLMClient) -> None:
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {}}}]
    answer = await client.chat("tool", DRAFTER, tools=tools)
    events = [event async for event in client.events("tool", DRAFTER, tools=tools)]

    streamed = [event.call for event in events if isinstance(event, ToolCallEvent)]
    wanted = [("weather", {"city": "Псков"}), ("clock", {"zone": "Europe/Moscow"})]
    assert [(call.name, call.arguments) for call in answer.tool_calls] == wanted
    assert [(call.name, call.arguments) for call in streamed] == wanted
    done = events[-1]
    assert isinstance(done, DoneEvent)
    question = {"role": "user", "content": "tool"}
    results = [call.result("4 °C") for call in done.message.tool_calls]
    history = [question, done.message.to_dict(), *results]
    assert (await client.chat(history, DRAFTER, tools=tools)).choices[0].finish_reason == "stop"


@pytest.mark.feature("LLMClientSync")
async def test_the_blocking_client_inside_this_loop(home: GatewayHome) -> None:
    with LLMClientSync(home.url, key_of("alice"), max_retries=0) as client:
        draft = client.generate_structured("broken", DRAFTER, schema=Draft)
        streamed = "".join(chunk.text for chunk in client.stream("fine", DRAFTER))
    assert draft.name == "Анна Ёлкина"
    assert Draft.model_validate_json(streamed) == draft
