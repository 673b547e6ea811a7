"""Answers that were given before: a cache in memory, bounded by bytes and by age.

The key covers everything that shapes an answer: tenant, model, fingerprint of the engine and the
whole canonical body.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import orjson

from llm_backend.config.settings import CacheSettings
from llm_backend.gateway.endpoints import Endpoint
from llm_backend.wire import JSONObject

OVERHEAD = 512
"""Bytes that an entry takes besides its answer."""


@dataclass(frozen=True, slots=True)
class CachedAnswer:
    """A whole answer of an engine.

    Attributes:
        model: The catalog id.
        content_type: As the engine sent it.
        body: All of it; a stream with its events as they came.
        expires: On the monotonic clock.
    """

    model: str
    content_type: bytes
    body: bytes
    expires: float


class ResponseCache:
    """Keeps the newest answers that fit.

    Args:
        settings: Mode, bytes and time to live.
        clock: Monotonic seconds.
    """

    backend = "memory"

    def __init__(self, settings: CacheSettings, clock: Callable[[], float]) -> None:
        self._settings = settings
        self._clock = clock
        self._answers: OrderedDict[bytes, CachedAnswer] = OrderedDict()
        self._room = settings.memory_mib * 1024 * 1024
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._answers)

    def policy(
        self, endpoint: Endpoint, body: JSONObject, cache_control: bytes
    ) -> Literal["use", "refresh", "bypass"]:
        """Decide what the cache does for a request.

        `Cache-Control: no-cache` asks for a new answer, `no-store` leaves no trace of it.
        """
        if self._settings.mode == "off" or not endpoint.cacheable or b"no-store" in cache_control:
            return "bypass"
        if self._settings.mode == "deterministic" and not is_deterministic(endpoint, body):
            return "bypass"
        return "refresh" if b"no-cache" in cache_control else "use"

    def key(
        self, tenant: str, fingerprint: str, endpoint: Endpoint, model: str, body: JSONObject
    ) -> bytes:
        """Return the key of a request; `body` must have its defaults filled in."""
        parts = [tenant, fingerprint, endpoint.path, {**body, "model": model}]
        return hashlib.sha256(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)).digest()

    def get(self, key: bytes) -> CachedAnswer | None:
        """Return the answer that is kept for a key."""
        answer = self._answers.get(key)
        if answer is None:
            return None
        if answer.expires <= self._clock():
            self._drop(key)
            return None
        self._answers.move_to_end(key)
        return answer

    def put(self, key: bytes, model: str, content_type: bytes, body: bytes) -> None:
        """Keep a whole, successful answer."""
        if len(body) + OVERHEAD > self._room // 8:
            return
        if key in self._answers:
            self._drop(key)
        expires = self._clock() + self._settings.ttl_s
        self._answers[key] = CachedAnswer(model, content_type, body, expires)
        self.bytes += len(body) + OVERHEAD
        while self.bytes > self._room:
            self._drop(next(iter(self._answers)))

    def clear(self, model: str | None = None) -> int:
        """Forget all answers, or those of one model; return how many there were."""
        keys = [k for k, a in self._answers.items() if model is None or a.model == model]
        for key in keys:
            self._drop(key)
        return len(keys)

    def _drop(self, key: bytes) -> None:
        self.bytes -= len(self._answers.pop(key).body) + OVERHEAD


def is_deterministic(endpoint: Endpoint, body: JSONObject) -> bool:
    """Return whether two engines of one fingerprint would answer a request alike."""
    if endpoint.stream is None:
        return True
    return body.get("temperature") == 0 or isinstance(body.get("seed"), int)
