"""When a request is sent again, and after how long."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from llm_backend.client.failures import Failure
from llm_backend.errors import MAX_RETRY_AFTER_S

_FIRST_WAIT_S = 0.5
_LONGEST_WAIT_S = 8.0

Sleep = Callable[[float], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Retries:
    """Exponential backoff with jitter, unless the server names a time.

    Attributes:
        limit: How many times a request may be sent again.
        sleep: Waits for so many seconds.
    """

    limit: int
    sleep: Sleep = asyncio.sleep

    def wait_s(self, failure: Failure, tries: int) -> float | None:
        """Return how long to wait before the next try; None where there is none.

        Args:
            failure: How the last try ended.
            tries: How many there have been.
        """
        if not failure.repeatable or tries > self.limit:
            return None
        asked = failure.error.retry_after_s
        if asked is not None:
            return asked if asked <= MAX_RETRY_AFTER_S else None
        longest = min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2.0 ** (tries - 1))
        # Half of it is left to chance, so that clients that failed together come back apart.
        return longest * (1 - random.random() / 2)  # noqa: S311  # spreads load, hides nothing
