"""A value is taken for an answer only if it is what was put there under that key."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_backend.gateway.stored import StoredAnswer, pack, unpack

KEY, OTHER = b"k" * 32, b"o" * 32
ANSWER = StoredAnswer("a:b/c", b"text/event-stream; charset=utf-8", b"data: 1\n\ndata: [DONE]\n\n")
PACKED = pack(KEY, ANSWER)


@given(st.text(), st.binary())
def test_what_is_packed_comes_back(model: str, body: bytes) -> None:
    answer = StoredAnswer(model, b"application/json", body)
    assert unpack(KEY, pack(KEY, answer)) == answer


def test_another_key_is_no_key() -> None:
    assert unpack(OTHER, PACKED) is None


def test_every_cut_shows() -> None:
    assert [n for n in range(len(PACKED)) if unpack(KEY, PACKED[:n])] == []


@settings(max_examples=300)
@given(st.integers(0, len(PACKED) - 1), st.integers(1, 255))
def test_every_changed_byte_shows(place: int, change: int) -> None:
    damaged = bytearray(PACKED)
    damaged[place] ^= change
    assert unpack(KEY, bytes(damaged)) is None


@given(st.binary())
def test_garbage_is_nothing(garbage: bytes) -> None:
    assert unpack(KEY, garbage) is None
    assert unpack(KEY, garbage + b"\n" + ANSWER.body) is None


@pytest.mark.parametrize(
    "change",
    [
        {"format": 0},
        {"format": None},
        {"key": OTHER.hex()},
        {"model": None},
        {"model": ["a"]},
        {"type": 1},
        {"type": "text/html\r\nset-cookie: a=b"},
        {"type": "text/häml"},
        {"sha256": ""},
        {"more": 1},
    ],
)
def test_a_head_that_is_not_ours(change: dict[str, object]) -> None:
    head, _, body = PACKED.partition(b"\n")
    changed = orjson.dumps({**orjson.loads(head), **change})
    assert unpack(KEY, changed + b"\n" + body) is None


@pytest.mark.parametrize("head", [b"[]", b"null", b"1", b'"a"', b"{}"])
def test_a_head_that_is_no_head(head: bytes) -> None:
    assert unpack(KEY, head + b"\nbody") is None
