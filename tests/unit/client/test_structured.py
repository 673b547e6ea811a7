"""Structured answers: asked for as engines want it, mended once, given more room once."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import pytest
from pydantic import BaseModel, Field

from llm_backend import InvalidRequest, LLMClient, PromptTooLong, StructuredOutputInvalid

from .server import Reply, Server, completion, refusal, reply

pytestmark = [pytest.mark.anyio, pytest.mark.feature("structured output")]

CHAT = "POST /v1/chat/completions"


class Visit(BaseModel):
    """What a patient writes."""

    name: str
    symptoms: list[str] = Field(min_length=1)
    phone: str | None
    date: dt.date | None
    urgent: bool = False


GOOD = {"name": "Анна Ёлкина", "symptoms": ["кашель"], "phone": None, "date": "2026-12-01"}


def said(text: object, finish: str = "stop") -> Reply:
    """Answer a chat with a text, or with JSON."""
    answer = completion(text if isinstance(text, str) else json.dumps(text, ensure_ascii=False))
    answer["choices"][0]["finish_reason"] = finish
    return reply(answer)


def asked(server: Server) -> list[dict[str, Any]]:
    return [seen.json() for seen in server.seen]


async def test_a_model_class_gives_its_instance(server: Server, client: LLMClient) -> None:
    server.script(CHAT, said(GOOD))

    visit = await client.generate_structured("Здравствуйте!", "tiny", schema=Visit)

    assert visit == Visit(
        name="Анна Ёлкина", symptoms=["кашель"], phone=None, date=dt.date(2026, 12, 1)
    )
    (body,) = asked(server)
    assert body["temperature"] == 0
    assert body["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "Visit", "schema": Visit.model_json_schema()},
    }
    (message,) = body["messages"]
    assert message["content"].startswith("Answer with JSON that matches")
    assert message["content"].endswith("Здравствуйте!")
    assert '"symptoms"' in message["content"]


async def test_letters_that_are_escaped_are_read(server: Server, client: LLMClient) -> None:
    server.script(CHAT, said(json.dumps({**GOOD, "name": "Ёж 🦔"})))
    assert (await client.generate_structured("?", schema=Visit)).name == "Ёж 🦔"


async def test_missing_fields_that_may_be_null_are_null(server: Server, client: LLMClient) -> None:
    server.script(CHAT, said({"name": "Анна", "symptoms": ["кашель"]}))

    visit = await client.generate_structured("?", schema=Visit)

    assert (visit.phone, visit.date, visit.urgent) == (None, None, False)
    assert len(server.seen) == 1


async def test_a_schema_gives_what_the_json_says(server: Server, client: LLMClient) -> None:
    schema = {
        "title": "A list, of words!",
        "type": "object",
        "properties": {"words": {"type": "array", "items": {"type": "string"}}, "n": {}},
        "required": ["words"],
    }
    server.script(CHAT, said({"words": ["да"]}))

    assert await client.generate_structured("?", schema=schema) == {"words": ["да"], "n": None}
    assert asked(server)[0]["response_format"]["json_schema"]["name"] == "A_list__of_words_"


async def test_without_a_schema_it_is_any_object(server: Server, client: LLMClient) -> None:
    server.script(CHAT, said({"any": [1]}))

    assert await client.generate_structured("?", temperature=0.3) == {"any": [1]}
    (body,) = asked(server)
    assert body["response_format"] == {"type": "json_object"}
    assert body["temperature"] == 0.3
    assert "one JSON object" in body["messages"][0]["content"]


@pytest.mark.parametrize(
    ("broken", "problem"),
    [
        ('{"name": "Анна", "symptoms": [', "not valid JSON"),
        ('{"name": "Анна", "symptoms": []}', "symptoms: List should have at least 1 item"),
        ('{"symptoms": ["кашель"]}', "name: Field required"),
        ("", "The answer is empty."),
        ("Sorry, I cannot.", "not valid JSON"),
    ],
)
async def test_a_wrong_answer_is_sent_back_once_with_what_is_wrong(
    server: Server, client: LLMClient, broken: str, problem: str
) -> None:
    server.script(CHAT, said(broken), said(GOOD))

    visit = await client.generate_structured("Пишет Анна", schema=Visit, seed=1)

    assert visit.name == "Анна Ёлкина"
    first, second = asked(server)
    assert second["seed"] == 1
    assert second["messages"][: len(first["messages"])] == first["messages"]
    answer, objection = second["messages"][len(first["messages"]) :]
    assert answer == {"role": "assistant", "content": broken}
    assert objection["role"] == "user"
    assert problem in objection["content"]


async def test_an_answer_that_stays_wrong_raises_what_is_wrong(
    server: Server, client: LLMClient
) -> None:
    server.script(CHAT, said("Nein."), said({"name": 5, "symptoms": ["x"]}))

    with pytest.raises(StructuredOutputInvalid) as raised:
        await client.generate_structured("?", schema=Visit)

    assert "name: Input should be a valid string" in str(raised.value)
    assert raised.value.answer == '{"name": 5, "symptoms": ["x"]}'
    assert "not valid JSON" in raised.value.__notes__[0]
    assert len(server.seen) == 2


async def test_a_cut_answer_is_asked_for_with_more_room(server: Server, client: LLMClient) -> None:
    server.script(CHAT, said('{"name": "Ан', "length"), said(GOOD))

    visit = await client.generate_structured("?", schema=Visit, max_tokens=10)

    assert visit.name == "Анна Ёлкина"
    assert [body["max_tokens"] for body in asked(server)] == [10, 40]
    assert asked(server)[0]["messages"] == asked(server)[1]["messages"]


async def test_more_room_is_kept_for_the_mending(server: Server, client: LLMClient) -> None:
    server.script(CHAT, said("{", "length"), said("no"), said(GOOD))

    await client.generate_structured("?", schema=Visit, max_completion_tokens=10)

    assert [body["max_completion_tokens"] for body in asked(server)] == [10, 40, 40]


async def test_an_answer_that_never_ends_is_an_error(server: Server, client: LLMClient) -> None:
    server.script(CHAT, said('{"name": "Я', "length"), said('{"name": "ЯЯЯЯЯ', "length"))

    with pytest.raises(StructuredOutputInvalid) as raised:
        await client.generate_structured("?", schema=Visit, max_tokens=10)

    assert "cut off after 15 characters by max_tokens 40" in str(raised.value)
    assert "maxLength" in str(raised.value)
    assert raised.value.answer == '{"name": "ЯЯЯЯЯ'


async def test_where_nothing_was_limited_there_is_no_more_room(
    server: Server, client: LLMClient
) -> None:
    server.script(CHAT, said("{", "length"))
    with pytest.raises(StructuredOutputInvalid, match="by the context of the model"):
        await client.generate_structured("?", schema=Visit)
    assert len(server.seen) == 1


async def test_room_that_the_model_has_not_is_the_same_error(
    server: Server, client: LLMClient
) -> None:
    server.script(CHAT, said("{", "length"), refusal(400, "context_length_exceeded"))

    with pytest.raises(StructuredOutputInvalid, match="cut off") as raised:
        await client.generate_structured("?", schema=Visit, max_tokens=10)

    assert isinstance(raised.value.__cause__, PromptTooLong)


@pytest.mark.parametrize("schema", [5, int, Visit(**GOOD), {"type": "text"}])
async def test_what_is_no_schema_is_refused_before_anything_is_asked(
    server: Server, client: LLMClient, schema: Any
) -> None:
    with pytest.raises(InvalidRequest) as raised:
        await client.generate_structured("?", schema=schema)
    assert raised.value.param == "schema"
    assert server.seen == []


@pytest.mark.parametrize(
    ("messages", "place"),
    [
        ([{"role": "user", "content": "A"}, {"role": "assistant", "content": "B"}], 0),
        ([{"role": "user", "content": [{"type": "text", "text": "A"}]}], 0),
        ([{"role": "system", "content": "S"}], 1),
    ],
)
async def test_the_instruction_heads_the_last_words_of_the_user(
    server: Server, client: LLMClient, messages: list[dict[str, Any]], place: int
) -> None:
    server.script(CHAT, said({}))

    await client.generate_structured(messages)

    told = asked(server)[0]["messages"][place]
    assert told["role"] == "user"
    assert "one JSON object" in json.dumps(told["content"])
    assert [m["role"] for m in messages] == [m["role"] for m in asked(server)[0]["messages"]][
        : len(messages)
    ]
