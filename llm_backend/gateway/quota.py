"""How much each key may ask for: requests a minute, and requests at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Final

from llm_backend.config.settings import KeySettings
from llm_backend.errors import RateLimited

MINUTE = 60.0


@dataclass(slots=True)
class Allowance:
    """What is left of one key's share; a token bucket that fills within a minute.

    Attributes:
        name: Of the key.
        per_minute: Requests a minute; None for no limit.
        at_once: Requests at once; None for no limit.
        left: Requests that could be made now.
        filled_at: When `left` was computed.
        running: Requests under way.
    """

    name: str
    per_minute: int | None
    at_once: int | None
    left: float
    filled_at: float
    running: int = 0

    def fill(self, now: float) -> None:
        """Add what has come back since."""
        if self.per_minute is not None:
            gained = (now - self.filled_at) * self.per_minute / MINUTE
            self.left = min(self.per_minute, self.left + gained)
        self.filled_at = now

    def seconds_until(self, requests: float) -> float:
        """Return in how many seconds `left` will be that."""
        return max(0.0, requests - self.left) * MINUTE / (self.per_minute or 1)


class Quotas:
    """Counts the requests of every key that has a limit.

    Args:
        keys: The configured keys.
        clock: Monotonic seconds.
    """

    def __init__(self, keys: Iterable[KeySettings], clock: Callable[[], float]) -> None:
        self._clock = clock
        self._allowances = {
            key.name: Allowance(
                key.name,
                key.requests_per_minute,
                key.concurrency,
                left=float(key.requests_per_minute or 0),
                filled_at=clock(),
            )
            for key in keys
            if key.requests_per_minute is not None or key.concurrency is not None
        }

    def spending(self, key: str, told: list[tuple[bytes, bytes]]) -> AbstractContextManager[None]:
        """Take one request from a key's share while the block runs.

        Args:
            key: Its name.
            told: Headers of the answer; gets those that tell what is left.

        Raises:
            RateLimited: the share is used up.
        """
        allowance = self._allowances.get(key)
        return _UNLIMITED if allowance is None else self._spending(allowance, told)

    @contextmanager
    def _spending(self, allowance: Allowance, told: list[tuple[bytes, bytes]]) -> Iterator[None]:
        try:
            _take(allowance, self._clock())
        finally:
            told += _headers(allowance)
        allowance.running += 1
        try:
            yield
        finally:
            allowance.running -= 1


_UNLIMITED: Final = nullcontext()


def _take(allowance: Allowance, now: float) -> None:
    allowance.fill(now)
    if allowance.at_once is not None and allowance.running >= allowance.at_once:
        raise RateLimited(
            f"The key {allowance.name!r} has {allowance.running} requests under way; "
            f"at most {allowance.at_once}.",
            hint="keys.concurrency in config/gateway.yaml sets this limit.",
            retry_after_s=1,
        )
    if allowance.per_minute is None:
        return
    if allowance.left < 1:
        raise RateLimited(
            f"The key {allowance.name!r} may make {allowance.per_minute} requests a minute.",
            hint="keys.requests_per_minute in config/gateway.yaml sets this limit.",
            retry_after_s=allowance.seconds_until(1),
        )
    allowance.left -= 1


def _headers(allowance: Allowance) -> list[tuple[bytes, bytes]]:
    if allowance.per_minute is None:
        return []
    reset = allowance.seconds_until(allowance.per_minute)
    return [
        (b"x-ratelimit-limit-requests", b"%d" % allowance.per_minute),
        (b"x-ratelimit-remaining-requests", b"%d" % int(allowance.left)),
        (b"x-ratelimit-reset-requests", b"%.1fs" % reset),
    ]
