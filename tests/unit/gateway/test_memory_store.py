"""What the memory keeps, for how long, and how much of it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_backend.gateway.memory_store import LARGEST_SHARE, OVERHEAD, MemoryStore
from llm_backend.gateway.stored import StoredAnswer

JSON = b"application/json"
ROOM = 64 * 1024


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(clock: Clock) -> MemoryStore:
    return MemoryStore(ROOM, 60, clock)


def answer(size: int = 10, model: str = "a") -> StoredAnswer:
    return StoredAnswer(model, JSON, b"x" * size)


def test_what_is_kept_is_found(store: MemoryStore) -> None:
    store.put(b"1", kept := answer())
    assert store.get(b"1") is kept
    assert store.get(b"2") is None


def test_it_forgets_after_its_time(store: MemoryStore, clock: Clock) -> None:
    store.put(b"1", answer())
    store.put(b"2", answer(), left_s=5)
    clock.now = 4.9
    assert store.get(b"2")
    clock.now = 5
    assert store.get(b"2") is None
    clock.now = 59.9
    assert store.get(b"1")
    clock.now = 60
    assert store.get(b"1") is None
    assert (len(store), store.bytes) == (0, 0)


def test_what_was_used_last_stays(store: MemoryStore) -> None:
    size = ROOM // LARGEST_SHARE - OVERHEAD
    for number in range(LARGEST_SHARE):
        store.put(bytes([number]), answer(size))
    assert store.get(b"\0")
    store.put(b"new", answer(size))
    assert store.get(b"\0")
    assert store.get(b"\1") is None


def test_one_answer_does_not_drive_out_all_others(store: MemoryStore) -> None:
    store.put(b"1", answer(ROOM // LARGEST_SHARE - OVERHEAD + 1))
    assert store.get(b"1") is None


def test_clearing(store: MemoryStore) -> None:
    for key, model in ((b"1", "a"), (b"2", "b"), (b"3", "a"), (b"4", "c")):
        store.put(key, answer(model=model))
    assert store.clear("a") == 2
    assert [bool(store.get(key)) for key in (b"1", b"2", b"3", b"4")] == [False, True, False, True]
    assert store.clear() == 2
    assert (len(store), store.bytes) == (0, 0)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, ROOM // 4)), max_size=60))
def test_it_never_has_more_than_fits(puts: list[tuple[int, int]]) -> None:
    store = MemoryStore(ROOM, 60, Clock())
    for key, size in puts:
        store.put(bytes([key]), answer(size))
        assert store.bytes <= ROOM
        kept = filter(None, (store.get(bytes([k])) for k in range(21)))
        assert store.bytes == sum(len(a.body) + OVERHEAD for a in kept)
