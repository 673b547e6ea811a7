"""Strict JSON, the few fields that are read, and the shape of errors."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_backend.errors import (
    EngineTimeout,
    InvalidJSON,
    InvalidKey,
    InvalidRequest,
    LLMBackendError,
    ModelNotFound,
    Overloaded,
)
from llm_backend.wire import (
    decode_object,
    encode,
    error_object,
    requested_model,
    retry_after,
    shown,
    wants_stream,
)

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(st.dictionaries(st.text(st.characters(codec="utf-8")), JSON))
def test_every_object_is_read_as_any_other_decoder_reads_it(body: dict[str, Any]) -> None:
    for text in (
        orjson.dumps(body),
        json.dumps(body).encode(),
        json.dumps(body, ensure_ascii=False).encode(),
    ):
        assert decode_object(text) == json.loads(text)
    assert decode_object(encode(body)) == decode_object(orjson.dumps(body))


@given(st.binary(max_size=200))
def test_whatever_else_is_refused(body: bytes) -> None:
    with suppress(InvalidJSON):
        assert isinstance(decode_object(body), dict)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"{}x",
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b'{"a": 1e999}',
        b'{"a": 01}',
        b"{'a': 1}",
        b'{"a": "\xff"}',
        b'{"a": "\\ud800"}',
        b'{"a": ' + b"9" * 400 + b"}",
        b'{"a":' * 1025 + b"1" + b"}" * 1025,
        b"[" * 10**6,
        b"\xef\xbb\xbf{}",
    ],
)
def test_what_is_not_strict_json(body: bytes) -> None:
    with pytest.raises(InvalidJSON, match="not valid JSON"):
        decode_object(body)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"[]", "array"),
        (b'"x"', "string"),
        (b"1", "number"),
        (b"true", "boolean"),
        (b"null", "null"),
    ],
)
def test_what_is_json_and_no_object(body: bytes, kind: str) -> None:
    with pytest.raises(InvalidJSON, match=f"a JSON {kind}, not an object"):
        decode_object(body)


@pytest.mark.parametrize(
    "body",
    [
        b'{"model": "a", "model": "b"}',
        b'{"model": "a", "model": "a"}',
        b'{"model": "a", "x": {}, "mod\\u0065l": "b"}',
        b'{"\\u006dodel": "a", "m\\u006fdel": "b"}',
        b'{"model": "a", "x": {"model": "c"}, "model": "b"}',
    ],
)
def test_two_models_could_be_read_in_two_ways(body: bytes) -> None:
    with pytest.raises(InvalidJSON, match="more than once"):
        decode_object(body)


@pytest.mark.parametrize(
    "body",
    [
        b'{"model": "a", "x": {"model": "b"}, "y": [{"model": "c"}]}',
        b'{"x": "\\"model\\" \\"model\\"", "model": "a"}',
        b'{"model": "\\u0065 \\"model\\""}',
        b'{"x": {"model": 1, "model": 2}, "model": "a"}',
    ],
)
def test_models_further_within_are_nobody_s_business(body: bytes) -> None:
    assert decode_object(body)["model"]


@pytest.mark.parametrize("nothing", [{}, {"model": None}, {"model": ""}])
def test_no_model(nothing: dict[str, Any]) -> None:
    assert requested_model(nothing) is None


@pytest.mark.parametrize("wrong", [1, True, ["a"], {"id": "a"}, 0, False, []])
def test_a_model_is_a_text(wrong: object) -> None:
    with pytest.raises(InvalidRequest, match="model must be a string") as raised:
        requested_model({"model": wrong})
    assert raised.value.param == "model"
    assert requested_model({"model": "a"}) == "a"


@pytest.mark.parametrize("wrong", [1, 0, "true", [], {}])
def test_stream_is_a_boolean(wrong: object) -> None:
    with pytest.raises(InvalidRequest, match="stream must be true or false"):
        wants_stream({"stream": wrong})
    assert [wants_stream(body) for body in ({}, {"stream": None}, {"stream": False})] == [False] * 3
    assert wants_stream({"stream": True})


def test_a_long_wrong_value_is_shown_in_part() -> None:
    with pytest.raises(InvalidRequest) as raised:
        requested_model({"model": ["x" * 10_000]})
    assert len(str(raised.value)) < 150


def test_a_value_that_utf_8_cannot_have_is_shown_all_the_same() -> None:
    assert shown("\ud800!") == '"\\ud800!"'


def test_openai_s_errors() -> None:
    error = ModelNotFound("No.", hint="Ask for another.", param="model")
    assert error_object(error) == {
        "error": {
            "message": "No. Ask for another.",
            "type": "invalid_request_error",
            "param": "model",
            "code": "model_not_found",
        }
    }


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (InvalidRequest("x"), "invalid_request_error"),
        (InvalidKey("x"), "authentication_error"),
        (ModelNotFound("x"), "not_found_error"),
        (Overloaded("x"), "overloaded_error"),
        (EngineTimeout("x"), "timeout_error"),
        (LLMBackendError("x"), "api_error"),
    ],
)
def test_anthropic_s_errors(error: LLMBackendError, kind: str) -> None:
    told = error_object(error, "anthropic")
    assert told == {"type": "error", "error": {"type": kind, "message": "x"}}


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(None, None), (0, "1"), (0.2, "1"), (1, "1"), (1.01, "2"), (119.5, "120"), (5000, "120")],
)
def test_retry_after(seconds: float | None, told: str | None) -> None:
    assert retry_after(Overloaded("x", retry_after_s=seconds)) == told


@pytest.mark.parametrize("sort", [False, True])
def test_what_is_too_deep_to_be_written_is_the_client_s_mistake(sort: bool) -> None:
    deep = decode_object(b'{"a":' + b"[" * 1000 + b"]" * 1000 + b"}")
    with pytest.raises(InvalidJSON, match="nested too deeply"):
        encode(deep, sort=sort)


@pytest.mark.parametrize(
    ("value", "problem"),
    [({1}, "not JSON serializable: set"), (2**70, "64-bit"), ("\ud800", "UTF-8")],
)
def test_what_json_has_not_is_named(value: object, problem: str) -> None:
    with pytest.raises(InvalidJSON, match=problem):
        encode({"a": value})


def test_equal_values_have_equal_bytes_when_sorted() -> None:
    assert encode({"b": 1, "a": {"d": 2, "c": 3}}, sort=True) == b'{"a":{"c":3,"d":2},"b":1}'
    assert encode({"b": 1, "a": 2}) == b'{"b":1,"a":2}'
