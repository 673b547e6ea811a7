"""The typed answers: nothing that a server sends is lost."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_backend.client.results import ChatChunk, ChatCompletion, Health, Status

from .server import HEALTH, STATUS, completion
from .test_view import objects

messages = st.builds(
    lambda extra, content: {**extra, "role": "assistant", "content": content, "tool_calls": None},
    objects,
    st.none() | st.text(),
)
choices = st.builds(
    lambda extra, message: {**extra, "index": 0, "message": message, "finish_reason": "stop"},
    objects,
    messages,
)
completions = st.builds(
    lambda extra, own: {**extra, **own},
    objects,
    st.fixed_dictionaries(
        {
            "choices": st.lists(choices, min_size=1, max_size=2),
            "id": st.text(),
            "model": st.text(),
            "created": st.integers(0, 2**40),
            "usage": st.none() | st.just({"total_tokens": 3}),
        }
    ),
)


@given(completions)
def test_a_completion_survives_the_way_through_bytes_and_view(data: dict[str, Any]) -> None:
    wire = orjson.dumps(data)
    answer = ChatCompletion(orjson.loads(wire))
    assert orjson.dumps(answer.to_dict()) == wire
    first = data["choices"][0]["message"]["content"]
    assert answer.choices[0].message.content == answer["choices"][0]["message"]["content"] == first
    assert answer.text == (first or "")


def test_an_empty_chunk_has_no_text() -> None:
    assert ChatChunk({}).text == ""
    assert ChatChunk({"choices": [{"index": 0, "delta": {}}]}).text == ""


@pytest.mark.parametrize(("view", "data"), [(Health, HEALTH), (Status, STATUS)])
def test_every_field_that_the_gateway_documents_has_an_attribute(
    view: type[Health | Status], data: dict[str, Any]
) -> None:
    shown = view(data)
    for key, value in data.items():
        assert getattr(shown, key) == (tuple(value) if isinstance(value, list) else value)


def test_missing_usage_is_none_and_other_numbers_are_zero() -> None:
    answer = ChatCompletion({"choices": completion("Hi")["choices"], "usage": {"total_tokens": 5}})
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (0, 5)
    assert ChatCompletion({"choices": []}).usage is None
    assert ChatCompletion({"choices": []}).text == ""


def test_a_health_gives_the_best_reason_that_it_has() -> None:
    failed = {"models": {"a": {"state": "failed"}, "b": {"state": "failed", "reason": "CUDA"}}}
    degraded = Health({"status": "degraded", **failed})
    assert degraded.reason == "a failed: no reason given; b failed: CUDA"
    assert Health({"status": "degraded", "reason": "Redis", **failed}).reason == "Redis"
    assert Health({"status": "degraded"}).reason == "The gateway is degraded."
    assert Health({"status": "ok", "reason": "fine"}).reason == ""
