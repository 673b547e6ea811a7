"""Keeps answers in this process: the newest that fit into a number of bytes, for a time."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from llm_backend.gateway.stored import StoredAnswer

OVERHEAD: Final = 512
"""Bytes that an entry takes besides its answer."""

LARGEST_SHARE: Final = 8
"""One answer takes at most this fraction of the room: the rest would be gone for one."""


class MemoryStore:
    """Keeps the answers used last.

    Args:
        room: Bytes.
        ttl_s: Seconds after which an answer is forgotten.
        clock: Monotonic seconds.
    """

    def __init__(self, room: int, ttl_s: float, clock: Callable[[], float]) -> None:
        self._answers: OrderedDict[bytes, tuple[StoredAnswer, float]] = OrderedDict()
        self._room = room
        self._ttl_s = ttl_s
        self._clock = clock
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._answers)

    def get(self, key: bytes) -> StoredAnswer | None:
        """Return the answer that is kept for a key."""
        found = self._answers.get(key)
        if found is None:
            return None
        answer, expires = found
        if expires <= self._clock():
            self._drop(key)
            return None
        self._answers.move_to_end(key)
        return answer

    def put(self, key: bytes, answer: StoredAnswer, left_s: float | None = None) -> None:
        """Keep an answer; what was not used for longest makes room.

        Args:
            key: Under which to keep it.
            answer: The answer.
            left_s: Seconds until it is forgotten, where some of its time is over already.
        """
        size = len(answer.body) + OVERHEAD
        if size > self._room // LARGEST_SHARE:
            return
        if key in self._answers:
            self._drop(key)
        left_s = self._ttl_s if left_s is None else left_s
        self._answers[key] = (answer, self._clock() + left_s)
        self.bytes += size
        while self.bytes > self._room:
            self._drop(next(iter(self._answers)))

    def clear(self, model: str | None = None) -> int:
        """Forget all answers, or those of one model; return how many there were."""
        keys = [k for k, (a, _) in self._answers.items() if model in {None, a.model}]
        for key in keys:
            self._drop(key)
        return len(keys)

    def _drop(self, key: bytes) -> None:
        answer, _ = self._answers.pop(key)
        self.bytes -= len(answer.body) + OVERHEAD
