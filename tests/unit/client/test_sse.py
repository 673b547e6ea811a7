"""The decoder of server-sent events."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_backend import EngineBroke
from llm_backend.client.sse import MAX_EVENT_BYTES, Comment, Event, EventDecoder


def decode(*parts: bytes) -> list[Event | Comment]:
    decoder = EventDecoder()
    return [event for part in parts for event in decoder.feed(part)]


line = st.text(st.characters(codec="utf-8", exclude_characters="\r\n"))


@given(
    said=st.lists(st.tuples(st.booleans(), line), max_size=8),
    ending=st.sampled_from(["\n", "\r\n"]),
    cuts=st.lists(st.integers(0, 400), max_size=12),
)
def test_events_are_the_same_however_the_bytes_are_cut(
    said: list[tuple[bool, str]], ending: str, cuts: list[int]
) -> None:
    wire = "".join(f"{'data' if event else ''}: {text}{ending}{ending}" for event, text in said)
    whole = wire.encode()
    edges = sorted({0, len(whole), *(cut % (len(whole) + 1) for cut in cuts)})
    parts = [whole[a:b] for a, b in pairwise(edges)]
    expected = [Event(text.encode()) if event else Comment(text) for event, text in said]
    assert decode(*parts) == expected


@pytest.mark.parametrize(
    ("wire", "expected"),
    [
        (b"data:tight\n\n", [Event(b"tight")]),
        (b"data: a\ndata: b\n\n", [Event(b"a\nb")]),
        (b"event: x\nid: 1\nretry: 5\ndata: a\n\n", [Event(b"a")]),
        (b"event: x\n\n\n\n", []),
        (b"data: unfinished", []),
        (b"data: unfinished\n", []),
        (b":\n", [Comment("")]),
        (b": \xff\n", [Comment("\ufffd")]),
        ('data: "\u2028\x85"\n\n'.encode(), [Event('"\u2028\x85"'.encode())]),
    ],
)
def test_lines(wire: bytes, expected: list[Event | Comment]) -> None:
    assert decode(wire) == expected


def test_an_event_in_pieces_counts_once() -> None:
    half = b"x" * (MAX_EVENT_BYTES // 2 - len(b"data: "))
    assert decode(b"data: ", half, half, b"\n\n") == [Event(half + half)]


@pytest.mark.parametrize("newline", [b"", b"\ndata: "])
def test_an_event_without_end_is_refused(newline: bytes) -> None:
    piece = b"x" * 1_000_000 + newline
    with pytest.raises(EngineBroke, match=str(MAX_EVENT_BYTES)):
        decode(b"data: ", *[piece] * 17)


def test_a_long_stream_of_short_events_is_fine() -> None:
    event = b"data: " + b"x" * 1_000_000 + b"\n\n"
    assert len(decode(*[event] * 40)) == 40
    comment = b": " + b"x" * 1_000_000 + b"\n"
    assert len(decode(*[comment] * 40)) == 40
