"""Which requests are equal, whose answers are whose, and what is kept at all."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from llm_backend.config.settings import CacheSettings
from llm_backend.errors import InvalidJSON
from llm_backend.gateway.cache import CacheKey, Policy, ResponseCache
from llm_backend.gateway.endpoints import ENDPOINTS
from llm_backend.gateway.stored import StoredAnswer
from llm_backend.wire import decode_object, encode

pytestmark = pytest.mark.anyio

CHAT = ENDPOINTS["/v1/chat/completions"]
EMBEDDINGS = ENDPOINTS["/v1/embeddings"]
ANSWER = StoredAnswer("a", b"application/json", b"{}")

KNOWN = [
    "messages",
    "prompt",
    "input",
    "temperature",
    "seed",
    "top_p",
    "top_k",
    "min_p",
    "n",
    "stop",
    "max_tokens",
    "max_completion_tokens",
    "logprobs",
    "top_logprobs",
    "logit_bias",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "response_format",
    "user",
    "cache_salt",
    "chat_template_kwargs",
    "reasoning_effort",
    "image_url",
    "dimensions",
    "encoding_format",
    "suffix",
    "echo",
    "best_of",
    "priority",
    "guided_json",
    "structured_outputs",
    "documents",
    "add_generation_prompt",
]
FIELDS = [*KNOWN, *(f"field{number}" for number in range(200 - len(KNOWN)))]

numbers = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)


def key(body: dict[str, Any], tenant: str = "", fingerprint: str = "f", **more: Any) -> bytes:
    return CacheKey.of(
        tenant, fingerprint, more.get("endpoint", CHAT), more.get("model", "a"), body
    ).own


def cache(**settings: Any) -> ResponseCache:
    return ResponseCache(CacheSettings(**settings), lambda: 0.0)


@settings(max_examples=50, deadline=None)
@given(values, values)
def test_whichever_field_changes_the_key_changes(value: Any, other: Any) -> None:
    assume(encode(value) != encode(other))
    body = dict.fromkeys(FIELDS, value)
    without = [key({k: v for k, v in body.items() if k != field}) for field in FIELDS]
    keys = {key(body), *without, *(key({**body, field: other}) for field in FIELDS)}
    assert len(FIELDS) == len(set(FIELDS)) == 200
    assert len(keys) == 1 + 2 * len(FIELDS)


def shuffled(value: Any, order: random.Random) -> Any:
    if isinstance(value, list):
        return [shuffled(each, order) for each in value]
    if isinstance(value, dict):
        names = list(value)
        order.shuffle(names)
        return {name: shuffled(value[name], order) for name in names}
    return value


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(texts, values), st.randoms(use_true_random=False))
def test_the_order_of_fields_does_not_count(body: dict[str, Any], order: random.Random) -> None:
    spaced = encode(shuffled(body, order)).replace(b"{", b"{ \n", 1)
    assert key(decode_object(spaced)) == key(body)


def test_what_is_not_in_the_body_counts() -> None:
    body = {"messages": [], "temperature": 0}
    completions = ENDPOINTS["/v1/completions"]
    keys = {
        key(body),
        key(body, tenant="alice"),
        key(body, fingerprint="g"),
        key(body, model="b"),
        key(body, endpoint=completions),
        key({**body, "stream": True}),
        key({**body, "stream": True, "stream_options": {"include_usage": True}}),
        key({**body, "stream_options": {}}),
    }
    assert len(keys) == 8


def test_parts_cannot_be_shifted_into_each_other() -> None:
    assert key({}, tenant="ab", fingerprint="c") != key({}, tenant="a", fingerprint="bc")
    assert key({}, tenant='a","b', fingerprint="c") != key({}, tenant="a", fingerprint='b","c')


def test_saying_the_default_is_saying_nothing() -> None:
    assert key({"stream": False}) == key({"stream": None}) == key({})
    assert key({"model": "alias"}) == key({}), "the model is the one that was found"


def test_a_field_called_stream_counts_where_nothing_streams() -> None:
    assert key({"stream": False}, endpoint=EMBEDDINGS) != key({}, endpoint=EMBEDDINGS)


def test_a_stream_may_be_told_from_a_whole_answer() -> None:
    whole = CacheKey.of("", "f", CHAT, "a", {"seed": 1})
    stream = CacheKey.of("", "f", CHAT, "a", {"seed": 1, "stream": True, "stream_options": {}})
    assert whole.own == whole.whole == stream.whole != stream.own

    answers = cache()
    answers.keep(whole, ANSWER)
    assert answers.at_hand(stream) is ANSWER
    answers = cache()
    answers.keep(stream, ANSWER)
    assert answers.at_hand(whole) is None


def test_a_body_too_deep_to_be_written_down_is_the_clients_fault() -> None:
    body = decode_object(b'{"a":' + b"[" * 500 + b"]" * 500 + b"}")
    with pytest.raises(InvalidJSON, match="nested too deeply"):
        key(body)


async def test_nobody_ever_gets_the_answer_of_another_tenant() -> None:
    answers = cache()
    order = random.Random(3)  # noqa: S311  # the same each time, and no secret
    tenants = ["", "a", "A", "a ", "a\0", 'a","f', "ä", *(f"key{n}" for n in range(93))]
    bodies = [{"seed": n, "messages": [{"role": "user", "content": "x"}]} for n in range(20)]
    everything = [(tenant, n) for tenant in tenants for n in range(20)]
    order.shuffle(everything)
    kept, others = everything[:1000], everything[1000:]

    def key_of(tenant: str, n: int) -> CacheKey:
        return CacheKey.of(tenant, "f", CHAT, "a", bodies[n])

    for tenant, n in kept:
        body = f"{tenant} {n}".encode()
        answers.keep(key_of(tenant, n), StoredAnswer("a", b"application/json", body))

    for _ in range(100_000):
        assert await answers.look_up(key_of(*order.choice(others)), "a") is None
    for tenant, n in kept:
        found = await answers.look_up(key_of(tenant, n), "a")
        assert found is not None
        assert found.body == f"{tenant} {n}".encode()


@pytest.mark.parametrize(
    ("mode", "body", "control", "policy"),
    [
        ("deterministic", {"temperature": 0}, b"", "use"),
        ("deterministic", {"temperature": 0.0}, b"", "use"),
        ("deterministic", {"temperature": 1, "seed": 7}, b"", "use"),
        ("deterministic", {}, b"", "bypass"),
        ("deterministic", {"temperature": 0.1}, b"", "bypass"),
        ("deterministic", {"temperature": None, "seed": None}, b"", "bypass"),
        ("deterministic", {"seed": "7"}, b"", "bypass"),
        ("all", {}, b"", "use"),
        ("all", {}, b"no-store", "bypass"),
        ("all", {}, b"max-age=0, No-Store", "bypass"),
        ("all", {}, b"NO-CACHE", "refresh"),
        ("all", {}, b"no-cache, no-store", "bypass"),
        ("off", {"temperature": 0}, b"", "bypass"),
        ("off", {"temperature": 0}, b"no-cache", "bypass"),
    ],
)
def test_policy(mode: str, body: dict[str, Any], control: bytes, policy: Policy) -> None:
    assert cache(mode=mode).policy(CHAT, body, control) == policy


def test_what_is_never_sampled_needs_no_seed() -> None:
    assert cache().policy(EMBEDDINGS, {}, b"") == "use"
    assert cache().shares(EMBEDDINGS, {})
    assert cache(mode="all").policy(ENDPOINTS["/v1/responses"], {"seed": 1}, b"") == "bypass"


def test_sampled_answers_are_kept_but_not_shared() -> None:
    assert not cache(mode="all").shares(CHAT, {"temperature": 1})


async def test_what_is_no_answer_is_not_kept() -> None:
    answers = cache()
    answers.keep(CacheKey.of("", "f", CHAT, "a", {}), None)
    assert answers.describe()["entries"] == 0


async def test_without_redis() -> None:
    answers = cache()
    answers.keep(CacheKey.of("", "f", CHAT, "a", {}), ANSWER)
    shown = answers.describe()
    assert (shown["status"], shown["backend"], shown["entries"]) == ("ok", "memory", 1)
    assert shown["redis_errors"] is shown["rejected_values"] is None
    assert await answers.clear("b") == 0
    assert await answers.clear("a") == 1
    await answers.close()
