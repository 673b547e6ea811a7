"""The few fields of the OpenAI and Anthropic APIs that are read, and the shape of their errors.

Everything else in a body passes through untouched, so that unknown fields just work.
"""

from __future__ import annotations

import json
import math
from typing import Any, Final, Literal

import orjson

from llm_backend.errors import MAX_RETRY_AFTER_S, InvalidJSON, InvalidRequest, LLMBackendError

Dialect = Literal["openai", "anthropic"]
"""Whose error object and stream events a route speaks."""

JSONObject = dict[str, Any]

_ESCAPED_LETTER: Final = b"\\u006"
"""The only way to spell `model` as a key without its plain letters has one of these: m, o, d,
e and l are U+006D, U+006F, U+0064, U+0065 and U+006C."""


def decode_object(body: bytes) -> JSONObject:
    """Decode a request body strictly.

    Refuses NaN, bad UTF-8, lone surrogates, numbers too large for a float, nesting over 1,024
    levels (all by orjson) and a `model` key given twice, which two decoders could read
    differently. Integers over 64 bits are read as floats.

    Raises:
        InvalidJSON: the body is not one JSON object.
    """
    value = decode(body)
    if not isinstance(value, dict):
        raise InvalidJSON(
            f"The body is a JSON {_kind(value)}, not an object.", hint="Send one JSON object."
        )
    if body.count(b'"model"') > 1 or _ESCAPED_LETTER in body:
        _refuse_repeated_model(body)
    return value


def decode(body: bytes) -> Any:
    """Decode JSON.

    Raises:
        InvalidJSON: it is none.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidJSON(
            f"The body is not valid JSON: {error}.", hint="Send one JSON object in UTF-8."
        ) from None


def _kind(value: object) -> str:
    if value is None:
        return "null"
    return {list: "array", str: "string", bool: "boolean"}.get(type(value), "number")


def _refuse_repeated_model(body: bytes) -> None:
    # The hook runs for the innermost objects first: the last call is the body itself.
    last: list[tuple[str, Any]] = []

    def remember(pairs: list[tuple[str, Any]]) -> None:
        nonlocal last
        last = pairs

    try:
        json.loads(body, object_pairs_hook=remember)
    except RecursionError:
        raise _too_deep() from None
    if sum(key == "model" for key, _ in last) > 1:
        raise InvalidJSON('The key "model" is given more than once.', param="model")


def _too_deep() -> InvalidJSON:
    return InvalidJSON("The body is nested too deeply.", hint="Send a flatter object.")


def encode(value: object, *, sort: bool = False) -> bytes:
    """Encode a value as compact JSON.

    Args:
        value: What a decoder has returned, or was put together here.
        sort: Whether keys come in their order, so that equal values have equal bytes.

    Raises:
        InvalidJSON: it is nested over 254 levels (the decoder goes deeper than the encoder), or
            it has something that JSON has not.
    """
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS if sort else None)
    except orjson.JSONEncodeError as error:
        if "Recursion" in str(error):
            raise _too_deep() from None
        raise InvalidJSON(f"The body cannot be written as JSON: {error}.") from None


def requested_model(body: JSONObject) -> str | None:
    """Return the model that a body asks for; None where it names none.

    Raises:
        InvalidRequest: `model` is neither a string nor null.
    """
    model = body.get("model")
    if model is None or model == "":
        return None
    if not isinstance(model, str):
        raise InvalidRequest(f"model must be a string, not {shown(model)}.", param="model")
    return model


def wants_stream(body: JSONObject) -> bool:
    """Return whether a body asks for a stream.

    Raises:
        InvalidRequest: `stream` is neither a boolean nor null.
    """
    stream = body.get("stream")
    if stream is None:
        return False
    if not isinstance(stream, bool):
        raise InvalidRequest(f"stream must be true or false, not {shown(stream)}.", param="stream")
    return stream


def shown(value: object, limit: int = 60) -> str:
    """Return a value of a request as an error message shows it: as JSON, cut where it is long."""
    text = encodable(json.dumps(value, ensure_ascii=False, default=str))
    return text if len(text) <= limit else text[:limit] + "…"


def encodable(text: str) -> str:
    """Return a text with the surrogates written out that no answer in UTF-8 can have."""
    return text.encode("utf-8", "backslashreplace").decode()


def error_object(error: LLMBackendError, dialect: Dialect = "openai") -> JSONObject:
    """Render an error as the API of the route shows errors."""
    if dialect == "anthropic":
        inner: JSONObject = {"type": _anthropic_type(error), "message": error.text}
        return {"type": "error", "error": inner}
    return {
        "error": {
            "message": error.text,
            "type": error.type,
            "param": error.param,
            "code": error.code,
        }
    }


_ANTHROPIC_TYPES: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def _anthropic_type(error: LLMBackendError) -> str:
    fallback = "invalid_request_error" if 400 <= error.status < 500 else "api_error"
    return _ANTHROPIC_TYPES.get(error.status, fallback)


def retry_after(error: LLMBackendError) -> str | None:
    """Return the value of `Retry-After`: whole seconds, rounded up, never above 120."""
    if error.retry_after_s is None:
        return None
    return str(min(MAX_RETRY_AFTER_S, max(1, math.ceil(error.retry_after_s))))
