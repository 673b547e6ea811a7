"""What is read out of an answer, and what is said of one that is wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field, RootModel

from llm_backend import InvalidRequest, StructuredOutputInvalid
from llm_backend.client.schema import shape_of

pytestmark = pytest.mark.feature("structured output")


class Node(BaseModel):
    """A tree."""

    label: str
    left: Node | None
    children: list[Node] = []


DATED = {
    "type": "object",
    "properties": {"day": {"type": "string", "format": "date"}},
    "required": ["day"],
}


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1}',
        ' \n{"a": 1}\n',
        '```json\n{"a": 1}\n```',
        'Here it is:\n```\n{"a": 1}\n```\nAnything else?',
    ],
)
def test_fences_are_taken_off(text: str) -> None:
    assert shape_of(None).read(text) == {"a": 1}


def test_fences_inside_a_string_are_text() -> None:
    assert shape_of(None).read('{"a": "```b```"}') == {"a": "```b```"}


@pytest.mark.parametrize(
    ("schema", "text", "problem"),
    [
        (None, "[1]", "it must be an object, not [1]"),
        (None, "NaN", "not valid JSON"),
        (None, '{"a": "\\ud83d"}', "not valid JSON"),
        (DATED, '{"day": "tomorrow"}', 'day: "tomorrow" is not a "date"'),
        (DATED, "{}", '"day" is a required property'),
        (Node, '{"label": "a", "left": {"left": null}}', "left.label: Field required"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(schema: Any, text: str, problem: str) -> None:
    with pytest.raises(StructuredOutputInvalid) as raised:
        shape_of(schema).read(text)
    assert problem in raised.value.message
    assert "https://" not in raised.value.message
    assert raised.value.answer == text


def test_nulls_reach_into_a_schema_that_refers_to_itself() -> None:
    tree = shape_of(Node).read('{"label": "a", "children": [{"label": "b"}]}')
    assert tree == Node(label="a", left=None, children=[Node(label="b", left=None)])


def test_an_answer_of_many_levels_is_wrong_and_nothing_worse() -> None:
    schema = {"properties": {"a": {"$ref": "#"}}}
    text = '{"a":' * 1000 + "{}" + "}" * 1000
    with pytest.raises(StructuredOutputInvalid):
        shape_of(schema).read(text)


def test_no_schema_is_fetched_from_anywhere() -> None:
    with pytest.raises(Exception, match="schema is no JSON schema"):
        shape_of({"$ref": "http://127.0.0.1:9/schema.json"})


def test_a_list_of_models_has_a_way() -> None:
    with pytest.raises(InvalidRequest, match="not list") as raised:
        shape_of(list[Node])  # type: ignore[arg-type]  # what is tried
    assert "RootModel" in str(raised.value)
    nodes = shape_of(RootModel[list[Node]]).read('[{"label": "a"}]')
    assert nodes.root == [Node(label="a", left=None)]


def test_a_model_that_has_no_schema_is_refused() -> None:
    class Task(BaseModel):
        run: Callable[[], int]

    with pytest.raises(InvalidRequest, match="no JSON schema of Task: Cannot") as raised:
        shape_of(Task)
    assert "https://" not in str(raised.value)


def test_names_are_those_of_the_answer_and_choices_may_be_null() -> None:
    class Person(BaseModel):
        full_name: str | None = Field(alias="fullName")
        title: Literal["Dr", None]  # noqa: PYI061  # pydantic writes an enum with null for it

    person = shape_of(Person)
    assert person.read("{}") == Person(fullName=None, title=None)
    assert person.read('{"fullName": "Анна"}').full_name == "Анна"
