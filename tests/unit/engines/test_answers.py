"""Error answers of real engines, word for word, and what they mean here."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from llm_backend.engines.answers import error_from, scrub, unquoted
from llm_backend.errors import (
    EngineBroke,
    InvalidRequest,
    LLMBackendError,
    NotSupported,
    Overloaded,
    PromptTooLong,
)

VLLM_TOO_LONG = (
    "This model's maximum context length is 2048 tokens. However, your prompt contains at least "
    "2049 input tokens, which exceeds this limit even without any output tokens. Please reduce the "
    "length of the input prompt. (parameter=input_tokens, value=2049)"
)
VLLM_TOO_MANY_CHARACTERS = (
    "This model's maximum context length is 2048 tokens. However, your prompt contains 360000 "
    "characters (more than 26624 characters, which is the upper bound for 2048 input tokens)."
)


def answer(status: int, body: object) -> LLMBackendError:
    return error_from(status, json.dumps(body).encode())


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            {
                "error": {
                    "code": 400,
                    "message": "request (6031 tokens) exceeds the available context size (2048 tokens)",
                    "type": "exceed_context_size_error",
                    "n_prompt_tokens": 6031,
                    "n_ctx": 2048,
                }
            },
            "The prompt has 6031 tokens; the model takes 2048 tokens.",
        ),
        (
            {"error": {"message": VLLM_TOO_LONG, "type": "BadRequestError", "code": 400}},
            "The prompt has at least 2049 input tokens; the model takes 2048 tokens.",
        ),
        (
            {"type": "error", "error": {"type": "BadRequestError", "message": VLLM_TOO_LONG}},
            "The prompt has at least 2049 input tokens; the model takes 2048 tokens.",
        ),
        (
            {"error": {"message": VLLM_TOO_MANY_CHARACTERS, "code": 400}},
            "The prompt has 360000 characters; the model takes 2048 tokens.",
        ),
        (
            {"error": {"message": "too long", "code": "context_length_exceeded"}},
            "The prompt is too long; the model takes fewer tokens.",
        ),
    ],
)
def test_a_prompt_that_is_too_long_is_told_in_one_way(body: object, message: str) -> None:
    error = answer(400, body)

    assert type(error) is PromptTooLong
    assert error.message == message
    assert "Shorten the prompt" in (error.hint or "")


@pytest.mark.parametrize(
    ("body", "message", "param"),
    [
        (
            {
                "error": {
                    "message": "max_tokens=5000 cannot be greater than max_model_len=2048.",
                    "type": "BadRequestError",
                    "param": "max_tokens",
                    "code": 400,
                }
            },
            "The engine refused the request: max_tokens=5000 cannot be greater than max_model_len=2048.",
            "max_tokens",
        ),
        (
            {"error": {"message": "Input should be a valid list", "param": "body.messages"}},
            "The engine refused the request: Input should be a valid list",
            "messages",
        ),
        (
            {"detail": [{"loc": ["body", "n"], "msg": "Field required"}, {"msg": "Too big"}]},
            "The engine refused the request: Field required; Too big",
            None,
        ),
        ({"error": "no such thing"}, "The engine refused the request: no such thing", None),
        ({"error": {"message": None, "param": "a b"}}, "The engine refused the request.", None),
        (["not", "an object"], "The engine refused the request.", None),
    ],
)
def test_other_refusals_keep_the_engine_s_words(
    body: object, message: str, param: str | None
) -> None:
    error = answer(400, body)

    assert type(error) is InvalidRequest
    assert (error.message, error.param) == (message, param)


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (501, {"error": {"code": 501, "type": "not_supported_error"}}, NotSupported),
        (405, {"detail": "Method Not Allowed"}, NotSupported),
        (404, {"detail": "Not Found"}, NotSupported),
        (404, {"error": {"message": "File Not Found", "type": "not_found_error"}}, NotSupported),
        (404, {"error": {"message": "The model `nope` does not exist."}}, EngineBroke),
        (404, {"error": {"message": "model 'nope' not found"}}, EngineBroke),
        (401, {"error": "Unauthorized"}, EngineBroke),
        (403, {"error": {"message": "Invalid API Key"}}, EngineBroke),
        (422, {"detail": "no"}, InvalidRequest),
        (429, {"error": {"message": "slow down"}}, Overloaded),
        (503, {"error": {"message": "Loading model"}}, Overloaded),
        (500, {"error": {"message": "EngineCore encountered an issue"}}, EngineBroke),
        (504, {}, EngineBroke),
        (302, {}, EngineBroke),
    ],
)
def test_every_status_has_its_error(status: int, body: object, kind: type[LLMBackendError]) -> None:
    assert type(answer(status, body)) is kind


def test_what_the_engine_cannot_do_is_said_in_its_words() -> None:
    text = "This server does not support embeddings. Start it with `--embeddings`"

    error = answer(501, {"error": {"code": 501, "message": text, "type": "not_supported_error"}})

    assert error.message == f"The engine of this model cannot do that: {text}"


def test_a_failure_of_the_engine_shows_none_of_its_text() -> None:
    error = answer(500, {"error": {"message": "cannot schedule new futures after shutdown"}})

    assert error.message == "The engine failed on the request (500)."


def test_waiting_helps_where_the_engine_is_busy() -> None:
    assert answer(503, {}).retry_after_s == 1


@pytest.mark.parametrize("body", [b"", b"<html>", b"\xff", b"null", b'"text"'])
def test_a_body_that_is_no_json_object_does_no_harm(body: bytes) -> None:
    assert error_from(400, body).message == "The engine refused the request."


@pytest.mark.parametrize(
    ("message", "clean"),
    [
        ("bad <PIL.Image object at 0x7f18f59dad80> here", "bad … here"),
        ("see 0x7f18f59dad80", "see …"),
        ("cannot open /srv/.cache/model-1/config.json now", "cannot open … now"),
        ("not in ~/models/x or ./a/b/c.py", "not in … or …"),
        ("use /v1/embeddings, not image/png", "use /v1/embeddings, not image/png"),
        ("https://example.com/a/b is refused", "https://example.com/a/b is refused"),
        ('broke\nTraceback (most recent call last):\n  File "/a/b.py", line 1\nX', "broke"),
        ('broke in File "/a/b.py", line 1', "broke in"),
        ("two\n   lines", "two lines"),
        ("long " * 100, ("long " * 60).rstrip() + "…"),
    ],
)
def test_addresses_paths_and_tracebacks_go(message: str, clean: str) -> None:
    assert scrub(message) == clean


PROMPT = "My number is 555 0123, and my name is Ada Lovelace."


@pytest.mark.parametrize(
    ("message", "told"),
    [
        (f"Bad input: {PROMPT} was given", "Bad input: … was given"),
        ("Bad input 'my name is Ada Lovelace'.", "Bad input '…'."),
        (f"{PROMPT}", "…"),
        ("temperature must be a number", "temperature must be a number"),
        ("'Ada Lovelace' is no role", "'Ada Lovelace' is no role"),
        (PROMPT[:19], PROMPT[:19]),
        ("", ""),
    ],
)
def test_the_words_of_a_client_are_left_out(message: str, told: str) -> None:
    asked = PROMPT.replace(" ", "\n", 2)
    assert unquoted(message, asked) == told


@pytest.mark.parametrize(
    ("status", "after", "seconds"),
    [
        (503, b"17", 17),
        (429, b" 90 ", 90),
        (429, b"9" * 400, 999_999_999),
        (503, b"soon", 1),
        (503, b"-5", 1),
        (503, None, 1),
        (503, b"Wed, 21 Oct 2015 07:28:00 GMT", 1),
        (502, b"30", 30),
        (500, None, None),
    ],
)
def test_what_the_server_says_of_coming_back_is_passed_on(
    status: int, after: bytes | None, seconds: float | None
) -> None:
    assert error_from(status, b"{}", after).retry_after_s == seconds


def test_a_date_to_come_back_is_a_time_to_wait() -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)

    after = error_from(503, b"", date.encode()).retry_after_s

    assert after is not None
    assert 50 < after <= 60
