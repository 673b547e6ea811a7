"""Which missing fields become null."""

from __future__ import annotations

from typing import Any

import pytest

from llm_backend.client.nulls import fill_nullable, fill_optional

pytestmark = pytest.mark.feature("structured output")

MAYBE = {"anyOf": [{"type": "string"}, {"type": "null"}]}


@pytest.mark.parametrize(
    ("field", "is_filled"),
    [
        (MAYBE, True),
        ({"oneOf": [{"type": "null"}, {"type": "integer"}]}, True),
        ({"type": ["string", "null"]}, True),
        ({"type": "null"}, True),
        ({"enum": ["a", None]}, True),
        ({"enum": ["a"]}, False),
        ({"title": "Any"}, True),
        ({"$ref": "#/$defs/maybe"}, True),
        ({"type": "string"}, False),
        ({"$ref": "#/$defs/missing"}, False),
        ({"$ref": "#/$defs/circle"}, False),
        (True, False),
    ],
)
def test_a_required_field_is_null_where_it_may_be(field: Any, is_filled: bool) -> None:
    schema = {
        "$defs": {"maybe": MAYBE, "circle": {"$ref": "#/$defs/circle"}},
        "properties": {"a": field},
        "required": ["a"],
    }
    assert fill_nullable({}, schema) == ({"a": None} if is_filled else {})


def test_a_field_with_a_default_is_left_to_it() -> None:
    assert fill_nullable({}, {"properties": {"a": MAYBE}}) == {}


@pytest.mark.parametrize("value", [{"a": 5}, {"a": None}])
def test_what_is_there_stays(value: dict[str, Any]) -> None:
    schema = {"properties": {"a": MAYBE}, "required": ["a"]}
    assert fill_nullable(value, schema) == fill_optional(value, schema) == value


def test_lists_and_what_may_be_null_are_looked_into() -> None:
    inner = {"type": "object", "properties": {"x": {"type": "string"}}}
    schema = {
        "properties": {
            "many": {"type": "array", "items": inner},
            "one": {"anyOf": [inner, {"type": "null"}]},
            "either": {"anyOf": [inner, {"type": "object", "properties": {"y": {}}}]},
        }
    }
    value = {"many": [{}, {"x": "1"}], "one": {}, "either": {}}

    assert fill_optional(value, schema) == {
        "many": [{"x": None}, {"x": "1"}],
        "one": {"x": None},
        "either": {},
    }
    assert value == {"many": [{}, {"x": "1"}], "one": {}, "either": {}}, "it is not changed"


@pytest.mark.parametrize(
    ("schema", "value", "filled"),
    [
        ({"additionalProperties": {"$ref": "#/$defs/inner"}}, {"k": {}}, {"k": {"x": None}}),
        (
            {"prefixItems": [{"type": "integer"}, {"$ref": "#/$defs/inner"}], "items": False},
            [1, {}],
            [1, {"x": None}],
        ),
        ({"allOf": [{"$ref": "#/$defs/inner"}, {"type": "object"}]}, {}, {"x": None}),
    ],
)
def test_it_reaches_wherever_a_schema_does(schema: Any, value: Any, filled: Any) -> None:
    inner = {"properties": {"x": MAYBE}, "required": ["x"]}
    assert fill_nullable(value, {"$defs": {"inner": inner}, **schema}) == filled
