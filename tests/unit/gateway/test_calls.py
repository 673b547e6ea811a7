"""What a request may ask for, and what of it is changed on the way to the engine."""

from __future__ import annotations

import time
from typing import Any

import orjson
import pytest

from llm_backend.config.catalog import ModelSpec
from llm_backend.config.settings import LimitSettings
from llm_backend.errors import InvalidRequest, PromptTooLong
from llm_backend.gateway.calls import RESERVED, Bounds, Call, Salt, understand, wants_batch
from llm_backend.gateway.endpoints import ENDPOINTS
from llm_backend.gateway.record import Record

CHAT = ENDPOINTS["/v1/chat/completions"]
LIMITS = LimitSettings(prompt_chars=1000, messages=10, choices=4, stop_words=3)
VLLM = {"kind": "vllm"}
COMMAND = {"kind": "command", "argv": ["serve"]}


def call(engine: dict[str, Any] = COMMAND, key: str = "alice", **body: Any) -> Call:
    spec = ModelSpec.model_validate(
        {
            "id": "m",
            "runtimes": ["process"],
            "engine": engine,
            "capabilities": ["chat"],
            "devices": ["cpu"],
        }
    )
    record = Record("id", CHAT.path, key=key)
    return understand(CHAT, spec, body, orjson.dumps(body), record)


def check(**body: Any) -> None:
    Bounds(LIMITS).check(body, len(orjson.dumps(body)))


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"n": 5}, "n"),
        ({"n": 10**12}, "n"),
        ({"n": 0}, "n"),
        ({"n": -1}, "n"),
        ({"n": 1.5}, "n"),
        ({"n": True}, "n"),
        ({"n": "2"}, "n"),
        ({"n": [2]}, "n"),
        ({"best_of": 1000}, "best_of"),
        ({"messages": [{}] * 11}, "messages"),
        ({"messages": [1] * 11}, "messages"),
        ({"input": ["a"] * 11}, "input"),
        ({"prompt": ["a"] * 11}, "prompt"),
        ({"prompt": [[1]] * 11}, "prompt"),
        ({"documents": ["a"] * 11}, "documents"),
        ({"stop": ["a"] * 4}, "stop"),
        ({"stop_sequences": ["a"] * 4}, "stop_sequences"),
        ({"bad_words": ["a"] * 4}, "bad_words"),
        ({"chat_template": "{{ 1 }}"}, "chat_template"),
        ({"chat_template": []}, "chat_template"),
        *(({"chat_template_kwargs": {name: 1}}, "chat_template_kwargs") for name in RESERVED),
    ],
)
def test_what_has_killed_engines_is_refused_at_once(body: dict[str, Any], param: str) -> None:
    began = time.perf_counter()
    with pytest.raises(InvalidRequest) as refused:
        check(**body)
    assert time.perf_counter() - began < 0.05
    assert refused.value.param == param


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"n": None, "best_of": 4},
        {"n": 4, "stop": "word", "messages": [{}] * 10},
        {"stop": ["a"] * 3},
        {"prompt": list(range(5000))},
        {"input": list(range(5000))},
        {"chat_template": None, "chat_template_kwargs": {"enable_thinking": False}},
        {"chat_template_kwargs": None},
    ],
)
def test_what_is_usual_passes(body: dict[str, Any]) -> None:
    check(**body)


@pytest.mark.parametrize("place", ["prompt", "text", "deep", "images"])
def test_text_is_counted_wherever_it_is(place: str) -> None:
    bodies = {
        "prompt": {"prompt": "x" * 1001},
        "text": {"messages": [{"content": [{"type": "text", "text": "x" * 1001}]}]},
        "deep": {"input": [{"url": ["x" * 501]}, {"content": {"a": "x" * 501}}]},
        "images": {"messages": [{"images": [{"text": "x" * 1001}]}]},
    }
    with pytest.raises(PromptTooLong, match="at most 1000"):
        check(**bodies[place])


def test_media_is_no_text() -> None:
    check(messages=[{"content": [{"image_url": {"url": "x" * 5000}}, {"data": "x" * 5000}]}])
    check(messages=[{"content": "?", "image": "x" * 5000, "images": ["x" * 5000, "x" * 5000]}])


# Salts


def salted(key: str, secret: bytes = b"secret", **body: Any) -> str:
    asked = call(VLLM, key, **body)
    Salt(secret).apply(asked)
    sent = orjson.loads(asked.raw)
    assert sent == asked.body
    assert {k: v for k, v in sent.items() if k != "cache_salt"} == {
        k: v for k, v in body.items() if k != "cache_salt"
    }
    return str(sent["cache_salt"])


def test_two_keys_have_two_salts_and_each_its_own() -> None:
    assert salted("alice") == salted("alice")
    assert salted("alice") != salted("bob")
    assert salted("alice") != salted("alice", b"another gateway")


def test_a_client_s_own_salt_is_mixed_in_and_never_trusted() -> None:
    own = salted("alice", cache_salt="mine")
    assert own not in {"mine", salted("alice"), salted("bob", cache_salt="mine")}
    assert salted("bob", cache_salt=salted("alice")) != salted("alice")
    assert salted("alice", cache_salt=["x"]) == salted("alice")


def test_engines_that_know_no_salt_get_none() -> None:
    asked = call(COMMAND, model="m")
    before = asked.raw
    Salt(b"secret").apply(asked)
    assert asked.raw is before


# The class of a request


@pytest.mark.parametrize(
    ("headers", "batch"),
    [
        ({}, False),
        ({b"x-llm-priority": b"interactive"}, False),
        ({b"x-llm-priority": b" Batch "}, True),
    ],
)
def test_a_header_names_the_class(headers: dict[bytes, bytes], batch: bool) -> None:
    assert wants_batch(headers) is batch


def test_an_unknown_class_is_refused_by_its_name() -> None:
    with pytest.raises(InvalidRequest, match="x-llm-priority is 'low'; it must be batch"):
        wants_batch({b"x-llm-priority": b"low"})
